"""One request over the wire: HTTP read as it arrives, signed, stamped, decoded afterwards."""

import asyncio
import base64
import contextlib
import hashlib
import json
import pickle
import socket
import ssl
import subprocess
import threading
import time

import h11
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.eventstream import EventStreamBuffer, ParserError
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedEndpoint, event, exception, part

from helpers.connection import Address, Connection, Exchange, HTTPResponse
from helpers.errors import InvocationError
from helpers.transport import OpenAIStream, SageMakerStream, StreamFailed, payloads

CREDENTIALS = Credentials("AKIDEXAMPLE", "a-secret", "a-session-token")


def line(content=None, finish=None, **more):
    """A chunk as TGI 2.0.2 writes it."""
    choice = {"index": 0, "delta": {"content": content} if content else {}, "finish_reason": finish}
    return b"data:" + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


THREE_TOKENS = line("Hel") + line("lo") + line("!", "length")


@pytest.fixture
def endpoint():
    scripted = ScriptedEndpoint()
    yield scripted
    scripted.close()


def stream_of(url, name="an-endpoint"):
    return SageMakerStream(name, endpoint_url=url, region="us-east-1", credentials=CREDENTIALS)


def exchange_with(url, *, times=1, timeout_s=5.0):
    """Send the same request over one connection; what came of each."""
    stream = stream_of(url)

    async def talk():
        connection = await Connection.open(stream.address)
        done = []
        for _ in range(times):
            request = stream.request(b'{"a":1}', inference_id="an-id")
            done.append(await connection.send(request, timeout_s=timeout_s))
        connection.close()
        return done

    return asyncio.run(talk())


def reading_of(url, **options):
    return stream_of(url).read(exchange_with(url, **options)[0])


def read_from(body, *, cuts=()):
    """Decode a body that arrived in pieces, one a second."""
    places = [0, *sorted(cuts), len(body)]
    pieces = [body[start:end] for start, end in zip(places, places[1:], strict=False)]
    parts = [(float(second), piece) for second, piece in enumerate(pieces)]
    return stream_of("http://127.0.0.1:9").read(Exchange(sent_s=0.0, status=200, parts=parts))


# --- HTTP, read as it arrives ---------------------------------------------------------------------


def responses():
    head = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nX-Amzn-RequestId: 7\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    yield b"HTTP/1.1 100 Continue\r\n\r\n" + head + b"Content-Length: 5\r\n\r\nhello"
    yield head + b"Content-Length: 0\r\n\r\n"
    yield chunked + b"3\r\nab\r\r\n5;name=value\r\n\n0\r\n\r\r\n0\r\n\r\n"
    yield chunked + b"1\r\nx\r\nA\r\n0123456789\r\n0\r\nTrailer: yes\r\n\r\n"


@pytest.mark.parametrize("response", list(responses()))
@given(data=st.data())
def test_a_response_cut_anywhere_is_read_as_h11_reads_it(response, data):
    cuts = data.draw(st.sets(st.integers(1, len(response) - 1)))
    places = [0, *sorted(cuts), len(response)]
    ours, body = HTTPResponse(), b""
    for start, end in zip(places, places[1:], strict=False):
        assert not ours.is_complete
        body += ours.feed(response[start:end])
    assert ours.is_complete
    assert (ours.status, ours.headers.get("content-type"), body) == as_h11_reads(response)


def as_h11_reads(response):
    theirs = h11.Connection(h11.CLIENT)
    theirs.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    theirs.send(h11.EndOfMessage())
    theirs.receive_data(response)
    body, status, headers = b"", None, {}
    while not isinstance(event := theirs.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            status, headers = event.status_code, dict(event.headers)
        elif isinstance(event, h11.Data):
            body += event.data
    return status, headers[b"content-type"].decode(), body


def test_a_body_without_a_length_ends_with_the_connection():
    response = HTTPResponse()
    assert response.feed(b"HTTP/1.1 200 OK\r\n\r\nhel") + response.feed(b"lo") == b"hello"
    assert not response.is_complete and not response.keeps_alive
    response.close()
    assert response.is_complete


def test_a_body_with_a_length_does_not_end_with_the_connection():
    response = HTTPResponse()
    response.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel")
    response.close()
    assert not response.is_complete


@pytest.mark.parametrize(
    "nonsense",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 what\r\n\r\n",
        b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabcdef",
    ],
)
def test_what_is_not_http_is_refused(nonsense):
    with pytest.raises(ValueError):
        HTTPResponse().feed(nonsense)


# --- signing --------------------------------------------------------------------------------------


def test_a_request_carries_the_signature_that_aws_computes_from_what_it_receives():
    wire = stream_of("http://127.0.0.1:4566").request(b'{"a":1}', inference_id="an-id")
    head, _, body = wire.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    received = dict(one.split(": ", 1) for one in lines)
    assert first == "POST /endpoints/an-endpoint/invocations-response-stream HTTP/1.1"
    assert body == b'{"a":1}' and received["Content-Length"] == "7"
    assert received["Host"] == "127.0.0.1:4566"
    assert received["X-Amzn-SageMaker-Inference-Id"] == "an-id"
    assert received["X-Amz-Security-Token"] == "a-session-token"

    verifier = SigV4Auth(CREDENTIALS, "sagemaker", "us-east-1")
    again = AWSRequest("POST", "http://127.0.0.1:4566" + first.split()[1], data=body)
    signed = received["Authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    for name, value in received.items():
        if name.lower() in signed:
            again.headers[name] = value
    again.context["timestamp"] = received["X-Amz-Date"]
    canonical = verifier.canonical_request(again)
    signature = verifier.signature(verifier.string_to_sign(again, canonical), again)
    assert received["Authorization"].endswith(f"Signature={signature}")
    assert hashlib.sha256(body).hexdigest() in canonical


def test_the_secret_is_in_no_request():
    assert b"a-secret" not in stream_of("http://127.0.0.1:1").request(b"{}", inference_id="i")


def test_a_default_port_is_left_out_of_the_host():
    stream = stream_of("https://runtime.sagemaker.us-east-1.amazonaws.com")
    wire = stream.request(b"{}", inference_id="i")
    assert b"\r\nHost: runtime.sagemaker.us-east-1.amazonaws.com\r\n" in wire
    assert (stream.address.port, stream.address.tls is None) == (443, False)


def test_without_credentials_nothing_can_be_signed():
    with pytest.raises(InvocationError, match="sign in first"):
        SageMakerStream("x", endpoint_url="http://127.0.0.1:1", region="r", credentials=None)


# --- sending and stamping -------------------------------------------------------------------------


def test_a_stream_is_stamped_at_each_read_and_counted_afterwards(endpoint):
    endpoint.will_stream(*(part(piece) for piece in chunks_of(THREE_TOKENS)), pause_s=0.03)
    exchange = exchange_with(endpoint.url)[0]
    reading = stream_of(endpoint.url).read(exchange)
    assert (len(reading.chunk_s), reading.finish_reason, reading.failure) == (3, "length", None)
    gaps = [b - a for a, b in zip(reading.chunk_s, reading.chunk_s[1:], strict=False)]
    assert all(0.025 < gap < 0.3 for gap in gaps)
    assert exchange.sent_s < reading.chunk_s[0] and reading.chunk_s[-1] <= exchange.ended_s


def chunks_of(body):
    return [piece + b"\n\n" for piece in body.split(b"\n\n") if piece]


def test_a_connection_is_used_again_and_only_its_first_request_has_to_wait_for_it(endpoint):
    for _ in range(3):
        endpoint.will_stream(part(THREE_TOKENS))
    first, *others = exchange_with(endpoint.url, times=3)
    assert first.connect_s > 0 and [one.connect_s for one in others] == [0, 0]
    assert [one.failure for one in (first, *others)] == [None] * 3


def test_a_refusal_keeps_the_words_of_sagemaker_and_of_the_container(endpoint):
    endpoint.will_refuse(
        424,
        "ModelError:http://internal/",
        "Received client error (422) from primary",
        OriginalStatusCode=422,
        OriginalMessage='{"error":"Input validation error"}',
    )
    failure = reading_of(endpoint.url).failure
    assert (failure.kind, failure.status, failure.original_status) == ("ModelError", 424, 422)
    assert "Received client error" in failure.message
    assert "Input validation error" in failure.original_message


def test_a_refusal_without_any_json_is_named_by_its_status(endpoint):
    endpoint._scripts.append(send_raw(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nsad"))
    failure = reading_of(endpoint.url).failure
    assert (failure.kind, failure.message, failure.status) == ("HTTP 502", "sad", 502)


def send_raw(data):
    def script(handler):
        handler.wfile.write(data)
        handler.close_connection = True

    return script


def test_a_stream_that_breaks_keeps_what_had_arrived(endpoint):
    endpoint.will_stream(part(line("Hel")), part(line("lo")), ending="reset")
    reading = reading_of(endpoint.url)
    assert (len(reading.chunk_s), reading.failure.kind, reading.failure.status) == (
        2,
        "truncated",
        200,
    )


def test_a_connection_closed_without_an_answer_is_a_connection_failure(endpoint):
    endpoint._scripts.append(send_raw(b""))
    assert reading_of(endpoint.url).failure.kind == "connection"


def test_an_answer_that_is_not_http_is_a_framing_failure(endpoint):
    endpoint._scripts.append(send_raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"))
    assert reading_of(endpoint.url).failure.kind == "framing"


def test_a_reply_that_does_not_end_is_given_up_in_time(endpoint):
    endpoint.will_stream(part(line("Hel")), ending="hang")
    started = time.monotonic()
    reading = reading_of(endpoint.url, timeout_s=0.2)
    assert reading.failure.kind == "timeout" and len(reading.chunk_s) == 1
    assert time.monotonic() - started < 10


def test_bytes_nobody_asked_for_close_the_connection(endpoint):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    endpoint._scripts.append(lambda handler: (handler.wfile.write(answer), time.sleep(0.05),
                                              handler.wfile.write(b"more")))  # fmt: skip
    stream = stream_of(endpoint.url)

    async def talk():
        connection = await Connection.open(stream.address)
        exchange = await connection.send(stream.request(b"{}", inference_id="i"), timeout_s=5)
        usable_at_first = connection.is_usable
        await asyncio.sleep(0.2)
        return exchange.failure, usable_at_first, connection.is_usable

    assert asyncio.run(talk()) == (None, True, False)


def test_tls_is_spoken_and_the_certificate_is_checked(tmp_path, monkeypatch):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_tls.load_cert_chain(certificate, key)
    body = part(THREE_TOKENS)

    async def answer(reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"{}")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
        writer.close()

    async def talk(trusting):
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_tls)
        async with server:
            if trusting:
                monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
            stream = stream_of(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            connection = await Connection.open(stream.address)
            done = await connection.send(stream.request(b"{}", inference_id="i"), timeout_s=5)
            connection.close()
            return stream.read(done)

    with pytest.raises(ssl.SSLCertVerificationError):
        asyncio.run(talk(trusting=False))
    reading = asyncio.run(talk(trusting=True))
    assert (len(reading.chunk_s), reading.failure) == (3, None)


def test_an_address_without_a_port_has_the_usual_one():
    assert Address.of("http://127.0.0.1").port == 80


# --- decoding, afterwards -------------------------------------------------------------------------


@given(cuts=st.sets(st.integers(1, len(part(THREE_TOKENS)) - 1)))
def test_a_body_cut_anywhere_has_the_same_tokens(cuts):
    reading = read_from(part(THREE_TOKENS), cuts=cuts)
    assert (len(reading.chunk_s), reading.finish_reason, reading.failure) == (3, "length", None)


@given(cuts=st.sets(st.integers(1, len(THREE_TOKENS) - 1)))
def test_parts_that_cut_lines_anywhere_have_the_same_tokens(cuts):
    places = [0, *sorted(cuts), len(THREE_TOKENS)]
    pieces = [THREE_TOKENS[a:b] for a, b in zip(places, places[1:], strict=False)]
    assert len(read_from(b"".join(map(part, pieces))).chunk_s) == 3


def test_a_token_is_stamped_by_the_read_that_completes_its_line():
    message = part(line("Hel") + line("lo", "length")[:20]), part(line("lo", "length")[20:])
    assert read_from(b"".join(message), cuts=[len(message[0])]).chunk_s == [0.0, 1.0]


def test_comments_roles_special_tokens_and_usage_are_not_tokens():
    role = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}\n\n'
    body = b": ping\n\n" + role + line("Hi") + line(None, "eos_token") + usage + b"data: [DONE]\n\n"
    reading = read_from(part(body))
    assert len(reading.chunk_s) == 1 and reading.failure is None
    assert (reading.usage.prompt_tokens, reading.usage.output_tokens) == (9, 2)


def test_the_last_line_may_lack_its_newline():
    assert len(read_from(part(THREE_TOKENS.rstrip())).chunk_s) == 3


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (part(line("Hi")), "truncated", "without a finish reason"),
        (part(line(None, "eos_token")), "empty", "without any text"),
        (b"", "truncated", "without a finish reason"),
        (part(line("Hi")) + part(THREE_TOKENS)[:-1] + b"?", "framing", "checksum"),
        (
            part(line("Hi"))
            + exception("ModelStreamError", Message="no", ErrorCode="StreamBroken"),
            "StreamBroken",
            "no",
        ),
        (
            part(line("Hi")) + exception("InternalStreamFailure", Message="sorry"),
            "InternalStreamFailure",
            "sorry",
        ),
        (
            event(b"not json", message_type="error", error_code="InternalFailure"),
            "InternalFailure",
            "InternalFailure",
        ),
        (
            part(b'data:{"error":"Generation failed","error_type":"generation"}\n\n'),
            "generation",
            "Generation failed",
        ),
        (part(b"data: [1]\n\n"), "unreadable", "not a JSON object"),
    ],
)
def test_an_incomplete_reply_says_why(body, kind, words):
    failure = read_from(body).failure
    assert failure.kind == kind and words in failure.message


# --- SageMaker's framing --------------------------------------------------------------------------


@given(
    pieces=st.lists(st.binary(max_size=300), max_size=8),
    cuts=st.sets(st.integers(1, 2000)),
    harm=st.none() | st.tuples(st.integers(0, 2000), st.integers(1, 255)),
)
def test_an_event_stream_is_taken_apart_as_botocore_does_it(pieces, cuts, harm):
    body = bytearray(b"".join(map(part, pieces)))
    if harm and body:
        body[harm[0] % len(body)] ^= harm[1]
    places = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    parts = [(0.0, bytes(body[a:b])) for a, b in zip(places, places[1:], strict=False)]
    assert payloads_of(parts) == payloads_as_botocore_sees_them(parts)


def payloads_of(parts):
    found = []
    try:
        found += (payload for _, payload in payloads(parts))
    except StreamFailed:
        return found, "broken"
    return found, None


def payloads_as_botocore_sees_them(parts):
    buffer, found = EventStreamBuffer(), []
    try:
        for _, data in parts:
            buffer.add_data(data)
            found += (event.payload for event in buffer)
    except ParserError:
        return found, "broken"
    return found, None


# --- any OpenAI-compatible server -----------------------------------------------------------------


SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def send_events(*events, ending=b"0\r\n\r\n"):
    return send_raw(SSE + b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in events) + ending)


def openai_reading(endpoint, **options):
    stream = OpenAIStream(endpoint.url + "/v1", **options)

    async def talk():
        connection = await Connection.open(stream.address)
        try:
            return await connection.send(stream.request(b"{}", inference_id="an-id"), timeout_s=5)
        finally:
            connection.close()

    return stream.read(asyncio.run(talk()))


def test_an_openai_stream_is_counted_like_any_other(endpoint):
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}\n\n'
    endpoint._scripts.append(send_events(THREE_TOKENS, usage, b"data: [DONE]\n\n"))
    reading = openai_reading(endpoint)
    assert (len(reading.chunk_s), reading.text, reading.finish_reason) == (3, "Hello!", "length")
    assert (reading.usage.output_tokens, reading.failure) == (3, None)


def test_an_openai_request_carries_its_key_and_its_id():
    stream = OpenAIStream("http://127.0.0.1:8000/v1/", key=lambda: "a-key")
    wire = stream.request(b"{}", inference_id="an-id").decode()
    assert wire.startswith("POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n")
    assert "\r\nAuthorization: Bearer a-key\r\n" in wire
    assert wire.count(": an-id\r\n") == 2
    assert (
        "Authorization"
        not in OpenAIStream("http://127.0.0.1:8000").request(b"{}", inference_id="i").decode()
    )


def test_an_openai_refusal_keeps_the_servers_words(endpoint):
    body = b'{"error":{"message":"slow down","code":429}}'
    answer = b"HTTP/1.1 429 Too Many\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    endpoint._scripts.append(send_raw(answer))
    failure = openai_reading(endpoint).failure
    assert (failure.kind, failure.message, failure.status) == ("overloaded", "slow down", 429)


def test_a_server_that_does_not_stream_is_told_apart_from_one_that_breaks_off(endpoint):
    body = b'{"choices":[{"message":{"content":"Hello"}}]}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    endpoint._scripts.append(send_raw(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)))
    failure = openai_reading(endpoint).failure
    assert failure.kind == "framing" and "application/json" in failure.message


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://127.0.0.1", "", "http://"])
def test_what_is_no_address_of_a_server_is_refused(url):
    with pytest.raises(InvocationError, match="such as http://127.0.0.1:8000/v1"):
        OpenAIStream(url)


def test_a_secret_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(InvocationError, match="give a key") as refused:
        OpenAIStream("http://ann:s3cret@127.0.0.1:8000/v1")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "stream", [stream_of("http://127.0.0.1:9"), OpenAIStream("http://127.0.0.1:9", key="a-key")]
)
def test_a_transport_can_be_sent_to_another_machine(stream):
    again = pickle.loads(pickle.dumps(stream))
    for one in (stream, again):
        assert one.address == stream.address
    signed = [one.request(b"{}", inference_id="i").decode() for one in (stream, again)]
    assert [line.partition(" ")[0] for line in signed[0].split("\r\n")] == [
        line.partition(" ")[0] for line in signed[1].split("\r\n")
    ]


# --- proxies --------------------------------------------------------------------------------------


class Proxy:
    """Opens tunnels, and remembers what it was asked."""

    def __init__(self, *, status=200):
        self.asked, self._status = [], status
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        tunnels = []
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                tunnels.append(threading.Thread(target=self._tunnel, args=(client,)))
                tunnels[-1].start()
        for tunnel in tunnels:
            tunnel.join()

    def _tunnel(self, client):
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := client.recv(4096)):
                    return  # a knock, to see how far it is
                head += data
            self.asked.append(head.decode())
            client.sendall(b"HTTP/1.1 %d Well\r\n\r\n" % self._status)
            if self._status == 200:
                host, _, port = head.split()[1].decode().rpartition(":")
                with socket.create_connection((host, int(port))) as upstream:
                    back = threading.Thread(target=self._pump, args=(upstream, client))
                    back.start()
                    self._pump(client, upstream)
                    back.join()

    def _pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self):
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


@pytest.fixture
def proxy():
    one = Proxy()
    yield one
    one.close()


def through(proxy, url, login=""):
    proxies = {"http": f"http://{login}127.0.0.1:{proxy.port}"}
    return SageMakerStream(
        "e", endpoint_url=url, region="r", credentials=CREDENTIALS, proxies=proxies
    )


def test_requests_go_through_the_proxy_that_botocore_would_use(endpoint, proxy):
    endpoint.will_stream(part(THREE_TOKENS))
    stream = through(proxy, endpoint.url, "ann:s%40crum@")

    async def talk():
        assert await stream.address.round_trip_s() < 1
        connection = await Connection.open(stream.address)
        try:
            return await connection.send(stream.request(b'{"a":1}', inference_id="i"), timeout_s=5)
        finally:
            connection.close()

    assert len(stream.read(asyncio.run(talk())).chunk_s) == 3
    (asked,) = proxy.asked
    place = endpoint.url.removeprefix("http://")
    assert asked.startswith(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n")
    assert f"Basic {base64.b64encode(b'ann:s@crum').decode()}" in asked
    assert "s%40crum" not in repr(stream.address) and "Basic" not in repr(stream.address)


def test_a_proxy_that_refuses_is_a_connection_that_cannot_be_opened():
    refusing = Proxy(status=407)
    stream = through(refusing, "http://127.0.0.1:9")
    with pytest.raises(OSError, match="407"):
        asyncio.run(Connection.open(stream.address))
    refusing.close()


def test_the_environment_names_the_proxy_and_its_exceptions(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    far = Address.of("https://runtime.sagemaker.us-east-1.amazonaws.com")
    assert (far.proxy.host, far.proxy.port) == ("proxy.example", 3128)
    assert Address.of("https://127.0.0.1:1").proxy is None


# --- hostile words --------------------------------------------------------------------------------


def refused(endpoint, body, **options):
    head = b"HTTP/1.1 503 No\r\nContent-Length: %d\r\n\r\n" % len(body)
    endpoint._scripts.append(send_raw(head + body))
    return openai_reading(endpoint, **options).failure


def test_a_server_that_quotes_the_key_does_not_get_it_into_a_record(endpoint):
    failure = refused(endpoint, b'{"error":"bad key a-secret-key"}', key="a-secret-key")
    assert failure.message == "bad key ***"


def test_escape_codes_and_half_characters_are_left_out(endpoint):
    failure = refused(endpoint, b'{"error":"\\u001b[31mred \\ud800"}')
    assert failure.message.isprintable() and "red" in failure.message


def test_an_error_without_a_bottom_is_an_error_like_any_other(endpoint):
    assert refused(endpoint, b"[" * 100_000).status == 503


def test_an_error_may_not_pass_for_an_interrupt(endpoint):
    endpoint.will_refuse(503, "interrupted", "no")
    assert reading_of(endpoint.url).failure.kind == "HTTP 503"
