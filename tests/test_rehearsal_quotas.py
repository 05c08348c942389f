"""Service Quotas and the Price List in rehearsal, asked by boto3 over HTTP."""

import json

import pytest
from json_aws import Door, model, refusal
from small_aws import ORIGIN, SetClock, moment

from helpers import costs
from helpers.rehearsal.aws import pricing, quotas
from helpers.rehearsal.timeline import Timeline

CODE = "L-286C98BC"
QUOTA = {"ServiceCode": "sagemaker", "QuotaCode": CODE}
NAME = "ml.inf2.48xlarge"
DAY_S = 86_400


@pytest.fixture(scope="module")
def door():
    door = Door()
    yield door
    door.close()


class Account:
    """The quotas of an account, and what they depend on."""

    def __init__(self, door):
        self.clock, self.faults, self._door = SetClock(), {}, door
        self.open()

    def open(self):
        self.timeline = Timeline(self.clock)
        self.quotas = quotas.Quotas(
            self.timeline, model=model("service-quotas"), faults=self.faults
        )
        self._door.open(self.quotas.service, pricing.Pricing(model("pricing")).service)

    def restart(self):
        kept = json.dumps([self.timeline.dump(), self.quotas.dump()])
        self.open()
        events, state = json.loads(kept)
        self.timeline.restore(events)
        self.quotas.restore(state)

    def wait(self, seconds):
        self.clock.now_s += seconds
        self.timeline.advance()


@pytest.fixture
def account(door):
    return Account(door)


@pytest.fixture
def client(account, door):
    return door.client("service-quotas")


@pytest.fixture
def prices(account, door):
    return door.client("pricing")


def ask_for(client, value, **quota):
    wanted = {**QUOTA, **quota, "DesiredValue": value}
    return client.request_service_quota_increase(**wanted)["RequestedQuota"]


def value(client):
    return client.get_service_quota(**QUOTA)["Quota"]["Value"]


# --- quotas


def test_a_quota_is_described_as_aws_describes_it(client):
    assert client.get_service_quota(**QUOTA)["Quota"] == {
        "ServiceCode": "sagemaker",
        "ServiceName": "Amazon SageMaker",
        "QuotaCode": CODE,
        "QuotaName": f"{NAME} for endpoint usage",
        "QuotaArn": f"arn:aws:servicequotas:us-east-1:123456789012:sagemaker/{CODE}",
        "Value": 20.0,
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
        "QuotaAppliedAtLevel": "ACCOUNT",
    }


def test_what_aws_gives_at_first_is_nothing(client):
    quota = client.get_aws_default_service_quota(**QUOTA)["Quota"]
    assert quota["Value"] == 0
    assert quota["QuotaArn"] == f"arn:aws:servicequotas:us-east-1::sagemaker/{CODE}"


@pytest.mark.parametrize("operation", ["list_service_quotas", "list_aws_default_service_quotas"])
def test_all_known_quotas_are_listed_page_by_page(client, operation):
    pages = list(
        client.get_paginator(operation).paginate(
            ServiceCode="sagemaker", PaginationConfig={"PageSize": 3}
        )
    )
    assert [len(page["Quotas"]) for page in pages] == [3, 1]
    listed = {quota["QuotaName"] for page in pages for quota in page["Quotas"]}
    known = [one.name for one in costs.INSTANCES.values() if one.quota_code]
    assert listed == {f"{name} for endpoint usage" for name in known}


def test_a_list_can_be_of_one_quota(client):
    (quota,) = client.list_service_quotas(**QUOTA)["Quotas"]
    assert quota["QuotaCode"] == CODE


def test_a_token_of_ones_own_is_refused(client):
    for token in ("abc", "QQ=="):
        for call, more in (
            (client.list_service_quotas, {"ServiceCode": "sagemaker"}),
            (client.list_requested_service_quota_change_history, {}),
            (client.list_services, {}),
        ):
            assert refusal(call, NextToken=token, **more)[0] == "InvalidPaginationTokenException"


def test_a_token_of_another_list_is_refused(client):
    sagemaker = {"ServiceCode": "sagemaker"}
    token = client.list_service_quotas(MaxResults=1, **sagemaker)["NextToken"]
    assert client.list_service_quotas(NextToken=token, **sagemaker)["Quotas"]
    for call, given in (
        (client.list_aws_default_service_quotas, sagemaker),
        (client.list_service_quotas, QUOTA),
    ):
        code, _ = refusal(call, NextToken=token, **given)
        assert code == "InvalidPaginationTokenException"


@pytest.mark.parametrize("quota", [{"QuotaCode": "L-00000000"}, {"ServiceCode": "ec2"}])
def test_what_is_no_quota_is_not_found(client, quota):
    for call, more in (
        (client.get_service_quota, {}),
        (client.request_service_quota_increase, {"DesiredValue": 30}),
        (client.list_requested_service_quota_change_history_by_quota, {}),
    ):
        assert refusal(call, **{**QUOTA, **quota}, **more)[0] == "NoSuchResourceException"


def test_the_only_service_with_quotas_is_sagemaker(client):
    (service,) = client.list_services()["Services"]
    assert service == {"ServiceCode": "sagemaker", "ServiceName": "Amazon SageMaker"}


# --- increases


def test_an_increase_is_in_force_after_a_day(client, account):
    request = ask_for(client, 30)
    assert (request["Status"], request["Created"]) == ("PENDING", moment(ORIGIN))
    account.wait(quotas.CASE_OPENED_S)
    opened = client.get_requested_service_quota_change(RequestId=request["Id"])["RequestedQuota"]
    assert opened["Status"] == "CASE_OPENED"
    assert opened["CaseId"].isdigit()
    assert (value(client), account.quotas.limit(NAME, "us-east-1")) == (20, 20)
    account.wait(DAY_S - quotas.CASE_OPENED_S)
    approved = client.get_requested_service_quota_change(RequestId=request["Id"])["RequestedQuota"]
    assert approved["Status"] == "APPROVED"
    assert approved["LastUpdated"] == moment(ORIGIN + DAY_S)
    assert (value(client), account.quotas.limit(NAME, "us-east-1")) == (30, 30)


def test_an_increase_counts_for_one_type_in_one_region(client, account):
    ask_for(client, 30)
    account.wait(DAY_S)
    assert account.quotas.limit(NAME, "us-west-2") == 20
    assert account.quotas.limit("ml.inf2.xlarge", "us-east-1") == 20


def test_without_a_quota_every_limit_is_zero_until_an_increase_is_approved(client, account):
    account.faults["no-quota"] = {}
    assert (value(client), account.quotas.limit(NAME, "us-east-1")) == (0, 0)
    assert account.quotas.limit("ml.trn1.32xlarge", "us-east-1") == 0
    ask_for(client, 1)
    account.wait(DAY_S)
    assert account.quotas.limit(NAME, "us-east-1") == 1
    assert account.quotas.limit("ml.inf2.xlarge", "us-east-1") == 0


def test_types_whose_quota_code_is_unknown_have_the_same_limit(account):
    assert account.quotas.limit("ml.trn1.32xlarge", "us-east-1") == 20
    assert account.quotas.limit("ml.m5.large", "us-east-1") == 20


def test_a_second_request_waits_for_the_first_one(client, account):
    ask_for(client, 30)
    assert refusal(lambda: ask_for(client, 40)) == (
        "ResourceAlreadyExistsException",
        "Only one open service quota increase request is allowed per quota.",
    )
    ask_for(client, 40, QuotaCode="L-C8AB7CDA")
    account.wait(DAY_S)
    ask_for(client, 40)


@pytest.mark.parametrize("wanted", [20, 3])
def test_an_increase_must_be_one(client, wanted):
    assert refusal(lambda: ask_for(client, wanted)) == (
        "IllegalArgumentException",
        "You must provide a quota value greater than the current quota value",
    )


def test_the_history_has_the_newest_request_first_and_can_be_filtered(client, account):
    for wanted in (30, 40, 50):
        ask_for(client, wanted)
        account.wait(DAY_S)
    ask_for(client, 60)
    ask_for(client, 25, QuotaCode="L-C8AB7CDA")

    def history(**more):
        call = client.list_requested_service_quota_change_history_by_quota
        return [one["DesiredValue"] for one in call(**QUOTA, **more)["RequestedQuotas"]]

    assert history() == [60, 50, 40, 30]
    assert history(Status="PENDING") == [60]
    assert history(MaxResults=3) == [60, 50, 40]
    assert len(client.list_requested_service_quota_change_history()["RequestedQuotas"]) == 5


def test_requests_are_seen_in_their_region_only(client, door):
    request = ask_for(client, 30)
    elsewhere = door.client("service-quotas", "us-west-2")
    code, _ = refusal(elsewhere.get_requested_service_quota_change, RequestId=request["Id"])
    assert code == "NoSuchResourceException"
    assert elsewhere.list_requested_service_quota_change_history()["RequestedQuotas"] == []


def test_quotas_and_requests_survive_a_restart(client, account):
    ask_for(client, 30)
    account.wait(DAY_S)
    request = ask_for(client, 40)
    account.restart()
    assert value(client) == 30
    account.wait(DAY_S)
    assert value(client) == 40
    described = client.get_requested_service_quota_change(RequestId=request["Id"])
    assert described["RequestedQuota"]["Status"] == "APPROVED"


# --- prices


def products(prices, **wanted):
    filters = [
        {"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()
    ]
    answer = prices.get_products(ServiceCode="AmazonSageMaker", Filters=filters)
    return [json.loads(one) for one in answer["PriceList"]]


def test_a_price_is_found_the_way_it_is_found_on_aws(prices):
    # component, instanceName and region, then the unit Hrs: what public tools ask for
    (product,) = products(prices, component="Hosting", instanceName=NAME, regionCode="us-east-1")
    (offer,) = product["terms"]["OnDemand"].values()
    (dimension,) = offer["priceDimensions"].values()
    assert dimension["unit"] == "Hrs"
    assert float(dimension["pricePerUnit"]["USD"]) == costs.price_per_hour(NAME) == 15.58
    assert product["product"]["attributes"]["usagetype"] == f"USE1-Host:{NAME}"


def test_a_price_says_that_it_is_a_dated_copy(prices):
    (product,) = products(prices, instanceName=NAME)
    assert "not AWS's list of today" in product["rehearsal"]
    assert costs.PRICE_SOURCE in product["rehearsal"]
    assert product["version"] == "rehearsal"
    assert "April 2025" in costs.PRICE_DATE
    assert product["publicationDate"] == "2025-04-01T00:00:00Z"
    assert product["product"]["sku"].startswith("REHEARSAL")


@pytest.mark.parametrize(
    "wanted",
    [
        {"regionCode": "us-west-2"},
        {"location": "US West (Oregon)"},
        {"instanceName": "ml.m5.large"},
        {"component": "Training"},
        {"colour": "red"},
    ],
)
def test_what_is_not_known_is_an_empty_list(prices, wanted):
    assert products(prices, **wanted) == []


@pytest.mark.parametrize(
    ("kind", "wanted", "found"),
    [
        ("EQUALS", NAME, 1),
        ("CONTAINS", "ml.inf2.", 4),
        ("ANY_OF", f"{NAME},ml.inf2.xlarge", 2),
        ("NONE_OF", f"{NAME},ml.inf2.xlarge", 3),
    ],
)
def test_filters_can_be_of_every_type(prices, kind, wanted, found):
    asked = [{"Type": kind, "Field": "instanceName", "Value": wanted}]
    answer = prices.get_products(ServiceCode="AmazonSageMaker", Filters=asked)
    assert len(answer["PriceList"]) == found


def test_prices_come_page_by_page(prices):
    pages = list(
        prices.get_paginator("get_products").paginate(
            ServiceCode="AmazonSageMaker", PaginationConfig={"PageSize": 2}
        )
    )
    assert [len(page["PriceList"]) for page in pages] == [2, 2, 1]
    assert {page["FormatVersion"] for page in pages} == {"aws_v1"}
    listed = {json.loads(one)["product"]["sku"] for page in pages for one in page["PriceList"]}
    assert len(listed) == len(costs.INSTANCES)


def test_the_attributes_and_their_values_are_told(prices):
    (service,) = prices.describe_services(ServiceCode="AmazonSageMaker")["Services"]
    assert {"instanceName", "regionCode", "productFamily"} <= set(service["AttributeNames"])
    values = prices.get_attribute_values(
        ServiceCode="AmazonSageMaker", AttributeName="instanceName"
    )["AttributeValues"]
    assert [one["Value"] for one in values] == sorted(costs.INSTANCES)


def test_other_services_have_no_prices_here(prices):
    code, message = refusal(prices.get_products, ServiceCode="AmazonEC2")
    assert code == "NotFoundException"
    assert "AmazonSageMaker only" in message
    assert refusal(prices.describe_services, ServiceCode="AmazonEC2")[0] == "NotFoundException"


def test_an_unknown_attribute_format_or_token_is_refused(prices):
    sagemaker = {"ServiceCode": "AmazonSageMaker"}
    for code, call, more in (
        ("NotFoundException", prices.get_attribute_values, {"AttributeName": "colour"}),
        ("InvalidParameterException", prices.get_products, {"FormatVersion": "aws_v2"}),
        ("InvalidNextTokenException", prices.get_products, {"NextToken": "?"}),
        ("InvalidNextTokenException", prices.get_products, {"NextToken": "AAAA"}),
        ("InvalidNextTokenException", prices.describe_services, {"NextToken": "AAAA"}),
    ):
        assert refusal(call, **sagemaker, **more)[0] == code


def test_prices_are_told_where_aws_tells_them(account, door):
    for region in pricing.REGIONS:
        assert door.client("pricing", region).describe_services()["Services"]
    _, message = refusal(door.client("pricing", "us-west-2").describe_services)
    assert "no endpoint in us-west-2" in message
