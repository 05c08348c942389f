"""The page itself, made of Gradio's own parts: what is on it, and what its buttons do."""

from collections.abc import Sequence

import gradio as gr

from helpers.demo.chat import MAX_TOKENS, SYSTEM_PROMPT, TEMPERATURE, TOP_P, Chat
from helpers.demo.conversation import whole
from helpers.demo.looks import (
    FOR_ALL,
    GIVE,
    KEEP,
    LATEX,
    LEAVE,
    RESTORE,
    TAKE,
    TO_THE_BOX,
    TO_THE_END,
)
from helpers.demo.visits import SEND, Visits

EXAMPLES = (
    "What is AWS Inferentia2, in three sentences?",
    "Write a Python function that counts the words in a text file.",
    "Explain static batching with an everyday comparison.",
)
FIGURES = (
    "**The line under an answer**: how long it waited in line, if it did; the time from sending it "
    "to its first token, and the pace after that, as they reach this page's server; output tokens; "
    "the endpoint's price for that time, shared by all who were answered at the same time."
)
_PRIVATE = {"show_progress": "hidden", "api_visibility": "private"}
_AT_ONCE = {"queue": False, **_PRIVATE}


def build(chat: Chat, *, system_prompt: str = SYSTEM_PROMPT) -> gr.Blocks:
    """The page, not yet served."""
    visits = Visits(chat)
    with gr.Blocks(title=chat.title, fill_height=True, analytics_enabled=False) as page:
        with gr.Row(equal_height=False):
            gr.Markdown(f"# {chat.title}", elem_classes="heading")
            open_settings = gr.Button("Settings", size="sm", scale=0, min_width=90)
        gr.Markdown(chat.description)
        with gr.Sidebar(label="Settings", position="right", open=False) as panel:
            gr.Markdown("## Settings")
            settings = _settings(chat, system_prompt)
            gr.Markdown("\n\n".join(filter(None, [FIGURES, chat.time])))
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
            elem_id="entry",
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
        _notice_who_leaves(page, visits)
        _keep(page, visits, [conversation, entry, *settings])
        page.load(None, js=FOR_ALL, **_PRIVATE)
    # Who waits is up to the chat's own line, and nobody begins an answer without reading it.
    return page.queue(default_concurrency_limit=None, api_open=False)


def _settings(chat: Chat, system_prompt: str) -> list[gr.components.Component]:
    return [
        gr.Textbox(whole(system_prompt or ""), label="System prompt", lines=4, max_lines=12),
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
    visits: Visits,
    conversation: gr.Chatbot,
    entry: gr.Textbox,
    examples: Sequence[gr.Button],
    settings: Sequence[gr.components.Component],
) -> None:
    """What a reader can do on the page; the keyboard is then where the next message is typed."""
    taken, given = gr.Textbox(visible="hidden"), gr.Textbox(visible="hidden")
    taken.change(None, taken, js=TAKE, **_PRIVATE)
    given.change(None, given, js=GIVE, **_PRIVATE)
    written = {
        "inputs": [conversation, entry, *settings],
        "outputs": [conversation, entry, taken],
        "js": TO_THE_BOX,
        "trigger_mode": "multiple",  # else Gradio drops a second message without a word
        **_PRIVATE,
    }
    entry.submit(None, js=TO_THE_END, **_PRIVATE)
    entry.submit(visits.send, **written)
    for example in examples:
        example.click(visits.example, **written | {"inputs": [conversation, example, *settings]})
    conversation.retry(visits.retry, **written)
    conversation.edit(visits.edit, **written)
    conversation.undo(visits.undo, conversation, [conversation, given], js=TO_THE_BOX, **_AT_ONCE)
    entry.stop(visits.stop, None, None, js=TO_THE_BOX, **_AT_ONCE)
    # Twice empty: a version of the answer may be on its way to the page.
    conversation.clear(visits.forget, None, None, js=TO_THE_BOX, **_AT_ONCE).then(
        visits.since, None, conversation, **_AT_ONCE
    )


def _offer(visits: Visits, entry: gr.Textbox, settings: Sequence[gr.components.Component]) -> None:
    """`/chat` for programs, as `gr.ChatInterface` has it: each client has a conversation."""
    said, history = gr.JSON(visible=False), gr.State([])
    gr.Button(visible=False).click(
        visits.chat,
        [entry, history, *settings],
        [said, history],
        api_name="chat",
        api_description="Ask the endpoint; the answer, then the page's notes about it.",
    )


def _keep(page: gr.Blocks, visits: Visits, parts: Sequence[gr.components.Component]) -> None:
    """What is on the page is on it again when the tab loads it again."""
    gr.on([part.change for part in parts], None, parts, js=KEEP, **_PRIVATE)
    page.load(None, parts, parts, js=RESTORE, **_PRIVATE).then(
        visits.again, parts[0], parts[0], **_AT_ONCE
    )


def _notice_who_leaves(page: gr.Blocks, visits: Visits) -> None:
    """Free the slot, or the place in line, of who has closed the page."""
    page.unload(visits.left)  # not through a proxy: see LEAVE
    visit = gr.Textbox(visible=False)
    page.load(visits.visit, None, visit, **_AT_ONCE).then(None, visit, None, js=LEAVE, **_AT_ONCE)
    gr.api(visits.left, api_name="leave", api_visibility="undocumented", queue=False)
