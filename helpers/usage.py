"""How many machines of a type endpoints may have, and how many they have."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from botocore.client import BaseClient
from botocore.exceptions import ClientError

from helpers import deadline, resources

# What counts against the quota; a failed endpoint has no machine left.
_COUNTED = ("InService", "Creating", "Updating", "SystemUpdating", "RollingBack")
_LANES = 8
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
        if one["EndpointStatus"] in _COUNTED
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
