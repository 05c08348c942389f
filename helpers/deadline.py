"""Do several things side by side, and wait no longer than a limit for any of them."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def together(
    tasks: Mapping[str, Callable[[], T]],
    *,
    limit_s: float,
    monotonic: Callable[[], float] = time.monotonic,
) -> dict[str, T | Exception]:
    """Run tasks in threads of their own; what is not done in time is left behind.

    A thread cannot be ended from outside: one that hangs stays, and ends with the process.

    Args:
        tasks: By name; each is called without arguments.
        limit_s: Real seconds for all of them.
        monotonic: The clock.

    Returns:
        For each name, in the same order, what the task returned, the exception it raised, or a
        `TimeoutError`.
    """
    done: dict[str, T | Exception] = {}

    def run(name: str, task: Callable[[], T]) -> None:
        try:
            done[name] = task()
        except Exception as error:  # belongs to whoever asked
            done[name] = error

    threads = [
        threading.Thread(target=run, args=one, name=f"together: {one[0]}", daemon=True)
        for one in tasks.items()
    ]
    end = monotonic() + limit_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - monotonic()))
    late = TimeoutError(f"no answer within {limit_s:g} s")
    return {name: done.get(name, late) for name in tasks}
