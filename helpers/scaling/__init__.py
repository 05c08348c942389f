"""Replicas of an endpoint: set how many, let a policy set it, and see what came of that.

How AWS does it: SageMaker's developer guide, "Automatic scaling of Amazon SageMaker AI models"
(endpoint-auto-scaling and the pages below it), and Application Auto Scaling's user guide, "Target
tracking scaling policies", both read from copies of 2022 to 2026.

`by_hand` sets the number, `by_policy` lets AWS set it, `state` is what both ask first; `outcome`
shows what came of it in runs of the benchmark.
"""

from helpers.scaling.by_hand import replicas, sizes, wait
from helpers.scaling.by_policy import (
    COOLDOWN_S,
    METRIC,
    Tracking,
    activities,
    describe,
    track,
    tracking,
    untrack,
)
from helpers.scaling.outcome import compare, over_time

__all__ = [
    "COOLDOWN_S",
    "METRIC",
    "Tracking",
    "activities",
    "compare",
    "describe",
    "over_time",
    "replicas",
    "sizes",
    "track",
    "tracking",
    "untrack",
    "wait",
]
