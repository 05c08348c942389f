"""What the records of a run say, by definitions that are written down.

| metric | definition |
|---|---|
| time to first token (TTFT) | first content − sent |
| inter-token latency (ITL) | each gap between consecutive content chunks |
| time per output token (TPOT) | (last content − first content) / (output tokens − 1) |
| end-to-end latency | last content − sent |
| output throughput | output tokens in the window / window; the prompt is never counted |
| total throughput | (prompt + output tokens) in the window / window |
| requests a second | completed requests that ended in the window, warm-up too, / window |
| mean concurrency | seconds that all requests together were in flight in the window / window |
| goodput | share of the measured requests that meet every limit × requests answered a second |
| cost | instance $/h / (output throughput × 3600) × 10⁶, for a million output tokens |
| offered, sent | requests a second of an arrival schedule, as intended and as really sent |
| dispatch | first byte really written − intended time of an arrival |

Sent is the moment before the first byte is written; of an arrival it is the intended time, or a
slow client would hide its own delay. Failed and interrupted requests have no latency; failed ones
meet no limit, interrupted ones are neither good nor bad.

The window is the time in which the asked load was really there:

| load | opens with | closes when | a request belongs to it that |
|---|---|---|---|
| closed loop | the first measured request, all users at work | a user has no more | ended in it |
| rounds | the first measured request | the last measured one has ended | ended in it |
| arrivals | the first measured arrival | the last one is due | was due in it, whenever it ended |

Tokens belong to it by the stamp of their own chunk. A run that was resumed has a window in each
part; their durations and tokens are added up and their latencies pooled.

Intervals are 95 % bootstrap intervals over slices of the window (helpers/intervals.py).

Records hold real seconds; everything in a summary is AWS time (real time × `clock_speed`).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
import pandas as pd

from helpers import costs, intervals
from helpers.errors import ResultsError
from helpers.records import RequestRecord

PERCENTILES = intervals.PERCENTILES
COUNTED = "output tokens only; the prompt is never counted"
_REHEARSAL_NOTE = (
    "rehearsal: simulated, nothing here was measured on AWS; each millisecond that this machine "
    "is late counts as {speed:g} ms"
)


# --- one request ----------------------------------------------------------------------------------


def ttft_s(record: RequestRecord) -> float | None:
    """Time to the first token, real seconds."""
    return None if record.first_s is None else record.first_s - record.sent_s


def latency_s(record: RequestRecord) -> float | None:
    """End-to-end latency, real seconds."""
    return None if record.last_s is None else record.last_s - record.sent_s


def tpot_s(record: RequestRecord) -> float | None:
    """Time per output token after the first, real seconds; None below two tokens."""
    if record.first_s is None or record.output_tokens < 2:
        return None
    return (record.last_s - record.first_s) / (record.output_tokens - 1)


def itl_s(record: RequestRecord) -> list[float]:
    """Gaps between consecutive chunks with text, real seconds."""
    return np.diff(record.chunk_s).tolist()


_MEASURES = {"ttft_s": ttft_s, "tpot_s": tpot_s, "latency_s": latency_s}


def is_answered(record: RequestRecord) -> bool:
    """Whether the endpoint had its chance: completed or failed, not interrupted."""
    return record.error is None or record.error.kind != "interrupted"


def is_failed(record: RequestRecord) -> bool:
    """Whether it went wrong; an interrupted request did not."""
    return record.error is not None and is_answered(record)


# --- windows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """A stretch of one part of a run, in real `CLOCK_MONOTONIC` seconds.

    Attributes:
        opens_s: Its beginning, which does not belong to it.
        closes_s: Its end, which does: what happens between two windows is counted once.
        part: As in `RequestRecord`.
    """

    opens_s: float
    closes_s: float
    part: int = 0

    @property
    def duration_s(self) -> float:
        """Its length in real seconds."""
        return self.closes_s - self.opens_s

    def holds(self, stamp_s: float | np.ndarray) -> bool | np.ndarray:
        """Whether a moment of its part, or each of them, lies in it."""
        return (self.opens_s < stamp_s) & (stamp_s <= self.closes_s)


class Windows(tuple[Window, ...]):
    """Windows of a run, at most one a part; none is false."""

    @property
    def duration_s(self) -> float:
        """Their lengths together, real seconds."""
        return sum(one.duration_s for one in self)

    def of(self, record: RequestRecord) -> Window | None:
        """The window in the record's part."""
        return next((one for one in self if one.part == record.part), None)

    def hold(self, record: RequestRecord, stamp: str) -> bool:
        """Whether a stamp of the record, named by its attribute, lies in them."""
        span = self.of(record)
        return span is not None and span.holds(getattr(record, stamp))


def windows(records: Sequence[RequestRecord], load: Mapping) -> Windows:
    """When the asked load was really there; empty when it never was.

    Args:
        records: Every record of the run.
        load: `load` of `run.json`.
    """
    find = {"closed_loop": _all_users, "rounds": _measured_rounds, "arrivals": _schedule}
    found = []
    for part, mine in _by_part(records):
        measured = [record for record in mine if record.phase == "measured"]
        span = find[load["kind"]](mine, measured, load) if measured else None
        if span and span[0] < span[1]:
            found.append(Window(*span, part=part))
    return Windows(found)


def whole(records: Sequence[RequestRecord]) -> Windows:
    """From the first byte sent to the end of the last reply, warm-up included."""
    found = (
        Window(min(one.sent_s for one in mine), max(one.ended_s for one in mine), part)
        for part, mine in _by_part(records)
    )
    return Windows(one for one in found if one.duration_s > 0)


def within(
    records: Sequence[RequestRecord], spans: Windows, *, kind: str, warmup: bool = False
) -> list[RequestRecord]:
    """The requests that belong to windows, whatever became of them.

    Args:
        records: Every record of the run.
        spans: The windows.
        kind: The load's kind, which decides by which moment a request belongs.
        warmup: Whether warm-up requests can belong to them as well.
    """

    def belongs(record: RequestRecord) -> bool:
        if kind != "arrivals":
            return spans.hold(record, "ended_s")
        span = spans.of(record)  # the first arrival opens it and belongs to it
        return span is not None and span.opens_s <= record.sent_s <= span.closes_s

    return [one for one in records if (warmup or one.phase == "measured") and belongs(one)]


def _by_part(records: Sequence[RequestRecord]) -> Iterator[tuple[int, list[RequestRecord]]]:
    parts = defaultdict(list)
    for record in records:
        parts[record.part].append(record)
    return iter(sorted(parts.items()))


def _all_users(mine: list, measured: list, load: Mapping) -> tuple[float, float] | None:
    by_user = defaultdict(list)
    for record in mine:
        by_user[record.client, record.user].append(record)
    if len(by_user) < load["concurrency"]:
        return None
    all_running_s = max(min(one.sent_s for one in theirs) for theirs in by_user.values())
    first_idle_s = min(max(one.ended_s for one in theirs) for theirs in by_user.values())
    return max(all_running_s, min(one.sent_s for one in measured)), first_idle_s


def _measured_rounds(mine: list, measured: list, load: Mapping) -> tuple[float, float]:
    return min(one.sent_s for one in measured), max(one.ended_s for one in measured)


def _schedule(mine: list, measured: list, load: Mapping) -> tuple[float, float]:
    intended_s = [one.sent_s for one in measured]
    return min(intended_s), max(intended_s)


# --- what belongs to windows, and how sure it is -------------------------------------------------


class _Sample:
    """The requests that belong to windows, and the slices by which they are drawn again.

    Attributes:
        complete: Those with a latency.
        slices: The windows in equal slices; none when there would be fewer than five.
        why_none: Why there are no slices, None when there are.
    """

    def __init__(
        self, records: Sequence[RequestRecord], spans: Windows, *, kind: str, warmup: bool = False
    ):
        self._records = records
        belonging = within(records, spans, kind=kind, warmup=warmup)
        self.complete = [one for one in belonging if one.error is None and one.chunk_s]
        self.slices, self.why_none = self._cut(spans)
        stamp = "sent_s" if kind == "arrivals" else "ended_s"
        self._places = [self._place(one.part, getattr(one, stamp)) for one in self.complete]

    def _cut(self, spans: Windows) -> tuple[list[Window], str | None]:
        took_s = [latency_s(record) for record in self.complete]
        if not took_s:
            return [], "no intervals: no request was completed in the window"
        median_s = float(np.median(took_s))
        least_s = max(median_s, spans.duration_s / intervals.SLICES_AT_MOST)
        found = []
        for span in spans:
            count = int(span.duration_s / least_s + 1e-9)
            edges = np.linspace(span.opens_s, span.closes_s, count + 1)
            found += [Window(*edge, part=span.part) for edge in pairwise(edges.tolist())]
        if len(found) >= intervals.SLICES_AT_LEAST:
            return found, None
        return [], (
            f"no intervals: {len(found)} slices as long as a request fit into the window and "
            f"{intervals.SLICES_AT_LEAST} are needed"
        )

    def _place(self, part: int, stamp_s: float) -> int:
        numbered = enumerate(self.slices)
        return next((n for n, one in numbered if one.part == part and stamp_s <= one.closes_s), -1)

    def values(self, measure, *, clock_speed: float) -> tuple[list[float], list[int]]:
        """A measure of each request that has it, AWS seconds, and the slices they are in."""
        found = zip(map(measure, self.complete), self._places, strict=True)
        known = [(value * clock_speed, place) for value, place in found if value is not None]
        return [value for value, _ in known], [place for _, place in known]

    def rates(self, drawn: np.ndarray, *, clock_speed: float) -> np.ndarray:
        """Output tokens an AWS second in each resample."""
        output, _ = _tokens_in(self._records, self.slices)
        lengths_s = np.array([one.duration_s for one in self.slices]) * clock_speed
        return drawn @ output / (drawn @ lengths_s)


# --- the figures of windows -----------------------------------------------------------------------


def figures(
    records: Sequence[RequestRecord],
    spans: Windows,
    *,
    kind: str,
    clock_speed: float,
    price_per_hour: float | None,
    warmup: bool = False,
) -> dict:
    """All metrics over windows, in AWS time.

    Args:
        records: Every record of the run.
        spans: The windows, at least one.
        kind: The load's kind.
        clock_speed: AWS seconds in a real second.
        price_per_hour: $ an hour for all instances of the endpoint; None when nobody knows.
        warmup: Whether latencies of warm-up requests are among the figures. Their tokens always
            are: they were part of the load.
    """
    sample = _Sample(records, spans, kind=kind, warmup=warmup)
    duration_s, slices = spans.duration_s * clock_speed, len(sample.slices)
    output, prompt = (counted.sum() for counted in _tokens_in(records, spans))
    rate = float(output) / duration_s
    per_s = _per_s([one for one in records if one.error is None], spans, clock_speed=clock_speed)

    def spread(measure):
        values, places = sample.values(measure, clock_speed=clock_speed)
        return intervals.distribution(values, places=places, slices=slices)

    return {
        "duration_s": duration_s,
        "requests": len(sample.complete),
        "requests_per_s": per_s,
        "mean_concurrency": busy_s(records, spans) / spans.duration_s,
        "output_tokens": float(output),
        "output_tokens_per_s": rate,
        "total_tokens_per_s": float(prompt + output) / duration_s,
        "cost_per_million_output_tokens_usd": _cost(rate, price_per_hour),
        "slices": slices,
        "ci95": _intervals(sample, clock_speed=clock_speed, price_per_hour=price_per_hour),
        "ci95_missing": sample.why_none,
        "ttft_s": spread(ttft_s),
        "tpot_s": spread(tpot_s),
        # A hundred times as many as requests: drawing them a thousand times would take minutes.
        "itl_s": intervals.distribution(_gaps_s(sample.complete) * clock_speed),
        "latency_s": spread(latency_s),
    }


def _intervals(
    sample: _Sample, *, clock_speed: float, price_per_hour: float | None
) -> dict[str, list[float]]:
    """Of the output throughput, and of the cost that follows from it."""
    if not sample.slices:
        return {}
    drawn = intervals.draws(len(sample.slices))
    low, high = intervals.interval(sample.rates(drawn, clock_speed=clock_speed))
    cheapest, dearest = _cost(high, price_per_hour), _cost(low, price_per_hour)
    found = {"output_tokens_per_s": [low, high]}
    if dearest is not None:
        found["cost_per_million_output_tokens_usd"] = [cheapest, dearest]
    return found


def busy_s(records: Sequence[RequestRecord], spans: Windows) -> float:
    """How long all requests together were in flight in windows, real seconds."""
    return _overlap_s(((one, one.sent_s, one.ended_s) for one in records), spans)


def thinking_s(records: Sequence[RequestRecord], spans: Windows, *, think_s: float) -> float:
    """How long all users together were thinking in windows.

    Args:
        records: Every record of the run.
        spans: The windows.
        think_s: Real seconds for which a user thinks after each request.
    """
    return _overlap_s(((one, one.ended_s, one.ended_s + think_s) for one in records), spans)


def _overlap_s(stretches: Iterable[tuple[RequestRecord, float, float]], spans: Windows) -> float:
    total_s = 0.0
    for record, begins_s, ends_s in stretches:
        if span := spans.of(record):
            total_s += max(0.0, min(ends_s, span.closes_s) - max(begins_s, span.opens_s))
    return total_s


def _per_s(
    records: Sequence[RequestRecord],
    spans: Windows,
    *,
    clock_speed: float,
    stamp: str = "ended_s",
) -> float:
    """Requests an AWS second that have their stamp in windows."""
    inside = sum(spans.hold(record, stamp) for record in records)
    return inside / (spans.duration_s * clock_speed)


def _cost(rate: float, price_per_hour: float | None) -> float | None:
    if price_per_hour is None or rate <= 0:
        return None
    return costs.per_million_tokens(rate, price_per_hour=price_per_hour)


def _tokens_in(
    records: Sequence[RequestRecord], spans: Sequence[Window]
) -> tuple[np.ndarray, np.ndarray]:
    """Output and prompt tokens of each window; of failed requests none: nobody could use them."""
    output, prompt = np.zeros(len(spans)), np.zeros(len(spans))
    for part in {span.part for span in spans}:
        useful = [r for r in records if r.part == part and r.chunk_s and not is_failed(r)]
        chunks = [len(record.chunk_s) for record in useful]
        stamps_s = np.fromiter(chain.from_iterable(r.chunk_s for r in useful), float, sum(chunks))
        tokens = np.repeat([r.output_tokens / len(r.chunk_s) for r in useful], chunks)
        firsts_s = np.array([record.first_s for record in useful])
        prompts = np.array([record.prompt_tokens for record in useful])
        for place, span in enumerate(spans):
            if span.part == part:
                output[place] = tokens[span.holds(stamps_s)].sum()
                prompt[place] = prompts[span.holds(firsts_s)].sum()
    return output, prompt


def _gaps_s(records: Sequence[RequestRecord]) -> np.ndarray:
    """Every gap between consecutive chunks of the same reply, real seconds."""
    chunks = [len(record.chunk_s) for record in records]
    stamps_s = np.fromiter(chain.from_iterable(r.chunk_s for r in records), float, sum(chunks))
    is_first = np.zeros(stamps_s.size, dtype=bool)
    is_first[np.cumsum([0, *chunks])[:-1]] = True
    return np.diff(stamps_s)[~is_first[1:]]


def _arrivals(records: Sequence[RequestRecord], spans: Windows, *, clock_speed: float) -> dict:
    """What a schedule asked for, and what came of it, in AWS time."""
    mine = within(records, spans, kind="arrivals")
    real_s = {span.part: [] for span in spans}
    for record in mine:
        real_s[record.part].append(record.sent_s + record.dispatch_s)
    took_s = sum(max(stamps) - min(stamps) for stamps in real_s.values())
    gaps = len(mine) - len(real_s)
    complete = [record for record in records if record.error is None]
    return {
        "offered_per_s": gaps / (spans.duration_s * clock_speed),
        # All at once, after a standstill, has no rate of its own.
        "sent_per_s": gaps / ((took_s or spans.duration_s) * clock_speed),
        "completed_per_s": _per_s(complete, spans, clock_speed=clock_speed),
        "dispatch_s": intervals.distribution([one.dispatch_s * clock_speed for one in mine]),
    }


def goodput(
    records: Sequence[RequestRecord],
    *,
    load: Mapping,
    limits: Mapping[str, float],
    clock_speed: float = 1.0,
) -> dict | None:
    """How many requests meet every limit, over the window and in AWS time.

    Args:
        records: Every record of the run.
        load: `load` of `run.json`.
        limits: Seconds by metric, e.g. `{"ttft_s": 2.0, "tpot_s": 0.06}`; also `latency_s`.
        clock_speed: AWS seconds in a real second.

    Returns:
        `limits`, `share` (of the measured requests that were answered in the window, well or not)
        and `requests_per_s` (that share of all requests answered a second); without a window None
        for both. None without limits.

    Raises:
        ResultsError: When a limit is for no metric there is, or no positive number.
    """
    check_limits(limits)
    if not limits:
        return None
    spans, kind = windows(records, load), load["kind"]
    answered = [record for record in records if is_answered(record)]
    asked = within(answered, spans, kind=kind)
    if not asked:
        return {"limits": dict(limits), "share": None, "requests_per_s": None}

    def is_good(record: RequestRecord) -> bool:
        values = {name: _MEASURES[name](record) for name in limits}
        return record.error is None and all(
            value is not None and value * clock_speed <= limits[name]
            for name, value in values.items()
        )

    share = sum(map(is_good, asked)) / len(asked)
    stamp = "sent_s" if kind == "arrivals" else "ended_s"
    per_s = _per_s(answered, spans, clock_speed=clock_speed, stamp=stamp)
    return {"limits": dict(limits), "share": share, "requests_per_s": share * per_s}


def check_limits(limits: Mapping[str, float]) -> None:
    """Refuse limits of goodput that mean nothing.

    Raises:
        ResultsError: When one is for no metric there is, or is no time.
    """
    for name, value in limits.items():
        if name not in _MEASURES:
            raise ResultsError(
                f"There is no limit {name!r}: choose among {', '.join(_MEASURES)}, in seconds."
            )
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ResultsError(
                f"The limit of {name} is a number of seconds above 0, not {value!r}."
            )


# --- the whole run --------------------------------------------------------------------------------


def summary(
    records: Sequence[RequestRecord],
    *,
    load: Mapping,
    price_per_hour: float | None,
    clock_speed: float = 1.0,
    target: str = "aws",
    limits: Mapping[str, float] | None = None,
) -> dict:
    """What a run measured, ready for JSON; AWS time throughout.

    Args:
        records: Every record of the run.
        load: `load` of `run.json`.
        price_per_hour: $ an hour for all instances of the endpoint; None when nobody knows.
        clock_speed: AWS seconds in a real second.
        target: `rehearsal`, `aws` or `server`.
        limits: As in `goodput`.

    Returns:
        `target`, `requests` (asked of the endpoint, by outcome), `tokens` (which, how counted),
        `window` (None when the asked load was never there), `whole_run` and `goodput`.

    Raises:
        ResultsError: When a limit makes no sense.
    """
    shared = {"clock_speed": clock_speed, "price_per_hour": price_per_hour}
    kind, spans, everything = load["kind"], windows(records, load), whole(records)
    inside = figures(records, spans, kind=kind, **shared) if spans else None
    if inside and kind == "arrivals":
        inside |= _arrivals(records, spans, clock_speed=clock_speed)
    note = {"note": _REHEARSAL_NOTE.format(speed=clock_speed)} if target == "rehearsal" else {}
    return {
        "target": target,
        **note,
        **shared,
        "requests": _outcomes(records),
        "tokens": _tokens(records),
        "window": inside,
        "whole_run": (
            figures(records, everything, kind=kind, **shared, warmup=True) if everything else None
        ),
        "goodput": goodput(records, load=load, limits=limits or {}, clock_speed=clock_speed),
    }


def _outcomes(records: Sequence[RequestRecord]) -> dict:
    measured = [record for record in records if record.phase == "measured"]
    kinds = Counter(record.error.kind for record in measured if record.error)
    interrupted = kinds.pop("interrupted", 0)
    complete = sum(record.error is None for record in measured)
    answered = complete + kinds.total()
    return {
        "warmup": len(records) - len(measured),
        "measured": len(measured),
        "complete": complete,
        "errors": kinds.total(),
        "error_rate": kinds.total() / answered if answered else None,
        "errors_by_kind": dict(sorted(kinds.items())),
        "interrupted": interrupted,
    }


def _tokens(records: Sequence[RequestRecord]) -> dict:
    complete = [record for record in records if record.error is None]

    def mean(values):
        return float(np.mean(values)) if values else None

    return {
        "counted": COUNTED,
        "output_source": dict(Counter(record.tokens_source for record in complete)),
        "output_by_source": dict(sum((Counter(record.counts) for record in complete), Counter())),
        "prompt_source": dict(Counter(record.prompt_source for record in complete)),
        "asked_mean": mean([record.asked_tokens for record in complete]),
        "output_mean": mean([record.output_tokens for record in complete]),
        "prompt_mean": mean([record.prompt_tokens for record in complete]),
        "finish_reasons": dict(Counter(str(record.finish_reason) for record in complete)),
    }


# --- tables ---------------------------------------------------------------------------------------


def table(runs) -> pd.DataFrame:
    """One row a run, figures of its window, units in the headers; `target` comes last.

    Closed loops without thinking have their users and nothing else. As soon as another load is
    among the runs, `load` says in words what each was, and next to `users` (empty for arrivals)
    stand the requests a second that were asked for and completed. Where a run has limits, so do
    its good requests a second.
    """
    runs = list(runs)
    rows = [_row(run) for run in runs]
    frame = pd.DataFrame(rows).round(2)
    if frame[_GOOD].isna().all():
        frame = frame.drop(columns=_GOOD)
    if all(_is_plain(run) for run in runs):
        return frame.drop(columns=["load", *_RATES], errors="ignore")
    frame["users"] = frame["users"].astype("Int64")
    if all(run.config["load"]["kind"] != "arrivals" for run in runs):
        frame = frame.drop(columns=list(_RATES))
    return frame


_RATES = ("asked requests/s", "completed requests/s")
_GOOD = "good requests/s"


def _row(run) -> dict:
    asked, inside, load = run.summary["requests"], run.summary["window"], run.config["load"]
    audit = run.summary.get("audit")
    return {
        "recipe": run.config["endpoint"].get("recipe") or run.config["endpoint"]["name"],
        "load": _load_in_words(load),
        "users": load["concurrency"],
        _RATES[0]: float("nan") if load["rate_per_s"] is None else load["rate_per_s"],
        _RATES[1]: _at(inside, "requests_per_s"),
        "requests": asked["complete"],
        "errors": asked["errors"],
        "output tokens/s": _at(inside, "output_tokens_per_s"),
        "TTFT p50 (s)": _at(inside, "ttft_s", "p50"),
        "TTFT p90 (s)": _at(inside, "ttft_s", "p90"),
        "TPOT p50 (ms)": _at(inside, "tpot_s", "p50", scale=1000),
        "latency p50 (s)": _at(inside, "latency_s", "p50"),
        "$ per 1M output tokens": _at(inside, "cost_per_million_output_tokens_usd"),
        _GOOD: _at(run.summary.get("goodput"), "requests_per_s"),
        "valid": "unknown" if audit is None else "yes" if audit["valid"] else "NO",
        "target": run.target,
    }


def _is_plain(run) -> bool:
    return _load_in_words(run.config["load"]) == "closed loop"


def _load_in_words(load: Mapping) -> str:
    if load["kind"] == "arrivals":
        return f"{load['process']} arrivals"
    if load["kind"] == "rounds":
        return "rounds"
    return f"closed loop, {load['think_s']:g} s to think" if load["think_s"] else "closed loop"


def percentile_table(run) -> pd.DataFrame:
    """One row a metric of the run's window; a percentile that n does not support is empty."""
    rows = []
    for name, label, scale in (
        ("ttft_s", "TTFT (s)", 1),
        ("tpot_s", "TPOT (ms)", 1000),
        ("itl_s", "ITL (ms)", 1000),
        ("latency_s", "latency (s)", 1),
    ):
        row = {"metric": label}
        for statistic in ("mean", *(f"p{p}" for p in PERCENTILES)):
            row[statistic] = _at(run.summary["window"], name, statistic, scale=scale)
        rows.append(row | {"target": run.target})
    return pd.DataFrame(rows).round(2)


# --- two runs -------------------------------------------------------------------------------------

_COMPARED = (
    ("TTFT p50 (s)", "ttft_s", "p50", 1),
    ("TTFT mean (s)", "ttft_s", "mean", 1),
    ("TPOT p50 (ms)", "tpot_s", "p50", 1000),
    ("latency p50 (s)", "latency_s", "p50", 1),
)
_SAME_LOAD = (
    "kind",
    "concurrency",
    "think_s",
    "rate_per_s",
    "process",
    "input_tokens",
    "input_tokens_stddev",
    "output_tokens",
    "output_tokens_stddev",
)


def compare(one_run, other_run) -> pd.DataFrame:
    """Whether two runs differ by more than their own noise, over their windows.

    The noise is that within the runs. What differs from day to day or from machine to machine is
    not in it: repeat runs for that. Of twenty figures that do not differ, expect one or two that
    are called larger than the noise.

    Args:
        one_run: A run.
        other_run: Another of the same target.

    Returns:
        `metric` with its unit, `first run`, `second run`, `difference` (second − first), its 95 %
        interval from `95 % low` to `95 % high`, `verdict` and `target`. Where the runs had
        different loads, or one is not valid, a last row and `attrs["note"]` say so.

    Raises:
        ResultsError: When one of them is a rehearsal and the other was measured.
    """
    runs = (one_run, other_run)
    targets = {run.target for run in runs}
    if "rehearsal" in targets and len(targets) > 1:
        raise ResultsError(
            "One of these runs is a rehearsal and the other was measured: what is simulated says "
            "nothing about a measurement, so choose two runs of the same target."
        )
    values = [_compared_values(run) for run in runs]
    drawn = [_compared_draws(run, seed=seed) for seed, run in enumerate(runs)]
    rows = [
        _difference(name, *(of[name] for of in values), drawn=[of.get(name) for of in drawn])
        for name in values[0]
    ]
    note = _why_not_comparable(*runs)
    if note:
        rows.append({"metric": "note", "verdict": note})
    frame = pd.DataFrame(rows).round(2)
    numbers = frame.select_dtypes("number").columns
    frame[numbers] += 0.0  # what was rounded to -0.00
    frame["target"] = " and ".join(sorted(targets))
    frame.attrs["note"] = note
    return frame


_THROUGHPUT, _COST = "output tokens/s", "$ per 1M output tokens"


def _compared_values(run) -> dict[str, float]:
    inside = run.summary["window"]
    return {
        _THROUGHPUT: _at(inside, "output_tokens_per_s"),
        **{name: _at(inside, key, what, scale=scale) for name, key, what, scale in _COMPARED},
        _COST: _at(inside, "cost_per_million_output_tokens_usd"),
    }


def _compared_draws(run, *, seed: int) -> dict[str, np.ndarray]:
    """What a thousand resamples of a run say of each metric; nothing when it is too short."""
    load, clock_speed = run.config["load"], run.config["clock_speed"]
    spans = windows(run.records, load)
    sample = _Sample(run.records, spans, kind=load["kind"])
    if not sample.slices:
        return {}
    drawn = intervals.draws(len(sample.slices), seed=seed)
    rates = sample.rates(drawn, clock_speed=clock_speed)
    found = {_THROUGHPUT: rates}
    price = run.config["price"]["usd_per_hour"]
    if price is not None and rates.all():
        found[_COST] = costs.per_million_tokens(1, price_per_hour=price) / rates
    for name, key, what, scale in _COMPARED:
        values, places = sample.values(_MEASURES[key], clock_speed=clock_speed)
        estimates = intervals.estimates(values, places, drawn=drawn, percentiles=(50,))
        found[name] = estimates[what] * scale
    return found


def _difference(name: str, first: float, second: float, *, drawn: Sequence) -> dict:
    row = {
        "metric": name,
        "first run": first,
        "second run": second,
        "difference": second - first,
        "95 % low": float("nan"),
        "95 % high": float("nan"),
        "verdict": "nothing to compare",
    }
    if math.isnan(second - first):
        return row
    if any(of is None for of in drawn) or not (bounds := intervals.interval(drawn[1] - drawn[0])):
        return row | {"verdict": "too few requests to say"}
    low, high = bounds
    # Equal but for the last digits of the stamps is equal.
    is_real = (low > 0 or high < 0) and not math.isclose(first, second, rel_tol=1e-6)
    verdict = "larger than the noise" if is_real else "within the noise"
    return row | {"95 % low": low, "95 % high": high, "verdict": verdict}


def _why_not_comparable(*runs) -> str | None:
    """One sentence when two runs measured different things, None when they did not."""
    first, second = (run.config["load"] for run in runs)
    differing = [
        f"{name} {first[name]} and {second[name]}"
        for name in _SAME_LOAD
        if first[name] != second[name]
    ]
    audits = (run.summary.get("audit") for run in runs)
    invalid = [
        place
        for place, audit in zip(("first", "second"), audits, strict=True)
        if audit is not None and not audit["valid"]
    ]
    reasons = [f"the loads differ ({', '.join(differing)})"] if differing else []
    reasons += [f"the {place} run failed its audit" for place in invalid]
    speeds = [f"{run.config['clock_speed']:g}" for run in runs]
    if speeds[0] != speeds[1]:
        reasons.append(f"AWS time ran {speeds[0]} and {speeds[1]} times as fast as real time")
    return f"This compares different things: {'; '.join(reasons)}." if reasons else None


def _at(figures: Mapping | None, *names: str, scale: float = 1.0) -> float:
    """A figure, or NaN where there is none: an empty cell that keeps its column a number."""
    for name in names:
        figures = figures[name] if figures else None
    return float("nan") if figures is None else figures * scale
