import json
import logging
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import count

import pytest
import rehearsing
from botocore.exceptions import EndpointConnectionError

from helpers import cleanup, endpoint, guard, hub, recipes, resources, scaling, symptoms
from helpers.clock import Clock
from helpers.endpoint import VARIANT, deployed, deployment, logs, waiting
from helpers.errors import EndpointError, EndpointFailed, EndpointMissing, WorkshopError
from helpers.session import open_session

SMALL = "llama-3-8b"
LONG_H = 2000  # an hour is a millisecond here
TOKEN = "hf_ThisTokenMustNotBeSeen"


@pytest.fixture
def session(shared):
    """A participant of the test's own, who leaves nothing behind."""
    mine = rehearsing.participant(shared)
    yield mine
    cleanup.delete(mine)


@pytest.fixture
def broken(session):
    """The same session, whose AWS the test is about to tamper with."""
    yield session
    rehearsing.restore()


@pytest.fixture(scope="module")
def served(shared):
    """An endpoint in service that no test changes, and its session."""
    session = replace(shared, participant="served")
    made = deploy(session)
    return session, endpoint.wait(session, made)


def deploy(session, name=SMALL, *, hf_token=TOKEN, instance_count=1, weights=None, **env):
    return endpoint.deploy(
        session,
        recipes.get(name, **env),
        role=session.role(),
        hf_token=hf_token,
        instance_count=instance_count,
        ttl_h=LONG_H,
        weights=weights,
    )


def journal(session):
    import urllib.request

    url = f"{os.environ['AWS_ENDPOINT_URL']}/_rehearsal/journal"
    with urllib.request.urlopen(url, timeout=30) as answer:
        entries = json.load(answer)
    return [e["operation"] for e in entries if f"-{session.participant}-" in e["name"]]


# --- deploy


def test_a_deployment_makes_model_configuration_and_endpoint(session):
    made = deploy(session)
    assert made.name == f"inf2-workshop-{session.participant}-llama-3-8b"
    assert made.status in ("Creating", "InService")
    assert made.recipe_name == SMALL
    assert made.model_id == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert (made.instance_type, made.instance_count) == ("ml.inf2.xlarge", 1)
    assert made.price_per_hour == 0.99
    assert journal(session) == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]


def test_the_recipes_limits_reach_sagemaker(session):
    made = deploy(session, "llama-3.3-70b-vllm", instance_count=2)
    config = session.client("sagemaker").describe_endpoint_config(EndpointConfigName=made.name)
    variant = config["ProductionVariants"][0]
    assert variant["VariantName"] == VARIANT
    assert variant["ContainerStartupHealthCheckTimeoutInSeconds"] == 3600
    assert variant["VolumeSizeInGB"] == 512
    assert variant["InferenceAmiVersion"] == recipes.NEURON_AMI
    assert variant["InitialInstanceCount"] == made.instance_count == 2
    assert made.price_per_hour == pytest.approx(31.16)


def test_everything_is_tagged_with_its_participant(served):
    session, made = served
    for kind in resources.KINDS:
        found = resources.of_participant(session, kind)
        assert [one.name for one in found] == [made.name]
        assert resources.tags_of(session, found[0].arn) == {
            "workshop": "inferentia2",
            "participant": "served",
            "recipe": SMALL,
            "expires": guard.expiry(session, made.name).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def test_a_second_deployment_attaches(served, capsys):
    session, made = served
    before = journal(session)
    again = deploy(session)
    assert again.created == made.created
    assert journal(session) == before
    assert "attached to it" in capsys.readouterr().out


def test_another_configuration_under_the_same_name_is_refused(served):
    session, _ = served
    with pytest.raises(EndpointError, match="MAX_BATCH_SIZE 4 instead of 1.*08_clean_up"):
        deploy(session, MAX_BATCH_SIZE=1)


def test_another_number_of_instances_is_another_configuration(served):
    session, _ = served
    with pytest.raises(EndpointError, match=r"\(instance count 1 instead of 2\).*08_clean_up"):
        deploy(session, instance_count=2)


@pytest.mark.parametrize("instances", [0, -1])
def test_an_endpoint_without_instances_is_refused_before_anything_is_made(session, instances):
    with pytest.raises(EndpointError, match=f"at least one instance, not {instances}"):
        deploy(session, instance_count=instances)
    assert journal(session) == []


def test_an_endpoint_whose_configuration_is_gone_is_attached_to(session):
    made = deploy(session)
    session.client("sagemaker").delete_endpoint_config(EndpointConfigName=made.name)
    again = deploy(session, MAX_BATCH_SIZE=1)
    assert (again.created, again.instance_type, again.price_per_hour) == (made.created, "", None)
    assert again.cost_so_far(session) == 0


def test_what_an_interrupted_deployment_left_is_made_anew(session):
    made = deploy(session)
    endpoint.remove(session, made.name)
    deploy(session, MAX_INPUT_LENGTH=3000)
    left = session.client("sagemaker").describe_model(ModelName=made.name)
    assert left["PrimaryContainer"]["Environment"]["MAX_INPUT_LENGTH"] == "3000"


def test_an_endpoint_that_is_being_deleted_is_waited_for_and_made_again(session, broken, capsys):
    first = endpoint.wait(session, deploy(session))
    looks = []

    def delete_while_it_looks(parsed, **_):
        if not looks:
            resources.delete(session, resources.ENDPOINT, first.name)
            looks.append(parsed.update(EndpointStatus="Deleting"))

    rehearsing.after(broken, "DescribeEndpoint", delete_while_it_looks)
    second = deploy(broken)
    assert second.created > first.created
    assert "waiting until it is gone" in capsys.readouterr().out


def test_two_regions_in_one_process_do_not_mix(session):
    made = deploy(session)
    other = open_session(participant=session.participant, region="us-west-2")
    there = deploy(other)
    assert ".us-east-1." in made.image
    assert ".us-west-2." in there.image
    assert there.created > made.created
    cleanup.delete(other)
    with pytest.raises(EndpointMissing):
        endpoint.find(other)
    assert endpoint.find(session).name == made.name


def test_a_create_call_that_raises_after_it_worked_is_no_failure(broken):
    rehearsing.fail_after(broken, "CreateEndpoint", RuntimeError(f"cannot parse {TOKEN}"))
    assert deploy(broken).name == endpoint.find(broken).name


@pytest.mark.parametrize(
    ("operation", "label"),
    [
        ("CreateModel", "model"),
        ("CreateEndpointConfig", "endpoint configuration"),
        ("CreateEndpoint", "endpoint"),
    ],
)
def test_a_create_call_that_fails_is_one_sentence_without_the_token(broken, operation, label):
    rehearsing.refuse(broken, operation, "ValidationException", f"Value {TOKEN} is wrong")
    with pytest.raises(EndpointError, match=f"The {label} .* could not be created") as caught:
        deploy(broken)
    assert TOKEN not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_missing_quota_names_its_code(broken):
    message = (
        "The account-level service limit 'ml.inf2.xlarge for endpoint usage' is 0 Instances, with "
        "current utilization of 0 Instances and a request delta of 1 Instances."
    )
    rehearsing.refuse(broken, "CreateEndpoint", "ResourceLimitExceeded", message)
    with pytest.raises(EndpointError, match="L-C8AB7CDA"):
        deploy(broken)


def test_what_the_sdk_itself_refuses_is_said_without_the_token(session):
    recipe = recipes.get(SMALL)
    object.__setattr__(recipe, "env", {**recipe.env, "BROKEN": {"not": "text"}})
    with pytest.raises(EndpointError, match="sagemaker-core refused") as caught:
        endpoint.deploy(session, recipe, role=session.role(), hf_token=TOKEN)
    assert TOKEN not in str(caught.value)


def test_a_gated_model_without_a_token_is_refused_before_it_costs_anything(session, monkeypatch):
    monkeypatch.setattr(hub, "token", lambda: None)
    with pytest.raises(EndpointError, match="HF_TOKEN"):
        deploy(session, hf_token=None)
    assert journal(session) == []


def test_a_model_that_is_not_gated_gets_no_token(session):
    recipe = recipes.get(SMALL)
    object.__setattr__(recipe, "gated", False)
    made = endpoint.deploy(session, recipe, role=session.role(), hf_token=TOKEN)
    model = session.client("sagemaker").describe_model(ModelName=made.name)
    assert "HF_TOKEN" not in model["PrimaryContainer"]["Environment"]


@pytest.mark.parametrize(
    ("operation", "service"),
    [
        ("CreateSchedule", "scheduler"),
        ("CreateLogGroup", "cloudwatch-logs"),
        ("CreateEndpointConfig", "sagemaker"),
    ],
)
def test_a_deployment_that_is_interrupted_early_says_that_nothing_bills(broken, operation, service):
    rehearsing.fail_after(broken, operation, KeyboardInterrupt(), service=service)
    with pytest.raises(EndpointError, match="There is no endpoint .*: nothing bills"):
        deploy(broken)


def test_a_deployment_that_is_interrupted_late_says_what_bills_and_until_when(broken):
    rehearsing.fail_after(broken, "CreateEndpoint", KeyboardInterrupt())
    with pytest.raises(EndpointError, match=r"bills \$0\.99 an hour\. It deletes itself at 20"):
        deploy(broken)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        *[({"instance_count": one}, "at least one instance") for one in ("1", None, 1.5, True)],
        ({"instance_count": float("nan")}, "at least one instance"),
        *[({"ttl_h": one}, "A time to live is a number") for one in ("4", True, 10**400, [4])],
        *[({"ttl_h": one}, "more than 0 .* or ttl_h=None for none") for one in (0, float("nan"))],
        *[({"weights": one}, "is no S3 prefix") for one in (5, b"s3://b/m/")],
        *[({"role": one}, "by its ARN") for one in (None, 5)],
        ({"hf_token": 5}, "A Hugging Face token is text"),
        ({"hf_token": f"{TOKEN}\u20ac"}, "copy it again"),
    ],
)
def test_odd_arguments_are_one_sentence_before_anything_is_made(session, odd, words):
    given = {"role": session.role(), "hf_token": TOKEN, "ttl_h": LONG_H} | odd
    with pytest.raises(WorkshopError, match=words):
        endpoint.deploy(session, recipes.get(SMALL), **given)
    assert journal(session) == []
    assert resources.of_participant(session, resources.SCHEDULE) == []


def test_what_is_no_recipe_is_refused(session):
    with pytest.raises(EndpointError, match="A recipe is deployed, not"):
        endpoint.deploy(session, SMALL, role=session.role())


@pytest.mark.parametrize("copied", [f"{TOKEN}\n", f" {TOKEN}\t"])
def test_a_token_reaches_the_container_without_what_was_copied_around_it(session, copied):
    made = deploy(session, hf_token=copied)
    model = session.client("sagemaker").describe_model(ModelName=made.name)
    assert model["PrimaryContainer"]["Environment"]["HF_TOKEN"] == TOKEN


# --- two deployments at once


def once_after(session, operation, work, service="sagemaker"):
    """Do something right after the first such call of the session."""
    calls = count()

    def meanwhile(**_):
        if next(calls) == 0:
            work()

    rehearsing.after(session, operation, meanwhile, service=service)


@pytest.mark.parametrize("operation", ["CreateModel", "CreateEndpointConfig"])
def test_a_deployment_that_another_overtakes_ends_with_the_others_endpoint(broken, operation):
    others = []
    once_after(broken, operation, lambda: others.append(deploy(broken)))
    made = deploy(broken)
    assert (made.created, made.image) == (others[0].created, others[0].image)
    assert made.image
    assert endpoint.wait(broken, made).status == "InService"


@pytest.mark.parametrize(
    ("operation", "service"),
    [
        ("CreateLogGroup", "cloudwatch-logs"),
        ("CreateModel", "sagemaker"),
        ("CreateEndpointConfig", "sagemaker"),
    ],
)
def test_of_two_deployments_that_differ_one_is_refused_and_the_other_stays_whole(
    broken, operation, service
):
    others = []
    once_after(broken, operation, lambda: others.append(deploy(broken, instance_count=2)), service)
    with pytest.raises(EndpointError, match="another configuration"):
        deploy(broken)
    there = endpoint.look(broken, others[0].name)
    assert (there.created, there.instance_count) == (others[0].created, 2)
    assert there.image
    assert there.instance_type


def test_what_another_deployment_deletes_meanwhile_is_made_again(broken, capsys):
    name = resources.name_of(broken.participant, SMALL)

    def delete():
        for kind in (resources.CONFIG, resources.MODEL):
            resources.delete(broken, kind, name)

    once_after(broken, "CreateEndpointConfig", delete)
    assert deploy(broken).image
    assert "being deployed elsewhere as well: looking again" in capsys.readouterr().out


def test_two_deployments_that_never_get_past_each_other_end_in_a_sentence(broken):
    name = resources.name_of(broken.participant, SMALL)
    rehearsing.after(
        broken,
        "CreateEndpointConfig",
        lambda **_: resources.delete(broken, resources.MODEL, name),
    )
    with pytest.raises(EndpointError, match="the two get in each other's way"):
        deploy(broken)


def test_three_deployments_at_once_end_with_one_endpoint(session):
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: deploy(session), range(3)))
    assert len({one.created for one in made}) == 1
    assert journal(session).count("CreateEndpoint") == 1
    assert endpoint.wait(session, made[0]).status == "InService"


def test_what_is_left_and_as_wanted_stays_and_says_the_new_expiry(session):
    made = deploy(session)
    first = session.client("sagemaker").describe_model(ModelName=made.name)
    endpoint.remove(session, made.name)
    session.clock.sleep(600)
    made = deploy(session)
    again = session.client("sagemaker").describe_model(ModelName=made.name)
    assert again["CreationTime"] == first["CreationTime"]
    assert resources.tags_of(session, again["ModelArn"])["expires"] == made.expires


# --- one name for two participants


@pytest.fixture
def alike(shared):
    """Two participants whose recipes of their own make the same name, and these recipes."""
    otto, otto_b = replace(shared, participant="otto"), replace(shared, participant="otto-b")
    small = recipes.get(SMALL)
    yield (otto, replace(small, name="b-x")), (otto_b, replace(small, name="x"))
    rehearsing.restore()
    cleanup.delete(otto)
    cleanup.delete(otto_b)


def put(session, recipe):
    given = {"role": session.role(), "hf_token": TOKEN, "ttl_h": LONG_H}
    return endpoint.deploy(session, recipe, **given)


@pytest.mark.parametrize("status", ["Creating", "Failed"])
def test_an_endpoint_of_another_participant_is_neither_attached_to_nor_replaced(alike, status):
    (otto, his), (otto_b, theirs) = alike
    made = put(otto, his)
    rehearsing.pretend(otto_b, "DescribeEndpoint", EndpointStatus=status)
    with pytest.raises(EndpointError, match="is participant otto's.*give your recipe another name"):
        put(otto_b, theirs)
    rehearsing.restore()
    assert endpoint.look(otto, made.name).created == made.created
    assert resources.groups_with(otto_b, made.name) == [guard.group_of(otto)]


def test_what_another_participants_deployment_left_is_not_removed(alike):
    (otto, his), (otto_b, theirs) = alike
    made = put(otto, his)
    endpoint.remove(otto, made.name)
    with pytest.raises(EndpointError, match="The endpoint configuration .* is participant otto's"):
        put(otto_b, theirs)
    assert resources.describe(otto, resources.MODEL, made.name)


def test_two_of_one_name_made_at_once_leave_no_guard_of_the_others(alike):
    (otto, his), (otto_b, theirs) = alike
    once_after(otto_b, "CreateLogGroup", lambda: put(otto, his), "cloudwatch-logs")
    with pytest.raises(EndpointError, match="is participant otto's"):
        put(otto_b, theirs)
    name = resources.name_of("otto", "b-x")
    assert resources.groups_with(otto_b, name) == [guard.group_of(otto)]


# --- what it has cost at most


def test_after_a_scale_in_its_cost_counts_what_it_had_at_most(session, capsys):
    made = endpoint.wait(session, deploy(session))
    assert (made.most_instances, made.cost(3600)) == (1, pytest.approx(0.99))
    scaling.replicas(session, made, 3)
    made = scaling.replicas(session, made, 1)
    assert (made.instance_count, made.most_instances) == (1, 3)
    assert made.price_per_hour == 0.99
    assert made.cost(3600) == pytest.approx(3 * 0.99)
    capsys.readouterr()
    guard.say_running(session)
    said = capsys.readouterr().out
    assert re.search(
        r"at most \$\d+\.\d\d so far, as if it had always had 3 replicas; it del", said
    )


def test_a_policys_maximum_counts_as_well_and_an_update_upward(session, broken):
    made = endpoint.wait(session, deploy(session))
    variant = {"VariantName": VARIANT, "CurrentInstanceCount": 1, "DesiredInstanceCount": 4}
    rehearsing.pretend(broken, "DescribeEndpoint", ProductionVariants=[variant])
    assert endpoint.look(broken, made.name).most_instances == 4
    rehearsing.restore()
    scaling.track(session, made, maximum=2, concurrent_per_replica=4)
    scaling.untrack(session, made)
    assert endpoint.look(session, made.name).most_instances == 2
    scaling.track(session, made, maximum=1, concurrent_per_replica=4)
    assert endpoint.look(session, made.name).most_instances == 2


def test_without_a_right_to_tags_it_scales_all_the_same(session, broken):
    made = endpoint.wait(session, deploy(session))
    rehearsing.refuse(broken, "AddTags", "AccessDeniedException", "no")
    assert scaling.replicas(broken, made, 2).most_instances == 2


def test_a_tag_that_is_no_number_counts_nothing():
    assert deployed._tagged_most({deployed.REPLICAS_AT_MOST: "many"}) == 0


# --- weights from S3


@pytest.fixture(scope="module")
def weights(shared):
    """The files of the small model in the workshop's bucket, but for their bytes."""
    prefix = "inf2-workshop/somebody/weights/meta-llama/Meta-Llama-3-8B-Instruct/"
    config = json.dumps({"num_hidden_layers": 32}).encode()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shared.client("s3").put_object(Bucket=shared.bucket, Key=prefix + name, Body=config)
    return f"s3://{shared.bucket}/{prefix}"


def test_with_weights_in_s3_the_container_gets_no_token(session, weights):
    made = endpoint.wait(session, deploy(session, weights=weights))
    assert made.status == "InService"
    model = session.client("sagemaker").describe_model(ModelName=made.name)
    assert TOKEN not in str(model)
    env = model["PrimaryContainer"]["Environment"]
    assert "HF_TOKEN" not in env
    assert env["HF_MODEL_ID"] == "/opt/ml/model"
    assert (made.weights, made.model_id) == (weights, "meta-llama/Meta-Llama-3-8B-Instruct")
    assert deploy(session, weights=weights).created == made.created
    with pytest.raises(EndpointError, match="weights s3://.* instead of the Hub's"):
        deploy(session)


def test_vllm_is_asked_by_the_models_name_wherever_its_weights_lie():
    env = deployment._environment(recipes.get("llama-3.3-70b-vllm"), "s3://bucket/model/")
    assert env["SM_ON_MODEL"] == "/opt/ml/model"
    assert env["SM_ON_SERVED_MODEL_NAME"] == "meta-llama/Llama-3.3-70B-Instruct"


def test_weights_that_are_not_there_are_said_with_a_remedy(session):
    nowhere = f"s3://{session.bucket}/inf2-workshop/nobody/"
    with pytest.raises(EndpointError, match="Could not find model data at .*helpers.weights"):
        deploy(session, weights=nowhere)


@pytest.mark.parametrize("weights", ["", "model/", "s3://bucket/model", "https://bucket/model/"])
def test_what_is_no_prefix_in_s3_is_refused_before_anything_is_made(session, weights):
    with pytest.raises(EndpointError, match="is no S3 prefix"):
        deploy(session, weights=weights)
    assert journal(session) == []


@pytest.mark.parametrize(
    ("weights", "recipe", "model_id"),
    [
        ("s3://b/p/weights/o/m/", "", "o/m"),
        ("s3://b/elsewhere/", SMALL, "meta-llama/Meta-Llama-3-8B-Instruct"),
        ("s3://b/elsewhere/", "", "/opt/ml/model"),
    ],
)
def test_a_models_name_is_known_wherever_its_weights_lie(weights, recipe, model_id):
    assert deployed._model_of({"HF_MODEL_ID": "/opt/ml/model"}, weights, recipe) == model_id


def test_the_token_reaches_the_container_and_nobody_else(session, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    made = endpoint.wait(session, deploy(session))
    found = endpoint.find(session)
    model = session.client("sagemaker").describe_model(ModelName=made.name)
    assert model["PrimaryContainer"]["Environment"]["HF_TOKEN"] == TOKEN
    shown = capsys.readouterr()
    logged = "".join(
        record.getMessage()
        for record in caplog.records
        if not record.getMessage().startswith(("Response body", "Event before-parameter"))
    )
    created = [text for text in logged.splitlines() if "CreateModel" in text]
    for text in (repr(made), repr(found), shown.out, shown.err, *created):
        assert TOKEN not in text
    assert found.env["HF_TOKEN"] == "***"


# --- find


def test_without_an_endpoint_it_says_which_notebook_makes_one(session):
    with pytest.raises(EndpointMissing, match="run 03_deploy_endpoint"):
        endpoint.find(session)
    with pytest.raises(EndpointMissing, match="run 03_deploy_endpoint"):
        endpoint.find(session, "inf2-workshop-none")


def test_who_may_not_look_at_a_name_is_told_that_it_is_none_of_the_workshops(served):
    session, made = served
    rehearsing.refuse(session, "DescribeEndpoint", "AccessDeniedException", "no")
    with pytest.raises(EndpointError) as refused:
        endpoint.find(session, "some-other")
    rehearsing.restore()
    assert str(refused.value).startswith(
        f"No endpoint of the workshop's is called some-other; yours: {made.name}. The endpoint "
    )
    assert "not allowed to call DescribeEndpoint" in str(refused.value)


def test_the_only_endpoint_is_found_and_so_is_a_named_one(served):
    session, made = served
    assert endpoint.find(session) == endpoint.find(session, made.name, in_service=True) == made


def test_of_several_endpoints_one_has_to_be_named(session):
    names = {deploy(session).name, deploy(session, "llama-3-70b").name}
    with pytest.raises(EndpointError, match="ENDPOINT_NAME") as caught:
        endpoint.find(session)
    assert all(name in str(caught.value) for name in names)


def test_an_endpoint_that_is_still_starting_is_refused_when_asked(broken):
    rehearsing.pretend(broken, "DescribeEndpoint", EndpointStatus="Creating")
    made = deploy(broken)
    assert endpoint.find(broken).name == made.name
    with pytest.raises(EndpointError, match="Creating.*03_deploy_endpoint"):
        endpoint.find(broken, in_service=True)


def test_participants_whose_names_begin_alike_do_not_meet(shared):
    anna, anna_b = replace(shared, participant="anna"), replace(shared, participant="anna-b")
    made = deploy(anna_b)
    with pytest.raises(EndpointMissing):
        endpoint.find(anna)
    assert cleanup.leftovers(anna).empty
    assert endpoint.find(anna_b).name == made.name
    cleanup.delete(anna_b)


def test_without_the_right_to_read_tags_the_name_is_enough(session, broken):
    made = deploy(session)
    rehearsing.refuse(broken, "ListTags", "AccessDeniedException", "no")
    assert endpoint.find(broken).name == made.name
    assert endpoint.find(broken).recipe_name == SMALL


def test_a_network_that_fails_while_tags_are_read_is_one_sentence(broken):
    made = deploy(broken)
    error = EndpointConnectionError(endpoint_url="https://api.sagemaker")
    rehearsing.fail_after(broken, "ListTags", error)
    for asked in (lambda: endpoint.look(broken, made.name), lambda: endpoint.find(broken)):
        with pytest.raises(EndpointError, match="The tags of .* cannot be read"):
            asked()


def test_waiting_survives_a_network_that_fails_while_tags_are_read(broken):
    made = deploy(broken)
    left = iter(range(3))

    def fail(**_):
        if next(left, None) is not None:
            raise EndpointConnectionError(endpoint_url="https://api.sagemaker")

    rehearsing.after(broken, "ListTags", fail)
    assert endpoint.wait(broken, made).status == "InService"


def test_a_refused_list_is_one_sentence(broken):
    rehearsing.refuse(broken, "ListEndpoints", "AccessDeniedException", "no")
    with pytest.raises(EndpointError, match="not allowed to call ListEndpoints"):
        endpoint.find(broken)


def test_a_refused_description_is_one_sentence(broken):
    rehearsing.refuse(broken, "DescribeEndpoint", "AccessDeniedException", "no")
    with pytest.raises(EndpointError, match="not allowed to call DescribeEndpoint"):
        endpoint.find(broken, "x")


# --- names


def test_names_fit_sagemakers_pattern():
    pattern = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
    for recipe in recipes.RECIPES:
        assert pattern.fullmatch(resources.name_of("christopher-ab12", recipe))
    long = [resources.name_of("christopher-ab12", "r" * 60 + end) for end in "ab"]
    assert all(pattern.fullmatch(name) for name in long)
    assert long[0] != long[1]


# --- wait


def test_waiting_says_a_line_at_each_mark_and_what_it_cost(session, capsys):
    made = deploy(session, "llama-3-70b")
    capsys.readouterr()
    ready = endpoint.wait(session, made)
    assert ready.status == "InService"
    *marks, last = capsys.readouterr().out.splitlines()
    assert marks == [
        "[rehearsal] Creating, 5 of about 31 min, downloading the weights, $1.30 so far",
        "[rehearsal] Creating, 10 of about 31 min, downloading the weights, $2.60 so far",
        "[rehearsal] Creating, 15 of about 31 min, downloading the weights, $3.90 so far",
        "[rehearsal] Creating, 20 of about 31 min, loading the model, $5.19 so far",
        "[rehearsal] Creating, 25 of about 31 min, loading the model, $6.49 so far",
        "[rehearsal] Creating, 30 of about 31 min, loading the model, $7.79 so far",
    ]
    assert re.fullmatch(r"InService after \d+\.\d min, \$\d+\.\d\d so far \[rehearsal\]", last)
    assert ready.cost_so_far(session) > 7


def test_a_container_that_has_died_is_said_long_before_sagemaker_gives_up(session, capsys):
    made = deploy(session, HF_AUTO_CAST_TYPE="bf16")
    with pytest.raises(EndpointFailed):
        endpoint.wait(session, made)
    said = capsys.readouterr().out
    assert "Creating, 5 of about 8 min, starting the container, $0.08 so far" in said
    assert "Creating, 10 min instead of about 8, its container has died (cache miss), $0." in said
    assert said.count("It will not come up: The Neuron cache holds no model") == 1


def test_what_a_container_cannot_recover_from_is_among_the_symptoms():
    assert set(waiting.FATAL) <= {one.name for one in symptoms.SYMPTOMS}


@pytest.mark.parametrize(
    ("lines", "stage"),
    [
        ([], "waiting for the machine"),
        (["INFO text_generation_launcher: Args"], "starting the container"),
        (["Starting download process."], "downloading the weights"),
        (["Successfully downloaded weights.", "Starting shard"], "loading the model"),
        (["Shard ready in 900s", "Warming up model"], "warming up"),
        (["Warming up model", "Connected"], "about to answer"),
        (["INFO:     Application startup complete."], "about to answer"),
    ],
)
def test_what_a_container_does_is_told_by_its_log(lines, stage):
    assert logs.stage(lines) == stage


def test_without_a_right_to_its_log_it_seems_to_wait_for_the_machine(session, broken, capsys):
    made = deploy(session)
    rehearsing.refuse(
        broken, "DescribeLogStreams", "AccessDeniedException", "no", service="cloudwatch-logs"
    )
    endpoint.wait(broken, made)
    assert "waiting for the machine" in capsys.readouterr().out


def test_an_update_is_waited_for_from_its_beginning(session, capsys):
    made = endpoint.wait(session, deploy(session))
    session.clock.sleep(3600)
    session.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=made.name,
        DesiredWeightsAndCapacities=[{"VariantName": VARIANT, "DesiredInstanceCount": 2}],
    )
    changing = endpoint.look(session, made.name)
    capsys.readouterr()
    endpoint.wait(session, changing)
    said = capsys.readouterr().out
    assert said.count("min,") <= 2
    assert "Creating" not in said


def test_waiting_for_an_endpoint_that_is_long_in_service_is_one_line(served, capsys):
    session, made = served
    session.clock.sleep(600)
    endpoint.wait(session, made)
    assert re.fullmatch(
        r"InService, \$\d+\.\d\d since its creation \[rehearsal\]\n", capsys.readouterr().out
    )


def test_a_failure_names_reason_last_lines_and_remedy(session, capsys):
    made = deploy(session, HF_AUTO_CAST_TYPE="bf16")
    with pytest.raises(EndpointFailed) as caught:
        endpoint.wait(session, made)
    said = str(caught.value)
    assert "did not pass the ping health check" in said
    assert said.count("No cached version found for meta-llama/Meta-Llama-3-8B-Instruct") == 1
    assert "batch 4, length 4096, 2 cores, fp16" in said
    assert TOKEN not in said
    assert deploy(session).created > made.created
    assert "is replaced" in capsys.readouterr().out


def failed(session, **changes):
    """The post-mortem of an endpoint that SageMaker describes as failed."""
    made = deploy(session)
    described = {**vars(made), "status": "Failed", **changes}
    return str(waiting._failure(session, endpoint.Endpoint(**described)))


def test_missing_capacity_has_its_own_remedy(session):
    tomorrow = session.clock.now() + timedelta(days=1)  # so that it has no log yet
    reason = "Unable to provision requested ML compute capacity"
    said = failed(session, failure_reason=reason, created=tomorrow)
    assert "another region" in said
    assert "has left no log" in said


def test_a_failure_that_no_contract_explains_points_at_time_and_token(session):
    assert "3600 s" in failed(session, failure_reason="ping")


def test_a_failure_of_an_unknown_image_says_so(session):
    assert "look it up" in failed(session, failure_reason="ping", image="something/else:1")


class Interrupted(Clock):
    def sleep(self, seconds):
        raise KeyboardInterrupt


def test_an_interrupt_says_what_exists_and_bills(broken, monkeypatch):
    rehearsing.pretend(broken, "DescribeEndpoint", EndpointStatus="Creating")
    made = deploy(broken)
    monkeypatch.setattr(broken, "clock", Interrupted(broken.clock.speed, broken.clock.origin))
    with pytest.raises(EndpointError, match=r"bills \$0\.99 an hour.*08_clean_up"):
        endpoint.wait(broken, made)


def test_a_time_out_says_what_exists_and_bills(broken):
    rehearsing.pretend(broken, "DescribeEndpoint", EndpointStatus="Creating")
    made = deploy(broken)
    with pytest.raises(EndpointError, match=r"Still Creating after .* bills \$0\.99 an hour"):
        endpoint.wait(broken, made, timeout_s=60)


def test_an_endpoint_that_is_being_deleted_is_said(broken):
    made = endpoint.wait(broken, deploy(broken))
    # A deletion takes 15 s of AWS time, 4 ms here: too short to be met on a busy machine.
    rehearsing.pretend(broken, "DescribeEndpoint", times=1, EndpointStatus="Deleting")
    with pytest.raises(EndpointError, match="is being deleted"):
        endpoint.wait(broken, made)


def test_an_endpoint_deleted_meanwhile_is_said(session):
    made = endpoint.wait(session, deploy(session))
    resources.delete(session, resources.ENDPOINT, made.name)
    deployed.wait_until_gone(session, made.name)
    with pytest.raises(EndpointMissing):
        endpoint.wait(session, made)


def test_a_network_that_comes_and_goes_does_not_end_the_wait(session, monkeypatch):
    made = deploy(session)
    describe, lost = resources.describe, []

    def drop(session, kind, name):
        if kind is resources.ENDPOINT and len(lost) < 8:
            lost.append(name)
            raise EndpointError("AWS cannot be reached.")
        return describe(session, kind, name)

    monkeypatch.setattr(resources, "describe", drop)
    assert endpoint.wait(session, made).status == "InService"
    assert len(lost) == 8


def test_a_network_that_stays_away_ends_it_in_a_sentence(session, broken):
    made = deploy(session)
    rehearsing.refuse(broken, "DescribeEndpoint", "AccessDeniedException", "no")
    with pytest.raises(EndpointError, match="not allowed"):
        endpoint.wait(broken, made)


# --- log and removal


def test_the_log_ends_with_the_last_lines(served):
    session, made = served
    lines = endpoint.container_log(session, made.name, lines=2)
    assert len(lines) == 2
    assert lines == endpoint.container_log(session, made.name)[-2:]
    assert endpoint.container_log(session, made.name, since=session.clock.now()) == []


def test_without_a_log_there_are_no_lines(session):
    assert endpoint.container_log(session, "inf2-workshop-none") == []


def test_a_log_that_may_not_be_read_says_so(broken):
    rehearsing.refuse(
        broken, "DescribeLogStreams", "AccessDeniedException", "no", service="cloudwatch-logs"
    )
    assert "cannot be read" in endpoint.container_log(broken, "x")[0]


def test_an_endpoint_is_gone_when_its_removal_returns(session):
    made = endpoint.wait(session, deploy(session))
    assert endpoint.remove(session, made.name) is True
    assert resources.describe(session, resources.ENDPOINT, made.name) is None
    assert endpoint.remove(session, made.name) is False


def test_one_that_is_still_starting_is_waited_for(session, broken, capsys):
    made = deploy(session)
    rehearsing.pretend(broken, "DescribeEndpoint", times=2, EndpointStatus="Creating")
    assert endpoint.remove(broken, made.name)
    assert "AWS deletes it once that has ended" in capsys.readouterr().out
    assert resources.describe(session, resources.ENDPOINT, made.name) is None


def test_one_that_is_being_deleted_already_is_waited_for(session, broken):
    made = endpoint.wait(session, deploy(session))
    resources.delete(session, resources.ENDPOINT, made.name)
    rehearsing.pretend(broken, "DescribeEndpoint", times=1, EndpointStatus="Deleting")
    endpoint.remove(broken, made.name)
    assert resources.describe(session, resources.ENDPOINT, made.name) is None


def test_one_whose_time_ends_while_it_is_removed_is_no_failure(session, broken):
    made = endpoint.wait(session, deploy(session))
    looks = count()

    def end_at_the_second_look(parsed, **_):
        if next(looks) == 1:
            rehearsing.restore()
            resources.delete(session, resources.ENDPOINT, made.name)
            parsed.update(EndpointStatus="Deleting")

    rehearsing.after(broken, "DescribeEndpoint", end_at_the_second_look)
    rehearsing.refuse(broken, "DeleteEndpoint", "ValidationException", "in-progress")
    assert endpoint.remove(broken, made.name)
    assert resources.describe(session, resources.ENDPOINT, made.name) is None


def test_an_endpoint_that_does_not_go_away_is_said(served):
    session, made = served
    with pytest.raises(EndpointError, match=r"still InService after .*may still bill"):
        deployed._wait_while(session, made.name, lambda status: True, 60, 5)


def test_looking_costs_little_time(served):
    session, made = served
    started = time.monotonic()
    endpoint.find(session)
    assert time.monotonic() - started < 10
