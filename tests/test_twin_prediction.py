"""What users of an endpoint will see, predicted."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from test_twin_loads import peak_bytes

from helpers import twin
from helpers.errors import WorkshopError
from helpers.twin import quantiles

GUIDE = {"batch_size": 4, "prefill_s": 1.2, "decode_step_s": 0.04, "output_tokens": 250}
COLUMNS = ["concurrency", "throughput_tokens_per_s", "ttft_p50_s", "latency_per_token_ms"]


def predict(concurrency, **more):
    return twin.predict(**GUIDE | {"concurrency": concurrency} | more)


def row(concurrency, **more):
    return predict(concurrency, **more).iloc[0]


def test_there_is_one_row_a_concurrency_in_the_order_asked_for():
    table = predict([16, 1, 4])
    assert list(table.columns) == COLUMNS
    assert table.concurrency.tolist() == [16, 1, 4]
    assert not table.isna().any(axis=None)


@pytest.mark.parametrize(
    "several",
    [[1, 8], (1, 8), np.array([1, 8]), pd.Series([1.0, 8.0]), (n for n in (1, 8)), range(1, 9, 7)],
)
def test_users_are_one_whole_number_or_several_of_any_kind(several):
    assert_frame_equal(predict(several), predict([1, 8]))
    assert predict(np.int64(8)).concurrency.tolist() == [8]


def test_one_user_sees_one_prefill_and_one_step_a_token():
    alone = row(1)
    request_s = 1.2 + 249 * 0.04
    assert alone.ttft_p50_s == pytest.approx(1.2)
    assert alone.throughput_tokens_per_s == pytest.approx(250 / request_s)
    assert alone.latency_per_token_ms == pytest.approx(1000 * request_s / 250)


def test_a_broken_mean_without_a_deviation_is_the_mean_that_is_predicted():
    half, whole = (row(1, output_tokens=tokens).throughput_tokens_per_s for tokens in (20.5, 20))
    assert half == pytest.approx(20.5 / (1.2 + 19.5 * 0.04))
    assert half > whole


def test_the_median_is_linear_between_two_values():
    # The first of two is prefilled alone, the second after it.
    assert row(2).ttft_p50_s == pytest.approx((1.2 + 2.4) / 2)


def test_throughput_is_all_tokens_over_the_time_to_the_last_one():
    # Two rounds of two: prefills one after the other, then both decode.
    pair = row(2, requests=4)
    assert pair.throughput_tokens_per_s == pytest.approx(1000 / (2 * (2.4 + 249 * 0.04)))


def test_a_run_has_as_many_requests_as_the_guide_sent_or_4_a_user():
    assert_frame_equal(predict(8), predict(8, requests=50))
    assert_frame_equal(predict(16), predict(16, requests=64))


def test_a_closed_loop_has_two_names_and_keeps_slots_fuller_than_rounds_do():
    varied = {"output_tokens_stddev": 50}
    closed = predict(5, load="closed", **varied)
    assert_frame_equal(closed, predict(5, load="closed_loop", **varied))
    rounds = predict(5, **varied)
    assert (closed.throughput_tokens_per_s > 1.05 * rounds.throughput_tokens_per_s).all()


def test_the_same_seed_gives_the_same_answer():
    varied = {"output_tokens_stddev": 50}
    first = predict(5, **varied)
    assert_frame_equal(predict(5, **varied), first)
    assert not predict(5, **varied, seed=1).equals(first)


def test_a_row_does_not_depend_on_the_others():
    both = predict([4, 16], output_tokens_stddev=50)
    alone = predict(16, output_tokens_stddev=50)
    assert_frame_equal(both.iloc[[1]].reset_index(drop=True), alone)


@pytest.mark.parametrize("users", [5, 8])  # half of 8 users wait: the median jumps
def test_lengths_that_vary_give_a_stable_figure(users):
    figures = [
        predict(users, output_tokens_stddev=50, seed=seed, requests=8 * users) for seed in range(5)
    ]
    spread = pd.concat(figures).std() / pd.concat(figures).mean()
    assert (spread < 0.03).all()


def test_answers_that_vary_wait_for_the_longest_of_a_round():
    varied = row(4, output_tokens_stddev=50)
    assert varied.throughput_tokens_per_s < 0.95 * row(4).throughput_tokens_per_s


def test_memory_does_not_grow_with_the_number_of_requests(monkeypatch):
    def work(requests):
        return lambda: predict(8, requests=requests, output_tokens_stddev=50)

    monkeypatch.setattr(twin.prediction, "_REQUESTS_ALTOGETHER", 1)  # one run
    few, many = (peak_bytes(work(requests)) for requests in (2_000, 10_000))
    assert many < few + 20_000  # a float kept of each would be 64,000


def test_a_sample_says_what_all_requests_say(monkeypatch):
    exact = row(9, requests=20_000, output_tokens_stddev=50)
    monkeypatch.setattr(quantiles, "KEPT", 2000)
    sampled = row(9, requests=20_000, output_tokens_stddev=50)
    assert sampled.throughput_tokens_per_s == exact.throughput_tokens_per_s
    assert sampled.latency_per_token_ms == pytest.approx(exact.latency_per_token_ms, rel=0.03)


@given(
    batch_size=st.integers(1, 8),
    prefill_s=st.floats(0.01, 3),
    decode_step_s=st.floats(0.001, 0.2),
    concurrency=st.integers(1, 20),
    output_tokens=st.integers(1, 300),
    load=st.sampled_from(["rounds", "closed"]),
)
def test_no_prediction_is_better_than_the_machine(
    batch_size, prefill_s, decode_step_s, concurrency, output_tokens, load
):
    figures = row(
        concurrency,
        batch_size=batch_size,
        prefill_s=prefill_s,
        decode_step_s=decode_step_s,
        output_tokens=output_tokens,
        load=load,
    )
    # Prefills one by one, then a step for all that run together.
    together = min(batch_size, concurrency)
    request_s = prefill_s + (output_tokens - 1) * decode_step_s / together
    assert 0 < figures.throughput_tokens_per_s <= output_tokens / request_s * (1 + 1e-9)
    assert figures.ttft_p50_s >= prefill_s * (1 - 1e-9)
    alone_s = prefill_s + (output_tokens - 1) * decode_step_s
    assert figures.latency_per_token_ms >= 1000 * alone_s / output_tokens * (1 - 1e-9)


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("batch_size", 0, "batch_size is a whole number of 1 or more, not 0"),
        ("batch_size", 2.5, "whole number"),
        ("batch_size", True, "whole number"),
        ("batch_size", None, "whole number"),
        ("prefill_s", 0, "prefill_s is more than 0, not 0"),
        ("prefill_s", math.nan, "more than 0"),
        ("prefill_s", "1.2", "more than 0"),
        ("decode_step_s", -0.04, "more than 0"),
        ("decode_step_s", math.inf, "more than 0"),
        ("decode_step_s", True, "more than 0"),
        ("concurrency", [], "concurrency is a whole number or a list of them"),
        ("concurrency", None, "a list of them"),
        ("concurrency", [4, 0], "of 1 or more, not 0"),
        ("concurrency", [4, 1.5], "of 1 or more, not 1.5"),
        ("concurrency", -3, "of 1 or more, not -3"),
        ("concurrency", "8", "whole number"),
        ("concurrency", True, "whole number"),
        ("output_tokens", 0, "output_tokens is 1 or more, not 0"),
        ("output_tokens", math.nan, "1 or more, not nan"),
        ("output_tokens_stddev", -1, "0 or more, not -1"),
        ("output_tokens_stddev", math.inf, "0 or more, not inf"),
        ("load", "arrivals", r"load is 'rounds' or 'closed'.*twin\.serve"),
        ("load", ["rounds"], "load is 'rounds' or 'closed'"),
        ("load", np.eye(2), r"'closed', not array\(\[\[1.*\]\): for"),
        ("load", pd.Series([1, 2]), "'closed', not 0 .*: for"),
        ("concurrency", pd.DataFrame(), "a list of them, not Empty DataFra"),
        ("output_tokens", 1e18, "output_tokens is at most 131,072, not 1e.18"),
        ("output_tokens", 10**400, "1 or more"),
        ("output_tokens_stddev", 1e18, "choose a smaller deviation"),
        ("prefill_s", 1e308, "prefill_s is at most 2,678,400, not 1e.308"),
        ("decode_step_s", 1e-300, "decode_step_s is 1e-06 or more"),
        ("batch_size", 10**30, "batch_size is at most 1,024"),
        ("concurrency", 99999999999999999999, "concurrency is at most 10,000"),
        ("concurrency", b"12", "a list of them, not b'12'"),
        ("concurrency", 10**400, "concurrency is a whole number"),
        ("requests", 10**30, "requests is at most 10,000,000"),
        ("requests", 0, "requests is a whole number"),
        ("requests", 7.5, "requests is a whole number"),
        ("seed", -1, "seed is a whole number of 0 or more"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(argument, value, words):
    with pytest.raises(WorkshopError, match=words) as refused:
        twin.predict(**GUIDE | {"concurrency": 4, argument: value})
    assert "\n" not in str(refused.value)


# --- quantiles


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_of_a_few_values_are_exact(values, share):
    stream = twin.Quantiles()
    for value in values:
        stream.add(value)
        stream.at(0.5)  # asking in between changes nothing
    assert stream.at(share) == pytest.approx(np.quantile(values, share), rel=1e-9, abs=1e-6)


def test_quantiles_of_many_values_are_those_of_a_seeded_sample():
    streams = [twin.Quantiles(seed) for seed in (0, 0, 1)]
    for value in itertools.chain(range(200_000), range(200_000)):  # none is favored by its place
        for stream in streams:
            stream.add(value)
    first, again, other = ([stream.at(share) for share in (0.5, 0.95)] for stream in streams)
    assert first == again != other
    assert first == pytest.approx([100_000, 190_000], rel=0.01)


def test_there_is_no_quantile_of_nothing():
    with pytest.raises(ValueError, match="no values"):
        twin.Quantiles().at(0.5)
