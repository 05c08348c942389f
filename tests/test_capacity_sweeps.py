"""The same work for each item, here or on Ray: the same answers in the same order."""

import importlib.util
import math
import os
import socket
import tempfile
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import ray_cluster

from helpers import capacity
from helpers.capacity import response, sweeps
from helpers.errors import SettingsError
from helpers.twin import Timing

TIMINGS = [Timing(slots, 1.0, 0.05) for slots in (4, 1, 2)]
WORK = partial(response.highest_rate_per_s, answers=capacity.Answers(50, 10))
HUGE = 10**9


def test_a_small_sweep_stays_in_this_process(monkeypatch):
    monkeypatch.setattr(sweeps, "Child", None)  # would start another one
    assert sweeps.each(abs, [-3, 2, -1], requests=1000) == [3, 2, 1]


@pytest.mark.parametrize(
    ("requests", "items", "cores", "ray", "worth"),
    [
        (HUGE, 9, 8, "ray", True),
        (1_000_000, 9, 8, "ray", False),  # five seconds, which Ray needs to start
        (HUGE, 1, 8, "ray", False),
        (HUGE, 9, 1, "ray", False),
        (HUGE, 9, 8, None, False),
    ],
)
def test_ray_is_started_where_it_is_worth_it(monkeypatch, requests, items, cores, ray, worth):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: ray)
    assert sweeps.is_worth(requests, items) == worth


def test_what_the_work_raises_reaches_the_caller():
    with pytest.raises(ValueError, match="math domain error|nonnegative"):
        sweeps.each(math.sqrt, [4, -1], requests=1)


def test_when_ray_does_not_start_the_sweep_is_done_all_the_same(monkeypatch):
    def broken(*_, **__):
        raise SettingsError("No Ray cluster could be joined.")

    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(sweeps, "_on_ray", broken)
    assert sweeps.each(abs, [-3, 2], requests=HUGE) == [3, 2]


def test_a_cluster_that_was_asked_for_and_is_not_there_is_said_at_once():
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with pytest.raises(SettingsError, match=f"No Ray cluster answers at 127.0.0.1:{port}"):
        sweeps.each(abs, [1], requests=1, address=f"127.0.0.1:{port}")


def test_without_ray_the_address_of_a_cluster_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="pip install -r requirements-ray.txt"):
        sweeps.each(abs, [1], requests=1, address="auto")


def listening():
    """Addresses, as the kernel writes them, at which something listens."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as lines:
            rows = [line.split() for line in list(lines)[1:]]
        yield from (row[1] for row in rows if row[3] == "0A")


@pytest.fixture
def quick_ray(monkeypatch):
    # Short, because the paths of Ray's sockets may not be longer than 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        for name, value in ray_cluster.environment(Path(folder)).items():
            monkeypatch.setenv(name, value)
        yield


def test_ray_gives_what_this_process_gives_and_listens_on_loopback_only(quick_ray, monkeypatch):
    before, seen, poll = set(listening()), set(), Connection.poll

    def watching(pipe, timeout=0.0):
        answered = poll(pipe, timeout)  # until Ray has started
        seen.update(listening())
        return answered

    monkeypatch.setattr(Connection, "poll", watching)
    found = sweeps.each(WORK, TIMINGS, requests=1, address=sweeps.HERE)
    assert found == [WORK(timing) for timing in TIMINGS]
    rays = seen - before
    assert len(rays) > 2 and all("0100007F:" in one for one in rays)
