"""A model's repository as the rehearsal's Hub has it: the files' names, and stand-ins for them.

The architecture in `config.json` is the real one, by which the Neuron cache is looked up; the
weights are a valid and empty file that says what it stands for. What a copy should leave out is
there as well: Meta's own checkpoint, a second set of the same weights.
"""

import hashlib
import json
from collections.abc import Iterator

from helpers import models

_STANDS_FOR = "A stand-in by the rehearsal, without a single weight."
_LARGE = (".safetensors", ".pth")  # the Hub keeps these in its large file storage
# config.json of Llama 3, 3.1 and 3.3 on the Hub (2026-11).
_ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def files(model_id: str, tokenizer: bytes) -> dict[str, bytes]:
    """All files of a model, path to content.

    Args:
        model_id: `organization/name`.
        tokenizer: Content of `tokenizer.json`.
    """
    weights = _safetensors({"format": "pt", "rehearsal": _STANDS_FOR, "model": model_id})
    return {
        ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
        "LICENSE": f"{_STANDS_FOR} The license of {model_id} stands on the Hub.\n".encode(),
        "config.json": json.dumps(_config(model_id), indent=2).encode(),
        "generation_config.json": json.dumps({"do_sample": True, "temperature": 0.6}).encode(),
        "model.safetensors": weights,
        "original/consolidated.00.pth": _STANDS_FOR.encode(),
        "tokenizer.json": tokenizer,
    }


def siblings(paths: dict[str, bytes], *, sizes: bool) -> list[dict[str, object]]:
    """The files as the Hub's answer about a model lists them, on demand with sizes and digests."""
    return [
        {"rfilename": path, **(dict(_digests(path, content)) if sizes else {})}
        for path, content in paths.items()
    ]


def blob_id(content: bytes) -> str:
    """Git's name for a file's content."""
    named = f"blob {len(content)}\0".encode() + content
    return hashlib.sha1(named, usedforsecurity=False).hexdigest()


def _digests(path: str, content: bytes) -> Iterator[tuple[str, object]]:
    yield "size", len(content)
    if not path.endswith(_LARGE):
        yield "blobId", blob_id(content)
        return
    digest = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize "
    pointer += f"{len(content)}\n"
    yield "blobId", blob_id(pointer.encode())
    yield "lfs", {"sha256": digest, "size": len(content), "pointerSize": len(pointer)}


def _config(model_id: str) -> dict[str, object]:
    config = {
        "_name_or_path": model_id,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rehearsal": _STANDS_FOR,
        "torch_dtype": "bfloat16",
    }
    if built := models.architecture(model_id):
        long = _is_later(model_id)
        heads = 64 if built.layers == 80 else 32
        config |= {
            "hidden_size": heads * built.head_size,
            "max_position_embeddings": 131_072 if long else 8192,
            "num_attention_heads": heads,
            "num_hidden_layers": built.layers,
            "num_key_value_heads": built.kv_heads,
            "rope_scaling": _ROPE if long else None,
            "vocab_size": 128_256,
        }
    return config


def _is_later(model_id: str) -> bool:
    """Whether it is a Llama 3.1 or later, with a longer context than 3."""
    return "llama-3." in model_id.lower()


def _safetensors(metadata: dict[str, str]) -> bytes:
    """A file of the safetensors format with metadata and no tensors."""
    header = json.dumps({"__metadata__": metadata}).encode()
    return len(header).to_bytes(8, "little") + header
