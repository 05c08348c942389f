"""A write-ahead journal: changes as lines of JSON, to be carried out again after a restart."""

import contextlib
import fcntl
import json
import logging
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

LIMIT_BYTES = 64 * 2**20
UNWRITTEN_BYTES = 16 * 2**20  # while the disk is full


class WriteAhead:
    """A file of changes, readable by its owner only.

    It grows with every change up to a limit; changes beyond it are not kept, which the log says
    once. A line that a crash tore off is forgotten. What cannot be written, as the disk is full,
    stays in memory and is tried again with the next change and at the end.

    Args:
        path: The file; None keeps nothing.
        limit_bytes: How long it may get.
        unwritten_bytes: How much may wait in memory; changes beyond it are not kept.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        limit_bytes: int = LIMIT_BYTES,
        unwritten_bytes: int = UNWRITTEN_BYTES,
    ):
        self._path = path
        self._limit_bytes = limit_bytes
        self._unwritten_bytes = unwritten_bytes
        self._file: int | None = None  # None also when no more can be kept
        self._unwritten: deque[bytes] = deque()
        self._failing = False
        self._lost = 0  # changes in this outage

    def replay(self) -> Iterator[dict[str, Any]]:
        """The changes of the past, in order; when all have been read, new ones are kept.

        Raises:
            OSError: When the file cannot be opened.
        """
        if self._path is None or (file := self._open(self._path)) is None:
            return
        kept_bytes = 0
        with open(os.dup(file), "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                kept_bytes += len(line)
                try:
                    yield json.loads(line)
                except ValueError:
                    log.error("Line %d of %s cannot be read and is left out.", number, self._path)
        os.ftruncate(file, kept_bytes)
        self._file = file

    def append(self, change: dict[str, Any]) -> None:
        """Keep a change, so that it survives the end of this process."""
        if self._file is None:
            return
        self._unwritten.append(json.dumps(change, separators=(",", ":")).encode() + b"\n")
        self._write_all()
        if sum(map(len, self._unwritten)) > self._unwritten_bytes:
            self._unwritten.pop()
            self._lost += 1
            if self._lost == 1:
                log.error("Too much waits for %s: changes from now on are lost.", self._path)

    def close(self) -> None:
        """Close the file."""
        self._write_all()
        self._close()

    def _write_all(self) -> None:
        """Write what waits, in order, as far as the disk takes it."""
        try:
            while self._unwritten and self._file is not None:
                line = self._unwritten[0]
                if os.fstat(self._file).st_size + len(line) > self._limit_bytes:
                    self._give_up()
                    return
                _write(self._file, line)
                self._unwritten.popleft()
        except OSError as error:
            if not self._failing:
                log.error(
                    "Changes to S3, IAM, logs and the like wait in memory and would not survive a "
                    "restart: %s cannot keep them for now, %s.",
                    self._path,
                    error,
                )
            self._failing = True
        else:
            if self._failing:
                log.warning("%s keeps changes again; %d were lost.", self._path, self._lost)
            self._failing, self._lost = False, 0

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._unwritten.clear()

    def _open(self, path: Path) -> int | None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(file, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            log.warning("Another server keeps its changes in %s: this one keeps none.", path)
            return None
        except OSError:
            os.close(file)
            raise
        return file

    def _give_up(self) -> None:
        log.error(
            "From now on, changes to S3, IAM, logs and the like will not survive a restart: %s "
            "cannot keep them, it would be larger than %g MiB.",
            self._path,
            self._limit_bytes / 2**20,
        )
        self._close()


def _write(file: int, line: bytes) -> None:
    before = os.fstat(file).st_size
    try:
        left = memoryview(line)
        while left:
            left = left[os.write(file, left) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file, before)
        raise
