"""TGI's scheduler on Neuron: what the machine does next, and how long that takes.

Whoever drives `StaticBatch` decides what time is: `simulation` runs it in virtual time, the
rehearsal's runtime in real time. Scheduling as in TGI 2.0.2 to 3.x
(`huggingface/text-generation-inference`, router: `queue.rs`, `infer.rs`), static slots and padded
prefill as in optimum-neuron.

Both constants are defaults of TGI's launcher, which the containers start without naming either
(optimum-neuron 0.0.22 to 0.0.28, `sagemaker-entrypoint.sh`); an environment that does name them
(`WAITING_SERVED_RATIO`, `MAX_WAITING_TOKENS`) is not modeled. Nor is TGI's budget of tokens: slots
times their length, it holds back requests only where very long prompts meet long answers.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from helpers import checks

# launcher/src/main.rs of 2.0.2 to 3.0.2, read 2026-11. The router's own 1.2 is overruled by it.
WAITING_SERVED_RATIO = 0.3
MAX_WAITING_TOKENS = 20  # since the last prefill, its own included: then one request is enough


@dataclass(frozen=True)
class Timing:
    """The two times that make a static-batch endpoint.

    Attributes:
        slots: Static batch size.
        prefill_s: Seconds for one request's prefill, its first token included.
        decode_step_s: Seconds for one token of every active slot, however many are active.
        source: Where the figures come from, with `derived` where they are scaled.
    """

    slots: int
    prefill_s: float
    decode_step_s: float
    source: str = ""

    def __post_init__(self):
        times = (self.prefill_s, self.decode_step_s)
        are_times = all(checks.is_number(time_s) and time_s > 0 for time_s in times)
        if not checks.is_whole(self.slots) or not are_times:
            raise ValueError(
                f"An endpoint has one slot or more, in whole numbers, and positive times, not "
                f"{self.slots!r} slots, prefill {self.prefill_s!r} s, decode step "
                f"{self.decode_step_s!r} s."
            )
        object.__setattr__(self, "slots", int(self.slots))  # a table's column has 4.0


class Step(NamedTuple):
    """What the machine does next.

    Attributes:
        kind: `prefill` or `decode`.
        duration_s: Seconds it takes altogether.
        emits: Requests that get a token: one at the end of a prefill, one after each decode step.
        finished: Those of them whose last token it brings.
        count: Decode steps in it, 1 for a prefill.
    """

    kind: Literal["prefill", "decode"]
    duration_s: float
    emits: Sequence[Hashable]
    finished: Sequence[Hashable]
    count: int = 1


class StaticBatch:
    """TGI's scheduler on Neuron: static slots, a queue, prefills that pause everyone.

    Whoever drives it calls `next_step`, lets the step's time pass, hands out the tokens, and asks
    again; `submit` and `cancel` may come at any time and count from the next step on.

    Args:
        timing: Slots and times of the endpoint.
    """

    def __init__(self, timing: Timing):
        self.timing = timing
        # Request -> tokens it will get, oldest first. A dict whose first ones have gone passes over
        # all of them to find its first.
        self._waiting: OrderedDict[Hashable, int] = OrderedDict()
        self._active: dict[Hashable, int] = {}  # request -> number of its last decode step
        self._ends: dict[int, list[Hashable]] = {}  # the same, the other way round
        self._steps = 0
        self._steps_at_prefill = 0
        self._owes_a_step = False  # to those whom the last prefill interrupted

    @property
    def idle(self) -> bool:
        """True when nothing waits and nothing is generated."""
        return not self._active and not self._waiting

    def __len__(self) -> int:
        """Requests waiting and active."""
        return len(self._active) + len(self._waiting)

    def submit(self, request_id: Hashable, output_tokens: int) -> None:
        """Queue a request that will get so many tokens.

        Raises:
            ValueError: When that is no whole number of tokens, or the request is already there.
        """
        if type(output_tokens) is not int or output_tokens < 1:  # the usual ones pass quickly
            if not checks.is_whole(output_tokens):
                raise ValueError(
                    f"A request gets at least one token, and whole ones, not {output_tokens!r}."
                )
            output_tokens = int(output_tokens)
        if request_id in self._waiting or request_id in self._active:
            raise ValueError(f"Request {request_id!r} is already there.")
        self._waiting[request_id] = output_tokens

    def cancel(self, request_id: Hashable) -> None:
        """Forget a request and free its slot; nothing happens when it is not there."""
        self._waiting.pop(request_id, None)
        end = self._active.pop(request_id, None)
        if end is not None:
            self._ends[end].remove(request_id)
            if not self._ends[end]:
                del self._ends[end]

    def next_step(self, limit: int = 1) -> Step | None:
        """Start the next step.

        Args:
            limit: Most decode steps to take at once. They end early where the scheduler has
                something to decide, so only what is submitted meanwhile comes late.

        Returns:
            The step, None when there is nothing to do.
        """
        size = self._next_batch_size()
        if size:
            return self._prefill(size)
        if self._active:
            return self._decode(limit)
        return None

    def _next_batch_size(self) -> int:
        """How many to prefill now: what fits, if that is worth pausing the active ones for.

        Whoever was paused gets a decode step before the next pause. The bound holds for the batch
        that can be formed, not for the queue alone: TGI puts a batch smaller than its minimum back
        (`queue.rs`, "Batch is too small"), and forms none larger than the free slots.
        """
        active = len(self._active)
        size = min(self.timing.slots - active, len(self._waiting))
        if active and self._owes_a_step:
            return 0
        is_patient = self._steps < self._steps_of_patience()
        # 1e-9: 0.3 * 10 is 3, in floating point too.
        if is_patient and size < math.floor(WAITING_SERVED_RATIO * active + 1e-9):
            return 0
        return size

    def _steps_of_patience(self) -> int:
        """The decode step after which one waiting request is enough: TGI counts tokens."""
        return self._steps_at_prefill + MAX_WAITING_TOKENS - 1

    def _prefill(self, size: int) -> Step:
        batch, finished = [], []
        self._owes_a_step = bool(self._active)
        for _ in range(size):
            request_id, tokens = self._waiting.popitem(last=False)
            batch.append(request_id)
            more = tokens - 1  # the prefill brings the first token
            if more:
                end = self._active[request_id] = self._steps + more
                self._ends.setdefault(end, []).append(request_id)
            else:
                finished.append(request_id)
        self._steps_at_prefill = self._steps
        return Step("prefill", size * self.timing.prefill_s, batch, finished)

    def _decode(self, limit: int) -> Step:
        count = 1 if limit <= 1 else min(limit, self._steps_to_decision())
        self._steps += count
        self._owes_a_step = False
        emits = list(self._active)
        finished = self._ends.pop(self._steps, [])
        for request_id in finished:
            del self._active[request_id]
        return Step("decode", count * self.timing.decode_step_s, emits, finished, count)

    def _steps_to_decision(self) -> int:
        count = min(self._ends) - self._steps
        if self._waiting and len(self._active) < self.timing.slots:
            decides = self._steps + 1 if self._owes_a_step else self._steps_of_patience()
            count = min(count, decides - self._steps)
        return count
