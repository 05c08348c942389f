"""One connection, stamped as it is read: HTTP/1.1 over TCP, TLS, or a proxy's tunnel.

Nothing is decoded while the clock runs: a read is stamped, stripped of HTTP's chunk framing and
put aside. `Exchange` is what is left when the answer has ended. One attempt, no retry: what goes
wrong is a `Failure`, not an exception.
"""

import asyncio
import base64
import os
import socket
import ssl
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from helpers.records import Failure

CONNECT_TIMEOUT_S = 10.0
# Load balancers close what nobody uses (AWS's after 60 s): a connection is not trusted that long.
MAX_IDLE_S = 20.0
_HEAD_LIMIT_BYTES = 64 * 1024
_BUFFER_BYTES = 32 * 1024
_PROBES = 5


@dataclass
class Exchange:
    """One request as the socket saw it; all stamps are `CLOCK_MONOTONIC` seconds.

    Attributes:
        sent_s: Just before the first byte was written.
        send_s: Seconds it took to hand over the whole request.
        connect_s: Seconds spent on opening the connection, 0 when it was open already.
        ended_s: When the reply was complete, or given up.
        status: HTTP status, None when there was no answer.
        headers: Of the answer, names in lower case.
        parts: Stamp of the read and the body bytes it brought, in order.
        failure: What broke the exchange itself; None when the answer is complete.
    """

    sent_s: float
    send_s: float = 0.0
    connect_s: float = 0.0
    ended_s: float = 0.0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    failure: Failure | None = None


class HTTPResponse:
    """An HTTP/1.1 response, read as it arrives: the head, then the body without its framing.

    Cheaper than a general parser because it runs while the clock does: about a microsecond a read.

    Attributes:
        status: None until the head is complete.
        headers: Names in lower case.
        is_complete: The body has ended.
        keeps_alive: The connection can carry another request.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.is_complete = False
        self.keeps_alive = False
        self._rest = b""
        self._left: int | None = 0  # bytes to come of the body or chunk; None: until the close
        self._is_chunked = False
        self._in_trailers = False

    def feed(self, data: bytes) -> bytes:
        """The body bytes in this read.

        Raises:
            ValueError: When this is no HTTP/1.1 response.
        """
        if self._is_between_chunks and not self._rest:
            line, _, rest = data.partition(b"\r\n")
            if (size := _size(line)) and len(rest) == size + 2:  # one chunk a read is usual
                return rest[:-2]
        self._rest += data
        if self.status is None and not self._read_head():
            return b""
        return self._chunks() if self._is_chunked else self._plain()

    @property
    def _is_between_chunks(self) -> bool:
        return self._is_chunked and not self._left and not self._in_trailers

    def close(self) -> None:
        """The connection has ended: so has a body that had no length."""
        if self.status is not None and self._left is None:
            self.is_complete = True

    def _read_head(self) -> bool:
        head, found, rest = self._rest.partition(b"\r\n\r\n")
        if not found:
            if len(self._rest) > _HEAD_LIMIT_BYTES:
                raise ValueError("the head of the answer does not end")
            return False
        self._rest = rest
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, status = first.partition(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError(f"not an HTTP/1.1 answer: {first[:60]!r}")
        code = int(status[:3])
        if code < 200:  # 100 Continue and its kin announce the real one
            return self._read_head()
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self.status = code
        self.keeps_alive = self.headers.get("connection", "").lower() != "close"
        self._is_chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        if not self._is_chunked:
            length = self.headers.get("content-length")
            self._left = 0 if code in (204, 304) else None if length is None else int(length)
            self.keeps_alive = self.keeps_alive and self._left is not None
        return True

    def _plain(self) -> bytes:
        body, self._rest = self._rest, b""
        if self._left is not None:
            self._left -= len(body)
            self.is_complete = self._left <= 0
        return body

    def _chunks(self) -> bytes:
        body = []
        while self._rest and not self.is_complete:
            if self._left:  # the chunk's bytes and the line end after them
                piece, self._rest = self._rest[: self._left], self._rest[self._left :]
                body.append(piece[: self._left - 2])
                self._left -= len(piece)
                continue
            line, found, rest = self._rest.partition(b"\r\n")
            if not found:
                break
            self._rest = rest
            if self._in_trailers:
                self.is_complete = not line
            elif size := _size(line):
                self._left = size + 2
            else:
                self._in_trailers = True
        return b"".join(body)


def _size(line: bytes) -> int:
    """Bytes of the chunk that a line announces."""
    size = int(line.partition(b";")[0], 16)
    if size < 0:
        raise ValueError("a chunk has less than no bytes")
    return size


@dataclass(frozen=True)
class Address:
    """Where connections go.

    Attributes:
        host: Name or number.
        port: TCP port.
        tls: The TLS context, None for plain HTTP.
        proxy: The proxy whose tunnel leads there, None for a direct connection.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    proxy: "Proxy | None" = None

    @classmethod
    def of(cls, url: str, *, proxies: Mapping[str, str] | None = None) -> "Address":
        """The address of a URL, with the certificates and the proxy that botocore would use.

        Args:
            url: Of the service.
            proxies: Proxy URLs by scheme, as botocore's `Config` has them; by default what
                `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say.
        """
        parts = urlsplit(url)
        if proxies is None:
            proxies = get_environ_proxies(url)
        through = proxies.get(parts.scheme)
        proxy = Proxy.of(through) if through else None
        if parts.scheme == "http":
            return cls(parts.hostname, parts.port or 80, None, proxy)
        return cls(parts.hostname, parts.port or 443, _tls(), proxy)

    async def round_trip_s(self) -> float:
        """Median time of opening a TCP connection, TLS left out; to the proxy where there is one.

        Raises:
            OSError: When nothing answers there within 10 s.
        """
        there = self.proxy or self
        return statistics.median([await _knock(there.host, there.port) for _ in range(_PROBES)])


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy that opens a tunnel when it is asked to CONNECT.

    Attributes:
        host: Name or number.
        port: TCP port.
        tls: The TLS context for talking to the proxy itself, None for plain HTTP.
        authorization: Value of `Proxy-Authorization`: a secret; None without a user.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: str) -> "Proxy":
        """The proxy of a URL such as `http://user:password@proxy:3128`, or without a scheme."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        authorization = None
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = f"Basic {base64.b64encode(login.encode()).decode()}"
        tls = _tls() if parts.scheme == "https" else None
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, authorization)


def _tls() -> ssl.SSLContext:
    bundle = os.environ.get("AWS_CA_BUNDLE") or get_cert_path(True)
    return ssl.create_default_context(cafile=bundle)


async def _knock(host: str, port: int) -> float:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        # The name is looked up first: that is no part of a round trip.
        places = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        refused: OSError | None = None
        for family, kind, protocol, _, place in places:
            with socket.socket(family, kind, protocol) as knocking:
                knocking.setblocking(False)
                started = time.monotonic()
                try:
                    await loop.sock_connect(knocking, place)
                except OSError as error:  # the other family may answer
                    refused = error
                    continue
                return time.monotonic() - started
        raise refused or OSError(f"{host} has no address")


class Connection(asyncio.BufferedProtocol):
    """One HTTP/1.1 connection that carries one exchange after another.

    It reads into a buffer of its own: asyncio would make one of 256 KiB for each read, which takes
    longer than all else that is done with a token.

    Attributes:
        connect_s: Seconds it took to open, until an exchange has taken note of them; then 0.
        used_s: When it was opened or last used, `CLOCK_MONOTONIC`.
    """

    def __init__(self) -> None:
        self.connect_s = 0.0
        self.used_s = 0.0
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._transport: asyncio.Transport | None = None
        self._response = HTTPResponse()
        self._exchange: Exchange | None = None
        self._done: asyncio.Future | None = None

    @classmethod
    async def open(cls, address: Address) -> "Connection":
        """Connect, tunnel and handshake included.

        Raises:
            OSError: When nothing answers there within 10 s, or the proxy refuses.
        """
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if address.proxy is None:
                _, connection = await loop.create_connection(
                    cls, address.host, address.port, ssl=address.tls
                )
            else:
                connection = await cls._through(address.proxy, address)
        connection.used_s = time.monotonic()
        connection.connect_s = connection.used_s - started
        return connection

    @classmethod
    async def _through(cls, proxy: Proxy, address: Address) -> "Connection":
        loop = asyncio.get_running_loop()
        transport, tunnel = await loop.create_connection(
            _Tunnel, proxy.host, proxy.port, ssl=proxy.tls
        )
        try:
            await tunnel.dig(f"{address.host}:{address.port}", proxy.authorization)
            connection = cls()
            transport.set_protocol(connection)
            if address.tls:
                transport = await loop.start_tls(
                    transport, connection, address.tls, server_hostname=address.host
                )
        except BaseException:
            transport.abort()
            raise
        connection.connection_made(transport)
        return connection

    @property
    def is_usable(self) -> bool:
        """True while it can carry a request and has not been idle for long."""
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and time.monotonic() - self.used_s < MAX_IDLE_S
        )

    async def send(self, request: bytes, *, timeout_s: float) -> Exchange:
        """Write a request and wait until its answer is complete, broken or late."""
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        self._response = HTTPResponse()
        late = loop.call_later(timeout_s, self.abandon, "timeout", "no complete reply in time")
        self._exchange = exchange = Exchange(sent_s=time.monotonic(), connect_s=self.connect_s)
        self._transport.write(request)
        exchange.send_s = time.monotonic() - exchange.sent_s
        self.connect_s = 0.0  # the next request finds the connection open
        await self._done
        late.cancel()
        if exchange.failure or not self._response.keeps_alive:
            self.close()
        return exchange

    def abandon(self, kind: str, message: str) -> None:
        """Give up the exchange under way, if there is one."""
        self._finish(time.monotonic(), Failure(kind, message))

    def close(self) -> None:
        """Close the connection; also safe when it is closed."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Called by asyncio."""
        self._transport = transport

    def get_buffer(self, _: int) -> memoryview:
        """Called by asyncio before each read."""
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        """Called by asyncio after each read: stamp first, think later."""
        stamp = time.monotonic()
        data = bytes(self._buffer[:count])
        if self._exchange is None:  # bytes that nobody asked for
            self.close()
            return
        try:
            body = self._response.feed(data)
        except ValueError as error:
            self._finish(stamp, Failure("framing", str(error)))
            return
        if body:
            self._exchange.parts.append((stamp, body))
        if self._response.is_complete:
            self._finish(stamp)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio when the other side has gone."""
        stamp = time.monotonic()
        self._response.close()
        if self._response.is_complete:
            self._finish(stamp)
            return
        words = str(error) if error else "the connection was closed before the reply was complete"
        status = self._response.status
        self._finish(stamp, Failure("connection" if status is None else "truncated", words, status))

    def _finish(self, stamp: float, failure: Failure | None = None) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        self.used_s = exchange.ended_s = stamp
        exchange.failure = failure
        exchange.status, exchange.headers = self._response.status, self._response.headers
        self._done.set_result(None)


class _Tunnel(asyncio.Protocol):
    """What is said to a proxy before the connection belongs to somebody else."""

    def __init__(self) -> None:
        self._response = HTTPResponse()
        self._answered = asyncio.get_running_loop().create_future()

    async def dig(self, place: str, authorization: str | None) -> None:
        head = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
        head += [f"Proxy-Authorization: {authorization}"] if authorization else []
        self._transport.write("\r\n".join([*head, "", ""]).encode("latin-1"))
        await self._answered
        if self._response.status != 200:
            raise OSError(f"the proxy answered {self._response.status} to CONNECT {place}")

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._response.feed(data)
        except ValueError as error:
            self._end(OSError(f"the proxy speaks no HTTP/1.1: {error}"))
        if self._response.status is not None:
            self._end()

    def connection_lost(self, error: Exception | None) -> None:
        self._end(OSError(str(error) if error else "the proxy hung up"))

    def _end(self, error: OSError | None = None) -> None:
        if self._answered.done():
            return
        if error:
            self._answered.set_exception(error)
        else:
            self._answered.set_result(None)
