"""The two times of an endpoint, from what was measured of it.

With a single user nothing waits: the time to the first token is one prefill, and what is left of an
answer is one decode step a token. With more users the two are searched with which the model, given
the very same requests, has the figures that were measured.

What counts and searches is imported where it is needed: the rehearsal's server, which imports this
folder, starts without it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from helpers import checks
from helpers.errors import WorkshopError
from helpers.twin.scheduler import Timing

# Asked were 245 ± 20 by the client of the optimum tables (results/published/README.md).
OUTPUT_TOKENS = 250
# How far a published median of a prefill may be from the next one's: AWS's own p99 of prefills on
# inf2.48xlarge is up to 3.1 % above their p50 (1,024 and 2,048 tokens, no server,
# results/published/aws-neuron-2.18.1-…), and the trn1 tables have their padded prefill twice, at
# batch 4 and 8, which differ by 0.2 and 0.4 %.
PREFILL_SPREAD = 0.03
# Seconds a request that a throughput holds beside its latency: the client's pause before the next
# one. 0.19 to 0.52 s in the first rows of the nine optimum tables, which have both.
CLIENT_PAUSE_S = 0.5
# Of a run's figure: at least, since published prefills repeat no better than within 3 % and the
# model meets published throughputs within 1 to 4 % (tests/test_twin_tables.py); and where there is
# no interval, since a few requests say little.
_LEAST_TOLERANCE, _UNKNOWN_TOLERANCE = PREFILL_SPREAD, 0.05
# Beyond its own uncertainty a figure may be so much off before the times are those of nothing: what
# a verdict calls "as predicted", twice the model's worst throughput of the published tables.
MISFIT = 0.10
# One user's median TTFT over its shortest: from here on it waited for a prefill of somebody else.
QUEUED = 2

_USERS = ("concurrent requests", "users")
_SLOTS = ("batch size", "Batch Size")
_TTFT_S = ("Time-to-first-token @ P50 (s)", "TTFT p50 (s)")
_RATE = ("throughput (t/s)", "output tokens/s")
_LATENCY_MS = ("average latency (ms)",)
_STEP_MS = ("TPOT p50 (ms)",)
_LENGTH = ("output tokens",)
_WORDS = {  # of a run's figures: what it is, and its unit
    "ttft_s": ("TTFT p50", 1, "s"),
    "tpot_s": ("TPOT p50", 1000, "ms"),
    "output_tokens_per_s": ("output", 1, "tokens/s"),
}

Interval = tuple[float, float]


@dataclass(frozen=True)
class Calibration:
    """The two times of an endpoint, and how sure they are.

    Attributes:
        slots: Static batch size; None where the source does not say.
        prefill_s: Seconds for one request's prefill, as its client sees it.
        decode_step_s: Seconds for one token of every active slot.
        prefill_ci95_s: From where to where the prefill may be; None where too few requests say.
            Of a run with one user a 95 % bootstrap interval, which takes requests for independent
            (where each is correlated with the next by 0.8 it holds the true value 62 times of 100),
            made longer below by what the client may have added itself (its event loop's lag, the
            network's round trip; in a rehearsal each millisecond of them is `clock_speed` as long);
            of a published row 3 % to both sides (`PREFILL_SPREAD`); of several users the region in
            which the model meets every figure within that figure's own uncertainty, which is 3 % or
            more. Where it ends with what was searched, `source` says so.
        decode_step_ci95_s: The same of the decode step, which what the client added to the first or
            to the last token makes longer on both sides; of a published row what its latency and
            its throughput give.
        output_tokens: Output tokens of a request, mean.
        source: What this comes from, in one sentence; says `rehearsal`, `measured` or `published`.
    """

    slots: int | None
    prefill_s: float
    decode_step_s: float
    prefill_ci95_s: Interval | None
    decode_step_ci95_s: Interval | None
    output_tokens: float
    source: str

    def timing(self, batch_size: int | None = None) -> Timing:
        """For the model.

        Args:
            batch_size: Static batch size, where the source does not say it.

        Raises:
            WorkshopError: When nobody says the batch size, or it is another than the measured one.
        """
        batch_size = _batch_size(batch_size)
        if batch_size is None and self.slots is None:
            raise WorkshopError(
                f"The batch size is not known ({self.source}): say it, as in timing(batch_size=4)."
            )
        if None not in (batch_size, self.slots) and batch_size != self.slots:
            raise WorkshopError(
                f"These are the times of batch {self.slots} and another batch has others: measure "
                f"batch {batch_size}, or take helpers.twin.timing, which scales."
            )
        return Timing(self.slots or batch_size, self.prefill_s, self.decode_step_s, self.source)

    def __str__(self) -> str:
        slots = "" if self.slots is None else f"batch {self.slots}, "
        prefill = f"prefill {self.prefill_s:.3g} s{_between(self.prefill_ci95_s, 1)}"
        step = f"decode step {1000 * self.decode_step_s:.3g} ms"
        step += _between(self.decode_step_ci95_s, 1000)
        return f"{slots}{prefill}, {step}; {self.source}"

    def __repr__(self) -> str:
        return f"Calibration({self})"


def calibrate(
    runs: Any, *, batch_size: int | None = None, output_tokens: float | None = None
) -> Calibration:
    """Get an endpoint's two times from what was measured of it.

    A run that failed its audit is used, and the source says so: often the times are what shows
    why. In a rehearsal so is one whose replies paused for no prefill of its own, since there it is
    the machine that stumbles; elsewhere somebody else was on the endpoint, and it is refused.

    Args:
        runs: A `results.Run` or several of one endpoint; or one row of a published table with one
            user, a mapping or pandas Series with the optimum files' columns or those of
            `results.published()`; or such a table, of which that row is taken.
        batch_size: Static batch size, where the source does not say it. Needed for runs with
            several users. Another than the source's own is refused.
        output_tokens: Output tokens of a request in a published row that does not say; 250 by
            default.

    Raises:
        WorkshopError: When nothing can be learnt from it; one sentence says why.
    """
    batch_size = _batch_size(batch_size)
    if output_tokens is not None and (not checks.is_number(output_tokens) or output_tokens < 2):
        raise WorkshopError(
            "Output tokens of a request are 2 or more, "
            f"not {checks.said(output_tokens)}: the first is the prefill's."
        )
    if hasattr(runs, "columns"):
        return _of_row(_only_user(runs.to_dict("records")), batch_size, output_tokens)
    if hasattr(runs, "keys"):
        return _of_row(dict(runs), batch_size, output_tokens)
    found = [runs] if hasattr(runs, "records") else _listed(runs)
    if all(hasattr(one, "keys") for one in found):
        return _of_row(_only_user([dict(one) for one in found]), batch_size, output_tokens)
    if not all(hasattr(one, "records") for one in found):
        raise _unknown(runs)
    if output_tokens is not None:
        raise WorkshopError("A run counts its own output tokens: leave output_tokens out.")
    return _of_runs(found, batch_size)


def _batch_size(size: Any) -> int | None:
    return None if size is None else checks.whole("A batch size", size)


def _agreed(asked: int | None, known: int | None, name: str) -> int | None:
    """The batch size by whom says it; two that differ are refused."""
    if None not in (asked, known) and asked != known:
        raise WorkshopError(
            f"{name} is of batch {known}, not {asked}, and another batch has other times: leave "
            "the batch size out, or take a source of that batch."
        )
    return asked or known


def _listed(runs: Any) -> list:
    try:
        found = None if isinstance(runs, str | bytes) else list(runs)
    except TypeError:  # also of what only looks like a list: NumPy's array of no dimension
        found = None
    if found is None:
        raise _unknown(runs)
    if not found:
        raise _unknown(runs, " with nothing in it")
    return found


def _unknown(runs: Any, how: str = "") -> WorkshopError:
    return WorkshopError(
        "Calibrate by runs (results.load, results.runs) or by one row of a published table "
        f"(pandas.read_csv), not by {type(runs).__name__}{how}."
    )


# --- a published row ------------------------------------------------------------------------------


def _only_user(rows: list[dict]) -> dict:
    """The row of a table that has one user."""
    alone = [row for row in rows if _value(row, _USERS) == 1]
    if len(alone) != 1:
        raise WorkshopError(
            f"The table has {len(alone) or 'no'} rows with 1 user: give the one to calibrate by."
        )
    return alone[0]


def _of_row(row: Mapping, batch_size: int | None, output_tokens: float | None) -> Calibration:
    users = _needed(row, _USERS)
    if users != 1:
        raise WorkshopError(
            f"A row with {users:g} users does not tell a prefill from a queue: give the row with "
            "1 user, or a run (results.load)."
        )
    prefill_s = _needed(row, _TTFT_S)
    known = _value(row, _LENGTH)
    tokens = output_tokens or known or OUTPUT_TOKENS
    if tokens < 2:
        raise WorkshopError(
            f"A row with {tokens:g} output tokens has no decode step: give one with 2 or more."
        )
    steps_s, how = _steps_s(row, prefill_s, tokens)
    if steps_s[0] > 0 >= min(steps_s):
        raise WorkshopError(
            f"The row's throughput leaves no time for decode steps beside {prefill_s:.3g} s of "
            "prefill, and its time per token does: give figures of one measurement."
        )
    if max(steps_s) == math.inf:
        raise WorkshopError("The row's figures are too large for any endpoint: give others.")
    if steps_s[0] <= 0:
        raise WorkshopError(
            f"With {tokens:g} output tokens nothing is left for decode steps beside "
            f"{prefill_s:.3g} s of prefill: say how many there were (output_tokens=)."
        )
    names = (row.get(key) for key in ("source", "model_id"))
    name = next((one for one in names if not _is_empty(one)), "a table")
    slots = _agreed(batch_size, _batch_size(_value(row, _SLOTS)), name)
    assumed = "" if known or output_tokens else " assumed"
    return Calibration(
        slots=slots,
        prefill_s=prefill_s,
        decode_step_s=steps_s[0],
        prefill_ci95_s=((1 - PREFILL_SPREAD) * prefill_s, (1 + PREFILL_SPREAD) * prefill_s),
        decode_step_ci95_s=(min(steps_s), max(steps_s)),
        output_tokens=tokens,
        source=f"published: {name}, 1 user, {tokens:g} output tokens{assumed}, {how}",
    )


def _steps_s(row: Mapping, prefill_s: float, tokens: float) -> tuple[list[float], str]:
    """The decode step by each figure there is, the best first, and in words by which.

    A throughput also has the client's pause between two requests in it, so a latency is better.
    Alone, it bounds the step: from no pause to the longest that is known.
    """
    rate, latency_ms, step_ms = (_value(row, names) for names in (_RATE, _LATENCY_MS, _STEP_MS))

    def step_s(request_s: float) -> float:
        return (request_s - prefill_s) / (tokens - 1)

    by_rate = [step_s(tokens / rate)] if rate else []
    if step_ms:
        return [step_ms / 1000, *by_rate], "decode step from TPOT"
    if latency_ms:
        return [step_s(tokens * latency_ms / 1000), *by_rate], "decode step from latency"
    if rate:
        paused = step_s(tokens / rate - CLIENT_PAUSE_S)
        words = f"decode step from throughput, with up to {CLIENT_PAUSE_S:g} s of client's pause"
        return [*by_rate, paused], words
    raise _missing(row, (*_LATENCY_MS, *_RATE))


def _value(row: Mapping, names: Iterable[str]) -> float | None:
    """The figure under the first of these names that there is; None without one."""
    name = next((one for one in names if one in row and not _is_empty(row[one])), None)
    if name is None:
        return None
    try:
        value = float(row[name])
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if isinstance(row[name], bool) or not 0 < value < math.inf:
        raise WorkshopError(f"{name!r} of a row is a number above 0, not {checks.said(row[name])}.")
    return value


def _needed(row: Mapping, names: tuple[str, ...]) -> float:
    value = _value(row, names)
    if value is None:
        raise _missing(row, names)
    return value


def _missing(row: Mapping, names: tuple[str, ...]) -> WorkshopError:
    there = ", ".join(map(repr, row)) or "nothing"
    wanted = " or ".join(map(repr, names))
    return WorkshopError(f"The row has no figure under {wanted}, only {there}: give one that has.")


def _is_empty(value: Any) -> bool:
    """Whether a table has no figure there: None, an empty cell, NaN or pandas' NA."""
    return value is None or str(value) in ("", "nan", "<NA>")


# --- runs -----------------------------------------------------------------------------------------


def _of_runs(runs: list, batch_size: int | None) -> Calibration:
    for run in runs:
        _check(run)
    slots = _agreed(batch_size, _slots(runs), runs[0].path.name)
    disturbed = "".join(_disturbed(run, slots) for run in runs)
    if len(runs) == 1 and runs[0].config["load"]["concurrency"] == 1:
        times, intervals, how = _alone(runs[0])
    else:
        times, intervals, how = _searched(runs, slots)
    return Calibration(
        slots,
        *times,
        *intervals,
        output_tokens=_mean_tokens(runs),
        source=f"{_origin(runs)}{how}{disturbed}",
    )


def _check(run: Any) -> None:
    """Refuse what says nothing of the two times."""
    from helpers import observed

    observed.check(run)
    name, load, window = run.path.name, run.config["load"], run.summary["window"]
    if load["kind"] == "arrivals":
        raise WorkshopError(
            f"{name} has arrivals, whose queue is of chance: calibrate by a run of users "
            "(closed loop or rounds), best of one."
        )
    if not window or not window["ttft_s"]["p50"] or not window["tpot_s"]["p50"]:
        raise WorkshopError(
            f"{name} has no two complete requests of two tokens in its window: calibrate by a "
            "longer run."
        )


def _disturbed(run: Any, slots: int | None) -> str:
    """What shows that a run was not alone there: refused, or in a rehearsal a word."""
    said = _strangers(run, slots)
    if not said or run.target == "rehearsal":
        return said and f", {said} ({run.path.name})"
    raise WorkshopError(
        f"In {run.path.name} {said}: someone else used the endpoint, requests failed or the stream "
        "stood still, so calibrate by a run that had the endpoint to itself."
    )


def _strangers(run: Any, slots: int | None) -> str:
    """Pauses for nobody's prefill, or one user who waits; empty when there is neither."""
    from helpers import observed

    window = run.summary["window"]
    records = [observed.aws_time(one, run.config["clock_speed"]) for one in run.records]
    first_s = min(one.first_s - one.sent_s for one in records if one.chunk_s)
    thought = Timing(slots or 1, first_s, window["tpot_s"]["p50"])
    share = observed.times(records, thought).paused
    if share > observed.PAUSED:
        return f"{100 * share:.0f} % of the replies' time are pauses for no prefill of its own"
    # A static batch pads its prompts, so that a prefill takes as long for each of them.
    is_alone = slots and run.config["load"]["concurrency"] == 1
    if is_alone and window["ttft_s"]["p50"] > QUEUED * first_s:
        return (
            f"the median TTFT of one user is {window['ttft_s']['p50']:.3g} s where a first token "
            f"came in {first_s:.3g} s"
        )
    return ""


def _alone(run: Any) -> tuple[Interval, tuple, str]:
    """Of one user: what the run's summary has, in AWS seconds and without the warm-up."""
    window, own_s = run.summary["window"], _own_s(run)
    prefill, step = (window[name]["ci95"].get("p50") for name in ("ttft_s", "tpot_s"))
    step_s = _own_step_s(run)
    prefill = prefill and (max(0.0, prefill[0] - own_s), prefill[1])
    step = step and (max(0.0, step[0] - step_s), step[1] + step_s)
    return (window["ttft_s"]["p50"], window["tpot_s"]["p50"]), (prefill, step), ""


def _own_s(run: Any) -> float:
    """How much of a time to first token may be the client's own, AWS seconds."""
    lates_s = [one["loop_lag_p99_s"] + one["round_trip_s"] for one in run.summary["clients"]]
    return run.config["clock_speed"] * max(lates_s, default=0.0)


def _own_step_s(run: Any) -> float:
    """The same of a time a token, which a late first token makes shorter and a late last longer."""
    return _own_s(run) / max(1.0, _mean_tokens([run]) - 1)


def _searched(runs: list, slots: int | None) -> tuple[Interval, tuple, str]:
    """Of several users or runs: the times whose simulation has the figures of all runs."""
    from helpers.twin import fitting
    from helpers.twin.search import search

    if slots is None:
        raise WorkshopError(
            f"The batch size of {runs[0].path.name} is not known: say it, as in "
            "calibrate(runs, batch_size=4)."
        )
    loads = [fitting.Replay(run, slots) for run in runs]
    wanted, within = {}, {}
    for number, (load, run) in enumerate(zip(loads, runs, strict=True)):
        for name, value in load.measured.items():
            wanted[number, name] = value
            within[number, name] = _tolerance(run, name)

    def figures(prefill_s: float, decode_step_s: float) -> dict:
        return {
            (number, name): value
            for number, load in enumerate(loads)
            for name, value in load.predicted(prefill_s, decode_step_s).items()
        }

    # Nothing is faster than its own prefill, and no answer than a step a token, unless its first
    # token was late.
    first_s, token_s = map(min, zip(*(load.fastest for load in loads), strict=True))
    ranges = {
        "prefill_s": (first_s / 1000, (1 + _LEAST_TOLERANCE) * first_s),
        "decode_step_s": (
            token_s / 50,
            (1 + _LEAST_TOLERANCE) * token_s + max(map(_own_step_s, runs)),
        ),
    }
    found = search(figures, wanted, within=within, **ranges)
    how = f", the model has their figures within {100 * found.worst:.1f} %"
    if found.prefill_region_s is None:
        if found.worst > MISFIT:
            nearest = figures(found.prefill_s, found.decode_step_s)
            raise _misfit(runs, slots, wanted, nearest)
        # The figures' own uncertainty does not reach as far as the model is off: count that too.
        reached = {name: max(size, 1.05 * found.worst) for name, size in within.items()}
        found = search(figures, wanted, within=reached, **ranges)
        how += ", which is more than their own uncertainty"
    regions = found.prefill_region_s, found.decode_step_region_s
    how += _cut(regions, list(ranges.values()))
    return (found.prefill_s, found.decode_step_s), regions, how


def _misfit(runs: list, slots: int, wanted: Mapping, nearest: Mapping) -> WorkshopError:
    """Why no two times are those of these runs: the figure that is farthest off."""
    off = {key: abs(nearest[key] / value - 1) for key, value in wanted.items()}
    number, name = max(off, key=off.get)
    words, scale, unit = _WORDS[name]
    value, model = scale * wanted[number, name], scale * nearest[number, name]
    return WorkshopError(
        f"No prefill and decode step give the figures of {_names(runs)}: {words} of "
        f"{runs[number].path.name} is {value:.3g} {unit} and {model:.3g} in the model that comes "
        f"nearest, {100 * off[number, name]:.0f} % off where {100 * MISFIT:.0f} % is the most: "
        f"calibrate by runs of one endpoint that really has {slots} slots, and the load of its "
        "run.json and no other, best by one user's."
    )


def _cut(regions: tuple[Interval, Interval], ranges: list[Interval]) -> str:
    """Which intervals end with what was searched and not with the region, in words."""
    said = ""
    fastest = (("prefill", "first token"), ("decode step", "reply"))
    for (word, bound), region, searched in zip(fastest, regions, ranges, strict=True):
        if region[0] <= searched[0]:
            said += f", how short the {word} may be they do not tell"
        if region[1] >= searched[1]:
            said += f", the {word}'s interval ends with the fastest {bound}"
    return said


def _tolerance(run: Any, name: str) -> float:
    """How uncertain a figure of a run's window is, relative."""
    window = run.summary["window"]
    if name == "output_tokens_per_s":
        value, bounds = window[name], window["ci95"].get(name)
    else:
        value, bounds = window[name]["p50"], window[name]["ci95"].get("p50")
    own = {
        "ttft_s": _own_s(run) / window["ttft_s"]["p50"],
        "tpot_s": _own_step_s(run) / window["tpot_s"]["p50"],
        "output_tokens_per_s": _own_s(run) / window["latency_s"]["p50"],
    }
    chance = (bounds[1] - bounds[0]) / 2 / value if bounds and value else _UNKNOWN_TOLERANCE
    return max(_LEAST_TOLERANCE, chance) + own[name]


def _slots(runs: list) -> int | None:
    """The batch size by the endpoints' environments, None where it is not known."""
    from helpers import configured

    try:
        found = {configured.shape(run.config["endpoint"]).batch_size for run in runs}
    except WorkshopError:
        return None
    if len(found) > 1:
        sizes = " and ".join(map(str, sorted(found)))
        raise WorkshopError(f"These runs are of batch sizes {sizes}: calibrate each by itself.")
    return found.pop()


def _mean_tokens(runs: list) -> float:
    tokens = [
        record.output_tokens
        for run in runs
        for record in run.records
        if record.phase == "measured" and record.error is None
    ]
    return sum(tokens) / len(tokens)


def _origin(runs: list) -> str:
    """Where runs come from; what is simulated says so, and an audit that failed."""
    targets = {run.target for run in runs}
    if "rehearsal" in targets and len(targets) > 1:
        raise WorkshopError(
            "Some of these runs are rehearsals and some were measured: calibrate by one kind."
        )
    word = "rehearsal" if "rehearsal" in targets else "measured"
    names = _names(runs)
    failed = [run.path.name for run in runs if not run.is_valid]
    audit = f", audit FAILED ({', '.join(failed)})" if failed else ""
    users = ", ".join(f"{run.config['load']['concurrency']}" for run in runs)
    count = sum(run.summary["window"]["requests"] for run in runs)
    return f"{word}: {names}, users {users}, {count} requests{audit}"


def _names(runs: list) -> str:
    first = runs[0].path.name
    return first if len(runs) == 1 else f"{len(runs)} runs, {first} first"


def _between(interval: Interval | None, scale: float) -> str:
    if interval is None:
        return ""
    return f" ({scale * interval[0]:.3g} to {scale * interval[1]:.3g})"
