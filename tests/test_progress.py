"""The line that says how a run is getting on."""

import io

import pytest
from made_runs import record

from helpers.progress import Progress


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self):
        return True

    def shown(self):
        """What a reader sees in the end."""
        lines = self.getvalue().split("\n")
        return [line.rpartition("\r")[2].rstrip() for line in lines if line]


class Time:
    now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def time():
    return Time()


def progress(out, time, **options):
    asked = {"requests": 10, "duration_s": None} | options
    return Progress(**asked, label="rehearsal", clock_speed=10, out=out, now=time)


def test_a_terminals_line_says_what_there_is_and_what_is_left(time):
    out = Screen()
    line = progress(out, time)
    for number in range(5):
        time.now_s += 1
        error = "timeout" if number == 0 else None
        line.add(record(number, sent_s=100.0 + number, ttft_s=0.5, tokens=4, error=error))
    assert out.shown() == [
        "5 of 10 requests done, 0.3 output tokens/s so far, TTFT p50 5.00 s, errors: 1, 50 s left "
        "[rehearsal]"
    ]
    line.close()
    assert out.getvalue().endswith("\n") and out.getvalue().count("\n") == 1


def test_it_is_renewed_a_few_times_a_second_at_most(time):
    out = Screen()
    line = progress(out, time, requests=1000)
    for number in range(1000):
        time.now_s += 0.001
        line.add(record(number, sent_s=100.0))
    assert 2 <= out.getvalue().count("requests done") <= 5


def test_a_shorter_line_leaves_nothing_of_a_longer_one(time):
    out = Screen()
    line = progress(out, time, requests=2)
    time.now_s = 1100.0
    line.add(record(0, sent_s=100.0))
    time.now_s = 1101.0
    line.add(record(1, sent_s=101.0))
    _, first, wiped, second = out.getvalue().split("\r")[1:]
    assert "left" in first and "left" not in second and wiped == " " * len(first)


def test_where_nobody_can_write_over_a_line_there_are_five(time):
    out = io.StringIO()
    line = progress(out, time, requests=50)
    for number in range(50):
        time.now_s += 1
        line.add(record(number, sent_s=100.0))
    line.close()
    said = out.getvalue().splitlines()
    assert [one.split(" requests")[0] for one in said] == [
        f"{done} of 50" for done in (10, 20, 30, 40, 50)
    ]
    assert all(one.endswith("[rehearsal]") for one in said) and "\r" not in out.getvalue()


def test_a_run_that_ends_by_time_says_how_much_of_it_is_left(time):
    out = Screen()
    line = progress(out, time, requests=None, duration_s=600)
    time.now_s = 120.0
    line.add(record(0, sent_s=100.0))
    assert out.shown()[0].startswith("1 requests done, ")
    assert "400 s left" in out.shown()[0]


def test_warm_up_and_what_was_interrupted_do_not_count(time):
    out = Screen()
    line = progress(out, time)
    line.add(record(0, phase="warmup"))
    line.add(record(1, error="interrupted"))
    line.close()
    assert out.shown() == [
        "0 of 10 requests done, 0.0 output tokens/s so far, TTFT p50 -, errors: 0 [rehearsal]"
    ]
