"""What the records of a run say, by definitions that are written down.

| metric | definition |
|---|---|
| time to first token (TTFT) | first content − sent |
| inter-token latency (ITL) | each gap between consecutive content chunks |
| time per output token (TPOT) | (last content − first content) / (output tokens − 1) |
| end-to-end latency | last content − sent |
| output throughput | output tokens in the window / window; the prompt is never counted |
| total throughput | (prompt + output tokens) in the window / window |
| goodput | requests a second that meet every limit given |
| cost | instance $/h / (output throughput × 3600) × 10⁶, for a million output tokens |

The window is the time in which the asked concurrency was really there: from the first measured
request, once all users are running, to the moment the first user has nothing more to send. Tokens
belong to it by the stamp of their own chunk, requests by the moment they end. Records hold real
seconds; everything in a summary is AWS time (real time × `clock_speed`).
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from helpers import costs
from helpers.records import RequestRecord

PERCENTILES = (50, 90, 95, 99)
COUNTED = "output tokens only; the prompt is never counted"
LLMPERF_WHY = (
    "llmperf's SageMaker client puts the prompt in front of the reply before it counts tokens, and "
    "divides each request's whole time, the wait for the first token included, by that count: so "
    "its throughput is too high and its latency per token too low."
)
_RESAMPLES = 1000
_REHEARSAL_NOTE = (
    "rehearsal: simulated, nothing here was measured on AWS; each millisecond that this machine "
    "is late counts as {speed:g} ms"
)


@dataclass(frozen=True)
class Window:
    """A stretch of the run, in real `CLOCK_MONOTONIC` seconds."""

    opens_s: float
    closes_s: float

    @property
    def duration_s(self) -> float:
        """Its length in real seconds."""
        return self.closes_s - self.opens_s

    def holds(self, stamp_s: float) -> bool:
        """Whether a moment lies in it."""
        return self.opens_s <= stamp_s <= self.closes_s


def window(records: Sequence[RequestRecord]) -> Window | None:
    """When the asked concurrency was really running, None when it never was."""
    by_user: dict[int, list[RequestRecord]] = defaultdict(list)
    for record in records:
        by_user[record.user].append(record)
    measured = [record.sent_s for record in records if record.phase == "measured"]
    if not measured:
        return None
    all_running = max(min(record.sent_s for record in mine) for mine in by_user.values())
    first_idle = min(max(record.ended_s for record in mine) for mine in by_user.values())
    opens_s = max(all_running, min(measured))
    return Window(opens_s, first_idle) if first_idle > opens_s else None


def whole(records: Sequence[RequestRecord]) -> Window | None:
    """From the first byte sent to the end of the last reply, None without records."""
    if not records:
        return None
    return Window(min(r.sent_s for r in records), max(r.ended_s for r in records))


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


def supports(percentile: int, n: int) -> bool:
    """Whether at least one of n observations is expected beyond the percentile."""
    return n * (100 - percentile) >= 100


def distribution(values: Sequence[float], *, interval: bool = True) -> dict:
    """Mean and percentiles (linear interpolation); those that n does not support are withheld.

    Args:
        values: One per observation.
        interval: Also give 95 % bootstrap intervals; leave out for what is not independent.

    Returns:
        `n`, `mean`, `p50` … `p99` (None where withheld or without values), `withheld`, and `ci95`
        with a pair for each percentile that is given.
    """
    n = len(values)
    given = [p for p in PERCENTILES if supports(p, n)]
    result = {"n": n, "mean": float(np.mean(values)) if n else None}
    result |= {
        f"p{p}": float(np.percentile(values, p)) if p in given else None for p in PERCENTILES
    }
    result["withheld"] = [f"p{p}" for p in PERCENTILES if p not in given]
    if interval:
        result["ci95"] = _bootstrap(np.asarray(values), given) if given else {}
    return result


def _bootstrap(values: np.ndarray, percentiles: Sequence[int]) -> dict[str, list[float]]:
    generator = np.random.default_rng(0)  # the same records always give the same summary
    samples = generator.choice(values, size=(_RESAMPLES, len(values)))
    estimates = np.percentile(samples, percentiles, axis=1)
    bounds = np.percentile(estimates, (2.5, 97.5), axis=1)
    return {f"p{p}": bounds[:, i].tolist() for i, p in enumerate(percentiles)}


def figures(
    records: Sequence[RequestRecord],
    span: Window,
    *,
    clock_speed: float,
    price_per_hour: float,
    warmup: bool,
) -> dict:
    """All metrics over one stretch of the run, in AWS time.

    Args:
        records: Every record of the run.
        span: The stretch.
        clock_speed: AWS seconds in a real second.
        price_per_hour: $ an hour for all instances of the endpoint.
        warmup: Whether latencies of warm-up requests are among the figures. Their tokens always
            are: they were part of the load.
    """
    ended = [
        record
        for record in records
        if record.error is None
        and span.holds(record.ended_s)
        and (warmup or record.phase == "measured")
    ]
    duration_s = span.duration_s * clock_speed
    output, prompt = _tokens_in(records, span)
    rate = output / duration_s
    cost = costs.per_million_tokens(rate, price_per_hour=price_per_hour) if output else None
    busy_s = sum(
        max(0.0, min(r.ended_s, span.closes_s) - max(r.sent_s, span.opens_s)) for r in records
    )

    def spread(values, *, interval=True):
        known = [value * clock_speed for value in values if value is not None]
        return distribution(known, interval=interval)

    return {
        "duration_s": duration_s,
        "requests": len(ended),
        "requests_per_s": len(ended) / duration_s,
        "mean_concurrency": busy_s / span.duration_s,
        "output_tokens": output,
        "output_tokens_per_s": rate,
        "total_tokens_per_s": (prompt + output) / duration_s,
        "cost_per_million_output_tokens_usd": cost,
        "ttft_s": spread(ttft_s(record) for record in ended),
        "tpot_s": spread(tpot_s(record) for record in ended),
        # Gaps of one stream depend on each other: an interval that ignores it would be too narrow.
        "itl_s": spread((gap for record in ended for gap in itl_s(record)), interval=False),
        "latency_s": spread(latency_s(record) for record in ended),
    }


def _tokens_in(records: Sequence[RequestRecord], span: Window) -> tuple[float, int]:
    """Output and prompt tokens of a stretch; of failed requests none, for nobody could use them."""
    output, prompt = 0.0, 0
    for record in records:
        if not record.chunk_s or (record.error and record.error.kind != "interrupted"):
            continue
        inside = sum(map(span.holds, record.chunk_s))
        output += record.output_tokens * inside / len(record.chunk_s)
        prompt += record.prompt_tokens * span.holds(record.first_s)
    return output, prompt


def goodput(
    records: Sequence[RequestRecord], *, limits: Mapping[str, float], clock_speed: float = 1.0
) -> float:
    """Requests a second in the window that meet every limit, in AWS time.

    Args:
        records: Every record of the run.
        limits: Seconds by metric, e.g. `{"ttft_s": 2.0, "tpot_s": 0.06}`; also `latency_s`.
        clock_speed: AWS seconds in a real second.

    Raises:
        ValueError: When a limit is for no metric there is.
    """
    measures = {"ttft_s": ttft_s, "tpot_s": tpot_s, "latency_s": latency_s}
    if unknown := set(limits) - set(measures):
        raise ValueError(f"No limit for {sorted(unknown)}: choose among {sorted(measures)}.")
    span = window(records)
    if span is None:
        return 0.0

    def is_good(record: RequestRecord) -> bool:
        values = {name: measures[name](record) for name in limits}
        return all(
            value is not None and value * clock_speed <= limits[name]
            for name, value in values.items()
        )

    good = sum(
        is_good(record)
        for record in records
        if record.phase == "measured" and not record.error and span.holds(record.ended_s)
    )
    return good / (span.duration_s * clock_speed)


def llmperf(records: Sequence[RequestRecord], *, clock_speed: float = 1.0) -> dict:
    """The triple that `philschmid/llmperf` would report, over the whole run, in AWS time.

    Source: `src/llmperf/ray_clients/sagemaker_client.py` and `token_benchmark_ray.py` of that
    fork; for comparison only. Its tokenizer's extra token a request is left out.
    """
    span, complete = whole(records), [record for record in records if record.error is None]
    result = {"why": LLMPERF_WHY, "requests": len(complete)}
    if not complete:
        return result | dict.fromkeys(
            ("counted_tokens", "ttft_ms", "throughput_tokens_per_s", "latency_ms_per_token")
        )
    counted = [record.prompt_tokens + record.output_tokens for record in complete]
    took_s = [latency_s(record) * clock_speed for record in complete]
    return result | {
        "counted_tokens": sum(counted),
        "ttft_ms": 1000 * clock_speed * float(np.mean([ttft_s(record) for record in complete])),
        "throughput_tokens_per_s": sum(counted) / (span.duration_s * clock_speed),
        "latency_ms_per_token": 1000 * float(np.mean(np.divide(took_s, counted))),
    }


def summary(
    records: Sequence[RequestRecord],
    *,
    price_per_hour: float,
    clock_speed: float = 1.0,
    target: str = "aws",
) -> dict:
    """The whole verdict on a run, ready for JSON; AWS time throughout.

    Args:
        records: Every record of the run.
        price_per_hour: $ an hour for all instances of the endpoint.
        clock_speed: AWS seconds in a real second.
        target: `rehearsal` or `aws`.

    Returns:
        `target`, `requests` (asked of the endpoint, by outcome), `tokens` (which, how counted),
        `window` (None when the asked concurrency never ran), `whole_run` and `llmperf`.
    """
    shared = {"clock_speed": clock_speed, "price_per_hour": price_per_hour}
    span, everything = window(records), whole(records)
    note = {"note": _REHEARSAL_NOTE.format(speed=clock_speed)} if target == "rehearsal" else {}
    return {
        "target": target,
        **note,
        **shared,
        "requests": _outcomes(records),
        "tokens": _tokens(records),
        "window": figures(records, span, **shared, warmup=False) if span else None,
        "whole_run": figures(records, everything, **shared, warmup=True) if everything else None,
        "llmperf": llmperf(records, clock_speed=clock_speed),
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
        "prompt_source": dict(Counter(record.prompt_source for record in complete)),
        "asked_mean": mean([record.asked_tokens for record in complete]),
        "output_mean": mean([record.output_tokens for record in complete]),
        "prompt_mean": mean([record.prompt_tokens for record in complete]),
        "finish_reasons": dict(Counter(str(record.finish_reason) for record in complete)),
    }


def table(runs) -> pd.DataFrame:
    """One row a run, figures of its window, units in the headers; `target` comes last."""
    rows = []
    for run in runs:
        asked, inside = run.summary["requests"], run.summary["window"]
        rows.append(
            {
                "recipe": run.config["endpoint"]["recipe"],
                "users": run.config["load"]["concurrency"],
                "requests": asked["complete"],
                "errors": asked["errors"],
                "output tokens/s": _at(inside, "output_tokens_per_s"),
                "TTFT p50 (s)": _at(inside, "ttft_s", "p50"),
                "TTFT p90 (s)": _at(inside, "ttft_s", "p90"),
                "TPOT p50 (ms)": _at(inside, "tpot_s", "p50", scale=1000),
                "latency p50 (s)": _at(inside, "latency_s", "p50"),
                "$ per 1M output tokens": _at(inside, "cost_per_million_output_tokens_usd"),
                "target": run.target,
            }
        )
    return pd.DataFrame(rows).round(2)


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


def llmperf_table(run) -> pd.DataFrame:
    """The published kind of triple beside the same requests with output tokens only.

    The first three rows differ in nothing but the tokens counted; the last one is what the pace of
    an answer is called here, and has no counterpart there.
    """
    theirs, whole_run = run.summary["llmperf"], run.summary["whole_run"]
    speed = run.config["clock_speed"]
    complete = [record for record in run.records if record.error is None]
    per_token_ms = [latency_s(one) * speed * 1000 / one.output_tokens for one in complete]
    rows = (
        (
            "time to first token, mean (ms)",
            theirs["ttft_ms"],
            _at(whole_run, "ttft_s", "mean", scale=1000),
        ),
        (
            "throughput (tokens/s)",
            theirs["throughput_tokens_per_s"],
            _at(whole_run, "output_tokens_per_s"),
        ),
        (
            "whole request over its tokens, mean (ms)",
            theirs["latency_ms_per_token"],
            sum(per_token_ms) / len(per_token_ms) if per_token_ms else None,
        ),
        (
            "time per output token after the first, mean (ms)",
            None,
            _at(whole_run, "tpot_s", "mean", scale=1000),
        ),
    )
    columns = ["metric", "as llmperf counts", "output tokens only"]
    frame = pd.DataFrame(rows, columns=columns).astype({columns[1]: float, columns[2]: float})
    return frame.round(2).assign(target=run.target)


def _at(figures: Mapping | None, *names: str, scale: float = 1.0) -> float:
    """A figure, or NaN where there is none: an empty cell that keeps its column a number."""
    for name in names:
        figures = figures[name] if figures else None
    return float("nan") if figures is None else figures * scale
