"""Where the page is served, and until when."""

import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from helpers.demo.chat import SYSTEM_PROMPT, Chat
from helpers.demo.page import CSS, THEME, build
from helpers.errors import SettingsError

PORTS = range(7860, 7960)  # Gradio's own
_TRIES = 5  # to serve at a port that was free a moment before
USER = "workshop"
# Gradio runs no more events at once than it may have threads, though an answer takes none of them:
# who came after its 40 would not even be told their place in line.
EVENTS_AT_ONCE = 1000
# Gradio (6.31) keeps 26 KB of each tab and client that ever came, and would of 10,000. Who is
# forgotten for newer ones loses the conversation of `/chat`; a tab has its own.
SESSIONS = 500
# The page loads nothing from elsewhere, whatever a model writes: no pictures, no scripts, no fonts.
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; form-action 'self'; "
    "base-uri 'self'; object-src 'none'"
)


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
    _chat: Chat = field(repr=False)

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
        environ: Where SageMaker Studio tells that it is Studio, and where the Hub is.

    Raises:
        SettingsError: When the port is taken, or a rehearsal is to be shared.
    """
    if share and session.target == "rehearsal":
        raise SettingsError(
            "A rehearsal does not leave this machine: leave out share=True, or choose target aws."
        )
    chat = Chat(session, endpoint, environ=environ)
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


class _Policy:
    """Sends `POLICY` with every answer; ASGI, so that streams pass as they are."""

    def __init__(self, app):
        self._app = app

    async def __call__(self, scope, receive, send):
        async def with_policy(message):
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        await self._app(scope, receive, with_policy)


def _serve(
    page: gr.Blocks, wanted: int | None, environ: Mapping[str, str], **options: Any
) -> tuple[str | None, str, str | None]:
    """Serve at the wanted port or a free one; path behind Studio, local and public address."""
    for _ in range(_TRIES):
        port = _free_port(wanted)
        path = _studio_path(port, environ)
        with suppress(OSError):  # somebody else has just taken it
            _, url, share_url = page.launch(
                server_name="127.0.0.1",
                server_port=port,
                max_threads=EVENTS_AT_ONCE,
                state_session_capacity=SESSIONS,
                root_path=path,
                inline=False,
                prevent_thread_lock=True,
                quiet=True,
                show_error=True,
                ssr_mode=False,
                footer_links=[],
                css=CSS,
                theme=THEME,
                app_kwargs={"middleware": [Middleware(_Policy)]},
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
