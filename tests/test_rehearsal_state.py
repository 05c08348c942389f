"""What survives a restart of the rehearsal server, and at what time it goes on."""

import json
import os
import signal
import stat
import time

import pytest
import rehearsing
from deployed import ENV, IMAGE

from helpers import session, settings
from helpers.errors import RehearsalError
from helpers.rehearsal import hub, launch
from helpers.rehearsal.state import FILE, KEPT_TOKEN, State


class Box:
    """A part with something in it."""

    def __init__(self, content=None):
        self.content = content

    def dump(self):
        return self.content

    def restore(self, dumped):
        self.content = dumped["there"] and dumped


def kept(folder, content, *, aws_time=0.0):
    state = State(folder)
    state.hold(box=Box(content))
    state.save(aws_time, at_once=True)
    return (folder / FILE).read_text()


def test_what_was_saved_is_given_back(tmp_path):
    kept(tmp_path, {"there": [1, "zwei", None]})
    box = Box()
    State(tmp_path).hold(box=box)
    assert box.content == {"there": [1, "zwei", None]}


def test_nothing_is_written_without_a_change_or_a_folder(tmp_path):
    state = State(tmp_path)
    state.hold(box=Box({"there": 1}))
    state.save(0.0)
    assert list(tmp_path.iterdir()) == []
    state.changed()
    state.save(0.0)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    nowhere = State(None)
    nowhere.hold(box=Box({"there": 1}))
    nowhere.save(0.0, at_once=True)


def test_the_file_is_for_its_owner_only_and_holds_no_token(tmp_path):
    secret = "hf_" + "a" * 30
    text = kept(
        tmp_path,
        {
            "there": f"log line with {secret}",
            "Environment": {"HF_TOKEN": secret, "MAX_TOTAL_TOKENS": "4096", "API_KEY": "xyz"},
            "tags": [{"Key": "owner", "Value": "me"}],
            "more tags": {"env": "prod", "Environment": "test"},
            "other": {"env": {"HF_TOKEN": hub.UNGRANTED_TOKEN}},
        },
    )
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert secret not in text and "xyz" not in text
    box = json.loads(text)["parts"]["box"]
    assert box["Environment"] == {
        "HF_TOKEN": KEPT_TOKEN,
        "MAX_TOTAL_TOKENS": "4096",
        "API_KEY": KEPT_TOKEN,
    }
    assert box["tags"] == [{"Key": "owner", "Value": "me"}]
    assert box["more tags"] == {"env": "prod", "Environment": "test"}
    assert box["other"]["env"]["HF_TOKEN"] == hub.UNGRANTED_TOKEN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"version": 1}',
        '{"version": 99, "aws_time": 1, "parts": {}}',
        '{"version": 1, "aws_time": NaN, "parts": {}}',
        '{"version": 1, "aws_time": 1e300, "parts": {}}',
    ],
)
def test_a_file_that_is_none_is_said_in_one_sentence_and_kept(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RehearsalError, match="cannot be read .*--fresh"):
        State(tmp_path)
    assert (tmp_path / FILE).read_text() == text


def test_a_part_that_does_not_know_its_state_is_said_too(tmp_path):
    kept(tmp_path, {"other": 1})
    with pytest.raises(RehearsalError, match="cannot be read"):
        State(tmp_path).hold(box=Box())


@pytest.mark.parametrize("speed", [0.5, 2, 60, 3600])
def test_aws_time_goes_on_where_it_was(tmp_path, speed):
    ahead = time.time() + 36_000
    kept(tmp_path, {"there": 1}, aws_time=ahead)
    began_s = time.monotonic()
    clock = State(tmp_path).clock(speed)
    time.sleep(0.02)
    passed = clock.time() - ahead
    assert 0.02 * speed <= passed <= (time.monotonic() - began_s) * speed + 0.001


def test_aws_time_is_never_behind_real_time(tmp_path):
    kept(tmp_path, {"there": 1}, aws_time=time.time() - 36_000)
    assert State(tmp_path).clock(60).time() == pytest.approx(time.time(), abs=6)


def test_a_clock_that_is_ahead_cannot_go_on_at_speed_1(tmp_path):
    kept(tmp_path, {"there": 1}, aws_time=time.time() + 36_000)
    with pytest.raises(RehearsalError, match="10.0 hours ahead .* --fresh"):
        State(tmp_path).clock(1)


# --- the whole server


def deploy(here, name):
    sagemaker = here.client("sagemaker")
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=here.role(),
        PrimaryContainer={"Image": IMAGE, "Environment": {**ENV, "HF_TOKEN": "hf_" + "b" * 30}},
        Tags=[{"Key": "k", "Value": "v"}],
    )
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": name,
        "InstanceType": "ml.inf2.48xlarge",
        "InitialInstanceCount": 1,
        "ContainerStartupHealthCheckTimeoutInSeconds": 3600,
    }
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)


def test_a_success_is_on_disk_when_it_is_answered(tmp_path):
    with rehearsing.server(tmp_path) as server:
        here = session.open_session(identity="admin")
        deploy(here, "e")
        os.kill(server.pid, signal.SIGKILL)
        session.leave_rehearsal()
        again = session.open_session(identity="admin").client("sagemaker")
        assert [one["EndpointName"] for one in again.list_endpoints()["Endpoints"]] == ["e"]


def test_a_server_that_cannot_take_its_state_back_says_so_and_ends(tmp_path):
    (tmp_path / FILE).write_text(
        json.dumps({"version": 1, "aws_time": 1, "parts": {"control": {"catalog": 7}}})
    )
    with rehearsing.serving(tmp_path) as process:
        assert process.wait(20) == 1
    assert "cannot be read" in process.said and "--fresh" in process.said


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_an_endpoint_comes_up_although_the_server_was_restarted(tmp_path, end):
    with rehearsing.server(tmp_path) as server:
        here = session.open_session(identity="admin")
        deploy(here, "e")
        time.sleep(0.3)  # a change is on disk within a quarter of a second
        then = here.clock.time()
        loaded = settings.load()
        if end == "stop":
            launch.stop(loaded)
        else:
            os.kill(server.pid, signal.SIGKILL)
        session.leave_rehearsal()
        again = session.open_session(identity="admin")
        assert launch.status(loaded).pid != server.pid
        assert then - 1 <= again.clock.time() < then + 3 * 3600  # at speed 3600
        sagemaker = again.client("sagemaker")
        sagemaker.get_waiter("endpoint_in_service").wait(
            EndpointName="e", WaiterConfig={"Delay": 0.1, "MaxAttempts": 200}
        )
        arn = sagemaker.describe_model(ModelName="e")["ModelArn"]
        assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "k", "Value": "v"}]
        assert "b" * 30 not in (tmp_path / FILE).read_text()
