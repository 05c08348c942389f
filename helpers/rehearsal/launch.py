"""Start, find and stop the rehearsal server, which all notebooks of a run share.

The server notes where it listens in `<state_dir>/server.json`; a lock beside it makes sure that of
several processes that need a server at the same moment exactly one starts it. It lives on after
the process that started it, until it has been idle for half an hour or is told to stop.
"""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from filelock import FileLock

from helpers.errors import RehearsalError
from helpers.settings import Settings

IDLE_MINUTES = 30
REGION = "us-east-1"

_STATE = "server.json"
_LOCK = "server.lock"
_LOG = "server.log"
_TAIL_LINES = 15
_ANSWER_S = 10.0  # a busy server on a small machine is slow, not absent
# What the server must not inherit: it is AWS, it needs none, and it must not call itself.
_NOT_INHERITED = ("AWS_", "HF_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class _Detached(subprocess.Popen):
    """A process that is meant to live on: Python need not warn that nobody waited for it."""

    def __del__(self):
        pass


_started: dict[int, _Detached] = {}


@dataclass(frozen=True)
class ServerInfo:
    """A running rehearsal server.

    Attributes:
        url: What `AWS_ENDPOINT_URL` is set to.
        pid: Its process.
        speed: Seconds of AWS time in one real second.
        origin: Epoch second at which both times agreed.
    """

    url: str
    pid: int
    speed: float
    origin: float


def credentials(identity: str = "admin") -> dict[str, str]:
    """Environment variables of an identity of the rehearsal; they open nothing anywhere.

    Args:
        identity: `participant`, `instructor`, `laptop` (a user, so without a session token) or
            `admin`, who may do everything.
    """
    from helpers.rehearsal.aws import identities

    one = identities.IDENTITIES[identity]
    keys = {"AWS_ACCESS_KEY_ID": one.key, "AWS_SECRET_ACCESS_KEY": identities.SECRET_KEY}
    return keys | ({"AWS_SESSION_TOKEN": one.token} if one.token else {})


def is_key(access_key: str | None) -> bool:
    """Whether an access key is one of the rehearsal's."""
    from helpers.rehearsal.aws import identities

    return access_key in identities.SECRETS


def environment(url: str) -> dict[str, str]:
    """Environment variables that point any AWS client, and the Hub's, at a server."""
    return {
        "AWS_ENDPOINT_URL": url,
        **credentials(),
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "HF_ENDPOINT": url,
    }


def ensure(settings: Settings, *, timeout_s: float = 60.0) -> ServerInfo:
    """Find the rehearsal server, or start it and wait until it answers.

    Args:
        settings: `state_dir` says where it notes its state, `speed` how fast time passes.
        timeout_s: Real seconds to wait for a server that is being started.

    Raises:
        RehearsalError: When it does not come up, or runs at another speed, or its state cannot
            be written.
    """
    info = status(settings)
    if info is None:
        with _writing(settings.state_dir):
            settings.state_dir.mkdir(parents=True, exist_ok=True)
            with FileLock(settings.state_dir / _LOCK):
                info = status(settings) or _start(settings, timeout_s)
    if info.speed != settings.speed:
        raise RehearsalError(
            f"A rehearsal runs already, at speed {info.speed:g} instead of {settings.speed:g}: set "
            f"WORKSHOP_SPEED={info.speed:g}, or stop it with `python -m helpers.rehearsal --stop`."
        )
    return info


def status(settings: Settings) -> ServerInfo | None:
    """The server that this state directory knows of, None when it does not answer."""
    noted = _noted(settings.state_dir)
    info = probe(noted[0]) if noted else None
    return info if info is not None and info.pid == noted[1] else None


def was_started(settings: Settings) -> bool:
    """Whether `ensure` has ever started a server for this state directory."""
    return (settings.state_dir / _LOG).exists()


def probe(url: str) -> ServerInfo | None:
    """The rehearsal server at an address, None when there is none or something else answers."""
    with contextlib.suppress(TimeoutError):
        return _probe(url)
    return None


def _probe(url: str) -> ServerInfo | None:
    """As `probe`, but raises TimeoutError where something listens and is too busy to answer."""
    try:
        told = json.loads(_ask("GET", url, "/_rehearsal"))
        if told["name"] != "rehearsal":
            return None
        return ServerInfo(url, int(told["pid"]), float(told["speed"]), float(told["origin"]))
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None


def stop(settings: Settings, *, timeout_s: float = 20.0) -> bool:
    """Stop the server and wait until its process has ended; False when there was none.

    One that is too busy to answer at once is asked again.

    Raises:
        RehearsalError: When it does not end in time.
    """
    noted = _noted(settings.state_dir)
    if noted is None:
        return False
    (url, pid), deadline = noted, time.monotonic() + timeout_s
    seen = told = False
    while _is_alive(pid):
        if time.monotonic() > deadline:
            raise RehearsalError(
                f"The rehearsal server (process {pid}) did not stop within {timeout_s:g} s: "
                f"end it with `kill {pid}`."
            )
        with contextlib.suppress(OSError, http.client.HTTPException):  # a time-out is one as well
            info = None if told else _probe(url)
            if info is not None and info.pid == pid:
                seen = True
                _ask("POST", url, "/_rehearsal/stop")
                told = True
            elif not seen:
                return False
        time.sleep(0.02)
    return seen


def put_fault(url: str, name: str, options: Mapping[str, Any]) -> None:
    """Turn a fault on (`helpers/rehearsal/README.md` lists them); the others stay as they are.

    Raises:
        RehearsalError: When there is no such fault or option, or the server does not answer.
    """
    _set_fault("PUT", url, name, json.dumps(options).encode())


def end_fault(url: str, name: str) -> None:
    """Turn a fault off.

    Raises:
        RehearsalError: When the server does not answer.
    """
    _set_fault("DELETE", url, name)


def _set_fault(method: str, url: str, name: str, body: bytes | None = None) -> None:
    try:
        told = json.loads(_ask(method, url, f"/_rehearsal/faults/{quote(name, safe='')}", body))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RehearsalError(f"The rehearsal at {url} does not answer: start it again.") from error
    if "active" not in told:
        raise RehearsalError(told["message"])


def register(state_dir: Path, info: ServerInfo) -> None:
    """Note a server in a state directory, in one step: readers see all of it or nothing.

    Raises:
        RehearsalError: When the note cannot be written.
    """
    with _writing(state_dir):
        state_dir.mkdir(parents=True, exist_ok=True)
        draft = state_dir / f"{_STATE}.{info.pid}"
        draft.write_text(json.dumps(asdict(info)), encoding="utf-8")
        draft.replace(state_dir / _STATE)


def unregister(state_dir: Path, info: ServerInfo) -> None:
    """Take the note back, unless it is another server's by now."""
    noted = _noted(state_dir)
    if noted and noted[1] == info.pid:
        with contextlib.suppress(OSError):
            (state_dir / _STATE).unlink()


def _noted(state_dir: Path) -> tuple[str, int] | None:
    """Address and process of the noted server; None without a note, or with one that is none."""
    try:
        noted = json.loads((state_dir / _STATE).read_text(encoding="utf-8"))
        url, pid = noted["url"], noted["pid"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (url, pid) if isinstance(url, str) and isinstance(pid, int) else None


@contextlib.contextmanager
def _writing(state_dir: Path) -> Iterator[None]:
    """Say in one sentence that state cannot be written."""
    try:
        yield
    except OSError as error:
        raise RehearsalError(
            f"The rehearsal cannot keep its state in {state_dir} ({error.strerror or error}): "
            "name a folder that can be written with WORKSHOP_STATE."
        ) from error


def _start(settings: Settings, timeout_s: float) -> ServerInfo:
    log_path = settings.state_dir / _LOG
    command = [sys.executable, "-m", "helpers.rehearsal", "--port", "0"]
    command += ["--speed", repr(settings.speed), "--state-dir", str(settings.state_dir)]
    command += ["--idle-minutes", str(IDLE_MINUTES)]
    with log_path.open("wb") as log:
        process = _Detached(
            command,
            cwd=settings.root,
            env=_clean(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in a notebook must not end it
        )
    _started[process.pid] = process
    deadline = time.monotonic() + timeout_s
    while (info := status(settings)) is None:
        if process.poll() is not None:
            raise _not_up(f"ended with status {process.returncode}", log_path)
        if time.monotonic() > deadline:
            process.send_signal(signal.SIGKILL)
            process.wait()
            raise _not_up(f"did not answer within {timeout_s:g} s", log_path)
        time.sleep(0.02)
    return info


def _not_up(what: str, log_path: Path) -> RehearsalError:
    tail = log_path.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    said = "\n".join(["Its log ends with:", *tail]) if tail else "Its log is empty."
    return RehearsalError(f"The rehearsal server {what}; see {log_path}. {said}")


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if not name.upper().startswith(_NOT_INHERITED)
    }


def _ask(method: str, url: str, path: str, body: bytes | None = None) -> bytes:
    """One request without proxies or redirects, to loopback only."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost"):
        raise ValueError(f"{url} is not on loopback")
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=_ANSWER_S)
    try:
        connection.request(method, path, body)
        return connection.getresponse().read(2**20)
    finally:
        connection.close()


def _is_alive(pid: int) -> bool:
    process = _started.get(pid)
    if process is not None:  # our own child: without being waited for it would stay a zombie
        return process.poll() is None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """True for a process that has ended and whose parent has not noticed (Linux; else False)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "Z"
