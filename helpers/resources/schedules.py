"""Schedules of EventBridge Scheduler, and their groups."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from helpers.errors import EndpointError
from helpers.resources.kind import ASKED, ERRORS, Found, Kind, by_key, is_missing
from helpers.resources.names import PREFIX, participant_in
from helpers.session import Session, reason

_AT = re.compile(r"at\((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\)")


def moment(told: Mapping[str, Any]) -> datetime | None:
    """When a one-time schedule happens, as GetSchedule tells it; None when it does not."""
    at = _AT.fullmatch(told["ScheduleExpression"])
    if not at or told.get("State") != "ENABLED":
        return None
    return datetime.fromisoformat(at[1]).replace(tzinfo=UTC)


class _Schedule(Kind):
    """Schedules, which cannot carry tags: their group does."""

    def listed(self, session, prefix):
        # Also what is in such a group under another's name: the group cannot go before it.
        chosen = {"NamePrefix": f"{PREFIX}-"} if prefix else {}
        for one in self.all(session, **chosen):
            if one.name.startswith(prefix) or f"{self.group(one)}-".startswith(prefix):
                yield one

    def all(self, session: Session, **chosen: str) -> Iterator[Found]:
        """Those that ListSchedules gives."""
        pages = session.client("scheduler").get_paginator("list_schedules")
        for page in pages.paginate(**chosen):
            for one in page["Schedules"]:
                status = "" if one["State"] == "ENABLED" else one["State"].lower()
                created = one["CreationDate"]
                yield Found(self, one["Name"], one["Arn"], session.region, created, status)

    def tags(self, session, found):
        if not self._participant(found):
            return {}  # of the default group, which has none
        client = session.client("scheduler")
        return by_key(client.list_tags_for_resource(ResourceArn=self.tagged(found))["Tags"])

    def delete(self, session, found):
        session.client("scheduler").delete_schedule(Name=found.name, GroupName=self.group(found))
        return ASKED

    def is_there(self, session, found):
        session.client("scheduler").get_schedule(Name=found.name, GroupName=self.group(found))
        return True

    def tagged(self, found):
        account = found.arn.rpartition(":schedule/")[0]
        return f"{account}:schedule-group/{self.group(found)}"

    def owner(self, found):
        return self._participant(found) or participant_in(found.name)

    def group(self, found: Found) -> str:
        """The schedule group that it is in."""
        return found.arn.rpartition(":schedule/")[2].partition("/")[0]

    def due(self, session: Session, found: Found) -> datetime | None:
        """When a one-time schedule happens, None when it is disabled or not for one time."""
        told = session.client("scheduler").get_schedule(
            Name=found.name, GroupName=self.group(found)
        )
        return moment(told)

    def _participant(self, found: Found) -> str:
        group = self.group(found)
        return group.removeprefix(f"{PREFIX}-") if group.startswith(f"{PREFIX}-") else ""


class _ScheduleGroup(Kind):
    """Schedule groups, one a participant."""

    def listed(self, session, prefix):
        pages = session.client("scheduler").get_paginator("list_schedule_groups")
        named = prefix.removesuffix("-")
        for page in pages.paginate(**({"NamePrefix": named} if named else {})):
            for one in page["ScheduleGroups"]:
                begins = f"{one['Name']}-".startswith(prefix) and one["Name"] != "default"
                if begins and one["State"] != "DELETING":
                    yield Found(
                        self, one["Name"], one["Arn"], session.region, one.get("CreationDate")
                    )

    def tags(self, session, found):
        client = session.client("scheduler")
        return by_key(client.list_tags_for_resource(ResourceArn=found.arn)["Tags"])

    def delete(self, session, found):
        session.client("scheduler").delete_schedule_group(Name=found.name)
        return ASKED

    def is_there(self, session, found):
        # It stays for a while as DELETING (user guide, "Deleting a schedule group").
        told = session.client("scheduler").get_schedule_group(Name=found.name)
        return told["State"] != "DELETING"

    def deployment(self, found):
        return ""

    def owner(self, found):
        return found.name.removeprefix(f"{PREFIX}-")


SCHEDULE = _Schedule("schedule", "scheduler", "schedule/")
SCHEDULE_GROUP = _ScheduleGroup("schedule group", "scheduler", "schedule-group/")


def due(session: Session, schedule: Found) -> datetime | None:
    """When a one-time schedule happens, None when it does not.

    Raises:
        EndpointError: When the scheduler cannot be asked.
    """
    try:
        return SCHEDULE.due(session, schedule)
    except ERRORS as error:
        if is_missing(error):
            return None
        problem = reason(error)
    raise EndpointError(f"The schedule {schedule.name} cannot be looked at: {problem}")


def groups_with(session: Session, name: str) -> list[str]:
    """The workshop's schedule groups in which a schedule of that name is, whosever they are.

    Raises:
        ClientError: When the schedules cannot be listed.
    """
    named = (one for one in SCHEDULE.all(session, NamePrefix=name) if one.name == name)
    return [group for one in named if (group := SCHEDULE.group(one)).startswith(f"{PREFIX}-")]


def schedules_in(session: Session, group: Found) -> list[Found]:
    """The schedules of a schedule group, which go when it goes.

    Raises:
        EndpointError: When the scheduler cannot be asked.
    """
    try:
        return list(SCHEDULE.all(session, GroupName=group.name))
    except ERRORS as error:
        if is_missing(error):
            return []
        problem = reason(error)
    raise EndpointError(f"The schedules in {group.name} cannot be listed: {problem}")
