"""How many instances of a type the endpoints of an account may have in a region, and have."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from helpers import costs, resources
from helpers.errors import EndpointError
from helpers.resources import CONFIG, ENDPOINT
from helpers.session import Session

# Statuses in which an endpoint holds instances.
_HOLDING = ("Creating", "InService", "Updating", "SystemUpdating", "RollingBack")
_AT_ONCE = 8


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
    limit = _limit(session, code) if code else None
    return Quota(instance_type, code, session.region, limit, used(session, instance_type))


def used(session: Session, instance_type: str) -> int:
    """Instances of a type behind the endpoints of this region that may be looked at."""
    try:
        names = [
            one["EndpointName"]
            for page in session.client("sagemaker").get_paginator("list_endpoints").paginate()
            for one in page["Endpoints"]
            if one["EndpointStatus"] in _HOLDING
        ]
    except (ClientError, BotoCoreError):
        return 0
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # a workshop of 30 would take half a minute else
        return sum(pool.map(lambda name: _held(session, name, instance_type), names))


def _limit(session: Session, code: str) -> float | None:
    client = session.client("service-quotas")
    for ask in (client.get_service_quota, client.get_aws_default_service_quota):
        try:
            return ask(ServiceCode="sagemaker", QuotaCode=code)["Quota"]["Value"]
        except ClientError as error:
            # Of an account that was never given its own: AWS's default applies.
            if error.response["Error"]["Code"] != "NoSuchResourceException":
                return None
        except BotoCoreError:
            return None
    return None


def _held(session: Session, name: str, instance_type: str) -> int:
    """How many instances of a type an endpoint holds; 0 when it may not be looked at."""
    try:
        described = resources.describe(session, ENDPOINT, name) or {}
        asked = described.get("EndpointConfigName")
        config = resources.describe(session, CONFIG, asked) if asked else None
    except EndpointError:
        return 0
    running = {one["VariantName"]: one for one in described.get("ProductionVariants", [])}
    return sum(
        _of_variant(variant, running.get(variant["VariantName"], {}))
        for variant in (config or {}).get("ProductionVariants", [])
        if variant.get("InstanceType") == instance_type
    )


def _of_variant(asked: dict, running: dict) -> int:
    """What a variant holds: the larger number while it changes, the asked one while it starts."""
    counts = (running.get("CurrentInstanceCount"), running.get("DesiredInstanceCount"))
    return max(one or 0 for one in counts) or asked.get("InitialInstanceCount", 0)
