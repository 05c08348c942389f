"""One machine behind an endpoint: its `StaticBatch` in real time, and where its tokens go."""

import asyncio
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from helpers import twin
from helpers.clock import Clock
from helpers.rehearsal.container import text, wire
from helpers.rehearsal.container.doors import Outlet

if TYPE_CHECKING:
    from helpers.rehearsal.container.calls import Call


class Replica:
    """One machine: runs its `StaticBatch` against the loop's clock.

    Every step has an absolute deadline: the one before, plus its duration. A timer that fires late
    (epoll rounds up to 1 ms, more than a decode step at speed 60) therefore delays single tokens
    but never the pace: steps that are due run one after the other, without sleeping.

    Args:
        timing: Of the model on this machine.
        clock: AWS time.
        idle: Called when nothing is left to do: a new replica would be just like this one.

    Attributes:
        due_s: Deadline of the step whose tokens are being handed out, by the loop's clock.
        decoded_s: Deadline of the last decode step, which brought a token to everyone active.
    """

    def __init__(self, timing: twin.Timing, clock: Clock, *, idle: Callable[[], None]):
        self._batch = twin.StaticBatch(timing)
        self._clock = clock
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._sinks: dict[int, Sink] = {}
        self._keys = itertools.count()
        self._step: twin.Step | None = None  # the one under way
        self._deadline = 0.0
        self.due_s = self.decoded_s = 0.0

    def __len__(self) -> int:
        """Requests waiting and active."""
        return len(self._sinks)

    def is_behind(self, at_s: float) -> bool:
        """Whether a step that was due by then is still to be finished."""
        return self._step is not None and self._deadline <= at_s

    def submit(self, sink: "Sink", output_tokens: int) -> int:
        """Queue a request that will get so many tokens; returns what cancels it."""
        key = next(self._keys)
        self._sinks[key] = sink
        self._batch.submit(key, output_tokens)
        if self._step is None:
            self._deadline = self._loop.time()
            self._start()
        return key

    def cancel(self, key: int) -> None:
        """Forget a request and free its slot; nothing happens when it is not there."""
        if self._sinks.pop(key, None) is not None:
            self._batch.cancel(key)

    def _start(self) -> None:
        self._step = self._batch.next_step()
        if self._step is None:
            self._idle()
            return
        self._deadline += self._step.duration_s / self._clock.speed
        # A deadline in the past is called at once, but not before the loop has looked for
        # input: catching up shuts out neither new requests nor disconnects.
        self._loop.call_at(self._deadline, self._finish)

    def _finish(self) -> None:
        step, self.due_s = self._step, self._deadline
        if step.kind == "decode":
            self.decoded_s = self.due_s
        # Before anything is sent: who answers a last token with a new request comes too late for
        # this step, as with a real server.
        self._start()
        late_s = self._loop.time() - self.due_s
        created = str(int(self._clock.time())).encode()
        for key in step.emits:
            sink = self._sinks.get(key)
            if sink is None:  # has left while the step was under way
                continue
            if late_s > sink.late_s:
                sink.late_s = late_s
            try:
                sink.token(created)
            except Exception as error:
                sink.call.fail(error)
        for key in step.finished:
            self._sinks.pop(key, None)


class Sink:
    """Where one request's tokens go.

    Args:
        call: The request.
        reply: What the tokens make up.
        replica: Where they are made.

    Attributes:
        replica: Where they are made.
        sent: How many there have been.
        late_s: How far behind its deadline one was at most, real seconds.
    """

    def __init__(self, call: "Call", reply: text.Reply, replica: Replica):
        self.call = call
        self.sent = 0
        self.late_s = 0.0
        self._reply = reply
        self.replica = replica
        self._last = reply.output_tokens - 1

    def token(self, created: bytes) -> None:
        """Take the next token; `created` is the epoch second in ASCII."""
        raise NotImplementedError


class Whole(Sink):
    """Answers when the last token is due.

    Args:
        call: The request.
        reply: What the tokens make up.
        replica: Where they are made.
        complete: Gives the answer; it is told the epoch second.
    """

    def __init__(
        self,
        call: "Call",
        reply: text.Reply,
        replica: Replica,
        *,
        complete: Callable[[int], None],
    ):
        super().__init__(call, reply, replica)
        self._complete = complete

    def token(self, created: bytes) -> None:
        """Count the token; answer with the last one."""
        self.sent += 1
        if self.sent > self._last:
            self.call.due_first_s = self.call.due_last_s = self.replica.due_s
            self.call.last_s = self.call.now_s()
            self._complete(int(created))


class Streamed(Sink):
    """Sends each token when it is due.

    Args:
        call: The request.
        reply: What the tokens make up.
        replica: Where they are made.
        lines: Writes them.
    """

    def __init__(
        self,
        call: "Call",
        reply: text.Reply,
        replica: Replica,
        *,
        lines: wire.ChatStream | wire.GenerateStream,
    ):
        super().__init__(call, reply, replica)
        self._pieces = reply.pieces
        self._lines = lines

    def into(self, outlet: Outlet) -> None:
        """Send them there."""
        self._outlet = outlet
        self._send = outlet.send

    def token(self, created: bytes) -> None:
        """Send the token."""
        at = self.sent
        self.sent = at + 1
        if 0 < at < self._last:
            self._send(self._lines.token(created, self._pieces[at]))
            return
        if at == 0:
            self._begin(created)
        if at == self._last:
            self._end(created)

    def heard_s(self) -> float:
        """When the stream last brought a token, or began; by the twin's deadlines."""
        if not self.sent:
            return self.call.arrival_s
        # Everyone who is active gets a token from every decode step.
        return max(self.call.due_first_s, self.replica.decoded_s)

    def _begin(self, created: bytes) -> None:
        self.call.due_first_s = self.replica.due_s
        for line in self._lines.opening(created):
            self._send(line)
        if self._last:
            self._send(self._lines.token(created, self._pieces[0]))

    def _end(self, created: bytes) -> None:
        self.call.due_last_s = self.replica.due_s
        self.call.last_s = self.call.now_s()
        last = self._lines.last(created, self._pieces[-1], self._reply.finish)
        self._outlet.close([last, *self._lines.closing(created)])
