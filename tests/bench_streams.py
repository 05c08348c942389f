"""Many streams at once from the rehearsal server: how late its steps are, what a token costs.

    .venv/bin/python tests/bench_streams.py [--streams 256 --step-ms 25 --seconds 30]

A child process is the server as users start it, `python -m helpers.rehearsal`, with its speed
chosen so that a decode step lasts so many real milliseconds. Three things are put in its way:
endpoints of one replica are in service at once, a loop notes how late each timer is, and for
aligned phases all replicas start at one instant. This process is the client: four streams a
replica, as the published batch of 4.

A step is late by its last write minus its deadline. CPU is the child's, user and system, while all
streams are decoding. The client's own stamps check both from outside: a token is late by its
arrival minus a schedule of equal steps through the stream's earliest one.

What limits it: one `send` a token. It takes 6 us of the 15 to 20 while the client is awake and 20
us when it has to be woken; Python needs 3 to 5 us. Half a millisecond of lateness is epoll's, whose
timeouts are whole milliseconds. Aligned phases are the worst case and do not come about by
themselves: all tokens are due at one instant and leave one after the other.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import gc
import http.client
import json
import os
import random
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import invoking
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from helpers import twin
from helpers.rehearsal import __main__ as rehearsal
from helpers.rehearsal import launch, routes
from helpers.rehearsal.container import text

TIMING = twin.PUBLISHED[4]
CREDENTIALS = Credentials(*launch.credentials().values())
# Over how many seconds the client sends its requests; aligned ones wait for the last.
SPREAD_S = {"random": 1.0, "at once": 0.0, "aligned": 0.0}
SPARE_S = 8.0  # of tokens, for what lies before and after the seconds that are measured
GOAL_MS, GOAL_US = 5.0, 20.0


def main():
    options = _parser().parse_args()
    if options.child:
        return _serve(options)
    print(f"{options.streams} streams, {options.step_ms:g} ms a step, {os.cpu_count()} CPUs")
    for phases in SPREAD_S:
        print(f"\n{phases} phases, load before: {_load()}", flush=True)
        for name, figure in _measure(options, phases).items():
            print(f"  {name:30} {figure}")
        print(f"  {'load after':30} {_load()}", flush=True)
    return 0


def _parser():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--step-ms", type=float, default=25.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--child", metavar="PHASES", help=argparse.SUPPRESS)
    return parser


def _load():
    return Path("/proc/loadavg").read_text().strip() if Path("/proc/loadavg").exists() else "?"


# --- the server, with three things put in its way


def _serve(options):
    text.NATURAL_END = (10**6, 10**6)  # nobody ends before the others
    notes = Notes()
    _note_timers(notes)
    routes.load = functools.partial(_load_parts, routes.load, notes, options)
    speed = TIMING.decode_step_s * 1000 / options.step_ms
    with tempfile.TemporaryDirectory() as state_dir:
        arguments = ["--port", "0", "--speed", repr(speed), "--state-dir", state_dir]
        arguments += ["--cut", "lines"]  # a part is a token: the client counts them
        return rehearsal.main(arguments)


def _load_parts(load, notes, bench, *arguments, **more):
    parts = load(*arguments, **more)
    runtime = parts.runtime
    if bench.child == "aligned":
        runtime = Aligned(runtime, bench.streams, notes)
    return dataclasses.replace(parts, control=Deployed(notes), runtime=runtime)


class Notes:
    """What the child measures of itself since it was last asked."""

    def __init__(self):
        self.held_at = None  # a clock that stands still
        self.pauses_s = []
        self.clear()
        gc.callbacks.append(self._collecting)

    def clear(self):
        self.called_s, self.done_s = [], []
        self.pauses_s.clear()
        self._cpu_s = _cpu_s()

    def told(self):
        cpu_s, pauses = _cpu_s() - self._cpu_s, self.pauses_s
        told = {"cpu_s": cpu_s, "called": _late(self.called_s), "done": _late(self.done_s)}
        told |= {"gc": len(pauses), "gc_max_s": max(pauses, default=0), "gc_s": sum(pauses)}
        self.clear()
        return told

    def _collecting(self, phase, _):
        if phase == "start":
            self._collecting_since = time.perf_counter()
        else:
            self.pauses_s.append(time.perf_counter() - self._collecting_since)


def _cpu_s():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _note_timers(notes):
    """From now on every loop notes how late a timer is called, and how late it is through."""
    loop_class = asyncio.BaseEventLoop
    call_at, now = loop_class.call_at, loop_class.time

    def noting(when, callback, args):
        called = time.monotonic()
        callback(*args)
        notes.called_s.append(called - when)
        notes.done_s.append(time.monotonic() - when)

    def noting_call_at(loop, when, callback, *args, context=None):
        return call_at(loop, when, noting, when, callback, args, context=context)

    loop_class.call_at = noting_call_at
    loop_class.time = lambda loop: now(loop) if notes.held_at is None else notes.held_at


class Deployed:
    """A control plane under which every endpoint is in service; its journal is the notes."""

    def __init__(self, notes):
        self._notes = notes

    def journal(self):
        return self._notes.told()

    def serving(self, name, **_):
        return invoking.deployment(name)


class Aligned:
    """The runtime, with all requests handed to it at one instant."""

    def __init__(self, runtime, requests, notes):
        self._runtime, self._left, self._notes = runtime, requests, notes
        self._gate = asyncio.Event()

    async def invoke(self, *asked):
        self._left -= 1
        if not self._left:
            loop = asyncio.get_running_loop()
            self._notes.held_at = time.monotonic()
            self._gate.set()
            loop.call_soon(loop.call_soon, self._go_on)
        await self._gate.wait()
        await self._runtime.invoke(*asked)

    def _go_on(self):
        self._notes.held_at = None


# --- the client


def _measure(options, phases):
    step_s = options.step_ms / 1000
    tokens = int((options.seconds + SPARE_S) / step_s)
    with _child(options, phases) as port, contextlib.ExitStack() as stack:
        streams = [stack.enter_context(Stream(port, n, tokens)) for n in range(options.streams)]
        reading = selectors.DefaultSelector()
        stack.callback(reading.close)
        random.Random(7).shuffle(streams)
        for stream in streams:
            stream.ask()
            reading.register(stream.socket, selectors.EVENT_READ, stream)
            _read(reading, SPREAD_S[phases] / len(streams))
        while min(len(stream.stamps) for stream in streams) < 4:
            _read(reading, 1.0)
        _read(reading, 1.0)
        _told(port)
        for stream in streams:
            stream.stamps.clear()
        started, own_cpu_s = time.monotonic(), _cpu_s()
        _read(reading, options.seconds)
        told = _told(port)
        measured_s, own_cpu_s = time.monotonic() - started, _cpu_s() - own_cpu_s
        return _figures(streams, told, step_s, measured_s, own_cpu_s)


@contextlib.contextmanager
def _child(options, phases):
    command = [sys.executable, __file__, "--child", phases, "--streams", str(options.streams)]
    command += ["--step-ms", str(options.step_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            line = next(line for line in child.stdout if "AWS_ENDPOINT_URL" in line)
            port = int(line.rpartition(":")[2])
            _told(port)  # waits until everything is loaded
            yield port
        finally:
            child.terminate()


def _told(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/_rehearsal/journal")
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


class Stream:
    """One streamed answer and when its tokens came."""

    def __init__(self, port, number, tokens):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.stamps = []
        asked = {"model": "m", "stream": True, "max_tokens": tokens, "seed": number}
        asked["messages"] = [{"role": "user", "content": "How many streams?"}]
        self._request = _signed(
            f"/endpoints/e{number // TIMING.slots}/invocations-response-stream", json.dumps(asked)
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def ask(self):
        self.socket.sendall(self._request)

    def take(self):
        data, now = self.socket.recv(1 << 16), time.monotonic()
        if not data or (data.startswith(b"HTTP/") and b" 200 " not in data[:20]):
            sys.exit(f"The server gave a stream up: {data[:500]}")
        self.stamps += [now] * data.count(b"PayloadPart")

    def late_s(self, step_s):
        """How late each token is, held against a schedule through the earliest one."""
        offsets = [stamp - n * step_s for n, stamp in enumerate(self.stamps)]
        earliest = min(offsets)
        return [offset - earliest for offset in offsets]


def _signed(path, body):
    """A request as boto3 sends it."""
    headers = {"Content-Type": "application/json", "Host": "127.0.0.1"}
    request = AWSRequest("POST", f"http://127.0.0.1{path}", headers, body)
    SigV4Auth(CREDENTIALS, "sagemaker", "us-east-1").add_auth(request)
    lines = [f"POST {path} HTTP/1.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join([*lines, "", body]).encode()


def _read(reading, seconds):
    deadline = time.monotonic() + seconds
    while (left_s := deadline - time.monotonic()) > 0:
        for key, _ in reading.select(left_s):
            key.data.take()


# --- what came out


def _figures(streams, told, step_s, measured_s, own_cpu_s):
    tokens = sum(len(stream.stamps) for stream in streams)
    arrived = _late([late_s for stream in streams for late_s in stream.late_s(step_s)])
    cost_us = told["cpu_s"] / tokens * 1e6
    busy, own_busy = told["cpu_s"] / measured_s, own_cpu_s / measured_s
    return {
        "tokens": f"{tokens} in {measured_s:.1f} s ({tokens / measured_s:.0f}/s)",
        "steps late, server": _said(told["done"])
        + _verdict(told["done"][1] < GOAL_MS, f"{GOAL_MS:g} ms at p99"),
        "  before the first write": _said(told["called"]),
        "tokens late, client": _said(arrived),
        "garbage collection": f"{told['gc']} pauses, longest {told['gc_max_s'] * 1000:.1f} ms, "
        f"{told['gc_s'] / measured_s:.2%} of the time",
        "CPU a token": f"{cost_us:.1f} us" + _verdict(cost_us < GOAL_US, f"{GOAL_US:g} us"),
        "busy": f"server {busy:.0%} of a core, full at {step_s * 1e6 / cost_us:.0f} streams; "
        f"client {own_busy:.0%}",
    }


def _late(seconds):
    """Median, 99th percentile and maximum in milliseconds."""
    late = sorted(seconds) or [0.0]
    return [late[int(share * (len(late) - 1))] * 1000 for share in (0.5, 0.99, 1)]


def _said(late):
    return "p50 {:.2f}  p99 {:.2f}  max {:.2f} ms".format(*late)


def _verdict(good, goal):
    return f"  (goal: under {goal}: {'held' if good else 'MISSED'})"


if __name__ == "__main__":
    sys.exit(main())
