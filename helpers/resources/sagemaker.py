"""Models, endpoint configurations and endpoints."""

import re
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from helpers.errors import EndpointError
from helpers.resources.kind import (
    ASKED,
    BUSY,
    DENIED,
    ERRORS,
    Found,
    Kind,
    by_key,
    code,
    is_missing,
)
from helpers.session import Session, reason

FAILED = "Failed"  # it has no machine, and bills nothing
IN_PROGRESS = ("Creating", "Updating", "SystemUpdating", "RollingBack")


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
        return by_key(session.client("sagemaker").list_tags(ResourceArn=found.arn)["Tags"])

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
            if is_missing(error) or code(error) in DENIED:
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


def describe(session: Session, kind: Kind, name: str) -> dict[str, Any] | None:
    """What SageMaker says about a resource, None when it is not there.

    Raises:
        EndpointError: When SageMaker cannot be asked.
    """
    try:
        return kind.call(session, "describe", **{f"{kind.member}Name": name})
    except ERRORS as error:
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
    except ERRORS as error:
        if is_missing(error):
            return False
        problem = reason(error)
    raise EndpointError(f"The {kind.label} {name} cannot be deleted: {problem}")


def tags_of(session: Session, arn: str) -> dict[str, str]:
    """Tags of a SageMaker resource, empty when it has just gone or they may not be read.

    Raises:
        EndpointError: When SageMaker cannot be asked.
    """
    try:
        return by_key(session.client("sagemaker").list_tags(ResourceArn=arn)["Tags"])
    except ClientError:
        return {}
    except BotoCoreError as error:
        problem = reason(error)
    raise EndpointError(f"The tags of {arn} cannot be read: {problem}")
