"""What the workshop has made in several regions, what it costs and when it deletes itself."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pandas as pd

from helpers import endpoint as endpoints
from helpers import resources
from helpers.containers import INF2_48XLARGE_REGIONS
from helpers.endpoint import Endpoint, lifetime
from helpers.errors import EndpointError
from helpers.resources import ENDPOINT, FAILED, Found, Kind, Unseen
from helpers.session import Session, in_utc

ALL_REGIONS = "all"
_LOOKERS = 16  # regions, or endpoints, at once
_NAMED_REGIONS = 4  # more of them are counted in a sentence


class Listing(pd.DataFrame):
    """A table that says so when nothing is in it."""

    @property
    def _constructor(self) -> type["Listing"]:
        return Listing

    def __repr__(self) -> str:
        return super().__repr__() if len(self) else "(nothing)"

    def _repr_html_(self) -> str | None:
        return super()._repr_html_() if len(self) else "<p>(nothing)</p>"  # type: ignore


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

    def hours(self, found: Found) -> float | None:
        """Hours for which an endpoint has billed so far, at most; None when that is unknown."""
        running, until = self.running.get(found.arn), self.sessions[found.region].clock.now()
        if running is not None and not running.bills:
            until = running.modified
        return max(0.0, (until - found.created).total_seconds()) / 3600 if found.created else None

    def price(self, found: Found) -> float | None:
        """$ an hour of what bills by the hour from now on; None when it is unknown."""
        running = self.running.get(found.arn)
        return running.price_per_hour if running else None

    def is_unseen(self, kind: Kind, region: str) -> bool:
        """Whether something of a kind may be there that nobody could look at."""
        return any(kind in one.kinds for one in self.unseen if one.region == region)

    @property
    def looked_at(self) -> str:
        """The regions that were looked at, for a sentence."""
        names = [one for one in self.sessions if not self.is_unseen(ENDPOINT, one)]
        return ", ".join(names) if len(names) <= _NAMED_REGIONS else f"{len(names)} regions"


def look(
    session: Session, *, regions: str | Iterable[str] | None = None, everyone: bool = False
) -> View:
    """Everything of the participant, or of everyone, in several regions at once.

    Args:
        session: The workshop's session.
        regions: Names of regions, or `all` for all that have SageMaker; the session's when left
            out.
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
        due = list(pool.map(lambda one: _due(sessions[one.region], one), running))
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
    return table(session, view, view.found, everyone=everyone)


def say_unseen(session: Session, view: View) -> None:
    """Say where nobody could look; a whole region in one line, those not enabled in one as well."""
    for one in view.unseen:
        if one.is_enabled:
            session.say(f"Not looked at in {one.region}: {one.what} ({one.why.rstrip('.')}).")
    closed = sorted(one.region for one in view.unseen if not one.is_enabled)
    if closed:
        session.say(f"Not enabled in this account, so nothing is there: {', '.join(closed)}.")


def say_nothing(session: Session, view: View, whose: str) -> None:
    """Say that nothing was found."""
    session.say(f"Nothing of {whose} is here ({view.looked_at}).")


def bills(found: Found) -> str:
    """Whether something bills: `yes` by the hour, `storage` by the gigabyte, or `no`."""
    return "no" if found.kind is ENDPOINT and found.status == FAILED else found.kind.bills


def table(session: Session, view: View, found: Iterable[Found], *, everyone: bool) -> pd.DataFrame:
    """A row for each, as `leftovers` describes them."""
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
                "bills?": bills(one),
                "so far ($)": "" if cost is None else f"{cost:.2f}",
                "expires": view.expires.get(one.arn, ""),
                "whose?": "" if one.owner else unclear(one),
                "target": session.target,
            }
        )
    columns = ["participant", "kind", "name", "region", "created", "status", "bills?"]
    frame = Listing(rows, columns=[*columns, "so far ($)", "expires", "whose?", "target"])
    return frame if everyone else frame.drop(columns="participant")


def unclear(found: Found) -> str:
    """Why nobody can tell whose it is."""
    if found.tags is None:
        return "its tags cannot be read"
    return "it has no tags, and its name can be read in several ways"


def _regions(session: Session, regions: str | Iterable[str] | None) -> list[str]:
    if regions is None:
        return [session.region]
    if regions == ALL_REGIONS:
        boto = session.boto
        partition = boto.get_partition_for_region(session.region)
        offered = boto.get_available_regions("sagemaker", partition)
        regions = [session.region, *INF2_48XLARGE_REGIONS, *offered]
    return [regions] if isinstance(regions, str) else list(dict.fromkeys(regions))


def _running(session: Session, found: Found) -> Endpoint | None:
    try:
        return endpoints.look(session, found.name)
    except EndpointError:
        return None


def _due(session: Session, found: Found) -> str:
    """When an endpoint is deleted by a schedule, which alone does it: a tag only says so."""
    owned = lifetime.of_owner(session, found.owner or session.participant)
    try:
        due = lifetime.expiry(owned, found.name)
    except EndpointError:
        return "unknown"
    return in_utc(due) if due else "never"
