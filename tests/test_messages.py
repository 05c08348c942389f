"""Talking to the endpoint: bytes to text, calls, errors, the OpenAI route."""

import base64
import json
import threading
import time
from types import SimpleNamespace
from urllib.parse import parse_qs

import boto3
import deployed
import pytest
from deployed import NAME
from huggingface_hub import InferenceClient
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedEndpoint, exception, part

from helpers import messages
from helpers.errors import InvocationError
from helpers.messages import SSEDecoder, Usage, parse_chunk

TEXT = 'Grüß Gott, "世界" 👋\nend'
HELLO = [{"role": "user", "content": "Hello"}]


def chunk_2_0_2(content=None, finish=None):
    return {
        "id": "",
        "object": "text_completion",
        "created": 1716300000,
        "model": "tgi",
        "system_fingerprint": "2.0.2-native",
        "choices": [
            {
                "index": 0,
                "delta": {} if content is None else {"role": "assistant", "content": content},
                "logprobs": None,
                "finish_reason": finish,
            }
        ],
    }


def chunk(content, finish=None, role="assistant", **more):
    delta = {"content": content} if role is None else {"role": role, "content": content}
    return {
        "id": "x",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }


def raw(text, *, special=False, **more):
    token = {"id": 1, "text": text, "logprob": -0.1, "special": special}
    return {"index": 1, "token": token, "generated_text": None, "details": None, **more}


def lines(*objects, space=b" ", done=False, comment=b""):
    """Objects as a container writes them: compact JSON, UTF-8 as it is."""
    said = [json.dumps(each, ensure_ascii=False).encode() for each in objects]
    said += [b"[DONE]"] if done else []
    return comment + b"".join(b"data:" + space + each + b"\n\n" for each in said)


PIECES = ["Grüß", " Gott,", ' "世', "", "界", '" 👋', "\nend"]
USAGE = {"prompt_tokens": 31, "completion_tokens": 8, "total_tokens": 39}

DIALECTS = {
    "tgi-2.0.2": lines(
        *map(chunk_2_0_2, PIECES), chunk_2_0_2(None, "eos_token"), space=b"", comment=b":\n\n"
    ),
    "tgi-2.1.1": lines(*map(chunk, PIECES), chunk("", "eos_token"), space=b""),
    "tgi-3": lines(
        *map(chunk, PIECES),
        chunk("", "stop"),
        {"object": "chat.completion.chunk", "choices": [], "usage": USAGE},
        done=True,
        comment=b": keep-alive\n\n",
    ),
    "vllm": lines(
        chunk(""),
        *(chunk(piece, role=None, usage=None) for piece in PIECES),
        chunk("", "stop", role=None),
        {"object": "chat.completion.chunk", "choices": [], "usage": USAGE},
        done=True,
    ),
    "raw-tgi": lines(
        *map(raw, PIECES),
        raw(
            "<|eot_id|>",
            special=True,
            generated_text=TEXT,
            details={"finish_reason": "eos_token", "generated_tokens": 8, "seed": None},
        ),
        space=b"",
    ),
}


def decoded(parts):
    decoder = SSEDecoder()
    return [payload for each in parts for payload in decoder.feed(each)] + decoder.close()


def text_of(parts):
    return "".join(parse_chunk(payload).text for payload in decoded(parts))


# --- bytes to payloads ---------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_says_the_same_wherever_it_is_cut(dialect):
    stream = DIALECTS[dialect]
    whole = decoded([stream])
    assert text_of([stream]) == TEXT
    for position in range(len(stream) + 1):
        assert decoded([stream[:position], stream[position:]]) == whole


@given(
    dialect=st.sampled_from(sorted(DIALECTS)),
    cuts=st.lists(st.floats(0, 1), max_size=30),
    newline=st.sampled_from([b"\n", b"\r\n"]),
)
def test_a_stream_in_any_slices_with_any_newline_says_the_same(dialect, cuts, newline):
    stream = DIALECTS[dialect].replace(b"\n", newline)
    edges = sorted(int(cut * len(stream)) for cut in cuts)
    edges = [0, *edges, len(stream)]
    assert text_of(stream[a:b] for a, b in zip(edges, edges[1:], strict=False)) == TEXT


@given(st.lists(st.text(), max_size=20), st.integers(1, 40))
def test_any_text_survives_json_sse_and_slices(pieces, size):
    stream = lines(*map(chunk, pieces))
    slices = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert text_of(slices) == "".join(pieces)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_raising(data):
    for payload in decoded([data, b"\n", b"data:" + data]):
        parse_chunk(payload)


def test_a_payload_is_handed_out_as_soon_as_its_line_ends():
    decoder = SSEDecoder()
    assert decoder.feed(b'data: {"a"') == []
    assert decoder.feed(b": 1}\n") == ['{"a": 1}']
    assert decoder.close() == []


def test_a_last_line_without_a_newline_is_not_lost():
    decoder = SSEDecoder()
    assert decoder.feed(b"data:[DONE]") == []
    assert decoder.close() == ["[DONE]"]
    assert decoder.close() == []


def test_comments_other_fields_and_empty_data_are_no_payloads():
    assert decoded([b": ping\n\nevent: x\nid: 3\nretry: 5\ndata:\ndata: \n\ndata:1\n"]) == ["1"]


# --- payloads to chunks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "finish"),
    [
        ("tgi-2.0.2", "eos_token"),
        ("tgi-2.1.1", "eos_token"),
        ("tgi-3", "stop"),
        ("vllm", "stop"),
        ("raw-tgi", "eos_token"),
    ],
)
def test_each_dialect_tells_why_it_ended(dialect, finish):
    reasons = [parse_chunk(payload).finish_reason for payload in decoded([DIALECTS[dialect]])]
    assert [reason for reason in reasons if reason] == [finish]


def test_a_special_token_chunk_without_content_is_no_text():
    assert parse_chunk(json.dumps(chunk_2_0_2(None, "eos_token"))).text == ""


def test_done_is_told_apart():
    assert parse_chunk("[DONE]").is_done
    assert not parse_chunk(json.dumps(chunk("x"))).is_done


def test_usage_is_read_where_it_is_sent_and_zero_prompt_tokens_mean_unknown():
    last = {"choices": [], "usage": USAGE}
    assert parse_chunk(json.dumps(last)).usage == Usage(31, 8)
    neuron = {"choices": [], "usage": USAGE | {"prompt_tokens": 0}}
    assert parse_chunk(json.dumps(neuron)).usage == Usage(None, 8)
    details = {"finish_reason": "length", "generated_tokens": 150, "input_length": 31}
    assert parse_chunk(json.dumps(raw("x", details=details))).usage == Usage(31, 150)
    assert parse_chunk(json.dumps(chunk("x"))).usage is None


@pytest.mark.parametrize(
    ("payload", "kind", "status", "words"),
    [
        (
            {"error": "Input validation error: x", "error_type": "validation"},
            "validation",
            422,
            "x",
        ),
        ({"error": "Model is overloaded", "error_type": "overloaded"}, "overloaded", 429, "Model"),
        ({"error": "boom", "error_type": "generation"}, "generation", 424, "boom"),
        ({"error": "half", "error_type": "incomplete_generation"}, "incomplete", 500, "half"),
        ({"error": {"message": "long", "http_status_code": 422}}, "validation", 422, "long"),
        (
            {"error": {"message": "m", "type": "BadRequestError", "code": 400}},
            "validation",
            400,
            "m",
        ),
        ({"object": "error", "message": "old vLLM", "code": 400}, "validation", 400, "old vLLM"),
        ({"error": "who knows"}, "container", None, "who knows"),
    ],
)
def test_each_containers_error_is_understood(payload, kind, status, words):
    fault = parse_chunk(json.dumps(payload)).error
    assert (fault.kind, fault.status) == (kind, status)
    assert words in fault.message


@pytest.mark.parametrize(
    "payload",
    ['{"choices": [{"del', "[1]", "3", '{"x": 1}', '{"choices": [3]}', "[" * 100_000, "{} {}"],
)
def test_what_is_no_chunk_is_an_error_and_not_an_exception(payload):
    assert parse_chunk(payload).error.kind == "unreadable"


# --- calls ---------------------------------------------------------------------------------------


@pytest.fixture
def scripted():
    endpoint = ScriptedEndpoint()
    yield endpoint
    endpoint.close()


def whole_reply(content="Hello!", prompt_tokens=0):
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 3, "total_tokens": 3}
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "eos_token"}
    return json.dumps(
        {"id": "", "object": "text_completion", "choices": [choice], "usage": usage}
    ).encode()


def test_a_whole_reply_has_text_reason_and_counts(scripted):
    scripted.will_answer(whole_reply(TEXT))
    reply = messages.chat(scripted.client(), "e", HELLO)
    assert (reply.text, reply.finish_reason) == (TEXT, "eos_token")
    assert (reply.prompt_tokens, reply.output_tokens) == (None, 3)
    assert reply.raw["object"] == "text_completion"


def test_what_is_given_is_sent_and_what_is_not_is_left_to_the_container(scripted):
    scripted.will_answer(whole_reply())
    scripted.will_answer(whole_reply())
    client = scripted.client()
    messages.chat(client, "e", HELLO)
    messages.chat(
        client, "e", HELLO, model="m", max_tokens=7, temperature=0.5, top_p=0.9, stop="END"
    )
    plain, full = scripted.bodies
    assert plain == {"messages": HELLO, "model": "tgi", "max_tokens": 512, "stream": False}
    assert full == plain | {
        "model": "m",
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
    }


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name != "raw-tgi"])
def test_a_streamed_reply_arrives_whole_in_parts_of_seven_bytes(scripted, dialect):
    stream = DIALECTS[dialect]
    scripted.will_stream(*(part(stream[at : at + 7]) for at in range(0, len(stream), 7)))
    reply = messages.stream(scripted.client(), "e", HELLO)
    assert "".join(reply) == reply.text == TEXT
    assert reply.finish_reason
    assert reply.output_tokens == (8 if b"usage" in stream and b"31" in stream else 6)
    assert scripted.bodies[0]["stream"] is True


def test_several_lines_in_one_part_are_several_pieces(scripted):
    scripted.will_stream(part(lines(chunk("a"), chunk("b"), chunk("c", "stop"))))
    assert list(messages.stream(scripted.client(), "e", HELLO)) == ["a", "b", "c"]


def test_the_connection_is_used_again_after_a_stream(scripted):
    client = scripted.client()
    for _ in range(2):
        scripted.will_stream(part(DIALECTS["tgi-3"]))
        with messages.stream(client, "e", HELLO) as reply:
            assert "".join(reply) == TEXT


def test_closing_a_stream_ends_the_request_upstream(scripted):
    scripted.will_stream(part(lines(chunk("a"))), ending="hang")
    with messages.stream(scripted.client(), "e", HELLO) as reply:
        assert next(reply) == "a"
    assert scripted.gone.wait(30)
    assert list(reply) == []
    assert (reply.text, reply.finish_reason) == ("a", None)


def test_a_stream_that_waits_can_be_closed_from_another_thread(scripted):
    scripted.will_stream(part(lines(chunk("a"))), ending="hang")
    reply = messages.stream(scripted.client(), "e", HELLO)
    threading.Timer(0.2, reply.close).start()
    started = time.monotonic()
    assert list(reply) == ["a"]
    assert time.monotonic() - started < 5
    assert scripted.gone.wait(30)


@pytest.mark.parametrize(
    ("conversation", "words"),
    [
        ([], "at least one"),
        ("Hello", "messages is a list"),
        ({"role": "user", "content": "x"}, "messages is a list"),
        ([{"role": "bot", "content": "x"}], "'bot'"),
        (["Hello"], "messages[0]"),
        ([*HELLO, {"role": "user"}], "messages[1] has no text"),
    ],
)
def test_a_malformed_conversation_is_refused_before_it_is_sent(conversation, words):
    with pytest.raises(InvocationError) as caught:
        messages.request_body(conversation)
    assert words in str(caught.value)
    assert caught.value.kind == "request"


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "message", "kind", "advice"),
    [
        (400, "ThrottlingException", "Rate exceeded", "throttled", "wait a few seconds"),
        (400, "ValidationError", "Endpoint e of account 1 not found.", "not_found", "03_deploy"),
        (400, "ValidationError", "Body too large", "request", "Body too large"),
        (403, "ExpiredTokenException", "The token is expired", "credentials", "sign in again"),
        (403, "AccessDeniedException", "not authorized", "denied", "lacks this right"),
        (429, "ModelNotReadyException", "loading", "not_ready", "not ready"),
        (503, "ServiceUnavailable", "try later", "service", "try again"),
    ],
)
def test_what_sagemaker_refuses_is_one_sentence_with_what_to_do(
    scripted, status, code, message, kind, advice
):
    scripted.will_refuse(status, code, message)
    with pytest.raises(InvocationError) as caught:
        messages.chat(scripted.client(), "e", HELLO)
    assert caught.value.kind == kind
    assert caught.value.status == status
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "original", "kind", "words"),
    [
        (422, '{"error":"too long","error_type":"validation"}', "validation", "too long"),
        (
            429,
            '{"error":"Model is overloaded","error_type":"overloaded"}',
            "overloaded",
            "Model is overloaded",
        ),
        (424, '{"error":{"message":"NaN","http_status_code":424}}', "generation", "NaN"),
        (500, "a traceback", "container", "a traceback"),
    ],
)
def test_what_the_container_refuses_is_said_in_its_own_words(
    scripted, status, original, kind, words
):
    scripted.will_refuse(
        424,
        "ModelError",
        f"Received client error ({status}) from primary",
        OriginalStatusCode=status,
        OriginalMessage=original,
        LogStreamArn="arn:aws:logs:…",
    )
    with pytest.raises(InvocationError) as caught:
        messages.stream(scripted.client(), "e", HELLO)
    error = caught.value
    assert (error.kind, error.status, error.original_status) == (kind, 424, status)
    assert error.original_message == words
    assert words in str(error)


def test_sagemakers_own_time_limit_advises_to_stream(scripted):
    words = "Received server error (0) from primary with message: Your invocation timed out"
    scripted.will_refuse(424, "ModelError", words, OriginalStatusCode=0, OriginalMessage="")
    with pytest.raises(InvocationError, match="stream it") as caught:
        messages.chat(scripted.client(), "e", HELLO)
    assert caught.value.kind == "timeout"


def test_the_clients_own_time_limit_is_a_timeout_too(scripted):
    scripted.will_answer(whole_reply(), after_s=1)
    with pytest.raises(InvocationError) as caught:
        messages.chat(scripted.client(read_timeout=0.2), "e", HELLO)
    assert caught.value.kind == "timeout"


def test_a_stream_that_falls_silent_times_out_and_keeps_its_text(scripted):
    scripted.will_stream(part(lines(chunk("so far"))), ending="hang")
    reply = messages.stream(scripted.client(read_timeout=0.2), "e", HELLO)
    with pytest.raises(InvocationError) as caught:
        list(reply)
    assert (caught.value.kind, caught.value.partial) == ("timeout", "so far")


def test_an_error_inside_a_stream_keeps_the_text_before_it(scripted):
    error = {"error": "Request failed during generation: x", "error_type": "generation"}
    scripted.will_stream(part(lines(chunk_2_0_2("so far"), error, space=b"")))
    reply = messages.stream(scripted.client(), "e", HELLO)
    with pytest.raises(InvocationError, match="during generation") as caught:
        list(reply)
    assert (caught.value.kind, caught.value.partial) == ("generation", "so far")
    assert caught.value.original_status == 424


@pytest.mark.parametrize(
    ("messages_", "ending", "kind"),
    [
        ([exception("ModelStreamError", Message="StreamBroken")], "end", "broken"),
        ([exception("InternalStreamFailure", Message="oops")], "end", "broken"),
        (
            [exception("ModelStreamError", Message="ModelInvocationTimeExceeded: 480 s")],
            "end",
            "timeout",
        ),
        ([part(b"data:")[:-1] + b"\0"], "end", "broken"),
        ([], "end", "broken"),
        ([], "reset", "broken"),
    ],
    ids=["model-stream-error", "internal", "time-exceeded", "bad-crc", "no-end", "reset"],
)
def test_a_stream_that_breaks_says_so_and_keeps_its_text(scripted, messages_, ending, kind):
    scripted.will_stream(part(lines(chunk("so far"))), *messages_, ending=ending)
    reply = messages.stream(scripted.client(), "e", HELLO)
    with pytest.raises(InvocationError) as caught:
        list(reply)
    assert (caught.value.kind, caught.value.partial) == (kind, "so far")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"generated_text": "x"}', b'{"choices": []}'])
def test_a_reply_that_is_no_chat_reply_asks_for_the_messages_api(scripted, body):
    scripted.will_answer(body)
    with pytest.raises(InvocationError, match="MESSAGES_API_ENABLED") as caught:
        messages.chat(scripted.client(), "e", HELLO)
    assert caught.value.kind == "unreadable"


def test_an_error_with_status_200_is_an_error(scripted):
    scripted.will_answer(b'{"error": "no", "error_type": "validation"}')
    with pytest.raises(InvocationError) as caught:
        messages.chat(scripted.client(), "e", HELLO)
    assert (caught.value.kind, caught.value.original_status) == ("validation", 422)


def test_nobody_listening_is_a_network_error(scripted):
    client = scripted.client()
    scripted.close()
    with pytest.raises(InvocationError) as caught:
        messages.chat(client, "e", HELLO)
    assert caught.value.kind == "network"


def test_a_name_that_boto3_refuses_is_a_request_error(scripted):
    with pytest.raises(InvocationError) as caught:
        messages.chat(scripted.client(), None, HELLO)
    assert caught.value.kind == "request"


def test_no_credentials_is_said_as_such(scripted, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.session.Session().client(
        "sagemaker-runtime", region_name="us-east-1", endpoint_url=scripted.url
    )
    with pytest.raises(InvocationError, match="sign in") as caught:
        messages.chat(client, "e", HELLO)
    assert caught.value.kind == "credentials"


# --- the OpenAI route ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "host"),
    [
        (None, "https://runtime.sagemaker.eu-west-1.amazonaws.com"),
        ("http://127.0.0.1:4566/", "http://127.0.0.1:4566"),
    ],
)
def test_the_openai_url_is_where_the_session_calls(address, host, monkeypatch):
    client = boto3.client("sagemaker-runtime", region_name="eu-west-1", endpoint_url=address)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://set-since")
    url = messages.openai_url(SimpleNamespace(client=lambda service: client), "e")
    assert url == f"{host}/endpoints/e/openai/v1"


def signed_in(**keys):
    return SimpleNamespace(
        boto=boto3.session.Session(
            aws_access_key_id="AKIDEXAMPLE",
            aws_secret_access_key="very-secret",
            aws_session_token="session",
            region_name="us-west-2",
        ),
        region="us-west-2",
    )


def test_a_bearer_token_is_a_signed_url_without_the_secret():
    token = messages.bearer_token(signed_in(), expires_s=900)
    assert token.startswith("sagemaker-api-key-")
    url = base64.b64decode(token.removeprefix("sagemaker-api-key-")).decode()
    host, _, query = url.partition("/?")
    assert host == "sagemaker.amazonaws.com"
    fields = parse_qs(query)
    assert fields["Action"] == ["CallWithBearerToken"]
    assert fields["X-Amz-Expires"] == ["900"]
    assert fields["Version"] == ["1"]
    assert "/us-west-2/sagemaker/aws4_request" in fields["X-Amz-Credential"][0]
    assert "very-secret" not in url


@pytest.mark.parametrize("expires_s", [0, 43201])
def test_a_bearer_token_beyond_twelve_hours_is_refused(expires_s):
    with pytest.raises(InvocationError, match="43200"):
        messages.bearer_token(signed_in(), expires_s=expires_s)


def test_a_bearer_token_needs_credentials():
    nobody = SimpleNamespace(boto=SimpleNamespace(get_credentials=lambda: None), region="us-west-2")
    with pytest.raises(InvocationError, match="sign in") as caught:
        messages.bearer_token(nobody)
    assert caught.value.kind == "credentials"


# --- against the rehearsal -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    with deployed.rehearsal(tmp_path_factory.mktemp("rehearsal")) as here:
        yield here


@pytest.fixture(scope="module")
def runtime(rehearsal):
    return rehearsal.client("sagemaker-runtime", retries={"total_max_attempts": 1})


def test_the_rehearsal_gives_a_whole_reply_of_the_asked_length(runtime):
    reply = messages.chat(runtime, NAME, HELLO, max_tokens=20)
    assert "rehearsal" in reply.text.lower()
    assert (reply.finish_reason, reply.output_tokens) == ("length", 20)
    assert reply.prompt_tokens is None  # TGI 2.0.2 on Neuron says 0


def test_the_rehearsal_streams_what_it_answers_as_a_whole(runtime):
    whole = messages.chat(runtime, NAME, HELLO, max_tokens=60)
    reply = messages.stream(runtime, NAME, HELLO, max_tokens=60)
    assert "".join(reply) == whole.text
    assert (reply.finish_reason, reply.output_tokens) == ("length", 60)


def test_a_reply_that_ends_by_itself_has_another_reason(runtime):
    reply = messages.stream(runtime, NAME, HELLO, max_tokens=3000)
    assert len(list(reply)) == reply.output_tokens < 3000
    assert reply.finish_reason == "eos_token"


def test_the_rehearsal_refuses_in_the_containers_words(runtime):
    with pytest.raises(InvocationError, match="top_p") as caught:
        messages.chat(runtime, NAME, HELLO, top_p=1.0)
    error = caught.value
    assert (error.kind, error.status, error.original_status) == ("validation", 424, 422)


def test_tgi_refuses_a_stream_inside_the_stream(runtime):
    reply = messages.stream(runtime, NAME, HELLO, top_p=1.0)
    with pytest.raises(InvocationError, match="top_p") as caught:
        list(reply)
    assert (caught.value.kind, caught.value.original_status) == ("validation", 422)


def test_an_endpoint_that_is_not_there_says_which_notebook_makes_it(runtime):
    with pytest.raises(InvocationError, match="03_deploy_endpoint") as caught:
        messages.chat(runtime, "inf2-workshop-nowhere", HELLO)
    assert caught.value.kind == "not_found"


def test_any_openai_client_can_use_the_openai_route(rehearsal):
    url = messages.openai_url(rehearsal, NAME)
    client = InferenceClient(base_url=url, api_key=messages.bearer_token(rehearsal))
    whole = client.chat_completion(HELLO, model="tgi", max_tokens=20)
    assert "rehearsal" in whole.choices[0].message.content.lower()
    pieces = client.chat_completion(HELLO, model="tgi", max_tokens=20, stream=True)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == whole.choices[0].message.content


@pytest.mark.parametrize("count", ["12", [1], {}, -100, 3.5, True, 10**18, None])
def test_what_is_no_number_of_tokens_counts_nothing(count):
    usage = {"prompt_tokens": count, "completion_tokens": count}
    chunk = parse_chunk(json.dumps({"choices": [], "usage": usage}))
    assert (chunk.usage.prompt_tokens, chunk.usage.output_tokens) == (None, None)


@pytest.mark.parametrize("code", ["ModelError", "ThrottlingException", "ValidationError"])
def test_others_words_are_shown_without_secrets_and_not_endlessly(code):
    scripted = ScriptedEndpoint()
    words = "The key hf_AbCdEfGhIjKlMnOp is wrong. " + "x" * 2_000_000
    scripted.will_refuse(400, code, words, OriginalMessage=words, OriginalStatusCode=400)
    with pytest.raises(InvocationError) as caught:
        messages.chat(scripted.client(), "e", HELLO)
    scripted.close()
    shown = f"{caught.value} {caught.value.original_message}"
    assert "The key *** is wrong." in shown and "hf_" not in shown
    assert len(shown) < 2000
