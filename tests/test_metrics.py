"""What records say: definitions, windows, percentiles and how sure they are, two runs compared."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import arrivals, asked, queued, record, rounds, run, steady

from helpers import intervals, metrics
from helpers.errors import ResultsError

FIGURES = ("ttft_s", "tpot_s", "itl_s", "latency_s")


def summary(records, *, load=None, **options):
    """The summary of a closed loop with as many users as there are, unless told otherwise."""
    load = load or asked(concurrency=len({one.user for one in records}))
    return metrics.summary(records, load=load, **{"price_per_hour": 36.0} | options)


def windows(records, **load):
    return metrics.windows(records, asked(**load))


def later(records, *, by_s, part):
    """The same requests in another part, whose clock shows something else."""
    shift = ("sent_s", "first_s", "last_s", "ended_s")
    return [
        replace(
            one,
            part=part,
            chunk_s=tuple(stamp + by_s for stamp in one.chunk_s),
            **{name: getattr(one, name) + by_s for name in shift if getattr(one, name) is not None},
        )
        for one in records
    ]


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


# --- windows --------------------------------------------------------------------------------------


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
    (span,) = windows(warm + measured)
    assert (span.opens_s, span.closes_s) == (2.0, pytest.approx(4.5))


def test_without_warm_up_the_window_opens_when_the_last_user_has_started():
    records = [record(0, user=0, sent_s=0.0), record(1, user=1, sent_s=0.5)]
    assert windows(records)[0].opens_s == 0.5


def test_there_is_no_window_when_the_users_never_ran_together():
    assert not windows([record(0, user=0, sent_s=0), record(1, user=1, sent_s=50)])
    assert not windows([])
    assert not windows([record(phase="warmup")], concurrency=1)
    assert summary([], load=asked())["window"] is None


def test_there_is_no_window_when_fewer_users_ran_than_were_asked_for():
    assert windows(steady(users=2), concurrency=2)
    assert not windows(steady(users=2), concurrency=3)


def test_users_of_two_clients_are_different_users_though_both_count_from_zero():
    records = steady(users=1) + [replace(one, client=1) for one in steady(users=1)]
    assert windows(records, concurrency=2)
    assert not windows(records, concurrency=3)


def test_fifty_requests_of_five_users_lie_mostly_in_the_window():
    inside = summary(steady(users=5, each=10))["window"]
    assert inside["requests"] == 50
    assert inside["mean_concurrency"] == pytest.approx(5.0)


def test_requests_to_warm_up_that_end_in_the_window_count_as_load_and_not_as_latency():
    slow = record(0, user=0, sent_s=99.5, ttft_s=1.5, phase="warmup")  # to 102.0 + 0.0
    inside = summary([replace(slow, ended_s=103.0), *steady(users=2)[1:]])["window"]
    assert inside["requests"] == 10
    assert inside["requests_per_s"] == pytest.approx(11 / inside["duration_s"])


def test_rounds_are_measured_from_the_first_request_to_the_end_of_the_last():
    records = rounds(tokens=(11, 31), each=3)  # 2 s and 4 s
    made = summary(records, load=asked(kind="rounds"))
    inside = made["window"]
    assert inside["duration_s"] == pytest.approx(12.0)
    assert inside["requests"] == 6
    assert inside["requests_per_s"] == pytest.approx(0.5)
    assert inside["output_tokens"] == 3 * 42
    assert inside["mean_concurrency"] == pytest.approx(1.5), "the quick one waits for the slow one"


def test_arrivals_are_measured_from_the_first_to_the_last_as_intended():
    records = arrivals([float(time_s) for time_s in range(14)], warmup=3)
    load = asked(rate_per_s=1.0)
    (span,) = metrics.windows(records, load)
    assert (span.opens_s, span.closes_s) == (3.0, 13.0)
    inside = summary(records, load=load)["window"]
    assert inside["offered_per_s"] == inside["sent_per_s"] == pytest.approx(1.0)
    assert inside["completed_per_s"] == inside["requests_per_s"] == pytest.approx(1.0)
    assert inside["mean_concurrency"] == pytest.approx(2.0)
    assert inside["output_tokens_per_s"] == pytest.approx(11.0, rel=0.1)


def test_an_arrival_belongs_to_the_window_however_late_it_ends():
    """Selected by their ends, a server that falls behind would show its quick replies only."""
    records = arrivals([float(time_s) for time_s in range(11)], slots=1)  # 2 s each, one a second
    inside = summary(records, load=asked(rate_per_s=1.0))["window"]
    assert inside["requests"] == 11
    assert inside["latency_s"]["mean"] == pytest.approx(2 + 5)
    assert inside["completed_per_s"] == pytest.approx(0.5)


def test_a_client_that_falls_behind_its_schedule_is_seen_in_the_rate_and_in_the_delay():
    on_time = arrivals([float(time_s) for time_s in range(11)])
    late = [replace(one, dispatch_s=one.sent_s / 10) for one in on_time]
    inside = summary(late, load=asked(rate_per_s=1.0), clock_speed=60.0)["window"]
    assert inside["offered_per_s"] == pytest.approx(1 / 60)
    assert inside["sent_per_s"] == pytest.approx(1 / 60 / 1.1)
    assert inside["dispatch_s"]["p50"] == pytest.approx(0.5 * 60)
    assert inside["dispatch_s"]["withheld"] == ["p95", "p99"]


def test_requests_all_sent_at_once_after_a_standstill_do_not_divide_by_zero():
    stuck = [replace(one, dispatch_s=9.0 - one.sent_s) for one in arrivals([0.0, 1.0, 2.0])]
    inside = summary(stuck, load=asked(rate_per_s=1.0))["window"]
    assert inside["sent_per_s"] == pytest.approx(1.0)
    assert inside["dispatch_s"]["mean"] == pytest.approx(8.0)


def test_one_arrival_alone_makes_no_rate():
    assert summary(arrivals([5.0]), load=asked(rate_per_s=1.0))["window"] is None


LOADS = {
    "closed_loop": (steady(users=2, each=6), asked()),
    "rounds": (rounds(tokens=(11, 31), each=3), asked(kind="rounds")),
    "arrivals": (arrivals([0.5 * step for step in range(20)]), asked(rate_per_s=2.0)),
}


@given(kind=st.sampled_from(sorted(LOADS)), by_s=st.floats(-1e6, 1e6))
def test_the_windows_of_parts_are_added_up_and_never_mixed(kind, by_s):
    """Stamps of another boot may fall into the first part's window, or far from it."""
    records, load = LOADS[kind]
    once = summary(records, load=load)
    twice = summary(records + later(records, by_s=by_s, part=1), load=load)
    for span in ("window", "whole_run"):
        one, two = once[span], twice[span]
        for name in ("duration_s", "requests", "output_tokens"):
            assert two[name] == pytest.approx(2 * one[name], rel=1e-3), name
        for name in ("requests_per_s", "mean_concurrency", "output_tokens_per_s"):
            assert two[name] == pytest.approx(one[name], rel=1e-3), name
        for name in FIGURES:
            assert two[name]["n"] == 2 * one[name]["n"]
            assert two[name]["p50"] == pytest.approx(one[name]["p50"], abs=1e-6)


def test_a_part_in_which_the_asked_load_was_never_there_is_left_out():
    lonely = later(steady(users=1, each=3), by_s=1e4, part=1)
    made = summary(steady(users=2) + lonely)
    assert made["window"]["duration_s"] == pytest.approx(10.0)
    assert made["whole_run"]["duration_s"] == pytest.approx(12.0 + 8.0)


def test_a_moment_between_two_windows_is_counted_once():
    first, second = metrics.Window(0.0, 1.0), metrics.Window(1.0, 2.0)
    assert (first.holds(1.0), second.holds(1.0)) == (True, False)


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
    # 6 to 10 of the first, all of the third, 11 to 15 of the fourth
    assert inside["output_tokens"] == pytest.approx(5 + 10 + 5)
    assert inside["requests"] == 1
    assert inside["total_tokens_per_s"] == pytest.approx((20 + 2 * 550) / 10)


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
    assert inside["output_tokens_per_s"] == pytest.approx(11.0)
    assert inside["cost_per_million_output_tokens_usd"] == pytest.approx(36 / 3600 / 11 * 1e6)


def test_without_a_price_there_is_no_cost():
    made = summary(steady(), price_per_hour=None)
    assert made["window"]["cost_per_million_output_tokens_usd"] is None
    assert list(made["window"]["ci95"]) == ["output_tokens_per_s"]


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
        for name, bounds in plain[span]["latency_s"]["ci95"].items():
            assert stretched[span]["latency_s"]["ci95"][name] == pytest.approx(
                [60 * bound for bound in bounds]
            )


def test_the_summary_says_which_tokens_it_counts_and_how():
    tokens = summary(steady())["tokens"]
    assert "prompt is never counted" in tokens["counted"]
    assert tokens["output_source"] == {"tokenizer": 12}
    assert tokens["output_by_source"] == {"tokenizer": 12 * 11, "chunks": 12 * 11}
    assert tokens["prompt_source"] == {"as asked": 12}
    assert (tokens["asked_mean"], tokens["output_mean"], tokens["prompt_mean"]) == (11, 11, 550)


@pytest.mark.parametrize("records", [[], [record(tokens=0, error="timeout")], steady()])
def test_every_summary_is_json_without_nan(records):
    options = {"limits": {"ttft_s": 1.0}, "target": "rehearsal"}
    text = json.dumps(summary(records, **options), allow_nan=False)
    assert json.loads(text)["target"] == "rehearsal"


def test_a_run_without_any_success_has_no_figures_to_be_mistaken_for_some():
    failed = summary([record(0, tokens=0, error="timeout"), record(1, tokens=0, error="timeout")])
    assert failed["window"]["requests"] == 0
    assert failed["window"]["ttft_s"]["p50"] is None
    assert failed["window"]["cost_per_million_output_tokens_usd"] is None
    assert "no request was completed" in failed["window"]["ci95_missing"]
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
    spread = intervals.distribution([1.0] * n, places=[one % 5 for one in range(n)], slices=5)
    names = ["p50", "p90", "p95", "p99"]
    assert spread["withheld"] == withheld
    assert [name for name in names if spread[name] is None] == withheld
    given = [name for name in names if name not in withheld]
    assert list(spread["ci95"]) == (["mean", *given] if given else [])


# --- intervals ------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(-1, 7)), min_size=2, max_size=40))
def test_an_interval_lies_within_the_values(pairs):
    values, places = zip(*pairs, strict=True)
    spread = intervals.distribution(values, places=places, slices=8)
    assert bool(spread["ci95"]) == (max(places) >= 0)
    for low, high in spread["ci95"].values():
        assert min(values) - 1e-6 <= low <= high <= max(values) + 1e-6


@given(st.lists(st.floats(0, 1e6), min_size=5, max_size=30), st.integers(0, 2**32))
def test_resamples_are_those_of_drawing_whole_slices(values, seed):
    """Weights of ranked values say the same as values put together."""
    places = [place % 5 for place in range(len(values))]
    drawn = intervals.draws(5, seed=seed)[:20]
    made = intervals.estimates(values, places, drawn=drawn, percentiles=(50, 90))
    for row, counts in enumerate(drawn):
        put_together = [
            v for v, place in zip(values, places, strict=True) for _ in range(counts[place])
        ]
        assert made["mean"][row] == pytest.approx(np.mean(put_together))
        assert made["p50"][row] == pytest.approx(np.percentile(put_together, 50))
        assert made["p90"][row] == pytest.approx(np.percentile(put_together, 90))


def test_more_requests_make_the_interval_narrower():
    widths = []
    for each in (10, 200):
        inside = summary(queued(users=2, requests=2 * each))["window"]
        low, high = inside["latency_s"]["ci95"]["mean"]
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_few_slices_are_drawn_so_that_their_interval_is_as_wide_as_students():
    values = np.random.default_rng(3).normal(10, 1, 8)
    low, high = intervals.distribution(values, places=range(8), slices=8)["ci95"]["mean"]
    student = 2 * 2.365 * values.std(ddof=1) / np.sqrt(8)
    assert high - low == pytest.approx(student, rel=0.1)


def test_intervals_hold_the_truth_although_requests_wait_for_each_other():
    """Drawn one by one, requests of 16 users of 4 slots would miss it in every second run."""
    load = asked(concurrency=16)
    runs = [
        summary(queued(users=16, requests=160, seed=seed), load=load)["window"]
        for seed in range(40)
    ]
    truth = np.mean([one["latency_s"]["mean"] for one in runs])
    held = [
        low <= truth <= high for low, high in (one["latency_s"]["ci95"]["mean"] for one in runs)
    ]
    assert np.mean(held) >= 0.8
    rate = np.mean([one["output_tokens_per_s"] for one in runs])
    held = [
        low <= rate <= high for low, high in (one["ci95"]["output_tokens_per_s"] for one in runs)
    ]
    assert np.mean(held) >= 0.8


def test_throughput_and_cost_have_intervals_that_follow_from_each_other():
    inside = summary(queued(users=4, requests=100))["window"]
    low, high = inside["ci95"]["output_tokens_per_s"]
    assert low < inside["output_tokens_per_s"] < high
    cheapest, dearest = inside["ci95"]["cost_per_million_output_tokens_usd"]
    assert cheapest == pytest.approx(36 / 3600 / high * 1e6)
    assert dearest == pytest.approx(36 / 3600 / low * 1e6)
    assert inside["slices"] == 20 and inside["ci95_missing"] is None


def test_a_window_of_few_latencies_has_no_intervals_and_says_why():
    inside = summary(steady(users=2, each=3))["window"]
    assert inside["slices"] == 0
    assert inside["ci95"] == inside["ttft_s"]["ci95"] == {}
    assert inside["ci95_missing"] == (
        "no intervals: 3 slices as long as a request fit into the window and 5 are needed"
    )


def test_requests_of_a_part_too_short_for_a_slice_count_in_the_figure_and_not_in_its_interval():
    short = later(steady(users=2, each=1, ttft_s=0.5), by_s=1e3, part=1)
    inside = summary(steady(users=2, each=8) + short)["window"]
    assert inside["requests"] == 18
    assert inside["slices"] == 8
    assert inside["latency_s"]["ci95"]["mean"] == pytest.approx([2.0, 2.0])


def test_gaps_between_tokens_have_no_interval():
    assert summary(steady(each=20))["window"]["itl_s"]["ci95"] == {}


def test_gaps_are_those_within_replies():
    inside = summary(steady(each=6, gap_s=0.1))["window"]
    assert inside["itl_s"]["n"] == 2 * 6 * 10
    assert inside["itl_s"]["mean"] == pytest.approx(0.1)


# --- goodput --------------------------------------------------------------------------------------


def goodput(records, load=None, **options):
    return metrics.goodput(records, load=load or asked(), **options)


def test_goodput_counts_requests_that_meet_every_limit():
    records = steady(users=2, each=5)
    good = goodput(records, limits={"ttft_s": 1.5, "tpot_s": 0.2})
    assert good == {
        "limits": {"ttft_s": 1.5, "tpot_s": 0.2},
        "requests_per_s": pytest.approx(1.0),
        "share": 1.0,
    }
    assert goodput(records, limits={"ttft_s": 1.5, "tpot_s": 0.05})["requests_per_s"] == 0
    late = [replace(one, first_s=one.first_s + 0.9) if one.user else one for one in records]
    half = goodput(late, limits={"ttft_s": 1.5})
    assert (half["requests_per_s"], half["share"]) == (pytest.approx(0.5), 0.5)


def test_a_failed_request_is_not_good_and_an_interrupted_one_is_nothing():
    records = steady(users=1, each=4)
    load, limits = asked(concurrency=1), {"latency_s": 9.0}
    *good, last = records
    for kind, share in (("timeout", 0.75), ("interrupted", 1.0)):
        ended = replace(last, error=record(error=kind).error)
        assert goodput([*good, ended], load, limits=limits)["share"] == share


def test_goodput_of_arrivals_counts_those_that_were_due_in_the_window():
    records = arrivals([float(time_s) for time_s in range(11)], slots=1)  # latencies 2, 3, … 12
    good = goodput(records, asked(rate_per_s=1.0), limits={"latency_s": 6.5})
    assert good["share"] == pytest.approx(5 / 11)
    assert good["requests_per_s"] == pytest.approx(5 / 11)


def test_goodput_limits_are_in_aws_time():
    records = steady(users=2, each=5)
    assert goodput(records, limits={"ttft_s": 1.5}, clock_speed=60.0)["share"] == 0
    good = goodput(records, limits={"ttft_s": 61.0}, clock_speed=60.0)
    assert good["requests_per_s"] == pytest.approx(1 / 60)


def test_goodput_is_in_the_summary_when_there_are_limits():
    assert summary(steady())["goodput"] is None
    assert summary(steady(), limits={})["goodput"] is None
    assert summary(steady(), limits={"tpot_s": 0.2})["goodput"]["share"] == 1.0


def test_goodput_without_a_window_is_unknown():
    assert goodput([], limits={"ttft_s": 1.0}) == {
        "limits": {"ttft_s": 1.0},
        "share": None,
        "requests_per_s": None,
    }


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"e2e": 1.0}, "no limit 'e2e': choose among ttft_s, tpot_s, latency_s"),
        ({"ttft_s": 0}, "above 0, not 0"),
        ({"ttft_s": float("nan")}, "not nan"),
        ({"ttft_s": "2"}, "not '2'"),
        ({"ttft_s": True}, "not True"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(limits, words):
    with pytest.raises(ResultsError, match=words):
        summary([], load=asked(), limits=limits)


# --- tables ---------------------------------------------------------------------------------------


def test_the_table_has_a_row_a_run_units_in_its_headers_and_the_target_last(tmp_path):
    made = [run(tmp_path, concurrency=users, requests=5 * users) for users in (1, 2)]
    table = metrics.table(made)
    assert list(table["users"]) == [1, 2]
    assert list(table["TTFT p50 (s)"]) == [1.0, 1.0]
    assert list(table["TPOT p50 (ms)"]) == [100.0, 100.0]
    assert list(table.columns) == [
        "recipe",
        "users",
        "requests",
        "errors",
        "output tokens/s",
        "TTFT p50 (s)",
        "TTFT p90 (s)",
        "TPOT p50 (ms)",
        "latency p50 (s)",
        "$ per 1M output tokens",
        "valid",
        "target",
    ]
    assert set(table["valid"]) == {"yes"} and set(table["target"]) == {"rehearsal"}


def test_a_sweep_over_rates_shows_what_was_asked_and_what_was_completed(tmp_path):
    made = [
        run(
            tmp_path,
            records=arrivals([step / rate for step in range(21)], slots=1),
            rate_per_s=rate,
        )
        for rate in (0.25, 1.0)
    ]
    table = metrics.table(made)
    assert list(table.columns[:5]) == [
        "recipe",
        "load",
        "users",
        "asked requests/s",
        "completed requests/s",
    ]
    assert list(table["load"]) == ["constant arrivals"] * 2
    assert table["users"].isna().all()
    assert list(table["asked requests/s"]) == [0.25, 1.0]
    assert list(table["completed requests/s"]) == [0.25, 0.5]


def test_different_loads_in_one_table_are_told_apart_in_words(tmp_path):
    made = [
        run(tmp_path),
        run(tmp_path, records=steady(), think_s=3.0),
        run(tmp_path, records=rounds(tokens=(11, 11)), kind="rounds"),
    ]
    table = metrics.table(made)
    assert list(table["load"]) == ["closed loop", "closed loop, 3 s to think", "rounds"]
    assert list(table["users"]) == [2, 2, 2]
    assert "asked requests/s" not in table
    both = metrics.table([made[0], run(tmp_path, records=arrivals([0.0, 1.0]), rate_per_s=1.0)])
    assert both["users"].tolist() == [2, pd.NA]
    assert list(metrics.table(made[:1]).columns) == list(metrics.table(made[:1] * 2).columns)


def test_an_endpoint_without_a_recipe_is_named(tmp_path):
    made = run(tmp_path)
    made.config["endpoint"]["recipe"] = None
    assert metrics.table([made])["recipe"][0] == "inf2-workshop-ada-llama-3-70b"


def test_a_run_that_failed_its_audit_is_not_quietly_in_the_table(tmp_path):
    made = run(tmp_path)
    made.summary["audit"]["valid"] = False
    assert metrics.table([made])["valid"][0] == "NO"


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


# --- two runs -------------------------------------------------------------------------------------


def queued_run(folder, *, seed=0, users=4, requests=80, **more):
    records = queued(users=users, requests=requests, seed=seed)
    return run(folder, records=records, concurrency=users, requests=requests, **more)


def faster(made, *, by):
    """The same run, with all its time shrunk."""
    records = [
        replace(
            one,
            sent_s=one.sent_s / by,
            first_s=one.first_s / by,
            last_s=one.last_s / by,
            ended_s=one.ended_s / by,
            chunk_s=tuple(stamp / by for stamp in one.chunk_s),
        )
        for one in made.records
    ]
    return run(made.path.parent, records=records, concurrency=made.config["load"]["concurrency"])


def test_a_difference_that_is_there_is_larger_than_the_noise(tmp_path):
    slow = queued_run(tmp_path)
    table = metrics.compare(slow, faster(slow, by=1.3))
    assert list(table["metric"]) == [
        "output tokens/s",
        "TTFT p50 (s)",
        "TTFT mean (s)",
        "TPOT p50 (ms)",
        "latency p50 (s)",
        "$ per 1M output tokens",
    ]
    assert set(table["verdict"]) == {"larger than the noise"}
    throughput = table.iloc[0]
    assert throughput["second run"] == pytest.approx(1.3 * throughput["first run"], rel=0.01)
    assert throughput["95 % low"] < throughput["difference"] < throughput["95 % high"]
    assert list(table["difference"] > 0) == [True, False, False, False, False, False]
    assert table.columns[-1] == "target" and set(table["target"]) == {"rehearsal"}
    assert table.attrs["note"] is None


def test_a_run_compared_with_itself_differs_in_nothing(tmp_path):
    made = queued_run(tmp_path)
    table = metrics.compare(made, made)
    assert list(table["difference"]) == [0.0] * 6
    assert set(table["verdict"]) == {"within the noise"}


def test_runs_that_differ_by_chance_are_seldom_called_different(tmp_path):
    made = [queued_run(tmp_path, users=8, seed=seed) for seed in range(12)]
    verdicts = [
        verdict
        for one, other in zip(made, made[1:], strict=False)
        for verdict in metrics.compare(one, other)["verdict"]
    ]
    assert verdicts.count("larger than the noise") <= 0.2 * len(verdicts)


def test_equal_runs_at_another_time_of_day_differ_in_nothing(tmp_path):
    """Their stamps differ in the last digits."""
    one, other = (
        run(tmp_path, records=steady(each=10, start_s=start_s)) for start_s in (0.1, 1e6 / 3)
    )
    assert set(metrics.compare(one, other)["verdict"]) == {"within the noise"}


def test_few_requests_say_nothing_about_a_difference(tmp_path):
    one, other = run(tmp_path, records=steady(each=2)), run(tmp_path)
    for runs in ((one, other), (other, one)):
        table = metrics.compare(*runs)
        assert set(table["verdict"]) == {"too few requests to say"}
        assert table["95 % low"].isna().all() and table["difference"].notna().all()


def test_a_run_without_a_window_can_be_compared_and_says_nothing(tmp_path):
    failed = run(tmp_path, records=[record(tokens=0, error="timeout")])
    table = metrics.compare(failed, run(tmp_path))
    assert set(table["verdict"][:6]) == {"nothing to compare"}
    assert "the first run failed its audit" in table.attrs["note"]


def test_different_loads_and_invalid_runs_are_said_in_a_row_of_their_own(tmp_path):
    one, other = queued_run(tmp_path), queued_run(tmp_path, users=8, output_tokens=99, speed=2.0)
    other.summary["audit"]["valid"] = False
    table = metrics.compare(one, other)
    assert (
        table.attrs["note"]
        == table["verdict"].iloc[-1]
        == (
            "This compares different things: the loads differ (concurrency 4 and 8, "
            "output_tokens 11 and 99); the second run failed its audit; "
            "AWS time ran 1 and 2 times as fast as real time."
        )
    )
    assert table["difference"].dtype == float


def test_a_cost_is_compared_only_where_both_have_a_price(tmp_path):
    one, other = queued_run(tmp_path), queued_run(tmp_path, seed=1)
    other.config["price"]["usd_per_hour"] = None
    other.summary["window"]["cost_per_million_output_tokens_usd"] = None
    assert metrics.compare(one, other)["verdict"].iloc[-1] == "nothing to compare"


def test_a_rehearsal_is_not_compared_with_a_measurement(tmp_path):
    one, other = run(tmp_path), run(tmp_path, target="aws")
    with pytest.raises(ResultsError, match="choose two runs of the same target"):
        metrics.compare(one, other)
    measured = metrics.compare(other, run(tmp_path, target="server"))
    assert set(measured["target"]) == {"aws and server"}
