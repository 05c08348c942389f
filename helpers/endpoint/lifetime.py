"""A time to live for endpoints: a schedule inside AWS deletes them, also when the laptop is closed.

Each endpoint has a one-time schedule of EventBridge Scheduler of its own name, in a group that
carries the participant's tags (schedules cannot). It is there before the endpoint is. Whoever
changes it changes its owner's, whom the endpoint's tag names.
"""

import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from helpers import resources
from helpers.endpoint import deployed, logs
from helpers.endpoint.deployed import Endpoint
from helpers.errors import GuardError, WorkshopError
from helpers.resources import KINDS, PREFIX, WORKSHOP
from helpers.session import Session, in_utc, reason
from helpers.settings import PYTHON

DEFAULT_TTL_H = 4.0  # a full pass on AWS takes two hours
LONGEST_H = 24 * 365 * 20.0  # a fast rehearsal needs many: see `aws_hours`
TARGET = "arn:{partition}:scheduler:::aws-sdk:sagemaker:deleteEndpoint"
# AWS refuses to delete an endpoint while it is `Creating` or `Updating`, so the schedule has to
# try for longer than that lasts. These are the most there is ("EventBridge Scheduler API
# reference", RetryPolicy, 2026-11). That it also tries again after a ValidationException, which
# that refusal is, stands there for "the request fails" in general [unverified].
RETRY_POLICY = {"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185}
_SOONEST_S = 600  # until what is put back late is due: AWS refuses a schedule of the past
_TRIES, _PAUSE_S = 24, 5.0  # a group that is being deleted is waited for, two minutes of AWS time


def group_of(session: Session) -> str:
    """The name of the participant's schedule group."""
    return f"{PREFIX}-{session.participant}"


def aws_hours(session: Session, hours: float | None) -> float | None:
    """The hours that pass on AWS in so many of the reader's, None for None.

    They are the same on AWS; a rehearsal's clock runs ahead, and reading takes as long as ever.
    """
    return None if hours is None else hours * session.clock.speed


# --- One endpoint's time to live ------------------------------------------------------------


def expiry(session: Session, name: str) -> datetime | None:
    """When an endpoint deletes itself, AWS time; None when nothing will delete it.

    Whosever schedule does it: the first counts. It is in the past while AWS has not succeeded yet.

    Raises:
        GuardError: When the scheduler cannot be asked.
    """
    dues = [_due_in(session, group, name) for group in _groups_with(session, name)]
    return min(filter(None, dues), default=None)


def _groups_with(session: Session, name: str) -> list[str]:
    """The participant's schedule group, and every other one with a schedule of that name."""
    try:
        return list(dict.fromkeys([group_of(session), *resources.groups_with(session, name)]))
    except (ClientError, BotoCoreError) as error:
        problem = reason(error)
    raise GuardError(f"The schedules of {name} cannot be listed: {problem}")


def _due_in(session: Session, group: str, name: str) -> datetime | None:
    try:
        told = session.client("scheduler").get_schedule(GroupName=group, Name=name)
    except (ClientError, BotoCoreError) as error:
        if resources.is_missing(error):
            return None
        problem = reason(error)
    else:
        return resources.moment(told)
    raise GuardError(f"The time to live of {name} cannot be read: {problem}")


def of_owner(session: Session, owner: str) -> Session:
    """The session as another participant's, whose schedule is meant; with the same clients."""
    theirs = replace(session, participant=owner)
    theirs._clients = session._clients
    return theirs


def owner_of(session: Session, endpoint: Endpoint) -> str:
    """Whose an endpoint is: by its tag, else by its name; the participant's where neither tells."""
    return endpoint.participant or resources.participant_in(endpoint.name) or session.participant


def _to_change(session: Session, name: str | None) -> tuple[Session, Endpoint]:
    """An endpoint, and the session in which its time to live may be changed: its owner's.

    Raises:
        EndpointMissing: When there is no such endpoint.
        GuardError: When it is another's, and one may not change it.
    """
    endpoint = deployed.find(session, name)
    owner = owner_of(session, endpoint)
    if owner == session.participant:
        return session, endpoint
    # Policies tell endpoints apart by this tag, and schedules, which have none, not at all: who
    # may not write it again may not end or prolong the endpoint either.
    try:
        told = resources.describe(session, resources.ENDPOINT, endpoint.name) or {}
        session.client("sagemaker").add_tags(
            ResourceArn=told["EndpointArn"], Tags=[{"Key": "participant", "Value": owner}]
        )
    except (ClientError, BotoCoreError, KeyError) as error:
        problem = reason(error)
    else:
        session.say(f"{endpoint.name} is {owner}'s, and you are {session.participant}.")
        return of_owner(session, owner), endpoint
    raise GuardError(
        f"{endpoint.name} is {owner}'s, and how long it lives is for {owner} or an instructor to "
        f"say: {problem}"
    )


def protect(session: Session, name: str, *, hours: float, recipe_name: str) -> datetime:
    """Let AWS delete an endpoint so many hours from now, whatever was scheduled before.

    It may be called before the endpoint is there.

    Args:
        session: The workshop's session.
        name: The endpoint.
        hours: Hours of AWS time.
        recipe_name: The recipe, for whoever finds the schedule.

    Returns:
        When it is due, AWS time.

    Raises:
        GuardError: When it cannot be scheduled.
        SessionError: When there is no role for the scheduler.
    """
    expires = in_hours(session, hours, never="ttl_h=None for none")
    _put(session, name, expires, recipe_name)
    return expires


def keep(session: Session, name: str, *, hours: float, recipe_name: str) -> datetime:
    """The time at which an endpoint that is there deletes itself; `protect` it when there is none.

    What is scheduled stays, be it earlier or later: `extend` is how it changes.

    Raises:
        GuardError: When it cannot be scheduled.
        SessionError: When there is no role for the scheduler.
    """
    due = expiry(session, name)
    if due and due > session.clock.now():
        return due
    due = protect(session, name, hours=hours, recipe_name=recipe_name)
    _tag(session, name, due)
    return due


def mend(session: Session, endpoint: Endpoint) -> datetime | None:
    """Put back the schedule of an endpoint that is to have one and has none; says so.

    A clean-up elsewhere may take the schedule of a deployment that has just begun. What was to be
    stands in the endpoint's tag, which `cancel` changes.

    Returns:
        When it deletes itself, None when nothing will delete it.

    Raises:
        GuardError: When the scheduler cannot be asked, or the schedule cannot be put back.
        SessionError: When there is no role for the scheduler.
    """
    due, wanted = (
        _due_in(session, group_of(session), endpoint.name),
        resources.expires_in({"expires": endpoint.expires}),
    )
    is_anothers = owner_of(session, endpoint) != session.participant
    if due or not wanted or is_anothers or endpoint.status == "Deleting":
        return due
    soonest = (session.clock.now() + timedelta(seconds=_SOONEST_S)).replace(microsecond=0)
    due = max(wanted, soonest)
    _put(session, endpoint.name, due, endpoint.recipe_name)
    session.say_measured(
        f"The time to live of {endpoint.name} was gone and is there again: it {when(session, due)}"
    )
    return due


def extend(session: Session, name: str | None = None, *, hours: float) -> datetime | None:
    """Let an endpoint live for at least so many hours from now on; says when it deletes itself.

    It never shortens: an expiry that is later stays. An endpoint that is to have no time to live
    is left alone: `limit` gives it one. Another's is its owner's to extend, or an instructor's.

    Args:
        session: The workshop's session.
        name: The endpoint; left out, the only one the participant has.
        hours: Hours of AWS time.

    Returns:
        When it deletes itself, AWS time; None when nothing will delete it.

    Raises:
        EndpointMissing: When there is no such endpoint.
        GuardError: When it cannot be scheduled, or is another's and may not be changed.
    """
    wanted = in_hours(session, hours, never="guard.cancel, or --cancel, for none")
    session, endpoint = _to_change(session, name)
    due = expiry(session, endpoint.name)
    if due is None and not resources.expires_in({"expires": endpoint.expires}):
        session.say(
            f"{endpoint.name} has no time to live, and an extension gives it none: guard.limit, or "
            f"`{PYTHON} -m helpers.guard --limit HOURS`, does."
        )
        return None
    if due and due >= wanted:
        session.say_measured(
            f"{endpoint.name} {when(session, due)}, unchanged: that is later than you ask for"
        )
        return due
    return _limited(session, endpoint, wanted)


def limit(session: Session, name: str | None = None, *, hours: float) -> datetime:
    """Let AWS delete an endpoint so many hours from now, be that earlier or later than it was.

    Args:
        session: The workshop's session.
        name: The endpoint; left out, the only one the participant has.
        hours: Hours of AWS time.

    Returns:
        When it deletes itself, AWS time.

    Raises:
        EndpointMissing: When there is no such endpoint.
        GuardError: When it cannot be scheduled, or is another's and may not be changed.
    """
    wanted = in_hours(session, hours, never="guard.cancel, or --cancel, for none")
    return _limited(*_to_change(session, name), wanted)


def _limited(session: Session, endpoint: Endpoint, due: datetime) -> datetime:
    _put(session, endpoint.name, due, endpoint.recipe_name)
    for group in _groups_with(session, endpoint.name):
        if group != group_of(session):  # one that somebody else has made
            _delete(session, endpoint.name, group)
    _tag(session, endpoint.name, due)
    session.say_measured(f"{endpoint.name} {when(session, due)}")
    return due


def cancel(session: Session, name: str | None = None) -> None:
    """Let an endpoint live, and bill, until somebody deletes it; says so.

    Raises:
        EndpointMissing: When there is no such endpoint.
        GuardError: When the schedule cannot be deleted, or is another's and may not be.
    """
    asking = session
    session, endpoint = _to_change(asking, name)
    groups = _groups_with(session, endpoint.name)
    had_one = any([_delete(session, endpoint.name, group) for group in groups])
    _tag(session, endpoint.name, None)
    price = f"${endpoint.price_per_hour:.2f} an hour" if endpoint.price_per_hour else "by the hour"
    had = "has no time to live any more" if had_one else "had no time to live"
    who = "you run" if session is asking else f"{session.participant} runs"
    session.say(f"{endpoint.name} {had}: it bills {price} until {who} 08_clean_up.")


def in_hours(session: Session, hours: float, *, never: str = "None for none") -> datetime:
    """The moment so many hours of AWS time from now, to the second.

    Args:
        session: The workshop's session.
        hours: Hours of AWS time.
        never: How the caller says that there is to be no time to live.

    Raises:
        GuardError: When that is no time to live.
    """
    is_number = isinstance(hours, int | float) and not isinstance(hours, bool)
    if not is_number or not 0 < hours <= LONGEST_H:
        raise GuardError(
            f"A time to live is a number of hours, more than 0 and at most {LONGEST_H:g}, not "
            f"{hours!r}: give one such as {DEFAULT_TTL_H:g}, or {never}."
        )
    return (session.clock.now() + timedelta(hours=hours)).replace(microsecond=0)


def when(session: Session, due: datetime | None) -> str:
    """When something deletes itself, as the end of a sentence about it."""
    if due is None:
        return "has no time to live: it bills until you delete it"
    left_h = (due - session.clock.now()).total_seconds() / 3600
    if left_h <= 0:
        return f"should have deleted itself at {in_utc(due)}: AWS goes on trying"
    yours = "" if session.clock.speed == 1 else f" ({left_h / session.clock.speed:.1f} h of yours)"
    return f"deletes itself at {in_utc(due)}, in {left_h:.1f} h{yours}"


# --- Clean-up -------------------------------------------------------------------------------


def remove(session: Session, name: str) -> bool:
    """Delete an endpoint's schedule, and the group with the last one; False without a schedule.

    To be called when the endpoint is gone, not before: it is what ends the bill otherwise. Where
    one of the name is there afterwards, made elsewhere meanwhile, its schedule is put back.

    Raises:
        GuardError: When it cannot be deleted, or put back.
        EndpointError: When SageMaker cannot be asked.
    """
    had_one = _delete(session, name, group_of(session))
    remove_group(session)
    there = deployed.peek(session, name)
    if there and there.bills:
        mend(session, there)
    return had_one


def remove_group(session: Session) -> bool:
    """Delete the participant's schedule group when it is empty; False when it is not, or not there.

    AWS deletes with it what has been scheduled in it meanwhile: that is put back.

    Raises:
        GuardError: When it cannot be deleted, or what it held cannot be put back.
        EndpointError: When SageMaker cannot be asked.
    """
    client, group = session.client("scheduler"), group_of(session)
    try:
        if client.list_schedules(GroupName=group, MaxResults=1)["Schedules"]:
            return False
        client.delete_schedule_group(Name=group)
    except (ClientError, BotoCoreError) as error:
        if resources.is_missing(error):
            return False
        problem = reason(error)
    else:
        _mend_all(session)
        return True
    raise GuardError(f"The schedule group {group} cannot be deleted: {problem}")


def _mend_all(session: Session) -> None:
    for one in resources.of_participant(session, resources.ENDPOINT):
        there = deployed.peek(session, one.name)
        if there and there.bills:
            mend(session, there)


# --- The scheduler --------------------------------------------------------------------------


def _put(session: Session, name: str, expires: datetime, recipe_name: str) -> None:
    """Make the one schedule of an endpoint, or move it."""
    partition = session.boto.get_partition_for_region(session.region)
    given = {
        "Name": name,
        "GroupName": group_of(session),
        "Description": f"Workshop {WORKSHOP}, participant {session.participant}, recipe "
        f"{recipe_name or 'unknown'}: deletes the endpoint at the end of its time to live.",
        "ScheduleExpression": f"at({expires.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%S')})",
        "ScheduleExpressionTimezone": "UTC",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "State": "ENABLED",
        "Target": {
            "Arn": TARGET.format(partition=partition),
            "RoleArn": session.scheduler_role(),
            "Input": json.dumps({"EndpointName": name}),
            "RetryPolicy": RETRY_POLICY,
        },
    }
    try:
        _update_or_create(session, given)
        return
    except (ClientError, BotoCoreError) as error:
        problem = reason(error)
    raise GuardError(
        f"The time to live of {name} cannot be scheduled: {problem} Nothing bills without one "
        "unless you deploy with ttl_h=None."
    )


def _update_or_create(session: Session, given: dict[str, Any]) -> None:
    """Whichever it takes, also while somebody else makes or deletes the same."""
    client = session.client("scheduler")
    for attempt in range(_TRIES):
        last = attempt == _TRIES - 1
        try:
            client.update_schedule(**given)
            return
        except ClientError as error:
            if not resources.is_missing(error):
                raise
        try:
            _make_group(session)
            client.create_schedule(**given)
            return
        except ClientError as error:
            if last or error.response["Error"]["Code"] not in (
                "ConflictException",
                "ResourceNotFoundException",
            ):
                raise
        session.clock.sleep(_PAUSE_S)


def _make_group(session: Session) -> None:
    tags = {"workshop": WORKSHOP, "participant": session.participant}
    try:
        session.client("scheduler").create_schedule_group(
            Name=group_of(session),
            Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ConflictException":
            raise


def _delete(session: Session, name: str, group: str) -> bool:
    try:
        session.client("scheduler").delete_schedule(GroupName=group, Name=name)
        return True
    except (ClientError, BotoCoreError) as error:
        if resources.is_missing(error):
            return False
        problem = reason(error)
    raise GuardError(f"The schedule {name} cannot be deleted: {problem}")


def _tag(session: Session, name: str, expires: datetime | None) -> None:
    """Let the tags say it too, as far as they may be written: the schedule is what counts."""
    tags = {"expires": resources.tags(session, "", expires=expires)["expires"]}
    for kind in KINDS:
        with contextlib.suppress(ClientError, BotoCoreError, WorkshopError):
            told = resources.describe(session, kind, name) or {}
            session.client("sagemaker").add_tags(
                ResourceArn=told[f"{kind.member}Arn"],
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            )
    logs.tag_group(session, name, tags)
