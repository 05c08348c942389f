"""AWS Signature Version 4, checked as AWS checks it: key, time and signature, in its words.

The canonical request is what botocore signs (`botocore.auth.SigV4Auth`; tests hold the two side
by side), made from exactly the headers that the client names. Times are real ones: credentials
belong to the client's clock, not to the rehearsal's.

Source: "Create a signed AWS API request" in the IAM user guide, and the issues cited below.
"""

import base64
import hashlib
import hmac
import re
import time
from calendar import timegm
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import SplitResult, quote, unquote

from botocore.auth import HmacV1QueryAuth
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials
from botocore.utils import normalize_url_path

from helpers.rehearsal.aws.awsjson import AwsError
from helpers.rehearsal.server import Request

# What belongs to an access key: its secret, and the session token of a temporary one.
Secrets = Callable[[str], tuple[str, str | None] | None]

TOKEN_PREFIX = "sagemaker-api-key-"
TOKEN_MAX_S = 43200.0  # sagemaker.core.token_generator, 2.27
_PRESIGNED_MAX_S = 604800.0  # a week
_TOKEN_HOST = "sagemaker.amazonaws.com"
_STAMP = "%Y%m%dT%H%M%SZ"
# Minutes that a client's clock may be off. As in aws/aws-cli issue 6676 (STS) and boto/botocore
# issue 3587 (JSON services); for IAM [unverified].
_SKEW_MINUTES = {"s3": 15, "sts": 15, "iam": 15}
_SCOPE = r"([^/,\s]+)/(\d{8})/([a-z0-9-]{1,32})/([a-z0-9.-]{1,64})/aws4_request"
_HEADER = re.compile(
    rf"AWS4-HMAC-SHA256\s+Credential={_SCOPE},\s*SignedHeaders=([^,\s]+),\s*Signature=(\w+)"
)
_CREDENTIAL = re.compile(_SCOPE)
_SECONDS = re.compile("[0-9]{1,12}")

_INVALID = "The security token included in the request is invalid."
_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your "
    "AWS Secret Access Key and signing method. Consult the service documentation for details."
)
_BAD_REQUESTS = ("incomplete", "payload", "expires")
_EXPIRED = "The security token included in the request is expired"
# Code and message by the family of services; {…} is filled in.
_WORDS: dict[str, dict[str, tuple[str, str]]] = {
    "json": {
        "missing": ("MissingAuthenticationTokenException", "Missing Authentication Token"),
        "ended": ("ExpiredTokenException", _EXPIRED),
        "throttled": ("ThrottlingException", "Rate exceeded"),
        "incomplete": ("IncompleteSignatureException", "{why}"),
        "key": ("UnrecognizedClientException", _INVALID),
        "token": ("UnrecognizedClientException", _INVALID),
        "mismatch": ("InvalidSignatureException", _MISMATCH),
        "time": ("InvalidSignatureException", "{why}"),
        "expired": ("InvalidSignatureException", "{why}"),
        "service": ("InvalidSignatureException", "{why}"),
    },
    "query": {
        "missing": ("MissingAuthenticationToken", "Request is missing Authentication Token"),
        # miquella/vaulted issue 107 (STS), aws-samples/aws-iot-twinmaker-samples issue 147 (IAM)
        "ended": ("ExpiredToken", _EXPIRED),
        "throttled": ("Throttling", "Rate exceeded"),
        "incomplete": ("IncompleteSignature", "{why}"),
        "key": ("InvalidClientTokenId", _INVALID),
        "token": ("InvalidClientTokenId", _INVALID),
        "mismatch": ("SignatureDoesNotMatch", _MISMATCH),
        "time": ("SignatureDoesNotMatch", "{why}"),
        "expired": ("SignatureDoesNotMatch", "{why}"),
        "service": ("SignatureDoesNotMatch", "{why}"),
    },
    "s3": {
        "missing": ("AccessDenied", "Access Denied"),
        "ended": ("ExpiredToken", "The provided token has expired."),  # s3backer issue 146
        "throttled": ("SlowDown", "Please reduce your request rate."),
        "incomplete": ("AuthorizationHeaderMalformed", "{why}"),
        "key": (
            "InvalidAccessKeyId",
            "The AWS Access Key Id you provided does not exist in our records.",
        ),
        "token": ("InvalidToken", "The provided token is malformed or otherwise invalid."),
        "mismatch": (
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. "
            "Check your key and signing method.",
        ),
        "time": (
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
        ),
        "expired": ("AccessDenied", "Request has expired"),
        "service": ("AuthorizationHeaderMalformed", "{why}"),
        "unsigned": (
            "AccessDenied",
            "There were headers present in the request which were not signed",
        ),
        "expires": (
            "AuthorizationQueryParametersError",
            "X-Amz-Expires must be less than a week (in seconds); that is, the given "
            "X-Amz-Expires must be less than 604800 seconds",
        ),
        "payload": (
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        ),
    },
}


@dataclass(frozen=True, slots=True)
class Signed:
    """How a request says that it is signed.

    Attributes:
        key: Access key id.
        date: Of the scope, e.g. `20261122`.
        region: Of the scope.
        service: Of the scope, e.g. `s3`.
        headers: Names of the signed headers, in their order.
        signature: In hexadecimal.
        stamp: When it was signed, e.g. `20261122T101112Z`; empty when the request does not say.
        token: Session token.
        expires_s: Validity of a presigned request in seconds; None for a signed header.
    """

    key: str
    date: str
    region: str
    service: str
    headers: tuple[str, ...]
    signature: str
    stamp: str
    token: str | None
    expires_s: float | None = None


def read(request: Request) -> Signed | None:
    """How a request is signed, by header or by query; None for an unsigned one.

    Raises:
        AwsError: When it tries to be signed and is not.
    """
    authorization = request.headers.get("authorization", "")
    if authorization:
        return _read_header(request, authorization)
    if "X-Amz-Signature=" in request.query:
        signed = _read_query(request)
        if signed is None:
            why = "The query-string authentication parameters are not complete."  # [unverified]
            raise _error(request, None, "incomplete", why=why)
        return signed
    return _read_old_query(request) if "AWSAccessKeyId=" in request.query else None


def verify(request: Request, *, secrets: Secrets, now: float, service: str | None = None) -> Signed:
    """Make sure that a request comes from someone who has the key, just now and unaltered.

    Not verified: the chunks of an S3 upload that is signed piece by piece (`STREAMING-…`), and a
    payload that the client left unsigned, which only S3 accepts.

    Args:
        request: As it was received.
        secrets: What belongs to an access key, None for an unknown one.
        now: Real time, in epoch seconds.
        service: What the request must be signed for; None when that is any.

    Returns:
        How it is signed: whose key, which region and service.

    Raises:
        AwsError: When it is refused, with the code and words of the service it is signed for.
    """
    signed = read(request)
    if signed is None:
        raise _error(request, None, "missing")
    if service not in (None, signed.service):
        why = f"Credential should be scoped to correct service: '{service}'. "
        raise _error(request, signed, "service", why=why)
    if signed.service == "s3" and (signed.expires_s or 0) > _PRESIGNED_MAX_S:
        raise _error(request, signed, "expires")
    _check(request, signed, secrets, now)
    return signed


def verify_token(authorization: str, *, secrets: Secrets, now: float) -> Signed:
    """Make sure that a bearer token of the OpenAI route is genuine and has not expired.

    The token is a presigned `CallWithBearerToken` request in base64
    (`sagemaker.core.token_generator`). What AWS says to a bad one is [unverified].

    Args:
        authorization: The header, `Bearer sagemaker-api-key-…`.
        secrets: What belongs to an access key, None for an unknown one.
        now: Real time, in epoch seconds.

    Returns:
        How the request inside it is signed: whose key, which region.

    Raises:
        AwsError: When it is refused.
    """
    request = _token_request(authorization)
    signed = _read_query(request) if request else None
    if (
        request is None
        or signed is None
        or signed.service != "sagemaker"
        or dict(_pairs(request.query)).get("Action") != "CallWithBearerToken"
        or not 0 < signed.expires_s <= TOKEN_MAX_S
    ):
        raise AwsError("UnrecognizedClientException", _INVALID, status=403)
    _check(request, signed, secrets, now)
    return signed


def ended(request: Request) -> AwsError:
    """What a request meets whose credentials have run out, in its service's words."""
    error = _error(request, read(request), "ended")
    error.status = 400 if request.service == "s3" else error.status
    return error


def throttled(request: Request) -> AwsError:
    """What a request meets that comes too fast, in its service's words."""
    error = _error(request, read(request), "throttled")
    error.status = 503 if error.code == "SlowDown" else 400
    return error


def canonical(request: Request, signed: Signed) -> str:
    """The canonical request, to be compared with what the client has signed."""
    path = request.path
    if signed.service != "s3":  # only S3 takes a path as it is
        path = quote(normalize_url_path(path), safe="/~")
    pairs = _pairs(request.query)
    if signed.expires_s is not None:
        pairs = [pair for pair in pairs if pair[0] != "X-Amz-Signature"]
    query = "&".join(f"{name}={value}" for name, value in sorted(pairs))
    given = request.headers
    headers = "".join(
        f"{name}:{' '.join(given.get(name, '').split())}\n" for name in signed.headers
    )
    names = ";".join(signed.headers)
    return "\n".join((request.method, path, query, headers, names, _payload(request, signed)))


def _read_header(request: Request, authorization: str) -> Signed:
    match = _HEADER.fullmatch(authorization)
    if match is None:
        raise _error(request, None, "incomplete", why=_incomplete(authorization))
    *scope, names, signature = match.groups()
    return Signed(
        *scope,
        headers=tuple(names.split(";")),
        signature=signature,
        stamp=_stamp(request.headers),
        token=request.headers.get("x-amz-security-token"),
    )


def _read_query(request: Request) -> Signed | None:
    given = {name: unquote(value) for name, value in _pairs(request.query)}
    match = _CREDENTIAL.fullmatch(given.get("X-Amz-Credential", ""))
    expires_s = given.get("X-Amz-Expires", "900")
    if not (match and _SECONDS.fullmatch(expires_s) and "X-Amz-Signature" in given):
        return None
    return Signed(
        *match.groups(),
        headers=tuple(given.get("X-Amz-SignedHeaders", "").split(";")),
        signature=given["X-Amz-Signature"],
        stamp=given.get("X-Amz-Date", ""),
        token=given.get("X-Amz-Security-Token"),
        expires_s=float(expires_s),
    )


def _read_old_query(request: Request) -> Signed | None:
    """A URL of S3 presigned with version 2, as boto3 makes them unless told otherwise."""
    given = {name: unquote(value) for name, value in _pairs(request.query)}
    if not _SECONDS.fullmatch(given.get("Expires", "")):
        return None
    return Signed(
        key=given.get("AWSAccessKeyId", ""),
        date="",
        region="us-east-1",
        service="s3",
        headers=(),
        signature=given.get("Signature", ""),
        stamp=given["Expires"],
        token=given.get("x-amz-security-token"),
    )


def _check(request: Request, signed: Signed, secrets: Secrets, now: float) -> None:
    known = secrets(signed.key)
    if known is None:
        raise _error(request, signed, "key")
    secret, token = known
    if not hmac.compare_digest((signed.token or "").encode(), (token or "").encode()):
        raise _error(request, signed, "token")
    if not signed.headers:
        _check_old(request, signed, secret, now)
        return
    _check_time(request, signed, now)
    _check_headers(request, signed)
    digest = hashlib.sha256(canonical(request, signed).encode()).hexdigest()
    scope = f"{signed.date}/{signed.region}/{signed.service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{signed.stamp}\n{scope}\n{digest}"
    key = _signing_key(secret, signed.date, signed.region, signed.service)
    expected = hmac.digest(key, text.encode(), "sha256").hex()
    if not hmac.compare_digest(expected.encode(), signed.signature.encode()):
        raise _error(request, signed, "mismatch")
    claimed = _claimed(request, signed)
    if signed.service == "s3" and not _is_unsigned(claimed) and claimed != _sha256(request.body):
        raise _error(request, signed, "payload")


def _check_old(request: Request, signed: Signed, secret: str, now: float) -> None:
    if int(signed.stamp) < now:
        raise _error(request, signed, "expired")
    headers = HTTPHeaders()
    for name, value in _pairs(request.query):
        if name.startswith("x-amz-"):
            headers[name] = unquote(value)
    for name, value in request.headers.items():
        if name.startswith("x-amz-") or name in ("content-md5", "content-type"):
            headers[name] = value
    auth = _Version2(Credentials(signed.key, secret), int(signed.stamp))
    url = SplitResult("", "", request.path, request.query, "")
    expected = auth.sign_string(auth.canonical_string(request.method, url, headers))
    if not hmac.compare_digest(expected.encode(), signed.signature.encode()):
        raise _error(request, signed, "mismatch")


class _Version2(HmacV1QueryAuth):
    def _get_date(self) -> str:  # which is when the URL expires
        return str(self._expires)


def _check_time(request: Request, signed: Signed, now: float) -> None:
    at = _epoch(signed.stamp)
    if at is None or signed.date != signed.stamp[:8]:
        why = "Date in Credential scope does not match the date of the request."  # [unverified]
        raise _error(request, signed, "mismatch" if at else "incomplete", why=why)
    minutes = _SKEW_MINUTES.get(signed.service, 5)
    presigned = signed.expires_s is not None
    first, last = now - minutes * 60, now + minutes * 60
    if at > last:
        why = f"Signature not yet current: {signed.stamp} is still later than "
        why += f"{_iso(last)} ({_iso(now)} + {minutes} min.)"
        raise _error(request, signed, "time", why=why)
    if presigned and at + signed.expires_s < now:
        why = f"Signature expired: {_iso(at + signed.expires_s)} is now earlier than {_iso(now)}"
        raise _error(request, signed, "expired", why=why)
    if not presigned and at < first:
        why = f"Signature expired: {signed.stamp} is now earlier than "
        why += f"{_iso(first)} ({_iso(now)} - {minutes} min.)"
        raise _error(request, signed, "time", why=why)


def _check_headers(request: Request, signed: Signed) -> None:
    names = set(signed.headers)
    if "host" not in names:
        why = "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization."
        raise _error(request, signed, "incomplete", why=why)
    # Only S3 is known to insist on the rest (API reference of PutObject, HeadersNotSigned).
    if signed.service == "s3" and any(
        name.startswith("x-amz-") and name not in names for name in request.headers
    ):
        raise _error(request, signed, "unsigned")


def _payload(request: Request, signed: Signed) -> str:
    """What stands for the body in the canonical request."""
    return _claimed(request, signed) if signed.service == "s3" else _sha256(request.body)


def _claimed(request: Request, signed: Signed) -> str:
    unsaid = "UNSIGNED-PAYLOAD" if signed.expires_s is not None else ""
    return request.headers.get("x-amz-content-sha256", unsaid)


def _is_unsigned(payload: str) -> bool:
    return payload == "UNSIGNED-PAYLOAD" or payload.startswith("STREAMING-")


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _pairs(query: str) -> list[tuple[str, str]]:
    """The parameters as they were sent, still encoded."""
    if not query:
        return []
    return [(pair.partition("=")[0], pair.partition("=")[2]) for pair in query.split("&")]


@lru_cache(maxsize=64)
def _signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _stamp(headers: Mapping[str, str]) -> str:
    """When a request was signed: `X-Amz-Date`, or else `Date`."""
    if "x-amz-date" in headers or "date" not in headers:
        return headers.get("x-amz-date", "")
    try:
        return _iso(parsedate_to_datetime(headers["date"]).timestamp())
    except (ValueError, OverflowError):
        return ""


@lru_cache(maxsize=64)
def _epoch(stamp: str) -> int | None:
    try:
        return timegm(time.strptime(stamp, _STAMP))
    except ValueError:
        return None


def _iso(epoch_s: float) -> str:
    return time.strftime(_STAMP, time.gmtime(epoch_s))


def _token_request(authorization: str) -> Request | None:
    """The request inside a bearer token."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.startswith(TOKEN_PREFIX):
        return None
    try:
        url = base64.b64decode(token.removeprefix(TOKEN_PREFIX), validate=True).decode()
    except ValueError:  # no base64, or no text in it
        return None
    start, _, query = url.partition("?")
    if start != f"{_TOKEN_HOST}/":
        return None
    # The version was put behind what was signed.
    return Request("POST", "/", query.removesuffix("&Version=1"), {"host": _TOKEN_HOST}, b"")


def _incomplete(authorization: str) -> str:
    wanted = ("Credential", "Signature", "SignedHeaders")
    lacks = [name for name in wanted if f"{name}=" not in authorization]
    told = " ".join(f"Authorization header requires '{name}' parameter." for name in lacks)
    return told or "Authorization header requires existence of a well-formed 'AWS4-HMAC-SHA256'."


def _family(request: Request, signed: Signed | None) -> str:
    """By whose protocol and words a request is refused."""
    form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    if signed:
        if signed.service == "s3":
            return "s3"
        return "query" if signed.service in ("sts", "iam") or form else "json"
    if "x-amz-target" in request.headers or request.path.startswith("/endpoints/"):
        return "json"
    return "query" if form else "s3"


def _error(request: Request, signed: Signed | None, what: str, *, why: str = "") -> AwsError:
    code, message = _WORDS[_family(request, signed)][what]
    # JSON services answer 400, all others 403 (disneystreaming/smithy4s issue 1568 for SageMaker,
    # aws/aws-sdk-php issue 1780 for Rekognition; iann0036/iamlive issue 58 for Lambda).
    is_bad = "x-amz-target" in request.headers or what in _BAD_REQUESTS
    return AwsError(code, message.format(why=why), status=400 if is_bad else 403)
