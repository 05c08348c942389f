"""Copy a model from the Hugging Face Hub to S3, so that no endpoint needs a token.

A token in a container's environment is visible to everyone who may call DescribeModel. With the
weights in S3 it is used here only, while they are copied, and goes into no object, log or error:

```bash
python -m helpers.weights --recipe llama-3-70b      # prints the address for endpoint.deploy
```

SageMaker copies what lies there to `/opt/ml/model` before it starts the container. Containers of
the Neuron cache load from a local path as well, and find its compiled shapes by the architecture in
its config.json: `huggingface/optimum-neuron`, `text-generation-inference/server/
text_generation_server/model.py` at v0.0.22 ("the path to a local model") and v0.0.28,
`optimum/commands/neuron/serve.py` at v0.4.4 (read 2026-11, not run).
"""

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any
from urllib.parse import quote, urlencode

import httpx
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from helpers import hub, recipes, resources
from helpers.errors import SettingsError, WeightsError, WorkshopError
from helpers.recipes import Recipe
from helpers.session import Session, open_session, reason

FOLDER = "/opt/ml/model"  # where SageMaker puts model data (API reference, S3ModelDataSource)
# $ for a GB and a month, S3 Standard, us-east-1, the first 50 TB (AWS's price list, 2025-04).
PRICE_GB_MONTH = 0.023

_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_URI = re.compile(r"s3://[^/]+/inf2-workshop/[^/]+/weights/([^/]+/[^/]+)/")
# What no container here reads: Meta's own checkpoint and other formats of the same weights.
_LEFT_OUT = ("original/*", "*.pth", "*.gguf", "*.onnx", "*.msgpack", "*.h5", ".git*", "*/.git*")
_OLD_WEIGHTS = "*.bin"  # left out as well where there are safetensors, as the containers do
_LAST = "config.json"  # without it nothing starts: half a copy is none
# 16 MiB a part: shards have 5 GB, S3 takes 10,000 parts, and ten of them wait in memory.
_TRANSFER = TransferConfig(
    multipart_threshold=16 * 2**20, multipart_chunksize=16 * 2**20, max_concurrency=4
)
_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_CHUNK = 2**20
_PATIENCE = 5  # attempts in a row that bring nothing
_DIGEST, _REVISION = "hub-digest", "hub-revision"  # metadata of the objects


@dataclass(frozen=True)
class _File:
    """A file on the Hub: its digest is SHA-256 of its content, or Git's name for it."""

    path: str
    size: int
    digest: str
    is_large: bool

    def hasher(self) -> Any:
        if self.is_large:
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)


@dataclass(frozen=True)
class _Place:
    """Where in S3 a model's files lie."""

    bucket: str
    prefix: str

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


# --- What is there --------------------------------------------------------------------------


def uri(session: Session, recipe: Recipe, *, bucket: str | None = None) -> str:
    """Where the copy of a recipe's model lies or would lie, e.g. `s3://b/inf2-workshop/…/`.

    Args:
        session: The workshop's session.
        recipe: Whose model.
        bucket: Another bucket than the session's.
    """
    return _place(session, recipe, bucket).uri


def find(session: Session, recipe: Recipe, *, bucket: str | None = None) -> str | None:
    """The address of a finished copy, for `endpoint.deploy`; None when there is none.

    Raises:
        WeightsError: When the bucket cannot be looked into.
    """
    place = _place(session, recipe, bucket)
    return place.uri if _LAST in _there(session, place) else None


def model_of(address: str) -> str:
    """The Hub's name of the model that was copied to an address; empty for others' addresses."""
    match = _URI.fullmatch(address)
    return match[1] if match else ""


def say_token(session: Session, recipe: Recipe, address: str | None) -> None:
    """Say where the Hugging Face token will stand when a recipe is deployed, and how to avoid it.

    Args:
        session: The workshop's session.
        recipe: What is to be deployed.
        address: Where its weights come from; None for the Hub.
    """
    if address:
        session.say(f"No token goes to AWS: the weights come from {address}")
    elif recipe.gated:
        session.say(
            "The token will stand in the container's environment, as HF_TOKEN: everyone who may "
            f"call DescribeModel in account {session.account} can read it. With the weights in S3 "
            "(weights.copy) there is none."
        )
    else:
        session.say(f"{recipe.model_id} is not gated: no token is needed.")


# --- Copy -----------------------------------------------------------------------------------


def copy(
    session: Session,
    recipe: Recipe,
    *,
    bucket: str | None = None,
    hf_token: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> str:
    """Copy a recipe's model from the Hub to S3; what is there already is skipped.

    Files are streamed one by one and touch no disk; each is compared with the Hub's digest before
    its object appears. After an interrupt, call it again.

    Args:
        session: The workshop's session.
        recipe: Whose model.
        bucket: Another bucket than the session's (`WORKSHOP_BUCKET`, else the one that
            `iam/template.yaml` makes), in the session's region.
        hf_token: For a gated model; left out, the one of the environment (`hub.token`).
        environ: Where `HF_TOKEN` and `HF_ENDPOINT` are looked for.

    Returns:
        The address for `endpoint.deploy(weights=…)`.

    Raises:
        WeightsError: When the Hub or S3 refuses, a file is not what the Hub says, or on interrupt;
            says what to do.
    """
    place = _place(session, recipe, bucket)
    token = _token(hf_token, environ)
    problem = ""
    try:
        there = _there(session, place)
        revision, files = _listed(recipe, token, environ)
        session.remember_bucket(place.bucket)  # for clean-up, which otherwise knows one
        _say_what(session, recipe, files, place)
        tags = resources.tags(session, recipe.name)
        with _Source(recipe.model_id, revision, token, environ, session.clock.sleep) as source:
            for file in files:
                _copy_file(session, source, file, place, there, tags)
    except KeyboardInterrupt:
        problem = "Interrupted: copy again, it goes on where it was."
    except WeightsError as error:
        problem = str(error)
    except (ClientError, BotoCoreError) as error:
        problem = f"{place.uri} cannot be written: {reason(error, token)}"
    if problem:  # outside: no exception is kept that holds a request and with it the token
        raise WeightsError(problem)
    session.say(f"All of {recipe.model_id} is there.")
    return place.uri


def _say_what(session: Session, recipe: Recipe, files: Sequence[_File], place: _Place) -> None:
    """Say how much it is, what it costs, and until when."""
    total = sum(file.size for file in files)
    until = "08_clean_up deletes them"
    if place.bucket != session.bucket:  # another machine knows the one of the session only
        until += ", run on this machine"
    session.say(
        f"{recipe.model_id}: {len(files)} files, {_readable(total)}, to {place.uri}, "
        f"${total / 1e9 * PRICE_GB_MONTH:.2f} a month until {until}."
    )


def _copy_file(
    session: Session,
    source: "_Source",
    file: _File,
    place: _Place,
    there: Mapping[str, int],
    tags: Mapping[str, str],
) -> None:
    s3, key = session.client("s3"), place.prefix + file.path
    size = _readable(file.size)
    if there.get(file.path) == file.size:
        metadata = s3.head_object(Bucket=place.bucket, Key=key)["Metadata"]
        if metadata.get(_DIGEST) == file.digest:
            session.say(f"{file.path}, {size}: is there")
            return
    with source.open(file) as content:
        s3.upload_fileobj(
            content,
            place.bucket,
            key,
            ExtraArgs={
                "Tagging": urlencode(tags),
                "Metadata": {_DIGEST: file.digest, _REVISION: source.revision},
            },
            Config=_TRANSFER,
        )
    session.say(f"{file.path}, {size}: copied")


def _readable(size: int) -> str:
    """Bytes for readers, e.g. `4.98 GB`."""
    unit, divisor = next((one for one in _UNITS if size >= one[1]), _UNITS[-1])
    return f"{size / divisor:.2f} {unit}"


def _token(given: str | None, environ: Mapping[str, str]) -> str | None:
    try:
        return hub.clean(given) or hub.token(environ)
    except SettingsError as error:
        raise WeightsError(str(error)) from None


def _place(session: Session, recipe: Recipe, bucket: str | None) -> _Place:
    if not _MODEL_ID.fullmatch(recipe.model_id):
        raise WeightsError(
            f"{recipe.model_id!r} is no model of the Hub: it looks like organization/name."
        )
    prefix = f"{resources.PREFIX}/{session.participant}/weights/{recipe.model_id}/"
    return _Place(bucket or session.bucket, prefix)


def _there(session: Session, place: _Place) -> dict[str, int]:
    """Size of each object below the prefix, by its path there."""
    pages = session.client("s3").get_paginator("list_objects_v2")
    found, region = {}, ""
    try:
        for page in pages.paginate(Bucket=place.bucket, Prefix=place.prefix):
            headers = page["ResponseMetadata"]["HTTPHeaders"]
            region = headers.get("x-amz-bucket-region") or region
            for one in page.get("Contents", []):
                found[one["Key"].removeprefix(place.prefix)] = one["Size"]
    except (ClientError, BotoCoreError) as error:
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
        problem = f"The bucket {place.bucket} cannot be looked into: {reason(error)}"
        if code == "NoSuchBucket":
            problem = (
                f"There is no bucket {place.bucket}: deploy iam/template.yaml, which makes it, or "
                "name another one with --bucket or WORKSHOP_BUCKET."
            )
    else:
        if not region or region == session.region:
            return found
        problem = (
            f"The bucket {place.bucket} is in {region}, and an endpoint in {session.region} cannot "
            "load from there: name one of its own region with --bucket or WORKSHOP_BUCKET."
        )
    raise WeightsError(problem)


# --- The Hub --------------------------------------------------------------------------------


def _endpoint(environ: Mapping[str, str]) -> str:
    return (environ.get("HF_ENDPOINT") or hub.HUB_URL).rstrip("/")


def _listed(
    recipe: Recipe, token: str | None, environ: Mapping[str, str]
) -> tuple[str, list[_File]]:
    """The Hub's current revision of a model and the files to copy, the one to be last at the end.

    Raises:
        WeightsError: When the Hub refuses, or lists what cannot lie in a folder.
    """
    if recipe.gated:
        asked = {**environ, "HF_TOKEN": token or ""}
        checked = hub.check_token(recipe.model_id, environ=asked)
        if not checked.licence_accepted:
            raise WeightsError(checked.message)
    from huggingface_hub import HfApi

    hub.keep_to(_endpoint(environ))
    api, problem = HfApi(endpoint=_endpoint(environ), token=token or False), ""
    try:
        info = api.model_info(recipe.model_id, files_metadata=True)
        files = [_file(one) for one in info.siblings or []]
    except WeightsError as error:
        problem = str(error)
    except Exception as error:  # huggingface_hub's HTTP library changes between its versions
        problem = (
            f"The Hub does not list the files of {recipe.model_id} ({type(error).__name__}): check "
            "its name and the network, and try again."
        )
    else:
        return info.sha or "main", _wanted(recipe.model_id, files)
    raise WeightsError(problem)


def _file(listed: Any) -> _File:
    parts = listed.rfilename.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
        raise WeightsError(
            f"The Hub lists a file {listed.rfilename[:80]!r}, which cannot lie in {FOLDER}: copy "
            "another revision of the model."
        )
    large = listed.lfs
    size, digest = (large.size, large.sha256) if large else (listed.size, listed.blob_id)
    if type(size) is not int or size < 0 or not isinstance(digest, str):
        raise WeightsError(
            f"The Hub lists {listed.rfilename[:80]} without its size or digest, so that a copy "
            "cannot be compared with it: try again later."
        )
    return _File(listed.rfilename, size, digest, is_large=bool(large))


def _wanted(model_id: str, files: Sequence[_File]) -> list[_File]:
    left_out = _LEFT_OUT
    if any(file.path.endswith(".safetensors") for file in files):
        left_out += (_OLD_WEIGHTS,)
    wanted = [file for file in files if not any(fnmatch(file.path, one) for one in left_out)]
    if not any(file.path == _LAST for file in wanted):
        raise WeightsError(
            f"{model_id} has no {_LAST} on the Hub, and no container loads it without: choose "
            "another model."
        )
    return sorted(wanted, key=lambda file: (file.path == _LAST, file.path))


class _Busy(Exception):
    """The Hub has no time for a request now; says what it answered."""


class _Source:
    """A model's files on the Hub, to be read as they come.

    Args:
        model_id: `organization/name`.
        revision: Of which all files are.
        token: For a gated model; a server that the Hub redirects to does not get it.
        environ: Where `HF_ENDPOINT` is looked for.
        sleep: Waits for so many seconds between two attempts.
    """

    def __init__(
        self,
        model_id: str,
        revision: str,
        token: str | None,
        environ: Mapping[str, str],
        sleep: Any,
    ):
        self.revision = revision
        self._model_id = model_id
        self._base = f"{_endpoint(environ)}/{model_id}/resolve/{quote(revision, safe='')}/"
        headers = {"Accept-Encoding": "identity", "User-Agent": "inf2-workshop"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(headers=headers, follow_redirects=True, timeout=60)
        self._sleep = sleep

    def __enter__(self) -> "_Source":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def open(self, file: _File) -> "_Content":
        """A file's content."""
        return _Content(self, file)

    def bytes_from(self, file: _File, offset: int) -> Iterator[bytes]:
        """A file's content from a byte on, until it ends or breaks off.

        Raises:
            WeightsError: When the Hub does not hand it out.
            _Busy: When it may do so later.
        """
        url = self._base + quote(file.path)
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._client.stream("GET", url, headers=headers) as answer:
            status = answer.status_code
            if status == 429 or status >= 500:
                raise _Busy(f"the Hub answers {status}")
            if status != (206 if offset else 200):
                what = self._what_to_do(status, offset)
                raise WeightsError(
                    f"The Hub answers {status} for {file.path} of {self._model_id}: {what}, then "
                    "copy again; what is there is skipped."
                )
            yield from answer.iter_raw(_CHUNK)

    @staticmethod
    def _what_to_do(status: int, offset: int) -> str:
        if status in (401, 403):
            return "check the token and its license"
        if status == 200:
            return f"it begins anew instead of going on at byte {offset}; try another network"
        if status in (404, 410, 416):
            return "the file has changed since it was listed; wait a moment"
        return "look at https://status.huggingface.co and wait until it is well"

    def wait(self, attempt: int) -> None:
        """Wait before another attempt: 1, 2, 4, … s."""
        self._sleep(2.0**attempt)


class _Content:
    """One file as boto3 reads it: it goes on after a broken connection, and checks itself."""

    def __init__(self, source: _Source, file: _File):
        self._source, self._file = source, file
        self._hash, self._read, self._rest = file.hasher(), 0, b""
        self._chunks = source.bytes_from(file, 0)

    def __enter__(self) -> "_Content":
        return self

    def __exit__(self, *_: object) -> None:
        self._chunks.close()

    def read(self, amount: int = -1) -> bytes:
        """So many bytes, fewer at the end, all when negative.

        Raises:
            WeightsError: When the file cannot be read to its end, or is not what the Hub lists.
        """
        parts, wanted = [self._rest], amount - len(self._rest)
        while amount < 0 or wanted > 0:
            chunk = self._next()
            if not chunk:
                break
            parts.append(chunk)
            wanted -= len(chunk)
        data = b"".join(parts)
        end = len(data) if amount < 0 else amount
        data, self._rest = data[:end], data[end:]
        return data

    def _next(self) -> bytes:
        """The next bytes, none at the end."""
        why = "broke off"
        for attempt in range(_PATIENCE):
            if attempt:
                self._source.wait(attempt - 1)
                self._chunks = self._source.bytes_from(self._file, self._read)
            try:
                chunk = next(self._chunks, b"")
            except httpx.HTTPError:  # holds the request, and with it the token: not kept
                continue
            except _Busy as error:
                why = f"cannot be had, {error},"
                continue
            if chunk:
                self._read += len(chunk)
                self._hash.update(chunk)
                if self._read > self._file.size:  # whatever follows: it is another file
                    self._check()
                return chunk
            if self._read >= self._file.size:
                self._check()
                return b""
        raise WeightsError(
            f"{self._file.path} {why} after {_readable(self._read)} of "
            f"{_readable(self._file.size)}: check the network, or wait, and copy again; what is "
            "there is skipped."
        )

    def _check(self) -> None:
        if self._read != self._file.size or self._hash.hexdigest() != self._file.digest:
            raise WeightsError(
                f"{self._file.path} is not what the Hub lists ({self._read} bytes of "
                f"{self._file.size}, or other ones): copy again."
            )


# --- Command line ---------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.weights",
        description="Copy a model from the Hugging Face Hub to S3. The token comes from HF_TOKEN "
        "or `hf auth login`, and stays on this machine.",
    )
    parser.add_argument("--recipe", choices=recipes.RECIPES, default=recipes.DEFAULT)
    parser.add_argument("--bucket", help="another bucket than the workshop's")
    parser.add_argument("--region", help="AWS region of the endpoint and the bucket")
    given = parser.parse_args(arguments)
    try:
        session = open_session(region=given.region)
        print(copy(session, recipes.get(given.recipe), bucket=given.bucket))
    except WorkshopError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: nothing was copied.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
