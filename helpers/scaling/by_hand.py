"""Replicas by hand: what each number costs, and the endpoint gets that number."""

from dataclasses import dataclass
from datetime import datetime

import pandas as pd
from botocore.exceptions import BotoCoreError, ClientError

from helpers import contracts, costs, quotas
from helpers import endpoint as endpoints
from helpers.endpoint import VARIANT, Endpoint, deployed
from helpers.endpoint.deployment import is_whole
from helpers.endpoint.watching import Marks, patiently
from helpers.errors import EndpointError, WorkshopError
from helpers.scaling.by_policy import tracking
from helpers.scaling.state import (
    Described,
    check_quota,
    described,
    in_words,
    price_of_one,
    refuse_busy,
)
from helpers.session import Session, in_utc, reason


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
    _check_count(count)
    now = described(session, endpoint.name)
    wanted = now.desired if now.status == "Updating" else None
    if wanted == count:
        session.say(f"Endpoint {endpoint.name} is on its way to {in_words(count)}: waiting.")
    else:
        refuse_busy(now)
        if now.serving == count:
            session.say(f"Endpoint {endpoint.name} has {in_words(count)} already.")
            return endpoints.look(session, endpoint.name)
        check_quota(session, endpoint, count, serving=now.serving)
        deployed.remember_most(session, now.arn, max(count, now.serving))
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
        EndpointError: When the number makes no sense, the change ends with another one, on
            time-out or interrupt; says how to take a policy away that goes on.
        EndpointMissing: When the endpoint is gone.
    """
    _check_count(count)
    try:
        return _wait(session, endpoint, count, poll_s=poll_s, timeout_s=timeout_s, mark_s=mark_s)
    except KeyboardInterrupt:
        pass
    raise EndpointError(f"Interrupted. {_goes_on(session, endpoint.name)}")


def _check_count(count: int) -> None:
    if not is_whole(count) or count < 1:
        raise EndpointError(
            f"An endpoint has one replica or more, not {count!r}: to pay for none, run 08_clean_up."
        )


def sizes(session: Session, endpoint: Endpoint, *, maximum: int = 3) -> pd.DataFrame:
    """What each number of replicas would bring and cost, a row each; says what the quota is.

    Args:
        session: The workshop's session.
        endpoint: As `endpoint.find` gives it.
        maximum: The last row's number.

    Raises:
        EndpointError: When the number makes no sense.
    """
    if not is_whole(maximum) or maximum < 1:
        raise EndpointError(f"Give a number of replicas of 1 or more, not {maximum!r}.")
    slots, price = _slots(endpoint), price_of_one(endpoint)
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


# --- Waiting --------------------------------------------------------------------------------


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
    progress = _Progress(
        session, count, price_of_one(endpoint), every_s=mark_s, called=session.clock.now()
    )
    while True:
        asked = session.clock.now()  # a mark is said when it was still updating then
        now = patiently(session, lambda: described(session, endpoint.name), poll_s=poll_s)
        if now.status == "InService" and now.serving == count:
            break
        if now.status == "InService" and progress.began:
            raise EndpointError(_did_not_come(now, count) + _policy(session, now.name))
        if now.status not in ("InService", "Updating", "SystemUpdating"):
            raise EndpointError(
                f"Endpoint {now.name} is {now.status}: it gets no other number of replicas; "
                "03_deploy_endpoint makes a new one."
            )
        progress.see(now)
        progress.say(asked)
        if session.clock.monotonic() > end_s:
            raise EndpointError(
                f"Still {in_words(now.serving)} after {timeout_s / 60:g} min, not {count}. "
                f"{_goes_on(session, now.name)}"
            )
        session.clock.sleep(poll_s)
    progress.say(now.modified)  # those a slow look has missed
    session.say(f"{in_words(count)} in service since {in_utc(now.modified)}")
    return endpoints.look(session, endpoint.name)


@dataclass
class _Progress:
    """Says how a change of the number of replicas is getting on; by AWS's stamps.

    Attributes:
        session: Says it.
        count: Replicas that are awaited.
        price: $ an hour for each, None when unknown.
        every_s: AWS seconds between two lines.
        called: Since when somebody waits.
        began: When the change began, None before it has.
        more: Replicas that it adds.
        marks: When a line is due.
    """

    session: Session
    count: int
    price: float | None
    every_s: float
    called: datetime
    began: datetime | None = None
    more: int = 0
    marks: Marks | None = None

    def see(self, now: Described) -> None:
        """Notice that the change has begun."""
        if self.began or now.status != "Updating" or now.desired != self.count:
            return
        self.began, self.more = now.modified, self.count - now.serving
        waited_s = (self.called - self.began).total_seconds()  # before that nobody was waiting
        self.marks = Marks(self.every_s, passed_s=waited_s)

    def say(self, until: datetime) -> None:
        """Say the lines that are due."""
        if not self.began or not self.marks:
            return
        for mark_s in self.marks.due((until - self.began).total_seconds()):
            line = f"Updating to {in_words(self.count)}, {mark_s / 60:g} min"
            if self.price and self.more > 0:
                line += f", ${mark_s / 3600 * self.price * self.more:.2f} more so far"
            self.session.say(line)


def _set_count(session: Session, endpoint: Endpoint, count: int) -> None:
    wanted = [{"VariantName": VARIANT, "DesiredInstanceCount": count}]
    try:
        session.client("sagemaker").update_endpoint_weights_and_capacities(
            EndpointName=endpoint.name, DesiredWeightsAndCapacities=wanted
        )
        return
    except (ClientError, BotoCoreError) as error:
        problem = reason(error)
    raise EndpointError(f"Endpoint {endpoint.name} does not get {in_words(count)}: {problem}")


# --- Words ----------------------------------------------------------------------------------


def _say_price(session: Session, endpoint: Endpoint, before: int, after: int) -> None:
    price = price_of_one(endpoint)
    money = (
        f": ${price * after:.2f} an hour instead of ${price * before:.2f} ({costs.PRICE_DATE})"
        if price
        else ", at a price nobody here knows"
    )
    session.say(f"Endpoint {endpoint.name}: {in_words(after)} instead of {before}{money}.")


def _did_not_come(now: Described, count: int) -> str:
    why = now.failure_reason or "SageMaker gives no reason"
    return (
        f"Endpoint {now.name} goes on with {in_words(now.serving)} instead of {count}: "
        f"{why.rstrip('.')}. Try again later, or read its container's log "
        f"({endpoints.LOG_GROUP.format(name=now.name)})."
    )


def _goes_on(session: Session, name: str) -> str:
    """What is there and bills, and how to get out of it."""
    again = "run the cell again to wait for it, or scaling.replicas for another number"
    try:
        now = described(session, name)
    except EndpointError as error:
        return f"What has become of endpoint {name} is not known ({error}): {again}."
    changing = (
        f"is on its way from {now.serving} to {in_words(now.desired)}, and bills for the larger "
        "number"
        if now.status == "Updating"
        else f"is {now.status} with {in_words(now.serving)}"
    )
    return f"Endpoint {name} {changing}: {again} once it is in service.{_policy(session, name)}"


def _policy(session: Session, name: str) -> str:
    """That a policy goes on adding replicas, and how to take it away; empty when there is none."""
    try:
        told = tracking(session, name)
    except EndpointError:
        return " If it has a scaling policy, scaling.untrack takes it away."
    if told is None:
        return ""
    return (
        f" Its scaling policy goes on and may have up to {in_words(told.maximum)}: scaling.untrack "
        "takes it away."
    )


def _says(quota: quotas.Quota, more: int) -> str:
    if quota.limit is None and more > 0:
        return "unknown"
    return "yes" if quota.reaches(more) else "NO"


def _slots(endpoint: Endpoint) -> int | None:
    try:
        contract = contracts.contract_for_image(endpoint.image)
        return contracts.shape(contract, endpoint.env).batch_size
    except WorkshopError:
        return None
