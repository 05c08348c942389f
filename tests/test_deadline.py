import threading

import pytest

from helpers import deadline


def test_results_keep_their_names_and_their_order():
    ran = threading.Barrier(3)  # passes only when all run side by side

    def task(result):
        ran.wait(30)
        return result

    found = deadline.together(
        {name: lambda name=name: task(name.upper()) for name in "cab"}, limit_s=30
    )
    assert list(found.items()) == [("c", "C"), ("a", "A"), ("b", "B")]
    assert deadline.together({}, limit_s=1) == {}


def test_an_error_belongs_to_its_task_only():
    found = deadline.together({"bad": lambda: 1 / 0, "good": lambda: 1}, limit_s=30)
    assert isinstance(found["bad"], ZeroDivisionError)
    assert found["good"] == 1


@pytest.mark.parametrize("limit_s", [0.0, 0.05])
def test_what_hangs_is_left_behind(limit_s):
    awake = threading.Event()
    found = deadline.together({"hangs": awake.wait}, limit_s=limit_s)
    awake.set()
    assert str(found["hangs"]) == f"no answer within {limit_s:g} s"
    assert isinstance(found["hangs"], TimeoutError)
