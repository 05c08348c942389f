"""What an endpoint's machine costs today: AWS's Price List API."""

import json
from typing import Any

from botocore.client import BaseClient

# Where the API is served, for all regions (AWS Billing's guide, 2026-11).
_SERVED_IN = {"eu": "eu-central-1", "me": "eu-central-1", "af": "eu-central-1", "ap": "ap-south-1"}


def region_for(region: str) -> str:
    """The nearest region that answers for the prices of a region."""
    return _SERVED_IN.get(region.partition("-")[0], "us-east-1")


def hosting(pricing: BaseClient, instance_type: str, region: str) -> float | None:
    """$ an hour for one instance behind a real-time endpoint; None when it is not on the list.

    Args:
        pricing: A client of the Price List, in one of the regions that have it.
        instance_type: With the leading `ml.`.
        region: The endpoint's region.

    Raises:
        ClientError: When the list may not be read.
        BotoCoreError: When it cannot be reached.
    """
    filters = [
        {"Type": "TERM_MATCH", "Field": field, "Value": value}
        for field, value in (("instanceName", instance_type), ("regionCode", region))
    ]
    pages = pricing.get_paginator("get_products").paginate(
        ServiceCode="AmazonSageMaker", Filters=filters
    )
    products = (json.loads(text) for page in pages for text in page["PriceList"])
    prices = [price for product in products if _is_hosting(product) for price in _hourly(product)]
    return min(prices, default=None)


def _is_hosting(product: dict[str, Any]) -> bool:
    """Training, notebooks and batch jobs have prices of their own for the same machine."""
    attributes = product["product"]["attributes"]
    kinds = (attributes.get("component"), attributes.get("platoinstancetype"))
    return "Hosting" in kinds or "-Host:" in attributes.get("usagetype", "")


def _hourly(product: dict[str, Any]) -> list[float]:
    return [
        price
        for offer in product.get("terms", {}).get("OnDemand", {}).values()
        for dimension in offer["priceDimensions"].values()
        if dimension["unit"] == "Hrs" and (price := float(dimension["pricePerUnit"]["USD"])) > 0
    ]
