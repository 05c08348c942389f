"""Replicas by a policy: target tracking of Application Auto Scaling, and what it has done."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from botocore.exceptions import BotoCoreError, ClientError

from helpers import costs, resources
from helpers.endpoint import VARIANT, Endpoint, deployed
from helpers.endpoint.deployment import is_whole
from helpers.errors import EndpointError
from helpers.resources import scaling_targets
from helpers.scaling.state import (
    check_quota,
    described,
    in_words,
    price_of_one,
    refuse_busy,
)
from helpers.session import Session, in_utc, reason
from helpers.target_tracking import COOLDOWN_S

# Requests under way or queued, an instance, every ten seconds: "up to 6x faster" than invocations
# a minute (AWS machine learning blog, 2024-07).
METRIC = "SageMakerVariantConcurrentRequestsPerModelHighResolution"
# Of a target value (API reference, TargetTrackingScalingPolicyConfiguration).
_LARGEST_TARGET = 2.0**360
# "there might be a brief delay until the operation achieves eventual consistency" (API reference,
# RegisterScalableTarget): tries, and AWS seconds between them.
_TRIES, _RETRY_S = 4, 5.0


@dataclass(frozen=True)
class Tracking:
    """What a target tracking policy is told.

    Attributes:
        minimum: Replicas it keeps at least.
        maximum: Replicas it goes up to.
        concurrent_per_replica: Requests at a time that each replica is to have; None where
            a target is registered without a policy of this workshop's.
        scale_in_cooldown_s: AWS seconds between the end of one scale-in and the next.
        scale_out_cooldown_s: The same of scale-outs.
        arn: Of the scalable target, which carries the tags.
    """

    minimum: int
    maximum: int
    concurrent_per_replica: float | None
    scale_in_cooldown_s: int | None
    scale_out_cooldown_s: int | None
    arn: str

    def replicas_for(self, users: int) -> int:
        """To how many replicas the policy goes when so many requests are under way at a time.

        Raises:
            EndpointError: When it is registered without a policy of this workshop's.
        """
        if not self.concurrent_per_replica:
            raise EndpointError("It has no policy of this workshop's: scaling.track makes one.")
        wanted = math.ceil(users / self.concurrent_per_replica)
        return min(self.maximum, max(self.minimum, wanted))


def track(
    session: Session,
    endpoint: Endpoint,
    *,
    minimum: int = 1,
    maximum: int,
    concurrent_per_replica: float,
    scale_in_cooldown_s: int = COOLDOWN_S,
    scale_out_cooldown_s: int = COOLDOWN_S,
) -> Tracking:
    """Let AWS add and remove replicas so that each has about so many requests at a time.

    The target it registers carries the workshop's tags; its policy has the endpoint's name. Run
    again, it changes both. While it is registered AWS refuses an UpdateEndpoint that changes the
    instance type or removes the variant: `untrack` first.

    Args:
        session: The workshop's session.
        endpoint: As `endpoint.find` gives it.
        minimum: Replicas to keep, 1 or more: SageMaker keeps at least one of a variant.
        maximum: Replicas to go up to, and so what it may cost.
        concurrent_per_replica: Requests at a time that a replica is to have; its slots, for
            example.
        scale_in_cooldown_s: AWS seconds from the end of one scale-in to the next.
        scale_out_cooldown_s: The same of scale-outs.

    Raises:
        EndpointError: When the numbers make no sense, the endpoint is not in service, the quota
            does not reach the maximum, or AWS refuses.
    """
    _check_tracking(
        minimum, maximum, concurrent_per_replica, scale_in_cooldown_s, scale_out_cooldown_s
    )
    now = described(session, endpoint.name)
    refuse_busy(now)
    check_quota(session, endpoint, maximum, serving=now.serving)
    before = tracking(session, endpoint)
    deployed.remember_most(session, now.arn, max(maximum, now.serving))
    _register(session, endpoint, now.arn, minimum, maximum, before)
    config = {
        "TargetValue": float(concurrent_per_replica),
        "PredefinedMetricSpecification": {"PredefinedMetricType": METRIC},
        "ScaleInCooldown": scale_in_cooldown_s,
        "ScaleOutCooldown": scale_out_cooldown_s,
    }
    try:
        _put_policy(session, endpoint.name, config)
    except EndpointError:
        if before is None:
            untrack(session, endpoint.name)  # a target without a policy only gets in the way
        raise
    price = price_of_one(endpoint)
    session.say(
        f"Policy {endpoint.name}: {minimum} to {in_words(maximum)}, each with about "
        f"{concurrent_per_replica:g} requests at a time"
        + (f"; ${price * maximum:.2f} an hour at most ({costs.PRICE_DATE})." if price else ".")
    )
    if not minimum <= now.serving <= maximum:
        session.say(f"It has {in_words(now.serving)}: AWS brings it into that range now.")
    return tracking(session, endpoint)


def untrack(session: Session, endpoint: Endpoint | str) -> bool:
    """Deregister an endpoint, which deletes its policies and their alarms; False when it was not.

    A change that a policy has begun is carried through; `replicas` then sets the number by hand.

    Args:
        session: The workshop's session.
        endpoint: The endpoint or its name; it may be gone.

    Raises:
        EndpointError: When AWS refuses.
    """
    name = _name(endpoint)
    problem = _called(session, "deregister_scalable_target", **_target(name))
    if problem is None:
        session.say(f"Policy {name}: gone. From now on the number of replicas stays as it is.")
        return True
    if problem.is_missing:
        return False
    raise EndpointError(f"Endpoint {name} stays under its scaling policy: {problem}")


def tracking(session: Session, endpoint: Endpoint | str) -> Tracking | None:
    """What an endpoint's policy was told, None when it is not registered.

    Raises:
        EndpointError: When AWS cannot be asked.
    """
    name = _name(endpoint)
    target = _target(name)
    ids = {**target, "ResourceIds": [target["ResourceId"]]}
    del ids["ResourceId"]
    registered = _asked(session, "describe_scalable_targets", "ScalableTargets", **ids)
    if not registered:
        return None
    policies = _asked(
        session, "describe_scaling_policies", "ScalingPolicies", PolicyNames=[name], **target
    )
    told = policies[0].get("TargetTrackingScalingPolicyConfiguration", {}) if policies else {}
    return Tracking(
        minimum=registered[0]["MinCapacity"],
        maximum=registered[0]["MaxCapacity"],
        concurrent_per_replica=told.get("TargetValue"),
        scale_in_cooldown_s=told.get("ScaleInCooldown"),
        scale_out_cooldown_s=told.get("ScaleOutCooldown"),
        arn=registered[0].get("ScalableTargetARN", ""),
    )


def describe(session: Session, endpoint: Endpoint) -> pd.DataFrame:
    """How an endpoint is scaled now: replicas, price, and its policy if it has one.

    Raises:
        EndpointError: When AWS cannot be asked, or the endpoint is gone.
    """
    now, told = described(session, endpoint.name), tracking(session, endpoint)
    price, is_ours = price_of_one(endpoint), bool(told and told.concurrent_per_replica)
    rows: dict[str, Any] = {
        "status": now.status,
        "replicas that serve": now.serving,
        "replicas wanted": now.desired,
        "price now ($/h)": f"{price * now.serving:.2f}" if price else "unknown",
        "policy": endpoint.name
        if is_ours
        else "none"
        if told
        else "none: the number stays as it is",
    }
    if told:
        rows |= {
            "minimum": told.minimum,
            "maximum": told.maximum,
            "price at the maximum ($/h)": f"{price * told.maximum:.2f}" if price else "unknown",
        }
    if is_ours:
        rows |= {
            "requests at a time and replica": f"{told.concurrent_per_replica:g}",
            "cooldown after scale-out (s)": told.scale_out_cooldown_s,
            "cooldown after scale-in (s)": told.scale_in_cooldown_s,
        }
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["value"])
    return frame.rename_axis(index="property")


def activities(session: Session, endpoint: Endpoint | str) -> pd.DataFrame:
    """What policies and bounds have done to an endpoint in the last six weeks, newest first.

    Changes by hand are no activities. One that has not ended has no end and no minutes.

    Returns:
        One row each: started, ended, what, why, result, minutes, target.

    Raises:
        EndpointError: When AWS cannot be asked.
    """
    name = _name(endpoint)
    found = _asked(session, "describe_scaling_activities", "ScalingActivities", **_target(name))
    rows = [_activity(one) | {"target": session.target} for one in found]
    return pd.DataFrame(
        rows, columns=["started", "ended", "what", "why", "result", "minutes", "target"]
    )


def _check_tracking(minimum: int, maximum: int, concurrent: float, in_s: int, out_s: int) -> None:
    """Refuse numbers that make no policy."""
    for name, value in (("minimum", minimum), ("maximum", maximum)):
        if not is_whole(value):
            raise EndpointError(f"{name} is a whole number of replicas, not {value!r}.")
    if minimum < 1:
        raise EndpointError(
            f"minimum is 1 or more, not {minimum}: SageMaker keeps at least one replica of a "
            "variant; to pay for none, run 08_clean_up."
        )
    if maximum < minimum:
        raise EndpointError(
            f"maximum ({maximum}) is less than minimum ({minimum}): give a maximum of {minimum} "
            "or more."
        )
    if isinstance(concurrent, bool) or not isinstance(concurrent, int | float):
        raise EndpointError(f"concurrent_per_replica is a number, not {concurrent!r}.")
    if not 0 < concurrent < _LARGEST_TARGET:
        shown = concurrent if abs(concurrent) < _LARGEST_TARGET else "a number as large as that"
        raise EndpointError(
            f"concurrent_per_replica is more than 0 and less than 2^360, not {shown}: the number "
            "of slots, for example."
        )
    for name, value in (("scale_in_cooldown_s", in_s), ("scale_out_cooldown_s", out_s)):
        if not is_whole(value) or value < 0:
            raise EndpointError(f"{name} is a whole number of seconds, 0 or more, not {value!r}.")


# --- Asking AWS -----------------------------------------------------------------------------


def _register(
    session: Session,
    endpoint: Endpoint,
    arn: str,
    minimum: int,
    maximum: int,
    before: Tracking | None,
) -> None:
    """Register the variant, or change what is registered; tags go along in either case."""
    own = resources.tags_of(session, arn)
    tags = resources.tags(session, endpoint.recipe_name)
    tags["expires"] = own.get("expires", tags["expires"])  # the target goes with its endpoint
    tags = {key: value for key, value in tags.items() if value}
    bounds = {"MinCapacity": minimum, "MaxCapacity": maximum}
    given = {**_target(endpoint.name), **bounds, **({} if before else {"Tags": tags})}
    problem = _called(session, "register_scalable_target", **given)
    if problem is None and before:  # AWS takes tags with a new target only
        problem = _called(session, "tag_resource", ResourceARN=before.arn, Tags=tags)
    if problem:
        raise EndpointError(f"Endpoint {endpoint.name} cannot be scaled automatically: {problem}")


def _put_policy(session: Session, name: str, config: Mapping[str, Any]) -> None:
    for again in reversed(range(_TRIES)):
        problem = _called(
            session,
            "put_scaling_policy",
            **_target(name),
            PolicyName=name,
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration=config,
        )
        if problem is None:
            return
        if not (problem.is_missing and again):
            break
        session.clock.sleep(_RETRY_S)
    raise EndpointError(f"Endpoint {name} gets no scaling policy: {problem}")


@dataclass(frozen=True)
class _Problem:
    """What AWS said instead of doing it."""

    words: str
    is_missing: bool

    def __str__(self) -> str:
        return self.words


def _called(session: Session, operation: str, **arguments: Any) -> _Problem | None:
    """Call Application Auto Scaling; what went wrong, or None."""
    try:
        getattr(session.client("application-autoscaling"), operation)(**arguments)
    except (ClientError, BotoCoreError) as error:
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
        return _Problem(reason(error), code == "ObjectNotFoundException")
    return None


def _asked(session: Session, operation: str, member: str, **arguments: Any) -> list[dict]:
    """All entries of one of Application Auto Scaling's lists."""
    try:
        pages = session.client("application-autoscaling").get_paginator(operation)
        return [one for page in pages.paginate(**arguments) for one in page[member]]
    except (ClientError, BotoCoreError) as error:
        problem = reason(error)
    raise EndpointError(f"Application Auto Scaling cannot be asked: {problem}")


def _target(name: str) -> dict[str, str]:
    """How Application Auto Scaling calls the variant of an endpoint."""
    return scaling_targets.variant(f"endpoint/{name}/variant/{VARIANT}")


def _name(endpoint: Endpoint | str) -> str:
    return endpoint if isinstance(endpoint, str) else endpoint.name


# --- Words ----------------------------------------------------------------------------------


def _activity(one: Mapping[str, Any]) -> dict[str, Any]:
    started, ended = one["StartTime"], one.get("EndTime")
    ok = one["StatusCode"] in ("Pending", "InProgress", "Successful")
    return {
        "started": in_utc(started),
        "ended": in_utc(ended) if ended else "",
        "what": one["Description"],
        "why": _why(one["Cause"]),
        "result": one["StatusCode"] if ok else f"{one['StatusCode']}: {one['StatusMessage']}",
        "minutes": f"{(ended - started).total_seconds() / 60:.1f}" if ended else "",
    }


def _why(cause: str) -> str:
    """The cause without the alarm's long name."""
    alarm = re.search(r"-Alarm(High|Low)-", cause)
    if not alarm:
        return cause
    return f"requests at a time {'above' if alarm[1] == 'High' else 'well below'} the target"
