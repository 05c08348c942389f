"""What a model weighs, what a slot of its KV cache takes, and how long it takes to load."""

import re
from dataclasses import dataclass

from helpers.errors import WorkshopError

_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])")
BYTES_PER_PARAMETER = 2  # fp16 and bf16 alike
# The original guide reports 30 to 40 minutes for Llama 3 70B (philschmid, 2024-05): 5 for the
# instance and the image, 26 in proportion to 141 GB of weights [derived].
INSTANCE_S = 300.0
LOAD_S_PER_GB = 11.0
GIB_IN_GB = 1.073741824
HBM_GIB_PER_CORE = 16  # half a chip's (costs.SPECIFICATION_SOURCE)
_MOST_B = 10_000  # billions of parameters: larger models there are none
TIGHT = 0.9  # of what there is: code, activations and a slow day need the rest [derived]


@dataclass(frozen=True)
class Architecture:
    """The figures of a model's `config.json` that decide what it needs.

    Attributes:
        parameters_b: Billions of parameters.
        layers: Transformer layers.
        kv_heads: Key-value heads of a layer.
        head_size: Width of a head.
        heads: Query heads of a layer.
    """

    parameters_b: float
    layers: int
    kv_heads: int
    head_size: int
    heads: int

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache for one token: keys and values of every layer, 16 bits each."""
        return 2 * BYTES_PER_PARAMETER * self.layers * self.kv_heads * self.head_size


@dataclass(frozen=True)
class Memory:
    """What a model takes of the chips' memory.

    Attributes:
        weights_gb: Its 16-bit weights.
        cache_gb: The KV cache of all slots, None where the architecture is not known.
    """

    weights_gb: float
    cache_gb: float | None

    @property
    def needed_gb(self) -> float:
        """Both together; the weights alone where nothing is known of the cache."""
        return self.weights_gb + (self.cache_gb or 0.0)


# Llama 3, 3.1 and 3.3 (config.json and model cards on the Hub, 2026-11).
_KNOWN = {
    70: Architecture(70.55, 80, 8, 128, heads=64),
    8: Architecture(8.03, 32, 8, 128, heads=32),
}


def architecture(model_id: str) -> Architecture | None:
    """The architecture of a Llama 3 model, None for others."""
    return _KNOWN.get(named_b(model_id)) if "llama-3" in model_id.lower() else None


def named_b(model_id: str) -> float | None:
    """The size in a model's name, 70 in `…-70B-Instruct`; None when it says no plain one.

    That is none at all, several that differ (`8b-70b`), a product (`8x7B`), or one that no model
    has (`0b`). The owner before the slash does not count.
    """
    name = str(model_id).rpartition("/")[2].replace("-", " ")
    sizes = {float(size) for size in _SIZE.findall(name)}
    size = sizes.pop() if len(sizes) == 1 else 0.0
    return size if 0 < size <= _MOST_B else None


def sizeless(model_id: str, what_then: str) -> WorkshopError:
    """The refusal of a name without a size; the sentence ends with what follows, and what to do."""
    return WorkshopError(
        f"The name {model_id!r} does not say how large the model is (one size, as in -8B or -70B)"
        f"{what_then}"
    )


def parameters_b(model_id: str) -> float | None:
    """Billions of parameters, from the size in a model's name; None when it has none."""
    named = named_b(model_id)
    return _KNOWN[named].parameters_b if named in _KNOWN else named


def weights_gb(model_id: str) -> float:
    """Size of a model's 16-bit weights in GB, from the size in its name; 16 when it has none."""
    return BYTES_PER_PARAMETER * (parameters_b(model_id) or 8)


def memory(model_id: str, *, batch_size: int, sequence_length: int) -> Memory:
    """What a model takes with so many slots of so many tokens, which are all kept all the time."""
    known = architecture(model_id)
    tokens = batch_size * sequence_length
    cache_gb = known.kv_bytes_per_token * tokens / 1e9 if known else None
    return Memory(weights_gb(model_id), cache_gb)


def hbm_gb(cores: int) -> float:
    """Memory that so many Neuron cores have, GB."""
    return cores * HBM_GIB_PER_CORE * GIB_IN_GB


def startup_s(model_id: str) -> float:
    """Seconds until an endpoint with this model may be expected to answer [derived]."""
    return INSTANCE_S + LOAD_S_PER_GB * weights_gb(model_id)
