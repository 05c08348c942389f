"""One request over the wire: signed and connected beforehand, stamped as it is read.

Nothing is decoded while the clock runs: a read is stamped, stripped of HTTP's chunk framing and
put aside. `Exchange` is what is left when the stream has ended; `SageMakerStream.read` turns it
into tokens afterwards. One attempt, no retry: what goes wrong is a `Failure`, not an exception.
"""

import asyncio
import json
import os
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.eventstream import EventStreamBuffer, ParserError
from botocore.httpsession import get_cert_path

from helpers.errors import InvocationError
from helpers.messages import SSEDecoder, Usage, parse_chunk
from helpers.records import Failure

CONNECT_TIMEOUT_S = 10.0
_HEAD_LIMIT_BYTES = 64 * 1024
_WORDS_LIMIT = 500  # characters of a server's own words that are kept


@dataclass
class Exchange:
    """One request as the socket saw it; all stamps are `CLOCK_MONOTONIC` seconds.

    Attributes:
        sent_s: Just before the first byte was written.
        send_s: Seconds it took to hand over the whole request.
        connect_s: Seconds spent on opening the connection, 0 when it was open already.
        ended_s: When the reply was complete, or given up.
        status: HTTP status, None when there was no answer.
        headers: Of the answer, names in lower case.
        parts: Stamp of the read and the body bytes it brought, in order.
        failure: What broke the exchange itself; None when the answer is complete.
    """

    sent_s: float
    send_s: float = 0.0
    connect_s: float = 0.0
    ended_s: float = 0.0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    failure: Failure | None = None


@dataclass(frozen=True)
class Reading:
    """What an exchange contained.

    Attributes:
        chunk_s: Stamp of each chunk that brought text; comments, roles and special tokens do not.
        usage: Token counts, where the container sends them.
        finish_reason: The container's own word.
        failure: Why the reply is not complete; None when it is.
    """

    chunk_s: list[float]
    usage: Usage | None = None
    finish_reason: str | None = None
    failure: Failure | None = None


class HTTPResponse:
    """An HTTP/1.1 response, read as it arrives: the head, then the body without its framing.

    Cheaper than a general parser because it runs while the clock does: about a microsecond a read.

    Attributes:
        status: None until the head is complete.
        headers: Names in lower case.
        is_complete: The body has ended.
        keeps_alive: The connection can carry another request.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.is_complete = False
        self.keeps_alive = False
        self._rest = b""
        self._left: int | None = 0  # bytes to come of the body or chunk; None: until the close
        self._is_chunked = False
        self._in_trailers = False

    def feed(self, data: bytes) -> bytes:
        """The body bytes in this read.

        Raises:
            ValueError: When this is no HTTP/1.1 response.
        """
        self._rest += data
        if self.status is None and not self._read_head():
            return b""
        return self._chunks() if self._is_chunked else self._plain()

    def close(self) -> None:
        """The connection has ended: so has a body that had no length."""
        if self.status is not None and self._left is None:
            self.is_complete = True

    def _read_head(self) -> bool:
        head, found, rest = self._rest.partition(b"\r\n\r\n")
        if not found:
            if len(self._rest) > _HEAD_LIMIT_BYTES:
                raise ValueError("the head of the answer does not end")
            return False
        self._rest = rest
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, status = first.partition(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError(f"not an HTTP/1.1 answer: {first[:60]!r}")
        code = int(status[:3])
        if code < 200:  # 100 Continue and its kin announce the real one
            return self._read_head()
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self.status = code
        self.keeps_alive = self.headers.get("connection", "").lower() != "close"
        self._is_chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        if not self._is_chunked:
            length = self.headers.get("content-length")
            self._left = 0 if code in (204, 304) else None if length is None else int(length)
            self.keeps_alive = self.keeps_alive and self._left is not None
        return True

    def _plain(self) -> bytes:
        body, self._rest = self._rest, b""
        if self._left is not None:
            self._left -= len(body)
            self.is_complete = self._left <= 0
        return body

    def _chunks(self) -> bytes:
        body = []
        while self._rest and not self.is_complete:
            if self._left:  # the chunk's bytes and the line end after them
                piece, self._rest = self._rest[: self._left], self._rest[self._left :]
                body.append(piece[: self._left - 2])
                self._left -= len(piece)
                continue
            line, found, rest = self._rest.partition(b"\r\n")
            if not found:
                break
            self._rest = rest
            if self._in_trailers:
                self.is_complete = not line
            elif size := int(line.partition(b";")[0], 16):
                self._left = size + 2
            else:
                self._in_trailers = True
        return b"".join(body)


@dataclass(frozen=True)
class Address:
    """Where connections go.

    Attributes:
        host: Name or number.
        port: TCP port.
        tls: The TLS context, None for plain HTTP (only ever loopback, in rehearsal).
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, url: str) -> "Address":
        """The address of a URL, with the certificates that botocore would use."""
        parts = urlsplit(url)
        if parts.scheme == "http":
            return cls(parts.hostname, parts.port or 80)
        bundle = os.environ.get("AWS_CA_BUNDLE") or get_cert_path(True)
        return cls(parts.hostname, parts.port or 443, ssl.create_default_context(cafile=bundle))


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection that carries one exchange after another."""

    def __init__(self) -> None:
        self.connect_s = 0.0
        self._transport: asyncio.Transport | None = None
        self._response = HTTPResponse()
        self._exchange: Exchange | None = None
        self._done: asyncio.Future | None = None

    @classmethod
    async def open(cls, address: Address) -> "Connection":
        """Connect, handshake included.

        Raises:
            OSError: When nothing answers there within 10 s.
        """
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(
                cls, address.host, address.port, ssl=address.tls
            )
        connection.connect_s = time.monotonic() - started
        return connection

    @property
    def is_usable(self) -> bool:
        """True while it can carry a request."""
        return self._transport is not None and not self._transport.is_closing()

    async def send(self, request: bytes, *, timeout_s: float) -> Exchange:
        """Write a request and wait until its answer is complete, broken or late."""
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        self._response = HTTPResponse()
        late = loop.call_later(timeout_s, self.abandon, "timeout", "no complete reply in time")
        self._exchange = exchange = Exchange(sent_s=time.monotonic(), connect_s=self.connect_s)
        self._transport.write(request)
        exchange.send_s = time.monotonic() - exchange.sent_s
        self.connect_s = 0.0  # the next request finds the connection open
        await self._done
        late.cancel()
        if exchange.failure or not self._response.keeps_alive:
            self.close()
        return exchange

    def abandon(self, kind: str, message: str) -> None:
        """Give up the exchange under way, if there is one."""
        self._finish(time.monotonic(), Failure(kind, message))

    def close(self) -> None:
        """Close the connection; also safe when it is closed."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Called by asyncio."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio with each read: stamp first, think later."""
        stamp = time.monotonic()
        if self._exchange is None:  # bytes that nobody asked for
            self.close()
            return
        try:
            body = self._response.feed(data)
        except ValueError as error:
            self._finish(stamp, Failure("framing", str(error)))
            return
        if body:
            self._exchange.parts.append((stamp, body))
        if self._response.is_complete:
            self._finish(stamp)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio when the other side has gone."""
        stamp = time.monotonic()
        self._response.close()
        if self._response.is_complete:
            self._finish(stamp)
            return
        words = str(error) if error else "the connection was closed before the reply was complete"
        status = self._response.status
        self._finish(stamp, Failure("connection" if status is None else "truncated", words, status))

    def _finish(self, stamp: float, failure: Failure | None = None) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        exchange.ended_s, exchange.failure = stamp, failure
        exchange.status, exchange.headers = self._response.status, self._response.headers
        self._done.set_result(None)


class SageMakerStream:
    """InvokeEndpointWithResponseStream: how a request is signed and a reply is read.

    Args:
        endpoint_name: The endpoint.
        endpoint_url: Base URL of the runtime service, as boto3's client has it.
        region: For the signature.
        credentials: botocore credentials; asked again at each signature, so they may refresh.
    """

    name = "InvokeEndpointWithResponseStream"

    def __init__(self, endpoint_name: str, *, endpoint_url: str, region: str, credentials):
        if credentials is None:
            raise InvocationError(
                "Requests are signed with AWS credentials and there are none: sign in first.",
                kind="credentials",
            )
        self._url = (
            f"{endpoint_url.rstrip('/')}/endpoints/{quote(endpoint_name, safe='')}"
            "/invocations-response-stream"
        )
        self._region = region
        self._credentials = credentials
        self.address = Address.of(endpoint_url)

    @classmethod
    def of(cls, session, endpoint_name: str) -> "SageMakerStream":
        """Over the same URL, region and credentials as the session's boto3 client."""
        return cls(
            endpoint_name,
            endpoint_url=session.client("sagemaker-runtime").meta.endpoint_url,
            region=session.region,
            credentials=session.boto.get_credentials(),
        )

    def request(self, body: bytes, *, inference_id: str) -> bytes:
        """The whole HTTP request, signed now; SageMaker accepts it for five minutes."""
        request = AWSRequest(
            "POST",
            self._url,
            headers={
                "Content-Type": "application/json",
                "X-Amzn-SageMaker-Inference-Id": inference_id,
            },
            data=body,
        )
        frozen = self._credentials.get_frozen_credentials()
        SigV4Auth(frozen, "sagemaker", self._region).add_auth(request)
        parts = urlsplit(self._url)
        default_port = {"http": 80, "https": 443}[parts.scheme]
        host = parts.hostname if parts.port in (None, default_port) else parts.netloc
        head = [f"POST {parts.path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
        head += [f"{name}: {_text(value)}" for name, value in request.headers.items()]
        return "\r\n".join([*head, "", ""]).encode("latin-1") + body

    def read(self, exchange: Exchange) -> Reading:
        """Unframe and count, after the fact; what arrived before a failure is kept."""
        if exchange.status is not None and exchange.status != 200:
            return Reading([], failure=exchange.failure or _refusal(exchange))
        reading = _read(_sse_parts(exchange.parts))
        if exchange.failure:
            return Reading(reading.chunk_s, reading.usage, None, exchange.failure)
        return reading


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


class _StreamFailed(Exception):
    def __init__(self, failure: Failure):
        super().__init__(failure.message)
        self.failure = failure


def _sse_parts(parts: list[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """SageMaker's event stream taken apart, both CRCs checked: stamp and payload of each event."""
    buffer = EventStreamBuffer()
    for stamp, data in parts:
        buffer.add_data(data)
        try:
            for event in buffer:
                kind = event.headers.get(":exception-type") or event.headers.get(":error-code")
                if kind:
                    raise _StreamFailed(_stream_exception(kind, event.payload))
                yield stamp, event.payload
        except ParserError as error:
            raise _StreamFailed(Failure("framing", str(error))) from error


def _read(parts: Iterator[tuple[float, bytes]]) -> Reading:
    decoder = SSEDecoder()
    chunk_s: list[float] = []
    usage = finish_reason = failure = None
    is_done = False

    def take(stamp: float, payloads: list[str]) -> None:
        nonlocal usage, finish_reason, failure, is_done
        for chunk in map(parse_chunk, payloads):
            if chunk.error:
                message = chunk.error.message[:_WORDS_LIMIT]
                failure = failure or Failure(
                    chunk.error.kind, message, 200, chunk.error.status, message
                )
            usage = chunk.usage or usage
            finish_reason = chunk.finish_reason or finish_reason
            is_done = is_done or chunk.is_done
            if chunk.text:
                chunk_s.append(stamp)

    stamp = 0.0
    try:
        for stamp, data in parts:
            take(stamp, decoder.feed(data))
        take(stamp, decoder.close())
    except _StreamFailed as error:
        failure = error.failure
    if failure is None and finish_reason is None and not is_done:
        failure = Failure("truncated", "the stream ended without a finish reason", 200)
    if failure is None and not chunk_s:
        failure = Failure("empty", "the stream ended without any text", 200)
    return Reading(chunk_s, usage, finish_reason, failure)


def _stream_exception(kind: str, payload: bytes) -> Failure:
    details = _json(payload)
    words = str(details.get("Message") or details.get("message") or kind)[:_WORDS_LIMIT]
    return Failure(str(details.get("ErrorCode") or kind), words, 200)


def _refusal(exchange: Exchange) -> Failure:
    """An HTTP error, in SageMaker's terms; the container's own words are kept beside them."""
    body = b"".join(data for _, data in exchange.parts)
    details = _json(body)
    kind = exchange.headers.get("x-amzn-errortype", "").partition(":")[0]
    words = details.get("Message") or details.get("message") or body.decode("utf-8", "replace")
    original = details.get("OriginalMessage")
    return Failure(
        kind=kind or str(details.get("Code") or f"HTTP {exchange.status}"),
        message=str(words)[:_WORDS_LIMIT],
        status=exchange.status,
        original_status=details.get("OriginalStatusCode"),
        original_message=str(original)[:_WORDS_LIMIT] if original else None,
    )


def _json(body: bytes) -> dict:
    try:
        data = json.loads(body)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
