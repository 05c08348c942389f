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

from helpers import checks, metrics, timeline
from helpers.errors import ResultsError
from helpers.metrics import Windows
from helpers.records import RequestRecord
from helpers.results import Run
from helpers.twin import Timing

# Tokens that come ten times as fast as the endpoint makes them were held back on the way.
HELD_BACK = 0.1
# A run that is alone has no pause but its own prefills; a client that stumbles makes a few.
PAUSED = 0.05
# Without a prefill of this run in it, a gap between tokens of half a prefill's time, and five times
# as long as most, is no decode step.
_PREFILLS, _GAPS = 0.5, 5
# Of a run's window, what is read here and by those who hold a run against the model.
_NUMBERS = ("output_tokens_per_s", "output_tokens", "mean_concurrency", "requests")
_SPREADS = ("ttft_s", "tpot_s", "latency_s")


@dataclass(frozen=True)
class Times:
    """The endpoint's two times as observed, AWS seconds; NaN where nothing shows them.

    Attributes:
        prefill_s: One request's prefill.
        decode_step_s: One decode step.
        paused: Share of the replies' time in pauses that no prefill of this run explains.
        together: Tokens that came at a time, on average. A prefill began with the last token
            before it, so that it is told no nearer than the steps of those that came together.
    """

    prefill_s: float
    decode_step_s: float
    paused: float = 0.0
    together: float = 1.0


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

    @property
    def waited(self) -> float:
        """How many prefills' time the median request waits for its own."""
        return self.waiting / (1 - self.waiting) if self.waiting < 1 else np.inf


def check(run: Run) -> None:
    """Refuse a run that says nothing of one endpoint, or whose files do not fit together.

    Raises:
        ResultsError: One sentence that says what is wrong.
    """
    name, instances = run.path.name, run.config["endpoint"].get("instance_count") or 1
    if instances != 1:
        raise ResultsError(
            f"{name} had {instances} instances and the model is of one: take a run of one instance."
        )
    if wrong := _of_config(run.config) or _of_summary(run) or _of_records(run):
        raise ResultsError(
            f"The files of {name} do not fit together, {wrong}: restore what was altered or cut "
            "off, or repeat the run."
        )


def _of_config(config: Mapping) -> str:
    speed, load = config["clock_speed"], config["load"]
    asked = "rate_per_s" if load["kind"] == "arrivals" else "concurrency"
    if not checks.is_number(speed) or speed <= 0:
        return f"its clock_speed is {speed!r}"
    if not checks.is_number(load[asked]) or load[asked] <= 0:
        return f"its {asked} is {load[asked]!r}"
    return ""


def _of_summary(run: Run) -> str:
    window, asked = run.summary["window"], run.summary["requests"]
    count = asked.get("warmup", 0) + asked.get("measured", 0)
    if count != len(run.records):
        return f"the summary is of {count} requests and there are {len(run.records)}"
    if window is None:
        return ""
    wrong = [name for name in _NUMBERS if not checks.is_number(window.get(name))]
    wrong += [name for name in _SPREADS if not _is_spread(window.get(name))]
    wrong += [] if _are_intervals(window.get("ci95")) else ["ci95"]
    if wrong:
        return f"its summary has no {wrong[0]}"
    if not metrics.windows(run.records, run.config["load"]):
        return "the summary has figures and by its requests the asked load was never there"
    return ""


def _is_spread(figure: object) -> bool:
    """Whether it is what `intervals.distribution` makes, in so far as it is read here."""
    if not isinstance(figure, Mapping) or not _are_intervals(figure.get("ci95")):
        return False
    figures = (figure.get(name, -1) for name in ("p50", "mean"))
    return all(one is None or (checks.is_number(one) and one >= 0) for one in figures)


def _are_intervals(bounds: object) -> bool:
    """Whether it has two numbers under each name."""
    return isinstance(bounds, Mapping) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(map(checks.is_number, pair))
        for pair in bounds.values()
    )


def _of_records(run: Run) -> str:
    load = run.config["load"]
    for one in run.records:
        stamps_s = [one.sent_s, one.ended_s]
        if one.chunk_s:
            stamps_s[1:1] = one.first_s, one.last_s
        if None in stamps_s or not np.isfinite(stamps_s).all() or stamps_s != sorted(stamps_s):
            return f"request {one.index} has stamps that go backwards"
        if one.first_s == one.sent_s:
            return f"request {one.index} was answered when it was sent"
        if one.output_tokens < 0:
            return f"request {one.index} has {one.output_tokens} output tokens"
        if load["kind"] != "arrivals" and one.user is not None and one.user >= load["concurrency"]:
            return f"request {one.index} is of user {one.user} and there were {load['concurrency']}"
    return ""


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
        timing: What the endpoint is thought to be: says which first tokens are of one prefill, and
            which tokens came together.
    """
    prefills_s, steps_s, steps, paused_s, told_s = [], 0.0, 0.0, 0.0, 0.0
    tokens, came = 0, 0
    for mine in _parts(records):
        prefills_s += _prefills_s(mine, timing)
        firsts_s = np.sort([one.first_s for one in mine])
        arrivals = [_arrivals(one, HELD_BACK * timing.decode_step_s) for one in mine]
        pause_s = max(_PREFILLS * timing.prefill_s, _GAPS * _usual_gap_s(arrivals))
        for stamps_s, sizes in arrivals:
            gaps_s = np.diff(stamps_s)
            begun = np.diff(np.searchsorted(firsts_s, stamps_s, side="right"))
            foreign = (begun == 0) & (gaps_s > pause_s)
            plain = (begun == 0) & ~foreign
            steps_s += gaps_s[plain].sum()
            steps += sizes[1:][plain].sum()
            paused_s += gaps_s[foreign].sum()
            told_s += gaps_s.sum()
            tokens, came = tokens + sizes.sum(), came + len(sizes)
    return Times(
        prefill_s=float(np.median(prefills_s)) if prefills_s else np.nan,
        decode_step_s=float(steps_s / steps) if steps else np.nan,
        paused=float(paused_s / told_s) if told_s else 0.0,
        together=max(1.0, float(tokens / came)) if came else 1.0,
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
    prefill = min(1.0, begun * took.prefill_s / spans.duration_s) if begun else 0.0
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


def _arrivals(one: RequestRecord, together_s: float) -> tuple[np.ndarray, np.ndarray]:
    """When tokens of a reply came, and how many each time: nearer than this is at one time."""
    stamps_s = np.array(one.chunk_s)
    places = np.flatnonzero(np.diff(stamps_s, prepend=-np.inf) > together_s)
    sizes = np.diff(places, append=len(stamps_s))
    return stamps_s[places], sizes * one.output_tokens / len(stamps_s)


def _usual_gap_s(arrivals: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """The median gap between tokens that did not come together."""
    gaps_s = np.concatenate([np.diff(stamps_s) for stamps_s, _ in arrivals])
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
