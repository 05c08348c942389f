"""What a participant keeps in the bucket: objects, their versions, unfinished uploads."""

from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import ClientError

from helpers.errors import EndpointError
from helpers.resources.kind import ASKED, DENIED, Found, Kind, code
from helpers.resources.names import FOLDER, PREFIX
from helpers.session import Session

DELETED_AT_ONCE = 1000  # objects, by one DeleteObjects (API reference)
_PASSES = 3  # over a bucket's objects: those that were hidden by others come to light


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
            if code(error) not in DENIED or operation == "list_objects_v2":
                raise


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
