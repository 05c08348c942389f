"""Counting with the model's own tokenizer, had from a Hub on loopback."""

import json
import pickle
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import rehearsing
from huggingface_hub import constants

from helpers import tokenizer
from helpers.rehearsal import hub
from helpers.rehearsal.container import text

MODEL = "meta-llama/Meta-Llama-3-70B-Instruct"
TOKEN = "hf_AbCdEfGhIjKlMnOp"
ONE_TOKEN_A_WORD = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"},
}


@pytest.fixture(scope="module")
def rehearsal_url(tmp_path_factory):
    with rehearsing.server(tmp_path_factory.mktemp("hub")) as server:
        yield server.url


@pytest.fixture
def counted(tmp_path):
    """Ask a Hub for a counter, as somebody with this token; the token is never in the answer."""

    def ask(url, token=TOKEN, model_id=MODEL, **options):
        environ = {"HF_TOKEN": token, "HF_ENDPOINT": url, "WORKSHOP_STATE": str(tmp_path)}
        patient = {"timeout_s": 60.0}  # the machine may be busy
        found = tokenizer.counter(model_id, environ=environ, **patient | options)
        assert token not in found.message
        assert found.message.startswith(("Tokens are counted", "There is no tokenizer of"))
        assert found.message.endswith(".") and "\n" not in found.message
        return found

    return ask


class ScriptedHub:
    """Gives every request one answer, `after_s` seconds late."""

    def __init__(self, status=200, body=b"", *, after_s=0.0, **headers):
        headers = {"X-Repo-Commit": "c0ffee", "ETag": '"e"'} | headers

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                time.sleep(after_s)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def serving(definition):
    return ScriptedHub(body=json.dumps(definition).encode())


# --- in rehearsal ---------------------------------------------------------------------------------


def test_a_rehearsals_replies_have_as_many_tokens_as_its_containers_counted(rehearsal_url, counted):
    count = counted(rehearsal_url).count
    for number in range(600):
        reply = text.reply(["a question", number], max_tokens=1 + number, seed=number % 7)
        assert count(reply.text) == sum(piece is not None for piece in reply.pieces)
    assert not reply.text.isascii()


def test_the_message_names_the_model_and_says_rehearsal(rehearsal_url, counted):
    message = counted(rehearsal_url).message
    assert message == f"Tokens are counted by the tokenizer of {MODEL}, revision {hub.REVISION}."
    assert "rehearsal" in message


def test_what_a_rehearsal_says_of_a_model_does_not_get_into_the_real_cache(
    rehearsal_url, counted, tmp_path
):
    assert counted(rehearsal_url).count
    assert [path.parent.name for path in tmp_path.rglob("tokenizer.json")] == [hub.REVISION]
    assert not list(Path(constants.HF_HUB_CACHE).rglob("tokenizer.json"))


def test_nothing_is_printed(rehearsal_url, counted, capfd):
    assert counted(rehearsal_url).count
    assert capfd.readouterr() == ("", "")


# --- why there is none ----------------------------------------------------------------------------


def test_a_license_that_is_not_accepted_is_said(rehearsal_url, counted):
    found = counted(rehearsal_url, hub.UNGRANTED_TOKEN)
    assert found.count is None and "accept the license at" in found.message


def test_a_token_that_the_hub_refuses_is_said(rehearsal_url, counted):
    assert "create a new one" in counted(rehearsal_url, "not-a-token-at-all").message


def test_a_model_that_the_hub_does_not_know_is_said(rehearsal_url, counted):
    assert "check its name" in counted(rehearsal_url, model_id="nobody/nothing").message


def test_a_name_that_no_model_can_have_is_said(rehearsal_url, counted):
    assert "no name of a model" in counted(rehearsal_url, model_id="what is this?").message


def test_without_a_token_a_gated_model_has_none_and_an_open_one_has(
    rehearsal_url, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    environ = {"HF_ENDPOINT": rehearsal_url, "WORKSHOP_STATE": str(tmp_path)}
    gated = tokenizer.counter(MODEL, environ=environ)
    assert gated.count is None and "no Hugging Face token: create one" in gated.message
    with serving(ONE_TOKEN_A_WORD) as open_hub:
        found = tokenizer.counter("o/open", environ=environ | {"HF_ENDPOINT": open_hub.url})
    assert found.count("two words") == 2


def test_a_model_without_the_file_is_said(counted):
    with ScriptedHub(404, X_Error_Code="EntryNotFound") as there:
        assert "has no tokenizer.json on the Hub" in counted(there.url).message


@pytest.mark.parametrize("status", [418, 429, 503])
def test_a_hub_in_trouble_is_said(counted, status):
    started = time.monotonic()
    with ScriptedHub(status) as there:
        assert f"the Hub answered {status}: try again later" in counted(there.url).message
    assert time.monotonic() - started < 10


def test_a_hub_that_refuses_everything_blames_the_token(counted):
    with ScriptedHub(403) as there:  # to everyone, so that the token is to blame
        assert "the Hub refuses the token" in counted(there.url).message


def test_a_hub_that_is_not_there_or_silent_holds_nothing_up(counted):
    started = time.monotonic()
    assert "cannot be fetched from the Hub (Connect" in counted("http://127.0.0.1:9").message
    with ScriptedHub(after_s=1.0) as there:
        assert "Timeout" in counted(there.url, timeout_s=0.2).message
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "definition",
    [
        "not an object",
        ONE_TOKEN_A_WORD | {"model": {"type": "Unheard-of"}},
        ONE_TOKEN_A_WORD | {"model": {"type": "WordLevel", "vocab": {}, "unk_token": "?"}},
        ONE_TOKEN_A_WORD | {"model": {"type": "BPE", "vocab": {}, "merges": []}},  # counts 0
    ],
)
def test_a_file_that_is_no_tokenizer_is_said(counted, definition):
    with serving(definition) as there:
        message = counted(there.url).message
    assert "cannot be read" in message and "tokenizer.json" in message


# --- counting -------------------------------------------------------------------------------------


def test_what_was_fetched_before_is_used_when_the_hub_is_gone(counted):
    with serving(ONE_TOKEN_A_WORD) as there:
        assert counted(there.url).count
    found = counted(there.url)
    assert found.count("one two three") == 3 and "revision c0ffee" in found.message


def test_a_file_that_cuts_texts_short_still_counts_all_of_them(counted):
    short = {"max_length": 2, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    with serving(ONE_TOKEN_A_WORD | {"truncation": short}) as there:
        assert counted(there.url).count("one two three four") == 4


def test_half_a_character_is_counted_and_two_halves_are_one(counted):
    with serving(ONE_TOKEN_A_WORD) as there:
        count = counted(there.url).count
    assert (count("a \ud83c b"), count("a \ud83c\udf0a b"), count("a 🌊 b")) == (3, 3, 3)


def test_a_counter_can_be_sent_to_another_process(counted):
    with serving(ONE_TOKEN_A_WORD) as there:
        count = pickle.loads(pickle.dumps(counted(there.url))).count
    assert count("one two") == 2
