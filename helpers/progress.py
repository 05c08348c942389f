"""How a run is getting on: one line that renews itself, in a terminal and in a notebook."""

import statistics
import sys
import time
from collections.abc import Callable
from typing import TextIO

from helpers import metrics
from helpers.records import RequestRecord

_RENEWED_S = 0.25
_MILESTONES = 5  # where nothing can be overwritten, a line is said this often


class Progress:
    """The line: done, output tokens/s, TTFT p50, errors, time left; times are AWS time.

    It ends in a line feed; before that it is written over, with a carriage return, as terminals
    and notebooks understand it. Where neither reads along, five lines a run are said instead.

    Args:
        requests: Measured requests to come, None when only time ends them.
        duration_s: AWS seconds in which they are sent, None when only their number ends them.
        label: Stands behind the line: `rehearsal`, or what was measured.
        clock_speed: AWS seconds in a real second.
        out: Where it is written; standard output by default.
        now: `CLOCK_MONOTONIC`.
    """

    def __init__(
        self,
        requests: int | None,
        duration_s: float | None,
        *,
        label: str,
        clock_speed: float = 1.0,
        out: TextIO | None = None,
        now: Callable[[], float] = time.monotonic,
    ):
        self._requests = requests
        self._duration_s = duration_s
        self._label = label
        self._speed = clock_speed
        self._out = out or sys.stdout
        self._now = now
        self._is_live = _is_live(self._out)
        self._width = 0
        self._said_s = -_RENEWED_S
        self._milestone = 0
        self._written = -1  # how many were done when a line was last written
        self._started_s: float | None = None
        self._done = self._errors = self._tokens = 0
        self._ttft_s: list[float] = []

    def add(self, record: RequestRecord) -> None:
        """Take note of a record."""
        if record.phase != "measured" or (record.error and record.error.kind == "interrupted"):
            return
        self._started_s = min(self._started_s or record.sent_s, record.sent_s)
        self._done += 1
        self._errors += record.error is not None
        if record.error is None:
            self._tokens += record.output_tokens
            self._ttft_s.append(metrics.ttft_s(record))
        self._show()

    def close(self) -> None:
        """Say the last line."""
        if self._is_live or self._written != self._done:
            self._write(is_last=True)

    def _show(self) -> None:
        if self._is_live:
            if self._now() - self._said_s >= _RENEWED_S:
                self._said_s = self._now()
                self._write()
        elif self._share() * _MILESTONES >= self._milestone + 1:
            self._milestone = int(self._share() * _MILESTONES)
            self._write()

    def _write(self, *, is_last: bool = False) -> None:
        self._written = self._done
        line = f"{self.line()} [{self._label}]"
        if self._is_live:
            # Wiped first and not filled up: what stays has no blanks behind it.
            self._out.write(f"\r{' ' * self._width}\r{line}" + ("\n" if is_last else ""))
            self._width = len(line)
        else:
            self._out.write(line + "\n")
        self._out.flush()

    def _elapsed_s(self) -> float:
        return 0.0 if self._started_s is None else (self._now() - self._started_s) * self._speed

    def _share(self) -> float:
        """How much of the run is over, from 0 to 1."""
        shares = [self._done / self._requests] if self._requests else []
        shares += [self._elapsed_s() / self._duration_s] if self._duration_s else []
        return min(1.0, max(shares))

    def line(self) -> str:
        """The line as it stands."""
        elapsed_s, share = self._elapsed_s(), self._share()
        of = f" of {self._requests}" if self._requests else ""
        rate = self._tokens / elapsed_s if elapsed_s else 0.0
        waited = f"{statistics.median(self._ttft_s) * self._speed:.2f} s" if self._ttft_s else "-"
        left = f", {elapsed_s * (1 / share - 1):.0f} s left" if 0 < share < 1 else ""
        return (
            f"{self._done}{of} requests done, {rate:.1f} output tokens/s so far, "
            f"TTFT p50 {waited}, errors: {self._errors}{left}"
        )


def _is_live(out: TextIO) -> bool:
    """Whether what is written there can be written over: a terminal's screen, or a notebook's."""
    if out.isatty():
        return True
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return out is sys.stdout and shell is not None and hasattr(shell, "kernel")
