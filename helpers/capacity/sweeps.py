"""The same work for each of many items: in this process, or, when that is long, on Ray.

The answer is the same either way: what is done with an item depends on the item alone, seeds among
it, and the order is kept. Ray runs in a process of its own, as for the benchmark (`conductor`).
Without the address of a cluster it is started for the sweep on this machine's cores, and nothing
leaves loopback.
"""

import importlib.util
import os
import pickle
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TypeVar

from helpers import cluster, conductor
from helpers.conductor import HERE, Child
from helpers.errors import ClusterError, SettingsError

# What one process does in a minute: 200,000 simulated requests a second and core (2026-11). Ray
# itself takes 5 to 15 s to start.
WORTH_REQUESTS = 12_000_000
_JOINED = "joined"
_START_S = 60.0  # for Ray to start, or a cluster to answer
_LOOK_S = 0.25  # at whether the caller is still there
_LEAVE_S = 5.0  # for Ray's processes to end after an interrupt

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def each(
    work: Callable[[Item], Answer],
    items: Iterable[Item],
    *,
    requests: int,
    address: str | None = None,
) -> list[Answer]:
    """What `work` gives for each item, in their order.

    Args:
        work: A function of `helpers/`, or a `functools.partial` of one; the same for the same item.
        items: What to work on.
        requests: About how many requests that simulates altogether.
        address: Of a Ray cluster, as `ray.init` takes it. Without one Ray is started here when the
            work is more than a minute's (`WORTH_REQUESTS`), Ray is installed, and there is more
            than one core.

    Raises:
        SettingsError: When the cluster at the address cannot be used.
        ClusterError: When it was lost.
        Exception: What the work raises, the first item's.
    """
    items = list(items)
    if address is not None:
        return _on_ray(work, items, address)
    if is_worth(requests, len(items)):
        # Ray's start can fail where a process still can work.
        with suppress(SettingsError, ClusterError):
            return _on_ray(work, items, HERE)
    return [work(item) for item in items]


def is_worth(requests: int, items: int) -> bool:
    """Whether Ray is started for so much work."""
    cores = os.cpu_count() or 1
    is_long = requests >= WORTH_REQUESTS and items > 1 and cores > 1
    return is_long and importlib.util.find_spec("ray") is not None


def _on_ray(work: Callable, items: list, address: str) -> list:
    if importlib.util.find_spec("ray") is None:
        raise SettingsError(
            "Ray is not installed here: pip install -r requirements-ray.txt, or leave the cluster "
            "out."
        )
    cluster.knock(address)
    # A session of its own: an interrupt is for this process, which ends that one.
    child = Child(
        "capacity.sweeps.conduct",
        start_new_session=True,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
    )
    try:
        child.pipe.send((address, work, items))
        if not child.pipe.poll(_START_S):
            raise SettingsError(
                f"No Ray cluster has answered at {address} in {_START_S:g} s: look at the port, or "
                "leave the cluster out."
            )
        said = child.pipe.recv()
        if said == _JOINED:
            said = child.pipe.recv()
    except (EOFError, OSError) as error:
        raise ClusterError(
            f"The connection to the Ray cluster broke ({child.last_words()}): run it again, or "
            "leave the cluster out."
        ) from error
    finally:
        child.end(within_s=_LEAVE_S)
    if isinstance(said, Exception):
        raise said
    return said


def conduct(caller: Connection) -> None:
    """Receive an address, work and items; send the answers, or what was raised instead."""
    with suppress(EOFError, BrokenPipeError):  # the caller has gone; Ray ends the work with this
        try:
            address, work, items = caller.recv()
            with conductor.connected(address) as ray:
                caller.send(_JOINED)
                at_work = ray.remote(num_cpus=1)(_answer)
                coming = waiting = [at_work.remote(work, item) for item in items]
                while waiting and not caller.poll():  # the caller says nothing more, but goes
                    _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_LOOK_S)
                answers = [] if waiting else ray.get(coming)
            caller.send(answers)
        except Exception as error:
            caller.send(_own(error))


def _answer(work: Callable, item):
    return work(item)


def _own(error: Exception) -> Exception:
    """What the work itself raised, or a sentence where that cannot travel."""
    cause = getattr(error, "cause", None)
    own = cause if isinstance(cause, Exception) else error
    try:
        pickle.loads(pickle.dumps(own))
    except Exception:
        return ClusterError(f"The work on the Ray cluster failed ({own}).")
    return own
