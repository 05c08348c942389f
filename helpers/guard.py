"""What is running, what it costs, and when it deletes itself: see it and change it.

    python -m helpers.guard                 what is running, and when it deletes itself
    python -m helpers.guard --extend 2      let it live for two more hours from now on
    python -m helpers.guard --cancel        let it live, and bill, until somebody deletes it

The schedule behind it is `helpers.endpoint.lifetime`: a deployment makes it.
"""

import argparse
import contextlib
import sys
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
    "main",
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
    cost = f"${endpoint.cost_so_far(session):.2f}" if endpoint.price_per_hour else "an unknown sum"
    return (
        f"{endpoint.name} is {endpoint.status} since {in_utc(endpoint.created)}, {hours:.1f} h, "
        f"{cost} so far; it {when(session, expiry(session, endpoint.name))}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 1 when something could not be done."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.guard",
        description="What is running and when it deletes itself; change that.",
    )
    parser.add_argument("--endpoint", metavar="NAME", help="default: the one that is yours")
    parser.add_argument("--region", help="default: as in the notebooks")
    change = parser.add_mutually_exclusive_group()
    change.add_argument(
        "--extend", type=float, metavar="HOURS", help="let it live so many hours from now on"
    )
    change.add_argument(
        "--cancel", action="store_true", help="let it live, and bill, until it is deleted"
    )
    chosen = parser.parse_args(arguments)
    try:
        session = open_session(region=chosen.region)
        if chosen.extend is not None:
            extend(session, chosen.endpoint, hours=chosen.extend)
        elif chosen.cancel:
            cancel(session, chosen.endpoint)
        else:
            say_running(session)
    except WorkshopError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
