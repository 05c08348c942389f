"""What a request asks for: actions, resources and condition keys, as IAM names them.

Source: "Service Authorization Reference" (as in parliament 1.6.4 and AWS's pages, 2026-11) for
actions, resource types and condition keys; for what a request needs besides its own action, the
sources cited below. An operation without a line here is asked for by its name, on all resources.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

from helpers.rehearsal.aws import deletions
from helpers.rehearsal.aws.deletions import Deletion
from helpers.rehearsal.aws.policies import Values
from helpers.rehearsal.server import Request

ANY = "*"  # the resource of an action that knows none
# How a service is called in actions, where that is not what its requests are signed for.
_PREFIXES = {"monitoring": "cloudwatch", "tagging": "tag"}
_QUERY = ("iam", "sts")  # speak no JSON
# Condition keys that a request may have besides `_PREFIXES_OF_KEYS`, in lower case; of all others
# nobody here knows the value.
KEYS = frozenset(
    {
        "application-autoscaling:scalable-dimension",
        "application-autoscaling:service-namespace",
        "aws:calledvia",
        "aws:currenttime",
        "aws:epochtime",
        "aws:multifactorauthage",
        "aws:multifactorauthpresent",
        "aws:principalaccount",
        "aws:principalarn",
        "aws:principalisawsservice",
        "aws:principaltype",
        "aws:requestedregion",
        "aws:resourceaccount",
        "aws:securetransport",
        "aws:sourceaccount",
        "aws:sourcearn",
        "aws:sourceip",
        "aws:tagkeys",
        "aws:useragent",
        "aws:userid",
        "aws:username",
        "aws:viaawsservice",
        "cloudwatch:namespace",
        "iam:awsservicename",
        "iam:passedtoservice",
        "s3:delimiter",
        "s3:max-keys",
        "s3:prefix",
        "s3:requestobjecttagkeys",
        "s3:resourceaccount",
        "sagemaker:instancetypes",
        "sagemaker:modelarn",
        "sagemaker:taggingaction",
        "servicequotas:service",
        "sts:externalid",
        "sts:rolesessionname",
    }
)
_PREFIXES_OF_KEYS = ("aws:requesttag/", "aws:principaltag/", "s3:requestobjecttag/")
RESOURCE_TAG = "aws:resourcetag/"


@dataclass(frozen=True)
class Ask:
    """One action that a request asks for.

    Attributes:
        action: E.g. `sagemaker:CreateEndpoint`.
        resource: An ARN, or `*` for an action that knows no resources.
        values: Condition keys of this action, in lower case.
    """

    action: str
    resource: str = ANY
    values: Values = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a request goes.

    Attributes:
        region: Of its signature.
        account: Twelve digits.
        entities: ARNs of the account's users and roles.
        caller: ARN of the user or role that asks.
    """

    region: str
    account: str
    entities: Iterable[str] = ()
    caller: str = ""

    def arn(self, service: str, resource: str) -> str:
        """An ARN in this account and region."""
        return f"arn:aws:{service}:{self.region}:{self.account}:{resource}"

    def iam_arn(self, kind: str, name: str) -> str:
        """The ARN of a user or role, with the path that it has, or may get."""
        start, end = f"arn:aws:iam::{self.account}:{kind}/", f"/{name}"
        known = (arn for arn in self.entities if arn.startswith(start) and arn.endswith(end))
        return next(known, f"{start}{name}")


def knows(key: str) -> bool:
    """Whether a request could have a value for a condition key (in lower case)."""
    return key in KEYS or key.startswith(_PREFIXES_OF_KEYS)


def asked(request: Request, service: str, place: Place) -> list[Ask]:
    """What a request to any service but the runtime asks for.

    Args:
        request: As it was received.
        service: What it is signed for, e.g. `monitoring`.
        place: Where it goes.
    """
    if service == "s3":
        return list(_s3(request, place))
    if service == "scheduler":
        return list(_scheduler(request, place))
    target = request.headers.get("x-amz-target", "")
    in_json = bool(target) and service not in _QUERY
    given = _members(request) if in_json else form(request)
    operation = target.rpartition(".")[2] if in_json else given.get("Action", "")
    of_service = {
        "application-autoscaling": _autoscaling,
        "events": _events,
        "iam": _iam,
        "logs": _logs,
        "monitoring": _cloudwatch,
        "sagemaker": sagemaker,
        "servicequotas": _quotas,
        "sts": _sts,
    }.get(service)
    if of_service is None:
        return [Ask(f"{_PREFIXES.get(service, service)}:{operation}")]
    return list(of_service(operation, given, place))


def invocation(name: str, door: str, place: Place, *, with_token: bool) -> list[Ask]:
    """What a request to SageMaker's runtime asks for.

    With a bearer token that is CallWithBearerToken, on all resources, and InvokeEndpoint
    (SageMaker developer guide, "Invoke endpoints with OpenAI-compatible APIs").

    Args:
        name: The endpoint's.
        door: The rest of the path, e.g. `invocations`.
        place: Where it goes.
        with_token: Whether it carries a bearer token instead of a signature.
    """
    streams = door == "invocations-response-stream"
    action = "InvokeEndpointWithResponseStream" if streams else "InvokeEndpoint"
    invoke = Ask(f"sagemaker:{action}", place.arn("sagemaker", f"endpoint/{name.lower()}"))
    return [Ask("sagemaker:CallWithBearerToken"), invoke] if with_token else [invoke]


# --- SageMaker

_NAMED = {"ModelName": "model", "EndpointName": "endpoint", "EndpointConfigName": "endpoint-config"}


def sagemaker(operation: str, given: Mapping[str, Any], place: Place) -> Iterator[Ask]:
    """What an operation of SageMaker asks for.

    UpdateEndpoint, like CreateEndpoint, is about the configuration as well
    (aws-controllers-k8s/community issue 1889). Names in ARNs are in lower case.
    """
    action = f"sagemaker:{operation}"
    if operation in ("AddTags", "ListTags", "DeleteTags"):
        keys = {"aws:tagkeys": _texts(given.get("TagKeys"))} if "TagKeys" in given else {}
        yield Ask(action, _text(given.get("ResourceArn")), {**_tag_values(given), **keys})
        return
    resources = [
        place.arn("sagemaker", f"{kind}/{given[member].lower()}")
        for member, kind in _NAMED.items()
        if isinstance(given.get(member), str)
    ]
    values = _tag_values(given)
    if operation == "CreateEndpointConfig":
        values |= _variant_values(given, place)
    for resource in resources or [ANY]:
        yield Ask(action, resource, values)
    if given.get("Tags") and resources:
        tagging = {**_tag_values(given), "sagemaker:taggingaction": (operation,)}
        yield Ask("sagemaker:AddTags", resources[0], tagging)
    if isinstance(given.get("ExecutionRoleArn"), str):
        yield _pass_role(given["ExecutionRoleArn"], "sagemaker")


def _variant_values(given: Mapping[str, Any], place: Place) -> dict[str, tuple[str, ...]]:
    variants = [one for one in _items(given.get("ProductionVariants")) if isinstance(one, dict)]
    types = [_text(one["InstanceType"]) for one in variants if "InstanceType" in one]
    models = [
        place.arn("sagemaker", f"model/{_text(one['ModelName']).lower()}")
        for one in variants
        if "ModelName" in one
    ]
    return {"sagemaker:instancetypes": tuple(types), "sagemaker:modelarn": tuple(models)}


def _pass_role(arn: str, service: str) -> Ask:
    return Ask("iam:PassRole", arn, {"iam:passedtoservice": (f"{service}.amazonaws.com",)})


# --- EventBridge Scheduler

_SCHEDULES = re.compile(r"/(schedules|schedule-groups|tags)(?:/(.+))?")
_VERBS = {"POST": "Create", "PUT": "Update", "GET": "Get", "DELETE": "Delete"}
_TAG_VERBS = {"POST": "TagResource", "DELETE": "UntagResource", "GET": "ListTagsForResource"}


def _scheduler(request: Request, place: Place) -> Iterator[Ask]:
    given, query = _members(request), parse_qs(request.query)
    match = _SCHEDULES.fullmatch(request.path)
    kind, name = (match[1], unquote(match[2] or "")) if match else ("", "")
    noun = {"schedules": "Schedule", "schedule-groups": "ScheduleGroup"}.get(kind)
    if kind == "tags":
        keys = tuple(query.get("TagKeys", []))
        values = _tag_values(given) | ({"aws:tagkeys": keys} if keys else {})
        yield Ask(f"scheduler:{_TAG_VERBS.get(request.method, '')}", name or ANY, values)
    elif noun is None or not name:
        yield Ask(f"scheduler:List{noun or ''}s")
    elif noun == "ScheduleGroup":
        arn = place.arn("scheduler", f"schedule-group/{name}")
        yield Ask(f"scheduler:{_VERBS.get(request.method, '')}{noun}", arn, _tag_values(given))
        if given.get("Tags"):
            yield Ask("scheduler:TagResource", arn, _tag_values(given))
        if request.method == "DELETE":  # its schedules go with it
            yield Ask("scheduler:DeleteSchedule", place.arn("scheduler", f"schedule/{name}/*"))
    else:
        group = given.get("GroupName") or query.get("groupName", ["default"])[0]
        arn = place.arn("scheduler", f"schedule/{group}/{name}")
        yield Ask(f"scheduler:{_VERBS.get(request.method, '')}{noun}", arn)
        target = given.get("Target")
        if isinstance(target, dict) and isinstance(target.get("RoleArn"), str):
            yield _pass_role(target["RoleArn"], "scheduler")


# --- Application Auto Scaling

# What the caller needs in the target's service and in CloudWatch: SageMaker developer guide, "Auto
# scaling prerequisites". That a registration tries it out, in CloudWatch without the name of an
# alarm: Application Auto Scaling user guide, "Permissions validation" (for Aurora). What SageMaker
# is asked then, what the resource of an alarm without a name is, and that the other calls ask for
# the policy's alarms is [unverified].
_SCALED = ("DescribeEndpoint", "UpdateEndpointWeightsAndCapacities")
_TRIED = {"PutMetricAlarm": "", "DescribeAlarms": ANY, "DeleteAlarms": ""}
_ALARMS = {
    "PutScalingPolicy": ("PutMetricAlarm", "DescribeAlarms"),
    "DeleteScalingPolicy": ("DeleteAlarms",),
    "DeregisterScalableTarget": ("DeleteAlarms",),
}


def deregistration(place: Place) -> Ask:
    """What it takes to deregister a production variant that is scaled."""
    return next(_autoscaling("DeregisterScalableTarget", _VARIANT, place))


_VARIANT = {
    "ServiceNamespace": "sagemaker",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}


def _autoscaling(operation: str, given: Mapping[str, Any], place: Place) -> Iterator[Ask]:
    action = f"application-autoscaling:{operation}"
    if operation.startswith("Describe"):
        yield Ask(action)
        return
    if "ResourceARN" in given:
        values = _tag_values(given)
        if "TagKeys" in given:
            values["aws:tagkeys"] = _texts(given["TagKeys"])
        yield Ask(action, _text(given["ResourceARN"]), values)
        return
    target = place.arn("application-autoscaling", "scalable-target/*")
    values = {
        "application-autoscaling:service-namespace": (_text(given.get("ServiceNamespace")),),
        "application-autoscaling:scalable-dimension": (_text(given.get("ScalableDimension")),),
    }
    yield Ask(action, target, {**values, **_tag_values(given)})
    if given.get("Tags"):
        yield Ask("application-autoscaling:TagResource", target, _tag_values(given))
    resource_id = _text(given.get("ResourceId"))
    if operation == "RegisterScalableTarget":
        endpoint = place.arn("sagemaker", resource_id.partition("/variant/")[0].lower())
        yield from (Ask(f"sagemaker:{name}", endpoint) for name in _SCALED)
        for name, alarm in _TRIED.items():
            yield Ask(f"cloudwatch:{name}", place.arn("cloudwatch", f"alarm:{alarm}"))
    alarms = place.arn("cloudwatch", f"alarm:TargetTracking-{resource_id}-*")
    for name in _ALARMS.get(operation, ()):
        yield Ask(f"cloudwatch:{name}", alarms)


# --- logs, metrics, rules, quotas


def _logs(operation: str, given: Mapping[str, Any], place: Place) -> Iterator[Ask]:
    """CloudWatch Logs. It names a group with an empty stream, and has no group for a list."""
    action = f"logs:{operation}"
    if arn := given.get("resourceArn"):
        keys = _texts(given.get("tagKeys")) or tuple(_mapping(given.get("tags")))
        yield Ask(action, _text(arn).removesuffix(":*"), {"aws:tagkeys": keys})
        return
    groups = _texts(given.get("logGroupNames")) or _texts(given.get("logGroupIdentifiers"))
    groups = groups or (_text(given.get("logGroupName") or given.get("logGroupIdentifier") or ""),)
    tags = _mapping(given.get("tags"))
    values = {f"aws:requesttag/{key.lower()}": (_text(value),) for key, value in tags.items()}
    values |= {"aws:tagkeys": tuple(tags)} if tags else {}
    for group in groups:
        name = group.rpartition(":log-group:")[2].removesuffix(":*")
        stream = _text(given.get("logStreamName") or "")
        arn = place.arn("logs", f"log-group:{name}:log-stream:{stream}")
        yield Ask(action, arn, values)
        if tags and operation == "CreateLogGroup":
            yield Ask("logs:TagResource", place.arn("logs", f"log-group:{name}"), values)


def _cloudwatch(operation: str, given: Mapping[str, Any], place: Place) -> Iterator[Ask]:
    action = f"cloudwatch:{operation}"
    if operation == "PutMetricData":
        yield Ask(action, ANY, {"cloudwatch:namespace": (_text(given.get("Namespace")),)})
    elif operation == "PutMetricAlarm":
        name = _text(given.get("AlarmName"))
        yield Ask(action, place.arn("cloudwatch", f"alarm:{name}"), _tag_values(given))
    elif operation in ("DeleteAlarms", "DescribeAlarms"):
        names = _texts(given.get("AlarmNames")) or numbered(given, "AlarmNames") or (ANY,)
        for name in names:
            yield Ask(action, place.arn("cloudwatch", f"alarm:{name}"))
    else:
        yield Ask(action)


def _events(operation: str, given: Mapping[str, Any], place: Place) -> Iterator[Ask]:
    rule = given.get("Name") if operation.endswith("Rule") else given.get("Rule")
    bus = _text(given.get("EventBusName") or "default")
    if isinstance(rule, str):
        name = rule if bus == "default" else f"{bus}/{rule}"
        yield Ask(f"events:{operation}", place.arn("events", f"rule/{name}"), _tag_values(given))
    else:
        yield Ask(f"events:{operation}")


def _quotas(operation: str, given: Mapping[str, Any], place: Place) -> Iterator[Ask]:
    service = _text(given.get("ServiceCode"))
    if operation == "RequestServiceQuotaIncrease":
        arn = place.arn("servicequotas", f"{service}/{_text(given.get('QuotaCode'))}")
        yield Ask(f"servicequotas:{operation}", arn, {"servicequotas:service": (service,)})
    else:
        yield Ask(f"servicequotas:{operation}")


# --- IAM and STS

# Of a user without a name: whoever asks.
_OF_ONESELF = ("GetUser", "CreateAccessKey", "DeleteAccessKey", "ListAccessKeys", "UpdateAccessKey")
# The token service answers these to everyone (API reference).
_FREE = ("GetCallerIdentity", "GetSessionToken")


def _iam(operation: str, given: Mapping[str, str], place: Place) -> Iterator[Ask]:
    action, values = f"iam:{operation}", {}
    if service := given.get("AWSServiceName"):
        resource = f"arn:aws:iam::{place.account}:role/aws-service-role/{service}/*"
        values = {"iam:awsservicename": (service,)}
    elif arn := given.get("PolicySourceArn"):
        resource = arn
    elif path := given.get("Path"):  # of what is to be created
        kind = operation.removeprefix("Create").lower()
        name = given.get(f"{kind.title()}Name", "")
        resource = f"arn:aws:iam::{place.account}:{kind}{path}{name}"
    elif kind := next((one for one in ("Role", "User", "Group") if f"{one}Name" in given), None):
        resource = place.iam_arn(kind.lower(), given[f"{kind}Name"])
    elif "PolicyArn" in given:
        resource = given["PolicyArn"]
    elif "PolicyName" in given:
        resource = f"arn:aws:iam::{place.account}:policy/{given['PolicyName']}"
    else:
        resource = place.caller if operation in _OF_ONESELF else ANY
    yield Ask(action, resource, values)


def _sts(operation: str, given: Mapping[str, str], place: Place) -> Iterator[Ask]:
    if operation in _FREE:
        return
    values = {
        f"sts:{name.lower()}": (given[name],)
        for name in ("ExternalId", "RoleSessionName")
        if name in given
    }
    yield Ask(f"sts:{operation}", given.get("RoleArn", ANY), values)


# --- S3

# Subresources of buckets whose action is not called after them.
_BUCKET = {
    "acl": "BucketAcl",
    "cors": "BucketCORS",
    "encryption": "EncryptionConfiguration",
    "lifecycle": "LifecycleConfiguration",
    "object-lock": "BucketObjectLockConfiguration",
    "ownershipControls": "BucketOwnershipControls",
    "policyStatus": "BucketPolicyStatus",
    "publicAccessBlock": "BucketPublicAccessBlock",
    "replication": "ReplicationConfiguration",
    "requestPayment": "BucketRequestPayment",
    "website": "BucketWebsite",
}
_LISTS = {"uploads": "ListBucketMultipartUploads", "versions": "ListBucketVersions"}
_OBJECT = {"acl": "Acl", "tagging": "Tagging", "retention": "Retention", "legal-hold": "LegalHold"}
# Parameters that say how, not what; others of a bucket are subresources.
_HOW = re.compile(
    r"(?i)(x-amz-.*|x-id|list-type|prefix|delimiter|max-keys|marker|encoding-type|start-after|"
    r"continuation-token|fetch-owner|awsaccesskeyid|signature|expires|max-buckets|.*-marker|"
    r"max-uploads|response-.*)"
)


def _s3(request: Request, place: Place) -> Iterator[Ask]:
    bucket, key = _bucket_and_key(request)
    query = {name: values[0] for name, values in _query(request).items()}
    values = {"s3:resourceaccount": (place.account,)}
    for name in ("prefix", "delimiter", "max-keys"):
        if name in query and "uploads" not in query:  # ListBucketMultipartUploads knows none
            values[f"s3:{name}"] = (query[name],)
    if not bucket:
        yield Ask("s3:ListAllMyBuckets")
    elif not key:
        yield from _of_bucket(request, bucket, query, values)
    else:
        yield from _of_object(request, f"arn:aws:s3:::{bucket}/{key}", query, values)


def _of_bucket(
    request: Request, bucket: str, query: Mapping[str, str], values: Values
) -> Iterator[Ask]:
    arn = f"arn:aws:s3:::{bucket}"
    what = _subresource(query)
    if request.method == "POST" and what == "delete":
        for one in deletions.listed(request.body) or [Deletion(ANY)]:
            version = "Version" if one.version else ""
            yield Ask(f"s3:DeleteObject{version}", f"{arn}/{one.key}", values)
    elif what is None:
        verb = {"PUT": "CreateBucket", "DELETE": "DeleteBucket"}.get(request.method, "ListBucket")
        yield Ask(f"s3:{verb}", arn, values)
    elif what in _LISTS:
        yield Ask(f"s3:{_LISTS[what]}", arn, values)
    else:
        noun = _BUCKET.get(what, f"Bucket{what[:1].upper()}{what[1:]}")
        verb = "Get" if request.method in ("GET", "HEAD") else "Put"
        if request.method == "DELETE" and what in ("policy", "website"):
            verb = "Delete"
        yield Ask(f"s3:{verb}{noun}", arn, values)


def _of_object(request: Request, arn: str, query: Mapping[str, str], values: Values):
    version = "Version" if "versionId" in query else ""
    verb = {"GET": "Get", "HEAD": "Get", "DELETE": "Delete"}.get(request.method, "Put")
    what = next((name for name in _OBJECT if name in query), None)
    if what:
        yield Ask(f"s3:{verb}Object{version}{_OBJECT[what]}", arn, values)
    elif "uploadId" in query and verb != "Put":
        action = "ListMultipartUploadParts" if verb == "Get" else "AbortMultipartUpload"
        yield Ask(f"s3:{action}", arn, values)
    elif verb != "Put":
        yield Ask(f"s3:{verb}Object{version}", arn, values)
    else:
        tags = parse_qs(request.headers.get("x-amz-tagging", ""), keep_blank_values=True)
        tagged = {f"s3:requestobjecttag/{key.lower()}": (tags[key][0],) for key in tags}
        if tags:
            tagged["s3:requestobjecttagkeys"] = tuple(tags)
        yield Ask("s3:PutObject", arn, {**values, **tagged})
        if tags:
            yield Ask("s3:PutObjectTagging", arn, {**values, **tagged})
        if source := request.headers.get("x-amz-copy-source"):
            path = unquote(source).lstrip("/").partition("?")[0]
            yield Ask("s3:GetObject", f"arn:aws:s3:::{path}", values)


def _subresource(query: Iterable[str]) -> str | None:
    return next((name for name in query if not _HOW.fullmatch(name)), None)


def deletes_objects(request: Request) -> bool:
    """Whether a request to S3 is DeleteObjects, which asks for each of them."""
    bucket, key = _bucket_and_key(request)
    asked = request.method, bool(bucket and not key), _subresource(_query(request))
    return asked == ("POST", True, "delete")


def _bucket_and_key(request: Request) -> tuple[str, str]:
    """Of the path, or of a host such as `bucket.localhost`."""
    path = unquote(request.path.removeprefix("/"))
    host = request.headers.get("host", "").partition(":")[0]
    bucket, _, domain = host.partition(".")
    if domain and re.search("[a-z]", domain):
        return bucket, path
    first, _, rest = path.partition("/")
    return first, rest


# --- members


def _members(request: Request) -> dict[str, Any]:
    """The members of a JSON request, none when it cannot be read."""
    try:
        given = json.loads(request.body or b"{}")
    except (ValueError, RecursionError):
        return {}
    return given if isinstance(given, dict) else {}


def form(request: Request) -> dict[str, str]:
    """The parameters of a request of the Query protocol, the first of each name."""
    given = _query(request) | parse_qs(request.body.decode("latin-1"), keep_blank_values=True)
    return {name: values[0] for name, values in given.items()}


def _query(request: Request) -> dict[str, list[str]]:
    return parse_qs(request.query, keep_blank_values=True)


def numbered(given: Mapping[str, str], name: str) -> tuple[str, ...]:
    """A list of the Query protocol, e.g. `ActionNames`."""
    start = f"{name}.member."
    found = {
        int(key.removeprefix(start)): value
        for key, value in given.items()
        if key.startswith(start) and re.fullmatch("[0-9]{1,9}", key.removeprefix(start))
    }
    return tuple(found[number] for number in sorted(found))


def _tag_values(given: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Condition keys of the tags that a request gives."""
    tags = given.get("Tags")
    if isinstance(tags, dict):
        pairs = [(_text(key), _text(value)) for key, value in tags.items()]
    else:
        pairs = [
            (_text(one.get("Key")), _text(one.get("Value")))
            for one in _items(tags)
            if isinstance(one, dict)
        ]
    if not pairs:
        return {}
    values = {f"aws:requesttag/{key.lower()}": (value,) for key, value in pairs}
    return {**values, "aws:tagkeys": tuple(key for key, _ in pairs)}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_text, _items(value)))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ANY
