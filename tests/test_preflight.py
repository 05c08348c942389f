import json
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import boto3
import made_things as made
import pytest
import rehearsing
from botocore.exceptions import (
    EndpointConnectionError,
    NoCredentialsError,
    UnauthorizedSSOTokenError,
)

from helpers import models, preflight, recipes, session
from helpers.errors import PreflightError, SessionError
from helpers.preflight import CHECKS, FAILED, NOT_CHECKED, OK, WARNING, Result
from helpers.preflight import __main__ as command
from helpers.rehearsal import launch
from helpers.rehearsal.hub import UNGRANTED_TOKEN

GUIDE = recipes.get("llama-3-70b")
SMALL = recipes.get("llama-3-8b")
TOKEN = "hf_AbCdEfGhIjKlMnOp"
MODEL_URL = "https://huggingface.co/meta-llama/Meta-Llama-3-70B-Instruct"
ROLES = "arn:aws:iam::123456789012:role/"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    with rehearsing.server(tmp_path_factory.mktemp("preflight")):
        yield session.open_session()


@pytest.fixture
def refused(here):
    """A session whose AWS is about to refuse something."""
    yield here
    rehearsing.restore()


class Signing(boto3.Session):
    """Signs with other keys than those of the environment."""

    def __init__(self, here, keys):
        super().__init__(
            region_name=here.region, **{name.lower(): value for name, value in keys.items()}
        )
        self.endpoint_url = here.boto.endpoint_url

    def client(self, service_name, **options):
        return super().client(service_name, endpoint_url=self.endpoint_url, **options)


def only(here, name, recipe=GUIDE, **options):
    [result] = preflight.check(here, recipe, only=name, **options)
    assert result.check == name
    if result.state != OK:
        assert result.remedy.endswith(".")
    return result


# --- all of it


def test_everything_is_checked_in_seconds_and_passes(here):
    started = time.monotonic()
    results = preflight.check(here, GUIDE, hf_token=TOKEN)
    assert time.monotonic() - started < 10
    assert [one.check for one in results] == list(CHECKS)
    assert {one.check: one.state for one in results} == dict.fromkeys(CHECKS, OK)
    assert not any(one.remedy for one in results)
    assert TOKEN not in repr(results)
    assert preflight.require(results) == "Nothing known keeps it from coming up."


def test_the_table_has_a_row_a_check(here):
    table = preflight.table(preflight.check(here, GUIDE, only=("quota", "shape")))
    assert (table.index.name, *table.columns) == ("check", "result", "what to do")
    assert list(table.index) == ["quota", "shape"]
    assert table["result"]["quota"] == "ok: limit 20 of ml.inf2.48xlarge, 0 in use, 20 left"
    assert preflight.table([]).empty and repr(preflight.table([]))


def test_the_table_begins_on_the_left_with_what_is_not_ok(here):
    table = here.table(preflight.table(results(OK, WARNING, NOT_CHECKED, FAILED)))
    assert [one.partition(":")[0] for one in table["result"]] == [FAILED, NOT_CHECKED, WARNING, OK]
    head, _, first, *rest = repr(table).splitlines()
    assert head.startswith("rehearsal") and first.startswith("scheduler-role failed: scheduler-")
    assert len({line.index("Mend") for line in (first, *rest[:2])}) == 1
    assert (
        len(
            {
                line.index(":") - len(state)
                for line, state in zip(
                    (first, *rest), (FAILED, NOT_CHECKED, WARNING, OK), strict=True
                )
            }
        )
        == 1
    )
    html = table._repr_html_()
    assert "text-align: right" not in html
    assert "tbody td {\n        text-align: left" in html
    assert "<th>scheduler-role</th>" in html


def test_nothing_in_a_row_that_is_ok_is_long(here):
    assert max(len(one) for one in preflight.table(preflight.check(here, GUIDE))["result"]) < 105


@pytest.mark.parametrize("name", CHECKS)
def test_each_check_runs_alone(here, name):
    assert only(here, name).state == OK


@pytest.mark.parametrize("recipe", recipes.RECIPES.values(), ids=lambda recipe: recipe.name)
def test_every_recipe_may_be_deployed_and_what_is_assumed_is_a_warning(here, recipe):
    results = preflight.check(here, recipe)
    preflight.require(results)
    states = {one.check: one.state for one in results}
    cached = "cache" if recipe.name != GUIDE.name else ""
    assert {name for name, state in states.items() if state != OK} == set(filter(None, [cached]))


# --- who one is


def test_credentials_that_have_run_out_fail_and_what_needs_them_is_not_checked(here):
    with here.fault("expired-credentials"):
        results = {one.check: one for one in preflight.check(here, GUIDE)}
    assert results["identity"].state == FAILED
    assert "have expired" in results["identity"].said
    assert "Sign in again" in results["identity"].remedy
    states = {name: one.state for name, one in results.items()}
    assert [name for name, state in states.items() if state == FAILED] == ["identity"]
    open_ = [one for one in results.values() if one.state == NOT_CHECKED]
    assert {one.check for one in open_} == {"role", "permissions", "scheduler-role", "quota"}
    assert {one.remedy for one in open_} == {"Sign in first, as the check identity says."}
    assert states["shape"] == states["cache"] == states["weights"] == OK


def test_without_credentials_a_check_alone_says_to_sign_in(here):
    with here.fault("expired-credentials"):
        result = only(here, "scheduler-role")
    assert (result.state, "iam/template.yaml" in result.remedy) == (NOT_CHECKED, False)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (NoCredentialsError(), FAILED),
        (UnauthorizedSSOTokenError(), FAILED),
        (EndpointConnectionError(endpoint_url="https://sts"), NOT_CHECKED),
    ],
)
def test_no_credentials_are_told_from_no_network(here, refused, error, state):
    rehearsing.fail_after(refused, "GetCallerIdentity", error, service="sts")
    assert only(here, "identity").state == state


@pytest.mark.parametrize(
    ("role", "said"),
    [
        (f"{ROLES}inf2-workshop-none", "there is no role inf2-workshop-none in account 1234567"),
        (f"{ROLES}inf2-workshop-scheduler", "does not trust sagemaker.amazonaws.com"),
        ("arn:aws:iam::210987654321:role/theirs", "belongs to another account than 123456789012"),
        (f"{ROLES}path/inf2-workshop-execution", f"is {ROLES}inf2-workshop-execution, not"),
    ],
)
def test_a_role_that_sagemaker_cannot_take_fails(here, role, said):
    result = only(here, "role", role=role)
    assert result.state == FAILED
    assert said in result.said
    assert "iam/template.yaml" in result.remedy


@pytest.mark.parametrize("given", ["foo", "a:b", "arn:aws:iam::123456789012:user/x"])
def test_what_is_no_roles_arn_fails_and_breaks_no_other_check(here, given):
    found = preflight.check(here, GUIDE, role=given, only=("role", "permissions"))
    assert [one.state for one in found] == [FAILED, OK]
    assert "is not the ARN of a role" in found[0].said


SAGEMAKER, SCHEDULER = "sagemaker.amazonaws.com", "scheduler.amazonaws.com"


def describing(here, arn, *statements):
    """From now on IAM describes every role like this."""
    document = json.dumps({"Statement": statements})

    def change(parsed, **_):
        parsed["Role"] = {"Arn": arn, "AssumeRolePolicyDocument": document}

    rehearsing.after(here, "GetRole", change, service="iam")


def trusting(action="sts:AssumeRole", effect="Allow", service=SAGEMAKER, **condition):
    statement = {"Effect": effect, "Principal": {"Service": service}, "Action": action}
    return statement | ({"Condition": condition} if condition else {})


@pytest.mark.parametrize(
    ("statements", "state"),
    [
        ([trusting("sts:Assume*")], OK),
        ([trusting("sts:assumerole")], OK),
        ([trusting(StringEquals={"aws:SourceAccount": "123456789012"})], OK),
        ([trusting(StringEqualsIgnoreCase={"AWS:SourceAccount": ["1", "123456789012"]})], OK),
        ([trusting(StringNotEquals={"aws:SourceAccount": "999999999999"})], OK),
        ([trusting(ArnLike={"aws:SourceArn": "arn:aws:sagemaker:*:123456789012:*"})], OK),
        ([trusting(StringEquals={"aws:SourceAccount": "999999999999"})], FAILED),
        ([trusting(ArnLike={"aws:SourceArn": "arn:aws:sagemaker:eu-west-1:*"})], FAILED),
        ([trusting(), trusting(effect="Deny")], FAILED),
        ([trusting(), {"Effect": "Deny", "Principal": "*", "NotAction": "sts:TagSession"}], FAILED),
        ([trusting("sts:TagSession")], FAILED),
        ([trusting(StringEquals={"sts:ExternalId": "x"})], NOT_CHECKED),
        ([trusting(), trusting(effect="Deny", Bool={"aws:SecureTransport": "false"})], NOT_CHECKED),
        (
            [trusting(), {"Effect": "Deny", "NotPrincipal": {"AWS": "x"}, "Action": "sts:*"}],
            NOT_CHECKED,
        ),
    ],
)
def test_a_trust_policy_is_read_as_iam_reads_it(here, statements, state):
    describing(here, f"{ROLES}inf2-workshop-execution", *statements)
    try:
        assert only(here, "role", role=f"{ROLES}inf2-workshop-execution").state == state
    finally:
        rehearsing.restore()


def test_a_role_that_one_may_not_look_at_is_not_checked(here):
    assert only(here, "role", role=f"{ROLES}someone-elses").state == NOT_CHECKED


def test_the_root_user_may_do_everything_and_is_advised_against(here):
    root = replace(here, identity="arn:aws:iam::123456789012:root")
    assert only(root, "permissions").said.startswith("you may do everything; inf2-workshop-")
    rehearsing.pretend(here, "GetCallerIdentity", service="sts", Arn=root.identity)
    assert only(here, "identity").state == WARNING
    rehearsing.restore()


def test_a_user_without_a_role_is_told_how_to_get_one(here, monkeypatch):
    monkeypatch.setattr(session, "EXECUTION_ROLE", "no-such-role")
    laptop = replace(here, identity="arn:aws:iam::123456789012:user/laptop")
    result = only(laptop, "role")
    assert (result.state, "is not a role" in result.said) == (FAILED, True)
    assert "ROLE_ARN" in result.remedy


def test_without_a_role_for_the_scheduler_nothing_would_delete_the_endpoint(here, monkeypatch):
    monkeypatch.setattr(session, "SCHEDULER_ROLE", "no-such-role")
    result = only(here, "scheduler-role")
    assert result.state == FAILED
    assert "iam/template.yaml" in result.remedy


@contextmanager
def scheduler_role(here, name, *, trusts=SCHEDULER, may=None):
    """A role of the account that deletes endpoints, or is to."""
    iam = administrators_iam(here)
    document = {"Version": "2012-10-17", "Statement": [trusting(service=trusts)]}
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(document))
    if may:
        statement = {"Effect": "Allow", "Action": may, "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_role_policy(RoleName=name, PolicyName="may", PolicyDocument=policy)
    try:
        yield with_scheduler_role(here, f"{ROLES}{name}")
    finally:
        if may:
            iam.delete_role_policy(RoleName=name, PolicyName="may")
        iam.delete_role(RoleName=name)


def with_scheduler_role(here, arn):
    return replace(here, settings=replace(here.settings, scheduler_role_arn=arn))


def test_a_scheduler_role_without_rights_never_ends_anything_and_fails(here):
    with scheduler_role(here, "inf2-workshop-norights") as powerless:
        result = only(powerless, "scheduler-role")
        assert (result.state, result.said) == (
            FAILED,
            "inf2-workshop-norights may not sagemaker:DeleteEndpoint",
        )
        assert "Attach iam/scheduler.json" in result.remedy
        with pytest.raises(PreflightError, match="scheduler-role"):
            preflight.require([result])


@pytest.mark.parametrize(
    ("may", "state"),
    [
        ("sagemaker:*", WARNING),  # it ends the endpoint, and not its scaling
        ("sagemaker:DeleteModel", FAILED),
        ("*", OK),
    ],
)
def test_what_a_scheduler_role_may_is_simulated(here, may, state):
    with scheduler_role(here, "inf2-workshop-some", may=may) as here_too:
        assert only(here_too, "scheduler-role").state == state


def test_a_scheduler_role_that_nobody_simulates_is_not_checked(here):
    with denying(here, "inf2-workshop-participant", "iam:SimulatePrincipalPolicy"):
        found = only(here, "scheduler-role")
    assert found.state == WARNING
    assert "only the name of a policy is known, inf2-workshop-scheduler" in found.said


def test_a_scheduler_role_that_trusts_another_service_fails(here):
    with scheduler_role(here, "inf2-workshop-other", trusts="lambda.amazonaws.com") as other:
        assert only(other, "scheduler-role").said.endswith("does not trust scheduler.amazonaws.com")


@pytest.mark.parametrize(
    ("arn", "said"),
    [
        ("arn:aws:iam::210987654321:role/theirs", "belongs to another account"),
        (f"{ROLES}inf2-workshop-gone", "there is no role inf2-workshop-gone"),
    ],
)
def test_a_scheduler_role_that_is_not_there_fails(here, arn, said):
    result = only(with_scheduler_role(here, arn), "scheduler-role")
    assert (result.state, said in result.said) == (FAILED, True)


def test_a_role_whose_condition_fails_is_not_taken_for_the_schedulers(here, refused):
    failing = trusting(service=SCHEDULER, StringEquals={"aws:SourceAccount": "999999999999"})
    describing(refused, f"{ROLES}inf2-workshop-scheduler", failing)
    with pytest.raises(SessionError, match="There is no role"):
        refused.scheduler_role()


# --- what one may


def administrators_iam(here):
    keys = launch.credentials("admin")
    return boto3.client(
        "iam",
        region_name="us-east-1",
        endpoint_url=here.boto.endpoint_url,
        **{name.lower(): value for name, value in keys.items()},
    )


@contextmanager
def denying(here, role, *actions):
    """A role of the account has a policy more, which denies something."""
    admin = administrators_iam(here)
    statement = {"Effect": "Deny", "Action": list(actions), "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    admin.put_role_policy(RoleName=role, PolicyName="denied", PolicyDocument=document)
    try:
        yield
    finally:
        admin.delete_role_policy(RoleName=role, PolicyName="denied")


def test_the_rights_of_participant_and_role_are_simulated(here):
    assert only(here, "permissions").said == (
        "you may do all of iam/participant.json; inf2-workshop-execution may do all of "
        "iam/execution.json"
    )


def test_a_user_on_a_laptop_has_the_same_rights(here):
    keys = launch.credentials("laptop")
    laptop = session.Session(
        settings=here.settings,
        region=here.region,
        account=here.account,
        identity="arn:aws:iam::123456789012:user/laptop",
        participant="laptop",
        clock=here.clock,
        boto=Signing(here, keys),
    )
    assert only(laptop, "permissions").state == OK


def test_a_right_without_which_nothing_is_deployed_fails_by_name(here):
    with denying(here, "inf2-workshop-participant", "sagemaker:CreateEndpoint", "iam:PassRole"):
        result = only(here, "permissions")
    assert result.state == FAILED
    assert result.said.startswith("you may not iam:PassRole, sagemaker:CreateEndpoint; inf2-")
    assert result.remedy == (
        "Attach iam/participant.json to arn:aws:iam::123456789012:role/inf2-workshop-participant "
        "(iam/README.md says how)."
    )


def test_a_right_that_the_container_lacks_fails_by_name(here):
    with denying(here, "inf2-workshop-execution", "ecr:BatchGetImage"):
        result = only(here, "permissions")
    assert result.state == FAILED
    assert "inf2-workshop-execution may not ecr:BatchGetImage" in result.said
    assert "iam/execution.json" in result.remedy


def test_a_right_that_is_needed_later_is_a_warning(here):
    with denying(here, "inf2-workshop-participant", "application-autoscaling:PutScalingPolicy"):
        result = only(here, "permissions")
    assert result.state == WARNING
    assert "you may deploy, and may not application-autoscaling:PutScalingPolicy" in result.said


def test_a_machine_that_the_policy_does_not_allow_fails(here):
    result = only(here, "permissions", replace(GUIDE, instance_type="ml.p5.48xlarge"))
    assert result.state == FAILED
    assert "you may not sagemaker:CreateEndpointConfig" in result.said


def test_where_nothing_may_be_simulated_the_names_of_attached_policies_decide(here):
    with denying(here, "inf2-workshop-participant", "iam:SimulatePrincipalPolicy"):
        result = only(here, "permissions")
    assert result.state == WARNING
    assert "of you only the name of a policy is known, inf2-workshop-participant" in result.said
    assert "not allowed to call SimulatePrincipalPolicy" in result.said


def test_where_nothing_may_be_asked_it_is_not_checked(here):
    denied = ("iam:SimulatePrincipalPolicy", "iam:ListAttachedRolePolicies")
    with denying(here, "inf2-workshop-participant", *denied):
        result = only(here, "permissions")
    assert result.state == NOT_CHECKED
    assert "ListAttachedRolePolicies" in result.said


# --- what the region has


def test_a_container_that_the_region_lacks_fails_with_the_regions_that_have_it(here):
    there = here.in_region("eu-north-1")
    result = only(there, "container", recipes.get("llama-3.3-70b-vllm"))
    assert result.state == FAILED
    assert "not offered in eu-north-1" in result.said
    assert "eu-west-1" in result.remedy
    assert "eu-north-1" not in result.remedy


def test_a_machine_that_the_region_lacks_fails_with_the_regions_that_have_it(here):
    result = only(here.in_region("ca-central-1"), "instance")
    assert result.state == FAILED
    assert "us-west-2" in result.remedy


def test_where_the_price_list_has_nothing_the_list_of_regions_decides(here):
    result = only(here.in_region("eu-west-1"), "instance")
    assert result.state == OK
    assert "EC2 offers ml.inf2.48xlarge in eu-west-1 (list of 2026-08" in result.said
    trainium = replace(GUIDE, instance_type="ml.trn1.32xlarge")
    assert only(here.in_region("eu-west-1"), "instance", trainium).state == NOT_CHECKED


def test_without_quota_it_says_what_to_request_and_where(here):
    with here.fault("no-quota"):
        result = only(here, "quota", instance_count=2)
    assert result.state == FAILED
    assert result.said == "limit 0 of ml.inf2.48xlarge, 0 in use, 0 left, 2 needed"
    assert 'at least 2 for L-286C98BC ("ml.inf2.48xlarge for endpoint usage")' in result.remedy
    assert "us-east-1.console.aws.amazon.com/servicequotas" in result.remedy


def test_what_endpoints_use_is_counted_and_ones_own_needs_no_more(here):
    recipe = replace(SMALL, name="quota-test")
    name = preflight.Asked(here, recipe).endpoint_name
    made.endpoint(here, name, count=18)
    try:
        other = only(here, "quota", SMALL, instance_count=3)
        assert other.state == FAILED
        assert other.said == "limit 20 of ml.inf2.xlarge, 18 in use, 2 left, 3 needed"
        assert "at least 21 for L-C8AB7CDA" in other.remedy
        assert only(here, "quota", SMALL, instance_count=2).state == OK
        own = only(here, "quota", recipe, instance_count=18)
        assert (own.state, own.said.endswith("2 left; 18 of them yours")) == (OK, True)
        assert only(here, "quota", GUIDE).said.startswith("limit 20 of ml.inf2.48xlarge, 0 in use")
    finally:
        remove_endpoint(here, name)


def test_endpoints_that_may_not_be_looked_at_are_mentioned(here, refused):
    recipe = replace(SMALL, name="quota-unseen")
    name = preflight.Asked(here, recipe).endpoint_name
    made.endpoint(here, name)
    try:
        rehearsing.refuse(refused, "DescribeEndpoint", "AccessDeniedException", "no")
        result = only(refused, "quota", SMALL)
        assert result.state == OK
        assert "without 1 endpoints that you may not look at" in result.said
    finally:
        rehearsing.restore()
        remove_endpoint(here, name)


def test_a_type_whose_quota_nobody_knows_is_not_checked(here):
    result = only(here, "quota", replace(GUIDE, instance_type="ml.trn1.32xlarge"))
    assert result.state == NOT_CHECKED
    assert '"ml.trn1.32xlarge for endpoint usage"' in result.remedy


def test_the_price_is_of_all_instances_and_says_where_it_comes_from(here, refused):
    listed = only(here, "price", instance_count=2)
    assert listed.said == "$31.16 an hour, $748 a day for 2 instances (Price List)"
    rehearsing.refuse(
        refused, "GetProducts", "AccessDeniedException", "no pricing", service="pricing"
    )
    dated = only(refused, "price")
    assert dated.state == OK
    assert dated.said.startswith("$15.58 an hour, $374 a day (us-east-1, April 2025; ")
    assert "not allowed to call GetProducts" in dated.said
    unknown = only(refused, "price", replace(GUIDE, instance_type="ml.trn2.48xlarge"))
    assert unknown.state == WARNING


def test_further_regions_are_checked_for_what_a_region_has_and_only_warn(here):
    vllm = recipes.get("llama-3.3-70b-vllm")
    results = preflight.check(here, vllm, regions=["us-east-1", "eu-north-1"])
    one = preflight.check(here, vllm, regions="eu-north-1", only="quota")
    assert [result.check for result in one] == ["quota", "quota eu-north-1"]  # no letters
    further = {one.check: one.state for one in results[len(CHECKS) :]}
    assert further == {
        "container eu-north-1": WARNING,
        "instance eu-north-1": OK,
        "quota eu-north-1": OK,
    }
    preflight.require(results)


# --- the Hub


def test_a_license_that_is_not_accepted_fails_with_its_address(here):
    results = preflight.check(here, GUIDE, hf_token=UNGRANTED_TOKEN, only=("token", "license"))
    assert [one.state for one in results] == [OK, FAILED]
    assert f"Accept the license at {MODEL_URL}" in results[1].remedy
    assert UNGRANTED_TOKEN not in repr(results)


def test_a_token_that_is_none_fails_and_says_where_to_get_one(here):
    results = preflight.check(here, GUIDE, hf_token="no-token", only=("token", "license"))
    assert [one.state for one in results] == [FAILED, NOT_CHECKED]
    assert "https://huggingface.co/settings/tokens" in results[0].remedy


def test_no_token_fails_and_says_where_to_get_one(here, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    result = only(here, "token")
    assert (result.state, result.said) == (FAILED, "No Hugging Face token")
    assert "https://huggingface.co/settings/tokens" in result.remedy


def test_a_hub_that_is_away_is_no_reason_not_to_deploy(here, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    results = preflight.check(here, GUIDE, only=("token", "license", "cache"))
    assert [one.state for one in results] == [NOT_CHECKED, NOT_CHECKED, OK]
    assert "this repository's table: the Hub's registry cannot be read" in results[2].said


def test_an_open_model_and_weights_in_s3_need_no_token(here, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert only(here, "token", replace(GUIDE, gated=False)).state == OK
    given = only(here, "license", weights="s3://bucket/weights/")
    assert given.said == "not needed: the weights come from s3://bucket/weights/"


@pytest.fixture
def bucket(here):
    """The workshop's, with a finished copy of the small model."""
    folder = f"inf2-workshop/x/weights/{SMALL.model_id}/"
    here.client("s3").put_object(Bucket=here.bucket, Key=f"{folder}config.json", Body=b"{}")
    return f"s3://{here.bucket}/{folder}"


def test_weights_that_lie_in_the_bucket_pass(here, bucket):
    result = only(here, "weights", SMALL, weights=bucket)
    assert (result.state, result.said) == (OK, f"a model lies at {bucket}")
    other = only(here, "weights", GUIDE, weights=bucket)
    assert (other.state, "Meta-Llama-3-8B-Instruct lies at" in other.said) == (WARNING, True)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "'nonsense' is no S3 prefix"),
        ("s3://bucket/no/slash", "is no S3 prefix"),
        ("s3:///", "is no S3 prefix"),
        (5, "5 is no S3 prefix"),
        ("", "'' is no S3 prefix"),
        ("s3://nope-x/y/", "inf2-workshop-execution may not read s3://nope-x/y/"),
        ("s3://inf2-workshop-nope/inf2-workshop/y/", "there is no bucket inf2-workshop-nope"),
        (
            "s3://inf2-workshop-123456789012-us-east-1/inf2-workshop/y/",
            "config.json is missing",
        ),
    ],
)
def test_weights_that_no_container_can_load_fail(here, address, said):
    result = only(here, "weights", weights=address)
    assert (result.state, said in result.said) == (FAILED, True)


def test_weights_in_another_region_fail(here, refused, bucket):
    def elsewhere(parsed, **_):
        parsed["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"] = "eu-west-1"

    rehearsing.after(refused, "ListObjectsV2", elsewhere, service="s3")
    assert "is in eu-west-1" in only(refused, "weights", weights=bucket).said


def test_weights_of_which_nothing_can_be_asked_are_not_checked(here, refused, bucket):
    rehearsing.refuse(refused, "ListObjectsV2", "AccessDenied", "no", status=403, service="s3")
    assert only(refused, "weights", SMALL, weights=bucket).state == NOT_CHECKED
    rehearsing.restore()
    with denying(here, "inf2-workshop-participant", "iam:SimulatePrincipalPolicy"):
        assert only(here, "weights", SMALL, weights=bucket).state == NOT_CHECKED
    assert only(here, "weights", SMALL, weights=bucket, role="foo").state == NOT_CHECKED


def test_a_model_that_does_not_exist_fails(here):
    recipe = recipes.get("llama-3-70b", HF_MODEL_ID="nobody/nothing-70b")
    assert only(here, "license", recipe).state == FAILED


# --- the configuration


@pytest.mark.parametrize(
    ("name", "recipe", "said", "remedy"),
    [
        (
            "contract",
            recipes.get("llama-3-70b", MAX_BATCH_SIZE=None),
            "MAX_BATCH_SIZE must be set to the model static batch size",
            "Set MAX_BATCH_SIZE.",
        ),
        (
            "contract",
            recipes.get("llama-3-70b", instance_type="inf2.xlarge"),
            "NeuronCore(s) not available - Requested:24 Available:2",
            "choose a larger instance",
        ),
        (
            "cache",
            replace(GUIDE, container_version="0.0.25"),
            "batch 4, 4096 tokens, 24 cores, fp16, compiler 2.15.128.0, is not cached",
            "Batch 4 is cached as bf16, not fp16: set HF_AUTO_CAST_TYPE to bf16; or: batch 4 is "
            "cached for compiler 2.13.66.0, 2.14.227.0 or 2.15.143.0, not 2.15.128.0: use "
            "container version 0.0.22, 0.0.23, 0.0.24, 0.0.27 or 0.0.28.",
        ),
        (
            "cache",
            recipes.get("llama-3-70b", HF_BATCH_SIZE=3, MAX_BATCH_SIZE=3),
            "does not compile (the Hub's registry, just now)",
            "Batch 1 and 4 are cached, not 3",
        ),
        (
            "cache",
            replace(recipes.get("llama-3-70b", HF_MODEL_ID="someone/model-70b"), gated=False),
            "someone/model-70b as batch 4",
            "Choose a model that is cached",
        ),
        (
            "shape",
            recipes.get("llama-3-70b", HF_SEQUENCE_LENGTH=2048),
            "MAX_TOTAL_TOKENS 4096 is more than the 2048 tokens a slot holds",
            "Set MAX_TOTAL_TOKENS to 2048",
        ),
        (
            "shape",
            recipes.get("llama-3-70b", MAX_INPUT_LENGTH=4096),
            "leaves no room for an answer in 4096",
            "Set MAX_INPUT_LENGTH below 4096.",
        ),
        (
            "shape",
            recipes.get("llama-3-70b", MAX_INPUT_LENGTH="many"),
            "MAX_INPUT_LENGTH is 'many'",
            "Set a whole number.",
        ),
        (
            "memory",
            recipes.get("llama-3-70b", instance_type="inf2.8xlarge"),
            "141 GB of weights + 5.4 GB of KV cache (4 x 4096 tokens) = 146 GB of 34 GB HBM",
            "Choose ml.inf2.24xlarge with all its cores or a smaller batch.",
        ),
        (
            "memory",
            recipes.get("llama-3-70b", HF_BATCH_SIZE=512),
            "GB of 412 GB HBM",
            "Choose a smaller model or a smaller batch: no inf2 holds",
        ),
        ("disk", replace(GUIDE, volume_gb=256), "282 GB of weights (two", "to 314 or more"),
        (
            "disk",
            recipes.get("llama-3-70b", HF_MODEL_ID="meta-llama/Llama-3.1-405B"),
            "1620 GB of weights",
            "a volume holds 512 GB",
        ),
        (
            "timeout",
            replace(GUIDE, health_check_timeout_s=900),
            "loading takes about 26 min, the health check waits 15 min",
            "Set health_check_timeout_s to 3600.",
        ),
        ("timeout", replace(GUIDE, health_check_timeout_s=7200), "120 min", "from 60 to 3600"),
        (
            "timeout",
            recipes.get("llama-3-70b", HF_MODEL_ID="meta-llama/Llama-3.1-405B"),
            "loading takes about 148 min",
            "may not do",
        ),
    ],
    ids=lambda one: one if isinstance(one, str) and one in CHECKS else "",
)
def test_a_broken_recipe_fails_at_its_check_and_says_what_to_do(here, name, recipe, said, remedy):
    result = only(here, name, recipe)
    assert result.state == FAILED
    assert said in result.said
    assert remedy in result.remedy


@pytest.mark.parametrize(
    ("name", "recipe", "remedy"),
    [
        (
            "contract",
            replace(recipes.get("llama-3.3-70b-vllm"), inference_ami_version=None),
            "al2-ami-sagemaker-inference-neuron-2",
        ),
        (
            "cache",
            recipes.get("llama-3-70b-tgi-0.0.28"),
            "Be ready to read the container's log: it says so when the shape is not cached.",
        ),
        ("shape", recipes.get("llama-3-70b", MAX_BATCH_SIZE=2), "Set MAX_BATCH_SIZE to 4."),
        ("memory", recipes.get("llama-3-8b", HF_BATCH_SIZE=30, MAX_BATCH_SIZE=30), "Leave a tenth"),
        ("memory", recipes.get("llama-3-70b", HF_MODEL_ID="a/b-7b"), "config.json"),
        ("disk", replace(GUIDE, volume_gb=300), "to 314 or more"),
        ("timeout", replace(GUIDE, health_check_timeout_s=1600), "to 3600"),
    ],
    ids=lambda one: one if isinstance(one, str) and one in CHECKS else "",
)
def test_what_is_tight_or_assumed_is_a_warning(here, name, recipe, remedy):
    result = only(here, name, recipe)
    assert result.state == WARNING
    assert remedy in result.remedy


# --- what holds a deployment up, and what does not


def results(*states):
    return [
        Result(name, state, f"{name} is {state}", f"Mend {name}." if state != OK else "")
        for name, state in zip(CHECKS, states, strict=False)
    ]


def all_of(*states):
    """The same, and all the other checks, which are ok."""
    return results(*states, *[OK] * (len(CHECKS) - len(states)))


def test_every_failed_check_is_named_with_what_to_do():
    with pytest.raises(PreflightError) as stopped:
        preflight.require(results(OK, FAILED, WARNING, FAILED))
    assert str(stopped.value) == (
        "2 checks have failed, so nothing was deployed: role (role is failed): Mend role; "
        "scheduler-role (scheduler-role is failed): Mend scheduler-role; or deploy all the same "
        "with override=['role', 'scheduler-role']."
    )


def test_warnings_and_what_was_not_checked_stop_nothing():
    assert preflight.require(all_of(OK, WARNING, NOT_CHECKED)) == (
        "Nothing known keeps it from coming up; not checked: permissions."
    )


def test_a_verdict_on_some_of_the_checks_says_so():
    assert preflight.require(results(OK, OK)) == (
        f"Nothing known keeps it from coming up. Asked for: 2 of {len(CHECKS)} checks."
    )


def test_every_option_of_the_command_line_says_what_it_is(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Returns:" not in said
    assert "a check that may fail" in said
    assert "instances behind the endpoint" in said
    assert "a region that a deployment may move to" in said


def test_what_is_overridden_is_said(here):
    assert preflight.require(all_of(OK, FAILED, FAILED), override=CHECKS) == (
        "Overridden: role, which says role is failed; permissions, which says permissions is "
        "failed. Nothing else known keeps it from coming up."
    )


@pytest.mark.parametrize("count", [0, -3, "2", None, 1.5, float("nan"), True])
def test_a_number_of_instances_that_is_none_is_refused_before_anybody_is_asked(count):
    with pytest.raises(PreflightError, match="whole number, not|1 instance or more, not"):
        preflight.check(None, GUIDE, instance_count=count)


def test_a_failure_is_overridden_by_its_name_and_others_still_stop():
    failed = results(OK, FAILED, OK, FAILED)
    preflight.require(failed, override=("role", "scheduler-role"))
    preflight.require(results(OK, FAILED), override="role")
    with pytest.raises(PreflightError, match="A check has failed, .*: role ") as stopped:
        preflight.require(failed, override=["scheduler-role"])
    assert "Mend scheduler-role" not in str(stopped.value)


def test_an_unknown_name_is_refused_with_the_known_ones(here):
    with pytest.raises(PreflightError, match=r"no check 'qouta': choose from identity, role, "):
        preflight.require([], override=["qouta"])
    with pytest.raises(PreflightError, match="no check 'all'"):
        preflight.check(here, GUIDE, only="all")


def test_a_check_that_hangs_holds_nothing_up(here, refused, monkeypatch):
    monkeypatch.setattr(preflight, "LIMIT_S", 1.0)
    awake = threading.Event()
    rehearsing.after(
        refused, "GetServiceQuota", lambda **_: awake.wait(30), service="service-quotas"
    )
    started = time.monotonic()
    found = {one.check: one for one in preflight.check(refused, GUIDE, only=("quota", "shape"))}
    took_s = time.monotonic() - started
    awake.set()
    assert took_s < 5
    assert found["quota"] == Result(
        "quota",
        NOT_CHECKED,
        "no answer within 1 s",
        "Try again later. Nothing keeps you from deploying.",
    )
    assert found["shape"].state == OK


def test_a_check_without_rights_is_not_made_and_hides_no_other(refused):
    rehearsing.refuse(
        refused, "GetServiceQuota", "AccessDeniedException", "no", service="service-quotas"
    )
    result = only(refused, "quota")
    assert result.state == NOT_CHECKED
    assert "not allowed to call GetServiceQuota" in result.said
    assert "iam/participant.json" in result.remedy


def test_a_check_that_breaks_is_not_made_and_shows_no_token(here, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError(f"with {TOKEN}")

    monkeypatch.setattr(models, "weights_gb", broken)
    found = preflight.check(here, GUIDE, hf_token=TOKEN, only=("memory", "disk", "shape"))
    assert [one.state for one in found] == [OK, NOT_CHECKED, NOT_CHECKED]
    assert "ZeroDivisionError: with ***" in found[1].said


# --- the command line


def test_the_command_shows_the_table_and_ends_with_0(here, capsys):
    assert command.main(["--only", "shape", "--only", "price"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("rehearsal")
    assert re.search(r"price +ok: \$15.58 an hour", out)
    assert not err


def test_the_command_ends_with_1_when_something_failed(here, capsys):
    arguments = ["--recipe", "llama-3.3-70b-vllm", "--region", "eu-north-1", "--only", "container"]
    assert command.main(arguments) == 1
    assert "container (huggingface-vllm-neuronx 0.4.4 is not" in capsys.readouterr().err
    assert command.main([*arguments, "--override", "container"]) == 0
    assert command.main(["--only", "nothing"]) == 1


def test_ctrl_c_ends_the_command_with_a_sentence(here, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "check", interrupt)
    assert command.main([]) == 130
    assert capsys.readouterr().err == "Interrupted: checking has changed nothing.\n"


# --- endpoints to count


def remove_endpoint(here, name):
    sagemaker = here.client("sagemaker")
    rehearsing.until(lambda: _deleted(sagemaker, name), seconds=20)
    sagemaker.delete_endpoint_config(EndpointConfigName=name)
    sagemaker.delete_model(ModelName=name)


def _deleted(sagemaker, name):
    try:
        return sagemaker.delete_endpoint(EndpointName=name)
    except sagemaker.exceptions.ClientError:  # still being created
        return None
