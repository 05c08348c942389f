"""Application Auto Scaling for production variants: target tracking that adds and removes replicas.

When a policy wants how many: `tracking`. Here: what may be scaled, whether it may be now, and what
became of it.
"""

import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from botocore.model import ServiceModel

from helpers.rehearsal.aws import actions, tracking
from helpers.rehearsal.aws.actions import Ask, Place
from helpers.rehearsal.aws.awsjson import ACCOUNT, AwsError, Service, invalid, timestamp
from helpers.rehearsal.aws.catalog import Resource, check_tag_keys
from helpers.rehearsal.aws.endpoints import Fleet
from helpers.rehearsal.aws.metrics import EndpointMetrics, Key, Tally
from helpers.rehearsal.aws.paging import page
from helpers.rehearsal.aws.tracking import Policy
from helpers.rehearsal.timeline import Timeline

NAMESPACE = "sagemaker"
DIMENSION = "sagemaker:variant:DesiredInstanceCount"
# Seconds of AWS time.
KEPT_S = 6 * 7 * 86_400.0  # activities, as DescribeScalingActivities' reference says
RETRY_S = 60.0  # for bounds that could not be applied, the endpoint being changed [unverified]

_ROLE = (
    "arn:aws:iam::{account}:role/aws-service-role/sagemaker.application-autoscaling.amazonaws.com/"
    "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
)
_RESOURCE = re.compile(r"endpoint/([^/]+)/variant/([^/]+)")
_PAGE = 50  # of all lists (API reference)
_SUSPENDABLE = (
    "DynamicScalingInSuspended",
    "DynamicScalingOutSuspended",
    "ScheduledScalingSuspended",
)


class Endpoints(Protocol):
    """What is scaled."""

    on_updated: list[Callable[[Resource], None]]
    on_deleted: list[Callable[[Resource], None]]

    def describe(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        """Answer DescribeEndpoint."""

    def scale(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        """Answer UpdateEndpointWeightsAndCapacities."""

    def fleet(self, name: str, region: str) -> Fleet | None:
        """What serves under a name."""

    def status(self, name: str, region: str) -> str | None:
        """An endpoint's status."""


@dataclass
class Target:
    """A production variant that is scaled.

    Attributes:
        key: Region, endpoint and variant.
        arn: Its ARN.
        created_s: Epoch second.
        low: MinCapacity.
        high: MaxCapacity.
        suspended: SuspendedState.
        tags: By key.
        policies: By name.
        out_s: When the last policy's scale-out was complete.
        in_s: The same of a scale-in.
    """

    key: Key
    arn: str
    created_s: float
    low: int
    high: int
    suspended: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(_SUSPENDABLE, False))
    tags: dict[str, str] = field(default_factory=dict)
    policies: dict[str, Policy] = field(default_factory=dict)
    out_s: float = 0.0
    in_s: float = 0.0

    @property
    def resource_id(self) -> str:
        """As Application Auto Scaling names it."""
        _, name, variant = self.key
        return f"endpoint/{name}/variant/{variant}"

    @property
    def named(self) -> dict[str, str]:
        """The three members that name it."""
        return {
            "ServiceNamespace": NAMESPACE,
            "ResourceId": self.resource_id,
            "ScalableDimension": DIMENSION,
        }


class AutoScaling:
    """The scalable targets of an account, their policies and what these did.

    Args:
        timeline: AWS time.
        model: botocore's service model of Application Auto Scaling.
        endpoints: What is scaled.
        metrics: What it is scaled by.
        account: Twelve digits.
    """

    def __init__(
        self,
        timeline: Timeline,
        *,
        model: ServiceModel,
        endpoints: Endpoints,
        metrics: EndpointMetrics,
        account: str = ACCOUNT,
    ):
        self._timeline = timeline
        self._endpoints = endpoints
        self._metrics = metrics
        self._account = account
        self._targets: dict[Key, Target] = {}
        self._activities: dict[str, dict[str, Any]] = {}  # by id, oldest first
        timeline.on("scaling bounds", self._on_bounds)
        metrics.on_period.append(self._on_period)
        endpoints.on_updated.append(self._on_updated)
        endpoints.on_deleted.append(self._on_deleted)
        self.service = Service(
            model,
            {
                "RegisterScalableTarget": self._register,
                "DescribeScalableTargets": self._describe_targets,
                "DeregisterScalableTarget": self._deregister,
                "PutScalingPolicy": self._put_policy,
                "DescribeScalingPolicies": self._describe_policies,
                "DeleteScalingPolicy": self._delete_policy,
                "DescribeScalingActivities": self._describe_activities,
                "TagResource": self._tag,
                "UntagResource": self._untag,
                "ListTagsForResource": self._list_tags,
            },
            advance=timeline.advance,
        )

    def check_update(self, endpoint: Resource, before: Fleet, after: Fleet) -> None:
        """Refuse an update that removes a registered variant or changes its instance type.

        Raises:
            AwsError: In SageMaker's words.
        """
        types = {one.name: one.instance_type for one in after.variants}
        lost = [
            one.name
            for one in before.variants
            if (endpoint.region, endpoint.name, one.name) in self._targets
            and types.get(one.name) != one.instance_type
        ]
        if lost:
            names = ", ".join(f'"{name}"' for name in lost)
            raise invalid(
                f"The variant(s) {names} must be deregistered as scalable targets with AWS Auto "
                "Scaling before they can be removed or have their instance type updated."
            )

    def targets(self, region: str) -> list[Target]:
        """The scalable targets of a region."""
        return [one for one in self._targets.values() if one.key[0] == region]

    def besides(self, ask: Ask, region: str) -> Iterator[Ask]:
        """What deleting an endpoint asks for as well: to deregister what scales it.

        Who has no right to deregister "must request access to this action before deleting the
        endpoint" (SageMaker developer guide, "Delete endpoints configured for auto scaling",
        2026); that DeleteEndpoint says so as DynamoDB's DeleteTable does (crossplane-contrib,
        2023) is [unverified].
        """
        if ask.action == "sagemaker:DeleteEndpoint":
            name = ask.resource.rpartition(":endpoint/")[2]
            if any(one.key[1].lower() == name for one in self.targets(region)):
                yield actions.deregistration(Place(region, self._account))

    # --- scalable targets

    def _register(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        """Register a variant, or change what is registered."""
        key = self._key(given, region)
        target = self._targets.get(key) or self._new(key, given)
        if key in self._targets and "Tags" in given:  # hashicorp/terraform-provider-aws#31839
            raise invalid(
                "The scalable target that you tried to tag already exists. To update tags on an "
                "existing scalable target, use the TagResource API."
            )
        low, high = given.get("MinCapacity", target.low), given.get("MaxCapacity", target.high)
        if low < 1:  # "Minimum instance count is required to be 1 or higher" (SageMaker's guide)
            raise invalid("Minimum capacity of a production variant must be 1 or higher.")
        if low > high:  # words [unverified]
            raise invalid("Maximum capacity cannot be less than minimum capacity")
        target.low, target.high = low, high
        target.suspended |= given.get("SuspendedState", {})
        self._targets[key] = target
        self._apply_bounds(target, self._timeline.clock.time())
        return {"ScalableTargetARN": target.arn}

    def _new(self, key: Key, given: Mapping[str, Any]) -> Target:
        self._check_exists(key)
        if "MinCapacity" not in given or "MaxCapacity" not in given:  # words [unverified]
            raise invalid("MinCapacity and MaxCapacity are required for a new scalable target.")
        check_tag_keys(given.get("Tags", {}))
        arn = f"arn:aws:application-autoscaling:{key[0]}:{self._account}:scalable-target/"
        return Target(
            key,
            arn + uuid.uuid4().hex + uuid.uuid4().hex[:4],
            self._timeline.clock.time(),
            given["MinCapacity"],
            given["MaxCapacity"],
            tags=dict(given.get("Tags", {})),
        )

    def _describe_targets(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        found = [
            one
            for one in self._chosen(given, region)
            if not given.get("ResourceIds") or one.resource_id in given["ResourceIds"]
        ]
        shown, rest = _page(
            found, given, f"DescribeScalableTargets {region}", place=lambda one: one.resource_id
        )
        described = [
            {
                **one.named,
                "MinCapacity": one.low,
                "MaxCapacity": one.high,
                "RoleARN": _ROLE.format(account=self._account),
                "CreationTime": timestamp(one.created_s),
                "SuspendedState": dict(one.suspended),
                "ScalableTargetARN": one.arn,
            }
            for one in shown
        ]
        return {"ScalableTargets": described, **rest}

    def _deregister(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        self._drop(self._target(given, region))
        return {}

    def _drop(self, target: Target) -> None:
        """Forget a target and its policies; what was begun is carried through."""
        del self._targets[target.key]
        self._metrics.watch(target.key, set())

    def _chosen(self, given: Mapping[str, Any], region: str) -> Iterator[Target]:
        """The targets that a list operation asks for."""
        for target in self._targets.values():
            asked = {name: given.get(name, value) for name, value in target.named.items()}
            if target.key[0] == region and asked == target.named:
                yield target

    def _key(self, given: Mapping[str, Any], region: str) -> Key:
        match = _RESOURCE.fullmatch(given["ResourceId"])
        wanted = (given["ServiceNamespace"], given["ScalableDimension"])
        if match is None or wanted != (NAMESPACE, DIMENSION):
            raise invalid(
                "Unsupported service namespace, resource type or scalable dimension: the rehearsal "
                f"AWS scales {NAMESPACE}, endpoint/NAME/variant/VARIANT, {DIMENSION}."
            )
        return region, match[1], match[2]

    def _check_exists(self, key: Key) -> None:
        """Refuse what is no variant of an endpoint in service; words [unverified]."""
        region, name, variant = key
        described = self._endpoints.describe({"EndpointName": name}, region)
        if described["EndpointName"] != name:
            raise invalid(f"The endpoint is called {described['EndpointName']}, not {name}.")
        known = [one["VariantName"] for one in described.get("ProductionVariants", [])]
        if variant not in known:
            raise invalid(
                f'Could not find variant "{variant}" of endpoint "{described["EndpointArn"]}", '
                f"which is {described['EndpointStatus']}."
            )

    def _target(self, given: Mapping[str, Any], region: str) -> Target:
        target = self._targets.get(self._key(given, region))
        if target is None:
            raise _not_found("scalable target registered", given)
        return target

    # --- policies

    def _put_policy(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        target = self._target(given, region)
        config = tracking.checked(given, target.key)
        name = given["PolicyName"]
        policy = self._policy(target, name, config)
        for other in target.policies.values():
            if other.name != name and other.metric == policy.metric:
                raise invalid(
                    "Only one TargetTrackingScaling policy for a given metric specification is "
                    "allowed."
                )
        target.policies[name] = policy
        self._watch(target)
        return {"PolicyARN": policy.arn, "Alarms": self._alarms(policy, region)}

    def _policy(self, target: Target, name: str, config: dict[str, Any]) -> Policy:
        """A policy, or an existing one with another configuration: its alarms start anew."""
        before = target.policies.get(name)
        region = target.key[0]
        arn = (
            f"arn:aws:autoscaling:{region}:{self._account}:scalingPolicy:{uuid.uuid4()}:resource/"
            f"{NAMESPACE}/{target.resource_id}:policyName/{name}"
        )
        high, low = (
            f"TargetTracking-{target.resource_id}-Alarm{side}-{uuid.uuid4()}"
            for side in ("High", "Low")
        )
        return Policy(
            name=name,
            arn=before.arn if before else arn,
            created_s=before.created_s if before else self._timeline.clock.time(),
            config=config,
            high=high,
            low=low,
        )

    def _describe_policies(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        found = [
            (target, policy)
            for target in self._chosen(given, region)
            for policy in target.policies.values()
            if not given.get("PolicyNames") or policy.name in given["PolicyNames"]
        ]
        shown, rest = _page(
            found,
            given,
            f"DescribeScalingPolicies {region}",
            place=lambda one: f"{one[0].resource_id} {one[1].name}",
        )
        described = [
            {
                "PolicyARN": policy.arn,
                "PolicyName": policy.name,
                **target.named,
                "PolicyType": "TargetTrackingScaling",
                "TargetTrackingScalingPolicyConfiguration": policy.config,
                "Alarms": self._alarms(policy, region),
                "CreationTime": timestamp(policy.created_s),
            }
            for target, policy in shown
        ]
        return {"ScalingPolicies": described, **rest}

    def _delete_policy(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        target = self._targets.get(self._key(given, region))
        if target is None or given["PolicyName"] not in target.policies:
            raise _not_found("scaling policy found", given, f", policy name: {given['PolicyName']}")
        del target.policies[given["PolicyName"]]
        self._watch(target)
        return {}

    def _alarms(self, policy: Policy, region: str) -> list[dict[str, str]]:
        arn = f"arn:aws:cloudwatch:{region}:{self._account}:alarm:"
        return [{"AlarmName": name, "AlarmARN": arn + name} for name in policy.alarms]

    def _watch(self, target: Target) -> None:
        self._metrics.watch(target.key, {one.metric[2] for one in target.policies.values()})

    # --- what happens by itself

    def _on_period(
        self, key: Key, at_s: float, period_s: float, tallies: Mapping[str, Tally]
    ) -> None:
        """Datapoints have come: let the policies that look at them decide."""
        target = self._targets.get(key)
        if target is None:
            return
        fresh = [one for one in target.policies.values() if one.metric[2] == period_s]
        for policy in fresh:
            policy.take(tallies)
        count = self._count(target.key)
        if not fresh or count is None:
            return
        decision = self._out(target, fresh, count, at_s) or self._in(target, fresh, count, at_s)
        if decision:
            desired, policy, alarm = decision
            cause = f"monitor alarm {alarm} in state ALARM triggered policy {policy.name}"
            self._change(target, desired, cause, at_s, by="in" if desired < count else "out")

    def _out(
        self, target: Target, fresh: Iterable[Policy], count: int, at_s: float
    ) -> tuple[int, Policy, str] | None:
        """The largest of what the policies want, when any of them wants more.

        A larger scale-out would be allowed within the cooldown; here it waits.
        """
        ready = [
            one
            for one in fresh
            if one.wants_out and at_s >= target.out_s + one.config["ScaleOutCooldown"]
        ]
        if not ready or target.suspended["DynamicScalingOutSuspended"]:
            return None
        policy = max(ready, key=lambda one: one.desired(count))
        desired = min(policy.desired(count), target.high)
        return (desired, policy, policy.high) if desired > count else None

    def _in(
        self, target: Target, fresh: Iterable[Policy], count: int, at_s: float
    ) -> tuple[int, Policy, str] | None:
        """The largest of what the policies want, when all that may remove replicas want fewer."""
        able = [one for one in target.policies.values() if one.scales_in]
        ready = all(
            one.wants_in and at_s >= target.in_s + one.config["ScaleInCooldown"] for one in able
        )
        asked = any(one.scales_in for one in fresh)
        if not (asked and ready) or target.suspended["DynamicScalingInSuspended"]:
            return None
        policy = max(able, key=lambda one: one.desired(count))
        desired = max(policy.desired(count), target.low)
        return (desired, policy, policy.low) if desired < count else None

    def _apply_bounds(self, target: Target, at_s: float) -> None:
        """Bring a variant into its range, or try again while its endpoint is being changed."""
        region, name, variant = target.key
        count = self._count(target.key)
        if count is None:
            if self._endpoints.status(name, region) in ("Updating", "SystemUpdating"):
                self._timeline.at(at_s + RETRY_S, "scaling bounds", key=list(target.key))
        elif count < target.low:
            self._change(target, target.low, f"minimum capacity was set to {target.low}", at_s)
        elif count > target.high:
            self._change(target, target.high, f"maximum capacity was set to {target.high}", at_s)

    def _on_bounds(self, at_s: float, event: dict[str, Any]) -> None:
        if target := self._targets.get(tuple(event["key"])):
            self._apply_bounds(target, at_s)

    def _on_updated(self, endpoint: Resource) -> None:
        """A change has ended: so have the activities that made it, whoever is registered by now."""
        for activity in self._activities.values():
            key = _key_of(activity)
            if activity["StatusCode"] == "InProgress" and key[:2] == _place_of(endpoint):
                self._settle(activity, key)

    def _on_deleted(self, endpoint: Resource) -> None:
        """AWS itself deregisters what an endpoint that is deleted leaves behind."""
        for target in list(self._targets.values()):
            if target.key[:2] == _place_of(endpoint):
                self._drop(target)

    def _count(self, key: Key) -> int | None:
        """Replicas of a variant whose endpoint can be changed."""
        region, name, variant = key
        fleet = self._endpoints.fleet(name, region)
        if fleet is None or self._endpoints.status(name, region) != "InService":
            return None
        return next((one.count for one in fleet.variants if one.name == variant), None)

    # --- activities

    def _change(
        self, target: Target, desired: int, cause: str, at_s: float, *, by: str = ""
    ) -> None:
        """Set a variant's replicas, and write down how that went.

        Words of a failure: SageMaker's developer guide, "Identify blocked scaling activities from
        instance quotas"; of the others: outputs of real accounts in public repositories.
        """
        region, name, variant = target.key
        activity = {
            "ActivityId": str(uuid.uuid4()),
            **target.named,
            "Description": f"Setting desired instance count to {desired}.",
            "Cause": cause,
            "StartTime": timestamp(at_s),
            "region": region,
            "desired": desired,
            "by": by,
        }
        wanted = [{"VariantName": variant, "DesiredInstanceCount": desired}]
        try:
            self._endpoints.scale(
                {"EndpointName": name, "DesiredWeightsAndCapacities": wanted}, region
            )
        except AwsError as error:
            activity["StatusCode"], activity["EndTime"] = "Failed", timestamp(at_s)
            activity["StatusMessage"] = (
                f"Failed to set desired instance count to {desired}. Reason: {error} (Service: "
                f"AmazonSageMaker; Status Code: {error.status}; Error Code: {error.code}; Request "
                f"ID: {uuid.uuid4()})."
            )
        else:
            activity["StatusCode"] = "InProgress"
            activity["StatusMessage"] = (
                f"Successfully set desired instance count to {desired}. Waiting for change to be "
                "fulfilled by sagemaker."
            )
        self._keep(activity, at_s)

    def _keep(self, activity: dict[str, Any], at_s: float) -> None:
        self._activities[activity["ActivityId"]] = activity
        self._activities = {
            id_: one for id_, one in self._activities.items() if one["StartTime"] > at_s - KEPT_S
        }

    def _settle(self, activity: dict[str, Any], key: Key) -> None:
        """Write down how an activity has ended."""
        region, name, _ = key
        described = self._endpoints.describe({"EndpointName": name}, region)
        ended_s, desired = described["LastModifiedTime"], activity["desired"]
        activity["EndTime"] = ended_s
        if self._count(key) == desired:
            activity["StatusCode"] = "Successful"
            activity["StatusMessage"] = (
                f"Successfully set desired instance count to {desired}. Change successfully "
                "fulfilled by sagemaker."
            )
            target = self._targets.get(key)
            if target and activity["by"] == "out":
                target.out_s = ended_s
            elif target and activity["by"] == "in":
                target.in_s = ended_s
        else:  # status and words [unverified]
            reason = described.get("FailureReason", "the endpoint has been changed since.")
            activity["StatusCode"] = "Unfulfilled"
            activity["StatusMessage"] = (
                f"Successfully set desired instance count to {desired}. Change was not fulfilled "
                f"by sagemaker: {reason}"
            )

    def _describe_activities(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        names = ("ServiceNamespace", "ResourceId", "ScalableDimension")
        found = [
            one
            for one in self._activities.values()
            if one["region"] == region
            and all(given.get(name, one[name]) == one[name] for name in names)
        ]
        shown, rest = _page(
            found,
            given,
            f"DescribeScalingActivities {region}",
            place=lambda one: f"{one['StartTime']:017.3f} {one['ActivityId']}",
            descending=True,
        )
        own = ("region", "desired", "by")
        described = [{n: value for n, value in one.items() if n not in own} for one in shown]
        return {"ScalingActivities": described, **rest}

    # --- tags

    def _tag(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        tags = {**self._by_arn(given).tags, **given["Tags"]}
        check_tag_keys(given["Tags"])
        if len(tags) > 50:  # words [unverified]
            raise AwsError("TooManyTagsException", "A scalable target has at most 50 tags.")
        self._by_arn(given).tags = tags
        return {}

    def _untag(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        for key in given["TagKeys"]:
            self._by_arn(given).tags.pop(key, None)
        return {}

    def _list_tags(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        return {"Tags": dict(self._by_arn(given).tags)}

    def _by_arn(self, given: Mapping[str, Any]) -> Target:
        arn = given["ResourceARN"]
        for target in self._targets.values():
            if target.arn == arn:
                return target
        message = f"The resource {arn[:200]} does not exist."  # words [unverified]
        raise AwsError("ResourceNotFoundException", message)

    # --- state

    def dump(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {
            "targets": [asdict(one) for one in self._targets.values()],
            "activities": list(self._activities.values()),
        }

    def restore(self, dumped: Mapping[str, Any]) -> None:
        """Take back what `dump` gave."""
        targets = map(_read, dumped["targets"])
        self._targets = {target.key: target for target in targets}
        self._activities = {one["ActivityId"]: dict(one) for one in dumped["activities"]}


def _read(dumped: Mapping[str, Any]) -> Target:
    policies = {name: Policy(**one) for name, one in dumped["policies"].items()}
    # Earlier state files have it: the id of the activity under way.
    known = {name: value for name, value in dumped.items() if name != "activity"}
    return Target(**{**known, "key": tuple(dumped["key"]), "policies": policies})


def _key_of(activity: Mapping[str, Any]) -> Key:
    _, name, _, variant = activity["ResourceId"].split("/")
    return activity["region"], name, variant


def _place_of(endpoint: Resource) -> tuple[str, str]:
    """What the keys of an endpoint's variants begin with."""
    return endpoint.region, endpoint.name


def _page(items: Iterable[Any], given: Mapping[str, Any], operation: str, **options: Any):
    error = "InvalidNextTokenException"
    return page(items, given, operation=operation, size=_PAGE, error=error, **options)


def _not_found(what: str, given: Mapping[str, Any], more: str = "") -> AwsError:
    """Words as in hashicorp/terraform issue 10737 and elsewhere."""
    return AwsError(
        "ObjectNotFoundException",
        f"No {what} for service namespace: {given['ServiceNamespace']}, resource ID: "
        f"{given['ResourceId']}, scalable dimension: {given['ScalableDimension']}{more}",
    )
