"""One request under way: what is known of it, and how it ends."""

import asyncio
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from helpers.rehearsal.aws.endpoints import Deployment
from helpers.rehearsal.container.containers import Container
from helpers.rehearsal.container.doors import Door, Outlet
from helpers.rehearsal.container.timers import KeepAlive, Timer
from helpers.rehearsal.container.validation import Asked
from helpers.rehearsal.faults import Options

_NO_ANSWER = ("timeout", "deleted")


def _now_s() -> float:
    return asyncio.get_running_loop().time()


@dataclass(eq=False)
class Call:
    """A request from its arrival to its end; stamps are seconds of the loop's clock.

    That clock is this machine's `CLOCK_MONOTONIC` on every real loop.

    Attributes:
        deployment: What it was sent to.
        container: What runs there.
        inference_id: As the client sent it.
        speed: AWS seconds that pass in one real second while it is answered.
        door: Where its answer goes.
        asked: What it asks for, once it has been read.
        replica: Number of the one that answers, once chosen.
        struck: Options of the faults that strike the answer, by name.
        timers: What is to be canceled when it ends.
        arrival_s: When it had been read.
        submitted_s: When it was handed to the container's scheduler, None when it was refused.
        sent_s: When each line of a stream was about to be handed to the socket; None unless it is
            to be recorded (`Noted`).
        last_s: When the last token was about to be handed on, or the whole answer.
        ended_s: When it ended.
        due_first_s: The twin's deadline for the first token.
        due_last_s: The same for the last one.
        status: HTTP status of the container; 0: it gave no answer.
        tokens: How many were made.
        late_s: How far behind its deadline one was at most.
        prompt_tokens: Of the request.
        finish: `length`, `eos` or `stop`, when it is complete.
        done: Completed with the outcome when nothing more is to be done.
    """

    deployment: Deployment
    container: Container
    inference_id: str | None
    speed: float
    door: Door | None = None
    asked: Asked | None = None
    replica: int | None = None
    struck: Mapping[str, Options] = field(default_factory=dict)
    timers: list[Timer | KeepAlive] = field(default_factory=list)
    arrival_s: float = field(default_factory=_now_s)
    submitted_s: float | None = None
    sent_s: array | None = None
    last_s: float | None = None
    ended_s: float | None = None
    due_first_s: float | None = None
    due_last_s: float | None = None
    status: int = 200
    tokens: int = 0
    late_s: float = 0.0
    prompt_tokens: int | None = None
    finish: str | None = None
    done: asyncio.Future[str] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def outcome(self) -> str:
        """How it ended (`truth.Truth` lists the words)."""
        failed = not self.done.done() or self.done.cancelled() or self.done.exception()
        return "failed" if failed else self.done.result()

    def now_s(self) -> float:
        """By the clock of all stamps."""
        return _now_s()

    def finish_as(self, outcome: str) -> None:
        """The request has ended; only the first word counts."""
        if not self.done.done():
            self.ended_s = _now_s()
            self.status = 0 if outcome in _NO_ANSWER else self.status
            self.done.set_result(outcome)

    def fail(self, error: Exception) -> None:
        """The request cannot be answered."""
        if not self.done.done():
            self.ended_s = _now_s()
            self.done.set_exception(error)

    def latencies_s(self) -> tuple[float, float]:
        """AWS seconds that the container took, and that this server took before it."""
        handed_s = self.arrival_s if self.submitted_s is None else self.submitted_s
        ended_s = _now_s() if self.ended_s is None else self.ended_s
        return (ended_s - handed_s) * self.speed, (handed_s - self.arrival_s) * self.speed

    def record(self) -> dict[str, Any]:
        """What `truth.Truth` keeps of it."""
        first_s, last_s, token_us = self._times()
        return {
            "inference_id": self.inference_id,
            "endpoint": self.deployment.name,
            "variant": self.deployment.variant,
            "replica": self.replica,
            "dialect": self.container.contract.dialect,
            "stream": self.asked.stream if self.asked else None,
            "arrival_s": self.arrival_s,
            "first_s": first_s,
            "last_s": last_s,
            "token_us": token_us,
            "due_first_s": self.due_first_s,
            "due_last_s": self.due_last_s,
            "late_max_ms": round(self.late_s * 1000, 3),
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "finish": self.finish,
            "outcome": self.outcome,
            "faults": list(self.struck),
        }

    def _times(self) -> tuple[float | None, float | None, list[int] | None]:
        """First and last token, and each one in microseconds after the first."""
        is_complete = self.outcome == "complete"
        if self.sent_s is None:  # a whole answer, or none
            at_s = self.last_s if is_complete else None
            return at_s, self.ended_s if at_s is None else at_s, None
        # The line of a role comes before the first token; there may be more lines than tokens.
        before = int(self.container.dialect.role_chunk and self.asked.chat)
        token_s = self.sent_s[before : before + self.tokens]
        if not token_s:
            return None, self.ended_s, []
        first_s = token_s[0]
        last_s = token_s[-1] if is_complete else self.ended_s
        return first_s, last_s, [round((at_s - first_s) * 1e6) for at_s in token_s]


class Noted(Outlet):
    """Stands in front of the real outlet, behind all faults, and notes when each line leaves.

    A line is cut into payload parts after it, but leaves in one write, all its parts together:
    the moment noted is the one before that write, for the line's last byte as for its first.

    Args:
        outlet: The real one.
        sent_s: Where moments are put, seconds of the loop's clock.
    """

    def __init__(self, outlet: Outlet, sent_s: array):
        self._outlet = outlet
        self._sent_s = sent_s
        self._now_s = asyncio.get_running_loop().time
        self._is_over = False

    def send(self, line: bytes) -> None:
        """Send a line; a keep-alive and garbage are not noted."""
        if line.startswith(b"data:"):
            self._note()
        self._outlet.send(line)

    def close(self, lines: Sequence[bytes]) -> None:
        """Send the last lines, of which the first brings the last token, and end the stream."""
        self._note()
        self._outlet.close(lines)

    def error(self, code: str, message: str) -> None:
        """SageMaker gives the stream up."""
        self._is_over = True
        self._outlet.error(code, message)

    def reset(self) -> None:
        """Break the client's connection off."""
        self._is_over = True
        self._outlet.reset()

    def corrupt(self, line: bytes) -> None:
        """Send a line whose checksum is wrong."""
        self._note()
        self._outlet.corrupt(line)

    def _note(self) -> None:
        if not self._is_over:  # then nothing leaves any more
            self._sent_s.append(self._now_s())
