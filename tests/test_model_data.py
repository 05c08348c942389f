"""Weights in S3: what CreateModel takes, and what a container makes of what lies there."""

import json
from dataclasses import replace
from itertools import count

import pytest
from botocore.exceptions import ClientError
from small_aws import ORIGIN, PING, RECIPE, ROLE, World, create_config, image

from helpers import recipes, symptoms
from helpers.rehearsal import repository
from helpers.rehearsal.aws import modeldata
from helpers.rehearsal.aws.actions import Ask
from helpers.rehearsal.aws.endpoints import Deployment
from helpers.rehearsal.container.containers import Container

NUMBER = count(1)
MODEL_ID = "meta-llama/Meta-Llama-3-70B-Instruct"
URI = "s3://weights/p/model/"
LOCAL = {**RECIPE.env, "HF_MODEL_ID": modeldata.FOLDER}  # and no token
READY_S = 300 + 141.1 * 11


@pytest.fixture(scope="module")
def running():
    world = World()
    world.client("s3").create_bucket(Bucket="weights")
    yield world
    world.close()


@pytest.fixture
def world(running):
    running.empty()
    running.clock.now_s = ORIGIN
    running.role_may = lambda role, ask, region: True
    put(running, **repository.files(MODEL_ID, b"{}"))
    return running


def put(world, **files):
    """These files lie at `URI`, and no others."""
    s3 = world.client("s3")
    for one in s3.list_objects_v2(Bucket="weights").get("Contents", []):
        s3.delete_object(Bucket="weights", Key=one["Key"])
    for name, content in files.items():
        s3.put_object(Bucket="weights", Key=f"p/model/{name}", Body=content)


def source(uri=URI, kind="S3Prefix", compression="None", **more):
    given = {"S3Uri": uri, "S3DataType": kind, "CompressionType": compression, **more}
    return {"ModelDataSource": {"S3DataSource": given}}


def create_model(world, name="m", *, data=None, env=LOCAL, region="us-east-1"):
    return world.client("sagemaker", region).create_model(
        ModelName=name,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": image(), "Environment": env, **(data or source())},
    )


def start(world, *, data=None, env=LOCAL, **variant):
    """An endpoint of a name of its own, so that its log is its own too."""
    name = f"e{next(NUMBER)}"
    create_model(world, name, data=data, env=env)
    sagemaker = world.client("sagemaker")
    create_config(sagemaker, name, name, **variant)
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    return name


def after(world, seconds, name):
    """What SageMaker says of an endpoint some time later."""
    world.clock.now_s += seconds
    return world.client("sagemaker").describe_endpoint(EndpointName=name)


def last_words(world, **options):
    """What the container of an endpoint that fails says last."""
    name = start(world, **options)
    failed = after(world, READY_S + 2400, name)
    assert "did not pass the ping health check" in failed["FailureReason"]
    return world.container_log(name)[-1]["message"]


def refused(world, **options):
    with pytest.raises(ClientError) as seen:
        create_model(world, **options)
    assert seen.value.response["Error"]["Code"] == "ValidationException"
    return seen.value.response["Error"]["Message"]


# --- CreateModel


def test_a_model_says_where_its_weights_lie(world):
    create_model(world)
    described = world.client("sagemaker").describe_model(ModelName="m")
    assert described["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]["S3Uri"] == URI
    assert "HF_TOKEN" not in described["PrimaryContainer"]["Environment"]


@pytest.mark.parametrize("uri", ["s3://weights/p/other/", "s3://nobodys/p/", "s3://nobodys/"])
def test_where_nothing_lies_aws_says_so(world, uri):
    words = refused(world, data=source(uri))
    assert words == f"Could not find model data at {uri}."
    found = symptoms.recognize(words)
    assert (found.name, uri in found.cause) == ("weights not found", True)


def test_what_modelbuilder_makes_up_is_not_found(world):
    words = refused(world, data={"ModelDataUrl": "s3://weights/model.tar.gz"})
    assert words == "Could not find model data at s3://weights/model.tar.gz."
    create_model(world, data={"ModelDataUrl": "s3://weights/p/model/config.json"})


@pytest.mark.parametrize("right", ["s3:GetObject", "s3:ListBucket"])
def test_a_role_that_may_not_read_is_refused(world, right):
    asked = []

    def may(role, ask, region):
        assert (role, region) == (ROLE, "us-east-1")
        asked.append(ask)
        return ask.action != right

    world.role_may = may
    words = refused(world)
    assert f'Could not access model data at {URI}. Please ensure that the role "{ROLE}"' in words
    found = symptoms.recognize(words)
    assert (found.name, URI in found.cause) == ("weights not readable", True)
    assert asked[0] == Ask("s3:ListBucket", "arn:aws:s3:::weights", {"s3:prefix": ("p/model/",)})
    if right == "s3:GetObject":
        assert asked[-1].resource.startswith("arn:aws:s3:::weights/p/model/")


def test_a_bucket_of_another_region_is_refused(world):
    assert "the object is located in us-west-2" in refused(world, region="us-west-2")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (source("s3://weights/p/model"), "must end with a forward slash"),
        (source(compression="Gzip"), "requires S3DataType S3Object"),
        (source("https://weights/p/"), "takes model data at s3:// addresses"),
        (source(ManifestS3Uri="s3://weights/m"), "no manifests"),
        ({**source(), "ModelDataUrl": URI}, "either ModelDataUrl or ModelDataSource"),
        (
            {
                "AdditionalModelDataSources": [
                    {"ChannelName": "c", **source()["ModelDataSource"]},
                ]
            },
            "no additional model data sources",
        ),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(world, data, words):
    assert words in refused(world, data=data)


def test_a_model_of_one_object_is_taken(world):
    create_model(world, data=source(f"{URI}model.safetensors", kind="S3Object"))


# --- the start


def test_weights_in_s3_come_up_without_a_token(world):
    name = start(world)
    assert after(world, READY_S, name)["EndpointStatus"] == "InService"
    log = [event["message"] for event in world.container_log(name)]
    assert f"Fetching 141 GB of weights of {MODEL_ID} from {URI}, which SageMaker does" in log[1]
    assert log[2:] == [
        "Starting the container on ml.inf2.48xlarge",
        "Loading the compiled model onto the NeuronCores",
        "Connected",
    ]
    deployment = world.control.serving(name)
    assert deployment.model_id == MODEL_ID  # what the runtime's timing and shape are of
    assert deployment.env["HF_MODEL_ID"] == modeldata.FOLDER


def test_a_real_configuration_has_no_name_and_is_known_by_its_architecture(world):
    config = {"num_hidden_layers": 80, "rope_scaling": None}
    put(world, **{**repository.files(MODEL_ID, b"{}"), "config.json": json.dumps(config)})
    name = start(world)
    after(world, READY_S, name)
    assert world.control.serving(name).model_id == MODEL_ID


MISSING = {
    "config.json": "OSError: /opt/ml/model does not appear to have a file named config.json.",
    "model.safetensors": "OSError: Error no file named pytorch_model.bin, model.safetensors",
    "tokenizer.json": "OSError: Can't load tokenizer for '/opt/ml/model'.",
}


@pytest.mark.parametrize("missing", MISSING)
def test_a_missing_file_is_the_containers_death_and_stands_in_its_log(world, missing):
    files = repository.files(MODEL_ID, b"{}")
    del files[missing]
    put(world, **files)
    words = last_words(world)
    assert words.startswith(MISSING[missing])
    found = symptoms.recognize(f"{PING}\n{words}")
    assert (found.name, "helpers.weights" in found.remedy) == ("file of the model missing", True)


def test_a_shard_that_the_index_lists_has_to_be_there(world):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    files = {**repository.files(MODEL_ID, b"{}"), "model-1.safetensors": b"x"}
    put(world, **files, **{"model.safetensors.index.json": json.dumps(index).encode()})
    words = last_words(world)
    assert words == (
        "FileNotFoundError: No such file or directory: '/opt/ml/model/model-2.safetensors'"
    )
    assert symptoms.recognize(words).name == "file of the model missing"


@pytest.mark.parametrize("text", [b"no JSON", b"[1]", b"", b"[" * 100_000])
def test_a_configuration_that_is_none_is_none(world, text):
    put(world, **{**repository.files(MODEL_ID, b"{}"), "config.json": text})
    assert "file named config.json" in last_words(world)


def test_a_shape_that_is_not_cached_is_a_miss_under_the_folders_name(world):
    words = last_words(world, env={**LOCAL, "HF_BATCH_SIZE": "3", "MAX_BATCH_SIZE": "3"})
    assert words.startswith("No cached version found for /opt/ml/model with")
    assert symptoms.recognize(words).name == "cache miss"


def test_a_model_nobody_knows_is_a_miss_too(world):
    put(world, **repository.files("nobody/thing-8b", b"{}"))
    assert "No cached version found for /opt/ml/model" in last_words(world)


def test_data_do_not_help_a_container_that_asks_the_hub(world):
    assert last_words(world, env=dict(RECIPE.env)).startswith("401 Client Error.")


def test_a_folder_without_data_is_empty(world):
    words = last_words(world, data={"Mode": "SingleModel"})
    assert words.startswith(MISSING["config.json"])


def test_weights_deleted_meanwhile_end_the_start_and_a_scale_out(world):
    name = start(world)
    after(world, READY_S, name)
    put(world)
    sagemaker = world.client("sagemaker")
    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=name,
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 2}],
    )
    described = after(world, 300, name)
    assert described["ProductionVariants"][0]["CurrentInstanceCount"] == 1
    assert f'from URL: "{URI}"' in described["FailureReason"]
    assert symptoms.recognize(described["FailureReason"]).name == "weights not downloaded"
    sagemaker.create_endpoint(EndpointName="late", EndpointConfigName=name)
    assert after(world, 300, "late")["EndpointStatus"] == "Failed"


def test_a_download_longer_than_its_time_fails(world):
    hasty = start(world, ModelDataDownloadTimeoutInSeconds=600)
    patient = start(world, ModelDataDownloadTimeoutInSeconds=3600)
    failed = after(world, 300 + 600, hasty)
    assert failed["EndpointStatus"] == "Failed"
    assert failed["FailureReason"].startswith("Failed to download model data")
    assert after(world, READY_S, patient)["EndpointStatus"] == "InService"


def test_the_download_is_not_on_the_health_checks_time(world):
    name = start(world, ContainerStartupHealthCheckTimeoutInSeconds=800)  # of 1552 s in all
    assert after(world, READY_S, name)["EndpointStatus"] == "InService"


def test_where_the_weights_lie_survives_a_restart(world):
    name = start(world)
    world.restarted()
    assert after(world, READY_S, name)["EndpointStatus"] == "InService"
    assert world.control.serving(name).model_id == MODEL_ID


@pytest.mark.parametrize(
    ("recipe", "env", "served"),
    [
        ("llama-3-70b", {"HF_MODEL_ID": modeldata.FOLDER}, modeldata.FOLDER),
        ("llama-3.3-70b-vllm", {"SM_ON_MODEL": modeldata.FOLDER}, modeldata.FOLDER),
        (
            "llama-3.3-70b-vllm",
            {"SM_ON_MODEL": modeldata.FOLDER, "SM_ON_SERVED_MODEL_NAME": "llama"},
            "llama",
        ),
    ],
)
def test_what_came_from_s3_serves_as_the_hubs_would_under_its_folders_name(recipe, env, served):
    recipe = recipes.get(recipe)
    plain = Deployment("e", "u", image(recipe), recipe.env, recipe.instance_type, 1)
    local = replace(plain, env={**recipe.env, **env}, model_id=recipe.model_id)
    hubs, own = Container.of(plain), Container.of(local)
    assert own.timing == hubs.timing
    assert own.shape == replace(hubs.shape, model_id=served)


# --- the repository of the rehearsal's Hub


@pytest.mark.parametrize(
    "model_id",
    [
        MODEL_ID,
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "meta-llama/Meta-Llama-3.1-70B-Instruct",
        "meta-llama/Llama-3.3-70B-Instruct",
    ],
)
def test_a_stand_in_is_told_from_others_and_says_what_it_is(model_id):
    files = repository.files(model_id, b"{}")
    there = modeldata.ModelFiles(URI, frozenset(files), files)
    assert (there.model_id, there.problem()) == (model_id, None)
    length = int.from_bytes(files["model.safetensors"][:8], "little")
    header = json.loads(files["model.safetensors"][8:])
    assert length == len(files["model.safetensors"]) - 8
    assert "stand-in" in header["__metadata__"]["rehearsal"]
