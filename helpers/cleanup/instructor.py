"""The instructor's view: who has what, and what it costs."""

from collections import Counter
from collections.abc import Iterable, Sequence

import pandas as pd

from helpers.cleanup.view import Listing, View, bills, look, say_unseen
from helpers.resources import ENDPOINT, Found
from helpers.session import Session


def participants(session: Session, *, regions: str | Iterable[str] | None = None) -> pd.DataFrame:
    """The instructor's view: who has what, most expensive first.

    Returns:
        One row a participant: participant, person (the name as it was given, where things are
        named with a shorter one), endpoints, regions, status, instances (that bill), hours (of
        the oldest), so far ($), $/h, expires (the last of them), other things, target. `?` is who
        cannot be told.

    Raises:
        EndpointError: When AWS can be asked in none of the regions.
    """
    view = look(session, regions=regions, everyone=True)
    say_unseen(session, view)
    return by_participant(session, view, view.found)


def by_participant(session: Session, view: View, found: Sequence[Found]) -> pd.DataFrame:
    """What was found, one row a participant, as `participants` describes it."""
    rows = [
        _participant(session, view, owner, [one for one in found if one.owner == owner])
        for owner in sorted({one.owner for one in found})
    ]
    columns = ["participant", "person", "endpoints", "regions", "status", "instances", "hours"]
    columns += ["so far ($)", "$/h"]
    frame = Listing(rows, columns=[*columns, "expires", "other things", "target"])
    return frame.sort_values("so far ($)", ascending=False, ignore_index=True, kind="stable")


def _participant(
    session: Session, view: View, owner: str, mine: Sequence[Found]
) -> dict[str, object]:
    up = [one for one in mine if one.kind is ENDPOINT]
    billing = [one for one in up if bills(one) == "yes"]
    known = [endpoint for one in billing if (endpoint := view.running.get(one.arn))]
    expires = {view.expires[one.arn] for one in billing}
    persons = sorted({(one.tags or {}).get("person", "") for one in mine} - {""})
    return {
        "participant": owner or "?",
        "person": ", ".join(persons) if owner else "",
        "endpoints": len(up),
        "regions": ", ".join(sorted({one.region for one in up})),
        "status": ", ".join(
            status if number == 1 and len(up) == 1 else f"{number} {status}"
            for status, number in sorted(Counter(one.status for one in up).items())
        ),
        "instances": sum(one.instance_count for one in known),
        "hours": round(max((view.hours(one) or 0.0 for one in up), default=0.0), 1),
        "so far ($)": round(sum(view.cost(one) or 0.0 for one in up), 2),
        "$/h": round(sum(view.price(one) or 0.0 for one in billing), 2),
        "expires": next((one for one in ("never", "unknown") if one in expires), None)
        or max(expires, default=""),
        "other things": len(mine) - len(up),
        "target": session.target,
    }
