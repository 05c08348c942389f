"""What is asked about: a machine, the people who ask it, its answers, and the limits to keep."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from helpers import checks, configured, costs, floor, models, recipes, twin
from helpers.errors import WorkshopError
from helpers.floor import Floor
from helpers.recipes import Recipe
from helpers.results import Run
from helpers.twin import Calibration, Timing

OUTPUT_TOKENS, OUTPUT_TOKENS_STDDEV = 250, 50  # what the published tables sent (results/published)
# The search for a rate counts 9,000 simulated requests: with this share 18 of them may miss, and
# other seeds move the rate by up to 10 % (`sizing.chance`). With fewer, chance alone decides.
MOST_GOODPUT = 0.998
_NOISE = 1e-5  # relative: a wait is the difference of two long times


@dataclass(frozen=True)
class Machine:
    """One replica: an instance that serves a model at a batch size, scheduled as TGI does.

    Attributes:
        instance_type: SageMaker instance type, with `ml.`.
        timing: Its slots and its two times.
        model_id: Hugging Face model.
        sequence_length: Tokens of a slot.
        between: The fastest and the slowest times it may have, by what is known of them: of a run
            its intervals, of published ones `twin.between`; None where nobody knows (derived
            times), where somebody decided (given ones), and where a run is too short to say.
    """

    instance_type: str
    timing: Timing
    model_id: str
    sequence_length: int = 4096
    between: tuple[Timing, Timing] | None = None

    def __post_init__(self):
        costs.instance(self.instance_type)  # no answer without a price
        checks.whole("A sequence length", self.sequence_length, most=checks.MOST_TOKENS)
        checks.whole("A batch size", self.timing.slots, most=checks.MOST_SLOTS)
        checks.seconds("A prefill in seconds", self.timing.prefill_s)
        checks.seconds("A decode step in seconds", self.timing.decode_step_s)
        if not isinstance(self.model_id, str):
            raise WorkshopError(f"A model is its name on the Hub, not {self.model_id!r}.")

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
        batch_size = checks.whole("A batch size", batch_size, most=checks.MOST_SLOTS)
        sequence_length = checks.whole(
            "A sequence length", sequence_length, most=checks.MOST_TOKENS
        )
        name = costs.instance(instance_type).name
        if times_s is None:
            timing = twin.timing(
                model_id,
                instance_type=name,
                batch_size=batch_size,
                sequence_length=sequence_length,
            )
        else:
            timing = Timing(batch_size, *_two_times(times_s), source="given")
        machine = cls(name, timing, model_id, sequence_length, twin.between(timing))
        machine.check_memory()
        return machine

    @classmethod
    def of(cls, endpoint: "Machine | Recipe | str" = recipes.DEFAULT) -> "Machine":
        """A machine as it is, or that of a recipe, with published times where there are any."""
        if isinstance(endpoint, cls):
            return endpoint
        recipe = recipes.get(endpoint) if isinstance(endpoint, str) else endpoint
        if not isinstance(recipe, Recipe):
            raise WorkshopError(
                f"An endpoint is a capacity.Machine, a recipe or a recipe's name, not {endpoint!r}."
            )
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
        found = twin.calibrate(run, batch_size=batch_size)
        timing = found.timing(batch_size)
        return cls(
            endpoint.get("instance_type") or "",
            timing,
            served.model_id or "",
            served.sequence_length,
            _within_intervals(found, timing),
        )

    @property
    def unmeasured(self) -> str:
        """`derived` or `given`, for times that nobody measured; else empty."""
        source = self.timing.source
        return next((one for one in ("derived", "given") if source.startswith(one)), "")

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
        if models.parameters_b(self.model_id) is None:
            return  # nobody knows what it takes
        there_gb = models.hbm_gb(costs.instance(self.instance_type).cores)
        takes = models.memory(
            self.model_id, batch_size=self.timing.slots, sequence_length=self.sequence_length
        )
        room_gb = models.TIGHT * there_gb
        if takes.needed_gb > room_gb:
            smaller = "" if takes.weights_gb > room_gb else " or a smaller batch"
            raise WorkshopError(
                f"Weights and KV cache take {takes.needed_gb:,.0f} GB, and a tenth of the "
                f"{there_gb:.0f} GB has to stay free: choose a larger instance{smaller}."
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
        most = checks.MOST_TOKENS
        checks.number("The mean of output tokens", self.tokens, least=1, most=most)
        checks.number("The standard deviation of output tokens", self.stddev, least=0)
        try:
            self.lengths(seed=0)
        except ValueError as error:  # another mean than the one asked for would come
            raise WorkshopError(str(error)) from error

    @classmethod
    def of_run(cls, run: Run) -> "Answers":
        """How long the answers of a run were.

        Raises:
            WorkshopError: When it has none.
        """
        tokens = [
            one.output_tokens
            for one in run.records
            if one.phase == "measured" and one.error is None and one.output_tokens
        ]
        if not tokens:
            raise WorkshopError(f"{run.path.name} has no complete answer: take another run.")
        return cls(statistics.fmean(tokens), statistics.pstdev(tokens))

    def __str__(self) -> str:
        if self.stddev:
            return f"{self.tokens:.4g} ± {self.stddev:.3g} tokens"
        return "1 token" if self.tokens == 1 else f"{self.tokens:.4g} tokens"

    def lengths(self, seed: int) -> Iterator[int]:
        """One figure a request, without an end."""
        return twin.lengths(self.tokens, self.stddev, seed)

    @property
    def longest(self) -> float:
        """Tokens that 98 of 100 answers do not exceed: two deviations above the mean."""
        return self.tokens + 2 * self.stddev


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
        checks.seconds("The limit of the time to first token", self.ttft_p95_s)
        if self.tpot_p95_s is not None:
            checks.seconds("The limit of the time per output token", self.tpot_p95_s)
        if self.goodput is not None and not (
            checks.is_number(self.goodput) and 0 < self.goodput < 1
        ):
            raise WorkshopError(
                f"The share of good requests lies between 0 and 1, as 0.99 does, not "
                f"{self.goodput!r}."
            )
        if self.goodput is not None and self.goodput > MOST_GOODPUT:
            raise WorkshopError(
                f"A share of {self.goodput!r} is more than the 9,000 simulated requests can tell: "
                f"ask for at most {MOST_GOODPUT}."
            )

    def keeps_ttft(self, ttft_s: Any) -> Any:
        """Whether a time to first token is within its limit; an array for an array."""
        return ttft_s <= (1 + _NOISE) * self.ttft_p95_s

    def keeps_tpot(self, tpot_s: Any) -> Any:
        """The same of a time per output token; every one is when it has no limit."""
        return tpot_s <= (1 + _NOISE) * (math.inf if self.tpot_p95_s is None else self.tpot_p95_s)

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
    checks.number("The number of people", people, least=1, most=checks.MOST_PEOPLE)
    checks.seconds("The time between a person's questions in seconds", every_s)
    return people / every_s


def answers_of(machine: Machine, answers: Answers | None) -> Answers:
    """How long a machine's answers are, the usual ones without others.

    Raises:
        WorkshopError: When they are none, or do not fit into a slot.
    """
    return check_answers(answers, machine.sequence_length)


def check_answers(answers: Answers | None, sequence_length: int) -> Answers:
    """How long answers in slots of so many tokens are, the usual ones without others.

    Raises:
        WorkshopError: When they are none, or do not fit into a slot.
    """
    answers = Answers() if answers is None else answers
    if not isinstance(answers, Answers):
        raise WorkshopError(f"How long answers are is a capacity.Answers, not {answers!r}.")
    if answers.longest >= sequence_length:
        raise WorkshopError(
            f"Answers of {answers.tokens:g} +- {answers.stddev:g} tokens do not fit into a slot of "
            f"{sequence_length:,}, which holds the prompt as well: ask for shorter answers "
            "or a longer sequence."
        )
    return answers


def check_limits(limits: Limits) -> None:
    """Refuse what is no limits.

    Raises:
        WorkshopError: When it is none.
    """
    if not isinstance(limits, Limits):
        raise WorkshopError(
            f"What people are to get is a capacity.Limits, as Limits(ttft_p95_s=3), not {limits!r}."
        )


def _two_times(times_s: Any) -> tuple[float, float]:
    try:
        prefill_s, decode_step_s = times_s
    except (TypeError, ValueError) as error:
        raise WorkshopError(
            f"The times are two, of a prefill and of a decode step, not {times_s!r}."
        ) from error
    return (
        checks.seconds("A prefill in seconds", prefill_s),
        checks.seconds("A decode step in seconds", decode_step_s),
    )


def _within_intervals(found: Calibration, timing: Timing) -> tuple[Timing, Timing] | None:
    """The fastest and the slowest times that a run may have measured."""
    intervals = found.prefill_ci95_s, found.decode_step_ci95_s
    if None in intervals:
        return None
    fastest, slowest = zip(*intervals, strict=True)
    return tuple(
        replace(
            timing,
            prefill_s=max(checks.LEAST_S, prefill_s),
            decode_step_s=max(checks.LEAST_S, decode_step_s),
        )
        for prefill_s, decode_step_s in (fastest, slowest)
    )
