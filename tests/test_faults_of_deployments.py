"""What a reader sees of each fault that keeps an endpoint from coming up."""

import re
from dataclasses import replace
from itertools import count

import pytest
import rehearsing

from helpers import cleanup, endpoint, errors, recipes
from helpers.rehearsal.faults import FAULTS
from helpers.session import open_session

_seen = set()
_number = count(1)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with rehearsing.server(tmp_path_factory.mktemp("faults")):
        yield open_session()


def failure(session, name):
    """What a reader sees who deploys a small endpoint while a fault is active."""
    _seen.add(name)
    mine = replace(session, participant=f"fault{next(_number)}")
    mine._clients = session._clients
    recipe = recipes.get("llama-3-8b")
    try:
        with session.fault(name), pytest.raises(errors.EndpointError) as failed:
            made = endpoint.deploy(mine, recipe, role=session.role(), hf_token="hf_of_nobody")
            endpoint.wait(mine, made)
    finally:
        cleanup.delete(mine)
    return failed.type, str(failed.value)


def test_no_quota_names_the_quota_to_ask_for(session):
    kind, said = failure(session, "no-quota")
    assert kind is errors.EndpointError  # nothing was created
    assert re.search("is 0 Instances.*L-C8AB7CDA", said)


@pytest.mark.parametrize(
    ("name", "reason", "remedy"),
    [
        ("no-capacity", "InsufficientInstanceCapacity", "try later or in another region"),
        ("gated-model", "403 Client Error", "check the token and its license"),
        ("gated-model", "did not pass the ping health check", "check the token"),
        ("health-check", "did not pass the ping health check", "give the container more time"),
    ],
)
def test_an_endpoint_that_fails_names_reason_and_remedy(session, name, reason, remedy):
    kind, said = failure(session, name)
    assert kind is errors.EndpointFailed
    assert reason in said
    assert remedy in said


def test_every_fault_of_a_deployment_is_met_in_this_file():
    assert _seen == {one.name for one in FAULTS.values() if one.where == "control plane"}
