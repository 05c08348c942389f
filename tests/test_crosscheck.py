"""Plain boto3 beside the load engine: the same requests, the same records."""

import json
import os
import signal
import statistics
import threading
import time
from types import SimpleNamespace

import boto3
import deployed
import pytest
import rehearsing
from botocore.config import Config
from botocore.credentials import Credentials
from scripted import ScriptedEndpoint, event, exception, part

from helpers import crosscheck, load, prompts, tokenizer
from helpers.errors import InvocationError
from helpers.load import Request
from helpers.session import open_session
from helpers.transport import SageMakerStream


def line(content=None, finish=None, **more):
    choice = {"index": 0, "delta": {"content": content} if content else {}, "finish_reason": finish}
    return b"data:" + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


HELLO = part(line("Hel")), part(line("lo", "length"))


class Endpoint(ScriptedEndpoint):
    """An endpoint that both clients can be pointed at."""

    def by_boto3(self, count=1, *, users=1, timeout_s=5.0, **options):
        records = []
        session = SimpleNamespace(client=lambda service, **config: self._boto3(**config))
        crosscheck.closed_loop(
            crosscheck.make_client(session, users=users, timeout_s=timeout_s),
            "x",
            requests(count),
            **{"users": users, "on_record": records.append} | options,
        )
        return records

    def by_the_engine(self, **options):
        records = []
        stream = SageMakerStream(
            "x",
            endpoint_url=self.url,
            region="us-east-1",
            credentials=Credentials("AKIDEXAMPLE", "a-secret"),
        )
        load.drive(
            stream,
            requests(1),
            load.ClosedLoop(1),
            **{"on_record": records.append, "timeout_s": 5.0} | options,
        )
        return records

    def _boto3(self, **config):
        return boto3.client(
            "sagemaker-runtime",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(**config),
        )

    def will_send(self, data):
        def script(handler):
            handler.wfile.write(data)
            handler.close_connection = True

        self._scripts.append(script)


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


# --- against a rehearsal --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """A session at 30 times AWS's speed, with an endpoint that was deployed faster than that."""
    state_dir = tmp_path_factory.mktemp("crosscheck")
    with deployed.rehearsal(state_dir):
        pass
    with rehearsing.server(state_dir, speed=30):
        yield open_session()


def chats(count, *, output_tokens):
    for number in range(count):
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": prompts.prompt(550, seed=number)}],
            "max_tokens": output_tokens,
            "stream": True,
        }
        yield Request(json.dumps(body).encode(), 550, output_tokens)


def test_boto3_and_the_engine_see_the_same_tokens_at_the_same_times(rehearsal):
    plan = list(chats(7, output_tokens=16))
    counter = tokenizer.counter(deployed.MODEL_ID)
    theirs, ours = [], []
    crosscheck.closed_loop(
        crosscheck.make_client(rehearsal, users=1),
        deployed.NAME,
        plan,
        users=1,
        warmup=1,
        on_record=theirs.append,
        count_tokens=counter.count,
    )
    load.drive(
        SageMakerStream.of(rehearsal, deployed.NAME),
        plan,
        load.ClosedLoop(1),
        warmup=1,
        on_record=ours.append,
        count_tokens=counter.count,
    )
    assert [record.error for record in theirs + ours] == [None] * 14
    for one, other in zip(theirs, ours, strict=True):
        assert (one.index, one.phase, one.finish_reason) == (
            other.index,
            other.phase,
            other.finish_reason,
        )
        assert one.counts == other.counts == {"tokenizer": 16, "chunks": 16}
        assert (one.output_tokens, one.tokens_source) == (16, "tokenizer")
    assert ttft_s(theirs) == pytest.approx(ttft_s(ours), abs=0.01)
    assert tpot_s(theirs) == pytest.approx(tpot_s(ours), rel=0.25)


def ttft_s(records):
    return statistics.median(one.first_s - one.sent_s for one in records if one.phase == "measured")


def tpot_s(records):
    return statistics.median(
        (one.last_s - one.first_s) / (one.output_tokens - 1)
        for one in records
        if one.phase == "measured"
    )


def test_a_refusal_by_a_rehearsal_is_the_same_for_both(rehearsal):
    with rehearsal.fault("model-error", every=1):
        theirs, ours = [], []
        plan = list(chats(1, output_tokens=4))
        crosscheck.closed_loop(
            crosscheck.make_client(rehearsal, users=1),
            deployed.NAME,
            plan,
            users=1,
            on_record=theirs.append,
        )
        stream = SageMakerStream.of(rehearsal, deployed.NAME)
        load.drive(stream, plan, load.ClosedLoop(1), on_record=ours.append)
    assert theirs[0].error == ours[0].error
    assert theirs[0].error.kind == "ModelError"


# --- who sends what, when -------------------------------------------------------------------------


def test_every_request_is_sent_once_with_its_own_id_and_warm_up_comes_first(endpoint):
    for _ in range(7):
        endpoint.will_stream(*HELLO)
    records = endpoint.by_boto3(7, users=3, warmup=3)
    assert sorted(body["number"] for body in endpoint.bodies) == list(range(7))
    assert sorted(record.index for record in records) == list(range(7))
    assert len({record.inference_id for record in records}) == 7
    assert {record.user for record in records} <= {0, 1, 2}
    phases = {record.index: record.phase for record in records}
    assert [phases[index] for index in range(7)] == ["warmup"] * 3 + ["measured"] * 4


def test_as_many_requests_are_under_way_as_there_are_users(endpoint):
    for _ in range(8):
        endpoint.will_stream(*HELLO, pause_s=0.02)
    records = endpoint.by_boto3(8, users=4)
    first_ended_s = min(record.ended_s for record in records)
    assert sum(record.sent_s < first_ended_s for record in records) == 4


def test_each_user_has_one_connection(endpoint):
    ports = set()

    def noting(script):
        return lambda handler: (ports.add(handler.client_address[1]), script(handler))

    for _ in range(9):
        endpoint.will_stream(*HELLO)
    endpoint._scripts = [noting(script) for script in endpoint._scripts]
    endpoint.by_boto3(9, users=3)
    assert len(ports) == 3


def test_a_record_says_what_was_asked_and_what_came(endpoint):
    endpoint.will_stream(*HELLO, after_s=0.05, pause_s=0.03)
    (record,) = endpoint.by_boto3()
    assert (record.prompt_tokens, record.prompt_source, record.asked_tokens) == (7, "as asked", 2)
    assert (record.output_tokens, record.tokens_source) == (2, "chunks")
    assert record.finish_reason == "length"
    assert 0.05 < record.first_s - record.sent_s < 0.5
    assert 0.025 < record.last_s - record.first_s < 0.3
    assert record.last_s <= record.ended_s and record.sign_s > 0


def test_the_servers_own_count_is_trusted_most(endpoint):
    usage = {"prompt_tokens": 9, "completion_tokens": 3}
    endpoint.will_stream(part(line("Hel")), part(line("lo", "stop", usage=usage)))
    (record,) = endpoint.by_boto3(count_tokens=len)
    assert record.counts == {"usage": 3, "tokenizer": 5, "chunks": 2}
    assert (record.output_tokens, record.tokens_source) == (3, "usage")
    assert (record.prompt_tokens, record.prompt_source) == (9, "usage")


# --- errors are records ---------------------------------------------------------------------------

NO_JSON = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nsad"
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\nContent-Type: application/vnd.amazon.eventstream"
FAILURES = {
    "refused": lambda there: there.will_refuse(
        424,
        "ModelError:http://internal/",
        "Received client error (422) from primary",
        OriginalStatusCode=422,
        OriginalMessage='{"error":"Input validation error"}',
    ),
    "throttled": lambda there: there.will_refuse(400, "ThrottlingException", "Rate exceeded"),
    "no JSON": lambda there: there.will_send(NO_JSON),
    "nothing": lambda there: there.will_send(b""),
    "reset": lambda there: there.will_stream(HELLO[0], ending="reset"),
    "too short": lambda there: there.will_send(HALF + b"\r\n\r\n" + HELLO[0]),
    "without an end": lambda there: there.will_stream(HELLO[0]),
    "without text": lambda there: there.will_stream(part(line(None, "eos_token"))),
    "corrupt": lambda there: there.will_stream(HELLO[0], HELLO[1][:-1] + b"?"),
    "exception": lambda there: there.will_stream(
        HELLO[0], exception("InternalStreamFailure", Message="sorry")
    ),
    "error event": lambda there: there.will_stream(
        HELLO[0], event(b"", message_type="error", error_code="InternalFailure")
    ),
    "in the stream": lambda there: there.will_stream(
        part(b'data:{"error":"Generation failed","error_type":"generation"}\n\n')
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_goes_wrong_is_the_same_kind_of_failure_as_the_engines(endpoint, name):
    FAILURES[name](endpoint)
    FAILURES[name](endpoint)
    (theirs,), (ours,) = endpoint.by_boto3(), endpoint.by_the_engine()
    assert theirs.error.kind == ours.error.kind
    assert theirs.error.original_status == ours.error.original_status
    assert theirs.error.original_message == ours.error.original_message
    assert len(theirs.chunk_s) == len(ours.chunk_s)
    assert theirs.sent_s <= theirs.ended_s


def test_the_code_of_a_stream_exception_is_what_boto3_does_not_tell(endpoint):
    endpoint.will_stream(
        HELLO[0], exception("ModelStreamError", Message="no", ErrorCode="StreamBroken")
    )
    (record,) = endpoint.by_boto3()
    assert (record.error.kind, record.error.message) == ("ModelStreamError", "no")


def test_nobody_there_is_a_failure_of_every_request(endpoint):
    endpoint.close()
    records = endpoint.by_boto3(3)
    assert [record.error.kind for record in records] == ["connection"] * 3


@pytest.mark.parametrize("options", [{"ending": "hang"}, {"after_s": 1.0}])
def test_silence_is_a_timeout(endpoint, options):
    endpoint.will_stream(HELLO[0], **options)
    started = time.monotonic()
    (record,) = endpoint.by_boto3(timeout_s=0.2)
    assert record.error.kind == "timeout"
    assert time.monotonic() - started < 10


def test_a_request_is_not_tried_again(endpoint):
    endpoint.will_refuse(500, "InternalFailure", "sorry")
    (record,) = endpoint.by_boto3()
    assert record.error.kind == "InternalFailure" and len(endpoint.bodies) == 1


# --- interrupts -----------------------------------------------------------------------------------


def test_an_interrupt_keeps_what_there_is(endpoint):
    # A test run started in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupt(endpoint)
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt(endpoint):
    endpoint.will_stream(*HELLO)
    for _ in range(2):
        endpoint.will_stream(*[HELLO[0]] * 20, pause_s=0.1)
    endpoint.will_stream(*HELLO, after_s=2)  # no answer yet: it cannot even be left
    records = []

    def keep(record):
        if not records:
            threading.Timer(0.25, os.kill, [os.getpid(), signal.SIGINT]).start()
        records.append(record)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        endpoint.by_boto3(20, users=3, on_record=keep)
    assert time.monotonic() - started < 10
    kinds = [record.error and record.error.kind for record in records]
    assert kinds == [None, "interrupted", "interrupted", "interrupted"]
    waiting, *streaming = sorted(len(record.chunk_s) for record in records[1:])
    assert waiting == 0 and all(2 <= chunks <= 5 for chunks in streaming)
    assert sorted(record.index for record in records) == [0, 1, 2, 3]


def test_no_thread_is_left_after_a_run(endpoint):
    before = set(threading.enumerate())
    for _ in range(4):
        endpoint.will_stream(*HELLO)
    endpoint.by_boto3(4, users=4)
    after = set(threading.enumerate()) - before
    assert not [thread for thread in after if thread.name == "crosscheck"]


# --- what is refused beforehand -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "options", "words"),
    [
        (40, {"users": 17}, "16 users at most, not 17"),
        (1, {"users": 2}, "cannot keep 2 users busy"),
        (3, {"users": 2, "warmup": 2}, "1 requests cannot keep 2 users busy"),
        (3, {"users": 0}, "at least one user"),
    ],
)
def test_a_load_that_boto3_cannot_make_is_refused(endpoint, count, options, words):
    with pytest.raises(InvocationError, match=words):
        endpoint.by_boto3(count, **options)
    assert endpoint.bodies == []


@pytest.mark.parametrize(
    "config", [{}, {"retries": {"total_max_attempts": 1}, "max_pool_connections": 1}]
)
def test_a_client_that_retries_or_has_too_few_connections_is_refused(endpoint, config):
    with pytest.raises(InvocationError, match="crosscheck.make_client"):
        crosscheck.closed_loop(
            endpoint._boto3(**config), "x", requests(4), users=2, on_record=print
        )


def test_what_boto3_itself_refuses_ends_the_run_with_a_sentence(endpoint):
    client, records = endpoint._boto3(retries={"total_max_attempts": 1}), []
    with pytest.raises(InvocationError, match="boto3 did not send: Parameter validation failed"):
        crosscheck.closed_loop(client, 7, requests(4), users=2, on_record=records.append)
    assert records == []
