import pytest

from helpers import models


def test_a_weight_is_told_from_a_models_name():
    assert models.weights_gb("meta-llama/Meta-Llama-3-70B-Instruct") == pytest.approx(141.1)
    assert models.weights_gb("meta-llama/Llama-3.1-8B") == pytest.approx(16.06)
    assert models.weights_gb("a/some-3.5B-chat") == 7
    assert models.weights_gb("a/without-size") == 16
    assert models.parameters_b("a/without-size") is None
    assert models.parameters_b("mistralai/Mixtral-8x7B-Instruct") is None, "not 7: eight of them"


def test_a_token_of_the_70b_model_takes_320_kib_of_cache():
    known = models.architecture("meta-llama/Llama-3.3-70B-Instruct")
    assert known.kv_bytes_per_token == 327_680
    assert models.architecture("mistralai/Mistral-7B") is None


def test_the_guides_model_may_be_expected_after_half_an_hour():
    assert 30 < models.startup_s("meta-llama/Meta-Llama-3-70B-Instruct") / 60 < 40


def test_weights_and_the_caches_of_all_slots_share_the_chips_memory():
    takes = models.memory(
        "meta-llama/Meta-Llama-3-70B-Instruct", batch_size=4, sequence_length=4096
    )
    assert takes.cache_gb == pytest.approx(4 * 1.342, rel=0.001)
    assert takes.needed_gb == pytest.approx(141.1 + takes.cache_gb)
    assert models.hbm_gb(24) == pytest.approx(412.3, abs=0.1)
    unknown = models.memory("a/b-7b", batch_size=4, sequence_length=4096)
    assert (unknown.cache_gb, unknown.needed_gb) == (None, 14)
