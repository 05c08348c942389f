"""Replicas of an endpoint: set how many, let a policy set it, and see what came of that.

How AWS does it: SageMaker's developer guide, "Automatic scaling of Amazon SageMaker AI models"
(endpoint-auto-scaling and the pages below it), and Application Auto Scaling's user guide, "Target
tracking scaling policies", both read from copies of 2022 to 2026.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from botocore.exceptions import BotoCoreError, ClientError

from helpers import contracts, costs, metrics, quotas, resources
from helpers import endpoint as endpoints
from helpers.endpoint import VARIANT, Endpoint
from helpers.errors import EndpointError, EndpointMissing, ResultsError, WorkshopError
from helpers.resources import ENDPOINT
from helpers.session import Session, in_utc, reason

# Requests under way or queued, an instance, every ten seconds: "up to 6x faster" than invocations
# a minute (AWS machine learning blog, 2024-07).
METRIC = "SageMakerVariantConcurrentRequestsPerModelHighResolution"
COOLDOWN_S = 300  # AWS's default for production variants (TargetTrackingScalingPolicyConfiguration)
_NAMESPACE, _DIMENSION = "sagemaker", "sagemaker:variant:DesiredInstanceCount"
# "there might be a brief delay until the operation achieves eventual consistency" (API reference,
# RegisterScalableTarget): tries, and AWS seconds between them.
_TRIES, _RETRY_S = 4, 5.0
_LOOKS_ALLOWED_TO_FAIL = 10  # in a row, while waiting: a laptop loses its network now and then


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


# --- By hand --------------------------------------------------------------------------------


def replicas(
    session: Session,
    endpoint: Endpoint,
    count: int,
    *,
    poll_s: float = 15,
    timeout_s: float = 5400,
    mark_s: float = 300,
) -> Endpoint:
    """Let an endpoint have so many replicas, and wait until it has; says what it costs.

    A new replica is a new machine that loads the whole model: it takes as long as the first one
    did, while those that are there go on serving. Interrupted and run again, it goes on waiting.

    Args:
        session: The workshop's session.
        endpoint: As `endpoint.find` gives it.
        count: Replicas, 1 or more.
        poll_s: AWS seconds between two looks.
        timeout_s: AWS seconds after which to give up waiting.
        mark_s: AWS seconds between two lines.

    Returns:
        The endpoint as it is now, with its new price.

    Raises:
        EndpointError: When the number makes no sense, the endpoint is not in service, the quota
            does not reach, AWS refuses, the replicas do not come, on time-out or interrupt.
    """
    if not _is_whole(count) or count < 1:
        raise EndpointError(
            f"An endpoint has one replica or more, not {count!r}: to pay for none, run 08_clean_up."
        )
    now = _described(session, endpoint.name)
    wanted = now.desired if now.status == "Updating" else None
    if wanted == count:
        session.say(f"Endpoint {endpoint.name} is on its way to {_replicas(count)}: waiting.")
    else:
        _refuse_busy(now)
        if now.serving == count:
            session.say(f"Endpoint {endpoint.name} has {_replicas(count)} already.")
            return endpoints.look(session, endpoint.name)
        _check_quota(session, endpoint, count, serving=now.serving)
        _set_count(session, endpoint, count)
        _say_price(session, endpoint, now.serving, count)
    return wait(session, endpoint, count, poll_s=poll_s, timeout_s=timeout_s, mark_s=mark_s)


def wait(
    session: Session,
    endpoint: Endpoint,
    count: int,
    *,
    poll_s: float = 15,
    timeout_s: float = 5400,
    mark_s: float = 300,
) -> Endpoint:
    """Wait until an endpoint serves with so many replicas, whoever changes their number.

    Args:
        session: The workshop's session.
        endpoint: As `endpoint.find` gives it.
        count: Replicas to wait for.
        poll_s: AWS seconds between two looks.
        timeout_s: AWS seconds after which to give up.
        mark_s: AWS seconds between two lines while replicas are changed.

    Returns:
        The endpoint as it is now.

    Raises:
        EndpointError: When the change ends with another number, on time-out or interrupt.
        EndpointMissing: When the endpoint is gone.
    """
    try:
        return _wait(session, endpoint, count, poll_s=poll_s, timeout_s=timeout_s, mark_s=mark_s)
    except KeyboardInterrupt:
        pass
    raise EndpointError(f"Interrupted. {_goes_on(session, endpoint.name)}")


def _wait(
    session: Session,
    endpoint: Endpoint,
    count: int,
    *,
    poll_s: float,
    timeout_s: float,
    mark_s: float,
) -> Endpoint:
    end_s = session.clock.monotonic() + timeout_s
    marks = _Marks(
        session, count, _price_of_one(endpoint), every_s=mark_s, called=session.clock.now()
    )
    while True:
        asked = session.clock.now()  # a mark is said when it was still updating then
        now = _patiently(session, endpoint.name, poll_s=poll_s)
        if now.status == "InService" and now.serving == count:
            break
        if now.status == "InService" and marks.began:
            raise EndpointError(_did_not_come(now, count))
        if now.status not in ("InService", "Updating", "SystemUpdating"):
            raise EndpointError(
                f"Endpoint {now.name} is {now.status}: it gets no other number of replicas; "
                "03_deploy_endpoint makes a new one."
            )
        marks.see(now)
        marks.say(asked)
        if session.clock.monotonic() > end_s:
            raise EndpointError(
                f"Still {_replicas(now.serving)} after {timeout_s / 60:g} min, not {count}. "
                f"{_goes_on(session, now.name)}"
            )
        session.clock.sleep(poll_s)
    marks.say(now.modified)  # those a slow look has missed
    session.say(f"{_replicas(count)} in service since {in_utc(now.modified)}")
    return endpoints.look(session, endpoint.name)


@dataclass
class _Marks:
    """Says how a change of the number of replicas is getting on; by AWS's stamps.

    Attributes:
        session: Says it.
        count: Replicas that are awaited.
        price: $ an hour for each, None when unknown.
        every_s: AWS seconds between two lines.
        called: Since when somebody waits.
        began: When the change began, None before it has.
        more: Replicas that it adds.
        said: Lines said or left out so far.
    """

    session: Session
    count: int
    price: float | None
    every_s: float
    called: datetime
    began: datetime | None = None
    more: int = 0
    said: int = 0

    def see(self, now: "_Described") -> None:
        """Notice that the change has begun."""
        if self.began or now.status != "Updating" or now.desired != self.count:
            return
        self.began, self.more = now.modified, self.count - now.serving
        earlier_s = (self.called - self.began).total_seconds()
        self.said = max(0, int(earlier_s // self.every_s))  # nobody was waiting then

    def say(self, until: datetime) -> None:
        """Say the lines that are due."""
        while self.began and (self.said + 1) * self.every_s <= (until - self.began).total_seconds():
            self.said += 1
            seconds = self.said * self.every_s
            line = f"Updating to {_replicas(self.count)}, {seconds / 60:g} min"
            if self.price and self.more > 0:
                line += f", ${seconds / 3600 * self.price * self.more:.2f} more so far"
            self.session.say(line)


def sizes(session: Session, endpoint: Endpoint, *, maximum: int = 3) -> pd.DataFrame:
    """What each number of replicas would bring and cost, a row each; says what the quota is.

    Args:
        session: The workshop's session.
        endpoint: As `endpoint.find` gives it.
        maximum: The last row's number.

    Raises:
        EndpointError: When the number makes no sense.
    """
    if not _is_whole(maximum) or maximum < 1:
        raise EndpointError(f"Give a number of replicas of 1 or more, not {maximum!r}.")
    slots, price = _slots(endpoint), _price_of_one(endpoint)
    quota = quotas.of(session, endpoint.instance_type)
    session.say(str(quota))
    rows = [
        {
            "replicas": count,
            "requests side by side": slots * count if slots else "unknown",
            "$/h": f"{price * count:.2f}" if price else "unknown",
            "$ a day": f"{24 * price * count:.0f}" if price else "unknown",
            "within the quota": _says(quota, count - endpoint.instance_count),
        }
        for count in range(1, maximum + 1)
    ]
    return pd.DataFrame(rows).set_index("replicas")


# --- By a policy ----------------------------------------------------------------------------


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
    now = _described(session, endpoint.name)
    _refuse_busy(now)
    _check_quota(session, endpoint, maximum, serving=now.serving)
    before = tracking(session, endpoint)
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
    price = _price_of_one(endpoint)
    session.say(
        f"Policy {endpoint.name}: {minimum} to {_replicas(maximum)}, each with about "
        f"{concurrent_per_replica:g} requests at a time"
        + (f"; ${price * maximum:.2f} an hour at most ({costs.PRICE_DATE})." if price else ".")
    )
    if not minimum <= now.serving <= maximum:
        session.say(f"It has {_replicas(now.serving)}: AWS brings it into that range now.")
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
    now, told = _described(session, endpoint.name), tracking(session, endpoint)
    price, is_ours = _price_of_one(endpoint), bool(told and told.concurrent_per_replica)
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


# --- What replicas bring --------------------------------------------------------------------


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
    if not 0 < every_min < math.inf:
        raise ResultsError(f"A stretch has minutes, more than 0, not {every_min}.")
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


# --- Checks ---------------------------------------------------------------------------------


def _check_tracking(minimum: int, maximum: int, concurrent: float, in_s: int, out_s: int) -> None:
    """Refuse numbers that make no policy."""
    for name, value in (("minimum", minimum), ("maximum", maximum)):
        if not _is_whole(value):
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
    if not 0 < concurrent < math.inf:
        raise EndpointError(
            f"concurrent_per_replica is more than 0, not {concurrent}: the number of slots, for "
            "example."
        )
    for name, value in (("scale_in_cooldown_s", in_s), ("scale_out_cooldown_s", out_s)):
        if not _is_whole(value) or value < 0:
            raise EndpointError(f"{name} is a whole number of seconds, 0 or more, not {value!r}.")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse_busy(now: "_Described") -> None:
    if now.status == "InService":
        return
    raise EndpointError(
        f"Endpoint {now.name} is {now.status}"
        + (f" to {_replicas(now.desired)}" if now.status == "Updating" else "")
        + ", and AWS changes replicas only of one in service: wait until it is, then try again."
    )


def _check_quota(session: Session, endpoint: Endpoint, count: int, *, serving: int) -> None:
    """Refuse more replicas than the quota has instances left for."""
    more = count - serving
    if more <= 0:
        return
    quota = quotas.of(session, endpoint.instance_type)
    if quota.reaches(more):
        return
    raise EndpointError(
        f"{_replicas(count)} of {endpoint.name} would be {more} {quota.instance_type} more, but "
        f"the quota for endpoint usage in {quota.region} is {quota.limit:g} and {quota.used} of "
        f"it in use: ask for fewer, or request {quota.code} in Service Quotas (service code "
        "sagemaker)."
    )


# --- Asking AWS -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Described:
    """An endpoint's replicas, as SageMaker describes them."""

    name: str
    arn: str
    status: str
    serving: int
    desired: int
    modified: datetime
    failure_reason: str


def _described(session: Session, name: str) -> _Described:
    described = resources.describe(session, ENDPOINT, name)
    if described is None:
        raise EndpointMissing(
            f"There is no endpoint {name} in {session.region}: run 03_deploy_endpoint."
        )
    variant = next(
        (one for one in described.get("ProductionVariants", []) if one["VariantName"] == VARIANT),
        {},
    )
    return _Described(
        name=described["EndpointName"],
        arn=described["EndpointArn"],
        status=described["EndpointStatus"],
        serving=variant.get("CurrentInstanceCount", 0),
        desired=variant.get("DesiredInstanceCount", 0),
        modified=described["LastModifiedTime"],
        failure_reason=described.get("FailureReason", ""),
    )


def _patiently(session: Session, name: str, *, poll_s: float) -> _Described:
    """The same by a network that comes and goes."""
    for _ in range(_LOOKS_ALLOWED_TO_FAIL - 1):
        try:
            return _described(session, name)
        except EndpointMissing:
            raise
        except EndpointError:
            session.clock.sleep(poll_s)
    return _described(session, name)


def _set_count(session: Session, endpoint: Endpoint, count: int) -> None:
    wanted = [{"VariantName": VARIANT, "DesiredInstanceCount": count}]
    try:
        session.client("sagemaker").update_endpoint_weights_and_capacities(
            EndpointName=endpoint.name, DesiredWeightsAndCapacities=wanted
        )
        return
    except (ClientError, BotoCoreError) as error:
        problem = reason(error)
    raise EndpointError(f"Endpoint {endpoint.name} does not get {_replicas(count)}: {problem}")


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
    return {
        "ServiceNamespace": _NAMESPACE,
        "ResourceId": f"endpoint/{name}/variant/{VARIANT}",
        "ScalableDimension": _DIMENSION,
    }


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


def _say_price(session: Session, endpoint: Endpoint, before: int, after: int) -> None:
    price = _price_of_one(endpoint)
    money = (
        f": ${price * after:.2f} an hour instead of ${price * before:.2f} ({costs.PRICE_DATE})"
        if price
        else ", at a price nobody here knows"
    )
    session.say(f"Endpoint {endpoint.name}: {_replicas(after)} instead of {before}{money}.")


def _did_not_come(now: _Described, count: int) -> str:
    why = now.failure_reason or "SageMaker gives no reason"
    return (
        f"Endpoint {now.name} goes on with {_replicas(now.serving)} instead of {count}: "
        f"{why.rstrip('.')}. Try again later, or read its container's log "
        f"({endpoints.LOG_GROUP.format(name=now.name)})."
    )


def _goes_on(session: Session, name: str) -> str:
    """What is there and bills, and how to get out of it."""
    again = "run the cell again to wait for it, or scaling.replicas for another number"
    try:
        now = _described(session, name)
    except EndpointError as error:
        return f"What has become of endpoint {name} is not known ({error}): {again}."
    changing = (
        f"is on its way from {now.serving} to {_replicas(now.desired)}, and bills for the larger "
        "number"
        if now.status == "Updating"
        else f"is {now.status} with {_replicas(now.serving)}"
    )
    return f"Endpoint {name} {changing}: {again} once it is in service."


def _replicas(count: int) -> str:
    return f"{count} replica{'' if count == 1 else 's'}"


def _says(quota: quotas.Quota, more: int) -> str:
    if quota.limit is None and more > 0:
        return "unknown"
    return "yes" if quota.reaches(more) else "NO"


def _name(endpoint: Endpoint | str) -> str:
    return endpoint if isinstance(endpoint, str) else endpoint.name


def _price_of_one(endpoint: Endpoint) -> float | None:
    known = costs.INSTANCES.get(endpoint.instance_type)
    return known.price_per_hour if known else None


def _slots(endpoint: Endpoint) -> int | None:
    try:
        contract = contracts.contract_for_image(endpoint.image)
        return contracts.shape(contract, endpoint.env).batch_size
    except WorkshopError:
        return None
