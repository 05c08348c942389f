"""Numbers that a reader gives: which are any, and the sentence for those that are not."""

import argparse
import math
import reprlib
from collections.abc import Callable
from numbers import Real
from typing import Any

from helpers.errors import WorkshopError

# Beyond these nobody asks in earnest, and a simulation overflows or never ends.
MOST_PEOPLE = 10_000_000_000  # there are 8.2 billion
MOST_USERS = 10_000  # of one endpoint
MOST_REQUESTS = 10_000_000  # of one run: a minute of simulation
MOST_SLOTS = 1_024
MOST_TOKENS = 131_072  # of a slot: the context of Llama 3.1
MOST_REPLICAS = 10_000_000
LEAST_S, MOST_S = 1e-6, 2_678_400  # a microsecond, 31 days


def is_number(value: Any) -> bool:
    """Whether it is a finite number; True and False are none."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int that no float holds
        return False


def is_whole(value: Any, *, least: int = 1) -> bool:
    """Whether it is a whole number from the least on; 8.0 is one."""
    return is_number(value) and value == int(value) and value >= least


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
    if not is_whole(value, least=least):
        raise WorkshopError(f"{what} is a whole number of {least} or more, not {said(value)}.")
    _check_most(what, value, most)
    return int(value)


def number(
    what: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float | None = None,
) -> float:
    """A number from the least on, or above another, up to the most.

    Raises:
        WorkshopError: When it is no finite number or outside these.
    """
    if not is_number(value) or value < least or value <= above:
        bound = f"more than {above:g}" if above > -math.inf else f"{least:g} or more"
        raise WorkshopError(f"{what} is {bound}, not {said(value)}.")
    _check_most(what, value, most)
    return float(value)


def seconds(what: str, value: Any) -> float:
    """A time that something takes, from a microsecond to a month.

    Raises:
        WorkshopError: When it is none.
    """
    number(what, value, above=0)
    return number(what, value, least=LEAST_S, most=MOST_S)


def list_of(kind: type, example: str) -> Callable[[str], list]:
    """What reads an option's number, or several with commas between; for `argparse`."""

    def numbers(text: str) -> list:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"{text!r} is neither a number nor a list such as {example}"
            ) from error

    return numbers


def said(value: Any) -> str:
    """A value in a few words on one line, whatever it is: for the sentence that refuses it."""
    try:
        return " ".join(reprlib.repr(value).split())
    except ValueError:  # an int of more digits than Python writes
        return "so large a number"


def _check_most(what: str, value: float, most: float | None) -> None:
    if most is not None and value > most:
        raise WorkshopError(f"{what} is at most {most:,}, not {said(value)}.")
