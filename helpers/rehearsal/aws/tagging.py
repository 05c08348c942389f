"""Resource Groups Tagging: GetResources over all that the rehearsal has, moto's and its own.

moto plays the other operations, and knows of its own services only.
"""

from asyncio import wrap_future
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.model import ServiceModel

from helpers.rehearsal.aws.autoscaling import AutoScaling
from helpers.rehearsal.aws.awsjson import Service
from helpers.rehearsal.aws.catalog import KINDS, Catalog
from helpers.rehearsal.aws.paging import page
from helpers.rehearsal.aws.services import Services
from helpers.rehearsal.server import Answer, Request

Tagged = tuple[str, Mapping[str, str]]  # ARN, tags by key

_PAGE = 100  # ResourcesPerPage: "from 1 to 100", and 50 by default (API reference)
_DEFAULT = 50


class Tagging:
    """Answers GetResources.

    Args:
        model: botocore's service model of `resourcegroupstaggingapi`.
        catalog: What SageMaker has.
        scaling: What Application Auto Scaling has.
        services: Where moto is.
        account: Twelve digits.
    """

    def __init__(
        self,
        model: ServiceModel,
        *,
        catalog: Catalog,
        scaling: AutoScaling,
        services: Services,
        account: str,
    ):
        self._model = model
        self._catalog = catalog
        self._scaling = scaling
        self._services = services
        self._account = account

    async def answer(self, request: Request) -> Answer:
        """Answer a request that is signed for `tagging`."""
        operation = request.headers.get("x-amz-target", "").rpartition(".")[2]
        if operation != "GetResources":
            return await self._services.answer(request)
        in_moto = await wrap_future(self._services.ask(_in_moto, self._account, request.region))
        tagged = [*in_moto, *self._own(request.region)]
        service = Service(
            self._model, {"GetResources": lambda given, region: _get(tagged, given, region)}
        )
        return service.answer(operation, request.body, region=request.region)

    def _own(self, region: str) -> Iterator[Tagged]:
        for kind in KINDS:
            for resource in self._catalog.all(kind, region):
                yield resource.arn, resource.tags
        for target in self._scaling.targets(region):
            yield target.arn, target.tags


def _get(tagged: list[Tagged], given: dict[str, Any], region: str) -> dict[str, Any]:
    # Its token and its page size are called otherwise than elsewhere.
    size = {"MaxResults": min(given.pop("ResourcesPerPage", _DEFAULT), _PAGE)}
    given.pop("TagsPerPage", None)
    token = given.pop("PaginationToken", "")
    shown, rest = page(
        [one for one in tagged if one[1] and _matches(*one, given)],
        {**given, **size, **({"NextToken": token} if token else {})},
        operation=f"GetResources {region}",
        place=lambda one: one[0],
        size=_DEFAULT,
        error="PaginationTokenExpiredException",
    )
    return {
        "PaginationToken": rest.get("NextToken", ""),
        "ResourceTagMappingList": [
            {
                "ResourceARN": arn,
                "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
            }
            for arn, tags in shown
        ],
    }


def _matches(arn: str, tags: Mapping[str, str], given: Mapping[str, Any]) -> bool:
    if arn not in given.get("ResourceARNList", [arn]):
        return False
    types = given.get("ResourceTypeFilters")
    if types and not any(_is_of_type(arn, one) for one in types):
        return False
    return all(
        one["Key"] in tags and (not one.get("Values") or tags[one["Key"]] in one["Values"])
        for one in given.get("TagFilters", [])
    )


def _is_of_type(arn: str, wanted: str) -> bool:
    _, _, service, _, _, rest = arn.split(":", 5)
    kind = rest.replace(":", "/").partition("/")[0]
    return wanted in (service, f"{service}:{kind}")


# --- in moto's thread


def _in_moto(account: str, region: str) -> list[Tagged]:
    from moto.resourcegroupstaggingapi.models import resourcegroupstaggingapi_backends
    from moto.scheduler.models import scheduler_backends

    told = resourcegroupstaggingapi_backends[account][region]
    found = {one.arn: one.tags for one in told._get_resources_generator()}
    scheduler = scheduler_backends[account][region]
    for group in scheduler.schedule_groups.values():  # which moto leaves out
        tags = scheduler.list_tags_for_resource(group.arn)["Tags"]
        found[group.arn] = {tag["Key"]: tag["Value"] for tag in tags}
    return list(found.items())
