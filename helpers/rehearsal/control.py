"""SageMaker's control plane: models, endpoint configurations, endpoints and their tags.

Requests and answers are held against botocore's service model (`shapes`). What happens by itself,
such as an endpoint that comes up, is a queue of events in AWS time: `advance` carries out those
that are due, each with the time at which it was due, before anything is answered. No timer runs,
and the outcome does not depend on who asks when.
"""

import base64
import heapq
import json
import logging
import operator
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from botocore.model import OperationNotFoundError, ServiceModel

from helpers.clock import Clock
from helpers.rehearsal import shapes, startup, strictjson
from helpers.rehearsal.server import Answer

log = logging.getLogger(__name__)

ACCOUNT = "123456789012"
REGION = "us-east-1"
TARGET_PREFIX = "SageMaker."
DELETING_S = 15.0
_PAGE = 10  # MaxResults when a list operation is given none (API reference)
_MAX_TAGS = 50
_QUOTA = 20  # instances of a type in a region; what a real account has differs from type to type
_CONTENT_TYPE = "application/x-amz-json-1.1"


class AwsError(Exception):
    """An error in AWS's code and words."""

    def __init__(self, code: str, message: str, *, status: int = 400):
        super().__init__(message)
        self.code = code
        self.status = status

    def answer(self) -> Answer:
        """The error as JSON protocols carry it."""
        body = {"__type": self.code, "message": str(self), "Message": str(self)}
        headers = {"Content-Type": _CONTENT_TYPE, "x-amzn-ErrorType": self.code}
        return Answer(self.status, headers, json.dumps(body).encode())


class Logs(Protocol):
    """Where a container's log goes."""

    def write(
        self, group: str, stream: str, lines: list[tuple[float, str]], *, region: str
    ) -> None:
        """Append lines, each with its epoch second."""


@dataclass(frozen=True)
class Deployment:
    """What an endpoint that is in service runs.

    Attributes:
        name: The endpoint's name.
        uid: Different for every endpoint ever created, also under the same name.
        image: Image URI of the container.
        env: The container's environment, secrets included.
        instance_type: With the leading `ml.`.
        instance_count: Replicas.
        region: Where it runs.
        account: Whose it is.
        variant: Its production variant.
    """

    name: str
    uid: str
    image: str
    env: Mapping[str, str]
    instance_type: str
    instance_count: int
    region: str = REGION
    account: str = ACCOUNT
    variant: str = "AllTraffic"

    @property
    def log_group(self) -> str:
        """CloudWatch log group of the endpoint."""
        return f"/aws/sagemaker/Endpoints/{self.name}"

    @property
    def log_stream_arn(self) -> str:
        """What a ModelError names as `LogStreamArn`."""
        return f"arn:aws:logs:{self.region}:{self.account}:log-group:{self.log_group}"


@dataclass(frozen=True)
class _Kind:
    """How one kind of resource is called in requests, ARNs and messages."""

    member: str  # EndpointConfig -> EndpointConfigName, EndpointConfigArn, EndpointConfigs
    in_arn: str
    noun: str


_MODEL = _Kind("Model", "model", "model")
_CONFIG = _Kind("EndpointConfig", "endpoint-config", "endpoint configuration")
_ENDPOINT = _Kind("Endpoint", "endpoint", "endpoint")
_KINDS = (_MODEL, _CONFIG, _ENDPOINT)


@dataclass
class _Resource:
    kind: _Kind
    region: str
    name: str
    arn: str
    created_s: float
    spec: dict[str, Any]
    tags: dict[str, str] = field(default_factory=dict)
    # Endpoints only:
    modified_s: float = 0.0
    status: str = ""
    failure_reason: str | None = None
    deployments: dict[str, Deployment] = field(default_factory=dict)  # by production variant
    weights: dict[str, float] = field(default_factory=dict)
    uid: str = field(default_factory=lambda: uuid.uuid4().hex[:16])

    def described(self) -> dict[str, Any]:
        """What every Describe starts from: what was given, and what AWS adds."""
        given = {name: value for name, value in self.spec.items() if name != "Tags"}
        return {
            **given,
            f"{self.kind.member}Arn": self.arn,
            "CreationTime": _timestamp(self.created_s),
        }


@dataclass(frozen=True, order=True)
class _Event:
    """Something that happens to an endpoint by itself, as data."""

    at_s: float
    number: int
    what: str = field(compare=False)
    endpoint: _Resource = field(compare=False)
    detail: Any = field(compare=False, default=None)


# Where a resource stands in a list; names are unique, so no two stand in the same place.
_Place = tuple[float, str] | tuple[str, str]


def _by_creation(resource: _Resource) -> _Place:
    return resource.created_s, resource.name


def _by_name(resource: _Resource) -> _Place:
    return resource.name, resource.name


def _by_status(resource: _Resource) -> _Place:
    return resource.status, resource.name


_PLACES = {"CreationTime": _by_creation, "Name": _by_name, "Status": _by_status}


class ControlPlane:
    """The SageMaker operations of the workshop, in AWS time.

    Args:
        clock: AWS time.
        account: Twelve digits.
        logs: Where containers write.
        model: botocore's service model of SageMaker.
    """

    def __init__(self, clock: Clock, *, logs: Logs, model: ServiceModel, account: str = ACCOUNT):
        self._clock = clock
        self._account = account
        self._logs = logs
        self._model = model
        self._resources: dict[tuple[_Kind, str, str], _Resource] = {}
        self._events: list[_Event] = []
        self._number = count()
        self._journal: list[dict[str, Any]] = []
        self._operations: dict[str, Callable[[dict[str, Any], str], dict[str, Any] | None]] = {
            "CreateModel": self._create_model,
            "DescribeModel": self._describe_model,
            "ListModels": lambda given, region: self._list(_MODEL, given, region),
            "DeleteModel": lambda given, region: self._delete(_MODEL, given, region),
            "CreateEndpointConfig": self._create_config,
            "DescribeEndpointConfig": self._describe_config,
            "ListEndpointConfigs": lambda given, region: self._list(_CONFIG, given, region),
            "DeleteEndpointConfig": lambda given, region: self._delete(_CONFIG, given, region),
            "CreateEndpoint": self._create_endpoint,
            "DescribeEndpoint": self._describe_endpoint,
            "ListEndpoints": lambda given, region: self._list(_ENDPOINT, given, region),
            "DeleteEndpoint": self._delete_endpoint,
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
            "DeleteTags": self._delete_tags,
        }

    # --- what the front door asks

    def answer(self, operation: str, body: bytes, *, region: str = REGION) -> Answer:
        """Carry out one operation of the JSON 1.1 protocol.

        Args:
            operation: Name without the `SageMaker.` prefix.
            body: The request's JSON.
            region: From the request's signature.
        """
        try:
            handle, model = self._operation(operation)
            given = _parse(body)
            _validate(model.input_shape, given)
            self.advance()
            result = handle(given, region)
        except AwsError as error:
            return error.answer()
        return self._answer(operation, model.output_shape, result)

    def serving(self, name: str, *, region: str = REGION, variant: str | None = None) -> Deployment:
        """What runs under an endpoint's name; unlike elsewhere, capitals matter here.

        Args:
            name: The endpoint's.
            region: From the request's signature.
            variant: `TargetVariant`; left out, the endpoint's first.

        Raises:
            AwsError: When there is no such endpoint or variant, or it is not in service.
        """
        self.advance()
        endpoint = self._resources.get((_ENDPOINT, region, name.lower()))
        if endpoint is None or endpoint.name != name or endpoint.status != "InService":
            message = f"Endpoint {name} of account {self._account} not found."
            raise AwsError("ValidationError", message)
        if variant is None:
            return next(iter(endpoint.deployments.values()))
        if variant not in endpoint.deployments:  # words [unverified]
            raise AwsError("ValidationError", f"Variant {variant[:200]} not found for Request")
        return endpoint.deployments[variant]

    def journal(self) -> list[dict[str, Any]]:
        """Every create, update and delete that succeeded: time (epoch), operation, name, detail."""
        return list(self._journal)

    def advance(self) -> None:
        """Let happen what is due by now."""
        now = self._clock.time()
        while self._events and self._events[0].at_s <= now:
            event = heapq.heappop(self._events)
            getattr(self, f"_on_{event.what}")(event)

    # --- models

    def _create_model(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        container = given.get("PrimaryContainer")
        if container is None or "Containers" in given:
            raise _invalid("The rehearsal AWS serves models with exactly one PrimaryContainer.")
        if not container.get("Image"):
            raise _invalid("The rehearsal AWS needs the PrimaryContainer's Image.")
        if "ExecutionRoleArn" not in given:
            raise _invalid("Execution role is required to create a model.")
        detail = container["Image"].rpartition("/")[2]
        return self._create(_MODEL, given, region, detail=detail)

    def _describe_model(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        model = self._find(_MODEL, given["ModelName"], region)
        described = {"EnableNetworkIsolation": False, **model.described()}
        container = {"Mode": "SingleModel", **described["PrimaryContainer"]}
        return {**described, "PrimaryContainer": container}

    # --- endpoint configurations

    def _create_config(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        variants = given["ProductionVariants"]
        names = [variant["VariantName"] for variant in variants]
        if len(set(names)) < len(names):
            raise _invalid("Production variant names must be unique within an endpoint.")
        for variant in variants:
            for member in ("ModelName", "InstanceType", "InitialInstanceCount"):
                if member not in variant:
                    raise _invalid(
                        f"The rehearsal AWS serves instance-based endpoints: production variant "
                        f"{variant['VariantName']} needs {member}."
                    )
            self._find(_MODEL, variant["ModelName"], region)
        for variant in variants:
            variant.setdefault("InitialVariantWeight", 1.0)
        return self._create(_CONFIG, given, region, detail=_size(variants))

    def _describe_config(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        return self._find(_CONFIG, given["EndpointConfigName"], region).described()

    # --- endpoints

    def _create_endpoint(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        config = self._find(_CONFIG, given["EndpointConfigName"], region)
        variants = config.spec["ProductionVariants"]
        containers = {
            variant["VariantName"]: self._find(_MODEL, variant["ModelName"], region).spec[
                "PrimaryContainer"
            ]
            for variant in variants
        }
        self._check_new(_ENDPOINT, given["EndpointName"], region)
        self._check_quotas(variants, region)
        answer = self._create(_ENDPOINT, given, region, detail=_size(variants))
        endpoint = self._find(_ENDPOINT, given["EndpointName"], region)
        endpoint.status, endpoint.modified_s = "Creating", endpoint.created_s
        ends: list[tuple[float, str | None]] = []
        for variant in variants:
            container = containers[variant["VariantName"]]
            ends.append(self._start(endpoint, variant, container))
        failures = [end for end in ends if end[1]]
        duration_s, reason = min(failures) if failures else max(ends)
        self._schedule(duration_s, "started", endpoint, reason)
        return answer

    def _check_quotas(self, variants: list[dict[str, Any]], region: str) -> None:
        asked: Counter[str] = Counter()
        for variant in variants:
            asked[variant["InstanceType"]] += variant["InitialInstanceCount"]
        used: Counter[str] = Counter()
        for (kind, where, _), endpoint in self._resources.items():
            if kind is _ENDPOINT and where == region and endpoint.status != "Failed":
                for deployment in endpoint.deployments.values():
                    used[deployment.instance_type] += deployment.instance_count
        for instance_type, delta in asked.items():
            if used[instance_type] + delta > _QUOTA:
                raise AwsError(
                    "ResourceLimitExceeded",
                    f"The account-level service limit '{instance_type} for endpoint usage' is "
                    f"{_QUOTA} Instances, with current utilization of {used[instance_type]} "
                    f"Instances and a request delta of {delta} Instances.",
                )

    def _start(
        self, endpoint: _Resource, variant: dict[str, Any], container: dict[str, Any]
    ) -> tuple[float, str | None]:
        deployment = Deployment(
            name=endpoint.name,
            uid=endpoint.uid,
            image=container["Image"],
            env=dict(container.get("Environment", {})),
            instance_type=variant["InstanceType"],
            instance_count=variant["InitialInstanceCount"],
            region=endpoint.region,
            account=self._account,
            variant=variant["VariantName"],
        )
        plan = startup.plan(
            deployment.image,
            deployment.env,
            variant=variant["VariantName"],
            instance_type=deployment.instance_type,
            health_check_timeout_s=variant.get("ContainerStartupHealthCheckTimeoutInSeconds"),
        )
        endpoint.deployments[variant["VariantName"]] = deployment
        endpoint.weights[variant["VariantName"]] = variant["InitialVariantWeight"]
        for after_s, line in plan.log:
            self._schedule(after_s, "logged", endpoint, (variant["VariantName"], line))
        return plan.duration_s, plan.failure_reason

    def _describe_endpoint(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        endpoint = self._find(_ENDPOINT, given["EndpointName"], region)
        described = {
            **endpoint.described(),
            "EndpointStatus": endpoint.status,
            "LastModifiedTime": _timestamp(endpoint.modified_s),
        }
        described.pop("DeploymentConfig", None)
        if endpoint.failure_reason:
            described["FailureReason"] = endpoint.failure_reason
        if endpoint.status == "InService":
            described["ProductionVariants"] = [
                _variant_summary(name, deployment, endpoint.weights[name], endpoint.modified_s)
                for name, deployment in endpoint.deployments.items()
            ]
        return described

    def _delete_endpoint(self, given: dict[str, Any], region: str) -> None:
        endpoint = self._find(_ENDPOINT, given["EndpointName"], region)
        if endpoint.status not in ("InService", "Failed"):
            # Also true of one that is still being created: AWS makes you wait, and bills.
            raise _invalid(f'Cannot update in-progress endpoint "{endpoint.arn}".')
        now = self._clock.time()
        endpoint.status, endpoint.modified_s = "Deleting", now
        self._schedule(DELETING_S, "deleted", endpoint)
        self._record("DeleteEndpoint", endpoint, now, detail=endpoint.arn)

    # --- what happens by itself

    def _schedule(self, after_s: float, what: str, endpoint: _Resource, detail: Any = None) -> None:
        at_s = endpoint.modified_s + after_s
        heapq.heappush(self._events, _Event(at_s, next(self._number), what, endpoint, detail))

    def _on_logged(self, event: _Event) -> None:
        variant, line = event.detail
        deployment = event.endpoint.deployments[variant]
        stream = f"{variant}/i-{deployment.uid}"
        self._logs.write(
            deployment.log_group, stream, [(event.at_s, line)], region=event.endpoint.region
        )

    def _on_started(self, event: _Event) -> None:
        endpoint = event.endpoint
        endpoint.failure_reason = event.detail
        endpoint.status = "Failed" if event.detail else "InService"
        endpoint.modified_s = event.at_s

    def _on_deleted(self, event: _Event) -> None:
        endpoint = event.endpoint
        self._resources.pop((_ENDPOINT, endpoint.region, endpoint.name.lower()))

    # --- all kinds

    def _create(
        self, kind: _Kind, given: dict[str, Any], region: str, *, detail: str
    ) -> dict[str, Any]:
        name = given[f"{kind.member}Name"]
        self._check_new(kind, name, region)
        key, arn = (kind, region, name.lower()), self._arn(kind, region, name)
        tags = _tags(given.get("Tags", []))
        now = self._clock.time()
        resource = _Resource(kind, region, name, arn, now, given, tags, modified_s=now)
        self._resources[key] = resource
        self._record(f"Create{kind.member}", resource, now, detail=detail)
        return {f"{kind.member}Arn": arn}

    def _check_new(self, kind: _Kind, name: str, region: str) -> None:
        if (kind, region, name.lower()) in self._resources:
            arn = self._arn(kind, region, name)
            raise _invalid(f'Cannot create already existing {kind.noun} "{arn}".')

    def _find(self, kind: _Kind, name: str, region: str) -> _Resource:
        resource = self._resources.get((kind, region, name.lower()))
        if resource is None:
            raise _invalid(f'Could not find {kind.noun} "{self._arn(kind, region, name)}".')
        return resource

    def _delete(self, kind: _Kind, given: dict[str, Any], region: str) -> None:
        # AWS lets go of a model or configuration that an endpoint still uses.
        resource = self._find(kind, given[f"{kind.member}Name"], region)
        del self._resources[(kind, region, resource.name.lower())]
        self._record(f"Delete{kind.member}", resource, self._clock.time(), detail=resource.arn)

    def _list(self, kind: _Kind, given: dict[str, Any], region: str) -> dict[str, Any]:
        wanted = [
            resource
            for (of, where, _), resource in self._resources.items()
            if of is kind and where == region and _matches(resource, given)
        ]
        place = _PLACES[given.get("SortBy", "CreationTime")]
        descending = given.get("SortOrder", "Descending") == "Descending"
        wanted.sort(key=place, reverse=descending)
        if "NextToken" in given:
            # Where the last page ended, not how far it went: resources may have gone since.
            last = _read_token(given["NextToken"], like=place)
            later = operator.lt if descending else operator.gt
            wanted = [resource for resource in wanted if later(place(resource), last)]
        page = wanted[: given.get("MaxResults", _PAGE)]
        answer: dict[str, Any] = {f"{kind.member}s": [_summary(resource) for resource in page]}
        if len(page) < len(wanted):
            answer["NextToken"] = _token(place(page[-1]))
        return answer

    # --- tags

    def _add_tags(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        resource = self._by_arn(given["ResourceArn"])
        tags = {**resource.tags, **_tags(given["Tags"])}
        if len(tags) > _MAX_TAGS:
            raise _invalid(f"A resource has at most {_MAX_TAGS} tags.")
        resource.tags = tags
        return {"Tags": _tag_list(tags)}

    def _list_tags(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        return {"Tags": _tag_list(self._by_arn(given["ResourceArn"]).tags)}

    def _delete_tags(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        resource = self._by_arn(given["ResourceArn"])
        for key in given["TagKeys"]:
            resource.tags.pop(key, None)
        return {}

    def _by_arn(self, arn: str) -> _Resource:
        _, _, _, region, account, path = arn.split(":", 5)
        in_arn, _, name = path.partition("/")
        kind = next((kind for kind in _KINDS if kind.in_arn == in_arn), None)
        if kind is None:
            raise _invalid(f'The rehearsal AWS has no resource of the kind of "{arn}".')
        if account != self._account:
            raise _invalid(f'Could not find {kind.noun} "{arn}".')
        return self._find(kind, name, region)

    # --- the protocol

    def _operation(self, name: str):
        try:
            model = self._model.operation_model(name)
        except OperationNotFoundError:
            raise AwsError("UnknownOperationException", f"SageMaker has no {name[:100]}.") from None
        if name not in self._operations:
            offered = ", ".join(self._operations)
            message = f"The rehearsal AWS does not offer SageMaker's {name}; it offers {offered}."
            raise AwsError("UnknownOperationException", message)
        return self._operations[name], model

    def _answer(self, operation: str, shape, result: dict[str, Any] | None) -> Answer:
        headers = {"Content-Type": _CONTENT_TYPE}
        if shape is None:
            return Answer(200, headers)
        try:
            found = shapes.problems(shape, result)
        except shapes.WrongType as error:
            found = [str(error)]
        if found:
            log.error("%s would answer against the service model: %s", operation, found)
            message = f"The rehearsal AWS has a defect in {operation}: {found[0]}"
            return AwsError("InternalFailure", message, status=500).answer()
        return Answer(200, headers, json.dumps(result).encode())

    def _arn(self, kind: _Kind, region: str, name: str) -> str:
        return f"arn:aws:sagemaker:{region}:{self._account}:{kind.in_arn}/{name.lower()}"

    def _record(self, operation: str, resource: _Resource, now: float, *, detail: str) -> None:
        entry = {"time": _timestamp(now), "operation": operation, "name": resource.name}
        self._journal.append({**entry, "detail": detail})


def _parse(body: bytes) -> dict[str, Any]:
    try:
        given = strictjson.parse(body or b"{}")
    except ValueError:
        raise AwsError("SerializationException", "The request body is not JSON.") from None
    if not isinstance(given, dict):
        raise AwsError("SerializationException", "Start of structure or map expected.")
    return shapes.without_nulls(given)


def _validate(shape, given: dict[str, Any]) -> None:
    try:
        found = shapes.problems(shape, given)
    except shapes.WrongType as error:
        raise AwsError("SerializationException", str(error)) from None
    if found:
        raise _invalid(shapes.validation_message(found))


def _invalid(message: str) -> AwsError:
    return AwsError("ValidationException", message)


def _timestamp(epoch_s: float) -> float:
    return round(epoch_s, 3)


def _size(variants: list[dict[str, Any]]) -> str:
    return ", ".join(f"{one['InitialInstanceCount']} x {one['InstanceType']}" for one in variants)


def _variant_summary(
    name: str, deployment: Deployment, weight: float, since_s: float
) -> dict[str, Any]:
    image = {"SpecifiedImage": deployment.image, "ResolutionTime": _timestamp(since_s)}
    return {
        "VariantName": name,
        "DeployedImages": [image],
        "CurrentWeight": weight,
        "DesiredWeight": weight,
        "CurrentInstanceCount": deployment.instance_count,
        "DesiredInstanceCount": deployment.instance_count,
    }


def _summary(resource: _Resource) -> dict[str, Any]:
    member = resource.kind.member
    summary = {
        f"{member}Name": resource.name,
        f"{member}Arn": resource.arn,
        "CreationTime": _timestamp(resource.created_s),
    }
    if resource.kind is _ENDPOINT:
        summary["LastModifiedTime"] = _timestamp(resource.modified_s)
        summary["EndpointStatus"] = resource.status
    return summary


def _matches(resource: _Resource, given: Mapping[str, Any]) -> bool:
    infinity = float("inf")
    return (
        given.get("NameContains", "").lower() in resource.name.lower()
        and resource.created_s < given.get("CreationTimeBefore", infinity)
        and resource.created_s > given.get("CreationTimeAfter", -infinity)
        and resource.modified_s < given.get("LastModifiedTimeBefore", infinity)
        and resource.modified_s > given.get("LastModifiedTimeAfter", -infinity)
        and given.get("StatusEquals", resource.status) == resource.status
    )


def _token(place: _Place) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _read_token(token: str, *, like: Callable[[_Resource], _Place]) -> _Place:
    types = (float, str) if like is _by_creation else (str, str)
    try:
        place = tuple(json.loads(base64.urlsafe_b64decode(token)))
    except (ValueError, TypeError, RecursionError):  # of base64, of UTF-8 and of JSON
        place = ()
    if tuple(map(type, place)) != types:
        raise _invalid("The NextToken is not one that this operation gave out.")
    return place


def _tags(tags: list[dict[str, str]]) -> dict[str, str]:
    by_key = {tag["Key"]: tag["Value"] for tag in tags}
    if len(by_key) < len(tags):
        raise _invalid("Duplicate tag keys found. Please note that Tag keys are case insensitive.")
    return by_key


def _tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]
