"""Pages of a list, for the services that number them with `NextToken`."""

import base64
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from helpers.rehearsal.aws.awsjson import AwsError

Item = TypeVar("Item")


def page(
    items: Iterable[Item],
    given: Mapping[str, Any],
    *,
    place: Callable[[Item], str],
    size: int,
    error: str,
    descending: bool = False,
) -> tuple[list[Item], dict[str, str]]:
    """One page of a list, and the members that lead to the next one.

    Pages go by place and not by number, so that what is deleted meanwhile moves nothing.

    Args:
        items: All of them, in any order.
        given: The request: `MaxResults` and `NextToken` count.
        place: Where an item stands; no two stand in the same place.
        size: Of a page when the request does not say.
        error: Code of the error for a token that was never given out.
        descending: Whether the last place comes first.

    Raises:
        AwsError: When the token is none of these.
    """
    wanted = sorted(items, key=place, reverse=descending)
    if "NextToken" in given:
        last = _read(given["NextToken"], error)
        wanted = [one for one in wanted if (place(one) < last if descending else place(one) > last)]
    shown = wanted[: max(1, given.get("MaxResults", size))]
    if len(shown) == len(wanted):
        return shown, {}
    return shown, {"NextToken": base64.b64encode(place(shown[-1]).encode()).decode()}


def _read(token: str, error: str) -> str:
    try:
        return base64.b64decode(token, validate=True).decode()
    except ValueError:  # of base64 and of UTF-8
        raise AwsError(error, "The NextToken is not one that this operation gave out.") from None
