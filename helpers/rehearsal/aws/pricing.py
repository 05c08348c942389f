"""The Price List API, with the prices that this workshop knows: dated copies, marked as such.

AWS's layout, attribute names and codes; the list of today is AWS's own to give.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from botocore.model import ServiceModel

from helpers import costs
from helpers.rehearsal.aws.awsjson import AwsError, Operation, Service
from helpers.rehearsal.aws.paging import check_only_page, page

# Where the API is served (botocore's endpoint data); it answers for all regions from there.
REGIONS = ("us-east-1", "eu-central-1", "ap-south-1")
PUBLISHED = "2025-04-01T00:00:00Z"  # `costs.PRICE_DATE`: us-east-1, April 2025
NOTE = (
    f"The rehearsal's copy of a price ({costs.PRICE_SOURCE}), not AWS's list of today: ask the "
    "Price List API of AWS for that."
)

_FORMAT = "aws_v1"
_SERVICE = "AmazonSageMaker"
# AWS's codes of "on demand" and of "per hour" in every offer.
_ON_DEMAND = "JRTCKXETXF"
_HOURLY = "6YS6EN2CT7"
_PAGE = 100
_BAD_TOKEN = "InvalidNextTokenException"


class Pricing:
    """Prices of SageMaker real-time endpoints.

    Args:
        model: botocore's service model of the Price List API.
    """

    def __init__(self, model: ServiceModel):
        self._products = [_product(one) for one in costs.INSTANCES.values()]
        self.service = Service(
            model,
            {
                "GetProducts": _served(self._get_products),
                "DescribeServices": _served(self._describe_services),
                "GetAttributeValues": _served(self._get_attribute_values),
            },
        )

    def _get_products(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        _check_service(given)
        _check_format(given)
        filters = given.get("Filters", [])
        found = [
            one
            for one in self._products
            if all(_matches(_attributes(one), wanted) for wanted in filters)
        ]
        shown, rest = _page(found, given, "GetProducts", place=lambda one: one["product"]["sku"])
        listed = [json.dumps(one, separators=(",", ":")) for one in shown]
        return {"FormatVersion": _FORMAT, "PriceList": listed, **rest}

    def _describe_services(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        if "ServiceCode" in given:
            _check_service(given)
        _check_format(given)
        check_only_page(given, _BAD_TOKEN)
        service = {"ServiceCode": _SERVICE, "AttributeNames": sorted(self._values())}
        return {"FormatVersion": _FORMAT, "Services": [service]}

    def _get_attribute_values(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        _check_service(given)
        values = self._values().get(given["AttributeName"])
        if values is None:  # words [unverified]
            raise AwsError("NotFoundException", f"No attribute {given['AttributeName'][:200]}.")
        shown, rest = _page(values, given, "GetAttributeValues", place=str)
        return {"AttributeValues": [{"Value": value} for value in shown], **rest}

    def _values(self) -> dict[str, set[str]]:
        """What values each attribute has."""
        found: dict[str, set[str]] = {}
        for product in self._products:
            for name, value in _attributes(product).items():
                found.setdefault(name, set()).add(value)
        return found


def _product(instance: costs.Instance) -> dict[str, Any]:
    """One entry of a price list.

    Layout: AWS Billing's guide, "Reading the service price list file"; attributes as public tools
    filter for them (productFamily, component, instanceName, platoinstancetype, regionCode) and as
    usage reports have them (`USE1-Host:ml.…`, operation RunInstance). That `instanceType` ends in
    `-Hosting` is [unverified]. AWS has more (vCpu, memory, …): left out rather than made up.
    """
    sku = _sku(instance.name)
    term, rate = f"{sku}.{_ON_DEMAND}", f"{sku}.{_ON_DEMAND}.{_HOURLY}"
    dimension = {
        "unit": "Hrs",
        "beginRange": "0",
        "endRange": "Inf",
        "description": f"${instance.price_per_hour:g} per Hosting {instance.name} hour in US East "
        f"(N. Virginia); the rehearsal's copy ({costs.PRICE_DATE})",
        "appliesTo": [],
        "rateCode": rate,
        "pricePerUnit": {"USD": f"{instance.price_per_hour:.10f}"},
    }
    offer = {
        "sku": sku,
        "offerTermCode": _ON_DEMAND,
        "effectiveDate": PUBLISHED,
        "termAttributes": {},
        "priceDimensions": {rate: dimension},
    }
    return {
        "product": {"productFamily": "ML Instance", "attributes": _named(instance), "sku": sku},
        "serviceCode": _SERVICE,
        "terms": {"OnDemand": {term: offer}},
        "version": "rehearsal",
        "publicationDate": PUBLISHED,
        "rehearsal": NOTE,
    }


def _named(instance: costs.Instance) -> dict[str, str]:
    return {
        "servicecode": _SERVICE,
        "servicename": "Amazon SageMaker",
        "instanceName": instance.name,
        "instanceType": f"{instance.name}-Hosting",
        "component": "Hosting",
        "platoinstancename": instance.name,
        "platoinstancetype": "Hosting",
        "usagetype": f"USE1-Host:{instance.name}",
        "operation": "RunInstance",
        "location": "US East (N. Virginia)",
        "locationType": "AWS Region",
        "regionCode": "us-east-1",
    }


def _sku(name: str) -> str:
    """Sixteen capitals and digits as AWS's, and plainly not one of AWS's."""
    return f"REHEARSAL{hashlib.sha256(name.encode()).hexdigest()[:7].upper()}"


def _attributes(product: Mapping[str, Any]) -> dict[str, str]:
    """What a filter can ask for."""
    inner = product["product"]
    return {**inner["attributes"], "productFamily": inner["productFamily"]}


def _matches(attributes: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    have = attributes.get(wanted["Field"])
    value, kind = wanted["Value"], wanted["Type"]
    if kind == "NONE_OF":
        return have not in value.split(",")
    if have is None:
        return False
    if kind == "CONTAINS":
        return value in have
    return have in value.split(",") if kind == "ANY_OF" else have == value


def _page(
    items: Iterable[Any], given: Mapping[str, Any], operation: str, *, place: Callable[[Any], str]
):
    return page(items, given, operation=operation, place=place, size=_PAGE, error=_BAD_TOKEN)


def _served(operation: Operation) -> Operation:
    """Refuse where the API has no endpoint: on AWS the connection fails, there is no such host."""

    def served(given: dict[str, Any], region: str) -> dict[str, Any] | None:
        if region not in REGIONS:
            raise AwsError(
                "UnknownEndpoint",
                f"The Price List API has no endpoint in {region}; it is served in "
                f"{', '.join(REGIONS)}, for all regions.",
                status=404,
            )
        return operation(given, region)

    return served


def _check_service(given: Mapping[str, Any]) -> None:
    if given["ServiceCode"] != _SERVICE:
        raise AwsError(
            "NotFoundException",
            f"The rehearsal AWS has prices of {_SERVICE} only, not of "
            f"{given['ServiceCode'][:200]}.",
        )


def _check_format(given: Mapping[str, Any]) -> None:
    if given.get("FormatVersion", _FORMAT) != _FORMAT:  # words [unverified]
        raise AwsError("InvalidParameterException", f"The only format version is {_FORMAT}.")
