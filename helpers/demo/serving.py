"""Where the page is served, and until when."""

import html
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.tunneling import CURRENT_TUNNELS
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from helpers.demo.chat import SYSTEM_PROMPT, Chat
from helpers.demo.door import Door
from helpers.demo.looks import CSS, THEME
from helpers.demo.page import build
from helpers.errors import SettingsError

PORTS = range(7860, 7960)  # Gradio's own
_CHOOSE = "leave it out, or choose one from 1024 to 65535"
_TRIES = 5  # to serve at a port that was free a moment before
_CLOSE_S = 5  # for what is being said to end, which takes 0.2 s on a quiet machine
USER = "workshop"
# Gradio runs no more events at once than it may have threads, though an answer takes none of them:
# who came after its 40 would not even be told their place in line.
EVENTS_AT_ONCE = 1000
# Gradio (6.31) keeps 26 KB of each tab and client that ever came, and would of 10,000. Who is
# forgotten for newer ones loses the conversation of `/chat`; a tab has its own.
SESSIONS = 100
# What the environment could switch on, as far as `launch` lets itself be told.
_SWITCHED_OFF = {
    "enable_monitoring": False,
    "max_file_size": 0,  # of an upload: the page has none, and they would stay
    "mcp_server": False,
    "num_workers": 0,
    "run_history": False,
    "ssr_mode": False,
}
# The rest: all files served, a launch that does not come back, an editor of the page's code.
_HIDDEN = ("GRADIO_ALLOWED_PATHS", "GRADIO_DEBUG", "GRADIO_VIBE_MODE", "GRADIO_WATCH_DIRS")
# Gradio keeps what it knows of each event for its analytics, and adds all of it up at each new one.
_ANALYTICS = {"GRADIO_ANALYTICS_MAX_EVENTS": "100"}
_launching = threading.Lock()  # Gradio builds one page at a time


@dataclass(eq=False)
class Demo:
    """A chat page that is being served. As a cell's last line it is a link to the page.

    Attributes:
        title: Header of the page; says so in rehearsal.
        url: Where this machine reaches it; also what `gradio_client.Client` takes.
        path: Path behind SageMaker Studio's proxy, None elsewhere.
        share_url: Public address, None unless asked for.
        password: For user `workshop` at the public address, None unless shared. Never shown in a
            notebook; the command line prints it.
    """

    title: str
    url: str
    path: str | None
    share_url: str | None
    password: str | None = field(repr=False)
    _page: gr.Blocks = field(repr=False)
    _chat: Chat = field(repr=False)
    _endpoint: tuple[str, ...] = field(repr=False)

    @property
    def port(self) -> int:
        """Port on this machine."""
        return self._page.server_port

    def close(self) -> None:
        """End all running replies, saying so, and free the port; harmless when closed already."""
        _open.discard(self)
        self._chat.close()
        for tunnel in CURRENT_TUNNELS:  # else it leads to whatever is served at the port next
            if tunnel.local_port == self.port:
                tunnel.kill()
        # Gradio 6.31 closes the queue first, and waits 5 s for streams that then never end.
        server = self._page.server
        self._page.app.stop_event.set()
        server.should_exit = True
        server.thread.join(_CLOSE_S)
        self._page.close(verbose=False)

    def _repr_html_(self) -> str:
        # JupyterLab leaves a path from the root alone; of any other it makes one to /files/.
        address, title = html.escape(self.path or self.url), html.escape(self.title)
        return f'<a href="{address}" target="_blank" rel="noopener">{title}</a>'

    def __enter__(self) -> "Demo":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_open: set[Demo] = set()  # what this process serves


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

    A cell that is run again gives the same address: what this process serves already for the same
    endpoint, or at the same port, is closed first.

    Args:
        session: The workshop's session.
        endpoint: What `helpers.endpoint.find` gave.
        share: Also serve it at a public gradio.live address, behind a password. Not in rehearsal.
        port: Port to serve at; the first free one from 7860 on when left out.
        system_prompt: What the page's system prompt begins with; the reader can change it there.
        environ: Where SageMaker Studio tells that it is Studio, and where the Hub is.

    Raises:
        SettingsError: When the port is taken or none, or a rehearsal is to be shared.
    """
    if share and session.target == "rehearsal":
        raise SettingsError(
            "A rehearsal does not leave this machine: leave out share=True, or choose target aws."
        )
    if port is not None and not 0 < port < 2**16:
        raise SettingsError(f"There is no port {port}: {_CHOOSE}.")
    chat = Chat(session, endpoint, environ=environ)
    password = secrets.token_urlsafe(12) if share else None
    whose = (session.account, session.region, endpoint.name)
    with _launching, _fit_for_gradio(os.environ):
        page = build(chat, system_prompt=system_prompt)
        path, url, share_url = _serve(
            page,
            port,
            _close_earlier(whose, port),
            environ,
            share=share,
            auth=(USER, password) if password else None,
            # Gradio's own login page has no title, which screen readers read first.
            auth_message=f"<title>{html.escape(chat.title)}</title>User {USER}",
        )
        demo = Demo(chat.title, url, path, share_url, password, page, chat, whose)
        _open.add(demo)
    if share and not share_url:
        demo.close()
        raise SettingsError("No public address was given: leave out share=True, or try later.")
    session.say(f"Chat with {endpoint.name} at {path or url}")
    if share_url:
        session.say(f"PUBLIC: anyone with the password can spend your endpoint's time: {share_url}")
        session.say(f"User {USER}, password in demo.password. Close it with demo.close().")
    return demo


def _close_earlier(endpoint: tuple[str, ...], port: int | None) -> list[int]:
    """Close what this process serves of the endpoint, or at the port; the ports that frees."""
    earlier = [demo for demo in _open if demo._endpoint == endpoint or demo.port == port]
    ports = [demo.port for demo in earlier]
    if port and port not in ports:  # asked first: what works is not closed for nothing
        _free_port(port, ())
    for demo in earlier:
        demo.close()
    return ports


@contextmanager
def _fit_for_gradio(environ: MutableMapping[str, str]) -> Iterator[None]:
    """An environment that switches nothing on, and in which Gradio asks no proxy for its page."""
    direct = ",".join(
        filter(None, [environ.get("no_proxy") or environ.get("NO_PROXY"), "127.0.0.1,localhost"])
    )
    proxies = dict.fromkeys(("no_proxy", "NO_PROXY"), direct)
    changed = dict.fromkeys(_HIDDEN) | proxies | _ANALYTICS
    before = {name: environ.get(name) for name in changed}
    try:
        _set(environ, changed)
        yield
    finally:
        _set(environ, before)


def _set(environ: MutableMapping[str, str], values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value


def _serve(
    page: gr.Blocks,
    wanted: int | None,
    earlier: Sequence[int],
    environ: Mapping[str, str],
    **options: Any,
) -> tuple[str | None, str, str | None]:
    """Serve at the wanted port, an earlier or a free one; path in Studio, local, public address."""
    for _ in range(_TRIES):
        port = _free_port(wanted, earlier)
        path = _studio_path(port, environ)
        # A site of others that calls itself by this machine's address reads nothing here. Studio
        # and gradio.live have names of their own, and ask who comes.
        hosts = ["*"] if path or options["share"] else ["127.0.0.1", "localhost"]
        try:
            _, url, share_url = page.launch(
                server_name="127.0.0.1",
                server_port=port,
                max_threads=EVENTS_AT_ONCE,
                state_session_capacity=SESSIONS,
                root_path=path or "",
                inline=False,
                prevent_thread_lock=True,
                quiet=True,
                show_error=True,
                footer_links=[],
                css=CSS,
                theme=THEME,
                app_kwargs={
                    "middleware": [
                        Middleware(Door, path=path or ""),
                        Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
                    ]
                },
                **_SWITCHED_OFF,
                **options,
            )
            return path, url, share_url
        except OSError:  # somebody else has just taken it
            continue
        except BaseException:  # an interrupt, too: by then the port may be served
            page.close(verbose=False)
            raise
    raise SettingsError(f"Port {port} was taken by somebody else each time: try again.")


def _free_port(wanted: int | None, earlier: Sequence[int]) -> int:
    for port in [wanted] if wanted else [*earlier, *PORTS]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except PermissionError as error:
                raise SettingsError(f"Port {port} is root's: {_CHOOSE}.") from error
            except OSError:
                continue
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
