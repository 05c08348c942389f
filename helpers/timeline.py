"""What each request of a run was doing when, as far as a client can tell. No drawing.

A client sees when it sent and when each token came. What it cannot see, queue apart from prefill,
is taken from `helpers.twin`: a server with static slots prefills together those requests whose
first tokens come together, one after the other, just before that moment. Where the twin does not
know the endpoint, queue and prefill stay one wait.
"""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from helpers import configured, metrics, results, twin
from helpers.errors import ResultsError, WorkshopError
from helpers.records import RequestRecord

SHOWN = 120  # requests; drawn with more of them, a bar is thinner than the line around it
_NOTHING_S = 1e-6  # what is left of a difference of floats
_PAUSE = 5  # median gaps without a token: the server is busy with something else


class Span(NamedTuple):
    """A stretch of one request; times in AWS seconds since the run's start.

    Attributes:
        kind: `wait`, or `queue` and `prefill` where they are known apart; `decode` while tokens
            come; `pause` while they do not.
        row: Where it is drawn, from 1.
        starts_s: Its begin.
        ends_s: Its end.
        is_warmup: Whether the request is in no latency figure.
    """

    kind: str
    row: int
    starts_s: float
    ends_s: float
    is_warmup: bool


class Stop(NamedTuple):
    """Where a request ended without a complete reply.

    Attributes:
        row: Where it is drawn.
        at_s: When, AWS seconds since the run's start.
        was_cut_off: The run was ended, the request did not fail.
    """

    row: int
    at_s: float
    was_cut_off: bool


@dataclass(frozen=True)
class Timeline:
    """A run as bars; times in AWS seconds since its start, breaks between its parts left out.

    Attributes:
        spans: What the requests were doing.
        stops: Requests without a complete reply.
        rows: How many there are: users, or requests in flight at most.
        windows_s: When the asked load was there, begin and end of each.
        parts_s: When each part begins; more than one when the run was resumed.
        ends_s: Where the picture ends: with the run, or where a request is left out.
        shown: Requests among the spans.
        requests: Requests of the run.
        pause_s: From how long on a gap between tokens is a pause.
        timing: By what queue and prefill are known apart, None when they are not.
    """

    spans: list[Span]
    stops: list[Stop]
    rows: int
    windows_s: list[tuple[float, float]]
    parts_s: list[float]
    ends_s: float
    shown: int
    requests: int
    pause_s: float
    timing: twin.Timing | None


def trace(run: results.Run, *, requests: int = SHOWN) -> Timeline:
    """What the requests of a run were doing, a row a user.

    Without users, a request takes the lowest row that is free when it was to be sent, so that the
    rows in use are the requests in flight.

    Args:
        run: The run.
        requests: Show only the first so many, or four a row when that is more.

    Raises:
        ResultsError: When the run has no request.
    """
    if not run.records:
        raise ResultsError(f"{run.path.name} has no request: nothing to draw.")
    clock, timing = _Clock(run), _timing(run)
    records = sorted(run.records, key=lambda record: clock.at(record.part, record.sent_s))
    rows, pause_s = _rows(records, clock), _pause_s(run)
    prefills_s = _prefills_s(records, clock, timing)
    shown = min(len(records), max(requests, 4 * max(rows)))
    left_out = records[shown] if records[shown:] else None
    kept = list(zip(records, rows, prefills_s, strict=True))[:shown]
    return Timeline(
        spans=[
            Span(kind, row, starts_s, ends_s, record.phase == "warmup")
            for record, row, prefill_s in kept
            for kind, starts_s, ends_s in _stretches(record, clock, prefill_s, pause_s)
            if ends_s - starts_s > _NOTHING_S
        ],
        stops=[
            Stop(row, clock.at(record.part, record.ended_s), record.error.kind == "interrupted")
            for record, row, _ in kept
            if record.error
        ],
        rows=max(row for _, row, _ in kept),
        windows_s=[
            (clock.at(one.part, one.opens_s), clock.at(one.part, one.closes_s))
            for one in metrics.windows(run.records, run.config["load"])
        ],
        parts_s=clock.parts_s,
        ends_s=clock.at(left_out.part, left_out.sent_s) if left_out else clock.ends_s,
        shown=shown,
        requests=len(records),
        pause_s=pause_s,
        timing=timing,
    )


class _Clock:
    """Brings a run's stamps, comparable within a part only, to AWS seconds since its start."""

    def __init__(self, run: results.Run):
        self._speed = run.config["clock_speed"]
        self._shift_s: dict[int, float] = {}
        self.parts_s: list[float] = []
        self.ends_s = 0.0
        for part in sorted({record.part for record in run.records}):
            mine = [record for record in run.records if record.part == part]
            begins_s = min(record.sent_s for record in mine) * self._speed
            self.parts_s.append(self.ends_s)
            self._shift_s[part] = self.ends_s - begins_s
            self.ends_s += max(record.ended_s for record in mine) * self._speed - begins_s

    def at(self, part: int, stamp_s: float) -> float:
        """When a stamp of a part was."""
        return stamp_s * self._speed + self._shift_s[part]


def _timing(run: results.Run) -> twin.Timing | None:
    """What the twin knows of the endpoint, None when it does not know it."""
    try:
        return configured.timing(run.config["endpoint"])
    except WorkshopError:
        return None


def _rows(records: Sequence[RequestRecord], clock: _Clock) -> list[int]:
    """A row for each, in order of sending: its user's, else the lowest that is free."""
    rows: list[int] = []
    busy: list[tuple[float, int]] = []  # until when, which
    free: list[int] = []
    for record in records:
        if record.user is not None:
            rows.append(record.user + 1)
            continue
        while busy and busy[0][0] <= clock.at(record.part, record.sent_s):
            heapq.heappush(free, heapq.heappop(busy)[1])
        rows.append(heapq.heappop(free) if free else len(busy) + 1)
        heapq.heappush(busy, (clock.at(record.part, record.ended_s), rows[-1]))
    return rows


def _pause_s(run: results.Run) -> float:
    """From how long on a gap is no usual one; gaps of nothing are chunks read together."""
    gaps_s = [gap for record in run.records for gap in metrics.itl_s(record) if gap > 0]
    return _PAUSE * float(np.median(gaps_s)) * run.config["clock_speed"] if gaps_s else math.inf


def _prefills_s(
    records: Sequence[RequestRecord], clock: _Clock, timing: twin.Timing | None
) -> list[float | None]:
    """How long before its first token each request's prefill began, None when nobody knows."""
    if timing is None:
        return [None] * len(records)
    firsts_s = {
        place: clock.at(record.part, record.first_s)
        for place, record in enumerate(records)
        if record.first_s is not None
    }
    prefills_s: list[float | None] = [None] * len(records)
    for batch in prefilled_together(firsts_s, timing):
        for place in batch:
            prefills_s[place] = min(len(batch), timing.slots) * timing.prefill_s
    return prefills_s


def prefilled_together(firsts_s: Mapping[int, float], timing: twin.Timing) -> list[list[int]]:
    """Which requests shared a prefill, by when their first tokens came.

    Two prefills end at least one's time apart, so what comes closer than half of it is of one.

    Args:
        firsts_s: When the first token of each came, AWS seconds on one clock.
        timing: What the endpoint's prefill takes.

    Returns:
        The requests' keys, a list a prefill, all in the order of their first tokens.
    """
    batches: list[list[int]] = []
    before_s = -math.inf
    for request, first_s in sorted(firsts_s.items(), key=lambda one: one[1]):
        if first_s - before_s > timing.prefill_s / 2:
            batches.append([])
        batches[-1].append(request)
        before_s = first_s
    return batches


def _stretches(
    record: RequestRecord, clock: _Clock, prefill_s: float | None, pause_s: float
) -> Iterator[tuple[str, float, float]]:
    sent_s, ended_s = clock.at(record.part, record.sent_s), clock.at(record.part, record.ended_s)
    if record.first_s is None:
        yield "wait", sent_s, ended_s
        return
    tokens_s = [clock.at(record.part, stamp_s) for stamp_s in record.chunk_s]
    if prefill_s is None:
        yield "wait", sent_s, tokens_s[0]
    else:
        prefilled_s = max(sent_s, tokens_s[0] - prefill_s)
        yield "queue", sent_s, prefilled_s
        yield "prefill", prefilled_s, tokens_s[0]
    if record.error:
        tokens_s.append(ended_s)  # it hung on for a token that never came
    begins_s = tokens_s[0]
    for before_s, after_s in pairwise(tokens_s):
        if after_s - before_s > pause_s:
            yield "decode", begins_s, before_s
            yield "pause", before_s, after_s
            begins_s = after_s
    yield "decode", begins_s, tokens_s[-1]
