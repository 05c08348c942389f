"""A cross-check of the load engine: the same requests with plain boto3, for small runs.

boto3 hands a token out after it has read and parsed it, in one thread a user, so its times are a
little later than the engine's and the more so the more users there are. What boto3 does not tell is
0 in its records: the seconds for connecting and for sending. A connection is opened within the
first request of each user, which a warm-up takes upon itself. Of an exception inside a stream boto3
keeps the name (`ModelStreamError`) and drops SageMaker's code for it (`StreamBroken`).
"""

import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import urllib3.exceptions
from botocore import exceptions
from botocore.client import BaseClient
from botocore.eventstream import ParserError

from helpers import load
from helpers.connection import Exchange
from helpers.errors import InvocationError
from helpers.load import CountTokens, OnRecord, Request
from helpers.records import ClientHealth, Failure
from helpers.session import reason
from helpers.transport import read_sse

# boto3's threads are 9 ms late at 16 streams and up to 38 at 64, medians (measured on 2 cores,
# 2026-11).
MOST_USERS = 16

_BEFORE_SEND = "before-send.sagemaker-runtime.InvokeEndpointWithResponseStream"
_WORDS_LIMIT = 500  # characters of a server's own words that are kept
_PATIENCE_S = 0.5  # after an interrupt, for requests that are under way


def make_client(session, *, users: int, timeout_s: float = load.TIMEOUT_S) -> BaseClient:
    """A boto3 client for `closed_loop`: one attempt, and a connection for each user.

    Args:
        session: The workshop's session.
        users: How many will use it.
        timeout_s: Real seconds of silence after which a request is given up.
    """
    return session.client(
        "sagemaker-runtime",
        retries={"mode": "standard", "total_max_attempts": 1},
        read_timeout=timeout_s,
        max_pool_connections=users,
    )


def driver(session, endpoint_name: str) -> Callable[..., list[ClientHealth]]:
    """What sends a closed loop's requests with boto3, called as `load.drive` is."""

    def drive(
        transport, requests, pattern, *, duration_s: float | None, timeout_s: float, **options
    ) -> list[ClientHealth]:
        if not isinstance(pattern, load.ClosedLoop) or pattern.think_s or duration_s:
            raise InvocationError(
                "A cross-check with boto3 is a closed loop of a number of requests, without "
                "thinking: leave boto3 out for other loads.",
                kind="request",
            )
        client = make_client(session, users=pattern.users, timeout_s=timeout_s)
        closed_loop(client, endpoint_name, requests, users=pattern.users, **options)
        return []

    return drive


def closed_loop(
    client: BaseClient,
    endpoint_name: str,
    requests: Sequence[Request],
    *,
    users: int,
    on_record: OnRecord,
    warmup: int = 0,
    count_tokens: CountTokens | None = None,
    part: int = 0,
) -> None:
    """N users, each sending its next request when its last one has ended, until none is left.

    Args:
        client: As `make_client` makes one.
        endpoint_name: The endpoint.
        requests: What to send, warm-up first.
        users: How many, each in a thread of its own.
        on_record: Called in the calling thread with each record, soon after its request ended.
        warmup: How many requests are warm-up.
        count_tokens: The model's own tokenizer, for servers that do not count.
        part: As in `RequestRecord`.

    Raises:
        InvocationError: When this cannot be asked of boto3, or boto3 refuses to send.
        KeyboardInterrupt: After what was under way has been recorded as `interrupted`.
    """
    _check(client, requests, users=users, warmup=warmup)
    calls = [
        _Call(index, request, "warmup" if index < warmup else "measured")
        for index, request in enumerate(requests)
    ]
    crew = _Crew(client, endpoint_name, calls, users=users)

    def record(call: _Call) -> None:
        reading = read_sse(call.exchange.parts, broken=call.exchange.failure)
        on_record(
            load.record_of(
                call, call.exchange, reading, user=call.user, count_tokens=count_tokens, part=part
            )
        )

    with crew.noting_when_sent():
        crew.start()
        try:
            for call in crew.finished():
                record(call)
        except BaseException:
            for call in crew.stopped():
                record(call)
            raise


def _check(client: BaseClient, requests: Sequence[Request], *, users: int, warmup: int) -> None:
    measured = len(requests) - warmup
    if users < 1 or warmup < 0 or measured < users:
        raise InvocationError(
            f"{measured} requests cannot keep {users} users busy: "
            "ask for at least one user, and at least one request a user.",
            kind="request",
        )
    if users > MOST_USERS:
        raise InvocationError(
            f"A cross-check with boto3 is for {MOST_USERS} users at most, not {users}: its threads "
            "would measure each other; leave boto3 out for more.",
            kind="request",
        )
    config = client.meta.config
    attempts = (config.retries or {}).get("total_max_attempts")
    if attempts != 1 or config.max_pool_connections < users:
        raise InvocationError(
            "This boto3 client tries again by itself, or lets users wait for each other's "
            "connections: make one with crosscheck.make_client(session, users=…).",
            kind="request",
        )


@dataclass
class _Call:
    """A request, and what has become of it."""

    index: int
    request: Request
    phase: str
    user: int = 0
    sign_s: float = 0.0
    inference_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    exchange: Exchange = field(default_factory=lambda: Exchange(sent_s=0.0))


class _Crew:
    """The users, one thread each."""

    def __init__(
        self, client: BaseClient, endpoint_name: str, calls: Sequence[_Call], *, users: int
    ):
        self._client = client
        self._endpoint_name = endpoint_name
        self._calls = iter(calls)  # shared by the users: who is free takes the next
        self._under_way: dict[int, _Call] = {}  # whoever takes a call out of it owns its record
        self._results: queue.SimpleQueue[_Call | Exception | None] = queue.SimpleQueue()
        self._is_stopping = False
        self._mine = threading.local()
        self._threads = [
            threading.Thread(target=self._user, args=(number,), name="crosscheck", daemon=True)
            for number in range(users)
        ]

    @contextmanager
    def noting_when_sent(self) -> Iterator[None]:
        """Let botocore tell when a request is signed and about to be written."""

        def note(**_) -> None:
            if call := getattr(self._mine, "call", None):
                now = time.monotonic()
                call.sign_s, call.exchange.sent_s = now - call.exchange.sent_s, now

        self._client.meta.events.register(_BEFORE_SEND, note)
        try:
            yield
        finally:
            self._client.meta.events.unregister(_BEFORE_SEND, note)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finished(self) -> Iterator[_Call]:
        """Each call as it ends, until all users have."""
        running = len(self._threads)
        while running:
            result = self._results.get()
            if isinstance(result, _Call):
                yield result
            elif result is None:
                running -= 1
            else:
                raise _explained(result) from result
        for thread in self._threads:
            thread.join()

    def stopped(self) -> Iterator[_Call]:
        """Send nothing more; what had ended by now, and what was under way as interrupted."""
        self._is_stopping = True
        patient_until_s = time.monotonic() + _PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, patient_until_s - time.monotonic()))
        # A thread that still waits for the beginning of an answer cannot be called back: it ends
        # with that, and what it was waiting for is told here.
        for index in list(self._under_way):
            if call := self._under_way.pop(index, None):
                call.exchange.ended_s = time.monotonic()
                call.exchange.failure = _INTERRUPTED
                self._results.put(call)
        while not self._results.empty():
            if isinstance(result := self._results.get(), _Call):
                yield result

    # called in the users' threads

    def _user(self, number: int) -> None:
        try:
            while not self._is_stopping and (call := next(self._calls, None)) is not None:
                call.user = number
                self._under_way[call.index] = self._mine.call = call
                self._send(call)
                if self._under_way.pop(call.index, None):
                    self._results.put(call)
            self._results.put(None)
        except Exception as error:  # handed to the caller's thread, which raises it
            self._under_way.pop(call.index, None)
            self._results.put(error)

    def _send(self, call: _Call) -> None:
        exchange = call.exchange
        exchange.sent_s = time.monotonic()  # until botocore tells better
        try:
            answer = self._client.invoke_endpoint_with_response_stream(
                EndpointName=self._endpoint_name,
                Body=call.request.body,
                ContentType="application/json",
                InferenceId=call.inference_id,
            )
            exchange.status = 200
            with closing(answer["Body"]) as events:
                for event in events:
                    stamp = time.monotonic()
                    exchange.parts.append((stamp, event.get("PayloadPart", {}).get("Bytes", b"")))
                    if self._is_stopping:
                        exchange.failure = _INTERRUPTED
                        break
        except _FAILURES as error:
            exchange.failure = _failure(error, is_stream=exchange.status == 200)
        exchange.ended_s = time.monotonic()


# --- what came of it ------------------------------------------------------------------------------

_INTERRUPTED = Failure("interrupted", "the run was interrupted")
_TIMEOUTS = (exceptions.ReadTimeoutError, urllib3.exceptions.TimeoutError)
_FAILURES = (
    exceptions.ClientError,
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
    urllib3.exceptions.HTTPError,
    ParserError,
    OSError,
)


def _failure(error: Exception, *, is_stream: bool) -> Failure:
    """boto3's exception as the failure that the engine would have seen."""
    if isinstance(error, exceptions.ClientError):
        return _said_by_aws(error)
    if isinstance(error, ParserError):
        return Failure("framing", str(error))
    if isinstance(error, _TIMEOUTS):
        return Failure("timeout", str(error)[:_WORDS_LIMIT])
    kind = "truncated" if is_stream else "connection"
    return Failure(kind, str(error)[:_WORDS_LIMIT], 200 if is_stream else None)


def _said_by_aws(error: exceptions.ClientError) -> Failure:
    """A refusal, or an exception inside a stream, which came with status 200."""
    answer = error.response
    code, words = answer["Error"].get("Code", ""), answer["Error"].get("Message", "")
    original = answer.get("OriginalMessage")
    return Failure(
        kind=f"HTTP {code}" if code.isdigit() else code,  # botocore's code where nobody named one
        message=(words or code)[:_WORDS_LIMIT],
        status=answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 200),
        original_status=answer.get("OriginalStatusCode"),
        original_message=original[:_WORDS_LIMIT] if original else None,
    )


def _explained(error: Exception) -> Exception:
    if isinstance(error, exceptions.BotoCoreError):
        return InvocationError(f"boto3 did not send: {reason(error)}", kind="request")
    return error
