"""The whole server as a process: restarted, started with flags, started afresh."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import deployed
import made_things as made
import pytest
from botocore.exceptions import ClientError
from rehearsing import serving, until

from helpers import messages, session, settings
from helpers.errors import InvocationError
from helpers.rehearsal import launch

ROOT = Path(__file__).parent.parent
SPEED = 600
GROUP = "inf2-workshop-rehearsal"


# --- restart and schedule


def schedule_deletion(here, name, *, after_s):
    here.client("scheduler").create_schedule_group(Name=GROUP)
    return made.schedule(here, name, group=GROUP, hours=after_s / 3600)


def is_gone(here, name):
    try:
        here.client("sagemaker").describe_endpoint(EndpointName=name)
    except ClientError as error:
        return "Could not find endpoint" in str(error)
    return False


def test_a_scheduled_deletion_happens_although_the_server_was_killed_meanwhile(tmp_path):
    with deployed.rehearsal(tmp_path, speed=SPEED) as here:
        name = deployed.NAME
        due = schedule_deletion(here, name, after_s=3600)
        kept = {"Bucket": here.bucket, "Key": "inf2-workshop/rehearsal/k"}
        here.client("s3").put_object(**kept, Body=b"v")
        time.sleep(0.3)
        os.kill(launch.status(here.settings).pid, signal.SIGKILL)
        session.leave_rehearsal()
        again = session.open_session()
        assert not is_gone(again, name)
        assert again.client("s3").get_object(**kept)["Body"].read() == b"v"
        group = f"/aws/sagemaker/Endpoints/{name}"
        streams = again.client("logs").describe_log_streams(logGroupName=group)["logStreams"]
        assert streams
        chat = messages.chat(
            again.client("sagemaker-runtime"),
            name,
            [{"role": "user", "content": "Still there?"}],
            model=deployed.MODEL_ID,
            max_tokens=5,
        )
        assert chat.output_tokens == 5
        assert until(lambda: is_gone(again, name))
        assert again.clock.now() > due
        deleted = [
            entry["time"]
            for entry in launch_journal(again)
            if (entry["operation"], entry["name"]) == ("DeleteEndpoint", name)
        ]
        assert deleted == [pytest.approx(due.timestamp(), abs=1)]
        with pytest.raises(ClientError, match="ResourceNotFound"):
            again.client("scheduler").get_schedule(Name=name, GroupName=GROUP)


def launch_journal(here):
    return json.loads(launch._ask("GET", here.boto.endpoint_url, "/_rehearsal/journal"))


# --- the command line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--fault", "nonsense"], "There is no fault 'nonsense'; there are no-quota"),
        (["--fault", "stall:seconds=-1"], "cannot be -1"),
        (["--backend", "http://10.0.0.1/v1"], "http://10.0.0.1/v1"),
        (["--truth", "/proc/nothing/here"], "/proc/nothing/here"),
    ],
)
def test_a_flag_that_makes_no_sense_is_one_sentence(tmp_path, flags, words):
    done = subprocess.run(
        [sys.executable, "-m", "helpers.rehearsal", "--port", "0", "--state-dir", str(tmp_path)]
        + flags,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_server_can_start_with_faults_and_with_every_part_cut_small(tmp_path):
    with (
        serving(
            tmp_path, "--cut", "bytes", "--fault", "model-error:every=2", speed=SPEED
        ) as process,
        deployed.rehearsal(tmp_path, speed=SPEED) as here,
    ):
        runtime = here.client("sagemaker-runtime")
        question = [{"role": "user", "content": "What is a rehearsal?"}]
        options = {"model": deployed.MODEL_ID, "max_tokens": 40}
        whole = messages.chat(runtime, deployed.NAME, question, **options)
        with pytest.raises(InvocationError):
            messages.chat(runtime, deployed.NAME, question, **options)
        raw = runtime.invoke_endpoint_with_response_stream(
            EndpointName=deployed.NAME,
            ContentType="application/json",
            Body=json.dumps({"messages": question, "stream": True, **options}).encode(),
        )
        parts = [event["PayloadPart"]["Bytes"] for event in raw["Body"]]
        assert max(map(len, parts)) < 10
        text = "".join(
            json.loads(line[5:])["choices"][0]["delta"].get("content", "")
            for line in b"".join(parts).split(b"\n\n")
            if line.startswith(b"data:")
        )
        assert text == whole.text
    assert "Traceback" not in process.said


def test_a_fresh_start_forgets_and_needs_the_last_server_to_be_stopped(tmp_path, monkeypatch):
    loaded = settings.load({"WORKSHOP_STATE": str(tmp_path), "WORKSHOP_SPEED": str(SPEED)})
    with serving(tmp_path, speed=SPEED):
        monkeypatch.setenv("WORKSHOP_STATE", str(tmp_path))
        monkeypatch.setenv("WORKSHOP_SPEED", str(SPEED))
        client = session.open_session("rehearsal", identity="admin").client("sagemaker")
        model = {"Image": deployed.IMAGE, "Environment": {}}
        role = "arn:aws:iam::123456789012:role/workshop-execution-role"
        client.create_model(ModelName="m", ExecutionRoleArn=role, PrimaryContainer=model)
        beside = subprocess.run(
            [sys.executable, "-m", "helpers.rehearsal", "--port", "0", "--fresh"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (beside.returncode, "stop it first" in beside.stderr) == (1, True)
    for flags, left in (([], ["m"]), (["--fresh"], [])):
        session.leave_rehearsal()
        with serving(tmp_path, *flags, speed=SPEED):
            client = session.open_session("rehearsal", identity="admin").client("sagemaker")
            assert [one["ModelName"] for one in client.list_models()["Models"]] == left
    session.leave_rehearsal()
    assert launch.status(loaded) is None
