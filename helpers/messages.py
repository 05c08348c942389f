"""Talk to the endpoint: whole replies, streamed replies, and the OpenAI route.

Three layers, each usable alone: `SSEDecoder` turns bytes, cut anywhere, into payloads;
`parse_chunk` reads one payload of any container; `chat` and `stream` do the calling.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import urllib3.exceptions
from botocore import eventstream, exceptions
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest

from helpers import hub
from helpers.ending import Ending, ended_by
from helpers.errors import InvocationError

Message = Mapping[str, str]

ROLES = ("system", "user", "assistant", "tool")
# TGI 2.x stops after 100 tokens when nothing is said, TGI 3.x and vLLM when the budget is used
# up: always saying it makes one notebook behave the same everywhere.
MAX_TOKENS = 512
# Messages are refused by TGI 2.0.2 without a model name, and any name will do.
MODEL = "tgi"

# Bearer tokens, as in sagemaker-core 2.27.0, sagemaker/core/token_generator (2026-11).
_TOKEN_URL = "https://sagemaker.amazonaws.com/"
_TOKEN_PREFIX = "sagemaker-api-key-"
_TOKEN_SECONDS = 12 * 3600


# --- bytes to payloads to chunks: pure -----------------------------------------------------------


class SSEDecoder:
    """Server-sent events from bytes that may be cut anywhere, also inside a character.

    Every `data:` line is handed out as soon as its line ends, not at the blank line after it: the
    containers send one JSON a line, and a benchmark wants to know which bytes completed it.
    Comments (`:`) and other fields are dropped.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The payloads completed by these bytes, in order."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return list(_payloads(lines))

    def close(self) -> list[str]:
        """The last payload when the stream ended without a newline, else nothing."""
        line, self._rest = self._rest, b""
        return list(_payloads([line]))


def _payloads(lines: Iterable[bytes]) -> Iterator[str]:
    for line in lines:
        if line.startswith(b"data:"):
            payload = line[5:].strip()
            if payload:
                yield payload.decode("utf-8", errors="replace")


@dataclass(frozen=True)
class Usage:
    """Token counts a container reported; None where it did not count.

    `prompt_tokens` is None where the container says 0, as TGI 2.x does on Neuron: no prompt is
    empty, its template alone has tokens.
    """

    prompt_tokens: int | None
    output_tokens: int | None


@dataclass(frozen=True)
class Fault:
    """What a container said went wrong.

    Attributes:
        kind: `validation`, `overloaded`, `generation`, `incomplete`, `unreadable` or `container`.
        message: The container's own words.
        status: The HTTP status it meant, None when it did not say.
    """

    kind: str
    message: str
    status: int | None = None


class Chunk(NamedTuple):
    """One payload of a stream, the same for all containers.

    Attributes:
        text: What it adds to the reply, empty for role, special-token and usage chunks.
        finish_reason: Why the reply ended, in the container's word, in its last chunk.
        usage: Token counts, where the container sends them.
        error: What went wrong, if that is what the chunk is about.
        is_done: True for the `[DONE]` marker.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    error: Fault | None = None
    is_done: bool = False


def parse_chunk(payload: str) -> Chunk:
    """Read one payload: TGI 2.0.2, 2.1.1, 3.x, vLLM, or TGI's own `{"token": …}`.

    Never raises: what is no JSON object, or none of these shapes, is a chunk with an error of
    kind `unreadable`.
    """
    if payload == "[DONE]":
        return Chunk(is_done=True)
    data = _json_object(payload)
    if data is None:
        return Chunk(error=Fault("unreadable", f"not a JSON object: {payload[:200]}"))
    try:
        if data.get("error") or data.get("object") == "error":
            return Chunk(error=fault(data))
        if "token" in data:
            return _tgi_chunk(data)
        return _openai_chunk(data)
    except (AttributeError, KeyError, TypeError, IndexError):
        return Chunk(error=Fault("unreadable", f"unknown shape: {payload[:200]}"))


# What `json.loads` does around it costs as much as the decoding of a chunk.
_decode = json.JSONDecoder().raw_decode


def _json_object(text: str) -> dict[str, Any] | None:
    text = text.strip()
    try:
        data, end = _decode(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and end == len(text) else None


def _openai_chunk(data: dict[str, Any]) -> Chunk:
    usage = _usage(data.get("usage"))
    choices = data["choices"]
    if not choices:  # the last chunk when usage was asked for
        return Chunk(usage=usage)
    delta = choices[0].get("delta") or {}  # TGI 2.0.2 sends {} for a special token
    return Chunk(str(delta.get("content") or ""), _word(choices[0].get("finish_reason")), usage)


def _tgi_chunk(data: dict[str, Any]) -> Chunk:
    token, details = data["token"], data.get("details") or {}
    usage = None
    if details:
        usage = Usage(
            _count(details.get("input_length")) or None, _count(details.get("generated_tokens"))
        )
    text = "" if token.get("special") else str(token.get("text") or "")
    return Chunk(text, _word(details.get("finish_reason")), usage)


def _usage(data: Mapping[str, Any] | None) -> Usage | None:
    if not data:
        return None
    return Usage(_count(data.get("prompt_tokens")) or None, _count(data.get("completion_tokens")))


def _count(value: object) -> int | None:
    """A number of tokens, None for what cannot be one."""
    return value if type(value) is int and 0 <= value < _MOST_TOKENS else None


def _word(value: object) -> str | None:
    return value if isinstance(value, str) else None


_MOST_TOKENS = 10_000_000  # of one request: more than any model's context
_KIND_OF_STATUS = {400: "validation", 422: "validation", 424: "generation", 429: "overloaded"}
_STATUS_OF_TYPE = {"validation": 422, "overloaded": 429, "generation": 424}


def fault(data: Mapping[str, Any], status: int | None = None) -> Fault:
    """A container's error body: TGI 2.x, TGI 3.x, or vLLM (nested, or flat in older ones)."""
    details = data["error"] if isinstance(data.get("error"), dict) else data
    message = str(details.get("message") or data.get("error") or "no reason given")
    kind = str(data.get("error_type") or "")
    told = (status, details.get("http_status_code"), _STATUS_OF_TYPE.get(kind), details.get("code"))
    status = next((one for one in told if type(one) is int and 100 <= one < 600), None)
    if kind.startswith("incomplete"):
        return Fault("incomplete", message, status or 500)
    return Fault(_KIND_OF_STATUS.get(status, "container"), message, status)


# --- calling the endpoint ------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """One whole reply.

    Attributes:
        text: What the model wrote.
        finish_reason: Why it stopped: `length`, `eos_token`, `stop`, `stop_sequence`.
        prompt_tokens: As the container counted, None where it does not (TGI 2.x on Neuron).
        output_tokens: As the container counted.
        raw: The container's JSON.
    """

    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    output_tokens: int | None
    raw: Mapping[str, Any]


def chat(
    client,
    endpoint_name: str,
    messages: Sequence[Message],
    *,
    model: str = MODEL,
    max_tokens: int | None = MAX_TOKENS,
    temperature: float | None = None,
    top_p: float | None = None,
    stop: Sequence[str] | str | None = None,
    seed: int | None = None,
) -> Reply:
    """Send a conversation and wait for the whole reply; SageMaker gives it 60 s.

    Args:
        client: A boto3 `sagemaker-runtime` client.
        endpoint_name: The endpoint.
        messages: Turns with `role` (system, user, assistant) and `content`.
        model: Any word for TGI; for vLLM the model id it serves.
        max_tokens: Output tokens at most; None leaves it to the container.
        temperature: Above 0; None for the container's default.
        top_p: Above 0 and below 1; None for the container's default.
        stop: Words that end the reply. Container 0.0.22 ignores them.
        seed: Makes sampling repeatable; None draws anew each time.

    Raises:
        InvocationError: When there is no reply, with what to do about it.
    """
    body = request_body(
        messages,
        model=model,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        stop=stop,
        seed=seed,
    )
    try:
        response = client.invoke_endpoint(**_request(endpoint_name, body))
        data = response["Body"].read()
    except _CALL_ERRORS as error:
        raise _explained(error, endpoint_name) from error
    return _reply(data)


def stream(
    client,
    endpoint_name: str,
    messages: Sequence[Message],
    *,
    model: str = MODEL,
    max_tokens: int | None = MAX_TOKENS,
    temperature: float | None = None,
    top_p: float | None = None,
    stop: Sequence[str] | str | None = None,
    seed: int | None = None,
    ending: Ending | None = None,
) -> "ChatStream":
    """Send a conversation and read the reply as it is written; SageMaker gives it 8 minutes.

    Arguments as in `chat`; with an `ending` another thread can end it at any time. Iterate over
    the result for pieces of text.

    Raises:
        InvocationError: Here when the request is refused, while iterating when the stream breaks.
    """
    body = request_body(
        messages,
        model=model,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        stop=stop,
        seed=seed,
        stream=True,
    )
    try:
        with ended_by(ending, client):
            response = client.invoke_endpoint_with_response_stream(**_request(endpoint_name, body))
    except _CALL_ERRORS as error:
        raise _explained(error, endpoint_name) from error
    reply = ChatStream(response["Body"], endpoint_name=endpoint_name)
    if ending:
        ending.is_by(reply.close)
    return reply


def request_body(
    messages: Sequence[Message],
    *,
    model: str = MODEL,
    max_tokens: int | None = MAX_TOKENS,
    temperature: float | None = None,
    top_p: float | None = None,
    stop: Sequence[str] | str | None = None,
    seed: int | None = None,
    stream: bool = False,
) -> dict[str, Any]:
    """The Messages API request, with what is None left out.

    Raises:
        InvocationError: Of kind `request`, when the messages have no shape a container reads.
    """
    options = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "stop": [stop] if isinstance(stop, str) else list(stop) if stop else None,
        "stream": stream,
    }
    given = {name: value for name, value in options.items() if value is not None}
    return {"messages": _checked(messages), **given}


class ChatStream:
    """The text of one reply, piece by piece, as it arrives.

    Also a context manager; leaving it, or `close()` from any thread, ends the request upstream so
    that the endpoint's batch slot is free for the next one.

    Attributes:
        text: Everything so far.
        finish_reason: Why the reply ended; None while it runs and after `close()`.
        prompt_tokens: As the container counted; None where a stream does not say.
        output_tokens: As the container counted, else pieces of text: containers send one a token.
    """

    def __init__(self, events, *, endpoint_name: str):
        self.text = ""
        self.finish_reason: str | None = None
        self.prompt_tokens: int | None = None
        self.output_tokens = 0
        self._events = events
        self._endpoint_name = endpoint_name
        self._closed = False
        self._pieces = self._read()

    def __iter__(self) -> "ChatStream":
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> "ChatStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the request; harmless when it has ended or when called twice."""
        self._closed = True
        # Closing alone would wait for a read that another thread is blocked in: botocore's stream
        # is urllib3's response, and shutting that down first wakes the reader.
        raw = getattr(self._events, "_raw_stream", None)
        with suppress(AttributeError, RuntimeError, ValueError, OSError):
            raw.shutdown()
        self._events.close()

    def _read(self) -> Iterator[str]:
        usage = None
        try:
            for payload in self._payloads():
                chunk = parse_chunk(payload)
                if chunk.error:
                    raise _refused(chunk.error, partial=self.text)
                usage = chunk.usage or usage
                self.finish_reason = chunk.finish_reason or self.finish_reason
                if chunk.text:
                    self.text += chunk.text
                    self.output_tokens += 1
                    yield chunk.text
        except Exception as error:
            if self._closed:  # whatever urllib3 makes of a response closed under its hands
                return
            if not isinstance(error, _CALL_ERRORS):
                raise
            raise _explained(error, self._endpoint_name, partial=self.text) from error
        finally:
            self._events.close()
        if self._closed:
            return
        if self.finish_reason is None:
            raise _broken("it ended without a finish reason", self.text)
        if usage:
            self.prompt_tokens = usage.prompt_tokens
            self.output_tokens = usage.output_tokens or self.output_tokens

    def _payloads(self) -> Iterator[str]:
        decoder = SSEDecoder()
        for event in self._events:
            yield from decoder.feed(event.get("PayloadPart", {}).get("Bytes", b""))
        yield from decoder.close()


def _request(endpoint_name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "EndpointName": endpoint_name,
        "ContentType": "application/json",
        "Body": json.dumps(body).encode(),
    }


def _checked(messages: Sequence[Message]) -> list[dict[str, str]]:
    if isinstance(messages, str | Mapping) or not messages:
        raise InvocationError(
            'messages is a list such as [{"role": "user", "content": "Hello"}]: give at least one.',
            kind="request",
        )
    return [_checked_turn(index, turn) for index, turn in enumerate(messages)]


def _checked_turn(index: int, turn: Message) -> dict[str, str]:
    role = turn.get("role") if isinstance(turn, Mapping) else None
    if role not in ROLES:
        raise InvocationError(
            f"messages[{index}] has the role {role!r}: use {', '.join(ROLES[:-1])}.",
            kind="request",
        )
    if not isinstance(turn.get("content"), str):
        raise InvocationError(f"messages[{index}] has no text in `content`.", kind="request")
    return {"role": role, "content": turn["content"]}


def _reply(body: bytes) -> Reply:
    data = _json_object(body.decode("utf-8", "replace"))
    try:
        if data.get("error"):
            raise _refused(fault(data))
        choice, usage = data["choices"][0], _usage(data.get("usage")) or Usage(None, None)
        return Reply(
            choice["message"].get("content") or "",
            choice.get("finish_reason"),
            usage.prompt_tokens,
            usage.output_tokens,
            data,
        )
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise InvocationError(
            f"The endpoint's reply has no Messages API shape: {body[:200]!r}. Does its container "
            "have MESSAGES_API_ENABLED=true?",
            kind="unreadable",
        ) from error


# --- errors, one sentence each -------------------------------------------------------------------

_CALL_ERRORS = (
    exceptions.BotoCoreError,
    exceptions.ClientError,
    eventstream.ParserError,
    urllib3.exceptions.HTTPError,
    OSError,
)

_CREDENTIALS = (
    "credentials",
    "AWS does not accept the credentials this was started with ({words}): sign in again, then "
    "start it anew, a notebook from its first cell.",
)
_DENIED = (
    "denied",
    "AWS refused ({words}): the identity lacks this right; who administers the account gives it.",
)
_SERVICE = ("service", "SageMaker itself failed ({words}): try again in a minute.")
_THROTTLED = (
    "throttled",
    "SageMaker throttled the call ({words}): wait a few seconds, or send fewer at once.",
)
_WORDS_LIMIT = 500  # characters of AWS's or a container's own words that are shown
# In SageMaker's words for a whole reply and for a stream.
_TIMED_OUT = ("timed out", "timeout period", "ModelInvocationTimeExceeded")
_OF_CODE = {
    "AccessDenied": _DENIED,
    "AccessDeniedException": _DENIED,
    "ExpiredToken": _CREDENTIALS,
    "ExpiredTokenException": _CREDENTIALS,
    "IncompleteSignature": _CREDENTIALS,
    "InternalFailure": _SERVICE,
    "InternalServerException": _SERVICE,
    "InvalidClientTokenId": _CREDENTIALS,
    "InvalidSignatureException": _CREDENTIALS,
    "ModelNotReadyException": (
        "not_ready",
        "The model on {endpoint} is not ready ({words}): wait a minute and try again.",
    ),
    "ServiceUnavailable": _SERVICE,
    "ServiceUnavailableException": _SERVICE,
    "Throttling": _THROTTLED,
    "ThrottlingException": _THROTTLED,
    "TooManyRequestsException": _THROTTLED,
    "UnrecognizedClientException": _CREDENTIALS,
}
_OF_FAULT = {
    "validation": "The container refused the request: {words}. Change the request; the same one "
    "will be refused again.",
    "overloaded": "The container has no room for another request ({words}): try again in a moment.",
    "generation": "The model failed while generating ({words}): try again, and look into the "
    "endpoint's log if it stays so.",
    "incomplete": "The container gave up before the reply was complete ({words}): try again.",
    "unreadable": "The endpoint sent something that is no chat reply ({words}): try again, and "
    "look into its log if it stays so.",
    "container": "The container failed ({words}): try again, and look into the endpoint's log if "
    "it stays so.",
}


def _fit_to_show(words: str) -> str:
    """Somebody else's words without secrets, and not more of them than a reader would read."""
    words = hub.redact(words)
    return words if len(words) <= _WORDS_LIMIT else f"{words[:_WORDS_LIMIT]} …"


def _explained(error: Exception, endpoint_name: str, *, partial: str = "") -> InvocationError:
    """What a library's error means to the reader."""
    if isinstance(error, exceptions.ClientError):
        return _answered(error, endpoint_name, partial)
    if isinstance(error, exceptions.NoCredentialsError | exceptions.CredentialRetrievalError):
        kind, sentence = _CREDENTIALS
        text = sentence.format(words=_fit_to_show(str(error)).rstrip("."))
        return InvocationError(text, kind=kind, partial=partial)
    if isinstance(error, exceptions.ParamValidationError):
        return InvocationError(
            f"boto3 refused the request: {_fit_to_show(str(error))}", kind="request"
        )
    if isinstance(
        error,
        exceptions.ReadTimeoutError
        | exceptions.ConnectTimeoutError
        | urllib3.exceptions.TimeoutError
        | TimeoutError,
    ):
        return _timed_out(endpoint_name, partial=partial)
    if isinstance(error, exceptions.EndpointConnectionError | exceptions.ProxyConnectionError):
        return InvocationError(
            f"{_fit_to_show(str(error))} Check network and region, then try again.", kind="network"
        )
    return _broken(type(error).__name__, partial)


def _answered(error: exceptions.ClientError, endpoint_name: str, partial: str) -> InvocationError:
    """SageMaker said no: by itself, for the container, or in the middle of a stream."""
    response = error.response
    code = response.get("Error", {}).get("Code", "")
    words = response.get("Error", {}).get("Message", "") or code or "no reason given"
    shown = _fit_to_show(words).rstrip(".")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if any(sign in words for sign in _TIMED_OUT):
        return _timed_out(endpoint_name, status=status, partial=partial)
    if code == "ModelError":
        original = response.get("OriginalMessage") or words
        data = _json_object(original)
        said = fault(data if data else {"error": original}, response.get("OriginalStatusCode"))
        return _refused(said, status=status, partial=partial)
    if code in ("ModelStreamError", "InternalStreamFailure"):
        return _broken(words, partial)
    if code == "ValidationError" and "not found" in words:
        return InvocationError(
            f"There is no endpoint {endpoint_name} in service: it is not up yet, or was deleted, "
            "perhaps at the end of its time to live. 03_deploy_endpoint brings it up.",
            kind="not_found",
            status=status,
        )
    kind, sentence = _OF_CODE.get(code, ("request", "SageMaker refused the call: {words}."))
    text = sentence.format(words=shown, endpoint=endpoint_name)
    return InvocationError(text, kind=kind, status=status, partial=partial)


def _refused(fault: Fault, *, status: int | None = None, partial: str = "") -> InvocationError:
    words = _fit_to_show(fault.message)
    return InvocationError(
        _OF_FAULT[fault.kind].format(words=words.rstrip(".")),
        kind=fault.kind,
        status=status,
        original_status=fault.status,
        original_message=words,
        partial=partial,
    )


def _timed_out(
    endpoint_name: str, *, status: int | None = None, partial: str = ""
) -> InvocationError:
    return InvocationError(
        f"{endpoint_name} did not answer in time: ask again, for fewer tokens. SageMaker ends a "
        "streamed reply after 8 minutes, and a whole one after 60 s: stream it.",
        kind="timeout",
        status=status,
        partial=partial,
    )


def _broken(reason: str, partial: str) -> InvocationError:
    why = _fit_to_show(reason).rstrip(".")
    return InvocationError(
        f"The reply broke off after {len(partial)} characters ({why}): ask again.",
        kind="broken",
        partial=partial,
    )


# --- the OpenAI route of 2026 --------------------------------------------------------------------


def openai_url(session, endpoint_name: str) -> str:
    """Base URL for any OpenAI client; it appends `/chat/completions`.

    It is where the session's own client calls the endpoint, whatever the environment says.

    Source: AWS guide "Invoke endpoints with OpenAI-compatible APIs", 2026; not tried against a
    Neuron container.
    """
    host = session.client("sagemaker-runtime").meta.endpoint_url
    return f"{host.rstrip('/')}/endpoints/{endpoint_name}/openai/v1"


def bearer_token(session, *, expires_s: int = _TOKEN_SECONDS) -> str:
    """A bearer token for the OpenAI route: a secret, never to be printed.

    The same token as `sagemaker.core.token_generator` makes, without importing the SDK: a signed
    `CallWithBearerToken` request, in base64. It works until `expires_s` or until the credentials
    behind it end, and needs the rights `sagemaker:CallWithBearerToken` and
    `sagemaker:InvokeEndpoint`.

    Args:
        session: The workshop's session.
        expires_s: Seconds of validity, 12 hours at most.

    Raises:
        InvocationError: When the session has no credentials, or the validity is out of range.
    """
    if not 1 <= expires_s <= _TOKEN_SECONDS:
        raise InvocationError(
            f"A bearer token lasts 1 to {_TOKEN_SECONDS} s, not {expires_s}.", kind="request"
        )
    credentials = session.boto.get_credentials()
    if credentials is None:
        raise InvocationError(
            "A bearer token is made from AWS credentials and there are none: sign in first.",
            kind="credentials",
        )
    request = AWSRequest(
        method="POST",
        url=_TOKEN_URL,
        headers={"host": _TOKEN_URL.split("/")[2]},
        params={"Action": "CallWithBearerToken"},
    )
    frozen = credentials.get_frozen_credentials()
    SigV4QueryAuth(frozen, "sagemaker", session.region, expires=expires_s).add_auth(request)
    url = request.url.removeprefix("https://") + "&Version=1"
    return _TOKEN_PREFIX + base64.b64encode(url.encode()).decode()
