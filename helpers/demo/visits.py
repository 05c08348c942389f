"""Who is on the page, and what each of them is told."""

import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import gradio as gr

from helpers.demo.chat import Answer, Chat
from helpers.demo.conversation import NOTE, PASSING, is_note, literal, plain, text_of, whole
from helpers.errors import InvocationError

SEND, STOP = "Send", "Stop"
TOAST_S = 6  # it lies over the buttons at the top

Messages = list[dict[str, Any]]


class Visits:
    """Who is on the page: each visit has one answer being written at most."""

    def __init__(self, chat: Chat):
        self._chat = chat
        self._running: dict[str, Answer] = {}
        # Conversations as they are: a page may not have drawn all yet, or still draw what is gone.
        self._written: dict[str, Messages] = {}
        self._numbers = itertools.count()

    async def send(self, request: gr.Request, conversation: Messages, entry: str, *settings):
        """Answer what was typed; it stays in the box when it cannot be sent."""
        conversation = self._whole(request, conversation)
        async for update in self._answer(request, conversation, entry, settings, is_typed=True):
            yield update

    async def example(self, request: gr.Request, conversation: Messages, text: str, *settings):
        """Answer an example."""
        conversation = self._whole(request, conversation)
        async for update in self._answer(request, conversation, text, settings):
            yield update

    async def retry(self, request: gr.Request, conversation: Messages, _, *settings):
        """Answer the last message once more."""
        conversation = self._whole(request, conversation)
        before, text = _without_last(conversation)
        async for update in self._answer(request, before, text, settings, unanswered=conversation):
            yield update

    async def edit(self, request: gr.Request, edited: gr.EditData, conversation, _, *settings):
        """Answer a message that was changed; what came after it is dropped."""
        at = _index(edited.index)
        before, text, was = conversation[:at], plain(edited.value), list(conversation)
        # The page shows the change already.
        was[at] = {**was[at], "content": _as_it_is(edited.previous_value)}
        async for update in self._answer(request, before, text, settings, refused=was):
            yield update

    # What ends an answer runs in the page's event loop, as the line does: Gradio would call what is
    # not async from a thread.

    async def undo(self, request: gr.Request, conversation: Messages):
        """Take the last message and its answer back: what is left, and what to put into the box."""
        before, text = _without_last(self._whole(request, conversation))
        await self.forget(request)
        self._written[request.session_hash] = before
        return before, self._news(text)

    async def visit(self, request: gr.Request) -> str:
        """The name under which Gradio knows who is on the page."""
        return request.session_hash

    async def again(self, request: gr.Request, conversation: Messages):
        """A conversation that was loaded again: what was being written then is not whole."""
        if request.session_hash in self._written or not _is_under_way(conversation):
            return gr.skip()
        kept = [said for said in conversation if not is_note(said, (PASSING,))]
        return [*kept, _shown(self._chat.note("Stopped: the page was loaded again."))]

    async def stop(self, request: gr.Request) -> None:
        """End the answer being written; what is written stays."""
        if answer := self._running.get(request.session_hash):
            answer.stop()

    async def forget(self, request: gr.Request) -> None:
        """End the answer being written, for a conversation that is gone."""
        self._written[request.session_hash] = []
        if answer := self._running.pop(request.session_hash, None):
            answer.stop()

    async def since(self, request: gr.Request):
        """What was said since the conversation was forgotten: nothing, or a quick question."""
        return self._written.get(request.session_hash, [])

    async def left(self, request: gr.Request) -> None:
        """Forget who has closed the page; not who is told that the page itself is closed."""
        if not self._chat.is_closed:
            await self.forget(request)
            del self._written[request.session_hash]

    async def chat(
        self,
        message: str,
        history: Messages,
        system_prompt: str,
        temperature: float,
        top_p: float,
        max_tokens: int,
    ):
        """Ask the endpoint; the answer, then the page's notes about it."""
        settings = (system_prompt, temperature, top_p, max_tokens)
        try:
            answer = self._begin(history, message, settings)
        except InvocationError as error:
            yield [self._chat.note(str(error))], history
            return
        async for said in answer:
            yield said, [*history, {"role": "user", "content": message}, *said]

    async def _answer(
        self,
        request: gr.Request,
        before: Messages,
        text: str,
        settings: Sequence[Any],
        *,
        is_typed: bool = False,
        refused: Messages | None = None,
        unanswered: Messages | None = None,
    ) -> AsyncIterator[tuple[Any, Any, Any]]:
        """Updates of conversation and box, and what to take out of it, while a message is answered.

        The conversation is `refused` when the message is not sent, and the notes are below
        `unanswered` when nothing but notes has come; else it is what it was, and the message.
        """
        visit, text = request.session_hash, whole(text or "")
        not_sent = refused or gr.skip(), gr.skip(), gr.skip()
        if visit in self._running:
            gr.Info("The answer is not complete: wait for it, or stop it first.", duration=TOAST_S)
            yield not_sent
            return
        try:
            answer = self._running[visit] = self._begin(before, text, settings)
        except InvocationError as error:
            gr.Warning(f"Not sent. {error}", duration=TOAST_S)
            yield not_sent
            return
        asked = [*before, _shown({"role": "user", "content": text})]
        self._written[visit] = asked
        taken = self._news(text) if is_typed else gr.skip()
        said = []
        try:
            yield asked, gr.Textbox(submit_btn=False, stop_btn=STOP), taken
            async for said in answer:
                if self._running.get(visit) is not answer:  # forgotten
                    break
                self._written[visit] = [*asked, *map(_shown, said)]
                yield self._written[visit], gr.skip(), gr.skip()
            else:
                is_mine = self._running.get(visit) is answer
                if is_mine and unanswered and all(map(is_note, said)):
                    self._written[visit] = [*unanswered, *map(_shown, said)]
                    yield self._written[visit], gr.skip(), gr.skip()
            running = self._running.get(visit)
            if running in (answer, None):  # else the box is another's by now
                # Once forgotten, an update of before may have come to the page after that.
                shown = gr.skip() if running else self._written.get(visit, [])
                yield shown, gr.Textbox(submit_btn=SEND, stop_btn=False), gr.skip()
        finally:  # also when the reader closed the page
            answer.stop()
            if self._running.get(visit) is answer:
                del self._running[visit]

    def _whole(self, request: gr.Request, drawn: Messages) -> Messages:
        """The conversation as it is; as the page has it, for one that was loaded again."""
        return self._written.get(request.session_hash, drawn)

    def _news(self, text: str) -> str:
        """A text with a number, so that the same one is a change to the page again."""
        return f"{next(self._numbers)} {text}"

    def _begin(self, before: Messages, text: str, settings: Sequence[Any]) -> Answer:
        system_prompt, temperature, top_p, max_tokens = settings
        return self._chat.answer(
            text,
            before,
            system_prompt=system_prompt,
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_tokens,
        )


def _shown(said: dict[str, Any]) -> dict[str, Any]:
    """A message as the page shows it: text as Markdown without HTML, a note in italics."""
    text = literal(said["content"])
    if is_note(said):
        text = f"*{text.translate(_ESCAPES)}*"
    return {**said, "content": _as_it_is(text)}


def _as_it_is(text: str) -> Messages:
    """A message's content in parts: of a string, Gradio takes indentation and tabs."""
    return [{"type": "text", "text": text}]


_ESCAPES = str.maketrans({"*": r"\*", "_": r"\_", "\n": " "})


def _is_under_way(conversation: Messages) -> bool:
    """Whether the last message is not answered to the end: below a whole answer there are notes."""
    return bool(conversation) and not is_note(conversation[-1], (NOTE,))


def _without_last(conversation: Messages) -> tuple[Messages, str]:
    """The conversation before its last message of the reader's, and that message."""
    for index in reversed(range(len(conversation))):
        if conversation[index]["role"] == "user":
            return conversation[:index], text_of(conversation[index]["content"])
    return conversation, ""


def _index(index: int | Sequence[int]) -> int:
    return index if isinstance(index, int) else index[0]
