"""SageMaker's control plane in rehearsal, asked by boto3 over HTTP, on a clock that tests set."""

import asyncio
import json
import logging
from collections import Counter
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import ClientError
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from small_aws import (
    ARN,
    GUIDE_ENV,
    ORIGIN,
    PING,
    RECIPE,
    ROLE,
    SetClock,
    World,
    create_config,
    create_endpoint,
    create_model,
    image,
    moment,
    status_of,
    without_metadata,
)

from helpers import contracts, messages, recipes
from helpers.rehearsal import hub, launch, routes
from helpers.rehearsal.aws import services, shapes, startup
from helpers.rehearsal.server import Server

VARIANT = {
    "ModelName": "m",
    "InstanceType": "ml.inf2.48xlarge",
    "InitialInstanceCount": 1,
    "ContainerStartupHealthCheckTimeoutInSeconds": 3600,
}


@pytest.fixture(scope="module")
def world():
    world = World()
    yield world
    world.close()


@pytest.fixture
def sagemaker(world):
    """A client of an account with nothing in it."""
    world.empty()
    return world.client("sagemaker")


# --- models and endpoint configurations


def test_a_model_is_described_as_it_was_created(sagemaker, world):
    assert create_model(sagemaker, "My-Model")["ModelArn"] == f"{ARN}:model/my-model"
    assert without_metadata(sagemaker.describe_model(ModelName="My-Model")) == {
        "ModelName": "My-Model",
        "ModelArn": f"{ARN}:model/my-model",
        "CreationTime": moment(world.clock.time()),
        "ExecutionRoleArn": ROLE,
        "EnableNetworkIsolation": False,
        "PrimaryContainer": {"Image": image(), "Mode": "SingleModel", "Environment": GUIDE_ENV},
    }


def test_a_configuration_is_described_as_it_was_created(sagemaker, world):
    create_model(sagemaker)
    arn = create_config(sagemaker, VolumeSizeInGB=512)["EndpointConfigArn"]
    assert without_metadata(sagemaker.describe_endpoint_config(EndpointConfigName="c")) == {
        "EndpointConfigName": "c",
        "EndpointConfigArn": arn,
        "CreationTime": moment(world.clock.time()),
        "ProductionVariants": [
            {
                "VariantName": "AllTraffic",
                "ModelName": "m",
                "InstanceType": "ml.inf2.48xlarge",
                "InitialInstanceCount": 1,
                "InitialVariantWeight": 1.0,
                "ContainerStartupHealthCheckTimeoutInSeconds": 2400,
                "VolumeSizeInGB": 512,
            }
        ],
    }


def test_names_are_unique_whatever_their_capitals(sagemaker):
    create_endpoint(sagemaker, "e")
    for noun, arn, again in (
        ("model", "model/e-m", lambda: create_model(sagemaker, "E-m")),
        (
            "endpoint configuration",
            "endpoint-config/e-c",
            lambda: create_config(sagemaker, "E-c", "e-m"),
        ),
        (
            "endpoint",
            "endpoint/e",
            lambda: sagemaker.create_endpoint(EndpointName="E", EndpointConfigName="e-c"),
        ),
    ):
        with pytest.raises(ClientError) as error:
            again()
        assert error.value.response["Error"] == {
            "Code": "ValidationException",
            "Message": f'Cannot create already existing {noun} "{ARN}:{arn}".',
        }
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_what_is_not_there_cannot_be_described_deleted_or_built_upon(sagemaker):
    create_model(sagemaker)
    for ask, noun, arn in (
        (lambda: sagemaker.describe_model(ModelName="X"), "model", "model/x"),
        (lambda: sagemaker.delete_model(ModelName="X"), "model", "model/x"),
        (lambda: create_config(sagemaker, model="X"), "model", "model/x"),
        (
            lambda: sagemaker.describe_endpoint_config(EndpointConfigName="X"),
            "endpoint configuration",
            "endpoint-config/x",
        ),
        (
            lambda: sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="X"),
            "endpoint configuration",
            "endpoint-config/x",
        ),
        (lambda: sagemaker.describe_endpoint(EndpointName="X"), "endpoint", "endpoint/x"),
        (lambda: sagemaker.delete_endpoint(EndpointName="X"), "endpoint", "endpoint/x"),
        (lambda: sagemaker.list_tags(ResourceArn=f"{ARN}:endpoint/x"), "endpoint", "endpoint/x"),
    ):
        with pytest.raises(ClientError) as error:
            ask()
        message = error.value.response["Error"]["Message"]
        assert message == f'Could not find {noun} "{ARN}:{arn}".'


def test_regions_do_not_see_each_other(sagemaker, world):
    create_model(sagemaker)
    elsewhere = world.client("sagemaker", "eu-west-1")
    assert elsewhere.list_models()["Models"] == []
    assert "eu-west-1" in create_model(elsewhere)["ModelArn"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"ExecutionRoleArn": ROLE}, "exactly one PrimaryContainer"),
        ({"ExecutionRoleArn": ROLE, "Containers": [{"Image": image()}]}, "exactly one"),
        ({"ExecutionRoleArn": ROLE, "PrimaryContainer": {}}, "needs the PrimaryContainer's Image"),
        ({"PrimaryContainer": {"Image": image()}}, "Execution role is required"),
    ],
)
def test_a_model_needs_a_container_and_a_role(sagemaker, request_, words):
    with pytest.raises(ClientError, match=words):
        sagemaker.create_model(ModelName="m", **request_)
    assert sagemaker.list_models()["Models"] == []


@pytest.mark.parametrize(
    "address",
    [
        "ubuntu:latest",
        "public.ecr.aws/docker/library/ubuntu:latest",
        "1.dkr.ecr/x:latest",
        "evil.example/123456789012.dkr.ecr.us-east-1.amazonaws.com/x:1",
    ],
)
def test_an_image_outside_ecr_is_refused_in_awss_words(sagemaker, address):
    container = {"Image": address}
    with pytest.raises(ClientError) as error:
        sagemaker.create_model(ModelName="m", ExecutionRoleArn=ROLE, PrimaryContainer=container)
    assert error.value.response["Error"] == {
        "Code": "ValidationException",
        "Message": f'Using non-ECR image "{address}" without Vpc repository access mode is not '
        "supported.",
    }


@pytest.mark.parametrize(
    "address",
    [
        "123456789012.dkr.ecr.eu-west-3.amazonaws.com/a/b:1",
        "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com/a@sha256:" + "0" * 64,
        "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/a",
        "123456789012.dkr-ecr.us-east-1.on.aws/a:1",
    ],
)
def test_every_private_registry_is_ecr(sagemaker, address):
    container = {"Image": address}
    sagemaker.create_model(ModelName="m", ExecutionRoleArn=ROLE, PrimaryContainer=container)
    assert sagemaker.describe_model(ModelName="m")["PrimaryContainer"]["Image"] == address


@pytest.mark.parametrize("member", ["ModelName", "InstanceType", "InitialInstanceCount"])
def test_a_variant_says_what_runs_on_what(sagemaker, member):
    create_model(sagemaker)
    with pytest.raises(ClientError, match=f"AllTraffic needs {member}"):
        create_config(sagemaker, **{member: None})


def test_variants_have_different_names(sagemaker):
    create_model(sagemaker)
    variant = {"VariantName": "v", "ModelName": "m"}
    variant |= {"InstanceType": "ml.inf2.xlarge", "InitialInstanceCount": 1}
    with pytest.raises(ClientError, match="must be unique"):
        sagemaker.create_endpoint_config(
            EndpointConfigName="c", ProductionVariants=[variant, variant]
        )


# --- an endpoint's life


def test_an_endpoint_comes_up_after_half_an_hour(sagemaker, world):
    start = world.clock.time()
    create_endpoint(sagemaker)
    for minute in range(30):
        world.clock.now_s = start + minute * 60 - 20
        assert status_of(sagemaker) == "Creating"
    world.clock.now_s = start + 1900
    described = without_metadata(sagemaker.describe_endpoint(EndpointName="e"))
    summary = described.pop("ProductionVariants")[0]
    up_s = described.pop("LastModifiedTime").timestamp()
    assert start + 1800 < up_s < start + 1900
    assert described == {
        "EndpointName": "e",
        "EndpointArn": f"{ARN}:endpoint/e",
        "EndpointConfigName": "e-c",
        "EndpointStatus": "InService",
        "CreationTime": moment(start),
    }
    assert summary.pop("DeployedImages")[0]["SpecifiedImage"] == image()
    assert summary == {
        "VariantName": "AllTraffic",
        "CurrentWeight": 1.0,
        "DesiredWeight": 1.0,
        "CurrentInstanceCount": 1,
        "DesiredInstanceCount": 1,
    }


def test_botos_own_waiters_follow_an_endpoint_through_its_life(sagemaker, world):
    create_endpoint(sagemaker)
    world.clock.now_s += 3600
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="e")
    sagemaker.delete_endpoint(EndpointName="e")
    assert status_of(sagemaker) == "Deleting"
    world.clock.now_s += 14
    assert status_of(sagemaker) == "Deleting"
    world.clock.now_s += 2
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="e")
    assert sagemaker.list_endpoints()["Endpoints"] == []


def test_a_name_is_free_again_once_its_endpoint_is_gone(sagemaker, world):
    create_endpoint(sagemaker)
    world.clock.now_s += 3600
    sagemaker.delete_endpoint(EndpointName="e")
    with pytest.raises(ClientError, match="already existing endpoint"):
        sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="e-c")
    world.clock.now_s += 20
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="e-c")
    assert status_of(sagemaker) == "Creating"


@pytest.mark.parametrize("after_s", [0, 600])
def test_an_endpoint_under_way_cannot_be_deleted(sagemaker, world, after_s):
    create_endpoint(sagemaker)
    world.clock.now_s += after_s
    with pytest.raises(ClientError, match="Cannot update in-progress endpoint") as error:
        sagemaker.delete_endpoint(EndpointName="e")
    assert f'"{ARN}:endpoint/e"' in str(error.value)
    assert status_of(sagemaker) == "Creating"


def test_a_model_and_a_configuration_in_use_can_be_deleted(sagemaker, world):
    create_endpoint(sagemaker)
    sagemaker.delete_model(ModelName="e-m")
    sagemaker.delete_endpoint_config(EndpointConfigName="e-c")
    world.clock.now_s += 3600
    assert status_of(sagemaker) == "InService"


def test_a_container_that_refuses_ends_as_failed_and_says_why_in_its_log(sagemaker, world):
    start = world.clock.time()
    create_endpoint(sagemaker, "refused", env={"HF_BATCH_SIZE": "3", "MAX_BATCH_SIZE": "3"})
    world.clock.now_s = start + 2690
    assert status_of(sagemaker, "refused") == "Creating"
    world.clock.now_s = start + 2710
    described = sagemaker.describe_endpoint(EndpointName="refused")
    assert described["EndpointStatus"] == "Failed"
    assert described["FailureReason"] == PING
    lines = [event["message"] for event in world.container_log("refused")]
    assert "rehearsal" in lines[0]
    assert lines[-1].startswith("No cached version found for meta-llama/Meta-Llama-3-70B-Instruct")
    sagemaker.delete_endpoint(EndpointName="refused")
    world.clock.now_s += 16
    assert sagemaker.list_endpoints()["Endpoints"] == []


def test_a_container_that_loads_too_long_ends_as_failed(sagemaker, world):
    create_endpoint(sagemaker, "slow", ContainerStartupHealthCheckTimeoutInSeconds=600)
    world.clock.now_s += 899
    assert status_of(sagemaker, "slow") == "Creating"
    world.clock.now_s += 2
    assert sagemaker.describe_endpoint(EndpointName="slow")["FailureReason"] == PING
    assert "Connected" not in [event["message"] for event in world.container_log("slow")]


def test_without_a_time_out_of_its_own_a_70b_model_does_not_come_up(sagemaker, world):
    create_endpoint(sagemaker, ContainerStartupHealthCheckTimeoutInSeconds=None)
    world.clock.now_s += 300 + startup.HEALTH_CHECK_S + 1
    assert status_of(sagemaker) == "Failed"


def test_an_image_the_rehearsal_does_not_know_ends_as_failed(sagemaker, world):
    foreign = "123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:latest"
    sagemaker.create_model(
        ModelName="m", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": foreign}
    )
    create_config(sagemaker)
    sagemaker.create_endpoint(EndpointName="foreign", EndpointConfigName="c")
    world.clock.now_s += 3600
    assert status_of(sagemaker, "foreign") == "Failed"
    assert "mine is not a Hugging Face Neuron" in world.container_log("foreign")[-1]["message"]


def test_an_instance_that_nothing_can_be_timed_on_ends_as_failed(sagemaker, world):
    create_endpoint(sagemaker, "untimed", InstanceType="ml.trn1n.32xlarge")
    world.clock.now_s += 3600
    assert status_of(sagemaker, "untimed") == "Failed"
    last = world.container_log("untimed")[-1]["message"]
    assert last.startswith("rehearsal: No specification of 'ml.trn1n.32xlarge': use one of")


def test_more_instances_than_the_quota_are_refused_in_awss_words(sagemaker, world):
    def refused(**variant):
        create_config(sagemaker, "more", **variant)
        with pytest.raises(ClientError) as error:
            sagemaker.create_endpoint(EndpointName="more", EndpointConfigName="more")
        sagemaker.delete_endpoint_config(EndpointConfigName="more")
        assert error.value.response["Error"]["Code"] == "ResourceLimitExceeded"
        return error.value.response["Error"]["Message"]

    create_model(sagemaker)
    create_endpoint(sagemaker, "most", InitialInstanceCount=19)
    assert refused(InitialInstanceCount=1_000_000) == (
        "The account-level service limit 'ml.inf2.48xlarge for endpoint usage' is 20 Instances, "
        "with current utilization of 19 Instances and a request delta of 1000000 Instances. Please "
        "use AWS Service Quotas to request an increase for this quota. If AWS Service Quotas is "
        "not available, contact AWS support to request an increase for this quota."
    )
    assert "delta of 2 Instances" in refused(InitialInstanceCount=2)
    create_config(sagemaker, "last")
    sagemaker.create_endpoint(EndpointName="last", EndpointConfigName="last")
    assert "utilization of 20 Instances" in refused(InitialInstanceCount=1)
    create_config(sagemaker, "other", InstanceType="ml.inf2.24xlarge")
    sagemaker.create_endpoint(EndpointName="other", EndpointConfigName="other")
    world.clock.now_s += 3600
    sagemaker.delete_endpoint(EndpointName="most")
    world.clock.now_s += 16
    create_config(sagemaker, "again", InitialInstanceCount=19)
    sagemaker.create_endpoint(EndpointName="again", EndpointConfigName="again")


def test_a_container_writes_its_log_when_its_time_has_come(sagemaker, world):
    start = world.clock.time()
    create_endpoint(sagemaker, "logged")
    groups = world.client("logs").describe_log_groups(
        logGroupNamePrefix="/aws/sagemaker/Endpoints/logged"
    )
    assert groups["logGroups"] == []
    world.clock.now_s = start + 400
    assert len(world.container_log("logged")) == 3
    world.clock.now_s = start + 1900
    events = world.container_log("logged")
    assert events[-1]["message"] == "Connected"
    assert "141 GB" in events[2]["message"]
    assert [event["timestamp"] for event in events[:2]] == [int((start + 300) * 1000)] * 2


def test_a_token_is_given_back_by_describe_model_and_never_logged(sagemaker, world, caplog):
    caplog.set_level(logging.DEBUG, "helpers")
    create_endpoint(sagemaker, "secret")
    world.clock.now_s += 3600
    described = sagemaker.describe_model(ModelName="secret-m")
    assert described["PrimaryContainer"]["Environment"]["HF_TOKEN"] == GUIDE_ENV["HF_TOKEN"]
    told = json.dumps([event["message"] for event in world.container_log("secret")])
    told += json.dumps(world.ask("/_rehearsal/journal")[2]) + caplog.text
    assert GUIDE_ENV["HF_TOKEN"] not in told


def test_a_model_whose_license_was_not_accepted_does_not_come_up(sagemaker, world):
    create_endpoint(sagemaker, "gated", env={"HF_TOKEN": hub.UNGRANTED_TOKEN})
    create_endpoint(sagemaker, "typo", env={"HF_TOKEN": "not a token"})
    world.clock.now_s += 3600
    assert status_of(sagemaker, "gated") == status_of(sagemaker, "typo") == "Failed"
    line = world.container_log("gated")[-1]["message"]
    assert line.startswith("403 Client Error") and "not in the authorized list" in line
    assert "Invalid credentials" in world.container_log("typo")[-1]["message"]


def test_of_two_variants_the_first_failure_ends_the_endpoint(sagemaker, world):
    create_model(sagemaker, "good")
    create_model(sagemaker, "bad", MAX_BATCH_SIZE="")
    variant = {"InstanceType": "ml.inf2.48xlarge", "InitialInstanceCount": 1}
    variant["ContainerStartupHealthCheckTimeoutInSeconds"] = 1800
    sagemaker.create_endpoint_config(
        EndpointConfigName="c",
        ProductionVariants=[
            {"VariantName": "one", "ModelName": "good", **variant},
            {"VariantName": "two", "ModelName": "bad", **variant},
        ],
    )
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="c")
    world.clock.now_s += 3600
    assert "variant two" in sagemaker.describe_endpoint(EndpointName="e")["FailureReason"]


# --- lists and tags


def test_lists_page_newest_first_and_survive_deletions_in_between(sagemaker, world):
    for number in range(23):
        world.clock.now_s += 1
        create_model(sagemaker, f"m{number:02}")
    first = sagemaker.list_models()
    assert [model["ModelName"] for model in first["Models"]] == [
        f"m{number:02}" for number in range(22, 12, -1)
    ]
    for model in first["Models"]:
        sagemaker.delete_model(ModelName=model["ModelName"])
    pages = sagemaker.get_paginator("list_models").paginate(
        PaginationConfig={"PageSize": 4, "StartingToken": first["NextToken"]}
    )
    names = [model["ModelName"] for page in pages for model in page["Models"]]
    assert names == [f"m{number:02}" for number in range(12, -1, -1)]


def test_lists_filter_and_sort(sagemaker, world):
    for name in ("b-one", "a-two", "c-one"):
        world.clock.now_s += 3600
        create_endpoint(sagemaker, name)

    def names(**given):
        return [one["EndpointName"] for one in sagemaker.list_endpoints(**given)["Endpoints"]]

    now = moment(world.clock.time())
    assert names() == ["c-one", "a-two", "b-one"]
    assert names(SortBy="Name", SortOrder="Ascending") == ["a-two", "b-one", "c-one"]
    assert names(NameContains="ONE", SortOrder="Ascending") == ["b-one", "c-one"]
    assert names(StatusEquals="Creating") == ["c-one"]
    assert names(SortBy="Status", SortOrder="Ascending")[0] == "c-one"
    assert names(CreationTimeAfter=now - timedelta(seconds=1)) == ["c-one"]
    assert names(CreationTimeBefore=now - timedelta(seconds=1)) == ["a-two", "b-one"]
    assert names(LastModifiedTimeBefore=now - timedelta(seconds=3000)) == ["b-one"]
    configs = sagemaker.list_endpoint_configs(SortBy="Name")["EndpointConfigs"]
    assert [config["EndpointConfigName"] for config in configs] == ["c-one-c", "b-one-c", "a-two-c"]


@pytest.mark.parametrize("token", ["!", "e30=", "WzEsMl0=", "WyJhIiwiYiJd", "W" * 400])
def test_a_made_up_page_token_is_refused(sagemaker, token):
    with pytest.raises(ClientError, match="NextToken is not one"):
        sagemaker.list_models(NextToken=token)


def test_tags_are_kept_added_and_removed(sagemaker):
    tags = [{"Key": "workshop", "Value": "inferentia2"}, {"Key": "participant", "Value": "p"}]
    arn = sagemaker.create_model(
        ModelName="m", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": image()}, Tags=tags
    )["ModelArn"]
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == tags
    added = sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "participant", "Value": "q"}])["Tags"]
    assert added == [tags[0], {"Key": "participant", "Value": "q"}]
    sagemaker.delete_tags(ResourceArn=arn, TagKeys=["workshop", "unknown"])
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == added[1:]


def test_tags_that_cannot_be_are_refused(sagemaker):
    arn = create_model(sagemaker)["ModelArn"]
    many = [{"Key": f"k{number}", "Value": ""} for number in range(50)]
    sagemaker.add_tags(ResourceArn=arn, Tags=many)
    for ask, words in (
        (
            lambda: sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "z", "Value": ""}]),
            "at most 50",
        ),
        (lambda: sagemaker.add_tags(ResourceArn=arn, Tags=[many[0], many[0]]), "Duplicate tag"),
        (
            lambda: sagemaker.list_tags(ResourceArn=f"{ARN}:training-job/x"),
            "no resource of the kind",
        ),
        (
            lambda: sagemaker.list_tags(ResourceArn=arn.replace("123456789012", "210987654321")),
            "Could not find model",
        ),
    ):
        with pytest.raises(ClientError, match=words):
            ask()


# --- the protocol


NAMED_VARIANT = {"VariantName": "v", **VARIANT}


@pytest.mark.parametrize(
    ("operation", "body", "words"),
    [
        ("DescribeModel", {}, "1 validation error detected: Value null at 'modelName'"),
        ("DescribeModel", {"ModelName": None}, "Member must not be null"),
        ("DescribeModel", {"ModelName": "a_b"}, "Member must satisfy regular expression pattern"),
        ("DescribeModel", {"ModelName": "a" * 64}, "Member must have length less than or equal to"),
        ("DescribeModel", {"ModelName": "a", "Colour": 1}, 'Unknown parameter in input: "Colour"'),
        ("ListModels", {"MaxResults": 101}, "Member must have value less than or equal to 100"),
        ("ListModels", {"MaxResults": 0}, "Member must have value greater than or equal to 1"),
        ("ListModels", {"SortBy": "Size"}, "enum value set: [Name, CreationTime]"),
        ("ListTags", {"ResourceArn": "x"}, "regular expression pattern"),
        ("DeleteTags", {"ResourceArn": f"{ARN}:model/m", "TagKeys": []}, "length greater than or"),
        (
            "CreateEndpointConfig",
            {
                "EndpointConfigName": "c",
                "ProductionVariants": [
                    NAMED_VARIANT | {"InstanceType": "ml.inf2.49xlarge", "VolumeSizeInGB": 513}
                ],
            },
            "2 validation errors detected: Value 'ml.inf2.49xlarge' at "
            "'productionVariants.1.member.instanceType'",
        ),
        (
            "CreateModel",
            {
                "ModelName": "m",
                "ExecutionRoleArn": ROLE,
                "PrimaryContainer": {"Image": image(), "Environment": {"HF_TOKEN": "s3cret" * 300}},
            },
            "'primaryContainer.environment.HF_TOKEN'",
        ),
        (
            "CreateModel",
            {"ModelName": "m", "ExecutionRoleArn": "me", "PrimaryContainer": {"Image": image()}},
            "Value 'me' at 'executionRoleArn'",
        ),
    ],
)
def test_a_request_against_the_service_model_is_refused(sagemaker, world, operation, body, words):
    status, told = world.sagemaker(operation, body)
    assert (status, told["__type"]) == (400, "ValidationException")
    assert words in told["message"]
    assert "s3cret" not in told["message"]


@pytest.mark.parametrize(
    ("operation", "body", "words"),
    [
        ("DescribeModel", b"{", "not JSON"),
        ("DescribeModel", b"\xff", "not JSON"),
        ("DescribeModel", b"[" * 100_000, "not JSON"),
        ("DescribeModel", b'{"ModelName": ' + b"[" * 900 + b"]" * 900 + b"}", "not JSON"),
        ("DescribeModel", b'{"x": ' * 900 + b"1" + b"}" * 900, "not JSON"),
        ("DescribeModel", b'{"ModelName": "\xed\xa0\x80"}', "not JSON"),
        ("ListModels", b'{"CreationTimeAfter": 1e999}', "not JSON"),
        ("ListModels", b'{"MaxResults": 1' + b"0" * 5000 + b"}", "not JSON"),
        ("ListModels", '{"MaxResults": 1}'.encode("utf-16"), "not JSON"),
        ("ListModels", b'{"MaxResults": NaN}', "not JSON"),
        ("DescribeModel", b"[]", "Start of structure"),
        ("DescribeModel", {"ModelName": 1}, "NUMBER_VALUE can not be converted to String"),
        ("DescribeModel", {"ModelName": ["a"]}, "Start of list can not be converted to String"),
        ("ListModels", {"MaxResults": "1"}, "STRING_VALUE can not be converted to Integer"),
        ("ListModels", {"MaxResults": True}, "TRUE_VALUE can not be converted to Integer"),
        ("AddTags", {"ResourceArn": f"{ARN}:model/m", "Tags": {}}, "Start of list expected"),
        ("CreateModel", {"ModelName": "m", "PrimaryContainer": 1}, "structure or map expected"),
        (
            "CreateModel",
            {"ModelName": "m", "PrimaryContainer": {"Environment": []}},
            "structure or map expected",
        ),
    ],
)
def test_a_request_that_cannot_be_read_is_a_serialization_error(
    sagemaker, world, operation, body, words
):
    status, told = world.sagemaker(operation, body)
    assert (status, told["__type"]) == (400, "SerializationException")
    assert words in told["message"]


@pytest.mark.parametrize("operation", ["ListTrainingJobs", "CreateTransformJob", "MakeCoffee"])
def test_an_operation_that_is_not_offered_answers_by_its_name(sagemaker, world, operation):
    status, told = world.sagemaker(operation, {})
    assert (status, told["__type"]) == (400, "UnknownOperationException")
    assert operation in told["message"]


def test_an_unsigned_request_is_refused(world):
    target = {"X_Amz_Target": "SageMaker.ListModels"}
    status, headers, told = world.ask("/", method="POST", data=b"{}", **target)
    assert (status, told["__type"]) == (400, "MissingAuthenticationTokenException")
    assert headers["x-amzn-ErrorType"] == "MissingAuthenticationTokenException"


def test_operations_are_posted(world):
    assert world.sagemaker("ListModels", b"", method="PUT")[0] == 405


def test_an_answer_against_the_service_model_is_never_sent(sagemaker, world, monkeypatch, caplog):
    for broken in ({"Models": []} | {"Extra": 1}, {"Models": "none"}, {}):
        answer = {"ListModels": lambda given, region, broken=broken: broken}
        monkeypatch.setattr(world.control.service, "operations", answer)
        status, told = world.sagemaker("ListModels", {})
        assert (status, told["__type"]) == (500, "InternalFailure")
    assert "against the service model" in caplog.text


def test_every_pattern_of_the_service_model_is_understood_or_left_out(world):
    shapes_seen = [world.model.shape_for(name) for name in world.model.shape_names]
    patterns = {shape.metadata["pattern"] for shape in shapes_seen if "pattern" in shape.metadata}
    unread = [pattern for pattern in patterns if shapes._pattern(pattern) is None]
    assert len(patterns) > 200
    assert len(unread) < len(patterns) / 20


def test_a_structure_without_members_takes_none():
    assert shapes.problems(None, {}) == []
    assert shapes.problems(None, {"A": 1}) != []


# --- the front door


def test_an_endpoint_in_service_is_invoked_under_its_exact_name(sagemaker, world):
    create_endpoint(sagemaker, "My-E", InitialInstanceCount=2)
    runtime = world.client("sagemaker-runtime")
    with pytest.raises(ClientError) as error:
        runtime.invoke_endpoint(EndpointName="My-E", Body=b"hi")
    assert error.value.response["Error"] == {
        "Code": "ValidationError",
        "Message": "Endpoint My-E of account 123456789012 not found.",
    }
    world.clock.now_s += 3600
    told = json.loads(runtime.invoke_endpoint(EndpointName="My-E", Body=b"hi")["Body"].read())
    assert (told["name"], told["instances"], told["type"]) == ("My-E", 2, "ml.inf2.48xlarge")
    assert (told["body"], told["region"]) == ("hi", "us-east-1")
    assert told["log"].endswith(":log-group:/aws/sagemaker/Endpoints/My-E")
    for client, name in (
        (runtime, "my-e"),
        (world.client("sagemaker-runtime", "eu-west-1"), "My-E"),
        (runtime, "x"),
    ):
        with pytest.raises(ClientError, match=f"Endpoint {name} of account"):
            client.invoke_endpoint(EndpointName=name, Body=b"")


def test_a_variant_is_invoked_by_name_and_must_be_there(sagemaker, world):
    create_model(sagemaker)
    sagemaker.create_endpoint_config(
        EndpointConfigName="c",
        ProductionVariants=[{"VariantName": name, **VARIANT} for name in ("one", "two")],
    )
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="c")
    world.clock.now_s += 3600
    runtime = world.client("sagemaker-runtime")
    for name in ("one", "two"):
        answer = runtime.invoke_endpoint(EndpointName="e", Body=b"", TargetVariant=name)
        assert json.loads(answer["Body"].read())["variant"] == name
    for invoke in (runtime.invoke_endpoint, runtime.invoke_endpoint_with_response_stream):
        with pytest.raises(ClientError) as error:
            invoke(EndpointName="e", Body=b"", TargetVariant="three")
        assert error.value.response["Error"] == {
            "Code": "ValidationError",
            "Message": "Variant three not found for Request",
        }


def test_without_a_variant_requests_are_spread_by_weight(sagemaker, world):
    create_model(sagemaker)
    weights = {"often": 3, "rarely": 1, "never": 0}
    sagemaker.create_endpoint_config(
        EndpointConfigName="c",
        ProductionVariants=[
            {"VariantName": name, "InitialVariantWeight": weight, **VARIANT}
            for name, weight in weights.items()
        ],
    )
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="c")
    world.clock.now_s += 3600
    met = Counter(world.control.serving("e").variant for _ in range(400))
    assert set(met) == {"often", "rarely"}
    assert 60 < met["rarely"] < 140


def test_an_endpoint_made_anew_is_another_deployment(sagemaker, world):
    create_endpoint(sagemaker)
    world.clock.now_s += 3600
    before = world.control.serving("e").uid
    sagemaker.delete_endpoint(EndpointName="e")
    world.clock.now_s += 20
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="e-c")
    world.clock.now_s += 3600
    assert world.control.serving("e").uid != before


def test_the_openai_route_takes_the_region_from_its_bearer_token(sagemaker, world):
    create_endpoint(sagemaker)
    world.clock.now_s += 3600
    boto = boto3.Session(
        aws_access_key_id=services.ACCESS_KEY,
        aws_secret_access_key=services.SECRET_KEY,
        aws_session_token=services.SESSION_TOKEN,
    )
    token = messages.bearer_token(SimpleNamespace(boto=boto, region="us-east-1"))
    path = "/endpoints/e/openai/v1/chat/completions"
    status, _, told = world.ask(path, method="POST", data=b"hi", Authorization=f"Bearer {token}")
    assert (status, told["body"]) == (200, "hi")
    for bad in ("Bearer x", "Bearer sagemaker-api-key-!", "Bearer sagemaker-api-key-eA==", ""):
        assert world.ask(path, method="POST", data=b"hi", Authorization=bad)[0] == 403


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/endpoints/e/async-invocations", 404),
        ("POST", "/endpoints/../_rehearsal/stop", 404),
        ("POST", "/endpoints/%2e%2e%2f/invocations", 400),
        ("GET", "/endpoints/e/invocations", 405),
        ("POST", "/moto-api/reset", 404),
        ("GET", "/latest/meta-data/iam/security-credentials/", 404),
    ],
)
def test_doors_that_are_not_there_stay_closed(sagemaker, world, method, path, status):
    assert world.ask(path, method=method)[0] == 403
    assert world.signed(path, method=method)[0] == status
    assert not world.stopped.is_set()


@pytest.mark.parametrize(("method", "path"), [("GET", "/secrets"), ("DELETE", "")])
def test_the_rehearsals_own_doors_are_few(world, method, path):
    assert world.ask(f"/_rehearsal{path}", method=method)[0] == 404
    assert not world.stopped.is_set()


def test_the_server_tells_who_it_is_and_what_was_created_and_deleted(sagemaker, world):
    told = world.ask("/_rehearsal")[2]
    assert (told["name"], told["speed"], told["origin"]) == ("rehearsal", 60.0, ORIGIN)
    assert told["time"] == world.clock.time()
    assert launch.probe(world.url).pid == told["pid"]
    start = world.clock.time()
    create_endpoint(sagemaker)
    world.clock.now_s += 3600
    sagemaker.delete_endpoint(EndpointName="e")
    with pytest.raises(ClientError):
        sagemaker.delete_endpoint(EndpointName="e")
    sagemaker.delete_endpoint_config(EndpointConfigName="e-c")
    sagemaker.delete_model(ModelName="e-m")
    entries = world.ask("/_rehearsal/journal")[2]
    assert [(entry["operation"], entry["name"]) for entry in entries] == [
        ("CreateModel", "e-m"),
        ("CreateEndpointConfig", "e-c"),
        ("CreateEndpoint", "e"),
        ("DeleteEndpoint", "e"),
        ("DeleteEndpointConfig", "e-c"),
        ("DeleteModel", "e-m"),
    ]
    assert [entry["time"] - start for entry in entries] == [0, 0, 0, 3600, 3600, 3600]
    assert entries[2]["detail"] == "1 x ml.inf2.48xlarge"


def test_a_stop_is_obeyed_unless_a_web_page_asks(world):
    status, _, _ = world.ask("/_rehearsal/stop", method="POST", Origin="http://evil.example")
    assert (status, world.stopped.is_set()) == (403, False)
    assert world.ask("/_rehearsal/stop", method="POST")[0] == 200
    assert world.stopped.is_set()
    world.stopped.clear()


def test_what_cannot_load_is_said_in_the_log_and_to_clients(caplog):
    async def meet():
        def load(clock):
            raise ImportError("no moto here")

        door = routes.FrontDoor(SetClock(), stop=lambda: None, load=load)
        server = Server(door)
        port = await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /bucket HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await server.stop()
        door.close()
        return answer

    assert asyncio.run(meet()).startswith(b"HTTP/1.1 500")
    assert "no moto here" in caplog.text


# --- moto behind the door


def test_the_identity_is_the_same_in_every_region(world):
    for region in ("us-east-1", "eu-west-1"):
        told = world.client("sts", region).get_caller_identity()
        assert told["Account"] == "123456789012"
        assert told["Arn"] == "arn:aws:sts::123456789012:assumed-role/workshop-admin/rehearsal"


def test_the_role_trusts_sagemaker(world):
    iam = world.client("iam")
    role = iam.get_role(RoleName="workshop-execution-role")["Role"]
    assert role["Arn"] == ROLE
    principal = role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]
    assert principal == {"Service": "sagemaker.amazonaws.com"}
    attached = iam.list_attached_role_policies(RoleName="workshop-execution-role")
    assert [policy["PolicyName"] for policy in attached["AttachedPolicies"]] == ["WorkshopAccess"]


def test_s3_keeps_what_it_is_given(world):
    s3 = world.client("s3")
    s3.create_bucket(Bucket="bucket")
    data = bytes(range(256)) * 400
    s3.put_object(Bucket="bucket", Key="a b/ü+%2F", Body=data, Metadata={"my_key": "v"})
    head = s3.head_object(Bucket="bucket", Key="a b/ü+%2F")
    assert (head["ContentLength"], head["Metadata"]) == (len(data), {"my_key": "v"})
    assert s3.get_object(Bucket="bucket", Key="a b/ü+%2F")["Body"].read() == data
    assert [one["Key"] for one in s3.list_objects_v2(Bucket="bucket")["Contents"]] == ["a b/ü+%2F"]
    with pytest.raises(ClientError, match="NoSuchKey"):
        s3.get_object(Bucket="bucket", Key="none")


def test_what_moto_cannot_do_is_an_error_that_says_so(world, caplog):
    with pytest.raises(ClientError, match="The rehearsal AWS does not offer pricing"):
        world.client("pricing").describe_services()
    with pytest.raises(ClientError, match="The rehearsal AWS cannot do this: NotImplementedError"):
        world.client("sts").decode_authorization_message(EncodedMessage="x")
    with pytest.raises(ClientError, match="does not offer sagemaker POST /BatchGetMetrics"):
        world.client("sagemaker-metrics").batch_get_metrics(
            MetricQueries=[
                {
                    "MetricName": "m",
                    "ResourceArn": f"{ARN}:model/m",
                    "MetricStat": "Avg",
                    "Period": "OneMinute",
                    "XAxisType": "Timestamp",
                }
            ]
        )


# --- the Hub


def hub_api(world, token):
    return HfApi(endpoint=world.url, token=token)


def test_the_hub_knows_whose_token_it_is(world):
    assert hub_api(world, "hf_rehearsal").whoami()["name"] == "rehearsal"
    for token in ("nonsense", "hf_"):
        with pytest.raises(HfHubHTTPError, match="Invalid user token"):
            hub_api(world, token).whoami()


def test_the_hub_lets_those_have_a_gated_model_who_may(world):
    assert hub_api(world, "hf_rehearsal").auth_check(RECIPE.model_id) is None
    info = hub_api(world, "hf_rehearsal").model_info(RECIPE.model_id)
    assert (info.id, info.gated) == (RECIPE.model_id, "manual")
    assert hub_api(world, False).model_info("o/open").gated is False


@pytest.mark.parametrize("token", [False, hub.UNGRANTED_TOKEN])
def test_the_hub_refuses_a_gated_model_to_others(world, token):
    with pytest.raises(GatedRepoError):
        hub_api(world, token).auth_check(RECIPE.model_id)


def test_the_hub_does_not_know_other_models_or_pages(world):
    with pytest.raises(RepositoryNotFoundError):
        hub_api(world, "hf_rehearsal").model_info("nobody/nothing")
    assert world.ask("/api/datasets")[0] == 404


def tokenizer_file(world, token, cache_dir, *, name="tokenizer.json", **options):
    return hub_api(world, token).hf_hub_download(
        RECIPE.model_id, name, cache_dir=cache_dir, **options
    )


def test_the_hub_hands_out_a_tokenizer_that_says_it_is_a_rehearsals(world, tmp_path):
    path = Path(tokenizer_file(world, "hf_rehearsal", tmp_path))
    assert "rehearsal" in path.read_text() and path.parent.name == hub.REVISION
    again = tokenizer_file(world, "hf_rehearsal", tmp_path / "anew", revision=hub.REVISION)
    assert Path(again).read_text() == path.read_text()


@pytest.mark.parametrize("token", [False, hub.UNGRANTED_TOKEN])
def test_the_hub_refuses_a_gated_models_files_to_others(world, token, tmp_path):
    with pytest.raises(GatedRepoError):
        tokenizer_file(world, token, tmp_path)


def test_the_hub_has_no_other_file_and_no_other_revision(world, tmp_path):
    with pytest.raises(EntryNotFoundError):
        tokenizer_file(world, "hf_rehearsal", tmp_path, name="no.json")
    with pytest.raises(RevisionNotFoundError):
        tokenizer_file(world, "hf_rehearsal", tmp_path, revision="a\r\nb")


def test_an_object_of_s3_may_be_called_like_a_file_of_the_hub(world):
    s3 = world.client("s3", s3={"addressing_style": "path"})
    s3.create_bucket(Bucket="models")
    s3.put_object(Bucket="models", Key="a/resolve/main/tokenizer.json", Body=b"mine")
    found = s3.get_object(Bucket="models", Key="a/resolve/main/tokenizer.json")
    assert found["Body"].read() == b"mine"


# --- the plan of a start


def plan(recipe, **options):
    contract = recipe.contract
    repository = contracts.REPOSITORIES[recipe.framework]
    return startup.plan(
        f"763104351884.dkr.ecr.us-east-1.amazonaws.com/{repository}:{contract.tag}",
        {**recipe.env, "HF_TOKEN": "hf_of_nobody"},
        **{
            "variant": "AllTraffic",
            "instance_type": recipe.instance_type,
            "health_check_timeout_s": recipe.health_check_timeout_s,
            "volume_gb": recipe.volume_gb,
            "inference_ami": recipe.inference_ami_version,
            **options,
        },
    )


@pytest.mark.parametrize("name", recipes.RECIPES)
@pytest.mark.parametrize("more", [{}, {"volume_gb": None}])
def test_every_recipe_comes_up_with_its_own_volume_or_with_sagemakers(name, more):
    planned = plan(recipes.get(name), **more)
    assert planned.failure_reason is None
    assert not any("Neuron driver" in line for _, line in planned.log)


@pytest.mark.parametrize(
    ("name", "volume_gb", "holds"),
    [
        ("llama-3-70b", 283, True),
        ("llama-3-70b", 282, False),  # keeps a second copy
        ("llama-3-70b-tgi-0.0.28", 142, True),
        ("llama-3-70b-tgi-0.0.28", 141, False),
        ("llama-3.3-70b-vllm", 30, False),
    ],
)
def test_weights_that_do_not_fit_on_the_volume_end_the_start(name, volume_gb, holds):
    recipe = recipes.get(name)
    planned = plan(recipe, volume_gb=volume_gb)
    assert (planned.failure_reason is None) == holds
    assert any("No space left on device" in line for _, line in planned.log) != holds
    if not holds:
        assert planned.failure_reason == PING
        assert planned.duration_s == startup.INSTANCE_S + recipe.health_check_timeout_s
        assert not any("Loading" in line for _, line in planned.log)


def test_a_volume_that_is_too_small_ends_as_failed(sagemaker, world):
    create_endpoint(sagemaker, "small", VolumeSizeInGB=200)
    world.clock.now_s += 300 + 2400 + 1
    assert sagemaker.describe_endpoint(EndpointName="small")["FailureReason"] == PING
    assert world.container_log("small")[-1]["message"] == startup.NO_SPACE


def test_an_instance_with_a_disk_of_its_own_does_not_need_the_volume():
    recipe = recipes.get("llama-3-8b")
    planned = plan(recipe, instance_type="ml.trn1.2xlarge", volume_gb=1)
    assert not any("No space" in line for _, line in planned.log)


def test_without_the_ami_of_the_guide_vllms_log_says_what_is_not_known():
    recipe = recipes.get("llama-3.3-70b-vllm")
    planned = plan(recipe, inference_ami=None)
    assert planned.failure_reason is None
    assert sum("without InferenceAmiVersion" in line for _, line in planned.log) == 1
    old = plan(recipes.get("llama-3-70b"), inference_ami=None)
    assert not any("InferenceAmiVersion" in line for _, line in old.log)
