"""HTTP on loopback: requests read by h11, answers and streams written straight to the socket.

One asyncio loop serves everything. A request is read whole (25 MB at most) and handed to one
coroutine with a `Response`, which answers once or starts a `Stream`. A streamed chunk costs one
join and one `transport.write`: no queue, no task, no lock, so that hundreds of streams fit into one
core. What is malformed, too large or too slow is refused here and never reaches the handler.
"""

import asyncio
import contextlib
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http.client import responses
from typing import NamedTuple
from urllib.parse import urlsplit

import h11

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
Headers = Mapping[str, str] | Iterable[tuple[str, str]]

_SCOPE = re.compile(r"Credential=[^/,\s]+/\d{8}/([a-z0-9-]{1,32})/([a-z0-9.-]{1,64})/aws4_request")


@dataclass(frozen=True)
class Limits:
    """What one client may use; times are real seconds.

    Attributes:
        body_bytes: Largest request body; SageMaker takes 25 MB.
        bodies_bytes: Bodies of all requests under way together.
        pieces: Chunks or reads that a body may come in, one more for every kilobyte.
        head_bytes: Request line and headers together.
        pipelined_bytes: What may arrive while an answer is still under way.
        unsent_bytes: What may pile up for a client that asks on, or streams, and does not read.
        request_s: For a whole request to arrive, from its first byte.
        idle_s: For a kept-alive connection without a request.
        linger_s: For reading on after a refusal, so that the client sees it.
        connections: At the same time.
    """

    body_bytes: int = 25 * 2**20
    bodies_bytes: int = 256 * 2**20
    pieces: int = 10_000
    head_bytes: int = 32 * 2**10
    pipelined_bytes: int = 64 * 2**10
    unsent_bytes: int = 4 * 2**20
    request_s: float = 30.0
    idle_s: float = 600.0
    linger_s: float = 2.0
    connections: int = 2000


@dataclass(frozen=True, slots=True)
class Request:
    """One whole request.

    Attributes:
        method: In capitals.
        path: As it was sent, percent-encoded, without the query.
        query: What follows the question mark, as it was sent.
        headers: Names in lower case; repeated ones joined by a comma.
        body: Decoded from its transfer encoding.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def region(self) -> str | None:
        """Region of the signature (SigV4), None for an unsigned request."""
        match = _SCOPE.search(self.headers.get("authorization", ""))
        return match[1] if match else None

    @property
    def service(self) -> str | None:
        """Service of the signature (SigV4), such as `s3`, None for an unsigned request."""
        match = _SCOPE.search(self.headers.get("authorization", ""))
        return match[2] if match else None


class Answer(NamedTuple):
    """A whole answer, as the parts of the local AWS hand it to the front door."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


Handler = Callable[[Request, "Response"], Awaitable[None]]


class Response:
    """The answer to one request: `respond` once, or `start_stream` once.

    When the client has gone, both do nothing.
    """

    def __init__(self, connection: "_Connection"):
        self._connection = connection
        self.request_id = str(uuid.uuid4())
        self.started = False
        self.finished = False
        self._on_disconnect: list[Callable[[], None]] = []

    @property
    def disconnected(self) -> bool:
        """True when the client went away before the answer was complete."""
        return self._connection.gone

    def respond(self, status: int, headers: Headers = (), body: bytes = b"") -> None:
        """Send a whole answer; length, date and request id are added."""
        self._begin()
        self._connection.send_whole(status, self._complete(headers), body)

    def start_stream(self, status: int, headers: Headers = ()) -> "Stream":
        """Send status and headers and return what the body is written to."""
        self._begin()
        return self._connection.send_head(status, self._complete(headers))

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call back once if the client goes away before the answer is complete."""
        if self.disconnected:
            callback()
        elif not self.finished:
            self._on_disconnect.append(callback)

    def _begin(self) -> None:
        if self.started:
            raise RuntimeError("A request is answered once.")
        self.started = True

    def _complete(self, headers: Headers) -> list[tuple[str, str]]:
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        names = {name.lower() for name, _ in pairs}
        if "date" not in names:
            pairs.append(("Date", _http_date(int(time.time()))))
        if "x-amzn-requestid" not in names:
            pairs.append(("x-amzn-RequestId", self.request_id))
        return pairs

    def _finish(self) -> None:
        self.finished = True
        self._on_disconnect.clear()

    def _lost(self) -> None:
        callbacks, self._on_disconnect = self._on_disconnect, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("A disconnect callback failed.")


class Stream:
    """A body that is sent as it comes into being."""

    __slots__ = ("_chunked", "_connection", "_open", "_response", "_transport", "_unsent_bytes")

    def __init__(self, connection: "_Connection", response: Response, *, chunked: bool):
        self._connection = connection
        self._response = response
        self._transport = connection.transport
        self._unsent_bytes = connection.limits.unsent_bytes
        self._chunked = chunked
        self._open = not connection.gone

    @property
    def open(self) -> bool:
        """False once ended, aborted, or when the client has gone."""
        return self._open

    def write(self, data: bytes) -> None:
        """Send a piece now; a client that leaves 4 MB unread is cut off."""
        if not self._open or not data:
            return
        transport = self._transport
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        if transport.get_write_buffer_size() > self._unsent_bytes:
            self.abort()

    def end(self) -> None:
        """Complete the body; the connection can carry the next request."""
        if self._open:
            self._open = False
            self._connection.end_stream()

    def abort(self) -> None:
        """Break the connection off, as a server that died would."""
        if self._open:
            self._open = False
            self._transport.abort()

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call back once if the client goes away (or the stream is aborted) before the end."""
        self._response.on_disconnect(callback)

    def _lost(self) -> None:
        self._open = False


class Server:
    """Listens on loopback and hands every well-formed request to one handler.

    Args:
        handler: Coroutine function of a request and its response.
        limits: What one client may use.
    """

    def __init__(self, handler: Handler, *, limits: Limits | None = None):
        self.handler = handler
        self.limits = limits or Limits()
        self.connections: dict[_Connection, None] = {}  # longest idle first
        self.bodies_bytes = 0
        self.last_active = time.monotonic()
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> int:
        """Listen on 127.0.0.1 and return the port.

        Raises:
            OSError: When the port cannot be had.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), HOST, port, backlog=1024, reuse_address=True
        )
        return self._server.sockets[0].getsockname()[1]

    def idle_s(self) -> float:
        """Real seconds since something was last asked or answered."""
        if any(connection.busy for connection in self.connections):
            self.last_active = time.monotonic()
        return time.monotonic() - self.last_active

    def make_room(self) -> bool:
        """Close the connection that has been without a request for longest, if there is one."""
        idle = next((each for each in self.connections if each.idle), None)
        if idle is not None:
            idle.transport.abort()
            del self.connections[idle]
        return idle is not None

    async def stop(self) -> None:
        """Stop listening and break off what is still open."""
        if self._server is not None:
            self._server.close()
            await asyncio.sleep(0)  # who has just been accepted is among the connections then
            await asyncio.sleep(0)
        tasks = [connection.task for connection in self.connections if connection.task]
        for connection in list(self.connections):
            connection.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Connection(asyncio.Protocol):
    """One client: requests one after the other, each answered before the next is looked at."""

    def __init__(self, server: Server):
        self.server = server
        self.limits = server.limits
        self.gone = False
        self.task: asyncio.Task | None = None
        self._http = h11.Connection(h11.SERVER, self.limits.head_bytes)
        self._head: h11.Request | None = None
        self._is_head_method = False
        self._body = bytearray()
        self._body_bytes = 0  # that count for the server, until the request is answered
        self._pieces = 0
        self._response: Response | None = None
        self._stream: Stream | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._receiving = False
        self._pipelined_bytes = 0
        self._half_closed = False
        self._discarding = False

    @property
    def busy(self) -> bool:
        return self._response is not None

    @property
    def idle(self) -> bool:
        return not (self.busy or self._receiving or self._discarding)

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        full = len(self.server.connections) >= self.limits.connections
        has_room = not full or self.server.make_room()
        self.server.connections[self] = None
        self._wait_at_most(self.limits.idle_s, self.transport.abort)
        if not has_room:
            self._refuse(503, "Too many connections to the rehearsal AWS.")

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        if self._response is not None:
            self._pipelined_bytes += len(data)
            if self._pipelined_bytes > self.limits.pipelined_bytes:
                self.transport.pause_reading()
        elif not self._receiving:
            self._begin_request()
        self._feed(data)

    def eof_received(self) -> bool:
        if self._discarding:
            return False
        self._half_closed = True
        self._feed(b"")
        response = self._response
        if response is None:
            return self._discarding  # a refusal may still have to be sent
        response._lost()
        # Who reads a stream and closes its side has left; who waits for a whole answer may only
        # have said that nothing more will be asked.
        return self._stream is None

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self.server.connections.pop(self, None)
        self._stop_waiting()
        self._let_go()
        if self._stream is not None:
            self._stream._lost()
        if self._response is not None:
            self._response._lost()

    # --- reading

    def _begin_request(self) -> None:
        self._receiving = True
        self._wait_at_most(
            self.limits.request_s, lambda: self._refuse(408, "The request did not arrive in time.")
        )

    def _feed(self, data: bytes | None = None) -> None:
        if self.gone:
            return
        try:
            if data is not None:
                self._http.receive_data(data)
            self._read()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint, f"Malformed request: {error}.")

    def _read(self) -> None:
        while self._response is None and not self._discarding:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._head, self._is_head_method = event, event.method == b"HEAD"
                self._check_head(event)
            elif isinstance(event, h11.Data):
                self._take(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._dispatch()
            elif isinstance(event, h11.ConnectionClosed):
                self.transport.close()
                return
            else:  # NEED_DATA or PAUSED
                if self._http.they_are_waiting_for_100_continue:
                    self._send(h11.InformationalResponse(status_code=100, headers=[]))
                return

    def _take(self, piece: bytes) -> None:
        self._body += piece
        self._body_bytes += len(piece)
        self.server.bodies_bytes += len(piece)
        self._pieces += 1
        if self._body_bytes > self.limits.body_bytes:
            self._refuse_body()
        elif self.server.bodies_bytes > self.limits.bodies_bytes:
            self._refuse(503, "Too many large requests to the rehearsal AWS at once.")
        elif self._pieces > self.limits.pieces + self._body_bytes // 1024:
            self._refuse(400, "The request body comes in too many small pieces.")

    def _let_go(self) -> None:
        """Forget the body of a request that has been answered."""
        self.server.bodies_bytes -= self._body_bytes
        self._body, self._body_bytes, self._pieces = bytearray(), 0, 0

    def _check_head(self, head: h11.Request) -> None:
        if sum(len(name) + len(value) for name, value in head.headers) > self.limits.head_bytes:
            self._refuse(431, f"A request's headers have at most {self.limits.head_bytes} bytes.")
        elif head.http_version not in (b"1.0", b"1.1"):
            self._refuse(505, "The rehearsal AWS speaks HTTP/1.1.")
        elif {b"content-length", b"transfer-encoding"} <= {name for name, _ in head.headers}:
            self._refuse(400, "A request has a Content-Length or a Transfer-Encoding, not both.")
        elif _content_length(head) > self.limits.body_bytes:
            self._refuse_body()

    def _refuse_body(self) -> None:
        self._refuse(413, f"A request body has at most {self.limits.body_bytes} bytes.")

    def _dispatch(self) -> None:
        self._stop_waiting()
        if self.transport.get_write_buffer_size() > self.limits.unsent_bytes:
            self.transport.abort()  # asks on without having read what it asked for
            return
        head, body = self._head, bytes(self._body)
        self._head, self._body = None, bytearray()
        self._receiving, self._pipelined_bytes = False, 0
        request = _request(head, body)
        self._response = Response(self)
        self.server.last_active = time.monotonic()
        if request is None:
            self._response.respond(400, *_message("The request target is not a path."))
            return
        self.task = asyncio.get_running_loop().create_task(self._handle(request, self._response))

    async def _handle(self, request: Request, response: Response) -> None:
        try:
            await self.server.handler(request, response)
            failed = not response.started
        except Exception:
            log.exception("No answer to %s %s.", request.method, request.path[:200])
            failed = True
        # Without a failure, a stream goes on after its handler: whoever holds it ends it.
        if not failed or response.finished or self.gone:
            return
        if response.started or self._half_closed:
            self.transport.abort()
        else:
            response.respond(500, *_message("The rehearsal AWS has a defect: see its log."))

    # --- writing

    def send_whole(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        if self.gone:
            return
        has_body = not self._is_head_method and status not in (204, 304)
        length = str(len(body)) if has_body else _header(headers, "content-length")
        headers = [pair for pair in headers if pair[0].lower() not in _FRAMING]
        if length is not None:
            headers.append(("Content-Length", length))
        if self._half_closed:
            headers.append(("Connection", "close"))
        self._send(
            _head(status, headers),
            h11.Data(data=body if has_body else b""),
            h11.EndOfMessage(),
        )
        self._next()

    def send_head(self, status: int, headers: list[tuple[str, str]]) -> Stream:
        stream = Stream(self, self._response, chunked=self._http.their_http_version != b"1.0")
        if not self.gone:
            headers = [pair for pair in headers if pair[0].lower() not in _FRAMING]
            self._send(_head(status, headers))
            self._stream = stream
        return stream

    def end_stream(self) -> None:
        self._send(h11.EndOfMessage())
        self._next()

    def _next(self) -> None:
        """Make room for the next request, or close when there cannot be one."""
        self._response._finish()
        self._response = self._stream = self.task = None
        self._let_go()
        self.server.last_active = time.monotonic()
        if self._half_closed or self._http.our_state is not h11.DONE:
            self.transport.close()
            return
        self._http.start_next_cycle()
        self.server.connections[self] = self.server.connections.pop(self, None)  # to the end
        self._wait_at_most(self.limits.idle_s, self.transport.abort)
        self.transport.resume_reading()
        if self._http.trailing_data[0]:
            self._begin_request()
            # Not from here: a long pipeline must not become a deep stack.
            asyncio.get_running_loop().call_soon(self._feed)

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer what cannot be served, read on for a moment, and close."""
        if self._discarding or self.gone:
            return
        self._stop_waiting()
        self._let_go()
        self._discarding = True
        if self._response is not None or self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        headers, body = _message(sentence)
        headers = [*headers.items(), ("Content-Length", str(len(body))), ("Connection", "close")]
        with contextlib.suppress(h11.LocalProtocolError):
            self._send(
                _head(status, headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
        try:
            self.transport.write_eof()
        except OSError:  # it has gone meanwhile
            self.transport.abort()
            return
        self._wait_at_most(self.limits.linger_s, self.transport.abort)

    def _send(self, *events: h11.Event) -> None:
        data = b"".join(filter(None, [self._http.send(event) for event in events]))
        if data:
            self.transport.write(data)

    # --- waiting

    def _wait_at_most(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop_waiting()
        self._timer = asyncio.get_running_loop().call_later(seconds, then)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_FRAMING = {"content-length", "transfer-encoding", "connection", "keep-alive"}


def _request(head: h11.Request, body: bytes) -> Request | None:
    """The request as handlers see it, None when its target is no path."""
    target = head.target.decode("latin-1")
    if target.startswith(("http://", "https://")):
        with contextlib.suppress(ValueError):  # brackets that hold no address
            parts = urlsplit(target)
            target = f"{parts.path or '/'}?{parts.query}"
    if not target.startswith("/"):
        return None
    path, _, query = target.partition("?")
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(head.method.decode("latin-1"), path, query, headers, body)


def _head(status: int, headers: list[tuple[str, str]]) -> h11.Response:
    return h11.Response(status_code=status, headers=headers, reason=responses.get(status, ""))


def _content_length(head: h11.Request) -> int:
    return next((int(value) for name, value in head.headers if name == b"content-length"), 0)


def _header(headers: list[tuple[str, str]], wanted: str) -> str | None:
    return next((value for name, value in headers if name.lower() == wanted), None)


def _message(sentence: str) -> tuple[dict[str, str], bytes]:
    return {"Content-Type": "application/json"}, json.dumps({"message": sentence}).encode()


@lru_cache(maxsize=2)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)
