"""The load engine: users, warm-up, errors as records, interrupts."""

import json
import socket
import sys
import threading
import time
from collections import Counter

import pytest
from botocore.credentials import Credentials
from scripted import ScriptedEndpoint, part

from helpers import load
from helpers.errors import InvocationError
from helpers.load import Request
from helpers.transport import SageMakerStream


def line(content=None, finish=None, **more):
    choice = {"index": 0, "delta": {"content": content} if content else {}, "finish_reason": finish}
    return b"data:" + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


TWO_TOKENS = part(line("Hel") + line("lo", "length"))


class Endpoint(ScriptedEndpoint):
    """Also remembers how many requests were there at once, and their inference ids."""

    def stream_of(self):
        return SageMakerStream(
            "x",
            endpoint_url=self.url,
            region="us-east-1",
            credentials=Credentials("AKIDEXAMPLE", "a-secret"),
        )

    def run(self, requests, pattern=None, *, users=1, **options):
        records = []
        options = {"timeout_s": 5.0, "on_record": records.append} | options
        self.health = load.drive(
            self.stream_of(), requests, pattern or load.ClosedLoop(users), **options
        )
        return records

    def will_answer_slowly(self, times, *, pause_s=0.02):
        for _ in range(times):
            self.will_stream(part(line("Hel")), part(line("lo", "length")), pause_s=pause_s)


@pytest.fixture
def endpoint():
    scripted = Endpoint()
    yield scripted
    scripted.close()


def requests(count):
    return [
        Request(json.dumps({"number": number}).encode(), prompt_tokens=7, output_tokens=2)
        for number in range(count)
    ]


def at_once(records):
    """How many requests were in flight, at most."""
    starts = [(record.sent_s, 1) for record in records]
    ends = [(record.ended_s, -1) for record in records]
    running = most = 0
    for _, change in sorted(starts + ends, key=lambda event: (event[0], event[1])):
        running += change
        most = max(most, running)
    return most


def test_every_request_is_sent_once_and_recorded_once(endpoint):
    endpoint.will_answer_slowly(7, pause_s=0)
    records = endpoint.run(requests(7), users=3)
    assert sorted(body["number"] for body in endpoint.bodies) == list(range(7))
    assert sorted(record.index for record in records) == list(range(7))
    assert len({record.inference_id for record in records}) == 7
    assert all(record.error is None for record in records)


def test_as_many_requests_are_in_flight_as_there_are_users(endpoint):
    endpoint.will_answer_slowly(9)
    records = endpoint.run(requests(9), users=3)
    assert at_once(records) == 3
    assert Counter(record.user for record in records).keys() == {0, 1, 2}


def test_a_user_sends_its_next_request_when_its_last_has_ended(endpoint):
    endpoint.will_answer_slowly(8)
    records = endpoint.run(requests(8), users=2)
    for user in (0, 1):
        mine = sorted((r for r in records if r.user == user), key=lambda record: record.sent_s)
        waits = [b.sent_s - a.ended_s for a, b in zip(mine, mine[1:], strict=False)]
        assert 0 <= min(waits) < 0.02 and max(waits) < 0.5


def test_warm_up_comes_first_and_hands_over_without_a_pause(endpoint):
    endpoint.will_answer_slowly(6)
    records = sorted(endpoint.run(requests(6), users=2, warmup=2), key=lambda record: record.index)
    assert [record.phase for record in records] == ["warmup"] * 2 + ["measured"] * 4
    assert records[2].sent_s - min(record.ended_s for record in records[:2]) < 0.2


def test_a_record_says_what_was_asked_and_what_came(endpoint):
    endpoint.will_answer_slowly(1)
    (record,) = endpoint.run(requests(1))
    assert (record.prompt_tokens, record.prompt_source) == (7, "as asked")
    assert (record.output_tokens, record.tokens_source, record.asked_tokens) == (2, "chunks", 2)
    assert record.finish_reason == "length"
    assert record.sent_s < record.first_s < record.last_s <= record.ended_s
    assert record.chunk_s == (record.first_s, record.last_s)
    assert record.connect_s > 0 and record.sign_s > 0 and record.send_s > 0


def test_tokens_come_from_the_servers_own_count_where_it_sends_one(endpoint):
    usage = {"prompt_tokens": 21, "completion_tokens": 5}
    endpoint.will_stream(part(line("Hello", "stop") + b'data: {"choices":[],"usage":%s}\n\n'
                              % json.dumps(usage).encode()))  # fmt: skip
    (record,) = endpoint.run(requests(1))
    assert (record.output_tokens, record.tokens_source, len(record.chunk_s)) == (5, "usage", 1)
    assert (record.prompt_tokens, record.prompt_source) == (21, "usage")


def test_an_error_is_a_record_and_the_user_goes_on(endpoint):
    endpoint.will_refuse(424, "ModelError", "no", OriginalStatusCode=429, OriginalMessage="busy")
    endpoint.will_stream(part(line("Hel")), ending="reset")
    endpoint.will_answer_slowly(1)
    refused, broken, good = endpoint.run(requests(3))
    assert (refused.error.kind, refused.error.original_status) == ("ModelError", 429)
    assert (refused.first_s, refused.chunk_s, refused.output_tokens) == (None, (), 0)
    assert (broken.error.kind, broken.output_tokens) == ("truncated", 1)
    assert good.error is None and good.connect_s > 0, "it needed a new connection"
    assert len(endpoint.bodies) == 3, "nothing was tried twice"


def test_a_request_that_takes_too_long_is_given_up(endpoint):
    endpoint.will_stream(part(line("Hel")), ending="hang")
    endpoint.will_answer_slowly(1)
    late, good = endpoint.run(requests(2), timeout_s=0.2)
    assert late.error.kind == "timeout" and good.error is None
    assert 0.2 <= late.ended_s - late.sent_s < 2


def test_a_server_that_goes_away_leaves_connection_failures(endpoint):
    def leave(handler):
        endpoint._server.socket.close()
        handler.close_connection = True

    endpoint._scripts.append(leave)
    records = endpoint.run(requests(3))
    assert [record.error.kind for record in records] == ["connection"] * 3


def test_nobody_there_is_one_sentence_and_nothing_is_recorded():
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    stream = SageMakerStream(
        "x", endpoint_url=f"http://127.0.0.1:{port}", region="r", credentials=Credentials("a", "b")
    )
    records = []
    with pytest.raises(InvocationError, match=f"Nothing answers at 127.0.0.1:{port}"):
        load.drive(stream, requests(1), load.ClosedLoop(1), on_record=records.append)
    assert records == []


@pytest.mark.parametrize(
    ("pattern", "warmup", "words"),
    [
        (load.ClosedLoop(0), 0, "0 users send nothing"),
        (load.Rounds(-1), 0, "-1 users send nothing"),
        (load.ClosedLoop(1), -1, "Warm-up is 0 requests or more"),
        (load.Arrivals((0.0, 0.1)), 0, "3 requests and 2 times"),
    ],
)
def test_a_load_that_cannot_be_is_refused(endpoint, pattern, warmup, words):
    with pytest.raises(ValueError, match=words):
        endpoint.run(requests(3), pattern, warmup=warmup)


def test_an_interrupt_records_what_is_in_flight_and_sends_nothing_more(endpoint):
    endpoint.will_answer_slowly(1)
    endpoint.will_stream(part(line("Hel")), ending="hang")
    records = []

    def on_record(record):
        records.append(record)
        if len(records) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        endpoint.run(requests(5), on_record=on_record)
    assert [record.error and record.error.kind for record in records] == [None, "interrupted"]
    assert len(endpoint.bodies) == 2


def test_a_record_that_cannot_be_kept_ends_the_run(endpoint):
    endpoint.will_answer_slowly(5)

    def full(record):
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        endpoint.run(requests(5), on_record=full)
    assert len(endpoint.bodies) < 5


def test_an_interrupt_while_connecting_again_sends_nothing(endpoint, monkeypatch):
    endpoint.will_stream(part(line("Hel")), ending="reset")
    opening, let_go = threading.Event(), threading.Event()
    open_connection = load.Connection.open
    calls = []

    async def open_slowly(address):
        calls.append(address)
        if len(calls) > 1:
            opening.set()
            while not let_go.is_set():
                await load.asyncio.sleep(0.01)
        return await open_connection(address)

    monkeypatch.setattr(load.Connection, "open", open_slowly)
    records = []

    def on_record(record):
        records.append(record)
        if len(records) == 1:
            opening.wait(30)
            threading.Timer(0.1, let_go.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        endpoint.run(requests(3), on_record=on_record)
    assert [record.error.kind for record in records] == ["truncated", "interrupted"]
    assert len(endpoint.bodies) == 1


def test_an_old_signature_is_renewed_before_it_is_sent(endpoint, monkeypatch):
    endpoint.will_answer_slowly(2, pause_s=0)
    monkeypatch.setattr(load, "_SIGNATURE_LIFE_S", -1.0)
    signed = []
    sign = SageMakerStream.request

    def counted(self, body, *, inference_id):
        signed.append(inference_id)
        return sign(self, body, inference_id=inference_id)

    monkeypatch.setattr(SageMakerStream, "request", counted)
    records = endpoint.run(requests(2))
    assert Counter(signed) == {record.inference_id: 2 for record in records}


def test_a_notebooks_own_loop_stays_free(endpoint):
    endpoint.will_answer_slowly(2)
    ticks = []

    async def notebook():
        run = load.asyncio.to_thread(endpoint.run, requests(2))
        task = load.asyncio.ensure_future(run)
        while not task.done():
            ticks.append(time.monotonic())
            await load.asyncio.sleep(0.005)
        return await task

    assert len(load.asyncio.run(notebook())) == 2 and len(ticks) > 3


def test_the_interpreters_switch_interval_is_put_back(endpoint):
    before = sys.getswitchinterval()
    endpoint.will_answer_slowly(1)
    inside = []
    endpoint.run(requests(1), on_record=lambda record: inside.append(sys.getswitchinterval()))
    assert inside[0] < before == sys.getswitchinterval()


# --- other patterns -------------------------------------------------------------------------------


def test_in_rounds_nobody_starts_before_all_have_their_answers(endpoint):
    endpoint.will_answer_slowly(1, pause_s=0.1)
    endpoint.will_answer_slowly(5, pause_s=0.01)
    records = sorted(endpoint.run(requests(6), load.Rounds(3)), key=lambda record: record.index)
    rounds = [records[:3], records[3:]]
    assert max(r.ended_s for r in rounds[0]) <= min(r.sent_s for r in rounds[1])
    assert [{r.user for r in each} for each in rounds] == [{0, 1, 2}] * 2


def test_a_last_round_may_be_smaller(endpoint):
    endpoint.will_answer_slowly(4, pause_s=0)
    assert len(endpoint.run(requests(4), load.Rounds(3))) == 4


def test_users_think_between_their_requests(endpoint):
    endpoint.will_answer_slowly(4, pause_s=0)
    records = endpoint.run(requests(4), load.ClosedLoop(2, think_s=0.3))
    for user in (0, 1):
        first, second = sorted((r for r in records if r.user == user), key=lambda r: r.sent_s)
        assert 0.3 <= second.sent_s - first.ended_s < 0.55


def test_arrivals_come_by_their_schedule_whatever_has_been_answered(endpoint):
    endpoint.will_stream(part(line("Hel")), part(line("lo", "length")), pause_s=0.3)
    endpoint.will_answer_slowly(3, pause_s=0)
    records = endpoint.run(requests(4), load.Arrivals((0.0, 0.05, 0.1, 0.15)))
    in_order = sorted(records, key=lambda record: record.index)
    starts = [record.sent_s - in_order[0].sent_s for record in in_order]
    assert starts == pytest.approx([0.0, 0.05, 0.1, 0.15]), "latency counts from the intended time"
    assert all(0 <= record.dispatch_s < 0.2 for record in records)
    assert [record.user for record in records] == [None] * 4
    assert records[-1].index == 0, "the slow one kept nobody from being sent"


def test_arrivals_that_are_more_than_the_open_connections_get_new_ones(endpoint):
    count = 3 * load._SPARE_CONNECTIONS
    endpoint.will_answer_slowly(count, pause_s=0.05)
    records = endpoint.run(requests(count), load.Arrivals((0.0,) * count))
    assert at_once(records) == count and not any(record.error for record in records)


def test_a_late_dispatch_is_in_the_latency_and_reported(endpoint, monkeypatch):
    sign = SageMakerStream.request

    def slow_the_second_time(self, body, *, inference_id):
        if threading.current_thread().name == "load":
            time.sleep(0.1)  # signing again, on the loop
        return sign(self, body, inference_id=inference_id)

    monkeypatch.setattr(load, "_SIGNATURE_LIFE_S", -1.0)
    monkeypatch.setattr(SageMakerStream, "request", slow_the_second_time)
    endpoint.will_answer_slowly(1, pause_s=0)
    (record,) = endpoint.run(requests(1), load.Arrivals((0.0,)))
    assert record.dispatch_s >= 0.1 and record.first_s - record.sent_s >= 0.1


@pytest.mark.parametrize("seed", range(5))
def test_few_poisson_arrivals_have_the_asked_rate_as_well(seed):
    after = load.Arrivals.poisson(0.3, count=25, warmup=5, seed=seed).times_s[5:]
    assert 19 / (after[-1] - after[0]) == pytest.approx(0.3)


def test_poisson_arrivals_have_exponential_gaps_and_constant_ones_equal_gaps():
    poisson = load.Arrivals.poisson(5.0, count=4000, seed=1).times_s
    assert list(poisson) == sorted(poisson)
    gaps = [b - a for a, b in zip(poisson, poisson[1:], strict=False)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert spread == pytest.approx(mean, rel=0.1), "an exponential distribution"
    assert poisson == load.Arrivals.poisson(5.0, count=4000, seed=1).times_s
    assert load.Arrivals.constant(4.0, count=3).times_s == (0.0, 0.25, 0.5)


# --- when it ends ---------------------------------------------------------------------------------


def endless():
    number = 0
    while True:
        yield from requests(1)
        number += 1


def test_a_run_can_end_by_time_and_what_is_in_flight_is_finished(endpoint):
    endpoint.will_answer_slowly(200, pause_s=0.01)
    records = endpoint.run(endless(), users=2, warmup=2, duration_s=0.2)
    measured = [record for record in records if record.phase == "measured"]
    first = min(record.sent_s for record in measured)
    assert max(record.sent_s for record in measured) - first < 0.2
    assert 0.15 < max(record.ended_s for record in measured) - first < 2
    assert not any(record.error for record in records)
    assert [record.phase for record in records].count("warmup") == 2


def test_a_resumed_part_says_which_it_is(endpoint):
    endpoint.will_answer_slowly(1, pause_s=0)
    (record,) = endpoint.run(requests(1), part=2)
    assert (record.part, endpoint.health.part) == (2, 2)


# --- the client itself ----------------------------------------------------------------------------


def test_clients_agree_on_a_start_once_they_are_ready(endpoint):
    endpoint.will_answer_slowly(1, pause_s=0)
    starts = []

    def in_a_moment():
        assert not endpoint.bodies, "nothing is sent before"
        starts.append(time.monotonic() + 0.2)
        return starts[0]

    (record,) = endpoint.run(requests(1), starts_at=in_a_moment)
    assert 0 <= record.sent_s - starts[0] < 0.5


def test_an_interrupt_before_the_start_sends_nothing(endpoint):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        endpoint.run(requests(2), starts_at=interrupted)
    assert endpoint.bodies == []


def test_the_engine_says_how_it_fared(endpoint):
    endpoint.will_answer_slowly(4)
    endpoint.run(requests(4), users=2)
    health = endpoint.health
    assert 0 < health.wall_s < 30 and health.cpu_s > 0
    assert 0 <= health.loop_lag_p50_s <= health.loop_lag_p99_s <= health.loop_lag_max_s < 5
    assert 0 < health.round_trip_s < 1 and health.clock_offset_s == 0


def test_a_loop_that_is_held_up_is_noticed(endpoint, monkeypatch):
    send = load.Connection.send

    async def hold_up_and_send(self, *arguments, **options):
        time.sleep(0.15)
        return await send(self, *arguments, **options)

    monkeypatch.setattr(load.Connection, "send", hold_up_and_send)
    endpoint.will_answer_slowly(1)
    endpoint.run(requests(1))
    assert endpoint.health.loop_lag_max_s > 0.1


def test_tokens_come_from_the_tokenizer_where_the_server_does_not_count(endpoint):
    endpoint.will_answer_slowly(1, pause_s=0)
    (record,) = endpoint.run(requests(1), count_tokens=len)
    assert (record.output_tokens, record.tokens_source) == (5, "tokenizer")
    assert record.counts == {"tokenizer": 5, "chunks": 2}


def test_a_connection_that_was_idle_for_long_is_not_trusted(endpoint, monkeypatch):
    monkeypatch.setattr("helpers.connection.MAX_IDLE_S", 0.05)
    endpoint.will_answer_slowly(2, pause_s=0)
    records = endpoint.run(requests(2), load.ClosedLoop(1, think_s=0.1))
    assert all(record.connect_s > 0 for record in records)
