"""The page of a run: it stands alone, hides no verdict, and believes no text that it shows."""

import base64
import re
import shlex
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from made_runs import arrivals, asked, queued, record, run, steady

from helpers import llmperf, plan, report, settings, terminal
from helpers.errors import ResultsError
from helpers.records import Failure

TOKEN = "hf_" + "Ab3dEf9hIjKlMn0p" * 2
HOSTILE = f"</td><script>alert('{TOKEN}')</script><img src=x onerror=alert(1)>"
ARRIVALS = {"kind": "arrivals", "concurrency": None, "rate_per_s": 2.0}
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """What a browser makes of a report."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags = []
        self.text = {}
        self.tables = []
        self._open = []
        self.feed(self.source)
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append({"caption": "", "rows": []})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        elif tag in ("th", "td"):
            self.tables[-1]["rows"][-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not self._open:
            return
        tag = self._open[-1]
        self.text.setdefault(tag, []).append(data)
        if tag == "caption":
            self.tables[-1]["caption"] += data
        elif tag in ("th", "td"):
            self.tables[-1]["rows"][-1][-1] += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def table(self, word):
        (found,) = [table["rows"] for table in self.tables if word in table["caption"]]
        return found

    def pictures(self):
        sources = [one["src"] for one in self.of("img")]
        start = "data:image/svg+xml;base64,"
        assert all(source.startswith(start) for source in sources)
        return [base64.b64decode(source.removeprefix(start)) for source in sources]


def judged(made, *checks):
    """A run with another audit: valid unless one of the checks is not."""
    valid = all(check["level"] != "invalid" for check in checks)
    audit = {"valid": valid, "checks": list(checks)}
    return replace(made, summary=made.summary | {"audit": audit})


def check(level="ok", **words):
    told = {"check": "Little's law", "found": "3.98 of 4 users", "limit": "5 % off", "advice": ""}
    return told | {"level": level} | words


def make(folder, *, users=4, requests=48, records=None, **more):
    records = queued(users=users, requests=requests) if records is None else records
    more = {"concurrency": users, "requests": requests, "sampling": {}} | more
    return judged(run(folder, records=records, **more), check())


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Five hundred requests; nobody changes its folder but by writing the same page."""
    return make(tmp_path_factory.mktemp("measured"), users=8, requests=500, target="aws")


@pytest.fixture(scope="module")
def shown(measured):
    return Page(report.write(measured))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    return Page(report.write(make(tmp_path_factory.mktemp("rehearsed"))))


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """Arrivals that failed their audit."""
    records = arrivals([0.5 * n for n in range(40)], dispatch_s=0.003)
    load = {"rate_per_s": 2.0, "requests": 40, "target": "aws"}
    made = make(tmp_path_factory.mktemp("failed"), records=records, **load)
    wrong = check("invalid", check="errors", found="12 %", limit="1 %", advice="Repeat the run.")
    return page(judged(made, check(), wrong))


def page(made):
    return Page(report.write(made))


def test_it_answers_in_the_order_in_which_a_reader_asks(shown):
    assert shown.text["h2"] == [
        "What was measured",
        "Audit: valid",
        "Key figures",
        "Percentiles",
        "As llmperf counts",
        "Figures",
        "Errors",
        "How to repeat it",
        "Files",
    ]


def test_it_says_what_was_measured(measured, shown):
    facts = dict(shown.table("The endpoint and the load")[1:])
    assert facts["endpoint"] == "inf2-workshop-ada-llama-3-70b"
    assert facts["load"] == str(plan.Load.of_config(measured.config["load"]))
    assert facts["load"].startswith("8 users, 500 requests of 550 tokens")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", facts["started"])
    assert (facts["region"], facts["target"]) == ("us-east-1", "aws")
    assert facts["instances"] == "1 × ml.inf2.48xlarge"
    assert facts["price"] == "$36.00 an hour; made up"
    assert "by tokenizer" in facts["output tokens"] and "by as asked" in facts["prompt tokens"]


def test_a_rehearsal_says_everywhere_that_nothing_was_measured(simulated, shown):
    assert simulated.text["title"][0].startswith("rehearsal: ")
    assert simulated.text["h2"][0] == "What was simulated"
    assert "Nothing on this page was measured on AWS" in simulated.text["strong"][0]
    assert all("rehearsal" in table["caption"] for table in simulated.tables)
    assert all("rehearsal" in one["alt"] for one in simulated.of("img"))
    assert all(b'id="watermark"' in picture for picture in simulated.pictures())
    assert {"class": "rehearsal"} in simulated.of("body")
    assert "rehearsal" not in shown.source.partition("<body")[2]


def test_an_invalid_run_cannot_be_overlooked(failed, shown):
    assert failed.text["title"][0].startswith("INVALID: ")
    assert "INVALID: this run failed its audit" in failed.text["p"]
    assert failed.source.index("INVALID: this run") < failed.source.index("<table")
    assert "errors" in failed.text["strong"]
    assert failed.text["h2"][1] == "Audit: INVALID"
    assert failed.text["h2"][2] == "Key figures of an INVALID run"
    assert failed.table("about itself")[1:] == [
        ["Little's law", "ok", "3.98 of 4 users", "5 % off", ""],
        ["errors", "INVALID", "12 %", "1 %", "Repeat the run."],
    ]
    assert all("invalid: see its audit" in one["alt"] for one in failed.of("img"))
    assert "INVALID" not in shown.source.partition("<body")[2]


def test_key_figures_have_their_interval_and_say_what_they_count(measured, shown):
    inside, whole = (measured.summary[name] for name in ("window", "whole_run"))
    rows = {row[0]: row[1:] for row in shown.table("Under the asked load")}
    value, interval, over_all, counts = rows["output throughput"]
    assert value == f"{inside['output_tokens_per_s']:.1f} tokens/s"
    low, high = inside["ci95"]["output_tokens_per_s"]
    assert interval == f"{low:.1f} tokens/s to {high:.1f} tokens/s"
    assert over_all == f"{whole['output_tokens_per_s']:.1f} tokens/s"
    assert "prompts are never counted" in counts
    assert rows["time per output token, median"][0] == "100.0 ms"
    assert rows["errors"][2:] == ["0.0%", "0 of 500 measured requests; in no latency"]


def test_where_there_is_no_interval_it_says_why(tmp_path, shown):
    told = {"limits": {"ttft_s": 2.0, "tpot_s": 0.06}, "requests_per_s": 0.5, "share": 0.75}
    made = make(tmp_path, users=2, records=steady(users=2, each=2), requests=4)
    short = page(replace(made, summary=made.summary | {"goodput": told}))
    rows = {row[0]: row[1:] for row in short.table("Under the asked load")[1:]}
    assert {interval for _, interval, *_ in rows.values()} == {"–"}
    assert any("no intervals: " in text for text in short.text["p"])
    # and goodput stands with its limits, where there are any
    assert rows["goodput"][0] == "0.5 requests/s (75%)"
    assert rows["goodput"][-1] == "requests within TTFT ≤ 2 s, TPOT ≤ 0.06 s"
    assert "goodput" not in [row[0] for row in shown.table("Under the asked load")]


def test_arrivals_say_what_was_offered_and_how_late_it_was_sent(failed):
    rows = {row[0]: row[1] for row in failed.table("Under the asked load")}
    assert rows["arrivals offered"] == rows["arrivals sent"] == "2 requests/s"
    assert rows["dispatch delay, median"] == "3.0 ms"


def test_a_withheld_percentile_is_a_dash(simulated):
    header, ttft, *_ = simulated.table("Latencies by percentile")
    told = dict(zip(header, ttft, strict=True))
    assert told["p99"] == "–" and re.fullmatch(r"\d+\.\d\d", told["p50"])


def test_llmperfs_triple_stands_beside_the_right_one_and_why_they_differ(shown):
    rows = {row[0]: row[1:3] for row in shown.table("counted in two ways")}
    theirs, ours = (float(text.replace(",", "")) for text in rows["throughput (tokens/s)"])
    assert theirs > 10 * ours, "550 tokens of each prompt are counted as output there"
    assert llmperf.WHY in shown.text["p"]


def test_figures_are_in_the_page_and_beside_it(measured, shown):
    names = ("timeline", "latency_percentiles", "itl")
    assert len(shown.pictures()) == len(names)
    for name, picture in zip(names, shown.pictures(), strict=True):
        assert ElementTree.fromstring(picture).tag.endswith("svg")
        assert (measured.path / f"{name}.svg").read_bytes() == picture
        assert (measured.path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert all(len(one["alt"]) > 40 for one in shown.of("img"))


def test_errors_are_told_by_kind_with_their_first_words(tmp_path, shown):
    said = Failure("ModelError", "CUDA is out of memory", status=424, original_status=500)
    long = Failure("timeout", "SageMaker's words", original_message="y" * 5000)
    records = [
        replace(record(index, tokens=0, error="x"), error=error)
        for index, error in enumerate([said, replace(said, message="again"), long])
    ]
    failed = page(make(tmp_path, users=1, records=records))
    assert failed.table("without a complete reply")[1:] == [
        ["ModelError", "2", "424, container 500", "CUDA is out of memory"],
        ["timeout", "1", "–", "y" * 300 + " …"],
    ]
    assert "None: every request was completed." in shown.text["p"]


@pytest.mark.parametrize(
    "load",
    [
        {},
        {"think_s": 2.5, "seed": 7, "warmup": 0},
        {"kind": "rounds", "input_tokens_stddev": 150.0, "output_tokens_stddev": 30.5},
        ARRIVALS | {"rate_per_s": 0.123456789, "process": "poisson"},
        ARRIVALS | {"process": "constant", "requests": None, "duration_s": 600.0},
        {"sampling": {"temperature": 0.7, "stop": ["it's"]}},
    ],
    ids=str,
)
def test_the_command_asks_for_the_same_load_again(measured, load):
    asked_for = asked(sampling={}) | load
    config = measured.config | {"load": asked_for, "limits": {"ttft_s": 2.0, "tpot_s": 0.06}}
    words = shlex.split(report.command(replace(measured, config=config)))
    assert words[:3] == [settings.PYTHON, "-m", "helpers.benchmark"]
    options = terminal.parser().parse_args(words[3:])
    same = ("requests", "warmup", "input_tokens", "input_tokens_stddev", "output_tokens")
    same += ("output_tokens_stddev", "seed", "sampling", "process")
    assert {name: getattr(options, name) for name in same} == {n: asked_for[n] for n in same}
    assert options.concurrency == (asked_for["concurrency"] and [asked_for["concurrency"]])
    assert options.rate == (asked_for["rate_per_s"] and [asked_for["rate_per_s"]])
    assert (options.think, options.duration) == (asked_for["think_s"], asked_for["duration_s"])
    assert options.rounds == (asked_for["kind"] == "rounds")
    assert options.endpoint == config["endpoint"]["name"] and options.target == "aws"
    assert dict(options.limit) == config["limits"]


def test_the_command_names_a_server_by_its_address_and_how_it_was_asked(measured):
    def options(**config):
        again = replace(measured, config=measured.config | config)
        return terminal.parser().parse_args(shlex.split(report.command(again))[3:])

    own = measured.config["endpoint"] | {"url": "http://127.0.0.1:8000/v1", "model_id": "tiny"}
    server = options(endpoint=own, target="server", route="openai")
    assert (server.openai_url, server.model) == ("http://127.0.0.1:8000/v1", "tiny")
    assert server.price_per_hour == 36.0 and server.endpoint is None
    assert options(route="openai").route == "openai" and options().route == "sagemaker"
    assert options(engine="boto3").boto3 and not options(engine="asyncio").boto3
    assert options(engine="ray").ray == "auto"


def test_the_command_stands_in_the_page(measured, shown):
    assert shown.text["code"][-1] == report.command(measured)


def test_the_files_of_the_run_are_named(shown):
    names = [row[0] for row in shown.table("beside this page")]
    assert {"run.json", "requests.jsonl", "summary.json", "timeline.png", "itl.svg"} < set(names)
    assert "report.html" not in names


def hostile(value, key=""):
    """The same with markup and a token in every text that decides nothing."""
    decides = {"target", "kind", "process", "started_utc", "level", "phase"}
    if isinstance(value, dict):
        return {name: hostile(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [hostile(one, key) for one in value]
    return f"{HOSTILE}\ud800{value}" if isinstance(value, str) and key not in decides else value


def test_no_text_of_a_run_becomes_markup_and_no_token_is_shown(tmp_path):
    error = Failure(HOSTILE, HOSTILE, original_message=HOSTILE)
    records = [*queued(users=2, requests=8), replace(record(90, tokens=0), error=error)]
    made = make(tmp_path, users=2, requests=8, records=records, target="aws")
    summary = hostile(judged(made, check("invalid", advice="x"), check("note")).summary)
    config = hostile(made.config | {"client": {HOSTILE: HOSTILE}, "transport": "x"})
    attacked = page(replace(made, config=config, summary=summary | {"goodput": None}))
    names = {name for name, _ in attacked.tags}
    assert not {"script", "iframe", "link", "object", "base", "form"} & names
    assert len(attacked.of("img")) == len(attacked.pictures()) == 3
    assert not [name for _, told in attacked.tags for name in told if name.startswith("on")]
    assert attacked.source.count("&lt;script&gt;") > 10
    written = [one.read_bytes() for one in made.path.iterdir() if one.suffix in (".html", ".svg")]
    assert not [one for one in [*written, *attacked.pictures()] if TOKEN.encode() in one]


def test_the_page_needs_nothing_from_elsewhere(shown):
    assert "script" not in shown.text
    policy = next(one for one in shown.of("meta") if "http-equiv" in one)
    assert policy["content"].startswith("default-src 'none'")
    assert not re.search(r"""(src|href|url\()\s*=?\s*["']?(https?:)?//""", shown.source)
    assert "@import" not in shown.source


def test_it_can_be_read_aloud_printed_and_read_in_the_dark(shown):
    assert {"lang": "en"} in shown.of("html")
    assert len(shown.text["h1"]) == 1
    assert len(shown.of("caption")) == len(shown.tables) == 6
    assert all(one["scope"] in ("row", "col") for one in shown.of("th"))
    for table in shown.tables:
        assert table["caption"] and len({len(row) for row in table["rows"]}) == 1
    assert "prefers-color-scheme: dark" in shown.source and "@media print" in shown.source
    assert any("width=device-width" in one.get("content", "") for one in shown.of("meta"))


def test_the_same_run_gives_the_same_page(measured, shown):
    assert page(measured).source == shown.source


def test_five_hundred_requests_stay_small(shown):
    assert len(shown.source) < 1_000_000


@pytest.mark.parametrize(
    "records",
    [[], [record(tokens=0, error="timeout")], [record(tokens=0, error="interrupted")]],
    ids=["nothing", "a failure", "an interruption"],
)
def test_a_run_without_figures_has_a_page_that_says_so(tmp_path, records):
    empty = page(make(tmp_path, users=1, requests=2, records=records))
    assert any("nothing to draw" in text for text in empty.text["p"])
    figures = dict(row[:2] for row in empty.tables[2]["rows"])
    assert figures["time to first token, median"] == "–"


def test_what_cannot_be_written_is_one_sentence(measured, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="make room there"):
        report.write(replace(measured, path=tmp_path / "file"))


def test_from_a_terminal_with_other_loads_it_shows_throughput_and_knee(tmp_path, capsys):
    one, *others = (make(tmp_path, users=users, target="aws") for users in (1, 4, 8))
    assert report.main([str(one.path), *(str(other.path) for other in others)]) == 0
    assert capsys.readouterr().out.strip() == str(one.path / "report.html")
    together = Page(one.path / "report.html")
    assert len(together.pictures()) == 6
    assert {"throughput.png", "knee.svg"} <= {path.name for path in one.path.iterdir()}
    assert "of 3 runs" in together.of("img")[-1]["alt"]


@pytest.mark.parametrize("name", ["nowhere", "a" * 300])
def test_a_folder_without_a_run_is_one_sentence(tmp_path, capsys, name):
    assert report.main([str(tmp_path / name)]) == 1
    assert "holds no run" in capsys.readouterr().err
