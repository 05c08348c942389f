"""What of a conversation goes to the model, and what of a text goes onto the page. Pure."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import dropwhile
from typing import Any, NamedTuple

from markdown_it import MarkdownIt

from helpers.errors import InvocationError

Turn = dict[str, str]

NOTE = "note"  # metadata.id of what the page itself says

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

    def tokens(turn: Turn) -> int:
        text = turn["content"]
        # A tokenizer would take seconds for what cannot fit.
        can_fit = len(text) <= budget * _CHARACTERS_PER_TOKEN
        return TOKENS_PER_TURN + (count if can_fit else estimated)(text)

    *history, last = turns
    if not last["content"].strip():
        raise InvocationError("Type a message first.", kind="request")
    instructions = defused(system_prompt)
    system = [{"role": "system", "content": instructions}] if instructions.strip() else []
    used = TOKENS_PER_PROMPT + sum(map(tokens, [*system, last]))
    if used > budget:
        raise InvocationError(
            f"The message is too long: it has about {used:,} tokens"
            f"{' with the system prompt' if system else ''}, and the endpoint reads {budget:,} "
            "beside an answer of max tokens. Shorten it, or lower max tokens.",
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
# the page, forms, and pictures from elsewhere, and drops what it does not let through.
_JOINER = "\u2060"
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
# No tag is left outside code, so none has a say in what is code; headings have none either.
_BLOCKS = MarkdownIt("commonmark").disable(["html_block", "heading", "lheading", "reference"])
_BLOCKS.core.ruler.disable("inline")
_MATH = [re.compile(f"{re.escape(left)}.+?{re.escape(right)}", re.S) for left, right in MATH]
_MATH_MARK = re.compile("|".join(re.escape(mark) for pair in MATH for mark in pair))
_NO_FENCE = re.compile(rf"{_MATH_MARK.pattern}|\|")  # or the head of a table
_LINK_NAME = re.compile(r"[ \t>]*\[.*\]:\s*$")  # what it links to comes in the next line
_SPAN = re.compile(
    r"\\[!-/:-@\[-`{-~]"  # escaped
    r"|\]\([^\s()<>\"'`]*\)"  # the end of a link
    r"|(?P<code>(`+)(?!`)[^|\r\n]*?(?<!`)\2(?!`))"
    # Code of more than one line or table cell; a link, address or struck text with half of it.
    r"|(?P<unsure>`|~|\][(\[:]|(?:://|www\.)[^\s`]*`)"
)


def literal(text: str) -> str:
    """Markdown that shows HTML tags instead of obeying them; code stays as it is.

    Where it is hard to say whether something is code it counts as text: there it is shown right
    too, but has an invisible character in it. So does code that is only indented.
    """
    if not _TAG.search(text):
        return text
    lines = _LINE.findall(text)
    fenced = _fenced(text, lines)
    is_sure = True  # of what is code in this paragraph
    for number, line in enumerate(lines):
        if fenced is None:
            lines[number] = _without_tags(line)
        elif number in fenced or not line.strip():
            is_sure = True
        else:
            lines[number], is_sure = _paragraph_line(line, is_sure)
    return "".join(lines)


def plain(text: str) -> str:
    """The text that `literal` was given."""
    return text.replace("<" + _JOINER, "<")


def _fenced(text: str, lines: Sequence[str]) -> set[int] | None:
    """Numbers of the lines of fenced code; None where Gradio may see other fences.

    It takes mathematics out first and begins a paragraph with it, ends code with a fence of mixed
    signs, and takes one for where a link goes (Gradio 6.31: MarkdownCode, marked).
    """
    rest = text
    for math in _MATH:
        if any("`" in found[0] or "~" in found[0] for found in math.finditer(rest)):
            return None
        rest = math.sub("", rest)
    fenced = set()
    if "```" not in text and "~~~" not in text:
        return fenced
    for block in _BLOCKS.parse(text):
        if block.type != "fence":
            continue
        begin, end = block.map
        is_end = re.compile(rf"[ \t>]*{block.markup}[`~]*\s*$")
        ends = [number for number in range(begin + 1, end) if is_end.match(lines[number])]
        if ends not in ([], [end - 1]) or _NO_FENCE.search(lines[begin]):
            return None
        if begin and _LINK_NAME.match(lines[begin - 1]):
            return None
        if ends or block.level == 0:  # what is not complete in a list or quote may yet be text
            fenced.update(range(begin + 1, end))
    return fenced


def _paragraph_line(line: str, is_sure: bool) -> tuple[str, bool]:
    """The line without tags outside code, and whether it is still sure what is code."""
    if not is_sure or _MATH_MARK.search(line):
        return _without_tags(line), False
    shown, end = "", 0
    for found in _SPAN.finditer(line):
        if found["unsure"]:
            return shown + _without_tags(line[end:]), False
        if found["code"]:
            shown += _without_tags(line[end : found.start()]) + found[0]
            end = found.end()
    return shown + _without_tags(line[end:]), True


def _without_tags(text: str) -> str:
    return _TAG.sub("<" + _JOINER, text)
