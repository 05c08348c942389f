"""What users of an endpoint will see, from its two times alone."""

from collections.abc import Iterable
from itertools import islice
from numbers import Real
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from helpers import checks
from helpers.errors import WorkshopError
from helpers.twin.quantiles import Quantiles
from helpers.twin.scheduler import Timing
from helpers.twin.simulation import lengths, serve

if TYPE_CHECKING:  # else imported where a table is made: the rehearsal's server makes none
    import pandas as pd

# A run starts empty and ends with slots running dry, so its length is part of the answer.
REQUESTS = 50  # as many as the original guide sent (results/published/guide-2024-05.csv)
REQUESTS_PER_USER = 4  # with more users: fewer would be all beginning and end
# Runs are repeated with other lengths until they have so many requests together: the mean of the
# medians of 200 runs of 50 is then sure within 2 %, even where half of the users wait and half do
# not and a single run's median jumps between the two.
_REQUESTS_ALTOGETHER = 10_000
_LOADS = {"closed": "closed", "closed_loop": "closed", "rounds": "rounds"}


class _Figures(NamedTuple):
    throughput_tokens_per_s: float
    ttft_p50_s: float
    latency_per_token_ms: float


def predict(
    *,
    batch_size: int,
    prefill_s: float,
    decode_step_s: float,
    concurrency: int | Iterable[int],
    output_tokens: float,
    output_tokens_stddev: float = 0,
    load: Literal["rounds", "closed", "closed_loop"] = "rounds",
    requests: int | None = None,
    seed: int = 0,
) -> "pd.DataFrame":
    """What users of an endpoint will see, from its two times alone.

    With a deviation of the lengths a run is one draw of them. Then every figure is the mean over
    several runs, the same ones for the same seed.

    Args:
        batch_size: Slots of the static batch.
        prefill_s: Seconds for one request's prefill, its first token included.
        decode_step_s: Seconds for one token of every active slot.
        concurrency: Users, one figure or several.
        output_tokens: Mean output tokens of a request, at least 1.
        output_tokens_stddev: Their standard deviation; lengths are normal, rounded, at least 1.
        load: `rounds`: all users wait until the last of them is served, as llmperf does.
            `closed` (or `closed_loop`): each sends again when its own answer is complete.
        requests: Requests of a run; by default 50, or 4 a user where that is more.
        seed: Which of the random lengths.

    Returns:
        One row a concurrency, in the order asked for: `concurrency`; `throughput_tokens_per_s`,
        output tokens over the time from the first request to the last token; `ttft_p50_s`, the
        median time to first token, in which the wait in the queue is contained;
        `latency_per_token_ms`, the median of a request's whole time over its output tokens, the
        first token's wait included: neither ITL nor TPOT, but what llmperf calls inter-token
        latency and the published tables "average latency" (optimum-neuron,
        `benchmark/text-generation-inference/generate_csv.py`).

    Raises:
        WorkshopError: When an argument makes no sense.
    """
    timing = Timing(
        checks.whole("batch_size", batch_size, most=checks.MOST_SLOTS),
        checks.seconds("prefill_s", prefill_s),
        checks.seconds("decode_step_s", decode_step_s),
    )
    users = _several("concurrency", concurrency)
    mean = checks.number("output_tokens", output_tokens, least=1, most=checks.MOST_TOKENS)
    stddev = checks.number("output_tokens_stddev", output_tokens_stddev, least=0)
    if not isinstance(load, str) or load not in _LOADS:
        raise WorkshopError(
            f"load is 'rounds' or 'closed', not {checks.said(load)}: for an arrival rate call "
            "twin.serve(load='arrivals', rate_per_s=...)."
        )
    sent = None
    if requests is not None:
        sent = checks.whole("requests", requests, most=checks.MOST_REQUESTS)
    seed = checks.whole("seed", seed, least=0)
    try:
        lengths(mean, stddev, seed)
    except ValueError as error:
        raise WorkshopError(str(error)) from error

    def row(concurrency: int) -> _Figures:
        each = sent or max(REQUESTS, REQUESTS_PER_USER * concurrency)
        drawn = lengths(mean, stddev, seed)  # goes on from run to run, so each has others
        runs = max(1, _REQUESTS_ALTOGETHER // each) if stddev else 1
        figures = [
            _run(timing, _LOADS[load], concurrency, islice(drawn, each), each, seed)
            for _ in range(runs)
        ]
        return _Figures(*np.mean(figures, axis=0).tolist())

    import pandas as pd

    table = pd.DataFrame([row(each) for each in users], columns=_Figures._fields)
    table.insert(0, "concurrency", users)
    return table


def _run(
    timing: Timing, load: str, concurrency: int, lengths: Iterable[int], requests: int, seed: int
) -> _Figures:
    ttft_s, latency_ms = Quantiles(seed), Quantiles(seed)
    tokens, ends_s = 0, 0.0
    for request in serve(
        timing, load=load, requests=requests, lengths=lengths, concurrency=concurrency
    ):
        ends_s = request.last_s
        tokens += request.tokens
        ttft_s.add(request.first_s - request.sent_s)
        latency_ms.add(1000 * (ends_s - request.sent_s) / request.tokens)
    return _Figures(tokens / ends_s, ttft_s.at(0.5), latency_ms.at(0.5))


def _several(name: str, values: int | Iterable[int]) -> list[int]:
    """One whole number or several, as a list."""
    if isinstance(values, Real):
        values = [values]
    try:
        each = [] if isinstance(values, bytes | bytearray) else list(values)
    except TypeError:
        each = []
    several = [checks.whole(name, value, most=checks.MOST_USERS) for value in each]
    if not several:
        raise WorkshopError(
            f"{name} is a whole number or a list of them, not {checks.said(values)}."
        )
    return several
