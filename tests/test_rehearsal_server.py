"""The HTTP server of the rehearsal AWS, met by raw sockets and real clients."""

import asyncio
import contextlib
import http.client
import json
import random
import socket
import threading
import time
from dataclasses import replace

import pytest
import rehearsing

from helpers.rehearsal.server import Limits, Server

QUICK = Limits(
    body_bytes=100_000,
    bodies_bytes=250_000,
    pieces=100,
    request_s=0.4,
    idle_s=1.0,
    linger_s=0.3,
    unsent_bytes=200_000,
    connections=8,
)


class Running:
    """A server on a thread of its own, and what its handler saw."""

    def __init__(self, limits):
        self.limits = limits
        self.seen = []
        self.complaints = []  # of the event loop
        self.gone = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.server = Server(self._handle, limits=self.limits)
        self.port = await self.server.start()
        self._ready.set()
        await self._stop.wait()
        await self.server.stop()

    async def _handle(self, request, response):
        self.seen.append(request)
        match request.path:
            case "/stream":
                stream = response.start_stream(200, {"Content-Type": "text/plain"})
                stream.on_disconnect(self.gone.set)
                for piece in (b"one ", b"", b"two ", "drei ü".encode()):
                    stream.write(piece)
                    await asyncio.sleep(0.005)
                stream.end()
                stream.write(b"too late")
            case "/endless":
                stream = response.start_stream(200)
                stream.on_disconnect(self.gone.set)
                while stream.open:
                    stream.write(b"x" * 50_000)
                    await asyncio.sleep(0.001)
            case "/handed-on":  # as the runtime does: another task writes
                stream = response.start_stream(200)
                self._loop.call_later(0.02, stream.write, b"later")
                self._loop.call_later(0.04, stream.end)
            case "/abort":
                stream = response.start_stream(200)
                stream.write(b"half")
                await asyncio.sleep(0.01)
                stream.abort()
            case "/crash":
                raise ValueError("on purpose")
            case "/crash-in-stream":
                response.start_stream(200).write(b"half")
                raise ValueError("on purpose")
            case "/twice":
                response.respond(200)
                with contextlib.suppress(RuntimeError):
                    response.respond(200)
                    self.seen.append("answered twice")
            case "/silent":
                return
            case "/slow":
                response.on_disconnect(self.gone.set)
                await asyncio.sleep(0.1)
                response.respond(200, {}, b"slow")
            case "/large":
                response.respond(200, {}, b"x" * 2**20)
            case "/nothing":
                response.respond(204)
            case _:
                answer = {
                    "method": request.method,
                    "path": request.path,
                    "query": request.query,
                    "region": request.region,
                    "bytes": len(request.body),
                }
                response.respond(200, [("Content-Type", "a/b")], json.dumps(answer).encode())

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.complaints == []

    def is_busy_for(self, seconds):
        """Nothing is accepted or answered meanwhile."""
        self._loop.call_soon_threadsafe(time.sleep, seconds)

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def say(self, data, *, half_close=False):
        """Send bytes; return everything that comes back until the server closes."""
        with self.connect() as connection:
            with contextlib.suppress(OSError):
                connection.sendall(data)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
            return read_all(connection)

    def get(self, path):
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            client.request("GET", path)
            answer = client.getresponse()
            return answer, answer.read()
        finally:
            client.close()

    def still_serves(self):
        """Once at least: a busy machine may take longer for a request than these limits allow."""
        return any(self.get("/x")[0].status == 200 for _ in range(10))


def read_all(connection):
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            data += piece
    return data


def status(data):
    return int(data.split()[1]) if data else None


@pytest.fixture
def running():
    with Running(QUICK) as server:
        yield server


def test_a_request_arrives_whole_and_is_answered(running):
    client = http.client.HTTPConnection("127.0.0.1", running.port)
    scope = "AWS4-HMAC-SHA256 Credential=KEY/20261122/eu-west-1/sagemaker/aws4_request, Signature=0"
    client.request("PUT", "/a%20b/c?d=e%2F", body=b"x" * 70_000, headers={"Authorization": scope})
    answer = client.getresponse()
    told = json.loads(answer.read())
    client.close()
    assert told == {
        "method": "PUT",
        "path": "/a%20b/c",
        "query": "d=e%2F",
        "region": "eu-west-1",
        "bytes": 70_000,
    }
    assert answer.headers["Content-Type"] == "a/b"
    assert len(answer.headers["x-amzn-RequestId"]) == 36
    assert answer.headers["Date"].endswith("GMT")


def test_one_connection_carries_one_request_after_the_other(running):
    client = http.client.HTTPConnection("127.0.0.1", running.port)
    ids = set()
    for number in range(20):
        client.request("POST", f"/{number}", body=b"x")
        answer = client.getresponse()
        assert json.loads(answer.read())["path"] == f"/{number}"
        ids.add(answer.headers["x-amzn-RequestId"])
    client.close()
    assert len(ids) == 20
    assert len(running.server.connections) <= 1


def test_pipelined_requests_are_answered_in_order(running):
    data = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(300))
    data += b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answers = running.say(data)
    paths = [
        json.loads(part.split(b"\r\n\r\n")[1])["path"] for part in answers.split(b"HTTP/1.1")[1:]
    ]
    assert paths == [f"/{number}" for number in range(300)] + ["/last"]


def test_a_pipeline_behind_a_stream_waits_for_its_end(running):
    answers = running.say(
        b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n"
        b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    assert answers.index(b"0\r\n\r\nHTTP/1.1 200") > answers.index(b"drei")


def test_a_stream_is_chunked_and_leaves_the_connection_usable(running):
    client = http.client.HTTPConnection("127.0.0.1", running.port)
    for _ in range(2):
        client.request("GET", "/stream")
        answer = client.getresponse()
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert answer.read().decode() == "one two drei ü"
    client.close()
    assert not running.gone.is_set()


def test_a_stream_goes_on_after_its_handler_has_returned(running):
    assert running.get("/handed-on")[1] == b"later"


def test_a_client_of_http_1_0_gets_an_unchunked_stream(running):
    answer = running.say(b"GET /stream HTTP/1.0\r\n\r\n")
    assert b"chunked" not in answer.lower()
    assert answer.endswith("\r\n\r\none two drei ü".encode())


def test_a_head_request_is_answered_without_a_body(running):
    answer = running.say(b"HEAD /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert status(answer) == 200
    assert answer.endswith(b"\r\n\r\n")


def test_an_answer_without_content_has_no_length(running):
    answer, body = running.get("/nothing")
    assert (answer.status, body, answer.headers["Content-Length"]) == (204, b"", None)


def test_a_body_is_asked_for_when_the_client_waits_for_it(running):
    with running.connect() as connection:
        connection.sendall(
            b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"ab")
        assert json.loads(connection.recv(1000).split(b"\r\n\r\n")[1])["bytes"] == 2


def test_a_chunked_request_body_is_put_together(running):
    answer = running.say(
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    assert json.loads(answer.split(b"\r\n\r\n")[1])["bytes"] == 5


def test_an_absolute_target_is_taken_for_its_path(running):
    answer = running.say(b"GET http://aws/p?q HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    told = json.loads(answer.split(b"\r\n\r\n")[1])
    assert (told["path"], told["query"]) == ("/p", "q")


@pytest.mark.parametrize("target", [b"*", b"evil.example:443", b"ftp://x/y", b"http://[::1/x"])
def test_a_target_that_is_no_path_is_refused(running, target):
    answer = running.say(b"OPTIONS %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % target)
    assert status(answer) == 400
    assert running.seen == []


@pytest.mark.parametrize("how", ["declared", "declared and waiting", "chunked"])
def test_a_body_over_the_limit_is_answered_with_413(running, how):
    if how == "chunked":
        head = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        data = head + b"10000\r\n" + b"x" * 0x10000 + b"\r\n10000\r\n" + b"x" * 0x10000
    else:
        expect = b"Expect: 100-continue\r\n" if "waiting" in how else b""
        head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n%s\r\n" % expect
        data = head + (b"" if expect else b"x" * 100_001)
    answer = running.say(data)
    assert status(answer) == 413
    assert b"at most 100000 bytes" in answer
    assert running.seen == []


def test_large_bodies_at_once_are_too_many(running):
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(running.connect()).sendall(head + b"x" * 99_999)
        while running.server.bodies_bytes < 2 * 99_999:
            time.sleep(0.001)
        assert status(running.say(head + b"x" * 60_000)) == 503
    assert running.still_serves()
    assert running.server.bodies_bytes == 0


def test_a_body_in_crumbs_is_refused(running):
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert status(running.say(head + b"1\r\nx\r\n" * 102)) == 400
    assert running.seen == []
    few = b"400\r\n" + b"x" * 1024 + b"\r\n"
    last = b"0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert status(running.say(head + few * 97 + last)) == 200


@pytest.mark.parametrize("order", [1, -1])
def test_a_body_with_two_lengths_smuggles_nothing(running, order):
    lengths = [b"Content-Length: 5", b"Transfer-Encoding: chunked"][::order]
    head = b"POST /x HTTP/1.1\r\nHost: a\r\n%s\r\n%s\r\n\r\n" % tuple(lengths)
    answer = running.say(head + b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status(answer) == 400
    assert running.seen == []


def test_headers_over_the_limit_are_refused(running):
    answer = running.say(b"GET /x HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 60_000 + b"\r\n\r\n")
    assert status(answer) == 431
    assert running.seen == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"NONSENSE\r\n\r\n",
        b"GET /x HTTP/9.9\r\n\r\n",
        b"GET /x HTTP/1.1\r\n\r\n",  # no Host
        b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf",  # then closes its side
    ],
)
def test_a_malformed_request_is_refused_and_the_next_one_served(running, data):
    answer = running.say(data, half_close=True)
    assert status(answer) in (400, 501, 505)
    assert running.seen == []
    assert running.still_serves()


def test_a_slow_sender_is_cut_off_in_time(running):
    with running.connect() as connection:
        start = time.monotonic()
        connection.sendall(b"POST /x HTTP/1.1\r\n")
        answer = b""
        with contextlib.suppress(OSError):
            for letter in b"Host: a\r\nX-Slow: " + b"z" * 100:
                connection.sendall(bytes([letter]))  # a drip does not buy time
                time.sleep(0.02)
                if time.monotonic() - start > 1.5:
                    break
        answer = read_all(connection)
    assert status(answer) == 408 or answer == b""
    assert time.monotonic() - start < 10
    assert running.seen == []


def test_a_connection_that_asks_nothing_is_closed(running):
    with running.connect() as connection:
        start = time.monotonic()
        assert read_all(connection) == b""
        assert 0.5 < time.monotonic() - start < 10


def test_a_client_that_half_closes_still_gets_a_whole_answer(running):
    answer = running.say(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n", half_close=True)
    assert status(answer) == 200
    assert answer.endswith(b"slow")
    assert running.gone.is_set()


def test_a_client_that_leaves_a_stream_is_noticed(running):
    with running.connect() as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.recv(1000)
    assert running.gone.wait(30)
    assert running.still_serves()


def test_a_client_that_does_not_read_is_cut_off(running):
    with running.connect() as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        assert running.gone.wait(30)
    assert running.still_serves()


def test_a_client_that_asks_on_without_reading_is_cut_off(running):
    with running.connect() as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
        deadline = time.monotonic() + 30
        while running.server.connections or not running.seen:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert len(running.seen) < 30
    assert running.still_serves()


def test_an_aborted_stream_is_a_broken_connection(running):
    answer = running.say(b"GET /abort HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"half" in answer
    assert not answer.endswith(b"0\r\n\r\n")


def test_a_handler_that_fails_is_a_500_and_does_not_hurt_others(running, caplog):
    answer, body = running.get("/crash")
    assert answer.status == 500
    assert b"on purpose" not in body
    assert "on purpose" in caplog.text
    assert running.get("/silent")[0].status == 500
    assert running.still_serves()


def test_a_handler_that_fails_while_streaming_leaves_no_whole_answer(running, caplog):
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        running.get("/crash-in-stream")
    assert running.still_serves()


def test_a_request_is_answered_once(running):
    assert running.get("/twice")[0].status == 200
    assert "answered twice" not in running.seen


def test_connections_beyond_the_limit_are_told_so(running):
    with contextlib.ExitStack() as stack:
        for _ in range(QUICK.connections):
            stack.enter_context(running.connect()).sendall(b"GET")
        time.sleep(0.1)
        answer = running.say(b"")
    assert status(answer) == 503


def test_a_connection_without_a_request_makes_room_for_a_new_one(running):
    with contextlib.ExitStack() as stack:
        asking, first, *_ = (stack.enter_context(running.connect()) for _ in range(8))
        asking.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        time.sleep(0.02)
        assert running.still_serves()
        assert read_all(first) == b""
        assert status(read_all(asking)) == 200


def test_the_server_listens_on_loopback_only(running):
    addresses = [sock.getsockname()[0] for sock in running.server._server.sockets]
    assert addresses == ["127.0.0.1"]


def test_a_server_at_work_is_not_idle(running):
    assert running.still_serves()
    time.sleep(0.05)
    assert running.server.idle_s() > 0.04
    with running.connect() as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        assert any(running.server.idle_s() < 0.001 or time.sleep(0.005) for _ in range(200))


def test_a_stop_breaks_off_what_is_under_way():
    with contextlib.ExitStack() as stack:
        with Running(Limits()) as running:
            connection = stack.enter_context(running.connect())
            connection.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            while not running.seen:
                time.sleep(0.001)
        assert read_all(connection) == b""


def test_who_is_one_too_many_and_gone_before_that_is_said_leaves_nothing():
    with Running(replace(QUICK, connections=0)) as nobody:
        nobody.is_busy_for(0.2)
        nobody.connect().close()  # before it has been accepted
        assert status(nobody.say(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")) == 503
        assert rehearsing.until(lambda: not nobody.server.connections)


def test_2000_mutilated_requests_leave_it_serving(running):
    whole = (
        b"POST /x?y=z HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nX-Amz-Target: SageMaker.X\r\n"
        b'\r\n{"a": "b"}\r\n'
    )
    rng = random.Random(7)
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        data = data[: rng.randint(1, len(data))]
        with running.connect() as connection, contextlib.suppress(OSError):
            connection.sendall(data)
            if rng.random() < 0.5:
                connection.shutdown(socket.SHUT_WR)
    assert rehearsing.until(lambda: not running.server.connections)
    assert running.still_serves()
