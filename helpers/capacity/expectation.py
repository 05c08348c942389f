"""What users of one endpoint will see and what it costs, before it is deployed."""

import math
from collections.abc import Iterable
from typing import Literal

import pandas as pd

from helpers import costs, recipes, twin
from helpers.capacity.asked import Answers, Machine, answers_of
from helpers.recipes import Recipe

USERS = (1, 4, 5, 8, 16)


def expect(
    endpoint: Machine | Recipe | str = recipes.DEFAULT,
    *,
    users: Iterable[int] = USERS,
    answers: Answers | None = None,
    load: Literal["closed", "rounds"] = "closed",
    seed: int = 0,
) -> pd.DataFrame:
    """Throughput, waiting and price for some numbers of users, a row each, all of it predicted.

    Args:
        endpoint: One replica: a machine, a recipe or its name; the workshop's by default.
        users: Numbers of users.
        answers: How long answers are.
        load: `closed`: a user sends again when the answer is complete; `rounds`: all wait for the
            last one.
        seed: Chooses the lengths.

    Returns:
        By `users`: output tokens/s, TTFT p50, milliseconds a token with the first one's wait in it,
        $ for a million output tokens, and how much of what the memory's bandwidth allows at most
        comes out.

    Raises:
        WorkshopError: When a number makes no sense, or nobody knows the endpoint's times.
    """
    machine = Machine.of(endpoint)
    answers = answers_of(machine, answers)
    timing, floor = machine.timing, machine.floor
    most = floor.tokens_per_s if floor else math.nan
    found = twin.predict(
        batch_size=timing.slots,
        prefill_s=timing.prefill_s,
        decode_step_s=timing.decode_step_s,
        concurrency=users,
        output_tokens=answers.tokens,
        output_tokens_stddev=answers.stddev,
        load=load,
        seed=seed,
    )
    rate, price = found["throughput_tokens_per_s"], machine.price_per_hour
    return pd.DataFrame(
        {
            "users": found["concurrency"],
            "predicted tokens/s": rate.round(1),
            "predicted TTFT p50 (s)": found["ttft_p50_s"].round(2),
            "predicted latency / tokens (ms)": found["latency_per_token_ms"].round(1),
            "predicted $ per 1M output tokens": [
                round(costs.per_million_tokens(one, price_per_hour=price), 2) for one in rate
            ],
            "of the floor (%)": (100 * rate / most).round(),
        }
    ).set_index("users")
