"""What a participant keeps in the bucket: objects, their versions, unfinished uploads."""

from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import ClientError

from helpers.errors import EndpointError
from helpers.resources.kind import ASKED, DENIED, ERRORS, Found, Kind, code, is_missing
from helpers.resources.names import FOLDER, PREFIX
from helpers.session import Session

DELETED_AT_ONCE = 1000  # objects, by one DeleteObjects (API reference)
_PASSES = 3  # over a bucket's objects: those that were hidden by others come to light


class _Objects(Kind):
    """A participant's folder in the bucket: objects, their versions, unfinished uploads."""

    def listed(self, session, prefix):
        problems: list[Exception] = []
        for bucket in session.buckets if prefix else ():
            try:
                yield from self._in_bucket(session, bucket, prefix, problems)
            except ERRORS as error:  # the other buckets are looked into all the same
                if not is_missing(error):
                    problems.append(error)
        if problems:
            raise problems[0]

    def _in_bucket(
        self, session: Session, bucket: str, prefix: str, problems: list[Exception]
    ) -> Iterator[Found]:
        for folder in self._folders(session, bucket, problems):
            participant = folder.split("/")[1]
            if f"{PREFIX}-{participant}-".startswith(prefix):
                parts = list(self._parts(session, bucket, folder))
                if parts:
                    stored = sum(one.get("Size", 0) for one in parts)
                    yield Found(
                        self,
                        f"s3://{bucket}/{folder}",
                        f"arn:aws:s3:::{bucket}/{folder}",
                        session.region,
                        min(one.get("LastModified") or one["Initiated"] for one in parts),
                        f"{len(parts)} {'object' if len(parts) == 1 else 'objects'}, "
                        f"{stored / 1e9:.1f} GB",
                    )

    def tags(self, session, found):
        return {}  # its folder says whose it is

    def delete(self, session, found):
        client, (bucket, folder) = session.client("s3"), self._place(found)
        here = self._here(session, bucket)
        for attempt in range(_PASSES):
            parts = list(self._parts(session, bucket, folder))
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
        return any(True for _ in self._parts(session, *self._place(found)))

    def deployment(self, found):
        return ""

    def owner(self, found):
        return self._place(found)[1].split("/")[1]

    def _place(self, found: Found) -> tuple[str, str]:
        """Bucket and folder."""
        bucket, _, folder = found.name.removeprefix("s3://").partition("/")
        return bucket, folder

    def _here(self, session: Session, bucket: str) -> dict[str, str]:
        # Its name can be guessed: it counts only when it is this account's.
        return {"Bucket": bucket, "ExpectedBucketOwner": session.account}

    def _folders(self, session: Session, bucket: str, problems: list[Exception]) -> Iterator[str]:
        """The folders that hold objects, versions of some, or unfinished uploads."""
        seen: set[str] = set()
        for operation in ("list_object_versions", "list_objects_v2", "list_multipart_uploads"):
            pages = self._pages(session, bucket, operation, FOLDER, problems, Delimiter="/")
            seen |= {one["Prefix"] for page in pages for one in page.get("CommonPrefixes", [])}
        yield from sorted(seen)

    def _parts(self, session: Session, bucket: str, folder: str) -> Iterator[dict[str, Any]]:
        versions = False
        for page in self._pages(session, bucket, "list_object_versions", folder, []):
            versions = True
            yield from page.get("Versions", [])
            yield from page.get("DeleteMarkers", [])
        if not versions:
            for page in self._pages(session, bucket, "list_objects_v2", folder, []):
                yield from page.get("Contents", [])
        for page in self._pages(session, bucket, "list_multipart_uploads", folder, []):
            yield from page.get("Uploads", [])

    def _pages(
        self,
        session: Session,
        bucket: str,
        operation: str,
        prefix: str,
        problems: list[Exception],
        **more: str,
    ) -> Iterator[dict[str, Any]]:
        """The pages of a list; of what one may not list, if one may list objects, a problem."""
        pages = session.client("s3").get_paginator(operation)
        try:
            yield from pages.paginate(Prefix=prefix, **self._here(session, bucket), **more)
        except ClientError as error:
            if code(error) not in DENIED or operation == "list_objects_v2":
                raise
            problems.append(error)


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


OBJECTS = _Objects("weights folder", "s3", "", "storage")
