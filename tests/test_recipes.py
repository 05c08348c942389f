import pytest

from helpers import contracts, recipes
from helpers.errors import SettingsError, WorkshopError


def test_the_default_is_the_original_guides():
    recipe = recipes.get()
    assert recipe.container_version == "0.0.22"
    assert recipe.instance_type == "ml.inf2.48xlarge"
    assert dict(recipe.env) == {
        "HF_MODEL_ID": "meta-llama/Meta-Llama-3-70B-Instruct",
        "HF_NUM_CORES": "24",
        "HF_BATCH_SIZE": "4",
        "HF_SEQUENCE_LENGTH": "4096",
        "HF_AUTO_CAST_TYPE": "fp16",
        "MAX_BATCH_SIZE": "4",
        "MAX_INPUT_LENGTH": "4000",
        "MAX_TOTAL_TOKENS": "4096",
        "MESSAGES_API_ENABLED": "true",
    }
    assert (recipe.health_check_timeout_s, recipe.volume_gb) == (2400, 512)
    assert (recipe.batch_size, recipe.sequence_length) == (4, 4096)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_keeps_its_containers_contract(name):
    recipe = recipes.get(name)
    env = {**recipe.env, "HF_TOKEN": "hf_something"}
    assert contracts.check(recipe.contract, env, instance_type=recipe.instance_type) == []
    assert recipe.shape.messages_api
    assert recipe.shape.model_id == recipe.model_id


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_stays_within_sagemakers_limits(name):
    recipe = recipes.get(name)
    assert 60 <= recipe.health_check_timeout_s <= 3600
    assert 1 <= recipe.volume_gb <= 512
    assert recipe.source
    assert recipe.verified


def test_an_unverified_recipe_says_so():
    assert "unverified" in recipes.get("llama-3-8b").verified
    assert "unverified" in recipes.table().loc["llama-3-8b", "known"]


def test_instance_and_environment_can_be_changed():
    recipe = recipes.get(
        "llama-3-8b",
        instance_type="inf2.8xlarge",
        HF_BATCH_SIZE=1,
        MESSAGES_API_ENABLED=False,
        MAX_INPUT_LENGTH=None,
        HF_MODEL_ID="someone/model",
    )
    assert recipe.instance_type == "ml.inf2.8xlarge"
    assert recipe.env["HF_BATCH_SIZE"] == "1"
    assert recipe.env["MESSAGES_API_ENABLED"] == "false"
    assert "MAX_INPUT_LENGTH" not in recipe.env
    assert recipe.model_id == "someone/model"
    assert recipes.get("llama-3-8b").env["HF_BATCH_SIZE"] == "4"


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match="llama-3-8b"):
        recipes.get("llama-4")


def test_an_instance_without_a_price_is_refused():
    with pytest.raises(WorkshopError, match=r"ml\.g5\.xlarge"):
        recipes.get(instance_type="ml.g5.xlarge")


def test_a_value_that_sagemaker_would_refuse_is_refused_here():
    with pytest.raises(SettingsError, match="1024"):
        recipes.get(HF_MODEL_REVISION="x" * 1025)


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_a_recipe_never_holds_a_token(name):
    with pytest.raises(SettingsError) as caught:
        recipes.get(**{name: "hf_secretsecret"})
    assert "hf_secretsecret" not in str(caught.value)


def test_its_environment_cannot_be_changed_by_accident():
    with pytest.raises(TypeError):
        recipes.get().env["HF_TOKEN"] = "hf_secretsecret"


def test_every_variable_of_every_recipe_is_explained():
    for name in recipes.RECIPES:
        recipe = recipes.get(name)
        explained = recipes.explain(recipe)
        assert list(explained.index) == list(recipe.env)
        assert list(explained["value"]) == list(recipe.env.values())
        assert (explained["what it does"].str.len() > 20).all()
    unknown = recipes.explain(recipes.get(SOMETHING_NEW=1))
    assert "as it is" in unknown.loc["SOMETHING_NEW", "what it does"]


def test_every_variable_a_contract_names_is_explained():
    for contract in contracts.CONTRACTS.values():
        named = {contract.model_variable, contract.batch_variable, contract.length_variable}
        named |= {contract.cores_variable, *contract.input_variables}
        assert named <= recipes.VARIABLES.keys()


def test_the_table_names_shape_and_price():
    row = recipes.table().loc["llama-3-70b"]
    assert (row["batch"], row["length (tokens)"], row["price ($/h)"]) == (4, 4096, 15.58)
