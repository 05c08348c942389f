"""What records say: definitions, the window, percentiles, llmperf's triple."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import record, run, steady

from helpers import metrics


def summary(records, **options):
    return metrics.summary(records, **{"price_per_hour": 36.0} | options)


# --- per request ----------------------------------------------------------------------------------


def test_the_definitions_of_one_request():
    one = record(sent_s=5.0, ttft_s=1.5, gap_s=0.1, tokens=11)
    assert metrics.ttft_s(one) == pytest.approx(1.5)
    assert metrics.latency_s(one) == pytest.approx(2.5)
    assert metrics.tpot_s(one) == pytest.approx(0.1)
    assert metrics.itl_s(one) == pytest.approx([0.1] * 10)


def test_time_per_token_divides_by_tokens_and_gaps_by_chunks():
    one = replace(record(tokens=3, gap_s=1.0), output_tokens=5, tokens_source="usage")
    assert metrics.tpot_s(one) == pytest.approx(2.0 / 4)
    assert metrics.itl_s(one) == pytest.approx([1.0, 1.0])


def test_a_reply_of_one_token_has_no_time_per_token():
    assert metrics.tpot_s(record(tokens=1)) is None


def test_a_request_without_content_has_no_latency():
    nothing = record(tokens=0, error="timeout")
    assert (metrics.ttft_s(nothing), metrics.latency_s(nothing), metrics.tpot_s(nothing)) == (
        None,
        None,
        None,
    )
    assert metrics.itl_s(nothing) == []


# --- the window -----------------------------------------------------------------------------------


def test_the_window_opens_with_the_first_measured_request_and_closes_with_the_first_idle_user():
    warm = [
        record(0, user=0, sent_s=0, phase="warmup"),
        record(1, user=1, sent_s=0, phase="warmup"),
    ]
    measured = [
        record(2, user=0, sent_s=2.0),
        record(3, user=1, sent_s=2.5),
        record(4, user=0, sent_s=4.0, ttft_s=9.0),
    ]
    span = metrics.window(warm + measured)
    assert (span.opens_s, span.closes_s) == (2.0, pytest.approx(4.5))


def test_without_warm_up_the_window_opens_when_the_last_user_has_started():
    records = [record(0, user=0, sent_s=0.0), record(1, user=1, sent_s=0.5)]
    assert metrics.window(records).opens_s == 0.5


def test_there_is_no_window_when_the_users_never_ran_together():
    assert metrics.window([record(0, user=0, sent_s=0), record(1, user=1, sent_s=50)]) is None
    assert metrics.window([]) is None
    assert metrics.window([record(phase="warmup")]) is None


def test_fifty_requests_of_five_users_lie_mostly_in_the_window():
    inside = summary(steady(users=5, each=10))["window"]
    assert inside["requests"] == 50
    assert inside["mean_concurrency"] == pytest.approx(5.0)


def test_tokens_count_by_their_own_stamp():
    """The warm-up's last tokens were load of the window, the tail's last tokens were not."""
    records = [
        record(0, user=0, sent_s=0, ttft_s=1, gap_s=1, tokens=10, phase="warmup"),  # to 10
        record(1, user=1, sent_s=0, ttft_s=1, gap_s=1, tokens=5, phase="warmup"),  # to 5
        record(2, user=1, sent_s=5.0, ttft_s=1, gap_s=1, tokens=10),  # to 15
        record(3, user=0, sent_s=10.0, ttft_s=1, gap_s=1, tokens=10),  # to 20
    ]
    inside = summary(records)["window"]
    assert inside["duration_s"] == pytest.approx(10.0)  # 5 to 15
    # 5 to 10 of the first, the second's last, all of the third, 11 to 15 of the fourth
    assert inside["output_tokens"] == pytest.approx(6 + 1 + 10 + 5)
    assert inside["requests"] == 1
    assert inside["total_tokens_per_s"] == pytest.approx((22 + 2 * 550) / 10)


def test_a_chunk_of_several_tokens_counts_for_all_of_them():
    records = [replace(one, output_tokens=22, tokens_source="usage") for one in steady(users=1)]
    plain = summary(steady(users=1))
    doubled = summary(records)
    assert doubled["window"]["output_tokens"] == pytest.approx(2 * plain["window"]["output_tokens"])
    assert doubled["tokens"]["output_source"] == {"usage": 6}


def test_tokens_of_failed_requests_are_not_throughput_but_those_of_interrupted_ones_are():
    good = steady(users=1, each=3)
    end = good[-1].ended_s
    failed = record(9, sent_s=end, error="truncated")
    cut = record(9, sent_s=end, error="interrupted")
    tokens = [summary([*good, last])["whole_run"]["output_tokens"] for last in (failed, cut)]
    assert tokens == [pytest.approx(44), pytest.approx(55)]


def test_errors_are_in_no_latency_and_always_in_the_count():
    slow = record(20, user=0, sent_s=90.0, ttft_s=99.0, tokens=1, error="timeout")
    refused = record(21, user=1, sent_s=101.0, tokens=0, error="ModelError")
    with_errors = summary([*steady(), slow, refused])
    assert with_errors["whole_run"]["ttft_s"]["n"] == 12
    assert with_errors["whole_run"]["latency_s"]["mean"] == pytest.approx(2.0)
    asked = with_errors["requests"]
    assert (asked["complete"], asked["errors"]) == (10, 2)
    assert asked["errors_by_kind"] == {"ModelError": 1, "timeout": 1}
    assert asked["error_rate"] == pytest.approx(2 / 12)


def test_interrupted_requests_are_no_errors_of_the_endpoint():
    asked = summary([*steady(), record(30, sent_s=112.0, error="interrupted")])["requests"]
    assert (asked["errors"], asked["interrupted"], asked["error_rate"]) == (0, 1, 0.0)


# --- the summary ----------------------------------------------------------------------------------


def test_figures_of_a_steady_run():
    inside = summary(steady(users=2, each=5, ttft_s=1.0, gap_s=0.1, tokens=11))["window"]
    assert inside["duration_s"] == pytest.approx(10.0)
    assert inside["requests_per_s"] == pytest.approx(1.0)
    assert inside["ttft_s"]["p50"] == pytest.approx(1.0)
    assert inside["tpot_s"]["p50"] == pytest.approx(0.1)
    assert inside["latency_s"]["p90"] == pytest.approx(2.0)
    # A token lies on the closing edge of the warm-up for each user: 2 + 10 * 11.
    assert inside["output_tokens_per_s"] == pytest.approx(11.2)
    assert inside["cost_per_million_output_tokens_usd"] == pytest.approx(36 / 3600 / 11.2 * 1e6)


def test_aws_time_stretches_every_duration_and_shrinks_every_rate():
    plain, stretched = summary(steady()), summary(steady(), clock_speed=60.0)
    for span in ("window", "whole_run"):
        for name in ("ttft_s", "tpot_s", "itl_s", "latency_s"):
            for statistic in ("mean", "p50"):
                assert stretched[span][name][statistic] == pytest.approx(
                    60 * plain[span][name][statistic]
                )
        assert stretched[span]["duration_s"] == pytest.approx(60 * plain[span]["duration_s"])
        for rate in ("requests_per_s", "output_tokens_per_s", "total_tokens_per_s"):
            assert stretched[span][rate] == pytest.approx(plain[span][rate] / 60)
        assert stretched[span]["output_tokens"] == plain[span]["output_tokens"]
        assert stretched[span]["mean_concurrency"] == pytest.approx(plain[span]["mean_concurrency"])
    for name in ("ttft_ms", "latency_ms_per_token"):
        assert stretched["llmperf"][name] == pytest.approx(60 * plain["llmperf"][name])


def test_the_summary_says_which_tokens_it_counts_and_how():
    tokens = summary(steady())["tokens"]
    assert "prompt is never counted" in tokens["counted"]
    assert tokens["output_source"] == {"chunks": 12}
    assert tokens["prompt_source"] == {"as asked": 12}
    assert (tokens["asked_mean"], tokens["output_mean"], tokens["prompt_mean"]) == (11, 11, 550)


@pytest.mark.parametrize("records", [[], [record(tokens=0, error="timeout")], steady()])
def test_every_summary_is_json_without_nan(records):
    text = json.dumps(summary(records, target="rehearsal"), allow_nan=False)
    assert json.loads(text)["target"] == "rehearsal"


def test_a_run_without_any_success_has_no_figures_to_be_mistaken_for_some():
    failed = summary([record(0, tokens=0, error="timeout"), record(1, tokens=0, error="timeout")])
    assert failed["window"]["requests"] == 0
    assert failed["window"]["ttft_s"]["p50"] is None
    assert failed["window"]["cost_per_million_output_tokens_usd"] is None
    assert failed["llmperf"]["throughput_tokens_per_s"] is None
    assert failed["requests"]["error_rate"] == 1.0


# --- percentiles ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "withheld"),
    [
        (0, ["p50", "p90", "p95", "p99"]),
        (1, ["p50", "p90", "p95", "p99"]),
        (2, ["p90", "p95", "p99"]),
        (19, ["p95", "p99"]),
        (50, ["p99"]),
        (99, ["p99"]),
        (100, []),
    ],
)
def test_a_percentile_that_n_does_not_support_is_withheld(n, withheld):
    spread = metrics.distribution([1.0] * n)
    assert spread["withheld"] == withheld
    assert [name for name in ("p50", "p90", "p95", "p99") if spread[name] is None] == withheld
    assert set(spread["ci95"]) == {"p50", "p90", "p95", "p99"} - set(withheld)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=40))
def test_an_interval_lies_within_the_values_and_mostly_holds_the_estimate(values):
    low, high = metrics.distribution(values)["ci95"]["p50"]
    assert min(values) <= low <= high <= max(values)


def test_more_observations_make_the_interval_narrower():
    generator = np.random.default_rng(1)
    widths = []
    for n in (20, 2000):
        low, high = metrics.distribution(generator.normal(10, 1, n).tolist())["ci95"]["p50"]
        widths.append(high - low)
    assert widths[1] < widths[0] / 4


def test_gaps_between_tokens_get_no_interval_because_they_depend_on_each_other():
    assert "ci95" not in summary(steady())["window"]["itl_s"]


# --- goodput --------------------------------------------------------------------------------------


def test_goodput_counts_requests_that_meet_every_limit():
    records = steady(users=2, each=5)
    assert metrics.goodput(records, limits={"ttft_s": 1.5, "tpot_s": 0.2}) == pytest.approx(1.0)
    assert metrics.goodput(records, limits={"ttft_s": 1.5, "tpot_s": 0.05}) == 0
    late = [replace(one, first_s=one.first_s + 0.9) if one.user else one for one in records]
    assert metrics.goodput(late, limits={"ttft_s": 1.5}) == pytest.approx(0.5)


def test_goodput_limits_are_in_aws_time():
    records = steady(users=2, each=5)
    assert metrics.goodput(records, limits={"ttft_s": 1.5}, clock_speed=60.0) == 0
    assert metrics.goodput(records, limits={"ttft_s": 61.0}, clock_speed=60.0) == pytest.approx(
        1 / 60
    )


def test_goodput_of_nothing_is_zero_and_an_unknown_limit_is_refused():
    assert metrics.goodput([], limits={"ttft_s": 1.0}) == 0
    with pytest.raises(ValueError, match="e2e"):
        metrics.goodput([], limits={"e2e": 1.0})


# --- llmperf --------------------------------------------------------------------------------------


def test_llmperf_counts_the_prompt_as_output_and_the_right_figure_does_not():
    records = steady(users=1, each=1, ttft_s=1.0, gap_s=0.1, tokens=11)  # 2 requests, 2 s each
    made = summary(records)
    theirs, right = made["llmperf"], made["whole_run"]
    assert theirs["counted_tokens"] == 2 * (550 + 11)
    assert theirs["throughput_tokens_per_s"] == pytest.approx(2 * 561 / 4)
    assert right["output_tokens_per_s"] == pytest.approx(2 * 11 / 4)
    assert theirs["latency_ms_per_token"] == pytest.approx(2000 / 561)
    assert right["tpot_s"]["mean"] == pytest.approx(0.1)
    assert theirs["ttft_ms"] == pytest.approx(1000)


def test_the_two_definitions_stand_side_by_side_with_a_sentence_why(tmp_path):
    made = run(tmp_path, records=steady(users=1, each=1))
    table = metrics.llmperf_table(made)
    assert list(table["as llmperf counts"]) == pytest.approx(
        [1000, 280.5, 3.57, float("nan")], nan_ok=True
    )
    assert list(table["output tokens only"]) == pytest.approx([1000, 5.5, 181.82, 100])
    assert set(table["target"]) == {"rehearsal"}
    assert made.summary["llmperf"]["why"].count(".") == 1


# --- tables ---------------------------------------------------------------------------------------


def test_the_table_has_a_row_a_run_units_in_its_headers_and_the_target_last(tmp_path):
    made = [run(tmp_path, concurrency=users, requests=5 * users) for users in (1, 2)]
    table = metrics.table(made)
    assert list(table["users"]) == [1, 2]
    assert list(table["TTFT p50 (s)"]) == [1.0, 1.0]
    assert list(table["TPOT p50 (ms)"]) == [100.0, 100.0]
    assert table.columns[-1] == "target" and set(table["target"]) == {"rehearsal"}


def test_a_failed_run_has_empty_cells_in_a_column_that_stays_a_number(tmp_path):
    failed = run(tmp_path, records=[record(tokens=0, error="timeout")], concurrency=1)
    table = metrics.table([failed])
    assert table["TTFT p50 (s)"].isna().all() and table["TTFT p50 (s)"].dtype == float
    assert table["errors"][0] == 1


def test_the_percentile_table_leaves_out_what_n_does_not_support(tmp_path):
    table = metrics.percentile_table(run(tmp_path)).set_index("metric")
    assert table.loc["TTFT (s)", "p50"] == 1.0 and pd.isna(table.loc["TTFT (s)", "p99"])
    assert table.loc["ITL (ms)", "p99"] == 100.0
    assert table.columns[-1] == "target"
