"""The load engine: who sends when, on one asyncio loop in a thread of its own.

Requests are built and signed and connections are open before the clock starts. The loop only
writes and stamps; decoding happens in the calling thread once a stream has ended. One attempt, no
retries, no pool limit: an error is a record like any other.
"""

import asyncio
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from helpers.errors import InvocationError
from helpers.records import Failure, RequestRecord
from helpers.transport import Address, Connection, Exchange, Reading

# SageMaker ends a stream after 8 minutes; later than that nothing can come.
TIMEOUT_S = 500.0
# SigV4 signatures are accepted for five minutes; older ones are renewed before they are sent.
_SIGNATURE_LIFE_S = 240.0
# Python's default lets decoding hold the interpreter for 5 ms while a stamp waits.
_SWITCH_INTERVAL_S = 0.0005


class Transport(Protocol):
    """What the engine needs to know about a service; `SageMakerStream` is one."""

    name: str
    address: Address

    def request(self, body: bytes, *, inference_id: str) -> bytes:
        """The whole HTTP request, signed now."""

    def read(self, exchange: Exchange) -> Reading:
        """What the answer contained."""


@dataclass(frozen=True)
class Request:
    """One request to come.

    Attributes:
        body: What is sent.
        prompt_tokens: Tokens its prompt has, by construction.
        output_tokens: Tokens it asks for.
        prompt_source: How `prompt_tokens` is known.
    """

    body: bytes
    prompt_tokens: int
    output_tokens: int
    prompt_source: str = "as asked"


OnRecord = Callable[[RequestRecord], None]


def closed_loop(
    transport: Transport,
    requests: Sequence[Request],
    *,
    concurrency: int,
    on_record: OnRecord,
    warmup: int = 0,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """N users, each sending its next request when its last one has ended, until none is left.

    The first `warmup` requests warm up; the measured ones follow without a pause, so that the
    asked concurrency is there from the first of them on.

    Args:
        transport: The service.
        requests: What to send, warm-up first.
        concurrency: Users.
        on_record: Called in the calling thread with each record, soon after its request ended.
        warmup: How many requests are warm-up.
        timeout_s: Real seconds after which a request is given up.

    Raises:
        ValueError: When there are fewer measured requests than users.
        InvocationError: When no connection can be opened; nothing was sent then.
        KeyboardInterrupt: After what was in flight has been recorded as `interrupted`.
    """
    measured = len(requests) - warmup
    if concurrency < 1 or warmup < 0 or measured < concurrency:
        raise ValueError(
            f"{measured} requests cannot keep {concurrency} users busy: "
            "ask for at least one user, and at least one request a user."
        )
    jobs = [
        _Job(transport, index, request, "warmup" if index < warmup else "measured")
        for index, request in enumerate(requests)
    ]
    users = _Users(transport, jobs, concurrency=concurrency, timeout_s=timeout_s)
    with _stamps_first():
        users.start()
        try:
            _record_all(users, transport, on_record)
        except BaseException:
            users.stop()
            _record_all(users, transport, on_record)
            raise
        finally:
            users.stop()
            users.join()


def _record_all(users: "_Users", transport: Transport, on_record: OnRecord) -> None:
    for finished in users.finished():
        on_record(_record(finished, transport))


@contextmanager
def _stamps_first() -> Iterator[None]:
    """Let the loop's thread have the interpreter soon after it asks for it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class _Job:
    """A request with its id and its signature."""

    def __init__(self, transport: Transport, index: int, request: Request, phase: str):
        self.index = index
        self.request = request
        self.phase = phase
        self.inference_id = str(uuid.uuid4())
        self._transport = transport
        self.sign()

    def sign(self) -> None:
        started = time.monotonic()
        self._wire = self._transport.request(self.request.body, inference_id=self.inference_id)
        self._signed_s = time.monotonic()
        self.sign_s = self._signed_s - started

    def wire(self) -> bytes:
        """What goes over the wire, with a signature that is still good."""
        if time.monotonic() - self._signed_s > _SIGNATURE_LIFE_S:
            self.sign()
        return self._wire


@dataclass(frozen=True)
class _Finished:
    user: int
    job: _Job
    exchange: Exchange


class _Users:
    """The users, on a loop of their own."""

    def __init__(
        self, transport: Transport, jobs: Sequence[_Job], *, concurrency: int, timeout_s: float
    ):
        self._transport = transport
        self._jobs = iter(jobs)  # shared by the users: who is free takes the next
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._results: queue.SimpleQueue[_Finished | BaseException | None] = queue.SimpleQueue()
        self._connections: dict[int, Connection] = {}
        self._is_stopping = False
        self._is_over = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def finished(self) -> Iterator[_Finished]:
        """Each exchange as it ends, until all users have."""
        while not self._is_over:
            result = self._results.get()
            self._is_over = not isinstance(result, _Finished)
            if isinstance(result, BaseException):
                raise result
            if result is not None:
                yield result

    def stop(self) -> None:
        """Send nothing more and give up what is in flight; also safe when all is over."""
        self._is_stopping = True
        loop = self._loop
        if loop is not None and not loop.is_closed():
            with suppress(RuntimeError):  # it may close between the question and the call
                loop.call_soon_threadsafe(self._abandon)

    def _abandon(self) -> None:
        for connection in self._connections.values():
            connection.abandon("interrupted", "the run was interrupted")

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
            self._results.put(None)
        except BaseException as error:  # handed to the caller's thread, which raises it
            self._results.put(error)

    async def _all(self) -> None:
        self._loop = asyncio.get_running_loop()
        address = self._transport.address
        try:
            opened = await asyncio.gather(
                *(Connection.open(address) for _ in range(self._concurrency))
            )
        except OSError as error:  # a time-out is one as well
            raise InvocationError(
                f"Nothing answers at {address.host}:{address.port} ({error or 'timed out'}): is "
                "the endpoint's region right, and is the network or the rehearsal up?",
                kind="connection",
            ) from error
        self._connections = dict(enumerate(opened))
        await asyncio.gather(*(self._user(number) for number in range(self._concurrency)))

    async def _user(self, number: int) -> None:
        # Not `for job in self._jobs`: a job taken while stopping would be neither sent nor told.
        while not self._is_stopping and (job := next(self._jobs, None)) is not None:
            exchange = await self._exchange(number, job.wire())
            self._results.put(_Finished(number, job, exchange))
        self._connections[number].close()

    async def _exchange(self, number: int, wire: bytes) -> Exchange:
        started = time.monotonic()
        if not self._connections[number].is_usable:
            try:
                self._connections[number] = await Connection.open(self._transport.address)
            except OSError as error:
                failure = Failure("connection", str(error) or "timed out")
                return Exchange(sent_s=started, ended_s=time.monotonic(), failure=failure)
            if self._is_stopping:  # since it began to connect
                failure = Failure("interrupted", "the run was interrupted")
                return Exchange(sent_s=started, ended_s=time.monotonic(), failure=failure)
        return await self._connections[number].send(wire, timeout_s=self._timeout_s)


def _record(finished: _Finished, transport: Transport) -> RequestRecord:
    job, exchange = finished.job, finished.exchange
    reading = transport.read(exchange)
    chunk_s, usage = tuple(reading.chunk_s), reading.usage
    counted = bool(usage and usage.output_tokens)
    prompt_counted = bool(usage and usage.prompt_tokens)
    return RequestRecord(
        index=job.index,
        user=finished.user,
        phase=job.phase,
        inference_id=job.inference_id,
        sent_s=exchange.sent_s,
        first_s=chunk_s[0] if chunk_s else None,
        last_s=chunk_s[-1] if chunk_s else None,
        ended_s=exchange.ended_s,
        chunk_s=chunk_s,
        connect_s=exchange.connect_s,
        sign_s=job.sign_s,
        send_s=exchange.send_s,
        prompt_tokens=usage.prompt_tokens if prompt_counted else job.request.prompt_tokens,
        prompt_source="usage" if prompt_counted else job.request.prompt_source,
        output_tokens=usage.output_tokens if counted else len(chunk_s),
        tokens_source="usage" if counted else "chunks",
        counts={"chunks": len(chunk_s)} | ({"usage": usage.output_tokens} if counted else {}),
        asked_tokens=job.request.output_tokens,
        finish_reason=reading.finish_reason,
        error=reading.failure,
    )
