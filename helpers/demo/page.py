"""The page itself, made of Gradio's own parts: what is on it, and what its buttons do."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import gradio as gr

from helpers.demo.chat import MAX_TOKENS, SYSTEM_PROMPT, TEMPERATURE, TOP_P, Answer, Chat
from helpers.demo.conversation import NOTE, literal, text_of
from helpers.errors import InvocationError

EXAMPLES = (
    "What is AWS Inferentia2, in three sentences?",
    "Write a Python function that counts the words in a text file.",
    "Explain static batching with an everyday comparison.",
)
LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
    {"left": "\\[", "right": "\\]", "display": True},
]
# A line of Hebrew or Arabic begins at the right, also among lines of English.
# Fonts that are there: the page fetches none.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = ".message p, .message li, textarea { unicode-bidi: plaintext; text-align: start; }"
FIGURES = (
    "**The line under an answer**: the time to its first token and the pace after it, as they "
    "reach this page's server; output tokens; the endpoint's price while the answer was written, "
    "shared by all answers written at the same time."
)

Messages = list[dict[str, Any]]


def build(chat: Chat, *, system_prompt: str = SYSTEM_PROMPT) -> gr.Blocks:
    """The page, not yet served."""
    visits = _Visits(chat)
    with gr.Blocks(title=chat.title, fill_height=True, analytics_enabled=False) as page:
        gr.Markdown(f"# {chat.title}\n\n{chat.description}")
        with gr.Sidebar(label="Settings", position="right", open=False):
            settings = _settings(chat, system_prompt)
            gr.Markdown(FIGURES)
        conversation = gr.Chatbot(
            label="Conversation",
            placeholder=f"### {chat.title}\n\nAsk something, or begin with an example.",
            examples=[{"text": example} for example in EXAMPLES],
            buttons=["copy", "copy_all"],
            editable="user",
            latex_delimiters=LATEX,
            scale=1,
        )
        entry = gr.Textbox(
            label="Message",
            show_label=False,
            placeholder="Enter sends, Shift+Enter begins a new line",
            max_lines=8,
            submit_btn=True,
            stop_btn=False,
            autofocus=True,
        )
        _connect(visits, conversation, entry, settings)
        _offer(visits, entry, settings)
    return page.queue(default_concurrency_limit=None)  # who waits is up to the chat's own line


def _settings(chat: Chat, system_prompt: str) -> list[gr.components.Component]:
    return [
        gr.Textbox(system_prompt, label="System prompt", lines=4, max_lines=12),
        # TGI refuses a temperature of 0 and a top_p of 0 or 1.
        gr.Slider(0.05, 2.0, TEMPERATURE, step=0.05, label="Temperature"),
        gr.Slider(0.05, 0.95, TOP_P, step=0.05, label="Top-p"),
        gr.Slider(
            1,
            chat.longest_reply,
            min(MAX_TOKENS, chat.longest_reply),
            step=1,
            label="Max tokens",
            info="of an answer",
        ),
    ]


def _connect(
    visits: "_Visits",
    conversation: gr.Chatbot,
    entry: gr.Textbox,
    settings: Sequence[gr.components.Component],
) -> None:
    """What a reader can do on the page."""
    written = {
        "inputs": [conversation, entry, *settings],
        "outputs": [conversation, entry],
        "show_progress": "hidden",
        "api_visibility": "private",
    }
    at_once = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    entry.submit(visits.send, **written)
    conversation.example_select(visits.example, **written)
    conversation.retry(visits.retry, **written)
    conversation.edit(visits.edit, **written)
    conversation.undo(visits.undo, [conversation], [conversation, entry], **at_once)
    entry.stop(visits.stop, None, None, **at_once)
    # Twice empty: a version of the answer may be on its way to the page.
    conversation.clear(visits.forget, None, None, **at_once).then(
        lambda: [], None, conversation, **at_once
    )


def _offer(
    visits: "_Visits", entry: gr.Textbox, settings: Sequence[gr.components.Component]
) -> None:
    """`/chat` for programs, as `gr.ChatInterface` has it: each client has a conversation."""
    said, history = gr.JSON(visible=False), gr.State([])
    gr.Button(visible=False).click(
        visits.chat,
        [entry, history, *settings],
        [said, history],
        api_name="chat",
        api_description="Ask the endpoint; the answer, then the page's notes about it.",
    )


class _Visits:
    """Who is on the page: each visit has one answer being written at most."""

    def __init__(self, chat: Chat):
        self._chat = chat
        self._running: dict[str, Answer] = {}

    async def send(self, request: gr.Request, conversation: Messages, entry: str, *settings):
        """Answer what was typed; it stays in the box when it cannot be sent."""
        async for update in self._answer(request, conversation, entry, settings, is_typed=True):
            yield update

    async def example(self, request: gr.Request, chosen: gr.SelectData, conversation, _, *settings):
        """Answer an example."""
        text = chosen.value["text"]
        async for update in self._answer(request, conversation, text, settings):
            yield update

    async def retry(self, request: gr.Request, conversation: Messages, _, *settings):
        """Answer the last message once more."""
        before, text = _without_last(conversation)
        async for update in self._answer(request, before, text, settings):
            yield update

    async def edit(self, request: gr.Request, edited: gr.EditData, conversation, _, *settings):
        """Answer a message that was changed; what came after it is dropped."""
        before = conversation[: _index(edited.index)]
        async for update in self._answer(request, before, edited.value, settings):
            yield update

    # Coroutines: Gradio calls a plain function in a thread, and answers belong to one event loop.

    async def undo(self, request: gr.Request, conversation: Messages):
        """Take the last message and its answer back, into the box."""
        await self.forget(request)
        return _without_last(conversation)

    async def stop(self, request: gr.Request) -> None:
        """End the answer being written; what is written stays."""
        if answer := self._running.get(request.session_hash):
            answer.stop()

    async def forget(self, request: gr.Request) -> None:
        """End the answer being written, for a conversation that is gone."""
        if answer := self._running.pop(request.session_hash, None):
            answer.stop()

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
    ) -> AsyncIterator[tuple[Any, Any]]:
        """Updates of conversation and box while a message is answered."""
        visit = request.session_hash
        if visit in self._running:
            gr.Info("The answer is not complete: wait for it, or stop it first.")
            yield gr.skip(), gr.skip()
            return
        try:
            answer = self._running[visit] = self._begin(before, text, settings)
        except InvocationError as error:
            gr.Warning(str(error), title="Not sent")
            yield gr.skip(), gr.skip()
            return
        asked = [*before, {"role": "user", "content": literal(text)}]
        box = {"value": ""} if is_typed else {}
        try:
            yield asked, gr.Textbox(submit_btn=False, stop_btn=True, **box)
            async for said in answer:
                if self._running.get(visit) is not answer:  # forgotten
                    break
                yield [*asked, *map(_shown, said)], gr.skip()
            if self._running.get(visit) in (answer, None):  # else the box is another's by now
                yield gr.skip(), gr.Textbox(submit_btn=True, stop_btn=False)
        finally:  # also when the reader closed the page
            answer.stop()
            if self._running.get(visit) is answer:
                del self._running[visit]

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
    """A message as the page shows it: an answer as Markdown without HTML, a note in italics."""
    text = literal(said["content"])
    if (said.get("metadata") or {}).get("id") == NOTE:
        text = f"*{text.translate(_ESCAPES)}*"
    return {**said, "content": text}


_ESCAPES = str.maketrans({"*": r"\*", "_": r"\_", "\n": " "})


def _without_last(conversation: Messages) -> tuple[Messages, str]:
    """The conversation before its last message of the reader's, and that message."""
    index = max(i for i, said in enumerate(conversation) if said["role"] == "user")
    return conversation[:index], text_of(conversation[index]["content"])


def _index(index: int | Sequence[int]) -> int:
    return index if isinstance(index, int) else index[0]
