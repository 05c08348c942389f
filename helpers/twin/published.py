"""The two times of a model on an instance: published where measured, else scaled."""

import re

from helpers.costs import INSTANCES
from helpers.errors import WorkshopError
from helpers.twin.scheduler import Timing

# Both from optimum-neuron v0.0.28, benchmark/text-generation-inference/performance/
# llama3-70b-inf2.48xlarge, 1 user, 250 tokens out: prefill is the TTFT at p50, the decode step
# what is left of 250 tokens / throughput over 249 steps (results/published/).
_PUBLISHED = "optimum-neuron v0.0.28, llama3-70b-inf2.48xlarge, {file}, first row"
_PUBLISHED_MODEL_B, _PUBLISHED_INSTANCE = 70, "ml.inf2.48xlarge"

PUBLISHED = {
    1: Timing(1, 0.77, 0.0302, _PUBLISHED.format(file="tgi-results-batchsize-1.csv")),
    4: Timing(4, 1.2, 0.0398, _PUBLISHED.format(file="tgi-results.csv")),
}


def timing(model_id: str, *, instance_type: str, batch_size: int) -> Timing:
    """The times of a model on an instance, published where measured, else scaled.

    Scaling: a decode step reads all weights once, so it goes with weight bytes over memory
    bandwidth; prefill goes with parameters over compute, which on these chips is the same ratio.
    Between and beyond the two published batch sizes the step grows in a straight line; any batch
    above 1 pads its prefill to the whole sequence length, 4096 tokens here.

    Args:
        model_id: Hugging Face model whose name says its size, e.g. `…-70B-Instruct`.
        instance_type: A key of `helpers.costs.INSTANCES`, with or without `ml.`.
        batch_size: Static batch size.

    Raises:
        WorkshopError: When the model's name has no size or the instance is not in the table.
    """
    size = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])", model_id)
    if not size:
        raise WorkshopError(
            f"The name {model_id!r} does not say how large the model is (as in -8B or -70B): "
            "give a Timing of your own."
        )
    name = "ml." + instance_type.removeprefix("ml.")
    if name not in INSTANCES:
        raise WorkshopError(
            f"No specification of {instance_type!r}: use one of {', '.join(INSTANCES)}."
        )
    if batch_size < 1:
        raise WorkshopError(f"A static batch has at least one slot, not {batch_size}.")
    scale = (
        float(size[1])
        / _PUBLISHED_MODEL_B
        * INSTANCES[_PUBLISHED_INSTANCE].bandwidth_gib_s
        / INSTANCES[name].bandwidth_gib_s
    )
    if scale == 1 and batch_size in PUBLISHED:
        return PUBLISHED[batch_size]
    one, four = PUBLISHED[1], PUBLISHED[4]
    step_s = one.decode_step_s + (four.decode_step_s - one.decode_step_s) / 3 * (batch_size - 1)
    prefill_s = one.prefill_s if batch_size == 1 else four.prefill_s
    return Timing(batch_size, prefill_s * scale, step_s * scale, f"derived from {four.source}")
