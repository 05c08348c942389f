"""Pages of a list, for the services that number them with `NextToken`.

A token says where a page ended, and is good for the list that it was given out for: the same
operation with the same filters, asked of the same process.
"""

import base64
import hmac
import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from helpers.rehearsal.aws.awsjson import AwsError

Item = TypeVar("Item")
Place = str | list[Any]  # as JSON gives it back

_KEY = secrets.token_bytes(32)
_MAC = 12  # bytes


def page(
    items: Iterable[Item],
    given: Mapping[str, Any],
    *,
    operation: str,
    place: Callable[[Item], Place],
    size: int,
    error: str,
    descending: bool = False,
) -> tuple[list[Item], dict[str, str]]:
    """One page of a list, and the members that lead to the next one.

    Pages go by place and not by number, so that what is deleted meanwhile moves nothing.

    Args:
        items: All of them, in any order.
        given: The request: `MaxResults` and `NextToken` count, all else are filters.
        operation: Whose list it is, and where: `ListModels us-east-1`.
        place: Where an item stands; no two stand in the same place.
        size: Of a page when the request does not say.
        error: Code of the error for a token that was never given out.
        descending: Whether the last place comes first.

    Raises:
        AwsError: When the token is none of these.
    """
    filters = {n: value for n, value in given.items() if n not in ("MaxResults", "NextToken")}
    of = json.dumps([operation, filters], sort_keys=True).encode()
    wanted = sorted(items, key=place, reverse=descending)
    if "NextToken" in given:
        last = _read(given["NextToken"], of, error)
        wanted = [one for one in wanted if (place(one) < last if descending else place(one) > last)]
    shown = wanted[: max(1, given.get("MaxResults", size))]
    if len(shown) == len(wanted):
        return shown, {}
    return shown, {"NextToken": _token(json.dumps(place(shown[-1])).encode(), of)}


def check_only_page(given: Mapping[str, Any], error: str) -> None:
    """Refuse any token, where all stands on one page and none is given out."""
    if "NextToken" in given:
        raise _refused(error)


def _token(place: bytes, of: bytes) -> str:
    mac = hmac.digest(_KEY, of + b"\n" + place, "sha256")[:_MAC]
    return base64.b64encode(mac + place).decode()


def _read(token: str, of: bytes, error: str) -> Place:
    try:
        place = base64.b64decode(token, validate=True)[_MAC:]
    except ValueError:
        raise _refused(error) from None
    if not hmac.compare_digest(_token(place, of), token):
        raise _refused(error)
    return json.loads(place)


def _refused(error: str) -> AwsError:
    return AwsError(error, "The NextToken is not one that this operation gave out.")
