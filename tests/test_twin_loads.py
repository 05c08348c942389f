"""Loads against the twin in virtual time."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import twin

# Times that floats add up exactly, so that "at the same moment" means it.
TIMING = twin.Timing(slots=4, prefill_s=1.0, decode_step_s=0.125)
LOADS = {
    "closed": {"load": "closed", "concurrency": 8},
    "rounds": {"load": "rounds", "concurrency": 8},
    "arrivals": {"load": "arrivals", "rate_per_s": 0.1},
}
every_load = pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)


def serve(timing=TIMING, **load):
    """A list of what was served, in the order of sending."""
    load = {"requests": 10**9, "lengths": itertools.repeat(9)} | load
    return sorted(twin.serve(timing, **load), key=lambda request: request.number)


def arriving(*arrivals_s, **load):
    return serve(load="arrivals", arrivals_s=arrivals_s, **load)


def times(served):
    return [(request.sent_s, request.first_s, request.last_s) for request in served]


def peak_bytes(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- users


def test_one_user_waits_for_the_prefill_and_then_for_one_step_a_token():
    served = twin.simulate(TIMING, concurrency=1, requests=2, output_tokens=9)
    assert times(served) == [(0, 1, 2), (2, 3, 4)]


def test_the_first_of_a_burst_is_prefilled_alone_and_the_others_together():
    served = twin.simulate(TIMING, concurrency=4, requests=4, output_tokens=9)
    assert times(served) == [(0, 1, 5)] + [(0, 4, 5)] * 3


def test_a_fifth_user_of_four_slots_waits_for_a_whole_answer():
    served = twin.simulate(TIMING, concurrency=5, requests=5, output_tokens=9)
    assert served[4].first_s == 6


def test_in_a_closed_loop_the_next_request_is_sent_when_the_answer_is_complete():
    served = twin.simulate(TIMING, concurrency=1, requests=5, output_tokens=[3, 1, 4, 1, 5])
    assert [request.sent_s for request in served[1:]] == [request.last_s for request in served[:-1]]
    assert [request.tokens for request in served] == [3, 1, 4, 1, 5]


def test_in_rounds_nobody_sends_before_the_slowest_is_served():
    served = twin.simulate(
        TIMING, concurrency=3, requests=6, output_tokens=[5, 50, 9] * 2, load="rounds"
    )
    assert {request.sent_s for request in served[3:]} == {
        max(request.last_s for request in served[:3])
    }


def test_a_hundred_thousand_tokens_take_no_time():
    served = twin.simulate(TIMING, concurrency=64, requests=1000, output_tokens=100_000)
    rate = sum(request.tokens for request in served) / max(request.last_s for request in served)
    assert rate == pytest.approx(4 / 0.125, rel=0.01)


# --- TGI's own loop


def by_tgis_loop(slots, arrivals_s, lengths):
    """First and last tokens as router/src/infer.rs (v2.0.2, `batching_task`) brings them."""
    queue, left, first_s, last_s, now_s = list(range(len(lengths))), {}, {}, {}, 0.0

    def next_batch(min_size, room):
        here = [one for one in queue if arrivals_s[one] <= now_s][:room]
        if len(here) < (min_size or 1):
            return []
        queue[:] = [one for one in queue if one not in here]
        return here

    def emit(ones):
        for one in ones:
            first_s.setdefault(one, now_s)
            left[one] = left.get(one, lengths[one]) - 1
            if not left[one]:
                last_s[one] = now_s
                del left[one]

    while queue:
        now_s = max(now_s, arrivals_s[queue[0]])
        batch = next_batch(None, slots)
        now_s += len(batch) * TIMING.prefill_s
        emit(batch)
        waiting_tokens = 1
        while left:
            min_size = None if waiting_tokens >= 20 else math.floor(len(left) * 0.3 + 1e-9)
            if batch := next_batch(min_size, slots - len(left)):
                now_s += len(batch) * TIMING.prefill_s
                emit(batch)
                waiting_tokens = 1
            now_s += TIMING.decode_step_s
            emit(list(left))
            waiting_tokens += 1
    return [(first_s[one], last_s[one]) for one in range(len(lengths))]


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60)), min_size=1, max_size=30),
    st.integers(1, 12),
)
def test_it_is_what_tgis_loop_does(requests, slots):
    # Gaps that no sum of steps can equal: nothing happens at the same moment.
    arrivals_s = list(itertools.accumulate((gap + 0.37) * 0.0131 for gap, _ in requests))
    lengths = [tokens for _, tokens in requests]
    served = serve(
        twin.Timing(slots, TIMING.prefill_s, TIMING.decode_step_s),
        load="arrivals",
        arrivals_s=arrivals_s,
        lengths=lengths,
    )
    expected = by_tgis_loop(slots, arrivals_s, lengths)
    assert [one.first_s for one in served] == pytest.approx([first_s for first_s, _ in expected])
    assert [one.last_s for one in served] == pytest.approx([last_s for _, last_s in expected])


# --- arrivals


def test_who_comes_to_an_idle_endpoint_is_prefilled_at_once():
    assert times(arriving(0.3, 70.0)) == [
        (0.3, pytest.approx(1.3), pytest.approx(2.3)),
        (70, 71, 72),
    ]


def test_an_arrival_while_a_step_is_under_way_counts_from_the_next_step():
    first, second = arriving(0.0, 1.3)  # decode steps end at 1.125, 1.25, 1.375
    assert second.first_s == 1.375 + 1
    assert first.last_s == 2 + 1  # it pauses for that prefill


def test_an_arrival_during_a_prefill_is_prefilled_after_it():
    assert [request.first_s for request in arriving(0.0, 0.5, 0.75)] == [1, 3, 3]


def test_an_arrival_at_the_very_start_of_a_step_comes_too_late_for_it():
    assert arriving(0.0, 1.25)[1].first_s == 1.375 + 1


def test_arrivals_do_not_wait_for_answers():
    assert [request.sent_s for request in arriving(0.0, 0.1, 0.2, 0.3, 0.4, 0.5)][-1] == 0.5


def test_the_same_requests_get_the_same_tokens_whoever_sends_them():
    drawn = list(itertools.islice(twin.lengths(40, 15), 300))
    closed = serve(load="closed", concurrency=7, requests=300, lengths=drawn)
    assert arriving(*(request.sent_s for request in closed), lengths=drawn) == closed


def test_random_arrivals_come_at_their_rate_one_independent_of_the_other():
    load = {"load": "arrivals", "rate_per_s": 0.5, "requests": 20_000}
    served = serve(**load, lengths=twin.lengths(3, 1))
    gaps_s = np.diff([request.sent_s for request in served])
    assert gaps_s.mean() == pytest.approx(2, rel=0.03)
    assert gaps_s.std() == pytest.approx(2, rel=0.03)
    assert abs(np.corrcoef(gaps_s[1:], gaps_s[:-1])[0, 1]) < 0.03
    assert abs(np.corrcoef(gaps_s, [request.tokens for request in served[1:]])[0, 1]) < 0.03


def test_a_server_with_one_slot_waits_as_queueing_theory_says():
    # Pollaczek and Khinchine for equal service times S: a mean wait of rate S² / 2 (1 - rate S).
    timing = twin.Timing(slots=1, prefill_s=1.0, decode_step_s=1e-9)
    served = twin.serve(
        timing, load="arrivals", rate_per_s=0.5, requests=100_000, lengths=itertools.repeat(1)
    )
    assert np.mean([each.first_s - each.sent_s - 1 for each in served]) == pytest.approx(
        0.5, rel=0.03
    )


def test_arrivals_at_given_times_end_with_the_times():
    assert len(arriving(1.0, 2.0, 3.0)) == 3
    assert len(arriving(1.0, 2.0, 3.0, requests=2)) == 2


def test_the_same_seed_gives_the_same_arrivals_and_another_others():
    first, again, other = (
        times(serve(load="arrivals", rate_per_s=1, requests=20, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again != other


# --- all loads


@st.composite
def loads(draw):
    kind = draw(st.sampled_from(["closed", "rounds", "arrivals"]))
    if kind == "arrivals":
        gaps = draw(st.lists(st.integers(0, 60), min_size=1, max_size=25))
        return {"load": kind, "arrivals_s": [n / 16 for n in itertools.accumulate(gaps)]}
    return {"load": kind, "concurrency": draw(st.integers(1, 12))}


a_load = given(loads(), st.lists(st.integers(1, 60), min_size=25, max_size=25), st.integers(1, 5))


@a_load
def test_every_request_is_served_once_in_the_order_of_ends(load, lengths, slots):
    timing = twin.Timing(slots, 1.0, 0.125)
    served = list(twin.serve(timing, **load, requests=25, lengths=lengths))
    assert [request.last_s for request in served] == sorted(request.last_s for request in served)
    assert sorted(request.number for request in served) == list(range(len(served)))
    assert len(served) == len(load.get("arrivals_s", lengths))
    for request in served:
        assert request.tokens == lengths[request.number]
        assert request.first_s >= request.sent_s + 1
        assert request.last_s >= request.first_s + (request.tokens - 1) * 0.125


@a_load
def test_a_step_at_a_time_gives_the_same(load, lengths, slots):
    timing = twin.Timing(slots, 1.0, 0.125)
    served = serve(timing, **load, requests=25, lengths=lengths)
    sent_s = [request.sent_s for request in served]
    assert times(served) == [
        (sent, *ends)
        for sent, ends in zip(sent_s, one_by_one(timing, sent_s, lengths), strict=True)
    ]


def one_by_one(timing, sent_s, lengths):
    """First and last token of requests whose times are known, without any shortcut."""
    batch, now_s, waiting = twin.StaticBatch(timing), 0.0, list(range(len(sent_s)))
    first_s, last_s = {}, {}
    while waiting or not batch.idle:
        if batch.idle:
            now_s = max(now_s, sent_s[waiting[0]])
            batch.submit(waiting[0], lengths[waiting.pop(0)])
        step = batch.next_step()
        now_s += step.duration_s
        for request in step.emits:
            first_s.setdefault(request, now_s)
        last_s |= dict.fromkeys(step.finished, now_s)
        while waiting and sent_s[waiting[0]] < now_s:
            batch.submit(waiting[0], lengths[waiting.pop(0)])
    return [(first_s[request], last_s[request]) for request in range(len(sent_s))]


@every_load
def test_requests_come_as_they_end_and_not_when_all_have(load):
    endless = twin.serve(TIMING, **load, requests=10**12, lengths=twin.lengths(250, 50))
    assert len(list(itertools.islice(endless, 100))) == 100


@every_load
def test_memory_does_not_grow_with_the_number_of_requests(load):
    def work(requests):
        served = twin.serve(TIMING, **load, requests=requests, lengths=twin.lengths(25, 5))
        return lambda: sum(request.tokens for request in served)

    few, many = (peak_bytes(work(requests)) for requests in (2_000, 10_000))
    assert many < few + 20_000  # a float kept of each would be 64,000


@pytest.mark.parametrize(
    "load",
    [
        {"load": "closed", "concurrency": 0},
        {"load": "rounds"},
        {"load": "closed", "concurrency": 1, "requests": 0},
        {"load": "arrivals"},
        {"load": "arrivals", "rate_per_s": 0},
        {"load": "arrivals", "rate_per_s": math.nan},
        {"load": "waves"},
        {"load": "closed", "concurrency": 1.5},
        {"load": "closed", "concurrency": "4"},
        {"load": "closed", "concurrency": 1, "requests": 2.5},
        {"load": "closed", "concurrency": 1, "requests": math.nan},
    ],
)
def test_a_load_that_makes_no_sense_is_refused_at_once(load):
    with pytest.raises(ValueError, match="load"):
        twin.serve(TIMING, **{"requests": 1, "lengths": [1]} | load)


def test_too_few_lengths_are_found_at_the_request_that_has_none():
    served = twin.serve(TIMING, load="closed", concurrency=1, requests=3, lengths=[1, 2])
    assert next(served).tokens == 1
    with pytest.raises(ValueError, match="a length for each request, and there are 2"):
        list(served)


@pytest.mark.parametrize("length", [math.nan, math.inf, 2.5, True, "3", None, 0])
def test_a_length_that_is_no_whole_number_of_tokens_is_refused_where_it_is_met(length):
    served = twin.serve(
        TIMING, load="closed", concurrency=1, requests=3, lengths=iter([3, length, 3])
    )
    assert next(served).tokens == 3
    with pytest.raises(ValueError, match="length|whole"):
        next(served)


@pytest.mark.parametrize("arrivals_s", [(2.0, 1.0), (0.0, math.nan), (-1.0,)])
def test_arrivals_out_of_order_are_refused(arrivals_s):
    with pytest.raises(ValueError, match="ascending"):
        arriving(*arrivals_s)


# --- lengths


def test_lengths_without_a_deviation_are_all_alike():
    assert list(itertools.islice(twin.lengths(250), 3)) == [250, 250, 250]


def test_lengths_around_a_broken_mean_are_the_two_whole_numbers_beside_it():
    assert list(itertools.islice(twin.lengths(20.5), 4)) == [20, 21, 20, 21]


def test_lengths_have_their_mean_and_their_deviation():
    drawn = list(itertools.islice(twin.lengths(250, 50), 20_000))
    assert all(isinstance(length, int) for length in drawn)
    assert np.mean(drawn) == pytest.approx(250, rel=0.01)
    assert np.std(drawn) == pytest.approx(50, rel=0.03)


def test_a_length_is_at_least_one_token():
    assert min(itertools.islice(twin.lengths(5, 3), 1000)) == 1


@pytest.mark.parametrize("figures", [(250, 170), (10, 6.5), (5, 3), (1.5, 0), (100.5, 0)])
def test_the_mean_that_is_asked_for_is_the_mean_that_comes(figures):
    drawn = list(itertools.islice(twin.lengths(*figures), 100_000))
    assert np.mean(drawn) == pytest.approx(figures[0], rel=0.035)


@pytest.mark.parametrize(
    ("figures", "mean"),
    [((10, 80), "37.*"), ((1, 1e6), "3.989e.05"), ((250, 250), "271.*")],
)
def test_lengths_whose_mean_would_be_another_are_refused(figures, mean):
    with pytest.raises(ValueError, match=f"would have a mean of {mean}: choose a smaller"):
        twin.lengths(*figures)


def test_the_same_seed_draws_the_same_lengths_and_another_others():
    first, again, other = (
        list(itertools.islice(twin.lengths(250, 50, seed), 20)) for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize(
    "figures",
    [(0, 1), (250, -1), (math.nan, 0), (250, math.inf), ("a", 0), (250, None), (True, 0)],
)
def test_lengths_that_make_no_sense_are_refused(figures):
    with pytest.raises(ValueError, match="at least one token"):
        twin.lengths(*figures)
