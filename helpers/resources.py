"""What carries this workshop's names and tags: how it is named, found, told apart, deleted.

All kinds have the same small face: `listed` (what is named so in a region), `tags`, `delete` (ask
for it), `is_there`. Whose something is, its tag `participant` decides. Without one, what is tagged
beside it under the same name; then its name, but only when the name can be read in one way.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from helpers.errors import EndpointError
from helpers.recipes import RECIPES
from helpers.session import Session, reason

PREFIX = "inf2-workshop"
WORKSHOP = "inferentia2"  # value of the tag `workshop`
NAME_LENGTH = 63  # SageMaker: letters, digits and single hyphens
LOG_GROUPS = "/aws/sagemaker/Endpoints/"  # SageMaker's, one an endpoint
FOLDER = f"{PREFIX}/"  # in the bucket, one folder a participant

DELETED_AT_ONCE = 1000  # objects, by one DeleteObjects (API reference)

# What became of asking for a deletion.
ASKED, ABSENT, BUSY = "asked", "absent", "busy"

# "The security token included in the request is invalid" is how a region answers that the account
# has not enabled (aws/chalice issue 1445, boto/boto3 issues 2065 and 2022).
_NOT_ENABLED = ("UnrecognizedClientException", "InvalidClientTokenId", "OptInRequired")
_MISSING = (
    "ResourceNotFound",
    "ResourceNotFoundException",  # Logs, Scheduler
    "ObjectNotFoundException",  # Application Auto Scaling
    "NoSuchBucket",
    "NoSuchUpload",
)
_DENIED = ("AccessDenied", "AccessDeniedException")
IN_PROGRESS = ("Creating", "Updating", "SystemUpdating", "RollingBack")
_PASSES = 3  # over a bucket's objects: those that were hidden by others come to light
_READERS = 8  # of tags, at once: 40 ms each, and well below SageMaker's throttling [unverified]

_ERRORS = (ClientError, BotoCoreError)


@dataclass(frozen=True)
class Found:
    """One resource as a list operation shows it.

    Attributes:
        kind: What it is.
        name: As AWS names it within its kind.
        arn: Its ARN; two are the same when their ARNs are.
        region: Where it is.
        created: When it was created, None where AWS does not say.
        status: An endpoint's status, how much a folder holds, …; for readers.
        tags: By key; None when they could not be read.
        owner: The participant it belongs to, empty when that cannot be told.
    """

    kind: "Kind"
    name: str
    arn: str
    region: str
    created: datetime | None
    status: str = ""
    tags: Mapping[str, str] | None = field(default=None, compare=False)
    owner: str = ""

    @property
    def deployment(self) -> str:
        """The name that this has in common with its endpoint, model and so on."""
        return self.kind.deployment(self)


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
    kinds: tuple["Kind", ...]
    what: str
    why: str
    is_enabled: bool = True


@dataclass(frozen=True)
class Kind:
    """A kind of resource, with the same face as all others.

    Attributes:
        label: How readers call one.
        service: What boto3, and ARNs, call its service.
        in_arn: What ARNs of this kind have behind the account.
        bills: `yes` by the hour, `storage` by the gigabyte, or `no`.
        takes_s: AWS seconds that a deletion may take.
    """

    label: str
    service: str
    in_arn: str
    bills: str = "no"
    takes_s: float = 60

    def listed(self, session: Session, prefix: str) -> Iterator[Found]:
        """What is there of deployments whose names begin so, in the session's region."""
        raise NotImplementedError

    def tags(self, session: Session, found: Found) -> dict[str, str]:
        """Its tags."""
        raise NotImplementedError

    def delete(self, session: Session, found: Found) -> str:
        """Ask for its deletion: `ASKED`, or `BUSY` when AWS refuses it for the time being."""
        raise NotImplementedError

    def is_there(self, session: Session, found: Found) -> bool:
        """Whether it is still there."""
        raise NotImplementedError

    def tagged(self, found: Found) -> str:
        """The ARN of what carries the tags."""
        return found.arn

    def deployment(self, found: Found) -> str:
        """The name that it has in common with its endpoint."""
        return found.name

    def owner(self, found: Found) -> str:
        """The participant in its name, empty when that cannot be told."""
        return participant_in(found.name)


# --- SageMaker ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _SageMakerKind(Kind):
    """Models, endpoint configurations and endpoints."""

    member: str = ""

    @property
    def _method(self) -> str:
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.member).lower()

    def call(self, session: Session, verb: str, **arguments: Any) -> dict[str, Any]:
        """Call e.g. `describe_endpoint_config`."""
        return getattr(session.client("sagemaker"), f"{verb}_{self._method}")(**arguments)

    def listed(self, session, prefix):
        pages = session.client("sagemaker").get_paginator(f"list_{self._method}s")
        named = {"NameContains": prefix} if prefix else {}
        for page in pages.paginate(**named, PaginationConfig={"PageSize": 100}):  # else 10
            for one in page[f"{self.member}s"]:
                if one[f"{self.member}Name"].startswith(prefix):
                    yield Found(
                        self,
                        one[f"{self.member}Name"],
                        one[f"{self.member}Arn"],
                        session.region,
                        one["CreationTime"],
                        one.get("EndpointStatus", ""),
                    )

    def tags(self, session, found):
        return _by_key(session.client("sagemaker").list_tags(ResourceArn=found.arn)["Tags"])

    def delete(self, session, found):
        self.call(session, "delete", **{f"{self.member}Name": found.name})
        return ASKED

    def is_there(self, session, found):
        self.call(session, "describe", **{f"{self.member}Name": found.name})
        return True


class _EndpointKind(_SageMakerKind):
    """Endpoints, which AWS does not delete while they are being created or changed."""

    def delete(self, session, found):
        try:
            return super().delete(session, found)
        except ClientError as error:
            if is_missing(error) or _code(error) in _DENIED:
                raise
            status = self.call(session, "describe", EndpointName=found.name)["EndpointStatus"]
            if status == "Deleting":
                return ASKED
            if status in IN_PROGRESS or "in-progress" in str(error):  # or it has just ended
                return BUSY
            raise


ENDPOINT = _EndpointKind("endpoint", "sagemaker", "endpoint/", "yes", 900, member="Endpoint")
CONFIG = _SageMakerKind(
    "endpoint configuration", "sagemaker", "endpoint-config/", member="EndpointConfig"
)
MODEL = _SageMakerKind("model", "sagemaker", "model/", member="Model")
KINDS = (ENDPOINT, CONFIG, MODEL)


# --- what stands beside an endpoint ---------------------------------------------------------


class _ScalingTarget(Kind):
    """Scalable targets; a target's policies go with it."""

    _DIMENSION = "sagemaker:variant:DesiredInstanceCount"

    def listed(self, session, prefix):
        for one in self._targets(session):
            if one["ResourceId"].startswith(f"endpoint/{prefix}"):
                yield Found(
                    self,
                    one["ResourceId"],
                    one.get("ScalableTargetARN", ""),
                    session.region,
                    one["CreationTime"],
                    f"{one['MinCapacity']} to {one['MaxCapacity']} instances",
                )

    def tags(self, session, found):
        if not found.arn:
            return {}
        client = session.client("application-autoscaling")
        return client.list_tags_for_resource(ResourceARN=found.arn)["Tags"]

    def delete(self, session, found):
        client, named = session.client("application-autoscaling"), self._named(found)
        pages = client.get_paginator("describe_scaling_policies").paginate(**named)
        names = [one["PolicyName"] for page in pages for one in page["ScalingPolicies"]]
        for name in names:
            client.delete_scaling_policy(PolicyName=name, **named)
        client.deregister_scalable_target(**named)
        return ASKED

    def is_there(self, session, found):
        return any(True for _ in self._targets(session, ResourceIds=[found.name]))

    def deployment(self, found):
        return found.name.split("/")[1]

    def owner(self, found):
        return participant_in(found.deployment)

    def _targets(self, session: Session, **chosen: Any) -> Iterator[dict[str, Any]]:
        client = session.client("application-autoscaling")
        pages = client.get_paginator("describe_scalable_targets").paginate(
            ServiceNamespace="sagemaker", ScalableDimension=self._DIMENSION, **chosen
        )
        for page in pages:
            yield from page["ScalableTargets"]

    def _named(self, found: Found) -> dict[str, str]:
        return {
            "ServiceNamespace": "sagemaker",
            "ResourceId": found.name,
            "ScalableDimension": self._DIMENSION,
        }


class _Schedule(Kind):
    """Schedules, which cannot carry tags: their group does."""

    def listed(self, session, prefix):
        chosen = {"NamePrefix": prefix} if prefix else {}
        yield from (one for one in self.all(session, **chosen) if one.name.startswith(prefix))

    def all(self, session: Session, **chosen: str) -> Iterator[Found]:
        """Those that ListSchedules gives."""
        pages = session.client("scheduler").get_paginator("list_schedules")
        for page in pages.paginate(**chosen):
            for one in page["Schedules"]:
                status = "" if one["State"] == "ENABLED" else one["State"].lower()
                created = one["CreationDate"]
                yield Found(self, one["Name"], one["Arn"], session.region, created, status)

    def tags(self, session, found):
        if not self._participant(found):
            return {}  # of the default group, which has none
        client = session.client("scheduler")
        return _by_key(client.list_tags_for_resource(ResourceArn=self.tagged(found))["Tags"])

    def delete(self, session, found):
        session.client("scheduler").delete_schedule(Name=found.name, GroupName=self.group(found))
        return ASKED

    def is_there(self, session, found):
        session.client("scheduler").get_schedule(Name=found.name, GroupName=self.group(found))
        return True

    def tagged(self, found):
        account = found.arn.rpartition(":schedule/")[0]
        return f"{account}:schedule-group/{self.group(found)}"

    def owner(self, found):
        return self._participant(found) or participant_in(found.name)

    def group(self, found: Found) -> str:
        """The schedule group that it is in."""
        return found.arn.rpartition(":schedule/")[2].partition("/")[0]

    def due(self, session: Session, found: Found) -> datetime | None:
        """When a one-time schedule happens, None when it is disabled or not for one time."""
        told = session.client("scheduler").get_schedule(
            Name=found.name, GroupName=self.group(found)
        )
        match = re.fullmatch(r"at\(([\d:T-]+)\)", told["ScheduleExpression"])
        if not match or told["State"] != "ENABLED":
            return None
        return datetime.fromisoformat(match[1]).replace(tzinfo=UTC)

    def _participant(self, found: Found) -> str:
        group = self.group(found)
        return group.removeprefix(f"{PREFIX}-") if group.startswith(f"{PREFIX}-") else ""


class _ScheduleGroup(Kind):
    """Schedule groups, one a participant."""

    def listed(self, session, prefix):
        pages = session.client("scheduler").get_paginator("list_schedule_groups")
        named = prefix.removesuffix("-")
        for page in pages.paginate(**({"NamePrefix": named} if named else {})):
            for one in page["ScheduleGroups"]:
                begins = f"{one['Name']}-".startswith(prefix) and one["Name"] != "default"
                if begins and one["State"] != "DELETING":
                    yield Found(
                        self, one["Name"], one["Arn"], session.region, one.get("CreationDate")
                    )

    def tags(self, session, found):
        client = session.client("scheduler")
        return _by_key(client.list_tags_for_resource(ResourceArn=found.arn)["Tags"])

    def delete(self, session, found):
        session.client("scheduler").delete_schedule_group(Name=found.name)
        return ASKED

    def is_there(self, session, found):
        # It stays for a while as DELETING (user guide, "Deleting a schedule group").
        told = session.client("scheduler").get_schedule_group(Name=found.name)
        return told["State"] != "DELETING"

    def deployment(self, found):
        return ""

    def owner(self, found):
        return found.name.removeprefix(f"{PREFIX}-")


class _LogGroup(Kind):
    """Log groups of endpoints."""

    def listed(self, session, prefix):
        pages = session.client("logs").get_paginator("describe_log_groups")
        for page in pages.paginate(logGroupNamePrefix=f"{LOG_GROUPS}{prefix}"):
            for one in page["logGroups"]:
                created = datetime.fromtimestamp(one["creationTime"] / 1000, UTC)
                arn = one["arn"].removesuffix(":*")
                yield Found(self, one["logGroupName"], arn, session.region, created)

    def tags(self, session, found):
        return session.client("logs").list_tags_for_resource(resourceArn=found.arn)["tags"]

    def delete(self, session, found):
        session.client("logs").delete_log_group(logGroupName=found.name)
        return ASKED

    def is_there(self, session, found):
        pages = session.client("logs").get_paginator("describe_log_groups")
        return any(
            one["logGroupName"] == found.name
            for page in pages.paginate(logGroupNamePrefix=found.name)
            for one in page["logGroups"]
        )

    def deployment(self, found):
        return found.name.removeprefix(LOG_GROUPS)

    def owner(self, found):
        return participant_in(found.deployment)


class _Objects(Kind):
    """A participant's folder in the bucket: objects, their versions, unfinished uploads."""

    def listed(self, session, prefix):
        for folder in self._folders(session):
            participant = folder.split("/")[1]
            if f"{PREFIX}-{participant}-".startswith(prefix) and prefix:
                parts = list(self._parts(session, folder))
                if parts:
                    stored = sum(one.get("Size", 0) for one in parts)
                    yield Found(
                        self,
                        f"s3://{session.bucket}/{folder}",
                        f"arn:aws:s3:::{session.bucket}/{folder}",
                        session.region,
                        min(one.get("LastModified") or one["Initiated"] for one in parts),
                        f"{len(parts)} {'object' if len(parts) == 1 else 'objects'}, "
                        f"{stored / 1e9:.1f} GB",
                    )

    def tags(self, session, found):
        return {}  # its folder says whose it is

    def delete(self, session, found):
        client, folder = session.client("s3"), self._folder(found)
        here = self._here(session)
        for attempt in range(_PASSES):
            parts = list(self._parts(session, folder))
            stored = [one for one in parts if "UploadId" not in one]
            for start in range(0, len(stored), DELETED_AT_ONCE):
                batch = [_version(one, attempt) for one in stored[start : start + DELETED_AT_ONCE]]
                answer = client.delete_objects(Delete={"Objects": batch, "Quiet": True}, **here)
                _raise_first(answer.get("Errors", []))
            for one in parts:
                if "UploadId" in one:
                    client.abort_multipart_upload(Key=one["Key"], UploadId=one["UploadId"], **here)
            if not parts:
                break
        return ASKED

    def is_there(self, session, found):
        return any(True for _ in self._parts(session, self._folder(found)))

    def deployment(self, found):
        return ""

    def owner(self, found):
        return self._folder(found).split("/")[1]

    def _folder(self, found: Found) -> str:
        return found.name.removeprefix("s3://").partition("/")[2]

    def _here(self, session: Session) -> dict[str, str]:
        # Its name can be guessed: it counts only when it is this account's.
        return {"Bucket": session.bucket, "ExpectedBucketOwner": session.account}

    def _folders(self, session: Session) -> Iterator[str]:
        """The folders that hold objects, versions of some, or unfinished uploads."""
        seen: set[str] = set()
        for operation in ("list_object_versions", "list_objects_v2", "list_multipart_uploads"):
            pages = self._pages(session, operation, FOLDER, Delimiter="/")
            seen |= {one["Prefix"] for page in pages for one in page.get("CommonPrefixes", [])}
        yield from sorted(seen)

    def _parts(self, session: Session, folder: str) -> Iterator[dict[str, Any]]:
        versions = False
        for page in self._pages(session, "list_object_versions", folder):
            versions = True
            yield from page.get("Versions", [])
            yield from page.get("DeleteMarkers", [])
        if not versions:
            for page in self._pages(session, "list_objects_v2", folder):
                yield from page.get("Contents", [])
        for page in self._pages(session, "list_multipart_uploads", folder):
            yield from page.get("Uploads", [])

    def _pages(
        self, session: Session, operation: str, prefix: str, **more: str
    ) -> Iterator[dict[str, Any]]:
        """The pages of a list; none of what one may not list, if one may list objects."""
        pages = session.client("s3").get_paginator(operation)
        try:
            yield from pages.paginate(Prefix=prefix, **self._here(session), **more)
        except ClientError as error:
            if _code(error) not in _DENIED or operation == "list_objects_v2":
                raise


SCALING_TARGET = _ScalingTarget("scaling target", "application-autoscaling", "scalable-target/")
SCHEDULE = _Schedule("schedule", "scheduler", "schedule/")
SCHEDULE_GROUP = _ScheduleGroup("schedule group", "scheduler", "schedule-group/")
LOG_GROUP = _LogGroup("log group", "logs", "log-group:", "storage")
OBJECTS = _Objects("weights folder", "s3", "", "storage")
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


# --- Names and tags -------------------------------------------------------------------------


def name_of(participant: str, recipe_name: str) -> str:
    """The one name that model, configuration and endpoint of a recipe share."""
    name = _in_names(f"{PREFIX}-{participant}-{recipe_name}")
    if len(name) <= NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{name[: NAME_LENGTH - 7].rstrip('-')}-{digest}"


def participant_in(name: str) -> str:
    """The participant in a name of the workshop's, empty when it can be read in several ways.

    `inf2-workshop-anna-b-c` is anna's recipe `b-c` or anna-b's recipe `c`: only recipes that this
    workshop has tell where the participant ends.
    """
    if not name.startswith(f"{PREFIX}-"):
        return ""
    rest = name.removeprefix(f"{PREFIX}-")
    ends = {f"-{_in_names(recipe)}" for recipe in RECIPES}
    read = {rest.removesuffix(end) for end in ends if rest.endswith(end) and rest != end}
    return read.pop() if len(read) == 1 else ""


def tags(session: Session, recipe_name: str, *, expires: datetime | None = None) -> dict[str, str]:
    """The tags on everything the workshop creates; `expires` is a moment in UTC, or `never`."""
    return {
        "workshop": WORKSHOP,
        "participant": session.participant,
        "recipe": recipe_name,
        "expires": expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if expires else "never",
    }


def _in_names(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]+", "-", text).strip("-")


# --- One resource ---------------------------------------------------------------------------


def describe(session: Session, kind: Kind, name: str) -> dict[str, Any] | None:
    """What SageMaker says about a resource, None when it is not there.

    Raises:
        EndpointError: When SageMaker cannot be asked.
    """
    try:
        return kind.call(session, "describe", **{f"{kind.member}Name": name})
    except _ERRORS as error:
        if is_missing(error):
            return None
        problem = reason(error)
    raise EndpointError(f"The {kind.label} {name} cannot be looked at: {problem}")


def delete(session: Session, kind: Kind, name: str) -> bool:
    """Ask SageMaker to delete a resource; False when it is not there.

    Raises:
        EndpointError: When it cannot be deleted.
    """
    try:
        kind.call(session, "delete", **{f"{kind.member}Name": name})
        return True
    except _ERRORS as error:
        if is_missing(error):
            return False
        problem = reason(error)
    raise EndpointError(f"The {kind.label} {name} cannot be deleted: {problem}")


def ask_to_delete(session: Session, found: Found) -> str:
    """Ask AWS to delete what was found: `ASKED`, `ABSENT`, or `BUSY` when it has to be later.

    Raises:
        EndpointError: When it cannot be deleted.
    """
    try:
        return found.kind.delete(session, found)
    except (*_ERRORS, EndpointError) as error:
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
    except _ERRORS as error:
        if is_missing(error):
            return False
        problem = reason(error)
    raise EndpointError(f"The {found.kind.label} {found.name} cannot be looked at: {problem}")


def due(session: Session, schedule: Found) -> datetime | None:
    """When a one-time schedule happens, None when it does not.

    Raises:
        EndpointError: When the scheduler cannot be asked.
    """
    try:
        return SCHEDULE.due(session, schedule)
    except _ERRORS as error:
        if is_missing(error):
            return None
        problem = reason(error)
    raise EndpointError(f"The schedule {schedule.name} cannot be looked at: {problem}")


def schedules_in(session: Session, group: Found) -> list[Found]:
    """The schedules of a schedule group, which go when it goes.

    Raises:
        EndpointError: When the scheduler cannot be asked.
    """
    try:
        return list(SCHEDULE.all(session, GroupName=group.name))
    except _ERRORS as error:
        if is_missing(error):
            return []
        problem = reason(error)
    raise EndpointError(f"The schedules in {group.name} cannot be listed: {problem}")


def logs_of(session: Session, endpoint: Found) -> list[Found]:
    """The log group of an endpoint, if there is one and one may see it."""
    try:
        listed = list(LOG_GROUP.listed(session, endpoint.name))
    except _ERRORS:
        return []
    return [replace(one, owner=endpoint.owner) for one in listed if one.deployment == endpoint.name]


def tags_of(session: Session, arn: str) -> dict[str, str]:
    """Tags of a SageMaker resource, empty when it has just gone or they may not be read.

    Raises:
        EndpointError: When SageMaker cannot be asked.
    """
    try:
        return _by_key(session.client("sagemaker").list_tags(ResourceArn=arn)["Tags"])
    except ClientError:
        return {}
    except BotoCoreError as error:
        problem = reason(error)
    raise EndpointError(f"The tags of {arn} cannot be read: {problem}")


def is_missing(error: Exception) -> bool:
    """Whether an error of AWS says that the resource does not exist."""
    if not isinstance(error, ClientError):
        return False
    message = error.response.get("Error", {}).get("Message", "")
    return _code(error) in _MISSING or "Could not find" in message


# --- All of a region ------------------------------------------------------------------------


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
    for kind in kinds:
        try:
            found += kind.listed(session, prefix)
        except _ERRORS as error:
            if is_missing(error):  # no such bucket
                continue
            if _is_closed(error):
                enabled = not _is_not_enabled(error)
                return [], [Unseen(session.region, ALL_KINDS, "anything", reason(error), enabled)]
            unseen.append(Unseen(session.region, (kind,), f"{kind.label}s", reason(error)))
    known: dict[str, dict[str, str]] = {}
    if by_tag:
        try:
            known = _tagged(session, participant)
            found += _named_otherwise(session, found, known, prefix=prefix, kinds=kinds)
        except _ERRORS as error:
            unseen.append(Unseen(session.region, (), "anything by its tags", reason(error)))
    # Of one participant each is asked: what the tagging service knows may be old.
    found = _with_tags(session, found, {} if participant else known)
    found = _with_owners(found)
    if participant:
        found = [one for one in found if one.owner in (participant, "")]
    return sorted(found, key=lambda one: (ALL_KINDS.index(one.kind), one.created or _EARLY)), unseen


_EARLY = datetime.fromtimestamp(0, UTC)


def _tagged(session: Session, participant: str | None) -> dict[str, dict[str, str]]:
    """Tags by ARN of all that has the workshop's, and of some that was deleted lately."""
    filters = [{"Key": "workshop", "Values": [WORKSHOP]}]
    filters += [{"Key": "participant", "Values": [participant]}] if participant else []
    pages = session.client("resourcegroupstaggingapi").get_paginator("get_resources")
    return {
        one["ResourceARN"].lower(): _by_key(one["Tags"])
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
        if any(_is_of(kind, arn) and prefix not in f"{arn}-" for arn in missing):
            yield from (one for one in kind.listed(session, "") if one.arn.lower() in missing)


def _is_of(kind: Kind, arn: str) -> bool:
    _, _, service, _, _, rest = arn.split(":", 5)
    return bool(kind.in_arn) and service == kind.service and rest.startswith(kind.in_arn)


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
        except _ERRORS as error:
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
    return isinstance(error, ClientError) and _code(error) in _NOT_ENABLED


def _code(error: Exception) -> str:
    response = error.response if isinstance(error, ClientError) else {}
    return response.get("Error", {}).get("Code", "")


def _by_key(listed: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in listed}


# --- objects


def _version(part: Mapping[str, Any], attempt: int) -> dict[str, str]:
    """What names an object; its version where there are several, or there was one underneath."""
    version = part.get("VersionId", "null")
    named = version != "null" or attempt
    return {"Key": part["Key"], **({"VersionId": version} if named else {})}


def _raise_first(errors: list[dict[str, str]]) -> None:
    if errors:
        raise EndpointError(
            f"{len(errors)} objects, the first of them {errors[0]['Key']}: "
            f"{errors[0].get('Message', errors[0].get('Code'))}"
        )
