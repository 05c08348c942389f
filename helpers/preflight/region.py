"""Checks of what the region has: the image, the machine, its price, the quota."""

from dataclasses import replace

from botocore.exceptions import BotoCoreError, ClientError

from helpers import containers, costs, quotas
from helpers.errors import ContainerError
from helpers.preflight import pricelist
from helpers.preflight.asked import FAILED, GO_ON, NOT_CHECKED, OK, WARNING, Asked, Result
from helpers.session import reason


def container(asked: Asked) -> list[Result]:
    """Whether the region offers the image."""
    recipe, region = asked.recipe, asked.session.region
    name = f"{recipe.framework} {recipe.container_version}"
    try:
        containers.check_offered(recipe.framework, recipe.container_version, region=region)
    except ContainerError as error:
        both = containers.regions(recipe.framework, recipe.container_version).index
        return [
            Result(
                "container",
                FAILED,
                str(error).partition(":")[0],
                f"Choose a region that has it and the machine: {', '.join(both)}.",
            )
        ]
    return [Result("container", OK, f"{name} is offered in {region}")]


def instance_and_price(asked: Asked) -> list[Result]:
    """Both come from the Price List: a type is offered where it has a price for hosting."""
    type_, region = asked.recipe.instance_type, asked.session.region
    try:
        here = asked.session.in_region(pricelist.region_for(region))
        listed = pricelist.hosting(replace(asked, session=here).client("pricing"), type_, region)
        problem = f"the Price List has none for {region}"
    except (BotoCoreError, ClientError) as error:  # the dated table stands in
        listed, problem = None, f"the Price List: {reason(error).rstrip('.')}"
    return [
        _instance(type_, region, listed, problem),
        _price(type_, asked.instance_count, listed, problem),
    ]


def _instance(type_: str, region: str, listed: float | None, problem: str) -> Result:
    if listed is not None:
        return Result("instance", OK, f"{type_} is offered in {region} (Price List)")
    known = containers.INF2_48XLARGE_REGIONS
    if not type_.startswith("ml.inf2."):
        remedy = f"Look at SageMaker's prices whether {region} has it. {GO_ON}"
        return Result("instance", NOT_CHECKED, f"where {type_} is offered: {problem}", remedy)
    if region in known:
        said = f"EC2 offers {type_} in {region} (list of 2026-08; {problem})"
        return Result("instance", OK, said)
    said = f"{type_} is not offered in {region} (list of 2026-08; {problem})"
    remedy = f"Choose a region that has it: {', '.join(known)}."
    return Result("instance", FAILED, said, remedy)


def _price(type_: str, count: int, listed: float | None, problem: str) -> Result:
    instance = costs.INSTANCES.get(type_)
    if listed is None and instance is None:
        said = f"nobody here knows what {type_} costs ({problem})"
        remedy = "Look it up before you deploy: https://aws.amazon.com/sagemaker/pricing."
        return Result("price", WARNING, said, remedy)
    dated = instance.price_per_hour if instance else listed
    hourly = (dated if listed is None else listed) * count
    said = f"${hourly:.2f} an hour, ${hourly * 24:.0f} a day"
    if count > 1:
        said += f" for {count} instances"
    if listed is None:
        return Result("price", OK, f"{said} ({costs.PRICE_DATE}; {problem})")
    changed = f"; {costs.PRICE_DATE}: ${dated * count:.2f}" if dated != listed else ""
    return Result("price", OK, f"{said} (Price List{changed})")


def quota(asked: Asked) -> list[Result]:
    """How many machines are allowed, in use and left."""
    type_, region = asked.recipe.instance_type, asked.session.region
    instance = costs.INSTANCES.get(type_)
    if instance is None or not instance.quota_code:
        said = f"the code of the quota for {type_} is not known here"
        remedy = f'Look for "{type_} for endpoint usage" in Service Quotas. {GO_ON}'
        return [Result("quota", NOT_CHECKED, said, remedy)]
    limit = quotas.limit(asked.client("service-quotas"), instance.quota_code)
    used = quotas.in_use(asked.client("sagemaker"), type_)
    own = used.instances.get(asked.endpoint_name, 0)
    left = max(0, int(limit) - used.total)
    said = f"limit {limit:g} of {type_}, {used.total} in use, {left} left"
    if used.unseen:
        said += f" (without {used.unseen} endpoints that you may not look at)"
    needed = max(0, asked.instance_count - own)
    if needed <= left:
        return [Result("quota", OK, f"{said}; {own} of them yours" if own else said)]
    at_least = used.total + needed
    return [
        Result(
            "quota",
            FAILED,
            f"{said}, {needed} needed",
            f'Request at least {at_least} for {instance.quota_code} ("{type_} for endpoint '
            f'usage") in {region} at https://{region}.console.aws.amazon.com/servicequotas/home/'
            f"services/sagemaker/quotas/{instance.quota_code}, or choose another region.",
        )
    ]
