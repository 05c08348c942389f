"""Target tracking: when a scaling policy wants more or fewer replicas, and how many.

How it decides: Application Auto Scaling's user guide, "How target tracking scaling works". The two
alarms of a policy are not CloudWatch's here, but they have names, and count datapoints as
CloudWatch would.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from helpers.rehearsal.aws import metrics
from helpers.rehearsal.aws.awsjson import invalid
from helpers.rehearsal.aws.metrics import MINUTE_S, Key, Tally
from helpers.target_tracking import COOLDOWN_S, HIGH_DATAPOINTS, LOW_S, LOW_SHARE, SAMPLE_S

# Metric, statistic and period of the predefined metrics. That the second looks at the maximum is
# [unverified]: SageMaker's guide gives Min and Max as the metric's valid statistics.
_PREDEFINED = {
    "SageMakerVariantInvocationsPerInstance": (metrics.PER_INSTANCE, "Sum", MINUTE_S),
    "SageMakerVariantConcurrentRequestsPerModelHighResolution": (
        metrics.CONCURRENT,
        "Maximum",
        SAMPLE_S,
    ),
}
_CUSTOMIZED = (
    metrics.INVOCATIONS,
    metrics.PER_INSTANCE,
    metrics.CONCURRENT,
)


@dataclass
class Policy:
    """A target tracking policy.

    Attributes:
        name: Its name.
        arn: Its ARN.
        created_s: Epoch second.
        config: As the request had it, with defaults.
        high: Name of the alarm that adds replicas.
        low: Name of the alarm that removes them.
        above: Datapoints in a row above the target.
        below: Datapoints in a row well below it.
        value: The last datapoint.
    """

    name: str
    arn: str
    created_s: float
    config: dict[str, Any]
    high: str
    low: str
    above: int = 0
    below: int = 0
    value: float = 0.0

    @property
    def metric(self) -> tuple[str, str, float]:
        """Name, statistic and period in seconds of what is tracked."""
        if "PredefinedMetricSpecification" in self.config:
            kind = self.config["PredefinedMetricSpecification"]["PredefinedMetricType"]
            return _PREDEFINED[kind]
        given = self.config["CustomizedMetricSpecification"]
        return given["MetricName"], given["Statistic"], MINUTE_S

    @property
    def scales_in(self) -> bool:
        """Whether it may remove replicas."""
        return not self.config["DisableScaleIn"]

    @property
    def alarms(self) -> list[str]:
        """Names of its alarms."""
        return [self.high, self.low] if self.scales_in else [self.high]

    def take(self, tallies: Mapping[str, Tally]) -> None:
        """Look at a datapoint."""
        name, statistic, _ = self.metric
        self.value = round(tallies.get(name, Tally()).statistic(statistic), 9)
        target = self.config["TargetValue"]
        self.above = self.above + 1 if self.value > target else 0
        self.below = self.below + 1 if self.value < LOW_SHARE * target else 0

    @property
    def wants_out(self) -> bool:
        """Whether its upper alarm is in state ALARM."""
        return self.above >= HIGH_DATAPOINTS

    @property
    def wants_in(self) -> bool:
        """Whether its lower alarm is in state ALARM."""
        return self.below * self.metric[2] >= LOW_S

    def desired(self, count: int) -> int:
        """How many replicas bring the metric to its target: always rounded up."""
        return math.ceil(round(count * self.value / self.config["TargetValue"], 6))


def checked(given: Mapping[str, Any], key: Key) -> dict[str, Any]:
    """The configuration of a policy that is offered, with its defaults.

    Args:
        given: PutScalingPolicy's request.
        key: Region, endpoint and variant.

    Raises:
        AwsError: When it is not offered or does not fit together.
    """
    kind = given.get("PolicyType", "StepScaling")  # AWS's default
    config = given.get("TargetTrackingScalingPolicyConfiguration")
    if kind != "TargetTrackingScaling" or config is None:
        raise invalid(
            "The rehearsal AWS offers PolicyType TargetTrackingScaling with a "
            f"TargetTrackingScalingPolicyConfiguration, not {kind}."
        )
    # The bounds are the API reference's; words [unverified], as all in this function.
    if not 2.0**-360 <= config["TargetValue"] <= 2.0**360:
        raise invalid("TargetValue must be greater than 0 and neither too small nor too large.")
    for name in ("ScaleInCooldown", "ScaleOutCooldown"):
        if config.get(name, 0) < 0:
            raise invalid(f"{name} must be 0 or greater.")
    predefined = config.get("PredefinedMetricSpecification")
    customized = config.get("CustomizedMetricSpecification")
    if (predefined is None) == (customized is None):
        raise invalid(
            "Give either a PredefinedMetricSpecification or a CustomizedMetricSpecification."
        )
    if predefined is not None and predefined["PredefinedMetricType"] not in _PREDEFINED:
        raise invalid(
            f"The rehearsal AWS scales production variants by {' and '.join(_PREDEFINED)}, not by "
            f"{predefined['PredefinedMetricType']}."
        )
    if customized is not None:
        _check_customized(customized, key)
    cooldowns = {"ScaleOutCooldown": COOLDOWN_S, "ScaleInCooldown": COOLDOWN_S}
    return {**cooldowns, "DisableScaleIn": False, **config}


def _check_customized(given: Mapping[str, Any], key: Key) -> None:
    """Refuse metrics other than the variant's own."""
    _, name, variant = key
    wanted = {"EndpointName": name, "VariantName": variant}
    dimensions = {one["Name"]: one["Value"] for one in given.get("Dimensions", [])}
    if (
        given.get("Namespace") != metrics.NAMESPACE
        or given.get("MetricName") not in _CUSTOMIZED
        or "Statistic" not in given
        or dimensions != wanted
    ):
        raise invalid(
            "The rehearsal AWS tracks customized metrics of the variant itself: Namespace "
            f"{metrics.NAMESPACE}, MetricName {' or '.join(_CUSTOMIZED)}, a Statistic, "
            f"and the dimensions {wanted}."
        )
