"""The runtime: met by boto3 over HTTP, and in virtual time where only the pace matters."""

import asyncio
import gc
import http.client
import json
import math
import selectors
import statistics
import threading
import time
from dataclasses import replace

import boto3
import pytest
from botocore.config import Config

from helpers import contracts, recipes, twin
from helpers.clock import Clock
from helpers.rehearsal.control import Deployment
from helpers.rehearsal.runtime import Runtime
from helpers.rehearsal.server import Request, Server

MODEL = "meta-llama/Meta-Llama-3-70B-Instruct"
ENV = recipes.get("llama-3-70b").env
VLLM_ENV = {"SM_ON_MODEL": MODEL, "SM_ON_BATCH_SIZE": "4", "SM_ON_SEQUENCE_LENGTH": "4096"}
MESSAGES = [{"role": "user", "content": "What is a rehearsal?"}]


def image(version, framework=contracts.TGI):
    repository = contracts.REPOSITORIES[framework]
    tag = contracts.CONTRACTS[framework, version].tag
    return f"763104351884.dkr.ecr.us-east-1.amazonaws.com/{repository}:{tag}"


def deployment(name, *, version="0.0.22", framework=contracts.TGI, count=1, env=ENV, **more):
    return Deployment(
        name=name,
        uid=name,
        image=image(version, framework),
        env={**env, **more},
        instance_type="ml.inf2.48xlarge",
        instance_count=count,
    )


DEPLOYMENTS = {
    each.name: each
    for each in (
        deployment("llama"),
        deployment("raw", MESSAGES_API_ENABLED="false"),
        deployment("stops", version="0.0.23"),
        deployment("tgi3", version="0.0.28"),
        deployment("vllm", version="0.4.4", framework=contracts.VLLM, env=VLLM_ENV),
        deployment("busy", MAX_CONCURRENT_REQUESTS="1"),
        deployment("long", version="0.0.28", MAX_TOTAL_TOKENS="8192"),
    )
}


class Local:
    """The runtime behind the real HTTP server, on a thread of its own."""

    def __init__(self, *, speed):
        self._ready = threading.Event()
        self._speed = speed
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self):
        self.runtime = Runtime(Clock(self._speed))

        async def handle(request, response):
            name = request.path.split("/")[2]
            await self.runtime.invoke(DEPLOYMENTS[name], request, response)

        server = Server(handle)
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.port = await server.start()
        self._ready.set()
        await self._stop.wait()
        await server.stop()

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def client(self):
        return boto3.client(
            "sagemaker-runtime",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id="rehearsal",
            aws_secret_access_key="rehearsal",
            config=Config(retries={"total_max_attempts": 1}),
        )

    def openai(self, name, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(
                "POST",
                f"/endpoints/{name}/openai/v1/chat/completions",
                body=json.dumps(body),
                headers={"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type"), response.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def local():
    with Local(speed=2000) as local:
        yield local


@pytest.fixture(scope="module")
def client(local):
    client = local.client()
    yield client
    client.close()


def asked(**more):
    return {"model": "m", "messages": MESSAGES, "max_tokens": 20, **more}


def invoke(client, name, body, **more):
    body = body if isinstance(body, bytes) else json.dumps(body)
    return client.invoke_endpoint(
        **{"EndpointName": name, "Body": body, "ContentType": "application/json", **more}
    )


def whole(client, name, body):
    return json.loads(invoke(client, name, body)["Body"].read())


def parts(client, name, body):
    answer = client.invoke_endpoint_with_response_stream(
        EndpointName=name, Body=json.dumps(body), ContentType="application/json"
    )
    return [event["PayloadPart"]["Bytes"] for event in answer["Body"]]


def lines(client, name, body):
    """The JSON of a streamed answer's lines, `[DONE]` left out."""
    rows = [row for row in b"".join(parts(client, name, body)).split(b"\n") if row]
    assert all(row.startswith(b"data:") for row in rows)
    return [json.loads(row[5:]) for row in rows if not row.endswith(b"[DONE]")]


def content(chunks):
    return "".join(
        choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]
    )


def refusal(client, name, body, **more):
    with pytest.raises(client.exceptions.ModelError) as caught:
        invoke(client, name, body, **more)
    return caught.value.response


# --- whole replies


def test_a_whole_reply_is_the_containers_own_json(client):
    answer = invoke(client, "llama", asked())
    assert answer["ContentType"] == "application/json"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    reply = json.loads(answer["Body"].read())
    assert reply.pop("created") >= 1_700_000_000
    (choice,) = reply.pop("choices")
    assert "rehearsal" in choice["message"].pop("content").lower()
    assert choice == {
        "index": 0,
        "message": {"role": "assistant"},
        "logprobs": None,
        "finish_reason": "length",
    }
    assert reply == {
        "id": "",
        "object": "text_completion",
        "model": "m",
        "system_fingerprint": "2.0.2-native",
        "usage": {"prompt_tokens": 0, "completion_tokens": 20, "total_tokens": 20},
    }


def test_without_max_tokens_an_old_container_gives_100(client):
    body = asked()
    del body["max_tokens"]
    assert whole(client, "llama", body)["usage"]["completion_tokens"] == 100


def test_a_long_reply_ends_by_itself(client):
    reply = whole(client, "llama", asked(max_tokens=3000))
    assert reply["choices"][0]["finish_reason"] == "eos_token"
    assert 513 <= reply["usage"]["completion_tokens"] <= 640


def test_the_same_conversation_has_the_same_answer(client):
    def reply(**more):
        return whole(client, "llama", asked(**more))["choices"]

    assert reply() == reply()
    assert reply() != reply(messages=[{"role": "user", "content": "Something else?"}])


def test_a_longer_answer_begins_like_the_shorter_one(client):
    short, long = (
        whole(client, "llama", asked(max_tokens=n))["choices"][0]["message"]["content"]
        for n in (30, 90)
    )
    assert long.startswith(short)


def test_a_message_may_come_in_parts(client):
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "this?"}]
    assert whole(client, "llama", asked(messages=[{"role": "user", "content": parts}]))["choices"]


# --- streams


def test_a_stream_brings_one_token_a_chunk_and_no_end_mark(client):
    body = b"".join(parts(client, "llama", asked(stream=True)))
    assert b"[DONE]" not in body
    chunks = lines(client, "llama", asked(stream=True))
    assert len(chunks) == 20
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 19 + ["length"]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


def test_a_streamed_answer_is_the_whole_one(client):
    reply = whole(client, "llama", asked(max_tokens=200))
    chunks = lines(client, "llama", asked(max_tokens=200, stream=True))
    assert content(chunks) == reply["choices"][0]["message"]["content"]


def test_a_stream_that_ends_by_itself_ends_with_an_empty_delta(client):
    last = lines(client, "llama", asked(max_tokens=3000, stream=True))[-1]["choices"][0]
    assert last["delta"] == {}
    assert last["finish_reason"] == "eos_token"


def test_an_event_stream_names_the_containers_content_type(client):
    answer = client.invoke_endpoint_with_response_stream(
        EndpointName="llama", Body=json.dumps(asked(stream=True)), ContentType="application/json"
    )
    assert answer["ContentType"] == "text/event-stream"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    assert len([event for event in answer["Body"] if "PayloadPart" in event]) == 20


def test_asking_for_a_stream_without_saying_so_in_the_body_gives_the_whole_reply(client):
    (part,) = parts(client, "llama", asked())
    assert json.loads(part)["usage"]["completion_tokens"] == 20


def test_streaming_into_a_whole_answer_gives_all_lines_at_once(client):
    answer = invoke(client, "llama", asked(stream=True))
    assert answer["ContentType"] == "text/event-stream"
    assert answer["Body"].read().count(b"data:") == 20


def test_stop_texts_are_ignored_by_0_0_22_and_honored_by_0_0_23(client):
    stop = whole(client, "stops", asked())["choices"][0]["message"]["content"][30:36]
    ignored = whole(client, "llama", asked(stop=[stop]))
    honored = whole(client, "stops", asked(stop=[stop]))
    assert ignored["choices"][0]["finish_reason"] == "length"
    assert honored["choices"][0]["finish_reason"] == "stop_sequence"
    assert honored["usage"]["completion_tokens"] < 20


# --- other dialects


def test_tgi_3_counts_the_prompt_and_ends_with_done(client):
    body = asked(stream=True, stream_options={"include_usage": True})
    assert b"".join(parts(client, "tgi3", body)).endswith(b"data: [DONE]\n\n")
    usage = lines(client, "tgi3", body)[-1]["usage"]
    assert usage["prompt_tokens"] > 10
    assert usage["completion_tokens"] == 20


def test_tgi_3_needs_no_model_and_takes_what_is_left_of_the_budget(client):
    reply = whole(client, "tgi3", {"messages": MESSAGES})
    assert reply["model"] == MODEL
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_tgi_3_tells_inputs_and_messages_apart_by_shape(client):
    assert whole(client, "tgi3", {"inputs": "Hello"})[0]["generated_text"]
    assert "untagged enum" in refusal(client, "tgi3", {"prompt": "Hello"})["OriginalMessage"]


def test_vllm_begins_a_stream_with_the_role(client):
    first, *chunks = lines(client, "vllm", asked(model=MODEL, stream=True))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["id"].startswith("chatcmpl-")
    assert len(chunks) == 20


def test_vllm_refuses_another_model_before_the_stream(client):
    error = refusal(client, "vllm", asked(stream=True))
    assert error["OriginalStatusCode"] == 404
    assert "`m` does not exist" in error["OriginalMessage"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"temperature": -1}, "non-negative"),
        ({"top_p": 1.5}, "top_p must be in"),
        ({"max_tokens": 0}, "at least 1"),
        ({"max_tokens": 9000}, "maximum context length is 4096 tokens"),
        ({"messages": 3}, "messages"),
    ],
)
def test_vllm_refuses_in_its_own_words(client, more, words):
    error = refusal(client, "vllm", asked(model=MODEL, **more))
    assert error["OriginalStatusCode"] == 400
    assert words in json.loads(error["OriginalMessage"])["error"]["message"]


def test_vllm_takes_a_top_p_of_1(client):
    assert whole(client, "vllm", asked(model=MODEL, top_p=1.0))["choices"]


# --- TGI's own format


def test_without_the_messages_flag_inputs_are_answered_in_tgis_own_format(client):
    body = {"inputs": "Hello", "parameters": {"max_new_tokens": 30, "details": True}}
    (reply,) = whole(client, "raw", body)
    assert "rehearsal" in reply["generated_text"].lower()
    assert reply["details"]["generated_tokens"] == 30
    assert reply["details"]["finish_reason"] == "length"


def test_the_prompt_comes_back_when_asked_for(client):
    body = {"inputs": "Hello", "parameters": {"return_full_text": True}}
    assert whole(client, "raw", body)[0]["generated_text"].startswith("Hello")


def test_inputs_can_be_streamed_too(client):
    body = {"inputs": "Hello", "stream": True, "parameters": {"max_new_tokens": 700}}
    chunks = lines(client, "raw", body)
    assert [chunk["index"] for chunk in chunks] == list(range(1, len(chunks) + 1))
    assert {chunk["generated_text"] for chunk in chunks[:-1]} == {None}
    last = chunks.pop()
    assert last["token"]["special"]
    assert last["generated_text"] == "".join(chunk["token"]["text"] for chunk in chunks)


# --- refusals


def test_a_refusal_is_a_424_that_names_status_words_and_log(client):
    error = refusal(client, "llama", asked(top_p=1.0))
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert error["Error"]["Code"] == "ModelError"
    assert error["Error"]["Message"].startswith(
        'Received client error (422) from primary with message "{"error":"Input validation error: '
    )
    assert error["OriginalStatusCode"] == 422
    assert json.loads(error["OriginalMessage"]) == {
        "error": "Input validation error: `top_p` must be > 0.0 and < 1.0",
        "error_type": "validation",
    }
    assert error["LogStreamArn"] == (
        "arn:aws:logs:us-east-1:123456789012:log-group:/aws/sagemaker/Endpoints/llama"
    )


LONG = [{"role": "user", "content": "river " * 4050}]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"temperature": 0}, "`temperature` must be strictly positive"),
        ({"frequency_penalty": 3}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"max_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
        (
            {"max_tokens": 4090},
            "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 15 `inputs` tokens and "
            "4090 `max_new_tokens`",
        ),
        (
            {"messages": LONG, "max_tokens": 5},
            "`inputs` must have less than 4000 tokens. Given: 4060",
        ),
    ],
)
def test_what_tgi_would_not_generate_is_refused_in_its_words(client, more, words):
    error = json.loads(refusal(client, "llama", asked(**more))["OriginalMessage"])
    assert error == {"error": f"Input validation error: {words}", "error_type": "validation"}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"typical_p": 1}, "`typical_p` must be > 0.0 and < 1.0"),
    ],
)
def test_parameters_of_the_own_format_are_checked_too(client, parameters, words):
    error = refusal(client, "raw", {"inputs": "Hello", "parameters": parameters})
    assert words in error["OriginalMessage"]


def test_empty_inputs_are_refused(client):
    assert "cannot be empty" in refusal(client, "raw", {"inputs": ""})["OriginalMessage"]


def test_a_stream_that_is_refused_is_a_200_with_the_error_as_its_only_line(client):
    (chunk,) = lines(client, "llama", asked(stream=True, top_p=1.0))
    assert chunk == {
        "error": "Input validation error: `top_p` must be > 0.0 and < 1.0",
        "error_type": "validation",
    }


FORM = "Failed to deserialize the JSON body into the target type: "


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("raw", asked(), "missing field `inputs` at line 1 column "),
        ("llama", {"messages": MESSAGES}, "missing field `model` at line 1 column "),
        ("llama", {"model": "m"}, "missing field `messages` at line 1 column "),
        ("llama", [], "invalid type: sequence, expected"),
        ("llama", asked(messages=None), "messages: invalid type: null, expected a sequence"),
        ("llama", asked(messages=["x"]), 'messages[0]: invalid type: string "x", expected struct'),
        ("llama", asked(messages=[{"content": "x"}]), "messages[0]: missing field `role`"),
        ("llama", asked(messages=[{"role": 1}]), "messages[0].role: invalid type: integer `1`"),
        (
            "llama",
            asked(messages=[{"role": "user", "content": {}}]),
            "messages[0].content: invalid type: map, expected a string",
        ),
        (
            "llama",
            asked(messages=[{"role": "user", "content": [1]}]),
            "messages[0].content: invalid type: sequence, expected a string",
        ),
        (
            "llama",
            asked(max_tokens="ten"),
            'max_tokens: invalid type: string "ten", expected u32',
        ),
        ("llama", asked(max_tokens=-1), "max_tokens: invalid value: integer `-1`, expected u32"),
        (
            "llama",
            asked(max_tokens=1.5),
            "max_tokens: invalid type: floating point `1.5`, expected u32",
        ),
        ("llama", asked(stream=1), "stream: invalid type: integer `1`, expected a boolean"),
        ("llama", asked(top_p=True), "top_p: invalid type: boolean `true`, expected f32"),
        ("llama", asked(stop="x"), 'stop: invalid type: string "x", expected a sequence'),
        ("llama", asked(stop=[1]), "stop[0]: invalid type: integer `1`, expected a string"),
        ("raw", {"inputs": None}, "inputs: invalid type: null, expected a string"),
        (
            "raw",
            {"inputs": "x", "parameters": []},
            "parameters: invalid type: sequence, expected struct GenerateParameters",
        ),
        (
            "raw",
            {"inputs": "x", "parameters": {"top_k": "x"}},
            'parameters.top_k: invalid type: string "x", expected i32',
        ),
    ],
)
def test_json_of_another_form_is_a_422_in_serdes_words(client, name, body, words):
    error = refusal(client, name, body)
    assert error["OriginalStatusCode"] == 422
    assert error["OriginalMessage"].startswith(FORM + words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{nonsense", "expected value at line 1 column 2"),
        (b"", "expected value at line 1 column 1"),
        (b'{"a": NaN}', "expected value"),
        (b"\xff\xfe\xff", "invalid unicode code point"),
        (b'"\\ud800"', "invalid unicode code point"),
        (b'"\xed\xa0\x80"', "invalid unicode code point"),
        ('{"a": 1}'.encode("utf-16"), "invalid unicode code point"),
        ('{"a": 1}'.encode("utf-16-le"), "expected value at line 1 column 2"),
        (b'{"temperature": 1e999}', "number out of range"),
        (b'{"temperature": -1e999}', "number out of range"),
        (b'{"seed": 1' + b"0" * 5000 + b"}", "number out of range"),
        (b"[" * 100_000, "recursion limit exceeded"),
        (b"[" * 900 + b"]" * 900, "recursion limit exceeded"),
        (b"[" * 128 + b"]" * 128, "recursion limit exceeded"),
    ],
)
def test_what_is_no_json_is_a_400(client, body, words):
    error = refusal(client, "llama", body)
    assert error["OriginalStatusCode"] == 400
    assert error["OriginalMessage"].startswith("Failed to parse the request body as JSON: " + words)


def test_as_deep_as_serde_reads_is_read(client):
    deep = json.loads("[" * 126 + "]" * 126)
    assert whole(client, "llama", asked(unknown=deep))


def test_a_body_that_is_not_called_json_is_a_415(client):
    error = refusal(client, "llama", asked(), ContentType="text/plain")
    assert error["OriginalStatusCode"] == 415
    assert error["OriginalMessage"] == "Expected request with `Content-Type: application/json`"


def test_more_requests_than_the_limit_are_refused_as_overload():
    with Local(speed=1) as local:
        client = local.client()
        first = client.invoke_endpoint_with_response_stream(
            EndpointName="busy", Body=json.dumps(asked(stream=True)), ContentType="application/json"
        )
        error = refusal(client, "busy", asked())
        assert error["OriginalStatusCode"] == 429
        assert json.loads(error["OriginalMessage"]) == {
            "error": "Model is overloaded",
            "error_type": "overloaded",
        }
        first["Body"].close()
        client.close()


# --- the OpenAI route


def test_the_openai_route_answers_as_the_container_does(local):
    status, content_type, body = local.openai("llama", asked())
    assert (status, content_type) == (200, "application/json")
    assert json.loads(body)["usage"]["completion_tokens"] == 20


def test_the_openai_route_streams_plain_lines(local):
    status, content_type, body = local.openai("tgi3", asked(stream=True))
    assert (status, content_type) == (200, "text/event-stream")
    assert body.count(b"data: ") == 21
    assert body.endswith(b"data: [DONE]\n\n")


def test_the_openai_route_refuses_as_the_container_does(local):
    status, _, body = local.openai("llama", asked(temperature=0))
    assert status == 422
    assert json.loads(body)["error_type"] == "validation"


def test_the_openai_route_takes_messages_also_without_the_flag(local):
    assert local.openai("raw", asked())[0] == 200


# --- time


class _Instant(selectors.DefaultSelector):
    """Waits in no time: the loop's clock jumps, in steps of its timer's resolution."""

    resolution_s = 1e-9
    now_s = 0.0

    def select(self, timeout=None):
        ready = super().select(0)
        if timeout and not ready:
            self.now_s += math.ceil(timeout / self.resolution_s) * self.resolution_s
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Real asyncio in virtual time."""

    def __init__(self, *, resolution_s=1e-9):
        selector = _Instant()
        selector.resolution_s = resolution_s
        super().__init__(selector)

    def time(self):
        return self._selector.now_s


class Arrivals:
    """A response that notes when what was written."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.times_s = []
        self.leave = lambda: None

    def start_stream(self, status, headers):
        assert status == 200
        return self

    def write(self, data):
        self.times_s.append(self.loop.time())

    def end(self):
        pass

    def on_disconnect(self, callback):
        self.leave = callback


def request(number, *, output_tokens):
    body = {**asked(stream=True, max_tokens=output_tokens), "seed": number}
    return Request(
        "POST",
        "/endpoints/llama/invocations-response-stream",
        "",
        {"content-type": "application/json"},
        json.dumps(body).encode(),
    )


def in_virtual_time(main, *, resolution_s=1e-9):
    loop = VirtualLoop(resolution_s=resolution_s)
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()
        gc.collect()


def closed_loop(users, requests, *, output_tokens, speed, resolution_s=1e-9, deployed=None):
    """Tokens/s, median TTFT and all requests' times, in AWS seconds."""

    async def main():
        runtime, loop = Runtime(Clock(speed)), asyncio.get_running_loop()
        numbers, served = iter(range(requests)), []

        async def user():
            for number in numbers:
                arrivals, sent_s = Arrivals(), loop.time()
                await runtime.invoke(
                    deployed or DEPLOYMENTS["llama"],
                    request(number, output_tokens=output_tokens),
                    arrivals,
                )
                served.append([(time_s - sent_s) * speed for time_s in arrivals.times_s])

        await asyncio.gather(*(user() for _ in range(users)))
        return served, loop.time() * speed

    served, window_s = in_virtual_time(main, resolution_s=resolution_s)
    tokens = sum(map(len, served))
    assert tokens == requests * output_tokens
    return tokens / window_s, statistics.median(times[0] for times in served), served


def predicted(users, requests, *, output_tokens):
    served = twin.simulate(
        twin.PUBLISHED[4], concurrency=users, requests=requests, output_tokens=output_tokens
    )
    tokens = sum(one.tokens for one in served)
    ttft_s = statistics.median(one.first_s - one.sent_s for one in served)
    return tokens / max(one.last_s for one in served), ttft_s


@pytest.mark.parametrize("users", [1, 4, 5, 8, 16])
def test_real_time_and_virtual_time_agree(users):
    throughput, ttft_s, _ = closed_loop(users, 3 * users, output_tokens=100, speed=60)
    expected = predicted(users, 3 * users, output_tokens=100)
    assert throughput == pytest.approx(expected[0], rel=0.005)
    assert ttft_s == pytest.approx(expected[1], rel=0.005)


def test_a_timer_coarser_than_a_step_costs_no_throughput():
    # 1 ms is what epoll can do; a decode step at speed 60 is 0.66 ms.
    throughput, _, served = closed_loop(4, 12, output_tokens=200, speed=60, resolution_s=1e-3)
    assert throughput == pytest.approx(predicted(4, 12, output_tokens=200)[0], rel=0.01)
    for times in served:
        late_s = [time_s - times[1] - 0.0398 * n for n, time_s in enumerate(times[1:])]
        assert max(map(abs, late_s)) < 0.061  # AWS seconds, 1 ms here: no drift


def test_a_fifth_request_gets_its_first_token_when_a_slot_is_free():
    _, _, served = closed_loop(5, 5, output_tokens=50, speed=1)
    *first, fifth = sorted(times[0] for times in served)
    assert first == pytest.approx([1.2, 4.8, 4.8, 4.8], rel=0.01)
    assert fifth == pytest.approx(4.8 + 49 * 0.0398 + 1.2, rel=0.01)


def test_two_replicas_serve_two_requests_side_by_side():
    twice = deployment("twice", count=2)
    _, _, served = closed_loop(2, 40, output_tokens=10, speed=1, deployed=twice)
    assert any(times[0] == pytest.approx(1.2, rel=0.01) for times in served)
    one = closed_loop(2, 40, output_tokens=10, speed=1)[0]
    two = closed_loop(2, 40, output_tokens=10, speed=1, deployed=twice)[0]
    assert two > one


def test_replicas_are_made_when_they_are_asked():
    runtime = Runtime(Clock(60))
    container = runtime._container(deployment("many"))
    for _ in range(3):
        runtime._replica(container, 10**9)
    assert len(container.replicas) == 3


def test_variants_of_an_endpoint_are_different_containers():
    runtime = Runtime(Clock(60))
    one = deployment("e")
    other = replace(one, variant="Other", env={**ENV, "MAX_CONCURRENT_REQUESTS": "1"})
    assert runtime._container(one) is runtime._container(one)
    assert runtime._container(other).shape.max_concurrent_requests == 1
    assert runtime._container(one).shape.max_concurrent_requests == 128


def test_a_client_that_leaves_frees_its_slot_for_the_next():
    async def main():
        runtime, loop = Runtime(Clock(1)), asyncio.get_running_loop()
        waiting = [Arrivals() for _ in range(5)]
        tasks = [
            loop.create_task(
                runtime.invoke(DEPLOYMENTS["llama"], request(n, output_tokens=400), arrivals)
            )
            for n, arrivals in enumerate(waiting)
        ]
        await asyncio.sleep(6)
        for arrivals in waiting[:4]:
            arrivals.leave()
        await asyncio.gather(*tasks)
        return [arrivals.times_s for arrivals in waiting]

    *left, stayed = in_virtual_time(main)
    assert all(max(times) <= 6.1 for times in left)
    assert stayed[0] == pytest.approx(7.2, abs=0.1)
    assert len(stayed) == 400


def test_a_token_that_cannot_be_sent_ends_that_request_only():
    class Broken(Arrivals):
        def write(self, data):
            raise OSError("The wire is cut.")

    async def main():
        runtime = Runtime(Clock(1))
        broken, healthy = Broken(), Arrivals()
        return await asyncio.gather(
            *(
                runtime.invoke(DEPLOYMENTS["llama"], request(1, output_tokens=20), each)
                for each in (broken, healthy)
            ),
            return_exceptions=True,
        ), healthy.times_s

    (error, nothing), times_s = in_virtual_time(main)
    assert str(error) == "The wire is cut."
    assert nothing is None
    assert len(times_s) == 20


def test_cutting_anywhere_needs_one_function_only():
    async def main():
        arrivals = Arrivals()
        runtime = Runtime(Clock(1), cut=lambda data: (data[:5], data[5:]))
        await runtime.invoke(DEPLOYMENTS["llama"], request(1, output_tokens=3), arrivals)
        return len(arrivals.times_s)

    assert in_virtual_time(main) == 6


def test_a_client_that_hangs_up_frees_its_slots_over_http():
    with Local(speed=20) as local:
        client = local.client()
        body = json.dumps(asked(stream=True, max_tokens=500))
        hung = [
            client.invoke_endpoint_with_response_stream(
                EndpointName="llama", Body=body, ContentType="application/json"
            )
            for _ in range(4)
        ]
        next(iter(hung[0]["Body"]))
        for answer in hung:
            answer["Body"].close()
        started_s = time.monotonic()
        assert whole(client, "llama", asked(max_tokens=1))["usage"]["completion_tokens"] == 1
        # 500 tokens would have been 20 s at this endpoint, 1 s here.
        assert time.monotonic() - started_s < 0.8
        client.close()


def test_tokens_arrive_one_by_one_and_not_at_the_end():
    with Local(speed=20) as local:
        client = local.client()
        answer = client.invoke_endpoint_with_response_stream(
            EndpointName="llama",
            Body=json.dumps(asked(stream=True, max_tokens=100)),
            ContentType="application/json",
        )
        started_s = time.monotonic()
        at_s = [time.monotonic() - started_s for _ in answer["Body"]]
        assert at_s[50] - at_s[0] == pytest.approx(50 * 0.0398 / 20, abs=0.05)
        assert at_s[-1] > 0.9 * (1.2 + 99 * 0.0398) / 20
        client.close()
