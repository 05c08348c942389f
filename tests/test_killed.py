"""A SIGKILL anywhere, and the same again: the endpoint is up once, or nothing is left.

The points are the calls to AWS, as they are seen on the wire, and each is met twice: before a call
is sent, and when AWS has carried it out and nobody has read the answer. Each killed process is a
fork of this one, which has the SDK imported already.
"""

import os
import signal
import traceback
import warnings

import pytest
import rehearsing
from rehearsing import participant

from helpers import cleanup, endpoint, guard, recipes, resources
from helpers.endpoint import deployed
from helpers.session import open_session

SMALL = recipes.get("llama-3-8b")
SPEED = 18_000  # a start-up takes 30 ms
TTL_H = 20_000

# Every call of a deployment, in the order in which each is first made, and of a clean-up the
# first one and those that change something.
DEPLOYING = [
    "sagemaker.DescribeEndpoint",
    "sagemaker.DescribeEndpointConfig",
    "sagemaker.DescribeModel",
    "iam.GetRole",
    "scheduler.UpdateSchedule",
    "scheduler.CreateScheduleGroup",
    "scheduler.CreateSchedule",
    "cloudwatch-logs.CreateLogGroup",
    "cloudwatch-logs.PutRetentionPolicy",
    "sagemaker.CreateModel",
    "sagemaker.CreateEndpointConfig",
    "sagemaker.CreateEndpoint",
    "scheduler.ListSchedules",
    "scheduler.GetSchedule",
    "sagemaker.ListTags",
]
# What it calls besides where another deployment has left a model and a configuration.
REPLACING = [
    "sagemaker.DeleteEndpointConfig",
    "sagemaker.DeleteModel",
    "sagemaker.CreateModel",
    "sagemaker.CreateEndpointConfig",
    "sagemaker.CreateEndpoint",
]
REMOVING = [
    "sagemaker.ListEndpoints",
    "sagemaker.DeleteEndpoint",
    "sagemaker.DeleteEndpointConfig",
    "sagemaker.DeleteModel",
    "scheduler.DeleteSchedule",
    "scheduler.DeleteScheduleGroup",
    "cloudwatch-logs.DeleteLogGroup",
]


def reads(call):
    """Whether a call leaves everything as it was, so that there is no `after` it."""
    return call.partition(".")[2].startswith(("Describe", "Get", "List"))


def points(calls):
    """`before` and `after` each call."""
    return [
        f"{moment} {call}"
        for call in calls
        for moment in ("before", "after")
        if moment == "before" or not reads(call)
    ]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with rehearsing.server(tmp_path_factory.mktemp("killed"), speed=SPEED):
        here = open_session()
        first = participant(here)
        deploy(first)  # imports the SDK and makes its clients
        remove(first)
        yield here


@pytest.fixture
def session(shared):
    return participant(shared)


def name_of(session):
    return resources.name_of(session.participant, SMALL.name)


def deploy(session, instance_count=1):
    role = "arn:aws:iam::123456789012:role/inf2-workshop-execution"
    token = "hf_of_nobody" if instance_count == 1 else "hf_of_another"  # in the model
    given = {"hf_token": token, "ttl_h": TTL_H, "instance_count": instance_count}
    made = endpoint.deploy(session, SMALL, role=role, **given)
    return endpoint.wait(session, made)


def remove(session):
    cleanup.delete(session)


def calls_of(session, work):
    """The calls that some work makes, each once, in order."""
    seen = []

    def note(event_name, **_):
        seen.append(event_name.partition(".")[2])

    rehearsing._register(session, "before-send", note)
    try:
        work(session)
    finally:
        rehearsing.restore()
    return list(dict.fromkeys(seen))


def kill(session, work, point):
    """Let a child do some work until it is killed at a point; what it had printed is lost."""
    moment, _, call = point.partition(" ")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks: no thread of this process holds a lock
        child = os.fork()
    if child == 0:
        try:
            for client in clients(session):
                client._endpoint.http_session.close()  # its connections are the parent's
            event = {"before": "before-send", "after": "after-call"}[moment]
            rehearsing._register(
                session, f"{event}.{call}", lambda **_: os.kill(os.getpid(), signal.SIGKILL)
            )
            work(session)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"{point} is no point of this work"


def clients(session):
    return [
        *session._clients.values(),
        *(one.sagemaker_client for one in rehearsing._kept_by_the_sdk(session)),
    ]


def there(session):
    """What the participant has: endpoints by status, and how many of everything else."""
    found, unseen = resources.look(session, session.participant)
    assert not unseen
    return sorted(one.status or one.kind.label for one in found)


def is_guarded(session):
    due = guard.expiry(session, name_of(session))
    return due is not None and due > session.clock.now()


def test_these_are_the_calls_of_a_deployment_and_of_a_removal(session):
    assert calls_of(session, deploy)[: len(DEPLOYING)] == DEPLOYING
    changing = [call for call in calls_of(session, remove) if not reads(call)]
    assert changing == [call for call in REMOVING if not reads(call)]
    assert len(points(DEPLOYING) + points(REMOVING)) >= 20


@pytest.mark.parametrize("point", points(DEPLOYING))
def test_a_deployment_killed_at_any_point_is_up_once_after_another(session, point):
    kill(session, deploy, point)
    if deployed.status_of(session, name_of(session)):
        assert is_guarded(session)  # nobody may come back
    deploy(session)
    assert there(session) == [
        "InService",
        "endpoint configuration",
        "log group",
        "model",
        "schedule",
        "schedule group",
    ]
    assert is_guarded(session)
    session.client("sagemaker").delete_endpoint(EndpointName=name_of(session))  # for the quota


@pytest.mark.parametrize("point", points(REPLACING))
def test_a_deployment_over_leftovers_killed_at_any_point_is_up_once_after_another(session, point):
    deploy(session, instance_count=2)
    session.client("sagemaker").delete_endpoint(EndpointName=name_of(session))
    deployed.wait_until_gone(session, name_of(session))
    kill(session, deploy, point)
    if deployed.status_of(session, name_of(session)):
        assert is_guarded(session)
    assert deploy(session).instance_count == 1
    assert len(there(session)) == 6
    assert is_guarded(session)
    session.client("sagemaker").delete_endpoint(EndpointName=name_of(session))  # for the quota


@pytest.mark.parametrize("point", points(REMOVING))
def test_a_clean_up_killed_at_any_point_leaves_nothing_after_another(session, point):
    deploy(session)
    kill(session, remove, point)
    if deployed.status_of(session, name_of(session)) in ("Creating", "InService"):
        assert is_guarded(session)
    remove(session)
    assert there(session) == []
