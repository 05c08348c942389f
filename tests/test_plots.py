"""Figures: their data, their words, and that a rehearsal cannot be taken for a measurement."""

import re
import xml.etree.ElementTree as ElementTree
from io import BytesIO

import pytest
from made_runs import record, run, steady
from matplotlib.colors import to_hex
from PIL import Image, ImageColor

from helpers import plots, results
from helpers.errors import ResultsError

OVER_USERS = [plots.ttft, plots.throughput, plots.cost]


@pytest.fixture
def sweep(tmp_path):
    return [run(tmp_path, concurrency=users, requests=5 * users) for users in (1, 2, 4)]


@pytest.fixture
def measured(tmp_path):
    return [run(tmp_path, target="aws", concurrency=users) for users in (1, 2, 4)]


def own_lines(figure):
    """Our runs' lines, not the published points."""
    return [one for one in figure.axes[0].lines if not one.get_label().startswith("published")]


def published_lines(figure):
    return [one for one in figure.axes[0].lines if one.get_label().startswith("published")]


@pytest.mark.parametrize(
    ("draw", "values"),
    [
        (plots.ttft, [1.0, 1.0, 1.0]),
        (plots.throughput, [5.6, 11.2, 22.4]),
        (plots.cost, [1785.71, 892.86, 446.43]),
    ],
)
def test_a_sweep_is_one_line_over_users(sweep, draw, values):
    (line,) = own_lines(draw(sweep))
    assert list(line.get_xdata()) == [1, 2, 4]
    assert list(line.get_ydata()) == pytest.approx(values, abs=0.01)


@pytest.mark.parametrize("draw", OVER_USERS)
def test_axes_have_units_and_the_title_is_a_question(sweep, draw):
    figure = draw(sweep)
    assert figure.axes[0].get_xlabel() == "concurrent users"
    assert re.search(r"\(s\)|tokens/s|\$", figure.axes[0].get_ylabel())
    assert figure.get_suptitle().endswith("?")


@pytest.mark.parametrize("draw", OVER_USERS)
def test_published_figures_are_points_with_their_source(sweep, draw):
    lines = published_lines(draw(sweep))
    assert len(lines) == 4
    assert all(one.get_linestyle() == "None" and one.get_marker() != "None" for one in lines)
    legend = [text.get_text() for text in draw(sweep).legends[0].get_texts()]
    assert any("optimum-neuron 0.0.28, batch 4" in text for text in legend)
    assert any("guide of May 2024" in text for text in legend)


def test_published_points_hold_the_published_values(sweep):
    batch_4 = next(
        one for one in published_lines(plots.throughput(sweep)) if "batch 4" in one.get_label()
    )
    assert list(batch_4.get_xdata()) == [1, 8, 16]
    assert list(batch_4.get_ydata()) == pytest.approx([22.48, 64.09, 66.62], abs=0.01)


def guide_in(figure):
    return next(one for one in published_lines(figure) if "guide" in one.get_label())


@pytest.mark.parametrize("draw", [plots.throughput, plots.cost])
def test_a_derived_point_is_hollow_and_called_derived(sweep, draw):
    assert guide_in(draw(sweep)).get_markerfacecolor() == "none"
    assert "derived" in guide_in(draw(sweep)).get_label()


def test_a_mean_among_medians_is_called_one(sweep):
    guide = guide_in(plots.ttft(sweep))
    assert guide.get_label().endswith("(mean)") and list(guide.get_ydata()) == [5.50533]
    assert guide.get_markerfacecolor() != "none"


@pytest.mark.parametrize("draw", [*OVER_USERS, lambda runs: plots.latency_percentiles(runs[-1])])
def test_a_rehearsal_is_watermarked_and_a_measurement_is_not(sweep, measured, draw):
    assert [text.get_text() for text in draw(sweep).texts if text.get_gid() == "watermark"] == [
        "rehearsal"
    ]
    assert not [text for text in draw(measured).texts if text.get_gid() == "watermark"]


@pytest.mark.parametrize("draw", OVER_USERS)
def test_measured_is_solid_and_filled_rehearsal_dashed_and_hollow(sweep, measured, draw):
    ours, theirs = own_lines(draw([*sweep, *measured]))
    by_label = {one.get_label().partition(":")[0]: one for one in (ours, theirs)}
    solid, dashed = by_label["measured"], by_label["rehearsal (simulated)"]
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert to_hex(solid.get_markerfacecolor()) == to_hex(solid.get_color())
    assert to_hex(dashed.get_markerfacecolor()) == "#ffffff"
    assert draw([*sweep, *measured]).is_rehearsal


def test_a_repeated_run_replaces_its_elder(tmp_path, sweep):
    again = run(
        tmp_path,
        records=steady(users=2, ttft_s=2.0),
        concurrency=2,
        started_utc="2099-01-01T00:00:00+00:00",
    )
    (line,) = own_lines(plots.ttft([again, *sweep]))
    assert list(line.get_ydata()) == [1.0, 2.0, 1.0]


def test_bars_show_the_percentiles_that_n_supports_and_name_the_others(tmp_path):
    made = run(tmp_path, records=steady(users=2, each=5))
    left, right = plots.latency_percentiles(made).axes
    assert [text.get_text() for text in left.get_xticklabels()] == ["p50", "p90"]
    first, whole = (
        [patch.get_height() for patch in container.patches] for container in left.containers
    )
    assert first == pytest.approx([1.0, 1.0]) and whole == pytest.approx([2.0, 2.0])
    assert [patch.get_height() for patch in right.containers[0].patches] == pytest.approx([100] * 2)
    assert "p95, p99 withheld" in [note.get_text() for note in left.texts][-1]
    assert (left.get_ylabel(), right.get_ylabel()) == ("time (s)", "time (ms)")
    assert "10 requests" in left.get_xlabel()


def test_bars_with_enough_requests_withhold_nothing(tmp_path):
    left, _ = plots.latency_percentiles(run(tmp_path, records=steady(users=2, each=60))).axes
    assert [text.get_text() for text in left.get_xticklabels()] == ["p50", "p90", "p95", "p99"]
    assert not [note for note in left.texts if "withheld" in note.get_text()]


def test_bars_of_a_rehearsal_are_hatched_and_of_a_measurement_solid(sweep, measured):
    def patches(made):
        axes = plots.latency_percentiles(made).axes
        return [p for one in axes for container in one.containers for p in container.patches]

    assert all(patch.get_hatch() == "///" for patch in patches(sweep[1]))
    assert all(patch.get_hatch() is None for patch in patches(measured[1]))


def test_the_figures_repr_says_rehearsal_so_that_a_notebooks_output_does(sweep, measured):
    assert repr(plots.ttft(sweep)) == "Figure: How long until the first token? [rehearsal]"
    assert repr(plots.ttft(measured)) == "Figure: How long until the first token?"


def test_a_figure_shows_itself_as_png(sweep):
    assert plots.ttft(sweep)._repr_png_().startswith(b"\x89PNG")


def test_a_figure_is_saved_as_png_and_svg_with_its_watermark(sweep, tmp_path):
    png, svg = plots.save(plots.throughput(sweep), tmp_path / "figures", "throughput")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert 'id="watermark"' in svg.read_text()


@pytest.mark.parametrize("draw", OVER_USERS)
def test_nothing_to_draw_is_one_sentence(draw):
    with pytest.raises(ResultsError, match="06_benchmark"):
        draw([])


def test_a_run_without_a_success_has_no_bars(tmp_path):
    failed = run(tmp_path, records=[record(tokens=0, error="timeout")], concurrency=1)
    with pytest.raises(ResultsError, match="completed no request"):
        plots.latency_percentiles(failed)


def test_published_sources_all_have_a_style_of_their_own():
    assert results.published()["source"].nunique() == len(set(plots._PUBLISHED_STYLES))


def test_what_a_notebook_shows_keeps_every_color(tmp_path):
    fig = plots.Chart("Colors?", is_rehearsal=False)
    axes = fig.add_subplot()
    colors = (plots.ORANGE, plots.GREEN, plots.BLUE, plots.VERMILION, plots.PURPLE)
    axes.bar(range(len(colors)), 1, color=colors)
    shown = Image.open(BytesIO(fig._repr_png_()))
    assert shown.mode == "P"
    drawn = {color for _, color in shown.convert("RGB").getcolors(1000)}
    assert {ImageColor.getrgb(color) for color in colors} <= drawn
