"""Prompts of a known length."""

import pytest

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
