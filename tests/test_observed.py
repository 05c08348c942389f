"""What requests show of the endpoint's time, on loads that are made token by token."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import asked, record
from virtual_runs import bundled, of_guide, served

from helpers import metrics, observed
from helpers.errors import ResultsError
from helpers.twin import Timing


def used(records, timing, **load):
    load = asked(**load)
    spans = metrics.windows(records, load)
    figures = metrics.figures(
        records, spans, kind=load["kind"], clock_speed=1.0, price_per_hour=None
    )
    return observed.use(records, spans, figures, timing)


@given(
    slots=st.integers(1, 8),
    prefill_s=st.floats(0.3, 3.0),
    decode_step_s=st.floats(0.005, 0.1),
    users=st.integers(1, 12),
    tokens=st.lists(st.integers(5, 60), min_size=1, max_size=5),
)
def test_both_times_are_told_from_any_load(slots, prefill_s, decode_step_s, users, tokens):
    timing = Timing(slots, prefill_s, decode_step_s)
    records = served(timing, users=users, requests=3 * users, tokens=tokens)
    found = observed.times(records, timing)
    assert found.prefill_s == pytest.approx(prefill_s, rel=0.01)
    assert found.decode_step_s == pytest.approx(decode_step_s, rel=0.01)
    assert found.paused == 0


def test_times_are_told_though_the_endpoint_is_twice_as_slow_as_thought():
    slow, thought = Timing(4, 2.4, 0.08), Timing(4, 1.2, 0.04)
    found = observed.times(served(slow, users=5, requests=40), thought)
    assert found.prefill_s == pytest.approx(2.4)
    assert found.decode_step_s == pytest.approx(0.08)


def test_chunks_that_are_read_together_make_no_faster_step():
    timing = Timing(1, 1.0, 0.1)
    pairs = [
        replace(one, chunk_s=tuple(one.chunk_s[min(n | 1, 9)] for n in range(10)))
        for one in served(timing, users=1, requests=5, tokens=10)
    ]
    found = observed.times(pairs, timing)
    assert found.decode_step_s == pytest.approx(0.1, rel=0.12), "the first pair is not told apart"
    assert found.together == pytest.approx(2.0)


@pytest.mark.parametrize("size", [3, 10, 25])
def test_a_step_is_right_though_tokens_come_many_at_a_time(size):
    timing = Timing(4, 1.2, 0.06)
    records = bundled(served(timing, users=5, requests=60, tokens=[120, 150, 170]), size)
    found = observed.times(records, timing)
    assert found.decode_step_s == pytest.approx(0.06)
    assert found.together == pytest.approx(size, rel=0.2)


def test_a_reply_of_one_token_shows_a_prefill_and_no_step():
    timing = Timing(4, 1.2, 0.04)
    found = observed.times(served(timing, users=1, requests=3, tokens=1), timing)
    assert found.prefill_s == pytest.approx(1.2)
    assert np.isnan(found.decode_step_s) and found.paused == 0


def test_without_a_token_nothing_is_known():
    found = observed.times([record(tokens=0, error="ModelError")], Timing(4, 1.2, 0.04))
    assert np.isnan(found.prefill_s) and np.isnan(found.decode_step_s)


def test_without_a_token_no_time_went_to_prefills():
    silent = [record(n, sent_s=float(n), tokens=0) for n in range(10)]
    found = used(silent, observed.times(silent, Timing(4, 1.2, 0.04)), concurrency=1, warmup=0)
    assert found.prefill == 0 and np.isnan(found.filled)


def test_a_window_is_prefill_decode_and_idle():
    timing = Timing(4, 1.0, 0.1)
    alone = used(served(timing, users=1, requests=10, tokens=11), timing, concurrency=1)
    assert (alone.prefill, alone.decode, alone.idle) == pytest.approx((0.5, 0.5, 0.0))
    assert alone.filled == pytest.approx(1.0) and alone.in_flight == pytest.approx(1.0)
    assert alone.waiting == pytest.approx(0.0)


def test_an_endpoint_between_two_arrivals_is_idle():
    timing = Timing(4, 1.0, 0.1)
    at_s = [4.0 * number for number in range(11)]
    rare = used(served(timing, arrivals_s=at_s, tokens=11), timing, rate_per_s=0.25)
    assert (rare.prefill, rare.decode, rare.idle) == pytest.approx((0.25, 0.25, 0.5), abs=0.03)


def test_stamps_become_aws_seconds():
    one = observed.aws_time(record(sent_s=10.0, ttft_s=1.0, gap_s=0.5, tokens=3), 60.0)
    assert (one.sent_s, one.first_s, one.last_s, one.ended_s) == (600.0, 660.0, 720.0, 720.0)
    assert one.chunk_s == (660.0, 690.0, 720.0)
    assert observed.aws_time(record(tokens=0), 60.0).first_s is None


# --- runs whose files do not fit together


def altered(change, *, records=None):
    """The same run with something else in its configuration, summary or requests."""

    def of(run):
        config = run.config | {"load": run.config["load"] | change.get("load", {})}
        config |= {name: value for name, value in change.items() if name == "clock_speed"}
        window = run.summary["window"] | change.get("window", {})
        summary = run.summary | {"window": window}
        return replace(
            run, config=config, summary=summary, records=records(run) if records else run.records
        )

    return of


def first(**change):
    return lambda run: [replace(run.records[0], **change), *run.records[1:]]


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (altered({"clock_speed": 0}), "its clock_speed is 0"),
        (altered({"clock_speed": float("nan")}), "its clock_speed is nan"),
        (altered({"load": {"concurrency": None}}), "its concurrency is None"),
        (altered({"load": {"concurrency": 1}}), "is of user 1 and there were 1"),
        (altered({"load": {"concurrency": 3}}), "by its requests the asked load was never there"),
        (altered({"load": {"kind": "arrivals"}}), "its rate_per_s is None"),
        (altered({"window": {"ttft_s": None}}), "its summary has no ttft_s"),
        (altered({"window": {"mean_concurrency": "x"}}), "its summary has no mean_concurrency"),
        (altered({"window": {"ci95": None}}), "its summary has no ci95"),
        (altered({"window": {"ttft_s": {"p50": 1, "ci95": {}}}}), "its summary has no ttft_s"),
        (altered({}, records=lambda run: []), "the summary is of 12 requests and there are 0"),
        (altered({}, records=first(first_s=0.0)), "request . has stamps that go backwards"),
        (altered({}, records=first(sent_s=701.2)), "request . was answered when it was sent"),
        (altered({}, records=first(output_tokens=-5)), "request . has -5 output tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_whose_files_do_not_fit_together_is_one_sentence(tmp_path, alter, words):
    run = of_guide(tmp_path, served(users=2, requests=10, tokens=20), concurrency=2)
    observed.check(run)
    with pytest.raises(ResultsError, match=f"{words}.*: restore") as refused:
        observed.check(alter(run))
    assert "\n" not in str(refused.value)


def test_a_run_of_several_instances_is_refused(tmp_path):
    records = served(users=2, requests=10, tokens=20)
    run = of_guide(tmp_path, records, concurrency=2, endpoint={"instance_count": 2})
    with pytest.raises(ResultsError, match="had 2 instances and the model is of one"):
        observed.check(run)
