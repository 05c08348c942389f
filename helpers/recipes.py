"""Configurations of an endpoint: container, instance, environment, time-outs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from helpers import contracts, hub
from helpers.contracts import TGI, VLLM
from helpers.costs import INSTANCES, price_per_hour
from helpers.errors import SettingsError

if TYPE_CHECKING:  # else imported where a table is made: the rehearsal's server makes none
    import pandas as pd

DEFAULT = "llama-3-70b"
NEURON_AMI = "al2-ami-sagemaker-inference-neuron-2"  # optimum-neuron notebook, 2026-01
_MAX_VALUE_LENGTH = 1024  # of an environment variable, botocore's service model


@dataclass(frozen=True)
class Recipe:
    """One configuration of an endpoint.

    Attributes:
        name: Short name, part of the endpoint's name.
        model_id: Hugging Face model.
        framework: `huggingface-llm-neuronx` (TGI) or `huggingface-vllm-neuronx` (vLLM).
        container_version: The SDK's version of the container.
        instance_type: SageMaker instance type.
        env: The container's environment, read only, never with a token in it.
        health_check_timeout_s: How long the container may take to start; SageMaker: 60 to 3600.
        volume_gb: Disk; SageMaker: 1 to 512. inf2 has none of its own.
        inference_ami_version: Host image with the Neuron driver, None for SageMaker's default.
        gated: The model needs a Hugging Face token and an accepted license.
        source: Where the configuration comes from.
        verified: What is known about it.
    """

    name: str
    model_id: str
    framework: str
    container_version: str
    instance_type: str
    env: Mapping[str, str]
    health_check_timeout_s: int
    volume_gb: int
    source: str
    verified: str
    inference_ami_version: str | None = None
    gated: bool = True

    def __post_init__(self):
        secret = next((name for name in self.env if hub.is_secret(name)), None)
        if secret:  # it would show up wherever a recipe is printed
            raise SettingsError(
                f"A recipe holds no secret such as {secret}: pass the token to endpoint.deploy "
                "as hf_token."
            )
        object.__setattr__(self, "env", MappingProxyType(dict(self.env)))

    @property
    def contract(self) -> contracts.Contract:
        """What the container reads and refuses."""
        return contracts.CONTRACTS[self.framework, self.container_version]

    @property
    def shape(self) -> contracts.Shape:
        """What the container makes of the environment."""
        return contracts.shape(self.contract, self.env)

    @property
    def batch_size(self) -> int:
        """Static batch size: requests served at the same time."""
        return self.shape.batch_size

    @property
    def sequence_length(self) -> int:
        """Static sequence length, tokens of prompt and answer together."""
        return self.shape.sequence_length


_GUIDE_ENV = {
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
_IGNORED_SINCE_0_0_23 = ("HF_BATCH_SIZE", "HF_SEQUENCE_LENGTH")

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name=DEFAULT,
            model_id="meta-llama/Meta-Llama-3-70B-Instruct",
            framework=TGI,
            container_version="0.0.22",
            instance_type="ml.inf2.48xlarge",
            env=_GUIDE_ENV,
            health_check_timeout_s=2400,
            volume_gb=512,
            source="philschmid/huggingface-inferentia2-samples, llama3-70b/ (2024-05)",
            verified="ran in the original guide, 2024-05",
        ),
        Recipe(
            name="llama-3-70b-tgi-0.0.28",
            model_id="meta-llama/Meta-Llama-3-70B-Instruct",
            framework=TGI,
            container_version="0.0.28",
            instance_type="ml.inf2.48xlarge",
            env={k: v for k, v in _GUIDE_ENV.items() if k not in _IGNORED_SINCE_0_0_23},
            health_check_timeout_s=2400,
            volume_gb=512,
            source="optimum-neuron v0.0.28, benchmark/text-generation-inference/performance/"
            "llama3-70b-inf2.48xlarge/",
            verified="benchmarked by optimum-neuron; not run on SageMaker",
        ),
        Recipe(
            name="llama-3-8b",
            model_id="meta-llama/Meta-Llama-3-8B-Instruct",
            framework=TGI,
            container_version="0.0.22",
            instance_type="ml.inf2.xlarge",
            env={
                **_GUIDE_ENV,
                "HF_MODEL_ID": "meta-llama/Meta-Llama-3-8B-Instruct",
                "HF_NUM_CORES": "2",
            },
            health_check_timeout_s=2400,
            volume_gb=128,
            source="derived from the original guide",
            verified="unverified: not run, and its place in the Neuron cache is assumed",
        ),
        Recipe(
            name="llama-3.3-70b-vllm",
            model_id="meta-llama/Llama-3.3-70B-Instruct",
            framework=VLLM,
            container_version="0.4.4",
            instance_type="ml.inf2.48xlarge",
            env={"SM_ON_MODEL": "meta-llama/Llama-3.3-70B-Instruct"},
            health_check_timeout_s=3600,
            volume_gb=512,
            inference_ami_version=NEURON_AMI,
            source="optimum-neuron, notebooks/sagemaker/deploy-llama-3-3-70b.ipynb (2026-01)",
            verified="what Hugging Face recommends now; the cached batch size is assumed",
        ),
    )
}

# What each variable does, in our words; facts from the containers' entry scripts.
VARIABLES: dict[str, str] = {
    "HF_MODEL_ID": "Model to download from the Hugging Face Hub; the container refuses to start "
    "without it.",
    "MODEL_ID": "Model to download from the Hugging Face Hub: TGI 3.3.6 reads this name only.",
    "HF_MODEL_REVISION": "Branch, tag or commit of the model.",
    "HF_NUM_CORES": "Neuron cores the model was compiled for; absent: all of the instance's.",
    "HF_BATCH_SIZE": "Static batch size the model was compiled for: container 0.0.22 only, absent: "
    "1.",
    "HF_SEQUENCE_LENGTH": "Static sequence length the model was compiled for, in tokens: container "
    "0.0.22 only, absent: 8192.",
    "HF_AUTO_CAST_TYPE": "Number format the weights were compiled to; absent: the one in the "
    "model's configuration. Has to match the Neuron cache.",
    "MAX_BATCH_SIZE": "Requests served at the same time, equal to the static batch size; the "
    "container refuses to start without it.",
    "MAX_INPUT_LENGTH": "Longest prompt the server accepts, in tokens.",
    "MAX_INPUT_TOKENS": "Longest prompt the server accepts, in tokens (newer name).",
    "MAX_TOTAL_TOKENS": "Prompt and answer together, in tokens; the static sequence length from "
    "0.0.23 on.",
    "MAX_BATCH_PREFILL_TOKENS": "Prompt tokens read in one go; absent: batch × longest prompt.",
    "MAX_CONCURRENT_REQUESTS": "Requests served and queued before the server answers 429; absent: "
    "128.",
    "MAX_STOP_SEQUENCES": "Stop sequences a request may carry; absent: 4.",
    "MESSAGES_API_ENABLED": "Lets /invocations take chat messages; needed up to 0.0.25.",
    "SM_ON_MODEL": "Model to download from the Hugging Face Hub: SM_ON_X becomes --x.",
    "SM_ON_BATCH_SIZE": "Static batch size; absent: the largest one in the Neuron cache.",
    "SM_ON_SEQUENCE_LENGTH": "Static sequence length, in tokens; absent: the cache's.",
    "SM_ON_TENSOR_PARALLEL_SIZE": "Neuron cores the model is spread over; absent: the cache's.",
    "HF_TOKEN": "Token for gated models; visible to everyone who may call DescribeModel.",
}


def get(name: str = DEFAULT, *, instance_type: str | None = None, **env_overrides) -> Recipe:
    """A recipe by name, with another instance type or environment if asked.

    Args:
        name: One of `RECIPES`.
        instance_type: Another SageMaker instance type.
        **env_overrides: Environment variables to set, None to remove one, e.g. `MAX_BATCH_SIZE=1`.

    Raises:
        SettingsError: When there is no such recipe, or a value SageMaker would refuse.
    """
    if name not in RECIPES:
        raise SettingsError(f"There is no recipe {name!r}: choose one of {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    env = dict(recipe.env)
    for variable, value in env_overrides.items():
        if value is None:
            env.pop(variable, None)
        else:
            env[variable] = _text(variable, value)
    if instance_type is not None:
        price_per_hour(instance_type)  # a type without a price would bill in the dark
        instance_type = "ml." + instance_type.removeprefix("ml.")
    return replace(
        recipe,
        env=env,
        instance_type=instance_type or recipe.instance_type,
        model_id=env.get(recipe.contract.model_variable, recipe.model_id),
    )


def explain(recipe: Recipe) -> "pd.DataFrame":
    """The recipe's environment, one row a variable: value and what it does."""
    import pandas as pd

    rows = {
        variable: {
            "value": value,
            "what it does": VARIABLES.get(variable, "Passed to the container as it is."),
        }
        for variable, value in hub.mask(recipe.env).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(index="variable")


def table() -> "pd.DataFrame":
    """All recipes: model, container, instance, shape, price, and what is known about them."""
    import pandas as pd

    rows = [
        {
            "recipe": recipe.name,
            "model": recipe.model_id.partition("/")[2],
            "container": f"{recipe.contract.server} ({recipe.container_version})",
            "instance": recipe.instance_type,
            "batch": recipe.batch_size,
            "length (tokens)": recipe.sequence_length,
            "price ($/h)": INSTANCES[recipe.instance_type].price_per_hour,
            "known": recipe.verified,
        }
        for recipe in RECIPES.values()
    ]
    return pd.DataFrame(rows).set_index("recipe")


def _text(variable: str, value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if len(text) > _MAX_VALUE_LENGTH:
        raise SettingsError(
            f"{variable} is {len(text)} characters long: SageMaker takes {_MAX_VALUE_LENGTH}."
        )
    return text
