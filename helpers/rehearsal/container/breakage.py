"""What the runtime's faults do to an answer: outlets in front of the real one.

They are put there when a request begins and only when a fault strikes it: without faults a token
passes nothing of this.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from helpers.rehearsal.container.doors import STREAM_BROKEN, Finish, Outlet
from helpers.rehearsal.faults import Options

# Neither a line nor UTF-8: bytes that no character contains, and characters without their rest.
# It ends its line, so that a reader who drops what it cannot read loses nothing else.
GARBAGE = b"\xff\xfe\x00\xc3\x28 rehearsal: garbage \xf0\x9f\n\n"

# In this order from the wire inward, so that none counts what another adds.
STREAMS_ONLY = ("corrupt-frame", "garbage", "connection-reset", "broken-stream")
ALL_ANSWERS = ("stall", "slow-network")

Delay = Callable[[bool], float]  # told whether it is the last line; real seconds


class _Front(Outlet):
    """Stands in front of another outlet."""

    def __init__(self, outlet: Outlet):
        self._outlet = outlet

    def close(self, lines: Sequence[bytes]) -> None:
        self._outlet.close(lines)

    def error(self, code: str, message: str) -> None:
        self._outlet.error(code, message)

    def reset(self) -> None:
        self._outlet.reset()

    def corrupt(self, line: bytes) -> None:
        self._outlet.corrupt(line)


class Struck(_Front):
    """Passes lines on until a fault strikes: after so many tokens, or before the last.

    Args:
        outlet: What it stands in front of.
        name: One of `STREAMS_ONLY`.
        options: The fault's.
        finish: Told the fault's name when it ends the answer.
    """

    def __init__(self, outlet: Outlet, name: str, options: Options, finish: Finish):
        super().__init__(outlet)
        self._name = name
        self._left = options["tokens"]
        self._finish = finish
        self._struck = False

    def send(self, line: bytes) -> None:
        """Send a line, or let the fault strike at it."""
        if self._struck or line.startswith(b":"):  # a keep-alive is no token
            self._outlet.send(line)
        elif self._left:
            self._left -= 1
            self._outlet.send(line)
        else:
            self._strike(line)

    def close(self, lines: Sequence[bytes]) -> None:
        """Send the last lines; a fault that has not struck strikes at the first of them."""
        if not self._struck:
            line, *lines = lines
            self._strike(line)
        self._outlet.close(lines)

    def _strike(self, line: bytes) -> None:
        self._struck = True
        if self._name == "corrupt-frame":
            self._outlet.corrupt(line)
        elif self._name == "garbage":
            self._outlet.send(GARBAGE)
            self._outlet.send(line)
        else:  # from here on the outlet is closed, and takes no more
            self._finish(self._name)
            if self._name == "broken-stream":
                self._outlet.error(*STREAM_BROKEN)
            else:
                self._outlet.reset()


class Late(_Front):
    """Passes lines on later, in their order.

    Args:
        outlet: What it stands in front of.
        delay: How late each line is at least; it also waits for those before it.
    """

    def __init__(self, outlet: Outlet, delay: Delay):
        super().__init__(outlet)
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, Callable, bytes | Sequence[bytes]]] = deque()
        self._due_s = self._passed_s = self._loop.time()

    def send(self, line: bytes) -> None:
        """Send a line when its time has come."""
        self._put(self._outlet.send, line, is_last=False)

    def close(self, lines: Sequence[bytes]) -> None:
        """Send the last lines, and end, when their time has come."""
        self._put(self._outlet.close, lines, is_last=True)

    def heard_s(self) -> float:
        """When it last passed something on, by the loop's clock."""
        return self._passed_s

    def _put(self, send: Callable, what: bytes | Sequence[bytes], *, is_last: bool) -> None:
        self._due_s = max(self._due_s, self._loop.time() + self._delay(is_last))
        self._waiting.append((self._due_s, send, what))
        if len(self._waiting) == 1:
            self._pass()

    def _pass(self) -> None:
        while self._waiting:
            due_s, send, what = self._waiting[0]
            if due_s > self._loop.time():
                self._loop.call_at(due_s, self._pass)
                return
            self._waiting.popleft()
            self._passed_s = due_s
            send(what)


def stalling(options: Options, *, speed: float) -> Delay:
    """The delay of a stream that pauses once: after so many tokens, or before the last."""
    seen, struck = 0, False

    def delay(is_last: bool) -> float:
        nonlocal seen, struck
        seen += 1
        if struck or (seen <= options["tokens"] and not is_last):
            return 0.0
        struck = True
        return options["seconds"] / speed

    return delay


def network(options: Options, *, speed: float, chance: random.Random) -> Delay:
    """The delay of a slow network: another one for every part."""

    def delay(is_last: bool) -> float:
        jitter_ms = chance.uniform(-1, 1) * options["jitter_ms"]
        return max(0.0, options["latency_ms"] + jitter_ms) / 1000 / speed

    return delay


def of_whole_answer(struck: Mapping[str, Options], *, speed: float, chance: random.Random) -> float:
    """Real seconds by which faults delay an answer that is not streamed."""
    late_s = 0.0
    if "stall" in struck:
        late_s += struck["stall"]["seconds"] / speed
    if "slow-network" in struck:
        late_s += network(struck["slow-network"], speed=speed, chance=chance)(True)
    return late_s
