"""What a reader sees of each fault that keeps an endpoint from coming up."""

import contextlib
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


@contextlib.contextmanager
def fault(session, name):
    _seen.add(name)
    with session.fault(name):
        yield


@contextlib.contextmanager
def deploying(session):
    """A small endpoint of a participant of its own, which goes whatever becomes of it."""
    mine = replace(session, participant=f"fault{next(_number)}")
    mine._clients = session._clients
    recipe = recipes.get("llama-3-8b")
    try:
        yield lambda: endpoint.wait(
            mine,
            endpoint.deploy(mine, recipe, role=session.role(), hf_token="hf_of_nobody"),
        )
    finally:
        cleanup.delete(mine)


def test_no_quota_names_the_quota_to_ask_for(session):
    with (
        fault(session, "no-quota"),
        deploying(session) as deploy,
        pytest.raises(errors.EndpointError, match="is 0 Instances.*L-C8AB7CDA"),
    ):
        deploy()


def test_no_capacity_says_to_try_later_or_elsewhere(session):
    with (
        fault(session, "no-capacity"),
        deploying(session) as deploy,
        pytest.raises(errors.EndpointFailed) as failed,
    ):
        deploy()
    assert "InsufficientInstanceCapacity" in str(failed.value)
    assert "try later or in another region" in str(failed.value)


def test_a_gated_model_shows_the_hubs_refusal_from_the_containers_log(session):
    with (
        fault(session, "gated-model"),
        deploying(session) as deploy,
        pytest.raises(errors.EndpointFailed) as failed,
    ):
        deploy()
    assert "did not pass the ping health check" in str(failed.value)
    assert "403 Client Error" in str(failed.value)
    assert "check the token and its license" in str(failed.value)


def test_a_health_check_that_times_out_says_to_give_it_more_time(session):
    with (
        fault(session, "health-check"),
        deploying(session) as deploy,
        pytest.raises(errors.EndpointFailed) as failed,
    ):
        deploy()
    assert "did not pass the ping health check" in str(failed.value)
    assert "give the container more time" in str(failed.value)


def test_every_fault_of_a_deployment_is_met_in_this_file():
    assert _seen == {one.name for one in FAULTS.values() if one.where == "control plane"}
