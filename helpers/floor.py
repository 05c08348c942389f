"""What the machine's memory and compute allow at best: the floor under an endpoint's two times.

A decode step reads every weight once; a prefill computes 2 operations a parameter and token, and
causal attention. Nothing else is counted: no keys and values, no exchange between cores, no
activations, no host. So an endpoint is never below, and how far above it is says
what is left to gain.
"""

from dataclasses import dataclass

from helpers import checks, costs, models
from helpers.errors import WorkshopError
from helpers.twin import Timing
from helpers.units import ms, percent

SOURCE = f"{costs.SPECIFICATION_SOURCE}; 16-bit weights, all cores"


@dataclass(frozen=True)
class Share:
    """How near to the floor two times are.

    Attributes:
        decode: Shortest step there could be over the step there is, 1 at the floor.
        prefill: The same for the prefill.
        sentence: Both, and why.
    """

    decode: float
    prefill: float
    sentence: str

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class Floor:
    """The shortest times a machine allows for a model; seconds.

    Attributes:
        slots: Static batch size.
        cores: Neuron cores that share the work.
        weights_s: Reading all weights once.
        step_compute_s: Computing a token of every slot.
        prefill_compute_s: Computing the tokens of one prefill, padding included.
        prompt_compute_s: The same for the prompt alone; None when its length is not known.
        padded_tokens: Tokens a prefill computes.
        prompt_tokens: Those of them that are the prompt; None when that is not known.
    """

    slots: int
    cores: int
    weights_s: float
    step_compute_s: float
    prefill_compute_s: float
    prompt_compute_s: float | None
    padded_tokens: int
    prompt_tokens: int | None

    @property
    def decode_step_s(self) -> float:
        """The shortest decode step."""
        return max(self.weights_s, self.step_compute_s)

    @property
    def prefill_s(self) -> float:
        """The shortest prefill of one request."""
        return max(self.weights_s, self.prefill_compute_s)

    @property
    def tokens_per_s(self) -> float:
        """Most output tokens a second: every slot gets a token each step, and nothing else."""
        return self.slots / self.decode_step_s

    @property
    def decode_bound(self) -> str:
        """What a decode step waits for, `bandwidth` or `compute`."""
        return "compute" if self.step_compute_s > self.weights_s else "bandwidth"

    @property
    def prefill_bound(self) -> str:
        """What a prefill waits for, `bandwidth` or `compute`."""
        return "compute" if self.prefill_compute_s > self.weights_s else "bandwidth"

    @property
    def timing(self) -> Timing:
        """The floor as an endpoint's two times: what a perfect server on this machine would be."""
        return Timing(self.slots, self.prefill_s, self.decode_step_s, f"physical floor: {SOURCE}")

    def share(self, timing: Timing) -> Share:
        """How near to the floor an endpoint's times are, and why.

        Raises:
            WorkshopError: When its batch size is another.
        """
        if timing.slots != self.slots:
            raise WorkshopError(
                f"These times are of batch size {timing.slots} and this floor is of {self.slots}: "
                "ask for both with the same batch size."
            )
        decode = self.decode_step_s / timing.decode_step_s
        prefill = self.prefill_s / timing.prefill_s
        return Share(
            decode, prefill, f"{self._step(timing, decode)}; {self._fill(timing, prefill)}"
        )

    def _step(self, timing: Timing, share: float) -> str:
        said = f"{percent(share)} of the {self.decode_bound} floor: a step takes "
        said += f"{ms(timing.decode_step_s)}, "
        if self.decode_bound == "compute":
            said += f"computing {self.slots} tokens {ms(self.step_compute_s)}"
        else:
            said += f"reading the weights {ms(self.weights_s)}"
        left_out = f" (which leaves out what {self.cores} cores exchange, and the host)"
        return said + _rest(share, left_out)

    def _fill(self, timing: Timing, share: float) -> str:
        work = f"computing {self.padded_tokens:,} tokens"
        if self.prefill_bound == "bandwidth":
            work = "reading the weights"
        said = f"prefill takes {_s(timing.prefill_s)}, {work} {_s(self.prefill_s)} "
        said += f"({percent(share)})" + _rest(share, "")
        if self.prompt_tokens and self.padded_tokens > self.prompt_tokens:
            alone_s = max(self.weights_s, self.prompt_compute_s)
            said += f", and it pads {self.prompt_tokens:,} tokens to {self.padded_tokens:,}: alone "
            said += f"they need {_s(alone_s)}"
        return said


def of(
    model_id: str,
    *,
    instance_type: str,
    batch_size: int,
    sequence_length: int = 4096,
    prompt_tokens: int | None = None,
) -> Floor:
    """The floor of a model on an instance.

    Every parameter counts for every token; that embeddings are looked up and the head is needed
    for the last token only (3 % of 70 B) is left out, as usual. Beyond Llama 3, whose
    architectures are known, attention counts nothing: still a floor, a lower one.

    Args:
        model_id: Hugging Face model whose name says its size, e.g. `…-70B-Instruct`.
        instance_type: A key of `helpers.costs.INSTANCES`, with or without `ml.`.
        batch_size: Static batch size; above 1 every prefill is padded to the sequence length.
        sequence_length: Tokens a slot holds.
        prompt_tokens: Length of a prompt; None when it is not known, then a batch of 1 computes
            the least, one token.

    Raises:
        WorkshopError: When the model's name has no size, the instance is not in the table, or a
            number makes no sense.
    """
    billions = models.parameters_b(model_id)
    if billions is None:
        raise models.sizeless(model_id, ", so it has no floor: choose a name that says it.")
    machine, known = costs.instance(instance_type), models.architecture(model_id)
    slots = checks.whole("A batch size", batch_size, most=checks.MOST_SLOTS)
    length = checks.whole("A sequence length", sequence_length, most=checks.MOST_TOKENS)
    prompt = prompt_tokens
    if prompt is not None:
        prompt = checks.whole("The length of a prompt in a slot", prompt, most=length)
    bytes_per_s = machine.bandwidth_gb_s * 1e9
    operations_per_s = machine.bf16_tflops * 1e12
    padded = length if slots > 1 else prompt or 1

    def compute_s(tokens: int, *, attended: float = 0) -> float:
        attention = 4 * known.layers * known.heads * known.head_size * attended if known else 0
        return tokens * (2 * billions * 1e9 + attention) / operations_per_s

    def prefill_s(tokens: int) -> float:  # causal: a token attends to half of them on average
        return compute_s(tokens, attended=tokens / 2)

    return Floor(
        slots=slots,
        cores=machine.cores,
        weights_s=models.BYTES_PER_PARAMETER * billions * 1e9 / bytes_per_s,
        step_compute_s=compute_s(slots),
        prefill_compute_s=prefill_s(padded),
        prompt_compute_s=prompt and prefill_s(prompt),
        padded_tokens=padded,
        prompt_tokens=prompt,
    )


def _rest(share: float, why: str) -> str:
    """Why it is above the floor; below there is nothing but a mistake."""
    return why if share <= 1 else ", which no machine can: a time or a specification is wrong"


def _s(seconds: float) -> str:
    return f"{seconds:.2f} s"
