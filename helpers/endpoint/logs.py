"""What an endpoint's container has written, and what it is doing according to that."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from helpers import hub
from helpers.resources import LOG_GROUPS
from helpers.session import Session, reason

LOG_GROUP = f"{LOG_GROUPS}{{name}}"
RETENTION_DAYS = 30
_STREAMS = 4  # of the latest instances
WAITING = "waiting for the machine"
# What a line of the log means, in the order of a start-up. The words are those of TGI's launcher
# (text-generation-inference 2.0 to 3.3), vLLM's server (0.10, 0.11) and the rehearsal.
_STAGES = (
    ("starting the container", re.compile(".")),
    ("downloading the weights", re.compile("download|fetching", re.IGNORECASE)),
    ("loading the model", re.compile("loading|shard", re.IGNORECASE)),
    ("warming up", re.compile("warm", re.IGNORECASE)),
    ("about to answer", re.compile("connected|startup complete", re.IGNORECASE)),
)


def container_log(
    session: Session, name: str, *, lines: int = 20, since: datetime | None = None
) -> list[str]:
    """The last lines the endpoint's container wrote, oldest first; empty without a log.

    Args:
        session: The workshop's session.
        name: The endpoint.
        lines: How many at most.
        since: Leave out what is older, of an earlier endpoint of that name for example.
    """
    try:
        return [text for _, text in _events(session, name, lines=lines, since=since)]
    except (ClientError, BotoCoreError) as error:
        return [f"(the log {LOG_GROUP.format(name=name)} cannot be read: {reason(error)})"]


def read_until(session: Session, name: str, *, since: datetime, until: datetime) -> list[str]:
    """The last 100 lines up to a moment, oldest first; empty when the log cannot be read."""
    try:
        events = _events(session, name, lines=100, since=since, until=until)
    except (ClientError, BotoCoreError):
        return []
    return [text for _, text in events]


def stage(lines: Sequence[str]) -> str:
    """How far a start-up has come, in words, from what the container wrote so far."""
    reached = WAITING
    for words, pattern in _STAGES:
        if any(pattern.search(line) for line in lines):
            reached = words
    return reached


def make_group(session: Session, name: str, tags: Mapping[str, str]) -> None:
    """Make an endpoint's log group beforehand: the one that SageMaker makes has no tags.

    It is kept for 30 days. Where it may not be made, SageMaker makes it.
    """
    logs, group = session.client("logs"), LOG_GROUP.format(name=name)
    try:
        try:
            logs.create_log_group(logGroupName=group, tags=dict(tags))
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceAlreadyExistsException":
                raise
            tag_group(session, name, tags)
        logs.put_retention_policy(logGroupName=group, retentionInDays=RETENTION_DAYS)
    except (ClientError, BotoCoreError) as error:
        session.say(f"The log group {group} could not be prepared: {reason(error)}")


def tag_group(session: Session, name: str, tags: Mapping[str, str]) -> None:
    """Give an endpoint's log group tags, if it is there and that is allowed."""
    partition = session.boto.get_partition_for_region(session.region)
    group = LOG_GROUP.format(name=name)
    arn = f"arn:{partition}:logs:{session.region}:{session.account}:log-group:{group}"
    with contextlib.suppress(ClientError, BotoCoreError):
        session.client("logs").tag_resource(resourceArn=arn, tags=dict(tags))


def remove_group(session: Session, name: str) -> None:
    """Delete an endpoint's log group, if it is there and that is allowed."""
    with contextlib.suppress(ClientError, BotoCoreError):
        session.client("logs").delete_log_group(logGroupName=LOG_GROUP.format(name=name))


def _events(
    session: Session,
    name: str,
    *,
    lines: int,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[tuple[datetime, str]]:
    logs, group = session.client("logs"), LOG_GROUP.format(name=name)
    limits = {"startTime": _ms(since)} if since else {}
    limits |= {"endTime": _ms(until)} if until else {}
    events: list[dict[str, Any]] = []
    try:
        streams = logs.describe_log_streams(
            logGroupName=group, orderBy="LastEventTime", descending=True
        )["logStreams"]
        for stream in streams[:_STREAMS]:
            events += logs.get_log_events(
                logGroupName=group,
                logStreamName=stream["logStreamName"],
                limit=lines,
                startFromHead=False,
                **limits,
            )["events"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return []
        raise
    events.sort(key=lambda event: event["timestamp"])
    return [
        (datetime.fromtimestamp(event["timestamp"] / 1000, UTC), _text(event))
        for event in events[-lines:]
    ]


def _text(event: Mapping[str, Any]) -> str:
    return hub.redact(event["message"].rstrip())


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
