"""How many replicas it takes to keep limits, and what they cost."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import pandas as pd

from helpers import checks, costs, recipes
from helpers.capacity import response
from helpers.capacity.asked import Answers, Limits, Machine, answers_of, check_limits, rate_per_s
from helpers.capacity.response import Point
from helpers.errors import WorkshopError
from helpers.recipes import Recipe
from helpers.twin import Timing

HOURS_A_MONTH = 730  # 365 days / 12, as AWS's pricing calculator has it
_NEARLY_ALL = 0.98  # of the highest rate: beyond, a queue only grows
_STEPS = 8  # halvings between a rate and its double: it is then known to 0.4 % of itself
_ALMOST_IDLE = 0.001  # of the highest rate: nobody pays for a replica that does less
# For each of them: another seed moves the rate, and with it replicas and dollars, by 2 to 4 %
# (standard deviation of twelve seeds, a million people, batch 1 to 8, limits of TTFT and TPOT, two
# prefills and more), at most by twice that. Where few requests decide it is more: 7 % with a share
# of 0.99, 10 % with one of 0.998, and 6 % at a time to first token of 1.08 prefills. The largest
# are said: a few seeds more would tell no run's own any better.
_REQUESTS = 10_000
_CHANCE, _CHANCE_OF_FEW, _CHANCE_OF_FEWER = 0.05, 0.07, 0.10
_FEWER = 0.99  # a share above this one
_NEARLY_A_PREFILL = 1.5  # times a prefill: so short a limit
_MORE, _TRIES = 0.01, 50  # replicas at a time, where the answer does not hold, and how often


@dataclass(frozen=True)
class Sizing:
    """So many replicas keep the limits, as the model predicts.

    Attributes:
        machine: Each of them.
        limits: What they keep.
        rate_per_s: Requests a second that arrive altogether.
        sustained_per_s: Requests a second that one replica sustains within the limits.
        highest_per_s: Requests a second that it finishes at all.
        replicas: How many it takes.
        between: How many it takes with the fastest and with the slowest times that the machine may
            have (`Machine.between`); None in the second place when those do not keep the limits,
            however many there are. None altogether where nobody knows.
        each: What each of them does then.
        at_floor: How many it would take if each did as much as its memory and compute allow; None
            for a model of unknown size.
    """

    machine: Machine
    limits: Limits
    rate_per_s: float
    sustained_per_s: float
    highest_per_s: float
    replicas: int
    each: Point
    at_floor: int | None = None
    between: tuple[int, int | None] | None = None

    @property
    def chance(self) -> float:
        """How far another seed moves the number of replicas: see `chance`."""
        return chance(self.limits, self.machine.timing.prefill_s)

    @property
    def price_per_hour(self) -> float:
        """$ an hour for all of them."""
        return self.replicas * self.machine.price_per_hour

    @property
    def price_per_month(self) -> float:
        """$ a month of 730 hours."""
        return HOURS_A_MONTH * self.price_per_hour

    @property
    def per_million_tokens(self) -> float:
        """$ for a million output tokens."""
        return costs.per_million_tokens(
            self.each.tokens_per_s, price_per_hour=self.machine.price_per_hour
        )

    def table(self) -> pd.DataFrame:
        """The figures, a row each, all of them predicted."""
        each = self.each
        rows = {
            "requests/s": f"{self.rate_per_s:.4g}",
            "one replica sustains (requests/s)": f"{self.sustained_per_s:.3g}",
            "one replica at most (requests/s)": f"{self.highest_per_s:.3g}",
            "replicas": f"{self.replicas:,}",
            "replicas, if the two times are a little off": self._between_said(),
            "replicas at the physical floor": (
                "unknown" if self.at_floor is None else f"{self.at_floor:,}"
            ),
            "$/h": f"{self.price_per_hour:,.2f}",
            "$ a month (730 h)": f"{self.price_per_month:,.0f}",
            "$ per 1M output tokens": f"{self.per_million_tokens:,.2f}",
            "TTFT p50 (s)": f"{each.ttft_p50_s:.2f}",
            "TTFT p95 (s)": f"{each.ttft_p95_s:.2f}",
            "TPOT p95 (ms)": f"{1000 * each.tpot_p95_s:.1f}",
            "within the limits (%)": f"{100 * each.goodput(self.limits):.1f}",
            "output tokens/s, all": f"{self.replicas * each.tokens_per_s:,.1f}",
            "output tokens/s, each": f"{each.tokens_per_s:.1f}",
            "slots in use (%)": f"{100 * each.slots_used:.0f}",
        }
        return pd.DataFrame({"predicted": rows}).rename_axis(index="figure")

    def _between_said(self) -> str:
        if self.between is None:
            return f"unknown of {self.machine.unmeasured or 'briefly measured'} times"
        fewest, most = self.between
        if most == fewest:
            return f"{fewest:,}"
        return f"{fewest:,} to {'none keeps the limits' if most is None else f'{most:,}'}"


def chance(limits: Limits, prefill_s: float) -> float:
    """The most by which another seed moves a number of replicas, relative (standard deviation)."""
    if limits.goodput and limits.goodput > _FEWER:
        return _CHANCE_OF_FEWER
    is_short = limits.ttft_p95_s < _NEARLY_A_PREFILL * prefill_s
    return _CHANCE_OF_FEW if limits.goodput or is_short else _CHANCE


def replicas(
    endpoint: Machine | Recipe | str = recipes.DEFAULT,
    *,
    people: float,
    every_s: float,
    limits: Limits,
    answers: Answers | None = None,
    seed: int = 0,
) -> Sizing:
    """How many replicas it takes for people who ask every so many seconds.

    Args:
        endpoint: One replica: a machine, a recipe or its name; the workshop's by default.
        people: How many.
        every_s: Seconds from one of a person's questions to the next: an open loop, in which nobody
            asks less often because answers are slow.
        limits: What they are to get.
        answers: How long answers are.
        seed: Chooses arrivals and lengths.

    Raises:
        WorkshopError: When a number makes no sense, or no rate keeps the limits.
    """
    machine = Machine.of(endpoint)
    answers = answers_of(machine, answers)  # refused before anything is simulated
    check_limits(limits)
    seed = checks.whole("A seed", seed, least=0)
    rate = rate_per_s(people, every_s)
    found = for_rate(machine, rate, limits=limits, answers=answers, seed=seed)
    if machine.between:
        fastest, slowest = (
            _count(timing, rate, limits, answers, seed) for timing in machine.between
        )
        fewest = found.replicas if fastest is None else min(found.replicas, fastest)
        most = None if slowest is None else max(found.replicas, slowest)
        found = replace(found, between=(fewest, most))
    if machine.floor is None:
        return found
    return replace(found, at_floor=_count(machine.floor.timing, rate, limits, answers, seed))


def _count(timing: Timing, rate: float, limits: Limits, answers: Answers, seed: int) -> int | None:
    """How many it takes by the search alone; None when no number keeps the limits."""
    try:
        sustained, _ = sustained_rate_per_s(timing, limits, answers, seed=seed)
    except WorkshopError:
        return None
    return replicas_for(rate, sustained)


def replicas_for(rate: float, sustained: float) -> int:
    """Replicas for a rate, of which each sustains so much; at least one.

    Raises:
        WorkshopError: When it takes more than anybody has.
    """
    takes = max(1.0, rate / sustained - 1e-9)
    if takes > checks.MOST_REPLICAS:
        raise WorkshopError(
            f"It would take more than {checks.MOST_REPLICAS:,} replicas: ask for fewer people, or "
            "allow more."
        )
    return math.ceil(takes)


def for_rate(
    machine: Machine, arriving: float, *, limits: Limits, answers: Answers, seed: int = 0
) -> Sizing:
    """How many replicas it takes for so many requests a second; see `replicas`."""
    answers = answers_of(machine, answers)
    sustained, highest = sustained_rate_per_s(machine.timing, limits, answers, seed=seed)
    takes = replicas_for(arriving, sustained)
    for _ in range(_TRIES):
        each = response.at_rate(machine.timing, arriving / takes, answers=answers, seed=seed)
        if each.keeps(limits):
            return Sizing(machine, limits, arriving, sustained, highest, takes, each)
        # More requests than the search had say otherwise.
        sustained = min(sustained, arriving / (takes + math.ceil(_MORE * takes)))
        takes += math.ceil(_MORE * takes)
    raise _too_tight(limits)


@lru_cache(maxsize=64)  # more people, the same replica
def sustained_rate_per_s(
    timing: Timing, limits: Limits, answers: Answers, *, seed: int = 0
) -> tuple[float, float]:
    """Requests a second that a replica sustains within the limits, and that it finishes at all.

    By halving, with the same arrivals at each rate: first down to a rate that keeps the limits,
    then between it and its double.

    Raises:
        WorkshopError: When no rate keeps the limits; says what the least possible is.
    """
    _check_possible(timing, limits, answers)
    highest = response.highest_rate_per_s(timing, answers, seed=seed)

    def keeps(share: float) -> bool:
        rate = share * highest
        point = response.at_rate(timing, rate, answers=answers, requests=_REQUESTS, seed=seed)
        return point.keeps(limits)

    if keeps(_NEARLY_ALL):
        return _NEARLY_ALL * highest, highest
    low = _NEARLY_ALL / 2
    while not keeps(low):
        low /= 2
        if low < _ALMOST_IDLE:
            raise _too_tight(limits)
    high = 2 * low
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low * highest, highest


def _too_tight(limits: Limits) -> WorkshopError:
    return WorkshopError(
        f"Only an almost idle replica keeps {limits}: allow more, or choose a faster machine."
    )


def _check_possible(timing: Timing, limits: Limits, answers: Answers) -> None:
    """Refuse what even a lone request does not get."""
    if not limits.keeps_ttft(timing.prefill_s):
        raise WorkshopError(
            f"No number of replicas brings the first token within {limits.ttft_p95_s:g} s: a "
            f"prefill alone takes {timing.prefill_s:.3g} s, which is the least possible."
        )
    least_s = timing.decode_step_s if answers.tokens > 1 else 0.0
    if not limits.keeps_tpot(least_s):
        raise WorkshopError(
            f"No number of replicas brings a token every {1000 * limits.tpot_p95_s:g} ms: a decode "
            f"step takes {1000 * least_s:.3g} ms, which is the least possible."
        )
