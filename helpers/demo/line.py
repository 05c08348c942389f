"""Who waits and who is served: first come, first served, to as many as there are batch slots."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator


class Line:
    """The batch slots of an endpoint, and those who wait for one. For one event loop.

    Args:
        slots: Replies the endpoint writes at the same time.
        clock: AWS time, for what is shared of the machine.
    """

    def __init__(self, slots: int, *, clock):
        self._slots = slots
        self._clock = clock
        self._waiting: deque[Place] = deque()
        self._served: set[Place] = set()
        self._share_s = 0.0  # what one who was served all the time has had of the machine
        self._share_to_s = clock.monotonic()

    def enter(self) -> "Place":
        """Join the end of the line."""
        place = Place(self)
        self._waiting.append(place)
        self._move_up()
        return place

    def _leave(self, place: "Place") -> None:
        if place in self._served:
            self._add_share()
            place._served_until(self._share_s)
            self._served.remove(place)
        elif place in self._waiting:
            self._waiting.remove(place)
        self._move_up()

    def _move_up(self) -> None:
        while self._waiting and len(self._served) < self._slots:
            self._add_share()
            first = self._waiting.popleft()
            self._served.add(first)
            first._serve(self._share_s)
        for ahead, place in enumerate(self._waiting, start=1):
            place._move(ahead)

    def _add_share(self) -> None:
        """Divide the time since the last change among those who were served in it."""
        now_s = self._clock.monotonic()
        if self._served:
            self._share_s += (now_s - self._share_to_s) / len(self._served)
        self._share_to_s = now_s


class Place:
    """One place in the line, then one slot.

    Attributes:
        waited_s: AWS time in line.
        machine_s: AWS seconds of the endpoint that this one has used, once it has left. Two
            served at once have half of it each: what all have used adds up to the time in which
            anybody was served.
    """

    def __init__(self, line: Line):
        self.waited_s = self.machine_s = 0.0
        self._line = line
        self._entered_s = line._clock.monotonic()
        self._ahead: int | None = None  # 1 is next; 0 is served
        self._moved = asyncio.Event()
        self._share_from_s = 0.0

    async def moving_up(self) -> AsyncIterator[int]:
        """Places to go, 1 is next, whenever it changes; ends when a slot is free, or left."""
        while self._ahead:
            self._moved.clear()
            yield self._ahead
            await self._moved.wait()

    def leave(self) -> None:
        """Give the slot, or the place in line, to the next; harmless when done before."""
        self._ahead = None
        self._moved.set()
        self._line._leave(self)

    def _serve(self, share_s: float) -> None:
        self.waited_s = self._line._clock.monotonic() - self._entered_s
        self._share_from_s = share_s
        self._move(0)

    def _served_until(self, share_s: float) -> None:
        self.machine_s = share_s - self._share_from_s

    def _move(self, ahead: int) -> None:
        if self._ahead != ahead:
            self._ahead = ahead
            self._moved.set()
