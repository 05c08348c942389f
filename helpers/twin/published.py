"""The two times of a model on an instance: published where measured, else scaled."""

import numpy as np

from helpers import costs, models
from helpers.errors import WorkshopError
from helpers.twin.scheduler import Timing

# All from optimum-neuron v0.0.28, benchmark/text-generation-inference/performance/
# llama3-70b-*, 1 user, 250 tokens out: prefill is the TTFT at p50, the decode step what is left of
# 250 tokens / throughput over 249 steps (results/published/). A throughput has the client's pause
# between requests in it, so these steps are up to 5 % long: `calibrate` takes the latency instead.
_MODEL_B = 70
_INF2, _TRN1 = "ml.inf2.48xlarge", "ml.trn1.32xlarge"


def _first_row(instance: str, batch_size: int, prefill_s: float, decode_step_s: float) -> Timing:
    file = "tgi-results.csv" if batch_size == 4 else f"tgi-results-batchsize-{batch_size}.csv"
    folder = f"llama3-{_MODEL_B}b-{instance.removeprefix('ml.')}"
    source = f"optimum-neuron v0.0.28, {folder}, {file}, first row"
    return Timing(batch_size, prefill_s, decode_step_s, source)


PUBLISHED = {
    1: _first_row(_INF2, 1, 0.77, 0.0302),
    4: _first_row(_INF2, 4, 1.2, 0.0398),
}
# On each machine, by batch size.
_PUBLISHED_ON = {
    _INF2: PUBLISHED,
    _TRN1: {
        1: _first_row(_TRN1, 1, 0.526, 0.01923),
        4: _first_row(_TRN1, 4, 0.848, 0.0269),
        8: _first_row(_TRN1, 8, 0.847, 0.0296),
    },
}


def timing(model_id: str, *, instance_type: str, batch_size: int) -> Timing:
    """The times of a model on an instance, published where measured, else scaled.

    Scaling: a decode step reads all weights once, so it goes with weight bytes over memory
    bandwidth; prefill goes with parameters over compute, which on these chips is the same ratio.
    What is scaled are the figures of the same machine, where there are any, else those of
    inf2.48xlarge. Between two published batch sizes the step grows in a straight line; beyond the
    largest, by as much a slot as from batch 1 up to there. Any batch above 1 pads its prefill to
    the whole sequence length, 4096 tokens here.

    Args:
        model_id: Hugging Face model whose name says its size, e.g. `…-70B-Instruct`.
        instance_type: A key of `helpers.costs.INSTANCES`, with or without `ml.`.
        batch_size: Static batch size.

    Raises:
        WorkshopError: When the model's name has no size or the instance is not in the table.
    """
    model_b = models.named_b(model_id)
    if model_b is None:
        raise WorkshopError(
            f"The name {model_id!r} does not say how large the model is (as in -8B or -70B): "
            "give a Timing of your own."
        )
    machine = costs.instance(instance_type)
    if batch_size < 1:
        raise WorkshopError(f"A static batch has at least one slot, not {batch_size}.")
    base = machine.name if machine.name in _PUBLISHED_ON else _INF2
    published = _PUBLISHED_ON[base]
    if machine.name == base and model_b == _MODEL_B and batch_size in published:
        return published[batch_size]
    bandwidth_ratio = costs.instance(base).bandwidth_gb_s / machine.bandwidth_gb_s
    scale = model_b / _MODEL_B * bandwidth_ratio
    prefill_s = published[1 if batch_size == 1 else 4].prefill_s
    step_s = _step_s(published, batch_size)
    return Timing(
        batch_size, prefill_s * scale, step_s * scale, f"derived from {published[4].source}"
    )


def _step_s(published: dict[int, Timing], batch_size: int) -> float:
    sizes = sorted(published)
    steps_s = [published[size].decode_step_s for size in sizes]
    slot_s = (steps_s[-1] - steps_s[0]) / (sizes[-1] - sizes[0])
    beyond = max(0, batch_size - sizes[-1])
    return float(np.interp(batch_size, sizes, steps_s)) + slot_s * beyond
