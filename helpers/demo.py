"""A chat page for the endpoint, made of Gradio's own parts.

demo = launch(session, endpoint)      # in a notebook; demo.close() frees the port
python -m helpers.demo --endpoint NAME
"""

import argparse
import asyncio
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gradio as gr

from helpers import contracts, messages
from helpers.errors import InvocationError, SettingsError, WorkshopError

SYSTEM_PROMPT = "You are a helpful assistant. Answer briefly and say so when you do not know."
EXAMPLES = (
    "What is AWS Inferentia2, in three sentences?",
    "Write a Python function that counts the words in a text file.",
    "Explain static batching with an everyday comparison.",
)
# Llama 3's own defaults: generation_config.json of meta-llama/Meta-Llama-3-70B-Instruct (2024-05).
TEMPERATURE, TOP_P = 0.6, 0.9
MAX_TOKENS = 512
SLOTS = 4  # batch slots of the original guide's endpoint, for an image nothing is known about
SEQUENCE_LENGTH = 4096
PORTS = range(7860, 7960)  # Gradio's own
_TRIES = 5  # to serve at a port that was free a moment before
STREAM_LIMIT_S = 480  # SageMaker ends a stream after 8 minutes
USER = "workshop"


@dataclass
class Demo:
    """A chat page that is being served.

    Attributes:
        url: Where this machine reaches it; also what `gradio_client.Client` takes.
        path: Path behind SageMaker Studio's proxy, None elsewhere.
        share_url: Public address, None unless asked for.
        password: For user `workshop` at the public address, None unless shared. Never shown in a
            notebook; the command line prints it.
    """

    url: str
    path: str | None
    share_url: str | None
    password: str | None = field(repr=False)
    _page: gr.Blocks = field(repr=False)
    _chat: "Chat" = field(repr=False)

    def close(self) -> None:
        """End all running replies and free the port; harmless when closed already."""
        self._chat.close()
        self._page.close(verbose=False)

    def __enter__(self) -> "Demo":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def launch(
    session,
    endpoint,
    *,
    share: bool = False,
    port: int | None = None,
    system_prompt: str = SYSTEM_PROMPT,
    environ: Mapping[str, str] = os.environ,
) -> Demo:
    """Serve a chat with the endpoint on 127.0.0.1 and come back at once.

    Args:
        session: The workshop's session.
        endpoint: What `helpers.endpoint.find` gave.
        share: Also serve it at a public gradio.live address, behind a password. Not in rehearsal.
        port: Port to serve at; the first free one from 7860 on when left out.
        system_prompt: What the page's system prompt begins with; the reader can change it there.
        environ: Where SageMaker Studio tells that it is Studio.

    Raises:
        SettingsError: When the port is taken, or a rehearsal is to be shared.
    """
    if share and session.target == "rehearsal":
        raise SettingsError(
            "A rehearsal does not leave this machine: leave out share=True, or choose target aws."
        )
    chat = Chat(session, endpoint)
    page = build(chat, system_prompt=system_prompt)
    password = secrets.token_urlsafe(12) if share else None
    path, url, share_url = _serve(
        page,
        port,
        environ,
        share=share,
        auth=(USER, password) if password else None,
    )
    demo = Demo(url, path, share_url, password, page, chat)
    if share and not share_url:
        demo.close()
        raise SettingsError("No public address was given: leave out share=True, or try later.")
    session.say(f"Chat with {endpoint.name} at {path or url}")
    if share_url:
        session.say(f"PUBLIC: anyone with the password can spend your endpoint's time: {share_url}")
        session.say(f"User {USER}, password in demo.password. Close it with demo.close().")
    return demo


# --- the page ------------------------------------------------------------------------------------


def build(chat: "Chat", *, system_prompt: str = SYSTEM_PROMPT) -> gr.ChatInterface:
    """The page itself, not yet served."""
    page = gr.ChatInterface(
        chat.answer,
        title=chat.title,
        description=chat.description,
        api_name="chat",
        chatbot=gr.Chatbot(
            label="Conversation",
            placeholder=chat.title,
            buttons=["copy", "copy_all"],
            scale=1,
            latex_delimiters=[
                {"left": "$$", "right": "$$", "display": True},
                {"left": "\\(", "right": "\\)", "display": False},
                {"left": "\\[", "right": "\\]", "display": True},
            ],
        ),
        additional_inputs=[
            gr.Textbox(system_prompt, label="System prompt", lines=2),
            # TGI refuses a temperature of 0 and a top_p of 0 or 1.
            gr.Slider(0.05, 2.0, TEMPERATURE, step=0.05, label="Temperature"),
            gr.Slider(0.05, 0.95, TOP_P, step=0.05, label="Top-p"),
            gr.Slider(
                1,
                chat.longest_reply,
                min(MAX_TOKENS, chat.longest_reply),
                step=1,
                label="Max tokens",
            ),
        ],
        examples=[[example] for example in EXAMPLES],
        cache_examples=False,
        editable=True,
        concurrency_limit=chat.slots,
        analytics_enabled=False,
    )
    # Page and API reach the same slots, so they wait in the same queue.
    for event in page.fns.values():
        if event.concurrency_limit == chat.slots:
            event.concurrency_id = "slots"
    return page


class Chat:
    """Answers for the page: one endpoint, any number of readers.

    Attributes:
        title: Header of the page; says so in rehearsal.
        description: The line below it.
        slots: Replies the endpoint writes at the same time.
        longest_reply: Most output tokens a reader can ask for.
    """

    def __init__(self, session, endpoint):
        self.slots, self.longest_reply = _limits(endpoint)
        self.title, self.description = _headings(session, endpoint, self.slots)
        self._rehearsal = session.target == "rehearsal"
        self._clock = session.clock
        self._running: set[Reading] = set()
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

    async def answer(
        self,
        message: str,
        history: list[dict[str, Any]],
        system_prompt: str = SYSTEM_PROMPT,
        temperature: float = TEMPERATURE,
        top_p: float = TOP_P,
        max_tokens: int = MAX_TOKENS,
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Stream a reply; the last version has a line with its timing, or with the error.

        Yields the page's messages: the reply as far as it is there, then notes with a title in
        their metadata, which never go back to the model.
        """
        if not message.strip():
            yield [_note("Nothing sent", "Type a message first.")]
            return
        conversation = for_model(history, message, system_prompt=system_prompt)
        reading = Reading(
            partial(
                self._stream,
                conversation,
                max_tokens=int(max_tokens),
                temperature=temperature,
                top_p=top_p,
            ),
            clock=self._clock,
        )
        self._running.add(reading)
        try:
            async for text in reading:
                yield [_said(text)]
            yield [*_if_any(reading.text), self._verdict(reading)]
        finally:  # also when the reader pressed stop, or closed the page
            reading.close()
            self._running.discard(reading)

    def close(self) -> None:
        """End all replies that are being written."""
        for reading in list(self._running):
            reading.close()

    def _verdict(self, reading: "Reading") -> dict[str, Any]:
        if reading.error:
            return _note("Reply broken off" if reading.text else "No reply", str(reading.error))
        return _note(reading.measured() + (" · rehearsal" if self._rehearsal else ""))


def for_model(
    history: Sequence[Mapping[str, Any]], message: str, *, system_prompt: str = ""
) -> list[dict[str, str]]:
    """The conversation as the endpoint gets it: role and text, without the page's own notes."""
    turns = [{"role": "system", "content": system_prompt}] if system_prompt.strip() else []
    for turn in history:
        text = _text(turn.get("content"))
        if text and not (turn.get("metadata") or {}).get("title"):
            turns.append({"role": turn["role"], "content": text})
    return [*turns, {"role": "user", "content": message}]


def _text(content: Any) -> str:
    """Text of a Gradio message: a string, or a list of parts of which some are text."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return str(content.get("text") or "")
    return "".join(map(_text, content)) if isinstance(content, Iterable) else ""


def _said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _if_any(text: str) -> list[dict[str, Any]]:
    return [_said(text)] if text else []


def _note(title: str, text: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": text, "metadata": {"title": title}}


def _limits(endpoint) -> tuple[int, int]:
    """Batch slots of all instances, and the longest reply worth offering: half of the sequence."""
    slots, length = SLOTS, SEQUENCE_LENGTH
    with suppress(WorkshopError):  # an image nothing is known about
        shape = contracts.shape(contracts.contract_for_image(endpoint.image), endpoint.env)
        slots, length = shape.batch_size, shape.max_total_tokens
    return slots * max(endpoint.instance_count, 1), length // 2


def _headings(session, endpoint, slots: int) -> tuple[str, str]:
    model = endpoint.model_id.rpartition("/")[2] or endpoint.name
    title = f"{model} on Inferentia2"
    facts = f"Endpoint `{endpoint.name}` · {endpoint.instance_type} · {slots} chats at once"
    if session.target == "rehearsal":
        return (
            f"Rehearsal: {title}",
            f"{facts}. Rehearsal: no model behind it; replies and timing are simulated.",
        )
    return title, f"{facts} · {session.region}"


# --- reading a reply -----------------------------------------------------------------------------


class Reading:
    """One reply, read in a thread of its own, so that the page's pace changes no time stamp.

    Iterating gives the whole text so far whenever there is more; a page that is slower than the
    endpoint skips versions and loses nothing. Create and iterate it in one event loop.

    Attributes:
        text: Everything so far.
        error: What ended it early, None when nothing did.
    """

    def __init__(self, open_stream: Callable[[], messages.ChatStream], *, clock):
        self.text = ""
        self.error: InvocationError | None = None
        self._open_stream = open_stream
        self._clock = clock
        self._stream: messages.ChatStream | None = None
        self._sent_s = self._first_s = self._last_s = clock.monotonic()
        self._lock = threading.Lock()
        self._closed = self._ended = False
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        threading.Thread(target=self._read, name="chat-reply", daemon=True).start()

    async def __aiter__(self) -> AsyncIterator[str]:
        shown, ended = 0, False
        while not ended:
            await self._news.wait()
            self._news.clear()
            ended = self._ended  # asked before the text: what comes later sets news again
            if len(self.text) > shown:
                shown = len(self.text)
                yield self.text

    def close(self) -> None:
        """End the request upstream, also while it waits for its first token."""
        with self._lock:
            self._closed = True
            stream = self._stream
        if stream:
            stream.close()

    def measured(self) -> str:
        """Time to first token, pace after it, tokens: in AWS time."""
        tokens = self._stream.output_tokens
        facts = [f"First token after {self._first_s - self._sent_s:.2f} s"]
        if tokens > 1 and self._last_s > self._first_s:
            facts.append(f"{(tokens - 1) / (self._last_s - self._first_s):.1f} tokens/s after it")
        return " · ".join([*facts, f"{tokens} token{'s' * (tokens != 1)}"])

    def _read(self) -> None:
        try:
            self._sent_s = self._clock.monotonic()
            stream = self._open_stream()
            with self._lock:
                self._stream = stream
                closed = self._closed
            with stream:
                if not closed:  # else stopped while the request was being accepted
                    self._collect(stream)
        except InvocationError as error:
            self.error = error
        except Exception as error:  # nobody else sees what happens in this thread
            self.error = InvocationError(f"The page failed ({error!r}).", kind="page")
        finally:
            self._ended = True
            self._tell()

    def _collect(self, stream: messages.ChatStream) -> None:
        for piece in stream:
            self._last_s = self._clock.monotonic()
            if not self.text:
                self._first_s = self._last_s
            self.text += piece
            self._tell()

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop is gone: the page was closed
            self._loop.call_soon_threadsafe(self._news.set)


# --- where it is served --------------------------------------------------------------------------


def _serve(
    page: gr.ChatInterface, wanted: int | None, environ: Mapping[str, str], **options: Any
) -> tuple[str | None, str, str | None]:
    """Serve at the wanted port or a free one; path behind Studio, local and public address."""
    for _ in range(_TRIES):
        port = _free_port(wanted)
        path = _studio_path(port, environ)
        with suppress(OSError):  # somebody else has just taken it
            _, url, share_url = page.launch(
                server_name="127.0.0.1",
                server_port=port,
                root_path=path,
                inline=False,
                prevent_thread_lock=True,
                quiet=True,
                show_error=True,
                ssr_mode=False,
                footer_links=["api"],
                **options,
            )
            return path, url, share_url
    raise SettingsError(f"Port {port} was taken by somebody else each time: try again.")


def _free_port(wanted: int | None) -> int:
    for port in [wanted] if wanted else PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    if wanted:
        raise SettingsError(f"Port {wanted} is taken: leave it out, or close what is using it.")
    raise SettingsError(f"Ports {PORTS[0]} to {PORTS[-1]} are all taken: close other demos.")


def _studio_path(port: int, environ: Mapping[str, str]) -> str | None:
    """Path of the port behind SageMaker Studio's JupyterLab, which proxies what runs beside it.

    Source: the environment of SageMaker Distribution's JupyterLab app (4.x, 2026).
    """
    if environ.get("SAGEMAKER_APP_TYPE_LOWERCASE") != "jupyterlab":
        return None
    return f"/jupyterlab/default/proxy/{port}/"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; the command line."""
    from helpers import endpoint, session

    parser = argparse.ArgumentParser(prog="python -m helpers.demo", description=main.__doc__)
    parser.add_argument("--endpoint", metavar="NAME", help="default: the one that is yours")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="a public address, with a password")
    parser.add_argument("--system-prompt", default=SYSTEM_PROMPT, metavar="TEXT")
    chosen = parser.parse_args(arguments)
    try:
        here = session.open_session()
        found = endpoint.find(here, chosen.endpoint, in_service=True)
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        demo = launch(
            here,
            found,
            share=chosen.share,
            port=chosen.port,
            system_prompt=chosen.system_prompt,
        )
    except WorkshopError as error:
        print(error, file=sys.stderr)
        return 1
    with demo:
        if demo.password:
            print(f"Password: {demo.password}", file=sys.stderr)
        here.say("Ctrl-C ends it.")
        stop.wait()
    here.say("Ended.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
