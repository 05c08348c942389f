"""Prompts of a known length, and lengths that are drawn."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import prompts


@pytest.mark.parametrize("tokens", [28, 100, 550, 3000])
def test_a_prompt_has_as_many_words_as_tokens_asked_for(tokens):
    assert len(prompts.prompt(tokens).split(" ")) == tokens


def test_the_same_seed_gives_the_same_prompt_and_another_one_another():
    assert prompts.prompt(550, seed=3) == prompts.prompt(550, seed=3)
    assert prompts.prompt(550, seed=3) != prompts.prompt(550, seed=4)


def test_prompts_of_two_seeds_share_little_more_than_their_opening():
    one, other = (prompts.prompt(550, seed=seed).split() for seed in (1, 2))
    shared = next(
        place for place, pair in enumerate(zip(one, other, strict=True)) if len({*pair}) > 1
    )
    assert shared < 35


def test_every_word_is_plain_lower_case_after_the_first():
    first, *rest = prompts.prompt(3000).split()
    assert first == "Write"
    assert all(word.isalpha() and word.isascii() and word.islower() for word in rest)


def test_a_prompt_too_short_for_its_task_is_refused():
    with pytest.raises(ValueError, match="more than 27"):
        prompts.prompt(27)


def drawn(count=5000, **changed):
    asked = {"mean": 550, "stddev": 150, "seed": 0, "least": 28} | changed
    seed = asked.pop("seed")
    return [prompts.length(seed=f"{seed} {number}", **asked) for number in range(count)]


def test_drawn_lengths_have_the_mean_and_the_deviation_asked_for():
    assert statistics.mean(drawn()) == pytest.approx(550, abs=8)
    assert statistics.stdev(drawn()) == pytest.approx(150, abs=6)


def test_without_a_deviation_every_length_is_the_mean():
    assert drawn(3, stddev=0) == drawn(3, stddev=0, seed=9) == [550] * 3


def test_the_same_seed_draws_the_same_length_whatever_else_is_drawn():
    expected = drawn(20)
    random.seed(1)
    assert drawn(20) == expected
    assert drawn(20, seed=1) != expected != drawn(20, seed="0 replies")


def test_lengths_of_prompts_and_of_replies_with_seeds_of_their_own_have_nothing_in_common():
    pairs = drawn(seed="0 prompts"), drawn(seed="0 replies")
    assert abs(statistics.correlation(*pairs)) < 0.05


@given(
    mean=st.floats(1, 1e6), stddev=st.floats(0, 1e6), least=st.integers(1, 100), seed=st.integers()
)
def test_no_length_is_less_than_the_least(mean, stddev, least, seed):
    lengths = drawn(20, mean=mean + least, stddev=stddev, least=least, seed=seed)
    assert all(isinstance(length, int) and length >= least for length in lengths)


@pytest.mark.parametrize(
    "changed", [{"mean": 27}, {"stddev": -1}, {"mean": float("nan")}, {"stddev": float("inf")}]
)
def test_lengths_that_make_no_sense_are_refused(changed):
    with pytest.raises(ValueError, match="ask for a mean of at least 28"):
        drawn(**changed)


def test_a_prompt_may_have_the_least_length():
    assert len(prompts.prompt(prompts.LEAST).split()) == prompts.LEAST
