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
# Fonts that are there: the page fetches none. Colors as dark as WCAG AA wants them: 4.5 to 1.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
THEME.set(
    body_text_color_subdued="*neutral_600",
    block_info_text_color="*neutral_600",
    input_placeholder_color="*neutral_600",
    input_placeholder_color_dark="*neutral_400",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
)
CSS = """
.gradio-container .main.app:not(.fill_width) { max-width: 60rem; padding: var(--size-4); }
.heading h1 { font-size: clamp(1rem, 4.5vw, 1.4rem); margin: 0; }

/* Where the keyboard is. */
:focus-visible:not(textarea) { outline: 2px solid var(--color-accent) !important; }
.block:has(textarea:focus-visible) { border-color: var(--color-accent) !important; }

/* The examples go when there is a conversation. */
.examples { gap: var(--size-2); }
.gradio-container:has(.message-row) .examples { display: none; }

/* A closed panel is out of the keyboard's way: the button in the header opens it. */
.sidebar:not(.open) { visibility: hidden; }
.scroll-down-button-container { z-index: 1 !important; } /* below an open one */

/* A line of Hebrew or Arabic begins at the right, also among lines of English. */
.message p, .message li, textarea { unicode-bidi: plaintext; text-align: start; }

/* What is wider than the page scrolls by itself. */
.message table { display: block; overflow-x: auto; border: 0 !important; padding: 0 !important; }
.message :is(td, th) { padding: var(--size-1) var(--size-2) !important; word-break: normal; }
.message .katex-display { overflow: auto hidden; }

.message .edit-textarea { width: 100% !important; min-width: min(60vw, 30rem); }

/* Text and code that can be read: 4.5 to 1. */
.message .prose.chatbot.md { opacity: 1; }
.gradio-container .message .md .token:is(.comment, .prolog, .cdata, .doctype, .punctuation) {
    color: var(--body-text-color-subdued);
}
body:not(.dark) .message .md .token:is(.keyword, .function, .class-name, .atrule, .attr-value) {
    color: #006a99;
}
body:not(.dark) .message .md .token:is(.string, .char, .builtin, .inserted, .selector, .attr-name,
    .regex, .variable, .important) { color: #4d7300; }

/* Notes below an answer. */
.message.thought .prose.chatbot.md * {
    color: var(--body-text-color-subdued); font-size: var(--text-sm);
}
"""
FIGURES = (
    "**The line under an answer**: the time to its first token and the pace after it, as they "
    "reach this page's server; output tokens; the endpoint's price while the answer was written, "
    "shared by all answers written at the same time."
)
SEND, STOP = "Send", "Stop"
_PRIVATE = {"show_progress": "hidden", "api_visibility": "private"}
_AT_ONCE = {"queue": False, **_PRIVATE}
_TO_THE_END = "() => document.querySelector('[role=log]').scrollTo(0, 1e9)"
# What Gradio leaves out and has no option for: the name of the box in which a message is edited,
# and a way for the keyboard to what may be wider than the page.
_FOR_ALL = """() => new MutationObserver(() => {
    for (const box of document.querySelectorAll(".edit-textarea")) box.ariaLabel = "Edited message";
    for (const wide of document.querySelectorAll(".message :is(pre, table, .katex-display)"))
        wide.tabIndex = 0;
}).observe(document.body, {childList: true, subtree: true})"""

Messages = list[dict[str, Any]]


def build(chat: Chat, *, system_prompt: str = SYSTEM_PROMPT) -> gr.Blocks:
    """The page, not yet served."""
    visits = _Visits(chat)
    with gr.Blocks(title=chat.title, fill_height=True, analytics_enabled=False) as page:
        with gr.Row(equal_height=False):
            gr.Markdown(f"# {chat.title}", elem_classes="heading")
            open_settings = gr.Button("Settings", size="sm", scale=0, min_width=90)
        gr.Markdown(chat.description)
        with gr.Sidebar(label="Settings", position="right", open=False) as panel:
            gr.Markdown("## Settings")
            settings = _settings(chat, system_prompt)
            gr.Markdown(FIGURES)
        conversation = gr.Chatbot(
            show_label=False,
            placeholder="Ask something, or begin with an example.",
            buttons=["copy", "copy_all"],
            editable="user",
            latex_delimiters=LATEX,
            height=240,  # at least
            scale=1,
        )
        with gr.Row(elem_classes="examples"):
            examples = [gr.Button(example, size="sm") for example in EXAMPLES]
        entry = gr.Textbox(
            label="Message",
            show_label=False,
            placeholder="Enter sends, Shift+Enter begins a new line",
            max_lines=8,
            submit_btn=SEND,
            stop_btn=False,
            autofocus=True,
        )
        open_settings.click(lambda: gr.Sidebar(open=True), None, panel, **_AT_ONCE)
        _connect(visits, conversation, entry, examples, settings)
        _offer(visits, entry, settings)
        page.load(None, js=_FOR_ALL, **_PRIVATE)
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
    examples: Sequence[gr.Button],
    settings: Sequence[gr.components.Component],
) -> None:
    """What a reader can do on the page."""
    written = {
        "inputs": [conversation, entry, *settings],
        "outputs": [conversation, entry],
        **_PRIVATE,
    }
    # Gradio follows an answer only for a reader who is at the end, and has nothing to go there.
    entry.submit(None, js=_TO_THE_END, **_PRIVATE)
    entry.submit(visits.send, **written)
    for example in examples:
        example.click(visits.example, **written | {"inputs": [conversation, example, *settings]})
    conversation.retry(visits.retry, **written)
    conversation.edit(visits.edit, **written)
    conversation.undo(visits.undo, [conversation], [conversation, entry], **_AT_ONCE)
    entry.stop(visits.stop, None, None, **_AT_ONCE)
    # Twice empty: a version of the answer may be on its way to the page.
    conversation.clear(visits.forget, None, None, **_AT_ONCE).then(
        lambda: [], None, conversation, **_AT_ONCE
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

    async def example(self, request: gr.Request, conversation: Messages, text: str, *settings):
        """Answer an example."""
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

    def undo(self, request: gr.Request, conversation: Messages):
        """Take the last message and its answer back, into the box."""
        self.forget(request)
        return _without_last(conversation)

    def stop(self, request: gr.Request) -> None:
        """End the answer being written; what is written stays."""
        if answer := self._running.get(request.session_hash):
            answer.stop()

    def forget(self, request: gr.Request) -> None:
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
            yield asked, gr.Textbox(submit_btn=False, stop_btn=STOP, **box)
            async for said in answer:
                if self._running.get(visit) is not answer:  # forgotten
                    break
                yield [*asked, *map(_shown, said)], gr.skip()
            yield gr.skip(), gr.Textbox(submit_btn=SEND, stop_btn=False)
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
