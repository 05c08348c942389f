"""What a run's configuration says of its endpoint: shape, times, floor.

Of an endpoint, `run.json` holds image, environment and instance: enough to say what the container
serves, and from that what the twin and the machine's specification say of it.
"""

from collections.abc import Mapping
from typing import Any

from helpers import contracts, floor, twin
from helpers.floor import Floor
from helpers.twin import Timing


def shape(endpoint: Mapping) -> contracts.Shape:
    """What the container serves.

    Args:
        endpoint: `endpoint` of `run.json`.

    Raises:
        ContainerError: When the image is none of these containers, or its environment is wrong.
    """
    contract = contracts.contract_for_image(endpoint.get("image") or "")
    return contracts.shape(contract, endpoint.get("env") or {})


def timing(endpoint: Mapping) -> Timing:
    """The two times of the endpoint, published or derived.

    Raises:
        WorkshopError: When the container, the model's size or the instance is not known.
    """
    model_id, machine = _machine(endpoint)
    return twin.timing(model_id, **machine)


def limits(endpoint: Mapping, *, prompt_tokens: int | None = None) -> Floor:
    """The floor under its two times.

    Args:
        endpoint: `endpoint` of `run.json`.
        prompt_tokens: Length of a prompt, where it is known; a slot's length at most.

    Raises:
        WorkshopError: When the container, the model's size or the instance is not known.
    """
    model_id, machine = _machine(endpoint)
    if prompt_tokens is not None:
        prompt_tokens = min(prompt_tokens, machine["sequence_length"])
    return floor.of(model_id, **machine, prompt_tokens=prompt_tokens)


def _machine(endpoint: Mapping) -> tuple[str, dict[str, Any]]:
    """The model, and what the twin and the floor ask of its machine."""
    served = shape(endpoint)
    return served.model_id or "", {
        "instance_type": endpoint.get("instance_type") or "",
        "batch_size": served.batch_size,
        "sequence_length": served.sequence_length,
    }
