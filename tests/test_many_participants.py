"""A workshop of thirty in one account, all at once, and nobody touches what is another's."""

import json
import os
import subprocess
import sys
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
import rehearsing

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with rehearsing.server(tmp_path_factory.mktemp("many"), speed=1800) as running:
        yield running


@pytest.fixture(scope="module")
def took_part(server, tmp_path_factory):
    """What each of the thirty has seen, by name; they wait for each other between the steps."""
    told = tmp_path_factory.mktemp("told") / "seen.json"
    finished = subprocess.run(
        [sys.executable, HERE / "thirty.py", told],
        env={k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return json.loads(told.read_text())


def test_each_has_an_endpoint_of_their_own(took_part):
    assert len({seen["served"] for seen in took_part.values()}) == len(took_part) == 30
    for name, seen in took_part.items():
        assert seen["served"].startswith(f"inf2-workshop-{name}-llama")
        assert seen["status"] == "InService"
        assert seen["is guarded"]


def test_each_chats_with_their_own_endpoint(took_part):
    for seen in took_part.values():
        assert seen["asked"] == seen["served"]
        assert seen["tokens"] == 8


def test_each_sees_their_own_things_only(took_part):
    for name, seen in took_part.items():
        kinds = {one["kind"] for one in seen["mine"]}
        assert kinds >= {"endpoint", "endpoint configuration", "model", "schedule", "log group"}
        for one in seen["mine"]:
            is_group = one["name"] == f"inf2-workshop-{name}"
            assert is_group or one["name"].endswith(seen["served"])


def test_who_stays_is_served_after_the_others_have_cleaned_up(took_part):
    later = [seen["tokens later"] for seen in took_part.values() if "tokens later" in seen]
    assert later == [8] * 14


def test_each_deletes_their_own_things_and_nothing_is_left(took_part, server):
    for name, seen in took_part.items():
        assert {one["result"] for one in seen["deleted"]} == {"deleted"}
        assert all(f"inf2-workshop-{name}" in one["name"] for one in seen["deleted"])
        assert seen["left"] == []
    with urllib.request.urlopen(f"{server.url}/_rehearsal/journal", timeout=30) as answer:
        did = Counter(entry["operation"] for entry in json.load(answer))
    assert did == {
        f"{verb}{kind}": 30
        for verb in ("Create", "Delete")
        for kind in ("Endpoint", "EndpointConfig", "Model")
    }
