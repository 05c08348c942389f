"""The Neuron cache: whether a container's shape is compiled, and what is nearly its shape.

`aws-neuron/optimum-neuron-cache` on the Hugging Face Hub has a registry of what was compiled, by
compiler and by version of optimum-neuron. It is asked where the Hub can be reached; the table in
`contracts.CACHE` stands in where not. Layout and keys: optimum-neuron, `hub_neuronx_cache.py` and
`hub_cache_utils.py` (v0.0.22 to v0.0.28), `cache/hub_cache.py` (v0.2.0 to v0.4.4), read 2026-11.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from helpers import contracts, deadline, hub
from helpers.contracts import CACHE, CONTRACTS, SHAPE, TGI, Asked, CacheEntry, Contract
from helpers.costs import INSTANCES
from helpers.errors import WorkshopError

REPOSITORY = "aws-neuron/optimum-neuron-cache"
LIMIT_S = 5.0  # for the whole look-up; the table stands in afterwards
TABLE = "this repository's table"
LIVE = "the Hub's registry, just now"

# neuronx-cc of the Neuron SDKs (pyproject.toml of optimum-neuron v0.4.1 and v0.4.4).
_COMPILER_OF_SDK = {"Neuron SDK 2.26.0": "2.21.18209.0", "Neuron SDK 2.26.1": "2.21.33363.0"}
# A compiled shape belongs to an architecture, not to weights: optimum-neuron compares the models'
# configurations, which chat versions share with their base model. Here their names are compared.
_TUNED = re.compile(r"-(instruct|chat|it)(?=-|$)", re.IGNORECASE)
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_TARGETS = (None, "trn1", "inf2")  # inf2 runs what was compiled for trn1 (v0.4.4, instance.py)
_FILES = 100  # of one model and container version; there are two to ten
_NEAR_MISSES = 3


# --- A verdict ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What is known about a container's place in the Neuron cache.

    Attributes:
        asked: What it looks for.
        entry: What it would take, None on a miss.
        near: What differs least from it, on a miss.
        source: Where that was looked up, `LIVE` or `TABLE` with why.
    """

    asked: Asked
    entry: CacheEntry | None
    near: tuple["NearMiss", ...]
    source: str


def look_up(
    contract: Contract,
    env: Mapping[str, str],
    *,
    instance_type: str,
    environ: Mapping[str, str] = os.environ,
    limit_s: float = LIMIT_S,
) -> Verdict:
    """Look for a container's shape in the Hub's registry, else in `contracts.CACHE`.

    That an entry is listed does not guarantee that it is found (optimum-neuron's documentation).

    Args:
        contract: The container version's contract.
        env: Its environment.
        instance_type: SageMaker instance type, e.g. `ml.inf2.48xlarge`.
        environ: Where `HF_ENDPOINT` is looked for.
        limit_s: Real seconds after which the table stands in.

    Raises:
        ContainerError: When a number in the environment is none.
    """
    asked = contracts.looked_for(contract, env, instance_type=instance_type)
    url = environ.get("HF_ENDPOINT") or hub.HUB_URL
    task = partial(_listed, asked, contract, instance_type, url)
    found = deadline.together({"registry": task}, limit_s=limit_s)["registry"]
    if isinstance(found, Exception):
        entries, source = CACHE, f"{TABLE}: the Hub's registry {_why(found)}"
    else:
        entries, source = found, LIVE
    entry = contracts.pick(contract, asked, instance_type=instance_type, entries=entries)
    near = () if entry else near_misses(contract, asked, instance_type, entries)
    return Verdict(asked, entry, tuple(near), source)


def _listed(
    asked: Asked, contract: Contract, instance_type: str, url: str
) -> tuple[CacheEntry, ...]:
    """What the registry has of a model: for this container, and on a miss for all of them."""
    api = _Registry(url)
    own = tuple(api.entries(asked.model_id or "", [contract]))
    if contracts.pick(contract, asked, instance_type=instance_type, entries=own):
        return own
    others = [one for one in CONTRACTS.values() if one is not contract]
    return own + tuple(api.entries(asked.model_id or "", others))


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"gave {error}"
    if isinstance(error, WorkshopError):
        return str(error)
    return f"cannot be read ({type(error).__name__})"


# --- The registry ---------------------------------------------------------------------------


def compiler_of(contract: Contract) -> str:
    """Version of neuronx-cc in a container."""
    return _COMPILER_OF_SDK.get(contract.compiler, contract.compiler)


def folder(contract: Contract) -> str:
    """Where a container looks, inside the compiler's folder `neuronxcc-<version>+<build>`.

    Up to v0.0.28 inference and training have folders of their own.
    """
    registry = f"0_REGISTRY/{contract.version}"
    return f"{registry}/inference" if contract.version.startswith("0.0.") else registry


class _Registry:
    """Reads the registry with huggingface_hub, without a token: it is public.

    Args:
        url: Of the Hub.
    """

    def __init__(self, url: str):
        self._url = url.rstrip("/")
        hub.keep_to(self._url)
        self._compilers: list[str] | None = None

    def entries(self, model_id: str, wanted: Iterable[Contract]) -> list[CacheEntry]:
        """The entries of a model for some containers.

        Raises:
            Exception: Whatever huggingface_hub raises when the Hub cannot be asked.
        """
        if self._compilers is None:
            root = self._tree("")
            self._compilers = [path for path in root if path.startswith("neuronxcc-")]
            if not self._compilers:
                raise LookupError(f"{REPOSITORY} has no compiler's folder")
        places = [
            (contract, f"{compiler}/{folder(contract)}")
            for contract in wanted
            for compiler in self._compilers
            if compiler.partition("+")[0] == f"neuronxcc-{compiler_of(contract)}"
        ]
        listed = _each({path: partial(self._files, path, model_id) for _, path in places})
        files = {path: contract for contract, place in places for path in listed[place]}
        texts = _each({path: partial(self._read, path) for path in files})
        found = (entry(path, texts[path], model_id, files[path]) for path in files)
        return [one for one in found if one]

    def _files(self, place: str, model_id: str) -> list[str]:
        from huggingface_hub.errors import EntryNotFoundError

        try:
            paths = [path for path in self._tree(place) if path.endswith(".json")]
        except EntryNotFoundError:  # nothing was compiled for this version
            return []
        return [path for path in paths if _family(_model_of(path)) == _family(model_id)][:_FILES]

    def _tree(self, place: str) -> list[str]:
        """The paths below a place, page by page.

        HfApi.list_repo_tree would go on asking a Hub that is gone, log it long after the table has
        stood in, and each time close the connections that all threads share.
        """
        root = f"{self._url}/api/models/{REPOSITORY}/tree/main"
        url: str | None = f"{root}/{quote(place, safe='')}".rstrip("/")
        params, paths = {"recursive": bool(place)}, []
        while url:
            page = self._get(url, params)
            paths += [one["path"] for one in page.json()]
            url, params = page.links.get("next", {}).get("url"), None  # it says all of it
        return paths

    def _read(self, path: str) -> str:
        from huggingface_hub import hf_hub_url

        return self._get(hf_hub_url(REPOSITORY, path, endpoint=self._url)).text

    def _get(self, url: str, params: Mapping[str, Any] | None = None) -> Any:
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        headers = build_hf_headers(token=False)
        answer = get_session().get(url, params=params, headers=headers, timeout=LIMIT_S)
        hf_raise_for_status(answer)
        return answer


def _each(tasks: Mapping[str, Any]) -> dict[str, Any]:
    """All results; the first failure is raised."""
    results = deadline.together(tasks, limit_s=LIMIT_S)
    for result in results.values():
        if isinstance(result, Exception):
            raise result
    return results


def _model_of(path: str) -> str:
    """`org/name` of `…/<model type>/<org>/<name>/<hash>.json`; empty for other paths."""
    parts = path.split("/")
    return "/".join(parts[-3:-1]) if len(parts) >= 4 else ""


def _family(model_id: str) -> str:
    return _TUNED.sub("", model_id.lower())


def entry(path: str, text: str, model_id: str, contract: Contract) -> CacheEntry | None:
    """A cache entry from a file of the registry, None when it is not of a language model on inf2.

    Args:
        path: Of the file, inside the repository.
        text: What it contains, JSON.
        model_id: Whose shape it is.
        contract: The container that reads this part of the registry.
    """
    try:
        config = json.loads(text)
        neuron = config["neuron"]
        cast = neuron.get("auto_cast_type") or neuron.get("torch_dtype") or neuron.get("dtype")
        cores = neuron.get("num_cores", neuron.get("tp_degree"))
        numbers = (neuron["batch_size"], neuron["sequence_length"], cores)
        target = neuron.get("target")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if target not in _TARGETS or not isinstance(cast, str):
        return None
    if not all(type(number) is int and number > 0 for number in numbers):
        return None
    cast = cast.removeprefix("torch.")
    return CacheEntry(
        model_id,
        *numbers,
        _DTYPES.get(cast, cast),
        compilers=(contract.compiler,),
        source=str(config.get("_source") or path),  # the rehearsal's files name theirs
        assumed=config.get("_assumed") is True,
        versions=(contract.version,),
    )


# --- Near misses ----------------------------------------------------------------------------


@dataclass(frozen=True)
class NearMiss:
    """A cached shape that is nearly the one asked for.

    Attributes:
        words: What differs, e.g. `batch 4 is cached as bf16, not fp16`.
        remedy: What to change, e.g. `set HF_AUTO_CAST_TYPE to bf16`.
    """

    words: str
    remedy: str

    def __str__(self) -> str:
        """Both, as a part of a sentence."""
        return f"{self.words}: {self.remedy}"


@dataclass(frozen=True)
class _Group:
    """Entries that differ from what is asked for in the same way, and are told in one sentence."""

    differing: tuple[str, ...]
    here: bool  # for this container
    entries: tuple[CacheEntry, ...]

    @property
    def distance(self) -> int:
        return len(self.differing) + (not self.here)


def near_misses(
    contract: Contract,
    asked: Asked,
    instance_type: str,
    entries: Iterable[CacheEntry] = CACHE,
) -> list[NearMiss]:
    """The cached shapes of a model that differ least from what a container looks for.

    Args:
        contract: The container version's contract.
        asked: What it looks for, and misses.
        instance_type: SageMaker instance type, e.g. `ml.inf2.48xlarge`.
        entries: The Neuron cache.

    Returns:
        At most three, those for the same container before the others; empty when no shape of the
        model is cached.
    """
    instance = INSTANCES.get(instance_type)
    available = instance.cores if instance else None
    ranked = sorted(
        _groups(contract, asked, available, entries), key=lambda one: (one.distance, not one.here)
    )
    nearest = [one for one in ranked if one.distance == ranked[0].distance]
    return [_near_miss(contract, asked, available, one) for one in nearest[:_NEAR_MISSES]]


def _groups(
    contract: Contract, asked: Asked, available: int | None, entries: Iterable[CacheEntry]
) -> list[_Group]:
    groups: dict[tuple, list[CacheEntry]] = {}
    for one in entries:
        if one.model_id != asked.model_id:
            continue
        differing = contracts.differing(contract, asked, one)
        if available and one.num_cores > available and "num_cores" not in differing:
            differing += ("num_cores",)
        here = one.counts_for(contract)
        batch_only = here and differing == ("batch_size",)
        shape = () if batch_only else tuple(getattr(one, name) for name in SHAPE)
        groups.setdefault((differing, here, shape), []).append(one)
    return [_Group(differing, here, tuple(them)) for (differing, here, _), them in groups.items()]


def _near_miss(contract: Contract, asked: Asked, available: int | None, group: _Group) -> NearMiss:
    one, differing = group.entries[0], group.differing
    batches = _listing(sorted({entry.batch_size for entry in group.entries}), "or")
    words, sets, remedies = [], [], []
    if "auto_cast_type" in differing:
        words.append(f"as {one.auto_cast_type}, not {asked.auto_cast_type}")
        if contract.framework == TGI:
            sets.append(f"HF_AUTO_CAST_TYPE to {one.auto_cast_type}")
    if "sequence_length" in differing:
        words.append(f"with {one.sequence_length} tokens, not {asked.sequence_length}")
        sets.append(f"{contract.length_variable} to {one.sequence_length}")
    if "num_cores" in differing:
        words.append(f"for {one.num_cores} cores, not {asked.num_cores or available}")
        if asked.num_cores not in (None, one.num_cores):
            sets.append(f"{contract.cores_variable} to {one.num_cores}")
        if available and one.num_cores > available:
            remedies.append(f"choose an instance with {one.num_cores} Neuron cores")
    if "batch_size" in differing:
        also = "" if contract.batch_variable == "MAX_BATCH_SIZE" else " and MAX_BATCH_SIZE"
        also = also if contract.framework == TGI else ""
        sets.append(f"{contract.batch_variable}{also} to {batches}")
    if not group.here:
        words.append(_other_container(contract, group.entries))
        remedies.append(f"use {_containers(contract, group.entries)}")
    if sets:
        remedies.insert(0, f"set {' and '.join(sets)}")
    remedy = " and ".join(remedies) or "choose another container"
    other_batch = f", not {asked.batch_size}" if "batch_size" in differing else ""
    if words:
        comma = "," if other_batch else ""
        cached = f"is cached {', and '.join(words)}"
        return NearMiss(f"batch {batches}{other_batch}{comma} {cached}", remedy)
    verb = "are" if " or " in batches else "is"
    return NearMiss(f"batch {batches.replace(' or ', ' and ')} {verb} cached{other_batch}", remedy)


def _other_container(contract: Contract, found: Iterable[CacheEntry]) -> str:
    compilers = sorted({compiler for one in found for compiler in one.compilers})
    if contract.compiler not in compilers:
        return f"for compiler {_listing(compilers, 'or')}, not {contract.compiler}"
    versions = [version for one in found for version in one.versions]
    return f"for container version {_listing(versions, 'or')}, not {contract.version}"


def _containers(contract: Contract, found: Iterable[CacheEntry]) -> str:
    """Container versions that load one of the entries, of the same family where there are any."""
    able = [c for c in CONTRACTS.values() if any(one.counts_for(c) for one in found)]
    same = [c.version for c in able if c.framework == contract.framework]
    if same or not able:
        return f"container version {_listing(same, 'or')}" if same else "another container"
    others = [c.version for c in able if c.framework == able[0].framework]
    return f"{able[0].framework} {_listing(others, 'or')}"


def _listing(items: Iterable[Any], word: str) -> str:
    """`a`, `a or b`, `a, b or c`; each once."""
    names = list(dict.fromkeys(map(str, items)))
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), names[-1])))
