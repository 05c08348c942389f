"""Numbers that a reader gives: which are any, and the sentence for those that are not."""

import math
from numbers import Real
from typing import Any

from helpers.errors import WorkshopError


def is_number(value: Any) -> bool:
    """Whether it is a finite number; True and False are none."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int that no float holds
        return False


def whole(what: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """A whole number; 8.0 is one, since a table's column often has it so.

    Args:
        what: What it is the number of, as a sentence begins.
        value: What was given.
        least: The smallest that makes sense.
        most: The largest.

    Raises:
        WorkshopError: When it is no whole number or outside these.
    """
    highest = math.inf if most is None else most
    if is_number(value) and value == int(value) and least <= value <= highest:
        return int(value)
    bounds = f"of {least} or more" if most is None else f"from {least} to {most}"
    raise WorkshopError(f"{what} is a whole number {bounds}, not {value!r}.")


def number(what: str, value: Any, *, least: float = -math.inf, above: float = -math.inf) -> float:
    """A number from the least on, or above another.

    Raises:
        WorkshopError: When it is no finite number or too small.
    """
    if is_number(value) and value >= least and value > above:
        return float(value)
    bound = f"more than {above:g}" if above > -math.inf else f"{least:g} or more"
    raise WorkshopError(f"{what} is {bound}, not {value!r}.")
