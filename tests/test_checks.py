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
    for wrong in (0, 1.5):
        with pytest.raises(WorkshopError, match=f"^A size is a whole number of 1 .* not {wrong}"):
            checks.whole("A size", wrong, most=9)
    with pytest.raises(WorkshopError, match="^A size is at most 9, not 10"):
        checks.whole("A size", 10, most=9)
    assert checks.number("A time", 0, least=0) == 0
    with pytest.raises(WorkshopError, match="^A time is more than 0, not 0"):
        checks.number("A time", 0, above=0)
    with pytest.raises(WorkshopError, match="^A time is at most 1,000, not 1e.300"):
        checks.number("A time", 1e300, most=1000)


@pytest.mark.parametrize("value", [0, 1e-300, 1e-7, 1e300, 10**400, "1", None, [1] * 99])
def test_a_time_is_a_microsecond_to_a_month_and_what_is_none_is_said_shortly(value):
    with pytest.raises(WorkshopError, match=r"^A prefill is [^\n]{9,70}\.$"):
        checks.seconds("A prefill", value)
    assert checks.seconds("A prefill", 1.2) == 1.2


def test_a_number_of_more_digits_than_python_writes_is_refused_as_well():
    with pytest.raises(WorkshopError, match="not so large a number"):
        checks.whole("A size", 10**5000)
