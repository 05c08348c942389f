"""How `make accuracy` judges what a client says, and one short run of it."""

import random
from dataclasses import replace
from statistics import mean, stdev

import accuracy
import made_runs
import pytest
from accuracy import Figure, judge, judge_llmeter

from helpers.rehearsal.container import cuts

ASKED = {"kind": "closed_loop", "concurrency": 4, "requests": 20, "warmup": 4}
LATE = "TTFT error (ms)"
LOST = "requests lost, misjudged"
CPU = "CPU (ms / 1,000 tokens)"


@pytest.fixture
def records():
    return made_runs.steady(users=4, each=5)


def truths(records, *, early_s=0.0001):
    """What a server writes whose every token is seen so much later."""
    return {one.inference_id: true(one, early_s=early_s) for one in records}


def true(record, *, early_s=0.0001, outcome="complete"):
    return {
        "inference_id": record.inference_id,
        "arrival_s": record.sent_s + 0.001,
        "first_s": record.first_s - early_s,
        "last_s": record.last_s - early_s,
        "token_us": [round((stamp - record.first_s) * 1e6) for stamp in record.chunk_s],
        "tokens": len(record.chunk_s),
        "outcome": outcome,
    }


def judged(records, truth, *, users=4, cpu_s=0.001, **options):
    asked = ASKED | {"concurrency": users}
    return judge(records, truth, asked=asked, cpu_s=cpu_s, **options)


def missed(figures):
    return {name for name, figure in figures.items() if not figure.is_held}


def test_a_client_that_is_right_holds_every_goal(records):
    found = judged(records, truths(records))
    assert not missed(found)
    assert found["requests, failed"].values == (24, 0)
    assert found["throughput error (%)"].values[0] < 0.1


@pytest.mark.parametrize(
    ("users", "late_ms", "is_held"), [(1, 3, False), (64, 1, True), (256, 4, True), (256, 6, False)]
)
def test_a_client_that_is_late_is_told_so(records, users, late_ms, is_held):
    found = judged(records, truths(records, early_s=late_ms / 1000), users=users)[LATE]
    assert found.values == pytest.approx((late_ms, late_ms))
    assert found.is_held == is_held


def test_one_late_request_in_ten_is_in_the_99th_percentile(records):
    truth = truths(records)
    for one in records[:2]:
        truth[one.inference_id] = true(one, early_s=0.02)
    assert judged(records, truth, users=256)[LATE].values == pytest.approx((0.1, 20), rel=0.01)


def test_a_client_that_sees_a_token_before_it_is_sent_errs_as_well(records):
    assert judged(records, truths(records, early_s=-0.02), users=64)[LATE].values[0] > 19


def test_what_is_lost_is_told_whoever_lost_it(records):
    truth = truths(records)
    assert judged(records[1:], truth)[LOST].values == (1, 0)
    del truth[records[3].inference_id]
    assert judged(records, truth)[LOST].values == (1, 0)
    assert missed(judged(records, truth)) == {LOST}


def test_a_client_must_know_which_requests_failed(records):
    truth = truths(records)
    truth[records[7].inference_id] = true(records[7], outcome="broken-stream")
    assert judged(records, truth)[LOST].values == (0, 1)
    records[7] = replace(records[7], error=made_runs.record(error="StreamBroken").error)
    found = judged(records, truth)
    assert found["requests, failed"].values == (24, 1)
    assert not missed(found)


def test_a_refused_request_has_no_times_and_spoils_none(records):
    refused = made_runs.record(99, tokens=0, error="ModelError", user=1, sent_s=records[4].sent_s)
    nothing = {"first_s": None, "last_s": 100.0, "token_us": None, "tokens": 0}
    truth = truths(records)
    truth["id-99"] = {"arrival_s": refused.sent_s, "outcome": "model-error", **nothing}
    found = judged([*records[:-1], refused], truth)
    assert found["requests, failed"].values == (24, 1)
    assert not missed(found)


def test_a_wrong_count_is_told_and_makes_cost_and_throughput_wrong(records):
    doubled = [replace(one, output_tokens=2 * one.output_tokens) for one in records]
    found = judged(doubled, truths(records))
    assert found["tokens wrong (requests)"].values == (24,)
    assert found["cost error (%)"].values[0] == pytest.approx(50)
    assert found["throughput error (%)"].values[0] == pytest.approx(100, abs=1)
    assert {"tokens wrong (requests)", "cost error (%)", "throughput error (%)"} <= missed(found)


def test_a_pace_that_is_one_percent_off_is_told(records):
    truth = truths(records)
    for each in truth.values():
        each["last_s"] = each["first_s"] + (each["last_s"] - each["first_s"]) / 1.01
    found = judged(records, truth)
    assert found["TPOT error (%)"].values == pytest.approx((1,))
    assert missed(found) == {"TPOT error (%)"}


def test_every_token_has_its_error(records):
    truth = truths(records, early_s=0.0)
    for each in truth.values():
        each["token_us"] = [at_us - 2000 * (at_us > 0) for at_us in each["token_us"]]
    found = judged(records, truth)
    assert found[LATE].values == pytest.approx((0, 0), abs=1e-3)
    assert found["token error (ms)"].values == pytest.approx((2, 2), abs=1e-3)


@pytest.mark.parametrize(
    ("users", "options", "cpu_us", "is_held"),
    [
        (64, {}, 29, True),
        (64, {}, 31, False),
        (256, {"tls": True}, 59, True),
        (256, {"tls": True}, 61, False),
        (16, {}, 500, True),
    ],
)
def test_cpu_is_judged_from_64_streams_on(records, users, options, cpu_us, is_held):
    tokens = sum(one.output_tokens for one in records)
    found = judged(records, truths(records), users=users, cpu_s=cpu_us * tokens / 1e6, **options)
    assert found[CPU].values == pytest.approx((cpu_us,))
    assert found[CPU].is_held == is_held


def test_a_client_that_says_nothing_holds_nothing(records):
    found = judged([], truths(records))
    assert missed(found) == {LOST} | {
        "TPOT error (%)",
        "throughput error (%)",
        "cost error (%)",
    }
    assert "inf" in str(found[LATE])
    assert LATE in missed(judged([], truths(records), users=64))


# --- LLMeter


def told(record, **more):
    tpot_s = (record.last_s - record.first_s) / (record.output_tokens - 1)
    said = {"inference_id": record.inference_id, "ttft_s": record.first_s - record.sent_s}
    return {**said, "tpot_s": tpot_s, "output_tokens": 11, "error": None, **more}


def test_llmeter_is_held_against_the_same_durations_and_never_judged(records):
    said = [told(one) for one in records[1:]]
    said[4]["output_tokens"] = 12
    found = judge_llmeter(said, truths(records, early_s=0.004), asked=24, cpu_s=0.011)
    assert found["requests, failed"].values == (23, 0)
    assert found[LOST].values == (1, 0)
    assert found["… as a duration (ms)"].values == pytest.approx((5, 5))
    assert found["… of single requests (%)"].values == pytest.approx((0, 0), abs=1e-3)
    assert found["tokens wrong (requests)"].values == (1,)
    assert found[CPU].values[0] == pytest.approx(1e6 * 0.011 / (23 * 11 + 1))
    assert not any(figure.goals for figure in found.values())


# --- what is printed and asked


def test_a_table_has_every_figure_with_its_goal_and_llmeters_beneath(records):
    ours = {4: judged(records, truths(records)), 64: judged(records, truths(records), users=64)}
    theirs = judge_llmeter([told(one) for one in records], truths(records), asked=24, cpu_s=1.0)
    table = accuracy.Table("whole streams", ours, {64: theirs})
    lines = str(table).splitlines()
    assert lines[1].split() == ["4", "streams", "64", "streams"]
    at = next(number for number, line in enumerate(lines) if LATE in line)
    assert lines[at].endswith("0.1 / 0.1 ≤ 2 / 10 held")
    at = next(number for number, line in enumerate(lines) if CPU in line)
    assert lines[at + 1].split()[0] == "LLMeter"
    assert len(table.figures) == 5 + 7


def test_a_goal_that_is_missed_says_so():
    assert str(Figure((3.0, 4.0), (2, 5))) == "3 / 4 ≤ 2 / 5 MISSED"
    assert str(Figure((0.1234,), (0.5,))) == "0.123 ≤ 0.5 held"
    assert str(Figure((215.4, 2370.0))) == "215 / 2370"


def test_lengths_are_the_same_for_everybody_and_spread_as_asked():
    assert accuracy.lengths(64) == accuracy.lengths(1024)[:64]
    many = accuracy.lengths(1024)
    assert mean(many) == pytest.approx(100, abs=2)
    assert stdev(many) == pytest.approx(30, abs=2)
    assert min(many) >= 10


def test_every_line_can_be_cut_in_two(monkeypatch):
    accuracy.cut_every_line(monkeypatch.setattr)
    writes = []
    policy = cuts.policy("sometimes")(writes.append, random.Random(0))
    for _ in range(50):
        policy.send(b"data: a line\n\n")
    policy.burst([b"data: the last\n\n"])
    assert [data.count(b"PayloadPart") for data in writes] == [2] * 51


def test_an_unknown_scenario_is_refused(capsys):
    with pytest.raises(SystemExit):
        accuracy.main(["--only", "plan"])
    assert "choose among" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="Only `plain` is measured with 1 and 16 streams"):
        accuracy.main(["--only", "tls", "--streams", "1", "--without-llmeter"])


# --- for real


def test_a_short_run_is_right(tmp_path):
    with accuracy.serving("plain", tmp_path) as server:
        run = accuracy.run_ours(server, users=8, lengths=[6] * 24)
        truth = server.truth([one.inference_id for one in run.records])
    asked, (client,) = run.config["load"], run.summary["clients"]
    found = judge(run.records, truth, asked=asked, cpu_s=client["cpu_s"])
    exact = {LOST, "tokens wrong (requests)", "cost error (%)"}
    assert not missed(found) & exact
    assert found["requests, failed"].values == (24, 0)
    assert found["token error (ms)"].values[0] < 50
    assert all(one.first_s > truth[one.inference_id]["first_s"] for one in run.records)
