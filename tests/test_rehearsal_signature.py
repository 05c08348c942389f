"""Signatures: whoever has the key gets in, over any client; whoever changed a byte does not."""

import asyncio
import base64
import contextlib
import http.client
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import boto3
import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from hypothesis import assume, given
from hypothesis import strategies as st

from helpers import messages
from helpers.rehearsal import signature
from helpers.rehearsal.aws.awsjson import AwsError
from helpers.rehearsal.server import Request, Server
from helpers.transport import SageMakerStream

KEY = "ASIAREHEARSAL0000000"
SECRET = "the-secret"
TOKEN = "the-token/+="
CREDENTIALS = Credentials(KEY, SECRET, TOKEN)
PERMANENT = Credentials("AKIAREHEARSAL0000000", "another-secret")
URL = "http://127.0.0.1:4566"


def secrets(key):
    return {KEY: (SECRET, TOKEN), PERMANENT.access_key: (PERMANENT.secret_key, None)}.get(key)


def verify(request, *, now=None, service=None):
    now = time.time() if now is None else now
    return signature.verify(request, secrets=secrets, now=now, service=service)


def refused(request, **more):
    with pytest.raises(AwsError) as error:
        verify(request, **more)
    return error.value


def received(signed):
    """A request that botocore has signed, as the server receives it."""
    parts = urlsplit(signed.url)
    headers = {name.lower(): _text(value) for name, value in signed.headers.items()}
    headers.setdefault("host", parts.netloc)
    return Request(signed.method, parts.path or "/", parts.query, headers, signed.data or b"")


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


def sign(
    path="/", query="", body=b"", headers=None, *,
    service="sagemaker", method="POST", credentials=CREDENTIALS, region="us-east-1",
):  # fmt: skip
    url = f"{URL}{path}?{query}" if query else f"{URL}{path}"
    request = AWSRequest(method, url, headers=dict(headers or {}), data=body)
    auth = S3SigV4Auth if service == "s3" else SigV4Auth
    auth(credentials, service, region).add_auth(request)
    return received(request)


def presign(
    method="GET", path="/b/k", query="", *, expires=3600, service="s3", credentials=CREDENTIALS
):
    request = AWSRequest(method, f"{URL}{path}?{query}" if query else f"{URL}{path}")
    auth = S3SigV4QueryAuth if service == "s3" else SigV4QueryAuth
    auth(credentials, service, "us-east-1", expires=expires).add_auth(request)
    return received(request)


# --- any request


def encoded(text):
    return quote(text, safe="-_.~")


printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
words = st.text(max_size=8).filter(lambda text: text not in (".", "..")).map(encoded)
paths = st.lists(words, max_size=4).map(lambda parts: "/" + "/".join(parts))
parameters = st.tuples(words, words).map("=".join)
queries = st.lists(parameters, max_size=4).map("&".join)
HEADERS = ["Content-Type", "X-Amz-Target", "X-Amz-Meta-A", "X-Amzn-Trace", "Accept"]
requests = st.builds(
    sign,
    paths,
    queries,
    st.binary(max_size=60),
    st.dictionaries(st.sampled_from(HEADERS), printable),
    service=st.sampled_from(["sagemaker", "s3", "sts", "logs", "scheduler"]),
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE"]),
    credentials=st.sampled_from([CREDENTIALS, PERMANENT]),
    region=st.sampled_from(["us-east-1", "eu-west-1"]),
)


@given(requests)
def test_every_genuine_request_is_accepted(request):
    signed = verify(request)
    assert signed.key in (KEY, PERMANENT.access_key)
    assert (signed.region, signed.service) == (request.region, request.service)


@given(requests, st.data())
def test_a_flipped_byte_is_refused_wherever_it_is(request, data):
    signed = signature.read(request)
    parts = ["path", "query", "body", "method", *(f"header {name}" for name in signed.headers)]
    part = data.draw(st.sampled_from(parts))
    name = part.partition(" ")[2]
    was = request.headers.get(name, "") if name else getattr(request, part)
    assume(was)
    raw = was if isinstance(was, bytes) else was.encode("latin-1")
    place = data.draw(st.integers(0, len(raw) - 1))
    other = data.draw(st.integers(33, 126).filter(lambda code: code != raw[place]))
    # Another way to write the same is not another request: dots, slashes, order, spaces.
    assume(part == "body" or not {raw[place], other} & set(b"./& =?"))
    changed = raw[:place] + bytes([other]) + raw[place + 1 :]
    changed = changed if isinstance(was, bytes) else changed.decode("latin-1")
    if name:
        altered = replace(request, headers={**request.headers, name: changed})
    else:
        altered = replace(request, **{part: changed})
    refused(altered)


@given(requests, st.data())
def test_another_key_secret_scope_or_signature_is_refused(request, data):
    authorization = request.headers["authorization"]
    place = data.draw(st.integers(0, len(authorization) - 1))
    other = data.draw(st.sampled_from("aZ0/;=, "))
    assume(other != authorization[place])
    assume(not (other == " " and authorization[place] in ", "))
    changed = authorization[:place] + other + authorization[place + 1 :]
    refused(replace(request, headers={**request.headers, "authorization": changed}))


@given(paths, queries, st.data())
def test_a_presigned_url_holds_for_itself_only(path, query, data):
    request = presign(path=path, query=query)
    assert verify(request).expires_s == 3600
    refused(replace(request, method="PUT"))
    refused(replace(request, path=f"{path}x"))
    refused(replace(request, query=f"{request.query}&more=1"))
    place = data.draw(st.integers(0, len(request.query) - 1))
    assume(request.query[place] not in "&=%x")
    refused(replace(request, query=f"{request.query[:place]}x{request.query[place + 1 :]}"))


@given(requests)
def test_the_canonical_request_is_botocores(request):
    url = f"{URL}{request.path}?{request.query}" if request.query else f"{URL}{request.path}"
    signed = signature.read(request)
    headers = {name: request.headers[name] for name in signed.headers}
    theirs = AWSRequest(request.method, url, headers=headers, data=request.body)
    auth = S3SigV4Auth if signed.service == "s3" else SigV4Auth
    expected = auth(CREDENTIALS, signed.service, signed.region).canonical_request(theirs)
    assert signature.canonical(request, signed) == expected


# --- in AWS's words


def test_who_is_unknown_is_told_so_in_the_words_of_each_service():
    stranger = Credentials("AKIASTRANGER00000000", "x")
    known = Credentials(KEY, SECRET, "another token")
    target = {"X-Amz-Target": "SageMaker.ListModels"}
    invalid = "The security token included in the request is invalid."
    for credentials in (stranger, known, Credentials(KEY, SECRET)):
        error = refused(sign(headers=target, credentials=credentials))
        assert (error.code, str(error)) == ("UnrecognizedClientException", invalid)
        assert error.status == 400
        error = refused(sign(service="sts", credentials=credentials))
        assert (error.code, str(error)) == ("InvalidClientTokenId", invalid)
        assert error.status == 403
    assert refused(sign("/b", service="s3", credentials=stranger)).code == "InvalidAccessKeyId"
    assert refused(sign("/b", service="s3", credentials=known)).code == "InvalidToken"


def test_a_wrong_secret_is_a_signature_that_does_not_match():
    wrong = Credentials(KEY, "wrong", TOKEN)
    path = "/endpoints/e/invocations"
    error = refused(sign(path, credentials=wrong))
    assert (error.code, error.status) == ("InvalidSignatureException", 403)
    assert str(error).startswith("The request signature we calculated does not match the signature")
    assert refused(sign(service="iam", credentials=wrong)).code == "SignatureDoesNotMatch"
    assert refused(sign("/b", service="s3", credentials=wrong)).code == "SignatureDoesNotMatch"


def test_who_does_not_sign_is_told_so():
    request = Request("POST", "/", "", {"x-amz-target": "SageMaker.ListModels"}, b"")
    error = refused(request)
    assert (error.code, str(error), error.status) == (
        "MissingAuthenticationTokenException",
        "Missing Authentication Token",
        400,
    )
    form = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    assert refused(replace(request, headers=form)).code == "MissingAuthenticationToken"
    assert refused(replace(request, headers={})).code == "AccessDenied"
    invocation = replace(request, path="/endpoints/e/invocations", headers={})
    assert refused(invocation).code == "MissingAuthenticationTokenException"
    for broken in ("AWS4-HMAC-SHA256 nothing", "Basic abc", "AWS AKID:signature"):
        error = refused(replace(invocation, headers={"authorization": broken}))
        assert (error.code, error.status) == ("IncompleteSignatureException", 400)
    assert "requires 'Signature' parameter" in str(error)


@pytest.mark.parametrize(("service", "minutes"), [("sagemaker", 5), ("sts", 15), ("s3", 15)])
def test_a_clock_may_be_off_by_minutes(service, minutes):
    now = time.time()
    request = sign("/b", service=service)
    for off_s in (-minutes * 60 + 2, minutes * 60 - 2):
        verify(request, now=now + off_s)
    late = refused(request, now=now + minutes * 60 + 2)
    early = refused(request, now=now - minutes * 60 - 2)
    if service == "s3":
        assert late.code == early.code == "RequestTimeTooSkewed"
    else:
        stamp = request.headers["x-amz-date"]
        assert str(late).startswith(f"Signature expired: {stamp} is now earlier than 2")
        assert str(late).endswith(f"Z - {minutes} min.)")
        assert str(early).startswith(f"Signature not yet current: {stamp} is still later than 2")


def test_a_date_header_does_for_the_time():
    assert verify(sign(headers={"Date": "x"}))
    request = sign()
    without = {name: value for name, value in request.headers.items() if name != "x-amz-date"}
    for headers in (without, {**without, "x-amz-date": "now"}, {**without, "date": "now"}):
        assert refused(replace(request, headers=headers)).code == "IncompleteSignatureException"


def test_a_presigned_url_ends_when_it_says():
    now = time.time()
    request = presign(expires=60)
    assert verify(request, now=now + 58)
    error = refused(request, now=now + 62)
    assert (error.code, str(error)) == ("AccessDenied", "Request has expired")
    assert refused(presign(expires=700000)).code == "AuthorizationQueryParametersError"
    identity = presign(service="sts", path="/", query="Action=GetCallerIdentity")
    assert verify(identity).service == "sts"
    assert refused(identity, now=now + 3700).code == "SignatureDoesNotMatch"
    broken = replace(request, query=request.query.replace("X-Amz-Expires=60", "X-Amz-Expires=x"))
    assert refused(broken).code == "AuthorizationHeaderMalformed"


def test_a_request_must_be_signed_for_the_service_that_it_is_sent_to():
    target = {"X-Amz-Target": "SageMaker.ListModels"}
    assert verify(sign(headers=target), service="sagemaker")
    error = refused(sign(headers=target, service="logs"), service="sagemaker")
    assert (error.code, str(error), error.status) == (
        "InvalidSignatureException",
        "Credential should be scoped to correct service: 'sagemaker'. ",
        400,
    )


def test_the_host_must_be_signed_and_for_s3_all_that_is_amazons():
    request = sign()
    naked = request.headers["authorization"].replace("host;", "")
    error = refused(replace(request, headers={**request.headers, "authorization": naked}))
    assert error.code == "IncompleteSignatureException"
    upload = sign("/b/k", service="s3", method="PUT", body=b"x")
    slipped = {**upload.headers, "x-amz-acl": "public-read"}
    error = refused(replace(upload, headers=slipped))
    assert "were not signed" in str(error)


def test_only_s3_takes_a_payload_that_is_not_signed():
    for claim in ("UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"):
        for service, accepted in (("s3", True), ("sagemaker", False)):
            request = AWSRequest("PUT", f"{URL}/b/k", data=b"x")
            request.headers["X-Amz-Content-SHA256"] = claim
            SigV4Auth(CREDENTIALS, service, "us-east-1").add_auth(request)
            request = replace(received(request), body=b"anything")
            if accepted:
                assert verify(request)
            else:
                refused(request)
    upload = sign("/b/k", service="s3", method="PUT", body=b"x")
    error = refused(replace(upload, body=b"y"))
    assert (error.code, error.status) == ("XAmzContentSHA256Mismatch", 400)


# --- bearer tokens


def bearer(credentials=CREDENTIALS, region="eu-west-1", **more):
    boto = SimpleNamespace(get_credentials=lambda: credentials)
    credentials.get_frozen_credentials = lambda: credentials
    return f"Bearer {messages.bearer_token(SimpleNamespace(boto=boto, region=region), **more)}"


def verify_token(authorization, now=None):
    now = time.time() if now is None else now
    return signature.verify_token(authorization, secrets=secrets, now=now).region


def test_a_bearer_token_tells_its_region_until_it_expires():
    now = time.time()
    assert verify_token(bearer()) == "eu-west-1"
    assert verify_token(bearer(PERMANENT, "us-east-1")) == "us-east-1"
    assert verify_token(bearer(expires_s=60), now + 58) == "eu-west-1"
    for late in (62, 86400):
        with pytest.raises(AwsError, match="Signature expired"):
            verify_token(bearer(expires_s=60), now + late)
    with pytest.raises(AwsError, match="does not match"):
        verify_token(bearer(Credentials(KEY, "wrong", TOKEN)))
    with pytest.raises(AwsError, match="is invalid"):
        verify_token(bearer(Credentials("AKIASTRANGER00000000", "x")))


def test_the_sdks_own_token_is_accepted():
    generator = pytest.importorskip("sagemaker.core.token_generator.token_generator")
    token = generator._generate_token(CREDENTIALS, "us-west-2", 3600)
    assert verify_token(f"Bearer {token}") == "us-west-2"


@given(st.data())
def test_a_bearer_token_with_another_byte_is_refused(data):
    token = bearer()
    prefix = f"Bearer {signature.TOKEN_PREFIX}"
    url = base64.b64decode(token.removeprefix(prefix)).decode()
    place = data.draw(st.integers(0, len(url) - len("&Version=1") - 1))
    other = data.draw(st.sampled_from("aZ07"))
    assume(url[place] != other)
    # The scheme of percent-encoding has two ways to write a letter.
    assume("%" not in url[max(0, place - 2) : place + 1])
    changed = url[:place] + other + url[place + 1 :]
    with pytest.raises(AwsError):
        verify_token(prefix + base64.b64encode(changed.encode()).decode())


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer x", "Bearer sagemaker-api-key-!", "Bearer sagemaker-api-key-eA=="]
    + ["Basic sagemaker-api-key-eA==", "Bearer sagemaker-api-key-/w=="],
)
def test_what_is_no_bearer_token_is_refused(authorization):
    with pytest.raises(AwsError) as error:
        verify_token(authorization)
    assert error.value.status == 403


def test_a_token_for_longer_than_twelve_hours_or_for_something_else_is_refused():
    for query, expires in (("Action=CallWithBearerToken", 43201), ("Action=ListModels", 60)):
        request = AWSRequest("POST", f"https://sagemaker.amazonaws.com/?{query}")
        SigV4QueryAuth(CREDENTIALS, "sagemaker", "us-east-1", expires=expires).add_auth(request)
        url = request.url.removeprefix("https://") + "&Version=1"
        token = signature.TOKEN_PREFIX + base64.b64encode(url.encode()).decode()
        with pytest.raises(AwsError, match="is invalid"):
            verify_token(f"Bearer {token}")


# --- real clients


class Gate:
    """An HTTP server that lets in whoever has signed, and answers nothing useful."""

    def __init__(self):
        self.verdicts = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        assert self._ready.wait(10)
        self.url = f"http://127.0.0.1:{self._port}"

    async def _main(self):
        server = Server(self._handle)
        self._port = await server.start()
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._stopping.wait()
        await server.stop()

    async def _handle(self, request, response):
        try:
            signed = verify(request)
        except AwsError as error:
            self.verdicts.append(f"{error.code}: {error}")
            response.respond(*error.answer())
        else:
            self.verdicts.append(signed.service)
            response.respond(200, {"Content-Type": "application/json"}, b"{}")

    def client(self, name, secret=SECRET, **config):
        return boto3.client(
            name,
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=KEY,
            aws_secret_access_key=secret,
            aws_session_token=TOKEN,
            config=Config(retries={"total_max_attempts": 1}, **config),
        )

    def close(self):
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)


@pytest.fixture(scope="module")
def gate():
    gate = Gate()
    yield gate
    gate.close()


MODEL = {"ModelName": "m", "PrimaryContainer": {"Image": "ü"}, "ExecutionRoleArn": "r" * 20}
CALLS = {
    "sagemaker": [("create_model", MODEL), ("list_endpoints", {"NameContains": "a b"})],
    "sagemaker-runtime": [
        ("invoke_endpoint", {"EndpointName": "my-e", "Body": b"\x00\xff", "InferenceId": "a b"}),
    ],
    "sts": [("get_caller_identity", {})],
    "iam": [("get_role", {"RoleName": "a+b=c,@"}), ("list_roles", {"PathPrefix": "/a/"})],
    "logs": [("filter_log_events", {"logGroupName": "/aws/e", "filterPattern": '"ü"'})],
    "cloudwatch": [("list_metrics", {"Namespace": "AWS/SageMaker"})],
    "scheduler": [
        ("get_schedule", {"Name": "s", "GroupName": "g-_.1"}),
        ("list_tags_for_resource", {"ResourceArn": "arn:aws:scheduler:::schedule-group/g"}),
    ],
    "events": [("list_rules", {})],
    "application-autoscaling": [("describe_scalable_targets", {"ServiceNamespace": "sagemaker"})],
    "resourcegroupstaggingapi": [("get_resources", {})],
    "service-quotas": [("list_services", {})],
    "pricing": [("describe_services", {})],
    "s3": [
        ("put_object", {"Bucket": "b-1", "Key": "a b//../ü+%2F~:@", "Body": b"x" * 9}),
        ("get_object", {"Bucket": "b-1", "Key": "a/./b", "VersionId": "a=b&c"}),
        ("put_object", {"Bucket": "b-1", "Key": "k", "Metadata": {"a": "b  c"}, "ACL": "private"}),
        ("list_objects_v2", {"Bucket": "b-1", "Prefix": "a b/ü&=+", "Delimiter": "/"}),
    ],
}


@pytest.mark.parametrize("name", CALLS)
def test_boto3_is_let_in_with_the_right_secret_only(gate, name):
    for operation, given_ in CALLS[name]:
        for secret, accepted in ((SECRET, True), ("wrong", False)):
            gate.verdicts.clear()
            # What the gate answers is no service's answer: only its verdict counts.
            with contextlib.suppress(Exception):
                getattr(gate.client(name, secret), operation)(**given_)
            service = gate.client(name).meta.service_model.signing_name
            if accepted:
                assert gate.verdicts == [service], operation
            else:
                assert "does not match" in gate.verdicts[0]


def test_boto3_says_what_was_wrong(gate):
    with pytest.raises(ClientError) as error:
        gate.client("sagemaker", "wrong").list_models()
    assert error.value.response["Error"]["Code"] == "InvalidSignatureException"


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_boto3s_presigned_urls_are_accepted_and_nothing_else(gate, version):
    client = gate.client("s3", signature_version=version)
    key = {"Bucket": "b-1", "Key": "a b/ü"}
    for method, operation, more, headers in (
        ("GET", "get_object", {"ResponseContentType": "a/b"}, {}),
        ("PUT", "put_object", {"ContentType": "text/plain"}, {"Content-Type": "text/plain"}),
    ):
        url = client.generate_presigned_url(operation, Params=key | more, ExpiresIn=60)
        expected = {
            url: "s3",
            url.replace("a%20b", "a%20c"): "SignatureDoesNotMatch",
            url.replace(KEY, "AKIASTRANGER00000000"): "InvalidAccessKeyId",
        }
        for asked, verdict in expected.items():
            gate.verdicts.clear()
            fetch(asked, method, headers)
            assert gate.verdicts[0].startswith(verdict)


def test_a_url_presigned_with_version_2_expires(gate):
    client = gate.client("s3", signature_version="s3")
    params = {"Bucket": "b-1", "Key": "k"}
    url = urlsplit(client.generate_presigned_url("get_object", Params=params, ExpiresIn=60))
    request = Request("GET", url.path, url.query, {}, b"")
    assert verify(request).service == "s3"
    assert str(refused(request, now=time.time() + 62)) == "Request has expired"
    refused(replace(request, query=request.query.replace("Expires=1", "Expires=2")))
    for bad in ("x", "9" * 5000):
        refused(replace(request, query=request.query.replace("Expires=", f"Expires={bad}")))


junk = st.text(st.characters(max_codepoint=255), max_size=40)


@given(
    st.dictionaries(st.sampled_from(["authorization", "x-amz-date", "date", "host"]), junk), junk
)
def test_junk_is_refused_and_nothing_else_happens(headers, text):
    for start in ("", "AWS4-HMAC-SHA256 Credential=", "Bearer sagemaker-api-key-"):
        authorization = start + headers.get("authorization", "")
        refused(Request("GET", "/", text, {**headers, "authorization": authorization}, b""))
        with pytest.raises(AwsError):
            verify_token(authorization)
    for start in ("X-Amz-Signature=", "AWSAccessKeyId=", "AWSAccessKeyId=a&Signature=b&Expires=1"):
        refused(Request("GET", "/", start + text, {}, b""))
    token = base64.b64encode(f"sagemaker.amazonaws.com/?{text}".encode()).decode()
    with pytest.raises(AwsError):
        verify_token(f"Bearer sagemaker-api-key-{token}")


def fetch(url, method, headers):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", headers=headers)
        return connection.getresponse().read()
    finally:
        connection.close()


def test_the_workshops_own_signer_is_let_in(gate):
    frozen = SimpleNamespace(get_frozen_credentials=lambda: CREDENTIALS)
    stream = SageMakerStream("my-e", endpoint_url=gate.url, region="us-east-1", credentials=frozen)
    gate.verdicts.clear()

    async def send():
        address = stream.address
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(stream.request(b'{"a": 1}', inference_id="i"))
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    asyncio.run(send())
    assert gate.verdicts == ["sagemaker"]


def test_an_ordinary_request_is_verified_in_no_time():
    request = sign("/endpoints/e/invocations", body=b"x" * 2000)
    best_s = min(_timed(request) for _ in range(200))
    assert best_s < 150e-6


def _timed(request):
    started = time.perf_counter()
    verify(request)
    return time.perf_counter() - started
