"""What the endpoint did with its time, as far as the stamps of its requests say.

A static-batch endpoint prefills, decodes or is idle, one at a time. Its clients see the ends of all
prefills (first tokens) and of all decode steps (tokens), which is enough to take both times from
any run, whatever the load, and to divide its window among the three.

Everything here is on one clock in AWS seconds: see `aws_time`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from helpers import timeline
from helpers.metrics import Windows
from helpers.records import RequestRecord
from helpers.twin import Timing

# Without a prefill of this run in it, a gap between tokens of half a prefill's time, and five times
# as long as most, is no decode step.
_PREFILLS, _GAPS = 0.5, 5


@dataclass(frozen=True)
class Times:
    """The endpoint's two times as observed, AWS seconds; NaN where nothing shows them.

    Attributes:
        prefill_s: One request's prefill.
        decode_step_s: One decode step.
        paused: Share of the replies' time in pauses that no prefill of this run explains.
    """

    prefill_s: float
    decode_step_s: float
    paused: float = 0.0


@dataclass(frozen=True)
class Use:
    """How the endpoint's time in a window was used.

    Attributes:
        prefill: Share of the window in which it prefilled.
        idle: Share in which no request was in flight.
        filled: Slots with a request at a decode step, on average; NaN without a decode step.
        in_flight: Requests in flight, on average over the window.
        waiting: Share of the median TTFT that is not the request's own prefill.
    """

    prefill: float
    idle: float
    filled: float
    in_flight: float
    waiting: float

    @property
    def decode(self) -> float:
        """Share of the window in which it decoded."""
        return max(0.0, 1 - self.prefill - self.idle)


def aws_time(record: RequestRecord, clock_speed: float) -> RequestRecord:
    """The same request with stamps in AWS seconds."""
    names = ("sent_s", "first_s", "last_s", "ended_s")
    stamps = {name: getattr(record, name) for name in names}
    return replace(
        record,
        chunk_s=tuple(stamp * clock_speed for stamp in record.chunk_s),
        **{name: None if at is None else at * clock_speed for name, at in stamps.items()},
    )


def times(records: Sequence[RequestRecord], timing: Timing) -> Times:
    """The two times of an endpoint, from what its requests saw.

    A decode step is what passes between two tokens of a reply unless another reply began
    meanwhile. A prefill ends with its requests' first tokens and began with the last token before,
    or, on an idle endpoint, when the first of them was sent.

    Args:
        records: Requests in AWS seconds.
        timing: What the endpoint is thought to be: says which first tokens are of one prefill.
    """
    prefills_s, steps_s, steps, paused_s, told_s = [], 0.0, 0.0, 0.0, 0.0
    for mine in _parts(records):
        prefills_s += _prefills_s(mine, timing)
        firsts_s = np.sort([one.first_s for one in mine])
        pause_s = max(_PREFILLS * timing.prefill_s, _GAPS * _usual_gap_s(mine))
        for one in mine:
            stamps_s = np.array(one.chunk_s)
            gaps_s = np.diff(stamps_s)
            begun = np.diff(np.searchsorted(firsts_s, stamps_s, side="right"))
            foreign = (begun == 0) & (gaps_s > pause_s)
            plain = (begun == 0) & ~foreign
            steps_s += gaps_s[plain].sum()
            steps += plain.sum() * one.output_tokens / len(one.chunk_s)
            paused_s += gaps_s[foreign].sum()
            told_s += gaps_s.sum()
    return Times(
        prefill_s=float(np.median(prefills_s)) if prefills_s else np.nan,
        decode_step_s=float(steps_s / steps) if steps else np.nan,
        paused=float(paused_s / told_s) if told_s else 0.0,
    )


def use(
    records: Sequence[RequestRecord], spans: Windows, figures: Mapping, took: Times | Timing
) -> Use:
    """How an endpoint's time in windows was used.

    Args:
        records: Every request, in AWS seconds.
        spans: The windows, in AWS seconds.
        figures: `metrics.figures` of these windows.
        took: What a prefill and a decode step took.
    """
    begun = sum(spans.hold(one, "first_s") for one in records if one.first_s is not None)
    prefill = min(1.0, begun * took.prefill_s / spans.duration_s)
    idle = 1 - _busy_s(records, spans) / spans.duration_s
    decode_s = (1 - prefill - idle) * spans.duration_s
    later = figures["output_tokens"] - begun
    ttft_s = figures["ttft_s"]["p50"]
    return Use(
        prefill=prefill,
        idle=idle,
        filled=later * took.decode_step_s / decode_s if decode_s > 0 else np.nan,
        in_flight=figures["mean_concurrency"],
        waiting=max(0.0, 1 - took.prefill_s / ttft_s) if ttft_s else np.nan,
    )


def _parts(records: Iterable[RequestRecord]) -> Iterator[list[RequestRecord]]:
    """Those with a token, by parts: only the stamps of one can be compared."""
    parts = defaultdict(list)
    for record in records:
        if record.chunk_s:
            parts[record.part].append(record)
    return iter(parts.values())


def _usual_gap_s(mine: Sequence[RequestRecord]) -> float:
    """The median gap between tokens; those of nothing were read together."""
    gaps_s = np.concatenate([np.diff(one.chunk_s) for one in mine])
    gaps_s = gaps_s[gaps_s > 0]
    return float(np.median(gaps_s)) if gaps_s.size else 0.0


def _prefills_s(mine: Sequence[RequestRecord], timing: Timing) -> list[float]:
    """What the prefills took, each divided by its requests."""
    tokens_s = np.sort(np.concatenate([one.chunk_s for one in mine]))
    firsts_s = {place: one.first_s for place, one in enumerate(mine)}
    took_s = []
    for batch in timeline.prefilled_together(firsts_s, timing):
        ended_s = mine[batch[0]].first_s
        before = np.searchsorted(tokens_s, ended_s) - 1
        began_s = min(mine[place].sent_s for place in batch)
        if before >= 0:
            began_s = max(began_s, tokens_s[before])
        took_s.append((ended_s - began_s) / len(batch))
    return took_s


def _busy_s(records: Sequence[RequestRecord], spans: Windows) -> float:
    """How long any request was in flight in windows."""
    busy_s = 0.0
    for span in spans:
        upto_s = span.opens_s
        mine = (one for one in records if one.part == span.part)
        for one in sorted(mine, key=lambda one: one.sent_s):
            begins_s, ends_s = max(one.sent_s, upto_s), min(one.ended_s, span.closes_s)
            if begins_s < ends_s:
                busy_s += ends_s - begins_s
                upto_s = ends_s
    return busy_s
