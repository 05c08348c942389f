"""What each Neuron container version reads from its environment and refuses, as data.

From `awslabs/llm-hosting-container`, `huggingface/optimum-neuron` (tags v0.0.22 to v0.4.5) and
`huggingface/text-generation-inference` (`backends/neuron`), read in 2026-08. A wrong value costs
40 minutes and about $10 on AWS before the health check gives up; `check` needs a millisecond.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from helpers.costs import INSTANCES
from helpers.errors import ContainerError

if TYPE_CHECKING:  # else imported where a table is made: the rehearsal's server makes none
    import pandas as pd

TGI = "huggingface-llm-neuronx"
VLLM = "huggingface-vllm-neuronx"
REPOSITORIES = {
    TGI: "huggingface-pytorch-tgi-inference",
    VLLM: "huggingface-vllm-inference-neuronx",
}
_TAG_END = {TGI: "neuronx-py310-ubuntu22.04", VLLM: "neuronx-py310-{sdk}-ubuntu22.04"}
_IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr[\w.-]*\.(?P<region>[a-z]{2,4}(?:-[a-z]+)+-\d)\.[\w.]+"
    r"/(?P<repository>[\w./-]+):(?P<tag>[\w.-]+)"
)


# --- Contracts ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contract:
    """What one container version reads from its environment, and what it refuses.

    Attributes:
        framework: The SDK's name for the family, `TGI` or `VLLM` of this module.
        version: The SDK's version, e.g. `0.0.22`.
        tag: The image's whole tag.
        server: What serves inside, e.g. `TGI 2.0.2`.
        compiler: Version of neuronx-cc, or of the Neuron SDK where only that is known.
        dialect: How it answers: `tgi-2.0.2`, `tgi-2.1.1`, `tgi-3` or `vllm`.
        model_variable: Holds the model's id.
        required: Variables it refuses to start without, each with its words.
        batch_variable: Holds the static batch size.
        length_variable: Holds the static sequence length.
        cores_variable: Holds the number of Neuron cores; absent: all of the instance's.
        input_variables: Hold the longest input, first one wins.
        default_batch_size: Static batch size when its variable is absent.
        default_sequence_length: The same for the sequence length.
        messages_flag: Messages on `/invocations` need `MESSAGES_API_ENABLED=true`.
        cache_match: How an entry of the Neuron cache is matched: `exact` (what is absent has its
            default), `at least` (an entry may be larger, the largest batch wins), `asked` (equal
            where asked for, the largest wins elsewhere).
        refuses_input_length: Fails when `MAX_INPUT_LENGTH` is set [read in the code, not run].
        batch_refusal: Words for a router that sends more than the model's static batch.
        cache_refusal: Words for a cache miss.
        checkpoint_copies: How often the weights lie on the disk: 0.0.22 and 0.0.23 save a copy of
            the checkpoint beside what they download.
    """

    framework: str
    version: str
    tag: str
    server: str
    compiler: str
    dialect: str
    model_variable: str
    required: tuple[tuple[str, str], ...]
    batch_variable: str
    length_variable: str
    cores_variable: str
    input_variables: tuple[str, ...] = ()
    default_batch_size: int | None = 1
    default_sequence_length: int | None = 8192
    messages_flag: bool = False
    cache_match: str = "exact"
    refuses_input_length: bool = False
    batch_refusal: str = ""
    cache_refusal: str = ""
    checkpoint_copies: int = 1


_EXACT_MISS = (
    "No cached version found for {model_id} with {config}. You can start a discussion to request "
    "it on https://huggingface.co/aws-neuron/optimum-neuron-cache"
)
_COMPATIBLE_MISS = (
    "No compatible neuron config found. Provided env {env}, available cores {cores}, "
    "neuronxcc version {compiler}"
)
_VLLM_MISS = (
    "No cached version found for {model_id} instance type {instance}, {config}. You can start a "
    "discussion to request it on https://huggingface.co/aws-neuron/optimum-neuron-cache"
)
_BATCH_0_0_22 = (
    "Inconsistent server configuration: please make sure max-prefill-tokens does not exceed "
    "{batch_size} x max-input-length."
)
_BATCH_LATER = (
    "Inconsistent batch_size configuration: Please make sure the batch_size in the compiled model "
    "(currently {batch_size}) matches the batch_size passed to TGI."
)
_HF_MODEL_ID = ("HF_MODEL_ID", "HF_MODEL_ID must be set")
_MAX_BATCH_SIZE = ("MAX_BATCH_SIZE", "MAX_BATCH_SIZE must be set to the model static batch size")
_MODEL_ID = (
    "MODEL_ID",
    "No model id provided ! Either specify it using --model-id cmdline or MODEL_ID env var",
)


def _tgi(version: str, prefix: str, server: str, compiler: str, dialect: str, **more) -> Contract:
    """One TGI version; the arguments that are left out are those of 0.0.23 to 0.0.25."""
    reads = {
        "model_variable": "HF_MODEL_ID",
        "required": (_HF_MODEL_ID, _MAX_BATCH_SIZE),
        "batch_variable": "MAX_BATCH_SIZE",
        "length_variable": "MAX_TOTAL_TOKENS",
        "cores_variable": "HF_NUM_CORES",
        "input_variables": ("MAX_INPUT_TOKENS", "MAX_INPUT_LENGTH"),
        "batch_refusal": _BATCH_LATER,
        "cache_refusal": _EXACT_MISS,
    }
    return Contract(
        TGI, version, f"{prefix}-{_TAG_END[TGI]}", server, compiler, dialect, **{**reads, **more}
    )


def _vllm(version: str, prefix: str, sdk: str) -> Contract:
    """One vLLM version: every `SM_ON_X` becomes `--x` of `optimum-cli neuron serve`."""
    return Contract(
        VLLM,
        version,
        f"{prefix}-{_TAG_END[VLLM].format(sdk='sdk' + sdk)}",
        f"vLLM {prefix.split('-')[0]}",
        f"Neuron SDK {sdk}",
        "vllm",
        "SM_ON_MODEL",
        required=(
            ("SM_ON_MODEL", "the following arguments are required: -m/--model"),  # argparse
        ),
        batch_variable="SM_ON_BATCH_SIZE",
        length_variable="SM_ON_SEQUENCE_LENGTH",
        cores_variable="SM_ON_TENSOR_PARALLEL_SIZE",
        default_batch_size=None,
        default_sequence_length=None,
        cache_match="asked",
        cache_refusal=_VLLM_MISS,
    )


_FLAG = {"messages_flag": True}
_COPIES = {"checkpoint_copies": 2}
_AT_LEAST = {"cache_match": "at least", "cache_refusal": _COMPATIBLE_MISS}

CONTRACTS: dict[tuple[str, str], Contract] = {
    (contract.framework, contract.version): contract
    for contract in (
        _tgi(
            "0.0.22",
            "2.1.2-optimum0.0.22",
            "TGI 2.0.2",
            "2.13.66.0",
            "tgi-2.0.2",
            batch_variable="HF_BATCH_SIZE",
            length_variable="HF_SEQUENCE_LENGTH",
            batch_refusal=_BATCH_0_0_22,
            **_FLAG,
            **_COPIES,
        ),
        _tgi(
            "0.0.23",
            "2.1.2-optimum0.0.23",
            "TGI 2.0.2",
            "2.13.66.0",
            "tgi-2.0.2",
            **_FLAG,
            **_COPIES,
        ),
        _tgi("0.0.24", "2.1.2-optimum0.0.24", "TGI 2.1.1", "2.14.227.0", "tgi-2.1.1", **_FLAG),
        _tgi("0.0.25", "2.1.2-optimum0.0.25", "TGI 2.1.1", "2.15.128.0", "tgi-2.1.1", **_FLAG),
        _tgi("0.0.27", "2.1.2-optimum0.0.27", "TGI 3.0.0", "2.15.143.0", "tgi-3"),
        _tgi("0.0.28", "2.1.2-optimum0.0.28", "TGI 3.0.0", "2.15.143.0", "tgi-3"),
        _tgi("0.2.0", "2.5.1-optimum3.3.4", "TGI 3.3.4", "2.17.194.0", "tgi-3", **_AT_LEAST),
        _tgi(
            "0.3.0",
            "2.7.0-optimum3.3.6",
            "TGI 3.3.6",
            "2.19.8089.0",
            "tgi-3",
            model_variable="MODEL_ID",
            required=(_MODEL_ID,),
            input_variables=("MAX_INPUT_TOKENS",),
            refuses_input_length=True,
            **_AT_LEAST,
        ),
        _vllm("0.4.1", "0.10.2", "2.26.0"),
        _vllm("0.4.2", "0.11.0-optimum0.4.2", "2.26.0"),
        _vllm("0.4.4", "0.11.0-optimum0.4.4", "2.26.1"),
    )
}


# --- The Neuron cache -----------------------------------------------------------------------


@dataclass(frozen=True)
class CacheEntry:
    """A shape that was compiled ahead and put into `aws-neuron/optimum-neuron-cache`.

    Attributes:
        model_id: Hugging Face model.
        batch_size: Static batch size.
        sequence_length: Static sequence length, tokens.
        num_cores: Neuron cores.
        auto_cast_type: `fp16` or `bf16`.
        compilers: Compiler versions it counts for: an artifact belongs to one version.
        source: Where the entry stands.
        assumed: True when it is not listed where we could read it.
        versions: Container versions it counts for; empty: all that have the compiler.
    """

    model_id: str
    batch_size: int
    sequence_length: int
    num_cores: int
    auto_cast_type: str
    compilers: tuple[str, ...]
    source: str
    assumed: bool = False
    versions: tuple[str, ...] = ()

    def counts_for(self, contract: Contract) -> bool:
        """Whether a container of this contract can load it."""
        listed = not self.versions or contract.version in self.versions
        return listed and contract.compiler in self.compilers


_SINCE_AUTUMN_2024 = ("2.15.128.0", "2.15.143.0", "2.17.194.0", "2.19.8089.0")
_LLAMA_3_70B = "meta-llama/Meta-Llama-3-70B-Instruct"
_LLAMA_3_1_70B = "meta-llama/Meta-Llama-3.1-70B-Instruct"
_LLAMA_3_3_70B = "meta-llama/Llama-3.3-70B-Instruct"
_LLAMA_3_8B = "meta-llama/Meta-Llama-3-8B-Instruct"


def _cached(
    model_id: str, batch_sizes: tuple[int, ...], *, cores: int, cast: str, **more
) -> Iterator[CacheEntry]:
    """Entries that differ in their batch size only; every known one is 4096 tokens long."""
    for batch_size in batch_sizes:
        yield CacheEntry(model_id, batch_size, 4096, cores, cast, **more)


# The config files name no compiler: which one was current at the revision's date is derived.
CACHE: tuple[CacheEntry, ...] = (
    *_cached(
        _LLAMA_3_70B,
        (1, 4),
        cores=24,
        cast="fp16",
        compilers=("2.13.66.0", "2.14.227.0"),
        source="llama3-70b.json (2695ea9, 2024-06-27)",
    ),
    *_cached(
        _LLAMA_3_70B,
        (1, 4),
        cores=24,
        cast="fp16",
        compilers=("2.15.143.0",),
        source="optimum-neuron v0.0.28 benchmarked this shape on inf2.48xlarge",
        assumed=True,
    ),
    *_cached(
        _LLAMA_3_70B,
        (1, 4),
        cores=24,
        cast="bf16",
        compilers=_SINCE_AUTUMN_2024,
        source="llama3-70b.json (5694f75, autumn 2024)",
    ),
    *_cached(
        _LLAMA_3_1_70B,
        (1, 4),
        cores=24,
        cast="bf16",
        compilers=_SINCE_AUTUMN_2024,
        source="llama3.1-70b.json",
    ),
    *_cached(
        _LLAMA_3_3_70B,
        (1, 4, 8),
        cores=24,
        cast="bf16",
        compilers=("Neuron SDK 2.26.0", "Neuron SDK 2.26.1"),
        source="shapes measured in optimum-neuron, benchmarks/inferentia-llama3.3-70b.mdx",
        assumed=True,
    ),
    *_cached(
        _LLAMA_3_8B,
        (4,),
        cores=2,
        cast="fp16",
        compilers=("2.13.66.0",),
        source="assumed for the rehearsal, not looked up",
        assumed=True,
    ),
)

# Gated models: a download without a token is answered with 401 (Hugging Face Hub).
_GATED = ("meta-llama/",)
# `dtype` of the model's own configuration, what an absent HF_AUTO_CAST_TYPE means (Llama 3).
_CONFIG_DTYPE = "bf16"
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


# --- From an image and an environment to a verdict ------------------------------------------


def model_of(env: Mapping[str, str]) -> str:
    """The model an environment names, whichever container it is for; empty when it names none."""
    names = ("HF_MODEL_ID", "MODEL_ID", "SM_ON_MODEL")
    return next((env[name] for name in names if env.get(name)), "")


def contract_for_image(image_uri: str) -> Contract:
    """The contract of an image.

    Raises:
        ContainerError: When it is no image address, not one of these containers, or a tag that
            does not exist or whose contract was not collected.
    """
    match = _IMAGE.fullmatch(image_uri)
    if not match:
        raise ContainerError(
            f"{image_uri!r} is not the address of an image in ECR: look it up with "
            "containers.image_uri."
        )
    repository, tag = match["repository"], match["tag"]
    framework = next((name for name, repo in REPOSITORIES.items() if repo == repository), None)
    if framework is None:
        raise ContainerError(
            f"{repository} is not a Hugging Face Neuron container: use one of "
            f"{', '.join(REPOSITORIES.values())}."
        )
    for contract in CONTRACTS.values():
        if contract.framework == framework and contract.tag == tag:
            return contract
    raise ContainerError(
        f"{repository} has no tag {tag} whose contract is known: look the image up with "
        f"containers.image_uri, version {_contract_versions(framework)}."
    )


def _contract_versions(framework: str) -> str:
    return " or ".join(version for name, version in CONTRACTS if name == framework)


@dataclass(frozen=True)
class Shape:
    """What a container makes of its environment.

    Attributes:
        model_id: Hugging Face model, None when not given.
        batch_size: Static batch size the model was compiled for.
        sequence_length: Static sequence length it was compiled for, tokens.
        num_cores: Neuron cores, None for all of the instance's.
        auto_cast_type: `fp16`, `bf16`, …
        max_input_tokens: Longest prompt accepted.
        max_total_tokens: Longest prompt and answer together.
        messages_api: Whether `/invocations` understands `messages`.
        max_concurrent_requests: Requests in flight and queued before a 429.
        max_batch_prefill_tokens: Prompt tokens in one prefill.
        max_stop_sequences: Stop sequences a request may have.
    """

    model_id: str | None
    batch_size: int
    sequence_length: int
    num_cores: int | None
    auto_cast_type: str
    max_input_tokens: int
    max_total_tokens: int
    messages_api: bool
    max_concurrent_requests: int = 128
    max_batch_prefill_tokens: int = 0
    max_stop_sequences: int = 4


@dataclass(frozen=True)
class Violation:
    """Why a container would not start.

    Attributes:
        message: The container's own words, as they stand in its log.
        remedy: What to do, in one sentence.
    """

    message: str
    remedy: str


def shape(contract: Contract, env: Mapping[str, str]) -> Shape:
    """The shape a container serves with this environment, defaults filled in.

    Where the container picks an entry of the Neuron cache itself (TGI 3.3.x, vLLM), the entry it
    would pick decides.

    Raises:
        ContainerError: When a number in the environment is none.
    """
    asked = _asked(contract, env)
    entry = pick(contract, asked)
    free = contract.cache_match != "exact" and entry is not None
    # 1 and 2048: `optimum-cli neuron serve` when neither environment nor cache decides.
    batch_size = (entry.batch_size if free else asked.batch_size) or 1
    sequence_length = (entry.sequence_length if free else asked.sequence_length) or 2048
    limits = env if contract.framework == TGI else {}  # vLLM reads none of these
    total = _number(limits, "MAX_TOTAL_TOKENS") or sequence_length
    limit = next((n for name in contract.input_variables if (n := _number(limits, name))), None)
    # TGI without a limit takes half the length (optimum-neuron, tgi_env.py); vLLM has none.
    limit = limit or (total // 2 if contract.framework == TGI else total - 1)
    batch = _number(limits, "MAX_BATCH_SIZE") or batch_size
    return Shape(
        model_id=asked.model_id,
        batch_size=batch_size,
        sequence_length=sequence_length,
        num_cores=asked.num_cores or (entry.num_cores if entry and free else None),
        auto_cast_type=entry.auto_cast_type if entry and free else asked.auto_cast_type,
        max_input_tokens=limit,
        max_total_tokens=total,
        messages_api=not contract.messages_flag
        or env.get("MESSAGES_API_ENABLED", "").strip().lower() == "true",
        max_concurrent_requests=_number(limits, "MAX_CONCURRENT_REQUESTS") or 128,
        max_batch_prefill_tokens=_number(limits, "MAX_BATCH_PREFILL_TOKENS") or batch * limit,
        max_stop_sequences=_number(limits, "MAX_STOP_SEQUENCES") or 4,
    )


def check(
    contract: Contract, env: Mapping[str, str], *, instance_type: str, cache: bool = True
) -> list[Violation]:
    """What the container would die of, in the order in which it would; empty when it starts.

    The first one is what its log ends with, the others would come next.

    Args:
        contract: The container version's contract.
        env: Its environment, `HF_TOKEN` included when there is one.
        instance_type: SageMaker instance type, e.g. `ml.inf2.48xlarge`.
        cache: Whether to look into `CACHE`; a miss is left out when False.
    """
    violations = [
        Violation(words, f"Set {variable}.")
        for variable, words in contract.required
        if not env.get(variable)
    ]
    if violations:
        return violations  # the entry script ends here
    violations = _bad_numbers(contract, env)
    if violations:
        return violations
    wanted, served = _asked(contract, env), shape(contract, env)
    return [
        *_launcher(contract, env, served),
        *_download(env, served),
        *_hardware(contract, wanted, instance_type),
        *(_cache(contract, wanted, env, instance_type) if cache else ()),
        *_batch(contract, env, served),
    ]


def report(contract: Contract, env: Mapping[str, str], *, instance_type: str) -> "pd.DataFrame":
    """`check` as a table: the container's words and the remedy, or one row that says it starts."""
    import pandas as pd

    found = check(contract, env, instance_type=instance_type)
    rows = [(one.message, one.remedy) for one in found] or [("none: it would start", "go on")]
    return pd.DataFrame(rows, columns=["objection, in the container's words", "what to do"])


def describe(contract: Contract, env: Mapping[str, str]) -> "pd.DataFrame":
    """The shape a container makes of its environment, one row a property, with where it is read.

    Raises:
        ContainerError: When a number in the environment is none.
    """
    import pandas as pd

    served = shape(contract, env)
    limits = ", ".join(name for name in contract.input_variables if env.get(name))
    cores = served.num_cores or "all"
    rows = (
        ("slots (batch size)", served.batch_size, contract.batch_variable),
        ("tokens a slot holds", served.sequence_length, contract.length_variable),
        ("longest prompt (tokens)", served.max_input_tokens, limits or "default"),
        ("Neuron cores", cores, contract.cores_variable),
        ("data type", served.auto_cast_type, "HF_AUTO_CAST_TYPE"),
        ("compiler", contract.compiler, "the image"),
    )
    return pd.DataFrame(rows, columns=["property", "value", "read from"]).set_index("property")


SHAPE = ("batch_size", "sequence_length", "num_cores", "auto_cast_type")


@dataclass(frozen=True)
class Asked:
    """What an environment asks for; None where it leaves the choice to the container."""

    model_id: str | None
    batch_size: int | None
    sequence_length: int | None
    num_cores: int | None
    auto_cast_type: str | None


def looked_for(contract: Contract, env: Mapping[str, str], *, instance_type: str) -> Asked:
    """What a container looks for in the Neuron cache, its defaults filled in.

    Raises:
        ContainerError: When a number in the environment is none.
    """
    return _on(_asked(contract, env), contract, instance_type)


def _on(wanted: Asked, contract: Contract, instance_type: str) -> Asked:
    """The same with the cores of the instance, where the container takes all there are."""
    if contract.cache_match != "exact" or wanted.num_cores:
        return wanted
    return replace(wanted, num_cores=_cores(instance_type))


def _asked(contract: Contract, env: Mapping[str, str]) -> Asked:
    cast = env.get("HF_AUTO_CAST_TYPE") if contract.framework == TGI else None
    if contract.cache_match == "exact" or contract.framework == VLLM:
        cast = cast or _CONFIG_DTYPE
    return Asked(
        model_id=env.get(contract.model_variable) or None,
        batch_size=_number(env, contract.batch_variable)
        or (contract.default_batch_size if contract.cache_match == "exact" else None),
        sequence_length=_number(env, contract.length_variable)
        or (contract.default_sequence_length if contract.cache_match == "exact" else None),
        num_cores=_number(env, contract.cores_variable),
        auto_cast_type=_DTYPES.get(cast, cast),
    )


def _number(env: Mapping[str, str], name: str) -> int | None:
    value = env.get(name)
    if value in (None, ""):
        return None
    try:
        return int(value)
    except ValueError:
        raise ContainerError(f"{name} is {value!r}: set a whole number.") from None


def _numeric_variables(contract: Contract) -> list[str]:
    names = [contract.batch_variable, contract.length_variable, contract.cores_variable]
    if contract.framework == TGI:
        names += ["MAX_BATCH_SIZE", "MAX_TOTAL_TOKENS", *contract.input_variables]
        names += ["MAX_BATCH_PREFILL_TOKENS", "MAX_CONCURRENT_REQUESTS", "MAX_STOP_SEQUENCES"]
    return list(dict.fromkeys(names))


def _bad_numbers(contract: Contract, env: Mapping[str, str]) -> list[Violation]:
    return [
        Violation(
            f"error: invalid value '{env[name]}' for '--{name.lower().replace('_', '-')} "
            f"<{name}>': invalid digit found in string",
            f"Set {name} to a whole number above 0.",
        )
        for name in _numeric_variables(contract)
        if env.get(name) and not re.fullmatch(r"[1-9]\d*", env[name])
    ]


def _launcher(contract: Contract, env: Mapping[str, str], served: Shape) -> Iterator[Violation]:
    if contract.framework != TGI:
        return
    length = env.get("MAX_INPUT_LENGTH")
    if contract.refuses_input_length and length:
        yield Violation(
            f"Both `max_input_tokens` ({env.get('MAX_INPUT_TOKENS', length)}) and "
            f"`max_input_length` ({length}) are set",
            "Set MAX_INPUT_TOKENS only: this version copies MAX_INPUT_LENGTH to it.",
        )
    if served.max_input_tokens >= served.max_total_tokens:
        yield Violation(
            "`max_input_tokens must be < `max_total_tokens`",
            f"Make the longest input ({served.max_input_tokens} tokens) shorter than "
            f"MAX_TOTAL_TOKENS ({served.max_total_tokens}).",
        )
    if served.max_batch_prefill_tokens < served.max_input_tokens:
        yield Violation(
            "`max_batch_prefill_tokens` must be >= `max_input_tokens`",
            f"Set MAX_BATCH_PREFILL_TOKENS to {served.max_input_tokens} or more, or leave it out.",
        )


def _download(env: Mapping[str, str], served: Shape) -> Iterator[Violation]:
    if served.model_id and served.model_id.startswith(_GATED) and not env.get("HF_TOKEN"):
        yield Violation(
            "401 Client Error. Cannot access gated repo for url https://huggingface.co/"
            f"{served.model_id}/resolve/main/config.json. Access to model {served.model_id} is "
            "restricted. You must be authenticated to access it.",
            f"Accept the license at https://huggingface.co/{served.model_id} and pass HF_TOKEN.",
        )


def _hardware(contract: Contract, asked: Asked, instance_type: str) -> Iterator[Violation]:
    if not re.match(r"ml\.(inf2|trn)", instance_type):
        yield Violation(
            "No neuron cores detected on the host.",
            f"{instance_type} has no Neuron cores: choose one of {', '.join(INSTANCES)}.",
        )
    elif asked.num_cores and asked.num_cores > (_cores(instance_type) or asked.num_cores):
        yield Violation(
            f"ERROR NRT:nrt_allocate_neuron_cores NeuronCore(s) not available - Requested:"
            f"{asked.num_cores} Available:{_cores(instance_type)}",
            f"{instance_type} has {_cores(instance_type)} Neuron cores: set "
            f"{contract.cores_variable} to that or choose a larger instance.",
        )


def _cores(instance_type: str) -> int | None:
    instance = INSTANCES.get(instance_type)
    return instance.cores if instance else None


def _cache(
    contract: Contract, asked: Asked, env: Mapping[str, str], instance_type: str
) -> Iterator[Violation]:
    wanted = _on(asked, contract, instance_type)
    if pick(contract, wanted, instance_type=instance_type):
        return
    config = {
        "auto_cast_type": asked.auto_cast_type,
        "batch_size": asked.batch_size,
        "compiler_type": "neuronx-cc",
        "compiler_version": contract.compiler,
        "num_cores": asked.num_cores or _cores(instance_type),
        "sequence_length": asked.sequence_length,
        "task": "text-generation",
    }
    if contract.cache_match == "asked":
        config = f"batch size = {asked.batch_size}, sequence length = {asked.sequence_length}, "
        config += f"tp = {asked.num_cores}, dtype = {asked.auto_cast_type}"
    provided = ("HF_NUM_CORES", "HF_AUTO_CAST_TYPE", "MAX_BATCH_SIZE", "MAX_TOTAL_TOKENS")
    provided += ("MAX_INPUT_TOKENS", "MAX_BATCH_PREFILL_TOKENS")
    yield Violation(
        contract.cache_refusal.format(
            model_id=asked.model_id,
            config=config,
            env={name: env.get(name) for name in provided},
            cores=_cores(instance_type),
            compiler=contract.compiler,
            instance=instance_type.removeprefix("ml."),
        ),
        _cache_remedy(contract, asked),
    )


def _cache_remedy(contract: Contract, asked: Asked) -> str:
    cached = [entry for entry in CACHE if entry.model_id == asked.model_id]
    here = [entry for entry in cached if contract.compiler in entry.compilers]
    if not cached:
        return (
            f"No compiled shape of {asked.model_id} is known: choose a model from the Neuron "
            "cache, a cache miss never compiles."
        )
    if not here:
        working = [c.version for c in CONTRACTS.values() if _compilers(cached) & {c.compiler}]
        return (
            f"{asked.model_id} is cached for other compilers only: use container version "
            f"{' or '.join(working)}."
        )
    shapes = "; ".join(
        f"batch {entry.batch_size}, length {entry.sequence_length}, {entry.num_cores} cores, "
        f"{entry.auto_cast_type}"
        for entry in here
    )
    return f"Ask for a shape that is cached for this container: {shapes}."


def _compilers(entries: list[CacheEntry]) -> set[str]:
    return {compiler for entry in entries for compiler in entry.compilers}


def _batch(contract: Contract, env: Mapping[str, str], served: Shape) -> Iterator[Violation]:
    if contract.framework != TGI:
        return
    if served.max_batch_prefill_tokens > served.batch_size * served.max_input_tokens:
        yield Violation(
            contract.batch_refusal.format(batch_size=served.batch_size),
            f"Set MAX_BATCH_SIZE to the static batch size, {served.batch_size}"
            + (", and MAX_BATCH_PREFILL_TOKENS" if env.get("MAX_BATCH_PREFILL_TOKENS") else "")
            + (" to match." if env.get("MAX_BATCH_PREFILL_TOKENS") else "."),
        )


def pick(
    contract: Contract,
    asked: Asked,
    *,
    instance_type: str | None = None,
    entries: Iterable[CacheEntry] = CACHE,
) -> CacheEntry | None:
    """The cache entry a container takes, None on a miss.

    Args:
        contract: The container version's contract.
        asked: What it looks for.
        instance_type: Leaves out what needs more Neuron cores than it has.
        entries: The Neuron cache.
    """
    available = _cores(instance_type) if instance_type else None
    candidates = [
        entry
        for entry in entries
        if entry.model_id == asked.model_id
        and entry.counts_for(contract)
        and not differing(contract, asked, entry)
        and (available is None or entry.num_cores <= available)
    ]
    return max(
        candidates,
        key=lambda e: (e.num_cores, e.batch_size, e.sequence_length),
        default=None,
    )


def differing(contract: Contract, asked: Asked, entry: CacheEntry) -> tuple[str, ...]:
    """Names of the properties (`SHAPE`) in which an entry does not fit what is asked for."""
    at_least = contract.cache_match == "at least"

    def fits(name: str) -> bool:
        wanted, cached = getattr(asked, name), getattr(entry, name)
        if wanted is None or cached == wanted:
            return True
        return at_least and name != "auto_cast_type" and cached > wanted

    return tuple(name for name in SHAPE if not fits(name))
