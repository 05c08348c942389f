"""A day of a fleet: the fluid model held against the same day, request by request."""

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
    rate, serving = (
        np.concatenate([day.steps.loc[fleet.DAY_S - EVENING_S :, name], day.steps[name]])
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
    within = [(ttft_s[sent_s // 3600 == hour] <= 3).mean() for hour in range(8, 20)]
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
    arrived = day.steps["rate_per_s"].sum() * fleet.STEP_S
    assert arrived == pytest.approx(3600 * day.hours["requests/s"].sum(), rel=0.001)
    assert day.hours["people"].max() <= 200


def test_without_a_policy_it_finds_one_that_keeps_the_limit_and_costs_less_than_a_constant_fleet():
    found = capacity.day(**FEW, limits=SOON)
    assert found.ttft_p95_s <= 3
    assert found.price_per_day < found.constant.price_per_day
    assert list(found.totals().index) == ["scaled by the policy", "constant"]


def test_a_constant_fleet_is_what_the_peak_takes_and_bills_all_day(day):
    peak = capacity.replicas(**FEW, limits=SOON)
    assert day.constant.policy.minimum == day.constant.policy.maximum
    assert day.constant.policy.minimum == pytest.approx(peak.replicas, abs=1)
    price = day.constant.policy.minimum * 15.58 * 24
    assert day.constant.price_per_day == pytest.approx(price)
    assert day.constant.price_per_month == pytest.approx(price * 365 / 12)
    assert day.constant.hours["$"].sum() == pytest.approx(price, rel=0.001)
    assert day.constant.within >= 0.95


def test_a_million_people_wait_as_long_as_two_hundred_with_as_many_replicas_each():
    million = capacity.day(
        people=1_000_000, every_s=90, limits=SOON, policy=capacity.Policy(1.2, 2, 300_000)
    )
    few = capacity.day(people=10_000, every_s=90, limits=SOON, policy=capacity.Policy(1.2, 2, 3000))
    assert million.within == pytest.approx(few.within, abs=0.003)
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
    assert peak.totals()["limit kept"].tolist() == ["no", "yes"]


def test_a_limit_of_one_prefill_is_kept_by_those_who_wait_for_nobody():
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
