"""One page a run: everything that a reader needs to trust its figures, or not to.

`python -m helpers.report FOLDER` writes the page anew; with more runs named behind it, it also
shows them together, load by load.
"""

import argparse
import base64
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from matplotlib.figure import Figure

from helpers import hub, llmperf, metrics, plan, plots, results
from helpers.errors import ResultsError, WorkshopError
from helpers.records import Failure
from helpers.results import Run
from helpers.settings import PYTHON

NAME = "report.html"
_NOTHING = "–"
_LONGEST = 300  # letters of an error's words that are shown


def write(run: Run, others: Sequence[Run] = ()) -> Path:
    """Write the page of a run, and its figures as PNG and SVG beside it; always the same bytes.

    Args:
        run: The run; its folder is there.
        others: Runs of other loads, drawn together with this one.

    Returns:
        The path of `report.html`, which needs no other file and nothing from elsewhere.

    Raises:
        ResultsError: When the folder cannot be written.
    """
    path = run.path / NAME
    try:
        pictures = [_embedded(picture, run.path) for picture in _pictures(run, others)]
        page = _template().render(_context(run) | {"pictures": pictures, "files": _files(run)})
        path.write_text(hub.redact(page), encoding="utf-8", errors="replace")
    except OSError as error:
        raise ResultsError(
            f"Cannot write into {run.path} ({error.strerror or error}): make room there, or copy "
            "the run to a folder that can be written."
        ) from error
    return path


def command(run: Run) -> str:
    """The command line that sends the same load to the same endpoint again."""
    load = run.config["load"]
    flags = _endpoint_flags(run) | {
        "rate": load["rate_per_s"],
        "process": load["process"],
        "concurrency": load["concurrency"],
        "think": load["think_s"] or None,
        "requests": load["requests"],
        "duration": load["duration_s"],
        "warmup": load["warmup"],
        "input-tokens": load["input_tokens"],
        "input-tokens-stddev": load["input_tokens_stddev"] or None,
        "output-tokens": load["output_tokens"],
        "output-tokens-stddev": load["output_tokens_stddev"] or None,
        "seed": load["seed"],
        "sampling": json.dumps(load["sampling"]) if load.get("sampling") else None,
        "ray": "auto" if run.config.get("engine") == "ray" else None,
    }
    words = [PYTHON, "-m", "helpers.benchmark"]
    for name, value in flags.items():
        words += [] if value is None else [f"--{name}", str(value)]
    words += ["--rounds"] if load["kind"] == "rounds" else []
    words += ["--boto3"] if run.config.get("engine") == "boto3" else []
    for name, limit_s in run.config["limits"].items():
        words += ["--limit", f"{name.removesuffix('_s')}={limit_s}"]
    return shlex.join(words)


def _endpoint_flags(run: Run) -> dict[str, object]:
    config, endpoint = run.config, run.config["endpoint"]
    if endpoint.get("url"):
        price = config["price"]["usd_per_hour"]
        return {
            "openai-url": endpoint["url"],
            "model": endpoint["model_id"],
            "price-per-hour": price,
        }
    route = "openai" if config.get("route") == "openai" else None
    return {"endpoint": endpoint["name"], "target": run.target, "route": route}


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names and errors come from elsewhere
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(NAME)


@dataclass(frozen=True)
class _Table:
    """A table of the page; the first cell of a row is its header.

    Attributes:
        caption: What it shows.
        columns: Headers.
        rows: Cells as they are shown.
        numbers: Columns that hold numbers.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()


def _context(run: Run) -> dict:
    """What the template names, pictures and files apart."""
    audit, is_rehearsal = run.summary["audit"], run.target == "rehearsal"
    heading = f"Benchmark of {run.config['endpoint']['name']}"
    states = {"INVALID": not audit["valid"], "rehearsal": is_rehearsal}
    return {
        "title": ": ".join([*(name for name, holds in states.items() if holds), heading]),
        "heading": heading,
        "is_rehearsal": is_rehearsal,
        "is_valid": audit["valid"],
        "mark": " (rehearsal: simulated)" if is_rehearsal else "",
        "clock_speed": f"{run.config['clock_speed']:g}",
        "failed": [check for check in audit["checks"] if check["level"] == "invalid"],
        "measured": _measured(run),
        "audit": _audit(audit["checks"]),
        "key_figures": _key_figures(run),
        "no_intervals": _found(run.summary["window"], "ci95_missing") or "",
        "percentiles": _of_frame(
            "Latencies by percentile; a dash where so few requests do not support it",
            metrics.percentile_table(run),
        ),
        "llmperf": _of_frame(
            "The same requests counted in two ways, over the whole run", llmperf.table(run)
        ),
        "llmperf_why": llmperf.WHY,
        "errors": _errors(run),
        "command": command(run),
    }


# --- what was measured, and whether it holds ------------------------------------------------------


def _measured(run: Run) -> _Table:
    config, endpoint, price = run.config, run.config["endpoint"], run.config["price"]
    started = datetime.fromisoformat(config["started_utc"])
    facts = {
        "endpoint": endpoint.get("url") or endpoint["name"],
        "recipe": endpoint.get("recipe"),
        "model": endpoint.get("model_id"),
        "instances": endpoint["instance_type"]
        and f"{endpoint.get('instance_count') or 1} × {endpoint['instance_type']}",
        "container": endpoint.get("image"),
        "load": str(plan.Load.of_config(config["load"])),
        "started": f"{started:%Y-%m-%d %H:%M:%S} UTC",
        "region": config.get("region"),
        "target": run.target,
        "time": f"AWS time, {config['clock_speed']:g} times as fast as this machine's"
        if config["clock_speed"] != 1
        else None,
        "price": price["usd_per_hour"] is not None
        and f"${price['usd_per_hour']:,.2f} an hour; {price.get('source') or 'as given'}",
        "output tokens": _counted(run, "output"),
        "prompt tokens": _counted(run, "prompt"),
        "transport": config.get("transport"),
        "engine": config.get("engine"),
        "client": _listed(config.get("client")),
        "metadata": _listed(config.get("metadata")),
    }
    rows = [(name, str(value)) for name, value in facts.items() if value]
    return _Table("The endpoint and the load", ("what", "this run"), rows)


def _listed(facts: Mapping | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (facts or {}).items())


def _counted(run: Run, which: str) -> str:
    """How many tokens there were, and who counted them."""
    tokens = run.summary["tokens"]
    mean, sources = tokens[f"{which}_mean"], tokens[f"{which}_source"]
    if mean is None:
        return ""
    told = ", ".join(f"{source} ({count} requests)" for source, count in sources.items())
    return f"{mean:,.1f} a request on average, by {told}"


def _audit(checks: Sequence[Mapping[str, str]]) -> _Table:
    rows = [
        (
            check["check"],
            check["level"].upper() if check["level"] == "invalid" else check["level"],
            check["found"],
            check["limit"],
            check["advice"],
        )
        for check in checks
    ]
    columns = ("check", "verdict", "found", "limit", "what to do")
    return _Table("What the run says about itself", columns, rows)


# --- figures --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Key:
    """A figure that stands for the run.

    Attributes:
        name: As a reader knows it.
        place: Where it stands in a summary's window.
        form: How it is written, with its unit.
        counts: What goes into it.
        scale: From the summary's unit to that one.
    """

    name: str
    place: tuple[str, ...]
    form: str
    counts: str
    scale: float = 1.0

    def of(self, figures: Mapping | None) -> str:
        """The figure in words."""
        return self._written(_found(figures, *self.place))

    def interval(self, figures: Mapping | None) -> str:
        """Its 95 % interval in words."""
        *before, name = self.place
        bounds = _found(figures, *before, "ci95", name)
        return " to ".join(map(self._written, bounds)) if bounds else _NOTHING

    def _written(self, value: float | None) -> str:
        return _NOTHING if value is None else self.form.format(value * self.scale)


_KEYS = (
    _Key(
        "output throughput",
        ("output_tokens_per_s",),
        "{:,.1f} tokens/s",
        "output tokens by the moment they came; prompts are never counted",
    ),
    _Key(
        "total throughput",
        ("total_tokens_per_s",),
        "{:,.1f} tokens/s",
        "prompt and output tokens together",
    ),
    _Key(
        "time to first token, median",
        ("ttft_s", "p50"),
        "{:,.2f} s",
        "from sending, or from when it was intended, to the first text",
    ),
    _Key(
        "time per output token, median",
        ("tpot_s", "p50"),
        "{:,.1f} ms",
        "from the first text to the last, over the tokens after the first",
        scale=1000,
    ),
    _Key(
        "end-to-end latency, median",
        ("latency_s", "p50"),
        "{:,.2f} s",
        "from sending, or from when it was intended, to the last text",
    ),
    _Key("requests", ("requests_per_s",), "{:,.3g} requests/s", "completed ones"),
    _Key(
        "requests in flight, mean",
        ("mean_concurrency",),
        "{:,.2f}",
        "all that were sent and had not ended",
    ),
    _Key(
        "cost of a million output tokens",
        ("cost_per_million_output_tokens_usd",),
        "${:,.2f}",
        "all instances for as long as that many tokens take",
    ),
)
_ARRIVAL_KEYS = (
    _Key("arrivals offered", ("offered_per_s",), "{:,.3g} requests/s", "as they were intended"),
    _Key("arrivals sent", ("sent_per_s",), "{:,.3g} requests/s", "as they were really sent"),
    _Key(
        "dispatch delay, median",
        ("dispatch_s", "p50"),
        "{:,.1f} ms",
        "from the intended time to the first byte; a part of the latencies",
        scale=1000,
    ),
)
_LIMITED = {"ttft_s": "TTFT", "tpot_s": "TPOT", "latency_s": "latency"}


def _key_figures(run: Run) -> _Table:
    inside, whole = run.summary["window"], run.summary["whole_run"]
    keys = (*_KEYS, *_ARRIVAL_KEYS) if run.config["load"]["kind"] == "arrivals" else _KEYS
    rows = [(k.name, k.of(inside), k.interval(inside), k.of(whole), k.counts) for k in keys]
    if goodput := run.summary.get("goodput"):
        limits = ", ".join(f"{_LIMITED[k]} ≤ {s:g} s" for k, s in goodput["limits"].items())
        share, rate = goodput["share"], goodput["requests_per_s"]
        good = _NOTHING if share is None else f"{rate:,.3g} requests/s ({share:.0%})"
        rows.append(("goodput", good, _NOTHING, _NOTHING, f"requests within {limits}"))
    counts = run.summary["requests"]
    rate = counts["error_rate"]
    share = _NOTHING if rate is None else f"{rate:.1%}"
    about = f"{counts['errors']} of {counts['measured']} measured requests"
    rows.append(("errors", _NOTHING, _NOTHING, share, f"{about}; in no latency"))
    if inside:
        seconds, requests = f"{inside['duration_s']:,.1f} s", f"{inside['requests']} requests"
        caption = f"Under the asked load ({seconds}, {requests}), the whole run beside it"
    else:
        caption = "The asked load was never there: only the whole run has figures"
    columns = ("figure", "under the asked load", "95 % interval", "whole run", "what it counts")
    return _Table(caption, columns, rows, numbers=(1, 2, 3))


def _of_frame(caption: str, frame: pd.DataFrame) -> _Table:
    numbers = [place for place, kind in enumerate(frame.dtypes) if kind.kind in "fi"]
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return _Table(caption, list(frame.columns), rows, numbers)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return _NOTHING if math.isnan(value) else f"{value:,.2f}"
    return str(value)


def _found(figures: Mapping | None, *names: str):
    """What stands at a place of a summary, None where nothing does."""
    for name in names:
        figures = figures.get(name) if figures else None
    return figures


# --- pictures -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Picture:
    """A figure of the page.

    Attributes:
        name: Its files are called so.
        alt: What it shows, for those who do not see it.
        draw: Makes it.
    """

    name: str
    alt: str
    draw: Callable[[], Figure]


def _pictures(run: Run, others: Sequence[Run]) -> Iterator[_Picture]:
    yield _Picture(
        "timeline",
        "A bar for each request over time: its wait, then its tokens, and where they stop coming.",
        lambda: plots.timeline(run),
    )
    yield _Picture(
        "latency_percentiles",
        "Bars of each latency by percentile, as in the table of percentiles.",
        lambda: plots.latency_percentiles(run),
    )
    yield _Picture(
        "itl",
        "A histogram of the gaps between chunks, with the percentiles of ITL in the table.",
        lambda: plots.itl(run),
    )
    if others:
        runs = [*others, run]
        yield _Picture(
            "throughput",
            f"Output tokens a second of {len(runs)} runs over their load, beside published ones.",
            lambda: plots.throughput(runs),
        )
        yield _Picture(
            "knee",
            f"Latency against throughput of {len(runs)} runs, the knee ringed.",
            lambda: plots.knee(runs),
        )
        yield _Picture(
            "cost",
            f"Dollars for a million output tokens of {len(runs)} runs over their load.",
            lambda: plots.cost(runs),
        )


def _embedded(picture: _Picture, folder: Path) -> dict[str, str]:
    """Save a picture, and give what the page shows of it, or why there is none."""
    try:
        figure = picture.draw()
    except ResultsError as error:
        return {"name": picture.name, "missing": str(error)}
    _, svg = plots.save(figure, folder, picture.name)
    mark = ["rehearsal (simulated):"] if figure.is_rehearsal else []
    return {
        "name": picture.name,
        "alt": " ".join([*mark, figure.get_suptitle(), picture.alt, figure.caption]).strip(),
        "svg": base64.b64encode(svg.read_bytes()).decode(),
    }


# --- errors, files --------------------------------------------------------------------------------


def _errors(run: Run) -> _Table:
    """Failures by kind, in the order in which they first happened."""
    by_kind: dict[str, list[Failure]] = {}
    for record in run.records:
        if record.error:
            by_kind.setdefault(record.error.kind, []).append(record.error)
    rows = [
        (kind, str(len(failures)), _status(failures[0]), _words(failures[0]))
        for kind, failures in by_kind.items()
    ]
    columns = ("kind", "requests", "status", "the first one's words")
    return _Table("Requests without a complete reply, warm-up included", columns, rows, (1,))


def _status(failure: Failure) -> str:
    told = (failure.status, failure.original_status)
    return ", container ".join(str(status) for status in told if status is not None) or _NOTHING


def _words(failure: Failure) -> str:
    words = hub.redact(failure.original_message or failure.message)
    return words if len(words) <= _LONGEST else words[:_LONGEST] + " …"


_FILES = {
    "run.json": "what was asked, of which endpoint, from which client",
    "requests.jsonl": "a line a request: stamps, tokens and their source, error",
    "clients.json": "how the load engine fared",
    "summary.json": "all figures and the audit",
}


def _files(run: Run) -> _Table:
    names = sorted(path.name for path in run.path.iterdir() if path.is_file() and path.name != NAME)
    about = {".png": "a figure", ".svg": "the same figure"}
    rows = [(name, _FILES.get(name, about.get(Path(name).suffix, ""))) for name in names]
    return _Table("What lies beside this page", ("file", "what"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a report from a terminal; 0 when it was written, 1 when not."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.report", description="Write the page of a run."
    )
    parser.add_argument("run", type=Path, help="its folder")
    parser.add_argument("others", type=Path, nargs="*", help="runs to be drawn together with it")
    options = parser.parse_args(arguments)
    try:
        path = write(results.load(options.run), [results.load(one) for one in options.others])
    except WorkshopError as error:
        print(error, file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
