"""What the rehearsal AWS holds, kept on disk so that it survives a restart.

One JSON file in the state directory, replaced as a whole soon after every change. While the server
is down, AWS time stands still, or follows real time where that is later: who leaves an endpoint up
overnight finds a night on the bill, not sixty.
"""

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from helpers import hub
from helpers.clock import Clock
from helpers.errors import RehearsalError
from helpers.rehearsal.hub import UNGRANTED_TOKEN

FILE = "aws.json"
JOURNAL = "services.jsonl"  # of what moto plays
VERSION = 1
# In the place of a token of the Hub's, which must not lie about in a file; the rehearsal's Hub
# takes it as it took the token.
KEPT_TOKEN = "hf_the_token_was_not_kept"
_ENVIRONMENTS = ("Environment", "env")  # of a model, of a variant
_LAST_S = 7_258_118_400.0  # the year 2200
_EVERY_S = 1.0  # without a change, only AWS time has to be noted


class Part(Protocol):
    """Something that holds state."""

    def dump(self) -> Any:
        """All of it, as JSON."""

    def restore(self, dumped: Any) -> None:
        """Take back what `dump` gave."""


class State:
    """The file in which a rehearsal's state is kept.

    Attributes:
        journal: Where the services that moto plays keep theirs, None to keep nothing.

    Args:
        folder: The state directory; None keeps nothing.

    Raises:
        RehearsalError: When there is a file and it cannot be read.
    """

    def __init__(self, folder: Path | None):
        self._path = folder / FILE if folder else None
        self.journal = folder / JOURNAL if folder else None
        self._parts: dict[str, Part] = {}
        self._kept = self._read()
        self._changed = False
        self._saved_at = time.monotonic()

    def clock(self, speed: float) -> Clock:
        """AWS time, going on from where the last server left it.

        Raises:
            RehearsalError: When it is ahead of real time and must not run faster than that.
        """
        now = time.time()
        ahead_s = self._kept.get("aws_time", 0.0) - now
        if ahead_s <= 0:
            return Clock(speed, now)
        if speed == 1:
            raise RehearsalError(
                f"The rehearsal's clock is {ahead_s / 3600:.1f} hours ahead of yours and cannot go "
                "on at speed 1: choose another speed, or begin anew with --fresh."
            )
        # The moment at which a clock of this speed would have agreed with real time.
        return Clock(speed, now + ahead_s / (1 - speed))

    def hold(self, **parts: Part) -> None:
        """Keep these parts from now on; what was kept of them is given back to them.

        Raises:
            RehearsalError: When what was kept is not what they take.
        """
        self._parts = parts
        kept = self._kept.get("parts", {})
        try:
            for name, part in parts.items():
                if name in kept:
                    part.restore(kept[name])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._unreadable(type(error).__name__) from error
        self._kept = {}

    def changed(self) -> None:
        """Something is different: the next `save` writes."""
        self._changed = True

    def save(self, aws_time: float, *, at_once: bool = False) -> None:
        """Write what there is, if it has changed or the time noted is old.

        Raises:
            OSError: When it cannot be written.
        """
        old = time.monotonic() - self._saved_at > _EVERY_S
        if self._path is None or not self._parts or not (self._changed or old or at_once):
            return
        self._changed, self._saved_at = False, time.monotonic()
        parts = {name: part.dump() for name, part in self._parts.items()}
        kept = {"version": VERSION, "target": "rehearsal", "aws_time": aws_time, "parts": parts}
        _replace(self._path, json.dumps(_without_tokens(kept)))

    def _read(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            if kept["version"] != VERSION:
                raise self._unreadable(f"it is of version {kept['version']!r}")
            aws_time = float(kept["aws_time"])
            if not 0 <= aws_time < _LAST_S:
                raise self._unreadable(f"its time is {aws_time:g}")
            return {"aws_time": aws_time, "parts": dict(kept["parts"])}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise self._unreadable(type(error).__name__) from error

    def _unreadable(self, why: str) -> RehearsalError:
        return RehearsalError(
            f"The state of the last rehearsal, {self._path}, cannot be read ({why}): begin anew "
            "with `python -m helpers.rehearsal --fresh`, or name another folder with "
            "WORKSHOP_STATE."
        )


def forget(folder: Path) -> None:
    """Remove what earlier rehearsals have left in a state directory.

    Raises:
        OSError: When it cannot be removed.
    """
    for name in (FILE, JOURNAL):
        (folder / name).unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _without_tokens(value: Any) -> Any:
    """The same without secrets: what an environment calls one, and what looks like one."""
    if isinstance(value, Mapping):
        return {
            name: _without_secrets(item)
            if name in _ENVIRONMENTS and isinstance(item, Mapping)
            else _without_tokens(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_tokens(item) for item in value]
    if isinstance(value, str) and value != UNGRANTED_TOKEN and hub.redact(value) != value:
        return KEPT_TOKEN
    return value


def _without_secrets(env: Mapping[str, str]) -> dict[str, str]:
    return {
        name: KEPT_TOKEN
        if hub.is_secret(name) and isinstance(value, str) and value not in ("", UNGRANTED_TOKEN)
        else _without_tokens(value)
        for name, value in env.items()
    }
