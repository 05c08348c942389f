"""A day of a fleet that auto scaling makes larger and smaller: what it costs, and who waits.

No single request is simulated here, so that a million people take no longer than ten. A replica is
what the twin says it does at a rate (`response.Curve`), and how many requests are in flight follows
from what arrives and what leaves: the "pointwise stationary fluid flow approximation" of queueing
theory (Wang, Tipper and Banerjee, 1996). Tests hold it against replicas simulated request by
request: the share within the limit is the same within one point for a fleet that is scaled, within
two for one that is overloaded. In between, at 95 to 105 % of the highest rate for hours, chance
drives replicas apart and it is rough: 38 % instead of 46 % was seen.

The policy is the one of `helpers/scaling/by_policy.py`: target tracking of the requests in flight
per replica, whose alarms are those of the rehearsal AWS. It sees the mean number in flight; on AWS
chance is in it as well, so that a fleet of a few replicas grows sooner and shrinks later than here.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from helpers import checks, models, recipes
from helpers.capacity.asked import Answers, Limits, Machine, answers_of, check_limits, rate_per_s
from helpers.capacity.response import Curve
from helpers.capacity.sizing import HOURS_A_MONTH, replicas_for, sustained_rate_per_s
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

# Share of the people who are there at each hour: office hours of one time zone. Assumed, nobody's
# measurement: give your own.
OFFICE_HOURS = (
    *(0.04, 0.03, 0.02, 0.02, 0.03, 0.06, 0.15, 0.40, 0.75, 0.95, 1.00, 0.95),
    *(0.80, 0.85, 0.95, 0.95, 0.90, 0.70, 0.40, 0.25, 0.18, 0.12, 0.08, 0.05),
)
_TARGETS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # of what the limits allow, tried in this order
_LEAST_TARGET = 0.01  # requests at a time
_AT_REST = 0.95  # of the highest rate: a fleet may begin a day so busy, and no busier
_LONGER = 0.01  # so much longer may a queue be at the end of the second day than of the first
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


@dataclass(frozen=True, eq=False)
class Day:
    """What a fleet did on a day that is like the day before.

    Attributes:
        machine: Each replica.
        policy: What changes their number.
        limits: What people are to get.
        steps: Every ten seconds: `people`, `rate_per_s`, `replicas` that serve, `billed` ones, and
            `in_flight`, the requests under way or queued per replica.
        hours: One row an hour, for people.
        within: Share of the day's requests whose first token comes within the limit.
        ttft_p95_s: Time to first token that 95 of 100 of the day's requests keep.
        price_per_day: $.
        constant: The same day of a fleet that always has as many replicas as the peak takes; None
            for that fleet itself.
    """

    machine: Machine
    policy: Policy
    limits: Limits
    steps: pd.DataFrame
    hours: pd.DataFrame
    within: float
    ttft_p95_s: float
    price_per_day: float
    constant: "Day | None" = None

    @property
    def kept(self) -> bool:
        """Whether 95 of 100 of the day's requests keep the limit; also when nobody comes."""
        return math.isnan(self.ttft_p95_s) or bool(self.limits.keeps_ttft(self.ttft_p95_s))

    @property
    def price_per_month(self) -> float:
        """$ a month of 730 hours."""
        return HOURS_A_MONTH / 24 * self.price_per_day

    def totals(self) -> pd.DataFrame:
        """What the day comes to, beside a constant fleet; all of it predicted."""
        days = {"scaled by the policy": self}
        days |= {"constant": self.constant} if self.constant else {}
        rows = {
            name: {
                "replicas": _span(one.steps["replicas"]),
                "$ a day": f"{one.price_per_day:,.0f}",
                "$ a month": f"{one.price_per_month:,.0f}",
                "TTFT p95 (s)": f"{one.ttft_p95_s:.2f}",
                "limit kept": "yes" if one.kept else "no",
                "within the limit (%)": f"{100 * one.within:.1f}",
                "worst hour (%)": f"{one.hours['within the limit (%)'].min():.1f}",
            }
            for name, one in days.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(index="fleet (predicted)")


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
    """A day of a fleet under a policy, beside the constant fleet that the peak takes.

    Without a policy it is the one with the highest target that keeps the limit over the day, of
    eight that are tried; when none does, the lowest (`Day.kept` says so).

    Args:
        endpoint: One replica: a machine, a recipe or its name; the workshop's by default.
        people: How many there are at the peak.
        every_s: Seconds from one of a person's questions to the next; see `sizing.replicas`.
        limits: What they are to get; a day is judged by the time to first token alone.
        answers: How long answers are.
        shape: Share of the people who are there, 24 numbers from 0 to 1, each for a whole hour;
            in between it is a straight line from one half hour to the next.
        policy: What changes the number of replicas.
        seed: Chooses arrivals and lengths.

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
    sustained, _ = sustained_rate_per_s(machine.timing, limits, answers, seed=seed)
    curve = Curve.of(machine.timing, answers, seed=seed)
    peak = replicas_for(arriving.max(), sustained)
    steady = Policy(1.0, peak, peak)
    run = _Run(machine, curve, limits, there, arriving)
    constant = run.under(steady)
    if policy is not None:
        return replace(run.under(policy), constant=constant)
    return replace(run.under_the_best(sustained, peak), constant=constant)


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

    def under_the_best(self, sustained: float, peak: int) -> Day:
        """The highest target that keeps the limit over the day; what grows needs room above."""
        allowed = float(np.interp(sustained, self.curve.rate_per_s, self.curve.in_flight))
        for share in _TARGETS:
            target = max(share * allowed, _LEAST_TARGET)
            found = self.under(Policy(target, 1, min(2 * peak, checks.MOST_REPLICAS)))
            if found.kept:
                break
        return found

    def under(self, policy: Policy) -> Day:
        """The second of two equal days."""
        fleet = _Fleet(self.curve, policy, models.startup_s(self.machine.model_id))
        fleet.begin(float(self.arriving[-1]))
        first, second = ([fleet.step(rate) for rate in self.arriving.tolist()] for _ in range(2))
        queues = [one[-1].serving * one[-1].in_flight for one in (first, second)]
        if queues[1] > (1 + _LONGER) * queues[0] + 1:
            raise WorkshopError(
                "More requests come in a day than the policy's replicas serve, so the queue has no "
                f"end: let it have more than {policy.maximum:,}, or fewer than "
                f"{policy.concurrent_per_replica:g} requests at a time each."
            )
        return self._told(policy, second)

    def _told(self, policy: Policy, seen: list["_Seen"]) -> Day:
        steps = pd.DataFrame(
            {
                "people": self.people,
                "rate_per_s": self.arriving,
                "replicas": [one.serving for one in seen],
                "billed": [one.billed for one in seen],
                "in_flight": [one.in_flight for one in seen],
            },
            index=pd.Index(np.arange(0, DAY_S, STEP_S), name="second"),
        )
        waits = _Waits.of(self.curve, self.arriving, seen)
        limits, price = self.limits, self.machine.price_per_hour
        hours = [
            _hour(number, some, waits.of_steps(some.index // STEP_S), limits, price)
            for number, some in steps.groupby(steps.index // HOUR_S)
        ]
        return Day(
            machine=self.machine,
            policy=policy,
            limits=limits,
            steps=steps,
            hours=pd.DataFrame(hours).set_index("hour"),
            within=waits.within(limits),
            ttft_p95_s=waits.quantile(0.95),
            price_per_day=price * float(steps["billed"].sum()) * STEP_S / HOUR_S,
        )


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
    """Replicas that serve, and the policy that changes their number.

    New replicas begin empty beside others that have a queue, and random routing does not mind: so
    replicas are kept in groups, and groups that have become alike are joined.
    """

    def __init__(self, curve: Curve, policy: Policy, startup_s: float):
        self._policy, self._startup_s = policy, startup_s
        # Backward Euler: in flight afterwards + what left = in flight before + what came, which is
        # read off this sum. It stays stable where a replica is quicker than a step.
        self._in_flight = curve.in_flight.tolist()
        self._sum = (curve.in_flight + STEP_S * curve.rate_per_s).tolist()
        self._rate = curve.rate_per_s
        self._groups: list[tuple[int, float]] = []
        self._desired = policy.minimum
        self._above = self._below = 0
        self._now_s = self._ready_s = 0.0
        self._out_s = self._in_s = -math.inf

    def begin(self, rate_per_s: float) -> None:
        """Have as many replicas as the policy wants when this has been the rate for long."""
        policy = self._policy
        each = np.interp(policy.concurrent_per_replica, self._in_flight, self._rate)
        wanted = math.ceil(rate_per_s / float(each))
        self._desired = min(policy.maximum, max(policy.minimum, wanted))
        # Beyond what it serves it is never at rest: the day itself makes the queue.
        served = min(rate_per_s / self._desired, _AT_REST * self._rate[-1])
        at_rest = float(np.interp(served, self._rate, self._in_flight))
        self._groups = [(self._desired, at_rest)]

    def step(self, rate_per_s: float) -> _Seen:
        """Let ten seconds pass in which requests arrive at a rate."""
        self._now_s += STEP_S
        serving = sum(count for count, _ in self._groups)
        came = STEP_S * rate_per_s / serving
        self._groups = [(count, self._after(before + came)) for count, before in self._groups]
        self._join()
        each = sum(count * number for count, number in self._groups) / serving
        seen = _Seen(serving, max(serving, self._desired), each, tuple(self._groups))
        self._look(each, serving)
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

    def _look(self, value: float, serving: int) -> None:
        """Count a datapoint, end a change that is due, or begin one."""
        target = self._policy.concurrent_per_replica
        self._above = self._above + 1 if value > target else 0
        self._below = self._below + 1 if value < LOW_SHARE * target else 0
        if self._desired != serving:
            self._end_change(serving)
            return
        wanted = math.ceil(round(serving * value / target, 6))
        is_out = self._above >= HIGH_DATAPOINTS and self._now_s >= (
            self._out_s + self._policy.scale_out_cooldown_s
        )
        is_in = self._below * STEP_S >= LOW_S and self._now_s >= (
            self._in_s + self._policy.scale_in_cooldown_s
        )
        if is_out and wanted > serving:
            self._desired = min(wanted, self._policy.maximum)
            self._ready_s = self._now_s + self._startup_s
        elif is_in and wanted < serving:
            self._desired = max(wanted, self._policy.minimum)
            self._ready_s = self._now_s + SCALE_IN_S

    def _end_change(self, serving: int) -> None:
        """Nothing else is changed until the replicas have come or gone."""
        if self._now_s < self._ready_s:
            return
        if self._desired > serving:
            self._groups.append((self._desired - serving, 0.0))
            self._out_s = self._now_s
        else:
            self._retire(serving - self._desired)
            self._in_s = self._now_s

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

    def of_steps(self, steps: Sequence[int]) -> "_Waits":
        """Those who come in some steps."""
        chosen = (self.step >= steps[0]) & (self.step <= steps[-1])
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
        return float(values[order[np.searchsorted(below, share * below[-1])]])


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
        "$": round(price * float(steps["billed"].sum()) * STEP_S / HOUR_S, 2),
    }


def _span(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
