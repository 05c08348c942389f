"""The two times that give wanted figures.

Nothing here knows an endpoint: figures of a prefill time and a decode step go in, the two times at
which they are nearest to the wanted ones come out, with how far both may move.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_POINTS = 9  # of a grid
_ZOOMS = 7  # each four times as fine: a ten-thousandth of a range from 1 to 100 in the end
_HALVINGS = 14  # the same for where a region ends

Figures = Callable[[float, float], Mapping[str, float]]
Range = tuple[float, float]


@dataclass(frozen=True)
class Found:
    """Where wanted figures are met best, and where they are met at all.

    Attributes:
        prefill_s: Seconds for a prefill at the best point.
        decode_step_s: Seconds for a decode step there.
        worst: Relative error of the figure that fits least there.
        prefill_region_s: Least and most prefill with which some step meets every figure within its
            tolerance; None when nothing does. It ends with the search where the region goes beyond.
        decode_step_region_s: The same for the decode step.
    """

    prefill_s: float
    decode_step_s: float
    worst: float
    prefill_region_s: Range | None
    decode_step_region_s: Range | None
    _off: Callable[[float, float], float] = field(repr=False, compare=False)

    def holds(self, prefill_s: float, decode_step_s: float) -> bool:
        """Whether every figure is met with these two times."""
        return self._off(prefill_s, decode_step_s) <= 1

    def points(self, count: int = 40) -> list[tuple[float, float]]:
        """Those of `count` times `count` points between the region's bounds that lie in it."""
        if self.prefill_region_s is None:
            return []
        return [
            (prefill_s, decode_step_s)
            for prefill_s in _grid(*self.prefill_region_s, count)
            for decode_step_s in _grid(*self.decode_step_region_s, count)
            if self.holds(prefill_s, decode_step_s)
        ]


def search(
    figures: Figures,
    wanted: Mapping[str, float],
    *,
    prefill_s: Range,
    decode_step_s: Range,
    within: float | Mapping[str, float] = 0.2,
) -> Found:
    """Find the two times that give wanted figures.

    A grid zooms in on the prefill; the step that goes best with each prefill is found in the same
    way, so that a long and narrow valley (a slower prefill makes up for a faster step) is no
    trap. Right where an error that grows does not shrink again farther off; figures of closed
    loops and rounds are of that kind, being sums of prefills and steps.

    Args:
        figures: Figures by name of (prefill_s, decode_step_s).
        wanted: What they should be, all above 0.
        prefill_s: Least and most to try.
        decode_step_s: The same of the decode step.
        within: Relative error that is still near enough, one for all figures or one for each; the
            best point is where the largest error is the least multiple of it.

    Raises:
        ValueError: When a wanted figure, a tolerance or a range is not above 0.
    """
    if not isinstance(within, Mapping):
        within = dict.fromkeys(wanted, within)
    _check(wanted, within, prefill_s, decode_step_s)

    def errors(prefill_s: float, decode_step_s: float) -> dict[str, float]:
        there = figures(prefill_s, decode_step_s)
        return {name: abs(there[name] / value - 1) for name, value in wanted.items()}

    def off(prefill_s: float, decode_step_s: float) -> float:
        found = errors(prefill_s, decode_step_s)
        return max(error / within[name] for name, error in found.items())

    def with_prefill(prefill_s: float) -> tuple[float, float]:
        return _least(lambda step_s: off(prefill_s, step_s), *decode_step_s)

    def with_step(step_s: float) -> tuple[float, float]:
        return _least(lambda one_s: off(one_s, step_s), *prefill_s)

    _, best_s = _least(lambda one_s: with_prefill(one_s)[0], *prefill_s)
    lowest, step_s = with_prefill(best_s)
    regions = (None, None)
    if lowest <= 1:
        regions = (
            _region(lambda one_s: with_prefill(one_s)[0] <= 1, best_s, *prefill_s),
            _region(lambda one_s: with_step(one_s)[0] <= 1, step_s, *decode_step_s),
        )
    return Found(
        best_s,
        step_s,
        worst=max(errors(best_s, step_s).values()),
        prefill_region_s=regions[0],
        decode_step_region_s=regions[1],
        _off=off,
    )


def _check(wanted: Mapping, within: Mapping, *ranges: Range) -> None:
    sizes = [*wanted.values(), *(within[name] for name in wanted)]
    if not wanted or not all(0 < size < math.inf for size in sizes):
        raise ValueError(
            f"Wanted figures and their tolerances are above 0, not {dict(wanted)} within "
            f"{dict(within)}."
        )
    for low, high in ranges:
        if not 0 < low < high < math.inf:
            raise ValueError(f"A time is searched between two others, not {low} and {high} s.")


def _grid(low: float, high: float, count: int) -> list[float]:
    """Points from low to high, each the same factor above the one before."""
    factor = (high / low) ** (1 / (count - 1))
    return [low * factor**place for place in range(count - 1)] + [high]


def _least(function: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """The least value of a function between two places, and where it is."""
    function = functools.cache(function)  # a zoom begins and ends where the one before has been
    for _ in range(_ZOOMS):
        grid = _grid(low, high, _POINTS)
        values = [function(place) for place in grid]
        best = min(range(_POINTS), key=values.__getitem__)
        low, high = grid[max(0, best - 1)], grid[min(_POINTS - 1, best + 1)]
    return values[best], grid[best]


def _region(holds: Callable[[float], bool], inside: float, low: float, high: float) -> Range:
    """How far something holds, from a place where it does, to both sides."""
    return _edge(holds, inside, low), _edge(holds, inside, high)


def _edge(holds: Callable[[float], bool], inside: float, outside: float) -> float:
    if holds(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = math.sqrt(inside * outside)
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return inside
