"""The two times of a model on an instance: published where measured, else scaled."""

from dataclasses import replace

import numpy as np

from helpers import checks, costs, models
from helpers.twin.calibration import PREFILL_SPREAD
from helpers.twin.scheduler import Timing

# All from optimum-neuron v0.0.28, benchmark/text-generation-inference/performance/
# llama3-70b-*, 1 user, 250 tokens out: prefill is the TTFT at p50, the decode step what is left of
# 250 tokens / throughput over 249 steps (results/published/). A throughput has the client's pause
# between requests in it, so these steps are up to 5 % long: `calibrate` takes the latency instead,
# and so does `between`.
_MODEL_B = 70
_SEQUENCE_LENGTH = 4096  # of all these endpoints
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
# The decode steps by the same rows' latencies.
_STEPS_WITHOUT_PAUSE_S = {
    _INF2: {1: 0.02865, 4: 0.03906},
    _TRN1: {1: 0.01843, 4: 0.02591, 8: 0.02867},
}


def timing(
    model_id: str,
    *,
    instance_type: str,
    batch_size: int,
    sequence_length: int = _SEQUENCE_LENGTH,
) -> Timing:
    """The times of a model on an instance, published where measured, else scaled.

    Scaling: a decode step reads all weights once, so it goes with weight bytes over memory
    bandwidth; prefill goes with parameters over compute, which on these chips is the same ratio.
    What is scaled are the figures of the same machine, where there are any, else those of
    inf2.48xlarge. Between two published batch sizes the step grows in a straight line; beyond the
    largest, by as much a slot as from batch 1 up to there. Any batch above 1 pads its prefill to
    the whole sequence length, so with another length than the 4096 tokens of the published
    endpoints it takes in proportion.

    Args:
        model_id: Hugging Face model whose name says its size, e.g. `…-70B-Instruct`.
        instance_type: A key of `helpers.costs.INSTANCES`, with or without `ml.`.
        batch_size: Static batch size.
        sequence_length: Tokens a slot holds.

    Raises:
        WorkshopError: When the model's name has no size, the instance is not in the table, or a
            number makes no sense.
    """
    model_b = models.named_b(model_id)
    if model_b is None:
        raise models.sizeless(model_id, ": give a Timing of your own.")
    machine = costs.instance(instance_type)
    batch_size = checks.whole("A batch size", batch_size, most=checks.MOST_SLOTS)
    length = checks.whole("A sequence length", sequence_length, most=checks.MOST_TOKENS)
    padded = 1 if batch_size == 1 else length / _SEQUENCE_LENGTH  # of the published prefill
    base = machine.name if machine.name in _PUBLISHED_ON else _INF2
    published = _PUBLISHED_ON[base]
    is_llama = model_b == _MODEL_B and models.architecture(model_id) is not None
    is_same = machine.name == base and is_llama and padded == 1
    if is_same and batch_size in published:
        return published[batch_size]
    bandwidth_ratio = costs.instance(base).bandwidth_gb_s / machine.bandwidth_gb_s
    scale = model_b / _MODEL_B * bandwidth_ratio
    prefill_s = padded * published[1 if batch_size == 1 else 4].prefill_s
    step_s = _step_s(published, batch_size)
    return Timing(
        batch_size, prefill_s * scale, step_s * scale, f"derived from {published[4].source}"
    )


def between(timing: Timing) -> tuple[Timing, Timing] | None:
    """The fastest and the slowest times that published ones may stand for; None for others.

    A prefill may be off by `calibration.PREFILL_SPREAD`, and a decode step shorter by the client's
    pause (2 % on inf2.48xlarge at batch 4, 3 to 5 % elsewhere).
    """
    for machine, by_size in _PUBLISHED_ON.items():
        if by_size.get(timing.slots) == timing:
            step_s = _STEPS_WITHOUT_PAUSE_S[machine][timing.slots]
            return (
                replace(
                    timing, prefill_s=(1 - PREFILL_SPREAD) * timing.prefill_s, decode_step_s=step_s
                ),
                replace(timing, prefill_s=(1 + PREFILL_SPREAD) * timing.prefill_s),
            )
    return None


def _step_s(published: dict[int, Timing], batch_size: int) -> float:
    sizes = sorted(published)
    steps_s = [published[size].decode_step_s for size in sizes]
    slot_s = (steps_s[-1] - steps_s[0]) / (sizes[-1] - sizes[0])
    beyond = max(0, batch_size - sizes[-1])
    return float(np.interp(batch_size, sizes, steps_s)) + slot_s * beyond
