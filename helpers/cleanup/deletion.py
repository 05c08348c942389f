"""Delete what a view shows, in the order in which it is safe to be interrupted, and verify it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pandas as pd

from helpers import resources
from helpers.cleanup.view import Listing, View, look, say_unseen, table, unclear
from helpers.endpoint import lifetime
from helpers.errors import EndpointError, SettingsError, WorkshopError
from helpers.resources import (
    ABSENT,
    ALL_KINDS,
    ASKED,
    BUSY,
    CONFIG,
    ENDPOINT,
    FAILED,
    KINDS,
    LOG_GROUP,
    MODEL,
    OBJECTS,
    SCALING_TARGET,
    SCHEDULE,
    SCHEDULE_GROUP,
    Found,
    Kind,
)
from helpers.session import Session, in_utc
from helpers.settings import PYTHON

_BUSY_S = 3 * 3600  # an endpoint is created or fails within its health check's hour, and moves
_POLL_S = 5.0
_SOON_H = 0.1  # for a time to live that has passed while its schedule was not there
_LOOKS_ALLOWED_TO_FAIL = 5  # a laptop loses its network now and then
_DELETED = ("deleted", "was not there")
_FAILED = "failed: "
_KEPT = "kept: "
_NOTHING_DONE = "Interrupted: nothing was deleted."


def delete(
    session: Session,
    *,
    name: str | None = None,
    regions: str | Iterable[str] | None = None,
    everyone: bool = False,
    confirm: Callable[[pd.DataFrame], bool] | None = None,
    keep_logs: bool = False,
    keep_weights: bool = False,
) -> pd.DataFrame:
    """Delete everything of the participant, what bills first, and see that it has gone.

    Safe to run twice; when one deletion fails the others still happen. What is another
    participant's is never touched, and what may be only when it is named.

    Args:
        session: The workshop's session.
        name: Delete only the deployment of this name.
        regions: See `look`.
        everyone: What is any participant's, for the instructor; then it does not matter whose.
        confirm: Is shown the table and says whether to go on.
        keep_logs: Leave the containers' logs.
        keep_weights: Leave the weights in the bucket.

    Returns:
        One row for each: kind, name, region, result, and for endpoints hours and cost ($) from
        creation to deletion. With `everyone` the first column is the participant.

    Raises:
        EndpointError: When AWS can be asked in none of the regions, or on an interrupt: says what
            is left.
        SettingsError: When the name is empty.
    """
    check_name(name)
    try:
        view = look(session, regions=regions, everyone=everyone)
    except KeyboardInterrupt:
        raise EndpointError(_NOTHING_DONE) from None
    say_unseen(session, view)
    return delete_seen(
        session,
        view,
        name=name,
        everyone=everyone,
        confirm=confirm,
        kept_kinds=(LOG_GROUP,) * keep_logs + (OBJECTS,) * keep_weights,
    )


def delete_seen(
    session: Session,
    view: View,
    *,
    name: str | None = None,
    everyone: bool = False,
    confirm: Callable[[pd.DataFrame], bool] | None = None,
    kept_kinds: Sequence[Kind] = (),
) -> pd.DataFrame:
    """Delete what a view shows; see `delete`.

    Raises:
        EndpointError: On an interrupt: says what is left.
        SettingsError: When the name is empty.
    """
    check_name(name)
    named = [one for one in view.found if name in (None, one.deployment)]
    chosen = choose(view, name=name, everyone=everyone, kept_kinds=kept_kinds)
    work = _Deletion(session, view, list(chosen), kept_kinds)
    for one in named:
        if one not in chosen and one.kind not in kept_kinds:
            work.results[one] = f"{_KEPT}{unclear(one)}: give its name ({one.deployment})."
    try:
        if chosen and confirm and not confirm(table(session, view, chosen, everyone=everyone)):
            work.results |= dict.fromkeys(chosen, f"{_KEPT}not confirmed.")
        else:
            work.run()
        rows = [_row(work, one) for one in sorted(work.results, key=_in_order(named))]
    except KeyboardInterrupt:
        raise EndpointError(_interrupted(work)) from None
    if name and not named:
        rows = [
            {"kind": kind.label, "name": name, "region": session.region, "result": "was not there"}
            for kind in KINDS
        ]
    columns = ["participant", "kind", "name", "region", "result", "hours", "cost ($)"]
    frame = Listing([dict.fromkeys(columns, "") | one for one in rows], columns=columns)
    return frame if everyone else frame.drop(columns="participant")


def choose(
    view: View,
    *,
    name: str | None = None,
    everyone: bool = False,
    kept_kinds: Sequence[Kind] = (),
) -> list[Found]:
    """What of a view `delete_seen` would delete."""
    return [
        one
        for one in view.found
        if name in (None, one.deployment)
        and one.kind not in kept_kinds
        and (one.owner or name or everyone)
    ]


def bill(session: Session, deleted: pd.DataFrame) -> float:
    """Say what the deleted endpoints cost, at most; returns the sum in $.

    Args:
        session: The workshop's session.
        deleted: What `delete` returned.
    """
    billed = deleted[deleted["cost ($)"] != ""]
    for row in billed.itertuples(index=False):
        session.say_measured(f"{row.name}: {row.hours} h, ${row[-1]}")
    if billed.empty:
        session.say("No endpoint was there: nothing was billed.")
    return float(billed["cost ($)"].astype(float).sum())


def remaining(deleted: pd.DataFrame) -> pd.DataFrame:
    """The rows of what `delete` has left."""
    return deleted[~deleted["result"].str.startswith(_DELETED)]


@dataclass
class _Deletion:
    """The deletion of what a view shows, kind by kind, and what became of each.

    Attributes:
        session: The workshop's session.
        view: What was found.
        chosen: What of it is to be deleted.
        kept_kinds: What is not.
        results: What became of it.
        hours: From an endpoint's creation to its deletion, or until it failed.
        costs: $ that it cost in that time.
        due: When a schedule would have happened.
        begun: Whether a deletion was asked for.
        looks_failed: How often AWS could not say whether something is still there.
    """

    session: Session
    view: View
    chosen: list[Found]
    kept_kinds: Sequence[Kind] = ()
    results: dict[Found, str] = field(default_factory=dict)
    hours: dict[Found, float] = field(default_factory=dict)
    costs: dict[Found, float] = field(default_factory=dict)
    due: dict[Found, datetime | None] = field(default_factory=dict)
    begun: bool = False
    looks_failed: dict[Found, int] = field(default_factory=dict)

    def run(self) -> None:
        """Delete, in the order in which it is safe to be interrupted, and verify each.

        The schedule that guards an endpoint stays until the endpoint has gone.
        """
        for kind in ALL_KINDS:
            if kind is LOG_GROUP and LOG_GROUP not in self.kept_kinds:
                self.chosen += self._late_logs()
            self._delete([one for one in self.chosen if one.kind is kind], kind)

    def left(self) -> list[Found]:
        """What of it is still there, as far as one knows."""
        return [one for one in self.chosen if not self.results.get(one, "").startswith(_DELETED)]

    def _late_logs(self) -> list[Found]:
        """Logs of deleted endpoints that began only after one had looked."""
        known = {(one.region, one.deployment) for one in self.chosen if one.kind is LOG_GROUP}
        late: list[Found] = []
        for one in self.chosen:
            gone = one.kind is ENDPOINT and self.results.get(one, "").startswith(_DELETED)
            if gone and (one.region, one.name) not in known:
                late += resources.logs_of(self.view.sessions[one.region], one)
        return late

    def _delete(self, found: Sequence[Found], kind: Kind) -> None:
        waiting = dict.fromkeys(found, "")
        since_s = dict.fromkeys(found, self._now_s())
        while waiting:
            for one, state in list(waiting.items()):
                waiting[one] = self._step(one, state, since_s)
            waiting = {one: state for one, state in waiting.items() if one not in self.results}
            if waiting:
                self.session.clock.sleep(_POLL_S)

    def _step(self, found: Found, state: str, since_s: dict[Found, float]) -> str:
        """Ask for one deletion, or look what has become of it."""
        session = self.view.sessions[found.region]
        # Immediately before it is asked for: an endpoint may have come while others went.
        if state == "" and (keeping := self._to_keep(found)):
            self.results[found] = f"{_KEPT}{keeping}"
            return state
        try:
            if state != ASKED:
                self.begun = True
                new = resources.ask_to_delete(session, found)
                if new == ABSENT:
                    self.results[found] = self._guard_again(found) or "was not there"
                    return new
                if new == BUSY and state != BUSY:
                    self.session.say(
                        f"The {found.kind.label} {found.name} is being created or changed: AWS "
                        "deletes it once that has ended, waiting."
                    )
                if new == ASKED:
                    since_s[found] = self._now_s()
                state = new
            if state == ASKED and not resources.is_there(session, found):
                self._note_deleted(found)
            else:
                self._give_up(found, state, self._now_s() - since_s[found])
        except EndpointError as error:
            self.looks_failed[found] = self.looks_failed.get(found, 0) + 1
            if state != ASKED or self.looks_failed[found] > _LOOKS_ALLOWED_TO_FAIL:
                self.results[found] = f"{_FAILED}{error}"
        return state

    def _note_deleted(self, found: Found) -> None:
        self.results[found] = "deleted"
        if self.view.is_unseen(found.kind, found.region):
            self.results[found] = "deleted, except what could not be looked at"
        hours = self.view.hours(found) if found.kind is ENDPOINT else None
        if hours is not None:
            self.hours[found], cost = hours, self.view.cost(found)
            if cost is None:
                self.results[found] = "deleted, its price is unknown"
            else:
                self.costs[found] = cost
        if problem := self._guard_again(found):
            self.results[found] = problem

    def _guard_again(self, gone: Found) -> str:
        """What a deleted guard has left without one: a deployment may have come meanwhile."""
        if gone.kind not in (SCHEDULE, SCHEDULE_GROUP):
            return ""
        session = self.view.sessions[gone.region]
        try:
            came = [told for name in self._came(gone) if (told := _up(session, name))]
        except EndpointError as error:
            return f"{_FAILED}whether an endpoint came meanwhile cannot be told: {error}"
        told = [_protect(session, gone, one, self.due.get(gone)) for one in came]
        return next(filter(None, sorted(told)), "")  # `failed` before `kept`

    def _came(self, gone: Found) -> list[str]:
        """The endpoints that a deleted guard may have guarded."""
        if gone.kind is SCHEDULE:
            return [gone.name]
        here = self.view.sessions[gone.region]
        known = {one.arn for one in self._there(ENDPOINT)}
        found, unseen = resources.look(here, gone.owner or None, kinds=(ENDPOINT,), by_tag=False)
        if unseen:
            raise EndpointError(unseen[0].why)
        return [one.name for one in found if one.arn not in known]

    def _give_up(self, found: Found, state: str, waited_s: float) -> None:
        limit_s = _BUSY_S if state == BUSY else found.kind.takes_s
        if waited_s > limit_s:
            bills = " and may still bill" if found.kind is ENDPOINT else ""
            self.results[found] = (
                f"{_FAILED}still there {limit_s / 60:g} min after it was to be deleted{bills}: run "
                "the clean-up again, or delete it in the AWS console."
            )

    def _to_keep(self, found: Found) -> str:
        """Why something must stay for now: an endpoint that is up keeps what belongs to it."""
        if found.kind in (SCALING_TARGET, ENDPOINT):
            return ""
        if found.kind is SCHEDULE:
            return self._to_guard(found)
        if found.kind is SCHEDULE_GROUP:
            return self._to_hold(found)
        if any(ENDPOINT in one.kinds for one in self.view.unseen if one.region == found.region):
            return "whether its endpoint is there could not be looked at."
        if found.kind is OBJECTS:
            users = [one for one in self._there(ENDPOINT) if one.owner == found.owner]
        else:
            users = [
                one
                for one in self._there(ENDPOINT)
                if (one.region, one.name) == (found.region, found.deployment)
            ]
        if users:
            return f"the endpoint {users[0].name} is still there."
        return self._to_use(found) if found.kind in (CONFIG, MODEL) else ""

    def _to_use(self, found: Found) -> str:
        """Why a model or configuration must stay: an endpoint of its name may have come since."""
        try:
            there = resources.describe(self.view.sessions[found.region], ENDPOINT, found.name)
        except EndpointError as error:
            return str(error)
        return f"the endpoint {found.name} came meanwhile." if there else ""

    def _to_guard(self, schedule: Found) -> str:
        """Why a schedule must stay: whatever was seen before, its endpoint is asked for now."""
        session = self.view.sessions[schedule.region]
        try:
            there = resources.describe(session, ENDPOINT, schedule.name)
            if not there:
                self.due[schedule] = resources.due(session, schedule)
            elif _is_anothers(schedule, resources.tags_of(session, there["EndpointArn"])):
                return ""  # its owner's schedule is what guards it
        except EndpointError as error:
            return str(error)
        return "it deletes the endpoint, which is still there." if there else ""

    def _to_hold(self, group: Found) -> str:
        """Why a group must stay: with it go all schedules in it, also those that came since."""
        session = self.view.sessions[group.region]
        try:
            # A list may be old, and what was deleted may have been made again.
            held = resources.schedules_in(session, group)
            others = [one.name for one in held if resources.is_there(session, one)]
        except EndpointError as error:
            return str(error)
        return f"the schedule {others[0]} is in it." if others else ""

    def _there(self, kind: Kind) -> list[Found]:
        """What of a kind has not been deleted."""
        return [
            one
            for one in self.view.found
            if one.kind is kind and not self.results.get(one, "").startswith(_DELETED)
        ]

    def _now_s(self) -> float:
        return self.session.clock.monotonic()


def check_name(name: str | None) -> None:
    """Refuse a name that is empty: it is that of what belongs to no deployment.

    Raises:
        SettingsError: When it is.
    """
    if name is not None and not name.strip():
        raise SettingsError(
            "The name of the deployment is empty: give one, or leave it out (None) for all of them."
        )


def _up(session: Session, name: str) -> Mapping[str, Any] | None:
    """An endpoint that bills, as SageMaker describes it; None when there is none."""
    told = resources.describe(session, ENDPOINT, name)
    return told if told and told["EndpointStatus"] not in (FAILED, "Deleting") else None


def _is_anothers(guard: Found, tags: Mapping[str, str]) -> bool:
    """Whether a schedule's endpoint has tags that say that it is not the schedule's owner's."""
    return bool(guard.owner) and tags.get("participant", guard.owner) != guard.owner


def _protect(
    session: Session, gone: Found, endpoint: Mapping[str, Any], was_due: datetime | None
) -> str:
    """Guard an endpoint again whose schedule has just been deleted; what to say of it."""
    name, as_owner = (
        endpoint["EndpointName"],
        lifetime.of_owner(session, gone.owner or session.participant),
    )
    try:
        tags = resources.tags_of(session, endpoint["EndpointArn"])
        if _is_anothers(gone, tags):
            return ""  # its owner's schedule is what guards it
        due = resources.expires_in(tags) or was_due
        if due is None and tags:
            return ""  # it was to have none
        if due is not None:
            left_h = (due - session.clock.now()).total_seconds() / 3600
            hours, recipe = max(left_h, _SOON_H), tags.get("recipe", "")
            due = lifetime.protect(as_owner, name, hours=hours, recipe_name=recipe)
            return f"{_KEPT}the endpoint {name} came meanwhile; it deletes itself at {in_utc(due)}."
        problem = "when it was to be deleted cannot be read."
    except WorkshopError as error:
        problem = str(error)
    return (
        f"{_FAILED}the endpoint {name} came meanwhile and bills until it is deleted, as its "
        f"schedule is gone: run the clean-up again ({problem})"
    )


def _in_order(found: Sequence[Found]) -> Callable[[Found], int]:
    """Where something stands in a list; what came later comes last."""
    places = {one: place for place, one in enumerate(found)}
    return lambda one: places.get(one, len(places))


def _row(work: _Deletion, found: Found) -> dict[str, str]:
    hours, cost = work.hours.get(found), work.costs.get(found)
    return {
        "participant": found.owner or "?",
        "kind": found.kind.label,
        "name": found.name,
        "region": found.region,
        "result": work.results[found],
        "hours": "" if hours is None else f"{hours:.2f}",
        "cost ($)": "" if cost is None else f"{cost:.2f}",
    }


def _interrupted(work: _Deletion) -> str:
    left = work.left()
    if not work.begun:
        return _NOTHING_DONE
    if not left:
        return "Interrupted, when everything had been deleted."
    named = "; ".join(
        f"{one.kind.label} {one.name} in {one.region}"
        + (
            f" (bills until it is gone, deletes itself: {work.view.expires.get(one.arn)})"
            if one.kind is ENDPOINT
            else ""
        )
        for one in left
    )
    return (
        f"Interrupted: {len(work.chosen) - len(left)} of {len(work.chosen)} deleted, left may be "
        f"{named}. Run 08_clean_up (or `{PYTHON} -m helpers.cleanup`) again."
    )
