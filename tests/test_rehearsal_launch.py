"""The rehearsal server as a process: started, found, shared, raced for and stopped."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import boto3
import pytest

from helpers import settings
from helpers.errors import RehearsalError
from helpers.rehearsal import __main__ as command_line
from helpers.rehearsal import launch

ROOT = Path(__file__).parent.parent
ENSURE = """
import sys
from pathlib import Path
from helpers import settings
from helpers.rehearsal import launch
info = launch.ensure(settings.load())
print(info.pid, info.url)
"""


@pytest.fixture
def here(tmp_path):
    """Settings with a state directory of their own; what was started there is stopped."""
    here = replace(settings.load({}), state_dir=tmp_path / "a state", speed=600.0)
    yield here
    launch.stop(here)


def run(code_or_flags, here, **options):
    environ = {
        **os.environ,
        "WORKSHOP_STATE": str(here.state_dir),
        "WORKSHOP_SPEED": str(here.speed),
        **options.pop("env", {}),
    }
    start = ["-c", code_or_flags] if isinstance(code_or_flags, str) else code_or_flags
    return subprocess.Popen(
        [sys.executable, *start],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def serve(here, *flags, **options):
    return run(["-m", "helpers.rehearsal", *flags], here, **options)


def end(process):
    """Let a server end as a shell would; returns its status and what it wrote besides."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


def read_exports(process):
    """What a shell would have in its environment after evaluating the first lines."""
    exports = {}
    while "HF_ENDPOINT" not in exports:
        line = process.stdout.readline()
        assert line.startswith("export "), line or process.stderr.read()
        (assignment,) = shlex.split(line.removeprefix("export "))
        name, _, value = assignment.partition("=")
        exports[name] = value
    return exports


def test_eight_processes_that_need_a_server_get_the_same_one(here):
    processes = [run(ENSURE, here) for _ in range(8)]
    answers = {process.communicate(timeout=60) for process in processes}
    assert len(answers) == 1
    ((out, err),) = answers
    pid, url = out.split()
    assert err == ""
    assert launch.status(here) == launch.ServerInfo(url, int(pid), 600.0, launch.probe(url).origin)


def test_a_server_outlives_its_starter_and_serves_until_it_is_stopped(here):
    out, _ = run(ENSURE, here).communicate(timeout=60)
    info = launch.ensure(here)
    assert info.pid == int(out.split()[0])
    assert os.getsid(info.pid) == info.pid  # a session of its own: no Ctrl-C reaches it
    client = boto3.client("sts", endpoint_url=info.url, region_name="us-east-1", **keys())
    assert client.get_caller_identity()["Account"] == "123456789012"
    assert launch.stop(here) is True
    assert state_of(info.pid) in ("", "Z")  # it has ended, it was not only told to
    assert launch.probe(info.url) is None
    assert launch.status(here) is None
    assert not (here.state_dir / "server.json").exists()
    assert launch.stop(here) is False


def test_a_server_too_busy_to_answer_at_once_is_stopped_all_the_same(here, monkeypatch):
    info = launch.ensure(here)
    monkeypatch.setattr(launch, "_ANSWER_S", 0.2)
    os.kill(info.pid, signal.SIGSTOP)
    going_on = threading.Timer(1, os.kill, (info.pid, signal.SIGCONT))
    going_on.start()
    assert launch.stop(here) is True
    going_on.join()
    assert state_of(info.pid) in ("", "Z")


def test_a_server_that_never_answers_is_said_to_be_there(here, monkeypatch):
    info = launch.ensure(here)
    os.kill(info.pid, signal.SIGSTOP)
    try:
        with monkeypatch.context() as impatient:
            impatient.setattr(launch, "_ANSWER_S", 0.2)
            with pytest.raises(RehearsalError, match=f"did not stop .* `kill {info.pid}`"):
                launch.stop(here, timeout_s=0.5)
    finally:
        os.kill(info.pid, signal.SIGCONT)


def test_the_accounts_quota_can_be_given_at_the_start(here):
    process = serve(here, "--port", "0", "--quota", "31")
    try:
        url = read_exports(process)["AWS_ENDPOINT_URL"]
        client = boto3.client("service-quotas", endpoint_url=url, region_name="us-east-1", **keys())
        told = client.get_service_quota(ServiceCode="sagemaker", QuotaCode="L-286C98BC")
        assert told["Quota"]["Value"] == 31
    finally:
        end(process)


def state_of(pid):
    """The first letter of what `ps` says about a process, nothing when it is gone."""
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True).stdout[:1]


def keys():
    told = launch.credentials()
    return {name.lower(): value for name, value in told.items()}


def test_the_server_does_not_inherit_what_leads_to_aws(here, monkeypatch):
    secrets = {
        "AWS_PROFILE": "real",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "HF_TOKEN": "hf_real",
        "https_proxy": "http://127.0.0.1:1",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    info = launch.ensure(here)
    environ = Path(f"/proc/{info.pid}/environ").read_bytes().decode()
    assert not [name for name in secrets if f"\0{name}=" in environ]


def test_a_stale_note_does_not_keep_a_server_from_starting(here):
    here.state_dir.mkdir()
    for note in (
        "not json",
        "[]",
        "{}",
        json.dumps({"url": "http://127.0.0.1:1", "pid": 1}),
        json.dumps({"url": "https://sagemaker.us-east-1.amazonaws.com", "pid": 1}),
    ):
        (here.state_dir / "server.json").write_text(note)
        assert launch.status(here) is None
    for note in (b'{"url": 5, "pid": 1}', b'{"url": "x", "pid": "1"}', b"5", b"\xff\xfe"):
        (here.state_dir / "server.json").write_bytes(note)
        assert launch.status(here) is None
        assert launch.stop(here) is False
        launch.unregister(here.state_dir, launch.ServerInfo("x", 1, 1.0, 0.0))
        assert (here.state_dir / "server.json").read_bytes() == note
    assert launch.ensure(here).pid != 1


def test_state_that_cannot_be_written_is_one_sentence(here, tmp_path):
    (tmp_path / "file").write_text("")
    in_the_way = replace(here, state_dir=tmp_path / "file")
    assert launch.status(in_the_way) is None
    with pytest.raises(RehearsalError, match="cannot keep its state in .*/file .*WORKSHOP_STATE"):
        launch.ensure(in_the_way)
    with pytest.raises(RehearsalError, match="cannot keep its state"):
        launch.register(in_the_way.state_dir, launch.ServerInfo("x", 1, 1.0, 0.0))


def test_by_hand_too_state_that_cannot_be_written_is_one_sentence(here):
    (here.state_dir / "server.json").mkdir(parents=True)
    process = serve(here, "--port", "0")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert "cannot keep its state in" in err
    assert "Traceback" not in err


def test_a_server_that_was_killed_is_replaced(here):
    first = launch.ensure(here)
    os.kill(first.pid, signal.SIGKILL)
    second = launch.ensure(here)
    assert second.pid != first.pid
    assert launch.status(here) == second


def test_another_speed_is_refused_in_one_sentence(here):
    launch.ensure(here)
    with pytest.raises(RehearsalError, match="at speed 600 instead of 60.*WORKSHOP_SPEED=600"):
        launch.ensure(replace(here, speed=60.0))


def test_a_server_that_does_not_come_up_is_explained_by_its_log(here, tmp_path):
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__init__.py").write_text("raise RuntimeError('out of order')")
    with pytest.raises(RehearsalError, match=r"ended with status 1; see .*server\.log") as error:
        launch.ensure(replace(here, root=tmp_path))
    assert "out of order" in str(error.value)


def test_a_server_that_does_not_answer_in_time_is_ended(here, tmp_path):
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__init__.py").write_text("import time; time.sleep(60)")
    start = time.monotonic()
    with pytest.raises(RehearsalError, match="did not answer within 0.5 s.*Its log is empty"):
        launch.ensure(replace(here, root=tmp_path), timeout_s=0.5)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("answer", [b"{}", b'{"name": "other"}', b"[]", b"<html>"])
def test_something_else_on_the_port_is_not_taken_for_a_rehearsal(answer):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert launch.probe(f"http://127.0.0.1:{server.server_port}") is None
        thread.join()


@pytest.mark.parametrize(
    "url", ["http://example.com", "https://127.0.0.1", "nonsense", "http://x:y"]
)
def test_nothing_but_loopback_is_asked(url):
    assert launch.probe(url) is None


def test_by_hand_it_prints_only_what_a_shell_can_evaluate(here):
    process = serve(here, "--port", "0", "--speed", "20")
    exports = read_exports(process)
    url = exports["AWS_ENDPOINT_URL"]
    assert exports == {
        "AWS_ENDPOINT_URL": url,
        **launch.credentials(),
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "HF_ENDPOINT": url,
    }
    assert launch.probe(url).speed == 20
    assert launch.status(here).pid == process.pid  # the notebooks use it
    client = boto3.client("iam", endpoint_url=url, region_name="us-east-1", **keys())
    assert client.get_role(RoleName="workshop-execution-role")
    status, out, err = end(process)
    assert (status, out) == (0, "")
    assert all(line.startswith("[rehearsal] ") for line in err.splitlines()), err
    assert not (here.state_dir / "server.json").exists()


def test_ctrl_c_ends_it_also_while_it_still_loads(here):
    process = serve(here, "--port", "0")
    read_exports(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in err


def test_a_second_server_by_hand_leaves_the_notebooks_theirs(here):
    first = launch.ensure(here)
    second = serve(here, "--port", "0")
    url = read_exports(second)["AWS_ENDPOINT_URL"]
    assert url != first.url
    status, _, err = end(second)
    assert status == 0
    assert f"go on using the rehearsal at {first.url}" in err
    assert launch.status(here) == first


def test_a_port_that_is_taken_is_said_in_one_sentence(here):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = serve(here, "--port", str(port))
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert f"Port {port} of 127.0.0.1 is taken: pass another --port, or 0 for any." in err
    assert "Traceback" not in err


def test_the_command_line_stops_the_server_that_runs(here):
    launch.ensure(here)
    for said in ("The rehearsal has stopped.", "No rehearsal was running."):
        process = serve(here, "--stop")
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "")
        assert said in err


def test_a_server_that_nobody_uses_stops_by_itself(here):
    process = serve(here, "--port", "0", "--idle-minutes", "0.02")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "No request for 0.02 minutes: the rehearsal stops." in err
    assert launch.status(here) is None


def test_a_server_in_use_does_not_stop_for_idleness(here):
    process = serve(here, "--port", "0", "--idle-minutes", "0.05")
    url = read_exports(process)["AWS_ENDPOINT_URL"]
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        assert launch.probe(url) is not None
        time.sleep(0.2)
    end(process)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "x"], "a port is a number from 0 to 65535"),
        (["--port", "65536"], "a port is a number from 0 to 65535"),
        (["--speed", "0"], "must be more than 0"),
        (["--speed", "nan"], "0 or more"),
        (["--speed", "fast"], "--speed"),
        (["--quota", "many"], "a whole number of instances"),
        (["--speed", "1e18"], "at most 86400"),
        (["--idle-minutes", "-1"], "0 or more"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, words, capsys):
    with pytest.raises(SystemExit) as error:
        command_line.main(flags)
    assert error.value.code == 2
    assert words in capsys.readouterr().err


def test_a_setting_that_makes_no_sense_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setenv("WORKSHOP_TARGET", "moon")
    assert command_line.main(["--stop"]) == 1
    assert capsys.readouterr().err.startswith("[rehearsal] ")
