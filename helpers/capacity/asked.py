"""What is asked about: a machine, the people who ask it, its answers, and the limits to keep."""

from collections.abc import Iterator
from dataclasses import dataclass

from helpers import checks, configured, costs, floor, models, recipes, twin
from helpers.errors import WorkshopError
from helpers.floor import Floor
from helpers.recipes import Recipe
from helpers.results import Run
from helpers.twin import Timing

OUTPUT_TOKENS, OUTPUT_TOKENS_STDDEV = 250, 50  # what the published tables sent (results/published)


@dataclass(frozen=True)
class Machine:
    """One replica: an instance that serves a model at a batch size, scheduled as TGI does.

    Attributes:
        instance_type: SageMaker instance type, with `ml.`.
        timing: Its slots and its two times.
        model_id: Hugging Face model.
        sequence_length: Tokens of a slot.
    """

    instance_type: str
    timing: Timing
    model_id: str
    sequence_length: int = 4096

    def __post_init__(self):
        costs.instance(self.instance_type)  # no answer without a price

    @classmethod
    def named(
        cls,
        model_id: str,
        *,
        instance_type: str,
        batch_size: int,
        sequence_length: int = 4096,
        times_s: tuple[float, float] | None = None,
    ) -> "Machine":
        """A machine with given times of prefill and decode step, else published or derived ones.

        Raises:
            WorkshopError: When nobody knows its times or its price, or the model does not fit.
        """
        batch_size = checks.whole("A batch size", batch_size)
        sequence_length = checks.whole("A sequence length", sequence_length)
        name = costs.instance(instance_type).name
        if times_s is None:
            timing = twin.timing(model_id, instance_type=name, batch_size=batch_size)
        else:
            try:
                timing = Timing(batch_size, *times_s, source="given")
            except ValueError as error:
                raise WorkshopError(str(error)) from error
        machine = cls(name, timing, model_id, sequence_length)
        machine.check_memory()
        return machine

    @classmethod
    def of(cls, endpoint: "Machine | Recipe | str" = recipes.DEFAULT) -> "Machine":
        """A machine as it is, or that of a recipe, with published times where there are any."""
        if isinstance(endpoint, cls):
            return endpoint
        recipe = recipes.get(endpoint) if isinstance(endpoint, str) else endpoint
        return cls.named(
            recipe.model_id,
            instance_type=recipe.instance_type,
            batch_size=recipe.batch_size,
            sequence_length=recipe.sequence_length,
        )

    @classmethod
    def of_run(cls, run: Run, *, batch_size: int | None = None) -> "Machine":
        """The machine that a run measured, with the times that the run gives.

        Raises:
            WorkshopError: When the run does not say what it measured, or tells no times.
        """
        endpoint = run.config["endpoint"]
        served = configured.shape(endpoint)
        timing = twin.calibrate(run, batch_size=batch_size).timing(batch_size)
        length = served.sequence_length or cls.sequence_length
        return cls(endpoint.get("instance_type") or "", timing, served.model_id or "", length)

    @property
    def price_per_hour(self) -> float:
        """$ an hour as a SageMaker endpoint of one replica."""
        return costs.price_per_hour(self.instance_type)

    @property
    def floor(self) -> Floor | None:
        """The shortest times that memory and compute allow; None for a model of unknown size."""
        if models.parameters_b(self.model_id) is None:
            return None
        return floor.of(
            self.model_id,
            instance_type=self.instance_type,
            batch_size=self.timing.slots,
            sequence_length=self.sequence_length,
        )

    def check_memory(self) -> None:
        """Refuse what does not leave a tenth of the memory free, where `preflight` warns.

        Raises:
            WorkshopError: When it does not.
        """
        there_gb = models.hbm_gb(costs.instance(self.instance_type).cores)
        takes = models.memory(
            self.model_id, batch_size=self.timing.slots, sequence_length=self.sequence_length
        )
        if takes.needed_gb > models.TIGHT * there_gb:
            raise WorkshopError(
                f"Weights and KV cache take {takes.needed_gb:,.0f} GB, and a tenth of the "
                f"{there_gb:.0f} GB has to stay free: choose a larger instance or a smaller batch."
            )

    def __str__(self) -> str:
        timing = self.timing
        return (
            f"{self.model_id.rpartition('/')[2]} on {self.instance_type.removeprefix('ml.')}, "
            f"batch {timing.slots}: prefill {timing.prefill_s:.4g} s, decode step "
            f"{1000 * timing.decode_step_s:.4g} ms ({timing.source or 'given'})"
        )


@dataclass(frozen=True)
class Answers:
    """How long answers are: normally distributed, at least one token.

    Attributes:
        tokens: Mean output tokens.
        stddev: Their standard deviation.
    """

    tokens: float = OUTPUT_TOKENS
    stddev: float = OUTPUT_TOKENS_STDDEV

    def __post_init__(self):
        checks.number("The mean of output tokens", self.tokens, least=1)
        checks.number("The standard deviation of output tokens", self.stddev, least=0)

    def lengths(self, seed: int) -> Iterator[int]:
        """One figure a request, without an end."""
        return twin.lengths(self.tokens, self.stddev, seed)


@dataclass(frozen=True)
class Limits:
    """What people are to get; every limit that is given has to hold.

    Attributes:
        ttft_p95_s: Seconds to the first token that 95 of 100 requests keep.
        tpot_p95_s: Seconds per output token after the first that 95 of 100 requests keep.
        goodput: Share of requests that has to keep both of these at once.
    """

    ttft_p95_s: float
    tpot_p95_s: float | None = None
    goodput: float | None = None

    def __post_init__(self):
        checks.number("The limit of the time to first token", self.ttft_p95_s, above=0)
        if self.tpot_p95_s is not None:
            checks.number("The limit of the time per output token", self.tpot_p95_s, above=0)
        if self.goodput is not None and not (
            checks.is_number(self.goodput) and 0 < self.goodput < 1
        ):
            raise WorkshopError(
                f"The share of good requests lies between 0 and 1, as 0.99 does, not "
                f"{self.goodput!r}."
            )

    def __str__(self) -> str:
        words = f"TTFT p95 {self.ttft_p95_s:g} s"
        if self.tpot_p95_s is not None:
            words += f", TPOT p95 {1000 * self.tpot_p95_s:g} ms"
        return words + (f", {100 * self.goodput:g} % within" if self.goodput else "")


def rate_per_s(people: float, every_s: float) -> float:
    """Requests a second of people who ask every so many seconds, whatever they wait for.

    That is an open loop: nobody asks less often because answers are slow, which people do. It errs
    on the safe side.
    """
    checks.number("The number of people", people, above=0)
    checks.number("The seconds between a person's questions", every_s, above=0)
    return people / every_s
