"""What stands between `cluster.drive` and its clients: Ray, in a process of its own.

`conduct` is that process: it connects to the cluster, has an actor start a client on each node,
brings their clocks and their start together, and passes on what they send. Ray is imported nowhere
else. A connection that hangs or breaks, which Ray answers with minutes of waiting or with the
process's end, is then nothing that a notebook has to survive.
"""

import logging
import os
import platform
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from helpers.errors import ClusterError, InvocationError, SettingsError, WorkshopError
from helpers.records import ClientHealth, RequestRecord

HELPERS = Path(__file__).resolve().parent
READY_TIMEOUT_S = 120.0  # for actors to start, requests to arrive and connections to open
HERE = "local"  # Ray's word for a cluster of its own, started for whoever asks
STOP, GO_ON = "stop", "go on"
_AHEAD_S = 0.2  # the start is agreed so long before it comes
_BATCH_S = 0.25  # records come back this often
_PINGS = 20  # the quickest of so many exchanges says how far apart two clocks are


class Child:
    """A Python process that runs a function of `helpers/`, with a pipe to it.

    Args:
        function: Its module and name; called with the other end of the pipe.
        options: For `subprocess.Popen`.

    Attributes:
        pipe: This end.
        process: The process.
    """

    def __init__(self, function: str, **options):
        self.pipe, its = Pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in end()
        module = function.partition(".")[0]
        code = (
            "import sys; from multiprocessing.connection import Connection; "
            f"from helpers import {module}; {function}(Connection(int(sys.argv[1])))"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(its.fileno())],
            cwd=HELPERS.parent,
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
            **options,
        )
        its.close()

    def last_words(self) -> str:
        """The last line that it wrote, for instance of a traceback."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else f"it ended with {self.process.returncode}"

    def end(self, *, within_s: float = 0.0) -> None:
        """Hang up, and end it if it does not do so itself in time."""
        self.pipe.close()
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        finally:
            self._said.close()


# --- clocks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clock:
    """How another machine's `CLOCK_MONOTONIC` relates to this one's.

    Attributes:
        offset_s: What has to be added to its stamps.
        error_s: How wrong that may be.
    """

    offset_s: float = 0.0
    error_s: float = 0.0

    @classmethod
    def of(cls, ask: Callable[[], float]) -> "Clock":
        """From several exchanges: the quickest one leaves the least room for an error.

        Args:
            ask: Returns what the other clock says.
        """
        found = []
        for _ in range(_PINGS):
            sent_s = time.monotonic()
            there_s = ask()
            back_s = time.monotonic()
            found.append(cls((sent_s + back_s) / 2 - there_s, (back_s - sent_s) / 2))
        return min(found, key=lambda clock: clock.error_s)

    def checked_by(self, later: "Clock") -> "Clock":
        """This one, with the drift that a later comparison saw in its error."""
        drift_s = abs(later.offset_s - self.offset_s) + later.error_s
        return replace(self, error_s=max(self.error_s, drift_s))

    def shifted(self, record: RequestRecord) -> RequestRecord:
        """A record of the other machine, in this one's time."""
        if not self.offset_s:
            return record
        return replace(
            record,
            sent_s=record.sent_s + self.offset_s,
            first_s=None if record.first_s is None else record.first_s + self.offset_s,
            last_s=None if record.last_s is None else record.last_s + self.offset_s,
            ended_s=record.ended_s + self.offset_s,
            chunk_s=tuple(stamp_s + self.offset_s for stamp_s in record.chunk_s),
        )


def _boot_id() -> str | None:
    """Equal in processes that share `CLOCK_MONOTONIC`; None where the system has none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    return None


# --- the conductor --------------------------------------------------------------------------------


def conduct(caller: Connection) -> None:
    """Receive an address, send how many nodes there are, receive their work, send what comes of it.

    What comes is pairs of a client's number and its record or health, at last None or the error
    that ended the run. The caller may send `STOP`; when it hangs up, so does this.
    """
    with suppress(EOFError, BrokenPipeError):  # the caller has gone; Ray ends the actors with this
        try:
            address = caller.recv()
            with connected(address) as ray:
                nodes = _nodes(ray, address)
                caller.send(len(nodes))
                _Run(ray, caller, nodes, *caller.recv()).play()
            caller.send(None)
        except WorkshopError as error:
            caller.send(error)


@contextmanager
def connected(address: str):
    """Join a Ray cluster, with this repository's helpers on its nodes; yields the module `ray`.

    Args:
        address: As `ray.init` takes it.

    Raises:
        SettingsError: When it cannot be used.
    """
    if address == HERE:
        _keep_here()
    import ray

    try:
        ray.init(
            address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={
                "py_modules": [str(HELPERS)],
                "excludes": ["rehearsal", "__pycache__"],
            },
        )
    except Exception as error:  # ConnectionError, RuntimeError and others: Ray promises none
        raise SettingsError(misfit(address, error)) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _keep_here() -> None:
    """Let a Ray that this process starts listen on loopback only, tell nobody, and ask for a token.

    Ray's switch for Windows and macOS, where it binds to loopback by default, does so everywhere
    when it is 0. It has none for the processes that ask the cloud's metadata service where it runs
    and tell `usage-stats.ray.io` even that usage statistics are off: they are left out by hand
    (ray 2.60, `_private/node.py` and `_common/usage/usage_lib.py`). The token keeps out other users
    of this machine, from ray 2.52 on.
    """
    os.environ |= {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    from ray._private.node import Node

    for name in ("start_api_server", "start_monitor", "start_log_monitor"):
        if not hasattr(Node, name):
            raise SettingsError(
                "This version of Ray cannot be kept from telling others that it runs: start a "
                "cluster with `ray start --head` and give its address, or leave Ray out."
            )
        setattr(Node, name, lambda *_, **__: None)


def misfit(address: str, error: Exception) -> str:
    """Why Ray cannot use a cluster, in a sentence that says what to do."""
    words = " ".join(str(error).split())[:300].rstrip(".")
    if "version" in words.lower():
        return (
            f"The Ray cluster at {address} has other versions than this machine ({words}): "
            "install the same ones here, or there."
        )
    if "ray[client]" in words:
        return f"{address} needs Ray's client: pip install 'ray[client]', or give host:port."
    return (
        f"No Ray cluster could be joined at {address} ({words}): start one with "
        "`ray start --head`, or give its address as host:port."
    )


def _nodes(ray, address: str) -> list[str]:
    """The ids of the nodes that may be given work, always in the same order."""
    alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not alive:
        raise SettingsError(f"No node of the Ray cluster at {address} has a CPU for a client.")
    return [node["NodeID"] for node in sorted(alive, key=lambda node: node["NodeManagerAddress"])]


class _Run:
    """The clients of one run, seen from the conductor."""

    def __init__(
        self,
        ray,
        caller: Connection,
        nodes: list[str],
        secret: bytes,
        common: bytes,
        own: list[bytes],
    ):
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        self._ray = ray
        self._caller = caller
        self._secret, self._common, self._own = secret, common, own
        self._is_stopping = False
        actor_on = ray.remote(num_cpus=1)(Actor).options
        self._actors = [
            actor_on(scheduling_strategy=On(node, soft=False)).remote()
            for node in nodes[: len(own)]
        ]

    def play(self) -> None:
        """From the first to the last message of the clients."""
        try:
            self._make_ready()
            if not self._is_told_to_stop():
                self._clocks = [self._clock(actor) for actor in self._actors]
                self._start()
                self._pass_on()
        finally:
            for actor in self._actors:
                self._ray.kill(actor)

    def _is_told_to_stop(self) -> bool:
        if not self._is_stopping and self._caller.poll():
            self._is_stopping = self._caller.recv() == STOP
        return self._is_stopping

    def _make_ready(self) -> None:
        # The secret travels as a method's argument: the constructor's would be kept by the cluster,
        # and what is put into the object store may be spilled to a disk.
        common = self._ray.put(self._common)
        waiting = [
            actor.start.remote(self._secret, common, self._ray.put(own))
            for actor, own in zip(self._actors, self._own, strict=True)
        ]
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while waiting and not self._is_told_to_stop():
            done, waiting = self._ray.wait(waiting, timeout=_BATCH_S)
            for wrong in map(self._why_not, done):
                if wrong:
                    raise wrong
            if time.monotonic() > deadline_s:
                raise SettingsError(
                    f"{len(waiting)} of {len(self._actors)} nodes had no client ready after "
                    f"{READY_TIMEOUT_S:g} s: is a CPU free on each, and the network quick enough "
                    "for the requests?"
                )

    def _why_not(self, started) -> Exception | None:
        try:
            return self._ray.get(started)
        except self._ray.exceptions.RayError as error:
            return SettingsError(
                f"A node cannot start a client ({_said(error)}): it needs Ray and Python in this "
                "machine's versions, and boto3."
            )

    def _clock(self, actor) -> Clock:
        clock = Clock.of(lambda: self._ray.get(actor.clock.remote()))
        is_same_boot = _boot_id() and self._ray.get(actor.boot_id.remote()) == _boot_id()
        # The second half is for containers whose clock was moved within one boot.
        if is_same_boot and abs(clock.offset_s) <= clock.error_s:
            return Clock()
        return clock

    def _start(self) -> None:
        slowest_s = max(clock.error_s for clock in self._clocks)
        at_s = time.monotonic() + max(_AHEAD_S, 20 * slowest_s)
        pairs = zip(self._actors, self._clocks, strict=True)
        self._ray.get([actor.begin.remote(at_s - clock.offset_s) for actor, clock in pairs])

    def _pass_on(self) -> None:
        taking = {actor.take.remote(): number for number, actor in enumerate(self._actors)}
        lost = []
        while taking:
            if not self._is_stopping and self._is_told_to_stop():
                for number in taking.values():
                    self._actors[number].stop.remote()
            done, _ = self._ray.wait(list(taking), timeout=_BATCH_S)
            for batch in done:
                number = taking.pop(batch)
                try:
                    is_over = self._pass_batch(number, self._ray.get(batch))
                except (self._ray.exceptions.RayError, ClusterError) as error:
                    lost.append(f"Client {number} was lost ({_said(error)})")
                    continue
                if not is_over:
                    taking[self._actors[number].take.remote()] = number
        if lost:
            raise ClusterError(
                f"{'; '.join(lost)}: what it had not told yet is in no record, everything else "
                "was kept. Run what is missing again."
            )

    def _pass_batch(self, number: int, messages: list) -> bool:
        """Tell the caller; True when the client has ended."""
        for message in messages:
            if isinstance(message, RequestRecord):
                self._caller.send((number, self._clocks[number].shifted(message)))
            elif isinstance(message, ClientHealth):
                self._caller.send((number, self._timed(message, number)))
                return True
            elif message is None and self._is_stopping:
                return True
            else:
                raise ClusterError(str(message or "it was interrupted there"))
        return False

    def _timed(self, health: ClientHealth, number: int) -> ClientHealth:
        clock = self._clocks[number]
        if clock != Clock():
            clock = clock.checked_by(self._clock(self._actors[number]))
        return replace(health, clock_offset_s=clock.offset_s, clock_error_s=clock.error_s)


def _said(error: Exception) -> str:
    """What matters of Ray's long messages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300].rstrip(".") or type(error).__name__


# --- on each node ---------------------------------------------------------------------------------


class Actor:
    """Starts a node's client and passes on what is said; Ray runs one method at a time.

    Attributes:
        client: The client's process, once it was started.
    """

    client: Child

    def clock(self) -> float:
        """This machine's `CLOCK_MONOTONIC`, in seconds."""
        return time.monotonic()

    def boot_id(self) -> str | None:
        """Which boot of which machine this is."""
        return _boot_id()

    def start(self, *parcels: bytes) -> Exception | None:
        """Start the client and wait until it is ready; why not, when it is not."""
        self.client = Child("cluster.serve")
        with suppress(OSError):  # it has died: so says what is received
            for parcel in parcels:
                self.client.pipe.send_bytes(parcel)
        said = self._receive()
        if isinstance(said, InvocationError):
            return InvocationError(f"From {platform.node()}: {said}", kind=said.kind)
        if isinstance(said, Exception):
            return SettingsError(f"The client on {platform.node()} cannot start: {said}")
        return None

    def begin(self, at_s: float) -> None:
        """Agree on the start, in seconds of this machine's clock."""
        self.client.pipe.send(at_s)

    def stop(self) -> None:
        """Interrupt the client; what it had in flight comes with the next batches."""
        with suppress(OSError):
            self.client.pipe.send(STOP)

    def take(self) -> list:
        """What the client has sent since the last time, or sends soon; only after the start."""
        messages = []
        with suppress(OSError):
            self.client.pipe.send(GO_ON)
        deadline_s = time.monotonic() + _BATCH_S
        while self.client.pipe.poll(max(0.0, deadline_s - time.monotonic())):
            messages.append(self._receive())
            if not isinstance(messages[-1], RequestRecord):
                break  # the last one
        return messages

    def _receive(self):
        try:
            return self.client.pipe.recv()
        except (EOFError, OSError):
            return ClusterError(f"on {platform.node()}: {self.client.last_words()}")
