"""EventBridge Scheduler: moto keeps the schedules, this module lets them happen, in AWS time.

A schedule's target is a universal one, `arn:aws:scheduler:::aws-sdk:sagemaker:deleteEndpoint`: one
of SageMaker's operations that changes something. It is carried out on the rehearsal's clock, in the
schedule's region, with the permissions that the schedule's role has then, and tried again when it
fails.

Source: "EventBridge Scheduler user guide": schedule types, universal targets, deleting a schedule;
API reference: RetryPolicy.
"""

import hashlib
import json
import logging
import re
from asyncio import wrap_future
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from botocore.model import ServiceModel

from helpers.rehearsal.aws import actions
from helpers.rehearsal.aws.actions import Ask, Place
from helpers.rehearsal.aws.awsjson import AwsError, Service, invalid, parse, validate
from helpers.rehearsal.aws.crontab import Cron, NotOffered
from helpers.rehearsal.aws.services import (
    ACCESS_KEY,
    Services,
    changes,
    without_tokens,
    written_schedule,
)
from helpers.rehearsal.server import Answer, Request
from helpers.rehearsal.timeline import Timeline

log = logging.getLogger(__name__)

Key = tuple[str, str, str]  # region, group, name
Schedule = dict[str, Any]  # as GetSchedule tells it

_DUE = "schedule due"
_TARGET = re.compile(r"arn:[a-z-]+:scheduler:::aws-sdk:([a-z0-9]+):([a-zA-Z]+)")
_AT = re.compile(r"at\((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\)")
_RATE = re.compile(r"rate\(([1-9]\d{0,6}) (minute|hour|day)s?\)")
_UNIT_S = {"minute": 60.0, "hour": 3600.0, "day": 86400.0}
# Of the guide's prefixes of operations that only read, those that SageMaker's have.
_READING = ("get", "describe", "list", "search", "query")
# Between attempts: 1, 2, 4, … s and 8 minutes at most. AWS says "exponential backoff" and no
# numbers; with these, its 185 attempts just fill its 24 hours.
_LONGEST_WAIT_S = 480.0
_LAST_S = 7_258_118_400  # the year 2200, where cron expressions end
_GROUP = re.compile("/schedule-groups/([0-9a-zA-Z-_.]+)")
_NO_ROLE = "The execution role you provide must allow AWS EventBridge Scheduler to assume the role."


class Roles(Protocol):
    """What is asked about a schedule's role."""

    def problem(self, role_arn: str, session: str, asks: Iterable[Ask], *, region: str) -> str:
        """What AWS says when it may not do all of this; else empty."""


class Schedules:
    """The scheduler's front: checks what moto does not, and lets happen what is due.

    Args:
        timeline: When what happens.
        services: Where moto is.
        model: botocore's service model of `scheduler`.
        targets: The services whose operations can be called, by what the SDKs call them.
        account: Twelve digits.
        roles: What schedules' roles may do; None lets them do everything.
    """

    def __init__(
        self,
        timeline: Timeline,
        services: Services,
        *,
        model: ServiceModel,
        targets: Mapping[str, Service],
        account: str,
        roles: Roles | None = None,
    ):
        self._timeline = timeline
        self._services = services
        self._model = model
        self._account = account
        self._roles = roles
        self._operations = {
            f"{service}:{name[0].lower()}{name[1:]}": (target, name)
            for service, target in targets.items()
            for name in target.operations
            if not name.lower().startswith(_READING)
        }
        self._schedules: dict[Key, Schedule] = {}
        timeline.on(_DUE, self._on_due)

    async def answer(self, request: Request) -> Answer:
        """Answer a request that is signed for the scheduler."""
        self._timeline.advance()
        now = self._timeline.clock.time()
        try:
            await self._check(request, now)
        except AwsError as error:
            return error.answer()
        answer = await self._services.answer(request)
        if changes(request) and answer.status < 300:
            self._follow(await wrap_future(self._services.ask(_stored, self._account)), now)
        return answer

    def resume(self) -> None:
        """Take up the schedules of an earlier server; its events are in the timeline already."""
        stored = self._services.ask(_stored, self._account).result()
        coming = {
            (tuple(data["key"]), data["stamp"])
            for _, kind, data in self._timeline.dump()
            if kind == _DUE
        }
        known = {key: one for key, one in stored.items() if (key, one["Stamp"]) in coming}
        self._schedules = known
        self._follow(stored, self._timeline.clock.time())

    # --- what AWS checks and moto does not

    async def _check(self, request: Request, now: float) -> None:
        if match := _GROUP.fullmatch(request.path):
            await self._check_group(request, match[1])
        name = written_schedule(request)
        if name is None:
            return
        given = parse(request.body)
        operation = "CreateSchedule" if request.method == "POST" else "UpdateSchedule"
        shape = self._model.operation_model(operation).input_shape
        validate(shape, {**given, "Name": name})
        window = given["FlexibleTimeWindow"]
        if window["Mode"] == "FLEXIBLE" and "MaximumWindowInMinutes" not in window:
            # [unverified]
            raise invalid("MaximumWindowInMinutes is required when FlexibleTimeWindow is FLEXIBLE.")
        for name in ("StartDate", "EndDate"):
            if not 0 <= given.get(name, 0) < _LAST_S:
                raise invalid(f"{name} is out of range.")  # [unverified]
        if first_due(given, now) is None:
            raise _no_expression(given)
        self._check_target(given["Target"])
        group = given.get("GroupName", "default")
        await self._check_neighbors(request.region, group, given["Target"]["RoleArn"])

    async def _check_group(self, request: Request, name: str) -> None:
        """Refuse what moto does wrong: it makes a group anew, and cannot delete one twice."""
        ask = self._services.ask(_has_group, self._account, request.region, name)
        there = await wrap_future(ask)
        if request.method == "POST" and there:
            message = f"Schedule group {name} already exists."  # [unverified]
            raise AwsError("ConflictException", message, status=409)
        if request.method == "DELETE" and not there:
            message = f"Schedule group {name} does not exist."
            raise AwsError("ResourceNotFoundException", message, status=404)

    def _check_target(self, target: Mapping[str, Any]) -> None:
        match = _TARGET.fullmatch(target["Arn"])
        if match is None or f"{match[1]}:{match[2]}" not in self._operations:
            offered = ", ".join(f"arn:aws:scheduler:::aws-sdk:{one}" for one in self._operations)
            raise invalid(
                f"The rehearsal AWS has no target {target['Arn'][:200]}; it offers {offered}."
            )
        if "DeadLetterConfig" in target:
            raise invalid("The rehearsal AWS has no SQS, and so no DeadLetterConfig.")
        try:
            well_formed = isinstance(json.loads(target.get("Input", "{}")), dict)
        except ValueError:
            well_formed = False
        if not well_formed:
            raise invalid("Input for a universal target must be well-formed JSON.")  # [unverified]

    async def _check_neighbors(self, region: str, group: str, role_arn: str) -> None:
        if not await wrap_future(self._services.ask(_has_group, self._account, region, group)):
            message = f"Schedule group {group} does not exist."
            raise AwsError("ResourceNotFoundException", message, status=404)
        if not self._is_trusted(role_arn, region, group):
            raise invalid(_NO_ROLE)

    def _is_trusted(self, role_arn: str, region: str, group: str) -> bool:
        """Whether a role lets the scheduler assume it for a group.

        User guide, "Confused deputy prevention": aws:SourceArn is the schedule group's.
        """
        source = Place(region, self._account).arn("scheduler", f"schedule-group/{group}")
        return self._services.directory.trusts(role_arn, "scheduler", source)

    # --- what happens

    def _follow(self, stored: dict[Key, Schedule], now: float) -> None:
        """Take notice of what moto has now; events of what it no longer has come to nothing."""
        known, self._schedules = self._schedules, stored
        for key, schedule in stored.items():
            is_new = known.get(key, {}).get("Stamp") != schedule["Stamp"]
            if is_new and schedule["State"] == "ENABLED":
                self._plan(key, schedule, first_due(schedule, now))

    def _plan(self, key: Key, schedule: Schedule, due_s: float | None) -> None:
        if due_s is not None:
            event = {"key": list(key), "stamp": schedule["Stamp"], "due": due_s, "attempt": 0}
            self._timeline.at(due_s, _DUE, **event)

    def _on_due(self, at_s: float, event: dict[str, Any]) -> None:
        region, group, name = key = tuple(event["key"])
        schedule = self._schedules.get(key)
        if schedule is None or schedule["Stamp"] != event["stamp"]:
            return
        next_s = next_due(schedule, event["due"])
        if event["attempt"] == 0:
            self._plan(key, schedule, next_s)
        problem = self._invoke(schedule, region)
        if problem:
            wait_s = min(2.0 ** event["attempt"], _LONGEST_WAIT_S)
            if _may_retry(schedule, event, at_s + wait_s):
                self._timeline.at(at_s + wait_s, _DUE, **{**event, "attempt": event["attempt"] + 1})
                return
            log.warning("The schedule %s gave up: %s", name, problem)
        if next_s is None and schedule["ActionAfterCompletion"] == "DELETE":
            self._services.submit(_deletion(region, group, name))

    def _invoke(self, schedule: Schedule, region: str) -> str | None:
        """Call the target; returns what went wrong."""
        target = schedule["Target"]
        service, operation = self._operations[target["Arn"].partition(":aws-sdk:")[2]]
        if problem := self._denied(schedule, operation, region):
            return f"AccessDeniedException: {problem}"
        answer = service.answer(operation, target.get("Input", "{}").encode(), region=region)
        if answer.status == 200:
            log.info("The schedule %s called %s.", schedule["Name"], operation)
            return None
        told = json.loads(answer.body)
        return f"{told['__type']}: {told['message']}"

    def _denied(self, schedule: Schedule, operation: str, region: str) -> str:
        """What AWS says when the schedule's role may not call its target; else empty."""
        if self._roles is None:
            return ""
        target = schedule["Target"]
        if not self._is_trusted(target["RoleArn"], region, schedule["GroupName"]):
            return _NO_ROLE
        given = json.loads(target.get("Input", "{}"))
        asks = actions.sagemaker(operation, given, Place(region, self._account))
        # What AWS calls the session is [unverified].
        return self._roles.problem(target["RoleArn"], schedule["Stamp"], asks, region=region)


def _may_retry(schedule: Schedule, event: Mapping[str, Any], at_s: float) -> bool:
    policy = schedule["Target"]["RetryPolicy"]
    most = policy.get("MaximumRetryAttempts", 185)
    longest_s = policy.get("MaximumEventAgeInSeconds", 86400)
    return event["attempt"] < most and at_s - event["due"] <= longest_s


# --- when


def first_due(schedule: Mapping[str, Any], now: float) -> float | None:
    """When a schedule is due for the first time (epoch seconds); None when it never is.

    That AWS refuses a one-time schedule of the past is what DefangLabs/pulumi-defang pull request
    425 says; the words for it are [unverified].

    Raises:
        AwsError: When the expression, or its time zone, is none.
    """
    expression = schedule["ScheduleExpression"]
    start_s = max(now, schedule.get("StartDate") or now)
    if _RATE.fullmatch(expression):
        # "If you do not provide a StartDate, your schedule starts invoking the target immediately."
        return _until_end(schedule, start_s)
    zone = _zone(schedule)
    if match := _AT.fullmatch(expression):
        at_s = _moment(match[1], zone, schedule)
        return at_s if at_s > now else None
    return _until_end(schedule, _cron(schedule).after(start_s, zone))


def next_due(schedule: Mapping[str, Any], due_s: float) -> float | None:
    """When a schedule is due after it has been due; None when that was the last time."""
    expression = schedule["ScheduleExpression"]
    if _AT.fullmatch(expression):
        return None
    if match := _RATE.fullmatch(expression):
        return _until_end(schedule, due_s + int(match[1]) * _UNIT_S[match[2]])
    return _until_end(schedule, _cron(schedule).after(due_s, _zone(schedule)))


def _until_end(schedule: Mapping[str, Any], due_s: float | None) -> float | None:
    end_s = schedule.get("EndDate")
    return None if due_s is None or (end_s is not None and due_s > end_s) else due_s


def _moment(text: str, zone: ZoneInfo, schedule: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()
    except (ValueError, OverflowError):
        raise _no_expression(schedule) from None


def _cron(schedule: Mapping[str, Any]) -> Cron:
    expression = schedule["ScheduleExpression"]
    if not (expression.startswith("cron(") and expression.endswith(")")):
        raise _no_expression(schedule)
    try:
        return Cron(expression.removeprefix("cron(").removesuffix(")"))
    except NotOffered as error:
        raise invalid(str(error)) from None
    except ValueError:
        raise _no_expression(schedule) from None


def _zone(schedule: Mapping[str, Any]) -> ZoneInfo:
    name = schedule.get("ScheduleExpressionTimezone") or "UTC"
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        message = f"Invalid Schedule Expression Timezone {name[:50]}."  # [unverified]
        raise invalid(message) from None


def _no_expression(schedule: Mapping[str, Any]) -> AwsError:
    # localstack/localstack issue 9284
    return invalid(f"Invalid Schedule Expression {schedule['ScheduleExpression']}.")


# --- requests


def _deletion(region: str, group: str, name: str) -> Request:
    scope = f"{ACCESS_KEY}/20230802/{region}/scheduler/aws4_request"
    headers = {"host": "127.0.0.1", "authorization": f"AWS4-HMAC-SHA256 Credential={scope}"}
    return Request("DELETE", f"/schedules/{name}", f"groupName={group}", headers, b"")


# --- in moto's thread


def _stored(account: str) -> dict[Key, Schedule]:
    """All schedules, each with a stamp that no other has, nor itself when it has changed."""
    from moto.scheduler.models import scheduler_backends

    stored: dict[Key, Schedule] = {}
    for region, backend in scheduler_backends[account].items():
        for group in backend.schedule_groups.values():
            for schedule in group.schedules.values():
                told = json.loads(json.dumps(schedule.to_dict()))
                text = without_tokens(json.dumps(told, sort_keys=True).encode())
                told["Stamp"] = hashlib.sha256(text).hexdigest()[:16]
                stored[region, group.name, schedule.name] = told
    return stored


def _has_group(account: str, region: str, group: str) -> bool:
    from moto.scheduler.models import scheduler_backends

    return group in scheduler_backends[account][region].schedule_groups
