"""Checks of the configuration: does the container take it, is it compiled, does it fit."""

from helpers import contracts, costs, models, neuron_cache, recipes
from helpers.errors import ContainerError
from helpers.preflight.asked import FAILED, GO_ON, NOT_CHECKED, OK, WARNING, Asked, Result

_MOST_VOLUME_GB = 512  # SageMaker, botocore's service model
_HEALTH_CHECK_S = (60, 3600)  # the same


def contract(asked: Asked) -> list[Result]:
    """Whether the container takes the environment."""
    recipe = asked.recipe
    env = {**recipe.env, "HF_TOKEN": "checked on its own"}
    broken = contracts.check(recipe.contract, env, instance_type=recipe.instance_type, cache=False)
    if broken:
        others = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        return [Result("contract", FAILED, broken[0].message + others, broken[0].remedy)]
    name = f"{recipe.contract.server} ({recipe.container_version})"
    old_driver = recipe.framework == contracts.VLLM and not recipe.inference_ami_version
    if old_driver and recipe.instance_type.startswith("ml.inf2."):
        return [
            Result(
                "contract",
                WARNING,
                f"{name} on inf2 gets an old Neuron driver without an inference AMI",
                f"Set inference_ami_version to {recipes.NEURON_AMI}.",
            )
        ]
    return [Result("contract", OK, f"{name} takes this environment")]


def cache(asked: Asked) -> list[Result]:
    """Whether the shape has been compiled."""
    recipe = asked.recipe
    found = neuron_cache.look_up(recipe.contract, recipe.env, instance_type=recipe.instance_type)
    entry, wanted = found.entry, found.asked
    if entry:
        said = f"{_shape_of(entry)} is listed ({found.source})"
        if not entry.assumed:
            return [Result("cache", OK, said)]
        said = f"{_shape_of(entry)} is assumed to be cached, nobody has looked it up"
        remedy = "Be ready to read the container's log: it says so when the shape is not cached."
        return [Result("cache", WARNING, said, remedy)]
    said = f"{wanted.model_id} as {_shape_of(wanted)}, compiler {recipe.contract.compiler}, is not "
    said += f"cached, and the container does not compile ({found.source})"
    near = "; or: ".join(map(str, found.near))
    remedy = f"{near[:1].upper()}{near[1:]}." if near else _uncached(wanted.model_id)
    return [Result("cache", FAILED, said, remedy)]


def _shape_of(shape: contracts.Asked | contracts.CacheEntry) -> str:
    parts = (
        ("batch {}", shape.batch_size),
        ("{} tokens", shape.sequence_length),
        ("{} cores", shape.num_cores),
        ("{}", shape.auto_cast_type),
    )
    return ", ".join(words.format(value) for words, value in parts if value is not None)


def _uncached(model_id: str | None) -> str:
    cached = dict.fromkeys(entry.model_id for entry in contracts.CACHE)
    return f"Choose a model that is cached ({', '.join(cached)}) instead of {model_id}."


def shape(asked: Asked) -> list[Result]:
    """Whether prompt and answer fit into a slot, and how many slots there are."""
    recipe = asked.recipe
    try:
        shape = recipe.shape
    except ContainerError as error:
        return [Result("shape", FAILED, *_said_and_remedy(error))]
    longest, total, length = shape.max_input_tokens, shape.max_total_tokens, shape.sequence_length
    limit = next((n for n in recipe.contract.input_variables if recipe.env.get(n)), "the input")
    if total > length:
        return [
            Result(
                "shape",
                FAILED,
                f"MAX_TOTAL_TOKENS {total} is more than the {length} tokens a slot holds",
                f"Set MAX_TOTAL_TOKENS to {length}, or {recipe.contract.length_variable} to "
                f"{total} if that is cached.",
            )
        ]
    if longest >= total:
        return [
            Result(
                "shape",
                FAILED,
                f"a prompt of {longest} tokens leaves no room for an answer in {total}",
                f"Set {limit} below {total}.",
            )
        ]
    said = f"longest prompt {longest} + {total - longest} left for the answer = {total} tokens"
    if recipe.framework == contracts.VLLM:
        said = f"prompt and answer share {total} tokens"
    said += f", a slot holds {length}; {shape.batch_size} slots"
    router = recipe.env.get("MAX_BATCH_SIZE", "")
    if router.isdigit() and 0 < int(router) < shape.batch_size:
        return [
            Result(
                "shape",
                WARNING,
                f"{said}, of which {router} are used",
                f"Set MAX_BATCH_SIZE to {shape.batch_size}.",
            )
        ]
    return [Result("shape", OK, said)]


def _said_and_remedy(error: Exception) -> tuple[str, str]:
    said, _, remedy = str(error).partition(": ")
    return said, f"{remedy[:1].upper()}{remedy[1:]}"


def memory(asked: Asked) -> list[Result]:
    """Whether weights and KV cache fit into HBM."""
    recipe = asked.recipe
    shape, instance = recipe.shape, costs.INSTANCES.get(recipe.instance_type)
    if instance is None:
        said = f"the memory of {recipe.instance_type} is not known here"
        remedy = f"Choose one of {', '.join(costs.INSTANCES)}. {GO_ON}"
        return [Result("memory", NOT_CHECKED, said, remedy)]
    cores = min(shape.num_cores or instance.cores, instance.cores)
    there_gb = models.hbm_gb(cores)
    takes = models.memory(
        recipe.model_id, batch_size=shape.batch_size, sequence_length=shape.sequence_length
    )
    needed_gb, known = takes.needed_gb, takes.cache_gb is not None
    cached = f"{takes.cache_gb:.1f} GB of KV cache" if known else "a KV cache of unknown size"
    said = f"{takes.weights_gb:.0f} GB of weights + {cached} ({shape.batch_size} x "
    said += f"{shape.sequence_length} tokens) = {needed_gb:.0f} GB of {there_gb:.0f} GB HBM "
    said += f"({cores} cores)"
    if needed_gb > there_gb:
        return [Result("memory", FAILED, said, _larger(needed_gb, shape.batch_size))]
    if not known:
        remedy = "Add the KV cache by config.json: 4 bytes x layers x KV heads x head size a token."
        return [Result("memory", WARNING, said, remedy)]
    if needed_gb > models.TIGHT * there_gb:
        remedy = f"Leave a tenth free: {_larger(needed_gb / models.TIGHT, shape.batch_size)}"
        return [Result("memory", WARNING, said, remedy)]
    return [Result("memory", OK, said)]


def _larger(needed_gb: float, batch_size: int) -> str:
    fitting = [
        one.name
        for one in costs.INSTANCES.values()
        if one.hbm_gib * models.GIB_IN_GB >= needed_gb and one.name.startswith("ml.inf2.")
    ]
    smaller = " or a smaller batch" if batch_size > 1 else ""
    if fitting:
        return f"Choose {fitting[0]} with all its cores{smaller}."
    return f"Choose a smaller model{smaller}: no inf2 holds {needed_gb:.0f} GB."


def disk(asked: Asked) -> list[Result]:
    """Whether the weights fit onto the volume."""
    recipe = asked.recipe
    copies = recipe.contract.checkpoint_copies
    weights_gb = models.weights_gb(recipe.model_id)
    needed_gb = copies * weights_gb
    times = " (two copies: this version saves the checkpoint again)" if copies > 1 else ""
    said = f"{needed_gb:.0f} GB of weights{times} on {recipe.volume_gb} GB"
    if needed_gb > _MOST_VOLUME_GB:
        return [
            Result(
                "disk",
                FAILED,
                said,
                f"Choose a smaller model: a volume holds {_MOST_VOLUME_GB} GB.",
            )
        ]
    if needed_gb > models.TIGHT * recipe.volume_gb:
        state = FAILED if needed_gb > recipe.volume_gb else WARNING
        enough_gb = min(_MOST_VOLUME_GB, round(needed_gb / models.TIGHT + 0.5))
        return [Result("disk", state, said, f"Set volume_gb to {enough_gb} or more.")]
    return [Result("disk", OK, said)]


def timeout(asked: Asked) -> list[Result]:
    """Whether the health check outlasts the loading."""
    recipe = asked.recipe
    given_s, (lowest_s, highest_s) = recipe.health_check_timeout_s, _HEALTH_CHECK_S
    # The health check begins with the container; the instance comes before.
    loading_s = models.startup_s(recipe.model_id) - models.INSTANCE_S
    said = f"loading takes about {loading_s / 60:.0f} min, the health check waits "
    said += f"{given_s / 60:.0f} min"
    if not lowest_s <= given_s <= highest_s:
        remedy = f"Set health_check_timeout_s from {lowest_s} to {highest_s}, as SageMaker takes."
        return [Result("timeout", FAILED, said, remedy)]
    remedy = f"Set health_check_timeout_s to {highest_s}."
    if loading_s > given_s:
        if loading_s > highest_s:
            remedy += " It is the most SageMaker takes, and may not do."
        return [Result("timeout", FAILED, said, remedy)]
    if loading_s > models.TIGHT * given_s:
        return [Result("timeout", WARNING, said, remedy)]
    return [Result("timeout", OK, said)]
