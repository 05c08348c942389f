"""Which instance and batch size is cheapest under limits: every pair is sized, or says why not.

Times that nobody has published are scaled from those that were (`twin.timing`), so a row that says
`derived` is a guess by bandwidth and parameters. A batch size above 1 pads every prefill to the
whole sequence length.
"""

from collections.abc import Iterable
from functools import partial
from itertools import product
from typing import Any

import pandas as pd

from helpers import checks, contracts, costs, models, recipes, twin
from helpers.capacity import sizing, sweeps
from helpers.capacity.asked import Answers, Limits, Machine, check_answers, check_limits, rate_per_s
from helpers.errors import WorkshopError

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
# Of a pair: the steps of the search, the highest rate, and the answer.
_REQUESTS_A_PAIR = 120_000


def machines(
    model_id: str | None = None,
    *,
    people: float,
    every_s: float,
    limits: Limits,
    answers: Answers | None = None,
    sequence_length: int = 4096,
    instances: str | Iterable[str] = tuple(costs.INSTANCES),
    batch_sizes: int | Iterable[int] = BATCH_SIZES,
    seed: int = 0,
    ray: str | None = None,
) -> pd.DataFrame:
    """Every instance at every batch size, the cheapest that keeps the limits first.

    Args:
        model_id: Hugging Face model; the workshop's by default.
        people: How many.
        every_s: Seconds from one of a person's questions to the next; see `sizing.replicas`.
        limits: What they are to get.
        answers: How long answers are.
        sequence_length: Tokens of a slot.
        instances: SageMaker instance types, one or several.
        batch_sizes: Static batch sizes, one or several.
        seed: Chooses arrivals and lengths.
        ray: Address of a Ray cluster to work on; see `sweeps.each`.

    Returns:
        One row a pair. `times` are `published` or `derived`; `compiled` is whether the Neuron cache
        has the shape (`assumed` where nobody has looked it up); `bandwidth floor (%)` is how near a
        decode step is to reading the weights once; what does not keep the limits or does not fit
        has no replicas, and `why not` says the reason.

    Raises:
        WorkshopError: When a number, the model or an instance makes no sense, or answers do not
            fit into a slot.
    """
    check_limits(limits)
    model_id = recipes.get().model_id if model_id is None else model_id
    names = dict.fromkeys(costs.instance(name).name for name in _several(instances))
    sizes = dict.fromkeys(checks.whole("A batch size", size) for size in _several(batch_sizes))
    sequence_length = checks.whole("A sequence length", sequence_length)
    answers = check_answers(answers, sequence_length)  # else no machine would be large enough
    seed = checks.whole("A seed", seed, least=0)
    pairs = list(product(names, sizes))
    if not pairs:
        raise WorkshopError("Give at least one instance type and one batch size.")
    if models.named_b(model_id) is None:
        raise models.sizeless(
            model_id, ", so its times cannot be scaled: choose a name that says it."
        )
    row = partial(
        _row,
        model_id=model_id,
        sequence_length=sequence_length,
        rate=rate_per_s(people, every_s),
        limits=limits,
        answers=answers,
        seed=seed,
    )
    rows = sweeps.each(row, pairs, requests=_REQUESTS_A_PAIR * len(pairs), address=ray)
    table = pd.DataFrame(rows).astype({"replicas": "Int64", "$ a month": "Int64"})
    return table.sort_values(["$ a month", "TTFT p95 (s)"], kind="stable", ignore_index=True)


def _several(values: Any) -> list:
    """One value or several, as a list."""
    is_one = isinstance(values, str) or not isinstance(values, Iterable)
    return [values] if is_one else list(values)


def _row(
    pair: tuple[str, int],
    *,
    model_id: str,
    sequence_length: int,
    rate: float,
    limits: Limits,
    answers: Answers,
    seed: int,
) -> dict:
    name, batch_size = pair
    timing = twin.timing(
        model_id, instance_type=name, batch_size=batch_size, sequence_length=sequence_length
    )
    machine = Machine(name, timing, model_id, sequence_length)
    row = {
        "instance": name.removeprefix("ml."),
        "batch": batch_size,
        "times": machine.unmeasured or "published",
        "compiled": compiled(machine),
        "prefill (s)": round(timing.prefill_s, 3),
        "decode step (ms)": round(1000 * timing.decode_step_s, 1),
        "bandwidth floor (%)": round(100 * machine.floor.share(timing).decode),
    }
    try:
        machine.check_memory()
        found = sizing.for_rate(machine, rate, limits=limits, answers=answers, seed=seed)
    except WorkshopError as error:
        return row | dict.fromkeys(_SIZED) | {"why not": str(error).partition(":")[0].rstrip(".")}
    sized = (
        float(f"{found.sustained_per_s:.3g}"),
        found.replicas,
        round(found.each.ttft_p95_s, 2),
        round(found.price_per_month),
        round(found.per_million_tokens, 2),
    )
    return row | dict(zip(_SIZED, sized, strict=True)) | {"why not": ""}


_SIZED = (
    "one replica sustains (requests/s)",
    "replicas",
    "TTFT p95 (s)",
    "$ a month",
    "$ per 1M output tokens",
)


def compiled(machine: Machine) -> str:
    """Whether the Neuron cache has the shape for all cores: `yes`, `assumed` or `no`.

    By `contracts.CACHE`, for any of the containers of `contracts.CONTRACTS`: `preflight` says which
    one can load it. Who published times of a shape may have compiled it for that.
    """
    cores = costs.instance(machine.instance_type).cores
    found = [
        entry.assumed
        for entry in contracts.CACHE
        if entry.model_id == machine.model_id
        and (entry.batch_size, entry.num_cores) == (machine.timing.slots, cores)
        and entry.sequence_length == machine.sequence_length
    ]
    if not found:
        return "no"
    return "assumed" if all(found) else "yes"
