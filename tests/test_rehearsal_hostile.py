"""10,000 hostile requests to the server as users start it: it refuses them and goes on serving.

Each kind of request is a function that makes one, and says which answers it may have. All that is
chosen comes from one seed. Whatever its target, a request is signed, so that it gets to the part
that it means to harm.
"""

import asyncio
import collections
import contextlib
import hashlib
import hmac
import json
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import deployed
import psutil
import pytest

from helpers import settings
from helpers.rehearsal import launch, signature
from helpers.rehearsal.aws import services
from helpers.rehearsal.server import Request

TOTAL = 10_000
AT_ONCE = 48
SLOW = 150
REQUEST_S = 30.0  # the server's limit for a request to arrive
INVOKE = f"/endpoints/{deployed.NAME}/invocations"
STREAM = f"{INVOKE}-response-stream"
STOP = b"POST /_rehearsal/stop HTTP/1.1\r\nHost: a\r\n\r\n"  # what is smuggled would end the server

CLOSED = 0  # no answer, the connection ended
HUNG = -1
REFUSED = {CLOSED, *range(400, 500), 501, 503, 505}
ANSWERED = REFUSED | {100, 200, 204}
IS_SERVED = re.compile(rb"HTTP/1\.1 (200|401) ")
# The hostile ask the same four slots for long answers, and a minute of SageMaker's is 17 ms here.
HAS_WAITED = re.compile(rb"HTTP/1\.1 424 .*(invocation timed out|Model is overloaded)", re.DOTALL)


@dataclass(frozen=True)
class Case:
    """One hostile client.

    `then` is what it does after sending: `wait` for the end of the answer, `half-close` before,
    `hold` before, `leave` without an answer, `reset`, `reset after a token`.
    """

    data: bytes
    then: str = "wait"


@dataclass(frozen=True)
class Kind:
    make: Callable[[random.Random], Case]
    count: int
    allowed: frozenset[int]


KINDS: dict[str, Kind] = {}


def kind(count, allowed):
    def register(make):
        KINDS[make.__name__] = Kind(make, count, frozenset(allowed))
        return make

    return register


# --- requests as they should be


def request(method, path, body=b"", *, close=True, auth="sagemaker", region="us-east-1", **more):
    target = path if isinstance(path, bytes) else path.encode()
    headers = {"Host": "127.0.0.1", "Content-Length": len(body), "Content-Type": "application/json"}
    if auth:
        headers |= signed(method, target.decode("latin-1"), body, auth, region)
    if close:
        headers["Connection"] = "close"
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    lines = [f"{name}: {value}".encode() for name, value in headers.items() if value is not None]
    return b"\r\n".join([b"%s %s HTTP/1.1" % (method.encode(), target), *lines, b"", body])


def signed(method, target, body, service, region):
    """The headers that sign a request, also one that no AWS client would send."""
    stamp, token = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), services.SESSION_TOKEN
    headers = {"Host": "127.0.0.1", "X-Amz-Date": stamp, "X-Amz-Security-Token": token}
    headers["X-Amz-Content-SHA256"] = hashlib.sha256(body).hexdigest()
    given = {name.lower(): value for name, value in headers.items()}
    path, _, query = target.partition("?")
    scope = (services.ACCESS_KEY, stamp[:8], region, service)
    how = signature.Signed(*scope, tuple(sorted(given)), "", stamp, token)
    canonical = signature.canonical(Request(method, path, query, given, body), how)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    told = f"AWS4-HMAC-SHA256\n{stamp}\n{stamp[:8]}/{region}/{service}/aws4_request\n{digest}"
    key = f"AWS4{services.SECRET_KEY}".encode()
    for part in (stamp[:8], region, service, "aws4_request", told):
        key = hmac.digest(key, part.encode(), "sha256")
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={'/'.join(scope)}/aws4_request, "
        f"SignedHeaders={';'.join(how.headers)}, Signature={key.hex()}"
    )
    return headers


def control(operation, body=b"{}", **more):
    return request("POST", "/", body, X_Amz_Target=f"SageMaker.{operation}", **more)


def chat(path=INVOKE, *, tokens=20, **more):
    asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": tokens}
    return request("POST", path, json.dumps(asked | {"stream": path == STREAM}).encode(), **more)


def form(body, service="sts", **more):
    kind = "application/x-www-form-urlencoded; charset=utf-8"
    return request("POST", "/", body, auth=service, Content_Type=kind, **more)


def good(rng, **more):
    """A request that nobody would refuse."""
    return rng.choice(
        (
            lambda: control("ListEndpoints", **more),
            lambda: control("DescribeEndpoint", named(deployed.NAME), **more),
            lambda: chat(**more),
            lambda: chat(STREAM, **more),
            lambda: form(b"Action=GetCallerIdentity&Version=2011-06-15", **more),
            lambda: request("GET", "/", auth="s3", **more),
            lambda: request("GET", "/api/whoami-v2", auth=None, **more),
            lambda: request("GET", "/_rehearsal", auth=None, **more),
        )
    )()


def named(name):
    return json.dumps({"EndpointName": name}).encode()


def noise(rng, length):
    return rng.randbytes(length)


# --- framing


@kind(1464, ANSWERED)
def mutilated_bytes(rng):
    data = bytearray(good(rng))
    for _ in range(rng.randint(1, 6)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return Case(bytes(data), rng.choice(("half-close", "half-close", "reset", "leave")))


@kind(800, ANSWERED)
def half_closed_anywhere(rng):
    data = good(rng, close=False)
    return Case(data[: rng.randint(0, len(data))], "half-close")


@kind(600, ANSWERED)
def reset_anywhere(rng):
    data = good(rng, close=False)
    return Case(data[: rng.randint(0, len(data))], "reset")


@kind(400, {CLOSED, 413})
def oversized_and_declared(rng):
    length = rng.choice((25 * 2**20 + 1, 2**31, 2**63, 10**19))
    expect = rng.choice(({}, {"Expect": "100-continue"}))
    data = request("POST", rng.choice(("/", INVOKE)), Content_Length=length, **expect)
    return Case(data + b"x" * rng.choice((0, 1000)))


@kind(4, {CLOSED, 413})
def oversized_and_chunked(rng):
    head = request("POST", INVOKE, Content_Length=None, Transfer_Encoding="chunked")
    return Case(head + (b"100000\r\n" + b"x" * 2**20 + b"\r\n") * 26)


@kind(8, REFUSED)
def large_but_allowed(rng):
    size = rng.choice((2, 5, 10)) * 2**20
    asked = {"model": "m", "messages": [{"role": "user", "content": "word " * (size // 5)}]}
    body = rng.choice((json.dumps(asked).encode(), b"[" * size, b"9" * size, b"{" + b" " * size))
    return Case(rng.choice((control("ListEndpoints", body), request("POST", INVOKE, body))))


@kind(300, {CLOSED, 400, 431})
def headers_too_large(rng):
    many = {f"X-{n}": "y" * rng.randint(1, 20) for n in range(rng.choice((3000, 9000)))}
    one = {"X": "y" * rng.choice((33_000, 200_000))}
    if rng.random() < 0.2:
        return Case(b"GET /" + b"x" * 100_000)
    return Case(request("GET", "/", **rng.choice((many, one))))


@kind(500, {CLOSED, 400, 431})
def bad_chunks(rng):
    head = request("POST", INVOKE, Content_Length=None, Transfer_Encoding="chunked")
    size = rng.choice(
        (
            b"-1",
            b"zz",
            b"0x5",
            b"",
            b" 5",
            b"5 5",
            b"+5",
            b"f" * 17,
            b"5;" + b"x" * 200_000,
            b"\x00",
        )
    )
    end = rng.choice((b"\r\nabcde\r\n0\r\n\r\n", b"\nabcde\n0\n\n", b"\rabcde"))
    if rng.random() < 0.3:
        size, end = b"5", rng.choice((b"\r\nabcdefgh\r\n0\r\n\r\n", b"\r\nab\r\n0\r\n\r\n"))
    return Case(head + size + end, "half-close")


@kind(4, {CLOSED, 400})
def crumbs(rng):
    head = request("POST", INVOKE, Content_Length=None, Transfer_Encoding="chunked")
    return Case(head + b"1\r\nx\r\n" * 500_000)


@kind(500, {CLOSED, 400, 501})
def smuggled(rng):
    body = b"0\r\n\r\n" + STOP
    framing = rng.choice(
        (
            b"Content-Length: %d\r\nTransfer-Encoding: chunked" % len(body),
            b"Transfer-Encoding: chunked\r\nContent-Length: 5",
            b"Content-Length: 5\r\nContent-Length: %d" % len(body),
            b"Content-Length: 5, %d" % len(body),
            b"Content-Length: +5",
            b"Content-Length: 5 5",
            b"Content-Length: 0x5",
            b"Content-Length: -5",
            b"Content-Length: \xb2",
            b"Content-Length : 5",
            b"Transfer-Encoding: chunked, identity",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            b"Transfer-Encoding: \x0bchunked",
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding: xchunked",
            b"X: a\r\n b\rContent-Length: 5",
            b"X: a\x00\r\nTransfer-Encoding: chunked",
        )
    )
    return Case(b"POST / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n%s" % (framing, body))


@kind(150, ANSWERED)
def pipelined(rng):
    data = b"".join(good(rng, close=False) for _ in range(rng.randint(2, 30)))
    end = rng.choice((noise(rng, 50), good(rng), b"GET / HTTP/1.1\r\n", b"\r\n" * 500))
    return Case(data + end, rng.choice(("half-close", "reset", "leave")))


@kind(20, ANSWERED)
def pipelined_behind_a_stream(rng):
    return Case(chat(STREAM, tokens=400, close=False) + good(rng, close=False) * 400, "half-close")


@kind(400, {CLOSED, 400, 404, 403, 501, 505})
def other_protocols(rng):
    websocket = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    data = rng.choice(
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise(rng, 508),
            b"SSH-2.0-OpenSSH_9.9\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"GET /\r\n",
            b"GET / HTTP/0.9\r\n\r\n",
            b"GET / HTTP/3\r\nHost: a\r\n\r\n",
            b"CONNECT aws.amazon.com:443 HTTP/1.1\r\nHost: a\r\n\r\n",
            noise(rng, rng.randint(1, 2000)),
            request("GET", "/_rehearsal/ws", auth=None, **websocket),
            request("GET", "/endpoints/x", auth=None, Connection="Upgrade, HTTP2-Settings"),
        )
    )
    return Case(data, "half-close")


# --- what is asked


@kind(900, REFUSED)
def path_tricks(rng):
    name = rng.choice(
        (
            f"/endpoints/{deployed.NAME}%2finvocations",
            f"/endpoints/x%2f..%2f{deployed.NAME}/invocations",
            f"/endpoints/../endpoints/{deployed.NAME}/invocations/x",
            f"/endpoints//{deployed.NAME}/invocations",
            "/endpoints/%00/invocations",
            "/endpoints/%ff%fe/invocations",
            "/endpoints/%ed%a0%80/invocations",
            "/endpoints/%0d%0aX:%20y/invocations",
            "/endpoints/%/invocations",
            f"/endpoints/{'x' * 20_000}/invocations",
            f"/endpoints/{'%41' * 5000}/invocations",
            "/_rehearsal/../../etc/passwd",
            "/_rehearsal/%2e%2e/%2e%2e/etc/passwd",
            "/_rehearsal/" + "../" * 3000,
            "/_rehearsal//journal",
            "/api/models/../../whoami-v2",
            "/api/models/%2e%2e/x",
            "/api/models/" + "a/" * 5000,
            "http://169.254.169.254/latest/meta-data/",
            "http://[::1/",
            "http://[v1.x]/endpoints",
            "https://user:password@host:99999999/_rehearsal/x",
            "http://",
            "file:///etc/passwd",
            "*",
            "?",
            "//moto-api/reset",
            "/moto-api/reset",
            "/%6doto-api/reset",
            "/latest/meta-data/iam/security-credentials/",
        )
    )
    spoiled = rng.choice((b"", b"", b"\xc3\xa9", b"\x00", b"%00", "\u202e".encode(), b" HTTP/1.1"))
    return Case(request("POST", name.encode() + spoiled, auth="sagemaker"), "half-close")


@kind(300, REFUSED)
def wrong_methods(rng):
    method = rng.choice(("GET", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "BREW", "a" * 5000))
    path = rng.choice((INVOKE, STREAM, "/_rehearsal/stop", "/_rehearsal/journal/"))
    target = rng.choice(({}, {"X_Amz_Target": "SageMaker.DeleteEndpoint"}))
    return Case(request(method, path, **target))


@kind(300, {400, 403, 404})
def unsigned_or_elsewhere(rng):
    region = rng.choice(("eu-west-1", "US-EAST-1", "us-east-1\x01", "../x", "x" * 40, ""))
    how = rng.choice(({"auth": None}, {"region": region}, {"Authorization": "Bearer x"}))
    authorization = {"Authorization": f"Bearer sagemaker-api-key-{'%' * 50}"}
    ask = rng.choice(
        (
            lambda: chat(**how),
            lambda: chat(f"/endpoints/{deployed.NAME}/openai/v1/chat/completions", **authorization),
            lambda: control("DescribeEndpoint", named(deployed.NAME), **how),
        )
    )
    return Case(ask())


@kind(300, REFUSED)
def unknown_operations(rng):
    name = rng.choice(
        ("X", "", "__class__", "createmodel", "CreateTrainingJob", "x" * 9000, "é", "_on_deleted")
    )
    names = ("ec2", "lambda", "dynamodb", "sagemaker", "logs", "events", "iam", "sts", "tagging")
    ask = rng.choice(
        (
            lambda: control(name),
            lambda: request("POST", "/", b"{}", X_Amz_Target=f"Logs_20140328.{name}", auth="logs"),
            lambda: form(f"Action={name}&Version=1".encode(), rng.choice(("sts", "iam"))),
            lambda: request("POST", "/" + name[:9], b"{}", auth=rng.choice(names)),
        )
    )
    return Case(ask())


DEEP = 100_000
BAD_JSON = (
    b"",
    b"{",
    b"nul",
    b"[" * DEEP,
    b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    b"[" * 500 + b"]" * 500,
    b"NaN",
    b'{"a": Infinity}',
    b"9" * 100_000,
    b'{"a": 1e999999}',
    b'{"a": -1E+400}',
    b'"\\ud800"',
    b'{"\\udfff": 1}',
    b'{"a": "\x00"}',
    b'{"a": "\xff\xfe"}',
    b"\xef\xbb\xbf{}",
    '{"a": 1}'.encode("utf-16"),
    b"[]",
    b"null",
    b"1",
    b'"x"',
    b"{}{}",
    b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
)
TWISTED = (
    b'"EndpointName": null',
    b'"EndpointName": "a", "EndpointName": ["b"]',
    b'"EndpointName": {"a": "b"}',
    b'"EndpointName": "\\u0000"',
    b'"EndpointName": 1e308',
    b'"EndpointName": "' + b"x" * 50_000 + b'"',
    b'"EndpointName": "' + "\u202e🌊".encode() + b'"',
    b'"__proto__": {}, "EndpointName": "a"',
    b'"messages": [{"role": "user", "content": "Hi"}], "model": "m", "max_tokens": 1e99',
    b'"messages": [{"role": "user", "content": "Hi"}], "model": "m", "max_tokens": -1',
    b'"messages": [{"role": "user", "content": "Hi"}], "model": "m", "max_tokens": 4294967296',
    b'"messages": [{"role": "user", "content": "Hi"}], "model": "m", "stop": [{}]',
    b'"messages": [{"role": "user", "content": "Hi"}], "model": "m", "temperature": -0.5',
    b'"messages": [{"role": "user", "content": [[]]}], "model": "m"',
    b'"messages": {"role": "user"}, "model": "m"',
    b'"messages": "Hi", "model": {}',
)


def bad_body(rng):
    return rng.choice((rng.choice(BAD_JSON), b"{" + rng.choice(TWISTED) + b"}"))


@kind(900, {400})
def bad_json_to_the_control_plane(rng):
    body = b"[" if (body := bad_body(rng)) in (b"", b"{}") else body
    return Case(control("DescribeEndpoint", body))


@kind(900, {424, 400, 415, 422})
def bad_json_to_the_runtime(rng):
    path = rng.choice((INVOKE, STREAM, f"/endpoints/{deployed.NAME}/openai/v1/chat/completions"))
    types = ("application/json", "text/plain", "application/" + "x" * 5000, "")
    return Case(request("POST", path, bad_body(rng), Content_Type=rng.choice(types)))


@kind(700, ANSWERED)
def bad_bodies_to_other_services(rng):
    body = rng.choice((bad_body(rng)[:5000], noise(rng, 300)))
    ask = rng.choice(
        (
            lambda: request(
                "POST", "/", body, X_Amz_Target="Logs_20140328.DescribeLogGroups", auth="logs"
            ),
            lambda: form(b"Action=GetRole&RoleName=" + body),
            lambda: form(b"Action=AssumeRole&" + body),
            lambda: request("PUT", "/bucket%00/" + "k" * 2000, body, auth="s3"),
            lambda: request("POST", "/bucket?delete", body, auth="s3"),
            lambda: request("POST", "/bucket/key?uploads", body, auth="s3"),
            lambda: request("POST", "/x", body, auth="monitoring"),
        )
    )
    return Case(ask())


# --- streams


@kind(300, ANSWERED)
def vanished_from_a_stream(rng):
    return Case(chat(STREAM, tokens=500), rng.choice(("reset after a token", "leave")))


@kind(100, ANSWERED)
def unread_streams(rng):
    return Case(chat(STREAM, tokens=3000), "hold")


# --- the attack


@dataclass
class Attack:
    """What came of it."""

    answers: dict[str, collections.Counter[int]]
    slow: list[tuple[int, float]]
    normal: list[tuple[bytes, float]]
    before: "Resources"
    after: "Resources"
    log: str


@dataclass(frozen=True)
class Resources:
    """What a process holds."""

    memory: int
    files: int


async def _attack(port, rng):
    cases = [(name, one.make(rng)) for name, one in KINDS.items() for _ in range(one.count)]
    rng.shuffle(cases)
    answers = {name: collections.Counter() for name in KINDS}
    waiting = iter(cases)

    async def keep_on():
        for name, case in waiting:
            answers[name].update(await _met(port, case))

    slow = [asyncio.create_task(_slow_sender(port, good(rng))) for _ in range(SLOW)]
    await asyncio.gather(*(keep_on() for _ in range(AT_ONCE)))
    return answers, await asyncio.gather(*slow)


async def _met(port, case):
    """Be one hostile client; returns the status of every answer."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(90):
                await loop.sock_connect(sock, ("127.0.0.1", port))
                with contextlib.suppress(OSError):
                    await loop.sock_sendall(sock, case.data)
                    if case.then == "hold":
                        await asyncio.sleep(2)
                    if case.then == "reset after a token":
                        await loop.sock_recv(sock, 1000)
                    if case.then == "half-close":
                        sock.shutdown(socket.SHUT_WR)
                if case.then.startswith("reset"):
                    _reset(sock)
                    return [CLOSED]
                return [CLOSED] if case.then == "leave" else _statuses(await _read_all(sock))
        except TimeoutError:
            return [HUNG]


def _reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _read_all(sock):
    data = b""
    with contextlib.suppress(OSError):
        while piece := await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
            data += piece
    return data


def _statuses(data):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)] or [CLOSED]


async def _slow_sender(port, data):
    """Send a byte now and then; returns the answer's status and when the connection was cut."""
    loop, started = asyncio.get_running_loop(), time.monotonic()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        reading = asyncio.create_task(_read_all(sock))
        for byte in data[:-1]:
            with contextlib.suppress(OSError):
                await loop.sock_sendall(sock, bytes([byte]))
            done, _ = await asyncio.wait([reading], timeout=0.5)
            if done:
                break
        return _statuses(await reading)[0], time.monotonic() - started


class Normal(threading.Thread):
    """A user with good manners who asks this and that all the time."""

    def __init__(self, port):
        super().__init__()
        self.served = []
        self._port = port
        self._over = threading.Event()

    def run(self):
        rng = random.Random(1)
        while not self._over.wait(0.02):
            started = time.monotonic()
            answer = _said(self._port, good(rng))
            self.served.append((answer, time.monotonic() - started))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self.join()


def _said(port, data):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def _resources(pid):
    process = psutil.Process(pid)
    return Resources(process.memory_info().rss, process.num_fds())


def _settled(pid, before):
    """What the server holds once it has noticed that everybody has left."""
    deadline = time.monotonic() + 30
    while (now := _resources(pid)).files > before.files and time.monotonic() < deadline:
        time.sleep(0.05)
    return now


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    state_dir = tmp_path_factory.mktemp("state")
    with deployed.rehearsal(state_dir):
        info = launch.status(settings.load())
        yield info, int(info.url.rpartition(":")[2]), state_dir


@pytest.fixture(scope="module")
def attack(server):
    info, port, state_dir = server
    rng = random.Random(7)
    for _ in range(50):
        _said(port, good(rng))
    before = _resources(info.pid)
    with Normal(port) as normal:
        answers, slow = asyncio.run(_attack(port, rng))
    after = _settled(info.pid, before)
    log = (state_dir / "server.log").read_text()
    return Attack(answers, slow, normal.served, before, after, log)


def test_it_is_10_000_requests_of_every_kind(attack):
    assert sum(one.count for one in KINDS.values()) + SLOW == TOTAL
    for name, one in KINDS.items():
        print(f"{name:30} {one.count:5} {dict(sorted(attack.answers[name].items()))}")
        assert attack.answers[name].total() >= one.count


@pytest.mark.parametrize("name", KINDS)
def test_a_hostile_request_is_answered_as_it_may_be(attack, name):
    assert set(attack.answers[name]) <= KINDS[name].allowed


def test_slow_senders_are_cut_off_in_time(attack):
    assert {status for status, _ in attack.slow} <= {CLOSED, 408}
    assert all(REQUEST_S - 1 < after_s < REQUEST_S + 30 for _, after_s in attack.slow)


def test_good_requests_are_served_throughout(attack):
    assert len(attack.normal) > 20  # fewer, the busier the machine
    unserved = [answer for answer, _ in attack.normal if not IS_SERVED.match(answer)]
    assert [answer for answer in unserved if not HAS_WAITED.match(answer)] == []
    assert len(unserved) < len(attack.normal) / 10
    waited_s = sorted(after_s for _, after_s in attack.normal)
    assert waited_s[len(waited_s) // 2] < 5
    assert waited_s[-1] < 60  # none is given up: a machine under other load is slow, not silent


def test_nothing_is_written_to_the_log_but_warnings(attack):
    assert "Traceback" not in attack.log
    assert "defect" not in attack.log


def test_it_holds_no_more_than_before(attack):
    assert attack.after.files < attack.before.files + 10
    assert attack.after.memory < attack.before.memory + 150 * 2**20


def test_it_serves_a_chat_afterwards(attack, server):
    _, port, _ = server
    answer = _said(port, chat())
    assert _statuses(answer) == [200]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["usage"]["completion_tokens"] == 20


def test_it_listens_on_loopback_only(attack, server):
    info, port, _ = server
    listening = [
        each.laddr
        for each in psutil.Process(info.pid).net_connections(kind="all")
        if each.status == psutil.CONN_LISTEN
    ]
    assert listening == [("127.0.0.1", port)]
