"""AWS clients that nobody here wrote work, unmodified, against the rehearsal AWS.

Each runs once, as a process of its own and with nothing but an address and credentials
(clients/use_*), in the environment that the Makefile installs for it. Beside plain boto3
(test_plain_boto3.py), which here says what the others should have got.
"""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.eventstream import EventStreamBuffer

from helpers import contracts, recipes, settings
from helpers.rehearsal import launch
from helpers.rehearsal.container import wire

ROOT = Path(__file__).parent.parent
SCRIPTS = Path(__file__).parent / "clients"
INSTALLED = ROOT / ".clients"
PYTHONS = {
    "sagemaker_core_2_20": INSTALLED / "studio" / "bin" / "python",
    "sagemaker_core": Path(sys.executable),  # the project's own environment has the newest
    "openai": INSTALLED / "studio" / "bin" / "python",
    "litellm": INSTALLED / "others" / "bin" / "python",
    "llmeter": INSTALLED / "others" / "bin" / "python",
}
NODE = INSTALLED / "wheel" / "bin" / "node"
CLIENTS = ("aws_cli", *PYTHONS, "javascript")  # the longest first
DEPLOYING = CLIENTS[:3]  # these bring an endpoint of their own
SPEED = 300  # 70B is in service after 6 s; SageMaker's minute for a whole reply is 200 ms
QUESTION = "What is a rehearsal?"
CHAT = {"model": "m", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 30}
RAW = {"inputs": QUESTION, "parameters": {"max_new_tokens": 30, "details": True}}


# --- What is there to talk to


def container(recipe, *, version=None, **env):
    """What CreateModel takes: the image of a version, and a recipe's environment as it wants it."""
    recipe = recipes.get(recipe, **env)
    contract = contracts.CONTRACTS[recipe.framework, version or recipe.container_version]
    repository = contracts.REPOSITORIES[recipe.framework]
    return {
        "Image": f"763104351884.dkr.ecr.us-east-1.amazonaws.com/{repository}:{contract.tag}",
        "Environment": {**recipe.env, "HF_TOKEN": "hf_of_nobody"},
    }


GUIDE, SMALL = container("llama-3-70b"), container("llama-3-8b")
DIALECTS = {
    "tgi-2-0-2": GUIDE,
    "tgi-2-1-1": container("llama-3-70b-tgi-0.0.28", version="0.0.24"),
    "tgi-3": container("llama-3-70b-tgi-0.0.28"),
    "vllm": container("llama-3.3-70b-vllm"),
}
ENDPOINTS = {
    **DIALECTS,
    "raw": container("llama-3-70b", MESSAGES_API_ENABLED=None),
    "broken": container("llama-3-70b", HF_MODEL_ID=None),
}
# The name by which a request has to call the model; only vLLM looks at it.
SERVED = {name: "m" for name in DIALECTS} | {"vllm": DIALECTS["vllm"]["Environment"]["SM_ON_MODEL"]}


class Aws:
    """A rehearsal server with `ENDPOINTS`, and what plain boto3 gets from them."""

    def __init__(self, url):
        self.url = url
        environ = launch.environment(url)
        session = boto3.Session(
            environ["AWS_ACCESS_KEY_ID"],
            environ["AWS_SECRET_ACCESS_KEY"],
            environ["AWS_SESSION_TOKEN"],
            region_name=launch.REGION,
        )
        config = Config(retries={"total_max_attempts": 1})
        self.sagemaker = session.client("sagemaker", endpoint_url=url, config=config)
        self.runtime = session.client("sagemaker-runtime", endpoint_url=url, config=config)
        self.wait = cache(self._wait)
        self.reply = cache(self._reply)

    def deploy(self, name, container):
        self.sagemaker.create_model(
            ModelName=name,
            ExecutionRoleArn="arn:aws:iam::123456789012:role/workshop-execution-role",
            PrimaryContainer=container,
        )
        variant = {
            "VariantName": "AllTraffic",
            "ModelName": name,
            "InstanceType": "ml.inf2.48xlarge",
            "InitialInstanceCount": 1,
            "ContainerStartupHealthCheckTimeoutInSeconds": 60 if name == "broken" else 3600,
        }
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)

    def _wait(self):
        waiter = self.sagemaker.get_waiter("endpoint_in_service")
        for name in ENDPOINTS.keys() - {"broken"}:
            waiter.wait(EndpointName=name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 200})

    def chat(self, name, **more):
        """The whole reply to the question that every client asks."""
        return self.reply(name, json.dumps({**CHAT, "model": SERVED[name], **more}))

    def raw(self, **more):
        parameters = {**RAW["parameters"], **more}
        return self.reply("raw", json.dumps({**RAW, "parameters": parameters}))[0]

    def _reply(self, name, body):
        self.wait()
        answer = self.runtime.invoke_endpoint(
            EndpointName=name, Body=body, ContentType="application/json"
        )
        return json.loads(answer["Body"].read())

    def close(self):
        self.sagemaker.close()
        self.runtime.close()


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    state = tmp_path_factory.mktemp("independent")
    loaded = replace(settings.load(environ={}), state_dir=state, speed=SPEED)
    aws = Aws(launch.ensure(loaded).url)
    try:
        for name, container in ENDPOINTS.items():
            aws.deploy(name, container)
        yield aws
    finally:
        aws.close()
        launch.stop(loaded)


# --- The same server, with another cut through its streams
#
# A payload part is a slice of bytes (shared/wire-format.md). Where the server itself cuts is its
# own affair; a client that has to be met by one kind of part talks through a relay.


def lines(stream):
    """One part a line: nobody promises it, and some clients rely on it."""
    return _events(stream, 1)


def pairs(stream):
    """Two lines of a stream in each part."""
    return _events(stream, 2)


def crumbs(stream):
    """Parts that end inside lines and inside every longer character, and some of many lines."""
    inside_characters = {at for at, byte in enumerate(stream) if byte & 0xC0 == 0x80}
    cuts = sorted({*range(0, min(2000, len(stream)), 7), *inside_characters, len(stream)})
    return [stream[start:end] for start, end in itertools.pairwise(cuts)]


def _events(stream, count):
    each = [event + b"\n\n" for event in stream.split(b"\n\n") if event]
    return [b"".join(each[at : at + count]) for at in range(0, len(each), count)]


@contextlib.contextmanager
def relay(url, cut):
    """Hand requests on to a server, and its answers back, event streams in other parts."""

    class Relay(BaseHTTPRequestHandler):
        def do_POST(self):
            server = urlsplit(url)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            connection = HTTPConnection(server.hostname, server.port, timeout=60)
            try:
                connection.request("POST", self.path, body, dict(self.headers))
                answer = connection.getresponse()
                body = answer.read()
            finally:
                connection.close()
            if answer.getheader("Content-Type") == wire.EVENT_STREAM:
                buffer = EventStreamBuffer()
                buffer.add_data(body)
                stream = b"".join(event.payload for event in buffer)
                body = b"".join(map(wire.payload_part, cut(stream)))
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Relay) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)


# --- The clients' processes


class Runs:
    """Runs every client that a selected test looks at, two at a time."""

    def __init__(self, aws, folder, urls, wanted):
        self._aws = aws
        self._folder = folder
        self._urls = urls
        self._pool = ThreadPoolExecutor(2)
        self._runs = {name: self._pool.submit(self._run, name) for name in wanted}

    def __getitem__(self, name):
        return self._runs[name].result()

    def close(self):
        self._pool.shutdown(cancel_futures=True)

    def _run(self, name):
        """Run a client where it finds what to ask; returns the folder with what it found."""
        folder = self._folder / name
        folder.mkdir()
        given = {"guide": GUIDE, "small": SMALL, "served": SERVED, "chat": CHAT, "raw": RAW}
        for stem, content in given.items():
            (folder / f"{stem}.json").write_text(json.dumps(content))
        if name not in DEPLOYING:
            self._aws.wait()
        log = folder / "guard.log"
        finished = subprocess.run(
            self._command(name, folder),
            cwd=folder,
            env={
                **launch.environment(self._aws.url),
                **self._urls,
                "PATH": os.pathsep.join((str(INSTALLED / "others" / "bin"), os.environ["PATH"])),
                "HOME": str(folder),
                "PYTHONPATH": str(ROOT / "tests" / "guard"),
                "NODE_OPTIONS": f"--require={SCRIPTS / 'guard.cjs'}",
                "NETWORK_GUARD_LOG": str(log),
                # As one who is offline would: LiteLLM fetches a list of prices from GitHub.
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert not log.exists(), log.read_text()
        return folder

    def _command(self, name, folder):
        assert (INSTALLED / ".installed").exists(), (
            "The clients are not installed: run `make .clients/.installed`."
        )
        if name == "aws_cli":
            return ["bash", SCRIPTS / "use_aws_cli.sh"]
        if name == "javascript":
            # Node looks for packages beside the script.
            script = shutil.copy(SCRIPTS / "use_javascript.mjs", folder)
            (folder / "node_modules").symlink_to(INSTALLED / "node" / "node_modules")
            return [NODE, script]
        script = "use_sagemaker_core.py" if name.startswith("sagemaker_core") else f"use_{name}.py"
        return [PYTHONS[name], SCRIPTS / script]


@pytest.fixture(scope="module")
def runs(request, aws, tmp_path_factory):
    asked = {name for item in request.session.items for name in _names(item)}
    with contextlib.ExitStack() as relays:
        urls = {
            f"{cut.__name__.upper()}_URL": relays.enter_context(relay(aws.url, cut))
            for cut in (lines, pairs, crumbs)
        }
        wanted = [name for name in CLIENTS if name in asked]
        runs = Runs(aws, tmp_path_factory.mktemp("clients"), urls, wanted)
        try:
            yield runs
        finally:
            runs.close()


def _names(item):
    """The fixtures of a test and the strings it is run with: clients are among them."""
    yield from getattr(item, "fixturenames", ())
    if hasattr(item, "callspec"):
        yield from (value for value in item.callspec.params.values() if isinstance(value, str))


def found_by(runs, name):
    return json.loads((runs[name] / "found.json").read_text())


@pytest.fixture(scope="module", params=["sagemaker_core_2_20", "sagemaker_core"])
def core(request, runs):
    return found_by(runs, request.param)


@pytest.fixture(scope="module")
def openai(runs):
    return found_by(runs, "openai")


@pytest.fixture(scope="module")
def litellm(runs):
    return found_by(runs, "litellm")


@pytest.fixture(scope="module")
def llmeter(runs):
    return found_by(runs, "llmeter")


@pytest.fixture(scope="module")
def javascript(runs):
    return found_by(runs, "javascript")


@pytest.fixture(scope="module")
def aws_cli(runs):
    return Folder(runs["aws_cli"])


class Folder:
    """What the AWS CLI wrote."""

    def __init__(self, path):
        self._path = path

    def json(self, name):
        return json.loads((self._path / f"{name}.json").read_text())

    def refusal(self, name):
        words = (self._path / f"{name}.txt").read_text()
        return int((self._path / f"{name}.status").read_text()), words


def text(reply):
    return reply["choices"][0]["message"]["content"]


def finish(reply):
    return reply["choices"][0]["finish_reason"]


def same(reply, other):
    """Two answers to one request, made at different times."""
    leave = ("id", "created")
    return all(reply[name] == other[name] for name in other.keys() - set(leave))


# --- sagemaker-core


def test_sagemaker_core_deploys_waits_and_finds_its_endpoint(core):
    assert core["created"] == "Creating"
    assert core["waited"] == "InService"
    assert core["listed"] == [f"core-{core['version'].replace('.', '-')}"]
    assert core["image"] == SMALL["Image"]


def test_sagemaker_core_gets_the_reply_that_boto3_gets(core, aws):
    assert same(core["whole"], aws.chat("tgi-2-0-2"))
    assert core["variant"] == "AllTraffic"


def test_sagemaker_core_raises_what_aws_names(core):
    assert core["missing"][:2] == ["ClientError", "ValidationException"]
    assert "Could not find endpoint" in core["missing"][2]
    assert core["refused"][:2] == ["ModelError", "ModelError"]
    assert "missing field" in core["refused"][2]


def test_sagemaker_core_leaves_nothing(core):
    assert core["left"] == [0, 0, 0]


def test_the_oldest_and_a_newer_sagemaker_core_were_tried(runs):
    versions = [
        found_by(runs, name)["version"] for name in ("sagemaker_core_2_20", "sagemaker_core")
    ]
    assert versions[0] == "2.20.0"
    assert versions[1] != versions[0]


# --- the AWS CLI


def test_the_cli_knows_who_it_is(aws_cli):
    assert aws_cli.json("identity")["Arn"].startswith("arn:aws:sts::123456789012:assumed-role/")


def test_the_cli_waits_from_creating_to_in_service(aws_cli):
    assert aws_cli.json("model")["ModelArn"].endswith(":model/cli")
    assert aws_cli.json("config")["EndpointConfigArn"].endswith(":endpoint-config/cli")
    assert aws_cli.json("creating")["EndpointStatus"] == "Creating"
    assert aws_cli.json("waited")["EndpointStatus"] == "InService"


def test_the_cli_gives_up_waiting_for_an_endpoint_that_failed(aws_cli):
    status, words = aws_cli.refusal("unpinged")
    assert status == 255
    assert "Waiter EndpointInService failed" in words
    assert "terminal failure state" in words


def test_the_cli_describes_lists_and_reads_tags(aws_cli):
    (variant,) = aws_cli.json("described")["ProductionVariants"]
    assert variant["InstanceType"] == "ml.inf2.48xlarge"
    assert variant["ContainerStartupHealthCheckTimeoutInSeconds"] == 3600
    assert aws_cli.json("tags") == {"Tags": [{"Key": "client", "Value": "cli"}]}
    names = [endpoint["EndpointName"] for endpoint in aws_cli.json("endpoints")["Endpoints"]]
    assert names == sorted(names)
    assert {"cli", *ENDPOINTS} <= set(names)


def test_the_cli_gets_the_reply_that_boto3_gets(aws_cli, aws):
    assert same(aws_cli.json("reply"), aws.chat("tgi-2-0-2"))
    assert aws_cli.json("invoked")["InvokedProductionVariant"] == "AllTraffic"


def test_the_cli_reads_the_containers_log(aws_cli):
    messages = [event["message"] for event in aws_cli.json("log")["events"]]
    assert any("ml.inf2.48xlarge" in message for message in messages)
    assert any("Connected" in message for message in messages)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "(ValidationException) when calling the DescribeEndpoint operation: Could not"),
        ("uninvoked", "(ValidationError) when calling the InvokeEndpoint operation: Endpoint nobo"),
    ],
)
def test_the_cli_says_what_aws_says_of_a_missing_endpoint(aws_cli, name, words):
    status, said = aws_cli.refusal(name)
    assert status == 255
    assert words in said


def test_the_cli_deletes_its_endpoint(aws_cli):
    assert aws_cli.json("left")["Endpoints"] == []


# --- the AWS SDK for JavaScript


def test_javascript_describes_waits_and_lists_page_by_page(javascript):
    assert javascript["waited"] == "SUCCESS"
    assert javascript["described"]["EndpointName"] == "tgi-3"
    assert javascript["described"]["EndpointStatus"] == "InService"
    assert javascript["described"]["CreationTime"].endswith("Z")  # it was a Date
    assert [len(page) for page in javascript["pages"]] == [2, 1]
    assert {name for page in javascript["pages"] for name in page} == {
        "tgi-2-0-2",
        "tgi-2-1-1",
        "tgi-3",
    }


@pytest.mark.parametrize("name", DIALECTS)
def test_javascript_gets_the_reply_that_boto3_gets(javascript, aws, name):
    got = javascript[name]["whole"]
    assert same(got["reply"], aws.chat(name))
    assert (got["variant"], got["type"]) == ("AllTraffic", "application/json")


@pytest.mark.parametrize("name", DIALECTS)
def test_javascript_streams_the_text_of_the_whole_reply(javascript, aws, name):
    reply = aws.chat(name)
    assert javascript[name]["streamed"] == {
        "text": text(reply),
        "finish": finish(reply),
        "type": "text/event-stream",
    }


def test_javascript_streams_over_plain_http_1(javascript):
    assert javascript["protocol"] == "http/1.1"


def test_javascript_reads_a_stream_wherever_it_is_cut(javascript, aws):
    reply = aws.chat("tgi-3", max_tokens=300)
    assert not text(reply).isascii()
    assert javascript["in crumbs"]["text"] == text(reply)


def test_javascript_throws_errors_by_their_names(javascript):
    missing, invoked, refused = (javascript[name] for name in ("missing", "not invoked", "refused"))
    assert (missing["name"], missing["status"]) == ("ValidationException", 400)
    assert (invoked["name"], invoked["status"]) == ("ValidationError", 400)
    assert (refused["name"], refused["status"]) == ("ModelError", 424)
    assert {missing["fault"], invoked["fault"], refused["fault"]} == {"client"}
    assert refused["OriginalStatusCode"] == 422
    assert refused["OriginalMessage"].startswith("Failed to deserialize the JSON body")


def test_the_guard_of_node_bites(tmp_path):
    log = tmp_path / "guard.log"
    finished = subprocess.run(
        [NODE, "--eval", "fetch('http://192.0.2.1/').catch((error) => console.log(error.cause))"],
        env={
            "NODE_OPTIONS": f"--require={SCRIPTS / 'guard.cjs'}",
            "NETWORK_GUARD_LOG": str(log),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "The tests keep everything on loopback" in finished.stdout + finished.stderr
    assert "192.0.2.1" in log.read_text()


# --- LiteLLM


def as_sent(aws, name, sent):
    """What boto3 gets for the body that LiteLLM sent, its address in it included, as a whole."""
    body = {key: value for key, value in sent.items() if key != "stream"}
    return aws.reply(name, json.dumps(body))


@pytest.mark.parametrize("name", DIALECTS)
def test_litellm_completes_as_boto3_does(litellm, aws, name):
    got = litellm[name]["whole"]
    reply = as_sent(aws, name, got["sent"])
    assert got["text"] == text(reply)
    assert got["finish"] == finish(reply) == "length"
    assert got["usage"] == reply["usage"]


@pytest.mark.parametrize("name", DIALECTS)
def test_litellm_streams_the_text_of_the_whole_reply(litellm, aws, name):
    got = litellm[name]["streamed"]
    reply = as_sent(aws, name, got["sent"])
    assert got["sent"]["stream"] is True
    assert (got["text"], got["finish"]) == (text(reply), finish(reply))


def test_litellm_streams_to_the_end_and_calls_it_stop(litellm, aws):
    got = litellm["to the end"]
    reply = as_sent(aws, "tgi-2-0-2", got["sent"])
    assert finish(reply) == "eos_token"
    assert (got["text"], got["finish"]) == (text(reply), "stop")


def test_litellm_loses_a_stream_whose_parts_hold_two_lines(litellm, aws):
    """Not ours to mend: LiteLLM takes a part for a line (AWSEventStreamDecoder.iter_bytes)."""
    reply = as_sent(aws, "tgi-2-0-2", litellm["in pairs"]["sent"])
    assert text(reply)
    assert litellm["in pairs"]["text"] == ""


def test_litellm_raises_openais_errors(litellm):
    for name in ("missing", "missing stream"):
        kind, status, words = litellm[name]
        assert (kind, status) == ("BadRequestError", 400)
        assert "Endpoint nobody of account 123456789012 not found." in words
    kind, status, words = litellm["refused"]
    assert (kind, status) == ("BadRequestError", 424)
    assert "`top_p` must be > 0.0 and < 1.0" in words


# --- the openai client


@pytest.mark.parametrize("name", DIALECTS)
def test_openai_gets_the_reply_that_boto3_gets(openai, aws, name):
    reply, whole = aws.chat(name), openai[name]["whole"]
    assert (text(whole), finish(whole)) == (text(reply), finish(reply))
    assert whole["usage"] == reply["usage"]
    assert whole["object"] == reply["object"]


@pytest.mark.parametrize("name", DIALECTS)
def test_openai_streams_the_text_of_the_whole_reply(openai, aws, name):
    reply = aws.chat(name)
    for way in ("streamed", "counted"):
        assert openai[name][way]["text"] == text(reply)
        assert openai[name][way]["finish"] == finish(reply)


@pytest.mark.parametrize("name", DIALECTS)
def test_openai_gets_a_streams_usage_when_it_asks_a_container_that_has_it(openai, aws, name):
    assert openai[name]["streamed"]["usage"] is None
    counts = aws.chat(name)["usage"] if name in ("tgi-3", "vllm") else None
    assert openai[name]["counted"]["usage"] == counts


@pytest.mark.parametrize("name", DIALECTS)
def test_openai_raises_what_the_container_refuses(openai, name):
    kind, words = openai[name]["refused"]
    stream_kind, stream_words = openai[name]["refused stream"]
    if name == "vllm":
        assert kind == stream_kind == "BadRequestError"
        assert "maximum context length is" in words
        assert "maximum context length is" in stream_words
    else:
        assert kind == "UnprocessableEntityError"  # 422; TGI's words are not where it looks
        assert stream_kind == "APIError"  # 200, then an error as the only line
    if name == "tgi-3":
        assert "`inputs` tokens + `max_new_tokens` must be <= 4096" in stream_words


def test_openai_raises_typed_errors_for_a_missing_endpoint_and_a_token_that_is_none(openai):
    assert openai["missing"][0] == "BadRequestError"
    assert "Endpoint nobody of account 123456789012 not found." in openai["missing"][1]
    assert openai["no token"][0] == "PermissionDeniedError"


# --- LLMeter


def test_llmeter_streams_the_text_and_counts_the_tokens_that_boto3_gets(llmeter, aws):
    reply, got = aws.raw(), llmeter["streamed"]
    assert got["error"] is None
    assert got["text"] == reply["generated_text"]
    assert got["tokens"] == reply["details"]["generated_tokens"] == 30
    assert 0 < got["first"] < got["last"]


def test_llmeter_streams_to_the_end_of_turn(llmeter, aws):
    reply, got = aws.raw(max_new_tokens=700), llmeter["to the end"]
    assert reply["details"]["finish_reason"] == "eos_token"
    assert got["text"] == reply["generated_text"] + "<|eot_id|>"  # special tokens are no exception
    assert got["tokens"] == reply["details"]["generated_tokens"]


def test_llmeter_reads_a_stream_wherever_it_is_cut(llmeter, aws):
    reply = aws.raw(max_new_tokens=300)
    assert not reply["generated_text"].isascii()
    assert llmeter["in crumbs"]["text"] == reply["generated_text"]


def test_llmeter_reads_a_whole_chat_completion(llmeter, aws):
    reply, got = aws.chat("tgi-3"), llmeter["whole chat"]
    assert got["error"] is None
    assert got["text"] == text(reply)
    assert got["tokens"] == reply["usage"]["completion_tokens"] == 30


def test_llmeter_cannot_read_tgis_whole_answer_which_is_a_list(llmeter, aws):
    """Not ours to mend: TGI wraps it in a list (compat_generate), LLMeter 0.2 wants an object."""
    assert len(aws.reply("raw", json.dumps(RAW))) == 1
    assert llmeter["whole"]["error"] == "'list' object has no attribute 'get'"


def test_llmeter_notes_what_was_refused(llmeter):
    assert "(ValidationError)" in llmeter["missing"]["error"]
    assert "Endpoint nobody of account" in llmeter["missing"]["error"]
    assert "(ModelError)" in llmeter["refused"]["error"]
    assert "must be <= 4096" in llmeter["refused"]["error"]
    # In a stream TGI answers with 200, and the error is its only line.
    assert "must be <= 4096" in llmeter["refused stream"]["error"]
    assert "ModelError" not in llmeter["refused stream"]["error"]


def test_llmeter_runs_two_clients_at_once(llmeter):
    assert llmeter["run"] == {
        "total_requests": 6,
        "failed_requests": 0,
        "total_output_tokens": 180,
    }
