import json
import random
from functools import cache

import pytest
from botocore.eventstream import ChecksumMismatch, EventStream, EventStreamBuffer
from botocore.exceptions import EventStreamError
from botocore.parsers import EventStreamJSONParser
from botocore.session import get_session
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import messages
from helpers.errors import RehearsalError
from helpers.rehearsal.container import cuts, text, wire

OPERATION = "InvokeEndpointWithResponseStream"


@cache
def body_shape():
    model = get_session().get_service_model("sagemaker-runtime")
    return model.operation_model(OPERATION).output_shape.members["Body"]


def parsed(chunks):
    """The events of a body, as boto3 hands them to its user."""

    class Raw:
        def stream(self, **_):
            return iter(chunks)

        def close(self):
            pass

    return list(EventStream(Raw(), body_shape(), EventStreamJSONParser(), OPERATION))


def data_of(lines):
    """The JSON of SSE lines."""
    return [json.loads(line.strip().partition(b":")[2]) for line in lines]


def stream_of(dialect, reply, **more):
    answer = wire.Answer(
        wire.dialect(dialect),
        model="m",
        version="2.0.2",
        output_tokens=reply.output_tokens,
        prompt_tokens=7,
        **more,
    )
    stream = wire.ChatStream(answer)
    return [
        *stream.opening(b"1"),
        *(stream.token(b"1", piece) for piece in reply.pieces[:-1]),
        stream.last(b"1", reply.pieces[-1], reply.finish),
        *stream.closing(b"1"),
    ]


# --- framing


@given(st.lists(st.binary(max_size=400), min_size=1, max_size=8), st.data())
@settings(deadline=None)
def test_botocore_reads_every_payload_however_the_bytes_are_cut(payloads, data):
    body = b"".join(map(wire.payload_part, payloads))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    chunks = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert [event["PayloadPart"]["Bytes"] for event in parsed(chunks)] == payloads


@given(st.binary(max_size=100), st.data())
def test_a_changed_byte_is_noticed_by_its_crc(payload, data):
    message = bytearray(wire.payload_part(payload))
    message[data.draw(st.integers(8, len(message) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    buffer = EventStreamBuffer()
    buffer.add_data(bytes(message))
    with pytest.raises(Exception, match="Checksum mismatch"):
        next(buffer)


def test_a_part_says_that_it_is_an_event_of_bytes():
    buffer = EventStreamBuffer()
    buffer.add_data(wire.payload_part(b"x"))
    assert next(buffer).headers == {
        ":event-type": "PayloadPart",
        ":content-type": "application/octet-stream",
        ":message-type": "event",
    }


def test_a_broken_stream_is_raised_by_botocore_with_its_words():
    body = wire.payload_part(b"x") + wire.exception(
        "ModelStreamError", "It took too long.", error_code="ModelInvocationTimeExceeded"
    )
    with pytest.raises(EventStreamError, match="It took too long") as caught:
        parsed([body])
    assert caught.value.response["Error"]["Code"] == "ModelStreamError"


def test_an_exception_carries_the_members_of_botocores_model():
    buffer = EventStreamBuffer()
    buffer.add_data(wire.exception("ModelStreamError", "Cut.", error_code="StreamBroken"))
    message = next(buffer)
    assert message.headers[":message-type"] == "exception"
    model = get_session().get_service_model("sagemaker-runtime").shape_for("ModelStreamError")
    assert json.loads(message.payload) == dict(
        zip(model.members, ("Cut.", "StreamBroken"), strict=True)
    )


def test_an_internal_failure_has_no_error_code():
    buffer = EventStreamBuffer()
    buffer.add_data(wire.exception("InternalStreamFailure", "Sorry."))
    message = next(buffer)
    assert message.headers[":exception-type"] == "InternalStreamFailure"
    assert json.loads(message.payload) == {"Message": "Sorry."}


def test_a_corrupted_message_is_noticed_and_nothing_else_is_wrong_with_it():
    message = wire.payload_part(b"x")
    broken = wire.corrupted(message)
    assert len(broken) == len(message)
    with pytest.raises(ChecksumMismatch):
        parsed([broken])


# --- a whole answer, cut anywhere


def text_of(payloads):
    """What a reader of ours makes of a body's parts: the text and why it ended."""
    decoder = messages.SSEDecoder()
    read = [payload for part in payloads for payload in decoder.feed(part)] + decoder.close()
    chunks = [messages.parse_chunk(payload) for payload in read]
    assert not any(chunk.error for chunk in chunks)
    reasons = [chunk.finish_reason for chunk in chunks if chunk.finish_reason]
    return "".join(chunk.text for chunk in chunks), reasons


def parts_of(body):
    return [event["PayloadPart"]["Bytes"] for event in parsed([body])]


def answers():
    """A short streamed answer of every dialect, in characters of one to four bytes."""
    pieces = tuple(json.dumps(word, ensure_ascii=False).encode() for word in ("é", "日本", " ☁️🌊"))
    reply = text.Reply((*pieces, None), "é日本 ☁️🌊", "eos")
    for name in wire.DIALECTS:
        yield name, b"".join(stream_of(name, reply, include_usage=True))
    answer = wire.Answer(wire.dialect("tgi-2.0.2"), model="m", version="2")
    own = wire.GenerateStream(answer, text=reply.text, details=False)
    lines = [own.token(b"1", piece) for piece in pieces] + [own.last(b"1", None, "eos")]
    yield "TGI's own", wire.KEEP_ALIVE + wire.KEEP_ALIVE.join(lines)


ANSWERS = dict(answers())


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_cut_in_two_at_any_byte_is_read_as_the_same_text(name):
    body = ANSWERS[name]
    whole, reasons = text_of([body])
    assert whole == "é日本 ☁️🌊"
    assert len(reasons) == 1 or name == "TGI's own"
    for at in range(len(body) + 1):
        parts = [body[:at], body[at:]]
        assert parts_of(b"".join(map(wire.payload_part, parts))) == parts
        assert text_of(parts) == (whole, reasons)


@pytest.mark.parametrize("name", ANSWERS)
@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_an_answer_cut_at_any_bytes_is_read_as_the_same_text(name, data):
    body = ANSWERS[name]
    places = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=60)))
    parts = [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]
    framed = b"".join(map(wire.payload_part, parts))
    assert parts_of(framed) == parts
    assert text_of(parts) == text_of([body])


@pytest.mark.parametrize("policy", cuts.POLICIES)
@given(seed=st.integers(0, 2**32), bodies=st.lists(st.binary(min_size=3), min_size=1, max_size=40))
@settings(deadline=None, max_examples=50)
def test_no_policy_loses_or_moves_a_byte(policy, seed, bodies):
    written = []
    cut = cuts.policy(policy)(written.append, random.Random(seed))
    for line in bodies[:-2]:
        cut.send(line)
    cut.burst(bodies[-2:])
    assert b"".join(parts_of(b"".join(written))) == b"".join(bodies)


# --- dialects


@pytest.mark.parametrize("name", wire.DIALECTS)
@pytest.mark.parametrize("max_tokens", [1, 2, 60, 700])
def test_the_pieces_of_a_stream_make_up_the_whole_reply(name, max_tokens):
    reply = text.reply("hello", max_tokens=max_tokens)
    chunks = data_of(line for line in stream_of(name, reply) if b"[DONE]" not in line)
    content = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert content == reply.text


@pytest.mark.parametrize(
    ("name", "begins", "chunk_object", "special", "eos", "ends"),
    [
        ("tgi-2.0.2", b'data:{"', "text_completion", {}, "eos_token", False),
        (
            "tgi-2.1.1",
            b'data:{"',
            "chat.completion.chunk",
            {"role": "assistant", "content": ""},
            "eos_token",
            False,
        ),
        (
            "tgi-3",
            b'data: {"',
            "chat.completion.chunk",
            {"role": "assistant", "content": ""},
            "stop",
            True,
        ),
        ("vllm", b'data: {"', "chat.completion.chunk", {"content": ""}, "stop", True),
    ],
)
def test_each_dialect_streams_in_its_own_way(name, begins, chunk_object, special, eos, ends):
    lines = stream_of(name, text.reply("hello", max_tokens=700))
    assert (lines[-1] == b"data: [DONE]\n\n") is ends
    lines = lines[:-1] if ends else lines
    assert all(line.startswith(begins) and line.endswith(b"}\n\n") for line in lines)
    chunks = data_of(lines)
    assert {chunk["object"] for chunk in chunks} == {chunk_object}
    last = chunks[-1]["choices"][0]
    assert last["delta"] == special
    assert last["finish_reason"] == eos
    assert {chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]} == {None}


def test_only_vllm_begins_with_a_chunk_that_has_the_role_and_no_text():
    reply = text.reply("hello", max_tokens=5)
    counts = {name: len(data_of(stream_of(name, reply)[:6])) for name in ("tgi-2.0.2", "tgi-2.1.1")}
    assert counts == {"tgi-2.0.2": 5, "tgi-2.1.1": 5}
    first, second = data_of(stream_of("vllm", reply)[:2])
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "role" not in second["choices"][0]["delta"]


@pytest.mark.parametrize("name", ["tgi-2.0.2", "tgi-2.1.1"])
def test_an_old_container_streams_no_usage_even_when_asked(name):
    lines = stream_of(name, text.reply("hello", max_tokens=5), include_usage=True)
    assert all("usage" not in chunk for chunk in data_of(lines))


@pytest.mark.parametrize("name", ["tgi-3", "vllm"])
def test_a_new_container_ends_with_its_usage_when_asked(name):
    lines = stream_of(name, text.reply("hello", max_tokens=5), include_usage=True)
    usage = data_of(lines[-2:-1])[0]
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("tgi-2.0.2", {"error": "no", "error_type": "validation"}),
        ("tgi-3", {"error": {"message": "no", "http_status_code": 422}}),
        (
            "vllm",
            {"error": {"message": "no", "type": "validation", "param": None, "code": 422}},
        ),
    ],
)
def test_each_dialect_has_its_own_error_in_a_stream(name, error):
    line = wire.error_line(wire.dialect(name), 422, "no", "validation")
    assert data_of([line]) == [error]


@given(st.text())
def test_no_name_of_a_model_can_break_a_line(model):
    answer = wire.Answer(wire.dialect("tgi-2.0.2"), model=model.replace("\ud800", ""), version="2")
    stream = wire.ChatStream(answer)
    for line in (stream.token(b"12", b'"word"'), stream.last(b"12", b'"word"', "length")):
        (chunk,) = data_of([line])
        assert chunk["model"] == answer.model
        assert chunk["created"] == 12
        assert chunk["choices"][0]["delta"]["content"] == "word"


def test_a_dialect_that_nobody_speaks_is_named():
    with pytest.raises(RehearsalError, match=r"'tgi-9'.*tgi-2.0.2"):
        wire.dialect("tgi-9")


# --- text


def test_the_same_question_always_has_the_same_reply():
    assert text.reply(["a", 1], max_tokens=50) == text.reply(["a", 1], max_tokens=50)


def test_another_question_or_seed_has_another_reply():
    replies = {text.reply(q, max_tokens=80, seed=s).text for q in "abc" for s in (0, 1)}
    assert len(replies) == 6


@pytest.mark.parametrize("max_tokens", [1, 7, 150, 512])
def test_a_reply_is_exactly_as_long_as_asked(max_tokens):
    reply = text.reply("hello", max_tokens=max_tokens)
    assert reply.output_tokens == max_tokens
    assert reply.finish == "length"


def test_a_reply_that_may_be_very_long_ends_by_itself():
    for question in range(20):
        reply = text.reply(question, max_tokens=4000)
        assert reply.finish == "eos"
        assert reply.pieces[-1] is None
        assert 513 <= reply.output_tokens <= 640


def test_every_reply_says_at_once_and_again_that_it_is_a_rehearsal():
    for question in range(50):
        assert "rehearsal" in text.reply(question, max_tokens=10).text.lower()
        assert text.reply(question, max_tokens=500).text.lower().count("rehearsal") >= 3


def test_a_reply_has_markdown_and_characters_of_many_bytes():
    whole = text.reply("hello", max_tokens=500).text
    assert len(whole.encode()) > len(whole)
    assert "**" in whole or "### " in whole


def test_a_stop_text_ends_the_reply_behind_it():
    free = text.reply("hello", max_tokens=100).text
    stop = free[30:40]
    reply = text.reply("hello", max_tokens=100, stop=["no such text", stop])
    assert reply.finish == "stop"
    assert free.startswith(reply.text)
    assert stop in reply.text
    assert stop not in "".join(map(json.loads, reply.pieces[:-1]))


def test_a_stop_text_that_never_comes_changes_nothing():
    stopped = text.reply("hello", max_tokens=100, stop=["no such text"])
    assert stopped == text.reply("hello", max_tokens=100)


def test_a_prompt_of_n_short_words_has_about_n_tokens():
    prompt = " ".join(["river"] * 550)
    assert text.count(prompt) == 550
    assert 550 < text.prompt_tokens([{"role": "user", "content": prompt}]) < 570
