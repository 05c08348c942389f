"""One figure a question. Each function returns its figure; nothing is shown or saved by itself.

What was measured is solid; a rehearsal is hatched or dashed, hollow, and watermarked; what others
published are points, with their source in the legend; a run that failed its audit is a cross.
Colors are Okabe and Ito's, which readers with any color vision can tell apart
(jfly.uni-koeln.de/color, 2008). All times are AWS time.
"""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from PIL import Image, ImageColor

from helpers import hub, metrics, results
from helpers.errors import ResultsError
from helpers.timeline import SHOWN, Span, Timeline, trace

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"
GRAY = "#808080"
_COLORS = (ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE, BLACK, GRAY)
_RUN_COLORS = (BLUE, VERMILION, GREEN, PURPLE)
_PUBLISHED_STYLES = ((BLACK, "^"), (ORANGE, "s"), (PURPLE, "D"), (GREEN, "v"))
_WATERMARK, _WATERMARK_ALPHA = "rehearsal", 0.25
_INVALID = "invalid: see its audit"
_HATCH = "///"
_SHOWN_DPI = 72  # in a notebook; files are finer
_HATCHED_ROWS = 24  # of a timeline; with more, a row is lower than the hatch is wide
_READ_TOGETHER_MS = 0.1  # no model takes less for a token
_KNEE_LOADS = 3  # fewer have nothing between their ends


def _blend(color: str, share: float) -> tuple[int, ...]:
    """A color mixed with white; red, green and blue from 0 to 255."""
    return tuple(round(part * share + 255 * (1 - share)) for part in ImageColor.getrgb(color))


def _shade(color: str, share: float) -> tuple[float, ...]:
    """The same from 0 to 1, as matplotlib wants it."""
    return tuple(part / 255 for part in _blend(color, share))


def _palette() -> Image.Image:
    """The colors of this module, their blends with white, and all of these under the watermark.

    So no hue of a chart is lost to another.
    """
    plain = [_blend(color, share) for color in _COLORS for share in (1, 0.75, 0.5, 0.25)]
    plain.append((255, 255, 255))
    gray = 0.5 * 255 * _WATERMARK_ALPHA
    marked = [tuple(round(gray + part * (1 - _WATERMARK_ALPHA)) for part in one) for one in plain]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for color in plain + marked for part in color])
    return palette


class Chart(Figure):
    """A figure that shows itself in a notebook, without pyplot's global state.

    Attributes:
        question: What it answers; its title, but for the verdict on an invalid run.
        caption: What its axes and its legend do not say, empty when that is nothing.
        is_rehearsal: Whether something in it is simulated.
    """

    def __init__(
        self,
        question: str,
        *,
        is_rehearsal: bool,
        is_valid: bool = True,
        width: float = 7.5,
        height: float = 4.5,
    ):
        super().__init__(figsize=(width, height), layout="constrained")
        self.question = question
        self.caption = ""
        self.is_rehearsal = is_rehearsal
        self.suptitle(question if is_valid else f"{question} [{_INVALID}]")
        if is_rehearsal:
            self.text(
                0.5,
                0.5,
                _WATERMARK,
                gid="watermark",
                fontsize=64,
                color="0.5",
                alpha=_WATERMARK_ALPHA,
                rotation=25,
                ha="center",
                va="center",
            )

    def explain(self, axes: Axes, *sentences: str) -> None:
        """Write a caption above the axes, when there is something to say."""
        self.caption = " ".join(sentences)
        columns = int(13.5 * self.get_figwidth() / len(self.axes))
        lines = textwrap.fill(self.caption, columns)
        axes.set_title(lines, loc="left", fontsize="small", color="0.35")

    def _repr_png_(self) -> bytes:
        # A palette keeps a notebook with its figures below 100 kB.
        drawn, shown = BytesIO(), BytesIO()
        self.savefig(drawn, format="png", dpi=_SHOWN_DPI)
        few = (
            Image.open(drawn).convert("RGB").quantize(palette=_palette(), dither=Image.Dither.NONE)
        )
        few.save(shown, format="png", optimize=True)
        return shown.getvalue()

    def __repr__(self) -> str:
        return f"Figure: {self.question}" + (f" [{_WATERMARK}]" if self.is_rehearsal else "")


def save(fig: Figure, folder: Path | str, name: str) -> list[Path]:
    """Write the figure as PNG and SVG, always the same bytes; a missing folder is made."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    fig.savefig(paths[0], dpi=150)
    with rc_context({"svg.hashsalt": name}):
        fig.savefig(paths[1], metadata={"Date": None})
    return paths


# --- runs of several loads ------------------------------------------------------------------------


def ttft(runs: Sequence[results.Run]) -> Figure:
    """How long until the first token? Median against users or arrivals, in seconds."""
    return _over_load(runs, "How long until the first token?", _TTFT)


def throughput(runs: Sequence[results.Run]) -> Figure:
    """How many output tokens a second come out? All users together; prompts never counted."""
    return _over_load(runs, "How many output tokens per second come out?", _THROUGHPUT)


def cost(runs: Sequence[results.Run]) -> Figure:
    """What do a million output tokens cost? At the price that each run has kept, in dollars."""
    return _over_load(runs, "What do a million output tokens cost?", _COST)


def knee(runs: Sequence[results.Run]) -> Figure:
    """From which load on does waiting grow more than throughput?

    Latency against throughput, a point a load: the whole request's mean left, the median time to
    the first token right, where others have published points. The knee is the load with the
    largest *power*, throughput over latency (Kleinrock, ICC 1979): its point is the one from which
    a ray to the origin is flattest. Power asks for the mean, which a few long waits move; a median
    hides them. A run that failed its audit is no knee, and fewer than three loads have none.
    """
    question = "From which load on does waiting grow more than throughput?"
    figure = _sweep_chart(runs, question, _LATENCY, width=10)
    left, right = figure.subplots(1, 2)
    lines = _series(runs)
    _scatter(left, lines, _THROUGHPUT, _LATENCY)
    _scatter(right, lines, _THROUGHPUT, _TTFT)
    for line in lines:
        _mark_knee(left, right, line.runs)
    figure.explain(left, "Numbers: the load. Knee: most throughput ÷ mean latency.")
    _legend(figure)
    return figure


@dataclass(frozen=True)
class _Axis:
    """A figure of a run, and where published tables have it.

    Attributes:
        label: With its unit.
        find: The dictionary of a run in which it stands, None when it has no figures.
        names: Its place in there.
        column: In `results.published`.
        mean: The column for sources without a median.
        is_log: On a logarithmic axis.
    """

    label: str
    find: Callable[[results.Run], Mapping | None]
    names: tuple[str, ...]
    column: str | None = None
    mean: str | None = None
    is_log: bool = False

    def value(self, run: results.Run) -> float:
        """The figure of a run, NaN where it has none."""
        return _number(self._holder(run).get(self.names[-1]))

    def interval(self, run: results.Run) -> tuple[float, float]:
        """How far its 95 % interval reaches below and above it; 0 where there is none."""
        value, holder = self.value(run), self._holder(run)
        low, high = (holder.get("ci95") or {}).get(self.names[-1]) or (value, value)
        return max(0.0, value - low), max(0.0, high - value)

    def published(self, rows: pd.DataFrame) -> tuple[pd.Series, str]:
        """The values of one source, and what must be said of them."""
        values = rows[self.column]
        if self.mean and values.isna().all():
            return rows[self.mean], " (mean)"
        is_derived = self.column in _DERIVED and rows["derived"].any()
        return values, " (derived: its prompt tokens taken out)" if is_derived else ""

    def _holder(self, run: results.Run) -> Mapping:
        found = self.find(run) or {}
        for name in self.names[:-1]:
            found = found.get(name) or {}
        return found


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _load_of(run: results.Run) -> Mapping:
    return run.config["load"]


def _window_of(run: results.Run) -> Mapping | None:
    return run.summary["window"]


_DERIVED = ("output tokens/s", "$ per 1M output tokens")  # in rows marked so
_USERS = _Axis("concurrent users", _load_of, ("concurrency",), column="users")
_RATE = _Axis("arrivals/s", _load_of, ("rate_per_s",))
_LATENCY = _Axis("whole request, mean (s)", _window_of, ("latency_s", "mean"))
_TTFT = _Axis(
    "time to first token, median (s)",
    _window_of,
    ("ttft_s", "p50"),
    column="TTFT p50 (s)",
    mean="TTFT mean (s)",
    is_log=True,
)
_THROUGHPUT = _Axis(
    "output tokens/s, all users together",
    _window_of,
    ("output_tokens_per_s",),
    column="output tokens/s",
)
_COST = _Axis(
    "$ per million output tokens",
    _window_of,
    ("cost_per_million_output_tokens_usd",),
    column="$ per 1M output tokens",
)


def _asked(run: results.Run) -> _Axis:
    """By what the load of a run is told."""
    return _USERS if run.config["load"].get("rate_per_s") is None else _RATE


def _sweep_chart(
    runs: Sequence[results.Run], question: str, y: _Axis, *, width: float = 7.5
) -> Chart:
    if not runs:
        raise ResultsError("There is no run to draw: make one with 06_benchmark.")
    if all(math.isnan(y.value(run)) for run in runs):
        raise ResultsError(f"None of these runs has {y.label}: nothing to draw.")
    is_rehearsal = any(run.target == "rehearsal" for run in runs)
    return Chart(question, is_rehearsal=is_rehearsal, width=width)


def _over_load(runs: Sequence[results.Run], question: str, y: _Axis) -> Figure:
    """A figure against users and, in a panel of their own, arrivals."""
    asked = [axis for axis in (_USERS, _RATE) if axis in map(_asked, runs)]
    figure = _sweep_chart(runs, question, y, width=7.5 if len(asked) < 2 else 10)
    panels = figure.subplots(1, len(asked), squeeze=False, sharey=True)[0]
    for axes, x in zip(panels, asked, strict=True):
        _scatter(axes, [line for line in _series(runs) if line.asked == x], x, y)
        axes.label_outer(remove_inner_ticks=True)
        axes.set_xlabel(x.label)
    _legend(figure)
    return figure


def _scatter(axes: Axes, lines: Sequence["_Line"], x: _Axis, y: _Axis) -> None:
    """Draw lines of runs over what others published."""
    if x.column and y.column:
        _published(axes, x, y)
    for line in lines:
        _draw(axes, line, x, y)
        if x is _THROUGHPUT:
            _name_loads(axes, line.runs, x, y)
    if x is _USERS:
        _users(axes.xaxis, [x.value(run) for line in lines for run in line.runs])
    else:
        axes.set_xlim(left=0)
    if y.is_log:
        axes.set_yscale("log")
        _log_ticks(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(x.label)
    axes.set_ylabel(y.label)
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def _draw(axes: Axes, line: "_Line", x: _Axis, y: _Axis) -> None:
    """One line with its intervals; a run that failed its audit is a cross."""
    xs, ys = [x.value(run) for run in line.runs], [y.value(run) for run in line.runs]
    is_rehearsal = line.runs[0].target == "rehearsal"
    failed = [place for place, run in enumerate(line.runs) if not _is_valid(run)]
    axes.plot(
        xs,
        ys,
        label=line.label,
        color=line.color,
        linestyle="--" if is_rehearsal else "-",
        marker="o",
        markersize=8,
        markerfacecolor="white" if is_rehearsal else line.color,
        markevery=[place for place in range(len(xs)) if place not in failed],
        zorder=3,
    )
    reach = {
        name: np.transpose([axis.interval(run) for run in line.runs])
        for name, axis in (("xerr", x), ("yerr", y))
    }
    axes.errorbar(xs, ys, **reach, fmt="none", ecolor=line.color, zorder=2.5)
    if failed:
        axes.plot(
            [xs[place] for place in failed],
            [ys[place] for place in failed],
            label=_INVALID,
            color=BLACK,
            linestyle="none",
            marker="x",
            markersize=11,
            markeredgewidth=2.5,
            zorder=4,
        )


def _name_loads(axes: Axes, mine: Sequence[results.Run], x: _Axis, y: _Axis) -> None:
    """Below and above in turn, so that close points do not share a place."""
    for place, run in enumerate(mine):
        if math.isnan(y.value(run)):
            continue
        asked, side = _asked(run), -1 if place % 2 else 1
        axes.annotate(
            f"{asked.value(run):g}{'/s' if asked is _RATE else ''}",
            (x.value(run), y.value(run)),
            xytext=(7 * side, -8 * side),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize="small",
        )


def _mark_knee(left: Axes, right: Axes, mine: Sequence[results.Run]) -> None:
    """Ring the load with the largest power; where both axes begin at 0, draw its ray as well."""
    loads = [run for run in mine if _is_valid(run) and _power(run) > 0]
    if len(loads) < _KNEE_LOADS:
        return
    found = max(loads, key=_power)
    words = f"knee: {_load_words(found.config['load'])}"
    if found is mine[0] or found is mine[-1]:
        words += ", where the sweep ends"
    left.axline((0, 0), slope=1 / _power(found), color="0.6", linestyle=":", zorder=1)
    for axes, y in ((left, _LATENCY), (right, _TTFT)):
        axes.plot(
            _THROUGHPUT.value(found),
            y.value(found),
            label=words,
            color=BLACK,
            linestyle="none",
            marker="o",
            markersize=16,
            markerfacecolor="none",
            zorder=4,
        )


def _power(run: results.Run) -> float:
    return _THROUGHPUT.value(run) / _LATENCY.value(run)


def _published(axes: Axes, x: _Axis, y: _Axis) -> None:
    sources = results.published().groupby("source", sort=False)
    for (source, rows), (color, marker) in zip(sources, _PUBLISHED_STYLES, strict=True):
        (xs, about_x), (ys, about_y) = x.published(rows), y.published(rows)
        is_derived = "derived" in about_x + about_y
        axes.plot(
            xs,
            ys,
            label=f"published: {source}{about_y}{about_x}",
            color=color,
            linestyle="none",
            marker=marker,
            markerfacecolor="none" if is_derived else color,
            zorder=2,
        )


def _users(axis: Axis, users: Sequence[float]) -> None:
    axis.axes.set_xscale("log", base=2)
    axis.set_major_locator(FixedLocator(sorted({*results.published()["users"], *users})))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:.0f}"))


def _log_ticks(axis: Axis) -> None:
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _legend(figure: Figure) -> None:
    """One legend for all panels, each label once."""
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        frameon=False,
        fontsize="small",
    )


@dataclass(frozen=True)
class _Line:
    """Runs that differ in nothing but how much load there was, by load."""

    runs: list[results.Run]
    label: str
    color: str

    @property
    def asked(self) -> _Axis:
        """By what their load is told."""
        return _asked(self.runs[0])


def _series(runs: Sequence[results.Run]) -> list[_Line]:
    kinds = sorted({(_label(run), run.target) for run in runs})
    return [
        _Line(
            _newest([run for run in runs if (_label(run), run.target) == (label, target)]),
            f"{'rehearsal (simulated)' if target == 'rehearsal' else 'measured'}: {label}",
            color,
        )
        for (label, target), color in zip(kinds, cycle(_RUN_COLORS), strict=False)
    ]


def _label(run: results.Run) -> str:
    endpoint, load = run.config["endpoint"], run.config["load"]
    words = endpoint.get("recipe") or endpoint.get("model_id") or endpoint["name"]
    if endpoint["instance_type"]:
        count = endpoint.get("instance_count") or 1
        words += f" on {f'{count} x ' if count > 1 else ''}"
        words += endpoint["instance_type"].removeprefix("ml.")
    words += f", {load['input_tokens']} in, {load['output_tokens']} out{_manner(load)}"
    return _plain(words)


def _manner(load: Mapping) -> str:
    """How a load differs from users who ask, wait, and ask again."""
    if load.get("kind") == "arrivals":
        return f", {load['process']} arrivals"
    if load.get("kind") == "rounds":
        return ", in rounds"
    return f", thinking {load['think_s']:g} s" if load.get("think_s") else ""


def _plain(words: str) -> str:
    """Words from elsewhere, safe to draw: no token, no mathematics, nothing without a glyph."""
    shown = (c if c.isascii() and c.isprintable() else "?" for c in hub.redact(words))
    return textwrap.shorten("".join(shown), 100, placeholder=" …").replace("$", r"\$")


def _load_words(load: Mapping) -> str:
    if load.get("rate_per_s") is not None:
        return f"{load['rate_per_s']:g} arrivals/s"
    users = "1 user" if load["concurrency"] == 1 else f"{load['concurrency']} users"
    return users + _manner(load)


def _newest(runs: Sequence[results.Run]) -> list[results.Run]:
    """The newest run of each load, by load: a repeated one replaces its elder."""
    ordered = sorted(runs, key=lambda run: run.config["started_utc"])
    latest = {_asked(run).value(run): run for run in ordered}
    return [latest[asked] for asked in sorted(latest)]


def _is_valid(run: results.Run) -> bool:
    return (run.summary.get("audit") or {"valid": True})["valid"]


# --- one run --------------------------------------------------------------------------------------


def latency_percentiles(run: results.Run) -> Figure:
    """How long does a request take? Waiting and the whole request left, time per token right.

    Percentiles that the number of requests does not support are left out and named. Thin lines are
    95 % intervals; gaps between chunks depend on each other and have none.

    Raises:
        ResultsError: When no request of the run was completed under the asked load.
    """
    count = _inside(run)["requests"]
    question = f"How long does a request take with {_load_words(run.config['load'])}?"
    figure = _chart_of(run, question, width=9)
    left, right = figure.subplots(1, 2)
    _bars(left, run, ("ttft_s", "to the first token"), ("latency_s", "whole request"))
    left.set_ylabel("time (s)")
    _bars(right, run, ("tpot_s", "per output token"), ("itl_s", "between chunks"), scale=1000)
    right.set_ylabel("time (ms)")
    for axes in (left, right):
        axes.set_xlabel(f"percentile, {count} requests")
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def itl(run: results.Run) -> Figure:
    """How long is it from one chunk to the next? All gaps, on logarithmic axes.

    Raises:
        ResultsError: When no request of the run was completed under the asked load, or none had
            two chunks.
    """
    spread, gaps_ms = _inside(run)["itl_s"], _gaps_ms(run)
    if not len(gaps_ms):
        raise ResultsError(f"{run.path.name} has no gap between two chunks: nothing to draw.")
    figure = _chart_of(run, "How long is it from one chunk to the next?")
    axes = figure.subplots()
    shown_ms = np.maximum(gaps_ms, _READ_TOGETHER_MS)
    bins = _bins(shown_ms)
    axes.hist(
        shown_ms,
        bins=bins,
        histtype="stepfilled",
        facecolor="white" if figure.is_rehearsal else SKY,
        edgecolor=BLUE,
        hatch=_HATCH if figure.is_rehearsal else None,
    )
    for percentile, style in zip(metrics.PERCENTILES, ("-", "--", "-.", ":"), strict=True):
        value_s = spread[f"p{percentile}"]
        if value_s is not None:
            axes.axvline(
                max(value_s * 1000, _READ_TOGETHER_MS),
                color=BLACK,
                linestyle=style,
                label=f"p{percentile}: {value_s * 1000:.3g} ms",
            )
    axes.set(xscale="log", yscale="log", xlim=(bins[0] / 1.5, bins[-1] * 1.5), ylim=(0.7, None))
    _log_ticks(axes.xaxis)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.set_xlabel("gap between two chunks of an answer (ms)")
    axes.set_ylabel(f"gaps, of {len(gaps_ms):,}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    figure.explain(axes, *_about_gaps(run, np.mean(gaps_ms <= _READ_TOGETHER_MS)))
    return figure


def timeline(run: results.Run, *, requests: int = SHOWN) -> Figure:
    """Where does the time of each request go? A bar a request, a row a user.

    How queue and prefill are told apart, and what the rows are without users, says
    `helpers.timeline`.

    Args:
        run: The run.
        requests: Draw only the first so many, or four a row when that is more.

    Raises:
        ResultsError: When the run has no request.
    """
    traced = trace(run, requests=requests)
    figure = _chart_of(
        run,
        f"Where does the time of each request go with {_load_words(run.config['load'])}?",
        width=9,
        height=min(7.5, max(4.5, 2 + traced.rows / 4)),
    )
    axes = figure.subplots()
    for window_s in traced.windows_s:
        axes.axvspan(*window_s, **_WINDOW, zorder=0)
    for begins_s in traced.parts_s[1:]:
        axes.axvline(begins_s, color=BLACK, linestyle=":", zorder=1)
    hatch = _HATCH if figure.is_rehearsal and traced.rows <= _HATCHED_ROWS else None
    _spans(axes, traced.spans, hatch=hatch)
    for was_cut_off, look in _STOPS.items():
        stops = [stop for stop in traced.stops if stop.was_cut_off == was_cut_off]
        at_s, rows = [stop.at_s for stop in stops], [stop.row for stop in stops]
        axes.plot(at_s, rows, linestyle="none", **look, zorder=4)
    axes.set_xlim(0, traced.ends_s)
    axes.set_ylim(0.4, traced.rows + 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("time since the start (s)")
    axes.set_ylabel("user" if _asked(run) is _USERS else "requests in flight, a row each")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        handles=_timeline_handles(traced, hatch=hatch),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize="small",
    )
    figure.explain(axes, *_about_timeline(traced))
    return figure


def _chart_of(run: results.Run, question: str, **size: float) -> Chart:
    is_rehearsal = run.target == "rehearsal"
    return Chart(question, is_rehearsal=is_rehearsal, is_valid=_is_valid(run), **size)


def _inside(run: results.Run) -> dict:
    """The figures of the run's window."""
    inside = run.summary["window"]
    if not inside or not inside["requests"]:
        raise ResultsError(
            f"{run.path.name} completed no request under the asked load: nothing to draw."
        )
    return inside


def _bars(axes: Axes, run: results.Run, *measures: tuple[str, str], scale: float = 1.0) -> None:
    """Grouped bars, a group a percentile, a bar a metric."""
    is_rehearsal = run.target == "rehearsal"
    inside = run.summary["window"]
    names = [f"p{p}" for p in metrics.PERCENTILES]
    withheld = [n for n in names if any(inside[key][n] is None for key, _ in measures)]
    shown = [name for name in names if name not in withheld]
    for place, ((key, label), color) in enumerate(zip(measures, (BLUE, ORANGE), strict=True)):
        figures = [_Axis(label, _window_of, (key, name)) for name in shown]
        values = [figure.value(run) * scale for figure in figures]
        reach = np.array([figure.interval(run) for figure in figures]).reshape(-1, 2) * scale
        places = np.arange(len(shown)) + 0.4 * (place - 0.5)
        axes.bar(
            places,
            values,
            width=0.38,
            label=label,
            facecolor="white" if is_rehearsal else color,
            edgecolor=color,
            hatch=_HATCH if is_rehearsal else None,
        )
        tops = values + reach[:, 1]
        axes.vlines(places, values - reach[:, 0], tops, color="0.35", linewidth=1)
        for x, top, value in zip(places, tops, values, strict=True):
            axes.annotate(
                f"{value:.3g}",
                (x, top),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize="small",
            )
    axes.margins(y=0.1)
    axes.set_xticks(range(len(shown)), shown)
    if withheld:
        axes.annotate(
            f"{', '.join(withheld)} withheld: too few requests",
            (0.5, -0.22),
            xycoords="axes fraction",
            ha="center",
            fontsize="small",
            color="0.35",
        )
    axes.spines[["top", "right"]].set_visible(False)


def _gaps_ms(run: results.Run) -> np.ndarray:
    """The gaps of the requests whose latencies are in the summary."""
    load = run.config["load"]
    spans = metrics.windows(run.records, load)
    complete = [
        record
        for record in metrics.within(run.records, spans, kind=load["kind"])
        if record.error is None
    ]
    gaps_s = [gap for record in complete for gap in metrics.itl_s(record)]
    return np.array(gaps_s) * run.config["clock_speed"] * 1000


def _bins(values: np.ndarray) -> np.ndarray:
    """Edges that hold all values, twenty to a decade."""
    low, high = np.floor(20 * np.log10([values.min(), values.max()]))
    return 10 ** (np.arange(low, high + 2) / 20)


def _about_gaps(run: results.Run, together: float) -> Iterable[str]:
    if together:
        yield f"First bar: {together:.1%} of the gaps, chunks that were read together."
    if run.target == "rehearsal":
        yield (
            f"Rehearsal: a millisecond of this machine counts as {run.config['clock_speed']:g} ms, "
            "so that gaps say little."
        )


class _Style(NamedTuple):
    color: str
    height: float  # of a row's 1


_WINDOW = {"facecolor": _shade(YELLOW, 0.25), "edgecolor": GRAY, "linewidth": 0.8}
_STYLES = {
    "wait": _Style("#C0C0C0", 0.25),
    "queue": _Style("#C0C0C0", 0.25),
    "prefill": _Style(ORANGE, 0.8),
    "decode": _Style(BLUE, 0.8),
    "pause": _Style(SKY, 0.25),
}
# By whether the end of the run cut the request off.
_STOPS = {
    False: {"marker": "X", "markersize": 9, "color": VERMILION, "markeredgecolor": "white"},
    True: {"marker": "|", "markersize": 12, "color": BLACK, "markeredgewidth": 2},
}


def _spans(axes: Axes, spans: Sequence[Span], *, hatch: str | None) -> None:
    """All bars of one look as one collection: hundreds of requests stay quick to draw."""
    for kind, (color, height) in _STYLES.items():
        for is_warmup in (True, False):
            corners = [
                _corners(span, height)
                for span in spans
                if (span.kind, span.is_warmup) == (kind, is_warmup)
            ]
            look = _look(color, is_warmup=is_warmup, hatch=hatch if height > 0.5 else None)
            axes.add_collection(PolyCollection(corners, **look, zorder=2), autolim=False)


def _corners(span: Span, height: float) -> list[tuple[float, float]]:
    low, high = span.row - height / 2, span.row + height / 2
    return [
        (span.starts_s, low),
        (span.ends_s, low),
        (span.ends_s, high),
        (span.starts_s, high),
    ]


def _look(color: str, *, is_warmup: bool = False, hatch: str | None = None) -> dict:
    face = _shade(color, 0.5 if is_warmup else 1)
    return {"facecolor": face, "edgecolor": "white", "linewidth": 0, "hatch": hatch}


def _timeline_handles(traced: Timeline, *, hatch: str | None) -> list[Artist]:
    labels = {
        "queue": "queue",
        "prefill": "prefill",
        "decode": "decode: tokens come",
        "pause": f"no token for {traced.pause_s:.2g} s or longer",
        "wait": "wait: queue and prefill" if traced.timing is None else "wait without an answer",
    }
    kinds = {span.kind for span in traced.spans}
    handles: list[Artist] = [
        Patch(
            label=label,
            **_look(_STYLES[kind].color, hatch=hatch if _STYLES[kind].height > 0.5 else None),
        )
        for kind, label in labels.items()
        if kind in kinds
    ]
    if any(span.is_warmup for span in traced.spans):
        handles.append(Patch(label="paler: warm-up", **_look(BLUE, is_warmup=True)))
    for was_cut_off, label in ((False, "failed"), (True, "cut off by the end of the run")):
        if any(stop.was_cut_off == was_cut_off for stop in traced.stops):
            handles.append(Line2D([], [], linestyle="none", label=label, **_STOPS[was_cut_off]))
    if traced.windows_s:
        handles.append(Patch(**_WINDOW, label="window: the asked load was there"))
    if len(traced.parts_s) > 1:
        handles.append(Line2D([], [], color=BLACK, linestyle=":", label="resumed after a break"))
    return handles


def _about_timeline(traced: Timeline) -> Iterable[str]:
    if traced.shown < traced.requests:
        yield f"The first {traced.shown} of {traced.requests} requests."
    if traced.timing:
        yield (
            f"Queue and prefill cannot be seen apart: prefill is taken as "
            f"{traced.timing.prefill_s:.3g} s for each request that starts at the same moment, "
            f"from {traced.timing.source}."
        )
