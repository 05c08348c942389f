"""What happens by itself in the rehearsal AWS: a queue of events in AWS time, as data.

An endpoint that comes up, a scheduled deletion, a look at an alarm: each is an event with the time
at which it is due. `advance` carries out what is due, in order and each with its own time, before
anything is answered; no outcome depends on who asks when. Events are JSON, so that they survive a
restart.
"""

import heapq
import logging
from collections.abc import Callable
from itertools import count
from typing import Any

from helpers.clock import Clock

log = logging.getLogger(__name__)

Handler = Callable[[float, dict[str, Any]], None]


class Timeline:
    """Events in AWS time.

    Args:
        clock: AWS time.
        changed: Called after something has happened.
    """

    def __init__(self, clock: Clock, *, changed: Callable[[], None] = lambda: None):
        self.clock = clock
        self._changed = changed
        self._numbers = count()
        self._events: list[tuple[float, int, str, dict[str, Any]]] = []
        self._handlers: dict[str, Handler] = {}
        self._due_s: float | None = None

    @property
    def now(self) -> float:
        """AWS time, epoch seconds; to a handler, the time at which its event was due."""
        return self.clock.time() if self._due_s is None else self._due_s

    def on(self, kind: str, handler: Handler) -> None:
        """Let a handler carry out all events of a kind, from the time each was due and its data."""
        self._handlers[kind] = handler

    def at(self, at_s: float, kind: str, **data: Any) -> None:
        """Let an event happen at an epoch second of AWS time; its data must be JSON."""
        heapq.heappush(self._events, (at_s, next(self._numbers), kind, data))

    def advance(self) -> None:
        """Let happen what is due by now."""
        if self._due_s is not None:  # a handler that asks another part of AWS
            return
        try:
            now = self.clock.time()
            while self._events and self._events[0][0] <= now:
                self._due_s, _, kind, data = heapq.heappop(self._events)
                self._changed()
                try:
                    self._handlers[kind](self._due_s, data)
                except Exception:  # what else is due must happen all the same
                    log.exception("What was due could not happen: %s.", kind)
        finally:
            self._due_s = None

    def dump(self) -> list[Any]:
        """All events to come, as JSON."""
        return [[at_s, kind, data] for at_s, _, kind, data in sorted(self._events)]

    def restore(self, dumped: list[Any]) -> None:
        """Take back what `dump` gave."""
        self._events.clear()
        for at_s, kind, data in dumped:
            self.at(at_s, kind, **data)
