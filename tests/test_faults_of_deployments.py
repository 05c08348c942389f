"""What a reader sees of each fault that keeps an endpoint from coming up, and how it comes up."""

import re
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
import rehearsing

from helpers import cleanup, endpoint, errors, guard, recipes, resources
from helpers.endpoint import capacity, deployed, deployment
from helpers.rehearsal.faults import FAULTS
from helpers.session import open_session

SMALL = recipes.get("llama-3-8b")
GIVEN = {"hf_token": "hf_of_nobody", "ttl_h": 2000}  # an hour is a millisecond here
_seen = set()
_clients = {}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with rehearsing.server(tmp_path_factory.mktemp("faults")):
        yield open_session()


def failure(session, name):
    """What a reader sees who deploys a small endpoint while a fault is active."""
    _seen.add(name)
    mine = rehearsing.participant(session)
    try:
        with session.fault(name), pytest.raises(errors.EndpointError) as failed:
            endpoint.bring_up(mine, SMALL, **GIVEN, role=session.role())
    finally:
        cleanup.delete(mine)
    return failed.type, str(failed.value)


def test_no_quota_names_the_quota_to_ask_for(session):
    kind, said = failure(session, "no-quota")
    assert kind is errors.QuotaError
    assert re.search("is 0 Instances.*L-C8AB7CDA", said)


@pytest.mark.parametrize(
    ("name", "reason", "remedy"),
    [
        ("gated-model", "403 Client Error", "Check the token and its license"),
        ("gated-model", "did not pass the ping health check", "Check the token"),
        ("health-check", "did not pass the ping health check", "give the container more time"),
    ],
)
def test_an_endpoint_that_fails_names_reason_and_remedy(session, name, reason, remedy):
    kind, said = failure(session, name)
    assert kind is errors.EndpointFailed
    assert reason in said
    assert remedy in said


def test_a_region_without_machines_names_reason_and_remedy(session):
    kind, said = failure(session, "no-capacity")
    assert kind is errors.CapacityError
    assert "InsufficientInstanceCapacity" in said
    assert "The region is out of ml.inf2.xlarge" in said
    assert "Try later or in another region: with ATTEMPTS and OTHER_REGIONS" in said
    assert said.endswith("This was tried once in us-east-1.")


def test_every_fault_of_a_deployment_is_met_in_this_file():
    assert _seen == {one.name for one in FAULTS.values() if one.where == "control plane"}


# --- until there is capacity


@pytest.fixture
def mine(session):
    """A participant of the test's own, who may move and comes back."""
    mine = rehearsing.participant(session)
    yield mine
    rehearsing.restore()
    for region in ("us-east-1", "us-west-2"):
        capacity.undo(session_in(mine, region), name_of(mine))
    mine.move_to("us-east-1")


def session_in(session, region):
    if session.region == region:
        return session
    there = session.in_region(region)
    there._clients = _clients.setdefault(region, there._clients)  # slow to make
    return there


def name_of(session):
    return resources.name_of(session.participant, SMALL.name)


def bring_up(session, **given):
    return endpoint.bring_up(session, SMALL, role=session.role(), **GIVEN, **given)


def schedules(session):
    return resources.of_participant(session, resources.SCHEDULE)


def ends_when(session, operation, fault):
    """The fault is over once the session has called an operation."""

    def end(**_):
        from helpers.rehearsal import launch

        launch.end_fault(session.boto.endpoint_url, fault)

    rehearsing.after(session, operation, end)


def test_with_several_attempts_it_is_tried_again_after_a_while(mine, capsys):
    ends_when(mine, "DeleteEndpoint", "no-capacity")
    with mine.fault("no-capacity"):
        assert bring_up(mine, attempts=2).status == "InService"
    assert "No ml.inf2.xlarge in us-east-1: next attempt in 2 min." in capsys.readouterr().out
    assert [one.name for one in schedules(mine)] == [name_of(mine)]


def test_each_pause_is_twice_as_long_as_the_one_before(mine, capsys):
    with (
        mine.fault("no-capacity"),
        pytest.raises(errors.CapacityError, match="tried 3 times in us"),
    ):
        bring_up(mine, attempts=3)
    said = capsys.readouterr().out
    assert "next attempt in 2 min" in said
    assert "next attempt in 4 min" in said
    assert "next attempt in 8 min" not in said


@pytest.mark.parametrize("fault", ["no-capacity", "no-quota"])
def test_the_next_region_is_tried_and_the_session_moves_there(mine, fault, capsys):
    operation = {"no-capacity": "DeleteEndpoint", "no-quota": "CreateEndpoint"}[fault]
    ends_when(mine, operation, fault)
    with mine.fault(fault):
        made = bring_up(mine, regions=["us-west-2"])
    assert made.status == "InService"
    assert ".us-west-2." in made.image
    assert mine.region == "us-west-2" == open_session().region  # of the next notebook too
    assert "goes on in us-west-2" in capsys.readouterr().out
    assert guard.expiry(mine, made.name)
    left = session_in(mine, "us-east-1")
    assert schedules(left) == []
    assert all(not resources.of_participant(left, kind) for kind in resources.KINDS)


def test_where_the_environment_names_a_region_it_is_said_what_to_set(mine, capsys, monkeypatch):
    monkeypatch.setenv("WORKSHOP_REGION", "us-east-1")
    capacity._go(mine, "us-west-2")
    assert "set WORKSHOP_REGION=us-west-2, it is us-east-1" in capsys.readouterr().out


def test_an_interrupt_between_two_attempts_says_that_nothing_bills(mine, monkeypatch):
    def interrupt(seconds):
        if seconds == capacity.FIRST_PAUSE_S:
            raise KeyboardInterrupt
        sleep(seconds)

    sleep = mine.clock.sleep
    monkeypatch.setattr(mine.clock, "sleep", interrupt)
    with mine.fault("no-capacity"), pytest.raises(errors.EndpointError, match="nothing bills"):
        bring_up(mine, attempts=2)


def test_an_endpoint_in_another_region_of_the_list_is_attached_to(mine):
    there = session_in(mine, "us-west-2")
    made = endpoint.deploy(there, SMALL, role=mine.role(), **GIVEN)
    assert bring_up(mine, regions=["us-west-2"]).created == made.created
    assert mine.region == "us-west-2"
    assert deployed.status_of(session_in(mine, "us-east-1"), made.name) is None


def test_without_a_machine_anywhere_nothing_is_left_and_each_region_is_named(mine):
    with mine.fault("no-capacity"), pytest.raises(errors.CapacityError) as failed:
        bring_up(mine, regions=["us-west-2"])
    assert re.search(
        "tried once in each of us-east-1, us-west-2: us-east-1: .*us-west-2: .*OTHER_REGIONS",
        str(failed.value),
    )
    assert mine.region == "us-east-1"
    for region in ("us-east-1", "us-west-2"):
        assert schedules(session_in(mine, region)) == []


def test_what_is_no_question_of_capacity_is_not_tried_elsewhere(mine):
    with mine.fault("health-check"), pytest.raises(errors.EndpointFailed, match="ping"):
        bring_up(mine, attempts=3, regions=["us-west-2"])
    assert mine.region == "us-east-1"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        *[
            ({"attempts": odd}, "At least one attempt")
            for odd in (0, 1.5, "2", True, None, float("nan"))
        ],
        *[({"regions": odd}, "regions is a list") for odd in ("us-west-2", None, 5, [5])],
        ({"instance_count": "1"}, "at least one instance, not '1'"),
        ({"weights": "s3://b/m/", "regions": ["us-west-2"]}, "its own region only"),
        ({"regions": ["mars-north-1"]}, "mars-north-1"),
    ],
)
def test_nonsense_is_refused_before_anything_is_made(mine, given, words):
    with pytest.raises(errors.WorkshopError, match=words):
        bring_up(mine, **given)
    assert schedules(mine) == []


def test_what_is_no_recipe_is_refused_in_a_sentence(mine):
    with pytest.raises(errors.EndpointError, match="A recipe is deployed, not 'llama-3-8b'"):
        endpoint.bring_up(mine, SMALL.name, role=mine.role(), **GIVEN)


def test_a_failed_endpoint_has_cost_no_more_than_until_it_failed(mine):
    with mine.fault("no-capacity"), pytest.raises(errors.CapacityError):
        bring_up(mine)
    failed = endpoint.look(mine, name_of(mine))
    took_s = (failed.modified - failed.created).total_seconds()
    assert not failed.bills
    tomorrow = SimpleNamespace(now=lambda: failed.modified + timedelta(days=1))
    assert failed.cost_so_far(replace(mine, clock=tomorrow)) == pytest.approx(failed.cost(took_s))


def test_while_there_is_no_machine_its_cost_is_an_upper_bound(mine, capsys):
    with mine.fault("no-capacity"), pytest.raises(errors.CapacityError):
        bring_up(mine)
    said = capsys.readouterr().out
    assert re.search(r"waiting for the machine, at most \$\d+\.\d\d so far", said)


def test_an_interrupt_when_it_has_failed_does_not_say_that_it_bills(mine):
    with mine.fault("no-capacity"), pytest.raises(errors.CapacityError):
        bring_up(mine)
    said = str(deployment.interrupted(mine, name_of(mine)))
    assert "has failed: run 03_deploy_endpoint again" in said
    assert "bills" not in said
