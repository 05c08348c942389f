"""The command line of the clean-up: `python -m helpers.cleanup --help`."""

import argparse
import sys
from collections.abc import Sequence

import pandas as pd

from helpers.cleanup.deletion import bill, delete_seen, remaining
from helpers.cleanup.instructor import participants
from helpers.cleanup.view import ALL_REGIONS, View, look, say_unseen, table
from helpers.errors import SettingsError, WorkshopError
from helpers.resources import LOG_GROUP, OBJECTS
from helpers.session import open_session
from helpers.settings import TARGETS


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
        session.say(_text(table(session, view, named, everyone=options.everyone)))
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


def _ask(shown: pd.DataFrame) -> bool:
    try:
        answer = input(f"Delete these {len(shown)} things? [y/N] ")
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
