"""An AWS client that knows nothing of this repository works against the rehearsal AWS."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NEEDED = {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"}

# A container environment of the guide's: data of AWS's and Hugging Face's, none of our code.
DEPLOY_STREAM_DELETE = """
import json, time
import boto3

sagemaker, runtime = boto3.client("sagemaker"), boto3.client("sagemaker-runtime")
region = sagemaker.meta.region_name
image = (
    f"763104351884.dkr.ecr.{region}.amazonaws.com/huggingface-pytorch-tgi-inference:"
    "2.1.2-optimum0.0.22-neuronx-py310-ubuntu22.04"
)
sagemaker.create_model(
    ModelName="plain",
    ExecutionRoleArn="arn:aws:iam::123456789012:role/workshop-execution-role",
    PrimaryContainer={
        "Image": image,
        "Environment": {
            "HF_MODEL_ID": "meta-llama/Meta-Llama-3-70B-Instruct",
            "HF_NUM_CORES": "24",
            "HF_BATCH_SIZE": "4",
            "HF_SEQUENCE_LENGTH": "4096",
            "HF_AUTO_CAST_TYPE": "fp16",
            "MAX_BATCH_SIZE": "4",
            "MAX_INPUT_LENGTH": "4000",
            "MAX_TOTAL_TOKENS": "4096",
            "MESSAGES_API_ENABLED": "true",
            "HF_TOKEN": "hf_of_nobody",
        },
    },
)
sagemaker.create_endpoint_config(
    EndpointConfigName="plain",
    ProductionVariants=[
        {
            "VariantName": "AllTraffic",
            "ModelName": "plain",
            "InstanceType": "ml.inf2.48xlarge",
            "InitialInstanceCount": 1,
            "ContainerStartupHealthCheckTimeoutInSeconds": 3600,
            "VolumeSizeInGB": 512,
        }
    ],
)
sagemaker.create_endpoint(EndpointName="plain", EndpointConfigName="plain")
assert sagemaker.describe_endpoint(EndpointName="plain")["EndpointStatus"] == "Creating"
sagemaker.get_waiter("endpoint_in_service").wait(
    EndpointName="plain", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
)

answer = runtime.invoke_endpoint_with_response_stream(
    EndpointName="plain",
    ContentType="application/json",
    Body=json.dumps(
        {
            "model": "tgi",
            "messages": [{"role": "user", "content": "Where am I?"}],
            "max_tokens": 24,
            "stream": True,
        }
    ),
)
stream = b"".join(event["PayloadPart"]["Bytes"] for event in answer["Body"]).decode()
chunks = [json.loads(line[5:]) for line in stream.splitlines() if line[5:].strip()[:1] == "{"]
print("".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks))

sagemaker.delete_endpoint(EndpointName="plain")
sagemaker.get_waiter("endpoint_deleted").wait(
    EndpointName="plain", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
)
sagemaker.delete_endpoint_config(EndpointConfigName="plain")
sagemaker.delete_model(ModelName="plain")
print(len(sagemaker.list_endpoints()["Endpoints"]), "endpoints",
      len(sagemaker.list_endpoint_configs()["EndpointConfigs"]), "configurations",
      len(sagemaker.list_models()["Models"]), "models left")
"""


@pytest.fixture
def server(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.rehearsal", "--port", "0", "--speed", "600"],
        cwd=ROOT,
        env={**os.environ, "WORKSHOP_STATE": str(tmp_path / "state")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
        process.stdout.close()


def exports(process):
    """Read the export lines that a server prints when it is ready, as a shell would."""
    found = {}
    while not found.keys() >= NEEDED:
        line = process.stdout.readline()
        assert line, "the server ended before it had said where it is"
        (setting,) = shlex.split(line.removeprefix("export "))
        name, _, value = setting.partition("=")
        found[name] = value
    return found


def test_plain_boto3_in_a_new_process_deploys_streams_and_deletes(server, tmp_path):
    environ = exports(server)
    guard = {name: os.environ[name] for name in ("NETWORK_GUARD_LOG", "PATH")}
    finished = subprocess.run(
        [sys.executable, "-c", DEPLOY_STREAM_DELETE],
        cwd=tmp_path,  # helpers/ is not importable from here
        env={**guard, "PYTHONPATH": str(ROOT / "tests" / "guard"), **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    text, left = finished.stdout.rstrip("\n").rsplit("\n", 1)
    assert "rehearsal" in text.lower()
    assert left == "0 endpoints 0 configurations 0 models left"


def test_the_server_ends_with_status_0_when_it_is_told_to(server):
    assert exports(server)["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=20) == 0
