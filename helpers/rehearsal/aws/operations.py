"""Which operation a request is: decided once, for who may do it and for what carries it out.

moto takes a request's meaning from wherever it finds one: from headers, from the query, from a form
or from the path. So what is authorized and carried out is never the request as it came, but the one
reading of it that is made here: its members in one place, each once, and nothing else. A request
that can be read in two ways is refused.

Source: botocore's service models for operations, members and where they are sent.
"""

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from botocore.model import OperationModel, ServiceModel
from botocore.session import Session

from helpers.rehearsal.aws import shapes
from helpers.rehearsal.aws.awsjson import CONTENT_TYPE, AwsError, invalid, parse
from helpers.rehearsal.server import Request
from helpers.rehearsal.signature import Signed

RUNTIME = "runtime"  # the service of invocations, which are signed for SageMaker
# What botocore calls a service, where that is not what its requests are signed for.
_CALLED = {
    "monitoring": "cloudwatch",
    "servicequotas": "service-quotas",
    "tagging": "resourcegroupstaggingapi",
}
# Whose members are held against their service's model later: what is unknown is refused there.
_STRICT = ("application-autoscaling", "pricing", "sagemaker", "servicequotas")
_JSON = ("events", "logs", "monitoring", "tagging")
_QUERY = ("iam", "monitoring", "sts")
_BODY_BYTES = 25 * 2**20
_TARGET = re.compile(r"([A-Za-z0-9_]+)\.([A-Za-z0-9]+)")
_ENDPOINT = re.compile(
    r"/endpoints/([^/]+)/(invocations|invocations-response-stream|openai/v1/chat/completions)"
)
_PATH = "/"


@dataclass(frozen=True, slots=True)
class Operation:
    """What a request asks for.

    Attributes:
        service: What it is signed for, or `runtime`.
        name: E.g. `DeleteModel`; of an invocation the rest of its path, e.g. `invocations`.
        given: Its members, by the names of the service's model.
        request: What carries it out is given this, and nothing else of what was sent.
    """

    service: str
    name: str
    given: Mapping[str, Any]
    request: Request


def read(request: Request, signed: Signed) -> Operation:
    """The operation that a request is.

    Args:
        request: As it was received, its signature verified.
        signed: How it is signed.

    Raises:
        AwsError: When it is none, or could be two.
    """
    service = signed.service
    if service == "s3":
        return _s3(request, signed)
    if service == "sagemaker" and request.path.startswith("/endpoints/"):
        return _invocation(request)
    if service == "scheduler":
        return _scheduler(request, signed)
    if "smithy-protocol" in request.headers:  # moto 5.2 does not speak CBOR (its issue 9195)
        message = "The rehearsal AWS speaks JSON and Query here: choose one of them."
        raise AwsError("UnsupportedProtocol", message, status=415)
    in_json = "x-amz-target" in request.headers
    if service in _STRICT or (service in _JSON and (in_json or service not in _QUERY)):
        return _json(request, signed)
    if service in _QUERY:
        return _query(request, signed)
    raise _unknown(f"{service} {request.method} {request.path[:100]}")


def load() -> None:
    """Read the services' models ahead of the first request, for which that takes too long."""
    for service in {"s3", "scheduler", *_JSON, *_QUERY}:
        _model(service)
    _routes("s3")
    _routes("scheduler")


@lru_cache(maxsize=32)
def _model(service: str) -> ServiceModel:
    return _session().get_service_model(_CALLED.get(service, service))


@lru_cache(maxsize=1)
def _session() -> Session:
    return Session()


# --- SageMaker's runtime


def _invocation(request: Request) -> Operation:
    match = _ENDPOINT.fullmatch(request.path)
    if match is None or "x-amz-target" in request.headers:
        raise _unknown(request.path[:200], status=404)
    return Operation(RUNTIME, match[2], {"EndpointName": _decoded(match[1])}, request)


# --- JSON and Query


def _json(request: Request, signed: Signed) -> Operation:
    match = _TARGET.fullmatch(request.headers.get("x-amz-target", ""))
    if match is None or request.path != _PATH:
        raise _unknown(f"{signed.service} {request.method} {request.path[:100]}", status=404)
    if request.method != "POST":
        message = "AWS's JSON operations are POST requests."
        raise AwsError("MethodNotAllowed", message, status=405)
    if any(name.lower() == "action" for name, _ in _pairs(request.query)):
        raise _unknown("X-Amz-Target together with Action")
    prefix, name = match.groups()
    if prefix != _model(signed.service).metadata["targetPrefix"]:
        raise _unknown(f"{prefix[:100]} for requests signed for {signed.service}")
    if signed.service in _STRICT:
        try:
            given = parse(request.body)
        except AwsError:  # said, with what else is wrong, by who carries it out
            given = {}
        return Operation(signed.service, name, given, request)
    given = _known(signed.service, name, parse(_unpacked(request)))
    kind = request.headers.get("content-type", "")
    headers = {
        "content-type": kind if kind.startswith("application/x-amz-json") else CONTENT_TYPE,
        "x-amz-target": f"{prefix}.{name}",
    }
    sent = _sent(request, signed, headers=headers, body=_written(given))
    return Operation(signed.service, name, given, sent)


def _query(request: Request, signed: Signed) -> Operation:
    if "x-amz-target" in request.headers:
        raise _unknown(f"X-Amz-Target for {signed.service}")
    if request.path != _PATH or request.method not in ("GET", "POST"):
        raise _unknown(f"{signed.service} {request.method} {request.path[:100]}", status=404)
    try:
        body = _unpacked(request).decode()
    except UnicodeDecodeError:
        raise _malformed() from None
    form = _once([*_pairs(request.query), *_pairs(body)])
    name = form.get("Action")
    if not name:
        raise AwsError("MissingAction", "The request is missing an action.")  # [unverified]
    given = {
        key: value
        for key, value in form.items()
        if key.partition(".")[0] in _members(signed.service, name)
    }
    kept = {"Action": name, **{key: form[key] for key in _ABOUT if key in form}, **given}
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    sent = _sent(request, signed, "POST", headers=headers, body=urlencode(kept).encode())
    return Operation(signed.service, name, given, sent)


_ABOUT = ("Version", "ContentType")


def _known(service: str, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The members that the operation has: AWS's own services overlook others."""
    members = _members(service, name)
    return {key: value for key, value in given.items() if key in members}


def _members(service: str, name: str) -> frozenset[str]:
    model = _model(service)
    if name not in model.operation_names:
        raise _unknown(f"{service}:{name[:100]}")
    shape = model.operation_model(name).input_shape
    return frozenset(shape.members if shape else ())


# --- REST


class _Route(NamedTuple):
    """Where an operation is found.

    Attributes:
        name: The operation's.
        method: In capitals.
        path: Its labels are the groups.
        fixed: Parameters of the query by which it is told from others.
        needed: Members in the query that it cannot do without, by their names there.
        query: All its members in the query: the model's names by theirs.
    """

    name: str
    method: str
    path: re.Pattern[str]
    fixed: Mapping[str, str]
    needed: frozenset[str]
    query: Mapping[str, str]

    def fits(self, query: Mapping[str, Any]) -> bool:
        fixed = all(value in ("", query.get(name)) for name, value in self.fixed.items())
        return fixed and query.keys() >= self.fixed.keys() | self.needed


@lru_cache(maxsize=4)
def _routes(service: str) -> tuple[_Route, ...]:
    model = _model(service)
    each = (model.operation_model(name) for name in model.operation_names)
    return tuple(_route(one) for one in each if not one.deprecated)


def _route(model: OperationModel) -> _Route:
    path, _, query = model.http["requestUri"].partition("?")
    greedy = re.sub(r"\\{(\w+)(\\\+)?\\}", _label, re.escape(path))
    members = model.input_shape.members if model.input_shape else {}
    sent = {
        shape.serialization["name"]: name
        for name, shape in members.items()
        if shape.serialization.get("location") == "querystring"
    }
    required = model.input_shape.required_members if model.input_shape else []
    return _Route(
        model.name,
        model.http["method"],
        re.compile(greedy, re.DOTALL),
        dict(parse_qsl(query, keep_blank_values=True)),
        frozenset(where for where, name in sent.items() if name in required),
        sent,
    )


def _label(match: re.Match[str]) -> str:
    takes_slashes = match[2] or match[1] == "ResourceArn"  # which some clients do not encode
    return f"(?P<{match[1]}>{'.+' if takes_slashes else '[^/]+'})"


def _scheduler(request: Request, signed: Signed) -> Operation:
    if "x-amz-target" in request.headers:
        raise _unknown("X-Amz-Target for scheduler")
    found = ((one, one.path.fullmatch(request.path)) for one in _routes("scheduler"))
    route, match = next(
        ((one, at) for one, at in found if at and one.method == request.method), (None, None)
    )
    if route is None or match is None:
        raise _unknown(f"scheduler {request.method} {request.path[:100]}", status=404)
    labels = {name: _decoded(value) for name, value in match.groupdict().items()}
    pairs = [(name, value) for name, value in _pairs(request.query) if name in route.query]
    shape = _model("scheduler").operation_model(route.name).input_shape
    lists = {name for name, of in route.query.items() if shape.members[of].type_name == "list"}
    query: dict[str, Any] = _once([pair for pair in pairs if pair[0] not in lists])
    query |= {name: [value for key, value in pairs if key == name] for name in lists}
    query = {name: value for name, value in query.items() if value}
    located = labels | {route.query[name]: value for name, value in query.items()}
    _check_texts(shape, located)
    has_body = request.method in ("POST", "PUT")
    body = _known("scheduler", route.name, parse(_unpacked(request))) if has_body else {}
    body = {name: value for name, value in body.items() if name not in labels}
    path = "/".join(["", request.path.split("/")[1], *map(_quoted, labels.values())])
    sent = _sent(
        request,
        signed,
        path=path,
        query=urlencode(query, doseq=True, quote_via=quote),
        headers={"content-type": "application/json"},
        body=_written(body) if has_body else b"",
    )
    return Operation("scheduler", route.name, {**body, **located}, sent)


def _check_texts(shape: Any, given: Mapping[str, Any]) -> None:
    """Hold names in the path and the query against the model."""
    texts = {
        name: value for name, value in given.items() if shape.members[name].type_name == "string"
    }
    found = [
        problem
        for problem in shapes.problems(shape, texts)
        if not problem.startswith("Value null at ")
    ]
    if found:
        raise invalid(shapes.validation_message(found))


def _quoted(name: str) -> str:
    return quote(name, safe=":/-._~")


# --- S3

# What moto carries out; it takes others of S3's for an operation without a subresource, and
# deletes the bucket instead of its metrics.
_OF_S3 = re.compile(
    r"""(?x)
    List(Buckets|Objects|ObjectsV2|ObjectVersions|MultipartUploads|Parts)
    | ListBucketInventoryConfigurations
    | (Create|Delete|Head)Bucket | GetBucketLocation | GetBucketPolicyStatus
    | (Get|Put|Delete)(PublicAccessBlock | Bucket(
        Policy|Website|Tagging|Cors|Encryption|Replication|OwnershipControls))
    | (Get|Put)(ObjectLockConfiguration | Bucket(Acl|Logging|Versioning) | Bucket(
        Accelerate|Inventory|Lifecycle|Notification)Configuration)
    | DeleteBucketLifecycle
    | (Get|Head|Put|Delete|Restore)Object | DeleteObjects | SelectObjectContent
    | (Get|Put)Object(Acl|Tagging|LegalHold) | DeleteObjectTagging
    | GetObjectAttributes | PutObjectRetention
    | (Create|Complete|Abort)MultipartUpload | UploadPart
    """
)
# What they are with a source to copy from.
_COPIES = {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}
_NOT_SELECTING = ("list-type", "select-type")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SOURCE = "x-amz-copy-source"
# Of what S3 is sent besides `x-amz-*`.
_HEADERS_OF_S3 = re.compile("x-amz-.*|content-.*|if-.*|range|cache-control|expires|origin|date")
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def _s3(request: Request, signed: Signed) -> Operation:
    bucket, key = _bucket_and_key(request)
    query = _query_of_s3(request)
    route = _route_of_s3(request.method, bucket, key, query)
    headers = {
        name: value for name, value in request.headers.items() if _HEADERS_OF_S3.fullmatch(name)
    }
    if headers.get("content-type", "").lower().startswith(_FORMS):
        headers["content-type"] = "binary/octet-stream"  # moto would look for members in the body
    name, source = route.name, headers.pop(_SOURCE, None)
    given: dict[str, Any] = {"Bucket": bucket, "Key": key}
    if source is not None and name in _COPIES:
        name, given["CopySource"] = _COPIES[name], _source(source)
        headers[_SOURCE] = _path_of(*given["CopySource"])
    kept = {one: value for one, value in query.items() if one in route.query or one in route.fixed}
    given |= {route.query[one]: value for one, value in kept.items() if one in route.query}
    sent = _sent(
        request,
        signed,
        path=_path_of(bucket, key),
        query=urlencode(kept, quote_via=quote),
        headers=headers,
        body=request.body,
    )
    return Operation("s3", name, given, sent)


def _bucket_and_key(request: Request) -> tuple[str, str]:
    """Of the path, or of a host such as `bucket.localhost`; empty when there is none."""
    path = request.path.removeprefix("/")
    host = request.headers.get("host", "").partition(":")[0]
    bucket, _, domain = host.partition(".")
    if not (domain and re.search("[a-z]", domain)):
        bucket, _, path = path.partition("/")
    bucket, key = _decoded(bucket), _decoded(path)
    if not _BUCKET.fullmatch(bucket) and (bucket or key):
        raise AwsError("InvalidBucketName", "The specified bucket is not valid.")
    return bucket, key


def _query_of_s3(request: Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in _pairs(request.query):
        if found.setdefault(name, value) != value:
            raise _conflict(name, name)
    return found


def _route_of_s3(method: str, bucket: str, key: str, query: Mapping[str, str]) -> _Route:
    """The operation that a method and a subresource make.

    That S3 refuses two subresources, and its words for it: versity/versitygw's and other servers'
    tests against S3.
    """
    path = _path_of(bucket, key)
    of_level = [
        one for one in _routes("s3") if _OF_S3.fullmatch(one.name) and one.path.fullmatch(path)
    ]
    of_method = [one for one in of_level if one.method == method and one.fits(query)]
    best = max(of_method, key=lambda one: len(one.fixed) + len(one.needed), default=None)
    selected = [name for name in query if name in _selectors()]
    taken = set() if best is None else best.fixed.keys() | best.needed
    if len(selected) > 1 and not set(selected) <= taken:
        raise _conflict(*selected)
    if best is None or not set(selected) <= taken:
        message = "The specified method is not allowed against this resource."
        raise AwsError("MethodNotAllowed", message, status=405)
    return best


@lru_cache(maxsize=1)
def _selectors() -> frozenset[str]:
    """Parameters that say what a request to S3 is about."""
    fixed = {name for one in _routes("s3") for name in one.fixed}
    return frozenset({*fixed, "uploadId"}.difference(_NOT_SELECTING))


def _source(text: str) -> tuple[str, str, str]:
    """Bucket, key and version of what is copied; the version may be empty."""
    path, _, query = text.partition("?")
    bucket, _, key = _decoded(path).lstrip("/").partition("/")
    if not (_BUCKET.fullmatch(bucket) and key):
        message = "Copy Source must mention the source bucket and key: sourcebucket/sourcekey"
        raise AwsError("InvalidArgument", message)
    return bucket, key, _once(_pairs(query)).get("versionId", "")


def _path_of(bucket: str, key: str, version: str = "") -> str:
    path = f"/{bucket}/{quote(key, safe='/~')}" if key else f"/{bucket}"
    return f"{path}?versionId={quote(version)}" if version else path


def _conflict(*names: str) -> AwsError:
    message = f"Conflicting query string parameters: {', '.join(names)[:200]}"
    return AwsError("InvalidArgument", message)


# --- what is sent on


def _sent(
    request: Request,
    signed: Signed,
    method: str = "",
    *,
    path: str = _PATH,
    query: str = "",
    headers: Mapping[str, str],
    body: bytes,
) -> Request:
    """The request with its one meaning: who sends it where is said by the signature alone."""
    scope = f"{signed.key}/{signed.date or '20000101'}/{signed.region}/{signed.service}"
    names = ";".join(signed.headers)
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={scope}/aws4_request, SignedHeaders={names}, "
        f"Signature={signed.signature}"
    )
    about = {"host": "127.0.0.1", "authorization": authorization}
    return Request(method or request.method, path, query, {**headers, **about}, body)


def _written(given: Mapping[str, Any]) -> bytes:
    """Members as JSON in which no form can be found."""
    text = json.dumps(given).replace("&", "\\u0026").replace("=", "\\u003d")
    return text.encode()


def _unpacked(request: Request) -> bytes:
    """The body, which some clients compress."""
    if "gzip" not in request.headers.get("content-encoding", ""):
        return request.body
    try:
        unpacking = zlib.decompressobj(16 + zlib.MAX_WBITS)
        body = unpacking.decompress(request.body, _BODY_BYTES)
    except zlib.error:
        raise _malformed() from None
    if not unpacking.eof:
        raise _malformed()
    return body


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError:
        raise _malformed() from None


def _once(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Parameters that may be given once each."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _malformed()
    return found


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise AwsError("InvalidURI", "Couldn't parse the specified URI.") from None


def _malformed() -> AwsError:
    # IAM API reference, "Common errors": MalformedQueryString
    return AwsError("MalformedQueryString", "The query string contains a syntax error.")


def _unknown(what: str, *, status: int = 400) -> AwsError:
    message = f"The rehearsal AWS does not offer {what}."
    return AwsError("UnknownOperationException", message, status=status)
