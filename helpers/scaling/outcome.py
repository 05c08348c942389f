"""What replicas bring: runs with different numbers of them, and one run while it lasted."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from helpers import metrics
from helpers.errors import ResultsError


def compare(runs: Sequence) -> pd.DataFrame:
    """Throughput of each replica and cost of runs with different numbers of them, a row a run.

    Args:
        runs: As `benchmark.run` gives them.

    Raises:
        ResultsError: When there is no run.
    """
    if not runs:
        raise ResultsError("There is no run to compare: make one with benchmark.run.")
    figures = metrics.table(runs)
    counts = [run.config["endpoint"]["instance_count"] for run in runs]
    prices = [run.config["price"]["usd_per_hour"] for run in runs]
    return pd.DataFrame(
        {
            "replicas": counts,
            "users": figures["users"],
            "output tokens/s": figures["output tokens/s"],
            "of each replica": (figures["output tokens/s"] / counts).round(2),
            "TTFT p50 (s)": figures["TTFT p50 (s)"],
            "TPOT p50 (ms)": figures["TPOT p50 (ms)"],
            "$/h": prices,
            "$ per 1M output tokens": figures["$ per 1M output tokens"],
            "valid": figures["valid"],
            "target": figures["target"],
        }
    )


def over_time(run, *, every_min: float = 5) -> pd.DataFrame:
    """How the users of one run fared while it lasted, a row for each stretch of AWS time.

    Args:
        run: As `benchmark.run` gives it.
        every_min: Minutes of AWS time in a stretch; what is left of less than half of that at the
            end belongs to the last one.

    Returns:
        One row each: minutes, output tokens/s of what was answered in it, the median wait for a
        first token (s), target.

    Raises:
        ResultsError: When the stretch is no time, or no request of the run was answered.
    """
    if not isinstance(every_min, int | float) or not 0 < every_min < math.inf:
        raise ResultsError(f"A stretch has minutes, more than 0, not {every_min!r}.")
    # Stamps of a resumed part are of another clock: the first part is shown.
    answered = [one for one in run.records if one.error is None and one.part == 0]
    if not answered:
        raise ResultsError(f"{run.path.name} has no answered request: there is nothing to show.")
    speed, began_s = run.config["clock_speed"], min(one.sent_s for one in answered)
    ends_min = [(one.ended_s - began_s) * speed / 60 for one in answered]
    last = max(1, math.floor(max(ends_min) / every_min + 0.5)) - 1
    stretches: dict[int, list] = {place: [] for place in range(last + 1)}
    for one, end_min in zip(answered, ends_min, strict=True):
        stretches[min(last, int(end_min // every_min))].append(one)
    rows = []
    for place, here in stretches.items():
        low, high = place * every_min, (place + 1) * every_min
        minutes = (max(ends_min) if place == last else high) - low
        waits_s = [metrics.ttft_s(one) * speed for one in here if one.first_s is not None]
        rows.append(
            {
                "minutes": f"{low:g} to {'the end' if place == last else f'{high:g}'}",
                "output tokens/s": sum(one.output_tokens for one in here) / (minutes * 60),
                "TTFT p50 (s)": float(np.median(waits_s)) if waits_s else math.nan,
                "target": run.target,
            }
        )
    return pd.DataFrame(rows).round(2)
