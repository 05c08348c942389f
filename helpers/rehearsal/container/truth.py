"""What a rehearsal knows about every request it served, for those who measure its measuring.

One JSON line a request. Nothing is formatted while a request is under way: records are put aside
and written once a second.
"""

import asyncio
import json
import logging
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
    answer has both at once, one that broke off ends with `last_s`), `due_first_s`, `due_last_s`
    (the twin's deadlines for these two, null where there are none), `late_max_ms` (how far behind
    its deadline a token was at most, real milliseconds), `tokens` (made so far), `prompt_tokens`,
    `finish` (`length`, `eos`, `stop` or null), `outcome` (`complete`, `left`, `refused`,
    `timeout`, `deleted`, `failed`, or the fault that ended it) and `faults` (all that struck).

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
        self._records: list[Mapping[str, Any]] = []
        self._timer: asyncio.TimerHandle | None = None

    def write(self, record: Mapping[str, Any]) -> None:
        """Take a record; it is in the file within a second."""
        self._records.append(record)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write what has been taken."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        records, self._records = self._records, []
        try:
            self._file.writelines(
                json.dumps({"target": "rehearsal", **record}) + "\n" for record in records
            )
            self._file.flush()
        except OSError:
            log.exception("%d requests are missing from the record.", len(records))

    def close(self) -> None:
        """Write the rest and close the file."""
        if not self._file.closed:
            self.flush()
            self._file.close()
