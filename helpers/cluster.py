"""The load engine on several machines at once, by way of a Ray cluster.

Four kinds of process, each started by the one before it:

- the caller: `drive` deals the requests and merges the records that come back;
- the conductor (`conductor.py`), which speaks Ray;
- an actor on each node, which starts that node's client and passes messages;
- a client: `load.drive`, as on one machine. There is no Ray in it to disturb a stamp.

What a node needs: Ray and Python in the caller's versions, boto3, and a way to the endpoint. The
modules of `helpers/` are sent along. Ray gives its processes a low priority; a client takes the
normal one where it may (root), else start the nodes with `RAY_worker_niceness=0 ray start`.

What travels: the requests, through Ray's object store, and the transport with the AWS keys or the
bearer token of that moment, as the argument of one call; in no name, log or environment. Ray does
not encrypt unless the cluster was started with `RAY_USE_TLS=1`, and whoever can connect to it can
run code there: prefer temporary credentials. The nodes cannot refresh them; a run that outlasts
them fails from then on.
"""

import importlib.util
import itertools
import os
import pickle
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

from helpers import load
from helpers.conductor import STOP, Child
from helpers.errors import ClusterError, SettingsError, WorkshopError
from helpers.load import Arrivals, ClosedLoop, CountTokens, OnRecord, Pattern, Request, Rounds
from helpers.records import ClientHealth, RequestRecord
from helpers.transport import Transport

CONNECT_TIMEOUT_S = 30.0  # for the cluster's answer
STOP_TIMEOUT_S = 15.0  # for what was in flight to be told after an interrupt
ORPHANED_S = 60.0  # a node that is cut off stops its load, which is for nobody, so late at most
_LEAVE_TIMEOUT_S = 5.0
_KNOCK_TIMEOUT_S = 5.0
_PORTS = {"gcs": 6379, "ray": 10001}  # Ray's own defaults

# A request by its place in the plan. It is pickled by name: a method or a function of a module of
# helpers/, or a `functools.partial` of one.
RequestAt = Callable[[int], Request]


def drive(
    transport: Transport,
    requests: Sequence[Request] | RequestAt,
    pattern: Pattern,
    *,
    address: str,
    on_record: OnRecord,
    warmup: int = 0,
    duration_s: float | None = None,
    timeout_s: float = load.TIMEOUT_S,
    count_tokens: CountTokens | None = None,
    part: int = 0,
) -> list[ClientHealth]:
    """Send requests in a pattern from all nodes of a Ray cluster, as `load.drive` does from one.

    Users, or arrivals, are dealt to the nodes in turn, and the requests with them; all clients
    start at the same moment. In the records `index`, `user` and `client` are those of the whole
    run, and every stamp is in this machine's clock.

    A client that is lost takes along what it had in flight. The others finish what they were dealt,
    and are recorded, before the error is raised.

    Args:
        transport: The service; pickled, secrets included (the module says how they travel).
        requests: What to send, warm-up first; or a function that makes one by its place, where only
            time ends the run, or a schedule.
        pattern: Who sends when. Rounds stay on one machine.
        address: As `ray.init` takes it: `auto`, `host:port`, `ray://host:port` or `local`.
        on_record: Called in the calling thread with each record, within a second of its end.
        warmup: How many requests are warm-up, of all clients together.
        duration_s: Real seconds after a client's first measured request in which it sends new ones.
        timeout_s: Real seconds after which a request is given up.
        count_tokens: The model's own tokenizer; pickled, and the nodes need what it imports.
        part: As in `RequestRecord`.

    Returns:
        How each client fared; a record's `client` is a place in this list.

    Raises:
        ValueError: When the requests cannot make this load.
        SettingsError: When the cluster cannot be used; nothing was sent then.
        InvocationError: When a node cannot reach the endpoint; nothing was sent then.
        ClusterError: When a client was lost, or the cluster.
        KeyboardInterrupt: After what was in flight has been recorded as `interrupted`.
    """
    _check(requests, pattern, warmup=warmup, is_timed=duration_s is not None)
    request_at, listed = (requests, ()) if callable(requests) else (None, requests)
    options = {"duration_s": duration_s, "timeout_s": timeout_s, "part": part}
    secret = _pickled(transport)
    common = _pickled((request_at, warmup, options | {"count_tokens": count_tokens}))
    healths: dict[int, ClientHealth] = {}
    with _Conductor(address) as conductor:
        shares = deal(pattern, nodes=conductor.nodes)
        own = [_pickled((share, share.of(listed))) for share in shares]

        def record_all() -> None:
            for number, message in conductor.messages():
                if isinstance(message, ClientHealth):
                    healths[number] = message
                else:
                    on_record(shares[number].merged(message))

        try:
            conductor.start(secret, common, own)
            record_all()
        except BaseException:
            conductor.stop()
            with suppress(WorkshopError):  # the first error is the one that matters
                record_all()
            raise
    return [healths[number] for number in range(len(shares))]


def _check(
    requests: Sequence[Request] | RequestAt, pattern: Pattern, *, warmup: int, is_timed: bool
) -> None:
    if isinstance(pattern, Rounds):
        raise SettingsError(
            "In rounds everybody waits for everybody, which clients on several machines cannot: "
            "leave the cluster out; rounds are there for comparison only."
        )
    if isinstance(pattern, Arrivals) and not pattern.times_s:
        raise ValueError("There are no times to send requests at: give one for each.")
    if isinstance(pattern, ClosedLoop) and callable(requests) and not is_timed:
        raise ValueError("Nothing ends this run: give a duration, or a list of requests.")
    if not callable(requests) and not isinstance(requests, Sequence):
        raise ValueError(
            "Requests that come one after the other cannot be dealt: give a list of them, or a "
            "function that makes the one at a place."
        )
    load.check(pattern, requests, warmup=warmup)


# --- who gets what: pure --------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """What one client does of a run.

    Places in the plan are dealt in turns of `lanes`: a turn has one place for each user, or, with
    arrivals, for each client. Lane 0 is client 0's, lane 1 client 1's, and so on around.

    Attributes:
        client: Its number.
        clients: How many there are.
        lanes: Places in a turn.
        pattern: Its part of the load.
    """

    client: int
    clients: int
    lanes: int
    pattern: Pattern

    @property
    def _own_lanes(self) -> range:
        return range(self.client, self.lanes, self.clients)

    def place(self, number: int) -> int:
        """Where in the plan this client's request of that number is."""
        turn, lane = divmod(number, len(self._own_lanes))
        return turn * self.lanes + self._own_lanes[lane]

    def count(self, total: int) -> int:
        """How many of the plan's first `total` requests are this client's."""
        turns, rest = divmod(total, self.lanes)
        return turns * len(self._own_lanes) + sum(lane < rest for lane in self._own_lanes)

    def of(self, requests: Sequence[Request]) -> list[Request]:
        """This client's requests out of all."""
        return [requests[self.place(number)] for number in range(self.count(len(requests)))]

    def made(self, request_at: RequestAt) -> Iterator[Request]:
        """This client's requests, each made when it is asked for; endless without a schedule."""
        is_scheduled = isinstance(self.pattern, Arrivals)
        numbers = range(len(self.pattern.times_s)) if is_scheduled else itertools.count()
        return (request_at(self.place(number)) for number in numbers)

    def merged(self, record: RequestRecord) -> RequestRecord:
        """This client's record as one of the whole run."""
        user = None if record.user is None else self._own_lanes[record.user]
        return replace(record, index=self.place(record.index), user=user, client=self.client)


def deal(pattern: Pattern, *, nodes: int) -> list[Share]:
    """A load, split over as many clients as there is work for, as evenly as possible."""
    if isinstance(pattern, Arrivals):
        clients = lanes = min(nodes, len(pattern.times_s))
        own = [Arrivals(pattern.times_s[client::clients]) for client in range(clients)]
    else:
        clients, lanes = min(nodes, pattern.users), pattern.users
        users = [len(range(client, lanes, clients)) for client in range(clients)]
        own = [replace(pattern, users=count) for count in users]
    return [Share(client, clients, lanes, its) for client, its in enumerate(own)]


def _pickled(what) -> bytes:
    """For another machine.

    Raises:
        SettingsError: When that is not possible.
    """
    try:
        return pickle.dumps(what)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise SettingsError(
            f"This load cannot be sent to other machines ({error}): functions travel by their "
            "name, so take them from a module of helpers/."
        ) from error


# --- the caller's side ----------------------------------------------------------------------------


class _Conductor:
    """The process that speaks Ray for this one, from the connection to the end of the run.

    Attributes:
        nodes: How many nodes of the cluster can have a client.
    """

    def __init__(self, address: str):
        if importlib.util.find_spec("ray") is None:
            raise SettingsError(
                "Ray is not installed here: pip install -r requirements-ray.txt, or leave the "
                "cluster out."
            )
        knock(address)
        self._address = address
        self._deadline_s: float | None = None
        self._is_over = False

    def __enter__(self) -> "_Conductor":
        # A session of its own: the terminal's interrupts are for the caller, who passes them on.
        self._process = Child(
            "conductor.conduct",
            start_new_session=True,
            env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
        )
        try:
            self._send(self._address)
            if not self._process.pipe.poll(CONNECT_TIMEOUT_S):
                raise SettingsError(
                    f"No Ray cluster has answered at {self._address} in {CONNECT_TIMEOUT_S:g} s: "
                    f"the port is the one that `ray start --head` names ({_PORTS['gcs']}), or "
                    f"with ray:// the one for Ray's clients ({_PORTS['ray']})."
                )
            self.nodes = self._receive()
        except BaseException:
            self._process.end()
            raise
        return self

    def __exit__(self, *_) -> None:
        self._process.end(within_s=_LEAVE_TIMEOUT_S)

    def start(self, secret: bytes, common: bytes, own: list[bytes]) -> None:
        """Hand the clients what each needs; they begin when all of them are ready."""
        self._send((secret, common, own))

    def messages(self) -> Iterator[tuple[int, RequestRecord | ClientHealth]]:
        """What comes from which client, until all have ended.

        Raises:
            WorkshopError: What went wrong on the other side.
        """
        while (message := self._receive()) is not None:
            yield message

    def stop(self) -> None:
        """Stop all clients; what was in flight still comes, if it comes soon."""
        self._deadline_s = time.monotonic() + STOP_TIMEOUT_S
        self._send(STOP)

    def _send(self, what) -> None:
        with suppress(OSError):  # it has died: so says what is received
            self._process.pipe.send(what)

    def _receive(self):
        left_s = None
        if self._deadline_s is not None:
            left_s = max(0.0, self._deadline_s - time.monotonic())
        if self._is_over or not self._process.pipe.poll(left_s):
            return None
        try:
            message = self._process.pipe.recv()
        except (EOFError, OSError):
            message = ClusterError(
                f"The connection to the Ray cluster broke ({self._process.last_words()}): the "
                "records so far are all there is."
            )
        self._is_over = message is None or isinstance(message, Exception)
        if isinstance(message, Exception):
            raise message
        return message


def knock(address: str) -> None:
    """Find out soon, not after Ray's minutes, that nobody is there.

    Raises:
        SettingsError: When nobody is.
    """
    parts = urlsplit(address if "://" in address else f"gcs://{address}")
    if address in ("auto", "local") or parts.scheme not in _PORTS:
        return
    try:
        place = parts.hostname, parts.port or _PORTS[parts.scheme]
        socket.create_connection(place, _KNOCK_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"No Ray cluster answers at {address} ({error}): start one there with "
            "`ray start --head`, or give its address as host:port."
        ) from error


# --- a client, on its node ------------------------------------------------------------------------


def serve(actor: Connection) -> None:
    """Play a share of a run; the last thing sent says how it ended, None when it was stopped."""
    _undo_what_ray_did()
    agreed: queue.SimpleQueue[float] = queue.SimpleQueue()
    is_over = threading.Event()

    def starts_at() -> float:
        actor.send("ready")
        return agreed.get()

    try:
        transport = pickle.loads(actor.recv_bytes())
        request_at, warmup, options = pickle.loads(actor.recv_bytes())
        share, listed = pickle.loads(actor.recv_bytes())
        threading.Thread(target=listen, args=(actor, agreed, is_over), daemon=True).start()
        end = load.drive(
            transport,
            share.made(request_at) if request_at else listed,
            share.pattern,
            warmup=share.count(warmup),
            on_record=actor.send,
            starts_at=starts_at,
            **options,
        )
    except KeyboardInterrupt:
        end = None
    except Exception as error:
        end = error
    is_over.set()
    actor.send(end)


def _undo_what_ray_did() -> None:
    """Its processes ignore interrupts and are of low priority, and so are their children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def listen(actor: Connection, agreed: "queue.SimpleQueue[float]", is_over: threading.Event) -> None:
    """Hear the start and the stop; end when nobody is there to take the records any more."""
    with suppress(EOFError, OSError):
        agreed.put(actor.recv())
        while actor.poll(ORPHANED_S):
            if actor.recv() == STOP and not is_over.is_set():
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    if not is_over.is_set():
        os._exit(1)
