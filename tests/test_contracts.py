import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import contracts, recipes
from helpers.contracts import CONTRACTS, TGI, VLLM, check, contract_for_image, shape
from helpers.errors import ContainerError

GUIDE = {**recipes.get("llama-3-70b").env, "HF_TOKEN": "hf_something"}
LLAMA_3_3 = {"SM_ON_MODEL": "meta-llama/Llama-3.3-70B-Instruct", "HF_TOKEN": "hf_something"}
BIG = "ml.inf2.48xlarge"
ECR = "763104351884.dkr.ecr.us-east-1.amazonaws.com"


def tgi(version):
    return CONTRACTS[TGI, version]


def without(env, *names):
    return {name: value for name, value in env.items() if name not in names}


def dies(version, env, instance_type=BIG):
    """The container's last words and what to do."""
    contract = tgi(version) if (TGI, version) in CONTRACTS else CONTRACTS[VLLM, version]
    violations = check(contract, env, instance_type=instance_type)
    assert violations, "it starts"
    assert all(violation.remedy for violation in violations)
    return violations[0].message, violations[0].remedy


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        ("nonsense", "not the address"),
        ("docker.io/library/python:3.12", "not the address"),
        (f"{ECR}/djl-inference:0.36.0-neuronx", "huggingface-pytorch-tgi-inference"),
        (  # what the SDK gives with an instance type, or without inference_tool
            f"{ECR}/huggingface-pytorch-tgi-inference:2.1.2-optimum0.0.22-inf2-py310-ubuntu22.04",
            "look the image up",
        ),
        (
            f"{ECR}/huggingface-pytorch-tgi-inference:"
            "1.13.1-optimum0.0.16-neuronx-py310-ubuntu22.04",
            "0.0.22",
        ),
    ],
)
def test_an_image_without_a_known_contract_is_refused(image, hint):
    with pytest.raises(ContainerError, match=hint):
        contract_for_image(image)


# --- shapes


def test_the_guides_environment_gives_the_guides_shape():
    served = shape(tgi("0.0.22"), GUIDE)
    assert (served.batch_size, served.sequence_length, served.num_cores) == (4, 4096, 24)
    assert (served.max_input_tokens, served.max_total_tokens) == (4000, 4096)
    assert (served.auto_cast_type, served.messages_api) == ("fp16", True)
    assert (served.max_concurrent_requests, served.max_stop_sequences) == (128, 4)
    assert served.max_batch_prefill_tokens == 16000


def test_0_0_22_without_a_shape_serves_batch_1_and_8192_tokens():
    served = shape(tgi("0.0.22"), without(GUIDE, "HF_BATCH_SIZE", "HF_SEQUENCE_LENGTH"))
    assert (served.batch_size, served.sequence_length) == (1, 8192)


@pytest.mark.parametrize("version", ["0.0.23", "0.0.24", "0.0.25", "0.0.27", "0.0.28"])
def test_later_versions_ignore_the_two_hf_variables(version):
    env = {**GUIDE, "HF_BATCH_SIZE": "1", "HF_SEQUENCE_LENGTH": "2048"}
    served = shape(tgi(version), env)
    assert (served.batch_size, served.sequence_length) == (4, 4096)


@pytest.mark.parametrize(
    ("version", "needed"),
    [("0.0.22", True), ("0.0.25", True), ("0.0.27", False), ("0.2.0", False), ("0.3.0", False)],
)
def test_messages_need_their_flag_up_to_0_0_25(version, needed):
    env = without(GUIDE, "MESSAGES_API_ENABLED")
    assert shape(tgi(version), env).messages_api is not needed
    assert shape(tgi(version), {**env, "MESSAGES_API_ENABLED": "true"}).messages_api


def test_without_a_limit_half_the_length_is_for_the_prompt():
    served = shape(tgi("0.0.28"), without(GUIDE, "MAX_INPUT_LENGTH"))
    assert served.max_input_tokens == 2048


def test_limits_can_be_set():
    env = {**GUIDE, "MAX_CONCURRENT_REQUESTS": "8", "MAX_STOP_SEQUENCES": "2"}
    served = shape(tgi("0.0.22"), {**env, "MAX_BATCH_PREFILL_TOKENS": "4000"})
    assert (served.max_concurrent_requests, served.max_stop_sequences) == (8, 2)
    assert served.max_batch_prefill_tokens == 4000


def test_tgi_3_3_may_load_a_larger_batch_than_asked():
    env = {**GUIDE, "HF_AUTO_CAST_TYPE": "bf16", "MAX_BATCH_SIZE": "2"}
    assert shape(tgi("0.2.0"), env).batch_size == 4


def test_vllm_takes_the_largest_cached_shape_that_fits():
    contract = CONTRACTS[VLLM, "0.4.4"]
    assert shape(contract, LLAMA_3_3).batch_size == 8
    served = shape(contract, {**LLAMA_3_3, "SM_ON_BATCH_SIZE": "4"})
    assert (served.batch_size, served.sequence_length, served.num_cores) == (4, 4096, 24)
    assert served.auto_cast_type == "bf16"


def test_a_shape_of_a_model_that_is_not_cached_is_what_was_asked_for():
    env = {"SM_ON_MODEL": "someone/model", "SM_ON_BATCH_SIZE": "2"}
    served = shape(CONTRACTS[VLLM, "0.4.4"], env)
    assert (served.batch_size, served.sequence_length) == (2, 2048)


def test_a_number_that_is_none_has_no_shape():
    with pytest.raises(ContainerError, match="MAX_TOTAL_TOKENS"):
        shape(tgi("0.0.22"), {**GUIDE, "MAX_TOTAL_TOKENS": "many"})


# --- checks


def test_the_guides_environment_starts():
    assert check(tgi("0.0.22"), GUIDE, instance_type=BIG) == []


@pytest.mark.parametrize("version", [v for f, v in CONTRACTS if f == TGI and v != "0.3.0"])
def test_the_entry_script_wants_model_and_batch_size(version):
    assert dies(version, without(GUIDE, "HF_MODEL_ID"))[0] == "HF_MODEL_ID must be set"
    assert dies(version, without(GUIDE, "MAX_BATCH_SIZE"))[0] == (
        "MAX_BATCH_SIZE must be set to the model static batch size"
    )


def test_3_3_6_does_not_read_hf_model_id():
    message, remedy = dies("0.3.0", GUIDE)
    assert message.startswith("No model id provided !")
    assert "MODEL_ID" in remedy


def test_3_3_6_refuses_max_input_length():
    env = {**GUIDE, "MODEL_ID": GUIDE["HF_MODEL_ID"], "HF_AUTO_CAST_TYPE": "bf16"}
    message, remedy = dies("0.3.0", env)
    assert message == "Both `max_input_tokens` (4000) and `max_input_length` (4000) are set"
    assert "MAX_INPUT_TOKENS" in remedy
    env = {**without(env, "MAX_INPUT_LENGTH"), "MAX_INPUT_TOKENS": "4000"}
    assert check(tgi("0.3.0"), env, instance_type=BIG) == []


def test_vllm_wants_a_model():
    assert "required" in dies("0.4.4", {})[0]


def test_a_prompt_has_to_leave_room_for_the_answer():
    message, _ = dies("0.0.22", {**GUIDE, "MAX_INPUT_LENGTH": "4096"})
    assert message == "`max_input_tokens must be < `max_total_tokens`"


def test_one_prompt_has_to_fit_into_a_prefill():
    message, _ = dies("0.0.22", {**GUIDE, "MAX_BATCH_PREFILL_TOKENS": "100"})
    assert message == "`max_batch_prefill_tokens` must be >= `max_input_tokens`"


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("0.0.22", "Inconsistent server configuration"),
        ("0.0.28", "Inconsistent batch_size configuration"),
    ],
)
def test_more_prefill_than_the_static_batch_is_refused(version, words):
    message, remedy = dies(version, {**GUIDE, "MAX_BATCH_PREFILL_TOKENS": "20000"})
    assert message.startswith(words)
    assert "MAX_BATCH_PREFILL_TOKENS" in remedy


def test_a_router_batch_above_the_static_batch_is_refused():
    message, remedy = dies("0.0.22", {**GUIDE, "HF_BATCH_SIZE": "1"})
    assert message.startswith("Inconsistent server configuration")
    assert remedy == "Set MAX_BATCH_SIZE to the static batch size, 1."


def test_a_gated_model_without_a_token_is_answered_with_401():
    message, remedy = dies("0.0.22", without(GUIDE, "HF_TOKEN"))
    assert message.startswith("401")
    assert "HF_TOKEN" in remedy


@pytest.mark.parametrize(
    "change",
    [
        {"HF_AUTO_CAST_TYPE": "bf16"},
        {"HF_SEQUENCE_LENGTH": "2048"},
        {"HF_NUM_CORES": "12"},
        {"HF_BATCH_SIZE": "2", "MAX_BATCH_SIZE": "2"},
        {"HF_MODEL_ID": "someone/model"},
    ],
    ids=str,
)
def test_a_cache_miss_never_compiles(change):
    message, remedy = dies("0.0.22", {**GUIDE, **change})
    assert message.startswith("No cached version found for")
    assert "2.13.66.0" in message
    assert "cache" in remedy


def test_a_near_miss_is_named():
    _, remedy = dies("0.0.25", GUIDE)
    assert "batch 4, length 4096, 24 cores, bf16" in remedy


def test_a_shape_cached_for_another_compiler_names_the_versions():
    _, remedy = dies("0.4.4", {**LLAMA_3_3, "SM_ON_MODEL": "meta-llama/Meta-Llama-3-70B-Instruct"})
    assert "0.0.22" in remedy


def test_the_absent_cast_type_is_the_models_own():
    message, _ = dies("0.0.22", without(GUIDE, "HF_AUTO_CAST_TYPE"))
    assert "'auto_cast_type': 'bf16'" in message


def test_absent_cores_are_all_of_the_instances():
    env = without(GUIDE, "HF_NUM_CORES")
    assert check(tgi("0.0.22"), env, instance_type=BIG) == []
    assert "'num_cores': 12" in dies("0.0.22", env, "ml.inf2.24xlarge")[0]


def test_tgi_3_3_4_misses_in_its_own_words():
    message, _ = dies("0.2.0", {**GUIDE, "HF_AUTO_CAST_TYPE": "bf16", "MAX_BATCH_SIZE": "16"})
    assert message.startswith("No compatible neuron config found. Provided env")
    assert "hf_something" not in message


def test_vllm_misses_in_its_own_words():
    message, _ = dies("0.4.4", {**LLAMA_3_3, "SM_ON_BATCH_SIZE": "3"})
    assert message.startswith("No cached version found for meta-llama/Llama-3.3-70B-Instruct")
    assert "inf2.48xlarge" in message


@pytest.mark.parametrize(("version", "env"), [("0.0.22", GUIDE), ("0.4.4", LLAMA_3_3)])
def test_an_instance_without_neuron_cores_is_refused(version, env):
    message, remedy = dies(version, env, "ml.g5.48xlarge")
    assert message == "No neuron cores detected on the host."
    assert BIG in remedy


def test_more_cores_than_the_instance_has_are_refused():
    message, remedy = dies("0.0.22", GUIDE, "ml.inf2.xlarge")
    assert "Requested:24 Available:2" in message
    assert "HF_NUM_CORES" in remedy


@pytest.mark.parametrize("value", ["many", "-4", "0", "4.0"])
def test_a_number_that_is_none_is_refused_before_anything_else(value):
    message, remedy = dies("0.0.22", {**GUIDE, "MAX_TOTAL_TOKENS": value})
    assert "invalid" in message
    assert "MAX_TOTAL_TOKENS" in remedy


VALUES = st.sampled_from(["", "0", "1", "4", "24", "4096", "x", "true", "fp16", "bf16", "a/b"])
NAMES = st.sampled_from([*GUIDE, *LLAMA_3_3, "MODEL_ID", "MAX_INPUT_TOKENS", "SM_ON_BATCH_SIZE"])


@given(st.sampled_from(list(CONTRACTS.values())), st.dictionaries(NAMES, VALUES))
def test_any_environment_gets_a_verdict_and_what_starts_has_a_shape(contract, env):
    violations = check(contract, env, instance_type=BIG)
    assert all(violation.message and violation.remedy for violation in violations)
    if not violations:
        served = shape(contract, env)
        assert served.max_input_tokens < served.max_total_tokens
        assert served.batch_size >= 1


def test_every_assumption_in_the_cache_is_marked():
    assumed = {entry.model_id for entry in contracts.CACHE if entry.assumed}
    assert "meta-llama/Meta-Llama-3-8B-Instruct" in assumed
    assert all(entry.source for entry in contracts.CACHE)


# --- tables


def test_the_report_shows_the_containers_words_and_the_remedy():
    table = contracts.report(tgi("0.0.22"), GUIDE | {"HF_BATCH_SIZE": "2"}, instance_type=BIG)
    assert "No cached version found" in table.iloc[0, 0]
    assert table.iloc[0, 1]


def test_the_report_of_a_sound_configuration_says_that_it_would_start():
    table = contracts.report(tgi("0.0.22"), GUIDE, instance_type=BIG)
    assert list(table.iloc[0]) == ["none: it would start", "go on"]


def test_the_shape_is_described_with_where_it_is_read():
    table = contracts.describe(tgi("0.0.22"), GUIDE)
    assert list(table.loc["slots (batch size)"]) == [4, "HF_BATCH_SIZE"]
    assert list(table.loc["longest prompt (tokens)"]) == [4000, "MAX_INPUT_LENGTH"]
    later = contracts.describe(tgi("0.0.28"), {"MAX_BATCH_SIZE": "4", "HF_BATCH_SIZE": "8"})
    assert list(later.loc["slots (batch size)"]) == [4, "MAX_BATCH_SIZE"]
