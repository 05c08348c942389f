"""What a request asks for: actions, resources and condition keys, as IAM names them.

Source: "Service Authorization Reference" (as in parliament 1.6.4 and AWS's pages, 2026-11) for
actions, resource types and condition keys; for what a request needs besides its own action, the
sources cited below. An operation without a line here is asked for by its name, on all resources.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from helpers.rehearsal.aws import deletions
from helpers.rehearsal.aws.deletions import Deletion
from helpers.rehearsal.aws.operations import Operation
from helpers.rehearsal.aws.policies import Values
from helpers.rehearsal.server import Request

ANY = "*"  # the resource of an action that knows none
# How a service is called in actions, where that is not what its requests are signed for.
_PREFIXES = {"monitoring": "cloudwatch", "tagging": "tag"}
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


def asked(operation: Operation, place: Place) -> list[Ask]:
    """What an operation of any service but the runtime asks for."""
    of_service = {
        "application-autoscaling": _autoscaling,
        "events": _events,
        "iam": _iam,
        "logs": _logs,
        "monitoring": _cloudwatch,
        "scheduler": _scheduler,
        "sagemaker": sagemaker,
        "servicequotas": _quotas,
        "sts": _sts,
    }.get(operation.service)
    if operation.service == "s3":
        return list(_s3(operation, place))
    if of_service is None:
        prefix = _PREFIXES.get(operation.service, operation.service)
        return [Ask(f"{prefix}:{operation.name}")]
    return list(of_service(operation.name, operation.given, place))


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


def _scheduler(operation: str, given: Mapping[str, Any], place: Place) -> Iterator[Ask]:
    action, name = f"scheduler:{operation}", given.get("Name")
    if "ResourceArn" in given:
        keys = {"aws:tagkeys": _texts(given.get("TagKeys"))} if "TagKeys" in given else {}
        yield Ask(action, given["ResourceArn"], _tag_values(given) | keys)
    elif name is None:
        yield Ask(action)
    elif operation.endswith("ScheduleGroup"):
        arn = place.arn("scheduler", f"schedule-group/{name}")
        yield Ask(action, arn, _tag_values(given))
        if given.get("Tags"):
            yield Ask("scheduler:TagResource", arn, _tag_values(given))
        if operation.startswith("Delete"):  # its schedules go with it
            yield Ask("scheduler:DeleteSchedule", place.arn("scheduler", f"schedule/{name}/*"))
    else:
        group = given.get("GroupName") or "default"
        yield Ask(action, place.arn("scheduler", f"schedule/{group}/{name}"))
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


# How an operation names its log groups; all that it names are asked for.
_GROUP = ("logGroupName", "logGroupIdentifier", "resourceIdentifier")
_GROUPS = ("logGroupNames", "logGroupIdentifiers", "logGroupArnList")


def _logs(operation: str, given: Mapping[str, Any], place: Place) -> Iterator[Ask]:
    """CloudWatch Logs. It names a group with an empty stream, and has no group for a list."""
    action = f"logs:{operation}"
    if arn := given.get("resourceArn"):
        keys = _texts(given.get("tagKeys")) or tuple(_mapping(given.get("tags")))
        yield Ask(action, _text(arn).removesuffix(":*"), {"aws:tagkeys": keys})
        return
    singly = [_text(given[name]) for name in _GROUP if given.get(name)]
    groups = [*(one for name in _GROUPS for one in _texts(given.get(name))), *singly] or [""]
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
    elif kind := next((one for one in ("Role", "Group", "User") if f"{one}Name" in given), None):
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

# Actions that are not called after their operation: "Actions, resources, and condition keys for
# Amazon S3". Deleting a configuration asks for what putting it does, but for policy and website.
_ACTIONS_OF_S3 = {
    "ListBuckets": "ListAllMyBuckets",
    "HeadBucket": "ListBucket",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "ListObjectVersions": "ListBucketVersions",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "ListBucketInventoryConfigurations": "GetInventoryConfiguration",
    "HeadObject": "GetObject",
    "SelectObjectContent": "GetObject",
    "CopyObject": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "UploadPartCopy": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "ListParts": "ListMultipartUploadParts",
}
_CONFIGURATIONS = {
    "BucketAccelerateConfiguration": "AccelerateConfiguration",
    "BucketCors": "BucketCORS",
    "BucketEncryption": "EncryptionConfiguration",
    "BucketInventoryConfiguration": "InventoryConfiguration",
    "BucketLifecycle": "LifecycleConfiguration",
    "BucketLifecycleConfiguration": "LifecycleConfiguration",
    "BucketNotificationConfiguration": "BucketNotification",
    "BucketReplication": "ReplicationConfiguration",
    "ObjectLockConfiguration": "BucketObjectLockConfiguration",
    "PublicAccessBlock": "BucketPublicAccessBlock",
}
_DELETED_ITSELF = ("DeleteBucket", "DeleteBucketPolicy", "DeleteBucketWebsite")
_WITH_VERSIONS = re.compile("(Get|Put|Delete)Object(Acl|Tagging|Attributes)?")
_ACL_HEADERS = re.compile("x-amz-(acl|grant-.*)")


def _s3(operation: Operation, place: Place) -> Iterator[Ask]:
    given, request = operation.given, operation.request
    values = {"s3:resourceaccount": (place.account,)}
    names = (("Prefix", "prefix"), ("Delimiter", "delimiter"), ("MaxKeys", "max-keys"))
    for name, key in names:
        # ListBucketMultipartUploads knows none
        if name in given and operation.name != "ListMultipartUploads":
            values[f"s3:{key}"] = (given[name],)
    if not given["Bucket"]:
        yield Ask("s3:ListAllMyBuckets")
        return
    arn = f"arn:aws:s3:::{given['Bucket']}"
    if operation.name == "DeleteObjects":
        for one in deletions.listed(request.body) or [Deletion(ANY)]:
            version = "Version" if one.version else ""
            yield Ask(f"s3:DeleteObject{version}", f"{arn}/{one.key}", values)
        return
    arn = f"{arn}/{given['Key']}" if given["Key"] else arn
    action = _action_of_s3(operation)
    if action == "s3:PutObject":
        yield from _put_object(operation, arn, values)
    else:
        yield Ask(action, arn, values)
    if operation.name == "CreateBucket" and any(map(_ACL_HEADERS.fullmatch, request.headers)):
        yield Ask("s3:PutBucketAcl", arn, values)


def _action_of_s3(operation: Operation) -> str:
    name = _ACTIONS_OF_S3.get(operation.name, operation.name)
    verb = next((one for one in ("Get", "Put", "Delete") if name.startswith(one)), "")
    noun = name.removeprefix(verb)
    if verb == "Delete" and not operation.given["Key"] and name not in _DELETED_ITSELF:
        verb = "Put"
    match = _WITH_VERSIONS.fullmatch(name)
    if match and "VersionId" in operation.given:
        return f"s3:{match[1]}ObjectVersion{match[2] or ''}"
    return f"s3:{verb}{_CONFIGURATIONS.get(noun, noun)}"


def _put_object(operation: Operation, arn: str, values: Values) -> Iterator[Ask]:
    """What PutObject and its like ask for; API reference: tags and access lists besides."""
    headers = operation.request.headers
    tags = parse_qs(headers.get("x-amz-tagging", ""), keep_blank_values=True)
    tagged = {f"s3:requestobjecttag/{key.lower()}": (tags[key][0],) for key in tags}
    if tags:
        tagged["s3:requestobjecttagkeys"] = tuple(tags)
    yield Ask("s3:PutObject", arn, {**values, **tagged})
    if tags:
        yield Ask("s3:PutObjectTagging", arn, {**values, **tagged})
    if any(map(_ACL_HEADERS.fullmatch, headers)):
        yield Ask("s3:PutObjectAcl", arn, values)
    if source := operation.given.get("CopySource"):
        bucket, key, version = source
        action = f"s3:GetObject{'Version' if version else ''}"
        yield Ask(action, f"arn:aws:s3:::{bucket}/{key}", values)


# --- members


def form(request: Request) -> dict[str, str]:
    """The parameters of a request of the Query protocol, the first of each name."""
    in_query = parse_qs(request.query, keep_blank_values=True)
    given = in_query | parse_qs(request.body.decode("latin-1"), keep_blank_values=True)
    return {name: values[0] for name, values in given.items()}


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
