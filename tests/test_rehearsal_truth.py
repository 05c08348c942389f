"""The record of requests: what is in it, and that it is there in time."""

import asyncio
import itertools
import json
import time
from collections import UserDict

import pytest
from invoking import (
    DEPLOYMENTS,
    MODEL,
    Arrivals,
    Local,
    asked,
    deployment,
    in_virtual_time,
    invoke,
    parts,
    read,
    request,
    stream,
)

from helpers.clock import Clock
from helpers.errors import RehearsalError
from helpers.rehearsal.container import cuts, runtime, text
from helpers.rehearsal.container.runtime import Runtime
from helpers.rehearsal.container.truth import FLUSH_S, Truth
from helpers.rehearsal.faults import Faults


class Kept:
    """In place of a file."""

    def __init__(self):
        self.records = []

    def write(self, record):
        self.records.append(record)


def recorded(*requests, deployed="llama", wanted=None, speed=1):
    """The records of requests that arrive at the same moment, in virtual time."""
    kept, active = Kept(), Faults()
    active.put(wanted or {})

    async def main():
        runtime = Runtime(Clock(speed), truth=kept, faults=active)
        await asyncio.gather(
            *(runtime.invoke(DEPLOYMENTS[deployed], each, Arrivals()) for each in requests)
        )

    in_virtual_time(main)
    return kept.records


def test_a_record_has_the_request_its_times_and_what_the_twin_wanted():
    (record,) = recorded(request(output_tokens=50), speed=10)
    times = {name: record.pop(name) for name in list(record) if name.endswith("_s")}
    assert record == {
        "inference_id": None,
        "endpoint": "llama",
        "variant": "AllTraffic",
        "replica": 0,
        "dialect": "tgi-2.0.2",
        "stream": True,
        "token_us": [3980 * number for number in range(50)],
        "late_max_ms": 0,
        "tokens": 50,
        "prompt_tokens": 15,
        "finish": "length",
        "outcome": "complete",
        "faults": [],
    }
    first_s, last_s = 0.12, (1.2 + 49 * 0.0398) / 10
    assert times == pytest.approx(
        {
            "arrival_s": 0,
            "first_s": first_s,
            "due_first_s": first_s,
            "last_s": last_s,
            "due_last_s": last_s,
        }
    )


def test_a_whole_answer_has_its_first_and_last_token_at_once():
    (record,) = recorded(request(route="invocations", stream=False))
    assert record["stream"] is False
    assert record["first_s"] == record["last_s"] == pytest.approx(1.2 + 19 * 0.0398)
    assert record["due_first_s"] == record["due_last_s"] == pytest.approx(record["last_s"])
    assert record["token_us"] is None


# --- the time of every token


@pytest.mark.parametrize("deployed", ["llama", "raw", "tgi211", "tgi3", "vllm"])
def test_every_token_of_every_dialect_has_its_time_and_nothing_else_has(deployed):
    more = {"model": MODEL, "stream_options": {"include_usage": True}}
    if deployed == "raw":
        more = {"inputs": "What is a rehearsal?", "parameters": {"max_new_tokens": 30}}
    (record,) = recorded(request(output_tokens=30, **more), deployed=deployed)
    assert record["tokens"] == len(record["token_us"]) == 30
    steps = {b - a for a, b in itertools.pairwise(record["token_us"])}
    assert max(steps) - min(steps) <= 1, "a role, usage or [DONE] would be at no step's time"
    assert record["first_s"] + record["token_us"][-1] / 1e6 == pytest.approx(record["last_s"])


def test_the_end_of_turn_is_a_token(monkeypatch):
    monkeypatch.setattr(text, "NATURAL_END", (8, 8))
    (record,) = recorded(request(output_tokens=30))
    assert (record["finish"], record["tokens"], len(record["token_us"])) == ("eos", 8, 8)


@pytest.mark.parametrize("cut", cuts.POLICIES)
def test_a_token_whose_line_is_cut_is_sent_when_its_last_byte_is(cut):
    """All parts of a line leave in one write, so its last byte is sent when its first is."""
    kept = Kept()

    async def main():
        arrivals = Arrivals()
        runtime = Runtime(Clock(1), truth=kept, cut=cut)
        await runtime.invoke(DEPLOYMENTS["llama"], request(output_tokens=40), arrivals)
        return arrivals

    arrivals = in_virtual_time(main)
    (record,) = kept.records
    sent_s = [record["first_s"] + at_us / 1e6 for at_us in record["token_us"]]
    assert sent_s == pytest.approx(arrivals.times_s, abs=1e-6), "a write a token, then the end"


@pytest.mark.parametrize("name", ["broken-stream", "connection-reset"])
def test_a_token_that_a_fault_swallowed_has_no_time(name):
    (record,) = recorded(request(), wanted={name: {"tokens": 7}})
    assert (record["tokens"], len(record["token_us"])) == (8, 7)
    (record,) = recorded(request(), wanted={name: {"tokens": 0}})
    assert (record["first_s"], record["token_us"]) == (None, [])
    (record,) = recorded(request(), wanted={name: {"tokens": 100}})
    assert (record["tokens"], len(record["token_us"])) == (20, 19)


@pytest.mark.parametrize("name", ["garbage", "corrupt-frame"])
@pytest.mark.parametrize("tokens", [7, 100])
def test_what_a_fault_adds_or_spoils_changes_no_count(name, tokens):
    (record,) = recorded(request(), wanted={name: {"tokens": tokens}})
    assert (record["tokens"], len(record["token_us"])) == (20, 20)


def test_a_keep_alive_is_no_token():
    (record,) = recorded(request(), wanted={"stall": {"tokens": 5, "seconds": 40}})
    assert len(record["token_us"]) == 20
    assert record["token_us"][5] - record["token_us"][4] == pytest.approx(40e6, abs=1e5)


def test_a_slow_network_delays_the_times_as_it_delays_the_tokens():
    (record,) = recorded(request(), wanted={"slow-network": {"latency_ms": 300, "jitter_ms": 0}})
    assert record["first_s"] - record["due_first_s"] == pytest.approx(0.3)
    assert record["last_s"] - record["due_last_s"] == pytest.approx(0.3)


def test_nothing_stands_in_a_tokens_way_when_nobody_records(monkeypatch):
    monkeypatch.setattr(runtime, "Noted", None)  # whoever made one would fail

    async def main():
        arrivals = Arrivals()
        await Runtime(Clock(1)).invoke(DEPLOYMENTS["llama"], request(), arrivals)
        return arrivals

    assert len(in_virtual_time(main).writes) == 20


# --- how requests end


def test_tokens_of_every_stream_add_up():
    records = recorded(*(request(n, output_tokens=10 + n) for n in range(6)))
    assert sorted(record["tokens"] for record in records) == [10, 11, 12, 13, 14, 15]
    assert all(record["due_first_s"] < record["due_last_s"] for record in records)


@pytest.mark.parametrize(
    ("options", "wanted", "outcome", "tokens"),
    [
        ({"top_p": 1.0}, {}, "refused", 0),
        ({"max_tokens": "x"}, {}, "refused", 0),
        ({"route": "invocations"}, {"stall": {"seconds": 90}}, "timeout", 20),
        ({}, {"broken-stream": True}, "broken-stream", 11),
        ({}, {"connection-reset": True}, "connection-reset", 11),
        ({}, {"model-error": {"every": 1}}, "model-error", 0),
        ({}, {"garbage": True}, "complete", 20),
    ],
)
def test_a_record_says_how_the_request_ended(options, wanted, outcome, tokens):
    if "stall" in wanted:
        options = {**options, "stream": False}
    (record,) = recorded(request(**options), wanted=wanted)
    assert (record["outcome"], record["tokens"]) == (outcome, tokens)
    assert record["faults"] == list(wanted)
    assert record["last_s"] is not None
    assert (record["finish"] is None) == (outcome != "complete")


def test_a_record_is_in_the_file_within_a_second_and_has_no_text(tmp_path):
    path = tmp_path / "a folder" / "truth.jsonl"
    with Local(speed=2000, truth=Truth(path)) as local:
        client = local.client()
        before_s = time.monotonic()
        parts(client, "vllm", asked(model=MODEL, stream=True), InferenceId="run-7")
        invoke(client, "llama", asked(), InferenceId="run-8")
        after_s = time.monotonic()
        time.sleep(1)
        records = [json.loads(line) for line in path.read_text().splitlines()]
        client.close()
        local.call(local.options["truth"].close)
    assert [record["inference_id"] for record in records] == ["run-7", "run-8"]
    for record in records:
        assert record["target"] == "rehearsal"
        stamps = [record[name] for name in ("arrival_s", "first_s", "last_s")]
        assert [before_s, *stamps, after_s] == sorted([before_s, *stamps, after_s])
        assert record["due_last_s"] <= record["last_s"]
        assert record["late_max_ms"] >= 0
    assert "rehearsal?" not in path.read_text()


def test_streams_wait_for_one_record_at_a_time(tmp_path):
    path = tmp_path / "truth.jsonl"
    turn, read_in = 0, []

    class Record(UserDict):
        def keys(self):
            read_in.append(turn)
            asyncio.get_running_loop().call_soon(go_on)
            return super().keys()

    def go_on():
        nonlocal turn
        turn += 1

    async def main():
        truth = Truth(path)
        for number in range(5):
            truth.write(Record(number=number))
        await asyncio.sleep(2 * FLUSH_S)
        truth.close()

    in_virtual_time(main)
    assert read_in == [0, 1, 2, 3, 4]
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 1, 2, 3, 4]


def test_who_leaves_is_recorded_when_the_file_is_closed(tmp_path):
    path = tmp_path / "truth.jsonl"
    with Local(speed=1, truth=Truth(path)) as local:
        client = local.client()
        events = stream(client, "busy", asked(stream=True))
        events.close()
        deadline_s = time.monotonic() + 30
        while local.call(lambda: _running(local)) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        client.close()
        local.call(local.options["truth"].close)
    (record,) = map(json.loads, path.read_text().splitlines())
    assert (record["outcome"], record["tokens"], record["first_s"]) == ("left", 0, None)


def _running(local):
    return [call for one in local.runtime._containers.values() for call in one.running]


def test_a_file_is_added_to(tmp_path):
    path = tmp_path / "truth.jsonl"
    path.write_text('{"target": "rehearsal"}\n')

    async def main():
        truth = Truth(path)
        runtime = Runtime(Clock(1000), truth=truth)
        arrivals = Arrivals()
        await runtime.invoke(deployment("one"), request(), arrivals)
        truth.close()
        truth.close()

    asyncio.run(main())
    assert len(path.read_text().splitlines()) == 2


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path):
    with pytest.raises(RehearsalError, match="cannot be written to .*: name another file"):
        Truth(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RehearsalError, match="cannot be written"):
        Truth(tmp_path / "file" / "truth.jsonl")


def test_a_stream_that_is_read_to_its_end_is_not_one_that_was_left():
    kept = Kept()
    with Local(speed=2000, truth=kept) as local:
        client = local.client()
        for _ in range(5):
            assert read(stream(client, "llama", asked(stream=True)))[1] is None
        client.close()
        assert [record["outcome"] for record in local.call(lambda: list(kept.records))] == [
            "complete"
        ] * 5
