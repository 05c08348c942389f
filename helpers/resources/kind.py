"""What a kind of resource is: one small face for all of them, and what AWS's errors mean."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from botocore.exceptions import BotoCoreError, ClientError

from helpers.resources.names import participant_in
from helpers.session import Session

# What became of asking for a deletion.
ASKED, ABSENT, BUSY = "asked", "absent", "busy"

_MISSING = (
    "ResourceNotFound",
    "ResourceNotFoundException",  # Logs, Scheduler
    "ObjectNotFoundException",  # Application Auto Scaling
    "NoSuchBucket",
    "NoSuchUpload",
)
DENIED = ("AccessDenied", "AccessDeniedException")

ERRORS = (ClientError, BotoCoreError)


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


def is_missing(error: Exception) -> bool:
    """Whether an error of AWS says that the resource does not exist."""
    if not isinstance(error, ClientError):
        return False
    message = error.response.get("Error", {}).get("Message", "")
    return code(error) in _MISSING or "Could not find" in message


def code(error: Exception) -> str:
    """The code of an error of AWS, empty when it is none."""
    response = error.response if isinstance(error, ClientError) else {}
    return response.get("Error", {}).get("Code", "")


def by_key(listed: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Tags as most services list them."""
    return {tag["Key"]: tag["Value"] for tag in listed}
