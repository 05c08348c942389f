"""How a container's bytes are cut into payload parts.

SageMaker promises no lines: a `PayloadPart` is a slice of bytes that can begin and end anywhere,
also inside a character. Whatever the policy, bytes leave at the moment at
which the container sends them.
"""

import random
from collections.abc import Callable, Sequence

from helpers.errors import RehearsalError
from helpers.rehearsal.container.wire import payload_part

Write = Callable[[bytes], None]

_EVERY = 16  # lines between two that are cut, on average
_FEW = 4  # bytes


class Lines:
    """Never cuts: one part a line.

    Args:
        write: Takes whole messages of the event stream.
        chance: Decides where to cut.
    """

    def __init__(self, write: Write, chance: random.Random):
        self._write = write
        self._chance = chance

    def send(self, line: bytes) -> None:
        """Send one line."""
        self._write(payload_part(line))

    def burst(self, lines: Sequence[bytes]) -> None:
        """Send lines that the container sends at the same moment."""
        for line in lines:
            self.send(line)


class Sometimes(Lines):
    """Cuts a line now and then, and joins what comes at the same moment."""

    def __init__(self, write: Write, chance: random.Random):
        super().__init__(write, chance)
        self._left = chance.randrange(1, 2 * _EVERY)

    def send(self, line: bytes) -> None:
        """Send one line, in two parts when its turn has come."""
        self._left -= 1  # cheaper than to ask the dice for every token
        if self._left:
            self._write(payload_part(line))
            return
        self._left = self._chance.randrange(1, 2 * _EVERY)
        at = self._chance.randrange(1, len(line))
        self._write(payload_part(line[:at]) + payload_part(line[at:]))

    def burst(self, lines: Sequence[bytes]) -> None:
        """Send lines, in one part half of the times."""
        if len(lines) > 1 and self._chance.random() < 0.5:
            self._write(payload_part(b"".join(lines)))
        else:
            super().burst(lines)


class Bytes(Lines):
    """Cuts everywhere: no part has more than four bytes."""

    def send(self, line: bytes) -> None:
        """Send one line, in crumbs."""
        parts, at = [], 0
        while at < len(line):
            end = at + self._chance.randint(1, _FEW)
            parts.append(payload_part(line[at:end]))
            at = end
        self._write(b"".join(parts))


POLICIES: dict[str, type[Lines]] = {"lines": Lines, "sometimes": Sometimes, "bytes": Bytes}


def policy(name: str) -> type[Lines]:
    """The policy of that name.

    Raises:
        RehearsalError: When there is none.
    """
    if name not in POLICIES:
        raise RehearsalError(
            f"Payload parts are cut as one of {', '.join(POLICIES)}, not as {name!r}."
        )
    return POLICIES[name]
