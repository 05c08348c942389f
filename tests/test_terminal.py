"""`python -m helpers.benchmark`: its own options and llmperf's, interrupts, resumed runs."""

import json
import signal
import subprocess
import sys
import time

import deployed
import pytest

from helpers import results, settings, terminal

SPEED = 500


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    with deployed.rehearsal(tmp_path_factory.mktemp("terminal"), speed=SPEED) as here:
        yield here


def run(folder, *more, requests="6"):
    return terminal.main(
        ["--endpoint", deployed.NAME, "--requests", requests, "--input-tokens", "40",
         "--output-tokens", "12", "--results", str(folder), "--no-report", *more]
    )  # fmt: skip


def verdict_of(folder):
    """The exit code that fits: at this speed a busy machine is too late for its audit."""
    return int(not all(one.summary["audit"]["valid"] for one in results.runs(folder)))


def made_in(folder):
    return [one.config["load"] for one in results.runs(folder)]


def test_a_list_of_concurrencies_is_a_sweep_and_ends_with_a_table(here, tmp_path, capsys):
    assert run(tmp_path, "--concurrency", "1,2") == verdict_of(tmp_path)
    said = capsys.readouterr().out
    assert "TTFT p50 (s)" in said and said.count("saved in") == 2
    assert [load["concurrency"] for load in made_in(tmp_path)] == [1, 2]
    assert all("rehearsal" in line for line in said.splitlines())


def test_a_list_of_rates_is_a_sweep_too(here, tmp_path):
    code = run(tmp_path, "--rate", "0.1,0.2", "--process", "constant", "--warmup", "1")
    assert code == verdict_of(tmp_path)
    assert [load["rate_per_s"] for load in made_in(tmp_path)] == [0.1, 0.2]


def test_llmperfs_own_flags_are_understood(here, tmp_path, capsys):
    code = terminal.main(
        ["--model", deployed.NAME, "--llm-api", "sagemaker", "--mean-input-tokens", "60",
         "--stddev-input-tokens", "10", "--mean-output-tokens", "15", "--stddev-output-tokens", "3",
         "--num-concurrent-requests", "2", "--max-num-completed-requests", "6", "--timeout", "600",
         "--additional-sampling-params", '{"temperature": 0.5}', "--metadata", "name=ours,round=1",
         "--results-dir", str(tmp_path), "--rounds", "--llmperf", "--no-report"]
    )  # fmt: skip
    assert code == verdict_of(tmp_path)
    (made,) = results.runs(tmp_path)
    load = made.config["load"]
    assert (load["kind"], load["concurrency"], load["requests"]) == ("rounds", 2, 6)
    assert (load["input_tokens"], load["input_tokens_stddev"]) == (60, 10)
    assert (load["output_tokens"], load["output_tokens_stddev"]) == (15, 3)
    assert load["duration_s"] == 600 and load["sampling"] == {"temperature": 0.5}
    assert made.config["metadata"] == {"name": "ours", "round": "1"}
    assert "in llmperf's format" in capsys.readouterr().out
    assert len(list(made.path.glob("*_individual_responses.json"))) == 1


def test_limits_are_kept_with_the_run(here, tmp_path):
    run(tmp_path, "--concurrency", "2", "--limit", "ttft=300", "--limit", "latency=0.001")
    (made,) = results.runs(tmp_path)
    assert made.summary["goodput"]["limits"] == {"ttft_s": 300.0, "latency_s": 0.001}
    assert made.summary["goodput"]["share"] == 0.0


def test_a_report_is_written_unless_it_is_not_wanted(here, tmp_path, capsys):
    options = ["--endpoint", deployed.NAME, "--requests", "4", "--concurrency", "2"]
    options += ["--input-tokens", "40", "--output-tokens", "12", "--results", str(tmp_path)]
    assert terminal.main(options) == verdict_of(tmp_path)
    (made,) = results.runs(tmp_path)
    assert "rehearsal" in (made.path / "report.html").read_text()
    assert "report.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--concurrency", "4"), "two requests a user"),
        (("--concurrency", "2", "--rate", "1"), "one of the two"),
        (("--rate", "1", "--llmperf"), "llmperf knows users and no arrivals"),
        (("--rate", "1", "--rounds"), "A rate belongs to arrivals"),
        (
            ("--openai-url", "http://127.0.0.1:1/v1", "--concurrency", "2"),
            "--model, as the server calls it",
        ),
        (("--resume", "/nowhere"), "holds no run"),
        (("--resume", "a" * 300), "holds no run (file name too long)"),
        (("--endpoint", "nobodys", "--concurrency", "2"), "nobodys"),
        (("--concurrency", "1", "--output-tokens", "4090"), "do not fit"),
    ],
)
def test_the_terminal_refuses_in_one_sentence(here, tmp_path, capsys, options, words):
    assert run(tmp_path, *options) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--concurrency", "many"), "such as 1,2,4,8"),
        (("--limit", "ttft"), "no limit such as ttft=2"),
        (("--limit", "itl=2"), "no limit such as ttft=2"),
        (("--sampling", "[1]"), "no object such as"),
        (("--sampling", "{"), "no JSON"),
        (("--metadata", "name"), "no list such as name=foo"),
    ],
)
def test_an_option_that_means_nothing_says_what_it_could_be(capsys, options, words):
    with pytest.raises(SystemExit):
        terminal.main(list(options))
    assert words in capsys.readouterr().err


def test_a_run_that_fails_its_audit_is_no_success(here, tmp_path):
    assert run(tmp_path, "--concurrency", "1", "--sampling", '{"top_p": 1.0}') == 1


def test_in_a_sweep_each_finding_of_an_audit_says_whose_it_is(here, tmp_path, capsys):
    assert run(tmp_path, "--concurrency", "1,2", "--sampling", '{"top_p": 1.0}') == 1
    said = capsys.readouterr().out
    for who in ("1 user", "2 users"):
        assert f"[rehearsal] {who}: invalid: " in said


def test_a_server_that_is_down_is_named_by_its_url(capsys, tmp_path):
    url = "http://127.0.0.1:9/v1"
    assert terminal.main(["--openai-url", url, "--model", "m", "--results", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"Nothing answers at {url}: is the server up, and the address right?" in said
    assert "region" not in said


# --- broken runs ----------------------------------------------------------------------------------


def stopped_midway(folder, sign):
    """A benchmark in a process of its own that gets a signal after its first records."""
    command = [sys.executable, "-m", "helpers.benchmark", "--endpoint", deployed.NAME]
    command += ["--concurrency", "2", "--requests", "60", "--results", str(folder), "--no-report"]
    running = subprocess.Popen(
        command,
        cwd=settings.ROOT,
        stdout=subprocess.PIPE,
        text=True,
        # A test run started in the background hands its children an ignored Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 30
        while not any(lines.stat().st_size for lines in folder.glob("*/requests.jsonl")):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        running.send_signal(sign)
        said, _ = running.communicate(timeout=20)
    finally:
        running.kill()
    (kept,) = results.runs(folder)
    return running.returncode, said, kept


def test_control_c_keeps_what_there_is(here, tmp_path):
    code, said, kept = stopped_midway(tmp_path, signal.SIGINT)
    assert code == 130
    asked = json.loads((kept.path / "summary.json").read_text())["requests"]
    assert asked["interrupted"] == 2 and asked["errors"] == 0
    assert f"what there is was kept in {kept.path}" in said


def test_a_run_that_was_killed_goes_on_where_it_broke(here, tmp_path, capsys):
    _, _, kept = stopped_midway(tmp_path, signal.SIGKILL)
    assert not (kept.path / "summary.json").exists() and 0 < len(kept.records) < 62
    with (kept.path / "requests.jsonl").open("a") as lines:
        lines.write('{"target": "rehearsal", "index": 4')  # it was writing when it died
    code = terminal.main(["--resume", str(kept.path), "--no-report"])
    assert code == verdict_of(tmp_path)
    (whole,) = results.runs(tmp_path)
    measured = [record for record in whole.records if record.phase == "measured"]
    assert sorted(record.index for record in measured) == list(range(2, 62))
    assert not any(record.error for record in measured)
    assert {record.part for record in whole.records} == {0, 1}
    assert "going on with" in capsys.readouterr().out
