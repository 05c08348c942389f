"""Faults: the table, which are active, and what the runtime's own do to an answer."""

import asyncio
import http.client
import json
import socket
import time

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer
from botocore.exceptions import EventStreamError
from hypothesis import given
from hypothesis import strategies as st
from invoking import (
    DEPLOYMENTS,
    MODEL,
    Arrivals,
    Local,
    asked,
    chunks_of,
    content,
    in_virtual_time,
    invoke,
    read,
    request,
    stream,
    whole,
)

from helpers.clock import Clock
from helpers.errors import RehearsalError
from helpers.rehearsal import faults
from helpers.rehearsal.container.runtime import Runtime
from helpers.rehearsal.faults import FAULTS, Faults

# --- the table


def test_every_fault_says_what_it_does_where_it_strikes_and_what_the_reader_sees():
    for name, fault in FAULTS.items():
        assert fault.name == name
        assert fault.does and fault.sees
        assert fault.where in ("control plane", "runtime", "both")
        for option in fault.options.values():
            assert option.lowest <= option.default <= option.highest
            assert option.meaning


def test_nothing_is_active_until_it_is_put():
    calm = Faults()
    assert not calm
    assert calm.active() == {}
    assert calm.get("throttling") is calm.strikes("throttling") is None


def test_a_fault_that_is_put_has_its_defaults_and_what_was_given():
    active = Faults()
    active.put({"stall": {"seconds": 2.5}, "no-quota": True, "throttling": {}, "garbage": False})
    assert active
    assert active.active() == {
        "stall": {"every": 1, "tokens": 10, "seconds": 2.5},
        "no-quota": {},
        "throttling": {"every": 2},
    }
    assert active.get("no-quota") == {}
    assert active.strikes("no-quota") == {}
    again = Faults()
    again.put(active.active())
    assert again.active() == active.active()


def test_what_is_put_replaces_what_was():
    active = Faults()
    active.put({"no-quota": True})
    active.put({"stall": True})
    assert list(active.active()) == ["stall"]
    active.put({})
    assert not active


def test_a_fault_strikes_every_nth_time_and_counts_anew_when_it_is_put():
    active = Faults()
    for _ in range(2):
        active.put({"throttling": {"every": 3}, "garbage": True})
        strikes = [active.strikes("throttling") is not None for _ in range(7)]
        assert strikes == [False, False, True, False, False, True, False]
        assert active.strikes("garbage") == {"every": 1, "tokens": 10}


def test_a_fault_strikes_in_all_regions_or_in_the_first_that_are_asked():
    active = Faults()
    assert not active.strikes_in("no-capacity", "us-east-1")
    active.put({"no-capacity": True})
    assert [active.strikes_in("no-capacity", one) for one in ("a", "b", "c")] == [True] * 3
    for _ in range(2):
        active.add("no-capacity", {"regions": 2})
        asked = [active.strikes_in("no-capacity", one) for one in ("b", "b", "a", "c", "a", "b")]
        assert asked == [True, True, True, False, True, True]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"fire": True}, "no fault 'fire'; there are no-quota, no-capacity, .*corrupt-frame"),
        ({"fire": False}, "no fault 'fire'"),
        ({"stall": None}, "stall is true, false or its options, not None; it takes every from 1"),
        ({"stall": 3}, "true, false or its options, not 3"),
        ({"stall": {"pause": 1}}, "no option 'pause'; it takes every from 1 to 1000000"),
        ({"no-quota": {"every": 1}}, "no option 'every'; it takes no options"),
        ({"stall": {"every": 0}}, "every of the fault stall cannot be 0"),
        ({"stall": {"every": 1.5}}, "cannot be 1.5"),
        ({"stall": {"every": True}}, "cannot be True"),
        ({"stall": {"seconds": -1}}, "seconds from 0 to 3600"),
        ({"stall": {"seconds": float("nan")}}, "cannot be nan"),
        ({"stall": {"seconds": "3"}}, "cannot be '3'"),
        ({"model-error": {"status": 200}}, "status from 400 to 599"),
        (["stall"], "given by name"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(wanted, words):
    active = Faults()
    active.put({"garbage": True})
    with pytest.raises(RehearsalError, match=words) as error:
        active.put(wanted)
    assert "\n" not in str(error.value)
    assert list(active.active()) == ["garbage"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("no-quota", {"no-quota": {}}),
        ("throttling", {"throttling": {"every": 2}}),
        ("stall:every=5,seconds=3", {"stall": {"every": 5, "tokens": 10, "seconds": 3}}),
        ("stall:seconds=0.5", {"stall": {"every": 1, "tokens": 10, "seconds": 0.5}}),
    ],
)
def test_the_command_line_names_a_fault_and_its_options(text, fault):
    assert faults.parse(text) == fault


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fire", "no fault 'fire'"),
        ("", "no fault ''"),
        ("stall:", "as numbers, as in stall:every=2, not ''"),
        ("stall:every", "not 'every'"),
        ("stall:every=two", "not 'every=two'"),
        ("fire:every=two", "no fault 'fire'"),
        ("stall:pause=3", "no option 'pause'"),
        ("stall:every=0", "cannot be 0"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused_in_one_sentence(text, words):
    with pytest.raises(RehearsalError, match=words):
        faults.parse(text)


@given(st.text() | st.text().map(lambda text: f"stall:{text}"))
def test_no_command_line_does_worse_than_be_refused(text):
    try:
        parsed = faults.parse(text)
    except RehearsalError:
        return
    Faults().put(parsed)


# --- what they do to an answer

STREAM = asked(stream=True, max_tokens=60)


@pytest.fixture(scope="module")
def server():
    with Local(speed=2000, faults=Faults()) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    client = server.client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def calm_text(client):
    return content(chunks_of(read(stream(client, "llama", STREAM))[0]))


@pytest.fixture
def local(server, client, calm_text):
    """Afterwards the faults are gone, and so is everything that they did."""
    yield server
    server.options["faults"].put({})
    for _ in range(5):  # more than there are slots
        data, error = read(stream(client, "llama", STREAM))
        assert error is None
        assert content(chunks_of(data)) == calm_text
    running = server.call(
        lambda: [
            [call.outcome for call in container.running] + list(+container.load)
            for container in server.runtime._containers.values()
        ]
    )
    assert not any(running)


def put(local, **options):
    local.options["faults"].put({name.replace("_", "-"): given for name, given in options.items()})


def test_a_model_error_is_the_containers_and_comes_every_third_time(local, client):
    put(local, model_error=True)
    statuses = []
    for _ in range(6):
        try:
            statuses.append(invoke(client, "llama", asked())["ResponseMetadata"]["HTTPStatusCode"])
        except client.exceptions.ModelError as error:
            statuses.append(error.response["OriginalStatusCode"])
            said = json.loads(error.response["OriginalMessage"])
            assert said["error_type"] == "generation"
            assert "model-error" in said["error"]
    assert statuses == [200, 200, 500, 200, 200, 500]


def test_a_model_error_has_the_status_that_is_wanted_on_every_route(local, client):
    put(local, model_error={"every": 1, "status": 424})
    assert local.openai("llama", asked())[0] == 424
    for call in (client.invoke_endpoint, client.invoke_endpoint_with_response_stream):
        with pytest.raises(client.exceptions.ModelError) as error:
            call(EndpointName="llama", Body=json.dumps(STREAM), ContentType="application/json")
        assert error.value.response["OriginalStatusCode"] == 424


def test_a_broken_stream_breaks_after_so_many_tokens(local, client, calm_text):
    put(local, broken_stream={"tokens": 7})
    data, error = read(stream(client, "llama", STREAM))
    assert isinstance(error, EventStreamError)
    assert error.response["Error"]["Code"] == "ModelStreamError"
    assert "reset or closed" in str(error)
    assert len(chunks_of(data)) == 7
    assert calm_text.startswith(content(chunks_of(data)))


def test_a_broken_stream_names_its_error_code():
    arrivals = afflicted({"broken-stream": True})
    assert b'"ErrorCode":"StreamBroken"' in arrivals.writes[-1]


@pytest.mark.parametrize("name", ["broken-stream", "connection-reset"])
def test_an_answer_that_is_too_short_breaks_before_its_last_token(name):
    arrivals = afflicted({name: {"tokens": 100}}, output_tokens=5)
    tokens = [data for data in arrivals.writes if b"delta" in data]
    assert len(tokens) == 4
    assert arrivals.ended == ("end" if name == "broken-stream" else "abort")


def test_a_fault_of_streams_spares_whole_answers(local, client):
    put(local, broken_stream=True, connection_reset=True, garbage=True, corrupt_frame=True)
    assert whole(client, "llama", asked())["choices"]
    assert invoke(client, "llama", STREAM)["Body"].read().count(b"data:") == 60
    assert local.openai("llama", asked())[0] == 200


def test_a_reset_connection_is_reset_and_not_just_closed(local):
    put(local, connection_reset=True)
    body = json.dumps(STREAM).encode()
    head = "POST /endpoints/llama/invocations-response-stream HTTP/1.1\r\nHost: x\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", local.port), timeout=30) as wire:
        wire.sendall(head.encode() + body)
        with pytest.raises(ConnectionResetError):
            while wire.recv(65536):
                pass


def test_a_reset_reaches_boto3_as_an_error(local, client):
    put(local, connection_reset=True)
    data, error = read(stream(client, "llama", STREAM))
    assert error is not None
    assert len(chunks_of(data)) <= 10


def test_the_openai_route_breaks_off_without_words(local):
    put(local, broken_stream=True)
    with pytest.raises((ConnectionError, http.client.IncompleteRead)):
        local.openai("llama", STREAM)


def test_garbage_is_one_more_part_and_no_text_is_lost(local, client, calm_text):
    put(local, garbage=True)
    data, error = read(stream(client, "llama", STREAM))
    assert error is None
    with pytest.raises(UnicodeDecodeError):
        data.decode()
    assert content(chunks_of(data)) == calm_text


def test_a_corrupt_frame_is_noticed_by_its_checksum(local, client):
    put(local, corrupt_frame={"tokens": 4})
    data, error = read(stream(client, "llama", STREAM))
    assert isinstance(error, ChecksumMismatch)
    assert len(chunks_of(data)) <= 4


def test_a_stall_pauses_a_stream_and_then_it_goes_on(local, client, calm_text):
    put(local, stall={"seconds": 400, "tokens": 5})
    started_s = time.monotonic()
    data, error = read(stream(client, "llama", STREAM))
    assert error is None
    assert content(chunks_of(data)) == calm_text
    assert time.monotonic() - started_s > 400 / 2000


def test_a_stall_that_lasts_over_the_limit_ends_like_any_other_stream(local, client):
    put(local, stall={"seconds": 3600})
    _, error = read(stream(client, "llama", STREAM))
    assert "timeout period" in str(error)


def test_a_stall_outlasts_a_client_without_patience(local, client):
    put(local, stall={"seconds": 460})
    hasty = local.client(read_timeout=0.2)
    _, error = read(stream(hasty, "vllm", {**STREAM, "model": MODEL}))
    assert "Read timed out" in str(error)
    errors = (read(stream(hasty, "llama", STREAM))[1] for _ in range(10))
    assert None in errors  # TGI's keep-alives, unless this machine is late with them
    hasty.close()


def test_a_fault_strikes_every_nth_stream(local, client):
    put(local, broken_stream={"every": 2})
    broken = [read(stream(client, "llama", STREAM))[1] is not None for _ in range(4)]
    assert broken == [False, True, False, True]


# --- and when


def afflicted(wanted, *, deployed="llama", speed=1, cut="lines", **options):
    async def main():
        active, arrivals = Faults(), Arrivals()
        active.put(wanted)
        runtime = Runtime(Clock(speed), cut=cut, faults=active)
        await runtime.invoke(DEPLOYMENTS[deployed], request(**options), arrivals)
        return arrivals

    return in_virtual_time(main)


def text_of(arrivals):
    """The text of parts that are lines."""
    buffer = EventStreamBuffer()
    buffer.add_data(arrivals.data)
    return content(chunks_of(b"".join(event.payload for event in buffer)))


def test_a_stall_lasts_as_long_in_aws_time_as_it_was_asked_to():
    calm = afflicted({}, speed=10)
    stalled = afflicted({"stall": {"tokens": 5, "seconds": 40}}, speed=10)
    assert stalled.times_s[:5] == pytest.approx(calm.times_s[:5])
    resumed_s = calm.times_s[5] + 4
    assert stalled.times_s[5:] == pytest.approx([max(resumed_s, at) for at in calm.times_s[5:]])
    assert text_of(stalled) == text_of(calm)


def test_tgi_keeps_a_stalled_stream_alive():
    stalled = afflicted({"stall": {"tokens": 5, "seconds": 40}})
    last_s = stalled.times_s[4]
    assert stalled.keep_alives_s == pytest.approx([last_s + 15, last_s + 30])
    silent = {"deployed": "vllm", "model": MODEL}
    assert not afflicted({"stall": {"seconds": 40}}, **silent).keep_alives_s


def test_a_slow_network_delays_every_part_within_its_jitter_and_keeps_the_order():
    calm = afflicted({}, output_tokens=200)
    slow = afflicted({"slow-network": {"latency_ms": 300, "jitter_ms": 100}}, output_tokens=200)
    late_s = [a - b for a, b in zip(slow.times_s, calm.times_s, strict=True)]
    assert 0.2 <= min(late_s) < 0.25
    assert 0.35 < max(late_s) <= 0.4
    assert text_of(slow) == text_of(calm)
    assert slow.ended_s == pytest.approx(slow.times_s[-1])


@pytest.mark.parametrize(
    ("wanted", "late_s"),
    [
        ({"slow-network": {"latency_ms": 300, "jitter_ms": 0}}, 0.3),
        ({"stall": {"seconds": 20}}, 20),
        ({"stall": {"seconds": 20}, "slow-network": {"latency_ms": 300, "jitter_ms": 0}}, 20.3),
    ],
)
def test_a_whole_answer_comes_late_too(wanted, late_s):
    calm, slow = (
        afflicted(each, speed=10, route="invocations", stream=False) for each in ({}, wanted)
    )
    assert json.loads(slow.body)["choices"] == json.loads(calm.body)["choices"]
    assert slow.ended_s - calm.ended_s == pytest.approx(late_s / 10)


def test_a_whole_answer_that_is_too_late_is_a_timeout():
    arrivals = afflicted({"stall": {"seconds": 70}}, route="invocations", stream=False)
    assert (arrivals.status, arrivals.ended_s) == (424, pytest.approx(60))


def test_faults_together_do_what_each_does():
    wanted = {
        "stall": {"tokens": 3, "seconds": 20},
        "slow-network": {"latency_ms": 300, "jitter_ms": 0},
        "garbage": {"tokens": 5},
        "broken-stream": {"tokens": 8},
    }
    arrivals = afflicted(wanted)
    tokens = [data for data in arrivals.writes if b'"delta"' in data]
    assert len(tokens) == 8
    assert any(b"garbage" in data for data in arrivals.writes)
    assert b"StreamBroken" in arrivals.writes[-1]
    assert arrivals.ended_s == pytest.approx(1.2 + 3 * 0.0398 + 20 + 0.3)


def test_a_client_that_leaves_a_stalled_stream_frees_its_slot_at_once():
    async def main():
        active = Faults()
        active.put({"stall": {"seconds": 100}})
        runtime, left = Runtime(Clock(1), faults=active), Arrivals()
        asking = runtime.invoke(DEPLOYMENTS["busy"], request(), left)
        task = asyncio.get_running_loop().create_task(asking)
        await asyncio.sleep(2)
        left.leave()
        await task
        active.put({})
        following = Arrivals()
        await runtime.invoke(DEPLOYMENTS["busy"], request(), following)
        return following

    following = in_virtual_time(main)
    assert b"overloaded" not in following.data
    assert following.ended_s < 6
