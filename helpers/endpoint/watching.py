"""What every wait for an endpoint shares: looks that survive a network, and lines at marks."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from helpers.errors import EndpointError, EndpointMissing
from helpers.session import Session

T = TypeVar("T")

_LOOKS_ALLOWED_TO_FAIL = 10  # in a row: a laptop loses its network now and then


def patiently(session: Session, look: Callable[[], T], *, poll_s: float) -> T:
    """What a look gives, by a network that comes and goes.

    Args:
        session: The workshop's session.
        look: Asks AWS.
        poll_s: AWS seconds between two looks.

    Raises:
        EndpointMissing: When the endpoint is gone.
        EndpointError: When AWS cannot be asked, ten times in a row.
    """
    for _ in range(_LOOKS_ALLOWED_TO_FAIL - 1):
        try:
            return look()
        except EndpointMissing:
            raise
        except EndpointError:
            session.clock.sleep(poll_s)
    return look()


class Marks:
    """The marks, one every so many seconds, at which a wait says how far it is.

    Args:
        every_s: AWS seconds from one to the next.
        passed_s: How old it was when somebody began to wait: what was due before is left out.
    """

    def __init__(self, every_s: float, *, passed_s: float = 0.0):
        self._every_s = every_s
        self._said = max(0, int(passed_s // every_s))

    def due(self, age_s: float) -> Iterator[float]:
        """The marks up to an age, in AWS seconds, each of them once."""
        while (self._said + 1) * self._every_s <= age_s:
            self._said += 1
            yield self._said * self._every_s
