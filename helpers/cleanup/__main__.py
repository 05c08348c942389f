"""The command line of the clean-up: `python -m helpers.cleanup --help`."""

import argparse
import sys
from collections.abc import Sequence

import pandas as pd

from helpers.cleanup.deletion import bill, check_name, choose, delete_seen, remaining
from helpers.cleanup.instructor import by_participant
from helpers.cleanup.view import ALL_REGIONS, View, bills, look, say_nothing, say_unseen, table
from helpers.errors import SettingsError, WorkshopError
from helpers.resources import ENDPOINT, LOG_GROUP, OBJECTS, Found
from helpers.session import Session, open_session
from helpers.settings import TARGETS

_NAMED = 6  # participants in a question, who are counted beyond that


def main(arguments: Sequence[str] | None = None) -> int:
    """Show what is left, ask, delete it; 0 when nothing is left, else 1."""
    options = parser().parse_args(arguments)
    try:
        return _run(options)
    except WorkshopError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: nothing was deleted.", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    check_name(options.name)
    session = own = open_session(options.target)
    if options.participant:
        session = open_session(options.target, participant=options.participant)
    everyone = options.everyone or options.participants
    regions = ALL_REGIONS if options.all_regions else options.region
    view = look(session, regions=regions, everyone=everyone)
    say_unseen(session, view)
    found = [one for one in view.found if options.name in (None, one.deployment)]
    if not found:
        say_nothing(session, view, "anybody" if everyone else f"participant {session.participant}")
    elif everyone:
        session.say(_text(by_participant(session, view, found)))
    if options.participants:
        return int(bool(found))
    if found and not (everyone and not options.dry_run):
        found.sort(key=lambda one: one.owner if everyone else "")
        session.say(_text(table(session, view, found, everyone=everyone)))
    if found:
        session.say_measured(f"so far: ${sum(view.cost(one) or 0.0 for one in found):.2f}")
    if options.dry_run or not found:
        return _status(found, view)
    return _delete(session, own, view, options, found)


def _delete(
    session: Session, own: Session, view: View, options: argparse.Namespace, found: Sequence[Found]
) -> int:
    """Delete what was shown, if one may, and say what has become of it."""
    kept_kinds = (LOG_GROUP,) * options.keep_logs + (OBJECTS,) * options.keep_weights
    how = {"name": options.name, "everyone": options.everyone, "kept_kinds": kept_kinds}
    question = _question(view, choose(view, **how))
    if not options.everyone and session.participant != own.participant:
        session.say(f"These are {session.participant}'s, and you are {own.participant}.")
        question = question.replace("[y/N]", f"You are {own.participant}. [y/N]")
    if not options.yes and not sys.stdin.isatty():
        raise SettingsError(
            "Nobody can be asked here: give --yes to delete without a question, or --dry-run to "
            "look only."
        )
    if not options.yes and not _ask(question):
        session.say("Nothing was deleted.")
        return 1
    deleted = delete_seen(session, view, **how)
    try:
        bill(session, deleted)
        left = remaining(deleted)
        for row in left.itertuples(index=False):
            session.say(f"{row.kind} {row.name} in {row.region}: {row.result}")
        kept = sum(one.kind in kept_kinds for one in found)
        counted = f"{len(deleted) - len(left)} deleted, {len(left)} left"
        session.say(f"{counted}, {kept} kept as you asked." if kept else f"{counted}.")
        return _status(left, view)
    except KeyboardInterrupt:
        print("Interrupted after the deletion: run it again to see what is left.", file=sys.stderr)
        return 1


def _question(view: View, chosen: Sequence[Found]) -> str:
    """How much of what, and whose, is about to be deleted."""
    up = [one for one in chosen if one.kind is ENDPOINT]
    rest = len(chosen) - len(up)
    whose = sorted({one.owner or "?" for one in chosen})
    if len(whose) > _NAMED:
        whose = [*whose[:_NAMED], f"{len(whose) - _NAMED} others"]
    of = f" of {', '.join(whose)}"
    if not up:
        return f"Delete {_number(rest, 'thing')}{of}? [y/N] "
    billing = [one for one in up if bills(one) == "yes"]
    price = f"${sum(view.price(one) or 0.0 for one in billing):.2f}/h"
    if any(view.price(one) is None for one in billing):
        price += " and an unknown price"
    belong = "that belong to them" if len(up) > 1 else "that belong to it"
    belong = belong if rest != 1 else belong.replace("belong", "belongs")
    others = f" and {_number(rest, 'thing')} {belong}" if rest else ""
    return f"Delete {_number(len(up), 'endpoint')} ({price}){of}{others}? [y/N] "


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _status(left: object, view: View) -> int:
    """0 when nothing is left: in a region that is not enabled nothing can be."""
    return int(len(left) > 0 or any(one.is_enabled for one in view.unseen))  # type: ignore


def _text(frame: pd.DataFrame) -> str:
    """A table without columns in which nothing stands, and without what stands before it."""
    filled = [name for name in frame.columns if (frame[name] != "").any() and name != "target"]
    return frame[filled].to_string(index=False)


def _ask(question: str) -> bool:
    try:
        answer = input(question)
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
        help="all that have SageMaker",
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
