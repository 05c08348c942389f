"""The check of weights in S3: the prefix is one, holds a model, and the container may read it."""

import re

from botocore.exceptions import ClientError

from helpers import weights
from helpers.errors import SessionError
from helpers.preflight import rights
from helpers.preflight.asked import FAILED, GO_ON, NOT_CHECKED, OK, WARNING, Asked, Result
from helpers.session import reason

_PREFIX = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/([^/].*/)")
_AGAIN = "Copy them with `python -m helpers.weights` and deploy from the address that it prints."


def stored_weights(asked: Asked) -> list[Result]:
    """Whether the container finds its weights where it is told to load them from."""
    address = asked.weights
    if address is None:
        return [Result("weights", OK, "not in S3: the container downloads them from the Hub")]
    match = _PREFIX.fullmatch(address) if isinstance(address, str) else None
    if match is None:
        said = f"{address!r} is no S3 prefix, such as s3://bucket/folder/"
        return [Result("weights", FAILED, said, _AGAIN)]
    unreadable, unknown = _unreadable(asked, *match.groups())
    found = unreadable or _problem(asked, *match.groups()) or unknown
    return [found or Result("weights", OK, f"a model lies at {address}")]


def _unreadable(asked: Asked, bucket: str, prefix: str) -> tuple[Result | None, Result | None]:
    """A role that may not read it, or that nobody may simulate it."""
    try:
        role = asked.role
    except SessionError as error:
        remedy = f"Mend the role first. {GO_ON}"
        return None, Result("weights", NOT_CHECKED, str(error).rstrip("."), remedy)
    name = role.rpartition("/")[2]
    try:
        may = rights.may_read(
            asked.client("iam"), role, bucket=bucket, prefix=prefix, account=asked.session.account
        )
    except ClientError as error:
        said = f"whether {name} may read {asked.weights}: {reason(error).rstrip('.')}"
        return None, Result("weights", NOT_CHECKED, said, f"Compare by eye. {GO_ON}")
    if may:
        return None, None
    said = f"{name} may not read {asked.weights}"
    remedy = f"Give it s3:GetObject and s3:ListBucket there (iam/execution.json). Or: {_AGAIN}"
    return Result("weights", FAILED, said, remedy), None


def _problem(asked: Asked, bucket: str, prefix: str) -> Result | None:
    """What is wrong with what lies there, None when nothing is."""
    try:
        listed = asked.client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{prefix}config.json")
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchBucket":
            return Result("weights", FAILED, f"there is no bucket {bucket}", _AGAIN)
        said = f"{asked.weights} cannot be looked into: {reason(error).rstrip('.')}"
        return Result("weights", NOT_CHECKED, said, f"Look whether a model lies there. {GO_ON}")
    region = listed["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    if region and region != asked.session.region:
        said = f"{bucket} is in {region}, the endpoint would be in {asked.session.region}"
        return Result("weights", FAILED, said, "Copy the weights to a bucket of its own region.")
    if not any(one["Key"] == f"{prefix}config.json" for one in listed.get("Contents", [])):
        said = f"no finished copy of a model lies at {asked.weights}: config.json is missing"
        return Result("weights", FAILED, said, _AGAIN)
    model_id = weights.model_of(asked.weights or "")
    if model_id and model_id != asked.recipe.model_id:
        said = f"{model_id} lies at {asked.weights}, and the recipe is of {asked.recipe.model_id}"
        return Result("weights", WARNING, said, f"Look whether that is meant, or: {_AGAIN}")
    return None
