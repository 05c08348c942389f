"""Moments in AWS time at which something happens to one answer: its limit, its keep-alives."""

import asyncio
from collections.abc import Callable


def never_behind(at_s: float) -> bool:
    """For what happens in real time: nothing can be late."""
    return False


class Timer:
    """Calls back at a moment, but not before what was due until then.

    A machine that cannot keep up with the rehearsal's speed sends tokens late. That must not cost
    a request its answer: by the twin's clock those tokens were in time.

    Args:
        at_s: When, by the loop's clock.
        then: Called once.
        is_behind: Whether something that was due by a moment has not happened yet.
    """

    def __init__(
        self,
        at_s: float,
        then: Callable[[], None],
        *,
        is_behind: Callable[[float], bool] = never_behind,
    ):
        self._at_s = at_s
        self._then = then
        self._is_behind = is_behind
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle = self._loop.call_at(at_s, self._fire)

    def cancel(self) -> None:
        """Do not call back."""
        self._handle.cancel()

    def _fire(self) -> None:
        if self._is_behind(self._at_s):
            self._handle = self._loop.call_soon(self._fire)
        else:
            self._then()


class KeepAlive:
    """Sends a comment whenever a stream has been silent for a while.

    It costs a token nothing: it asks when the stream was last heard, once in each interval.

    Args:
        send: Sends the comment.
        every_s: Length of the silence, real seconds.
        heard_s: When the stream was last heard, by the loop's clock.
        is_behind: As `Timer` has it.
    """

    def __init__(
        self,
        send: Callable[[], None],
        *,
        every_s: float,
        heard_s: Callable[[], float],
        is_behind: Callable[[float], bool] = never_behind,
    ):
        self._send = send
        self._every_s = every_s
        self._heard_s = heard_s
        self._is_behind = is_behind
        self._arm(heard_s() + every_s)

    def cancel(self) -> None:
        """Send no more."""
        self._timer.cancel()

    def _arm(self, at_s: float) -> None:
        self._at_s = at_s
        self._timer = Timer(at_s, self._look, is_behind=self._is_behind)

    def _look(self) -> None:
        due_s = self._heard_s() + self._every_s
        if due_s <= self._at_s:
            self._send()
            due_s = self._at_s + self._every_s
        self._arm(due_s)
