"""What one replica does when requests arrive at a rate: one point, and the curve through many.

Each point is simulated with the twin, request by request.

Arrivals are Poisson, which is what many people who know nothing of each other make. SageMaker sends
each request to a replica at random unless the endpoint configuration says otherwise
(`RoutingConfig`, `LEAST_OUTSTANDING_REQUESTS`), and so does the rehearsal. A Poisson stream that is
dealt at random is as many Poisson streams, each replica is a queue of its own, and one stands for
all.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from helpers import twin
from helpers.capacity.asked import Answers, Limits
from helpers.twin import Timing

# Enough for a p95 that other seeds move by 2 % (standard deviation of eight) at three tenths of the
# highest rate and by 4 % at seven; by 20 % at nine, where one busy hour makes thousands wait.
REQUESTS = 20_000
_FULL_REQUESTS = 4_000
_STARTING = 0.1  # share of the first requests, which find an emptier endpoint than later ones do

# Of the highest rate. A queue's length changes the slower the nearer it comes to that, so the last
# points take more requests.
_SHARES = (0.02, *(n / 20 for n in range(1, 19)), 0.93, 0.95)
_CURVE_REQUESTS, _CALM = 10_000, 0.8
_RANKS = (np.arange(100) + 0.5) / 100  # of the times to first token that a curve keeps
_DOUBLINGS = 40  # of the queue beyond the last point


@dataclass(frozen=True, eq=False)
class Point:
    """A replica at one arrival rate.

    Attributes:
        rate_per_s: Requests a second that arrive.
        ttft_s: Seconds to the first token, one value a request.
        tpot_s: Seconds per output token after the first; 0 where there was no second one.
        tokens_per_s: Output tokens a second.
        in_flight: Requests under way or queued, on average (Little's law).
        slots_used: Share of the slots that are in use, on average, the time of prefills included.
        in_flight_var: Variance of the number in flight over time.
    """

    rate_per_s: float
    ttft_s: np.ndarray
    tpot_s: np.ndarray
    tokens_per_s: float
    in_flight: float
    slots_used: float
    in_flight_var: float = 0.0

    @property
    def ttft_p50_s(self) -> float:
        """Median time to first token."""
        return float(np.quantile(self.ttft_s, 0.5))

    @property
    def ttft_p95_s(self) -> float:
        """Time to first token that 95 of 100 requests keep."""
        return float(np.quantile(self.ttft_s, 0.95))

    @property
    def tpot_p95_s(self) -> float:
        """Time per output token that 95 of 100 requests keep."""
        return float(np.quantile(self.tpot_s, 0.95))

    def goodput(self, limits: Limits) -> float:
        """Share of requests that keep the limits of both times."""
        return float((limits.keeps_ttft(self.ttft_s) & limits.keeps_tpot(self.tpot_s)).mean())

    def keeps(self, limits: Limits) -> bool:
        """Whether all limits hold."""
        return (
            limits.keeps_ttft(self.ttft_p95_s)
            and limits.keeps_tpot(self.tpot_p95_s)
            and (limits.goodput is None or self.goodput(limits) >= limits.goodput)
        )


def at_rate(
    timing: Timing,
    rate_per_s: float,
    *,
    answers: Answers,
    requests: int = REQUESTS,
    seed: int = 0,
) -> Point:
    """Let requests arrive at a rate, and look at all but the first tenth of them.

    The same seed means the same arrivals, only closer together, at every rate: what differs between
    two rates is then hardly chance.
    """
    served = twin.serve(
        timing,
        load="arrivals",
        rate_per_s=rate_per_s,
        requests=requests,
        lengths=answers.lengths(seed),
        seed=seed,
    )
    times = np.fromiter(served, np.dtype((float, 5)), count=requests)
    sent_s, first_s, last_s, tokens, _ = times[times[:, 4] >= _STARTING * requests].T
    _, place, together = np.unique(first_s, return_inverse=True, return_counts=True)
    held_s = together[place] * timing.prefill_s + last_s - first_s  # from the first one's prefill
    return Point(
        rate_per_s=rate_per_s,
        ttft_s=first_s - sent_s,
        tpot_s=(last_s - first_s) / np.maximum(tokens - 1, 1),
        tokens_per_s=rate_per_s * float(tokens.mean()),
        in_flight=rate_per_s * float((last_s - sent_s).mean()),
        slots_used=rate_per_s * float(held_s.mean()) / timing.slots,
        in_flight_var=_variance(sent_s, last_s),
    )


def _variance(sent_s: np.ndarray, last_s: np.ndarray) -> float:
    """Variance over time of how many are under way, while requests still come."""
    at_s = np.concatenate([sent_s, last_s])
    order = np.argsort(at_s)
    level = np.cumsum(np.repeat([1, -1], len(sent_s))[order])[:-1]
    lasts_s = np.diff(np.minimum(at_s[order], sent_s.max()))
    mean = np.average(level, weights=lasts_s)
    return float(np.average((level - mean) ** 2, weights=lasts_s))


def highest_rate_per_s(timing: Timing, answers: Answers, *, seed: int = 0) -> float:
    """Requests a second that a replica finishes when its queue is never empty."""
    users = 4 * timing.slots
    requests = max(_FULL_REQUESTS, 4 * users)
    served = twin.serve(
        timing,
        load="closed",
        concurrency=users,
        requests=requests,
        lengths=answers.lengths(seed),
        seed=seed,
    )
    ends = np.fromiter((one.last_s for one in served), float, count=requests)
    begin, end = max(users, int(_STARTING * requests)), requests - users
    return float((end - begin) / (ends[end] - ends[begin]))


@dataclass(frozen=True, eq=False)
class Curve:
    """A replica at all rates, by the number of requests that are in flight on average.

    Beyond the last simulated point requests leave as fast as they can, and who comes when `n` more
    are in flight than there waits `n` times as long as one takes to leave.

    Attributes:
        in_flight: Requests under way or queued, on average, ascending from 0.
        rate_per_s: Requests a second that then leave.
        ttft_s: Seconds to the first token, one row a point, 100 equally likely values in each.
        variance: Of the number in flight; beyond the last simulated point as there.
    """

    in_flight: np.ndarray
    rate_per_s: np.ndarray
    ttft_s: np.ndarray
    variance: np.ndarray

    @classmethod
    @lru_cache(maxsize=8)  # days under several policies have the same
    def of(cls, timing: Timing, answers: Answers, *, seed: int = 0) -> "Curve":
        """Simulate the points: about 280,000 requests, two seconds."""
        highest = highest_rate_per_s(timing, answers, seed=seed)

        def at(share: float) -> Point:
            requests = round(_CURVE_REQUESTS * max(1.0, (1 - _CALM) / (1 - share)))
            return at_rate(timing, share * highest, answers=answers, requests=requests, seed=seed)

        points = [at(share) for share in _SHARES]
        lone = np.full((1, len(_RANKS)), timing.prefill_s)
        ttft_s = np.vstack([lone, *(np.quantile(one.ttft_s, _RANKS) for one in points)])
        in_flight = np.array([0.0, *(one.in_flight for one in points)])
        rate = np.array([0.0, *(one.rate_per_s for one in points)])
        # What chance has bent is straightened: more requests never wait for less.
        return cls(
            *_prolonged(
                highest,
                np.maximum.accumulate(in_flight),
                rate,
                np.maximum.accumulate(ttft_s, axis=0),
            ),
            np.pad([0.0, *(one.in_flight_var for one in points)], (0, _DOUBLINGS - 1), "edge"),
        )

    def wait_s(self, in_flight: np.ndarray) -> np.ndarray:
        """Times to first token with so many in flight: a row each, of equally likely values."""
        place = np.clip(np.searchsorted(self.in_flight, in_flight) - 1, 0, len(self.in_flight) - 2)
        before, after = self.in_flight[place], self.in_flight[place + 1]
        share = ((in_flight - before) / (after - before))[:, None]
        return (1 - share) * self.ttft_s[place] + share * self.ttft_s[place + 1]


def _prolonged(
    highest: float, in_flight: np.ndarray, rate: np.ndarray, ttft_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points beyond the last one, where the queue grows without an end.

    What is missing from the highest rate goes with one over the queue's length, as in all queues
    with one door.
    """
    more = in_flight[-1] * 2.0 ** np.arange(1, _DOUBLINGS)
    missing = (highest - rate[-1]) * in_flight[-1] / more
    longer_s = (more - in_flight[-1]) / highest
    return (
        np.concatenate([in_flight, more]),
        np.concatenate([rate, highest - missing]),
        np.vstack([ttft_s, ttft_s[-1] + longer_s[:, None]]),
    )
