"""What happens on the instance while an endpoint is `Creating`: a plan made before it happens.

SageMaker fetches an instance, starts the container and asks its `/ping` until it answers or the
start-up health check times out. The container's contract decides whether it ever answers; the size
of the weights decides when.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter

from helpers import contracts, models, twin
from helpers.errors import ContainerError, WorkshopError
from helpers.models import INSTANCE_S
from helpers.rehearsal import hub

# AWS's "How containers respond to health check requests" gives 8 minutes when the production
# variant sets nothing [unverified].
HEALTH_CHECK_S = 480.0
PING_FAILED = (
    "The primary container for production variant {variant} did not pass the ping health check. "
    "Please check CloudWatch logs for this endpoint."
)
FIRST_LINE = "rehearsal: no container runs here; these lines follow what it would write."
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
        fault: `gated-model` (the Hub refuses it) or `health-check` (it loads and never answers).
    """
    timeout_s = HEALTH_CHECK_S if health_check_timeout_s is None else health_check_timeout_s
    model_id = contracts.model_of(env)
    refusal = _refusal(image, env, instance_type=instance_type, gated=fault == "gated-model")
    if refusal is not None:
        starts = [INSTANCE_S + after for after in _RESTARTS_S if after + _DIES_AFTER_S < timeout_s]
        lines = [(INSTANCE_S, FIRST_LINE)]
        for start in starts:
            lines += [(start, "Starting the container"), (start + _DIES_AFTER_S, refusal)]
        return _failed(timeout_s, variant, lines)

    contract = contracts.contract_for_image(image)
    is_inf2 = instance_type.startswith("ml.inf2.")
    weights_gb = models.weights_gb(model_id)
    load_s = models.LOAD_S_PER_GB * weights_gb
    lines = [(INSTANCE_S, FIRST_LINE)]
    if contract.framework == contracts.VLLM and is_inf2 and not inference_ami:
        lines.append((INSTANCE_S, OLD_DRIVER))
    lines += [
        (INSTANCE_S, f"Starting the container on {instance_type}"),
        (INSTANCE_S + 1, f"Fetching {weights_gb:.0f} GB of weights of {model_id}"),
    ]
    two_copies = (contract.framework, contract.version) in _KEEP_TWO_COPIES
    disk_gb = 2 * weights_gb if two_copies else weights_gb
    if is_inf2 and volume_gb is not None and volume_gb < disk_gb:
        full_s = INSTANCE_S + 1 + load_s / 2 * volume_gb / disk_gb
        return _failed(timeout_s, variant, [*lines, (full_s, NO_SPACE)])
    loading = (INSTANCE_S + load_s / 2, "Loading the compiled model onto the NeuronCores")
    if load_s > timeout_s or fault == "health-check":
        return _failed(timeout_s, variant, [*lines, loading])
    ready_s = INSTANCE_S + load_s
    return Startup(ready_s, None, (*lines, loading, (ready_s - 1, "Connected")))


def _refusal(image: str, env: Mapping[str, str], *, instance_type: str, gated: bool) -> str | None:
    """The container's last words, None when it would start."""
    try:
        contract = contracts.contract_for_image(image)
    except ContainerError as error:
        return f"rehearsal: {error}"
    violations = contracts.check(contract, env, instance_type=instance_type)
    if violations:
        return violations[0].message
    model_id, token = contracts.model_of(env), env.get("HF_TOKEN")
    if gated:
        token = hub.UNGRANTED_TOKEN
    refused = hub.refusal(model_id, token, gated=bool(token))  # without one, `check` has refused
    if refused is not None:
        status, message = refused
        return f"{status} Client Error. https://huggingface.co/{model_id}/resolve/main: {message}"
    try:  # what the runtime will answer by
        shape = contracts.shape(contract, env)
        twin.timing(shape.model_id or "", instance_type=instance_type, batch_size=shape.batch_size)
    except WorkshopError as error:
        return f"rehearsal: {error}"
    return None


def _failed(timeout_s: float, variant: str, lines: list[tuple[float, str]]) -> Startup:
    end_s = INSTANCE_S + timeout_s
    kept = tuple(line for line in sorted(lines, key=itemgetter(0)) if line[0] <= end_s)
    return Startup(end_s, PING_FAILED.format(variant=variant), kept)
