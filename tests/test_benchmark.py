"""Benchmarks against a really running rehearsal, in notebooks' and in the terminal's way."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from helpers import benchmark, endpoint, load, metrics, recipes, results, settings
from helpers.errors import InvocationError, ResultsError
from helpers.rehearsal import launch
from helpers.session import open_session

SPEED = 500  # a deployment of 30 minutes takes 3.6 s
SMALL = {"input_tokens": 40, "output_tokens": 12}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A session with a rehearsal of its own."""
    before = dict(os.environ)
    folder = tmp_path_factory.mktemp("benchmark")
    os.environ.update(
        WORKSHOP_STATE=str(folder / "state"),
        WORKSHOP_RESULTS=str(folder / "results"),
        WORKSHOP_SPEED=str(SPEED),
    )
    try:
        yield open_session()
    finally:
        launch.stop(settings.load())
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def served(session):
    """Llama 3 70B, four slots, as the guide has it; deployed with boto3 alone, which is quick."""
    recipe, name = recipes.get("llama-3-70b"), f"inf2-workshop-{session.participant}-llama-3-70b"
    sagemaker = session.client("sagemaker")
    image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:"
    image += "2.1.2-optimum0.0.22-neuronx-py310-ubuntu22.04"
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=session.role(),
        PrimaryContainer={
            "Image": image,
            "Environment": {**recipe.env, "HF_TOKEN": "hf_a_secret"},
        },
    )
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": name,
        "InstanceType": recipe.instance_type,
        "InitialInstanceCount": 1,
        "ContainerStartupHealthCheckTimeoutInSeconds": 3600,
    }
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName=name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 200}
    )
    return endpoint.find(session, name)


@pytest.fixture(scope="module")
def finished(session, served):
    return benchmark.run(session, served, concurrency=5, requests=20, **SMALL)


def test_a_run_keeps_every_request_and_what_is_needed_to_repeat_it(finished, served):
    assert len(finished.records) == 25 and finished.summary["requests"]["complete"] == 20
    read = results.load(finished.path)
    assert (read.records, read.summary) == (finished.records, finished.summary)
    assert read.config["endpoint"]["image"] == served.image
    assert read.config["endpoint"]["env"]["HF_BATCH_SIZE"] == "4"
    assert read.config["load"]["concurrency"] == 5 and read.config["load"]["retries"] == 0
    assert read.config["clock_speed"] == SPEED and read.config["price"]["usd_per_hour"] == 15.58


def test_no_secret_is_in_any_file_of_a_run(finished):
    for file in finished.path.iterdir():
        text = file.read_text()
        assert "hf_a_secret" not in text and "hf_rehearsal" not in text
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in text


def test_every_file_and_line_says_rehearsal(finished):
    texts = [(finished.path / name).read_text() for name in ("run.json", "summary.json")]
    texts += (finished.path / "requests.jsonl").read_text().splitlines()
    assert all("rehearsal" in text for text in texts)


def test_the_window_holds_most_of_the_requests_under_the_asked_load(finished):
    inside = finished.summary["window"]
    assert inside["requests"] >= 15
    assert inside["mean_concurrency"] == pytest.approx(5, abs=0.6)
    assert inside["duration_s"] < finished.summary["whole_run"]["duration_s"]


def test_replies_are_as_long_as_asked_and_counted_by_chunks(finished):
    tokens = finished.summary["tokens"]
    assert tokens["output_mean"] == tokens["asked_mean"] == 12
    assert tokens["output_source"] == {"chunks": 25}


def test_one_user_sees_the_published_times(session, served):
    """1.2 s of prefill and 39.8 ms a step, in AWS time: never less, and more on a busy machine."""
    alone = benchmark.run(
        session, served, concurrency=1, requests=4, input_tokens=40, output_tokens=60
    )
    spread = alone.summary["window"]
    assert 1.15 < spread["ttft_s"]["p50"] < 10
    assert 1.15 + 59 * 0.0398 < spread["latency_s"]["p50"] < 20


def test_the_fifth_of_five_users_waits_for_one_of_four_slots(finished):
    alone_s = 1.2 + 11 * 0.0398
    waits = [metrics.ttft_s(record) * SPEED for record in finished.records]
    assert max(waits) > 2 * alone_s


def test_llmperf_would_have_reported_more_than_ten_times_the_tokens(finished):
    theirs, right = finished.summary["llmperf"], finished.summary["whole_run"]
    ratio = theirs["throughput_tokens_per_s"] / right["output_tokens_per_s"]
    assert ratio == pytest.approx((40 + 12) / 12)
    assert theirs["latency_ms_per_token"] < right["latency_s"]["mean"] * 1000 / 12


def test_the_lines_said_are_the_same_each_time_but_for_measured_figures(session, served, capsys):
    said = []
    for _ in range(2):
        benchmark.run(session, served, concurrency=2, requests=12, **SMALL)
        said.append(capsys.readouterr().out)
    lines = said[0].splitlines()
    assert lines[:-1] == [
        "[rehearsal] 2 users, 12 requests of 40 tokens in and up to 12 out, after 2 to warm up",
        *(f"[rehearsal] {done} of 12 requests done, errors: 0" for done in (3, 5, 8, 10, 12)),
    ]
    assert lines[-1].endswith("[rehearsal]") and "tokens/s" in lines[-1]
    one, other = (re.sub(r"\d+\.\d+(?=[^\n]*rehearsal)", "MEASURED", text) for text in said)
    assert one == other


def test_a_sweep_is_one_run_for_each_number_of_users(session, served):
    made = benchmark.sweep(session, served, concurrencies=(1, 3), requests=6, **SMALL)
    assert [one.config["load"]["concurrency"] for one in made] == [1, 3]
    assert all(one.summary["requests"]["complete"] == 6 for one in made)


def test_the_same_seed_sends_the_same_prompts(served):
    def bodies(seed):
        options = {"concurrency": 2, "requests": 4, "seed": seed, **SMALL}
        return [request.body for request in benchmark._plan(served, **options)]

    assert bodies(1) == bodies(1) and not set(bodies(1)) & set(bodies(2))
    assert len(set(bodies(1))) == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"concurrency": 0}, "one user or more"),
        ({"concurrency": 30, "requests": 50}, "two requests a user"),
        ({"output_tokens": 1}, "at least 2 output tokens"),
        ({"input_tokens": 5}, "no room for its task"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_before_anything_is_sent(
    session, served, tmp_path, options, words
):
    with pytest.raises(ResultsError, match=words):
        benchmark.run(session, served, results_dir=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_sweep_is_refused_as_a_whole(session, served, tmp_path):
    with pytest.raises(ResultsError, match="two requests a user"):
        benchmark.sweep(session, served, concurrencies=(1, 40), results_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_requests_that_the_container_refuses_are_counted_and_quoted(session, served, capsys):
    """4,050 tokens in and 100 out are more than the 4,096 that the endpoint was compiled for."""
    failed = benchmark.run(
        session, served, concurrency=1, requests=5, input_tokens=4050, output_tokens=100
    )
    assert failed.summary["requests"]["errors"] == 5
    assert failed.summary["requests"]["errors_by_kind"] == {"validation": 5}
    said = capsys.readouterr().out
    assert "5 of 5 requests done, errors: 5" in said
    assert "5 of 5 failed: validation 5; first:" in said and "Input validation error" in said
    assert "there are no figures" in said


def test_an_endpoint_nobody_can_reach_leaves_no_folder(session, served, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise InvocationError("Nothing answers", kind="connection")

    monkeypatch.setattr(load, "drive", unreachable)
    with pytest.raises(InvocationError):
        benchmark.run(session, served, results_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_keeps_what_there_is_and_says_where(
    session, served, tmp_path, monkeypatch, capsys
):
    say = session.say

    def interrupted(text):
        say(text)
        if "2 of 10" in text:
            raise KeyboardInterrupt

    monkeypatch.setattr(session, "say", interrupted)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(session, served, concurrency=2, requests=10, results_dir=tmp_path, **SMALL)
    (kept,) = results.runs(tmp_path)
    asked = kept.summary["requests"]
    assert asked["complete"] >= 2 and 1 <= asked["interrupted"] <= 2 and asked["measured"] < 10
    assert f"what there is was kept in {kept.path}" in capsys.readouterr().out


# --- from the terminal ----------------------------------------------------------------------------


def arguments(served, folder, *more):
    return [
        "--endpoint", served.name, "--requests", "6", "--input-tokens", "40",
        "--output-tokens", "12", "--results", str(folder), *more,
    ]  # fmt: skip


def test_a_list_of_concurrencies_is_a_sweep_and_ends_with_a_table(served, tmp_path, capsys):
    assert benchmark.main(arguments(served, tmp_path, "--concurrency", "1,2")) == 0
    said = capsys.readouterr().out
    assert "TTFT p50 (s)" in said and said.count("saved in") == 2
    assert [one.config["load"]["concurrency"] for one in results.runs(tmp_path)] == [1, 2]
    assert all("rehearsal" in line for line in said.splitlines())


def test_the_terminal_refuses_in_one_sentence(served, tmp_path, capsys):
    assert benchmark.main(arguments(served, tmp_path, "--concurrency", "4")) == 1
    said = capsys.readouterr().err
    assert "two requests a user" in said and said.count("\n") == 1


def test_the_terminal_says_when_no_request_succeeded(served, tmp_path):
    options = ("--concurrency", "1", "--output-tokens", "4090")
    assert benchmark.main(arguments(served, tmp_path, *options)) == 1


def test_a_list_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--concurrency", "many"])
    assert "such as 1,2,4,8" in capsys.readouterr().err


def test_control_c_keeps_what_there_is(served, tmp_path):
    command = [sys.executable, "-m", "helpers.benchmark", "--endpoint", served.name]
    command += ["--concurrency", "2", "--requests", "400", "--results", str(tmp_path)]
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
        while not any(lines.stat().st_size for lines in tmp_path.glob("*/requests.jsonl")):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=20)
    finally:
        running.kill()
    assert running.returncode == 130
    (kept,) = results.runs(tmp_path)
    asked = json.loads((kept.path / "summary.json").read_text())["requests"]
    assert asked["interrupted"] == 2 and asked["errors"] == 0
    assert f"what there is was kept in {kept.path}" in said
