"""Find what the workshop has made, delete it, see that it is gone, and say what it cost.

From a terminal: `python -m helpers.cleanup --all-regions --dry-run`.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pandas as pd

from helpers import endpoint as endpoints
from helpers import resources
from helpers.containers import INF2_48XLARGE_REGIONS
from helpers.endpoint import Endpoint
from helpers.errors import EndpointError, SettingsError, WorkshopError
from helpers.resources import (
    ABSENT,
    ALL_KINDS,
    ASKED,
    BUSY,
    ENDPOINT,
    KINDS,
    LOG_GROUP,
    OBJECTS,
    SCALING_TARGET,
    SCHEDULE,
    SCHEDULE_GROUP,
    Found,
    Kind,
    Unseen,
)
from helpers.session import Session, in_utc, open_session
from helpers.settings import PYTHON, TARGETS

ALL_REGIONS = "all"

_BUSY_S = 3 * 3600  # an endpoint is created or fails within its health check's hour, and moves
_POLL_S = 5.0
_LOOKS_ALLOWED_TO_FAIL = 5  # a laptop loses its network now and then
_LOOKERS = 16  # regions, or endpoints, at once
_DELETED = ("deleted", "was not there")
_FAILED = "failed: "
_KEPT = "kept: "


# --- What there is --------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """What was found in several regions, and where nobody could look.

    Attributes:
        found: What the workshop has made.
        unseen: Where nobody could look, and why.
        sessions: By region.
        running: Endpoints by ARN, None where one has gone or cannot be looked at.
        expires: When they delete themselves, by ARN: a moment, `never` or `unknown`.
    """

    found: tuple[Found, ...]
    unseen: tuple[Unseen, ...]
    sessions: Mapping[str, Session]
    running: Mapping[str, Endpoint | None]
    expires: Mapping[str, str]

    def cost(self, found: Found) -> float | None:
        """$ that an endpoint has cost so far, at most; None when its price is unknown."""
        running = self.running.get(found.arn)
        if running is None or running.price_per_hour is None:
            return None
        return running.cost_so_far(self.sessions[found.region])


def look(
    session: Session, *, regions: str | Iterable[str] | None = None, everyone: bool = False
) -> View:
    """Everything of the participant, or of everyone, in several regions at once.

    Args:
        session: The workshop's session.
        regions: Names of regions, or `all` for those that offer ml.inf2.48xlarge and the
            session's; the session's when left out.
        everyone: Not only what is the participant's.

    Raises:
        EndpointError: When AWS can be asked in none of them.
        SettingsError: When a region is none.
    """
    sessions = {one: session.in_region(one) for one in _regions(session, regions)}
    participant = None if everyone else session.participant
    with ThreadPoolExecutor(_LOOKERS) as pool:
        looked = list(pool.map(lambda one: resources.look(one, participant), sessions.values()))
        # A bucket answers in every region: what has the same ARN is the same.
        found = {one.arn or one.name: one for seen, _ in looked for one in seen}
        unseen = [one for _, there in looked for one in there]
        running = [one for one in found.values() if one.kind is ENDPOINT]
        told = list(pool.map(lambda one: _running(sessions[one.region], one), running))
        schedules = {(one.region, one.name): one for one in found.values() if one.kind is SCHEDULE}
        due = list(
            pool.map(
                lambda one: _due(sessions[one.region], schedules.get((one.region, one.name))),
                running,
            )
        )
    blind = [one for one in unseen if ENDPOINT in one.kinds]
    if {one.region for one in blind} == set(sessions):
        raise EndpointError(
            f"The endpoints in {', '.join(sessions)} cannot be listed: {blind[0].why}"
        )
    return View(
        tuple(found.values()),
        tuple(unseen),
        sessions,
        {one.arn: endpoint for one, endpoint in zip(running, told, strict=True)},
        {one.arn: when for one, when in zip(running, due, strict=True)},
    )


def leftovers(
    session: Session, *, regions: str | Iterable[str] | None = None, everyone: bool = False
) -> pd.DataFrame:
    """Everything of the participant that is there, and says where nobody could look.

    Args:
        session: The workshop's session.
        regions: See `look`.
        everyone: Of all participants: the first column is theirs.

    Returns:
        One row for each: kind, name, region, created, status, bills?, so far ($), expires, whose?,
        target. `whose?` is filled where that cannot be told.

    Raises:
        EndpointError: When AWS can be asked in none of the regions.
    """
    view = look(session, regions=regions, everyone=everyone)
    say_unseen(session, view)
    return _table(session, view, view.found, everyone=everyone)


def participants(session: Session, *, regions: str | Iterable[str] | None = None) -> pd.DataFrame:
    """The instructor's view: who has what, most expensive first.

    Returns:
        One row a participant: participant, endpoints, regions, status, instances, hours (of the
        oldest), so far ($), $/h, expires (the last of them), other things, target. `?` is who
        cannot be told.

    Raises:
        EndpointError: When AWS can be asked in none of the regions.
    """
    view = look(session, regions=regions, everyone=True)
    say_unseen(session, view)
    rows = [
        _participant(session, view, owner) for owner in sorted({one.owner for one in view.found})
    ]
    columns = ["participant", "endpoints", "regions", "status", "instances", "hours"]
    columns += ["so far ($)", "$/h"]
    frame = pd.DataFrame(rows, columns=[*columns, "expires", "other things", "target"])
    return frame.sort_values("so far ($)", ascending=False, ignore_index=True, kind="stable")


def say_unseen(session: Session, view: View) -> None:
    """Say where nobody could look; a whole region in one line."""
    for one in view.unseen:
        session.say(f"Not looked at in {one.region}: {one.what} ({one.why.rstrip('.')}).")


def _regions(session: Session, regions: str | Iterable[str] | None) -> list[str]:
    if regions is None:
        return [session.region]
    if isinstance(regions, str):
        regions = INF2_48XLARGE_REGIONS if regions == ALL_REGIONS else [regions]
        regions = [session.region, *regions] if len(regions) > 1 else regions
    return list(dict.fromkeys(regions))


def _running(session: Session, found: Found) -> Endpoint | None:
    try:
        return endpoints.look(session, found.name)
    except EndpointError:
        return None


def _due(session: Session, schedule: Found | None) -> str:
    """When an endpoint is deleted by its schedule, which alone does it: a tag only says so."""
    if schedule is None:
        return "never"
    try:
        due = resources.due(session, schedule)
    except EndpointError:
        return "unknown"
    return in_utc(due) if due else "never"


def _table(session: Session, view: View, found: Iterable[Found], *, everyone: bool) -> pd.DataFrame:
    rows = []
    for one in found:
        cost = view.cost(one)
        rows.append(
            {
                "participant": one.owner or "?",
                "kind": one.kind.label,
                "name": one.name,
                "region": one.region,
                "created": in_utc(one.created) if one.created else "",
                "status": one.status,
                "bills?": one.kind.bills,
                "so far ($)": "" if cost is None else f"{cost:.2f}",
                "expires": view.expires.get(one.arn, ""),
                "whose?": "" if one.owner else _unclear(one),
                "target": session.target,
            }
        )
    columns = ["participant", "kind", "name", "region", "created", "status", "bills?"]
    frame = pd.DataFrame(rows, columns=[*columns, "so far ($)", "expires", "whose?", "target"])
    return frame if everyone else frame.drop(columns="participant")


def _unclear(found: Found) -> str:
    if found.tags is None:
        return "its tags cannot be read"
    return "it has no tags, and its name can be read in several ways"


def _participant(session: Session, view: View, owner: str) -> dict[str, object]:
    mine = [one for one in view.found if one.owner == owner]
    up = [one for one in mine if one.kind is ENDPOINT]
    known = [endpoint for one in up if (endpoint := view.running.get(one.arn))]
    expires = {view.expires[one.arn] for one in up}
    now = session.clock.now()
    oldest = min((one.created for one in up if one.created), default=now)
    hours = (now - oldest).total_seconds() / 3600
    return {
        "participant": owner or "?",
        "endpoints": len(up),
        "regions": ", ".join(sorted({one.region for one in up})),
        "status": ", ".join(
            status if number == 1 and len(up) == 1 else f"{number} {status}"
            for status, number in sorted(Counter(one.status for one in up).items())
        ),
        "instances": sum(one.instance_count for one in known),
        "hours": round(max(0.0, hours), 1),
        "so far ($)": round(sum(view.cost(one) or 0.0 for one in up), 2),
        "$/h": round(sum(one.price_per_hour or 0.0 for one in known), 2),
        "expires": next((one for one in ("never", "unknown") if one in expires), None)
        or max(expires, default=""),
        "other things": len(mine) - len(up),
        "target": session.target,
    }


# --- Delete it ------------------------------------------------------------------------------


@dataclass
class _Deletion:
    """The deletion of what a view shows, kind by kind, and what became of each.

    Attributes:
        session: The workshop's session.
        view: What was found.
        chosen: What of it is to be deleted.
        kept_kinds: What is not.
        results: What became of it.
        hours: From an endpoint's creation to its deletion.
        looks_failed: How often AWS could not say whether something is still there.
    """

    session: Session
    view: View
    chosen: list[Found]
    kept_kinds: Sequence[Kind] = ()
    results: dict[Found, str] = field(default_factory=dict)
    hours: dict[Found, float] = field(default_factory=dict)
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
        waiting: dict[Found, str] = {}
        since_s: dict[Found, float] = {}
        for one in found:
            if reason := self._to_keep(one):
                self.results[one] = f"{_KEPT}{reason}"
            else:
                waiting[one], since_s[one] = "", self._now_s()
        while waiting:
            for one, state in list(waiting.items()):
                waiting[one] = self._step(one, state, since_s)
            waiting = {one: state for one, state in waiting.items() if one not in self.results}
            if waiting:
                self.session.clock.sleep(_POLL_S)

    def _step(self, found: Found, state: str, since_s: dict[Found, float]) -> str:
        """Ask for one deletion, or look what has become of it."""
        session = self.view.sessions[found.region]
        try:
            if state != ASKED:
                new = resources.ask_to_delete(session, found)
                if new == ABSENT:
                    self.results[found] = "was not there"
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
        if found.kind is ENDPOINT and found.created:
            seconds = (self.session.clock.now() - found.created).total_seconds()
            self.hours[found] = max(0.0, seconds) / 3600
            if self.price(found) is None:
                self.results[found] = "deleted, its price is unknown"

    def _give_up(self, found: Found, state: str, waited_s: float) -> None:
        limit_s = _BUSY_S if state == BUSY else found.kind.takes_s
        if waited_s > limit_s:
            bills = " and may still bill" if found.kind is ENDPOINT else ""
            self.results[found] = (
                f"{_FAILED}still there {limit_s / 60:g} min after it was to be deleted{bills}: run "
                "the clean-up again, or delete it in the AWS console."
            )

    def price(self, found: Found) -> float | None:
        """$ an hour of an endpoint, None when it is unknown."""
        running = self.view.running.get(found.arn)
        return running.price_per_hour if running else None

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
        return f"the endpoint {users[0].name} is still there." if users else ""

    def _to_guard(self, schedule: Found) -> str:
        """Why a schedule must stay: whatever was seen before, its endpoint is asked for now."""
        try:
            there = resources.describe(self.view.sessions[schedule.region], ENDPOINT, schedule.name)
        except EndpointError as error:
            return str(error)
        return "it deletes the endpoint, which is still there." if there else ""

    def _to_hold(self, group: Found) -> str:
        """Why a group must stay: with it go all schedules in it, also those that came since."""
        try:
            held = resources.schedules_in(self.view.sessions[group.region], group)
        except EndpointError as error:
            return str(error)
        gone = {one.arn for one, result in self.results.items() if result.startswith(_DELETED)}
        others = [one.name for one in held if one.arn not in gone]
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
    """
    view = look(session, regions=regions, everyone=everyone)
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
    """
    named = [one for one in view.found if name in (None, one.deployment)]
    chosen = [
        one for one in named if one.kind not in kept_kinds and (one.owner or name or everyone)
    ]
    work = _Deletion(session, view, list(chosen), kept_kinds)
    for one in named:
        if one not in chosen and one.kind not in kept_kinds:
            work.results[one] = f"{_KEPT}{_unclear(one)}: give its name ({one.deployment})."
    if chosen and confirm and not confirm(_table(session, view, chosen, everyone=everyone)):
        work.results |= dict.fromkeys(chosen, f"{_KEPT}not confirmed.")
    else:
        try:
            work.run()
        except KeyboardInterrupt:
            raise EndpointError(_interrupted(work)) from None
    rows = [_row(work, one) for one in sorted(work.results, key=_in_order(named))]
    if name and not named:
        rows = [
            {"kind": kind.label, "name": name, "region": session.region, "result": "was not there"}
            for kind in KINDS
        ]
    columns = ["participant", "kind", "name", "region", "result", "hours", "cost ($)"]
    frame = pd.DataFrame([dict.fromkeys(columns, "") | one for one in rows], columns=columns)
    return frame if everyone else frame.drop(columns="participant")


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


def _in_order(found: Sequence[Found]) -> Callable[[Found], int]:
    """Where something stands in a list; what came later comes last."""
    places = {one: place for place, one in enumerate(found)}
    return lambda one: places.get(one, len(places))


def _row(work: _Deletion, found: Found) -> dict[str, str]:
    hours, price = work.hours.get(found), work.price(found)
    return {
        "participant": found.owner or "?",
        "kind": found.kind.label,
        "name": found.name,
        "region": found.region,
        "result": work.results[found],
        "hours": "" if hours is None else f"{hours:.2f}",
        "cost ($)": "" if hours is None or price is None else f"{hours * price:.2f}",
    }


def _interrupted(work: _Deletion) -> str:
    left = work.left()
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


# --- The command line -----------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Show what is left, ask, delete it; 0 when nothing is left, else 1."""
    options = parser().parse_args(arguments)
    try:
        return _run(options)
    except WorkshopError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: nothing was deleted.", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    asks = not (options.dry_run or options.yes or options.participants)
    if asks and not sys.stdin.isatty():
        raise SettingsError(
            "Nobody can be asked here: give --yes to delete without a question, or --dry-run to "
            "look only."
        )
    session = open_session(options.target, participant=options.participant)
    regions = ALL_REGIONS if options.all_regions else options.region
    if options.participants:
        frame = participants(session, regions=regions)
        session.say(_text(frame) if len(frame) else "Nobody has anything here.")
        return int(not frame.empty)
    view = look(session, regions=regions, everyone=options.everyone)
    say_unseen(session, view)
    whose = "anybody" if options.everyone else session.participant
    named = [one for one in view.found if options.name in (None, one.deployment)]
    if not named:
        session.say(f"Nothing of {whose} is here ({', '.join(view.sessions)}).")
    else:
        session.say(_text(_table(session, view, named, everyone=options.everyone)))
        session.say_measured(f"so far: ${sum(view.cost(one) or 0.0 for one in named):.2f}")
    if options.dry_run or not named:
        return _status(named, view)
    deleted = delete_seen(
        session,
        view,
        name=options.name,
        everyone=options.everyone,
        confirm=None if options.yes else _ask,
        kept_kinds=(LOG_GROUP,) * options.keep_logs + (OBJECTS,) * options.keep_weights,
    )
    bill(session, deleted)
    left = remaining(deleted)
    for row in left.itertuples(index=False):
        session.say(f"{row.kind} {row.name} in {row.region}: {row.result}")
    session.say(f"{len(deleted) - len(left)} deleted, {len(left)} left.")
    return _status(left, view)


def _status(left: object, view: View) -> int:
    """0 when nothing is left: in a region that is not enabled nothing can be."""
    return int(len(left) > 0 or any(one.is_enabled for one in view.unseen))  # type: ignore


def _text(frame: pd.DataFrame) -> str:
    """A table without columns in which nothing stands, and without what stands before it."""
    filled = [name for name in frame.columns if (frame[name] != "").any() and name != "target"]
    return frame[filled].to_string(index=False)


def _ask(table: pd.DataFrame) -> bool:
    try:
        answer = input(f"Delete these {len(table)} things? [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.cleanup",
        description="Find what this workshop has made in the account (WORKSHOP_TARGET says in "
        "which AWS), show it, and delete it when you say so. Exit status: 0 when nothing is left, "
        "1 when something is or could not be looked at.",
    )
    add = parser.add_argument
    add("--target", choices=TARGETS, help="instead of WORKSHOP_TARGET")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--all-regions",
        action="store_true",
        help="yours, and all that offer ml.inf2.48xlarge",
    )
    where.add_argument("--region", action="append", metavar="R", help="one or several of them")
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--participant", metavar="P", help="whose things (default: yours)")
    whose.add_argument("--everyone", action="store_true", help="all participants' things")
    whose.add_argument(
        "--participants", action="store_true", help="only show who has what, one row each"
    )
    add("--name", metavar="N", help="only the deployment of this name")
    add("--dry-run", action="store_true", help="look, and delete nothing")
    add("--yes", action="store_true", help="delete without a question")
    add("--keep-logs", action="store_true", help="leave the containers' logs")
    add("--keep-weights", action="store_true", help="leave the weights in the bucket")
    return parser


if __name__ == "__main__":
    sys.exit(main())
