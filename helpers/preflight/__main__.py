"""The command line of the preflight checks: `python -m helpers.preflight --help`."""

import argparse
import sys
from collections.abc import Sequence

from helpers import recipes
from helpers.errors import WorkshopError
from helpers.preflight import CHECKS, check, require, table
from helpers.session import open_session


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a recipe and print the table; the command line.

    Returns:
        0 when a deployment may begin, 1 when a check has failed.
    """
    chosen = _parser().parse_args(arguments)
    try:
        session = open_session(region=chosen.region)
        recipe = recipes.get(chosen.recipe, instance_type=chosen.instance_type)
        results = check(
            session,
            recipe,
            role=chosen.role,
            instance_count=chosen.instance_count,
            regions=chosen.or_region,
            only=chosen.only,
        )
        print(session.table(table(results)))
        session.say(require(results, override=chosen.override))
    except WorkshopError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: checking has changed nothing.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.preflight",
        description="Check what decides whether a deployment comes up, and deploy nothing. Exit "
        "status: 0 when it may begin, 1 when a check has failed.",
    )
    add = parser.add_argument
    add(
        "--recipe",
        default=recipes.DEFAULT,
        choices=recipes.RECIPES,
        help="what is to be deployed (default: %(default)s)",
    )
    add("--instance-type", metavar="TYPE", help="default: the recipe's")
    add(
        "--instance-count",
        type=int,
        default=1,
        metavar="N",
        help="instances behind the endpoint (default: %(default)s)",
    )
    add("--region", metavar="REGION", help="default: the session's")
    add(
        "--or-region",
        action="append",
        metavar="REGION",
        help="a region that a deployment may move to: what it lacks is a warning; may be given "
        "again",
    )
    add("--role", metavar="ARN", help="execution role (default: the session's)")
    add(
        "--only",
        action="append",
        metavar="CHECK",
        help=f"make this check alone; may be given again: {', '.join(CHECKS)}",
    )
    add(
        "--override",
        action="append",
        default=[],
        metavar="CHECK",
        help="a check that may fail; may be given again",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
