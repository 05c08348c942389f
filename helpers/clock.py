"""Time as AWS would see it: on AWS the real one, in rehearsal a faster one."""

import time
from datetime import UTC, datetime


class Clock:
    """AWS time: `origin + (real time - origin) * speed`, in seconds.

    Args:
        speed: AWS seconds that pass in one real second; 1 on AWS, 60 by default in rehearsal.
        origin: Epoch second at which AWS time and real time agree (the start of the rehearsal
            server); now, when left out.

    Raises:
        ValueError: When the speed is not a positive number.
    """

    def __init__(self, speed: float = 1.0, origin: float | None = None):
        if not 0 < speed < float("inf"):
            raise ValueError(f"A clock's speed is a positive number, not {speed!r}.")
        self.speed = float(speed)
        self.origin = time.time() if origin is None else float(origin)

    def time(self) -> float:
        """Epoch seconds in AWS time."""
        real = time.time()
        # Not origin + (real - origin) * 1: that would cost the last digits of a real stamp.
        return real if self.speed == 1 else self.origin + (real - self.origin) * self.speed

    def now(self) -> datetime:
        """AWS time as an aware datetime in UTC."""
        return datetime.fromtimestamp(self.time(), UTC)

    def monotonic(self) -> float:
        """Seconds in AWS time that never go back; only differences mean something."""
        return time.monotonic() * self.speed

    def sleep(self, seconds: float) -> None:
        """Sleep for so many seconds of AWS time; not at all when there are none."""
        if seconds > 0:
            time.sleep(seconds / self.speed)

    def __repr__(self) -> str:
        return f"Clock(speed={self.speed:g}, origin={self.origin:.3f})"
