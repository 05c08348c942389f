"""What goes over the wire: AWS event-stream messages, and each container's dialect of replies.

A streamed token costs two joins and one CRC: everything around its text is prepared once.
"""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from struct import pack
from zlib import crc32

from helpers.errors import RehearsalError

# --- Event stream ---------------------------------------------------------------------------
# Format: AWS, "Event stream encoding" (smithy.io, aws/amazon-eventstream); names and content types
# as botocore's model of sagemaker-runtime has them.

EVENT_STREAM = "application/vnd.amazon.eventstream"
_STRING = 7  # type of a header's value


def _packed(headers: dict[str, str]) -> bytes:
    packed = bytearray()
    for name, value in headers.items():
        packed += pack("!B", len(name)) + name.encode()
        packed += pack("!BH", _STRING, len(value)) + value.encode()
    return bytes(packed)


_PAYLOAD_PART = _packed(
    {
        ":event-type": "PayloadPart",
        ":content-type": "application/octet-stream",
        ":message-type": "event",
    }
)


@lru_cache(maxsize=4096)
def _opening(payload_length: int, headers: bytes) -> tuple[bytes, int]:
    """All of a message before its payload, and the CRC up to there."""
    prelude = pack("!II", 16 + len(headers) + payload_length, len(headers))
    opening = prelude + pack("!I", crc32(prelude)) + headers
    return opening, crc32(opening)


def _message(payload: bytes, headers: bytes) -> bytes:
    opening, crc = _opening(len(payload), headers)
    return b"".join((opening, payload, crc32(payload, crc).to_bytes(4, "big")))


def payload_part(data: bytes) -> bytes:
    """One `PayloadPart` event that carries these bytes."""
    return _message(data, _PAYLOAD_PART)


def exception(kind: str, message: str, *, error_code: str | None = None) -> bytes:
    """An exception inside an event stream.

    Args:
        kind: `ModelStreamError` or `InternalStreamFailure`.
        message: What went wrong.
        error_code: For `ModelStreamError`: `ModelInvocationTimeExceeded` or `StreamBroken`.
    """
    headers = {
        ":exception-type": kind,
        ":content-type": "application/json",
        ":message-type": "exception",
    }
    body = {"Message": message} | ({"ErrorCode": error_code} if error_code else {})
    return _message(_json(body), _packed(headers))


def corrupted(message: bytes) -> bytes:
    """The same message with a wrong checksum at its end."""
    return message[:-1] + bytes([message[-1] ^ 0xFF])


# --- Dialects -------------------------------------------------------------------------------

# What TGI's router sends when a stream has been silent: axum's `KeepAlive::default()`, the same in
# axum 0.6 and 0.7 (tokio-rs/axum, response/sse.rs; text-generation-inference, router/server.rs).
KEEP_ALIVE = b":\n\n"
KEEP_ALIVE_S = 15.0


@dataclass(frozen=True)
class Dialect:
    """How one generation of containers answers (TGI 2.0.2, 2.1.1, 3.x, vLLM).

    Attributes:
        data: What a line of a stream begins with.
        chunk_object: `object` of a streamed chunk.
        reply_object: `object` of a whole reply.
        id_prefix: What an answer's id begins with; empty: there is none.
        has_fingerprint: Whether answers carry `system_fingerprint`.
        role_chunk: Whether a stream begins with a chunk that has the role and no text.
        special_delta: `delta` of a chunk whose token is special, such as end of turn.
        done: What a stream ends with.
        finish: Its words for `length`, `eos` and `stop`.
        needs_model: Whether a request without `model` is refused.
        default_max_tokens: When the request has none; None: what is left of the budget.
        counts_prompt: False: `prompt_tokens` is always 0.
        stream_usage: Whether `stream_options.include_usage` is honored.
        refuses_in_stream: A refused stream is HTTP 200 with the error as its only line.
        stream_error: Shape of an error in a stream: `tgi`, `http_status` or `openai`.
        reply_error: Shape of an error elsewhere.
        by_shape: `/invocations` tells messages and `inputs` apart by itself.
        keeps_alive: Whether a silent stream brings `KEEP_ALIVE` lines.
    """

    data: bytes = b"data:"
    chunk_object: str = "chat.completion.chunk"
    reply_object: str = "chat.completion"
    id_prefix: str = ""
    has_fingerprint: bool = True
    role_chunk: bool = False
    special_delta: dict = field(default_factory=lambda: {"role": "assistant", "content": ""})
    done: bytes = b""
    finish: tuple[str, str, str] = ("length", "eos_token", "stop_sequence")
    needs_model: bool = False
    default_max_tokens: int | None = 100
    counts_prompt: bool = False
    stream_usage: bool = False
    refuses_in_stream: bool = True
    stream_error: str = "tgi"
    reply_error: str = "tgi"
    by_shape: bool = False
    keeps_alive: bool = True

    def finish_reason(self, finish: str) -> str:
        """This container's word for `length`, `eos` or `stop`."""
        return self.finish[("length", "eos", "stop").index(finish)]


DIALECTS: dict[str, Dialect] = {
    "tgi-2.0.2": Dialect(
        chunk_object="text_completion",
        reply_object="text_completion",
        special_delta={},
        needs_model=True,
    ),
    "tgi-2.1.1": Dialect(),
    "tgi-3": Dialect(
        data=b"data: ",
        done=b"data: [DONE]\n\n",
        finish=("length", "stop", "stop_sequence"),
        default_max_tokens=None,
        counts_prompt=True,
        stream_usage=True,
        stream_error="http_status",
        by_shape=True,
    ),
    "vllm": Dialect(
        data=b"data: ",
        id_prefix="chatcmpl-",
        has_fingerprint=False,
        role_chunk=True,
        special_delta={"content": ""},
        done=b"data: [DONE]\n\n",
        finish=("length", "stop", "stop"),
        default_max_tokens=None,
        counts_prompt=True,
        stream_usage=True,
        refuses_in_stream=False,
        stream_error="openai",
        reply_error="openai",
        by_shape=True,
        keeps_alive=False,
    ),
}


def dialect(name: str) -> Dialect:
    """The dialect of that name.

    Raises:
        RehearsalError: When there is none.
    """
    if name not in DIALECTS:
        raise RehearsalError(
            f"The rehearsal does not speak the dialect {name!r}: use a container that answers in "
            f"one of {', '.join(DIALECTS)}."
        )
    return DIALECTS[name]


def _json(value: object) -> bytes:
    # As serde writes it: no spaces, UTF-8 instead of escapes.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def error_body(dialect: Dialect, status: int, message: str, error_type: str) -> bytes:
    """A refusal as the container's whole answer."""
    return _json(_error(dialect.reply_error, status, message, error_type))


def error_line(dialect: Dialect, status: int, message: str, error_type: str) -> bytes:
    """A refusal as a line of a stream."""
    error = _error(dialect.stream_error, status, message, error_type)
    return dialect.data + _json(error) + b"\n\n"


def _error(shape: str, status: int, message: str, error_type: str) -> dict:
    if shape == "tgi":
        return {"error": message, "error_type": error_type}
    if shape == "http_status":
        return {"error": {"message": message, "http_status_code": status}}
    return {"error": {"message": message, "type": error_type, "param": None, "code": status}}


def usage(dialect: Dialect, *, prompt_tokens: int, output_tokens: int) -> dict:
    """Token counts as the container reports them."""
    prompt_tokens = prompt_tokens if dialect.counts_prompt else 0
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
    }


@dataclass(frozen=True)
class Answer:
    """What all parts of one answer have in common.

    Attributes:
        dialect: How it is written.
        model: Name of the model as the request had it.
        version: Of the server, for its fingerprint, e.g. `2.0.2`.
        number: Makes its id, where the dialect has one.
        prompt_tokens: Length of the prompt.
        output_tokens: Length of the reply, the end-of-turn token included.
        include_usage: Whether a stream was asked to end with its usage.
    """

    dialect: Dialect
    model: str
    version: str
    number: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    include_usage: bool = False

    @property
    def id(self) -> str:
        """The answer's id; TGI leaves it empty."""
        return f"{self.dialect.id_prefix}{self.number:032x}" if self.dialect.id_prefix else ""

    @property
    def fingerprint(self) -> dict:
        """`system_fingerprint`, where there is one."""
        return (
            {"system_fingerprint": f"{self.version}-native"} if self.dialect.has_fingerprint else {}
        )

    @property
    def usage(self) -> dict:
        """Token counts as the container reports them."""
        return usage(
            self.dialect, prompt_tokens=self.prompt_tokens, output_tokens=self.output_tokens
        )


# Stand-ins for what changes from token to token. None can occur elsewhere in a line: JSON has no
# NUL byte, and quotes inside its strings are escaped.
_CREATED = b"\0"
_TEXT = rb'"\u0000"'
_CONTENT = b'"content":' + _TEXT


class ChatStream:
    """The lines of one streamed chat completion, prepared so that a token costs one join.

    `created` is the epoch second in ASCII, `piece` a token's text as a JSON string.
    """

    def __init__(self, answer: Answer):
        self.answer = answer
        dialect = answer.dialect
        delta = {} if dialect.role_chunk else {"role": "assistant"}
        self._head, self._mid, self._tail = self._around(delta | {"content": "\0"}, None)

    def _around(self, delta: dict, finish_reason: str | None) -> tuple[bytes, bytes, bytes]:
        """A line, split where its time and its text stand."""
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        head, _, rest = self._line({"choices": [choice]}).partition(_CREATED)
        mid, here, tail = rest.partition(_CONTENT)
        return head, mid + here[: -len(_TEXT)], tail

    def _line(self, more: dict) -> bytes:
        chunk = {
            "id": self.answer.id,
            "object": self.answer.dialect.chunk_object,
            "created": 0,
            "model": self.answer.model,
            **self.answer.fingerprint,
            **more,
        }
        line = _json(chunk).replace(b'"created":0', b'"created":' + _CREATED, 1)
        return self.answer.dialect.data + line + b"\n\n"

    def opening(self, created: bytes) -> list[bytes]:
        """Lines before the first token."""
        if not self.answer.dialect.role_chunk:
            return []
        head, mid, _ = self._around({"role": "assistant", "content": ""}, None)
        return [head + created + mid]

    def token(self, created: bytes, piece: bytes) -> bytes:
        """One token that is not the last."""
        return b"".join((self._head, created, self._mid, piece, self._tail))

    def last(self, created: bytes, piece: bytes | None, finish: str) -> bytes:
        """The last token, None for a special one, with the reason why it is the last."""
        dialect = self.answer.dialect
        delta = {} if dialect.role_chunk else {"role": "assistant"}
        delta = dialect.special_delta if piece is None else delta | {"content": "\0"}
        head, mid, tail = self._around(delta, dialect.finish_reason(finish))
        return b"".join((head, created, mid, piece or b"", tail))

    def closing(self, created: bytes) -> list[bytes]:
        """Lines after the last token."""
        lines = []
        if self.answer.include_usage and self.answer.dialect.stream_usage:
            line = self._line({"choices": [], "usage": self.answer.usage})
            lines.append(line.replace(_CREATED, created, 1))
        return [*lines, self.answer.dialect.done] if self.answer.dialect.done else lines


def chat_reply(answer: Answer, text: str, finish: str, created: int) -> bytes:
    """A whole chat completion."""
    return _json(
        {
            "id": answer.id,
            "object": answer.dialect.reply_object,
            "created": created,
            "model": answer.model,
            **answer.fingerprint,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "logprobs": None,
                    "finish_reason": answer.dialect.finish_reason(finish),
                }
            ],
            "usage": answer.usage,
        }
    )


# --- TGI's own format: `inputs` in, `generated_text` out --------------------------------------

_EOT = {"id": 128009, "text": "<|eot_id|>", "logprob": 0.0, "special": True}
_GENERATE_FINISH = {"length": "length", "eos": "eos_token", "stop": "stop_sequence"}


class GenerateStream:
    """The lines of one streamed generation in TGI's own format (`generate_stream`).

    There is no tokenizer here: a token's id is made from its text, and its log probability is 0.
    """

    def __init__(self, answer: Answer, *, text: str, details: bool):
        self.answer = answer
        self._text = text
        self._details = details
        self._index = 0

    def opening(self, created: bytes) -> list[bytes]:
        """No lines come before the first token."""
        return []

    def token(self, created: bytes, piece: bytes) -> bytes:
        """One token that is not the last."""
        return self._line(piece, text=None, details=None)

    def last(self, created: bytes, piece: bytes | None, finish: str) -> bytes:
        """The last token, with the whole text."""
        details = _details(self.answer, finish, seed=None) if self._details else None
        return self._line(piece, text=self._text, details=details)

    def closing(self, created: bytes) -> list[bytes]:
        """No lines come after the last token."""
        return []

    def _line(self, piece: bytes | None, *, text: str | None, details: dict | None) -> bytes:
        self._index += 1
        token = _EOT if piece is None else _token(piece)
        body = {"index": self._index, "token": token, "generated_text": text, "details": details}
        return self.answer.dialect.data + _json(body) + b"\n\n"


def _token(piece: bytes) -> dict:
    text = json.loads(piece)
    return {"id": crc32(piece) % 128000, "text": text, "logprob": 0.0, "special": False}


def _details(answer: Answer, finish: str, **more) -> dict:
    reason = _GENERATE_FINISH[finish]
    return {"finish_reason": reason, "generated_tokens": answer.output_tokens, **more}


def generate_reply(answer: Answer, text: str, finish: str, *, details: bool) -> bytes:
    """A whole generation in TGI's own format: a list of one, as on SageMaker."""
    more = {"details": _details(answer, finish, seed=None, prefill=[])} if details else {}
    return _json([{"generated_text": text, **more}])
