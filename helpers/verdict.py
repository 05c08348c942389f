"""A run against its prediction: did the machine do what it should, and if not, what is the cause?

The twin serves the very requests of the run: the same load, the replies' actual lengths in the
order of sending, warm-up included, in AWS seconds. Both sides are then measured by the same code
over the same window (`metrics`). What the machine did with its time (`observed`) says what limits
the run, and where both differ, by which measurement.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from helpers import audit, configured, metrics, observed, results, twin
from helpers.errors import ResultsError, WorkshopError
from helpers.floor import Floor
from helpers.observed import Times, Use
from helpers.records import RequestRecord
from helpers.twin import Served, Timing
from helpers.units import ms, percent

# Calibrated on one user, the twin is within 5 % of published throughputs and 10 % of their median
# times to first token (tests/test_twin_tables.py): closer than that nothing is said to differ.
AS_PREDICTED = 0.10
# So much less in flight than in the model is noted: Little's law, audit.MISSING_USERS_NOTE.
MISSING = audit.MISSING_USERS_NOTE
# A time, or a wait in prefills, that differs by less than a prediction may explains nothing.
OTHER_TIME = 0.10
# Between the endpoint and a stamp are the network, TLS and an event loop: real seconds. Where AWS
# time runs 60 times as fast, a first token that this machine is 3 ms late to read is 0.18 s late.
LATE_S = audit.LOOP_LAG_NOTE_S / 2
# The larger part of a time, so its cause.
MOST = 0.5
# As full as 3.6 of 4 slots; a batch in steady turnover is never quite full.
FULL = 0.9
# Checks of the audit that say the client was not fit to measure. Missing users are weighed against
# other causes instead; an arrival rate that was not kept has no such measure.
_CLIENT_CHECKS = ("dispatch", "event loop", "client CPU", "clock")
_COLUMNS = (
    "output tokens/s",
    "predicted tokens/s",
    "floor tokens/s",
    "TTFT p50 (s)",
    "predicted TTFT p50 (s)",
    "TPOT p50 (ms)",
    "predicted TPOT p50 (ms)",
    "verdict",
    "limited by",
    "target",
)
# With these, what the endpoint did with its time cannot be told.
_HALF_SEEN = ("requests failed", "not streamed", "other load")


@dataclass(frozen=True)
class Figures:
    """Figures of a window, AWS time; NaN where there is none.

    Attributes:
        output_tokens_per_s: Output throughput.
        ttft_p50_s: Median time to first token.
        ttft_mean_s: Its mean.
        tpot_p50_s: Median time per output token after the first.
    """

    output_tokens_per_s: float
    ttft_p50_s: float
    ttft_mean_s: float
    tpot_p50_s: float


@dataclass(frozen=True)
class Verdict:
    """A run against its prediction and its floor.

    Attributes:
        measured: What came out; in a rehearsal simulated too, by another way.
        predicted: What the model says of the same requests.
        floor: What the machine allows; None for a machine that is not known.
        timing: The endpoint's two times, as the model took them.
        cause: `as predicted`, or why not: `requests failed`, `client-bound`, `not streamed`,
            `other load`, `slower decode`, `faster decode`, `slower prefill`, `faster prefill`,
            `queue-bound`, `batch not filled`, `prefill-bound`, `unexplained`.
        evidence: The measurement that says so.
        limit: What the run was limited by: `prefill-bound`, `batch not filled`, `queue-bound`,
            `decode-bound`, or the cause where that hides what the endpoint did; `unexplained`
            where tokens that came many at a time hide it and the run is not as predicted.
        limit_evidence: The measurement that says so; where tokens came many at a time, which hides
            it, that of the model, if the run is as predicted.
        times: The endpoint's two times as the run shows them.
        target: `rehearsal`, `aws` or `server`.
        reservation: What the run's audit found wrong, empty when it is valid.
    """

    measured: Figures
    predicted: Figures
    floor: Floor | None
    timing: Timing
    cause: str
    evidence: str
    limit: str
    limit_evidence: str
    times: Times
    target: str
    reservation: str = ""

    @property
    def sentence(self) -> str:
        """All of it in one line; a rehearsal says that it is one, and measured nothing."""
        got = _rate(self.measured.output_tokens_per_s)
        said = "rehearsal: " if self.target == "rehearsal" else "measured "
        said += f"{got} tokens/s, the model says {_rate(self.predicted.output_tokens_per_s)}"
        if self.floor:
            said += f", the floor is {_rate(self.floor.tokens_per_s)}"
        said += f": {self.cause}"
        if self.evidence:
            said += f", {self.evidence}"
        if self.limit != self.cause:
            said += f"; {self.limit}, {self.limit_evidence}"
        return said + (f"; {self.reservation}" if self.reservation else "")

    def __str__(self) -> str:
        return self.sentence


def against(run: results.Run, timing: Timing | None = None) -> Verdict:
    """Hold a run against what the twin predicts for the same requests.

    Users who think are replayed by the times at which they sent, and so are arrivals.

    Args:
        run: The run.
        timing: The endpoint's two times, e.g. from `twin.calibrate`; those of its configuration
            when left out.

    Raises:
        ResultsError: When the run has no figures, or more instances than the model, when its files
            do not fit together, or when no times are given and the twin does not know the endpoint.
    """
    observed.check(run)
    endpoint, load = run.config["endpoint"], run.config["load"]
    figures = run.summary["window"]
    if figures is None:
        raise ResultsError(
            f"{run.path.name} has no figures, the asked load was never there: repeat it with at "
            "least two requests a user."
        )
    timing = timing or _configured(run)
    records = [observed.aws_time(one, run.config["clock_speed"]) for one in run.records]
    took = observed.times(records, timing)
    measured = _Side(records, load, figures, took)
    predicted = _Side.of(_predicted(records, load, timing), load, timing)
    pair = _Pair(run, records, measured, predicted, timing)
    cause, evidence = _cause(pair)
    limit, limit_evidence = _limit(measured.use, timing, load)
    if cause in _HALF_SEEN:
        limit, limit_evidence = cause, evidence
    elif pair.is_bundled and cause != "as predicted":
        limit, limit_evidence = "unexplained", _bundled(took)
    elif pair.is_bundled:
        limit, limit_evidence = _limit(predicted.use, timing, load)
        limit_evidence += f" in the model; {_bundled(took)}"
    return Verdict(
        measured=measured.shown,
        predicted=predicted.shown,
        floor=_floor(endpoint, records, timing),
        timing=timing,
        cause=cause,
        evidence=evidence,
        limit=limit,
        limit_evidence=limit_evidence,
        times=took,
        target=run.target,
        reservation=_reservation(run, cause),
    )


def _configured(run: results.Run) -> Timing:
    try:
        return configured.timing(run.config["endpoint"])
    except WorkshopError as error:
        why = str(error).rstrip(".")
        raise ResultsError(
            f"The model does not know the endpoint of {run.path.name} ({why}): give its two "
            "times, e.g. as calibrated from a run with one user."
        ) from error


def table(runs: Iterable[results.Run]) -> pd.DataFrame:
    """One row a run: what came out beside what the model says and the floor; `target` comes last.

    A run that the model cannot predict has empty cells, and its cause says why.

    Args:
        runs: The runs.
    """
    runs = list(runs)
    if not runs:
        return pd.DataFrame(columns=["recipe", "users", *_COLUMNS])
    frame = metrics.table(runs)
    which = frame.iloc[:, : frame.columns.get_loc("requests")]  # recipe and load
    rows = pd.DataFrame([_row(run) for run in runs]).round(2)
    return pd.concat([which, rows], axis=1)


def _row(run: results.Run) -> dict:
    try:
        found = against(run)
        measured, predicted, limits = found.measured, found.predicted, found.floor
        cause, limit = found.cause, found.limit
    except WorkshopError as error:
        measured, predicted, limits = _shown(run.summary["window"]), _NOTHING, None
        cause, limit = f"no prediction: {error}", ""
    cells = (
        measured.output_tokens_per_s,
        predicted.output_tokens_per_s,
        limits.tokens_per_s if limits else math.nan,
        measured.ttft_p50_s,
        predicted.ttft_p50_s,
        1000 * measured.tpot_p50_s,
        1000 * predicted.tpot_p50_s,
        cause,
        limit,
        run.target,
    )
    return dict(zip(_COLUMNS, cells, strict=True))


# --- the two sides --------------------------------------------------------------------------------


class _Side:
    """A run or its prediction, measured the same way; AWS time.

    Attributes:
        shown: Its figures.
        took: The endpoint's two times.
        use: How the endpoint's time was used.
    """

    def __init__(
        self,
        records: Sequence[RequestRecord],
        load: Mapping,
        figures: Mapping,
        took: Times | Timing,
    ):
        self.shown, self.took = _shown(figures), took
        self.use = observed.use(records, metrics.windows(records, load), figures, took)

    @classmethod
    def of(cls, records: Sequence[RequestRecord], load: Mapping, took: Times | Timing) -> "_Side":
        """With figures of its own."""
        spans = metrics.windows(records, load)
        if not spans:
            raise ResultsError(
                "The model finds no moment at which the asked load was there: repeat the run with "
                "at least two requests a user."
            )
        figures = metrics.figures(
            records, spans, kind=load["kind"], clock_speed=1.0, price_per_hour=None
        )
        return cls(records, load, figures, took)


def _shown(figures: Mapping | None) -> Figures:
    if figures is None:
        return _NOTHING
    ttft_s, tpot_s = figures["ttft_s"], figures["tpot_s"]
    values = (figures["output_tokens_per_s"], ttft_s["p50"], ttft_s["mean"], tpot_s["p50"])
    return Figures(*(math.nan if value is None else value for value in values))


_NOTHING = Figures(math.nan, math.nan, math.nan, math.nan)


def _predicted(
    records: Sequence[RequestRecord], load: Mapping, timing: Timing
) -> list[RequestRecord]:
    """The same requests as the twin serves them, each part of a run by itself."""
    parts = defaultdict(list)
    for record in records:
        parts[record.part].append(record)
    return [one for mine in parts.values() for one in _replayed(mine, load, timing)]


def _replayed(
    mine: Sequence[RequestRecord], load: Mapping, timing: Timing
) -> Iterator[RequestRecord]:
    """Requests of one part, served in the order in which they were sent."""
    in_order = sorted(mine, key=lambda one: (one.sent_s, one.index))
    lengths = [max(1, one.output_tokens) for one in in_order]
    if _is_replayed(load):
        asked = {"load": "arrivals", "arrivals_s": [one.sent_s for one in in_order]}
    else:
        asked = {"load": load["kind"].removesuffix("_loop"), "concurrency": load["concurrency"]}
    served = sorted(
        twin.serve(timing, requests=len(lengths), lengths=lengths, **asked),
        key=lambda one: one.number,
    )
    firsts_s, together = np.unique([one.first_s for one in served], return_counts=True)
    prefills = (firsts_s - together * timing.prefill_s, firsts_s)
    by = in_order
    if not _is_replayed(load):
        users = zip(in_order, _users(served, load), strict=True)
        by = [replace(one, client=0, user=user) for one, user in users]
    for record, one in zip(by, served, strict=True):
        yield _as_served(record, one, _tokens_s(one, prefills, timing))


def _is_replayed(load: Mapping) -> bool:
    """Whether the model takes the times of sending from the run."""
    return load["kind"] == "arrivals" or load["think_s"] > 0


def _users(served: Iterable[Served], load: Mapping) -> Iterator[int]:
    """Who sent each request: in a closed loop the one whose last answer came first."""
    free = [(-math.inf, user) for user in range(load["concurrency"])]
    for one in served:
        _, user = heapq.heappop(free)
        heapq.heappush(free, (one.last_s, user))
        yield user


def _tokens_s(
    served: Served, prefills: tuple[np.ndarray, np.ndarray], timing: Timing
) -> np.ndarray:
    """When each token came: a step apart, and all prefills in between later.

    Args:
        served: A request.
        prefills: When each prefill of the endpoint began and ended.
        timing: The endpoint's two times.
    """
    tokens_s = served.first_s + timing.decode_step_s * np.arange(served.tokens)
    began_s, ended_s = prefills
    during = slice(*np.searchsorted(ended_s, (served.first_s, served.last_s), side="right"))
    for begins_s, ends_s in zip(began_s[during], ended_s[during], strict=True):
        tokens_s[tokens_s > begins_s + timing.decode_step_s / 2] += ends_s - begins_s
    return tokens_s


def _as_served(record: RequestRecord, served: Served, tokens_s: np.ndarray) -> RequestRecord:
    """The record of a request as the twin served it; a failed one stays failed."""
    chunks = len(record.chunk_s)
    chunk_s = tokens_s[np.linspace(0, len(tokens_s) - 1, chunks).round().astype(int)]
    return replace(
        record,
        sent_s=served.sent_s,
        first_s=served.first_s if chunks else None,
        last_s=served.last_s if chunks else None,
        ended_s=served.last_s,
        chunk_s=tuple(chunk_s.tolist()),
        dispatch_s=0.0,
    )


def _floor(endpoint: Mapping, records: Sequence[RequestRecord], timing: Timing) -> Floor | None:
    prompts = [one.prompt_tokens for one in records if one.error is None and one.prompt_tokens > 0]
    prompt = round(float(np.mean(prompts))) if prompts else None
    try:
        found = configured.limits(endpoint, prompt_tokens=prompt)
    except WorkshopError:
        return None
    return found if found.slots == timing.slots else None


# --- why ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """What is held against what."""

    run: results.Run
    records: Sequence[RequestRecord]
    measured: _Side
    predicted: _Side
    timing: Timing

    def with_prefill(self, prefill_s: float) -> "_Pair":
        """The same run held against a model with another prefill."""
        timing, load = replace(self.timing, prefill_s=prefill_s), self.run.config["load"]
        predicted = _Side.of(_predicted(self.records, load, timing), load, timing)
        return replace(self, predicted=predicted, timing=timing)

    @property
    def is_bundled(self) -> bool:
        """Whether so many tokens came at a time that they hide when a prefill began."""
        hidden_s = (self.measured.took.together - 1) * self.timing.decode_step_s
        return hidden_s > OTHER_TIME * self.timing.prefill_s

    def is_off(self, name: str, *, above: bool) -> bool:
        """Whether a figure is above what is predicted, or below, by more than it may be."""
        is_, should = self.sides(name)
        return not self.is_near(name) and (is_ > should if above else is_ < should)

    def is_near(self, name: str) -> bool:
        """Whether a figure is as predicted, or neither side has it."""
        is_, should = self.sides(name)
        if math.isnan(is_) or math.isnan(should):
            return math.isnan(is_) and math.isnan(should)
        unsure_s = self.unsure_s if name.startswith("ttft") else 0.0
        return abs(is_ - should) <= max(AS_PREDICTED * should, unsure_s)

    def sides(self, name: str) -> tuple[float, float]:
        """A figure as measured and as predicted."""
        return getattr(self.measured.shown, name), getattr(self.predicted.shown, name)

    @property
    def unsure_s(self) -> float:
        """By how much a first token may be late without any fault of the endpoint, AWS seconds."""
        return LATE_S * self.run.config["clock_speed"]


def _cause(pair: _Pair) -> tuple[str, str]:
    """Why a run differs from its prediction, and the measurement that says so.

    First what makes the measurements themselves doubtful. Then, of what is measured to be other
    than the model has it, what took the most of the endpoint's time. Last, how requests met.
    """
    off = _off(pair)
    if not off:
        return "as predicted", ""
    return (
        _doubtful(pair)
        or _largest(pair)
        or _by_prefill(pair)
        or _met_otherwise(pair)
        or ("unexplained", f"{off}, and {_unexplained(pair)}")
    )


def _off(pair: _Pair) -> str:
    """Which figures are not as predicted, in words; empty when all are.

    A median between two groups of requests jumps from one to the other for nothing, so that a time
    to first token is also as predicted when its mean is.
    """
    if 0 in (pair.measured.shown.output_tokens_per_s, pair.predicted.shown.output_tokens_per_s):
        return "no token came while the asked load was there"
    said = []
    for word, *names in (
        ("tokens/s", "output_tokens_per_s"),
        ("TTFT", "ttft_p50_s", "ttft_mean_s"),
        ("TPOT", "tpot_p50_s"),
    ):
        if not any(map(pair.is_near, names)):
            said.append(f"{word} {_beside(*pair.sides(names[0]))}")
    return ", ".join(said)


def _beside(is_: float, should: float) -> str:
    """A figure beside the one that is predicted; one of the two may be missing."""
    if math.isnan(is_):
        return "in the model only"
    if math.isnan(should):
        return "in the run only"
    return f"{percent(abs(is_ - should) / should)} {'above' if is_ > should else 'below'}"


def _doubtful(pair: _Pair) -> tuple[str, str] | None:
    """What makes a run no measurement of this endpoint under this load."""
    checks = pair.run.summary["audit"]["checks"]
    wrong = {one["check"]: one for one in checks if one["level"] == "invalid"}
    if failed := wrong.get("errors"):
        return "requests failed", f"{failed['found']}, and a failed one frees its slot early"
    of_client = _CLIENT_CHECKS
    if pair.run.config["load"]["kind"] == "arrivals":
        of_client = ("load", *of_client)
    for name in of_client:
        if check := wrong.get(name):
            return "client-bound", f"{name}: {check['found']} (limit {check['limit']})"
    took = pair.measured.took
    if pair.is_bundled:
        said = f"{_bundled(took)}, which hides what a prefill and a decode step take"
        return "not streamed", f"{said}: something on the way holds them back"
    paused = took.paused
    if paused > observed.PAUSED:
        return "other load", (
            f"{percent(paused)} of the replies' time are pauses in which none of these requests "
            "was prefilled: someone else uses the endpoint, or the stream stood still"
        )
    return None


def _largest(pair: _Pair) -> tuple[str, str] | None:
    """What is other than in the model, by how much of the endpoint's time it took or spared.

    What spared time does not explain fewer tokens, nor what took it more of them.
    """
    took, use, timing = pair.measured.took, pair.measured.use, pair.timing
    causes = []
    missing = 1 - use.in_flight / pair.predicted.use.in_flight
    if missing > MISSING and not _is_replayed(pair.run.config["load"]):
        causes.append((missing, "client-bound", _missing(use, pair.predicted.use)))
    step = took.decode_step_s / timing.decode_step_s
    if abs(step - 1) > OTHER_TIME:
        said = f"a decode step took {ms(took.decode_step_s)}, in the model "
        said += ms(timing.decode_step_s)
        causes.append((use.decode * _share(step), f"{_speed(step)} decode", said))
    prefill = took.prefill_s / timing.prefill_s
    if abs(prefill - 1) > max(OTHER_TIME, pair.unsure_s / timing.prefill_s):
        said = f"a prefill took {took.prefill_s:.2f} s, in the model {timing.prefill_s:.2f} s"
        causes.append((use.prefill * _share(prefill), f"{_speed(prefill)} prefill", said))
    is_faster, is_slower = (pair.is_off("output_tokens_per_s", above=is_) for is_ in (True, False))
    explains = [
        one for one in causes if not (is_slower if one[1].startswith("faster") else is_faster)
    ]
    return max(explains)[1:] if explains else None


def _by_prefill(pair: _Pair) -> tuple[str, str] | None:
    """A prefill that may be only the client's lateness, but with which the model has all figures.

    A late client makes each first token late by as much; a slower prefill makes all who wait for
    it later, and the endpoint's tokens fewer.
    """
    took, timing = pair.measured.took, pair.timing
    ratio = took.prefill_s / timing.prefill_s
    if not abs(ratio - 1) > OTHER_TIME or _off(pair.with_prefill(took.prefill_s)):
        return None
    return f"{_speed(ratio)} prefill", (
        f"a prefill took {took.prefill_s:.2f} s, in the model {timing.prefill_s:.2f} s, and with "
        "that it has all figures"
    )


def _met_otherwise(pair: _Pair) -> tuple[str, str] | None:
    """How requests met at the endpoint, where its two times are as in the model."""
    use, model, slots = pair.measured.use, pair.predicted.use, pair.timing.slots
    is_faster = pair.is_off("output_tokens_per_s", above=True)
    is_longer = use.waited > (1 + OTHER_TIME) * model.waited
    is_longer = is_longer and pair.is_off("ttft_p50_s", above=True)
    if is_longer and not is_faster and _is_queued(use, slots):
        return "queue-bound", (
            f"{use.in_flight:.1f} requests are in flight for {slots} slots and wait as long as "
            f"{use.waited:.1f} prefills take, {model.waited:.1f} in the model"
        )
    missing, queue = model.in_flight - use.in_flight, model.in_flight - slots
    if queue > 0 and missing > AS_PREDICTED * max(1, queue):
        return "client-bound", f"{_missing(use, model)}, so that fewer wait"
    if is_faster:
        return None
    if use.filled < FULL * model.filled:
        return "batch not filled", f"{_fill(use, slots)}, {model.filled:.1f} in the model"
    if use.prefill > max(MOST, (1 + OTHER_TIME) * model.prefill):
        return "prefill-bound", f"{_prefills(use)}, {percent(model.prefill)} in the model"
    return None


def _unexplained(pair: _Pair) -> str:
    use, slots = pair.measured.use, pair.timing.slots
    if use.filled > (1 + OTHER_TIME) * slots:
        return f"{use.filled:.1f} requests are decoded at a time where the model has {slots} slots"
    return "no measurement says why"


def _limit(use: Use, timing: Timing, load: Mapping) -> tuple[str, str]:
    """What limits a run, whether it is as predicted or not, and the measurement that says so."""
    if use.prefill > MOST:
        return "prefill-bound", _prefills(use)
    if math.isnan(use.filled):
        return "batch not filled", "no decode step was seen"
    if use.filled < FULL * timing.slots:
        return "batch not filled", _fill(use, timing.slots) + _why_not_filled(load, timing.slots)
    if _is_queued(use, timing.slots):
        return "queue-bound", _queue(use, timing.slots)
    return "decode-bound", f"decode steps take {percent(use.decode)} of the endpoint's time"


def _is_queued(use: Use, slots: int) -> bool:
    return use.in_flight > slots and use.waiting > MOST


def _why_not_filled(load: Mapping, slots: int) -> str:
    if load["kind"] == "rounds":
        return ": a round waits for its slowest"
    if load["kind"] == "closed_loop" and load["concurrency"] < slots:
        return f": fewer users ({load['concurrency']}) than slots"
    return ""


def _reservation(run: results.Run, cause: str) -> str:
    """What the audit found wrong, unless that is the cause."""
    audit_of = run.summary["audit"]
    is_said = audit_of["valid"] or cause in ("client-bound", "requests failed")
    return "" if is_said else audit.sentence(audit_of)


def _missing(use: Use, model: Use) -> str:
    return (
        f"{use.in_flight:.1f} requests were in flight where the model has {model.in_flight:.1f}: "
        "the client was late to send the next ones"
    )


def _bundled(took: Times) -> str:
    return f"tokens came {took.together:.0f} at a time"


def _prefills(use: Use) -> str:
    return f"prefills take {percent(use.prefill)} of the endpoint's time"


def _fill(use: Use, slots: int) -> str:
    return f"{use.filled:.1f} of {slots} slots have a request at a decode step"


def _queue(use: Use, slots: int) -> str:
    said = f"{use.in_flight:.1f} requests are in flight for {slots} slots, and waiting is "
    return said + f"{percent(use.waiting)} of the median TTFT"


def _share(ratio: float) -> float:
    """Which share of the longer of two times they differ by."""
    return abs(ratio - 1) / max(ratio, 1)


def _speed(ratio: float) -> str:
    return "slower" if ratio > 1 else "faster"


def _rate(tokens_per_s: float) -> str:
    return f"{tokens_per_s:.0f}" if tokens_per_s >= 10 else f"{tokens_per_s:.1f}"
