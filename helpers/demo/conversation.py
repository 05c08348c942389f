"""What of a conversation goes to the model, and what of a text goes onto the page. Pure."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from helpers.errors import InvocationError

Turn = dict[str, str]

NOTE = "note"  # metadata.id of what the page itself says

# Llama 3's template puts begin, two headers and an end of turn around each turn's text, two line
# breaks after the header, and the assistant's header at the end (shared/wire-format.md, 2026-08).
TOKENS_PER_TURN, TOKENS_PER_PROMPT = 5, 5
# The tokenizer of Llama 3 makes 3.5 to 5 bytes of English or code a token; fewer of other scripts.
BYTES_PER_TOKEN = 3
_CHARACTERS_PER_TOKEN = 16  # more than any text has on average


# --- for the model -------------------------------------------------------------------------------


def turns_of(history: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Role and text of what was said, without the page's own notes."""
    turns = []
    for said in history:
        text = text_of(said.get("content"))
        if text and (said.get("metadata") or {}).get("id") != NOTE:
            turns.append({"role": said["role"], "content": defused(text)})
    return turns


def text_of(content: Any) -> str:
    """Text of a Gradio message: a string, or a list of parts of which some are text."""
    if isinstance(content, str):
        return plain(content)
    if isinstance(content, Mapping):
        return plain(str(content.get("text") or ""))
    return "".join(map(text_of, content)) if isinstance(content, Iterable) else ""


# Tabs and line breaks stay. Half of a surrogate pair is no character and no JSON.
_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_SPECIAL = re.compile(r"<\|(?=[^<>|]*\|>)")


def defused(text: str) -> str:
    """The text without what would end a turn or begin one in the model's template.

    Containers write the template as text and then look for special tokens in all of it, so a
    `<|eot_id|>` that somebody has typed would end their turn: `< |eot_id|>` is only text.
    """
    return _SPECIAL.sub("< |", _UNSEEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


class Fitted(NamedTuple):
    """A conversation that the endpoint has room for.

    Attributes:
        turns: What to send.
        left_out: Turns that were left out, the oldest.
    """

    turns: list[Turn]
    left_out: int


def fitted(
    turns: Sequence[Turn], *, system_prompt: str, budget: int, count: Callable[[str], int]
) -> Fitted:
    """Leave out the oldest turns until the rest fits; the system prompt and the last turn stay.

    Args:
        turns: The conversation, ending with the turn to answer.
        system_prompt: Left out when it is blank.
        budget: Input tokens at most.
        count: Tokens of a text.

    Raises:
        InvocationError: Of kind `request`, when there is nothing to answer, or when system prompt
            and last turn alone do not fit.
    """
    if not turns[-1]["content"].strip():
        raise InvocationError("Type a message first.", kind="request")
    system = (
        [{"role": "system", "content": defused(system_prompt)}] if system_prompt.strip() else []
    )
    needed = [*system, turns[-1]]
    used = tokens_of(needed, _quick(count, needed, budget))
    if used > budget:
        raise InvocationError(
            f"The message is too long: it has about {used:,} tokens"
            f"{' with the system prompt' if system else ''}, and the endpoint reads {budget:,} "
            "when it may write as many as max tokens says: shorten it, or lower max tokens.",
            kind="request",
        )
    kept = [turns[-1]]
    for turn in reversed(turns[:-1]):
        used += _tokens(turn, count)
        if used > budget:
            break
        kept.insert(0, turn)
    while kept[0]["role"] == "assistant":  # an answer without its question
        kept.pop(0)
    return Fitted([*system, *kept], len(turns) - len(kept))


def tokens_of(turns: Sequence[Turn], count: Callable[[str], int]) -> int:
    """Input tokens of a conversation, with those of the template."""
    return TOKENS_PER_PROMPT + sum(_tokens(turn, count) for turn in turns)


def _tokens(turn: Turn, count: Callable[[str], int]) -> int:
    return count(turn["content"]) + TOKENS_PER_TURN


def _quick(count: Callable[[str], int], turns: Sequence[Turn], budget: int):
    """What counts these turns: not the tokenizer when it would take long and cannot matter."""
    longest = budget * _CHARACTERS_PER_TOKEN
    return Estimate() if sum(len(turn["content"]) for turn in turns) > longest else count


class Estimate:
    """Counts tokens by the bytes of a text, for models whose tokenizer cannot be had."""

    def __init__(self) -> None:
        self._bytes_per_token = float(BYTES_PER_TOKEN)

    def __call__(self, text: str) -> int:
        """About so many tokens."""
        return round(len(text.encode("utf-8", "replace")) / self._bytes_per_token)

    def learn(self, estimated: int, counted: int) -> bool:
        """Take over what the endpoint has counted; whether more is expected now than before."""
        before = self._bytes_per_token
        if counted > estimated > 0:
            # No token is less than a byte.
            self._bytes_per_token = max(1.0, before * estimated / counted)
        return self._bytes_per_token < before


# What containers say of a prompt that is too long: TGI's two texts, and vLLM's.
_COUNTED = re.compile(r"Given: (\d+)(?! `max)|\((\d+) in the messages")


def counted(refusal: str) -> int | None:
    """Input tokens that a container has counted, as it says when it refuses them."""
    found = _COUNTED.search(refusal)
    return int(found[1] or found[2]) if found else None


# --- for the page --------------------------------------------------------------------------------

# Invisible, and keeps `<` from beginning a tag: Gradio's sanitizer lets through styles that cover
# the page, forms, and pictures from elsewhere, and drops what it does not let through.
_JOINER = "\u2060"
_CODE = re.compile(
    r"(^[ \t]*(`{3,}|~{3,})[^\n]*\n.*?(?:^[ \t]*\2[`~]*[ \t]*$|\Z)|`[^`\n]+`)", re.S | re.M
)
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


def literal(text: str) -> str:
    """Markdown that shows HTML tags instead of obeying them; code stays as it is."""
    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [_TAG.sub("<" + _JOINER, text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, _TAG.sub("<" + _JOINER, text[end:])])


def plain(text: str) -> str:
    """The text that `literal` was given."""
    return text.replace("<" + _JOINER, "<")
