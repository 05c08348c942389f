"""Load from several machines: what is dealt to whom, and two nodes of a Ray cluster doing it."""

import importlib.util
import json
import os
import pickle
import queue
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from multiprocessing import Pipe

import deployed
import pytest
import ray_cluster
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st
from rehearsing import serving, until
from scripted import ScriptedEndpoint, part

from helpers import benchmark, cluster, conductor, load, metrics
from helpers import endpoint as endpoints
from helpers.conductor import Actor, Clock
from helpers.errors import ClusterError, InvocationError, SettingsError
from helpers.load import Arrivals, ClosedLoop, Request, Rounds
from helpers.plan import Load
from helpers.records import ClientHealth, RequestRecord
from helpers.rehearsal import launch
from helpers.transport import SageMakerStream

SPEED = 600  # AWS seconds in a real one
SECRET = "a-secret-that-nobody-may-find"
TWO_TOKENS = part(
    b'data:{"choices":[{"delta":{"content":"Hel"}}]}\n\n'
    b'data:{"choices":[{"delta":{"content":"lo"},"finish_reason":"length"}]}\n\n'
)
BEGINNING = part(b'data:{"choices":[{"delta":{"content":"Hel"}}]}\n\n')


def requests(count):
    return [Request(json.dumps({"number": number}).encode(), 7, 2) for number in range(count)]


def stream_of(url):
    return SageMakerStream(
        deployed.NAME,
        endpoint_url=url,
        region="us-east-1",
        credentials=Credentials("AKIDEXAMPLE", SECRET),
    )


@pytest.fixture
def endpoint():
    scripted = ScriptedEndpoint()
    yield scripted
    scripted.close()


# --- what is dealt to whom


loads = st.one_of(
    st.builds(ClosedLoop, st.integers(1, 40)),
    st.lists(st.floats(0, 9), min_size=1, max_size=60).map(lambda all: Arrivals(tuple(all))),
)


def dealt(pattern, nodes, total):
    """The places of each client."""
    shares = cluster.deal(pattern, nodes=nodes)
    return shares, [list(map(share.place, range(share.count(total)))) for share in shares]


@given(loads, st.integers(1, 9), st.integers(0, 200))
def test_every_request_is_dealt_to_one_client_in_the_order_of_the_plan(pattern, nodes, total):
    shares, places = dealt(pattern, nodes, total)
    assert sorted(sum(places, [])) == list(range(total))
    assert all(own == sorted(own) for own in places)
    assert len(shares) <= nodes


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 9))
def test_users_and_their_requests_are_dealt_evenly(users, nodes, turns):
    shares, places = dealt(ClosedLoop(users, think_s=0.5), nodes, turns * users)
    own = [share.pattern.users for share in shares]
    assert sum(own) == users and max(own) - min(own) <= 1
    assert [len(each) for each in places] == [turns * count for count in own]
    assert all(share.pattern.think_s == 0.5 for share in shares)


@given(st.lists(st.floats(0, 9), min_size=1).map(sorted), st.integers(1, 9))
def test_arrivals_keep_their_times_and_are_dealt_in_turn(times_s, nodes):
    shares, places = dealt(Arrivals(tuple(times_s)), nodes, len(times_s))
    for share, own in zip(shares, places, strict=True):
        assert [times_s[place] for place in own] == list(share.pattern.times_s)


@given(loads, st.integers(1, 9), st.integers(0, 50), st.integers(0, 50))
def test_the_plans_first_requests_warm_up_whoever_sends_them(pattern, nodes, warmup, more):
    shares, places = dealt(pattern, nodes, warmup + more)
    for share, own in zip(shares, places, strict=True):
        assert [place < warmup for place in own] == [
            number < share.count(warmup) for number in range(len(own))
        ]


def recorded(**fields):
    stamps = {"sent_s": 1.0, "first_s": 2.0, "last_s": 3.0, "ended_s": 4.0, "chunk_s": (2.0, 3.0)}
    rest = {name: None for name in RequestRecord.__dataclass_fields__}
    return RequestRecord(**rest | stamps | {"index": 0, "user": 0} | fields)


def test_a_record_gets_its_place_user_and_client_of_the_whole_run():
    shares = cluster.deal(ClosedLoop(5), nodes=2)
    merged = [
        share.merged(recorded(index=index, user=user))
        for share in shares
        for user in range(share.pattern.users)
        for index in (user, user + share.pattern.users)
    ]
    found = sorted((record.user, record.index, record.client) for record in merged)
    assert found == [(user, user + 5 * turn, user % 2) for user in range(5) for turn in range(2)]
    (only,) = cluster.deal(Arrivals((0.0, 1.0)), nodes=1)
    assert only.merged(recorded(index=1, user=None)).user is None


@given(st.integers(1, 9), st.integers(1, 9))
def test_a_function_makes_each_clients_own_requests_and_no_others(users, nodes):
    for share in cluster.deal(ClosedLoop(users), nodes=nodes):
        made = share.made(lambda place: place)
        assert [next(made) for _ in range(5)] == [share.place(number) for number in range(5)]
    for share in cluster.deal(Arrivals((0.0, 1.0, 2.0)), nodes=nodes):
        assert list(share.made(lambda place: place)) == share.of(range(3))


# --- clocks


def ticking(monkeypatch, *, delays_s):
    """A clock that is 100 s ahead, seen over a network with these delays there and back."""
    now, delays = [50.0], iter(delays_s)

    def ask():
        there, back = next(delays)
        now[0] += there
        told_s = now[0] + 100.0
        now[0] += back
        return told_s

    monkeypatch.setattr(conductor.time, "monotonic", lambda: now[0])
    return ask


@given(st.lists(st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)), min_size=20, max_size=20))
def test_another_machines_clock_is_known_within_the_error_that_is_told(delays_s):
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock = Clock.of(ticking(monkeypatch, delays_s=delays_s))
    assert clock.error_s == pytest.approx(min(map(sum, delays_s)) / 2)
    assert abs(clock.offset_s + 100.0) <= clock.error_s * 1.001


def test_a_record_of_another_machine_is_told_in_this_ones_time():
    there = recorded(connect_s=0.5)
    here = Clock(offset_s=-0.75, error_s=0.1).shifted(there)
    assert (here.sent_s, here.first_s, here.last_s, here.ended_s) == (0.25, 1.25, 2.25, 3.25)
    assert here.chunk_s == (1.25, 2.25) and here.connect_s == 0.5
    nothing = Clock(1.0).shifted(recorded(first_s=None, last_s=None, chunk_s=()))
    assert (nothing.first_s, nothing.last_s, nothing.chunk_s) == (None, None, ())


def test_clocks_that_drift_apart_during_the_run_widen_the_error():
    assert Clock(5.0, 0.001).checked_by(Clock(5.25, 0.002)) == Clock(5.0, 0.252)
    assert Clock(5.0, 0.001).checked_by(Clock(5.0, 0.0005)) == Clock(5.0, 0.001)


# --- what is refused


def drive(url, *arguments, address="127.0.0.1:6379", records=None, **options):
    records = [] if records is None else records
    options = {"on_record": records.append, "timeout_s": 20.0} | options
    return cluster.drive(stream_of(url), *arguments, address=address, **options)


ANYWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("load_of", "error", "words"),
    [
        ((requests(4), Rounds(2)), SettingsError, "rounds everybody waits .* leave the cluster"),
        ((requests(4), ClosedLoop(0)), ValueError, "at least one"),
        ((requests(2), Arrivals((0.0,))), ValueError, "one for each"),
        ((requests(0), Arrivals(())), ValueError, "one for each"),
        ((len, ClosedLoop(2)), ValueError, "give a duration"),
        ((iter(requests(2)), ClosedLoop(2)), ValueError, "give a list"),
        ((lambda place: None, Arrivals((0.0,))), SettingsError, "functions travel by their name"),
    ],
)
def test_what_a_cluster_cannot_do_is_said_before_anybody_connects(load_of, error, words):
    with pytest.raises(error, match=words):
        drive(ANYWHERE, *load_of)


def test_without_ray_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="pip install -r requirements-ray.txt"):
        drive(ANYWHERE, requests(2), ClosedLoop(2))


@pytest.fixture
def silent_port():
    """Something that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "here:there"])
def test_nobody_at_the_address_is_said_at_once(address):
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    address = address.format(port=port)
    started = time.monotonic()
    with pytest.raises(SettingsError, match=f"No Ray cluster answers at {address} .*ray start"):
        drive(ANYWHERE, requests(2), ClosedLoop(2), address=address)
    assert time.monotonic() - started < 10  # Ray itself tries for half a minute


def test_something_else_at_the_address_is_given_up_in_time(silent_port, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT_S", 0.5)
    address = f"127.0.0.1:{silent_port}"
    with pytest.raises(SettingsError, match=f"No Ray cluster has answered at {address} in 0.5 s"):
        drive(ANYWHERE, requests(2), ClosedLoop(2), address=address)


def test_a_process_that_dies_with_the_connection_is_one_sentence(silent_port, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(ClusterError, match=r"to the Ray cluster broke \(it ended with 1"):
        drive(ANYWHERE, requests(2), ClosedLoop(2), address=f"127.0.0.1:{silent_port}")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (  # of Ray 2.60.0
            "Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.11.7"
            "\nThis process on node 10.0.0.2 was started with:\n    Ray: 2.60.0\n    Python: "
            "3.11.7\n",
            "Ray: 2.59.0 .*Ray: 2.60.0 .*install the same ones",
        ),
        (
            "Ray Client requires pip package `ray[client]`. If you installed the minimal Ray "
            "(e.g. `pip install ray`), please reinstall by executing `pip install ray[client]`",
            r"auto needs Ray's client: pip install 'ray\[client\]'",
        ),
        ("Could not find any running Ray instance.", "No Ray cluster could be joined at auto"),
    ],
)
def test_what_ray_says_becomes_a_sentence_that_says_what_to_do(words, sentence):
    said = conductor.misfit("auto", RuntimeError(words))
    assert re.search(sentence, said) and "\n" not in said


# --- a node's actor and client, without Ray around them


@contextmanager
def acting(url, requests, pattern, **options):
    """An actor whose client has the whole load, and what it said when it was started."""
    (share,) = cluster.deal(pattern, nodes=1)
    options = {"duration_s": None, "timeout_s": 5.0, "part": 0, "count_tokens": None} | options
    actor = Actor()
    parcels = stream_of(url), (None, 0, options), (share, requests)
    try:
        yield actor, actor.start(*map(pickle.dumps, parcels))
    finally:
        actor.client.end(within_s=5)


def taken(actor, *, kind):
    """All that comes, up to and with something of a kind."""
    messages = []
    while not messages or not isinstance(messages[-1], kind):
        messages += actor.take()
    return messages


def test_a_client_begins_when_it_is_told_and_ends_with_how_it_fared(endpoint):
    for _ in range(3):
        endpoint.will_stream(TWO_TOKENS)
    with acting(endpoint.url, requests(3), ClosedLoop(2)) as (actor, wrong):
        assert wrong is None and not actor.client.pipe.poll(0.1)
        actor.begin(at_s := actor.clock() + 0.2)
        *records, health = taken(actor, kind=ClientHealth)
    assert 0 <= min(record.sent_s for record in records) - at_s < 0.5
    assert [record.error for record in records] == [None] * 3
    assert 0 < health.wall_s < 10


def test_a_client_that_is_stopped_tells_what_it_had_in_flight(endpoint):
    endpoint.will_stream(TWO_TOKENS)
    endpoint.will_stream(BEGINNING, ending="hang")
    with acting(endpoint.url, requests(5), ClosedLoop(1)) as (actor, _):
        actor.begin(actor.clock())
        (whole,) = taken(actor, kind=RequestRecord)
        actor.stop()
        cut, end = taken(actor, kind=type(None))
    assert (whole.error, cut.error.kind, end) == (None, "interrupted", None)
    assert len(endpoint.bodies) == 2


def test_a_node_that_does_not_reach_the_endpoint_says_which_one_it_is():
    with acting(ANYWHERE, requests(1), ClosedLoop(1)) as (_, wrong):
        assert isinstance(wrong, InvocationError) and wrong.kind == "connection"
        assert f"From {socket.gethostname()}: Nothing answers at 127.0.0.1:9" in str(wrong)


def test_a_client_that_cannot_read_its_work_says_why():
    actor = Actor()
    wrong = actor.start(pickle.dumps(None), b"no pickle", b"")
    actor.client.end(within_s=5)
    assert isinstance(wrong, SettingsError)
    assert "cannot start: " in str(wrong)


def test_a_client_that_dies_is_told_with_its_last_words(endpoint):
    endpoint.will_stream(BEGINNING, ending="hang")
    with acting(endpoint.url, requests(1), ClosedLoop(1)) as (actor, _):
        actor.begin(actor.clock())
        assert until(lambda: endpoint.bodies)
        actor.client.process.kill()
        *_, error = taken(actor, kind=ClusterError)
    assert "it ended with -9" in str(error)


def test_a_client_ends_with_its_actor(endpoint):
    endpoint.will_stream(BEGINNING, ending="hang")
    with acting(endpoint.url, requests(1), ClosedLoop(1)) as (actor, _):
        actor.begin(actor.clock())
        assert until(lambda: endpoint.bodies)
        actor.client.pipe.close()
        assert actor.client.process.wait(30) == 1
    assert endpoint.gone.wait(30)


def test_a_client_that_nobody_asks_any_more_ends(monkeypatch):
    monkeypatch.setattr(cluster, "ORPHANED_S", 0.05)
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    actor, client = Pipe()
    for said in (0.0, conductor.GO_ON):
        actor.send(said)
    cluster.listen(client, queue.SimpleQueue(), threading.Event())
    assert ended == [1]


# --- two nodes


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """A cluster of two nodes, and a rehearsal whose true times are written down."""
    folder = tmp_path_factory.mktemp("cluster")

    @contextmanager
    def rehearsal():
        truth = folder / "truth.jsonl"
        with (
            serving(folder, "--truth", str(truth), speed=SPEED),
            deployed.rehearsal(folder, speed=SPEED) as session,
        ):
            yield session, truth

    with ray_cluster.running(rehearsal) as (nodes, (session, truth)):
        yield nodes, session, truth


@pytest.fixture(scope="module")
def nodes(rehearsed):
    cluster, _, _ = rehearsed
    yield cluster
    for left in ("ray::Actor", "cluster.serve", "conductor.conduct"):
        assert until(lambda left=left: not list(cluster.processes(left)), seconds=30), left


ASKED = Load(concurrency=5, requests=40, warmup=5, input_tokens=50, output_tokens=100)


def plan(asked=ASKED):
    return partial(asked.request, model=deployed.MODEL_ID)


@pytest.fixture(scope="module")
def measured(rehearsed):
    """A closed loop from both nodes: records, when each was told, how clients fared, the truth."""
    nodes, session, truth = rehearsed
    records, told_s = [], []

    def on_record(record):
        records.append(record)
        told_s.append(time.monotonic())

    healths = cluster.drive(
        SageMakerStream.of(session, deployed.NAME),
        [plan()(index) for index in ASKED.indexes()],
        ASKED.pattern(clock_speed=SPEED),
        address=nodes.address,
        on_record=on_record,
        warmup=ASKED.warmup,
    )
    ids = {record.inference_id for record in records}
    lines = until(lambda: [line for line in _lines(truth) if line["inference_id"] in ids])
    return records, told_s, healths, {line["inference_id"]: line for line in lines}


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_requests_are_sent_once_and_half_of_them_by_each_node(measured):
    records, _, healths, _ = measured
    assert sorted(record.index for record in records) == list(range(45))
    assert len({record.inference_id for record in records}) == 45
    assert {record.error for record in records} == {None}
    assert Counter(record.client for record in records) == {0: 27, 1: 18}
    assert {(record.client, record.user) for record in records} == {
        (user % 2, user) for user in range(5)
    }
    assert sorted(record.index for record in records if record.phase == "warmup") == [0, 1, 2, 3, 4]
    assert len(healths) == 2


def test_both_nodes_start_at_the_same_moment(measured):
    records, _, _, _ = measured
    first_s = [min(r.sent_s for r in records if r.client == client) for client in (0, 1)]
    assert abs(first_s[0] - first_s[1]) < 0.2


def test_records_come_back_within_a_second_of_their_end(measured):
    records, told_s, _, _ = measured
    waited_s = [told - record.ended_s for record, told in zip(records, told_s, strict=True)]
    assert min(waited_s) >= 0 and sorted(waited_s)[len(waited_s) // 2] < 1


def test_the_merged_stamps_agree_with_the_servers(measured):
    records, _, healths, truth = measured
    assert len(truth) == 45
    for seen in records:
        true = truth[seen.inference_id]
        assert true["arrival_s"] - seen.sent_s >= -0.001
        assert (true["tokens"], true["outcome"]) == (seen.output_tokens, "complete")
    lags_s = sorted(seen.first_s - truth[seen.inference_id]["first_s"] for seen in records)
    assert lags_s[0] > -0.001 and lags_s[len(lags_s) // 2] < 0.05
    for health in healths:  # one machine has one clock
        assert (health.clock_offset_s, health.clock_error_s) == (0, 0)
        assert health.cpu_s > 0 and health.wall_s > 0 and health.round_trip_s > 0


def test_the_summary_is_of_the_kind_that_one_machine_has(measured, rehearsed):
    records, _, _, _ = measured
    _, session, _ = rehearsed
    alone = []
    load.drive(
        SageMakerStream.of(session, deployed.NAME),
        [plan()(index) for index in ASKED.indexes()],
        ASKED.pattern(clock_speed=SPEED),
        on_record=alone.append,
        warmup=ASKED.warmup,
    )
    options = {"load": ASKED.as_config(), "price_per_hour": 1.0, "clock_speed": float(SPEED)}
    here, there = (
        metrics.summary(each, **options, target="rehearsal") for each in (alone, records)
    )
    assert here.keys() == there.keys()
    assert here["window"].keys() == there["window"].keys()
    assert (here["requests"], here["tokens"]) == (there["requests"], there["tokens"])


def test_arrivals_from_both_nodes_keep_one_schedule(rehearsed, nodes):
    _, session, _ = rehearsed
    asked = Load(rate_per_s=0.1, process="constant", requests=30, warmup=2, output_tokens=10)
    pattern, records = asked.pattern(clock_speed=SPEED), []
    cluster.drive(
        SageMakerStream.of(session, deployed.NAME),
        plan(asked),  # made on the nodes
        pattern,
        address=nodes.address,
        on_record=records.append,
        warmup=asked.warmup,
    )
    records.sort(key=lambda record: record.index)
    began_s = records[0].sent_s
    assert [record.sent_s - began_s for record in records] == pytest.approx(
        pattern.times_s, abs=0.005
    )
    assert [record.client for record in records] == [0, 1] * 16
    assert {(record.user, record.error) for record in records} == {(None, None)}
    assert [record.phase for record in records].count("warmup") == 2


def test_a_benchmark_can_be_sent_from_the_cluster_and_end_by_time(rehearsed, nodes, tmp_path):
    _, session, _ = rehearsed
    made = benchmark.run(
        session,
        endpoints.find(session, deployed.NAME),
        engine="ray",
        ray_address=nodes.address,
        results_dir=tmp_path,
        concurrency=4,
        duration_s=60,
        output_tokens=20,
    )
    assert made.config["engine"] == "ray" and len(made.summary["clients"]) == 2
    places = sorted(record.index for record in made.records)
    assert places[:4] == [0, 1, 2, 3] and len(set(places)) == len(places) > 6
    assert made.summary["tokens"]["output_source"] == {"tokenizer": len(places)}


def test_a_cluster_that_cannot_be_used_leaves_no_folder(rehearsed, tmp_path):
    _, session, _ = rehearsed
    found = endpoints.find(session, deployed.NAME)
    options = {"engine": "ray", "ray_address": "auto", "results_dir": tmp_path}
    with pytest.raises(SettingsError, match="wait"):
        benchmark.run(session, found, kind="rounds", **options)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_stops_both_nodes_and_records_what_was_in_flight(nodes, endpoint):
    for _ in range(2):
        endpoint.will_stream(TWO_TOKENS)
    for _ in range(8):
        endpoint.will_stream(BEGINNING, ending="hang")
    records = []

    def on_record(record):
        records.append(record)
        if len(records) == 1:
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        drive(
            endpoint.url,
            plan(),
            ClosedLoop(4),
            address=nodes.address,
            on_record=on_record,
            duration_s=60.0,
        )
    assert time.monotonic() - started < 20
    kinds = Counter(record.error and record.error.kind for record in records)
    assert kinds == {None: 2, "interrupted": 4}
    assert len(endpoint.bodies) == 6


def test_a_node_that_is_lost_takes_along_its_own_records_only(nodes, endpoint):
    for _ in range(24):
        endpoint.will_stream(BEGINNING, TWO_TOKENS, pause_s=0.05)
    records, showing = [], []

    def on_record(record):
        if not records:
            showing.extend(nodes.processes_showing(SECRET))
            os.kill(next(nodes.processes("ray::Actor")), signal.SIGKILL)
        records.append(record)

    with pytest.raises(ClusterError, match=r"^Client [01] was lost .* everything else was kept"):
        drive(
            endpoint.url,
            requests(24),
            ClosedLoop(2),
            address=nodes.address,
            on_record=on_record,
        )
    told = Counter(record.client for record in records)
    assert set(told) == {0, 1} and max(told.values()) == 12 > min(told.values())
    assert len(endpoint.bodies) < 24, "its client did not go on without it"
    assert showing == []


def test_no_secret_is_left_in_what_ray_writes_down(nodes, measured):
    files = [path for path in nodes.folder.rglob("*") if path.is_file()]
    assert any("logs" in path.parts for path in files)
    secrets = (SECRET.encode(), launch.credentials()["AWS_SECRET_ACCESS_KEY"].encode())
    assert not [path for path in files for secret in secrets if secret in path.read_bytes()]
