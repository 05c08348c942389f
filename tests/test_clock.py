import time
from datetime import UTC, datetime

import pytest

from helpers.clock import Clock


def test_on_aws_it_is_the_real_time():
    assert Clock().time() == pytest.approx(time.time(), abs=0.1)
    assert Clock().monotonic() == pytest.approx(time.monotonic(), abs=0.1)


def test_an_hour_passes_in_a_minute_at_speed_60():
    clock = Clock(60, origin=time.time() - 60)
    assert clock.time() - clock.origin == pytest.approx(3600, abs=6)


def test_two_clocks_with_the_same_origin_agree():
    origin = time.time() - 5
    assert Clock(60, origin).time() == pytest.approx(Clock(60, origin).time(), abs=1)


def test_it_sleeps_for_aws_seconds():
    clock = Clock(1000)
    started, real = clock.monotonic(), time.monotonic()
    clock.sleep(20)
    assert clock.monotonic() - started >= 20
    assert time.monotonic() - real < 10


def test_it_does_not_sleep_backwards():
    started = time.monotonic()
    Clock().sleep(-5)
    assert time.monotonic() - started < 5


def test_now_is_an_aware_moment_in_utc():
    now = Clock(60).now()
    assert now.tzinfo is UTC
    assert abs((now - datetime.now(UTC)).total_seconds()) < 60


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_a_clock_that_stands_still_or_runs_back_is_refused(speed):
    with pytest.raises(ValueError, match="positive"):
        Clock(speed)


def test_its_repr_says_how_fast_it_runs():
    assert repr(Clock(60, origin=1)) == "Clock(speed=60, origin=1.000)"
