"""The floor: what memory and compute allow, worked out by hand."""

import pytest

from helpers import floor, twin
from helpers.errors import WorkshopError

LLAMA_70B = "meta-llama/Meta-Llama-3-70B-Instruct"


def of(model_id=LLAMA_70B, *, instance_type="ml.inf2.48xlarge", batch_size=4, **more):
    return floor.of(model_id, instance_type=instance_type, batch_size=batch_size, **more)


def published(batch_size=4):
    return twin.timing(LLAMA_70B, instance_type="ml.inf2.48xlarge", batch_size=batch_size)


# --- the decode step


@pytest.mark.parametrize(("batch_size", "tokens_per_s"), [(1, 70), (4, 279)])
def test_reading_141_gb_of_weights_bounds_the_tokens_a_second(batch_size, tokens_per_s):
    found = of(batch_size=batch_size)
    assert (
        found.decode_step_s == pytest.approx(141.1e9 / 9.84e12) == pytest.approx(0.0143, abs=1e-4)
    )
    assert round(found.tokens_per_s) == tokens_per_s
    assert found.decode_bound == "bandwidth"


def test_a_very_large_batch_is_bound_by_compute():
    found = of(batch_size=512)
    assert found.decode_bound == "compute"
    assert found.decode_step_s == pytest.approx(512 * 2 * 70.55e9 / 2280e12)


def test_more_chips_read_faster():
    trainium = of(instance_type="trn1.32xlarge")
    assert trainium.weights_s == pytest.approx(of().weights_s * 12 / 16)


# --- the prefill


def test_a_batch_computes_the_whole_sequence_whatever_the_prompt():
    found = of(prompt_tokens=550)
    weights_s = 2 * 70.55e9 * 4096 / 2280e12
    attention_s = 4 * 80 * 64 * 128 * 4096 * 2048 / 2280e12
    assert found.prefill_s == pytest.approx(weights_s + attention_s)
    assert (found.padded_tokens, found.prefill_bound) == (4096, "compute")
    assert of(sequence_length=2048).prefill_s < found.prefill_s / 2


def test_a_single_slot_computes_the_prompt_alone():
    found = of(batch_size=1, prompt_tokens=550)
    assert found.padded_tokens == 550
    assert found.prefill_s == found.prompt_compute_s == of(prompt_tokens=550).prompt_compute_s


def test_a_prefill_reads_the_weights_at_least():
    short = of(batch_size=1, prompt_tokens=20)
    assert (short.prefill_s, short.prefill_bound) == (short.weights_s, "bandwidth")
    assert of(batch_size=1).prefill_s == short.weights_s, "without a prompt's length, one token"


def test_a_model_of_unknown_architecture_has_a_lower_floor():
    found = of("mistralai/Mistral-7B-Instruct")
    assert found.prefill_s == pytest.approx(2 * 7e9 * 4096 / 2280e12)


# --- how near the times are


def test_the_guides_endpoint_is_at_36_percent_of_the_floor_and_says_why():
    share = of(prompt_tokens=550).share(published())
    assert share.decode == pytest.approx(0.0143 / 0.0398, abs=0.005)
    assert share.prefill == pytest.approx(0.22, abs=0.005)
    assert str(share) == (
        "36 % of the bandwidth floor: a step takes 39.8 ms, reading the weights 14.3 ms (which "
        "leaves out what 24 cores exchange, and the host); prefill takes 1.20 s, computing 4,096 "
        "tokens 0.26 s (22 %), and it pads 550 tokens to 4,096: alone they need 0.03 s"
    )


def test_a_single_slot_pads_nothing():
    assert "pads" not in str(of(batch_size=1, prompt_tokens=550).share(published(1)))
    assert "pads" not in str(of().share(published())), "nobody said how long the prompt is"


def test_compute_is_named_where_it_is_the_floor():
    slow = twin.Timing(512, 2.0, 0.1)
    assert "32 % of the compute floor" in str(of(batch_size=512).share(slow))
    assert "reading the weights 0.01 s" in str(of(batch_size=1).share(published(1)))


def test_times_below_the_floor_are_called_wrong():
    assert "no machine can" in str(of().share(twin.Timing(4, 1.2, 0.010)))


def test_a_perfect_server_would_be_at_the_floor():
    perfect = of().timing
    share = of().share(perfect)
    assert (share.decode, share.prefill) == (1, 1) and "no machine can" not in str(share)
    assert perfect.slots == 4 and "floor" in perfect.source


# --- what has no floor


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model_id": "gpt2"}, "how large the model is"),
        ({"instance_type": "ml.p5.48xlarge"}, "ml.inf2.48xlarge"),
        ({"batch_size": 0}, "batch size .* of 1 or more"),
        ({"batch_size": True}, "batch size"),
        ({"batch_size": 2.5}, "batch size"),
        ({"model_id": "mistralai/Mixtral-8x7B"}, "how large the model is"),
        ({"batch_size": 10**6}, "batch size is at most 1,024"),
        ({"sequence_length": 0}, "sequence length"),
        ({"sequence_length": 10**9}, "sequence length is at most 131,072"),
        ({"prompt_tokens": 0}, "prompt .* of 1 or more"),
        ({"prompt_tokens": 5000}, "prompt .* at most 4,096, not 5000"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_in_one_sentence(wrong, words):
    with pytest.raises(WorkshopError, match=words):
        of(**wrong)


def test_times_of_another_batch_size_are_not_compared():
    with pytest.raises(WorkshopError, match="batch size 1 and this floor is of 4"):
        of().share(published(1))
