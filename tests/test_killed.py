"""A SIGKILL anywhere, and the same again: the endpoint is up once, or nothing is left.

The points are the calls to AWS, as they are seen on the wire, and each is met twice: before a call
is sent, and when AWS has carried it out and nobody has read the answer. Each killed process is a
fork of this one, which has the SDK imported already.
"""

import os
import signal
import traceback
import warnings
from dataclasses import replace
from itertools import count, zip_longest

import pytest
import rehearsing

from helpers import container_log, deployed, deployment, endpoint, guard, recipes, resources
from helpers.session import open_session

SMALL = recipes.get("llama-3-8b")
SPEED = 18_000  # a start-up takes 30 ms
TTL_H = 20_000
NUMBER = count(1)

# Every call of a deployment, in the order in which each is first made, and of a removal.
DEPLOYING = [
    "sagemaker.DescribeEndpoint",
    "iam.GetRole",
    "scheduler.UpdateSchedule",
    "scheduler.CreateScheduleGroup",
    "scheduler.CreateSchedule",
    "cloudwatch-logs.CreateLogGroup",
    "cloudwatch-logs.PutRetentionPolicy",
    "sagemaker.DeleteEndpointConfig",
    "sagemaker.DeleteModel",
    "sagemaker.CreateModel",
    "sagemaker.DescribeModel",
    "sagemaker.CreateEndpointConfig",
    "sagemaker.DescribeEndpointConfig",
    "sagemaker.CreateEndpoint",
    "scheduler.GetSchedule",
    "sagemaker.ListTags",
]
REMOVING = [
    "sagemaker.DescribeEndpoint",
    "sagemaker.DeleteEndpoint",
    "sagemaker.DeleteEndpointConfig",
    "sagemaker.DeleteModel",
    "cloudwatch-logs.DeleteLogGroup",
    "scheduler.DeleteSchedule",
    "scheduler.ListSchedules",
    "scheduler.DeleteScheduleGroup",
]
LAST = "after scheduler.DeleteSchedule"
# A call that only reads leaves the same before and after.
READING = ("Describe", "Get", "List")


def points(calls):
    """`before` and `after` each call; only `before` one that changes nothing."""
    return [
        f"{moment} {call}"
        for call in calls
        for moment in ("before", "after")
        if moment == "before" or not call.partition(".")[2].startswith(READING)
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


def participant(shared):
    mine = replace(shared, participant=f"k{next(NUMBER)}")
    mine._clients = shared._clients
    return mine


def name_of(session):
    return resources.name_of(session.participant, SMALL.name)


def deploy(session):
    role = "arn:aws:iam::123456789012:role/inf2-workshop-execution"
    made = endpoint.deploy(session, SMALL, role=role, hf_token="hf_of_nobody", ttl_h=TTL_H)
    return endpoint.wait(session, made)


def remove(session):
    deployment.undo(session, name_of(session))


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
    """What the participant has: endpoints by status, configurations, models, schedules, logs."""
    logs = session.client("logs").describe_log_groups(
        logGroupNamePrefix=container_log.LOG_GROUP.format(name=name_of(session))
    )
    return {
        "endpoints": [one.status for one in resources.of_participant(session, resources.ENDPOINT)],
        "configurations": len(resources.of_participant(session, resources.CONFIG)),
        "models": len(resources.of_participant(session, resources.MODEL)),
        "schedules": [one.name for one in guard.schedules(session)],
        "logs": len(logs["logGroups"]),
    }


def is_guarded(session):
    due = guard.expiry(session, name_of(session))
    return due is not None and due > session.clock.now()


def test_these_are_the_calls_of_a_deployment_and_of_a_removal(session):
    assert calls_of(session, deploy)[: len(DEPLOYING)] == DEPLOYING
    assert calls_of(session, remove) == REMOVING
    assert len(points(DEPLOYING)) >= 20


@pytest.mark.parametrize(
    ("deploying", "removing"),
    list(
        zip_longest(points(DEPLOYING), points(REMOVING), fillvalue="after scheduler.DeleteSchedule")
    ),
)
def test_a_kill_at_any_point_ends_with_one_endpoint_or_with_nothing(session, deploying, removing):
    kill(session, deploy, deploying)
    if deployed.status_of(session, name_of(session)):
        assert is_guarded(session)  # nobody may come back
    deploy(session)
    assert there(session) == {
        "endpoints": ["InService"],
        "configurations": 1,
        "models": 1,
        "schedules": [name_of(session)],
        "logs": 1,
    }
    assert is_guarded(session)
    kill(session, remove, removing)
    if deployed.status_of(session, name_of(session)) in ("Creating", "InService"):
        assert is_guarded(session)
    remove(session)
    left = there(session)
    assert not any(left.values()), left
