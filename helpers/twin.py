"""How a static-batch Neuron endpoint behaves: its two times and its scheduler. No I/O, no clock.

`StaticBatch` says what the machine does next and how long that takes. `simulate` runs it in virtual
time; the rehearsal's runtime runs the same object in real time. Scheduling as in TGI 2.0.2 to 3.x
(`huggingface/text-generation-inference`, router: `queue.rs`, `infer.rs`), static slots and padded
prefill as in optimum-neuron.
"""

import math
import re
import sys
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from helpers.costs import INSTANCES
from helpers.errors import WorkshopError

WAITING_SERVED_RATIO = 1.2  # TGI's default, router/src/main.rs
MAX_WAITING_TOKENS = 20  # TGI's default: decode steps after which one waiting request is enough

# Both from optimum-neuron v0.0.28, benchmark/text-generation-inference/performance/
# llama3-70b-inf2.48xlarge, 1 user, 250 tokens out: prefill is the TTFT at p50, the decode step
# what is left of 250 tokens / throughput over 249 steps (results/published/).
_PUBLISHED = "optimum-neuron v0.0.28, llama3-70b-inf2.48xlarge, {file}, first row"
_PUBLISHED_MODEL_B, _PUBLISHED_INSTANCE = 70, "ml.inf2.48xlarge"


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
        if self.slots < 1 or not all(0 < time_s < math.inf for time_s in times):
            raise ValueError(
                f"An endpoint has at least one slot and positive times, not {self.slots} slots, "
                f"prefill {self.prefill_s} s, decode step {self.decode_step_s} s."
            )


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
        self._waiting: dict[Hashable, int] = {}  # request -> tokens it will get, oldest first
        self._active: dict[Hashable, int] = {}  # request -> number of its last decode step
        self._ends: dict[int, list[Hashable]] = {}  # the same, the other way round
        self._steps = 0
        self._steps_at_prefill = 0

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
            ValueError: When there is no token to make, or the request is already there.
        """
        if output_tokens < 1:
            raise ValueError(f"A request gets at least one token, not {output_tokens}.")
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

        The bound holds for the batch that can be formed, not for the queue alone: TGI puts a batch
        smaller than its minimum back (`queue.rs`, "Batch is too small"), and forms none larger
        than the free slots.
        """
        active = len(self._active)
        size = min(self.timing.slots - active, len(self._waiting))
        patient = self._steps - self._steps_at_prefill < MAX_WAITING_TOKENS
        # 1e-9: 1.2 * 5 is 6, in floating point too.
        if patient and size < math.floor(WAITING_SERVED_RATIO * active + 1e-9):
            return 0
        return size

    def _prefill(self, size: int) -> Step:
        batch = [request_id for request_id, _ in zip(self._waiting, range(size), strict=False)]
        finished = []
        for request_id in batch:
            more = self._waiting.pop(request_id) - 1  # the prefill brings the first token
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
        emits = list(self._active)
        finished = self._ends.pop(self._steps, [])
        for request_id in finished:
            del self._active[request_id]
        return Step("decode", count * self.timing.decode_step_s, emits, finished, count)

    def _steps_to_decision(self) -> int:
        count = min(self._ends) - self._steps
        if self._waiting and len(self._active) < self.timing.slots:
            count = min(count, self._steps_at_prefill + MAX_WAITING_TOKENS - self._steps)
        return count


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
