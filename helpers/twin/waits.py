"""What each request of a load waits for, in prefills and decode steps: a schedule without times.

In closed loops and in rounds nobody sends by the clock: who is served when depends on how many
steps have passed and not on how long they took. So one simulation gives the times of all requests
for any prefill and any decode step, which is what lets a search try thousands of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from helpers.twin.scheduler import Timing
from helpers.twin.simulation import simulate

# A prefill of 1 s and a step of 2⁻²⁶ s: sums of up to 2²⁶ of each are exact in a float, and a time
# tells both numbers.
_STEP_S = 2.0**-26


@dataclass(frozen=True)
class Waits:
    """How many prefills and steps pass until each request is sent, begins and ends.

    Attributes:
        prefills: Shape (requests, 3): until it is sent, its first token, its last token.
        steps: The same of decode steps.
        tokens: Shape (requests,): its output tokens.
    """

    prefills: np.ndarray
    steps: np.ndarray
    tokens: np.ndarray

    def times(self, prefill_s: float, decode_step_s: float) -> np.ndarray:
        """Seconds since the start, shape (requests, 3): sent, first token, last token."""
        return self.prefills * prefill_s + self.steps * decode_step_s


def waits(*, slots: int, load: str, concurrency: int, output_tokens: Sequence[int]) -> Waits:
    """Let users of an endpoint send requests of these lengths.

    Args:
        slots: Static batch size.
        load: `closed` or `rounds`, as in `simulate`.
        concurrency: Users.
        output_tokens: Lengths in the order of sending.
    """
    served = simulate(
        Timing(slots, 1.0, _STEP_S),
        concurrency=concurrency,
        requests=len(output_tokens),
        output_tokens=list(output_tokens),
        load=load,
    )
    stamps = np.array([(one.sent_s, one.first_s, one.last_s) for one in served])
    prefills = np.floor(stamps)
    tokens = np.array([one.tokens for one in served])
    return Waits(prefills, (stamps - prefills) / _STEP_S, tokens)
