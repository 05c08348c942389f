"""How many replicas an endpoint has, what one costs, and whether it may get others now."""

from dataclasses import dataclass
from datetime import datetime

from helpers import costs, quotas, resources
from helpers.endpoint import VARIANT, Endpoint
from helpers.errors import EndpointError, EndpointMissing
from helpers.resources import ENDPOINT
from helpers.session import Session


@dataclass(frozen=True)
class Described:
    """An endpoint's replicas, as SageMaker describes them."""

    name: str
    arn: str
    status: str
    serving: int
    desired: int
    modified: datetime
    failure_reason: str


def described(session: Session, name: str) -> Described:
    """An endpoint's replicas now.

    Raises:
        EndpointMissing: When the endpoint is gone.
        EndpointError: When SageMaker cannot be asked.
    """
    described = resources.describe(session, ENDPOINT, name)
    if described is None:
        raise EndpointMissing(
            f"There is no endpoint {name} in {session.region}: run 03_deploy_endpoint."
        )
    variant = next(
        (one for one in described.get("ProductionVariants", []) if one["VariantName"] == VARIANT),
        {},
    )
    return Described(
        name=described["EndpointName"],
        arn=described["EndpointArn"],
        status=described["EndpointStatus"],
        serving=variant.get("CurrentInstanceCount", 0),
        desired=variant.get("DesiredInstanceCount", 0),
        modified=described["LastModifiedTime"],
        failure_reason=described.get("FailureReason", ""),
    )


def refuse_busy(now: Described) -> None:
    """Refuse an endpoint whose replicas AWS does not change now.

    Raises:
        EndpointError: When it is not in service.
    """
    if now.status == "InService":
        return
    raise EndpointError(
        f"Endpoint {now.name} is {now.status}"
        + (f" to {in_words(now.desired)}" if now.status == "Updating" else "")
        + ", and AWS changes replicas only of one in service: wait until it is, then try again."
    )


def check_quota(session: Session, endpoint: Endpoint, count: int, *, serving: int) -> None:
    """Refuse more replicas than the quota has instances left for.

    Raises:
        EndpointError: When it has too few.
    """
    more = count - serving
    if more <= 0:
        return
    quota = quotas.of(session, endpoint.instance_type)
    if quota.reaches(more):
        return
    raise EndpointError(
        f"{in_words(count)} of {endpoint.name} would be {more} {quota.instance_type} more, but "
        f"the quota for endpoint usage in {quota.region} is {quota.limit:g} and {quota.used} of "
        f"it in use: ask for fewer, or request {quota.code} in Service Quotas (service code "
        "sagemaker)."
    )


def in_words(count: int) -> str:
    """`1 replica`, `2 replicas`."""
    return f"{count} replica{'' if count == 1 else 's'}"


def price_of_one(endpoint: Endpoint) -> float | None:
    """$ an hour for one replica, None when unknown."""
    known = costs.INSTANCES.get(endpoint.instance_type)
    return known.price_per_hour if known else None
