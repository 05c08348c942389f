"""The record of requests: what is in it, and that it is there in time."""

import asyncio
import json
import time

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
from helpers.rehearsal.container.runtime import Runtime
from helpers.rehearsal.container.truth import Truth
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


def test_who_leaves_is_recorded_when_the_file_is_closed(tmp_path):
    path = tmp_path / "truth.jsonl"
    with Local(speed=1, truth=Truth(path)) as local:
        client = local.client()
        events = stream(client, "busy", asked(stream=True))
        events.close()
        deadline_s = time.monotonic() + 5
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
