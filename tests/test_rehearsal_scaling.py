"""Endpoint metrics, and Application Auto Scaling that acts on them, asked by boto3 over HTTP."""

import json
import math
from datetime import timedelta

import pytest
from json_aws import Door, model, refusal
from small_aws import (
    ORIGIN,
    SetClock,
    create_config,
    create_endpoint,
    moment,
    without_metadata,
)

from helpers.rehearsal.aws import autoscaling, control, endpoints, metrics
from helpers.rehearsal.aws.awsjson import AwsError
from helpers.rehearsal.faults import Faults
from helpers.rehearsal.timeline import Timeline

# On a minute; after ORIGIN, and long enough for an endpoint to come up.
START = math.ceil((ORIGIN + 7200) / 60) * 60
VARIANT = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/e/variant/AllTraffic",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}
STANDARD = "SageMakerVariantInvocationsPerInstance"
FAST = "SageMakerVariantConcurrentRequestsPerModelHighResolution"
DIMENSIONS = [
    {"Name": "EndpointName", "Value": "e"},
    {"Name": "VariantName", "Value": "AllTraffic"},
]
KEY = ("us-east-1", "e", "AllTraffic")
LOADING_S = 2700  # longer than a replica takes to come up


@pytest.fixture(scope="module")
def door():
    door = Door()
    yield door
    door.close()


class Nowhere:
    def write(self, group, stream, lines, *, region):
        pass


class World:
    """An account with one endpoint, `e`, in service, and a clock that a test moves."""

    def __init__(self, door):
        self.clock, self.faults, self.limit, self.published = SetClock(), Faults(), 20, []
        self._door = door
        self.open()
        create_endpoint(self.sagemaker)
        self.clock.now_s = START
        self.timeline.advance()

    def open(self):
        self.timeline = Timeline(self.clock)
        self.control = control.ControlPlane(
            self.timeline,
            logs=Nowhere(),
            model=model("sagemaker"),
            quota=lambda instance_type, region: self.limit,
            data=None,
            faults=self.faults,
        )
        self.metrics = metrics.EndpointMetrics(
            self.timeline,
            endpoints=self.control.endpoints,
            publish=lambda *told: self.published.append(told),
        )
        self.scaling = autoscaling.AutoScaling(
            self.timeline,
            model=model("application-autoscaling"),
            endpoints=self.control.endpoints,
            metrics=self.metrics,
        )
        self._parts = [self.timeline, self.control, self.metrics, self.scaling]
        self._door.open(self.control.service, self.scaling.service)
        self.sagemaker = self._door.client("sagemaker")
        self.client = self._door.client("application-autoscaling")

    def restart(self):
        kept = json.dumps([part.dump() for part in self._parts], allow_nan=False)
        self.open()
        for part, state in zip(self._parts, json.loads(kept), strict=True):
            part.restore(state)

    # --- time and load

    def wait(self, seconds, step_s=10):
        """Let time pass as it does for a server that looks at the clock now and then."""
        end_s = self.clock.now_s + seconds
        while self.clock.now_s < end_s:
            self.clock.now_s = min(end_s, self.clock.now_s + step_s)
            self.timeline.advance()

    def request(self, *, status=200, latency_s=0.0, overhead_s=0.0):
        deployment = self.control.endpoints.serving("e")
        self.metrics.begun(deployment)
        self.clock.now_s += latency_s + overhead_s
        self.metrics.ended(
            deployment, status=status, model_latency_s=latency_s, overhead_s=overhead_s
        )

    def load(self, minutes, a_minute):
        """Serve so many requests in each minute."""
        for _ in range(minutes):
            for _ in range(a_minute):
                self.request()
            self.wait(60)

    def load_until(self, counts, a_minute):
        """Serve so many requests in each minute until there are these replicas."""
        for _ in range(60):
            self.load(1, a_minute)
            if self.counts() == counts:
                return
        pytest.fail(f"There are {self.counts()} replicas, not {counts}.")

    def hold(self, requests):
        """Let requests begin that do not end for now."""
        deployment = self.control.endpoints.serving("e")
        for _ in range(requests):
            self.metrics.begun(deployment)
        return lambda: [
            self.metrics.ended(deployment, status=200, model_latency_s=1, overhead_s=0)
            for _ in range(requests)
        ]

    # --- what is seen

    def data(self, name):
        return [one for _, _, told in self.published for one in told if one["MetricName"] == name]

    def counts(self):
        (variant,) = self.sagemaker.describe_endpoint(EndpointName="e")["ProductionVariants"]
        return variant["CurrentInstanceCount"], variant["DesiredInstanceCount"]

    def register(self, low=1, high=4, **more):
        return self.client.register_scalable_target(
            **VARIANT, MinCapacity=low, MaxCapacity=high, **more
        )

    def put_policy(self, target=10.0, metric=STANDARD, name="p", **config):
        if metric:
            config["PredefinedMetricSpecification"] = {"PredefinedMetricType": metric}
        return self.client.put_scaling_policy(
            **VARIANT,
            PolicyName=name,
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration={"TargetValue": target, **config},
        )

    def activities(self):
        return self.client.describe_scaling_activities(ServiceNamespace="sagemaker")[
            "ScalingActivities"
        ]

    def story(self):
        """All activities, oldest first: what was wanted, and how it ended."""
        return [
            (one["Description"].removeprefix("Setting desired "), one["StatusCode"])
            for one in reversed(self.activities())
        ]


@pytest.fixture
def world(door):
    return World(door)


# --- metrics


def test_a_minutes_requests_are_published_when_it_is_over(world):
    world.request(latency_s=2, overhead_s=0.25)
    world.request(latency_s=4, overhead_s=0.5)
    world.wait(50)
    assert world.published == []
    world.wait(10)
    ((region, namespace, told),) = world.published
    assert (region, namespace) == ("us-east-1", "AWS/SageMaker")
    assert all(one["Dimensions"] == DIMENSIONS for one in told)
    assert all(START <= one["Timestamp"] < START + 60 for one in told)
    (counted,) = world.data("Invocations")
    assert (counted["Timestamp"], counted["Unit"]) == (START, "None")
    assert counted["StatisticValues"] == {
        "SampleCount": 2,
        "Sum": 2,
        "Minimum": 1,
        "Maximum": 1,
    }
    (latency,) = world.data("ModelLatency")
    assert (latency["Unit"], latency["Values"]) == ("Microseconds", [2e6, 4e6])
    (overhead,) = world.data("OverheadLatency")
    assert (overhead["Values"], overhead["Counts"]) == ([250_000, 500_000], [1, 1])


@pytest.mark.parametrize(
    ("status", "client", "server", "model"),
    [(200, 0, 0, 0), (422, 1, 0, 1), (500, 0, 1, 1), (0, 0, 0, 1)],
)
def test_errors_are_counted_by_their_kind(world, status, client, server, model):
    world.request(status=status)
    world.wait(60)
    kinds = ("Invocation4XXErrors", "Invocation5XXErrors", "InvocationModelErrors")
    counted = [world.data(kind)[0]["StatisticValues"] for kind in kinds]
    assert [one["Sum"] for one in counted] == [client, server, model]
    assert [one["SampleCount"] for one in counted] == [1, 1, 1]


def test_invocations_per_instance_are_divided_among_the_replicas(world):
    world.register(2)
    world.wait(LOADING_S)
    assert world.counts() == (2, 2)
    world.load(1, 6)
    assert world.data("InvocationsPerInstance")[-1]["StatisticValues"]["Sum"] == 3


def test_requests_at_a_time_are_sampled_every_ten_seconds(world):
    end = world.hold(4)
    world.wait(15)
    end()
    world.wait(45)
    samples = world.data("ConcurrentRequestsPerModel")
    assert [one["Timestamp"] - START for one in samples] == [0, 10]
    assert samples[0]["StorageResolution"] == 1
    first, second = (one["StatisticValues"] for one in samples)
    assert first == {"SampleCount": 1, "Sum": 4, "Minimum": 0, "Maximum": 4}
    assert second == {"SampleCount": 1, "Sum": 2, "Minimum": 0, "Maximum": 4}


def test_what_happened_belongs_to_its_minute_however_late_it_is_published(world):
    world.request()
    world.clock.now_s += 3600
    world.request()
    world.request()
    world.wait(60)
    counted = world.data("Invocations")
    assert [one["StatisticValues"]["Sum"] for one in counted] == [1, 2]
    assert [one["Timestamp"] - START for one in counted] == [0, 3600]


def test_an_idle_endpoint_that_nobody_watches_leaves_nothing_to_do(world):
    world.request()
    world.wait(120)
    assert len(world.published) == 1
    assert world.timeline.dump() == []
    assert world.metrics.dump() == []


def test_a_watched_endpoint_publishes_zeros_when_it_is_idle(world):
    world.register()
    world.put_policy()
    world.wait(120)
    assert [one["StatisticValues"]["Sum"] for one in world.data("Invocations")] == [0, 0]
    assert world.data("ModelLatency") == []


def test_many_latencies_go_in_entries_of_150(world):
    for _ in range(200):
        world.request()
    world.wait(60)
    assert [len(one["Values"]) for one in world.data("ModelLatency")] == [150, 50]


def test_counts_survive_a_restart_and_requests_under_way_do_not(world):
    world.request()
    world.hold(3)
    world.wait(20)
    world.restart()
    world.request()
    world.wait(40)
    assert world.data("Invocations")[0]["StatisticValues"]["Sum"] == 2
    world.wait(60)
    assert world.timeline.dump() == []


# --- scalable targets


def test_a_registered_variant_is_described_as_aws_describes_it(world):
    arn = world.register(1, 4)["ScalableTargetARN"]
    (target,) = world.client.describe_scalable_targets(ServiceNamespace="sagemaker")[
        "ScalableTargets"
    ]
    assert target == {
        **VARIANT,
        "MinCapacity": 1,
        "MaxCapacity": 4,
        "RoleARN": "arn:aws:iam::123456789012:role/aws-service-role/"
        "sagemaker.application-autoscaling.amazonaws.com/"
        "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint",
        "CreationTime": moment(START),
        "SuspendedState": {
            "DynamicScalingInSuspended": False,
            "DynamicScalingOutSuspended": False,
            "ScheduledScalingSuspended": False,
        },
        "ScalableTargetARN": arn,
    }
    assert arn.startswith("arn:aws:application-autoscaling:us-east-1:123456789012:scalable-target/")


def test_registering_again_changes_what_is_given(world):
    arn = world.register(1, 4)["ScalableTargetARN"]
    again = world.client.register_scalable_target(**VARIANT, MaxCapacity=6)
    assert again["ScalableTargetARN"] == arn
    (target,) = world.client.describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[VARIANT["ResourceId"]]
    )["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 6)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"ResourceId": "endpoint/other/variant/AllTraffic"}, "Could not find endpoint"),
        ({"ResourceId": "endpoint/E/variant/AllTraffic"}, "is called e, not E"),
        ({"ResourceId": "endpoint/e/variant/Other"}, 'Could not find variant "Other"'),
        ({"ResourceId": "e"}, "Unsupported service namespace"),
        ({"ScalableDimension": "ecs:service:DesiredCount"}, "Unsupported service namespace"),
        ({"MinCapacity": 0}, "must be 1 or higher"),
        ({"MinCapacity": 5}, "Maximum capacity cannot be less"),
    ],
)
def test_only_a_variant_in_service_and_a_sound_range_are_registered(world, wrong, words):
    given = {**VARIANT, "MinCapacity": 1, "MaxCapacity": 4, **wrong}
    code, message = refusal(world.client.register_scalable_target, **given)
    assert code == "ValidationException"
    assert words in message
    assert (
        world.client.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
        == []
    )


def test_a_new_target_needs_both_capacities(world):
    _, message = refusal(world.client.register_scalable_target, **VARIANT, MaxCapacity=4)
    assert "MinCapacity and MaxCapacity" in message


def test_registering_brings_the_replicas_into_the_range(world):
    world.register(2, 4)
    (activity,) = world.activities()
    assert (activity["Cause"], activity["StatusCode"]) == (
        "minimum capacity was set to 2",
        "InProgress",
    )
    assert activity["StatusMessage"] == (
        "Successfully set desired instance count to 2. Waiting for change to be fulfilled by "
        "sagemaker."
    )
    assert world.counts() == (1, 2)
    world.wait(LOADING_S)
    assert world.counts() == (2, 2)
    (activity,) = world.activities()
    assert activity["StatusCode"] == "Successful"
    assert activity["StatusMessage"] == (
        "Successfully set desired instance count to 2. Change successfully fulfilled by sagemaker."
    )
    assert activity["StartTime"] == moment(START)
    ended = world.sagemaker.describe_endpoint(EndpointName="e")["LastModifiedTime"]
    assert activity["EndTime"] == ended > activity["StartTime"]
    world.register(1, 1)
    world.wait(120)
    assert world.counts() == (1, 1)
    assert world.activities()[0]["Cause"] == "maximum capacity was set to 1"


def test_a_range_waits_until_the_endpoint_can_be_changed(world):
    world.register(2, 4)
    world.register(3, 4)
    assert world.counts() == (1, 2)
    world.wait(2 * LOADING_S)
    assert world.counts() == (3, 3)


def test_a_target_that_is_deregistered_is_gone_with_its_policies(world):
    world.register()
    world.put_policy()
    world.client.deregister_scalable_target(**VARIANT)
    for call, key in (
        (world.client.describe_scalable_targets, "ScalableTargets"),
        (world.client.describe_scaling_policies, "ScalingPolicies"),
    ):
        assert call(ServiceNamespace="sagemaker")[key] == []
    assert refusal(world.client.deregister_scalable_target, **VARIANT) == (
        "ObjectNotFoundException",
        "No scalable target registered for service namespace: sagemaker, resource ID: "
        "endpoint/e/variant/AllTraffic, scalable dimension: sagemaker:variant:DesiredInstanceCount",
    )
    world.wait(120)
    assert world.timeline.dump() == []


def test_an_endpoint_that_is_deleted_takes_its_targets_with_it(world):
    world.register()
    world.put_policy()
    world.sagemaker.delete_endpoint(EndpointName="e")
    assert (
        world.client.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
        == []
    )
    world.wait(120)
    assert world.timeline.dump() == []


def test_a_registered_variant_cannot_be_removed_or_retyped(world):
    world.register()
    catalog, parts = world.control.catalog, world.control.endpoints
    before = parts.fleet("e", "us-east-1")
    create_config(world.sagemaker, "smaller", "e-m", InstanceType="ml.inf2.24xlarge")
    create_config(world.sagemaker, "renamed", "e-m", VariantName="Other")
    endpoint = next(catalog.all(endpoints.ENDPOINT))
    for config in ("smaller", "renamed"):
        with pytest.raises(AwsError) as told:
            world.scaling.check_update(endpoint, before, parts._fleet(config, "us-east-1"))
        assert str(told.value) == (
            'The variant(s) "AllTraffic" must be deregistered as scalable targets with AWS Auto '
            "Scaling before they can be removed or have their instance type updated."
        )
    world.scaling.check_update(endpoint, before, parts._fleet("e-c", "us-east-1"))
    world.client.deregister_scalable_target(**VARIANT)
    world.scaling.check_update(endpoint, before, parts._fleet("smaller", "us-east-1"))


def test_tags_of_a_target_are_kept(world):
    arn = world.register(Tags={"a": "1"})["ScalableTargetARN"]
    code, message = refusal(lambda: world.register(Tags={"a": "2"}))
    assert (code, "use the TagResource API" in message) == ("ValidationException", True)
    world.client.tag_resource(ResourceARN=arn, Tags={"b": "2"})
    world.client.untag_resource(ResourceARN=arn, TagKeys=["a"])
    assert world.client.list_tags_for_resource(ResourceARN=arn)["Tags"] == {"b": "2"}
    many = {str(number): "" for number in range(50)}
    assert refusal(world.client.tag_resource, ResourceARN=arn, Tags=many)[0] == (
        "TooManyTagsException"
    )
    assert refusal(world.client.list_tags_for_resource, ResourceARN=arn + "0")[0] == (
        "ResourceNotFoundException"
    )


def test_targets_of_other_regions_are_not_seen(world, door):
    world.register()
    elsewhere = door.client("application-autoscaling", "us-west-2")
    assert (
        elsewhere.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []
    )
    assert refusal(elsewhere.deregister_scalable_target, **VARIANT)[0] == "ObjectNotFoundException"


# --- policies


def test_a_policy_is_described_as_aws_describes_it(world):
    world.register()
    put = without_metadata(world.put_policy(70.0, ScaleOutCooldown=60))
    high, low = put["Alarms"]
    name = "TargetTracking-endpoint/e/variant/AllTraffic-Alarm"
    assert high["AlarmName"].startswith(f"{name}High-")
    assert low["AlarmARN"].startswith(f"arn:aws:cloudwatch:us-east-1:123456789012:alarm:{name}Low-")
    (policy,) = world.client.describe_scaling_policies(ServiceNamespace="sagemaker")[
        "ScalingPolicies"
    ]
    assert policy == {
        "PolicyARN": put["PolicyARN"],
        "PolicyName": "p",
        **VARIANT,
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": {
            "TargetValue": 70.0,
            "PredefinedMetricSpecification": {"PredefinedMetricType": STANDARD},
            "ScaleOutCooldown": 60,
            "ScaleInCooldown": 300,
            "DisableScaleIn": False,
        },
        "Alarms": put["Alarms"],
        "CreationTime": moment(START),
    }
    assert put["PolicyARN"].endswith(
        ":resource/sagemaker/endpoint/e/variant/AllTraffic:policyName/p"
    )


def test_a_policy_that_may_not_scale_in_has_one_alarm(world):
    world.register()
    first = world.put_policy()
    again = world.put_policy(DisableScaleIn=True)
    assert again["PolicyARN"] == first["PolicyARN"]
    assert len(again["Alarms"]) == 1


def test_a_policy_needs_a_registered_variant(world):
    code, message = refusal(world.put_policy)
    assert code == "ObjectNotFoundException"
    assert message.startswith("No scalable target registered for service namespace: sagemaker, ")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"metric": "SageMakerVariantProvisionedConcurrencyUtilization"}, "scales production"),
        ({"metric": None}, "either a PredefinedMetricSpecification"),
        ({"target": 0}, "TargetValue must be greater"),
        ({"target": 1e-300}, "neither too small nor too large"),
        ({"ScaleInCooldown": -1}, "ScaleInCooldown must be 0 or greater"),
        (
            {
                "metric": None,
                "CustomizedMetricSpecification": {
                    "MetricName": "CPUUtilization",
                    "Namespace": "/aws/sagemaker/Endpoints",
                    "Dimensions": DIMENSIONS,
                    "Statistic": "Average",
                },
            },
            "tracks customized metrics of the variant itself",
        ),
    ],
)
def test_policies_that_are_not_offered_are_refused_by_name(world, given, words):
    world.register()
    code, message = refusal(lambda: world.put_policy(**given))
    assert code == "ValidationException"
    assert words in message


def test_other_types_of_policies_are_refused(world):
    world.register()
    code, message = refusal(
        world.client.put_scaling_policy,
        **VARIANT,
        PolicyName="p",
        PolicyType="StepScaling",
        StepScalingPolicyConfiguration={"AdjustmentType": "ChangeInCapacity"},
    )
    assert code == "ValidationException"
    assert "offers PolicyType TargetTrackingScaling" in message
    assert "not StepScaling" in message


def test_there_is_one_policy_a_metric(world):
    world.register()
    world.put_policy()
    world.put_policy(name="fast", metric=FAST)
    assert refusal(lambda: world.put_policy(name="second"))[1] == (
        "Only one TargetTrackingScaling policy for a given metric specification is allowed."
    )


def test_a_policy_that_is_deleted_is_gone(world):
    world.register()
    world.put_policy()
    world.client.delete_scaling_policy(**VARIANT, PolicyName="p")
    code, message = refusal(world.client.delete_scaling_policy, **VARIANT, PolicyName="p")
    assert code == "ObjectNotFoundException"
    assert message.startswith("No scaling policy found for service namespace: sagemaker, ")
    assert message.endswith(", policy name: p")
    world.wait(120)
    assert world.timeline.dump() == []


def test_lists_come_page_by_page(world):
    world.register()
    world.put_policy()
    world.put_policy(name="fast", metric=FAST)
    pages = list(
        world.client.get_paginator("describe_scaling_policies").paginate(
            ServiceNamespace="sagemaker", PaginationConfig={"PageSize": 1}
        )
    )
    assert [one["PolicyName"] for page in pages for one in page["ScalingPolicies"]] == ["fast", "p"]
    code, _ = refusal(
        world.client.describe_scaling_policies, ServiceNamespace="sagemaker", NextToken="?"
    )
    assert code == "InvalidNextTokenException"


def test_tags_that_are_awss_own_are_refused(world):
    code, message = refusal(world.register, Tags={"Aws:x": "1"})
    assert (code, "Aws:x" in message) == ("ValidationException", True)
    arn = world.register(Tags={"mine": "1"})["ScalableTargetARN"]
    code, _ = refusal(world.client.tag_resource, ResourceARN=arn, Tags={"aws:x": "1"})
    assert code == "ValidationException"
    assert world.client.list_tags_for_resource(ResourceARN=arn)["Tags"] == {"mine": "1"}


def test_other_namespaces_have_nothing(world):
    world.register()
    assert world.client.describe_scalable_targets(ServiceNamespace="ecs")["ScalableTargets"] == []


# --- scaling out


def test_load_adds_replicas_after_three_datapoints(world):
    world.register()
    policy = world.put_policy(10.0)
    world.load(2, 25)
    assert world.counts() == (1, 1)
    world.load(1, 25)
    assert world.counts() == (1, 3)  # 25 invocations a replica, 10 wanted
    (activity,) = world.activities()
    alarm = policy["Alarms"][0]["AlarmName"]
    assert activity["Cause"] == f"monitor alarm {alarm} in state ALARM triggered policy p"
    assert activity["Description"] == "Setting desired instance count to 3."
    assert activity["StartTime"] == moment(START + 180)
    world.load_until((3, 3), 25)
    assert world.story() == [("instance count to 3.", "Successful")]


def test_load_that_pauses_adds_nothing(world):
    world.register()
    world.put_policy(10.0)
    for a_minute in (25, 25, 5, 25, 25):
        world.load(1, a_minute)
    assert world.activities() == []


def test_load_on_target_adds_nothing(world):
    world.register()
    world.put_policy(10.0)
    world.load(20, 10)
    assert world.activities() == []


def test_no_more_replicas_than_the_maximum_are_added(world):
    world.register(1, 2)
    world.put_policy(10.0)
    world.load(3, 90)
    assert world.counts() == (1, 2)
    world.load_until((2, 2), 90)
    world.load(20, 90)
    assert world.counts() == (2, 2)


def test_a_second_scale_out_waits_for_the_cooldown(world):
    world.register(1, 4)
    world.put_policy(10.0, ScaleOutCooldown=600)
    world.load(3, 15)
    world.load_until((2, 2), 15)
    (activity,) = world.activities()
    ready = activity["EndTime"].timestamp() + 600
    while world.clock.now_s + 60 < ready:
        world.load(1, 60)
        assert world.counts() == (2, 2)
    world.load(2, 60)
    assert world.counts() == (2, 4)


def test_requests_at_a_time_add_replicas_within_half_a_minute(world):
    world.register()
    world.put_policy(4.0, FAST)
    world.hold(10)
    world.wait(20)
    assert world.counts() == (1, 1)
    world.wait(10)
    assert world.counts() == (1, 3)


def test_a_customized_metric_of_the_variant_is_tracked(world):
    world.register()
    world.put_policy(
        4.0,
        None,
        CustomizedMetricSpecification={
            "MetricName": "ConcurrentRequestsPerModel",
            "Namespace": "AWS/SageMaker",
            "Dimensions": DIMENSIONS[::-1],
            "Statistic": "Average",
        },
    )
    world.hold(8)
    world.wait(180)
    assert world.counts() == (1, 2)


def test_a_quota_that_is_reached_is_a_failed_activity(world):
    world.limit = 1
    world.register()
    world.put_policy(10.0)
    world.load(3, 25)
    (activity,) = world.activities()
    assert activity["StatusCode"] == "Failed"
    assert activity["EndTime"] == activity["StartTime"]
    assert activity["StatusMessage"].startswith(
        "Failed to set desired instance count to 3. Reason: The account-level service limit "
        "'ml.inf2.48xlarge for endpoint usage' is 1 Instances, with current utilization of 1 "
        "Instances and a request delta of 2 Instances."
    )
    assert (
        "(Service: AmazonSageMaker; Status Code: 400; Error Code: ResourceLimitExceeded; "
        in (activity["StatusMessage"])
    )
    world.limit = 20
    world.load(1, 25)
    assert world.story()[-1] == ("instance count to 3.", "InProgress")


def test_replicas_that_never_come_leave_an_unfulfilled_activity(world):
    world.register()
    world.put_policy(10.0)
    world.faults.add("no-capacity", {})
    world.load(3, 25)
    world.wait(endpoints.NO_CAPACITY_S + 60)
    assert world.counts() == (1, 1)
    assert world.story() == [("instance count to 3.", "Unfulfilled")]


def test_an_activity_ends_though_its_target_was_deregistered(world):
    world.register(2)
    world.client.deregister_scalable_target(**VARIANT)
    assert world.story() == [("instance count to 2.", "InProgress")]
    world.restart()
    world.wait(LOADING_S)
    assert world.story() == [("instance count to 2.", "Successful")]


def test_an_activity_has_ended_before_its_endpoint_was_deleted(world):
    world.register(2)
    world.clock.now_s += LOADING_S  # nobody looks meanwhile
    world.sagemaker.delete_endpoint(EndpointName="e")
    world.wait(endpoints.DELETING_S + 60)
    (activity,) = world.activities()
    assert activity["StatusCode"] == "Successful"
    assert activity["StartTime"] < activity["EndTime"] < moment(START + LOADING_S)


def test_state_that_names_the_activity_under_way_restores(world):
    world.register(2)
    dumped = world.scaling.dump()
    dumped["targets"][0]["activity"] = dumped["activities"][0]["ActivityId"]
    world.scaling.restore(json.loads(json.dumps(dumped)))
    world.wait(LOADING_S)
    assert world.story() == [("instance count to 2.", "Successful")]


def test_scaling_that_is_suspended_does_nothing(world):
    world.register(SuspendedState={"DynamicScalingOutSuspended": True})
    world.put_policy(10.0)
    world.load(4, 25)
    assert world.activities() == []
    world.client.register_scalable_target(
        **VARIANT, SuspendedState={"DynamicScalingOutSuspended": False}
    )
    world.load(1, 25)
    assert world.counts() == (1, 3)


def test_an_endpoint_that_is_being_changed_is_left_alone(world):
    world.register()
    world.put_policy(10.0)
    world.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="e",
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 2}],
    )
    world.load(5, 60)
    assert world.activities() == []


def test_only_endpoints_that_are_watched_are_scaled(world):
    world.register()
    world.load(20, 90)
    assert world.counts() == (1, 1)


# --- scaling in


@pytest.fixture
def big(world):
    """The same with three replicas, and a policy."""
    world.register(3, 4)
    world.wait(LOADING_S)
    world.register(1, 4)
    world.put_policy(10.0)
    return world


def test_replicas_go_when_the_load_is_gone_for_fifteen_minutes(big):
    big.load(5, 29)
    big.load(14, 0)
    assert big.counts() == (3, 3)
    big.wait(60)
    assert big.counts() == (3, 1)
    assert "-AlarmLow-" in big.activities()[0]["Cause"]
    big.wait(60)
    assert big.counts() == (1, 1)


def test_less_load_takes_as_many_as_it_does_not_need(big):
    big.load(15, 15)  # 5 a replica, 10 wanted
    assert big.counts() == (3, 2)


def test_a_load_a_little_below_the_target_takes_none(big):
    big.load(20, 28)  # 9.3 a replica
    assert big.counts() == (3, 3)


def test_a_second_scale_in_waits_for_the_cooldown(big):
    big.load(16, 15)
    assert big.counts() == (2, 2)
    ended = big.activities()[0]["EndTime"]
    big.load_until((2, 1), 0)
    second = big.activities()[0]["StartTime"]
    assert timedelta(seconds=300) <= second - ended <= timedelta(seconds=360)


def test_a_policy_that_may_not_scale_in_does_not(big):
    big.put_policy(10.0, DisableScaleIn=True)
    big.load(30, 0)
    assert big.counts() == (3, 3)


def test_scaling_in_that_is_suspended_does_nothing(big):
    big.register(SuspendedState={"DynamicScalingInSuspended": True})
    big.load(30, 0)
    assert big.counts() == (3, 3)


def test_no_replica_goes_while_another_policy_needs_it(big):
    big.put_policy(4.0, FAST, "fast")
    end = big.hold(12)
    big.wait(1800)
    assert big.counts() == (3, 3)
    end()
    big.wait(960)
    assert big.counts() == (3, 1)


def test_load_comes_goes_and_comes_again(world):
    world.register()
    world.put_policy(10.0, ScaleOutCooldown=60, ScaleInCooldown=60)
    world.load(3, 35)
    world.wait(LOADING_S + 120)
    assert world.counts() == (1, 1)
    world.load(3, 15)
    assert world.counts() == (1, 2)
    assert [words for words, _ in world.story()] == [
        "instance count to 4.",
        "instance count to 1.",
        "instance count to 2.",
    ]


# --- what lasts


def test_targets_policies_and_their_datapoints_survive_a_restart(world):
    arn = world.register(Tags={"a": "1"})["ScalableTargetARN"]
    put = world.put_policy(10.0)
    world.load(2, 25)
    world.restart()
    assert world.client.list_tags_for_resource(ResourceARN=arn)["Tags"] == {"a": "1"}
    (policy,) = world.client.describe_scaling_policies(ServiceNamespace="sagemaker")[
        "ScalingPolicies"
    ]
    assert policy["Alarms"] == put["Alarms"]
    world.load(1, 25)
    assert world.counts() == (1, 3)
    world.restart()
    world.load_until((3, 3), 25)
    assert world.story() == [("instance count to 3.", "Successful")]


def test_activities_are_forgotten_after_six_weeks(world):
    world.register(2)
    world.wait(LOADING_S)
    world.clock.now_s += autoscaling.KEPT_S
    world.register(3)
    assert [words for words, _ in world.story()] == ["instance count to 3."]


@pytest.mark.skipif(not hasattr(Timeline, "now"), reason="events have no time of their own yet")
def test_the_story_is_the_same_whoever_looks_at_it_when(door):
    def story(step_s):
        world = World(door)
        world.register(1, 4)
        world.put_policy(10.0, ScaleInCooldown=120)
        world.load(3, 35)
        world.wait(4 * 3600, step_s)
        return [
            (one["Description"], one["StatusCode"], one["StartTime"], one["EndTime"])
            for one in world.activities()
        ]

    assert story(10) == story(97) == story(4 * 3600)
    assert len(story(10)) == 2
