"""Benchmarks against a really running rehearsal, in notebooks' and in the terminal's way."""

import contextlib
import http.server
import json
import os
import re
import threading
import time

import pytest

from helpers import benchmark, endpoint, load, metrics, plan, recipes, results, settings
from helpers.errors import InvocationError, ResultsError
from helpers.messages import bearer_token, openai_url
from helpers.rehearsal import launch
from helpers.session import open_session

SPEED = 500  # a deployment of 30 minutes takes 3.6 s
MEASURED = r"\d+\.\d+|\d+ s left|\d+ checks passed(, \d+ notes?)?"
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
    for _ in range(4):  # a busy machine is too late for the audit at this speed
        run = benchmark.run(session, served, concurrency=5, requests=20, **SMALL)
        if run.is_valid:
            break
    return run


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


def test_replies_are_as_long_as_asked_and_counted_by_the_models_tokenizer(finished):
    tokens = finished.summary["tokens"]
    assert tokens["output_mean"] == tokens["asked_mean"] == 12
    assert tokens["output_source"] == {"tokenizer": 25}
    assert all(record.counts == {"tokenizer": 12, "chunks": 12} for record in finished.records)
    assert finished.config["tokenizer"].startswith("Tokens are counted by the tokenizer of meta-")


def test_a_run_is_audited_and_says_how_its_client_fared(finished):
    assert finished.is_valid and finished.summary["audit"]["checks"]
    (client,) = finished.summary["clients"]
    assert client["cpu_s"] > 0 and client["round_trip_s"] > 0


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
    asked, *progress, figures, verdict = lines
    assert asked == (
        "[rehearsal] 2 users, 12 requests of 40 tokens in and up to 12 out, after 2 to warm up"
    )
    assert [line.partition(" done")[0] for line in progress] == [
        f"{done} of 12 requests" for done in (3, 5, 8, 10, 12)
    ]
    assert all(line.endswith("[rehearsal]") for line in (*progress, figures, verdict))
    assert "tokens/s" in figures and verdict.startswith("audit: ")
    one, other = (re.sub(MEASURED, "so much", text).rpartition("audit")[0] for text in said)
    assert one == other


def test_a_sweep_is_one_run_for_each_number_of_users(session, served):
    made = benchmark.sweep(session, served, concurrencies=(1, 3), requests=6, **SMALL)
    assert [one.config["load"]["concurrency"] for one in made] == [1, 3]
    assert all(one.summary["requests"]["complete"] == 6 for one in made)


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


def test_what_the_container_would_refuse_each_time_is_refused_at_once(session, served, tmp_path):
    with pytest.raises(ResultsError, match="prompts of up to 4000 tokens and 4096 together"):
        benchmark.run(session, served, input_tokens=3990, output_tokens=150, results_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_requests_that_the_container_refuses_are_counted_and_quoted(session, served, capsys):
    failed = benchmark.run(
        session, served, concurrency=1, requests=5, sampling={"top_p": 1.0}, **SMALL
    )
    assert failed.summary["requests"]["errors"] == 5
    assert failed.summary["requests"]["errors_by_kind"] == {"validation": 5}
    said = capsys.readouterr().out
    assert "5 of 5 requests done" in said and "errors: 5" in said
    assert "5 of 5 failed: validation 5; first:" in said and "`top_p` must be" in said
    assert "there are no figures" in said and "audit: INVALID" in said


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
    add = results.Recorder.add

    def interrupted(recorder, record):
        add(recorder, record)
        if len(recorder.records) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(results.Recorder, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(session, served, concurrency=2, requests=10, results_dir=tmp_path, **SMALL)
    (kept,) = results.runs(tmp_path)
    asked = kept.summary["requests"]
    assert asked["complete"] >= 2 and 1 <= asked["interrupted"] <= 2 and asked["measured"] < 10
    said = capsys.readouterr().out
    assert f"what there is was kept in {kept.path}" in said
    assert f" -m helpers.benchmark --resume {kept.path}" in said

    monkeypatch.undo()
    whole = benchmark.resume(session, kept.path)
    assert sorted(answered(whole)) == list(range(2, 12)), "each was answered once"
    assert {record.part for record in whole.records} == {0, 1}
    assert whole.summary["requests"]["complete"] == 10
    with pytest.raises(ResultsError, match="nothing left to send"):
        benchmark.resume(session, kept.path)


@pytest.mark.parametrize("kept", [6, 20])
def test_arrivals_that_were_cut_off_are_sent_later(session, served, tmp_path, monkeypatch, kept):
    add = results.Recorder.add

    def interrupted(recorder, record):
        add(recorder, record)
        if len(recorder.records) == kept:
            raise KeyboardInterrupt

    monkeypatch.setattr(results.Recorder, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(
            session, served, rate_per_s=0.3, duration_s=80, warmup=1, results_dir=tmp_path, **SMALL
        )
    monkeypatch.undo()
    (broken,) = results.runs(tmp_path)
    whole = benchmark.resume(session, broken.path)
    assert sorted(answered(whole)) == list(range(1, 25)), "0.3/s for 80 s"


def answered(run):
    """The places in the plan of measured requests that were answered."""
    return [
        record.index
        for record in run.records
        if record.phase == "measured" and (record.error is None)
    ]


# --- other loads, routes and engines --------------------------------------------------------------


def test_rounds_keep_the_asked_concurrency_only_at_their_beginning(session, served):
    rounds = benchmark.run(
        session, served, kind="rounds", concurrency=5, requests=15, output_tokens_stddev=6, **SMALL
    )
    assert rounds.summary["window"]["mean_concurrency"] < 5
    assert rounds.summary["requests"]["complete"] == 15


def test_arrivals_are_sent_at_the_asked_rate(session, served):
    arrived = benchmark.run(
        session, served, rate_per_s=0.3, process="constant", requests=12, limits={"ttft_s": 300},
        **SMALL,
    )  # fmt: skip
    inside = arrived.summary["window"]
    assert inside["offered_per_s"] == pytest.approx(0.3, rel=0.01)
    assert all(record.user is None for record in arrived.records)
    assert arrived.summary["goodput"]["share"] == 1.0


def test_a_sweep_can_go_over_rates(session, served):
    made = benchmark.sweep(session, served, rates_per_s=(0.2, 0.4), requests=4, warmup=1, **SMALL)
    assert [one.config["load"]["rate_per_s"] for one in made] == [0.2, 0.4]


def test_a_run_can_end_by_time(session, served):
    timed = benchmark.run(session, served, concurrency=2, duration_s=60, **SMALL)
    measured = [record.sent_s for record in timed.records if record.phase == "measured"]
    assert 20 < (max(measured) - min(measured)) * SPEED < 60


def test_the_openai_route_is_measured_by_the_same_engine(session, served):
    over = benchmark.run(session, served, route="openai", concurrency=2, requests=6, **SMALL)
    assert over.config["transport"] == "OpenAI chat completions"
    assert over.summary["requests"]["complete"] == 6 and over.summary["tokens"]["output_mean"] == 12
    for file in over.path.iterdir():
        assert "sagemaker-api-key" not in file.read_text()


def test_plain_boto3_sees_the_same_tokens(session, served):
    check = benchmark.run(session, served, engine="boto3", concurrency=2, requests=6, **SMALL)
    assert check.summary["requests"]["complete"] == 6 and check.summary["clients"] == []
    assert check.summary["tokens"]["output_mean"] == 12


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "fast"}, "asyncio, ray, boto3"),
        ({"engine": "boto3", "route": "openai"}, "SageMaker's own route only"),
        ({"engine": "boto3", "rate_per_s": 1}, "closed loop of a number of requests"),
        ({"route": "grpc"}, "sagemaker, openai"),
        ({"limits": {"itl_s": 1}}, "no limit 'itl_s'"),
    ],
)
def test_what_there_is_not_is_refused(session, served, tmp_path, options, words):
    with pytest.raises((ResultsError, InvocationError), match=words):
        benchmark.run(session, served, results_dir=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_any_openai_server_can_be_measured_and_a_rehearsals_is_not_taken_for_one(
    session, served, tmp_path
):
    subject = benchmark.of_server(
        openai_url(session, served.name), model="m", key=bearer_token(session), price_per_hour=3.6
    )
    made = benchmark.measure(
        subject, plan.Load(concurrency=1, requests=3, **SMALL), results_dir=tmp_path
    )
    assert made.target == "rehearsal" and made.config["clock_speed"] == SPEED
    assert made.summary["requests"]["complete"] == 3
    assert made.summary["window"]["cost_per_million_output_tokens_usd"] > 0


def test_a_server_that_is_no_rehearsal_is_measured_in_real_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with openai_server() as url:
        subject = benchmark.of_server(url, model="m", key="a-secret-key")
        made = benchmark.measure(
            subject, plan.Load(concurrency=2, requests=4, **SMALL), results_dir=tmp_path
        )
    assert (made.target, made.config["clock_speed"]) == ("server", 1.0)
    assert made.summary["tokens"]["output_source"] == {"usage": 6}
    assert made.summary["window"]["cost_per_million_output_tokens_usd"] is None
    assert "a-secret-key" not in "".join(file.read_text() for file in made.path.iterdir())
    assert "rehearsal" not in capsys.readouterr().out


@contextlib.contextmanager
def openai_server():
    """Answers every chat with three tokens and its own count."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            chunks = [{"choices": [{"delta": {"content": word}}]} for word in ("One", " two")]
            chunks += [{"choices": [{"delta": {"content": "."}, "finish_reason": "stop"}]}]
            chunks += [{"choices": [], "usage": {"prompt_tokens": 50, "completion_tokens": 4}}]
            lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + ["data: [DONE]\n\n"]
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(sum(map(len, lines))))
            self.end_headers()
            for line in lines:
                self.wfile.write(line.encode())
                time.sleep(0.01)

        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
