"""Nothing a rehearsal does leaves this machine, and the guard that says so does bite."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import network_guard
import pytest

ROOT = Path(__file__).parent.parent

REACH_OUT = {
    "socket.getaddrinfo": "import urllib.request as u; u.urlopen('http://example.com')",
    "socket.connect": "import socket; socket.socket().connect(('192.0.2.1', 80))",
    "socket.sendto": "import socket as s; "
    "s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    "socket.gethostbyname": "import socket; socket.gethostbyname('example.com')",
    "socket.bind": "import socket; socket.socket().bind(('0.0.0.0', 0))",
}

REHEARSE = """
import json, os
from helpers import cleanup, endpoint, messages, recipes
from helpers.session import open_session

session = open_session()
served = endpoint.wait(
    session, endpoint.deploy(session, recipes.get("llama-3-8b"), role=session.role())
)
question = [{"role": "user", "content": "Where am I?"}]
stream = messages.stream(session.client("sagemaker-runtime"), served.name, question, max_tokens=8)
print("".join(stream))
cleanup.delete(session)
print(json.dumps({"left": len(cleanup.leftovers(session)), "url": os.environ["AWS_ENDPOINT_URL"]}))
"""

# What a reader may have set, each of which would lead away from this machine.
TEMPTING = {
    "AWS_ACCESS_KEY_ID": "AKIAREALREALREALREAL",
    "AWS_SECRET_ACCESS_KEY": "real-secret-of-the-reader",
    "AWS_SESSION_TOKEN": "real-session-of-the-reader",
    "AWS_PROFILE": "production",
    "AWS_ENDPOINT_URL_SAGEMAKER": "http://192.0.2.1",
    "AWS_ENDPOINT_URL_STS": "http://192.0.2.1",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
    "AWS_REGION": "eu-west-1",
    "HTTP_PROXY": "http://192.0.2.1:8080",
    "HTTPS_PROXY": "http://192.0.2.1:8080",
    "ALL_PROXY": "http://192.0.2.1:8080",
    "HF_TOKEN": "hf_realrealrealrealreal",
    "HF_ENDPOINT": "http://192.0.2.1",
}


def python(code, *, log, **environ):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, network_guard.LOG_VARIABLE: str(log), **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(("event", "code"), REACH_OUT.items(), ids=REACH_OUT)
def test_a_process_that_reaches_beyond_loopback_is_refused_and_written_down(event, code, tmp_path):
    log = tmp_path / "guard.log"
    finished = python(code, log=log)
    assert finished.returncode != 0
    assert "The tests keep everything on loopback" in finished.stderr
    assert event in log.read_text()


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        (None, True),
        ("localhost", True),
        ("bucket.localhost", True),
        ("127.0.0.1", True),
        (b"127.8.8.8", True),
        ("::1", True),
        ("::1%lo", True),
        ("", False),
        ("0.0.0.0", False),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("127.0.0.1.example.com", False),
        ("sagemaker.us-east-1.amazonaws.com", False),
    ],
)
def test_only_loopback_is_loopback(host, allowed):
    assert network_guard.is_loopback(host) is allowed


def test_loopback_and_unix_sockets_stay_open(tmp_path):
    code = """
import socket, threading
for family, address in [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, "socket")]:
    server = socket.socket(family)
    server.bind(address)
    server.listen()
    client = socket.socket(family)
    client.connect(server.getsockname())
    client.sendall(b"hello")
    assert server.accept()[0].recv(5) == b"hello"
"""
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env={**os.environ, network_guard.LOG_VARIABLE: str(tmp_path / "guard.log")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    assert not (tmp_path / "guard.log").exists()


def test_this_process_is_guarded_too(tmp_path, monkeypatch):
    monkeypatch.setenv(network_guard.LOG_VARIABLE, str(tmp_path / "guard.log"))
    import socket

    with pytest.raises(network_guard.BeyondLoopbackError, match="loopback"):
        socket.getaddrinfo("example.com", 80)


def test_a_whole_rehearsal_stays_on_loopback_whatever_the_reader_has_set(tmp_path):
    """Deploy, chat and delete with real-looking credentials, proxies and endpoints about."""
    log = tmp_path / "guard.log"
    state = tmp_path / "state"
    finished = python(REHEARSE, log=log, WORKSHOP_STATE=str(state), **TEMPTING)
    python(
        "from helpers.rehearsal import launch; from helpers import settings; "
        "launch.stop(settings.load())",
        log=log,
        WORKSHOP_STATE=str(state),
    )
    assert finished.returncode == 0, finished.stderr
    assert not log.exists(), log.read_text()
    outcome = json.loads(finished.stdout.splitlines()[-1])
    assert outcome["left"] == 0
    assert outcome["url"].startswith("http://127.0.0.1:")
    for secret in ("AKIAREAL", "real-secret", "real-session", "hf_real"):
        assert secret not in finished.stdout + finished.stderr
        for file in state.rglob("*"):
            assert not file.is_file() or secret.encode() not in file.read_bytes(), file


def test_a_run_in_which_something_reached_out_fails_whatever_its_tests_say(tmp_path):
    shutil.copy(ROOT / "conftest.py", tmp_path)
    shutil.copytree(ROOT / "tests" / "guard", tmp_path / "tests" / "guard")
    (tmp_path / "test_leaks.py").write_text(
        "import socket\n\n\ndef test_nothing():\n"
        "    try:\n        socket.getaddrinfo('example.com', 80)\n"
        "    except RuntimeError:\n        pass\n"
    )
    options = ["-p", "no:cacheprovider", "--nbval", "--numprocesses=1"]
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test_leaks.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "1 passed" in finished.stdout, finished.stdout + finished.stderr
    assert "this run left loopback: socket.getaddrinfo 'example.com'" in finished.stdout
    assert finished.returncode == 1
