"""What a request to a service looks like on the wire, and what its answer says.

`SageMakerStream` and `OpenAIStream` are the load engine's two transports: both sign or authorize a
request beforehand and take an answer apart after it has ended.
"""

import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol
from urllib.parse import SplitResult, quote, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.eventstream import EventStreamHeaderParser, ParserError

from helpers import hub, messages
from helpers.connection import Address, Exchange
from helpers.errors import InvocationError
from helpers.messages import SSEDecoder, Usage, parse_chunk
from helpers.records import Failure

_INFERENCE_ID = "X-Amzn-SageMaker-Inference-Id"
_WORDS_LIMIT = 500  # characters of a server's own words that are kept


@dataclass(frozen=True)
class Reading:
    """What an exchange contained.

    Attributes:
        chunk_s: Stamp of each chunk that brought text; comments, roles and special tokens do not.
        text: The reply as far as it came.
        usage: Token counts, where the container sends them.
        finish_reason: The container's own word.
        failure: Why the reply is not complete; None when it is.
    """

    chunk_s: list[float]
    text: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None
    failure: Failure | None = None


class Transport(Protocol):
    """What the engine needs to know about a service."""

    name: str
    address: Address

    def request(self, body: bytes, *, inference_id: str) -> bytes:
        """The whole HTTP request, signed now."""

    def read(self, exchange: Exchange) -> Reading:
        """What the answer contained."""


class SageMakerStream:
    """InvokeEndpointWithResponseStream: how a request is signed and a reply is read.

    Pickled, for a client on another machine, it takes along the credentials of that moment.

    Args:
        endpoint_name: The endpoint.
        endpoint_url: Base URL of the runtime service, as boto3's client has it.
        region: For the signature.
        credentials: botocore credentials; asked again at each signature, so they may refresh.
        proxies: As botocore's `Config` has them; by default the environment's.
    """

    name = "InvokeEndpointWithResponseStream"

    def __init__(
        self,
        endpoint_name: str,
        *,
        endpoint_url: str,
        region: str,
        credentials,
        proxies: Mapping[str, str] | None = None,
    ):
        if credentials is None:
            raise InvocationError(
                "Requests are signed with AWS credentials and there are none: sign in first.",
                kind="credentials",
            )
        self._endpoint_name = endpoint_name
        self._endpoint_url = endpoint_url
        self._url = (
            f"{endpoint_url.rstrip('/')}/endpoints/{quote(endpoint_name, safe='')}"
            "/invocations-response-stream"
        )
        self._region = region
        self._credentials = credentials
        self._proxies = proxies
        self.address = Address.of(endpoint_url, proxies=proxies)

    @classmethod
    def of(cls, session, endpoint_name: str) -> "SageMakerStream":
        """Over the same URL, region, credentials and proxies as the session's boto3 client."""
        meta = session.client("sagemaker-runtime").meta
        return cls(
            endpoint_name,
            endpoint_url=meta.endpoint_url,
            region=session.region,
            credentials=session.boto.get_credentials(),
            proxies=meta.config.proxies,
        )

    def __reduce__(self):
        frozen = self._credentials.get_frozen_credentials()
        return _unpickled, (
            self._endpoint_name,
            self._endpoint_url,
            self._region,
            tuple(frozen[:3]),
            self._proxies,
        )

    def request(self, body: bytes, *, inference_id: str) -> bytes:
        """The whole HTTP request, signed now; SageMaker accepts it for five minutes."""
        headers = {"Content-Type": "application/json", _INFERENCE_ID: inference_id}
        request = AWSRequest("POST", self._url, headers=headers, data=body)
        frozen = self._credentials.get_frozen_credentials()
        SigV4Auth(frozen, "sagemaker", self._region).add_auth(request)
        return _http(self._url, request.headers.items(), body)

    def read(self, exchange: Exchange) -> Reading:
        """Unframe and count, after the fact; what arrived before a failure is kept."""
        if exchange.status is not None and exchange.status != 200:
            return _clean(
                Reading([], failure=exchange.failure or _refusal(exchange)), self._secrets
            )
        return _clean(read_sse(payloads(exchange.parts), broken=exchange.failure), self._secrets)

    @property
    def _secrets(self) -> Sequence[str | None]:
        return self._credentials.get_frozen_credentials()[1:3]


def _unpickled(name, url, region, credentials, proxies) -> SageMakerStream:
    return SageMakerStream(
        name,
        endpoint_url=url,
        region=region,
        credentials=Credentials(*credentials),
        proxies=proxies,
    )


class OpenAIStream:
    """`/chat/completions` of any OpenAI-compatible server, streamed.

    Args:
        base_url: What an OpenAI client calls its base URL, for example `http://127.0.0.1:8000/v1`.
        key: The bearer token, a secret; called for each request when it is a function; None
            without one.
    """

    name = "OpenAI chat completions"

    def __init__(self, base_url: str, *, key: str | Callable[[], str] | None = None):
        _address(base_url)
        self._base_url = base_url
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._key = key
        self.address = Address.of(base_url)

    def __reduce__(self):
        return _openai_unpickled, (self._base_url, self._token())

    def _token(self) -> str | None:
        return self._key() if callable(self._key) else self._key

    def request(self, body: bytes, *, inference_id: str) -> bytes:
        """The whole HTTP request; the id goes where SageMaker and where vLLM look for it."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            _INFERENCE_ID: inference_id,
            "X-Request-Id": inference_id,
        }
        if token := self._token():
            headers["Authorization"] = f"Bearer {token}"
        return _http(self._url, headers.items(), body)

    def read(self, exchange: Exchange) -> Reading:
        """Count, after the fact; what arrived before a failure is kept."""
        if exchange.status is not None and exchange.status != 200:
            failure = exchange.failure or _openai_refusal(exchange)
            return _clean(Reading([], failure=failure), self._secrets)
        kind = exchange.headers.get("content-type", "")
        if exchange.status and not kind.startswith("text/event-stream"):
            words = f"asked for a stream, the server answered {kind or 'something else'}"
            return Reading([], failure=exchange.failure or Failure("framing", words, 200))
        return _clean(read_sse(exchange.parts, broken=exchange.failure), self._secrets)

    @property
    def _secrets(self) -> Sequence[str | None]:
        return () if callable(self._key) else (self._key,)


def _address(url: str) -> SplitResult:
    """The parts of a server's URL; one that is refused is not repeated: it may hold a password."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
        url.encode("ascii")
    except ValueError:
        is_one = False
    if not is_one:
        raise InvocationError(
            "That is no address of a server: give one such as http://127.0.0.1:8000/v1.",
            kind="request",
        )
    if parts.username is not None or parts.query:
        raise InvocationError(
            f"The address of {parts.hostname} has a user or a query in it, which would be kept "
            "with each run: leave that out and give a key.",
            kind="request",
        )
    return parts


def _openai_unpickled(base_url: str, key: str | None) -> OpenAIStream:
    return OpenAIStream(base_url, key=key)


def _http(url: str, headers: Iterable[tuple[str, str | bytes]], body: bytes) -> bytes:
    parts = urlsplit(url)
    default_port = {"http": 80, "https": 443}[parts.scheme]
    host = parts.hostname if parts.port in (None, default_port) else parts.netloc.rpartition("@")[2]
    head = [f"POST {parts.path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    head += [f"{name}: {_text(value)}" for name, value in headers]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


# --- what an answer says: pure --------------------------------------------------------------------


class StreamFailed(Exception):
    """Raised by an iterator of payloads when the stream itself says that it has failed.

    Attributes:
        failure: What it said.
    """

    def __init__(self, failure: Failure):
        super().__init__(failure.message)
        self.failure = failure


_PRELUDE = struct.Struct("!III")
_CRC = struct.Struct("!I")
_FRAME_BYTES = 16  # prelude and the message's own checksum


def payloads(parts: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """SageMaker's event stream taken apart, both checksums of each message checked.

    botocore's own parser takes 8 µs an event, as long as all else that is done with a token; this
    one takes 1.
    Format: `vnd.amazon.eventstream`, lengths of message and headers, their CRC, headers, payload,
    CRC of all that.

    Args:
        parts: Stamp and bytes of each read.

    Yields:
        Stamp of the read that completed a payload part, and its bytes.

    Raises:
        StreamFailed: When a checksum is wrong, or the stream carries an exception.
    """
    rest = b""
    for stamp, data in parts:
        rest = rest + data if rest else data
        start, there = 0, len(rest)
        while there - start >= 12:
            length, headers_length, prelude_crc = _PRELUDE.unpack_from(rest, start)
            crc = zlib.crc32(rest[start : start + 8])
            if crc != prelude_crc or length < headers_length + _FRAME_BYTES:
                raise StreamFailed(Failure("framing", "a message has a wrong checksum or length"))
            end = start + length
            if end > there:
                break
            if zlib.crc32(rest[start + 8 : end - 4], crc) != _CRC.unpack_from(rest, end - 4)[0]:
                raise StreamFailed(Failure("framing", "a message has a wrong checksum"))
            payload_at = start + 12 + headers_length
            payload = rest[payload_at : end - 4]
            kind = _exception_kind(rest[start + 12 : payload_at])
            if kind:
                raise StreamFailed(_stream_exception(kind, payload))
            yield stamp, payload
            start = end
        rest = rest[start:]


@lru_cache(maxsize=64)  # the headers of payload parts are always the same
def _exception_kind(headers: bytes) -> str | None:
    try:
        named = EventStreamHeaderParser().parse(headers)
    except (ParserError, KeyError, ValueError, struct.error) as error:
        raise StreamFailed(
            Failure("framing", f"a message has unreadable headers ({error})")
        ) from error
    return named.get(":exception-type") or named.get(":error-code")


def read_sse(parts: Iterable[tuple[float, bytes]], *, broken: Failure | None = None) -> Reading:
    """A chat's server-sent events, in any container's dialect, from bytes cut anywhere.

    Args:
        parts: Stamp and bytes of each piece; may raise `StreamFailed`.
        broken: Why the exchange itself failed: then nothing else is said about its end.
    """
    decoder = SSEDecoder()
    found = _Found()
    stamp = 0.0
    try:
        for stamp, data in parts:
            for payload in decoder.feed(data):
                found.take(stamp, payload)
        for payload in decoder.close():
            found.take(stamp, payload)
    except StreamFailed as error:
        found.failure = error.failure
    return found.reading(broken)


class _Found:
    """What the chunks of one reply have said so far."""

    def __init__(self) -> None:
        self.chunk_s: list[float] = []
        self.pieces: list[str] = []
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.failure: Failure | None = None
        self.is_done = False

    def take(self, stamp: float, payload: str) -> None:
        text, finish_reason, usage, error, is_done = parse_chunk(payload)
        if text:
            self.chunk_s.append(stamp)
            self.pieces.append(text)
        if usage:
            self.usage = usage
        if finish_reason:
            self.finish_reason = finish_reason
        if is_done:
            self.is_done = True
        if error and not self.failure:
            words = error.message[:_WORDS_LIMIT]
            self.failure = Failure(error.kind, words, 200, error.status, words)

    def reading(self, broken: Failure | None) -> Reading:
        return Reading(
            self.chunk_s,
            "".join(self.pieces),
            self.usage,
            None if broken else self.finish_reason,
            broken or self.failure or self._shortcoming(),
        )

    def _shortcoming(self) -> Failure | None:
        if self.finish_reason is None and not self.is_done:
            return Failure("truncated", "the stream ended without a finish reason", 200)
        if not self.chunk_s:
            return Failure("empty", "the stream ended without any text", 200)
        return None


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


def _openai_refusal(exchange: Exchange) -> Failure:
    """An HTTP error of a server that nobody stands in front of: its words are the container's."""
    body = b"".join(data for _, data in exchange.parts)
    details = _json(body)
    fault = messages.fault(details or {"error": body.decode("utf-8", "replace")}, exchange.status)
    words = fault.message[:_WORDS_LIMIT]
    return Failure(fault.kind, words, exchange.status, exchange.status, words)


def _clean(reading: Reading, secrets: Sequence[str | None]) -> Reading:
    """A reading whose failure is fit to be kept and shown, whatever the server has said.

    Servers quote the key that they refuse, send escape codes to whoever reads along, name their
    errors as the engine names its own, and say numbers that are none.
    """
    failure = reading.failure
    if failure is None:
        return reading
    known = {failure.status, failure.original_status}
    clean = Failure(
        _words(failure.kind, secrets),
        _words(failure.message, secrets),
        failure.status,
        failure.original_status if type(failure.original_status) is int else None,
        failure.original_message and _words(failure.original_message, secrets),
    )
    if failure.kind in ("interrupted", "timeout") and known != {None}:
        clean = replace(clean, kind=f"HTTP {failure.status}")
    return replace(reading, failure=clean)


def _words(text: str, secrets: Sequence[str | None]) -> str:
    shown = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return hub.redact(shown, *secrets)


def _json(body: bytes) -> dict:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
