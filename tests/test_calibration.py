"""The two times of an endpoint: from a published row, from one user, from many."""

import csv
import itertools
import math
from dataclasses import replace

import made_runs
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_runs import of_guide, served

from helpers import results, twin
from helpers.errors import WorkshopError
from helpers.settings import ROOT
from helpers.twin.search import search

TRUE = twin.Timing(4, 1.2, 0.0398)
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:"
ENDPOINT = {
    "image": IMAGE + "2.1.2-optimum0.0.22-neuronx-py310-ubuntu22.04",
    "env": {"HF_MODEL_ID": "meta-llama/Meta-Llama-3-70B-Instruct", "HF_BATCH_SIZE": "4"},
}
BS4 = "optimum-0.0.28-llama3-70b-inf2.48xlarge-bs4.csv"
LATENCY, THROUGHPUT = "average latency (ms)", "throughput (t/s)"
TTFT = "Time-to-first-token @ P50 (s)"
ROW = {"concurrent requests": 1, THROUGHPUT: 22.48, TTFT: 1.2, LATENCY: 43.7}


def table(name=BS4):
    return pd.read_csv(results.PUBLISHED / name)


@pytest.fixture
def measured(tmp_path):
    """A run of an endpoint with known times, as its client would have kept it."""

    def make(
        *,
        timing=TRUE,
        users=1,
        requests=20,
        kind="closed_loop",
        stddev=0,
        speed=1.0,
        jitter_s=0.0,
        endpoint=ENDPOINT,
        target="rehearsal",
        **config,
    ):
        lengths = twin.lengths(150, stddev)
        served = twin.simulate(
            timing,
            concurrency=users,
            requests=users + requests,
            output_tokens=lengths,
            load="rounds" if kind == "rounds" else "closed",
        )
        chance = np.random.default_rng(1)
        made = [
            made_runs.record(
                number,
                user=user,
                sent_s=one.sent_s / speed,
                ttft_s=(one.first_s - one.sent_s + jitter_s * chance.random()) / speed,
                gap_s=(one.last_s - one.first_s) / (one.tokens - 1) / speed,
                tokens=one.tokens,
                phase="warmup" if number < users else "measured",
            )
            for number, (one, user) in enumerate(zip(served, who(served, users), strict=True))
        ]
        made.sort(key=lambda record: record.ended_s)
        asked = {"concurrency": users, "requests": requests, "kind": kind, "speed": speed}
        found = made_runs.run(tmp_path, records=made, target=target, **asked, **config)
        config = found.config | {"endpoint": found.config["endpoint"] | endpoint}
        return replace(found, config=config)

    return make


def who(served, users):
    """The user of each request: whoever had the answer that let it be sent."""
    free = [(0.0, user) for user in range(users)]
    for one in served:
        ready_s, user = min(free, key=lambda user: abs(user[0] - one.sent_s))
        free.remove((ready_s, user))
        free.append((one.last_s, user))
        yield user


def near(found, timing=TRUE, rel=0.01):
    assert found.prefill_s == pytest.approx(timing.prefill_s, rel=rel)
    assert found.decode_step_s == pytest.approx(timing.decode_step_s, rel=rel)


# --- a published row


def test_the_prefill_of_a_published_row_is_its_time_to_first_token():
    assert twin.calibrate(table()).prefill_s == pytest.approx(1.2007, abs=1e-4)


def test_its_step_is_what_the_latency_leaves_and_the_throughput_bounds_it():
    found = twin.calibrate(table())
    assert found.decode_step_s == pytest.approx((250 * 0.043708 - 1.2007) / 249, abs=1e-6)
    low, high = found.decode_step_ci95_s
    assert low == found.decode_step_s
    assert high == pytest.approx((250 / 22.48466 - 1.2007) / 249, abs=1e-6)


def test_a_published_prefill_is_as_sure_as_those_that_were_published_twice():
    four, eight = (
        twin.calibrate(table(f"optimum-0.0.24-llama3-70b-trn1.32xlarge-bs{batch}.csv"))
        for batch in (4, 8)
    )
    low, high = four.prefill_ci95_s
    assert low < eight.prefill_s < high


def test_at_16_users_of_one_slot_the_published_rate_is_a_latency_of_one_user():
    name = "optimum-0.0.28-llama3-70b-inf2.48xlarge-bs1.csv"
    found, rows = twin.calibrate(table(name), batch_size=1), table(name)
    full = rows[rows["concurrent requests"] == 16].iloc[0]
    a_token_s = (found.prefill_s + 249 * found.decode_step_s) / 250
    assert full[THROUGHPUT] == pytest.approx(1 / a_token_s, rel=0.005)


def test_without_a_latency_the_throughput_gives_a_step_and_the_clients_pause_its_bound():
    row = {name: value for name, value in ROW.items() if name != LATENCY}
    found = twin.calibrate(row)
    assert found.decode_step_s == pytest.approx((250 / 22.48 - 1.2) / 249)
    low, high = found.decode_step_ci95_s
    assert high == found.decode_step_s
    assert low < (250 * 0.0437 - 1.2) / 249, "what the latency would have said lies in it"


def test_the_longest_pause_of_a_client_is_that_of_the_published_tables():
    from helpers.twin.calibration import CLIENT_PAUSE_S

    firsts = [pd.read_csv(file).iloc[0] for file in results.PUBLISHED.glob("optimum-*.csv")]
    pauses_s = [250 / row[THROUGHPUT] - 250 * row[LATENCY] / 1000 for row in firsts]
    assert len(pauses_s) == 9 and min(pauses_s) > 0.15
    assert max(pauses_s) == pytest.approx(CLIENT_PAUSE_S, abs=0.02)


@pytest.mark.parametrize("empty", [None, "", math.nan, pd.NA])
def test_an_empty_source_is_no_source(empty):
    assert "published: a table, 1 user" in twin.calibrate(ROW | {"source": empty}).source
    named = twin.calibrate(ROW | {"source": empty, "model_id": "llama"})
    assert "published: llama, 1 user" in named.source


def test_how_many_tokens_an_answer_has_can_be_said():
    found = twin.calibrate(ROW, output_tokens=100)
    assert found.decode_step_s == pytest.approx((100 * 0.0437 - 1.2) / 99)
    assert found.output_tokens == 100 and "assumed" not in found.source


def test_a_row_may_come_from_a_csv_reader_a_series_or_a_table():
    with open(results.PUBLISHED / BS4, newline="") as lines:
        text = next(csv.DictReader(lines))
    expected = twin.calibrate(table())
    assert twin.calibrate(text) == twin.calibrate(table().iloc[0]) == expected
    assert twin.calibrate([text]) == expected


def test_rows_of_results_published_calibrate_as_well():
    rows = results.published()
    ours = rows[(rows["batch size"] == 4) & (rows["users"] == 1)].iloc[0]
    found = twin.calibrate(ours)
    assert (found.slots, found.output_tokens) == (4, 250)
    assert found.decode_step_s == pytest.approx(0.0398, abs=5e-5)
    aws = rows[rows["TPOT p50 (ms)"].notna()].iloc[0]
    assert twin.calibrate(aws).decode_step_s == pytest.approx(aws["TPOT p50 (ms)"] / 1000)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (ROW | {"concurrent requests": 8}, "8 users"),
        ({}, "no figure under 'concurrent requests'"),
        ({name: ROW[name] for name in ROW if name != TTFT}, "no figure under 'Time-to-first"),
        ({"users": 1, TTFT: 1.2}, "no figure under 'average latency"),
        (ROW | {TTFT: float("nan")}, "no figure"),
        (ROW | {TTFT: -1.2}, "above 0, not -1.2"),
        (ROW | {TTFT: "soon"}, "above 0, not 'soon'"),
        (ROW | {LATENCY: math.inf}, "above 0, not inf"),
        (ROW | {TTFT: True}, "above 0, not True"),
        (ROW | {TTFT: 30.0}, "nothing is left for decode steps"),
        (ROW | {"output tokens": 1}, "row with 1 output tokens has no decode step"),
        (ROW | {LATENCY: 1e308}, "too large for any endpoint"),
        (ROW | {THROUGHPUT: 500}, "throughput leaves no time .*: give figures of one measurement"),
        (ROW | {"batch size": 2.5}, "batch size is a whole number"),
    ],
)
def test_a_row_that_says_too_little_is_refused_in_one_sentence(row, words):
    with pytest.raises(WorkshopError, match=words) as refused:
        twin.calibrate(row)
    assert "\n" not in str(refused.value)


def test_a_table_without_one_row_of_one_user_is_refused():
    with pytest.raises(WorkshopError, match="no rows with 1 user"):
        twin.calibrate(table().iloc[1:])
    with pytest.raises(WorkshopError, match="rows with 1 user: give the one"):
        twin.calibrate(results.published())


@pytest.mark.parametrize(
    "nothing",
    [
        *(None, 3, "results", [], [1, 2], {"a"}),
        *(np.array(4), np.array([]), np.array([[1, 2], [3, 4]]), pd.Index([1]), pd.NA),
    ],
    ids=repr,
)
def test_what_is_neither_run_nor_row_is_refused(nothing):
    with pytest.raises(WorkshopError, match=f"Calibrate by runs.* by {type(nothing).__name__}"):
        twin.calibrate(nothing)


def test_what_is_refused_is_said_in_one_line_however_many_it_has():
    with pytest.raises(WorkshopError, match=r"2 or more, not array\(.*\): the first"):
        twin.calibrate(ROW, output_tokens=np.eye(3))
    with pytest.raises(WorkshopError, match=r"a number above 0, not array\(.*\)\.$"):
        twin.calibrate(ROW | {"concurrent requests": np.eye(3)})


figure = st.one_of(st.none(), st.text(max_size=5), st.floats(), st.integers(), st.booleans())


@given(
    st.dictionaries(
        st.sampled_from([*ROW, "users", "output tokens", "TPOT p50 (ms)", "batch size"]), figure
    )
)
def test_any_row_gives_times_or_one_sentence(row):
    try:
        found = twin.calibrate(row)
    except WorkshopError as refused:
        assert "\n" not in str(refused)
        return
    timing = found.timing(found.slots or 4)
    assert timing.prefill_s > 0 and timing.decode_step_s > 0


# --- a run with one user


def test_one_user_gives_the_two_times_without_the_warm_up(measured):
    near(twin.calibrate(measured(jitter_s=0.02)))


def test_times_are_aws_seconds_however_fast_the_clock_was(measured):
    near(twin.calibrate(measured(speed=60.0)))


def test_the_interval_of_one_user_is_that_of_the_summary(measured):
    run = measured(requests=40, jitter_s=0.1)
    found = twin.calibrate(run)
    assert found.prefill_ci95_s == tuple(run.summary["window"]["ttft_s"]["ci95"]["p50"])
    low, high = found.prefill_ci95_s
    assert 1.2 < low < found.prefill_s < high < 1.3


def test_below_it_reaches_as_far_as_the_client_itself_may_have_been_late(measured):
    run = measured(requests=40, speed=60.0)
    late = {"loop_lag_p99_s": 0.002, "round_trip_s": 0.0005}
    low, _ = twin.calibrate(run).prefill_ci95_s
    made_late = replace(run, summary=run.summary | {"clients": [late]})
    assert twin.calibrate(made_late).prefill_ci95_s[0] == pytest.approx(low - 60 * 0.0025)


def test_a_step_of_one_user_is_no_surer_than_its_client_was_in_time(measured):
    run = measured(requests=40, speed=60.0)
    late = {"loop_lag_p99_s": 0.002, "round_trip_s": 0.0005}
    found = twin.calibrate(replace(run, summary=run.summary | {"clients": [late]}))
    low, high = found.decode_step_ci95_s
    assert (high - low) / 2 == pytest.approx(60 * 0.0025 / 149, rel=0.01)


def test_too_few_requests_give_times_without_an_interval(measured):
    found = twin.calibrate(measured(requests=3))
    near(found)
    assert found.prefill_ci95_s is None and found.decode_step_ci95_s is None
    assert "to" not in repr(found).split(";")[0]


def test_the_slots_are_those_of_the_endpoints_environment(measured):
    known = twin.calibrate(measured())
    assert known.timing() == known.timing(4)
    unknown = twin.calibrate(measured(endpoint={"image": "vllm/vllm-openai:latest"}))
    assert unknown.slots is None and unknown.timing(8).slots == 8
    with pytest.raises(WorkshopError, match="say it, as in timing"):
        unknown.timing()
    with pytest.raises(WorkshopError, match="whole number of 1 or more, not 0"):
        unknown.timing(0)


def test_another_batch_size_has_other_times(measured):
    with pytest.raises(WorkshopError, match="times of batch 4"):
        twin.calibrate(measured()).timing(8)


def test_what_is_simulated_says_so_in_every_form(measured):
    found = twin.calibrate(measured())
    assert "rehearsal" in found.source and "rehearsal" in repr(found)
    assert "rehearsal" in found.timing().source
    real = twin.calibrate(measured(target="aws"))
    assert real.source.startswith("measured") and "rehearsal" not in real.source
    assert twin.calibrate(table()).source.startswith("published")


def test_it_reads_in_one_line(measured):
    line = repr(twin.calibrate(measured()))
    assert line.startswith("Calibration(batch 4, prefill 1.2 s (1.2 to 1.2), decode step 39.8 ms")
    assert "\n" not in line


def test_a_run_that_failed_its_audit_is_used_and_says_so(measured):
    run = measured()
    failed = replace(run, summary=run.summary | {"audit": {"valid": False, "checks": []}})
    assert "audit FAILED" in twin.calibrate(failed).source
    assert "audit FAILED" not in twin.calibrate(run).source


# --- runs with several users


@pytest.mark.parametrize(
    ("users", "kind", "stddev"),
    [(4, "closed_loop", 0), (5, "closed_loop", 30), (16, "closed_loop", 30), (8, "rounds", 30)],
)
def test_several_users_give_the_two_times_as_well(measured, users, kind, stddev):
    run = measured(users=users, requests=8 * users, kind=kind, stddev=stddev, speed=60.0)
    found = twin.calibrate(run)
    near(found, rel=0.02)
    (low_s, high_s), steps_s = found.prefill_ci95_s, found.decode_step_ci95_s
    assert low_s <= 1.2 * 1.001 and high_s >= 1.2 * 0.999
    assert steps_s[0] <= 0.0398 * 1.001 and steps_s[1] >= 0.0398 * 0.999


def test_other_times_than_the_published_are_found_too(measured):
    slow = twin.Timing(4, 2.5, 0.09)
    near(twin.calibrate(measured(timing=slow, users=5, requests=40)), slow, rel=0.02)


def test_several_runs_are_narrower_than_each_of_them(measured):
    few, many = measured(users=2, requests=20), measured(users=8, requests=64, stddev=30)
    together = twin.calibrate([few, many])
    near(together, rel=0.02)
    assert "users 2, 8" in together.source

    def width(found):
        return found.prefill_ci95_s[1] - found.prefill_ci95_s[0]

    assert width(together) <= width(twin.calibrate(many))


def test_the_committed_rehearsal_gives_back_the_times_it_was_made_with():
    run = results.load(ROOT / "results" / "samples" / "rehearsal-llama-3-70b-5-users")
    found = twin.calibrate(run)
    near(found, rel=0.03)
    assert found.slots == 4 and "rehearsal" in found.source


def test_runs_that_the_model_cannot_both_have_say_so(measured):
    one = measured(users=4, requests=32)
    other = measured(timing=twin.Timing(4, 1.34, 0.0446), users=4, requests=32)
    found = twin.calibrate([one, other])
    assert "more than their own uncertainty" in found.source
    low, high = found.prefill_ci95_s
    assert low <= found.prefill_s <= high


@pytest.mark.parametrize(
    "make",
    [
        lambda measured: [
            measured(),
            measured(timing=twin.Timing(4, 3.0, 0.1), users=5, requests=40),
        ],
        lambda measured: measured(timing=replace(TRUE, slots=8), users=8, requests=64, stddev=30),
        lambda measured: asked_for(50, measured(kind="rounds", users=5, requests=60, stddev=30)),
    ],
    ids=["two endpoints", "eight slots and not four", "rounds of 50 in run.json and of 5 in truth"],
)
def test_what_the_model_is_far_off_is_refused_and_says_by_which_figure(measured, make):
    with pytest.raises(
        WorkshopError, match=r"(p50|output) of .* \d+ % off where 10 % is the most"
    ) as off:
        twin.calibrate(make(measured))
    assert "calibrate by runs of one endpoint that really has 4 slots" in str(off.value)
    assert "\n" not in str(off.value)


def asked_for(users, run):
    load = run.config["load"] | {"concurrency": users}
    return replace(run, config=run.config | {"load": load})


def test_an_interval_that_ends_with_the_search_says_so(measured):
    found = twin.calibrate(measured(users=4, requests=32))
    assert found.prefill_ci95_s[1] == pytest.approx(1.03 * 1.2)
    assert "the prefill's interval ends with the fastest first token" in found.source


@pytest.mark.parametrize(
    ("users", "kind"), [(4, "closed_loop"), (5, "rounds"), (16, "closed_loop")]
)
def test_searched_times_are_never_surer_than_figures_repeat(measured, users, kind):
    found = twin.calibrate(measured(users=users, requests=8 * users, kind=kind, stddev=30))
    low, high = found.decode_step_ci95_s
    assert low <= 0.975 * found.decode_step_s and high >= 1.02 * found.decode_step_s


def test_several_instances_are_refused(measured):
    run = measured(users=8, requests=40, endpoint=ENDPOINT | {"instance_count": 2})
    with pytest.raises(WorkshopError, match="had 2 instances and the model is of one"):
        twin.calibrate(run)


@pytest.mark.parametrize("users", [1, 5])
def test_a_batch_size_against_the_runs_own_configuration_is_refused(measured, users):
    run = measured(users=users)
    assert twin.calibrate(run, batch_size=4).slots == 4
    with pytest.raises(WorkshopError, match="is of batch 4, not 8, .*: leave the batch size out"):
        twin.calibrate(run, batch_size=8)


def test_a_batch_size_against_the_rows_own_is_refused():
    with pytest.raises(WorkshopError, match="a table is of batch 4, not 8"):
        twin.calibrate(ROW | {"batch size": 4}, batch_size=8)


@pytest.mark.parametrize(("users", "strangers"), [(1, 2), (1, 3), (5, 4)])
def test_a_run_with_strangers_on_its_endpoint_is_refused(tmp_path, users, strangers):
    lengths = list(itertools.islice(twin.lengths(150, 40, seed=1), 60))
    records = served(TRUE, users=users, strangers=strangers, requests=40, tokens=lengths)
    run = of_guide(tmp_path, records, concurrency=users, target="aws")
    with pytest.raises(
        WorkshopError, match=r"\d+ % of the replies' time are pauses .* someone else"
    ):
        twin.calibrate(run)


def test_one_user_who_waits_was_not_alone(tmp_path):
    records = served(TRUE, users=1, strangers=4, requests=40)
    run = of_guide(tmp_path, records, concurrency=1, target="aws")
    with pytest.raises(WorkshopError, match="one user is 4.8 s where a first token came in 1.2 s"):
        twin.calibrate(run)


def test_a_rehearsal_whose_replies_paused_says_so(tmp_path):
    records = served(TRUE, users=1, strangers=2, requests=40)
    found = twin.calibrate(of_guide(tmp_path, records, concurrency=1))
    assert "of the replies' time are pauses for no prefill of its own" in found.source


def test_negative_output_tokens_are_refused(measured):
    run = measured(users=5)
    made = [replace(one, output_tokens=-5) for one in run.records]
    with pytest.raises(WorkshopError, match="-5 output tokens"):
        twin.calibrate(replace(run, records=made))


def test_several_users_need_a_batch_size(measured):
    run = measured(users=5, requests=20, endpoint={"image": None})
    with pytest.raises(WorkshopError, match="batch_size=4"):
        twin.calibrate(run)
    near(twin.calibrate(run, batch_size=4), rel=0.02)


@pytest.mark.parametrize("size", [0, -4, 2.5, True, "four", float("nan")])
def test_a_batch_size_that_is_none_is_refused(measured, size):
    with pytest.raises(WorkshopError, match="batch size is a whole number"):
        twin.calibrate(ROW, batch_size=size)


def test_runs_that_do_not_go_together_are_refused(measured):
    eight = ENDPOINT | {"env": ENDPOINT["env"] | {"HF_BATCH_SIZE": "8"}}
    with pytest.raises(WorkshopError, match="batch sizes 4 and 8"):
        twin.calibrate([measured(), measured(endpoint=eight)])
    with pytest.raises(WorkshopError, match="some were measured"):
        twin.calibrate([measured(), measured(target="aws")])


def test_a_run_without_requests_is_refused(tmp_path):
    empty = made_runs.run(tmp_path, records=[], concurrency=1)
    with pytest.raises(WorkshopError, match="no two complete requests"):
        twin.calibrate(empty)


def test_an_answer_in_one_piece_tells_no_step(measured):
    run = measured()
    made = [replace(one, last_s=one.first_s, chunk_s=(one.first_s,)) for one in run.records]
    summary = results.summary(made, run.config)
    with pytest.raises(WorkshopError, match="no two complete requests"):
        twin.calibrate(replace(run, records=made, summary=summary))


def test_users_who_never_were_at_work_together_are_refused(measured):
    run = measured(users=4, requests=8)
    failed = made_runs.record(error="ModelError").error
    kept = [one if one.phase == "warmup" else replace(one, error=failed) for one in run.records]
    with pytest.raises(WorkshopError, match="ended while all users were at work"):
        twin.calibrate(replace(run, records=kept))


def test_arrivals_are_refused(tmp_path):
    run = made_runs.run(tmp_path, records=made_runs.arrivals([0.0, 1.0, 2.0]), rate_per_s=1.0)
    with pytest.raises(WorkshopError, match="arrivals"):
        twin.calibrate(run)


def test_users_who_think_and_runs_that_were_resumed_are_refused(measured):
    run = measured(users=5, requests=20)
    load = run.config["load"] | {"think_s": 3.0}
    with pytest.raises(WorkshopError, match="think"):
        twin.calibrate(replace(run, config=run.config | {"load": load}))
    resumed = [*run.records[:-1], replace(run.records[-1], part=1)]
    with pytest.raises(WorkshopError, match="resumed"):
        twin.calibrate(replace(run, records=resumed))


# --- the search


def area(prefill_s, decode_step_s):
    return {"sum": prefill_s + 100 * decode_step_s, "ratio": prefill_s / decode_step_s}


def looked_for(within=0.1, **wanted):
    return search(area, wanted, prefill_s=(0.1, 10.0), decode_step_s=(0.001, 1.0), within=within)


def test_the_search_finds_the_only_two_times_that_fit():
    found = looked_for(**area(1.5, 0.05))
    assert (found.prefill_s, found.decode_step_s) == pytest.approx((1.5, 0.05), rel=1e-3)
    assert found.worst < 1e-3


def test_its_region_is_where_every_figure_is_near_enough():
    found = looked_for(within=0.1, **area(1.5, 0.05))
    for place, edge_s in enumerate(found.prefill_region_s):
        beyond_s = edge_s * (0.99, 1.01)[place]
        steps_s = np.geomspace(*found.decode_step_region_s, 200)
        assert any(found.holds(edge_s, step_s) for step_s in np.geomspace(0.03, 0.08, 4000))
        assert not any(found.holds(beyond_s, step_s) for step_s in steps_s)
    points = found.points(30)
    assert points and all(found.holds(*point) for point in points)


def test_each_figure_may_have_a_tolerance_of_its_own():
    wide = looked_for(within={"sum": 0.5, "ratio": 0.01}, **area(1.5, 0.05))
    narrow = looked_for(within={"sum": 0.01, "ratio": 0.01}, **area(1.5, 0.05))
    assert wide.prefill_region_s[1] > 1.4 * narrow.prefill_region_s[1]


def test_where_nothing_fits_there_is_a_best_point_and_no_region():
    contradiction = {"sum": 1.0, "ratio": 1e6}
    found = looked_for(within=0.1, **contradiction)
    assert found.worst > 0.1 and found.prefill_region_s is None and found.points() == []


@pytest.mark.parametrize(
    "wrong", [{"wanted": {}}, {"wanted": {"sum": -1}}, {"within": 0}, {"prefill_s": (2, 1)}]
)
def test_a_search_for_nothing_is_refused(wrong):
    asked = {"wanted": {"sum": 1.0}, "prefill_s": (1, 2), "decode_step_s": (0.1, 1)} | wrong
    with pytest.raises(ValueError, match="above 0|between"):
        search(area, asked.pop("wanted"), **asked)
