"""All that the workshop has made in a region: found by name and by tag, and whose it is."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from helpers.errors import EndpointError
from helpers.resources.bucket import OBJECTS
from helpers.resources.kind import ABSENT, ERRORS, Found, Kind, by_key, code, is_missing
from helpers.resources.logs import LOG_GROUP
from helpers.resources.names import LOG_GROUPS, PREFIX, WORKSHOP
from helpers.resources.sagemaker import CONFIG, ENDPOINT, MODEL
from helpers.resources.scaling_targets import SCALING_TARGET
from helpers.resources.schedules import SCHEDULE, SCHEDULE_GROUP
from helpers.session import Session, reason

# In the order in which they are deleted: what bills first, and what guards it after it.
ALL_KINDS = (
    SCALING_TARGET,
    ENDPOINT,
    CONFIG,
    MODEL,
    SCHEDULE,
    SCHEDULE_GROUP,
    LOG_GROUP,
    OBJECTS,
)

# "The security token included in the request is invalid" is how a region answers that the account
# has not enabled (aws/chalice issue 1445, boto/boto3 issues 2065 and 2022).
_NOT_ENABLED = ("UnrecognizedClientException", "InvalidClientTokenId", "OptInRequired")
_READERS = 8  # of tags, at once: 40 ms each, and well below SageMaker's throttling [unverified]
_EARLY = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class Unseen:
    """Where nobody could look, and why.

    Attributes:
        region: Where.
        kinds: At what.
        what: The same in words.
        why: A sentence.
        is_enabled: False for a region that the account has not enabled: nothing can be there.
    """

    region: str
    kinds: tuple[Kind, ...]
    what: str
    why: str
    is_enabled: bool = True


def of_participant(session: Session, kind: Kind) -> list[Found]:
    """The participant's resources of a kind in the session's region, oldest first.

    A name can begin like another participant's (`anna-` and `anna-b-`): see `look`.

    Raises:
        EndpointError: When AWS cannot be asked.
    """
    found, unseen = look(session, session.participant, kinds=(kind,), by_tag=False)
    if unseen:
        raise EndpointError(
            f"The {kind.label}s in {session.region} cannot be listed: {unseen[0].why}"
        )
    return [
        one
        for one in found
        if one.owner == session.participant
        or (one.tags is None and one.kind.owner(one) == session.participant)
    ]


def look(
    session: Session,
    participant: str | None = None,
    *,
    kinds: Iterable[Kind] = ALL_KINDS,
    by_tag: bool = True,
) -> tuple[list[Found], list[Unseen]]:
    """What the workshop has made in the session's region, by name and by tag.

    Args:
        session: The workshop's session, in that region.
        participant: What is plainly another's is left out; None for everyone's.
        kinds: What to look for.
        by_tag: Also look for what has the tags and another name.

    Returns:
        What was found, oldest first within each kind, and where nobody could look. What has no
        owner has a name that may be the participant's, or tags that cannot be read.
    """
    prefix = f"{PREFIX}-{participant}-" if participant else f"{PREFIX}-"
    found: list[Found] = []
    unseen: list[Unseen] = []
    # Endpoints first: a region that SageMaker does not answer in is closed, and asked no more.
    for kind in sorted(kinds, key=lambda one: one is not ENDPOINT):
        try:
            for one in kind.listed(session, prefix):  # one by one: what was seen counts
                found.append(one)
        except ERRORS as error:
            if is_missing(error):
                continue
            if kind is ENDPOINT and not found and _is_closed(error):
                enabled = not _is_not_enabled(error)
                return [], [Unseen(session.region, ALL_KINDS, "anything", reason(error), enabled)]
            unseen.append(Unseen(session.region, (kind,), f"{kind.label}s", reason(error)))
    known: dict[str, dict[str, str]] = {}
    if by_tag:
        try:
            known = _tagged(session, participant)
            found += _named_otherwise(session, found, known, prefix=prefix, kinds=kinds)
        except ERRORS as error:
            unseen.append(Unseen(session.region, (), "anything by its tags", reason(error)))
    # Of one participant each is asked: what the tagging service knows may be old.
    found = _with_tags(session, found, {} if participant else known)
    found = _with_owners(found)
    if participant:
        found = [one for one in found if one.owner in (participant, "")]
    return sorted(found, key=lambda one: (ALL_KINDS.index(one.kind), one.created or _EARLY)), unseen


def ask_to_delete(session: Session, found: Found) -> str:
    """Ask AWS to delete what was found: `ASKED`, `ABSENT`, or `BUSY` when it has to be later.

    Raises:
        EndpointError: When it cannot be deleted.
    """
    try:
        return found.kind.delete(session, found)
    except (*ERRORS, EndpointError) as error:
        if is_missing(error):
            return ABSENT
        problem = reason(error)
    raise EndpointError(f"The {found.kind.label} {found.name} cannot be deleted: {problem}")


def is_there(session: Session, found: Found) -> bool:
    """Whether what was found is still there.

    Raises:
        EndpointError: When AWS cannot be asked.
    """
    try:
        return found.kind.is_there(session, found)
    except ERRORS as error:
        if is_missing(error):
            return False
        problem = reason(error)
    raise EndpointError(f"The {found.kind.label} {found.name} cannot be looked at: {problem}")


def _tagged(session: Session, participant: str | None) -> dict[str, dict[str, str]]:
    """Tags by ARN of all that has the workshop's, and of some that was deleted lately."""
    filters = [{"Key": "workshop", "Values": [WORKSHOP]}]
    filters += [{"Key": "participant", "Values": [participant]}] if participant else []
    pages = session.client("resourcegroupstaggingapi").get_paginator("get_resources")
    return {
        one["ResourceARN"].lower(): by_key(one["Tags"])
        for page in pages.paginate(TagFilters=filters)
        for one in page["ResourceTagMappingList"]
    }


def _named_otherwise(
    session: Session,
    found: list[Found],
    tagged: Mapping[str, Any],
    *,
    prefix: str,
    kinds: Iterable[Kind],
) -> Iterator[Found]:
    """What has the workshop's tags, and a name that is none of the workshop's."""
    missing = set(tagged) - {one.arn.lower() for one in found}
    for kind in kinds:
        # What is named so and was not listed has gone: the tagging service remembers it.
        if any(_is_of(kind, arn) and not _is_named(kind, arn, prefix) for arn in missing):
            yield from (one for one in kind.listed(session, "") if one.arn.lower() in missing)


def _is_of(kind: Kind, arn: str) -> bool:
    _, _, service, _, _, rest = arn.split(":", 5)
    return bool(kind.in_arn) and service == kind.service and rest.startswith(kind.in_arn)


def _is_named(kind: Kind, arn: str, prefix: str) -> bool:
    """Whether the name in an ARN, in small letters, begins as the workshop's do."""
    name = arn.split(":", 5)[5].removeprefix(kind.in_arn).removeprefix(LOG_GROUPS.lower())
    return f"{name}-".startswith(prefix.lower())


def _with_tags(
    session: Session, found: list[Found], known: Mapping[str, dict[str, str]]
) -> list[Found]:
    """The same with tags, without what has gone meanwhile."""
    for one in found:  # before there are threads: they may use clients, and not make them
        session.client(one.kind.service)

    def read(one: Found) -> Found | None:
        told = known.get(one.kind.tagged(one).lower())
        if told is not None:
            return replace(one, tags=told)
        try:
            return replace(one, tags=one.kind.tags(session, one))
        except ERRORS as error:
            return None if is_missing(error) else one

    if len(found) < 2:
        read_all = list(map(read, found))
    else:
        with ThreadPoolExecutor(_READERS) as pool:
            read_all = list(pool.map(read, found))
    return [one for one in read_all if one is not None]


def _with_owners(found: list[Found]) -> list[Found]:
    """The same with owners: by tag, else by what is tagged under the same name, else by name."""
    beside: dict[str, set[str]] = {}
    for one in found:
        tagged = (one.tags or {}).get("participant")
        if tagged and one.deployment:
            beside.setdefault(one.deployment, set()).add(tagged)

    def owner(one: Found) -> str:
        tagged = (one.tags or {}).get("participant")
        if tagged:
            return tagged
        others = beside.get(one.deployment, set())
        if others:
            return next(iter(others)) if len(others) == 1 else ""
        return one.kind.owner(one) if one.tags is not None else ""

    return [replace(one, owner=owner(one)) for one in found]


def _is_closed(error: Exception) -> bool:
    """Whether a whole region does not answer."""
    return not isinstance(error, ClientError) or _is_not_enabled(error)


def _is_not_enabled(error: Exception) -> bool:
    return isinstance(error, ClientError) and code(error) in _NOT_ENABLED
