"""How many instances of a type the endpoints of an account may have in a region, and have.

`limit` and `in_use` say when they cannot tell; `of` and `used` make do with what can be told, for
whoever leaves the refusal to AWS then.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from botocore.client import BaseClient
from botocore.exceptions import BotoCoreError, ClientError

from helpers import costs, deadline, resources
from helpers.session import Session

# Statuses in which an endpoint holds instances; a failed one has none left.
_HOLDING = ("InService", *resources.IN_PROGRESS)
_LANES = 8  # a workshop of 30 would take half a minute in one
_LIMIT_S = 6.0


@dataclass(frozen=True)
class Use:
    """What endpoints of a region use of a type.

    Attributes:
        instances: By name of the endpoint.
        unseen: Endpoints that may not be looked at, whatever they use.
    """

    instances: dict[str, int] = field(default_factory=dict)
    unseen: int = 0

    @property
    def total(self) -> int:
        """Instances of all endpoints that can be seen."""
        return sum(self.instances.values())


@dataclass(frozen=True)
class Quota:
    """The quota "… for endpoint usage" of one instance type in one region.

    Attributes:
        instance_type: With `ml.`.
        code: Service Quotas' code, empty where nobody here knows it.
        region: Where.
        limit: Instances; None when it could not be read.
        used: Instances of the endpoints that could be looked at.
    """

    instance_type: str
    code: str
    region: str
    limit: float | None
    used: int

    def __str__(self) -> str:
        where = f"Quota of {self.instance_type} for endpoint usage in {self.region}"
        if self.limit is None:
            return f"{where}: it cannot be read, and AWS refuses what is too much."
        return f"{where}: {self.limit:g}, {self.used} in use."

    def reaches(self, more: int) -> bool:
        """Whether so many more would be allowed, as far as anybody can tell."""
        return self.limit is None or more <= 0 or self.used + more <= self.limit


def of(session: Session, instance_type: str) -> Quota:
    """The quota of an instance type; what may not be read counts as unknown or not in use.

    Args:
        session: The workshop's session.
        instance_type: With `ml.`.
    """
    known = costs.INSTANCES.get(instance_type)
    code = known.quota_code if known else ""
    allowed = None
    if code:
        try:
            allowed = limit(session.client("service-quotas"), code)
        except (ClientError, BotoCoreError):
            allowed = None
    return Quota(instance_type, code, session.region, allowed, used(session, instance_type))


def used(session: Session, instance_type: str) -> int:
    """Instances of a type behind the endpoints of this region; 0 when nobody can tell."""
    try:
        return in_use(session.client("sagemaker"), instance_type).total
    except (ClientError, BotoCoreError, TimeoutError):
        return 0


def limit(quotas: BaseClient, quota_code: str) -> float:
    """Instances of a type an account may have behind endpoints of a region.

    Args:
        quotas: A client of Service Quotas.
        quota_code: Of "… for endpoint usage", e.g. `L-286C98BC`.

    Raises:
        ClientError: When it may not be asked.
        BotoCoreError: When it cannot be reached.
    """
    asked = {"ServiceCode": "sagemaker", "QuotaCode": quota_code}
    try:
        return quotas.get_service_quota(**asked)["Quota"]["Value"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchResourceException":
            raise
    # An account that never used the service has no quota of its own yet.
    return quotas.get_aws_default_service_quota(**asked)["Quota"]["Value"]


def in_use(sagemaker: BaseClient, instance_type: str) -> Use:
    """Instances of a type that the endpoints of a region have, or are getting.

    Raises:
        ClientError: When endpoints may not be listed.
        BotoCoreError: When SageMaker cannot be reached.
        TimeoutError: When there are too many to look at in time.
    """
    pages = sagemaker.get_paginator("list_endpoints").paginate(MaxResults=100)
    names = [
        one["EndpointName"]
        for page in pages
        for one in page["Endpoints"]
        if one["EndpointStatus"] in _HOLDING
    ]

    def look(lane: int) -> dict[str, int | None]:
        return {name: _instances(sagemaker, name, instance_type) for name in names[lane::_LANES]}

    lanes = {str(lane): lambda lane=lane: look(lane) for lane in range(min(_LANES, len(names)))}
    found: dict[str, int | None] = {}
    for answer in deadline.together(lanes, limit_s=_LIMIT_S).values():
        if isinstance(answer, Exception):
            raise answer
        found |= answer
    seen = {name: count for name, count in found.items() if count}
    return Use(seen, unseen=sum(count is None for count in found.values()))


def _instances(sagemaker: BaseClient, name: str, instance_type: str) -> int | None:
    """Instances of a type behind an endpoint; None when it may not be looked at."""
    try:
        return sum(_of_type(sagemaker, name, instance_type))
    except ClientError as error:
        if resources.is_missing(error):  # it has just gone
            return 0
        if "AccessDenied" in error.response["Error"]["Code"]:  # not the workshop's
            return None
        raise


def _of_type(sagemaker: BaseClient, name: str, instance_type: str) -> Iterator[int]:
    endpoint = sagemaker.describe_endpoint(EndpointName=name)
    config = sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    running = {one["VariantName"]: one for one in endpoint.get("ProductionVariants", [])}
    for variant in config["ProductionVariants"]:
        if variant.get("InstanceType") == instance_type:
            now = running.get(variant["VariantName"], {})
            counts = (now.get("CurrentInstanceCount", 0), now.get("DesiredInstanceCount", 0))
            yield max(counts) or variant.get("InitialInstanceCount", 0)
