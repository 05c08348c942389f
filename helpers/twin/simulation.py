"""A load against an endpoint in virtual time: one loop for all loads, no clock, no sleep."""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, islice, repeat
from numbers import Integral
from typing import Literal, NamedTuple

import numpy as np

from helpers import checks
from helpers.twin.scheduler import StaticBatch, Timing

_DRAWN_AT_ONCE = 1024  # numbers: few enough to cost nothing, enough for numpy to pay
_MEAN_MOVES = 0.03  # relative: how far the mean of lengths may be from what was asked for


class Served(NamedTuple):
    """One simulated request; times in seconds since the start of the run.

    Attributes:
        sent_s: When its user sent it.
        first_s: When its first token came.
        last_s: When its last token came.
        tokens: Output tokens.
        number: Its place in the order of sending, from 0.
    """

    sent_s: float
    first_s: float
    last_s: float
    tokens: int
    number: int


def serve(
    timing: Timing,
    *,
    load: Literal["closed", "rounds", "arrivals"],
    requests: int,
    lengths: Iterable[int],
    concurrency: int | None = None,
    rate_per_s: float | None = None,
    arrivals_s: Iterable[float] | None = None,
    seed: int = 0,
) -> Iterator[Served]:
    """Run a load against the endpoint in virtual time, and give each request as it ends.

    A step serves what was sent before it began; what is sent meanwhile counts from the next one.
    Requests sent at the same moment still reach the server one after the other: an idle endpoint
    prefills the first of them alone, and an answer's successor comes just too late for the step
    that starts when the answer ends.

    Only the requests in flight are kept, however many there are altogether.

    Args:
        timing: Slots and times of the endpoint.
        load: `closed`: every user sends the next request when the answer is complete. `rounds`:
            all wait until the last of them is served, as llmperf does. `arrivals`: requests come
            whatever the endpoint does, at random (Poisson) or at given times.
        requests: How many requests to serve altogether.
        lengths: Output tokens of each request in the order of sending; may go on without end.
        concurrency: Users, for `closed` and `rounds`.
        rate_per_s: Mean arrivals a second, for `arrivals`.
        arrivals_s: When they arrive, in ascending order, instead of a rate. Where there are fewer
            than `requests`, the run ends with them.
        seed: Which of the random arrivals.

    Yields:
        One entry a request, in the order of their ends.

    Raises:
        ValueError: When there are no users, no rate, no requests, or too few lengths or one that is
            no whole number; the last two at the request that has none.
    """
    if not checks.is_whole(requests):
        raise ValueError(
            f"A load needs a whole number of requests, at least one, not {requests!r}."
        )
    if load in ("closed", "rounds"):
        if not checks.is_whole(concurrency):
            raise ValueError(
                f"A load in a loop needs at least one user, and whole ones, not {concurrency!r}."
            )
        source = _Users(int(concurrency), int(requests), in_rounds=load == "rounds")
    elif load == "arrivals":
        times_s = _poisson(rate_per_s, seed) if arrivals_s is None else iter(arrivals_s)
        source = _Arrivals(islice(times_s, int(requests)))
    else:
        raise ValueError(f"A load is 'closed', 'rounds' or 'arrivals', not {load!r}.")
    return _run(timing, source, iter(lengths))


def simulate(
    timing: Timing,
    *,
    concurrency: int,
    requests: int,
    output_tokens: int | Sequence[int],
    load: Literal["closed", "rounds"] = "closed",
) -> list[Served]:
    """Run a load of users against the endpoint in virtual time; see `serve`.

    Args:
        timing: Slots and times of the endpoint.
        concurrency: Users.
        requests: How many requests to serve altogether.
        output_tokens: Tokens of every request, or one figure a request in the order of sending.
        load: `closed` or `rounds`.

    Returns:
        One entry a request, in the order of sending.

    Raises:
        ValueError: When there are no users, no requests, or too few lengths.
    """
    each = repeat(output_tokens) if isinstance(output_tokens, Integral) else output_tokens
    served = serve(timing, load=load, requests=requests, lengths=each, concurrency=concurrency)
    return sorted(served, key=lambda request: request.number)


def lengths(output_tokens: float, stddev: float = 0, seed: int = 0) -> Iterator[int]:
    """Output tokens of one request after another, without end: normal, rounded, at least 1.

    Without a deviation they are all alike, or the two whole numbers around the mean in turn.

    The mean that is asked for is the mean that comes, within 3 %. So a deviation is refused with
    which so many lengths are raised to 1 token that it would not: one of 70 % of a long mean.

    Args:
        output_tokens: Their mean.
        stddev: Their standard deviation.
        seed: Which of the random sequences.

    Raises:
        ValueError: When the mean is below one token, the deviation negative or so large that the
            mean would be another.
    """
    are_numbers = checks.is_number(output_tokens) and checks.is_number(stddev)
    if not are_numbers or output_tokens < 1 or stddev < 0:
        raise ValueError(
            f"Lengths have a mean of at least one token and a deviation of at least 0, not "
            f"{output_tokens!r} and {stddev!r}."
        )
    if not stddev:
        return _alike(output_tokens)
    comes = _mean_at_least_one(output_tokens, stddev)
    if abs(comes - output_tokens) > _MEAN_MOVES * output_tokens:
        raise ValueError(
            f"Lengths are whole and at least one token, so those of {output_tokens:g} +- "
            f"{stddev:g} would have a mean of {comes:.4g}: choose a smaller deviation."
        )
    random = np.random.default_rng((seed, 0))
    return chain.from_iterable(
        np.maximum(1, np.rint(random.normal(output_tokens, stddev, _DRAWN_AT_ONCE)))
        .astype(int)
        .tolist()
        for _ in repeat(None)
    )


def _alike(mean: float) -> Iterator[int]:
    """Whole numbers of this mean, no two of them more than 1 apart."""
    if mean == int(mean):
        return repeat(int(mean))
    return (int(mean * (number + 1)) - int(mean * number) for number in count())


def _mean_at_least_one(mean: float, stddev: float) -> float:
    """Mean of normal numbers of which those below 1 are raised to it."""
    above = (mean - 1) / stddev
    density = math.exp(-(above**2) / 2) / math.sqrt(2 * math.pi)
    return mean + stddev * density - (mean - 1) * math.erfc(above / math.sqrt(2)) / 2


class _Users:
    """Users who send again when their answer is there, or in rounds when all answers are."""

    def __init__(self, concurrency: int, requests: int, *, in_rounds: bool):
        self.next_s = math.inf  # when the next request is sent
        self._concurrency, self._in_rounds = concurrency, in_rounds
        self._left, self._sending = requests, 0
        self._send(0.0, concurrency)

    def sent(self) -> None:
        """The next request has reached the server."""
        self._sending -= 1
        if not self._sending:
            self.next_s = math.inf

    def after_step(self, now_s: float, *, answers: int, idle: bool) -> None:
        """A step has ended: so many answers are complete, and perhaps nothing is in flight."""
        users = (self._concurrency if idle else 0) if self._in_rounds else answers
        if users:
            self._send(now_s, users)

    def _send(self, now_s: float, users: int) -> None:
        users = min(users, self._left)
        if users:
            self.next_s = now_s
            self._sending += users
            self._left -= users


class _Arrivals:
    """Requests that come at their times, whatever the endpoint does."""

    def __init__(self, times_s: Iterator[float]):
        self._times_s = times_s
        self.next_s = 0.0
        self.sent()

    def sent(self) -> None:
        last_s, self.next_s = self.next_s, next(self._times_s, math.inf)
        if not last_s <= self.next_s:
            raise ValueError(
                f"Arrivals come in ascending order, not {self.next_s} s after {last_s} s."
            )

    def after_step(self, now_s: float, *, answers: int, idle: bool) -> None:
        pass


def _poisson(rate_per_s: float | None, seed: int) -> Iterator[float]:
    """Times of arrivals with independent, exponential gaps."""
    if rate_per_s is None or not 0 < rate_per_s < math.inf:
        raise ValueError(f"A load of arrivals needs a rate above 0 a second, not {rate_per_s}.")
    # Not the stream of the lengths: gaps and lengths of the same seed must not go together.
    random = np.random.default_rng((seed, 1))

    def times_s():
        now_s = 0.0
        while True:
            for gap_s in random.exponential(1 / rate_per_s, _DRAWN_AT_ONCE).tolist():
                now_s += gap_s
                yield now_s

    return times_s()


def _run(timing: Timing, source: _Users | _Arrivals, lengths: Iterator[int]) -> Iterator[Served]:
    batch = StaticBatch(timing)
    in_flight: dict[int, tuple[float, int]] = {}  # when it was sent, its tokens
    first_s: dict[int, float] = {}
    now_s, number = 0.0, 0

    def submit() -> None:
        nonlocal number
        tokens = next(lengths, None)
        if tokens is None:
            raise ValueError(f"A load needs a length for each request, and there are {number}.")
        in_flight[number] = source.next_s, tokens
        batch.submit(number, tokens)
        source.sent()
        number += 1

    while not batch.idle or source.next_s < math.inf:
        if batch.idle:
            now_s = max(now_s, source.next_s)
            submit()
        step = batch.next_step(_steps_until(source.next_s - now_s, timing))
        now_s += step.duration_s
        if step.kind == "prefill":
            for request in step.emits:
                first_s[request] = now_s
        for request in step.finished:
            sent_s, tokens = in_flight.pop(request)
            yield Served(sent_s, first_s.pop(request), now_s, tokens, request)
        while source.next_s < now_s:
            submit()
        source.after_step(now_s, answers=len(step.finished), idle=batch.idle)


def _steps_until(wait_s: float, timing: Timing) -> int:
    """Decode steps up to the one during which the next request is sent."""
    return sys.maxsize if wait_s == math.inf else int(wait_s / timing.decode_step_s) + 1
