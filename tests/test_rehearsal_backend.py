"""A real server behind the rehearsal: what is taken over, and what stays the container's."""

import contextlib
import itertools
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from invoking import (
    MODEL,
    Local,
    asked,
    chunks_of,
    content,
    invoke,
    parts,
    read,
    stream,
    whole,
)

from helpers import messages
from helpers.errors import RehearsalError
from helpers.rehearsal.container.backend import Backend
from helpers.rehearsal.faults import Faults


def piece(text=None, finish=None, **more):
    """A chunk as vLLM, llama.cpp and others send it."""
    delta = {} if text is None else {"content": text}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


WORDS = ["Hé", "llo", " 日本", " ☁️"]
ANSWER = [
    piece(""),
    *map(piece, WORDS),
    piece(finish="stop"),
    {"choices": [], "usage": {"prompt_tokens": 31, "completion_tokens": 5, "total_tokens": 36}},
]


class Model:
    """A small OpenAI server that says what it is told to."""

    def __init__(self):
        self.asked = []
        self.reset()
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                assert self.path == "/v1/models"
                self._send(200, model.models)

            def do_POST(self):
                assert self.path == "/v1/chat/completions"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                model.asked.append(json.loads(body))
                if model.status != 200:
                    self._send(model.status, {"error": {"message": "out of memory"}})
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    for chunk in model.chunks:
                        data = chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode()
                        self.wfile.write(b"data: " + data + b"\n\n")
                        self.wfile.flush()
                        time.sleep(model.pause_s)
                    if model.ends:
                        self.wfile.write(b"data: [DONE]\n\n")
                    model.left = False
                    return
                model.left = True

            def _send(self, status, body):
                body = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def reset(self):
        self.status, self.chunks, self.pause_s, self.ends = 200, ANSWER, 0, True
        self.models = {"data": [{"id": "small-model"}, {"id": "another"}]}
        self.left = None

    def close(self):
        self._server.shutdown()
        self._thread.join(30)
        self._server.server_close()


@pytest.fixture(scope="module")
def shared_model():
    model = Model()
    yield model
    model.close()


@pytest.fixture
def model(shared_model):
    shared_model.reset()
    shared_model.asked.clear()
    return shared_model


@pytest.fixture(scope="module")
def local(shared_model):
    with Local(speed=1, backend=Backend(shared_model.url), faults=Faults()) as local:
        yield local


@pytest.fixture(scope="module")
def client(local):
    client = local.client()
    yield client
    client.close()


def test_the_text_is_the_backends_and_the_lines_are_the_containers(client, model):
    data = b"".join(parts(client, "llama", asked(stream=True)))
    chunks = chunks_of(data)
    assert content(chunks) == "".join(WORDS)
    assert len(chunks) == len(WORDS) + 1
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert chunks[0]["system_fingerprint"] == "2.0.2-native"
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert chunks[-1]["choices"][0]["finish_reason"] == "eos_token"
    assert b"[DONE]" not in data


@pytest.mark.parametrize(
    ("name", "reason"), [("tgi211", "eos_token"), ("tgi3", "stop"), ("vllm", "stop")]
)
def test_every_dialect_says_it_in_its_way(client, model, name, reason):
    body = asked(model=MODEL, stream=True, stream_options={"include_usage": True})
    data = b"".join(parts(client, name, body))
    decoder = messages.SSEDecoder()
    read = [messages.parse_chunk(payload) for payload in decoder.feed(data)]
    assert "".join(chunk.text for chunk in read) == "".join(WORDS)
    assert [chunk.finish_reason for chunk in read if chunk.finish_reason] == [reason]
    usage = [chunk.usage for chunk in read if chunk.usage]
    assert usage == ([] if name == "tgi211" else [messages.Usage(31, 5)])


def test_a_whole_answer_has_the_backends_text_and_counts(client, model):
    reply = whole(client, "tgi3", asked())
    assert reply["choices"][0]["message"]["content"] == "".join(WORDS)
    assert reply["usage"] == {"prompt_tokens": 31, "completion_tokens": 5, "total_tokens": 36}
    assert reply["model"] == "m"


def test_without_usage_the_pieces_are_counted(client, model):
    model.chunks = [piece("a"), piece("b", "length")]
    reply = whole(client, "tgi3", asked())
    assert reply["usage"]["completion_tokens"] == 2
    assert reply["usage"]["prompt_tokens"] > 10
    assert reply["choices"][0]["finish_reason"] == "length"


def test_the_backend_is_asked_as_the_container_was_with_its_own_models_name(client, model):
    whole(client, "llama", asked(temperature=0.5, seed=3, max_tokens=7))
    (given,) = model.asked
    assert given == {
        "model": "small-model",
        "messages": asked()["messages"],
        "temperature": 0.5,
        "seed": 3,
        "max_tokens": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_what_the_container_refuses_never_reaches_the_backend(client, model):
    with pytest.raises(client.exceptions.ModelError, match="top_p"):
        invoke(client, "llama", asked(top_p=1.0))
    assert model.asked == []


def test_inputs_are_answered_as_without_a_backend(client, model):
    (reply,) = whole(client, "raw", {"inputs": "Hello", "parameters": {"max_new_tokens": 5}})
    assert reply["generated_text"]
    assert model.asked == []


def test_tokens_come_when_the_backend_sends_them(client, model):
    model.pause_s = 0.1
    started_s = time.monotonic()
    at_s = [time.monotonic() - started_s for _ in stream(client, "llama", asked(stream=True))]
    assert at_s[0] < 0.35
    assert at_s[-1] > 0.5


@pytest.mark.parametrize("name", ["llama", "vllm"])
def test_a_backends_error_is_the_containers(client, model, name):
    model.status = 503
    with pytest.raises(client.exceptions.ModelError, match="out of memory") as error:
        invoke(client, name, asked(model=MODEL))
    assert error.value.response["OriginalStatusCode"] == 503
    with pytest.raises(client.exceptions.ModelError):
        parts(client, name, asked(model=MODEL, stream=True))


def test_a_redirect_is_not_followed(client, model):
    model.status = 302
    with pytest.raises(client.exceptions.ModelError) as error:
        invoke(client, "llama", asked())
    assert error.value.response["OriginalStatusCode"] == 502


def test_an_error_half_way_is_a_line_of_the_stream(client, model):
    model.chunks = [piece("Hel"), {"error": {"message": "it broke", "code": 500}}]
    first, last = chunks_of(b"".join(parts(client, "llama", asked(stream=True))))
    assert content([first]) == "Hel"
    assert last == {"error": "it broke", "error_type": "generation"}


def test_what_is_no_json_is_an_error_too(client, model):
    model.chunks = [piece("Hel"), ["no", "chunk"]]
    *_, last = chunks_of(b"".join(parts(client, "llama", asked(stream=True))))
    assert "not a JSON object" in last["error"]


@pytest.mark.parametrize("chunks", [[], [piece("Hel")]])
def test_a_backend_that_dies_half_way_gives_no_complete_answer(client, model, chunks):
    model.chunks, model.ends = chunks, False
    with pytest.raises(client.exceptions.ModelError, match="ended before") as error:
        invoke(client, "llama", asked())
    assert error.value.response["OriginalStatusCode"] == 500
    *said, last = chunks_of(b"".join(parts(client, "llama", asked(stream=True))))
    assert len(said) == len(chunks)
    assert last["error_type"] == "generation"
    assert "ended before" in last["error"]


@pytest.mark.parametrize("streamed", [False, True])
def test_the_record_of_a_backend_that_dies_says_failed(model, streamed):
    model.chunks, model.ends = [piece("Hel")], False
    truth = []
    with Local(
        speed=1, backend=Backend(model.url), truth=SimpleNamespace(write=truth.append)
    ) as at:
        client = at.client()
        with contextlib.suppress(client.exceptions.ModelError):
            parts(client, "llama", asked(stream=streamed))
        client.close()
    assert [(record["outcome"], record["finish"]) for record in truth] == [("failed", None)]


def test_json_without_a_bottom_is_an_error(client, model):
    model.chunks = [b"[" * 100_000]
    with pytest.raises(client.exceptions.ModelError, match="not a JSON object"):
        invoke(client, "llama", asked())


def test_an_end_mark_alone_is_an_end(client, model):
    model.chunks = [piece("Hel")]
    assert whole(client, "llama", asked())["choices"][0]["finish_reason"] == "eos_token"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_backend_that_does_not_stop_is_stopped(client, model, streamed):
    model.chunks = itertools.repeat(piece("x"))
    if streamed:
        chunks = chunks_of(b"".join(parts(client, "llama", asked(stream=True))))
        text, choice = content(chunks), chunks[-1]["choices"][0]
    else:
        (choice,) = whole(client, "llama", asked())["choices"]
        text = choice["message"]["content"]
    assert (text, choice["finish_reason"]) == ("x" * 20, "length")


@pytest.mark.parametrize("odd", ["x", -1, 1.5, True, [1], {"a": 1}, None])
def test_counts_that_are_none_are_not_taken(client, model, odd):
    usage = {"prompt_tokens": odd, "completion_tokens": odd}
    model.chunks = [piece("a"), piece("b", "stop"), {"choices": [], "usage": usage}]
    told = whole(client, "tgi3", asked())["usage"]
    assert told["completion_tokens"] == 2
    assert told["prompt_tokens"] > 10


@pytest.mark.parametrize("odd", [["stop"], {"a": 1}, 7, True])
def test_a_finish_reason_that_is_no_word_is_an_end(client, model, odd):
    model.chunks = [piece("a", odd)]
    assert whole(client, "tgi3", asked())["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("odd", ["x", 99, 1.5, True, None])
def test_an_error_with_an_odd_status_is_an_error(client, model, odd):
    model.chunks = [{"error": {"message": "it broke \ud83d", "http_status_code": odd}}]
    with pytest.raises(client.exceptions.ModelError, match="it broke") as error:
        invoke(client, "llama", asked())
    assert error.value.response["OriginalStatusCode"] == 500


def test_the_newer_name_of_max_tokens_does_not_reach_the_backend(client, model):
    whole(client, "llama", asked(max_completion_tokens=3))
    assert "max_completion_tokens" not in model.asked[-1]


def test_half_a_character_breaks_no_line(client, model):
    model.chunks = [piece("a\ud83d"), piece("b", "stop")]
    assert whole(client, "llama", asked())["choices"][0]["message"]["content"] == "a?b"
    assert content(chunks_of(b"".join(parts(client, "llama", asked(stream=True))))) == "a?b"


def test_who_leaves_is_left_by_the_backend(client, local, model):
    model.chunks, model.pause_s = [piece("x")] * 200, 0.01
    events = stream(client, "busy", asked(stream=True, max_tokens=200))
    next(iter(events))
    with pytest.raises(client.exceptions.ModelError, match="overloaded"):
        invoke(client, "busy", asked())
    events.close()
    deadline_s = time.monotonic() + 30
    while model.left is None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert model.left
    model.reset()
    assert whole(client, "busy", asked())["choices"]


def test_faults_strike_a_backends_answer_as_well(client, local, model):
    model.chunks = [piece("x")] * 30 + [piece(finish="stop")]
    local.options["faults"].put({"broken-stream": {"tokens": 4}})
    data, error = read(stream(client, "llama", asked(stream=True)))
    local.options["faults"].put({})
    assert "reset or closed" in str(error)
    assert content(chunks_of(data)) == "xxxx"


def test_the_limit_counts_real_seconds_because_the_backend_does(model):
    model.pause_s = 0.05
    with Local(speed=3600, backend=Backend(model.url)) as local:
        client = local.client()
        assert whole(client, "llama", asked())["choices"]
        client.close()


def test_a_backend_that_is_not_there_is_a_container_that_fails():
    with Local(speed=1, backend=Backend("http://127.0.0.1:9/v1")) as local:
        client = local.client()
        with pytest.raises(client.exceptions.ModelError, match="does not answer") as error:
            invoke(client, "llama", asked())
        assert error.value.response["OriginalStatusCode"] == 502
        client.close()


@pytest.mark.parametrize("models", [{}, {"data": []}, {"data": [{}]}, []])
def test_a_backend_that_lists_no_model_needs_one_to_be_named(model, models):
    model.models = models
    with Local(speed=1, backend=Backend(model.url)) as local:
        client = local.client()
        with pytest.raises(client.exceptions.ModelError, match="lists no model: name one"):
            invoke(client, "llama", asked())
        client.close()
    with Local(speed=1, backend=Backend(model.url, model="mine")) as local:
        client = local.client()
        whole(client, "llama", asked())
        client.close()
    assert model.asked[-1]["model"] == "mine"


def test_one_rehearsal_can_be_the_backend_of_another():
    with Local(speed=2000) as real:
        url = f"http://127.0.0.1:{real.port}/endpoints/tgi3/openai/v1"
        told = real.openai("tgi3", asked(model=MODEL))[2]
        with Local(speed=1, backend=Backend(url, model=MODEL)) as local:
            client = local.client()
            chunks = chunks_of(b"".join(parts(client, "llama", asked(stream=True))))
            client.close()
    assert content(chunks) == json.loads(told)["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_no_proxy_of_the_environment_is_used(monkeypatch, model, proxy):
    monkeypatch.setenv(proxy, "http://192.0.2.1:8080")
    with Local(speed=1, backend=Backend(model.url)) as local:
        client = local.client(proxies={})
        assert whole(client, "llama", asked())["choices"]
        client.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1/",
        "http://127.3.2.1/v1",
        "http://localhost:11434/v1",
        "https://[::1]:8000",
    ],
)
def test_a_backend_on_this_machine_is_taken(url):
    assert Backend(url).url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1",
        "http://192.168.0.7:8000/v1",
        "http://0.0.0.0:8000/v1",
        "http://localhost.example.com/v1",
        "http://127.0.0.1@example.com/v1",
        "http://127.0.0.1:99999/v1",
        "http://[::1/v1",
        "ftp://127.0.0.1/v1",
        "127.0.0.1:8000",
        "",
    ],
)
def test_a_backend_elsewhere_is_refused_in_one_sentence(url):
    with pytest.raises(RehearsalError, match="nothing leaves this machine") as error:
        Backend(url)
    assert repr(url) in str(error.value)
