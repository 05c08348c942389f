"""One figure a question. Each function returns its figure; nothing is shown or saved by itself.

What was measured on AWS is solid; a rehearsal is hatched or dashed, hollow, and watermarked;
what others published are points, with their source in the legend. Colors are Okabe and Ito's,
which readers with any color vision can tell apart (jfly.uni-koeln.de/color, 2008).
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from PIL import Image, ImageColor

from helpers import metrics, results
from helpers.errors import ResultsError

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"
_COLORS = (ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE, BLACK)
_RUN_COLORS = (BLUE, VERMILION, GREEN, PURPLE)
_PUBLISHED_STYLES = ((BLACK, "^"), (ORANGE, "s"), (PURPLE, "D"), (GREEN, "v"))
_WATERMARK = "rehearsal"
_SHOWN_DPI = 80  # in a notebook; files are finer


def _palette() -> Image.Image:
    """The colors of this module and their blends with white: no chart loses a hue to another."""
    colors = [ImageColor.getrgb(color) for color in (*_COLORS, "#808080")]
    blends = [
        round(channel * share + 255 * (1 - share))
        for color in colors
        for share in (1, 0.75, 0.5, 0.25)
        for channel in color
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette([255, 255, 255, *blends])
    return palette


class Chart(Figure):
    """A figure that shows itself in a notebook, without pyplot's global state."""

    def __init__(self, question: str, *, is_rehearsal: bool, width: float = 7.5):
        super().__init__(figsize=(width, 4.5), layout="constrained")
        self.question = question
        self.is_rehearsal = is_rehearsal
        self.suptitle(question)
        if is_rehearsal:
            self.text(
                0.5,
                0.5,
                _WATERMARK,
                gid="watermark",
                fontsize=64,
                color="0.5",
                alpha=0.25,
                rotation=25,
                ha="center",
                va="center",
            )

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


def latency_percentiles(run: results.Run) -> Figure:
    """How long does a request take? Waiting and the whole request left, time per token right.

    Percentiles that the number of requests does not support are left out and named.

    Raises:
        ResultsError: When no request of the run was completed under the asked load.
    """
    inside = run.summary["window"]
    if not inside or not inside["requests"]:
        raise ResultsError(
            f"{run.path.name} completed no request under the asked load: nothing to draw."
        )
    users, count = run.config["load"]["concurrency"], inside["requests"]
    question = f"How long does a request take with {users} users?"
    figure = Chart(question, is_rehearsal=run.target == "rehearsal", width=9)
    left, right = figure.subplots(1, 2)
    _bars(left, run, ("ttft_s", "to the first token"), ("latency_s", "whole request"))
    left.set_ylabel("time (s)")
    _bars(right, run, ("tpot_s", "per output token"), ("itl_s", "between chunks"), scale=1000)
    right.set_ylabel("time (ms)")
    for axes in (left, right):
        axes.set_xlabel(f"percentile, {count} requests")
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def ttft(runs: Sequence[results.Run]) -> Figure:
    """How long until the first token? Median against users, in seconds."""
    return _over_users(
        runs,
        "How long until the first token?",
        ylabel="time to first token, median (s)",
        column="TTFT p50 (s)",
        fallback="TTFT mean (s)",
        is_log=True,
    )


def throughput(runs: Sequence[results.Run]) -> Figure:
    """How many output tokens a second come out? All users together; prompts never counted."""
    return _over_users(
        runs,
        "How many output tokens per second come out?",
        ylabel="output tokens/s, all users together",
        column="output tokens/s",
    )


def cost(runs: Sequence[results.Run]) -> Figure:
    """What do a million output tokens cost? At SageMaker's price, in dollars."""
    return _over_users(
        runs,
        "What do a million output tokens cost?",
        ylabel="$ per million output tokens",
        column="$ per 1M output tokens",
    )


def save(fig: Figure, folder: Path | str, name: str) -> list[Path]:
    """Write the figure as PNG and SVG; the folder is made when it is missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    fig.savefig(paths[0], dpi=150)
    fig.savefig(paths[1], metadata={"Date": None})
    return paths


def _over_users(
    runs: Sequence[results.Run],
    question: str,
    *,
    ylabel: str,
    column: str,
    fallback: str | None = None,
    is_log: bool = False,
) -> Figure:
    """A column of `metrics.table` against users, with the same column of `results.published`."""
    if not runs:
        raise ResultsError("There is no run to draw: make one with 06_benchmark.")
    figure = Chart(question, is_rehearsal=any(run.target == "rehearsal" for run in runs))
    axes = figure.subplots()
    known = results.published()
    _published(axes, known, column, fallback)
    for (label, target), color in zip(_series(runs), _cycle(_RUN_COLORS), strict=False):
        mine = _newest([run for run in runs if _label(run) == label and run.target == target])
        table = metrics.table(mine)
        is_rehearsal = target == "rehearsal"
        axes.plot(
            table["users"],
            table[column],
            label=f"{'rehearsal (simulated)' if is_rehearsal else 'measured'}: {label}",
            color=color,
            linestyle="--" if is_rehearsal else "-",
            marker="o",
            markersize=8,
            markerfacecolor="white" if is_rehearsal else color,
            zorder=3,
        )
    axes.set_xscale("log", base=2)
    users = sorted({*known["users"], *(run.config["load"]["concurrency"] for run in runs)})
    axes.xaxis.set_major_locator(FixedLocator(users))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.set_xlabel("concurrent users")
    axes.set_ylabel(ylabel)
    if is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize="small")
    return figure


def _published(axes: Axes, known: pd.DataFrame, column: str, fallback: str | None) -> None:
    sources = known.groupby("source", sort=False)
    for (source, rows), (color, marker) in zip(sources, _PUBLISHED_STYLES, strict=True):
        values, name, is_derived = rows[column], f"published: {source}", rows["derived"].any()
        if values.isna().all() and fallback:
            values, name, is_derived = rows[fallback], f"{name} (mean)", False
        if is_derived:
            name += " (derived: its prompt tokens taken out)"
        axes.plot(
            rows["users"],
            values,
            label=name,
            color=color,
            linestyle="none",
            marker=marker,
            markerfacecolor="none" if is_derived else color,
            zorder=2,
        )


def _bars(axes: Axes, run: results.Run, *measures: tuple[str, str], scale: float = 1.0) -> None:
    """Grouped bars, a group a percentile, a bar a metric."""
    is_rehearsal = run.target == "rehearsal"
    inside = run.summary["window"]
    names = [f"p{p}" for p in metrics.PERCENTILES]
    withheld = [n for n in names if any(inside[key][n] is None for key, _ in measures)]
    shown = [name for name in names if name not in withheld]
    for place, ((key, label), color) in enumerate(zip(measures, (BLUE, ORANGE), strict=True)):
        bars = axes.bar(
            [index + 0.4 * (place - 0.5) for index in range(len(shown))],
            [inside[key][name] * scale for name in shown],
            width=0.38,
            label=label,
            facecolor="white" if is_rehearsal else color,
            edgecolor=color,
            hatch="///" if is_rehearsal else None,
        )
        axes.bar_label(bars, fmt="%.3g", padding=2, fontsize="small")
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


def _series(runs: Sequence[results.Run]) -> list[tuple[str, str]]:
    return sorted({(_label(run), run.target) for run in runs})


def _label(run: results.Run) -> str:
    endpoint, load = run.config["endpoint"], run.config["load"]
    return (
        f"{endpoint['recipe']} on {endpoint['instance_type'].removeprefix('ml.')}, "
        f"{load['input_tokens']} in, {load['output_tokens']} out"
    )


def _newest(runs: Sequence[results.Run]) -> list[results.Run]:
    """The newest run of each concurrency, by concurrency: a repeated one replaces its elder."""
    ordered = sorted(runs, key=lambda run: run.config["started_utc"])
    latest = {run.config["load"]["concurrency"]: run for run in ordered}
    return [latest[users] for users in sorted(latest)]


def _cycle(colors: Sequence[str]):
    while True:
        yield from colors
