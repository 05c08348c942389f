"""The runtime: met by boto3 over HTTP, and in virtual time where only the pace matters."""

import asyncio
import json
import statistics
import time
from dataclasses import replace

import pytest
from invoking import (
    DEPLOYMENTS,
    ENV,
    MESSAGES,
    MODEL,
    SLOW,
    Arrivals,
    Local,
    asked,
    chunks_of,
    content,
    deployment,
    in_virtual_time,
    invoke,
    lines,
    parts,
    read,
    request,
    stream,
    whole,
)

from helpers import twin
from helpers.clock import Clock
from helpers.errors import RehearsalError
from helpers.rehearsal.container.runtime import Runtime


@pytest.fixture(scope="module")
def local():
    with Local(speed=2000) as local:
        yield local


@pytest.fixture(scope="module")
def client(local):
    client = local.client()
    yield client
    client.close()


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
    data, error = read(answer["Body"])
    assert error is None
    assert len(chunks_of(data)) == 20


def test_asking_for_a_stream_without_saying_so_in_the_body_gives_the_whole_reply(client):
    reply = b"".join(parts(client, "llama", asked()))
    assert json.loads(reply)["usage"]["completion_tokens"] == 20


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
    assert "untagged enum" in refusal(client, "tgi3", {"question": "?"})["OriginalMessage"]


@pytest.mark.parametrize(
    ("name", "who", "type_"), [("tgi3", "TGI 3", "validation"), ("vllm", "vLLM", "BadRequestError")]
)
def test_a_completion_is_refused_in_the_rehearsals_own_words(client, name, who, type_):
    told = refusal(client, name, {"prompt": "Hello", "model": MODEL})
    assert told["OriginalStatusCode"] == 422
    assert f"rehearsal: completions (prompt) are not offered here, {who}" in told["OriginalMessage"]
    assert type_ in told["OriginalMessage"]
    assert whole(client, name, asked(model=MODEL, prompt="ignored"))["choices"]


@pytest.mark.parametrize("stop", ["e", ["never said", "e"]])
def test_vllm_takes_one_stop_text_or_a_list(client, stop):
    told = whole(client, "vllm", asked(model=MODEL, stop=stop, max_tokens=60))
    assert told["choices"][0]["finish_reason"] == "stop"


def test_a_stop_text_that_is_none_is_refused(client):
    assert "stop" in refusal(client, "vllm", asked(model=MODEL, stop=3))["OriginalMessage"]
    told = refusal(client, "tgi3", asked(stop="a string"))["OriginalMessage"]
    assert "stop: invalid type: string" in told


@pytest.mark.parametrize(
    ("name", "more", "tokens"),
    [
        ("vllm", {"max_completion_tokens": 7}, 7),
        ("vllm", {"max_completion_tokens": 0}, 20),
        ("tgi3", {"max_completion_tokens": 7}, 20),
    ],
)
def test_only_vllm_knows_the_newer_name_of_max_tokens(client, name, more, tokens):
    told = whole(client, name, asked(model=MODEL, **more))
    assert told["usage"]["completion_tokens"] == tokens


@pytest.mark.parametrize(("name", "value"), [("n", 2), ("logprobs", True), ("top_logprobs", 3)])
def test_what_vllm_would_honor_is_refused_in_the_rehearsals_own_words(client, name, value):
    told = refusal(client, "vllm", asked(model=MODEL, **{name: value}))["OriginalMessage"]
    assert f"rehearsal: {name.removeprefix('top_')} is not offered here" in told
    assert whole(client, "vllm", asked(model=MODEL, n=1, logprobs=False))["choices"]
    assert whole(client, "tgi3", asked(**{name: value}))["choices"]


@pytest.mark.parametrize("name", ["llama", "tgi211", "tgi3"])
@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_a_chat_of_temperature_zero_is_greedy(client, name, zero):
    assert whole(client, name, asked(temperature=zero))["choices"]


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
        ({"temperature": -0.5}, "`temperature` must be strictly positive"),
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
    status, _, body = local.openai("llama", asked(temperature=-1))
    assert status == 422
    assert json.loads(body)["error_type"] == "validation"


def test_the_openai_route_takes_messages_also_without_the_flag(local):
    assert local.openai("raw", asked())[0] == 200


# --- time


def invoked(runtime, deployed, arrivals, **options):
    """A task that invokes an endpoint."""
    asking = runtime.invoke(deployed, request(**options), arrivals)
    return asyncio.get_running_loop().create_task(asking)


def answer(*, deployed="llama", speed=1, resolution_s=1e-9, **options):
    """What a request alone at an endpoint gets, in virtual time."""

    async def main():
        runtime, arrivals = Runtime(Clock(speed), cut="lines"), Arrivals()
        await invoked(runtime, DEPLOYMENTS[deployed], arrivals, **options)
        return arrivals

    return in_virtual_time(main, resolution_s=resolution_s)


def closed_loop(users, requests, *, output_tokens, speed, resolution_s=1e-9, deployed=None):
    """Tokens/s, median TTFT and all requests' times, in AWS seconds."""

    async def main():
        runtime, loop = Runtime(Clock(speed), cut="lines"), asyncio.get_running_loop()
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


def test_an_endpoint_that_becomes_smaller_gives_its_first_replicas_all_that_comes():
    """The others end what they have begun."""

    async def main():
        runtime = Runtime(Clock(1), cut="lines")
        two, one = deployment("scaled", count=2), deployment("scaled", count=1)
        before = [Arrivals() for _ in range(16)]
        tasks = [invoked(runtime, two, each, number=n) for n, each in enumerate(before)]
        await asyncio.sleep(0.1)
        after = [Arrivals() for _ in range(8)]
        tasks += [invoked(runtime, one, each, number=n) for n, each in enumerate(after)]
        await asyncio.gather(*tasks)
        return [each.ended_s for each in before], [each.ended_s for each in after]

    before, after = in_virtual_time(main)
    alone = closed_loop(8, 8, output_tokens=20, speed=1)[2]
    assert max(before) < min(after)
    assert max(after) > max(before) + max(times[-1] for times in alone) - 5


def test_an_endpoint_of_very_many_replicas_costs_no_more_than_it_is_asked():
    async def main():
        runtime, arrivals = Runtime(Clock(1)), Arrivals()
        await runtime.invoke(deployment("many", count=10**9), request(), arrivals)
        return arrivals.ended

    assert in_virtual_time(main) == "end"


def test_variants_of_an_endpoint_are_different_containers():
    one = deployment("e")
    other = replace(one, variant="Other", env={**ENV, "MAX_CONCURRENT_REQUESTS": "1"})

    async def main():
        runtime = Runtime(Clock(1))
        arrivals = [Arrivals() for _ in range(4)]
        await asyncio.gather(
            *(
                invoked(runtime, e, a)
                for e, a in zip((one, one, other, other), arrivals, strict=True)
            )
        )
        return [b"Model is overloaded" in each.data for each in arrivals]

    assert in_virtual_time(main) == [False, False, False, True]


def test_a_replica_that_has_been_idle_is_as_good_as_new():
    async def main():
        runtime, loop = Runtime(Clock(1), cut="lines"), asyncio.get_running_loop()
        waits = []
        for pause_s in (0, 0.01, 5):
            await asyncio.sleep(pause_s)
            arrivals, sent_s = Arrivals(), loop.time()
            await runtime.invoke(DEPLOYMENTS["llama"], request(), arrivals)
            waits.append([time_s - sent_s for time_s in arrivals.times_s])
        return waits

    first, *others = in_virtual_time(main)
    for other in others:
        assert other == pytest.approx(first)


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


# --- parts


@pytest.mark.parametrize("cut", ["lines", "sometimes", "bytes"])
@pytest.mark.parametrize("name", ["llama", "tgi211", "tgi3", "vllm", "raw"])
def test_however_the_parts_are_cut_the_answer_is_the_same(name, cut):
    body = {"inputs": "Hello", "stream": True, "parameters": {"max_new_tokens": 300}}
    if name != "raw":
        body = asked(model=MODEL, stream=True, max_tokens=300)
    with Local(speed=2000, cut=cut) as local:
        client = local.client()
        got = parts(client, name, body)
        client.close()
    all_lines = [line + b"\n\n" for line in b"".join(got).split(b"\n\n")[:-1]]
    lines = [line for line in all_lines if line != b":\n\n"]  # a machine that lags keeps it alive
    assert len(chunks_of(b"".join(lines))) == len(lines) - lines.count(b"data: [DONE]\n\n")
    if cut == "lines":
        assert got == all_lines
    elif cut == "sometimes":
        assert len(lines) < len(got) < 1.2 * len(all_lines)
    else:
        assert max(map(len, got)) <= 4


def test_by_default_parts_are_cut_now_and_then_the_same_for_the_same_seed():
    def shapes(**options):
        with Local(speed=100, **options) as local:
            client = local.client()
            got = parts(client, "tgi3", asked(stream=True, max_tokens=300))
            client.close()
        return [len(part) for part in got]

    assert shapes() == shapes(seed=0, cut="sometimes") != shapes(seed=1)


def test_the_last_token_and_the_end_mark_are_sometimes_one_part():
    with Local(speed=2000) as local:
        client = local.client()
        ends = [parts(client, "tgi3", asked(stream=True))[-1] for _ in range(12)]
        client.close()
    joined = [end for end in ends if b"finish_reason" in end]
    assert 0 < len(joined) < 12
    assert all(end.endswith(b"data: [DONE]\n\n") for end in joined)


def test_a_cut_delays_no_token():
    async def main():
        times = []
        for cut in ("lines", "sometimes", "bytes"):
            runtime, arrivals = Runtime(Clock(1), cut=cut), Arrivals()
            sent_s = arrivals.loop.time()
            await runtime.invoke(DEPLOYMENTS["llama"], request(output_tokens=100), arrivals)
            times.append([time_s - sent_s for time_s in arrivals.times_s])
        return times

    lines, *others = in_virtual_time(main)
    for other in others:
        assert other == pytest.approx(lines)


def test_another_way_to_cut_is_refused_by_name():
    with pytest.raises(RehearsalError, match="lines, sometimes, bytes, not as 'never'"):
        Runtime(Clock(1), cut="never")


# --- limits and keep-alives


TIMED_OUT = (
    "Your invocation timed out while waiting for a response from container primary. Review the "
    "latency metrics for each container in Amazon CloudWatch, resolve the issue, and try again."
)


def test_a_whole_answer_that_takes_over_a_minute_is_a_424_of_nobody():
    with Local(speed=120) as local:
        client = local.client()
        started_s = time.monotonic()
        error = refusal(client, "slow", asked())
        assert 60 / 120 <= time.monotonic() - started_s < 360 / 120
        assert error["ResponseMetadata"]["HTTPStatusCode"] == 424
        assert error["OriginalStatusCode"] == 0
        assert error["OriginalMessage"] == TIMED_OUT
        assert error["Error"]["Message"].startswith(
            f'Received server error (0) from primary with message "{TIMED_OUT}". See https://'
        )
        client.close()


def test_a_stream_that_takes_over_eight_minutes_breaks_off_in_the_stream():
    with Local(speed=6000) as local:
        client = local.client()
        started_s = time.monotonic()
        data, error = read(stream(client, "slow", asked(stream=True, max_tokens=600)))
        assert 480 / 6000 <= time.monotonic() - started_s < 10
        assert error.response["Error"]["Code"] == "ModelStreamError"
        assert "within the timeout period allowed by Amazon SageMaker" in str(error)
        assert 150 < len(chunks_of(data)) < 300
        assert local.openai("llama", asked())[0] == 200
        client.close()


def test_the_exception_of_a_stream_names_its_error_code():
    arrivals = answer(deployed="slow", output_tokens=600)
    assert b'"ErrorCode":"ModelInvocationTimeExceeded"' in arrivals.writes[-1]
    assert (arrivals.ended, arrivals.ended_s) == ("end", pytest.approx(480))


@pytest.mark.parametrize(
    ("route", "streams", "limit_s", "ended", "status"),
    [
        ("invocations", False, 60, "whole", 424),
        ("invocations", True, 60, "whole", 424),
        ("invocations-response-stream", False, 480, "whole", 424),
        ("invocations-response-stream", True, 480, "end", 200),
        ("openai/v1/chat/completions", False, 60, "whole", 424),
        ("openai/v1/chat/completions", True, 480, "abort", 200),
    ],
)
def test_every_route_has_its_limit_in_aws_time(route, streams, limit_s, ended, status):
    arrivals = answer(deployed="slow", speed=60, output_tokens=600, route=route, stream=streams)
    assert (arrivals.ended, arrivals.status) == (ended, status)
    assert arrivals.ended_s == pytest.approx(limit_s / 60)


def test_an_answer_that_was_given_up_frees_its_slot():
    async def main():
        runtime, given_up, following = Runtime(Clock(1)), Arrivals(), Arrivals()
        slow = deployment("slow", **SLOW, HF_BATCH_SIZE="1", MAX_BATCH_SIZE="1")
        tasks = [invoked(runtime, slow, given_up, output_tokens=600, route="invocations")]
        await asyncio.sleep(1)
        tasks += [invoked(runtime, slow, following, output_tokens=2)]
        await asyncio.gather(*tasks)
        return following.times_s[0]

    assert 60 < in_virtual_time(main) < 110


def test_a_machine_that_is_too_slow_for_the_speed_costs_no_request_its_answer():
    # 50 ms is all of three minutes here: answer and limit are due at the same moment.
    late = answer(speed=3600, resolution_s=0.05, output_tokens=500, route="invocations")
    assert (late.status, late.ended_s) == (200, pytest.approx(0.05))


def test_a_client_that_left_is_not_timed_out():
    async def main():
        runtime, arrivals = Runtime(Clock(1)), Arrivals()
        task = invoked(runtime, DEPLOYMENTS["slow"], arrivals, route="invocations")
        await asyncio.sleep(1)
        arrivals.leave()
        await task
        await asyncio.sleep(100)
        return arrivals.status

    assert in_virtual_time(main) is None


def silent(deployed, **options):
    """When keep-alives came, of a stream that waits for its turn and then takes it."""

    async def main():
        runtime = Runtime(Clock(1), cut="lines")
        arrivals = [Arrivals() for _ in range(5)]
        await asyncio.gather(
            *(
                invoked(runtime, DEPLOYMENTS[deployed], each, number=n, **options)
                for n, each in enumerate(arrivals)
            )
        )
        return [each.keep_alives_s for each in arrivals], arrivals[-1]

    return in_virtual_time(main)


@pytest.mark.parametrize("name", ["llama", "tgi211", "tgi3"])
def test_a_silent_stream_of_tgi_brings_a_comment_every_15_seconds(name):
    keep_alives, waited = silent(name, output_tokens=800)
    assert waited.times_s[0] > 24
    assert keep_alives[-1] == pytest.approx([15] if waited.times_s[0] < 30 else [15, 30])
    assert not any(keep_alives[:-1])
    assert waited.data.startswith(Arrivals.KEEP_ALIVES[1])


def test_a_silent_stream_of_vllm_stays_silent():
    assert not any(silent("vllm", output_tokens=800, model=MODEL)[0])


def test_a_keep_alive_is_a_line_on_the_openai_route_too():
    _, waited = silent("llama", output_tokens=800, route="openai/v1/chat/completions")
    assert waited.writes[0] == b":\n\n"


def test_a_stream_whose_tokens_come_far_apart_is_kept_alive_between_them():
    slower = {"machine": "inf2.xlarge", "HF_MODEL_ID": "nobody/Slow-2800B"}  # 19 s a token

    async def main():
        runtime, arrivals = Runtime(Clock(1), cut="lines"), Arrivals()
        await invoked(runtime, deployment("slower", **slower), arrivals, output_tokens=2)
        return arrivals

    arrivals = in_virtual_time(main)
    assert len(arrivals.keep_alives_s) >= 30


# --- endpoints that go away


def test_a_deleted_endpoint_breaks_off_what_it_is_answering():
    routes = (
        ("invocations-response-stream", True, "end", 200),
        ("invocations", False, "whole", 503),
        ("openai/v1/chat/completions", True, "abort", 200),
        ("openai/v1/chat/completions", False, "whole", 503),
    )

    async def main():
        runtime = Runtime(Clock(1))
        arrivals = [Arrivals() for _ in routes]
        tasks = [
            invoked(runtime, DEPLOYMENTS["llama"], each, route=route, stream=streams)
            for each, (route, streams, *_) in zip(arrivals, routes, strict=True)
        ]
        await asyncio.sleep(2)
        runtime.forget("llama")
        await asyncio.gather(*tasks)
        return arrivals

    arrivals = in_virtual_time(main)
    assert [(each.ended, each.status) for each in arrivals] == [route[2:] for route in routes]
    assert b'"ErrorCode":"StreamBroken"' in arrivals[0].writes[-1]
    assert all(each.ended_s == 2 for each in arrivals)


def test_what_an_update_replaces_may_end_what_it_has_begun():
    async def main():
        runtime, arrivals = Runtime(Clock(1), cut="lines"), Arrivals()
        task = invoked(runtime, DEPLOYMENTS["llama"], arrivals)
        await asyncio.sleep(1)
        runtime.forget("llama", drain=True)
        await task
        return arrivals

    arrivals = in_virtual_time(main)
    assert arrivals.ended == "end"
    assert len(arrivals.times_s) == 20


def test_forgetting_what_was_never_asked_does_nothing():
    Runtime(Clock(1)).forget("nobody")


# --- the meter


class Counted:
    def __init__(self):
        self.begun_names, self.endings = [], []

    def begun(self, deployment):
        self.begun_names.append(deployment.name)

    def ended(self, deployment, **figures):
        assert deployment.name in self.begun_names
        self.endings.append(figures)


def metered(deployed, **options):
    counted = Counted()

    async def main():
        runtime = Runtime(Clock(60), meter=counted)
        await invoked(runtime, DEPLOYMENTS[deployed], Arrivals(), **options)

    in_virtual_time(main)
    (ending,) = counted.endings
    return ending


@pytest.mark.parametrize("route", ["invocations", "invocations-response-stream"])
def test_the_meter_is_told_how_long_the_container_took_in_aws_time(route):
    ending = metered("llama", output_tokens=50, route=route)
    assert ending["status"] == 200
    assert ending["model_latency_s"] == pytest.approx(1.2 + 49 * 0.0398)
    assert ending["overhead_s"] == 0  # virtual time does not pass while a request is read


@pytest.mark.parametrize(
    ("deployed", "more", "status"),
    [
        ("llama", {"top_p": 1.0}, 422),
        ("llama", {"max_tokens": "x"}, 422),
        ("slow", {"route": "invocations", "output_tokens": 600}, 0),
    ],
)
def test_the_meter_is_told_what_the_container_said(deployed, more, status):
    assert metered(deployed, **more)["status"] == status


def test_a_client_that_hangs_up_frees_its_slots_over_http():
    with Local(speed=2) as local:
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
        # 500 tokens would have been 20 s at this endpoint, 10 s here.
        assert time.monotonic() - started_s < 8
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
