"""The whole server as a process of its own: everything behind one port, over boto3."""

import json
import threading
import time
from datetime import timedelta
from pathlib import Path

import deployed
import pytest
from rehearsing import serving, until

from helpers import load
from helpers.session import open_session
from helpers.transport import SageMakerStream

ROOT = Path(__file__).parent.parent
SPEED = 600  # a replica of 70B is there after 3 s


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def here(folder):
    with (
        serving(folder, "--truth", str(folder / "truth.jsonl"), speed=SPEED) as process,
        deployed.rehearsal(folder, speed=SPEED) as here,
    ):
        yield here
    assert "Traceback" not in process.said
    assert "ERROR" not in process.said


def chat_requests(count, output_tokens=20):
    body = {
        "model": deployed.MODEL_ID,
        "messages": [{"role": "user", "content": "What is a rehearsal?"}],
        "max_tokens": output_tokens,
        "stream": True,
    }
    return [load.Request(json.dumps(body).encode(), 16, output_tokens) for _ in range(count)]


def measure(here, *, count, users, output_tokens=20):
    records = []
    load.drive(
        SageMakerStream.of(here, deployed.NAME),
        chat_requests(count, output_tokens),
        load.ClosedLoop(users),
        on_record=records.append,
    )
    return records


# --- the true times


def test_a_client_can_be_held_against_the_true_times(here, folder):
    records = {record.inference_id: record for record in measure(here, count=24, users=4)}
    time.sleep(1)
    lines = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    truth = {line["inference_id"]: line for line in lines if line["inference_id"] in records}
    assert set(truth) == set(records)
    lags = []
    for name, true in truth.items():
        seen = records[name]
        assert seen.error is None
        assert (
            (true["tokens"], true["outcome"])
            == (seen.output_tokens, "complete")
            == (20, "complete")
        )
        assert true["target"] == "rehearsal"
        assert true["arrival_s"] >= seen.sent_s - 0.001
        lags += [seen.first_s - true["first_s"], seen.last_s - true["last_s"]]
    lags.sort()
    assert lags[0] > -0.001  # nobody sees a token before it is sent
    assert lags[len(lags) // 2] < 0.05


# --- metrics and scaling


def statistic(here, name, kind, *, period=60):
    now = here.clock.now()
    told = (
        open_session(identity="admin")
        .client("cloudwatch")
        .get_metric_statistics(
            Namespace="AWS/SageMaker",
            MetricName=name,
            Dimensions=[
                {"Name": "EndpointName", "Value": deployed.NAME},
                {"Name": "VariantName", "Value": "AllTraffic"},
            ],
            StartTime=now - timedelta(hours=12),
            EndTime=now + timedelta(hours=1),
            Period=period,
            Statistics=[kind],
        )
    )
    return [point[kind] for point in told["Datapoints"]]


def test_invocations_and_latencies_are_in_cloudwatch_a_minute_later(here):
    before = sum(statistic(here, "Invocations", "Sum"))
    measure(here, count=8, users=2)
    assert until(lambda: sum(statistic(here, "Invocations", "Sum")) == before + 8)
    latencies_us = statistic(here, "ModelLatency", "Maximum")
    assert 1.2e6 < max(latencies_us) < 600e6
    assert statistic(here, "OverheadLatency", "Average")
    assert max(statistic(here, "ConcurrentRequestsPerModel", "Maximum")) >= 1


def replicas(here):
    told = here.client("sagemaker").describe_endpoint(EndpointName=deployed.NAME)
    return told["ProductionVariants"][0]["CurrentInstanceCount"]


def test_a_registered_policy_changes_the_replicas_under_load_and_back(here):
    scaling = here.client("application-autoscaling")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{deployed.NAME}/variant/AllTraffic",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    scaling.register_scalable_target(**target, MinCapacity=1, MaxCapacity=2)
    scaling.put_scaling_policy(
        **target,
        PolicyName="busy",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": 2.0,
            "PredefinedMetricSpecification": {
                "PredefinedMetricType": ("SageMakerVariantConcurrentRequestsPerModelHighResolution")
            },
            "ScaleInCooldown": 60,
            "ScaleOutCooldown": 60,
        },
    )
    assert replicas(here) == 1
    done = threading.Event()

    def ask_without_end():
        while not done.is_set():
            measure(here, count=16, users=8, output_tokens=100)

    crowd = threading.Thread(target=ask_without_end)
    crowd.start()
    try:
        assert until(lambda: replicas(here) == 2)
    finally:
        done.set()
        crowd.join()
    assert until(lambda: replicas(here) == 1)
    causes = [
        activity["Cause"]
        for activity in scaling.describe_scaling_activities(ServiceNamespace="sagemaker")[
            "ScalingActivities"
        ]
    ]
    assert any("AlarmHigh" in cause for cause in causes)
    assert any("AlarmLow" in cause for cause in causes)
    scaling.deregister_scalable_target(**target)
