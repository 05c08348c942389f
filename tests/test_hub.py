import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import quote

import pytest
import rehearsing

from helpers import hub, sdk
from helpers.errors import SettingsError
from helpers.rehearsal.hub import UNGRANTED_TOKEN

GATED = "meta-llama/Meta-Llama-3-70B-Instruct"
TOKEN = "hf_AbCdEfGhIjKlMnOp"


@pytest.fixture(scope="module")
def hub_url(tmp_path_factory):
    with rehearsing.server(tmp_path_factory.mktemp("hub")) as server:
        yield server.url


def check(hub_url, token, model_id=GATED):
    checked = hub.check_token(model_id, environ={"HF_TOKEN": token, "HF_ENDPOINT": hub_url})
    assert token not in repr(checked)
    return checked


def test_a_good_token_is_named_by_its_user_only(hub_url):
    checked = check(hub_url, TOKEN)
    assert (checked.source, checked.user, checked.licence_accepted) == (
        "HF_TOKEN",
        "rehearsal",
        True,
    )


def test_a_license_that_is_not_accepted_is_found_before_deploying(hub_url):
    checked = check(hub_url, UNGRANTED_TOKEN)
    assert checked.licence_accepted is False
    assert f"https://huggingface.co/{GATED}" in checked.message


def test_a_token_the_hub_refuses_is_found(hub_url):
    checked = check(hub_url, "not-a-token-at-all")
    assert checked.licence_accepted is None
    assert "create a new one" in checked.message


def test_a_model_that_does_not_exist_is_found(hub_url):
    checked = check(hub_url, TOKEN, "nobody/nothing")
    assert checked.licence_accepted is False
    assert "nobody/nothing" in checked.message


ASKING = """
import os, huggingface_hub
huggingface_hub.get_session()  # made before a rehearsal began, as Gradio's import may
os.environ["HF_ENDPOINT"] = {url!r}
from helpers import hub, tokenizer
assert hub.check_token({model!r}).licence_accepted
assert tokenizer.counter({model!r}).count
"""


def test_nobody_but_the_hub_is_asked_and_none_on_loopback_through_a_proxy(hub_url, tmp_path):
    quiet = ("HF_HUB_DISABLE_TELEMETRY", "NO_PROXY", "no_proxy")
    environ = {name: value for name, value in os.environ.items() if name not in quiet}
    log = tmp_path / "guard.log"
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        environ |= {
            "HTTP_PROXY": f"http://127.0.0.1:{proxy.getsockname()[1]}",
            "NETWORK_GUARD_LOG": str(log),
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": TOKEN,
            "WORKSHOP_STATE": str(tmp_path),
        }
        code = ASKING.format(url=hub_url, model=GATED)
        subprocess.run([sys.executable, "-c", code], env=environ, check=True, timeout=300)
        with pytest.raises(BlockingIOError):
            proxy.accept()
    assert not log.exists()


def test_a_hub_that_cannot_be_reached_is_not_an_error():
    checked = check("http://127.0.0.1:9", TOKEN)
    assert checked.licence_accepted is None
    assert "cannot be reached" in checked.message


@pytest.mark.parametrize(
    ("status", "words"), [(418, "The Hub answered 418: try again later."), (403, "create a new")]
)
def test_a_hub_in_trouble_is_told_from_a_bad_token(status, words):
    class Troubled(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Troubled) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        checked = check(f"http://127.0.0.1:{server.server_port}", TOKEN)
        server.shutdown()
    assert checked.licence_accepted is None
    assert words in checked.message


def test_without_a_token_it_says_where_to_get_one(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    checked = hub.check_token(GATED, environ={})
    assert checked.source == "none"
    assert "https://huggingface.co/settings/tokens" in checked.message
    assert hub.token({}) is None


def test_a_token_saved_by_the_hubs_own_tool_is_used(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    assert hub.token({}) == TOKEN
    assert hub.token({"HF_TOKEN": "hf_other"}) == "hf_other"


def test_secrets_are_covered_and_limits_are_not():
    env = {"HF_TOKEN": TOKEN, "API_KEY": "x", "MAX_TOTAL_TOKENS": "4096", "NOTE": f"a {TOKEN} b"}
    assert hub.mask(env) == {
        "HF_TOKEN": "***",
        "API_KEY": "***",
        "MAX_TOTAL_TOKENS": "4096",
        "NOTE": "a *** b",
    }


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "APITOKEN",
        "TOKEN_VALUE",
        "CLIENT_SECRET",
        "SECRET_NAME",
        "DB_PASSWORD",
        "APIKEY",
        "API_KEY",
        "OPENAI_API_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_CREDENTIALS",
        "hf_token",
        "PRIVATE_KEY",
    ],
)
def test_names_of_secrets(name):
    assert hub.is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "MAX_TOTAL_TOKENS",
        "MAX_BATCH_PREFILL_TOKENS",
        "MAX_INPUT_TOKENS",
        "TOKENIZER_CONFIG_PATH",
        "OPTION_TOKENIZER",
        "KEYBOARD",
        "HF_MODEL_ID",
        "MONKEY",
    ],
)
def test_names_of_no_secrets(name):
    assert not hub.is_secret(name)


def test_a_text_loses_given_secrets_and_whatever_looks_like_a_token():
    assert hub.redact(f"x {TOKEN} y sesame", "sesame", None) == "x *** y ***"


@pytest.mark.parametrize(
    "token", ["hf_oauth_eyJhbGciOi.eyJzdWIi.x-y_z", "hf_jwt_eyJhbGciOi", "api_org_AbCdEfGhIjKl"]
)
def test_tokens_of_other_forms_are_found_too(token):
    assert hub.redact(f"a {token}, b") == "a ***, b"


def test_a_token_that_looks_like_none_is_covered_once_it_was_read():
    odd = "not-in-any-known-form-7f3a"
    assert hub.redact(odd) == odd
    assert hub.token({"HF_TOKEN": odd}) == odd
    assert hub.redact(f"x{odd}y") == "x***y"
    assert hub.mask({"NOTE": odd}) == {"NOTE": "***"}


@pytest.mark.parametrize("before", ["", "my_", "x", "1", "_", "=", "\\n", "%3D", "'"])
def test_a_token_is_found_after_anything(before):
    assert hub.redact(f"{before}{TOKEN}' y") == f"{before}***' y"


@pytest.mark.parametrize(
    "text", ["hf_delete_endpoint", "hf_model_id", "HF_TOKENIZER", "hf_1234567"]
)
def test_names_are_no_tokens(text):
    assert hub.redact(text) == text


# --- a token as it was copied


@pytest.mark.parametrize("around", ["{}\n", " {}", "\t{}\r\n", "{}"])
def test_what_stands_around_a_token_is_left_out_wherever_it_comes_from(around, monkeypatch):
    copied = around.format(TOKEN)
    assert hub.clean(copied) == hub.token({"HF_TOKEN": copied}) == TOKEN
    monkeypatch.setattr("huggingface_hub.get_token", lambda: copied)
    assert hub.token({}) == TOKEN


def test_blanks_are_no_token():
    assert hub.clean(" \n") is hub.clean(None) is None


@pytest.mark.parametrize("odd", [f"{TOKEN}\nX: y", f"{TOKEN}\u20ac", f"{TOKEN} x", 5, b"hf_bytes"])
def test_what_can_be_no_token_is_refused_in_a_sentence_without_it(odd):
    with pytest.raises(SettingsError, match="Hugging Face token") as seen:
        hub.clean(odd)
    assert str(odd) not in str(seen.value)
    assert TOKEN not in str(seen.value)


def test_a_check_of_what_can_be_no_token_does_not_raise(hub_url):
    checked = check(hub_url, f"{TOKEN}\u20ac")
    assert checked.refused
    assert "copy it again" in checked.message


@pytest.mark.parametrize(
    "odd", ["se'cr\"et-1", "sec\\ret-22", "se\tcret-333", "s\u20accret-44", "s/e c+ret5"]
)
def test_a_secret_is_covered_however_it_is_written(odd):
    hub.cover(odd)
    ways = (json.dumps, repr, lambda text: quote(text, safe=""))
    for said in (odd, *(way(odd) for way in ways)):
        assert re.fullmatch(r"['\"]?\*\*\*['\"]?", hub.redact(said)), said

    body = json.dumps({"HF_TOKEN": odd}).encode()  # of an answer, as botocore logs it
    assert hub.redact(f"Response body: {body}") == 'Response body: b\'{"HF_TOKEN": "***"}\''


def test_the_sdks_own_logs_are_covered_too(caplog):
    sdk.sagemaker_core("resources")
    caplog.set_level(logging.DEBUG)
    hub.cover("odd-secret-7f3a")
    logging.getLogger("sagemaker.core.resources").debug("Model {'HF_TOKEN': 'odd-secret-7f3a'}")
    assert "odd-secret" not in caplog.text
    assert "Model {'HF_TOKEN': '***'}" in caplog.text
