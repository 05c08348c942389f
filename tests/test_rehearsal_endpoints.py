"""Endpoints that are updated, scaled, rolled back and deleted, asked by boto3 over HTTP."""

import base64

import pytest
from botocore.exceptions import ClientError
from small_aws import (
    ARN,
    PING,
    World,
    create_config,
    create_endpoint,
    create_model,
    status_of,
)

from helpers.rehearsal.aws import endpoints, startup

IN_SERVICE_S = 3600


@pytest.fixture(scope="module")
def world():
    world = World()
    yield world
    world.close()


@pytest.fixture
def sagemaker(world):
    """A client of an account with one endpoint, `e`, in service."""
    world.empty()
    client = world.client("sagemaker")
    create_endpoint(client)
    world.clock.now_s += IN_SERVICE_S
    assert status_of(client) == "InService"
    return client


def scale(client, count, name="e", **more):
    wanted = {"VariantName": "AllTraffic", "DesiredInstanceCount": count, **more}
    return client.update_endpoint_weights_and_capacities(
        EndpointName=name, DesiredWeightsAndCapacities=[wanted]
    )


def counts(client):
    """Current and desired replicas of the endpoint's only variant."""
    (variant,) = client.describe_endpoint(EndpointName="e")["ProductionVariants"]
    return variant["CurrentInstanceCount"], variant["DesiredInstanceCount"]


def refusal(call, **arguments):
    with pytest.raises(ClientError) as error:
        call(**arguments)
    told = error.value.response["Error"]
    return told["Code"], told["Message"]


# --- replicas


def test_more_replicas_serve_once_they_have_loaded_the_model(sagemaker, world):
    assert scale(sagemaker, 3)["EndpointArn"] == f"{ARN}:endpoint/e"
    assert (status_of(sagemaker), counts(sagemaker)) == ("Updating", (1, 3))
    assert world.control.serving("e").instance_count == 1
    world.clock.now_s += 1800  # 70B takes 31 minutes
    assert (status_of(sagemaker), counts(sagemaker)) == ("Updating", (1, 3))
    world.clock.now_s += 120
    assert (status_of(sagemaker), counts(sagemaker)) == ("InService", (3, 3))
    assert world.control.serving("e").instance_count == 3


def test_every_replica_has_a_log_stream_of_its_own(sagemaker, world):
    create_endpoint(sagemaker, "three", InitialInstanceCount=3)
    world.clock.now_s += IN_SERVICE_S
    scale(sagemaker, 4, name="three")
    world.clock.now_s += IN_SERVICE_S
    logs = world.client("logs")
    group = "/aws/sagemaker/Endpoints/three"
    streams = logs.describe_log_streams(logGroupName=group)["logStreams"]
    names = [stream["logStreamName"] for stream in streams]
    assert len(set(names)) == 4
    for name in names:
        events = logs.get_log_events(logGroupName=group, logStreamName=name, startFromHead=True)
        assert [event["message"] for event in events["events"]].count("Connected") == 1


def test_fewer_replicas_take_a_minute_and_keep_the_containers(sagemaker, world):
    scale(sagemaker, 2)
    world.clock.now_s += IN_SERVICE_S
    before = world.control.serving("e").uid
    scale(sagemaker, 1)
    assert (status_of(sagemaker), counts(sagemaker)) == ("Updating", (2, 1))
    world.clock.now_s += endpoints.SCALE_IN_S + 1
    assert (status_of(sagemaker), counts(sagemaker)) == ("InService", (1, 1))
    assert world.control.serving("e").uid == before


def test_a_weight_changes_without_a_new_machine(sagemaker, world):
    scale(sagemaker, 1, DesiredWeight=0.25)
    world.clock.now_s += endpoints.SCALE_IN_S + 1
    (variant,) = sagemaker.describe_endpoint(EndpointName="e")["ProductionVariants"]
    assert (variant["CurrentWeight"], variant["DesiredWeight"]) == (0.25, 0.25)


def create_pair(client, **counts):
    """An endpoint `pair` with two variants of one instance type, each with its own model."""
    for name in counts:
        create_model(client, name)
    variant = {"InstanceType": "ml.inf2.48xlarge"}
    variant["ContainerStartupHealthCheckTimeoutInSeconds"] = 2400
    client.create_endpoint_config(
        EndpointConfigName="pair",
        ProductionVariants=[
            {"VariantName": name, "ModelName": name, "InitialInstanceCount": count, **variant}
            for name, count in counts.items()
        ],
    )
    client.create_endpoint(EndpointName="pair", EndpointConfigName="pair")


def scale_pair(client, **counts):
    wanted = [{"VariantName": name, "DesiredInstanceCount": n} for name, n in counts.items()]
    client.update_endpoint_weights_and_capacities(
        EndpointName="pair", DesiredWeightsAndCapacities=wanted
    )


def test_replicas_that_move_to_another_variant_start_there(sagemaker, world):
    create_pair(sagemaker, a=3, b=1)
    world.clock.now_s += IN_SERVICE_S
    scale_pair(sagemaker, a=1, b=3)
    world.clock.now_s += 1800  # 70B takes 31 minutes
    assert status_of(sagemaker, "pair") == "Updating"
    world.clock.now_s += 120
    assert status_of(sagemaker, "pair") == "InService"
    logs = world.client("logs")
    streams = logs.describe_log_streams(logGroupName="/aws/sagemaker/Endpoints/pair")["logStreams"]
    names = sorted(one["logStreamName"].partition("/")[0] for one in streams)
    assert names == ["a"] * 3 + ["b"] * 3


def test_only_variants_that_grow_are_started(sagemaker, world, monkeypatch):
    create_pair(sagemaker, a=1, b=1, c=2)
    world.clock.now_s += IN_SERVICE_S
    planned = []

    def plan(image, env, *, variant, **more):
        planned.append(variant)
        return startup.Startup(400.0, None, ())

    monkeypatch.setattr(startup, "plan", plan)
    scale_pair(sagemaker, b=2, c=1)
    world.clock.now_s += 401
    assert (planned, status_of(sagemaker, "pair")) == (["b"], "InService")


def test_volume_and_ami_of_a_variant_decide_about_its_start(sagemaker, world, monkeypatch):
    planned = []

    def plan(image, env, **more):
        planned.append((more["volume_gb"], more["inference_ami"]))
        return startup.Startup(400.0, None, ())

    monkeypatch.setattr(startup, "plan", plan)
    ami = "al2-ami-sagemaker-inference-neuron-2"
    create_endpoint(sagemaker, "f", VolumeSizeInGB=256, InferenceAmiVersion=ami)
    create_endpoint(sagemaker, "g")
    assert planned == [(256, ami), (None, None)]


def test_an_endpoint_that_is_being_changed_cannot_be_changed_or_deleted(sagemaker, world):
    scale(sagemaker, 2)
    words = ("ValidationException", f'Cannot update in-progress endpoint "{ARN}:endpoint/e".')
    assert refusal(scale, client=sagemaker, count=3) == words
    assert refusal(sagemaker.delete_endpoint, EndpointName="e") == words
    update = {"EndpointName": "e", "EndpointConfigName": "e-c"}
    assert refusal(sagemaker.update_endpoint, **update) == words
    world.clock.now_s += IN_SERVICE_S
    sagemaker.delete_endpoint(EndpointName="e")


def test_more_replicas_than_the_quota_are_refused_and_change_nothing(sagemaker):
    code, message = refusal(scale, client=sagemaker, count=21)
    assert code == "ResourceLimitExceeded"
    assert "current utilization of 1 Instances and a request delta of 20 Instances" in message
    assert (status_of(sagemaker), counts(sagemaker)) == ("InService", (1, 1))


def test_replicas_on_their_way_count_against_the_quota(sagemaker):
    scale(sagemaker, 20)
    create_config(sagemaker, "one-more", "e-m")
    code, message = refusal(
        sagemaker.create_endpoint, EndpointName="f", EndpointConfigName="one-more"
    )
    assert (code, "utilization of 20 Instances" in message) == ("ResourceLimitExceeded", True)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"VariantName": "other", "DesiredInstanceCount": 2}, 'Could not find variant "other"'),
        ({"VariantName": "AllTraffic", "DesiredInstanceCount": 0}, "needs at least one instance"),
        (
            {
                "VariantName": "AllTraffic",
                "ServerlessUpdateConfig": {"MaxConcurrency": 1},
            },
            "instance-based endpoints only",
        ),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(sagemaker, wanted, words):
    code, message = refusal(
        sagemaker.update_endpoint_weights_and_capacities,
        EndpointName="e",
        DesiredWeightsAndCapacities=[wanted],
    )
    assert (code, words in message) == ("ValidationException", True)
    assert status_of(sagemaker) == "InService"


# --- a new configuration


def test_an_update_serves_from_the_old_containers_until_the_new_ones_are_there(sagemaker, world):
    create_config(sagemaker, "larger", "e-m", InitialInstanceCount=2)
    before = world.control.serving("e").uid
    sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="larger")
    told = sagemaker.describe_endpoint(EndpointName="e")
    assert (told["EndpointStatus"], told["EndpointConfigName"]) == ("Updating", "e-c")
    pending = told["PendingDeploymentSummary"]
    assert pending["EndpointConfigName"] == "larger"
    assert pending["ProductionVariants"][0]["DesiredInstanceCount"] == 2
    assert world.control.serving("e").uid == before
    world.clock.now_s += IN_SERVICE_S
    told = sagemaker.describe_endpoint(EndpointName="e")
    assert (told["EndpointStatus"], told["EndpointConfigName"]) == ("InService", "larger")
    assert "PendingDeploymentSummary" not in told
    assert world.control.serving("e").uid != before
    assert counts(sagemaker) == (2, 2)


def test_an_update_may_keep_the_replicas_that_scaling_has_made(sagemaker, world):
    scale(sagemaker, 3)
    world.clock.now_s += IN_SERVICE_S
    create_config(sagemaker, "next", "e-m")
    for retain, count in ((True, 3), (False, 1)):
        sagemaker.update_endpoint(
            EndpointName="e", EndpointConfigName="next", RetainAllVariantProperties=retain
        )
        world.clock.now_s += IN_SERVICE_S
        assert counts(sagemaker) == (count, count)


def test_an_update_that_does_not_start_leaves_the_old_containers_in_service(sagemaker, world):
    create_model(sagemaker, "wrong", MAX_BATCH_SIZE="5")
    create_config(sagemaker, "wrong", "wrong")
    before = world.control.serving("e").uid
    sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="wrong")
    world.clock.now_s += IN_SERVICE_S
    told = sagemaker.describe_endpoint(EndpointName="e")
    assert (told["EndpointStatus"], told["EndpointConfigName"]) == ("InService", "e-c")
    assert told["FailureReason"] == PING
    assert world.control.serving("e").uid == before
    scale(sagemaker, 2)
    assert "FailureReason" not in sagemaker.describe_endpoint(EndpointName="e")


def test_an_update_needs_room_for_both_fleets(sagemaker, world):
    scale(sagemaker, 11)
    world.clock.now_s += IN_SERVICE_S
    create_config(sagemaker, "as-many", "e-m", InitialInstanceCount=11)
    code, message = refusal(
        sagemaker.update_endpoint, EndpointName="e", EndpointConfigName="as-many"
    )
    assert (code, "utilization of 11" in message) == ("ResourceLimitExceeded", True)


def test_an_endpoint_whose_configuration_is_gone_cannot_be_updated(sagemaker):
    create_config(sagemaker, "next", "e-m")
    sagemaker.delete_endpoint_config(EndpointConfigName="e-c")
    told = refusal(sagemaker.update_endpoint, EndpointName="e", EndpointConfigName="next")
    assert told[1] == f'Could not find endpoint configuration "{ARN}:endpoint-config/e-c".'
    assert status_of(sagemaker) == "InService"


def test_who_holds_containers_is_told_when_they_are_gone(sagemaker, world):
    gone = []
    world.control.endpoints.on_retired.append(lambda uid, drain: gone.append((uid, drain)))
    first = world.control.serving("e").uid
    sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="e-c")
    world.clock.now_s += IN_SERVICE_S
    second = world.control.serving("e").uid
    sagemaker.delete_endpoint(EndpointName="e")
    world.clock.now_s += endpoints.DELETING_S + 1
    with pytest.raises(ClientError, match="Could not find endpoint"):
        sagemaker.describe_endpoint(EndpointName="e")
    assert gone == [(first, True), (second, False)]


# --- faults


def test_without_capacity_an_endpoint_fails_with_awss_reason(sagemaker, world):
    world.faults.add("no-capacity", {})
    create_endpoint(sagemaker, "f")
    world.clock.now_s += endpoints.NO_CAPACITY_S + 1
    told = sagemaker.describe_endpoint(EndpointName="f")
    assert told["EndpointStatus"] == "Failed"
    assert told["FailureReason"].startswith("Unable to provision requested ML compute capacity")


def test_without_capacity_in_one_region_the_next_has_it(sagemaker, world):
    world.faults.add("no-capacity", {"regions": 1})
    elsewhere = world.client("sagemaker", "us-west-2")
    create_endpoint(sagemaker, "f")
    create_endpoint(elsewhere, "f")
    world.clock.now_s += 3 * 3600
    told = [one.describe_endpoint(EndpointName="f") for one in (sagemaker, elsewhere)]
    assert [one["EndpointStatus"] for one in told] == ["Failed", "InService"]


def test_without_capacity_scaling_out_leaves_the_replicas_there_were(sagemaker, world):
    world.faults.add("no-capacity", {})
    scale(sagemaker, 4)
    world.clock.now_s += endpoints.NO_CAPACITY_S + 1
    assert (status_of(sagemaker), counts(sagemaker)) == ("InService", (1, 1))
    told = sagemaker.describe_endpoint(EndpointName="e")
    assert "InsufficientInstanceCapacity" in told["FailureReason"]


def test_a_license_that_was_not_accepted_stands_in_the_containers_log_only(sagemaker, world):
    world.faults.add("gated-model", {})
    create_endpoint(sagemaker, "gated")
    world.clock.now_s += IN_SERVICE_S
    assert sagemaker.describe_endpoint(EndpointName="gated")["FailureReason"] == PING
    last = world.container_log("gated")[-1]["message"]
    assert last.startswith("403 Client Error")
    assert "you are not in the authorized list" in last


def test_a_container_that_never_answers_fails_when_its_time_is_up(sagemaker, world):
    world.faults.add("health-check", {})
    create_endpoint(sagemaker, "silent")
    world.clock.now_s += startup.INSTANCE_S + 2399
    assert status_of(sagemaker, "silent") == "Creating"
    world.clock.now_s += 2
    assert sagemaker.describe_endpoint(EndpointName="silent")["FailureReason"] == PING
    assert world.container_log("silent")[-1]["message"].startswith("Loading the compiled model")


# --- lists and tags


def test_a_page_token_is_good_for_its_own_list_only(sagemaker, world):
    for name in ("one", "two", "three"):
        create_model(sagemaker, name)
        create_config(sagemaker, f"{name}-c", name)
    token = sagemaker.list_models(MaxResults=1)["NextToken"]
    assert sagemaker.list_models(MaxResults=2, NextToken=token)["Models"]
    forged = base64.b64encode(base64.b64decode(token)[12:]).decode()
    wrong = ("ValidationException", "The NextToken is not one that this operation gave out.")
    west = world.client("sagemaker", "us-west-2")
    for call, given in (
        (sagemaker.list_endpoint_configs, {"NextToken": token}),
        (sagemaker.list_models, {"NextToken": token, "NameContains": "o"}),
        (sagemaker.list_models, {"NextToken": token, "SortBy": "Name"}),
        (sagemaker.list_models, {"NextToken": forged}),
        (sagemaker.list_models, {"NextToken": token[:-4]}),
        (sagemaker.list_models, {"NextToken": "QQ=="}),
        (sagemaker.list_models, {"NextToken": "é"}),
        (sagemaker.list_tags, {"NextToken": token, "ResourceArn": f"{ARN}:endpoint/e"}),
        (west.list_models, {"NextToken": token}),
    ):
        assert refusal(call, **given) == wrong


@pytest.mark.parametrize("key", ["aws:cloudformation:stack-name", "AWS:mine", "aWs:"])
def test_tags_that_are_awss_own_are_refused(sagemaker, key):
    arn = f"{ARN}:endpoint/e"
    tags = [{"Key": "awsome", "Value": "v"}, {"Key": key, "Value": "v"}]
    code, message = refusal(sagemaker.add_tags, ResourceArn=arn, Tags=tags)
    assert (code, key in message) == ("ValidationException", True)
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == []
    new = {"EndpointName": "f", "EndpointConfigName": "e-c", "Tags": tags}
    assert refusal(sagemaker.create_endpoint, **new)[0] == "ValidationException"
    sagemaker.add_tags(ResourceArn=arn, Tags=tags[:1])


# --- state


def test_a_state_file_from_before_volume_and_ami_restores(sagemaker, world):
    dumped = world.control.endpoints.dump()
    for life in dumped.values():
        for variant in life["fleet"]["variants"]:
            del variant["volume_gb"], variant["inference_ami"]
    world.control.endpoints.restore(dumped)
    assert counts(sagemaker) == (1, 1)


def test_everything_is_there_again_after_a_restart(sagemaker, world):
    create_config(sagemaker, "larger", "e-m", InitialInstanceCount=2)
    sagemaker.add_tags(ResourceArn=f"{ARN}:endpoint/e", Tags=[{"Key": "k", "Value": "v"}])
    sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="larger")
    create_endpoint(sagemaker, "young")
    kept = world.restarted()
    assert sagemaker.list_tags(ResourceArn=f"{ARN}:endpoint/e")["Tags"][0]["Value"] == "v"
    assert (status_of(sagemaker), status_of(sagemaker, "young")) == ("Updating", "Creating")
    world.clock.now_s += IN_SERVICE_S
    assert (status_of(sagemaker), status_of(sagemaker, "young")) == ("InService", "InService")
    assert counts(sagemaker) == (2, 2)
    assert world.container_log("young")[-1]["message"] == "Connected"
    assert world.control.journal() == kept["control"]["journal"]
