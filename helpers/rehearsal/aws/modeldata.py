"""What a model's data in S3 are: whether CreateModel takes them, and what lies there at start-up.

SageMaker copies every object below an S3 prefix to `/opt/ml/model`, with the execution role's
rights, before it starts the container: an endpoint that loads from there needs no token of the
Hub's. Source: API reference, S3ModelDataSource; `huggingface/optimum-neuron`, which takes a local
path for a model's id and finds its shape in the Neuron cache by its architecture
(`text-generation-inference/server/text_generation_server/model.py` at v0.0.22 and v0.0.28,
`optimum/commands/neuron/serve.py` at v0.4.4; read 2026-11, not run).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from helpers import contracts, models
from helpers.rehearsal.aws.actions import Ask
from helpers.rehearsal.aws.awsjson import ACCOUNT, invalid

FOLDER = "/opt/ml/model"
# As public reports quote them: Terraform users (2024 to 2026); philschmid/llm-sagemaker-sample
# issue 2 (2023-10); fraud-detection-using-machine-learning issue 9 (2021-03).
_NOT_FOUND = "Could not find model data at {uri}."
_NOT_READABLE = (
    'Could not access model data at {uri}. Please ensure that the role "{role}" exists and that '
    'its trust relationship policy allows the action "sts:AssumeRole" for the service principal '
    '"sagemaker.amazonaws.com". Also ensure that the role has "s3:GetObject" permissions and that '
    "the object is located in {region}. If your Model uses multiple models or uncompressed models, "
    'please ensure that the role has "s3:ListBucket" permission.'
)
NOT_DOWNLOADED = (
    'Failed to download model data for container "container_1" from URL: "{uri}". Please ensure '
    "that there is an object located at the URL and that the role passed to CreateModel has "
    "permissions to download the object."
)
# transformers 4.41, utils/hub.py, modeling_utils.py and tokenization_utils_base.py.
_NO_FILE = (
    "OSError: {folder} does not appear to have a file named {name}. Checkout "
    "'https://huggingface.co/{folder}/tree/None' for available files."
)
_NO_WEIGHTS = (
    "OSError: Error no file named pytorch_model.bin, model.safetensors, tf_model.h5, "
    "model.ckpt.index or flax_model.msgpack found in directory {folder}."
)
_NO_TOKENIZER = (
    "OSError: Can't load tokenizer for '{folder}'. If you were trying to load it from "
    "'https://huggingface.co/models', make sure you don't have a local directory with the same "
    "name. Otherwise, make sure '{folder}' is the correct path to a directory containing all "
    "relevant files for a LlamaTokenizerFast tokenizer."
)
_MEMBERS = ("ModelDataUrl", "ModelDataSource")
_INDEX = "model.safetensors.index.json"
_LARGEST = 2**24  # bytes of a file that is looked into
_READ = ("config.json", _INDEX)  # what is looked into; the rest is looked at


@dataclass(frozen=True)
class ModelFiles:
    """What lies in `/opt/ml/model` when the container starts.

    Attributes:
        uri: Where it was copied from.
        names: The files' paths.
        texts: What stands in those that are looked into, by path.
    """

    uri: str
    names: frozenset[str]
    texts: Mapping[str, bytes]

    @property
    def model_id(self) -> str:
        """The Hub's name of the model, by its configuration; empty when it is no known one."""
        config = _object(self.texts.get("config.json"))
        named = config.get("_name_or_path")
        known = {entry.model_id for entry in contracts.CACHE}
        if named in known:
            return named
        # The real configurations have no name: the cache is looked up by the architecture too.
        layers, is_later = config.get("num_hidden_layers"), bool(config.get("rope_scaling"))
        for model_id in sorted(known):
            built = models.architecture(model_id)
            if built and built.layers == layers and is_later == ("llama-3." in model_id.lower()):
                return model_id
        return named if isinstance(named, str) else ""

    def problem(self) -> str | None:
        """What the container dies of for want of a file, None when all that it needs is there."""
        if not _object(self.texts.get("config.json")):
            return _NO_FILE.format(folder=FOLDER, name="config.json")
        if missing := self._missing_weights():
            return missing
        if not self.names & {"tokenizer.json", "tokenizer.model"}:
            return _NO_TOKENIZER.format(folder=FOLDER)
        return None

    def _missing_weights(self) -> str | None:
        shards = _object(self.texts.get(_INDEX)).get("weight_map")
        if isinstance(shards, dict):
            for shard in sorted({str(one) for one in shards.values()} - self.names):
                return f"FileNotFoundError: No such file or directory: '{FOLDER}/{shard}'"
        elif not self.names & {"model.safetensors", "pytorch_model.bin"}:
            return _NO_WEIGHTS.format(folder=FOLDER)
        return None


def nothing() -> str:
    """What a container dies of that is to load from `/opt/ml/model` and was given no data."""
    return _NO_FILE.format(folder=FOLDER, name="config.json")


def data_of(container: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a container definition says of its data, None when it has none."""
    data = {name: container[name] for name in _MEMBERS if name in container}
    return data if uri_of(data) else None


def uri_of(container: Mapping[str, Any]) -> str | None:
    """Where a container definition's data lie, None when it has none."""
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    return source.get("S3Uri") or container.get("ModelDataUrl") or None


class May(Protocol):
    """Who knows what roles may do."""

    def __call__(self, role_arn: str, ask: Ask, *, region: str) -> bool:
        """Whether a role may do something."""


class Moto(Protocol):
    """Whoever may look at moto's state."""

    def ask(self, question: Callable[..., Any], *args: Any) -> Any:
        """A future of what a question has for an answer."""


class ModelData:
    """The data of models, as S3 has them.

    Args:
        moto: Where S3 is.
        may: Whether a role (ARN) may do something, in a region.
        account: Twelve digits.
    """

    def __init__(
        self,
        moto: Moto,
        *,
        may: May,
        account: str = ACCOUNT,
    ):
        self._moto = moto
        self._may = may
        self._account = account

    def check(self, container: Mapping[str, Any], *, role: str, region: str) -> None:
        """Refuse data that SageMaker could not copy, as CreateModel does.

        Args:
            container: A definition that names data.
            role: ARN of the execution role.
            region: Where the model is created.

        Raises:
            AwsError: When nothing lies there, the role may not read it, it is in another region,
                or the source makes no sense.
        """
        uri = uri_of(container) or ""
        if "ModelDataUrl" in container and "ModelDataSource" in container:  # words [unverified]
            raise invalid("Specify either ModelDataUrl or ModelDataSource, not both.")
        _check_source(container.get("ModelDataSource", {}).get("S3DataSource"), uri)
        bucket, key = _split(uri)
        where, names, _ = self._look(bucket, key)
        asks = _asks(bucket, key, names)
        if where is not None and (
            where != region or not all(self._may(role, ask, region=region) for ask in asks)
        ):
            raise invalid(_NOT_READABLE.format(uri=uri, role=role, region=region))
        if not names:
            raise invalid(_NOT_FOUND.format(uri=uri))

    def files(self, container: Mapping[str, Any]) -> ModelFiles | None:
        """What SageMaker would copy now, None when there is nothing; for a start-up.

        Args:
            container: A definition that names data.
        """
        uri = uri_of(container) or ""
        bucket, key = _split(uri)
        _, names, texts = self._look(bucket, key)
        return ModelFiles(uri, frozenset(names), texts) if names else None

    def _look(self, bucket: str, key: str) -> tuple[str | None, set[str], dict[str, bytes]]:
        return self._moto.ask(_objects, self._account, bucket, key).result()


def _asks(bucket: str, key: str, names: Iterable[str]) -> Iterator[Ask]:
    """What reading a key or a prefix asks for."""
    arn = f"arn:aws:s3:::{bucket}"
    if not _is_prefix(key):
        yield Ask("s3:GetObject", f"{arn}/{key}")
        return
    yield Ask("s3:ListBucket", arn, {"s3:prefix": (key,)})
    for name in names:
        yield Ask("s3:GetObject", f"{arn}/{key}{name}")


def _objects(account: str, bucket: str, key: str) -> tuple[str | None, set[str], dict[str, bytes]]:
    """In moto's thread: the bucket's region, None without one, and what lies at a key or prefix."""
    from moto.s3.models import s3_backends

    backend = s3_backends[account]["aws"]
    found = backend.buckets.get(bucket)
    if found is None:
        return None, set(), {}
    listed = backend.list_objects(found, key, None, None, None)[0]
    if not _is_prefix(key):
        listed = [one for one in listed if one.name == key]
    named = {one.name.removeprefix(key) or one.name.rpartition("/")[2]: one for one in listed}
    named.pop("", None)  # a folder that the console has made
    read = {n: named[n].value for n in _READ if n in named and named[n].size <= _LARGEST}
    return found.region_name, set(named), read


def _check_source(source: Mapping[str, Any] | None, uri: str) -> None:
    """Refuse what the API reference rules out; its words for that are [unverified]."""
    if not uri.startswith("s3://"):
        raise invalid(f"The rehearsal AWS takes model data at s3:// addresses, not {uri[:200]}.")
    if source is None:
        return
    if any(name in source for name in ("ManifestS3Uri", "HubAccessConfig")):
        raise invalid("The rehearsal AWS has no manifests and no hubs of model data.")
    is_prefix = source["S3DataType"] == "S3Prefix"
    if is_prefix and not uri.endswith("/"):
        raise invalid(f"S3Uri {uri} must end with a forward slash (/) when S3DataType is S3Prefix.")
    if is_prefix and source["CompressionType"] == "Gzip":
        raise invalid("CompressionType Gzip requires S3DataType S3Object.")


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _is_prefix(key: str) -> bool:
    return not key or key.endswith("/")


def _object(text: bytes | None) -> dict[str, Any]:
    try:
        read = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
