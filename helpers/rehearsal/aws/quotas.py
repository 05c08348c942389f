"""Service Quotas: how many instances of a type an account may serve with, and asking for more.

A request for an increase goes the way AWS's support sends it: pending, a case, and the new value
after a day of AWS time.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.model import ServiceModel

from helpers import costs
from helpers.rehearsal.aws.awsjson import ACCOUNT, AwsError, Service, timestamp
from helpers.rehearsal.aws.endpoints import Faults
from helpers.rehearsal.aws.paging import check_only_page, page
from helpers.rehearsal.timeline import Timeline

LIMIT = 20.0  # instances of each type, in the rehearsal's account unless it is told otherwise
# What AWS gives an account at first: "many accounts start at 0".
AWS_DEFAULT = 0.0
# Seconds of AWS time. "A day or more" is what people are told; none measured here [unverified].
CASE_OPENED_S = 300.0
APPROVED_S = 86_400.0

_SERVICE = {"ServiceCode": "sagemaker", "ServiceName": "Amazon SageMaker"}
_CODES = {one.quota_code: one.name for one in costs.INSTANCES.values() if one.quota_code}
_OPEN = ("PENDING", "CASE_OPENED")
_PAGE = 100  # of all lists; the API reference names no default
_BAD_TOKEN = "InvalidPaginationTokenException"

# As in hashicorp/terraform-provider-aws#19657 and cloud-custodian/cloud-custodian#8939.
_ONE_OPEN = "Only one open service quota increase request is allowed per quota."
_NOT_MORE = "You must provide a quota value greater than the current quota value"


class Quotas:
    """The quotas "… for endpoint usage" of an account.

    Only instance types whose quota code is known (`helpers.costs`) can be asked for and raised;
    the others have the same limit.

    Args:
        timeline: When a request is approved.
        model: botocore's service model of Service Quotas.
        limit: Instances of each type, at first.
        faults: `no-quota` makes every limit 0 until an increase is approved.
        account: Twelve digits.
    """

    def __init__(
        self,
        timeline: Timeline,
        *,
        model: ServiceModel,
        faults: Faults,
        limit: float = LIMIT,
        account: str = ACCOUNT,
    ):
        self._limit = limit
        self._timeline = timeline
        self._faults = faults
        self._account = account
        self._approved: dict[str, float] = {}  # by ARN
        self._requests: dict[str, dict[str, Any]] = {}  # by id, as AWS answers them
        timeline.on("quotas case opened", self._on_case_opened)
        timeline.on("quotas approved", self._on_approved)
        self.service = Service(
            model,
            {
                "ListServices": self._list_services,
                "GetServiceQuota": self._get,
                "ListServiceQuotas": self._list,
                "GetAWSDefaultServiceQuota": self._get_default,
                "ListAWSDefaultServiceQuotas": self._list_defaults,
                "RequestServiceQuotaIncrease": self._request,
                "GetRequestedServiceQuotaChange": self._get_request,
                "ListRequestedServiceQuotaChangeHistory": self._history,
                "ListRequestedServiceQuotaChangeHistoryByQuota": self._history,
            },
            advance=timeline.advance,
        )

    def limit(self, instance_type: str, region: str) -> float:
        """How many instances of a type (`ml.…`) endpoints of a region may have together."""
        default = 0.0 if self._faults.get("no-quota") is not None else self._limit
        instance = costs.INSTANCES.get(instance_type)
        if instance is None or not instance.quota_code:
            return default
        return self._approved.get(self._arn(instance.quota_code, region), default)

    # --- quotas

    def _list_services(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        check_only_page(given, _BAD_TOKEN)
        return {"Services": [dict(_SERVICE)]}

    def _get(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        return {"Quota": self._applied(_code(given), region)}

    def _get_default(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        return {"Quota": self._default(_code(given), region)}

    def _list(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        _check_service(given)
        codes = [code for code in _CODES if given.get("QuotaCode", code) == code]
        quotas = [self._applied(code, region) for code in codes]
        return _quota_page(quotas, given, f"ListServiceQuotas {region}")

    def _list_defaults(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        _check_service(given)
        quotas = [self._default(code, region) for code in _CODES]
        return _quota_page(quotas, given, f"ListAWSDefaultServiceQuotas {region}")

    def _applied(self, code: str, region: str) -> dict[str, Any]:
        value = self.limit(_CODES[code], region)
        return {**_described(code), "QuotaArn": self._arn(code, region), "Value": value}

    def _default(self, code: str, region: str) -> dict[str, Any]:
        arn = f"arn:aws:servicequotas:{region}::sagemaker/{code}"  # no account in AWS's own
        return {**_described(code), "QuotaArn": arn, "Value": AWS_DEFAULT}

    def _arn(self, code: str, region: str) -> str:
        return f"arn:aws:servicequotas:{region}:{self._account}:sagemaker/{code}"

    # --- requests for an increase

    def _request(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        code = _code(given)
        quota = self._applied(code, region)
        if given["DesiredValue"] <= quota["Value"]:
            raise AwsError("IllegalArgumentException", _NOT_MORE)
        if any(one["Status"] in _OPEN for one in self._requests_of(quota["QuotaArn"])):
            raise AwsError("ResourceAlreadyExistsException", _ONE_OPEN)
        now = self._timeline.clock.time()
        request = {
            "Id": uuid.uuid4().hex,
            **_SERVICE,
            "QuotaCode": code,
            "QuotaName": quota["QuotaName"],
            "QuotaArn": quota["QuotaArn"],
            "DesiredValue": given["DesiredValue"],
            "Status": "PENDING",
            "Created": timestamp(now),
            "LastUpdated": timestamp(now),
            "Requester": json.dumps({"accountId": self._account}),
            "GlobalQuota": False,
            "Unit": "None",
            "QuotaRequestedAtLevel": "ACCOUNT",
        }
        self._requests[request["Id"]] = request
        self._timeline.at(now + CASE_OPENED_S, "quotas case opened", id=request["Id"])
        self._timeline.at(now + APPROVED_S, "quotas approved", id=request["Id"])
        return {"RequestedQuota": request}

    def _get_request(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        request = self._requests.get(given["RequestId"])
        if request is None or _region(request) != region:
            raise _missing(f"The request {given['RequestId']} does not exist.")
        return {"RequestedQuota": request}

    def _history(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        """Both lists of requests: of one quota, and of a service or of all."""
        if "QuotaCode" in given:
            _code(given)
        elif "ServiceCode" in given:
            _check_service(given)
        found = [
            one
            for one in self._requests.values()
            if _region(one) == region
            and all(given.get(name, one[name]) == one[name] for name in ("QuotaCode", "Status"))
        ]
        shown, rest = page(
            found,
            given,
            operation=f"ListRequestedServiceQuotaChangeHistory {region}",
            place=lambda one: f"{one['Created']:017.3f} {one['Id']}",
            size=_PAGE,
            error=_BAD_TOKEN,
            descending=True,
        )
        return {"RequestedQuotas": shown, **rest}

    def _requests_of(self, arn: str) -> Iterator[dict[str, Any]]:
        return (one for one in self._requests.values() if one["QuotaArn"] == arn)

    # --- what happens by itself

    def _on_case_opened(self, at_s: float, event: dict[str, Any]) -> None:
        request = self._requests[event["id"]]
        request["CaseId"] = str(uuid.uuid4().int)[:12]
        self._move(request, "CASE_OPENED", at_s)

    def _on_approved(self, at_s: float, event: dict[str, Any]) -> None:
        request = self._requests[event["id"]]
        self._approved[request["QuotaArn"]] = request["DesiredValue"]
        self._move(request, "APPROVED", at_s)

    def _move(self, request: dict[str, Any], status: str, at_s: float) -> None:
        request["Status"], request["LastUpdated"] = status, timestamp(at_s)

    # --- state

    def dump(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {"approved": dict(self._approved), "requests": list(self._requests.values())}

    def restore(self, dumped: Mapping[str, Any]) -> None:
        """Take back what `dump` gave."""
        self._approved = dict(dumped["approved"])
        self._requests = {one["Id"]: dict(one) for one in dumped["requests"]}


def _described(code: str) -> dict[str, Any]:
    return {
        **_SERVICE,
        "QuotaCode": code,
        "QuotaName": f"{_CODES[code]} for endpoint usage",
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
        "QuotaAppliedAtLevel": "ACCOUNT",
    }


def _quota_page(
    quotas: list[dict[str, Any]], given: Mapping[str, Any], operation: str
) -> dict[str, Any]:
    shown, rest = page(
        quotas,
        given,
        operation=operation,
        place=lambda quota: quota["QuotaCode"],
        size=_PAGE,
        error=_BAD_TOKEN,
    )
    return {"Quotas": shown, **rest}


def _region(request: Mapping[str, Any]) -> str:
    return request["QuotaArn"].split(":")[3]


def _check_service(given: Mapping[str, Any]) -> None:
    if given["ServiceCode"] != _SERVICE["ServiceCode"]:
        # moto's copy of AWS's words for a service that it does not know
        raise _missing(
            "This service is not available in the current Region. Choose a different Region or a "
            "different service. The rehearsal AWS has quotas of sagemaker only."
        )


def _code(given: Mapping[str, Any]) -> str:
    _check_service(given)
    code = given["QuotaCode"]
    if code not in _CODES:  # words [unverified]
        known = ", ".join(f"{one} ({name})" for one, name in _CODES.items())
        raise _missing(
            f"The request failed because the specified quota {code} does not exist for service "
            f"sagemaker; the rehearsal AWS has {known}."
        )
    return code


def _missing(message: str) -> AwsError:
    return AwsError("NoSuchResourceException", message)
