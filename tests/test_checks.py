"""Numbers that a reader gives."""

import math

import numpy as np
import pytest

from helpers import checks
from helpers.errors import WorkshopError


@pytest.mark.parametrize("value", [0, -1, 2.5, np.int64(3), np.float64(3)])
def test_python_and_numpy_have_numbers(value):
    assert checks.is_number(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "3", None, [3], 10**400, 1j])
def test_what_cannot_be_computed_with_is_no_number(value):
    assert not checks.is_number(value)
    with pytest.raises(WorkshopError, match=r"^A size is 0 or more, not "):
        checks.number("A size", value, least=0)
    with pytest.raises(WorkshopError, match=r"^A size is a whole number of 1 or more, not "):
        checks.whole("A size", value)


@pytest.mark.parametrize("value", [8, 8.0, np.int64(8), np.float64(8)])
def test_eight_is_whole_in_every_form(value):
    assert type(checks.whole("A size", value)) is int


def test_bounds_are_said():
    assert checks.whole("A size", 0, least=0) == 0 and checks.whole("A size", 9, most=9) == 9
    for wrong in (0, 1.5, 10):
        with pytest.raises(
            WorkshopError, match=f"^A size is a whole number from 1 to 9, not {wrong}"
        ):
            checks.whole("A size", wrong, most=9)
    assert checks.number("A time", 0, least=0) == 0
    with pytest.raises(WorkshopError, match="^A time is more than 0, not 0"):
        checks.number("A time", 0, above=0)
