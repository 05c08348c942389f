"""A workshop of thirty in one account, all at once, and nobody touches what is another's."""

import json
import threading
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import rehearsing

from helpers import cleanup, endpoint, guard, messages, recipes
from helpers.session import open_session

# Two machines, since the rehearsal's account has a quota of twenty of each.
PEOPLE = {
    f"{kind}-{number}": recipes.get(recipe)
    for kind, recipe in (("guest", "llama-3-8b"), ("guest-guest", "llama-3-70b"))
    for number in range(15)
}
HOURS = 5000  # of AWS time: a second here is two and more there


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with rehearsing.server(tmp_path_factory.mktemp("many"), speed=7200) as running:
        yield running


@pytest.fixture(scope="module")
def took_part(server):
    """What each of the thirty has seen, who all waited for each other between the steps."""
    shared = open_session()
    together = threading.Barrier(len(PEOPLE), timeout=120)

    def take_part(name):
        try:
            return _take_part(rehearsing.participant(shared, name), PEOPLE[name], together)
        except BaseException:
            together.abort()  # the others need not wait
            raise

    with ThreadPoolExecutor(len(PEOPLE)) as pool:
        return dict(zip(PEOPLE, pool.map(take_part, PEOPLE), strict=True))


def _take_part(session, recipe, together):
    seen = {}
    together.wait()
    seen["served"] = endpoint.bring_up(session, recipe, role=session.role(), ttl_h=HOURS)
    seen["expires"] = guard.expiry(session, seen["served"].name)
    together.wait()
    found = endpoint.find(session, in_service=True)
    question = [{"role": "user", "content": f"I am {session.participant}."}]
    runtime = session.client("sagemaker-runtime")
    options = {"model": found.model_id, "max_tokens": 8}
    seen["asked"] = found.name
    seen["reply"] = messages.chat(runtime, found.name, question, **options)
    seen["mine"] = cleanup.leftovers(session)
    together.wait()
    # Half of them leave, and the others are still served.
    if session.participant.endswith(("0", "2", "4", "6", "8")):
        seen["deleted"] = cleanup.delete(session)
        together.wait()
    else:
        together.wait()
        seen["later"] = messages.chat(runtime, found.name, question, **options)
        seen["deleted"] = cleanup.delete(session)
    seen["left"] = cleanup.leftovers(session)
    return seen


def test_each_has_an_endpoint_of_their_own(took_part):
    names = {seen["served"].name for seen in took_part.values()}
    assert len(names) == len(PEOPLE) == 30
    for name, seen in took_part.items():
        assert seen["served"].name == f"inf2-workshop-{name}-{seen['served'].recipe_name}"
        assert seen["served"].status == "InService"
        assert seen["expires"] is not None


def test_each_chats_with_their_own_endpoint(took_part):
    for seen in took_part.values():
        assert seen["asked"] == seen["served"].name
        assert seen["reply"].output_tokens == 8


def test_each_sees_their_own_things_only(took_part):
    for name, seen in took_part.items():
        assert set(seen["mine"]["kind"]) >= {"endpoint", "endpoint configuration", "model"}
        assert set(seen["mine"]["whose?"]) == {""}  # nobody else's
        named = seen["mine"]["name"].str
        assert (named.endswith(f"inf2-workshop-{name}") | named.contains(f"-{name}-llama")).all()


def test_who_stays_is_served_after_the_others_have_cleaned_up(took_part):
    later = [seen["later"] for seen in took_part.values() if "later" in seen]
    assert len(later) == 14
    assert all(reply.output_tokens == 8 for reply in later)


def test_each_deletes_their_own_things_and_nothing_is_left(took_part, server):
    for name, seen in took_part.items():
        assert set(seen["deleted"]["result"]) == {"deleted"}
        assert all(f"inf2-workshop-{name}" in one for one in seen["deleted"]["name"])
        assert seen["left"].empty
    with urllib.request.urlopen(f"{server.url}/_rehearsal/journal", timeout=10) as answer:
        did = Counter(entry["operation"] for entry in json.load(answer))
    assert did == {
        f"{verb}{kind}": 30
        for verb in ("Create", "Delete")
        for kind in ("Endpoint", "EndpointConfig", "Model")
    }
