from dataclasses import replace
from itertools import count

import pytest
import rehearsing

from helpers import cleanup, endpoint, recipes, resources
from helpers.errors import EndpointError
from helpers.session import open_session

NUMBER = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with rehearsing.server(tmp_path_factory.mktemp("cleanup")) as running:
        yield running


@pytest.fixture(scope="module")
def shared(server):
    """One session: its clients, slow to make, serve all participants."""
    return open_session()


@pytest.fixture
def session(shared):
    """A participant of the test's own."""
    return participant(shared, f"p{next(NUMBER)}")


@pytest.fixture
def refused(session):
    """The same session, whose AWS is about to refuse something."""
    yield session
    rehearsing.restore()


def participant(shared, name):
    session = replace(shared, participant=name)
    session._clients = shared._clients
    return session


def deploy(session, name="llama-3-8b"):
    return endpoint.deploy(session, recipes.get(name), role=session.role())


def test_leftovers_say_what_bills(session):
    made = deploy(session)
    left = cleanup.leftovers(session)
    assert list(left["kind"]) == ["endpoint", "endpoint configuration", "model"]
    assert set(left["name"]) == {made.name}
    assert list(left["bills?"]) == ["yes", "no", "no"]
    assert left["created"].str.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC").all()
    cleanup.delete(session)
    assert list(cleanup.leftovers(session).columns) == list(left.columns)
    assert cleanup.leftovers(session).empty


def test_deleting_leaves_nothing_and_says_what_it_cost(session, capsys):
    made = endpoint.wait(session, deploy(session))
    deleted = cleanup.delete(session)
    assert list(deleted["kind"]) == ["endpoint", "endpoint configuration", "model"]
    assert set(deleted["result"]) == {"deleted"}
    assert float(deleted["hours"][0]) > 0.1
    assert cleanup.leftovers(session).empty
    capsys.readouterr()
    cost = cleanup.bill(session, deleted)
    assert cost == pytest.approx(float(deleted["hours"][0]) * 0.99, abs=0.02)
    assert capsys.readouterr().out == (
        f"{made.name}: {deleted['hours'][0]} h, ${cost:.2f} [rehearsal]\n"
    )


def test_deleting_twice_is_safe(session, capsys):
    made = deploy(session)
    cleanup.delete(session)
    again = cleanup.delete(session)
    assert again.empty
    assert cleanup.bill(session, again) == 0
    assert "nothing was billed" in capsys.readouterr().out
    named = cleanup.delete(session, name=made.name)
    assert set(named["result"]) == {"was not there"}


def test_one_of_several_can_be_deleted_by_name(session):
    small, large = deploy(session), deploy(session, "llama-3-70b")
    cleanup.delete(session, name=small.name)
    assert set(cleanup.leftovers(session)["name"]) == {large.name}
    assert endpoint.find(session).name == large.name
    cleanup.delete(session)


def test_halves_of_a_deployment_are_found_too(session):
    made = deploy(session)
    endpoint.remove(session, made.name)
    resources.delete(session, resources.CONFIG, made.name)
    assert list(cleanup.leftovers(session)["kind"]) == ["model"]
    assert list(cleanup.delete(session)["result"]) == ["deleted"]


def test_one_failure_does_not_stop_the_others(session, refused):
    deploy(session)
    rehearsing.refuse(refused, "DeleteEndpointConfig", "AccessDeniedException", "no")
    deleted = cleanup.delete(refused).set_index("kind")["result"]
    assert deleted["endpoint"] == deleted["model"] == "deleted"
    assert "not allowed to call DeleteEndpointConfig" in deleted["endpoint configuration"]
    rehearsing.restore()
    assert list(cleanup.leftovers(session)["kind"]) == ["endpoint configuration"]
    cleanup.delete(session)


def test_an_endpoint_that_cannot_be_deleted_says_so_and_is_not_billed_as_gone(session, refused):
    deploy(session)
    rehearsing.refuse(refused, "DeleteEndpoint", "AccessDeniedException", "no")
    deleted = cleanup.delete(refused)
    assert deleted["result"][0].startswith("failed: ")
    assert deleted["cost ($)"][0] == ""
    rehearsing.restore()
    cleanup.delete(session)


def test_an_endpoint_without_configuration_is_deleted_without_a_price(session):
    made = deploy(session)
    resources.delete(session, resources.CONFIG, made.name)
    deleted = cleanup.delete(session)
    assert deleted["result"][0] == "deleted, its price is unknown"
    assert cleanup.leftovers(session).empty


def test_when_sagemaker_cannot_be_asked_it_is_one_sentence(refused):
    rehearsing.refuse(refused, "ListModels", "AccessDeniedException", "no")
    with pytest.raises(EndpointError, match="The models in us-east-1 cannot be listed"):
        cleanup.leftovers(refused)


def test_many_participants_share_an_account(shared):
    sessions = [participant(shared, f"guest-{n}") for n in range(12)]
    made = [deploy(session).name for session in sessions]
    assert len(set(made)) == 12
    cleanup.delete(sessions[0])
    assert cleanup.leftovers(sessions[0]).empty
    for session in sessions[1:]:
        assert len(cleanup.leftovers(session)) == 3
        cleanup.delete(session)
