"""What a container reads from a request, and what it refuses in which words.

Two gates, as in TGI's router: `read` is the JSON's form (HTTP 4xx before anything else), `check` is
what the request asks for (in a stream: HTTP 200 with an error as its only line). Words: wire-format
notes, `huggingface/text-generation-inference` `router/src/validation.rs`, axum's `Json` extractor;
vLLM's from its OpenAI server, not seen on a Neuron container.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from helpers.contracts import Shape
from helpers.rehearsal import strictjson
from helpers.rehearsal.container import text
from helpers.rehearsal.container.wire import Dialect

JSON = "application/json"
PLAIN = "text/plain; charset=utf-8"
_FORM = "Failed to deserialize the JSON body into the target type: "
_BAD_REQUEST = "BadRequestError"  # vLLM's type of most refusals

# axum's default, and its words: huggingface/text-generation-inference issue 1802 (2024-04).
_BODY_BYTES = 2 * 2**20
_U32, _U64 = 2**32, 2**64
# What Rust expects of each parameter: the name of its type, and a test of a JSON value.
_TYPES = {
    "u32": lambda value: _is_int(value) and 0 <= value < _U32,
    "u64": lambda value: _is_int(value) and 0 <= value < _U64,
    "i32": lambda value: _is_int(value) and -(2**31) <= value < 2**31,
    "f32": lambda value: _is_int(value) or isinstance(value, float),
    "a boolean": lambda value: isinstance(value, bool),
    "a sequence": lambda value: isinstance(value, list),
    "a string": lambda value: isinstance(value, str),
    "a string or a sequence": lambda value: isinstance(value, str | list),
}
_SAMPLING = {
    "temperature": "f32",
    "top_p": "f32",
    "frequency_penalty": "f32",
    "seed": "u64",
    "stop": "a sequence",
}
_CHAT = _SAMPLING | {
    "model": "a string",
    "max_tokens": "u32",
    "presence_penalty": "f32",
    "stream": "a boolean",
    "logprobs": "a boolean",
    "top_logprobs": "u32",
    "n": "u32",
}
_VLLM_CHAT = _CHAT | {"stop": "a string or a sequence", "max_completion_tokens": "u32"}
_GENERATE = _SAMPLING | {
    "max_new_tokens": "u32",
    "repetition_penalty": "f32",
    "top_k": "i32",
    "typical_p": "f32",
    "do_sample": "a boolean",
    "return_full_text": "a boolean",
    "details": "a boolean",
}
_QUESTION = {"messages", *_CHAT, *_GENERATE} - {"stream", "stop", "max_tokens", "max_new_tokens"}


class Refused(Exception):
    """A request that the container refuses.

    Attributes:
        status: HTTP status.
        message: Its words.
        error_type: `validation`, `overloaded`, …; None when the answer is the bare words.
    """

    def __init__(self, status: int, message: str, error_type: str | None = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.error_type = error_type


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        chat: Messages, answered as a chat completion; else `inputs`, answered in TGI's own format.
        stream: Whether the answer is to be streamed.
        model: As the request names it, the served model's when it does not.
        question: What the reply depends on.
        prompt: Text of `inputs`, for `return_full_text`.
        prompt_tokens: Its estimated length in tokens.
        max_tokens: Most output tokens.
        stop: Texts that end the reply.
        include_usage: Whether a stream is to end with its usage.
        parameters: All parameters as they came, for `check`.
    """

    chat: bool
    stream: bool
    model: str
    question: object
    prompt: str
    prompt_tokens: int
    max_tokens: int
    stop: tuple[str, ...] = ()
    include_usage: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)


def read(
    body: bytes, *, content_type: str, dialect: Dialect, shape: Shape, openai_route: bool = False
) -> Asked:
    """Read a request as the container does.

    Args:
        body: The request's body.
        content_type: Its `Content-Type`.
        dialect: The container's.
        shape: What the container serves.
        openai_route: True for `/v1/chat/completions`, False for `/invocations`.

    Raises:
        Refused: When it is not the JSON that the container expects.
    """
    openai = dialect.reply_error == "openai"
    if not _is_json(content_type):
        raise Refused(415, f"Expected request with `Content-Type: {JSON}`")
    if not openai and len(body) > _BODY_BYTES:
        raise Refused(413, "Failed to buffer the request body: length limit exceeded")
    try:
        given = strictjson.parse(body)
    except ValueError as error:
        message = f"Failed to parse the request body as JSON: {error}"
        raise Refused(400, message, _BAD_REQUEST if openai else None) from None
    try:
        if not isinstance(given, dict):
            raise _Form(f"invalid type: {_described(given)}, expected a request object")
        if dialect.by_shape and not openai_route:
            _refuse_completion(given, openai=openai)
        if openai_route or openai:
            chat = True
        elif dialect.by_shape:
            chat = _chat_by_shape(given)
        else:
            chat = shape.messages_api
        return _chat(given, dialect, shape) if chat else _generate(given, dialect, shape)
    except _Form as error:
        if openai:
            raise Refused(400, str(error), _BAD_REQUEST) from None
        raise Refused(422, f"{_FORM}{error} {_end(body)}") from None
    except _NoVariant:
        message = f"{_FORM}data did not match any variant of untagged enum SagemakerRequest"
        raise Refused(422, message) from None


def check(asked: Asked, dialect: Dialect, shape: Shape) -> None:
    """Refuse what the container would not generate.

    Raises:
        Refused: In the container's words.
    """
    if dialect.reply_error == "openai":
        _check_vllm(asked, shape)
        return
    try:
        _check_tgi(asked, shape)
    except _Invalid as error:
        raise Refused(422, f"Input validation error: {error}", "validation") from None


class _Form(Exception):
    """The JSON has not the form that is expected, in serde's words."""


class _NoVariant(Exception):
    """The JSON is none of the requests that the route knows."""


class _Invalid(Exception):
    """A parameter's value is not accepted, in TGI's words."""


# --- form


def _chat_by_shape(given: dict) -> bool:
    for variant in ("inputs", "messages"):
        if variant in given:
            return variant == "messages"
    raise _NoVariant


def _refuse_completion(given: dict, *, openai: bool) -> None:
    """Say so when only the rehearsal has no text completions."""
    if "prompt" not in given or "messages" in given or (not openai and "inputs" in given):
        return
    who, instead = ("vLLM", "messages") if openai else ("TGI 3", "messages or inputs")
    raise Refused(
        422,
        f"rehearsal: completions (prompt) are not offered here, {who} would answer them: send "
        f"{instead}",
        _BAD_REQUEST if openai else "validation",
    )


def _chat(given: dict, dialect: Dialect, shape: Shape) -> Asked:
    openai = dialect.reply_error == "openai"
    for name in ("model", "messages"):
        if (name == "messages" or dialect.needs_model) and name not in given:
            raise _Form(f"missing field `{name}`")
    _check_types(given, _VLLM_CHAT if openai else _CHAT)
    # vLLM's `get_max_tokens`: the newer name wins; TGI knows only the older one.
    max_tokens = (openai and given.get("max_completion_tokens")) or given.get("max_tokens")
    conversation = _messages(given["messages"])
    prompt_tokens = text.prompt_tokens(conversation)
    options = given.get("stream_options")
    return Asked(
        chat=True,
        stream=bool(given.get("stream")),
        model=given.get("model") or shape.model_id or "",
        question=_question(given),
        prompt="",
        prompt_tokens=prompt_tokens,
        max_tokens=_budget(max_tokens, prompt_tokens, dialect, shape),
        stop=_stops(given.get("stop")),
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        parameters=given,
    )


def _question(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the reply's words depend on: not its length, how it is sent, or what nobody reads."""
    return {name: value for name, value in given.items() if name in _QUESTION}


def _messages(messages: object) -> list[dict[str, str]]:
    _check_types({"messages": messages}, {"messages": "a sequence"})
    if messages is None:
        raise _Form("messages: invalid type: null, expected a sequence")
    read = []
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            what = _described(message)
            raise _Form(f"messages[{number}]: invalid type: {what}, expected struct Message")
        if "role" not in message:
            raise _Form(f"messages[{number}]: missing field `role`")
        if not isinstance(message["role"], str):
            what = _described(message["role"])
            raise _Form(f"messages[{number}].role: invalid type: {what}, expected a string")
        content = _content(message.get("content"))
        if content is None:
            what = _described(message["content"])
            raise _Form(f"messages[{number}].content: invalid type: {what}, expected a string")
        read.append({"role": message["role"], "content": content})
    return read


def _content(content: object) -> str | None:
    """A message's text, also when it comes in parts; None when it is no text at all."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text", "") if isinstance(part, dict) else None for part in content]
        if all(isinstance(part, str) for part in parts):
            return "".join(parts)
    return None


def _generate(given: dict, dialect: Dialect, shape: Shape) -> Asked:
    if "inputs" not in given:
        raise _Form("missing field `inputs`")
    _check_types(given, {"inputs": "a string", "stream": "a boolean"}, required=("inputs",))
    parameters = given.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        what = _described(parameters)
        raise _Form(f"parameters: invalid type: {what}, expected struct GenerateParameters")
    parameters = parameters or {}
    _check_types(parameters, _GENERATE, path="parameters.")
    prompt_tokens = text.count(given["inputs"])
    return Asked(
        chat=False,
        stream=bool(given.get("stream")),
        model=shape.model_id or "",
        question=[given["inputs"], _question(parameters)],
        prompt=given["inputs"],
        prompt_tokens=prompt_tokens,
        max_tokens=_budget(parameters.get("max_new_tokens"), prompt_tokens, dialect, shape),
        stop=_stops(parameters.get("stop"), path="parameters."),
        parameters=parameters,
    )


def _budget(asked: int | None, prompt_tokens: int, dialect: Dialect, shape: Shape) -> int:
    if asked is not None:
        return asked
    if dialect.default_max_tokens is not None:
        return dialect.default_max_tokens
    return max(1, shape.max_total_tokens - prompt_tokens)


def _stops(stop: object, *, path: str = "") -> tuple[str, ...]:
    if isinstance(stop, str):  # vLLM only: its type has been checked
        return (stop,) if stop else ()
    for number, each in enumerate(stop or ()):
        if not isinstance(each, str):
            what = _described(each)
            raise _Form(f"{path}stop[{number}]: invalid type: {what}, expected a string")
    return tuple(stop or ())


def _check_types(
    given: Mapping, types: Mapping[str, str], *, path: str = "", required: tuple[str, ...] = ()
) -> None:
    for name, expected in types.items():
        value = given.get(name)
        if value is None and name not in required:
            continue
        if not _TYPES[expected](value):
            wrong = "value" if _is_int(value) and expected in ("u32", "u64", "i32") else "type"
            what = _described(value)
            raise _Form(f"{path}{name}: invalid {wrong}: {what}, expected {expected}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _described(value: object) -> str:
    """A JSON value as serde names it in an error."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"boolean `{json.dumps(value)}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, float):
        return f"floating point `{value}`"
    if isinstance(value, str):
        return f"string {json.dumps(value, ensure_ascii=False)}"
    return "sequence" if isinstance(value, list) else "map"


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == JSON or (kind.startswith("application/") and kind.endswith("+json"))


def _end(body: bytes) -> str:
    """Where the body ends: serde names the place where it noticed, which is close to it."""
    lines = body.split(b"\n")
    return f"at line {len(lines)} column {len(lines[-1])}"


# --- values


def _check_tgi(asked: Asked, shape: Shape) -> None:
    given = asked.parameters
    value = given.get("temperature")
    # A chat's 0 means greedy (text-generation-inference, pull request 1749 of 2024-04), that of
    # `inputs` is refused.
    if value is not None and (value < 0 or (value == 0 and not asked.chat)):
        raise _Invalid("`temperature` must be strictly positive")
    value = given.get("repetition_penalty")
    if value is not None and value <= 0:
        raise _Invalid("`repetition_penalty` must be strictly positive")
    value = given.get("frequency_penalty")
    if value is not None and not -2 <= value <= 2:
        raise _Invalid("`frequency_penalty` must be >= -2.0 and <= 2.0")
    for name in ("top_p", "typical_p"):
        value = given.get(name)
        if value is not None and not 0 < value < 1:
            raise _Invalid(f"`{name}` must be > 0.0 and < 1.0")
    value = given.get("top_k")
    if value is not None and value <= 0:
        raise _Invalid("`top_k` must be strictly positive")
    if asked.max_tokens == 0:
        raise _Invalid("`max_new_tokens` must be strictly positive")
    if len(asked.stop) > shape.max_stop_sequences:
        raise _Invalid(
            f"`stop` supports up to {shape.max_stop_sequences} stop sequences. "
            f"Given: {len(asked.stop)}"
        )
    if not asked.chat and not asked.prompt:
        raise _Invalid("`inputs` cannot be empty")
    if asked.prompt_tokens + asked.max_tokens > shape.max_total_tokens:
        raise _Invalid(
            f"`inputs` tokens + `max_new_tokens` must be <= {shape.max_total_tokens}. Given: "
            f"{asked.prompt_tokens} `inputs` tokens and {asked.max_tokens} `max_new_tokens`"
        )
    if asked.prompt_tokens > shape.max_input_tokens:
        raise _Invalid(
            f"`inputs` must have less than {shape.max_input_tokens} tokens. "
            f"Given: {asked.prompt_tokens}"
        )


def _check_vllm(asked: Asked, shape: Shape) -> None:
    if shape.model_id and asked.model != shape.model_id:
        raise Refused(404, f"The model `{asked.model}` does not exist.", "NotFoundError")
    given = asked.parameters
    for name, wanted in (
        ("n", (given.get("n") or 1) > 1),
        ("logprobs", given.get("logprobs") or given.get("top_logprobs")),
    ):
        if wanted:
            raise Refused(
                422,
                f"rehearsal: {name} is not offered here, vLLM would honor it: leave it out",
                _BAD_REQUEST,
            )
    value = given.get("temperature")
    if value is not None and value < 0:
        raise Refused(400, f"temperature must be non-negative, got {value}.", _BAD_REQUEST)
    value = given.get("top_p")
    if value is not None and not 0 < value <= 1:
        raise Refused(400, f"top_p must be in (0, 1], got {value}.", _BAD_REQUEST)
    if asked.max_tokens < 1:
        message = f"max_tokens must be at least 1, got {asked.max_tokens}."
        raise Refused(400, message, _BAD_REQUEST)
    total = asked.prompt_tokens + asked.max_tokens
    if total > shape.max_total_tokens:
        raise Refused(
            400,
            f"This model's maximum context length is {shape.max_total_tokens} tokens. However, you "
            f"requested {total} tokens ({asked.prompt_tokens} in the messages, {asked.max_tokens} "
            "in the completion). Please reduce the length of the messages or completion.",
            _BAD_REQUEST,
        )
