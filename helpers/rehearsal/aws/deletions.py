"""DeleteObjects: S3 refuses single objects of a request and deletes the others."""

import base64
import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from xml.sax.saxutils import escape

from helpers.rehearsal.aws.awsjson import AwsError
from helpers.rehearsal.server import Answer, Request

_END = b"</DeleteResult>"
_NOTHING = b'<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></DeleteResult>'


@dataclass(frozen=True)
class Deletion:
    """One object to be deleted, or one version of it.

    Attributes:
        key: The object's.
        version: Its version, `null` for what was there before there were versions; else empty.
    """

    key: str
    version: str = ""


def listed(body: bytes) -> list[Deletion]:
    """What a request is to delete, nothing when it cannot be read."""
    tree = _read(body)
    if tree is None:
        return []
    each = (one for one in tree if _name(one) == "Object")
    return [Deletion(_text(one, "Key"), _text(one, "VersionId")) for one in each]


async def carry_out(
    request: Request,
    denied: Mapping[Deletion, str],
    answer: Callable[[Request], Awaitable[Answer]],
) -> Answer:
    """Let S3 delete what the signer may delete.

    Args:
        request: As it was received.
        denied: What AWS says of the others.
        answer: Asks S3.

    Raises:
        AwsError: When it cannot be read.
    """
    asked = listed(request.body)
    if not asked:
        message = (
            "The XML you provided was not well-formed or did not validate against our published "
            "schema"
        )
        raise AwsError("MalformedXML", message)
    left = [one for one in asked if one not in denied]
    given = Answer(200, {"Content-Type": "application/xml"}, _NOTHING)
    if left:
        given = await answer(_of(request, left))
    if given.status != 200:
        return given
    start, _, _ = given.body.rpartition(_END)
    errors = "".join(_error(one, denied[one]) for one in asked if one in denied)
    headers = {name: given.headers[name] for name in given.headers if name.lower() != _LENGTH}
    return Answer(200, headers, start + errors.encode() + _END)


_LENGTH = "content-length"


def _of(request: Request, left: list[Deletion]) -> Request:
    """The same request for fewer objects; its checksums are of what it says now."""
    tree = _read(request.body)
    quiet = "" if tree is None else _text(tree, "Quiet")
    parts = [f"<Quiet>{escape(quiet)}</Quiet>"] if quiet else []
    parts += [f"<Object>{_naming(one)}</Object>" for one in left]
    body = f"<Delete>{''.join(parts)}</Delete>".encode()
    headers = {name: request.headers[name] for name in request.headers if "checksum" not in name}
    headers["content-md5"] = base64.b64encode(hashlib.md5(body).digest()).decode()
    return Request(request.method, request.path, request.query, headers, body)


def _error(one: Deletion, message: str) -> str:
    """Words as of a single DeleteObject; that they stand here as well is [unverified]."""
    what = f"<Code>AccessDenied</Code><Message>{escape(message)}</Message>"
    return f"<Error>{_naming(one)}{what}</Error>"


def _naming(one: Deletion) -> str:
    version = f"<VersionId>{escape(one.version)}</VersionId>" if one.version else ""
    return f"<Key>{escape(one.key)}</Key>{version}"


def _read(body: bytes) -> ElementTree.Element | None:
    try:
        return ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return None


def _text(tree: ElementTree.Element, name: str) -> str:
    return next((one.text or "" for one in tree if _name(one) == name), "")


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
