"""A run against its prediction: runs of the twin's own virtual time, with one thing made wrong."""

import random
import re
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_runs import record
from virtual_runs import GUIDE, TIMING, bundled, of_guide, served

from helpers import results, verdict
from helpers.errors import ResultsError
from helpers.settings import ROOT
from helpers.twin import Timing


def lengths(seed):
    chance = random.Random(seed)
    return [max(2, round(chance.gauss(150, 30))) for _ in range(60)]


LENGTHS = lengths(seed=1)
SLOW_STEP, SLOW_PREFILL = Timing(4, 1.2, 0.052), Timing(4, 1.8, 0.0398)


@pytest.fixture
def held(tmp_path):
    """Hold a load, with whatever is wrong with it, against its prediction."""

    def hold(timing=TIMING, *, target="aws", audit=(), given=None, **asked):
        config = {"target": target, "audit": audit, "speed": asked.get("speed", 1.0)}
        if asked.get("arrivals_s"):
            config |= {"rate_per_s": 0.25}
        else:
            config |= {"concurrency": asked["users"]}
            config |= {"kind": "rounds"} if asked.get("rounds") else {}
            config |= {"think_s": asked.pop("think_s", 0.0)}
        records = served(timing, **{"tokens": LENGTHS, **asked})
        return verdict.against(of_guide(tmp_path, records, **config), given)

    return hold


def poisson(rate_per_s, count, seed=1):
    chance, at_s = random.Random(seed), 0.0
    return [at_s := at_s + chance.expovariate(rate_per_s) for _ in range(count)]


def invalid(check, found="much too much", limit="a little"):
    found = {"check": check, "found": found, "limit": limit, "advice": ""}
    return [found | {"level": "invalid"}]


# --- nothing is wrong


@pytest.mark.parametrize(
    "asked",
    [
        *({"users": users} for users in (1, 2, 4, 5, 8, 16)),
        {"users": 5, "rounds": True},
        {"users": 5, "speed": 60.0},
        {"users": 5, "late_s": 4.0, "think_s": 4.0},
        {"arrivals_s": poisson(0.25, 60)},
        {"users": 16, "tokens": 30},
    ],
    ids=str,
)
def test_an_endpoint_that_does_what_the_model_says_is_as_predicted(held, asked):
    found = held(**asked)
    assert found.cause == "as predicted" and not found.evidence
    measured, predicted = found.measured, found.predicted
    assert measured.output_tokens_per_s == pytest.approx(predicted.output_tokens_per_s, rel=0.005)
    assert measured.ttft_p50_s == pytest.approx(predicted.ttft_p50_s, rel=0.04)
    assert measured.tpot_p50_s == pytest.approx(predicted.tpot_p50_s, rel=0.001)
    assert found.times.prefill_s == pytest.approx(1.2)
    assert found.times.decode_step_s == pytest.approx(0.0398)


def test_lengths_are_the_runs_own(held):
    short, long = held(users=5, tokens=40), held(users=5, tokens=400)
    assert short.cause == long.cause == "as predicted"
    assert short.predicted.output_tokens_per_s < long.predicted.output_tokens_per_s / 2


@pytest.mark.parametrize(
    ("asked", "limit", "words"),
    [
        ({"users": 1}, "batch not filled", r"1\.0 of 4 slots .* fewer users \(1\) than slots"),
        ({"users": 5, "rounds": True}, "batch not filled", "a round waits for its slowest"),
        ({"arrivals_s": poisson(0.25, 60)}, "batch not filled", "of 4 slots"),
        ({"users": 16}, "queue-bound", r"16\.0 requests are in flight for 4 slots, .* 96 %"),
        ({"users": 16, "tokens": 30}, "prefill-bound", "81 % of the endpoint's time"),
        ({"users": 4, "tokens": 300}, "decode-bound", "decode steps take 7. %"),
    ],
    ids=str,
)
def test_what_limits_a_run_is_named_with_its_measurement(held, asked, limit, words):
    found = held(**asked)
    assert (found.cause, found.limit) == ("as predicted", limit)
    assert re.search(words, found.limit_evidence)


def test_a_run_without_a_decode_step_is_not_bound_by_decoding(held):
    found = held(arrivals_s=poisson(0.25, 60), tokens=1)
    assert (found.cause, found.limit) == ("as predicted", "batch not filled")
    assert found.limit_evidence == "no decode step was seen"


def test_a_run_without_a_token_is_not_bound_by_prefills(tmp_path):
    phases = ["warmup"] * 2 + ["measured"] * 18
    silent = [
        record(n, user=n % 2, sent_s=float(n // 2), tokens=0, phase=phase)
        for n, phase in enumerate(phases)
    ]
    found = verdict.against(of_guide(tmp_path, silent, concurrency=2))
    assert (found.cause, found.limit) == ("unexplained", "batch not filled")
    assert found.limit_evidence == "no decode step was seen"


# --- one thing is wrong


@pytest.mark.parametrize("users", [1, 4, 5, 16])
def test_a_slower_step_is_a_slower_decode(held, users):
    found = held(SLOW_STEP, users=users)
    assert found.cause == "slower decode"
    assert found.evidence == "a decode step took 52.0 ms, in the model 39.8 ms"
    assert found.times.prefill_s == pytest.approx(1.2)


@pytest.mark.parametrize("users", [1, 4, 5, 16])
def test_a_slower_prefill_is_told_from_a_slower_step(held, users):
    found = held(SLOW_PREFILL, users=users)
    assert found.cause == "slower prefill"
    assert found.evidence == "a prefill took 1.80 s, in the model 1.20 s"
    assert found.times.decode_step_s == pytest.approx(0.0398)


def test_a_faster_machine_is_told_as_well(held):
    assert held(Timing(4, 1.2, 0.03), users=5).cause == "faster decode"
    assert held(Timing(4, 0.7, 0.0398), users=5).cause == "faster prefill"


def test_when_both_times_are_slower_the_one_that_takes_more_is_named(held):
    assert held(Timing(4, 1.4, 0.08), users=5).cause == "slower decode"
    assert held(Timing(4, 3.0, 0.048), users=5).cause == "slower prefill"


@pytest.mark.parametrize("late_s", [0.6, 4.0])
def test_a_client_that_is_late_to_ask_again_is_client_bound(held, late_s):
    found = held(users=5, late_s=late_s)
    assert found.cause == "client-bound"
    assert "the client was late to send the next ones" in found.evidence


def test_a_late_client_does_not_hide_a_much_slower_machine(held):
    assert held(Timing(4, 1.2, 0.12), users=5, late_s=1.5).cause == "slower decode"


@pytest.mark.parametrize("strangers", [1, 4])
def test_somebody_elses_requests_show_as_pauses(held, strangers):
    found = held(users=5, strangers=strangers)
    assert (found.cause, found.limit) == ("other load", "other load")
    assert "someone else uses the endpoint" in found.evidence
    assert found.times.decode_step_s == pytest.approx(0.0398), "their prefills are no step"


def test_tokens_that_came_all_at_once_were_not_streamed(tmp_path):
    at_once = [
        replace(one, first_s=one.last_s, chunk_s=(one.last_s,) * len(one.chunk_s))
        for one in served(users=5, tokens=LENGTHS)
    ]
    found = verdict.against(of_guide(tmp_path, at_once, concurrency=5))
    assert found.cause == found.limit == "not streamed"
    assert re.search(r"tokens came 15\d at a time", found.evidence)


@pytest.mark.parametrize("size", [3, 8, 25, 40])
@pytest.mark.parametrize("users", [1, 5, 16])
def test_tokens_that_come_many_at_a_time_make_no_faster_machine(tmp_path, users, size):
    records = bundled(served(Timing(4, 1.2, 0.06), users=users, tokens=LENGTHS), size)
    found = verdict.against(of_guide(tmp_path, records, concurrency=users))
    assert found.cause == ("slower decode" if size == 3 else "not streamed")
    assert size == 3 or found.limit == "not streamed"


def test_a_chunk_of_many_tokens_is_no_token(tmp_path):
    records = [
        replace(one, chunk_s=tuple(dict.fromkeys(one.chunk_s)))
        for one in bundled(served(Timing(4, 1.2, 0.06), users=5, tokens=LENGTHS), 25)
    ]
    found = verdict.against(of_guide(tmp_path, records, concurrency=5))
    assert found.cause == found.limit == "not streamed"


@pytest.mark.parametrize("size", [3, 8, 25, 40])
def test_tokens_that_come_many_at_a_time_leave_the_limit_as_it_is(tmp_path, size):
    records = bundled(served(users=5, tokens=LENGTHS), size)
    found = verdict.against(of_guide(tmp_path, records, concurrency=5))
    assert (found.cause, found.limit) == ("as predicted", "queue-bound")
    assert size == 3 or "in the model; tokens came" in found.limit_evidence


def test_fewer_slots_than_the_model_has_make_a_longer_queue(held):
    found = held(replace(TIMING, slots=3), users=8)
    assert found.cause == "queue-bound"
    assert "wait as long as 13.6 prefills take, 9.1 in the model" in found.evidence
    assert found.limit_evidence.startswith("3.0 of 4 slots")


@pytest.mark.parametrize("users", [5, 16])
def test_a_slower_prefill_that_a_late_client_could_be_is_named_when_it_explains_all(held, users):
    found = held(Timing(4, 1.5, 0.0398), users=users, speed=60.0)
    assert found.cause == "slower prefill"
    assert found.evidence == (
        "a prefill took 1.50 s, in the model 1.20 s, and with that it has all figures"
    )


@pytest.mark.parametrize("users", [8, 16])
def test_more_slots_than_the_model_has_make_no_bound_of_a_faster_run(held, users):
    found = held(replace(TIMING, slots=8), users=users)
    assert found.measured.output_tokens_per_s > 1.3 * found.predicted.output_tokens_per_s
    assert found.cause == "unexplained"
    assert re.search(r"7\.\d requests are decoded .* the model has 4 slots", found.evidence)


@given(
    slots=st.integers(1, 9),
    prefill_s=st.floats(0.4, 3.0),
    step_s=st.floats(0.01, 0.1),
    users=st.integers(1, 12),
)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
def test_no_cause_says_the_contrary_of_what_came_out(held, slots, prefill_s, step_s, users):
    found = held(Timing(slots, prefill_s, step_s), users=users, requests=30)
    gain = found.measured.output_tokens_per_s / found.predicted.output_tokens_per_s
    if gain > 1.1:
        assert found.cause in ("faster decode", "faster prefill", "unexplained", "other load")
    if gain < 0.9:
        assert not found.cause.startswith("faster") and found.cause != "as predicted"


def test_fewer_slots_than_users_leave_the_batch_unfilled(held):
    found = held(replace(TIMING, slots=2), users=4)
    assert (found.cause, found.limit) == ("batch not filled", "batch not filled")
    assert re.match(r"2\.0 of 4 slots .*, 4\.0 in the model", found.evidence)


@pytest.mark.parametrize("seed", range(12))
def test_a_client_that_waits_for_half_the_slots_was_not_late(held, seed):
    found = held(replace(TIMING, slots=2), users=4, tokens=lengths(seed))
    assert found.cause == "batch not filled"


@pytest.mark.parametrize("check", ["event loop", "client CPU", "dispatch", "clock"])
def test_a_client_that_was_not_fit_to_measure_comes_first(held, check):
    found = held(SLOW_STEP, users=5, audit=invalid(check))
    assert found.cause == "client-bound"
    assert found.evidence == f"{check}: much too much (limit a little)"


def test_a_rate_that_was_not_sent_is_the_clients(held):
    slow = {"arrivals_s": poisson(0.25, 60), "audit": invalid("load")}
    assert held(SLOW_STEP, **slow).cause == "client-bound"
    assert held(SLOW_STEP, users=5, audit=invalid("load")).cause == "slower decode", (
        "missing users are weighed against the step instead"
    )


def test_failed_requests_make_it_another_load(held):
    found = held(SLOW_STEP, users=5, audit=invalid("errors", "9 % of the requests failed"))
    assert found.cause == "requests failed" and "9 %" in found.evidence


def test_what_no_measurement_explains_is_said_to_be_unexplained(tmp_path):
    run = of_guide(tmp_path, served(users=5, tokens=LENGTHS), concurrency=5)
    figures = run.summary["window"] | {"output_tokens_per_s": 90.0}
    found = verdict.against(replace(run, summary=run.summary | {"window": figures}))
    assert found.cause == "unexplained"
    assert found.evidence == "tokens/s 60 % above, and no measurement says why"


def without(figure, run):
    """The same run whose summary has no median and no mean of a figure."""
    missing = run.summary["window"][figure] | {"p50": None, "mean": None}
    return replace(run, summary=run.summary | {"window": run.summary["window"] | {figure: missing}})


@pytest.mark.parametrize(("figure", "word"), [("ttft_s", "TTFT"), ("tpot_s", "TPOT")])
def test_a_figure_that_only_the_model_has_is_not_as_predicted(tmp_path, figure, word):
    run = of_guide(tmp_path, served(users=5, tokens=LENGTHS), concurrency=5)
    found = verdict.against(without(figure, run))
    assert found.cause == "unexplained"
    assert found.evidence == f"{word} in the model only, and no measurement says why"


def test_a_figure_that_only_the_run_has_is_not_as_predicted(tmp_path):
    run = of_guide(tmp_path, served(users=5, tokens=1), concurrency=5)
    window = run.summary["window"]
    window = window | {"tpot_s": window["tpot_s"] | {"p50": 0.04}}
    found = verdict.against(replace(run, summary=run.summary | {"window": window}))
    assert (found.cause, found.evidence[:20]) == ("unexplained", "TPOT in the run only")


def test_what_this_machine_is_late_by_is_no_slower_prefill(tmp_path):
    late = [
        replace(
            one, first_s=one.first_s + 0.003, chunk_s=(one.chunk_s[0] + 0.003, *one.chunk_s[1:])
        )
        for one in served(users=1, requests=20, tokens=LENGTHS, speed=60.0)
    ]
    found = verdict.against(of_guide(tmp_path, late, concurrency=1, speed=60.0))
    assert found.measured.ttft_p50_s == pytest.approx(1.2 + 0.18)
    assert found.cause == "as predicted"


# --- what it says


def test_the_sentence_has_measurement_model_floor_and_cause(held):
    assert str(held(SLOW_STEP, users=5)) == (
        "measured 48 tokens/s, the model says 56, the floor is 279: slower decode, a decode step "
        "took 52.0 ms, in the model 39.8 ms; queue-bound, 5.0 requests are in flight for 4 slots, "
        "and waiting is 70 % of the median TTFT"
    )


def test_a_rehearsal_measured_nothing_and_says_so(held):
    said = str(held(users=5, target="rehearsal"))
    assert said.startswith("rehearsal: 56 tokens/s, the model says 56") and "measured" not in said


def test_a_run_that_failed_its_audit_says_so_even_when_it_is_as_predicted(held):
    found = held(users=5, audit=invalid("number of requests"))
    assert found.cause == "as predicted"
    assert found.sentence.endswith(
        "audit: INVALID: number of requests: much too much (limit a little)"
    )


def test_the_floor_knows_the_prompt_that_was_padded(held):
    found = held(users=5)
    assert round(found.floor.tokens_per_s) == 279
    assert "pads 550 tokens to 4,096" in str(found.floor.share(found.timing))


def test_times_of_ones_own_replace_those_of_the_configuration(held):
    found = held(SLOW_STEP, users=5, given=SLOW_STEP)
    assert found.cause == "as predicted" and found.timing is SLOW_STEP


def test_times_for_another_batch_size_have_no_floor_here(held):
    eight = Timing(8, 1.2, 0.05)
    found = held(eight, users=8, given=eight)
    assert found.floor is None and "floor" not in str(found)
    assert found.cause == "as predicted"


def test_a_resumed_run_is_predicted_part_by_part(tmp_path):
    first = served(users=5, requests=25, tokens=LENGTHS)
    again = [
        replace(
            one,
            part=1,
            index=one.index + 30,
            sent_s=one.sent_s - 600,
            first_s=one.first_s - 600,
            last_s=one.last_s - 600,
            ended_s=one.ended_s - 600,
            chunk_s=tuple(stamp - 600 for stamp in one.chunk_s),
        )
        for one in served(users=5, requests=25, tokens=LENGTHS)
    ]
    found = verdict.against(of_guide(tmp_path, first + again, concurrency=5))
    assert found.cause == "as predicted"
    assert found.measured.output_tokens_per_s == pytest.approx(
        found.predicted.output_tokens_per_s, rel=0.005
    )


def test_the_sample_from_a_rehearsal_is_as_predicted():
    run = results.load(ROOT / "results" / "samples" / "rehearsal-llama-3-70b-5-users")
    found = verdict.against(run)
    assert (found.cause, found.limit) == ("as predicted", "queue-bound")
    assert found.times.prefill_s == pytest.approx(1.2, rel=0.02)
    assert found.times.decode_step_s == pytest.approx(0.0398, rel=0.02)


# --- tables


def test_a_table_has_a_row_a_run_and_ends_with_the_target(tmp_path):
    runs = [
        of_guide(tmp_path, served(users=1, tokens=LENGTHS), concurrency=1),
        of_guide(tmp_path, served(SLOW_STEP, users=5, tokens=LENGTHS), concurrency=5),
        of_guide(tmp_path, served(arrivals_s=poisson(0.25, 60)), rate_per_s=0.25),
    ]
    table = verdict.table(runs)
    assert list(table)[-3:] == ["verdict", "limited by", "target"]
    assert table["verdict"].tolist() == ["as predicted", "slower decode", "as predicted"]
    assert table["users"].tolist()[:2] == [1, 5]
    assert table["floor tokens/s"].tolist() == [278.95] * 3
    slower = table.iloc[1]
    assert slower["output tokens/s"] < 0.9 * slower["predicted tokens/s"]
    assert slower["TPOT p50 (ms)"] > 1.1 * slower["predicted TPOT p50 (ms)"]


def test_a_table_of_no_runs_has_the_columns_and_no_row(tmp_path):
    run = of_guide(tmp_path, served(users=1, requests=10, tokens=20), concurrency=1)
    empty = verdict.table([])
    assert len(empty) == 0 and list(empty) == list(verdict.table([run]))


def test_a_run_that_cannot_be_predicted_keeps_its_row_and_says_why(tmp_path):
    known = of_guide(tmp_path, served(users=5), concurrency=5)
    unknown = of_guide(tmp_path, served(users=5), concurrency=5, endpoint={"image": "vllm:latest"})
    table = verdict.table([known, unknown])
    assert table["predicted tokens/s"].isna().tolist() == [False, True]
    assert table["output tokens/s"].notna().all()
    assert table["verdict"][1].startswith("no prediction: ")


# --- what cannot be held against anything


def test_an_endpoint_that_the_model_does_not_know_needs_times(tmp_path):
    run = of_guide(tmp_path, served(users=5), concurrency=5, endpoint={"image": "vllm:latest"})
    with pytest.raises(ResultsError, match="does not know the endpoint .* give its two times"):
        verdict.against(run)
    found = verdict.against(run, TIMING)
    assert found.cause == "as predicted" and found.floor is None


def test_several_instances_are_not_one(tmp_path):
    endpoint = GUIDE | {"instance_count": 2}
    run = of_guide(tmp_path, served(users=5), concurrency=5, endpoint=endpoint)
    with pytest.raises(ResultsError, match="had 2 instances and the model is of one"):
        verdict.against(run)


def test_a_run_whose_clock_stood_still_is_one_sentence(tmp_path):
    run = of_guide(tmp_path, served(users=5), concurrency=5)
    stopped = replace(run, config=run.config | {"clock_speed": 0})
    with pytest.raises(ResultsError, match="its clock_speed is 0"):
        verdict.against(stopped)


def test_a_run_without_figures_is_one_sentence(tmp_path):
    run = of_guide(tmp_path, [record()], concurrency=2)
    with pytest.raises(ResultsError, match="has no figures"):
        verdict.against(run)
    assert verdict.table([run])["verdict"][0].startswith("no prediction: ")


def test_a_run_in_which_everything_failed_is_no_prediction_come_true(tmp_path):
    failed = [
        record(n, user=n % 2, sent_s=float(n // 2), tokens=0, error="ModelError", phase=phase)
        for n in range(20)
        for phase in ["warmup" if n < 2 else "measured"]
    ]
    found = verdict.against(of_guide(tmp_path, failed, concurrency=2))
    assert found.cause == found.limit == "requests failed"


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(data=st.data())
def test_whatever_a_run_holds_it_gets_a_verdict_or_one_sentence(tmp_path, data):
    users = data.draw(st.integers(1, 6))
    times_s = st.floats(0, 50).map(lambda time_s: round(time_s, 3))
    kinds = st.sampled_from([None, None, None, "ModelError", "interrupted"])
    records = [
        replace(
            record(
                n,
                user=n % users,
                sent_s=data.draw(times_s),
                ttft_s=data.draw(times_s),
                gap_s=data.draw(st.sampled_from([0.0, 0.04, 3.0])),
                tokens=data.draw(st.integers(0, 30)),
                phase="warmup" if n < users else "measured",
                error=data.draw(kinds),
            ),
            part=data.draw(st.sampled_from([0, 0, 0, 1])),
        )
        for n in range(data.draw(st.integers(1, 20)))
    ]
    kind = data.draw(st.sampled_from(["closed_loop", "rounds", "arrivals"]))
    load = {"rate_per_s": 0.5} if kind == "arrivals" else {"concurrency": users, "kind": kind}
    run = of_guide(tmp_path, records, **load)
    (said,) = verdict.table([run])["verdict"]
    assert said
