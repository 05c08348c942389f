import pytest

from helpers import models


def test_a_weight_is_told_from_a_models_name():
    assert models.weights_gb("meta-llama/Meta-Llama-3-70B-Instruct") == pytest.approx(141.1)
    assert models.weights_gb("meta-llama/Llama-3.1-8B") == pytest.approx(16.06)
    assert models.weights_gb("a/some-3.5B-chat") == 7
    assert models.weights_gb("a/without-size") == 16
    assert models.parameters_b("a/without-size") is None


def test_a_token_of_the_70b_model_takes_320_kib_of_cache():
    known = models.architecture("meta-llama/Llama-3.3-70B-Instruct")
    assert known.kv_bytes_per_token == 327_680
    assert models.architecture("mistralai/Mistral-7B") is None


def test_the_guides_model_may_be_expected_after_half_an_hour():
    assert 30 < models.startup_s("meta-llama/Meta-Llama-3-70B-Instruct") / 60 < 40
