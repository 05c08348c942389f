"""Delete what the participant has made, and say what is left and what it cost."""

import pandas as pd

from helpers import endpoint as endpoints
from helpers import resources
from helpers.endpoint import Endpoint
from helpers.errors import EndpointError, EndpointMissing
from helpers.resources import ENDPOINT, KINDS, Found
from helpers.session import Session, in_utc


def leftovers(session: Session) -> pd.DataFrame:
    """Everything of the participant that is there: kind, name, created, bills?.

    Raises:
        EndpointError: When SageMaker cannot be asked.
    """
    rows = [
        {
            "kind": one.kind.label,
            "name": one.name,
            "created": in_utc(one.created),
            "bills?": "yes" if one.kind is ENDPOINT else "no",
        }
        for one in _all(session)
    ]
    return pd.DataFrame(rows, columns=["kind", "name", "created", "bills?"])


def delete(session: Session, *, name: str | None = None) -> pd.DataFrame:
    """Delete the participant's endpoints, configurations and models, endpoints first.

    Safe to run twice; when one deletion fails the others still happen.

    Args:
        session: The workshop's session.
        name: Delete only what has this name; everything of the participant when left out.

    Returns:
        One row for each: kind, name, result, and for endpoints hours and cost ($) from creation
        to deletion.

    Raises:
        EndpointError: When SageMaker cannot be asked what is there.
    """
    wanted = [(kind, name) for kind in KINDS] if name else _names(session)
    rows = []
    for kind, one in wanted:
        bill = {"hours": "", "cost ($)": ""}
        try:
            if kind is ENDPOINT:
                result, bill = _delete_endpoint(session, one)
            else:
                result = "deleted" if resources.delete(session, kind, one) else "was not there"
        except EndpointError as error:
            result = f"failed: {error}"
        rows.append({"kind": kind.label, "name": one, "result": result, **bill})
    return pd.DataFrame(rows, columns=["kind", "name", "result", "hours", "cost ($)"])


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


def _delete_endpoint(session: Session, name: str) -> tuple[str, dict[str, str]]:
    nothing = {"hours": "", "cost ($)": ""}
    try:
        there: Endpoint = endpoints.look(session, name)
    except EndpointMissing:
        return "was not there", nothing
    endpoints.remove(session, name)
    seconds = (session.clock.now() - there.created).total_seconds()
    hours = {**nothing, "hours": f"{seconds / 3600:.2f}"}
    if there.price_per_hour is None:
        return "deleted, its price is unknown", hours
    return "deleted", {**hours, "cost ($)": f"{there.cost(seconds):.2f}"}


def _all(session: Session) -> list[Found]:
    return [one for kind in KINDS for one in resources.of_participant(session, kind)]


def _names(session: Session) -> list[tuple[resources.Kind, str]]:
    return [(one.kind, one.name) for one in _all(session)]
