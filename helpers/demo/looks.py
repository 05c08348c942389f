"""How the page looks, and what Gradio has no option for."""

import gradio as gr

from helpers.demo.conversation import MATH

LATEX = [{"left": left, "right": right, "display": left != "\\("} for left, right in MATH]
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

/* But code within a line goes on in the next one. */
.message :not(pre, td, th) > code { overflow-wrap: anywhere; }

/* What an answer draws stays within it: a block, as an inline `.md` contains nothing. */
.message .message-content { contain: paint; overflow-clip-margin: 4px; }

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


# --- JavaScript -----------------------------------------------------------------------------------

# Gradio follows an answer only for a reader who is at the end, and has nothing to go there.
TO_THE_END = "() => document.querySelector('[role=log]').scrollTo(0, 1e9)"
# The keyboard goes to the box from a button that goes away; on a phone it would cover the answer.
TO_THE_BOX = """(...all) => {
    if (matchMedia("(hover: hover)").matches) document.querySelector("#entry textarea").focus();
    return all;
}"""
# A message that is being answered leaves the box, and what was typed after it stays.
TAKE = """taken => {
    const box = document.querySelector("#entry textarea");
    const text = taken.slice(taken.indexOf(" ") + 1);
    if (!box.value.toWellFormed().startsWith(text)) return;
    box.value = box.value.slice(text.length);
    box.dispatchEvent(new Event("input", {bubbles: true}));
}"""
# What is undone goes into the box, before what is there by then.
GIVE = """given => {
    const box = document.querySelector("#entry textarea");
    const text = given.slice(given.indexOf(" ") + 1);
    box.value = [text, box.value].filter(Boolean).join("\\n");
    box.dispatchEvent(new Event("input", {bubbles: true}));
}"""
# What Gradio leaves out and has no option for: the name of the box in which a message is edited, a
# role of what it gives a label, and a way for the keyboard to what may be wider than the page.
# What is copied is without the marks that keep HTML and Mermaid from being obeyed: see `literal`.
FOR_ALL = """() => {
const plain = text => text.replaceAll("<\u2060", "<").replaceAll("```\u2060mermaid", "```mermaid")
    .replaceAll("\ufeff>", ">");
const clipboard = navigator.clipboard, write = clipboard?.writeText.bind(clipboard);
if (clipboard) clipboard.writeText = text => write(plain(text));
addEventListener("copy", event => {
    const text = String(getSelection());
    if (plain(text) === text) return;
    event.clipboardData.setData("text/plain", plain(text));
    event.preventDefault();
});
new MutationObserver(() => {
    for (const box of document.querySelectorAll(".edit-textarea")) box.ariaLabel = "Edited message";
    for (const said of document.querySelectorAll(".message > [data-testid]:not([role])"))
        said.role = "group";
    for (const wide of document.querySelectorAll(".message :is(pre, table, .katex-display)"))
        wide.tabIndex = 0;
}).observe(document.body, {childList: true, subtree: true});
}"""

# Gradio loads the page again when a connection that broke is back. What was on it stays in the tab.
# The sliders, which come last, may be those of another endpoint by then.
KEEP = "(...all) => { window.kept = all; }"
RESTORE = """(...all) => {
    const place = `chat: ${document.title}`;
    const before = JSON.parse(sessionStorage.getItem(place)) ?? all;
    sessionStorage.removeItem(place); // a copy of this tab begins anew
    [...document.querySelectorAll("input[type=range]")].reverse().forEach(({min, max}, at) => {
        const number = before.length - 1 - at;
        before[number] = Math.min(Math.max(before[number], min), max);
    });
    addEventListener("pagehide", () => {
        const [conversation, draft, ...settings] = window.kept ?? before;
        const typed = document.querySelector("#entry textarea")?.value ?? draft; // perhaps just now
        sessionStorage.setItem(place, JSON.stringify([conversation, typed, ...settings]));
    });
    return before;
}"""

# Studio's proxy keeps reading an answer whose reader has gone, and Gradio's page says nothing when
# it is closed: so this does, to free the slot.
LEAVE = """visit => addEventListener("pagehide", () => fetch("gradio_api/run/leave", {
    method: "POST",
    keepalive: true,
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify({data: [], session_hash: visit}),
}))"""
