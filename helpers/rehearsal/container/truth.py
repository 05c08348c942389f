"""What a rehearsal knows about every request it served, for those who measure its measuring.

One JSON line a request. Nothing is formatted while a request is under way: records are put aside,
and written one by one with a turn of the loop between them, so that the streams that go on wait for
a fraction of a millisecond and not for all of them.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.errors import RehearsalError

log = logging.getLogger(__name__)

FLUSH_S = 0.5  # real seconds


class Truth:
    """A file of JSON lines, one a request that has ended.

    A line's members: `target` (`rehearsal`), `inference_id` (as the client sent it, or null),
    `endpoint`, `variant`, `replica` (number, null when none was reached), `dialect`, `stream`,
    `arrival_s`, `first_s`, `last_s` (this machine's `CLOCK_MONOTONIC`, seconds: when the request
    had arrived, when the first and the last token were about to be handed to the socket; a whole
    answer has both at once, one that broke off ends with `last_s`), `token_us` (the same of every
    token that was, in whole microseconds after `first_s`; null unless it was a stream),
    `due_first_s`, `due_last_s` (the twin's deadlines for first and last, null where there are
    none), `late_max_ms` (how far behind its deadline a token was at most, real milliseconds),
    `tokens` (made so far: more than were sent, where a fault ended the stream),
    `prompt_tokens`, `finish` (`length`, `eos`, `stop` or null), `outcome` (`complete`, `left`,
    `refused`, `timeout`, `deleted`, `failed`, or the fault that ended it) and `faults` (all that
    struck).

    Args:
        path: Appended to; its folder is made.

    Raises:
        RehearsalError: When the file cannot be written.
    """

    def __init__(self, path: Path | str):
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise RehearsalError(
                f"The record of requests cannot be written to {path} ({error.strerror}): name "
                "another file."
            ) from None
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._next: asyncio.Handle | None = None

    def write(self, record: Mapping[str, Any]) -> None:
        """Take a record; it is in the file within a second."""
        self._waiting.append(record)
        if self._next is None:
            self._next = asyncio.get_running_loop().call_later(FLUSH_S, self._write_next)

    def close(self) -> None:
        """Write the rest and close the file."""
        if self._next is not None:
            self._next.cancel()
        if not self._file.closed:
            self._write(len(self._waiting))
            self._file.close()

    def _write_next(self) -> None:
        self._write(1)
        loop = asyncio.get_running_loop()
        self._next = loop.call_soon(self._write_next) if self._waiting else None

    def _write(self, count: int) -> None:
        """Write so many records; the last one takes along what the file has held back."""
        try:
            for _ in range(count):
                line = {"target": "rehearsal", **self._waiting.popleft()}
                self._file.write(json.dumps(line) + "\n")
            if not self._waiting:
                self._file.flush()
        except OSError:
            log.exception("A request is missing from the record.")
