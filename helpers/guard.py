"""What is running, what it costs, and when it deletes itself: see it and change it.

    python -m helpers.guard                 what is running, and when it deletes itself
    python -m helpers.guard --extend 2      let it live for at least two more hours from now on
    python -m helpers.guard --limit 2       let it live for two hours from now on, no more, no less
    python -m helpers.guard --cancel        let it live, and bill, until somebody deletes it
    python -m helpers.guard --endpoint NAME --extend 2    of several, or another participant's

Hours are the reader's, as in the notebooks: a rehearsal's clock runs ahead, see `aws_hours`. The
schedule behind it is `helpers.endpoint.lifetime`: a deployment makes it.
"""

# ruff: noqa: E402
import sys

_INTERRUPTED = "Interrupted: run it again to see what is running and when it deletes itself."
if __name__ == "__main__":  # what follows takes a second to import, and may be interrupted too
    sys.excepthook = lambda kind, error, trace: (
        print(_INTERRUPTED, file=sys.stderr)
        if kind is KeyboardInterrupt
        else sys.__excepthook__(kind, error, trace)
    )

import argparse
import contextlib
from collections.abc import Sequence

from helpers import endpoint as endpoints
from helpers import resources
from helpers.endpoint import Endpoint
from helpers.endpoint.lifetime import (
    DEFAULT_TTL_H,
    LONGEST_H,
    RETRY_POLICY,
    TARGET,
    aws_hours,
    cancel,
    expiry,
    extend,
    group_of,
    in_hours,
    keep,
    limit,
    mend,
    of_owner,
    owner_of,
    protect,
    remove,
    remove_group,
    when,
)
from helpers.errors import EndpointMissing, WorkshopError
from helpers.resources import ENDPOINT
from helpers.session import Session, in_utc, open_session

__all__ = [
    "DEFAULT_TTL_H",
    "LONGEST_H",
    "RETRY_POLICY",
    "TARGET",
    "aws_hours",
    "cancel",
    "expiry",
    "extend",
    "group_of",
    "in_hours",
    "keep",
    "limit",
    "main",
    "mend",
    "protect",
    "remove",
    "remove_group",
    "say_running",
    "when",
]


def say_running(session: Session) -> None:
    """Say what of the participant is running, since when, its cost so far, when it deletes itself.

    For the head of a notebook: what cannot be told is said and raises nothing.
    """
    try:
        found = resources.of_participant(session, ENDPOINT)
        if not found:
            session.say(
                f"Nothing of participant {session.participant} is running in {session.region}."
            )
        for one in found:
            with contextlib.suppress(EndpointMissing):
                session.say_measured(_running(session, endpoints.look(session, one.name)))
    except WorkshopError as error:
        session.say(f"What is running cannot be told: {error}")


def _running(session: Session, endpoint: Endpoint) -> str:
    if endpoint.status == "Failed":
        return f"{endpoint.name} has failed: 08_clean_up deletes it, 03_deploy_endpoint tries again"
    if endpoint.status == "Deleting":
        return f"{endpoint.name} is being deleted"
    hours = (session.clock.now() - endpoint.created).total_seconds() / 3600
    owner = owner_of(session, endpoint)
    of = "" if owner == session.participant else f" of participant {owner}"
    due = expiry(of_owner(session, owner), endpoint.name)
    return (
        f"{endpoint.name}{of} is {endpoint.status} since {in_utc(endpoint.created)}, "
        f"{hours:.1f} h, {_cost(session, endpoint)}; it {when(session, due)}"
    )


def _cost(session: Session, endpoint: Endpoint) -> str:
    if not endpoint.price_per_hour:
        return "an unknown sum so far"
    cost = f"${endpoint.cost_so_far(session):.2f} so far"
    if endpoint.most_instances > endpoint.instance_count:
        return f"at most {cost}, as if it had always had {endpoint.most_instances} replicas"
    return cost


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, 1 when something could not be done, 130 on an interrupt."""
    chosen = _parser().parse_args(arguments)
    try:
        _run(chosen)
    except WorkshopError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(_INTERRUPTED, file=sys.stderr)
        return 130
    return 0


def _run(chosen: argparse.Namespace) -> None:
    session = open_session(region=chosen.region)
    for hours, change in ((chosen.extend, extend), (chosen.limit, limit)):
        if hours is not None:
            aws_h = aws_hours(session, hours)
            in_hours(session, aws_h, never="--cancel for none")
            change(session, chosen.endpoint, hours=aws_h)
            return
    if chosen.cancel:
        cancel(session, chosen.endpoint)
    elif chosen.endpoint:
        session.say_measured(_running(session, endpoints.look(session, chosen.endpoint)))
    else:
        say_running(session)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.guard",
        description="What is running and when it deletes itself; change that. Hours are yours, as "
        "in the notebooks: in rehearsal more of AWS's hours pass in each.",
    )
    add = parser.add_argument
    add("--endpoint", type=_name, metavar="NAME", help="default: what is yours")
    add("--region", help="default: as in the notebooks")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--extend", type=float, metavar="HOURS", help="let it live at least so long from now on")
    add("--limit", type=float, metavar="HOURS", help="let it live so long from now on, no more")
    add("--cancel", action="store_true", help="let it live, and bill, until it is deleted")
    return parser


def _name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("give a name, or leave --endpoint out for your only one")
    return text


if __name__ == "__main__":
    sys.exit(main())
