"""What CloudWatch is told about endpoints: invocations, errors, latencies, requests at a time.

Names, units and meanings: SageMaker's developer guide, "Amazon SageMaker AI metrics in Amazon
CloudWatch" (monitoring-cloudwatch), read from a copy of 2026. Requests are counted when they end
[unverified]; `ConcurrentRequestsPerModel` counts those under way or queued, an instance, every 10
seconds (Deepgram's guide "Auto-Scaling SageMaker Endpoints").
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from helpers.rehearsal.aws.endpoints import Deployment, Fleet
from helpers.rehearsal.timeline import Timeline
from helpers.target_tracking import SAMPLE_S

NAMESPACE = "AWS/SageMaker"
MINUTE_S = 60.0  # AWS time, as everything here

INVOCATIONS = "Invocations"
PER_INSTANCE = "InvocationsPerInstance"
CONCURRENT = "ConcurrentRequestsPerModel"
LATENCIES = ("ModelLatency", "OverheadLatency")

_VALUES_AT_ONCE = 150  # of one entry (CloudWatch API reference, PutMetricData)

Key = tuple[str, str, str]  # region, endpoint, production variant
Publish = Callable[[str, str, list[dict[str, Any]]], None]


class Endpoints(Protocol):
    """Where to ask how many instances there are."""

    def fleet(self, name: str, region: str) -> Fleet | None:
        """What serves under a name."""


@dataclass
class Tally:
    """Values of one metric in one period, as CloudWatch's statistic sets keep them."""

    count: float = 0.0
    sum: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def add(self, value: float) -> None:
        """Take in one value."""
        self.low = min(self.low, value) if self.count else value
        self.high = max(self.high, value) if self.count else value
        self.count += 1
        self.sum += value

    def statistic(self, name: str) -> float:
        """`Sum`, `Average`, `Minimum`, `Maximum` or `SampleCount`."""
        if name == "Average":
            return self.sum / self.count if self.count else 0.0
        return {
            "Sum": self.sum,
            "Minimum": self.low,
            "Maximum": self.high,
            "SampleCount": self.count,
        }[name]


@dataclass
class Minute:
    """What ended within a minute."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    latencies: dict[str, list[float]] = field(default_factory=dict)  # microseconds


@dataclass
class Sample:
    """How many requests were under way within ten seconds.

    Attributes:
        low: The fewest.
        high: The most.
        area_s: Seconds that all of them spent together.
    """

    low: float
    high: float
    area_s: float = 0.0

    def see(self, level: float) -> None:
        """So many were under way at some time."""
        self.low, self.high = min(self.low, level), max(self.high, level)


@dataclass
class Series:
    """One production variant.

    Attributes:
        in_flight: Requests under way.
        since_s: When that number changed.
        minutes: Not published yet, by number since 1970.
        samples: The same of ten seconds.
        next_s: When the next tick is due.
        watched: Periods at whose end somebody wants to know, busy or not.
    """

    in_flight: int = 0
    since_s: float = 0.0
    minutes: dict[int, Minute] = field(default_factory=dict)
    samples: dict[int, Sample] = field(default_factory=dict)
    next_s: float | None = None
    watched: list[float] = field(default_factory=list)

    def change(self, now_s: float, by: int) -> None:
        """A request begins (1) or ends (-1)."""
        self.roll(now_s)
        before, self.in_flight = self.in_flight, max(0, self.in_flight + by)
        sample = self.samples.setdefault(int(now_s // SAMPLE_S), Sample(before, before))
        sample.see(before)
        sample.see(self.in_flight)

    def roll(self, now_s: float) -> None:
        """Enter into the samples what has been under way until now."""
        start_s = self.since_s
        while self.in_flight and start_s < now_s:
            number = int(start_s // SAMPLE_S)
            end_s = min(now_s, (number + 1) * SAMPLE_S)
            sample = self.samples.setdefault(number, Sample(self.in_flight, self.in_flight))
            sample.see(self.in_flight)
            sample.area_s += self.in_flight * (end_s - start_s)
            start_s = end_s
        self.since_s = max(self.since_s, now_s)

    def concurrent(self, start_s: float, end_s: float, instances: int) -> Tally:
        """Requests at a time and instance, from one multiple of ten seconds to another."""
        tally = Tally()
        for number in range(int(start_s // SAMPLE_S), int(end_s // SAMPLE_S)):
            sample = self.samples.get(number, Sample(0, 0))
            lowest = sample.low if tally.count == 0 else min(tally.low, sample.low)
            tally = Tally(
                tally.count + 1,
                tally.sum + sample.area_s / SAMPLE_S,
                lowest,
                max(tally.high, sample.high),
            )
        return Tally(
            tally.count, tally.sum / instances, tally.low / instances, tally.high / instances
        )

    def earliest_s(self) -> float | None:
        """End of the first minute that has something to publish."""
        ends = [number + 1 for number in self.minutes]
        ends += [int(number * SAMPLE_S // MINUTE_S) + 1 for number in self.samples]
        return min(ends) * MINUTE_S if ends else None


class EndpointMetrics:
    """Counts what the runtime reports and publishes it, minute by minute, while there is any.

    What happened belongs to the minute in which it happened, however late that is published: no
    figure depends on who asks when.

    Args:
        timeline: When to publish.
        endpoints: How many instances a variant has.
        publish: Takes region, namespace and entries like those of PutMetricData's MetricData.
    """

    def __init__(self, timeline: Timeline, *, endpoints: Endpoints, publish: Publish):
        self._timeline = timeline
        self._endpoints = endpoints
        self._publish = publish
        self._series: dict[Key, Series] = {}
        self.on_period: list[Callable[[Key, float, float, Mapping[str, Tally]], None]] = []
        timeline.on("metrics tick", self._on_tick)

    # --- what the runtime reports

    def begun(self, deployment: Deployment) -> None:
        """A request has reached an endpoint."""
        self._change(deployment, 1)

    def ended(
        self,
        deployment: Deployment,
        *,
        status: int,
        model_latency_s: float,
        overhead_s: float,
    ) -> None:
        """A request that had begun is over.

        Args:
            deployment: What it was sent to.
            status: HTTP status of the container; 0 when it did not answer.
            model_latency_s: Seconds of AWS time that the container took.
            overhead_s: Seconds of AWS time that SageMaker added.
        """
        series = self._change(deployment, -1)
        number = int(self._timeline.clock.time() // MINUTE_S)
        minute = series.minutes.setdefault(number, Minute())
        for name, value in (
            (INVOCATIONS, 1.0),
            (PER_INSTANCE, 1 / deployment.instance_count),
            ("Invocation4XXErrors", float(400 <= status < 500)),
            ("Invocation5XXErrors", float(status >= 500)),
            ("InvocationModelErrors", float(not 200 <= status < 300)),
        ):
            minute.tallies.setdefault(name, Tally()).add(value)
        for name, value_s in zip(LATENCIES, (model_latency_s, overhead_s), strict=True):
            minute.latencies.setdefault(name, []).append(round(max(0.0, value_s) * 1e6))

    def _change(self, deployment: Deployment, by: int) -> Series:
        key = (deployment.region, deployment.name, deployment.variant)
        now = self._timeline.clock.time()
        series = self._series.setdefault(key, Series(since_s=now))
        series.change(now, by)
        self._schedule(key, series, now)
        return series

    # --- what scaling policies ask

    def watch(self, key: Key, periods: set[float]) -> None:
        """Call `on_period` at the end of each such period from now on, also of idle ones.

        Args:
            key: Region, endpoint and variant.
            periods: Of `SAMPLE_S` and `MINUTE_S`; empty to watch no longer.
        """
        now = self._timeline.clock.time()
        if periods or key in self._series:
            series = self._series.setdefault(key, Series(since_s=now))
            series.watched = sorted(periods)
            self._schedule(key, series, now)

    # --- what happens by itself

    def _schedule(self, key: Key, series: Series, after_s: float) -> None:
        """See to it that a tick comes at the end of the period."""
        period_s = min([*series.watched, MINUTE_S])
        at_s = (after_s // period_s + 1) * period_s
        if series.next_s is None or at_s < series.next_s:
            series.next_s = at_s
            self._timeline.at(at_s, "metrics tick", key=list(key))

    def _on_tick(self, at_s: float, event: dict[str, Any]) -> None:
        region, name, variant = key = tuple(event["key"])
        series = self._series.get(key)
        if series is None or series.next_s != at_s:  # a nearer one has taken its place
            return
        series.next_s = None
        if at_s > series.since_s:
            series.roll(at_s)
        instances = self._instances(key)
        self._tell(key, series, at_s, instances)
        if at_s % MINUTE_S == 0:
            entries = [*self._minute(series, at_s), *self._samples(series, at_s, instances)]
            if entries:
                dimensions = [
                    {"Name": "EndpointName", "Value": name},
                    {"Name": "VariantName", "Value": variant},
                ]
                data = [{"Dimensions": dimensions, **one} for one in entries]
                self._publish(region, NAMESPACE, data)
            self._forget(series, at_s)
        self._go_on(key, series, at_s)

    def _samples(self, series: Series, at_s: float, instances: int) -> Iterator[dict[str, Any]]:
        """Requests at a time, of every ten seconds that were not idle or are watched."""
        for number in range(int((at_s - MINUTE_S) // SAMPLE_S), int(at_s // SAMPLE_S)):
            if number in series.samples or SAMPLE_S in series.watched:
                start_s = number * SAMPLE_S
                tally = series.concurrent(start_s, start_s + SAMPLE_S, instances)
                yield {**_entry(CONCURRENT, start_s, tally), "StorageResolution": 1}

    def _minute(self, series: Series, at_s: float) -> Iterator[dict[str, Any]]:
        start_s = at_s - MINUTE_S
        minute = series.minutes.get(int(start_s // MINUTE_S))
        if minute is None:
            # "if a variant's traffic becomes zero, … SageMaker emits metrics with a value of zero"
            # (developer guide, "Edit a scaling policy").
            idle = (INVOCATIONS, PER_INSTANCE) if series.watched else ()
            yield from (_entry(name, start_s, Tally(1)) for name in idle)
            return
        yield from (_entry(name, start_s, tally) for name, tally in minute.tallies.items())
        for name, values in minute.latencies.items():
            for first in range(0, len(values), _VALUES_AT_ONCE):
                some = values[first : first + _VALUES_AT_ONCE]
                yield {
                    "MetricName": name,
                    "Timestamp": start_s,
                    "Unit": "Microseconds",
                    "Values": some,
                    "Counts": [1.0] * len(some),
                }

    def _tell(self, key: Key, series: Series, at_s: float, instances: int) -> None:
        """Tell those who watch."""
        for period_s in list(series.watched):
            if at_s % period_s == 0:
                tallies = {CONCURRENT: series.concurrent(at_s - period_s, at_s, instances)}
                minute = series.minutes.get(int((at_s - MINUTE_S) // MINUTE_S))
                if period_s == MINUTE_S and minute is not None:
                    tallies |= minute.tallies
                for tell in self.on_period:
                    tell(key, at_s, period_s, tallies)

    def _forget(self, series: Series, at_s: float) -> None:
        minute, sample = at_s // MINUTE_S, at_s // SAMPLE_S
        series.minutes = {one: kept for one, kept in series.minutes.items() if one >= minute}
        series.samples = {one: kept for one, kept in series.samples.items() if one >= sample}

    def _go_on(self, key: Key, series: Series, at_s: float) -> None:
        """Schedule the next tick; none for an endpoint that is idle and not watched."""
        if series.watched or series.in_flight:
            self._schedule(key, series, at_s)
        elif (earliest_s := series.earliest_s()) is not None:
            # This tick came late: what it left began after it.
            self._schedule(key, series, max(at_s, earliest_s - MINUTE_S))
        else:
            del self._series[key]

    def _instances(self, key: Key) -> int:
        region, name, variant = key
        fleet = self._endpoints.fleet(name, region)
        counts = {one.name: one.count for one in fleet.variants} if fleet else {}
        return counts.get(variant, 1)

    # --- state

    def dump(self) -> list[Any]:
        """All of it, as JSON; requests under way end with the process."""
        return [[list(key), asdict(series)] for key, series in self._series.items()]

    def restore(self, dumped: list[Any]) -> None:
        """Take back what `dump` gave."""
        self._series = {tuple(key): _read(series) for key, series in dumped}


def _entry(name: str, start_s: float, tally: Tally) -> dict[str, Any]:
    return {
        "MetricName": name,
        "Timestamp": start_s,
        "Unit": "None",
        "StatisticValues": {
            "SampleCount": tally.count,
            "Sum": tally.sum,
            "Minimum": tally.low,
            "Maximum": tally.high,
        },
    }


def _read(dumped: Mapping[str, Any]) -> Series:
    minutes = {
        int(number): Minute(
            {name: Tally(**tally) for name, tally in minute["tallies"].items()},
            dict(minute["latencies"]),
        )
        for number, minute in dumped["minutes"].items()
    }
    samples = {int(number): Sample(**sample) for number, sample in dumped["samples"].items()}
    return Series(**{**dumped, "in_flight": 0, "minutes": minutes, "samples": samples})
