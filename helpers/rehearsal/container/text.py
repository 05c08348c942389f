"""What a rehearsal answers: seeded text, token by token, that says where it comes from."""

import hashlib
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

# A reply that is allowed to be longer ends by itself after so many tokens, the last one included.
NATURAL_END = (513, 640)

_OPENINGS = (
    "A rehearsal speaks here: no model ran, and every sentence was picked from a list.",
    "This rehearsal has no model behind it, only a list of sentences.",
    "**Rehearsal:** this text was made without a model, to show what a reply feels like.",
)
_REMINDERS = (
    "\n\n*(Still a rehearsal: nothing here was thought up by a model.)*\n\n",
    "\n\n> A reminder — this is a rehearsal, not Llama 3.\n\n",
    "\n\nAll of this is a rehearsal; on AWS a real model would be speaking. ☁️\n\n",
)
_SENTENCES = (
    " Think of a theater: the lights are on, the seats are empty, and the actors read from a page.",
    " What you can study here is the shape of an answer, the pace of its words and how it ends.",
    " The words themselves mean nothing, so please do not quote them.",
    " A token leaves the chip, travels along the wire and appears on your screen.",
    " Café, naïve, Übung, 日本語, Ελληνικά: characters of more than one byte belong in every test.",
    " A static batch has a fixed number of seats, and who comes late waits in the foyer.",
    " The first word takes longest, because the whole question has to be read before it.",
    " After that the words arrive one by one, at the pace of the slowest cable in the house.",
    " Somebody drops a tray — nobody turns around — and the story goes on.",
    " When the curtain falls, remember to switch off the lights: they cost money.",
    "\n\n- one point that sounds important\n- another that sounds like the first\n- `a_third_one()`"
    "\n\n",
    "\n\n### A heading, as models like them\n\nBelow it stands a paragraph about nothing much.",
    " The answer, if there were one, would stand **here**.",
    " Rivers → lakes → seas: everything flows toward something larger. 🌊",
    " A good question is worth more than a quick reply, says an old proverb that I just made up.",
)
_REMIND_EVERY = 6  # sentences

# Pieces of at most nine letters, with the space before them: about as long as a model's tokens.
PIECE = re.compile(r" ?\w{1,9}| ?[^\w\s]\uFE0F?|\s")

_BEGIN, _PER_MESSAGE, _ASSISTANT_HEADER = 1, 5, 4  # tokens of the Llama 3 template, wire-format.md
_COUNTED = 2**17  # characters
_WORD = re.compile(r"\w{1,12}|[^\w\s]")


@dataclass(frozen=True)
class Reply:
    """A made-up reply.

    Attributes:
        pieces: One entry a token: its text as a JSON string in UTF-8, None for the end of turn.
        text: All of it.
        finish: Why it ends: `length`, `eos` or `stop`.
    """

    pieces: tuple[bytes | None, ...]
    text: str
    finish: str

    @property
    def output_tokens(self) -> int:
        """How many tokens it has, the end of turn included."""
        return len(self.pieces)


def reply(question: object, *, max_tokens: int, stop: Sequence[str] = (), seed: int = 0) -> Reply:
    """The reply to a question: always the same one to the same question and seed.

    Args:
        question: What was asked and how, as JSON has it.
        max_tokens: Most tokens; all of them, unless the reply ends before by itself.
        stop: Texts after which it ends.
        seed: Another seed, another reply.
    """
    key = json.dumps([question, seed], sort_keys=True, default=str).encode()
    chance = random.Random(hashlib.sha256(key).digest())
    natural_end = chance.randint(*NATURAL_END)
    finish = "eos" if natural_end < max_tokens else "length"
    length = natural_end - 1 if finish == "eos" else max_tokens
    words = _words(chance, length)
    stopped = _stopped(words, stop)
    if stopped is not None:
        words, finish = words[:stopped], "stop"
    pieces: tuple[bytes | None, ...] = tuple(map(_as_json, words))
    if finish == "eos":
        pieces += (None,)
    return Reply(pieces, "".join(words), finish)


def prompt_tokens(messages: Iterable[Mapping[str, str]]) -> int:
    """About how many tokens a conversation has in the Llama 3 template, from its words."""
    return (
        _BEGIN
        + _ASSISTANT_HEADER
        + sum(_PER_MESSAGE + count(message["content"]) for message in messages)
    )


def count(text: str) -> int:
    """About how many tokens a text has: one a word of up to 12 letters, one a punctuation mark.

    What is longer than any model reads is measured by its beginning: counting megabytes word by
    word would hold up every stream.
    """
    beginning = text[:_COUNTED]
    found = sum(1 for _ in _WORD.finditer(beginning))
    return found if len(text) <= _COUNTED else found * len(text) // _COUNTED


def _words(chance: random.Random, length: int) -> list[str]:
    words = list(_split(chance.choice(_OPENINGS)))
    while len(words) < length:
        shuffled = chance.sample(_SENTENCES, _REMIND_EVERY - 1)
        for sentence in (*shuffled, chance.choice(_REMINDERS)):
            words += _split(sentence)
    return words[:length]


def _stopped(words: list[str], stop: Sequence[str]) -> int | None:
    """How many words it takes until one of the stop texts is complete, None if never."""
    text = "".join(words)
    ends = [at + len(each) for each in stop if each and (at := text.find(each)) >= 0]
    if not ends:
        return None
    length = 0
    for number, word in enumerate(words, start=1):
        length += len(word)
        if length >= min(ends):
            return number
    raise AssertionError("A text that was found ends inside the text.")


@cache
def _split(sentence: str) -> tuple[str, ...]:
    return tuple(PIECE.findall(sentence))


@lru_cache(maxsize=1024)
def _as_json(word: str) -> bytes:
    return json.dumps(word, ensure_ascii=False).encode()
