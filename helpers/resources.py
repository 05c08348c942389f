"""The three things a deployment consists of on SageMaker: how they are named, found, deleted."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from helpers.errors import EndpointError
from helpers.session import Session, reason

PREFIX = "inf2-workshop"
WORKSHOP = "inferentia2"  # value of the tag `workshop`
NAME_LENGTH = 63  # SageMaker: letters, digits and single hyphens


@dataclass(frozen=True)
class Kind:
    """A kind of SageMaker resource: how readers and the API call it."""

    label: str
    member: str

    @property
    def _method(self) -> str:
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.member).lower()

    def call(self, session: Session, verb: str, **arguments: Any) -> dict[str, Any]:
        """Call e.g. `describe_endpoint_config`."""
        return getattr(session.client("sagemaker"), f"{verb}_{self._method}")(**arguments)


ENDPOINT = Kind("endpoint", "Endpoint")
CONFIG = Kind("endpoint configuration", "EndpointConfig")
MODEL = Kind("model", "Model")
KINDS = (ENDPOINT, CONFIG, MODEL)


@dataclass(frozen=True)
class Found:
    """One resource as a list operation shows it; `status` of endpoints only."""

    kind: Kind
    name: str
    arn: str
    created: datetime
    status: str = ""


def name_of(participant: str, recipe_name: str) -> str:
    """The one name that model, configuration and endpoint of a recipe share."""
    name = re.sub(r"[^a-zA-Z0-9]+", "-", f"{PREFIX}-{participant}-{recipe_name}").strip("-")
    if len(name) <= NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{name[: NAME_LENGTH - 7].rstrip('-')}-{digest}"


def tags(session: Session, recipe_name: str, *, expires: datetime | None = None) -> dict[str, str]:
    """The tags on everything the workshop creates; `expires` is a moment in UTC, or `never`."""
    return {
        "workshop": WORKSHOP,
        "participant": session.participant,
        "recipe": recipe_name,
        "expires": expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if expires else "never",
    }


def describe(session: Session, kind: Kind, name: str) -> dict[str, Any] | None:
    """What SageMaker says about a resource, None when it is not there.

    Raises:
        EndpointError: When SageMaker cannot be asked.
    """
    try:
        return kind.call(session, "describe", **{f"{kind.member}Name": name})
    except (ClientError, BotoCoreError) as error:
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
    except (ClientError, BotoCoreError) as error:
        if is_missing(error):
            return False
        problem = reason(error)
    raise EndpointError(f"The {kind.label} {name} cannot be deleted: {problem}")


def of_participant(session: Session, kind: Kind) -> list[Found]:
    """The participant's resources of a kind, oldest first.

    A name can begin like another participant's (`anna-` and `anna-b-`): the tag decides.

    Raises:
        EndpointError: When SageMaker cannot be asked.
    """
    prefix = f"{PREFIX}-{session.participant}-"
    try:
        found = [
            one
            for one in _listed(session, kind, prefix)
            if one.name.startswith(prefix)
            and tags_of(session, one.arn).get("participant", session.participant)
            == session.participant
        ]
    except (ClientError, BotoCoreError) as error:
        problem = reason(error)
    else:
        return sorted(found, key=lambda one: one.created)
    raise EndpointError(f"The {kind.label}s in {session.region} cannot be listed: {problem}")


def tags_of(session: Session, arn: str) -> dict[str, str]:
    """Tags of a resource, empty when it has just gone or they may not be read.

    Raises:
        EndpointError: When SageMaker cannot be asked.
    """
    try:
        listed = session.client("sagemaker").list_tags(ResourceArn=arn)["Tags"]
    except ClientError:
        return {}
    except BotoCoreError as error:
        problem = reason(error)
    else:
        return {tag["Key"]: tag["Value"] for tag in listed}
    raise EndpointError(f"The tags of {arn} cannot be read: {problem}")


def is_missing(error: Exception) -> bool:
    """Whether an error of SageMaker says that the resource does not exist."""
    if not isinstance(error, ClientError):
        return False
    said = error.response.get("Error", {})
    return said.get("Code") == "ResourceNotFound" or "Could not find" in said.get("Message", "")


def _listed(session: Session, kind: Kind, prefix: str) -> Iterator[Found]:
    pages = session.client("sagemaker").get_paginator(f"list_{kind._method}s")
    for page in pages.paginate(NameContains=prefix):
        for one in page[f"{kind.member}s"]:
            yield Found(
                kind,
                one[f"{kind.member}Name"],
                one[f"{kind.member}Arn"],
                one["CreationTime"],
                one.get("EndpointStatus", ""),
            )
