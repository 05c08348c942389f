"""Figures: their data, their words, and that a rehearsal cannot be taken for a measurement."""

import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from io import BytesIO

import pytest
from made_runs import arrivals, queued, record, run, steady
from matplotlib.colors import to_hex
from PIL import Image, ImageColor

from helpers import costs, plots, recipes, results
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


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("draw", "value"),
    [
        (plots.ttft, lambda inside: inside["ttft_s"]["p50"]),
        (plots.throughput, lambda inside: inside["output_tokens_per_s"]),
        (
            plots.cost,
            lambda inside: costs.per_million_tokens(
                inside["output_tokens_per_s"], price_per_hour=36.0
            ),
        ),
    ],
)
def test_a_sweep_is_one_line_over_users(sweep, draw, value):
    (line,) = own_lines(draw(sweep))
    assert list(line.get_xdata()) == [1, 2, 4]
    assert list(line.get_ydata()) == pytest.approx([value(one.summary["window"]) for one in sweep])


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
    assert any("optimum-neuron 0.0.28, batch 4" in text for text in legend(draw(sweep)))
    assert any("guide of May 2024" in text for text in legend(draw(sweep)))


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


# --- arrivals, intervals, and runs that failed their audit ----------------------------------------


def judged(made, *, valid):
    """A run with another verdict."""
    return replace(made, summary=made.summary | {"audit": {"valid": valid, "checks": []}})


def with_figures(made, **figures):
    """A run with other figures in its window."""
    window = made.summary["window"] | figures
    return replace(made, summary=made.summary | {"window": window})


def rate(tmp_path, per_s, **more):
    records = arrivals([n / per_s for n in range(40)], slots=4, tokens=31)
    made = run(tmp_path, records=records, rate_per_s=per_s, **more)
    return judged(made, valid=True)


@pytest.fixture(scope="module")
def four_slots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        run(folder, records=queued(users=n, requests=64), target="aws", concurrency=n)
        for n in (1, 2, 4, 8, 16)
    ]
    return [judged(one, valid=True) for one in runs]


@pytest.fixture
def saturating(four_slots):
    """Users of a server with four slots: past four they only wait longer."""
    return list(four_slots)


@pytest.mark.parametrize("draw", OVER_USERS)
def test_a_sweep_over_arrival_rates_has_them_on_its_axis(tmp_path, draw):
    figure = draw([rate(tmp_path, per_s) for per_s in (0.4, 0.1, 0.2)])
    (axes,) = figure.axes
    assert axes.get_xlabel() == "arrivals/s"
    assert list(own_lines(figure)[0].get_xdata()) == [0.1, 0.2, 0.4]
    assert not published_lines(figure), "nobody has published arrivals"
    assert "constant arrivals" in legend(figure)[0]


def test_users_and_arrivals_have_a_panel_each_and_colors_of_their_own(tmp_path, sweep):
    figure = plots.throughput([*sweep, rate(tmp_path, 0.2)])
    left, right = figure.axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("concurrent users", "arrivals/s")
    assert own_lines(figure)[0].get_color() != right.lines[0].get_color()
    assert len(legend(figure)) == len(set(legend(figure)))


def test_rounds_and_thinking_users_are_lines_of_their_own(tmp_path):
    records = queued(users=2, requests=10)
    made = [
        judged(run(tmp_path, records=records, concurrency=2, **load), valid=True)
        for load in ({}, {"think_s": 5.0}, {"kind": "rounds"})
    ]
    labels = [one.get_label() for one in own_lines(plots.throughput(made))]
    assert len(labels) == 3
    assert sum("in rounds" in label for label in labels) == 1
    assert sum("thinking 5 s" in label for label in labels) == 1


def test_endpoints_with_more_replicas_are_a_line_of_their_own(sweep):
    twice = [
        replace(
            one,
            config=one.config | {"endpoint": one.config["endpoint"] | {"instance_count": 2}},
        )
        for one in sweep
    ]
    labels = [one.get_label() for one in own_lines(plots.throughput([*sweep, *twice]))]
    assert len(labels) == 2
    assert sum("on 2 x inf2.48xlarge" in label for label in labels) == 1


def reaches(figure):
    """Where the vertical interval of each point begins and ends."""
    *_, vertical = figure.axes[0].collections
    return [tuple(segment[:, 1]) for segment in vertical.get_segments()]


def test_intervals_are_drawn_where_a_run_has_them(sweep):
    known = with_figures(
        sweep[0], output_tokens_per_s=20.0, ci95={"output_tokens_per_s": [18.0, 21.0]}
    )
    unknown = with_figures(sweep[1], output_tokens_per_s=30.0, ci95={})
    assert reaches(plots.throughput([known, unknown])) == [(18.0, 21.0), (30.0, 30.0)]


def test_a_medians_interval_is_drawn_too(sweep):
    spread = sweep[0].summary["window"]["ttft_s"] | {"p50": 1.5, "ci95": {"p50": [1.0, 2.5]}}
    assert reaches(plots.ttft([with_figures(sweep[0], ttft_s=spread)])) == [(1.0, 2.5)]


@pytest.mark.parametrize("draw", [*OVER_USERS, plots.knee])
def test_a_run_that_failed_its_audit_is_a_cross_and_named(saturating, draw):
    saturating[1] = judged(saturating[1], valid=False)
    figure = draw(saturating)
    (cross,) = [one for one in own_lines(figure) if one.get_marker() == "x"]
    (line,) = [one for one in own_lines(figure) if len(one.get_xdata()) == 5]
    assert len(cross.get_xdata()) == 1 and line.get_markevery() == [0, 2, 3, 4]
    assert legend(figure).count("invalid: see its audit") == 1
    assert "invalid: see its audit" not in legend(draw(saturating[2:]))


@pytest.mark.parametrize("draw", [plots.latency_percentiles, plots.itl, plots.timeline])
def test_a_figure_of_one_invalid_run_says_so_in_its_title(saturating, draw):
    assert draw(judged(saturating[0], valid=False)).get_suptitle().endswith("see its audit]")
    assert draw(saturating[0]).get_suptitle().endswith("?")


def test_without_a_price_there_is_no_cost_to_draw(sweep):
    free = [with_figures(one, cost_per_million_output_tokens_usd=None) for one in sweep]
    with pytest.raises(ResultsError, match="None of these runs has .* per million"):
        plots.cost(free)
    (line,) = own_lines(plots.cost([free[0], sweep[1]]))
    assert math.isnan(line.get_ydata()[0]) and line.get_ydata()[1] > 0


def test_names_from_elsewhere_are_drawn_as_they_are_but_for_tokens(sweep, tmp_path):
    hostile = "hf_" + "Abcdefgh12345678" * 2
    name = rf"$\frac{{1$ {hostile} \x00 🦙 " + "x" * 300
    config = sweep[0].config | {"endpoint": sweep[0].config["endpoint"] | {"recipe": name}}
    figure = plots.throughput([replace(sweep[0], config=config)])
    _, svg = plots.save(figure, tmp_path, "hostile")
    ElementTree.parse(svg)
    assert hostile not in svg.read_text() and "***" in legend(figure)[-1]
    assert len(legend(figure)[-1]) < 150


# --- the knee -------------------------------------------------------------------------------------


def rings(axes):
    return [one for one in axes.lines if one.get_label().startswith("knee")]


def test_the_knee_is_where_the_slots_are_full(saturating):
    left, right = plots.knee(saturating).axes
    inside = saturating[2].summary["window"]
    for axes, latency_s in ((left, inside["latency_s"]["mean"]), (right, inside["ttft_s"]["p50"])):
        (ring,) = rings(axes)
        assert ring.get_label() == "knee: 4 users"
        assert ring.get_xdata()[0] == inside["output_tokens_per_s"]
        assert ring.get_ydata()[0] == latency_s


def test_each_point_stands_beside_its_load_and_the_rule_above(saturating, tmp_path):
    left, right = plots.knee(saturating).axes
    for axes in (left, right):
        assert [text.get_text() for text in axes.texts] == ["1", "2", "4", "8", "16"]
    assert "throughput ÷ mean latency" in left.get_title(loc="left")
    slow = plots.knee([rate(tmp_path, 0.1)]).axes[0]
    assert [text.get_text() for text in slow.texts] == ["0.1/s"]


def test_axes_of_the_knee_have_units_and_published_points_where_there_are_any(saturating):
    left, right = plots.knee(saturating).axes
    assert left.get_xlabel() == right.get_xlabel() == "output tokens/s, all users together"
    assert left.get_ylabel() == "whole request, mean (s)"
    assert right.get_ylabel() == "time to first token, median (s)"
    assert not [one for one in left.lines if one.get_label().startswith("published")]
    points = [one for one in right.lines if one.get_label().startswith("published")]
    assert len(points) == 4
    guide = next(one for one in points if "guide" in one.get_label())
    assert list(guide.get_ydata()) == [5.50533] and guide.get_markerfacecolor() == "none"
    assert "(mean)" in guide.get_label() and "(derived" in guide.get_label()


def test_a_sweep_over_rates_has_a_knee_too(tmp_path):
    figure = plots.knee([rate(tmp_path, per_s) for per_s in (0.2, 0.4, 0.8, 1.2, 2.0)])
    (ring,) = rings(figure.axes[0])
    assert re.fullmatch(r"knee: [\d.]+ arrivals/s", ring.get_label())


def test_a_knee_at_the_end_of_a_sweep_says_that_more_may_follow(saturating):
    (ring,) = rings(plots.knee(saturating[:3]).axes[0])
    assert ring.get_label() == "knee: 4 users, where the sweep ends"


def test_an_invalid_run_is_no_knee(saturating):
    saturating[2] = judged(saturating[2], valid=False)
    (ring,) = rings(plots.knee(saturating).axes[0])
    assert "4 users" not in ring.get_label()


def test_two_loads_have_no_knee(saturating):
    assert not rings(plots.knee(saturating[:2]).axes[0])
    saturating[0] = judged(saturating[0], valid=False)
    assert not rings(plots.knee(saturating[:3]).axes[0]), "nor have two that are valid"


def test_a_load_that_completed_nothing_is_left_out(saturating):
    lost = replace(saturating[4], summary=saturating[4].summary | {"window": None})
    (ring,) = rings(plots.knee([*saturating[:4], lost]).axes[0])
    assert ring.get_label() == "knee: 4 users"
    with pytest.raises(ResultsError, match="nothing to draw"):
        plots.knee([lost])


# --- gaps -----------------------------------------------------------------------------------------


def heights(figure):
    """How many gaps stand in each bin, from the outline of the bars."""
    (outline,) = figure.axes[0].patches
    return outline.get_xy()[1:-1:2, 1]


def test_every_gap_of_the_window_is_counted_and_its_percentiles_are_those_of_the_run(saturating):
    figure = plots.itl(saturating[2])
    spread = saturating[2].summary["window"]["itl_s"]
    assert sum(heights(figure)) == spread["n"]
    assert figure.axes[0].get_ylabel() == f"gaps, of {spread['n']:,}"
    assert figure.axes[0].get_xlabel().endswith("(ms)")
    assert legend(figure) == [f"p{p}: 100 ms" for p in (50, 90, 95, 99)]
    assert [line.get_xdata()[0] for line in figure.axes[0].lines] == pytest.approx([100] * 4)


def test_chunks_that_were_read_together_share_a_bar_that_is_explained(tmp_path):
    one = record(tokens=11)
    pairs = tuple(one.chunk_s[n - n % 2] for n in range(11))
    records = [replace(made, chunk_s=pairs) if not n else made for n, made in enumerate([one])]
    more = replace(record(1, sent_s=one.ended_s), user=0)
    made = run(tmp_path, records=[*records, more], target="aws", concurrency=1)
    figure = plots.itl(judged(made, valid=True))
    assert heights(figure)[0] == 5
    assert "First bar: 25.0% of the gaps" in figure.caption


def test_gaps_of_a_rehearsal_come_with_a_warning(tmp_path, saturating):
    simulated = run(tmp_path, records=saturating[1].records, concurrency=2, speed=60.0)
    figure = plots.itl(simulated)
    assert "counts as 60 ms" in figure.caption
    assert figure.axes[0].get_title(loc="left").replace("\n", " ") == figure.caption
    assert figure.axes[0].patches[0].get_hatch() == "///"
    assert plots.itl(saturating[1]).caption == ""
    assert plots.itl(saturating[1]).axes[0].patches[0].get_hatch() is None


def test_a_run_without_two_chunks_has_no_gaps(tmp_path):
    made = run(tmp_path, records=steady(users=2, tokens=1))
    with pytest.raises(ResultsError, match="no gap"):
        plots.itl(made)


# --- the timeline ---------------------------------------------------------------------------------


def test_a_timeline_names_what_is_drawn(saturating):
    figure = plots.timeline(saturating[3])
    assert legend(figure) == [
        "decode: tokens come",
        "wait: queue and prefill",
        "paler: warm-up",
        "window: the asked load was there",
    ]
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time since the start (s)", "user")
    assert axes.get_ylim() == pytest.approx((0.4, 8.6))


def bars(figure):
    return [one for one in figure.axes[0].collections if len(one.get_paths())]


def test_a_timeline_has_a_bar_for_each_wait_and_each_answer(saturating):
    counts = [len(one.get_paths()) for one in bars(plots.timeline(saturating[3], requests=1000))]
    assert sorted(counts) == [8, 8, 64, 64], "warm-up and measured, waiting and answering"


def test_a_timeline_of_a_rehearsal_is_hatched_as_long_as_that_can_be_seen(tmp_path, saturating):
    few = run(tmp_path, records=queued(users=4, requests=8), concurrency=4)
    many = run(tmp_path, records=queued(users=40, requests=80), concurrency=40)
    assert {one.get_hatch() for one in bars(plots.timeline(few))} == {None, "///"}
    assert {one.get_hatch() for one in bars(plots.timeline(many))} == {None}
    assert {one.get_hatch() for one in bars(plots.timeline(saturating[0]))} == {None}
    for figure in (plots.timeline(few), plots.timeline(many)):
        assert [text.get_text() for text in figure.texts if text.get_gid()] == ["rehearsal"]


def test_a_timeline_of_arrivals_counts_the_requests_in_flight(tmp_path):
    figure = plots.timeline(rate(tmp_path, 0.5))
    assert figure.axes[0].get_ylabel() == "requests in flight, a row each"
    assert "0.5 arrivals/s" in figure.question


def test_failures_are_crosses_and_the_end_of_a_run_is_none(tmp_path):
    records = [
        *steady(users=2),
        record(90, user=0, sent_s=115.0, tokens=0, error="ModelError"),
        record(91, user=1, sent_s=115.0, tokens=0, error="interrupted"),
    ]
    figure = plots.timeline(run(tmp_path, records=records))
    assert {"failed", "cut off by the end of the run"} < set(legend(figure))
    marks = [one for one in figure.axes[0].lines if len(one.get_xdata()) == 1]
    assert [one.get_marker() for one in marks] == ["X", "|"]
    assert to_hex(marks[0].get_color()) == plots.VERMILION.lower()


def test_a_timeline_says_who_told_queue_and_prefill_apart_and_where_the_run_was_resumed(tmp_path):
    again = [replace(one, part=1, index=100 + one.index) for one in queued(users=6, requests=12)]
    made = run(tmp_path, records=[*queued(users=6, requests=12), *again], concurrency=6)
    guide = recipes.RECIPES[recipes.DEFAULT]
    image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:"
    known = {"image": image + guide.contract.tag, "env": dict(guide.env)}
    config = made.config | {"endpoint": made.config["endpoint"] | known}
    figure = plots.timeline(replace(made, config=config))
    assert {"queue", "prefill", "resumed after a break"} < set(legend(figure))
    assert "prefill is taken as 1.2 s for each request" in figure.caption
    assert "optimum-neuron v0.0.28" in figure.caption


def test_a_long_timeline_says_how_much_it_shows(saturating):
    figure = plots.timeline(saturating[0], requests=20)
    assert figure.caption == "The first 20 of 65 requests."
    assert plots.timeline(saturating[0]).caption == ""


# --- what a reader keeps --------------------------------------------------------------------------


def test_the_same_figure_is_saved_as_the_same_bytes(saturating, tmp_path):
    once, again = (
        [
            path.read_bytes()
            for path in plots.save(plots.timeline(saturating[1]), tmp_path / name, "once")
        ]
        for name in ("once", "again")
    )
    assert once == again


def test_no_two_colors_of_a_timeline_look_alike_in_gray():
    grays = sorted(
        Image.new("RGB", (1, 1), plots._STYLES[kind].color).convert("L").getpixel((0, 0))
        for kind in ("queue", "prefill", "decode")
    )
    assert all(lighter - darker > 20 for darker, lighter in zip(grays, grays[1:], strict=False))
