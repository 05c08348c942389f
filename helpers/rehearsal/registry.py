"""The registry of the Neuron cache as the rehearsal's Hub has it: `contracts.CACHE`, as files.

Paths, folders and keys are those of `aws-neuron/optimum-neuron-cache`; what a file says beyond the
shape is left out rather than made up, and each says where its shape comes from.
"""

import hashlib
import json
from collections.abc import Iterator

from helpers import models, neuron_cache
from helpers.contracts import CACHE, CONTRACTS, CacheEntry, Contract

BUILD = "rehearsal"  # after the compiler's version, where the real ones have a build's hash
_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def files() -> dict[str, bytes]:
    """All files of the repository, path to content, sorted by path."""
    found = {}
    for contract in CONTRACTS.values():
        for entry in CACHE:
            if entry.counts_for(contract):
                text = json.dumps(_content(entry, contract), indent=2, sort_keys=True).encode()
                name = hashlib.sha512(text).hexdigest()[:20]
                found[f"{_folder(contract)}/llama/{entry.model_id}/{name}.json"] = text
    return dict(sorted(found.items()))


def tree(paths: dict[str, bytes], folder: str, *, recursive: bool) -> list[dict] | None:
    """What the Hub lists in a folder, as its API answers; None when there is none.

    Args:
        paths: What `files` gave.
        folder: Its path, empty for the root.
        recursive: Whether everything below it is listed too.
    """
    prefix = f"{folder}/" if folder else ""
    listed: dict[str, dict] = {}
    for path, content in paths.items():
        if not path.startswith(prefix):
            continue
        *parents, name = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parents) + 1 if recursive else min(1, len(parents)) + 1):
            above = prefix + "/".join(parents[:depth])
            listed.setdefault(above, _listed("directory", above, above.encode(), size=0))
        if recursive or not parents:
            listed[path] = _listed("file", path, content, size=len(content))
    return list(listed.values()) or None


def _listed(kind: str, path: str, content: bytes, *, size: int) -> dict:
    oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    return {"type": kind, "oid": oid, "size": size, "path": path}


def _folder(contract: Contract) -> str:
    compiler = f"neuronxcc-{neuron_cache.compiler_of(contract)}+{BUILD}"
    return f"{compiler}/{neuron_cache.folder(contract)}"


def _content(entry: CacheEntry, contract: Contract) -> dict:
    """The model's architecture, and under `neuron` what was compiled."""
    return {
        "_model_id": entry.model_id,
        "_source": f"the rehearsal's copy of {entry.source}",
        "_assumed": entry.assumed,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **dict(_architecture(entry.model_id)),
        "neuron": _neuron(entry, contract),
    }


def _architecture(model_id: str) -> Iterator[tuple[str, int]]:
    known = models.architecture(model_id)
    if known:
        yield "num_hidden_layers", known.layers
        yield "num_key_value_heads", known.kv_heads
        yield "head_dim", known.head_size


def _neuron(entry: CacheEntry, contract: Contract) -> dict:
    shape = {"batch_size": entry.batch_size, "sequence_length": entry.sequence_length}
    if contract.version.startswith("0.0."):
        return shape | {
            "auto_cast_type": entry.auto_cast_type,
            "checkpoint_id": entry.model_id,
            "compiler_type": "neuronx-cc",
            "compiler_version": f"{contract.compiler}+{BUILD}",
            "num_cores": entry.num_cores,
            "task": "text-generation",
        }
    return shape | {
        "checkpoint_id": entry.model_id,
        "continuous_batching": entry.batch_size > 1,
        "target": "trn1",
        "torch_dtype": _DTYPES[entry.auto_cast_type],
        "tp_degree": entry.num_cores,
    }
