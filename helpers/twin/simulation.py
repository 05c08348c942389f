"""A load against an endpoint in virtual time."""

import sys
from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

from helpers.twin.scheduler import StaticBatch, Timing


class Served(NamedTuple):
    """One simulated request; times in seconds since the start of the run.

    Attributes:
        sent_s: When its user sent it.
        first_s: When its first token came.
        last_s: When its last token came.
        tokens: Output tokens.
    """

    sent_s: float
    first_s: float
    last_s: float
    tokens: int


def simulate(
    timing: Timing,
    *,
    concurrency: int,
    requests: int,
    output_tokens: int | Sequence[int],
    load: Literal["closed", "rounds"] = "closed",
) -> list[Served]:
    """Run a load against the endpoint in virtual time.

    Requests sent at the same moment still reach the server one after the other: an idle endpoint
    prefills the first of them alone, and an answer's successor comes just too late for the step
    that starts when the answer ends.

    Args:
        timing: Slots and times of the endpoint.
        concurrency: Users.
        requests: How many requests to serve altogether.
        output_tokens: Tokens of every request, or one figure a request in the order of sending.
        load: `closed`: every user sends the next request when the answer is complete. `rounds`:
            all wait until the last of them is served, as llmperf does.

    Returns:
        One entry a request, in the order of sending.

    Raises:
        ValueError: When there are no users, no requests, or too few lengths.
    """
    lengths = [output_tokens] * requests if isinstance(output_tokens, int) else list(output_tokens)
    if concurrency < 1 or requests < 1 or len(lengths) < requests:
        raise ValueError(
            f"A load needs users, requests and a length for each, not {concurrency} users, "
            f"{requests} requests and {len(lengths)} lengths."
        )
    if load not in ("closed", "rounds"):
        raise ValueError(f"A load is 'closed' or 'rounds', not {load!r}.")
    batch = StaticBatch(timing)
    now_s = 0.0
    sent: list[float] = []
    first, last = [0.0] * requests, [0.0] * requests
    arriving: deque[int] = deque()

    def send(users: int) -> None:
        for _ in range(min(users, requests - len(sent))):
            arriving.append(len(sent))
            sent.append(now_s)

    def arrive() -> None:
        batch.submit(arriving[0], lengths[arriving[0]])
        arriving.popleft()

    send(concurrency)
    unserved = requests
    while unserved:
        if batch.idle:
            arrive()
        step = batch.next_step(limit=1 if arriving else sys.maxsize)
        while arriving:
            arrive()
        now_s += step.duration_s
        if step.kind == "prefill":
            for request in step.emits:
                first[request] = now_s
        for request in step.finished:
            last[request] = now_s
        unserved -= len(step.finished)
        if load == "closed":
            send(len(step.finished))
        elif batch.idle:
            send(concurrency)
    return [Served(*times) for times in zip(sent, first, last, lengths, strict=False)]
