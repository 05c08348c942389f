"""Answers for the page: one endpoint, any number of readers."""

import asyncio
import math
import os
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from helpers import contracts, costs, messages, tokenizer
from helpers.demo.conversation import (
    NOTE,
    PASSING,
    Turn,
    defused,
    estimated,
    fitted,
    is_too_long,
    turns_of,
    whole,
    without_older_half,
)
from helpers.demo.line import Line, Place
from helpers.demo.reading import Reading
from helpers.errors import InvocationError, WorkshopError

# Llama 3's own defaults: generation_config.json of meta-llama/Meta-Llama-3-70B-Instruct (2024-05).
TEMPERATURE, TOP_P = 0.6, 0.9
MAX_TOKENS = 512
SYSTEM_PROMPT = "You are a helpful assistant. Answer briefly and say so when you do not know."
SLOTS = 4  # batch slots of the original guide's endpoint, for an image nothing is known about
SEQUENCE_LENGTH = 4096
STREAM_LIMIT_S = 480  # SageMaker ends a stream after 8 minutes
_WORTH_SAYING_S = 0.05  # of waiting

Said = list[dict[str, Any]]


class Chat:
    """What answers, and for whom.

    Attributes:
        title: Header of the page; says so in rehearsal.
        description: The line below it.
        slots: Replies the endpoint writes at the same time.
        longest_reply: Most output tokens a reader can ask for.
        time: How fast it runs, where that is not as on a reader's clock.
        is_closed: Whether it has come to its end.

    Args:
        session: The workshop's session.
        endpoint: What `helpers.endpoint.find` gave.
        environ: Where the model's tokenizer is looked for.
    """

    def __init__(self, session, endpoint, *, environ: Mapping[str, str] = os.environ):
        shape = _shape(endpoint)
        self.slots = (shape.batch_size if shape else SLOTS) * max(endpoint.instance_count, 1)
        self._longest_both = shape.max_total_tokens if shape else SEQUENCE_LENGTH
        self._longest_input = shape.max_input_tokens if shape else SEQUENCE_LENGTH
        self.longest_reply = self._longest_both // 2
        self.title, self.description = _headings(session, endpoint, self.slots)
        self.time = _time(session.clock)
        self._is_rehearsal = session.target == "rehearsal"
        self._clock = session.clock
        self._price_per_s = _price_per_s(endpoint)
        self._line = Line(self.slots, clock=session.clock)
        self._count = estimated
        # In a thread: the Hub may be slow, and the page is not to wait for it.
        threading.Thread(
            target=self._find_tokenizer,
            args=(endpoint.model_id, environ),
            name="chat-tokenizer",
            daemon=True,
        ).start()
        self._running: set[Answer] = set()
        self.is_closed = False
        self._stream = partial(
            messages.stream,
            # One attempt: a hidden retry would stand in the time to the first token.
            session.client(
                "sagemaker-runtime",
                read_timeout=STREAM_LIMIT_S,
                retries={"total_max_attempts": 1},
                max_pool_connections=self.slots,
            ),
            endpoint.name,
            model=endpoint.model_id or messages.MODEL,
        )

    def answer(
        self,
        message: str,
        history: Sequence[Mapping[str, Any]] = (),
        *,
        system_prompt: str = SYSTEM_PROMPT,
        temperature: float = TEMPERATURE,
        top_p: float = TOP_P,
        max_tokens: int = MAX_TOKENS,
    ) -> "Answer":
        """An answer to a message; iterate over it to have it written.

        Args:
            message: What the reader has typed.
            history: The page's messages before it, its notes among them.
            system_prompt: Left out when it is blank.
            temperature: Above 0.
            top_p: Above 0 and below 1.
            max_tokens: Output tokens at most.

        Raises:
            InvocationError: When there is nothing to send, or no room for it.
        """
        if not all(map(math.isfinite, (temperature, top_p, max_tokens))):
            raise InvocationError("Temperature, Top-p and Max tokens are numbers.", kind="request")
        turns = [*turns_of(history), {"role": "user", "content": defused(message or "")}]
        options = {"temperature": temperature, "top_p": top_p, "max_tokens": int(max_tokens)}
        return Answer(self, turns, system_prompt or "", options)

    def note(self, text: str, *, kind: str = NOTE) -> dict[str, Any]:
        """A message of the page's own, which never goes to the model."""
        label = " · rehearsal" if self._is_rehearsal else ""
        return {"role": "assistant", "content": whole(text) + label, "metadata": {"id": kind}}

    def close(self) -> None:
        """End all answers that are being written or wait; from any thread. They say so."""
        self.is_closed = True
        for answer in list(self._running):
            answer.stop_from_elsewhere()

    def _budget(self, max_tokens: int) -> int:
        return max(0, min(self._longest_input, self._longest_both - max_tokens))

    def _find_tokenizer(self, model_id: str, environ: Mapping[str, str]) -> None:
        self._count = tokenizer.counter(model_id, environ=environ).count or estimated


class Answer:
    """One answer, from the line at the endpoint to the note with its figures.

    Iterating gives the page's messages: the answer as far as it is there, then notes of the page
    itself, which never go back to the model. Iterate once.
    """

    def __init__(self, chat: Chat, turns: list[Turn], system_prompt: str, options: dict[str, Any]):
        self._chat = chat
        self._turns = turns
        self._system_prompt = system_prompt
        self._options = options
        self._count = chat._count
        self._place: Place | None = None
        self._reading: Reading | None = None
        self._stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fit()

    async def __aiter__(self) -> AsyncIterator[Said]:
        self._loop = asyncio.get_running_loop()
        self._chat._running.add(self)
        try:
            async for said in self._written():
                yield said
        finally:  # also when the reader closed the page
            self.stop()
            self._chat._running.discard(self)

    def stop(self) -> None:
        """End it: leave the line, or end the request upstream; what is written stays.

        In the event loop that iterates over it.
        """
        self._stopped = True
        if self._place:
            self._place.leave()
        if self._reading:
            self._reading.close()

    def stop_from_elsewhere(self) -> None:
        """`stop`, from another thread."""
        with suppress(RuntimeError):  # the loop is gone, and has ended what ran in it
            self._loop.call_soon_threadsafe(self.stop)

    async def _written(self) -> AsyncIterator[Said]:
        self._place = self._chat._line.enter()
        if self._stopped:  # before it began
            self._place.leave()
        async for place in self._place.moving_up():
            yield [self._chat.note(_in_line(place), kind=PASSING)]
        while not self._stopped and not self._chat.is_closed:
            self._reading = Reading(self._request(), clock=self._chat._clock)
            async for text in self._reading:
                yield [_said(text)]
            if not (self._is_refused_as_too_long() and self._left_out < len(self._turns) - 1):
                break
            # It counts more tokens than we did.
            self._fit(without_older_half(self._turns[self._left_out :]))
        self._place.leave()
        yield [*self._reply(), *map(self._chat.note, self._notes())]

    def _fit(self, turns: list[Turn] | None = None) -> None:
        """Choose what to send of these turns, which are the last ones; of all when left out."""
        turns = turns or self._turns
        self._sent, left_out = fitted(
            turns,
            system_prompt=self._system_prompt,
            budget=self._chat._budget(self._options["max_tokens"]),
            longest=self._chat._budget(1),
            count=self._count,
        )
        self._left_out = len(self._turns) - len(turns) + left_out

    def _is_refused_as_too_long(self) -> bool:
        error = self._reading.error
        return error is not None and is_too_long(error.original_message or "")

    def _request(self) -> partial:
        return partial(self._chat._stream, self._sent, **self._options)

    def _reply(self) -> Said:
        return [_said(self._reading.text)] if self._reading and self._reading.text else []

    def _notes(self) -> list[str]:
        """What the page says below an answer: how it ended, what it is made of, its figures."""
        notes = []
        if self._chat.is_closed:
            notes.append("This page has been closed.")
        elif self._stopped:
            notes.append("Stopped.")
        elif error := self._reading.error:
            prefix = "Broken off. " if self._reading.text and error.kind != "broken" else ""
            notes.append(prefix + str(error))
        elif self._reading.finish_reason == "length":
            notes.append(self._cut())
        elif not self._reading.text.strip():
            notes.append("The model answered without a word: ask again, or in other words.")
        if self._left_out:
            notes.append(self._what_is_missing())
        if self._reading and self._reading.text:
            notes.append(self._figures())
        return notes

    def _cut(self) -> str:
        at = self._options["max_tokens"]
        if at < self._chat.longest_reply:
            return f"Cut at {at:,} tokens: raise Max tokens in Settings, or ask it to go on."
        return f"Cut at {at:,} tokens, the most there can be: ask it to go on."

    def _what_is_missing(self) -> str:
        many = self._left_out > 1
        messages = f"{self._left_out} oldest messages were" if many else "oldest message was"
        return (
            f"The {messages} left out: beside an answer of up to {self._options['max_tokens']:,} "
            "tokens, the endpoint has no room for more."
        )

    def _figures(self) -> str:
        measured, waited_s = self._reading.measured(), self._place.waited_s
        facts = [f"Waited {waited_s:.1f} s in line"] if waited_s >= _WORTH_SAYING_S else []
        facts.append(f"First token after {measured.first_s:.2f} s")
        if measured.tokens_per_s:
            facts.append(f"{measured.tokens_per_s:.1f} tokens/s after it")
        facts.append(f"{measured.tokens} token{'s' * (measured.tokens != 1)}")
        if self._chat._price_per_s is not None:
            facts.append(f"${self._place.machine_s * self._chat._price_per_s:.4f}")
        return " · ".join(facts)


def _said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": whole(text)}


def _in_line(place: int) -> str:
    if place == 1:
        return "All slots are busy: yours is the next."
    return f"All slots are busy: {place - 1} before you in line."


# --- what is known of the endpoint ---------------------------------------------------------------


def _shape(endpoint) -> contracts.Shape | None:
    with suppress(WorkshopError):  # an image nothing is known about
        return contracts.shape(contracts.contract_for_image(endpoint.image), endpoint.env)
    return None


def _price_per_s(endpoint) -> float | None:
    with suppress(WorkshopError):  # a machine without a known price
        return costs.cost(
            1, instance_type=endpoint.instance_type, instances=max(endpoint.instance_count, 1)
        )
    return None


def _time(clock) -> str:
    if clock.speed == 1:
        return ""
    return f"Seconds are AWS's: in this rehearsal they pass {clock.speed:g} times as fast as yours."


def _headings(session, endpoint, slots: int) -> tuple[str, str]:
    model = endpoint.model_id.rpartition("/")[2] or endpoint.name
    title = f"{model} on Inferentia2"
    at_once = f"{slots} answers at once" if slots > 1 else "one answer at a time"
    facts = f"Endpoint `{endpoint.name}` · {endpoint.instance_type} · {at_once}"
    if session.target == "rehearsal":
        return (
            f"Rehearsal: {title}",
            f"{facts}. Rehearsal: no model behind it; replies and timing are simulated.",
        )
    return title, f"{facts} · {session.region}"
