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
    parser = argparse.ArgumentParser(prog="python -m helpers.preflight", description=main.__doc__)
    parser.add_argument("--recipe", default=recipes.DEFAULT, choices=recipes.RECIPES)
    parser.add_argument("--instance-type", metavar="TYPE", help="default: the recipe's")
    parser.add_argument("--instance-count", type=int, default=1, metavar="N")
    parser.add_argument("--region", metavar="REGION", help="default: the session's")
    parser.add_argument("--or-region", action="append", metavar="REGION", help="a further one")
    parser.add_argument("--role", metavar="ARN", help="execution role")
    parser.add_argument("--only", action="append", metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--override", action="append", default=[], metavar="CHECK")
    chosen = parser.parse_args(arguments)
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


if __name__ == "__main__":
    sys.exit(main())
