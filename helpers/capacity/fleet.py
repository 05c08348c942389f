"""A day of a fleet that auto scaling makes larger and smaller: what it costs, and who waits.

No single request is simulated here, so that a million people take no longer than ten. A replica is
what the twin says it does at a rate (`response.Curve`), and how many requests are in flight follows
from what arrives and what leaves: the "pointwise stationary fluid flow approximation" of queueing
theory (Wang, Tipper and Banerjee, 1996). Tests compare it with replicas simulated request by
request: the share within the limit is the same within one point for a fleet whose changes are
given, within two for one that is overloaded. In between, at 95 to 105 % of the highest rate for
hours, chance drives replicas apart and it is rough: 38 % instead of 46 % was seen.

The policy is the one of `helpers/scaling/by_policy.py`: target tracking of the requests in flight
per replica. It looks at what the rehearsal AWS's alarms look at, the highest number within ten
seconds of all replicas together, divided by their number; that AWS takes the maximum is
[unverified]. Chance is in that number: it is drawn, around the mean, with the variance that the
twin shows. Compared with fleets of 1 to 100 replicas that are scaled request by request, dollars
are the same within 5 %, and the share within the limit is the same where it is kept by much, one to
three points too low near it. There days differ by as much: one low datapoint may take away most of
a small fleet (`Day.within_by_day`).
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from helpers import checks, models, recipes
from helpers.capacity.asked import Answers, Limits, Machine, answers_of, check_limits, rate_per_s
from helpers.capacity.response import Curve
from helpers.capacity.sizing import HOURS_A_MONTH, for_rate
from helpers.errors import WorkshopError
from helpers.recipes import Recipe
from helpers.target_tracking import (
    COOLDOWN_S,
    HIGH_DATAPOINTS,
    LOW_S,
    LOW_SHARE,
    SAMPLE_S,
    SCALE_IN_S,
)

STEP_S = int(SAMPLE_S)  # a datapoint of the metric that is tracked
DAY_S, HOUR_S = 86_400, 3_600
CHANCE_DAYS = 4  # of a fleet that is scaled, judged together: chance makes no two alike

# Share of the people who are there at each hour: office hours of one time zone. Assumed, nobody's
# measurement: give your own.
OFFICE_HOURS = (
    *(0.04, 0.03, 0.02, 0.02, 0.03, 0.06, 0.15, 0.40, 0.75, 0.95, 1.00, 0.95),
    *(0.80, 0.85, 0.95, 0.95, 0.90, 0.70, 0.40, 0.25, 0.18, 0.12, 0.08, 0.05),
)
# Of what the limits allow on average; a policy looks at the highest, which is more.
_TARGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0)
_LOWER = 0.8  # of one target is the next
_LEAST_TARGET = 0.01  # requests at a time
_AT_REST = 0.95  # of the highest rate: a fleet may begin a day so busy, and no busier
_LONGER = 0.01  # so much longer may a queue be at the end of the last day than of the first
_LOOKS = 10  # at the number in flight, within a step
_NEARLY_THE_LEAST = 0.005  # relative
_ALIKE = 0.01  # replicas whose numbers in flight differ by so little are counted together


@dataclass(frozen=True)
class Policy:
    """What a target tracking policy is told; see `scaling.track`.

    Attributes:
        concurrent_per_replica: Requests at a time that each replica is to have.
        minimum: Replicas it keeps at least.
        maximum: Replicas it goes up to.
        scale_in_cooldown_s: Seconds between the end of one scale-in and the next.
        scale_out_cooldown_s: The same of scale-outs.
    """

    concurrent_per_replica: float
    minimum: int = 1
    maximum: int = 1
    scale_in_cooldown_s: float = COOLDOWN_S
    scale_out_cooldown_s: float = COOLDOWN_S

    def __post_init__(self):
        most = checks.MOST_REPLICAS
        checks.whole("The least number of replicas", self.minimum, most=most)
        checks.whole("The largest number of replicas", self.maximum, most=most)
        if self.minimum > self.maximum:
            raise WorkshopError(
                f"A policy has {self.minimum} to {self.maximum} replicas: let the first not be "
                "larger."
            )
        target, name = self.concurrent_per_replica, "The policy's number of requests at a time"
        checks.number(name, target, least=_LEAST_TARGET, most=checks.MOST_USERS)
        for cooldown_s in (self.scale_in_cooldown_s, self.scale_out_cooldown_s):
            checks.number("A cooldown in seconds", cooldown_s, least=0, most=checks.MOST_S)

    @property
    def changes(self) -> bool:
        """Whether there is anything for it to change."""
        return self.minimum < self.maximum


@dataclass(frozen=True, eq=False)
class Day:
    """What a fleet does on a day that is like the day before.

    Chance decides when a policy acts, so no two days of a fleet that is scaled are alike: its
    figures are those of `CHANCE_DAYS` days together, of a constant fleet those of one.

    Attributes:
        machine: Each replica.
        policy: What changes their number.
        limits: What people are to get.
        steps: Every ten seconds of all these days: `people`, `rate_per_s`, `replicas` that serve,
            `billed` ones, and `in_flight`, the requests under way or queued per replica on average.
        constant: The same day of a fleet that always has as many replicas as the peak takes; None
            for a constant fleet itself.
        cheapest_constant: The same of the fewest replicas that keep the limit over the day, as a
            policy is to; None where `constant` is.
    """

    machine: Machine
    policy: Policy
    limits: Limits
    steps: pd.DataFrame
    _waits: "_Waits" = field(repr=False)
    constant: "Day | None" = None
    cheapest_constant: "Day | None" = None

    @cached_property
    def hours(self) -> pd.DataFrame:
        """One row an hour, for people."""
        hour = self.steps.index % DAY_S // HOUR_S
        rows = [
            _hour(number, some, self._waits.of_hour(number), self.limits, self._price(some))
            for number, some in self.steps.groupby(hour)
        ]
        return pd.DataFrame(rows).set_index("hour")

    @cached_property
    def within(self) -> float:
        """Share of the requests whose first token comes within the limit."""
        return self._waits.within(self.limits)

    @cached_property
    def within_by_day(self) -> tuple[float, ...]:
        """The same of each of the days."""
        days = range(self._days)
        return tuple(self._waits.of_day(number).within(self.limits) for number in days)

    @cached_property
    def ttft_p95_s(self) -> float:
        """Time to first token that 95 of 100 of the requests keep."""
        return self._waits.quantile(0.95)

    @property
    def price_per_day(self) -> float:
        """$, on average."""
        return self._price(self.steps)

    @property
    def _days(self) -> int:
        return len(self.steps) * STEP_S // DAY_S

    def _price(self, steps: pd.DataFrame) -> float:
        """$ of some steps, on an average day."""
        billed_s = float(steps["billed"].sum()) * STEP_S / self._days
        return self.machine.price_per_hour * billed_s / HOUR_S

    @property
    def kept(self) -> bool:
        """Whether 95 of 100 of all requests keep the limit, however many miss it in some hour."""
        return math.isnan(self.ttft_p95_s) or bool(self.limits.keeps_ttft(self.ttft_p95_s))

    @property
    def price_per_month(self) -> float:
        """$ a month of 730 hours."""
        return HOURS_A_MONTH / 24 * self.price_per_day

    @property
    def hours_that_miss(self) -> int:
        """Hours of which fewer than 95 of 100 requests keep the limit."""
        return int((self.hours["within the limit (%)"] < 95).sum())

    def totals(self) -> pd.DataFrame:
        """What the day comes to, beside constant fleets; all of it predicted."""
        days = {"scaled by the policy": self}
        if self.constant and self.cheapest_constant:
            days |= {
                "constant, cheapest over the day": self.cheapest_constant,
                "constant, for the peak": self.constant,
            }
        rows = {
            name: {
                "replicas": _span(one.steps["replicas"]),
                "$ a day": f"{one.price_per_day:,.0f}",
                "$ a month": f"{one.price_per_month:,.0f}",
                "TTFT p95 (s)": f"{one.ttft_p95_s:.2f}",
                "kept over the day": "yes" if one.kept else "no",
                "within the limit (%)": one.within_said(),
                "hours that miss": f"{one.hours_that_miss}",
            }
            for name, one in days.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(index="fleet (predicted)")

    def within_said(self) -> str:
        """The share within the limit, of all the days and from the worst to the best of them."""
        said = f"{100 * self.within:.1f}"
        if len(self.within_by_day) == 1:
            return said
        return (
            f"{said} ({100 * min(self.within_by_day):.1f} to {100 * max(self.within_by_day):.1f})"
        )


def day(
    endpoint: Machine | Recipe | str = recipes.DEFAULT,
    *,
    people: float,
    every_s: float,
    limits: Limits,
    answers: Answers | None = None,
    shape: Sequence[float] = OFFICE_HOURS,
    policy: Policy | None = None,
    seed: int = 0,
) -> Day:
    """A day of a fleet under a policy, beside constant fleets.

    Without a policy it is the one with the highest target, of fifteen or more, that keeps the limit
    over the day; when none does, the lowest (`Day.kept` says so).

    Args:
        endpoint: One replica: a machine, a recipe or its name; the workshop's by default.
        people: How many there are at the peak.
        every_s: Seconds from one of a person's questions to the next; see `sizing.replicas`.
        limits: What they are to get; a day is judged by the time to first token alone.
        answers: How long answers are.
        shape: Share of the people who are there, 24 numbers from 0 to 1, each for a whole hour;
            in between it is a straight line from one half hour to the next.
        policy: What changes the number of replicas.
        seed: Chooses arrivals, lengths, and what chance has the policy see.

    Raises:
        WorkshopError: When a number makes no sense, no rate keeps the limit, or more requests come
            than the policy ever serves, so that the queue is longer every day.
    """
    machine = Machine.of(endpoint)
    answers = answers_of(machine, answers)
    check_limits(limits)
    if not isinstance(policy, Policy | None):
        raise WorkshopError(f"A policy is a capacity.Policy, not {policy!r}.")
    seed = checks.whole("A seed", seed, least=0)
    if limits.tpot_p95_s is not None or limits.goodput is not None:
        raise WorkshopError(
            "A day is judged by the time to first token alone: leave the other limits out."
        )
    share, rate = _over_a_day(shape), rate_per_s(people, every_s)
    there, arriving = people * share, rate * share
    sized = for_rate(machine, arriving.max(), limits=limits, answers=answers, seed=seed)
    sustained, peak = sized.sustained_per_s, sized.replicas
    curve = Curve.of(machine.timing, answers, seed=seed)
    steady = Policy(1.0, peak, peak)
    run = _Run(machine, curve, limits, there, arriving, seed)
    constant = run.under(steady)
    found = run.under_the_best(sustained, peak) if policy is None else run.under(policy)
    return replace(found, constant=constant, cheapest_constant=run.cheapest_constant(constant))


def _over_a_day(shape: Sequence[float]) -> np.ndarray:
    """Shares at every step, from one an hour."""
    try:
        shares = np.asarray(list(shape), float)
    except (TypeError, ValueError):
        shares = np.empty(0)
    if shares.shape != (24,) or not ((shares >= 0) & (shares <= 1)).all() or not shares.any():
        raise WorkshopError(
            "The shape of a day is 24 numbers from 0 to 1, one an hour, and not all of them 0."
        )
    middles_s = (np.arange(24) + 0.5) * HOUR_S
    return np.interp(np.arange(0, DAY_S, STEP_S), middles_s, shares, period=DAY_S)


@dataclass
class _Run:
    """What does not depend on the policy."""

    machine: Machine
    curve: Curve
    limits: Limits
    people: np.ndarray
    arriving: np.ndarray
    seed: int

    @property
    def startup_s(self) -> float:
        """Seconds until a replica that is wanted serves."""
        return models.startup_s(self.machine.model_id)

    def under_the_best(self, sustained: float, peak: int) -> Day:
        """The highest target that keeps the limit over the day, else the lowest, by halving.

        What grows needs room above the peak.
        """
        targets = self._targets(sustained)
        maximum = min(2 * peak, checks.MOST_REPLICAS)

        def with_target(target: float) -> Day:
            return self.under(Policy(target, 1, maximum), endless=True)

        best, low, high = None, 0, len(targets)
        while high - low > 1:
            middle = (low + high) // 2
            found = with_target(targets[middle])
            if found.kept:
                best, low = found, middle
            else:
                high = middle
        return best or with_target(targets[0])

    def _targets(self, sustained: float) -> list[float]:
        """What a policy may be told, ascending."""
        allowed = float(np.interp(sustained, self.curve.rate_per_s, self.curve.in_flight))
        targets = [max(share * allowed, _LEAST_TARGET) for share in _TARGETS]
        # A limit that allows a long queue allows far more in flight than there are slots. Whoever
        # waits for that before adding a replica adds it too late.
        while targets[0] > _TARGETS[0] * self.machine.timing.slots:
            targets.insert(0, _LOWER * targets[0])
        return targets

    def cheapest_constant(self, constant: Day) -> Day:
        """The smallest fleet of one size that keeps the limit over the day, none above a given one.

        By halving; of a thousand replicas it is five that do not matter.
        """
        low, high = 0, constant.policy.maximum
        while high - low > max(1, _NEARLY_THE_LEAST * high):
            middle = (low + high) // 2
            found = self.under(Policy(1.0, middle, middle), endless=True)
            if found.kept:
                high, constant = middle, found
            else:
                low = middle
        return constant

    def under(self, policy: Policy, *, endless: bool = False) -> Day:
        """Equal days, without the first unless the others are like it.

        Refused when the queue grows, unless it may.
        """
        fleet = _Fleet(self, policy)
        days = [fleet.pass_day()]
        if not policy.changes and fleet.is_at_rest(days[0][-1]):
            return self._told(policy, days[0])  # the next would be the same
        days += [fleet.pass_day() for _ in range(CHANCE_DAYS if policy.changes else 1)]
        first, last = (one[-1].serving * one[-1].in_flight for one in (days[0], days[-1]))
        if last > (1 + _LONGER) * first + days[-1][-1].serving and not endless:
            raise WorkshopError(
                "More requests come in a day than the policy's replicas serve, so the queue has no "
                f"end: let it have more than {policy.maximum:,}, or fewer than "
                f"{policy.concurrent_per_replica:g} requests at a time each."
            )
        return self._told(policy, [seen for one in days[1:] for seen in one])

    def _told(self, policy: Policy, seen: list["_Seen"]) -> Day:
        days = len(seen) * STEP_S // DAY_S
        arriving = np.tile(self.arriving, days)
        steps = pd.DataFrame(
            {
                "people": np.tile(self.people, days),
                "rate_per_s": arriving,
                "replicas": [one.serving for one in seen],
                "billed": [one.billed for one in seen],
                "in_flight": [one.in_flight for one in seen],
            },
            index=pd.Index(np.arange(0, days * DAY_S, STEP_S), name="second"),
        )
        waits = _Waits.of(self.curve, arriving, seen)
        return Day(self.machine, policy, self.limits, steps, waits)


# --- the policy -----------------------------------------------------------------------------


class _Tracking:
    """A target tracking policy, which looks at a datapoint every ten seconds.

    Attributes:
        desired: Replicas it wants; those that start or are on their way out bill, too.
    """

    def __init__(self, policy: Policy, startup_s: float, begins_with: int):
        self._policy, self._startup_s = policy, startup_s
        self.desired = begins_with
        self._above = self._below = 0
        self._now_s = self._ready_s = 0.0
        self._out_s = self._in_s = -math.inf

    def look(self, value: float, serving: int) -> int:
        """Count a datapoint, end a change that is due, or begin one: how many serve from now on."""
        self._now_s += STEP_S
        target = self._policy.concurrent_per_replica
        self._above = self._above + 1 if value > target else 0
        self._below = self._below + 1 if value < LOW_SHARE * target else 0
        if self.desired != serving:
            return self._end_change(serving)
        wanted = math.ceil(round(serving * value / target, 6))
        is_out = self._above >= HIGH_DATAPOINTS and self._now_s >= (
            self._out_s + self._policy.scale_out_cooldown_s
        )
        is_in = self._below * STEP_S >= LOW_S and self._now_s >= (
            self._in_s + self._policy.scale_in_cooldown_s
        )
        if is_out and wanted > serving:
            self.desired = min(wanted, self._policy.maximum)
            self._ready_s = self._now_s + self._startup_s
        elif is_in and wanted < serving:
            self.desired = max(wanted, self._policy.minimum)
            self._ready_s = self._now_s + SCALE_IN_S
        return serving

    def _end_change(self, serving: int) -> int:
        """Nothing else is changed until the replicas have come or gone."""
        if self._now_s < self._ready_s:
            return serving
        if self.desired > serving:
            self._out_s = self._now_s
        else:
            self._in_s = self._now_s
        return self.desired


def _begins_with(run: _Run, policy: Policy) -> int:
    """Replicas that the policy wants when the last rate of the day has been there for long."""
    target = policy.concurrent_per_replica
    each = np.interp(target, run.curve.in_flight, run.curve.rate_per_s)
    wanted = math.ceil(run.arriving[-1] / float(each))
    return min(policy.maximum, max(policy.minimum, wanted))


# --- ten seconds ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    """The fleet at the end of a step.

    Attributes:
        serving: Replicas that serve.
        billed: Replicas that bill: also those that start or are on their way out.
        in_flight: Requests in flight per replica.
        groups: Replicas with equally many in flight: how many they are, and that number.
    """

    serving: int
    billed: int
    in_flight: float
    groups: tuple[tuple[int, float], ...]


class _Fleet:
    """Replicas by how many requests each has in flight on average.

    New replicas begin empty beside others that have a queue, and random routing does not mind: so
    replicas are kept in groups, and groups that have become alike are joined.

    The policy's datapoints also have chance in them, all replicas' together: around the mean the
    number in flight goes up and down with the variance that the twin shows, and as fast as requests
    come and leave (an Ornstein-Uhlenbeck process).
    """

    def __init__(self, run: "_Run", policy: Policy):
        curve = run.curve
        # Backward Euler: in flight afterwards + what left = in flight before + what came, which is
        # read off this sum. It stays stable where a replica is quicker than a step.
        self._in_flight = curve.in_flight.tolist()
        self._sum = (curve.in_flight + STEP_S * curve.rate_per_s).tolist()
        self._rate, self._variance = curve.rate_per_s, curve.variance
        self._is_tracked = policy.changes
        self._random = np.random.default_rng((run.seed, 1))
        self._off = 0.0  # from the mean, in standard deviations
        self._arriving = run.arriving
        begins_with = _begins_with(run, policy)
        self._tracking = _Tracking(policy, run.startup_s, begins_with)
        # Beyond what it serves it is never at rest: the day itself makes the queue.
        served = min(run.arriving[-1] / begins_with, _AT_REST * self._rate[-1])
        at_rest = float(np.interp(served, self._rate, self._in_flight))
        self._groups = [(begins_with, at_rest)]
        self._at_rest = at_rest

    def is_at_rest(self, seen: _Seen) -> bool:
        """Whether there is no more in flight than at the start of the first day."""
        return seen.in_flight <= self._at_rest + _ALIKE

    def pass_day(self) -> list[_Seen]:
        """Let a day pass."""
        return [self._step(rate) for rate in self._arriving.tolist()]

    def _step(self, rate_per_s: float) -> _Seen:
        """Let ten seconds pass in which requests arrive at a rate."""
        serving = sum(count for count, _ in self._groups)
        came = STEP_S * rate_per_s / serving
        self._groups = [(count, self._after(before + came)) for count, before in self._groups]
        self._join()
        total = sum(count * number for count, number in self._groups)
        billed = max(serving, self._tracking.desired)
        seen = _Seen(serving, billed, total / serving, tuple(self._groups))
        if self._is_tracked:
            highest = self._chance(rate_per_s, total)
            self._change(self._tracking.look(highest / serving, serving) - serving)
        return seen

    def _after(self, total: float) -> float:
        """In flight, when before and with what came it was so many."""
        place = min(bisect_right(self._sum, total), len(self._sum) - 1)
        low, high = self._sum[place - 1], self._sum[place]
        share = (total - low) / (high - low)
        return self._in_flight[place - 1] * (1 - share) + self._in_flight[place] * share

    def _join(self) -> None:
        joined = self._groups[:1]
        for count, number in self._groups[1:]:
            so_many, other = joined[-1]
            if abs(number - other) <= _ALIKE * max(number, other):
                both = so_many + count
                joined[-1] = both, (so_many * other + count * number) / both
            else:
                joined.append((count, number))
        self._groups = joined

    def _chance(self, rate_per_s: float, total: float) -> int:
        """The most requests in flight at a time within a step, when so many are on average."""
        variance = sum(count * self._variance_at(number) for count, number in self._groups)
        if not variance:
            return round(total)
        # Requests come and leave one by one: in a short time the variance grows by two rates.
        stays = math.exp(-STEP_S / _LOOKS * rate_per_s / variance)
        moves = math.sqrt(1 - stays**2)
        off, highest = self._off, -math.inf
        for one in self._random.standard_normal(_LOOKS).tolist():
            off = stays * off + moves * one
            highest = max(highest, off)
        self._off = off
        deviation = math.sqrt(variance)
        # As skewed as a negative binomial number (Poisson where variance and mean are the same).
        skewed = (2 * variance / total - 1) / deviation
        return max(0, round(total + deviation * (highest + skewed / 6 * (highest**2 - 1))))

    def _variance_at(self, number: float) -> float:
        return float(np.interp(number, self._in_flight, self._variance))

    def _change(self, more: int) -> None:
        if more > 0:
            self._groups.append((more, 0.0))
        elif more < 0:
            self._retire(-more)

    def _retire(self, count: int) -> None:
        """The newest go first; they end their answers without being asked anything new."""
        while count:
            so_many, number = self._groups.pop()
            if so_many > count:
                self._groups.append((so_many - count, number))
            count -= min(count, so_many)


# --- who waits ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Waits:
    """Times to first token of all who come: rows of equally likely ones, each with a weight."""

    step: np.ndarray
    weight: np.ndarray
    ttft_s: np.ndarray

    @classmethod
    def of(cls, curve: Curve, arriving: np.ndarray, seen: Sequence[_Seen]) -> "_Waits":
        groups = [
            (step, arriving[step] * count / one.serving, number)
            for step, one in enumerate(seen)
            for count, number in one.groups
        ]
        step, weight, in_flight = np.array(groups).T
        return cls(step, weight, curve.wait_s(in_flight))

    def of_day(self, number: int) -> "_Waits":
        """Those who come on one of the days."""
        return self._of(self.step * STEP_S // DAY_S == number)

    def of_hour(self, number: int) -> "_Waits":
        """Those who come in an hour of any of the days."""
        return self._of(self.step * STEP_S % DAY_S // HOUR_S == number)

    def _of(self, chosen: np.ndarray) -> "_Waits":
        return _Waits(self.step[chosen], self.weight[chosen], self.ttft_s[chosen])

    def within(self, limits: Limits) -> float:
        """Share of them that keep the limit; 1 when nobody comes."""
        total, kept = self.weight.sum(), limits.keeps_ttft(self.ttft_s).mean(axis=1)
        return float(self.weight @ kept / total) if total else 1.0

    def quantile(self, share: float) -> float:
        """What so many of them do not exceed; NaN when nobody comes."""
        values = self.ttft_s.ravel()
        order = np.argsort(values)
        below = np.cumsum(np.repeat(self.weight, self.ttft_s.shape[1])[order])
        if not below[-1]:
            return math.nan
        # A rounding error less: such a share exactly is enough.
        reached = np.searchsorted(below, share * below[-1] * (1 - 1e-9))
        return float(values[order[reached]])


def _hour(number: int, steps: pd.DataFrame, waits: _Waits, limits: Limits, price: float) -> dict:
    return {
        "hour": f"{number:02d}:00",
        "people": round(steps["people"].mean()),
        "requests/s": round(steps["rate_per_s"].mean(), 3),
        "replicas": _span(steps["replicas"]),
        "in flight, each": round(steps["in_flight"].mean(), 2),
        "TTFT p50 (s)": round(waits.quantile(0.5), 2),
        "TTFT p95 (s)": round(waits.quantile(0.95), 2),
        "within the limit (%)": round(100 * waits.within(limits), 1),
        "$": round(price, 2),
    }


def _span(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
