"""What happens on the instance while an endpoint is `Creating`: a plan made before it happens.

SageMaker fetches an instance, starts the container and asks its `/ping` until it answers or the
start-up health check times out. The container's contract decides whether it ever answers; the size
of the weights decides when. Weights in S3 are copied before the container starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter

from helpers import contracts, models, twin
from helpers.errors import ContainerError, WorkshopError
from helpers.models import INSTANCE_S
from helpers.rehearsal import hub
from helpers.rehearsal.aws import modeldata
from helpers.rehearsal.aws.modeldata import ModelFiles

# AWS's "How containers respond to health check requests" gives 8 minutes when the production
# variant sets nothing [unverified].
HEALTH_CHECK_S = 480.0
PING_FAILED = (
    "The primary container for production variant {variant} did not pass the ping health check. "
    "Please check CloudWatch logs for this endpoint."
)
FIRST_LINE = "rehearsal: no container runs here; these lines follow what it would write."
FROM_S3 = (
    "rehearsal: Fetching {gb:.0f} GB of weights of {model_id} from {uri}, which SageMaker does "
    "without a token before it starts the container."
)
OLD_DRIVER = (
    "rehearsal: without InferenceAmiVersion, inf2 gets an old Neuron driver; what this container "
    "does with it is not known, so here it starts."
)
NO_SPACE = "OSError: [Errno 28] No space left on device"

# Re-save a copy of the checkpoint beside what they download (optimum-neuron, container contracts).
_KEEP_TWO_COPIES = {(contracts.TGI, "0.0.22"), (contracts.TGI, "0.0.23")}
_DIES_AFTER_S = 20.0
_RESTARTS_S = (0.0, 60.0, 120.0)


@dataclass(frozen=True)
class Startup:
    """How a start-up will go; times are seconds of AWS time since `CreateEndpoint`.

    Attributes:
        duration_s: Until the endpoint is `InService` or `Failed`.
        failure_reason: SageMaker's reason, None when the endpoint comes up.
        log: When the container writes which line.
    """

    duration_s: float
    failure_reason: str | None
    log: tuple[tuple[float, str], ...]


def plan(
    image: str,
    env: Mapping[str, str],
    *,
    variant: str,
    instance_type: str,
    health_check_timeout_s: float | None = None,
    volume_gb: float | None = None,
    inference_ami: str | None = None,
    uri: str | None = None,
    files: ModelFiles | None = None,
    download_timeout_s: float | None = None,
    fault: str | None = None,
) -> Startup:
    """Say how the start of a container will go.

    Args:
        image: Image URI; one of the Hugging Face Neuron contracts.
        env: The container's environment.
        variant: Name of the production variant.
        instance_type: With the leading `ml.`.
        health_check_timeout_s: `ContainerStartupHealthCheckTimeoutInSeconds`.
        volume_gb: `VolumeSizeInGB`, which counts where there is no local disk, as on inf2. Without
            it SageMaker chooses by instance type: taken for enough [unverified].
        inference_ami: `InferenceAmiVersion`.
        uri: Where the model's data lie in S3, None when it has none.
        files: What lies there now, None when nothing does.
        download_timeout_s: `ModelDataDownloadTimeoutInSeconds`. Without it SageMaker has one of its
            own: taken for enough [unverified].
        fault: `gated-model` (the Hub refuses it) or `health-check` (it loads and never answers).
    """
    timeout_s = HEALTH_CHECK_S if health_check_timeout_s is None else health_check_timeout_s
    if uri and not files:
        return Startup(INSTANCE_S, modeldata.NOT_DOWNLOADED.format(uri=uri), ())
    begin_s, lines = INSTANCE_S, [(INSTANCE_S, FIRST_LINE)]
    if files:
        begin_s += _fetch_s(files.model_id)
        if download_timeout_s is not None and begin_s > INSTANCE_S + download_timeout_s:
            reason = modeldata.NOT_DOWNLOADED.format(uri=uri)  # words [unverified]
            return Startup(INSTANCE_S + download_timeout_s, reason, tuple(lines))
        gb = models.weights_gb(files.model_id)
        whose = files.model_id or "an unknown model"
        said = FROM_S3.format(gb=gb, model_id=whose, uri=uri)
        lines.append((INSTANCE_S + 1, said))
    refusal = _refusal(image, env, files, instance_type=instance_type, gated=fault == "gated-model")
    if refusal is not None:
        starts = [begin_s + after for after in _RESTARTS_S if after + _DIES_AFTER_S < timeout_s]
        for start in starts:
            lines += [(start, "Starting the container"), (start + _DIES_AFTER_S, refusal)]
        return _failed(begin_s + timeout_s, variant, lines)

    contract = contracts.contract_for_image(image)
    on_volume = volume_gb if instance_type.startswith("ml.inf2.") else None
    if _has_old_driver(contract, instance_type, inference_ami):
        lines.append((begin_s, OLD_DRIVER))
    lines.append((begin_s, f"Starting the container on {instance_type}"))
    local = files if is_local(env) else None
    model_id = local.model_id if local else contracts.model_of(env)
    weights_gb, fetch_s = models.weights_gb(model_id), _fetch_s(model_id)
    loading_s = begin_s
    if not local:
        lines.append((begin_s + 1, f"Fetching {weights_gb:.0f} GB of weights of {model_id}"))
        loading_s += fetch_s
    disk_gb = weights_gb * (2 if _keeps_two_copies(contract) else 1)
    if on_volume is not None and on_volume < disk_gb:
        full_s = begin_s + 1 + fetch_s * on_volume / disk_gb
        return _failed(begin_s + timeout_s, variant, [*lines, (full_s, NO_SPACE)])
    loading = (loading_s, "Loading the compiled model onto the NeuronCores")
    ready_s = loading_s + fetch_s  # the other half
    if ready_s - begin_s > timeout_s or fault == "health-check":
        return _failed(begin_s + timeout_s, variant, [*lines, loading])
    return Startup(ready_s, None, (*lines, loading, (ready_s - 1, "Connected")))


def _has_old_driver(contract: contracts.Contract, instance_type: str, ami: str | None) -> bool:
    is_inf2 = instance_type.startswith("ml.inf2.")
    return contract.framework == contracts.VLLM and is_inf2 and not ami


def _keeps_two_copies(contract: contracts.Contract) -> bool:
    return (contract.framework, contract.version) in _KEEP_TWO_COPIES


def _fetch_s(model_id: str) -> float:
    """Seconds to fetch a model's weights, the half of what a start takes for them [derived]."""
    return models.LOAD_S_PER_GB * models.weights_gb(model_id) / 2


def is_local(env: Mapping[str, str]) -> bool:
    """Whether a container is to load what SageMaker has copied."""
    return contracts.model_of(env).rstrip("/") == modeldata.FOLDER


def _refusal(
    image: str,
    env: Mapping[str, str],
    files: ModelFiles | None,
    *,
    instance_type: str,
    gated: bool,
) -> str | None:
    """The container's last words, None when it would start."""
    try:
        contract = contracts.contract_for_image(image)
    except ContainerError as error:
        return f"rehearsal: {error}"
    local = is_local(env)
    named = env.get(contract.model_variable, "")
    loaded = files.model_id if files and local else ""
    if local:  # what is in the folder counts, and nobody asks the Hub for it
        if missing := files.problem() if files else modeldata.nothing():
            return missing
        env = {**env, contract.model_variable: loaded or named, "HF_TOKEN": "not asked for"}
    violations = contracts.check(contract, env, instance_type=instance_type)
    if violations:
        words = violations[0].message
        return words.replace(loaded, named) if loaded else words
    if not local and (refused := _refused_by_hub(env, gated=gated)):
        return refused
    try:  # what the runtime will answer by
        shape = contracts.shape(contract, env)
        twin.timing(shape.model_id or "", instance_type=instance_type, batch_size=shape.batch_size)
    except WorkshopError as error:
        return f"rehearsal: {error}"
    return None


def _refused_by_hub(env: Mapping[str, str], *, gated: bool) -> str | None:
    model_id = contracts.model_of(env)
    token = hub.UNGRANTED_TOKEN if gated else env.get("HF_TOKEN")
    refused = hub.refusal(model_id, token, gated=bool(token))  # without one, `check` has refused
    if refused is None:
        return None
    status, message = refused
    return f"{status} Client Error. https://huggingface.co/{model_id}/resolve/main: {message}"


def _failed(end_s: float, variant: str, lines: list[tuple[float, str]]) -> Startup:
    kept = tuple(line for line in sorted(lines, key=itemgetter(0)) if line[0] <= end_s)
    return Startup(end_s, PING_FAILED.format(variant=variant), kept)
