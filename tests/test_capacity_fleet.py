"""A day of a fleet: the fluid model compared with the same day, request by request."""

import math

import numpy as np
import pytest

from helpers import capacity, models, twin
from helpers.capacity import fleet
from helpers.errors import WorkshopError

# Millions of simulated requests take three times as long under a tracer.
pytestmark = pytest.mark.no_cover

GUIDE = capacity.Machine.of()
STARTUP_S = models.startup_s(GUIDE.model_id)
FEW = {"people": 200, "every_s": 90}
SOON = capacity.Limits(ttft_p95_s=3)
TRACKING = capacity.Policy(1.2, 2, 60)
EVENING_S = 3 * 3600  # by then the queue of a fleet that is too small has gone


@pytest.fixture(scope="module")
def day():
    return capacity.day(**FEW, limits=SOON, policy=TRACKING)


def one_by_one(day, seed=0):
    """Times to first token of a day after such an evening, and when those requests came.

    Every request is dealt at random to one of the replicas that serve at that moment.
    """
    random = np.random.default_rng(seed)
    evening = slice(fleet.DAY_S - EVENING_S, fleet.DAY_S - 1)
    rate, serving = (
        np.concatenate([day.steps.loc[evening, name], day.steps[name]])
        for name in ("rate_per_s", "replicas")
    )
    step = np.repeat(np.arange(len(rate)), random.poisson(rate * fleet.STEP_S))
    sent_s = np.sort((step + random.random(len(step))) * fleet.STEP_S)
    dealt = (random.random(len(sent_s)) * serving[(sent_s // fleet.STEP_S).astype(int)]).astype(int)
    served = [
        request
        for number in range(serving.max())
        for request in twin.serve(
            GUIDE.timing,
            load="arrivals",
            requests=len(sent_s),
            arrivals_s=sent_s[dealt == number].tolist(),
            lengths=capacity.Answers().lengths(number),
        )
    ]
    sent_s = np.array([one.sent_s for one in served]) - EVENING_S
    ttft_s = np.array([one.first_s - one.sent_s for one in served])
    return ttft_s[sent_s >= 0], sent_s[sent_s >= 0]


# --- against single requests


def test_a_scaled_day_is_the_same_request_by_request(day):
    ttft_s, sent_s = one_by_one(day)
    assert day.within == pytest.approx((ttft_s <= 3).mean(), abs=0.01)
    assert day.ttft_p95_s == pytest.approx(np.quantile(ttft_s, 0.95), rel=0.1)
    within = [(ttft_s[sent_s // 3600 % 24 == hour] <= 3).mean() for hour in range(8, 20)]
    assert day.hours["within the limit (%)"].iloc[8:20].tolist() == pytest.approx(
        [100 * share for share in within], abs=2
    )


def test_a_fleet_that_is_too_small_has_the_same_queue_request_by_request():
    small = capacity.day(people=160, every_s=90, limits=SOON, policy=capacity.Policy(1.0, 5, 5))
    ttft_s, sent_s = one_by_one(small)
    assert small.within == pytest.approx((ttft_s <= 3).mean(), abs=0.02)
    queued = [np.median(ttft_s[sent_s // 3600 == hour]) for hour in range(9, 19)]
    assert small.hours["TTFT p50 (s)"].iloc[9:19].tolist() == pytest.approx(queued, rel=0.15)
    assert max(queued) > 3600


class Alone:
    """A replica of its own loop, for a fleet whose size is decided while requests come."""

    def __init__(self, now_s):
        self.batch, self.now_s, self.step = twin.StaticBatch(GUIDE.timing), now_s, None
        self.waits_s, self.ended_s, self.asked = [], [], 0

    def ask(self, sent_s, tokens):
        self.run(sent_s)
        self.batch.submit((sent_s, self.asked), tokens)
        self.asked += 1

    def run(self, until_s):
        """Work until then; the decode step that is then under way is the last at once."""
        while True:
            if self.step is None:
                left_s = until_s - self.now_s
                self.step = self.batch.next_step(int(left_s / GUIDE.timing.decode_step_s) + 1)
            if self.step is None or self.now_s + self.step.duration_s > until_s:
                break
            self.now_s += self.step.duration_s
            if self.step.kind == "prefill":
                self.waits_s += [self.now_s - sent_s for sent_s, _ in self.step.emits]
            self.ended_s += [self.now_s] * len(self.step.finished)
            self.step = None
        if self.step is None:
            self.now_s = until_s


def scaled_one_by_one(rates, policy, days, seed=0):
    """Dollars a day and share within ten seconds, the first day left out."""
    random, tokens = np.random.default_rng(seed), capacity.Answers().lengths(seed + 7)
    serving, leaving = [Alone(0.0)], []
    high = low = in_flight = billed = 0
    desired, due_s, out_s, in_s, waits_s = 1, 0.0, -math.inf, -math.inf, []
    for step, rate in enumerate(rates.tolist() * days):
        start_s, end_s, count = 10.0 * step, 10.0 * (step + 1), len(serving)
        sent_s = np.sort(random.uniform(start_s, end_s, random.poisson(10 * rate))).tolist()
        for one in sent_s:
            serving[random.integers(count)].ask(one, next(tokens))
        for one in serving + leaving:
            one.run(end_s)
        ended_s = [second for one in serving + leaving for second in one.ended_s]
        highest = in_flight
        for _, change in sorted([(one, 1) for one in sent_s] + [(one, -1) for one in ended_s]):
            in_flight += change
            highest = max(highest, in_flight)
        if 10 * step >= fleet.DAY_S:
            billed += max(count, desired)
            waits_s += [wait_s for one in serving + leaving for wait_s in one.waits_s]
        for one in serving + leaving:
            one.ended_s, one.waits_s = [], []
        each = highest / count
        high = high + 1 if each > policy.concurrent_per_replica else 0
        low = low + 1 if each < 0.9 * policy.concurrent_per_replica else 0
        wanted = math.ceil(highest / policy.concurrent_per_replica)
        if desired > count and end_s >= due_s:
            serving += [Alone(end_s) for _ in range(desired - count)]
            out_s = end_s
        elif desired < count and end_s >= due_s:
            leaving, serving = leaving + serving[desired:], serving[:desired]
            in_s = end_s
        elif desired == count and high >= 3 and wanted > count and end_s >= out_s + 300:
            desired, due_s = min(wanted, policy.maximum), end_s + STARTUP_S
        elif desired == count and low >= 90 and wanted < count and end_s >= in_s + 300:
            desired, due_s = max(wanted, 1), end_s + 60
    dollars = billed * 10 / 3600 * GUIDE.price_per_hour / (days - 1)
    return dollars, np.mean(np.array(waits_s) <= 10)


@pytest.mark.parametrize(
    ("people", "target", "maximum"), [(10, 3.7, 2), (20, 2, 10), (40, 2.1, 10)]
)
def test_a_policy_that_sees_chance_costs_what_it_does_request_by_request(people, target, maximum):
    policy = capacity.Policy(target, 1, maximum)
    found = capacity.day(people=people, every_s=60, limits=capacity.Limits(10), policy=policy)
    rates = found.steps["rate_per_s"].to_numpy()[: fleet.DAY_S // fleet.STEP_S]
    dollars, within = scaled_one_by_one(rates, policy, days=4)
    assert found.price_per_day == pytest.approx(dollars, rel=0.08)
    # One low datapoint may take away most of a small fleet, which costs such a day five points.
    assert found.within == pytest.approx(within, abs=0.04)


def test_requests_on_an_almost_idle_replica_are_as_independent_as_poisson_s():
    curve = fleet.Curve.of(GUIDE.timing, capacity.Answers())
    assert curve.variance[1:4] == pytest.approx(curve.in_flight[1:4], rel=0.1)
    assert curve.variance[15] > 1.3 * curve.in_flight[15]  # who waits makes others wait


def test_days_differ_by_chance_and_a_seed_says_how():
    asked = {"people": 20, "every_s": 60, "limits": capacity.Limits(10)}
    policy = capacity.Policy(2, 1, 10)
    one, same, other = (capacity.day(**asked, policy=policy, seed=seed) for seed in (0, 0, 1))
    assert one.price_per_day == same.price_per_day != other.price_per_day
    assert one.within_by_day == same.within_by_day
    assert len(set(one.within_by_day)) == len(one.within_by_day) == fleet.CHANCE_DAYS


# --- what the policy does


def test_new_replicas_come_a_start_up_after_they_were_wanted_and_bill_meanwhile(day):
    steps = day.steps
    for second in steps.index[steps["replicas"].diff() > 0]:
        if second < STARTUP_S:
            continue
        now = steps.loc[second, "replicas"]
        waiting = steps.loc[second - STARTUP_S + 2 * fleet.STEP_S : second - fleet.STEP_S]
        assert (waiting["billed"] == now).all()
        assert waiting["replicas"].nunique() == 1  # nothing else is changed meanwhile


def test_between_two_changes_of_a_kind_there_is_a_cooldown(day):
    changes = day.steps["replicas"].diff()
    for kind in (changes[changes > 0], changes[changes < 0]):
        assert np.diff(kind.index).min() >= fleet.COOLDOWN_S


def test_it_keeps_within_its_bounds_and_goes_down_at_night(day):
    replicas = day.steps["replicas"]
    assert replicas.min() == 2 and replicas.max() <= 60
    assert replicas.loc[10 * 3600 : 16 * 3600].min() > replicas.loc[: 4 * 3600].max()


def test_all_that_arrives_is_counted_once(day):
    arrived = day.steps["rate_per_s"].sum() * fleet.STEP_S / fleet.CHANCE_DAYS
    assert arrived == pytest.approx(3600 * day.hours["requests/s"].sum(), rel=0.001)
    assert day.hours["people"].max() <= 200


def test_without_a_policy_it_finds_one_that_keeps_the_limit_and_costs_less(
    one_day,
):
    found = capacity.day(**FEW, limits=SOON)
    assert found.ttft_p95_s <= 3
    assert found.price_per_day < found.constant.price_per_day
    assert list(found.totals().index) == [
        "scaled by the policy",
        "constant, cheapest over the day",
        "constant, for the peak",
    ]


def test_a_limit_that_allows_a_long_queue_has_a_policy_that_does_not_wait_for_it(one_day):
    found = capacity.day(**FEW, limits=capacity.Limits(ttft_p95_s=300))
    assert found.kept
    assert found.price_per_day < found.constant.price_per_day


def test_the_constant_fleet_of_a_day_is_the_one_that_the_peak_takes_by_itself(one_day):
    limits = capacity.Limits(ttft_p95_s=60)
    peak = {"people": 20_000, "every_s": 90}
    found = capacity.day(**peak, limits=limits, policy=capacity.Policy(1.2, 2, 3000))
    assert found.constant.policy.maximum == capacity.replicas(**peak, limits=limits).replicas
    assert not found.constant.hours_that_miss


def test_a_constant_fleet_is_what_the_peak_takes_and_bills_all_day(day):
    peak = capacity.replicas(**FEW, limits=SOON)
    assert day.constant.policy.minimum == day.constant.policy.maximum
    assert day.constant.policy.minimum == pytest.approx(peak.replicas, abs=1)
    price = day.constant.policy.minimum * 15.58 * 24
    assert day.constant.price_per_day == pytest.approx(price)
    assert day.constant.price_per_month == pytest.approx(price * 365 / 12)
    assert day.constant.hours["$"].sum() == pytest.approx(price, rel=0.001)
    assert day.constant.within >= 0.95


def test_a_million_people_wait_as_long_as_two_hundred_with_as_many_replicas_each(one_day):
    million = capacity.day(
        people=1_000_000, every_s=90, limits=SOON, policy=capacity.Policy(1.2, 2, 300_000)
    )
    few = capacity.day(people=10_000, every_s=90, limits=SOON, policy=capacity.Policy(1.2, 2, 3000))
    assert million.within == pytest.approx(few.within, abs=0.008)
    ratio = million.steps["replicas"].max() / few.steps["replicas"].max()
    assert ratio == pytest.approx(100, rel=0.03)


@pytest.mark.parametrize(("target", "maximum"), [(2, 1), (2, 3), (10_000, 1)])
def test_a_fleet_that_never_serves_what_comes_has_no_day(target, maximum):
    never = capacity.Policy(target, 1, maximum)
    with pytest.raises(WorkshopError, match="the queue has no end: let it have more than"):
        capacity.day(people=2000, every_s=90, limits=SOON, policy=never)


def test_a_queue_is_as_long_when_it_is_there_at_midnight():
    few, night = capacity.Policy(1.0, 8, 8), [1.0] * 2 + [0.1] * 20 + [1.0] * 2
    over_noon, over_midnight = (
        capacity.day(people=200, every_s=90, limits=SOON, shape=shape, policy=few)
        for shape in (night[12:] + night[:12], night)
    )
    assert over_noon.ttft_p95_s > 300
    assert over_midnight.ttft_p95_s == pytest.approx(over_noon.ttft_p95_s, rel=0.01)


def test_a_day_says_whether_its_policy_kept_the_limit(day):
    assert day.kept == (day.within >= 0.95)
    assert day.constant.kept
    noon = [0.0] * 12 + [1.0] + [0.0] * 11
    slow = capacity.Policy(0.5, 1, 500)  # no policy starts replicas before the people are there
    peak = capacity.day(people=2000, every_s=90, limits=SOON, shape=noon, policy=slow)
    assert not peak.kept and peak.constant.kept
    assert peak.totals()["kept over the day"].tolist() == ["no", "yes", "yes"]


def test_the_hours_that_miss_the_limit_are_counted_though_the_day_keeps_it(one_day):
    found = capacity.day(people=40, every_s=60, limits=capacity.Limits(10))
    least = found.cheapest_constant
    missed = least.hours["within the limit (%)"] < 95
    assert least.kept and missed.any()
    assert found.totals().loc["constant, cheapest over the day", "hours that miss"] == str(
        missed.sum()
    )


def test_the_cheapest_constant_fleet_is_the_smallest_that_keeps_the_limit_over_the_day(day):
    least = day.cheapest_constant
    assert least.kept and least.price_per_day < day.constant.price_per_day
    fewer = capacity.Policy(1.0, *[least.policy.minimum - 1] * 2)
    assert not capacity.day(**FEW, limits=SOON, policy=fewer).kept


def test_a_limit_of_one_prefill_is_kept_by_those_who_wait_for_nobody(one_day):
    least = capacity.Limits(GUIDE.timing.prefill_s)
    steady = capacity.Policy(1, 99, 99)
    found = capacity.day(people=100, every_s=90, limits=least, policy=steady)
    assert found.within > 0.5


def test_an_hour_in_which_nobody_comes_has_no_wait():
    shape = [0.0] * 12 + [1.0] * 12
    found = capacity.day(
        people=20, every_s=90, limits=SOON, shape=shape, policy=capacity.Policy(1, 1, 9)
    )
    assert math.isnan(found.hours["TTFT p95 (s)"].iloc[5])
    assert found.hours["within the limit (%)"].iloc[5] == 100


# --- what makes no sense


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"shape": [1, 2]}, "24 numbers from 0 to 1"),
        ({"shape": [0] * 24}, "not all of them 0"),
        ({"shape": [math.nan] * 24}, "24 numbers from 0 to 1"),
        ({"people": 0}, "number of people is 1 or more"),
        ({"people": 1e-9}, "number of people is 1 or more"),
        ({"people": "x"}, "number of people is 1 or more, not 'x'"),
        ({"people": 1e10}, "more than 10,000,000 replicas"),
        ({"every_s": 1e308}, "questions in seconds is at most 2,678,400"),
        ({"shape": ["a"] * 24}, "24 numbers from 0 to 1"),
        ({"shape": (x for x in [0.5])}, "24 numbers from 0 to 1"),
        ({"shape": 3}, "24 numbers from 0 to 1"),
        ({"limits": 3}, "is a capacity.Limits"),
        ({"answers": 3}, "is a capacity.Answers"),
        ({"policy": 3}, "is a capacity.Policy"),
        ({"endpoint": 3}, "a recipe or a recipe.s name, not 3"),
        ({"seed": -1}, "A seed is a whole number of 0 or more"),
        ({"limits": capacity.Limits(3, tpot_p95_s=0.1)}, "judged by the time to first token alone"),
        ({"limits": capacity.Limits(1)}, "least possible"),
    ],
)
def test_a_day_that_makes_no_sense_is_refused(asked, words):
    with pytest.raises(WorkshopError, match=words):
        capacity.day(**FEW | {"limits": SOON} | asked)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ((0,), "requests at a time is 0.01 or more, not 0"),
        ((math.nan,), "0.01 or more, not nan"),
        (("3",), "0.01 or more, not '3'"),
        ((1e9, 1, 1), "at most 10,000, not 1000000000.0"),
        ((1, 1, 10**400), "largest number of replicas is a whole number"),
        ((1, 1, 10**9), "largest number of replicas is at most 10,000,000"),
        ((1, 1, 2, 0, 1e300), "cooldown in seconds is at most"),
        ((1, 0), "least number of replicas is a whole number"),
        ((1, 3, 2), "3 to 2 replicas"),
        ((1, 1, 2, -1), "cooldown in seconds is 0 or more, not -1"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(told, words):
    with pytest.raises(WorkshopError, match=words):
        capacity.Policy(*told)
