"""Runs on disk, and what others published."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_runs import config, record, run, steady

from helpers import costs, hub, llmperf, metrics, results, verdict
from helpers.errors import ResultsError
from helpers.records import ClientHealth

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def recorder(folder, **options):
    return results.Recorder(folder, config(**options), now=lambda: NOON)


def test_a_run_has_a_folder_named_by_time_target_endpoint_and_users(tmp_path):
    name = "20261122T120000Z-rehearsal-inf2-workshop-ada-llama-3-70b-c2"
    assert recorder(tmp_path / "deep" / "er").path == tmp_path / "deep" / "er" / name


def test_two_runs_of_the_same_second_do_not_share_a_folder(tmp_path):
    names = {recorder(tmp_path).path.name for _ in range(3)}
    assert len(names) == 3


def test_a_request_is_on_disk_as_soon_as_it_is_added(tmp_path):
    writing = recorder(tmp_path)
    for place, one in enumerate(steady()):
        writing.add(one)
        lines = (writing.path / "requests.jsonl").read_text().splitlines()
        assert len(lines) == place + 1
        assert json.loads(lines[-1])["inference_id"] == one.inference_id


def test_everything_in_the_folder_carries_the_target(tmp_path):
    path = run(tmp_path).path
    assert json.loads((path / "run.json").read_text())["target"] == "rehearsal"
    assert json.loads((path / "summary.json").read_text())["target"] == "rehearsal"
    for line in (path / "requests.jsonl").read_text().splitlines():
        assert json.loads(line)["target"] == "rehearsal"


def test_a_rehearsal_says_that_nothing_was_measured_and_aws_does_not(tmp_path):
    assert "simulated" in run(tmp_path, target="rehearsal").config["note"]
    assert "note" not in run(tmp_path, target="aws").config


def test_a_run_is_read_back_as_it_was(tmp_path):
    failed = record(99, sent_s=101.0, tokens=0, error="ModelError")
    made = run(tmp_path, records=[*steady(), failed])
    read = results.load(made.path)
    assert (read.config, read.records, read.summary) == (made.config, made.records, made.summary)
    assert results.summary(read.records, read.config) == made.summary
    assert repr(read) == (
        "Run(2 users, 10 requests, inf2-workshop-ada-llama-3-70b, rehearsal, INVALID)"
    ), "one request of eleven failed"


def test_a_run_that_was_killed_is_read_with_the_requests_it_has(tmp_path):
    made = run(tmp_path)
    (made.path / "summary.json").unlink()
    text = (made.path / "requests.jsonl").read_text()
    (made.path / "requests.jsonl").write_text(text[:-100])
    read = results.load(made.path)
    assert read.records == made.records[:-1]
    assert read.summary["requests"]["complete"] == 9


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", "{"),
        ("summary.json", "[1,"),
        ("requests.jsonl", "{}\n"),
        ("requests.jsonl", "no json\n"),
        ("requests.jsonl", None),
        ("run.json", "[]"),
        ("run.json", "{}"),
        ("run.json", '{"target": 5}'),
        ("summary.json", "3"),
        ("summary.json", '{"target": "rehearsal", "requests": []}'),
        ("requests.jsonl", "5\n"),
        ("requests.jsonl", '"text"\n'),
        ("requests.jsonl", "[1]\n"),
    ],
)
def test_a_broken_run_is_named(tmp_path, file, content):
    path = run(tmp_path).path
    (path / file).unlink() if content is None else (path / file).write_text(content)
    with pytest.raises(ResultsError, match=f"{file} in .*{path.name} .*: remove this folder"):
        results.runs(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sent_s": "early"},
        {"user": True},
        {"chunk_s": [1.0, None]},
        {"error": "late"},
        {"error": {"kind": 5, "message": "", "status": None}},
        {"unknown": 1},
        {"first_s": 10**400},
        {"ended_s": 1e308},
        {"sent_s": float("nan")},
        {"sent_s": -1.5},
        {"output_tokens": 10**400},
        {"user": -1},
        {"client": -1},
        {"counts": {"chunks": [1, 2]}},
        {"output_tokens": 10**9},  # a time for each of them would be 7.5 GiB
        {"prompt_tokens": 10**17},
        {"first_s": None},
        {"chunk_s": []},
        {"finish_reason": "[" * 10**5},
    ],
    ids=lambda wrong: "".join(wrong),
)
def test_a_request_of_the_wrong_types_is_no_request(tmp_path, wrong):
    path = run(tmp_path).path / "requests.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([with_field(first, wrong), *others, ""]))
    with pytest.raises(ResultsError, match=r"a line that is no request \(1: "):
        results.runs(tmp_path)


@pytest.mark.parametrize(
    ("file", "place", "value", "words"),
    [
        ("run.json", ("endpoint", "env", "HF_BATCH_SIZE"), {"a": 1}, "endpoint.env has the wrong"),
        ("run.json", ("endpoint", "env", "MAX_INPUT_LENGTH"), float("inf"), "'Infinity' is no num"),
        ("run.json", ("endpoint", "env", "MESSAGES_API_ENABLED"), [], "endpoint.env has the wrong"),
        ("run.json", ("clock_speed",), float("nan"), "'NaN' is no number"),
        ("summary.json", ("clients", 0, "loop_lag_p99_s"), -1, "clients: loop_lag_p99_s is below"),
        ("summary.json", ("clients", 0, "loop_lag_p99_s"), None, "loop_lag_p99_s has the wrong"),
        ("summary.json", ("clients", 0), {}, "of its clients: host is missing"),
        ("summary.json", ("window", "output_tokens_per_s"), 10**400, "is no number of a run"),
        ("clients.json", ("clients", 0, "round_trip_s"), -1, "round_trip_s is below 0"),
        ("run.json", ("clock_speed",), 1e-300, "clock_speed is 1e-300"),
        ("run.json", ("clock_speed",), 0, "clock_speed is 0"),
        ("run.json", ("started_utc",), "at noon", "started_utc is no time"),
        ("run.json", ("price", "usd_per_hour"), -1, "price.usd_per_hour is below 0"),
        ("run.json", ("limits",), {"haste": 1}, "There is no limit 'haste'"),
        ("run.json", ("metadata",), 5, "metadata has the wrong type"),
        ("run.json", ("load", "kind"), "open", "There is no load 'open'"),
        ("run.json", ("load", "concurrency"), 6, "10 requests say nothing about 6 users"),
        ("run.json", ("load", "concurrency"), None, "load.concurrency does not go with the rest"),
        ("run.json", ("load", "input_tokens"), 10**10, "input_tokens is at most 131,072"),
        ("summary.json", ("window", "itl_s"), {}, "window.itl_s.mean is missing"),
        ("summary.json", ("window", "ci95", "p50"), [1], "window.ci95 has the wrong type"),
        ("summary.json", ("whole_run", "ttft_s"), 5, "whole_run.ttft_s is no object"),
        ("summary.json", ("tokens",), {}, "tokens.output_mean is missing"),
        ("summary.json", ("audit", "checks"), 5, "audit.checks is no list"),
        ("summary.json", ("audit", "checks", 3), "late", "audit.checks.3 is no object"),
        ("summary.json", ("goodput",), {"limits": {"haste": 1}}, "goodput.share is missing"),
    ],
)
def test_a_field_that_no_run_has_is_named(tmp_path, file, place, value, words):
    path = made_by_one_client(tmp_path).path
    put(path / file, place, value)
    if file == "clients.json":  # read where the summary is missing
        (path / "summary.json").unlink()
    with pytest.raises(ResultsError, match=f"{file} in .*{words}") as refused:
        results.load(path)
    assert "\n" not in str(refused.value)


STRANGE = st.one_of(
    st.sampled_from([None, True, -1, 0, 1, 7, 10**9, 10**17, 1e-300, "", "open", [], {}, [None]]),
    st.integers(-(10**19), 10**19),
    st.floats(),
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100
)
@given(data=st.data())
def test_whatever_a_field_holds_a_run_is_refused_or_all_of_it_can_be_read(tmp_path, data):
    path = made_by_one_client(tmp_path).path
    file = path / data.draw(st.sampled_from(["run.json", "summary.json", "requests.jsonl"]))
    first, *others = file.read_text().split("\n") if file.suffix == ".jsonl" else [file.read_text()]
    file.write_text(first)
    put(file, data.draw(st.sampled_from(list(places(json.loads(first))))), data.draw(STRANGE))
    file.write_text("\n".join([file.read_text(), *others]))
    if data.draw(st.booleans()):
        (path / "summary.json").unlink()
    try:
        read = results.load(path)
    except ResultsError as error:
        assert "\n" not in str(error)
        return
    assert repr(read)
    for table in (verdict.table, metrics.table):
        assert len(table([read])) == 1
    for table in (metrics.percentile_table, llmperf.table):
        assert len(table(read))


def places(data, at=()):
    """Where a value stands in what JSON gives; of a list only its first."""
    inner = data.items() if isinstance(data, dict) else enumerate(data[:1])
    for name, value in inner:
        yield (*at, name)
        if isinstance(value, dict | list):
            yield from places(value, (*at, name))


def put(path, place, value):
    """Write something else at a place of a file."""
    data = inner = json.loads(path.read_text())
    *way, last = place
    for name in way:
        inner = inner[name]
    inner[last] = value
    path.write_text(json.dumps(data))


def with_field(line, wrong):
    """A line with something else in it; `json` itself does not write what is too deep."""
    ((name, value),) = wrong.items()
    if name != "finish_reason":
        return json.dumps(json.loads(line) | wrong)
    return line.replace('"finish_reason": "length"', '"finish_reason": ' + value)


def made_by_one_client(folder):
    writing = recorder(folder)
    for one in steady():
        writing.add(one)
    writing.config["endpoint"]["env"] = {}
    (writing.path / "run.json").write_text(json.dumps(writing.config))
    writing.add_clients([ClientHealth("vm", 10.0, 1.0, 0.001, 0.001, 0.001, 0.0001)])
    return writing.finish()


def test_a_file_that_is_no_text_is_named(tmp_path):
    (run(tmp_path).path / "requests.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(ResultsError, match="requests.jsonl"):
        results.runs(tmp_path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ResultsError, match="06_benchmark"):
        results.load(tmp_path)


def test_a_longer_name_than_a_folder_can_have_is_no_run():
    name = "a" * 300
    with pytest.raises(ResultsError, match=r"holds no run \(file name too long\): name the folder"):
        results.load(name)
    with pytest.raises(ResultsError, match="No run in .*/a+: make one with 06_benchmark"):
        results.runs(name)


def test_runs_are_listed_oldest_first_and_by_target(tmp_path):
    moments = iter([NOON, NOON.replace(hour=9), NOON.replace(hour=15)])
    for target in ("rehearsal", "rehearsal", "aws"):
        writing = results.Recorder(tmp_path, config(target=target), now=lambda: next(moments))
        for one in steady():
            writing.add(one)
        writing.finish()
    (tmp_path / "published").mkdir()
    assert [one.path.name[9:11] for one in results.runs(tmp_path)] == ["09", "12", "15"]
    assert [one.target for one in results.runs(tmp_path, target="aws")] == ["aws"]


def test_no_runs_is_one_sentence_that_says_where_they_come_from(tmp_path):
    with pytest.raises(ResultsError, match="No aws run in .*06_benchmark"):
        results.runs(tmp_path, target="aws")


def test_without_a_run_the_newest_of_make_workshop_is_offered(tmp_path, monkeypatch):
    for hour in ("09", "12"):
        run(tmp_path / "results" / f"workshop-20261122T{hour}0000Z-rehearsal")
    (tmp_path / "results" / "workshop-20261122T150000Z-rehearsal" / "notebooks").mkdir(parents=True)
    newest = "results/workshop-20261122T120000Z-rehearsal"
    with pytest.raises(ResultsError, match=f"or set RESULTS_DIR to {tmp_path}/{newest}\\."):
        results.runs(tmp_path / "results")
    with pytest.raises(ResultsError, match="06_benchmark\\.$"):
        results.runs(tmp_path / "results", target="aws")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    with pytest.raises(ResultsError, match=f"06_benchmark, or set RESULTS_DIR to {newest}\\."):
        results.runs(tmp_path / "results", target="rehearsal")
    assert len(results.runs(newest)) == 1  # as a notebook would, from another folder


def test_a_folder_that_went_away_is_one_sentence(tmp_path):
    writing = recorder(tmp_path)
    writing.discard()
    for write in (lambda: writing.add(record()), lambda: writing.finish()):
        with pytest.raises(ResultsError, match="Cannot write into .*No such file"):
            write()
    writing.discard()  # it hides no other error


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="WORKSHOP_RESULTS"):
        recorder(tmp_path / "file")


def test_secrets_of_the_environment_are_masked_and_token_limits_are_not():
    environment = {
        "HF_TOKEN": "hf_secret",
        "HUGGING_FACE_HUB_TOKEN": "hf_secret",
        "AWS_SECRET_ACCESS_KEY": "hf_secret",
        "MAX_INPUT_TOKENS": "4000",
        "MAX_TOTAL_TOKENS": "4096",
        "MAX_BATCH_SIZE": "4",
    }
    masked = hub.mask(environment)
    assert "hf_secret" not in str(masked)
    assert (masked["MAX_INPUT_TOKENS"], masked["MAX_BATCH_SIZE"]) == ("4000", "4")


# --- published ------------------------------------------------------------------------------------


def test_every_published_row_has_a_source_a_file_and_a_plausible_rate():
    known = results.published()
    assert len(known) == 3 + 5 + 6 + 1
    assert known["source"].notna().all()
    assert all((results.PUBLISHED / name).is_file() for name in known["file"])
    assert known["output tokens/s"].between(20, 80).all()


def test_published_units_are_seconds_and_milliseconds():
    known = results.published().set_index(["file", "users"])
    four = known.loc[("optimum-0.0.28-llama3-70b-inf2.48xlarge-bs4.csv", 8)]
    assert four["output tokens/s"] == pytest.approx(64.094, abs=0.001)
    assert four["TTFT p50 (s)"] == pytest.approx(4.925, abs=0.001)
    bare = results.published().query("server.str.startswith('none')").iloc[0]
    assert bare["TTFT p50 (s)"] == pytest.approx(0.74549)
    assert bare["TPOT p50 (ms)"] == pytest.approx(34.67)


def test_the_guides_rate_is_derived_without_the_prompt_and_marked_so():
    known = results.published()
    (guide,) = known[known["derived"]].to_dict("records")
    assert guide["output tokens/s"] == pytest.approx(132.8 * 150 / 700)
    assert guide["TTFT mean (s)"] == pytest.approx(5.50533)
    assert 28 <= guide["output tokens/s"] <= 35, "shared/numbers.md: about 28 to 35"


def test_published_costs_are_at_the_sagemaker_price():
    known = results.published()
    first = known.iloc[0]
    expected = costs.price_per_hour("ml.inf2.48xlarge") / 3600 / first["output tokens/s"] * 1e6
    assert first["$ per 1M output tokens"] == pytest.approx(expected)


def test_a_missing_published_file_is_named(tmp_path):
    with pytest.raises(ResultsError, match="optimum.*git checkout"):
        results.published(tmp_path)


def test_the_latest_run_of_a_load_is_the_newest_one(tmp_path):
    made = [run(tmp_path, concurrency=users, requests=5 * users) for users in (1, 2, 1)]
    assert results.latest(made, users=1) is made[2]
    assert results.latest(made, users=2) is made[1]
    with pytest.raises(ResultsError, match="choose one of 1, 2"):
        results.latest(made, users=8)
