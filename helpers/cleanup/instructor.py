"""The instructor's view: who has what, and what it costs."""

from collections import Counter
from collections.abc import Iterable

import pandas as pd

from helpers.cleanup.view import View, look, say_unseen
from helpers.resources import ENDPOINT
from helpers.session import Session


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
