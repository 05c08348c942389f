"""What of a conversation goes to the model, and what of a text goes onto the page. Pure."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import dropwhile
from typing import Any, NamedTuple

from helpers.errors import InvocationError

Turn = dict[str, str]

# metadata.id of what the page itself says, and of what it says only until there is more.
NOTE, PASSING = "note", "passing"

# Llama 3's template puts begin, two headers and an end of turn around each turn's text, two line
# breaks after the header, and the assistant's header at the end (shared/wire-format.md, 2026-08).
TOKENS_PER_TURN = 5
# Two dates in the system's turn, which is there without a system prompt too, are Llama 3.1's and
# later; TGI puts a second begin before the template's own.
TOKENS_PER_PROMPT = 5 + 25 + 1
# The tokenizer of Llama 3 makes 3.5 to 5 bytes of English or code a token; fewer of other scripts.
BYTES_PER_TOKEN = 3
_CHARACTERS_PER_TOKEN = 16  # more than any text has on average


# --- for the model -------------------------------------------------------------------------------


def turns_of(history: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Role and text of what was said, without the page's own notes."""
    turns = []
    for said in history:
        text = text_of(said.get("content"))
        if text and not is_note(said):
            turns.append({"role": said["role"], "content": defused(text)})
    return turns


def is_note(said: Mapping[str, Any], kinds: Sequence[str] = (NOTE, PASSING)) -> bool:
    """Whether a message is one of the page's own."""
    return (said.get("metadata") or {}).get("id") in kinds


def text_of(content: Any) -> str:
    """Text of a Gradio message: a string, or a list of parts of which some are text."""
    if isinstance(content, str):
        return plain(content)
    if isinstance(content, Mapping):
        return plain(str(content.get("text") or ""))
    return "".join(map(text_of, content)) if isinstance(content, Iterable) else ""


# Tabs and line breaks stay. Half of a surrogate pair is no character and no JSON.
_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_SPECIAL = re.compile(r"<\|(?=[^\s<>|]+\|>)")


def defused(text: str) -> str:
    """The text without what would end a turn or begin one in the model's template.

    Containers write the template as text and then look for special tokens in all of it, so a
    `<|eot_id|>` that somebody has typed would end their turn: `< |eot_id|>` is only text. All of
    Llama 3's special tokens look like this one, and all recipes serve Llama 3.
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
    turns: Sequence[Turn],
    *,
    system_prompt: str,
    budget: int,
    longest: int,
    count: Callable[[str], int],
) -> Fitted:
    """Leave out the oldest turns until the rest fits; the system prompt and the last turn stay.

    Args:
        turns: The conversation, ending with the turn to answer.
        system_prompt: Left out when it is blank.
        budget: Input tokens at most.
        longest: The same beside the shortest answer.
        count: Tokens of a text.

    Raises:
        InvocationError: Of kind `request`, when there is nothing to answer, or when system prompt
            and last turn alone do not fit.
    """

    def tokens(turn: Turn) -> int:
        text = turn["content"]
        # A tokenizer would take seconds for what cannot fit.
        can_fit = len(text) <= budget * _CHARACTERS_PER_TOKEN
        return TOKENS_PER_TURN + (count if can_fit else estimated)(text)

    *history, last = turns
    if _is_blank(last["content"]):
        raise InvocationError("Type a message first.", kind="request")
    instructions = defused(system_prompt)
    system = [] if _is_blank(instructions) else [{"role": "system", "content": instructions}]
    needed = [tokens(turn) for turn in [last, *system]]
    used = TOKENS_PER_PROMPT + sum(needed)
    if used > budget:
        longer, other = "message", "system prompt" if system else ""
        if needed[0] < needed[-1]:
            longer, other = other, longer
        raise InvocationError(
            f"The {longer} is too long: it has about {used:,} tokens"
            f"{f' with the {other}' if other else ''}, and beside an answer of Max tokens "
            f"there is room for {budget:,}: shorten it"
            f"{', or lower Max tokens in Settings' if used <= longest else ''}.",
            kind="request",
        )
    kept = [last]
    for turn in reversed(history):
        used += tokens(turn)
        if used > budget:
            break
        kept.insert(0, turn)
    kept = _from_a_question(kept)
    return Fitted([*system, *kept], len(turns) - len(kept))


def _is_blank(text: str) -> bool:
    """Whether there is nothing to see in it: spaces, characters of format and control."""
    return all(one.isspace() or unicodedata.category(one) in ("Cc", "Cf") for one in text)


def without_older_half(turns: Sequence[Turn]) -> list[Turn]:
    """The newer half of what was said, for an endpoint that has counted more; the last turn stays.

    Args:
        turns: The conversation, ending with the turn to answer.
    """
    return _from_a_question(turns[len(turns) // 2 :])


def _from_a_question(turns: Sequence[Turn]) -> list[Turn]:
    """The turns without the answers at their beginning, whose question is gone."""
    return list(dropwhile(lambda turn: turn["role"] == "assistant", turns))


def estimated(text: str) -> int:
    """About how many tokens a text has, for models whose tokenizer cannot be had."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


# TGI has two texts; all of vLLM's name the maximum (entrypoints/openai/serving_engine.py, 2025-10).
_TOO_LONG = re.compile(r"`inputs` tokens \+ |`inputs` must have less |maximum context length is ")


def is_too_long(refusal: str) -> bool:
    """Whether a container refuses a prompt for its length."""
    return bool(_TOO_LONG.search(refusal))


# --- for the page --------------------------------------------------------------------------------

# What stands between these is mathematics on the page.
MATH = (("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"))

# Invisible, and keeps `<` from beginning a tag: Gradio's sanitizer lets through styles that cover
# the page, forms, and pictures from elsewhere, and drops what it does not let through. In code too,
# as renderers do not agree on where that ends; the page takes it off what is copied.
_JOINER = "\u2060"
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
# What Gradio draws: of labels it makes HTML, and of a mistake the picture of a bomb.
_DIAGRAM = "```mermaid"
_SOURCE = f"```{_JOINER}mermaid"
# As the `<` before an address begins nothing any more, Gradio would take the `>` after it for its
# last character. This ends it, invisible too: it is a space to JavaScript.
_ADDRESS = re.compile(r"(<https?://[^\s<>]+)>")
_END = "\ufeff"


def literal(text: str) -> str:
    """Markdown that shows HTML tags and Mermaid's source instead of obeying them."""
    text = _ADDRESS.sub(rf"\1{_END}>", text)
    return _TAG.sub("<" + _JOINER, text).replace(_DIAGRAM, _SOURCE)


def plain(text: str) -> str:
    """The text that `literal` was given."""
    text = text.replace("<" + _JOINER, "<").replace(_SOURCE, _DIAGRAM)
    return text.replace(_END + ">", ">")


def whole(text: str) -> str:
    """The text with halves of surrogate pairs joined, or U+FFFD for one alone: that is no JSON."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
