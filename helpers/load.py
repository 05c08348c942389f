"""The load engine: who sends when, on one asyncio loop in a thread of its own.

Requests are built and signed and connections are open before the clock starts. The loop only
writes and stamps; decoding happens in the calling thread once a stream has ended. One attempt, no
retries, no pool limit: an error is a record like any other.
"""

import asyncio
import gc
import itertools
import math
import platform
import queue
import random
import resource
import sys
import threading
import time
import uuid
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from helpers.connection import Connection, Exchange
from helpers.errors import InvocationError
from helpers.records import ClientHealth, Failure, RequestRecord
from helpers.transport import Reading, Transport

# SageMaker ends a stream after 8 minutes; later than that nothing can come.
TIMEOUT_S = 500.0
# SigV4 signatures are accepted for five minutes; older ones are renewed before they are sent.
_SIGNATURE_LIFE_S = 240.0
# Python's default lets decoding hold the interpreter for 5 ms while a stamp waits.
_SWITCH_INTERVAL_S = 0.0005
_SIGNED_AHEAD = 512  # requests that are ready to be sent; one more is signed for each that ends
_SPARE_CONNECTIONS = 16  # kept open for arrivals to come: how many run at once is not known
_HEARTBEAT_S = 0.05  # to wake an idle loop costs 0.1 ms of CPU


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


# --- patterns of load -----------------------------------------------------------------------------


@dataclass(frozen=True)
class ClosedLoop:
    """N users, each sending its next request when its last one has ended.

    Attributes:
        users: How many.
        think_s: Real seconds that a user waits after an answer.
    """

    users: int
    think_s: float = 0.0


@dataclass(frozen=True)
class Rounds:
    """N requests at once, and the next N when all of these have ended, as llmperf does it.

    While the slowest of a round is still running the others wait: the asked concurrency is there
    at the beginning of each round only.

    Attributes:
        users: Requests in a round.
    """

    users: int


@dataclass(frozen=True)
class Arrivals:
    """Requests by a schedule, whatever has become of earlier ones.

    Attributes:
        times_s: When to send each, real seconds after the start, ascending.
    """

    times_s: tuple[float, ...]

    @classmethod
    def constant(cls, rate_per_s: float, *, count: int) -> "Arrivals":
        """Equal distances."""
        return cls(tuple(number / rate_per_s for number in range(count)))

    @classmethod
    def poisson(
        cls, rate_per_s: float, *, count: int, warmup: int = 0, seed: int = 0
    ) -> "Arrivals":
        """Independent arrivals, as of many people who know nothing of each other.

        Twenty drawn gaps are easily a quarter too long together. They are stretched, so that those
        after the warm-up have the asked rate exactly: else each figure would be of another rate.
        """
        generator = random.Random(seed)
        gaps = [generator.expovariate(rate_per_s) for _ in range(count)]
        measured = gaps[warmup + 1 :]
        stretch = len(measured) / rate_per_s / sum(measured) if measured else 1.0
        return cls(tuple(itertools.accumulate(gap * stretch for gap in gaps)))


Pattern = ClosedLoop | Rounds | Arrivals
OnRecord = Callable[[RequestRecord], None]
CountTokens = Callable[[str], int]


def drive(
    transport: Transport,
    requests: Iterable[Request],
    pattern: Pattern,
    *,
    on_record: OnRecord,
    warmup: int = 0,
    duration_s: float | None = None,
    timeout_s: float = TIMEOUT_S,
    count_tokens: CountTokens | None = None,
    part: int = 0,
    starts_at: Callable[[], float] = time.monotonic,
) -> ClientHealth:
    """Send requests in a pattern until none is left, or the time is over.

    The first `warmup` requests warm up; the measured ones follow without a pause, so that the
    asked load is there from the first of them on.

    Args:
        transport: The service.
        requests: What to send, warm-up first; may be endless when `duration_s` ends the run.
        pattern: Who sends when.
        on_record: Called in the calling thread with each record, soon after its request ended.
        warmup: How many requests are warm-up.
        duration_s: Real seconds after the first measured request in which new ones are sent.
        timeout_s: Real seconds after which a request is given up.
        count_tokens: The model's own tokenizer, for servers that do not count.
        part: As in `RequestRecord`.
        starts_at: Called once all connections are open and the first requests are signed; returns
            when to begin, `CLOCK_MONOTONIC` seconds. Clients on several machines agree there.

    Returns:
        How the client itself fared.

    Raises:
        ValueError: When the requests cannot make this load.
        InvocationError: When no connection can be opened; nothing was sent then.
        KeyboardInterrupt: After what was in flight has been recorded as `interrupted`.
    """
    check(pattern, requests, warmup=warmup)
    jobs = _Jobs(transport, requests, warmup=warmup, duration_s=duration_s)
    engine = _Engine(transport, jobs, pattern, timeout_s=timeout_s)

    def record_all() -> None:
        for finished in engine.finished():
            on_record(
                record_of(
                    finished.job,
                    finished.exchange,
                    transport.read(finished.exchange),
                    user=finished.user,
                    intended_s=finished.intended_s,
                    count_tokens=count_tokens,
                    part=part,
                )
            )
            if not engine.is_stopping:
                jobs.sign_one()

    with _undisturbed():
        try:
            engine.open()
            engine.start(starts_at())
            record_all()
        except BaseException:
            engine.stop()
            record_all()
            raise
        finally:
            engine.stop()
            engine.join()
    return engine.health(part)


def check(pattern: Pattern, requests: Iterable[Request], *, warmup: int) -> None:
    """Refuse what is no load.

    Raises:
        ValueError: When the requests cannot make it.
    """
    if warmup < 0:
        raise ValueError(f"Warm-up is 0 requests or more, not {warmup}.")
    if not isinstance(pattern, Arrivals) and pattern.users < 1:
        raise ValueError(f"{pattern.users} users send nothing: ask for at least one.")
    if isinstance(pattern, Arrivals) and isinstance(requests, Sized):
        given, times = len(requests), len(pattern.times_s)
        if given != times:
            raise ValueError(f"{given} requests and {times} times to send them: give one for each.")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let the loop's thread have the interpreter soon after it asks for it, and no long pauses."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.freeze()  # a notebook's pandas and figures need not be searched for garbage meanwhile
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)


# --- what is sent ---------------------------------------------------------------------------------


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


class _Jobs:
    """Requests in the order in which they are sent, signed some time ahead.

    Signing happens in the calling thread, before the start and whenever a request has ended; the
    loop's thread takes.
    """

    def __init__(
        self,
        transport: Transport,
        requests: Iterable[Request],
        *,
        warmup: int,
        duration_s: float | None,
    ):
        self._transport = transport
        self._requests = enumerate(requests)
        self._warmup = warmup
        self._duration_s = duration_s
        self._ends_s: float | None = None
        self._signed: deque[_Job] = deque()
        self._making = threading.Lock()
        while len(self._signed) < _SIGNED_AHEAD and self.sign_one():
            pass

    def sign_one(self) -> bool:
        """Make one more ready; False when there is none."""
        with self._making:
            index, request = next(self._requests, (0, None))
            if request is None:
                return False
            phase = "warmup" if index < self._warmup else "measured"
            self._signed.append(_Job(self._transport, index, request, phase))
            return True

    def take(self) -> _Job | None:
        """The next one, None when there is none or the time is over."""
        if self._ends_s is not None and time.monotonic() >= self._ends_s:
            return None
        if not self._signed and not self.sign_one():
            return None
        job = self._signed.popleft()
        if self._duration_s is not None and self._ends_s is None and job.phase == "measured":
            self._ends_s = time.monotonic() + self._duration_s
        return job


@dataclass(frozen=True)
class _Finished:
    user: int | None
    job: _Job
    exchange: Exchange
    intended_s: float | None = None


# --- sending --------------------------------------------------------------------------------------


class _Engine:
    """A pattern of load, played on a loop of its own."""

    def __init__(self, transport: Transport, jobs: _Jobs, pattern: Pattern, *, timeout_s: float):
        self._transport = transport
        self._jobs = jobs
        self._pattern = pattern
        self._timeout_s = timeout_s
        self._results: queue.SimpleQueue[_Finished | BaseException | None] = queue.SimpleQueue()
        self._opened: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self.is_stopping = False
        self._is_over = False
        self._lags_s = array("d")
        self._round_trip_s = 0.0
        self._ended_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    # called in the caller's thread

    def open(self) -> None:
        """Open all connections.

        Raises:
            InvocationError: When that is not possible.
        """
        users = getattr(self._pattern, "users", 0)
        allow_connections(users + 2 * _SPARE_CONNECTIONS)
        self._thread.start()
        if error := self._opened.get():
            self._is_over = True
            raise error

    def start(self, at_s: float) -> None:
        """Begin at a moment, now when it has passed."""
        self._started_s = max(at_s, time.monotonic())
        self._cpu_s = time.process_time()
        self._loop.call_soon_threadsafe(self._go.set_result, self._started_s)

    def finished(self) -> Iterator[_Finished]:
        """Each exchange as it ends, until all have."""
        while not self._is_over:
            result = self._results.get()
            self._is_over = not isinstance(result, _Finished)
            if isinstance(result, BaseException):
                raise result
            if result is not None:
                yield result

    def stop(self) -> None:
        """Send nothing more and give up what is in flight; also safe when all is over."""
        self.is_stopping = True
        if self._loop is not None and not self._loop.is_closed():
            with suppress(RuntimeError):  # it may close between the question and the call
                self._loop.call_soon_threadsafe(self._abandon)

    def join(self) -> None:
        """Wait for the loop's end."""
        self._thread.join()

    def health(self, part: int) -> ClientHealth:
        """How this process fared from the start until now."""
        lags_s = sorted(self._lags_s) or [0.0]
        return ClientHealth(
            host=platform.node(),
            wall_s=self._ended_s - self._started_s,
            cpu_s=time.process_time() - self._cpu_s,
            loop_lag_p50_s=lags_s[(len(lags_s) - 1) // 2],
            loop_lag_p99_s=lags_s[math.ceil(0.99 * (len(lags_s) - 1))],
            loop_lag_max_s=lags_s[-1],
            round_trip_s=self._round_trip_s,
            part=part,
        )

    # called in the loop's thread

    def _abandon(self) -> None:
        self._stopped.set()
        if not self._go.done():
            self._go.set_result(0.0)
        for connection in self._busy:
            connection.abandon("interrupted", "the run was interrupted")

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
            self._results.put(None)
        except BaseException as error:  # handed to the caller's thread, which raises it
            self._opened.put(error)
            self._results.put(error)

    async def _all(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._go, self._stopped = self._loop.create_future(), asyncio.Event()
        await self._open()
        self._opened.put(None)
        started_s = await self._go
        heart = asyncio.create_task(self._beat())
        await self._sleep_until(started_s)
        try:
            match self._pattern:
                case ClosedLoop(users, think_s):
                    await asyncio.gather(*(self._user(number, think_s) for number in range(users)))
                case Rounds(users):
                    await self._rounds(users)
                case Arrivals(times_s):
                    await self._arrivals(started_s, times_s)
        finally:
            self._ended_s = time.monotonic()
            heart.cancel()
            for connection in self._idle:
                connection.close()

    async def _open(self) -> None:
        address = self._transport.address
        count = getattr(self._pattern, "users", _SPARE_CONNECTIONS)
        try:
            self._round_trip_s = await address.round_trip_s()
            opening = (Connection.open(address) for _ in range(count))
            self._idle = list(await asyncio.gather(*opening))
        except OSError as error:  # a time-out is one as well
            raise InvocationError(
                f"Nothing answers at {address.host}:{address.port} ({error or 'timed out'}): is "
                "the region or the address right, and is the network or the server up?",
                kind="connection",
            ) from error

    async def _beat(self) -> None:
        """Notice how late the loop is: a stamp is late by as much."""
        due_s = time.monotonic()
        while True:
            due_s += _HEARTBEAT_S
            await asyncio.sleep(due_s - time.monotonic())
            late_s = time.monotonic() - due_s
            self._lags_s.append(late_s)
            due_s += max(0.0, late_s)

    async def _sleep_until(self, at_s: float) -> None:
        """Sleep, but not beyond an interrupt."""
        if (left_s := at_s - time.monotonic()) > 0 and not self.is_stopping:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), left_s)

    def _take(self) -> _Job | None:
        # Not taken while stopping: it would be neither sent nor told.
        return None if self.is_stopping else self._jobs.take()

    async def _user(self, number: int, think_s: float) -> None:
        while job := self._take():
            await self._send(job, user=number)
            await self._sleep_until(time.monotonic() + think_s)

    async def _rounds(self, users: int) -> None:
        while jobs := list(itertools.takewhile(bool, (self._take() for _ in range(users)))):
            await asyncio.gather(*(self._send(job, user=n) for n, job in enumerate(jobs)))

    async def _arrivals(self, started_s: float, times_s: tuple[float, ...]) -> None:
        running = set()
        for time_s in times_s:
            await self._sleep_until(started_s + time_s)
            if (job := self._take()) is None:
                break
            running.add(task := asyncio.create_task(self._send(job, due_s=started_s + time_s)))
            task.add_done_callback(running.discard)
            if len(self._idle) < _SPARE_CONNECTIONS:
                running.add(spare := asyncio.create_task(self._spare()))
                spare.add_done_callback(running.discard)
        while running:
            await asyncio.wait(running)

    async def _spare(self) -> None:
        with suppress(OSError):  # whoever needs it will be told
            self._idle.append(await Connection.open(self._transport.address))

    async def _send(
        self, job: _Job, *, user: int | None = None, due_s: float | None = None
    ) -> None:
        self._results.put(_Finished(user, job, await self._exchange(job), due_s))

    async def _exchange(self, job: _Job) -> Exchange:
        started_s = time.monotonic()
        try:
            connection = self._fresh() or await Connection.open(self._transport.address)
        except OSError as error:
            failure = Failure("connection", str(error) or "timed out")
            return Exchange(sent_s=started_s, ended_s=time.monotonic(), failure=failure)
        if self.is_stopping:  # since it began to connect
            connection.close()
            failure = Failure("interrupted", "the run was interrupted")
            return Exchange(sent_s=started_s, ended_s=time.monotonic(), failure=failure)
        self._busy.add(connection)
        try:
            return await connection.send(job.wire(), timeout_s=self._timeout_s)
        finally:
            self._busy.discard(connection)
            if connection.is_usable:
                self._idle.append(connection)

    def _fresh(self) -> Connection | None:
        """The connection that was used last, for it is the least likely to have gone stale."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            connection.close()
        return None


def allow_connections(count: int) -> None:
    """Raise this process's limit of open files, as far as the system allows."""
    wanted = count + 256  # what a process needs besides
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


# --- what came of it ------------------------------------------------------------------------------


def record_of(
    job,
    exchange: Exchange,
    reading: Reading,
    *,
    user: int | None,
    intended_s: float | None = None,
    count_tokens: CountTokens | None = None,
    part: int = 0,
) -> RequestRecord:
    """The record of a request that has ended.

    Args:
        job: What was sent: its `index`, `request`, `phase`, `inference_id` and `sign_s`.
        exchange: What the socket saw.
        reading: What the answer contained.
        user: Who sent it, None for a schedule.
        intended_s: When a schedule wanted it sent.
        count_tokens: The model's own tokenizer.
        part: As in `RequestRecord`.
    """
    chunk_s, usage = tuple(reading.chunk_s), reading.usage
    counts = _counts(reading, count_tokens)
    source = next(iter(counts))
    sent_s = exchange.sent_s if intended_s is None else intended_s
    prompt_counted = bool(usage and usage.prompt_tokens)
    return RequestRecord(
        index=job.index,
        user=user,
        phase=job.phase,
        inference_id=job.inference_id,
        sent_s=sent_s,
        first_s=chunk_s[0] if chunk_s else None,
        last_s=chunk_s[-1] if chunk_s else None,
        ended_s=exchange.ended_s,
        chunk_s=chunk_s,
        connect_s=exchange.connect_s,
        sign_s=job.sign_s,
        send_s=exchange.send_s,
        prompt_tokens=usage.prompt_tokens if prompt_counted else job.request.prompt_tokens,
        prompt_source="usage" if prompt_counted else job.request.prompt_source,
        output_tokens=counts[source],
        tokens_source=source,
        asked_tokens=job.request.output_tokens,
        finish_reason=reading.finish_reason,
        error=reading.failure,
        counts=counts,
        dispatch_s=exchange.sent_s - sent_s,
        part=part,
    )


def _counts(reading: Reading, count_tokens: CountTokens | None) -> dict[str, int]:
    """Output tokens by every source there is, the most trusted one first."""
    counts = {}
    if reading.usage and reading.usage.output_tokens:
        counts["usage"] = reading.usage.output_tokens
    if count_tokens and reading.text:
        counts["tokenizer"] = count_tokens(reading.text)
    return counts | {"chunks": len(reading.chunk_s)}
