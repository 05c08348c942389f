"""The policies of iam/ are least, documented, and the same in the template and in the rehearsal."""

import ast
import importlib
import json
import re

import botocore.session
import pytest
import yaml
from botocore import xform_name
from cfnlint import api

from helpers import session, settings
from helpers.rehearsal.aws import identities

FOLDER = identities.FOLDER
ACCOUNT = "123456789012"
POLICIES = ("participant", "instructor", "execution", "scheduler")
TEMPLATE = (FOLDER / "template.yaml").read_text()
PARTICIPANTS = (FOLDER / "participants.yaml").read_text()
README = (FOLDER / "README.md").read_text()
# What knows no resources: Service Authorization Reference, as parliament 1.6.4 has it (2025-04),
# and for CallWithBearerToken Hugging Face's guide to the OpenAI route (2026).
WITHOUT_RESOURCES = {
    "application-autoscaling:DescribeScalableTargets",
    "application-autoscaling:DescribeScalingActivities",
    "application-autoscaling:DescribeScalingPolicies",
    "cloudwatch:GetMetricData",
    "cloudwatch:GetMetricStatistics",
    "cloudwatch:PutMetricData",
    "ecr:GetAuthorizationToken",
    "logs:DescribeLogGroups",
    "pricing:GetProducts",
    "sagemaker:CallWithBearerToken",
    "sagemaker:ListEndpointConfigs",
    "sagemaker:ListEndpoints",
    "sagemaker:ListModels",
    "scheduler:ListScheduleGroups",
    "scheduler:ListSchedules",
    "servicequotas:GetAWSDefaultServiceQuota",
    "servicequotas:GetRequestedServiceQuotaChange",
    "servicequotas:GetServiceQuota",
    "servicequotas:ListRequestedServiceQuotaChangeHistory",
    "servicequotas:ListRequestedServiceQuotaChangeHistoryByQuota",
    "servicequotas:ListServiceQuotas",
    "tag:GetResources",
}
# ARNs that cannot carry the workshop's name: scalable targets are called by chance, the conditions
# name their kind; a registry is AWS's; quotas are the account's; a user is whoever asks; alarms are
# looked at, or meant without a name, when Application Auto Scaling tries out its caller's rights.
NOT_OURS = {
    "arn:aws:cloudwatch:*:*:alarm:",
    "arn:aws:cloudwatch:*:*:alarm:*",
    "arn:aws:application-autoscaling:*:*:scalable-target/*",
    "arn:aws:ecr:*:*:repository/huggingface-pytorch-tgi-inference",
    "arn:aws:ecr:*:*:repository/huggingface-vllm-inference-neuronx",
    "arn:aws:iam::*:role/aws-service-role/sagemaker.application-autoscaling.amazonaws.com/*",
    "arn:aws:iam::*:user/${aws:username}",
    "arn:aws:servicequotas:*:*:sagemaker/*",
}

# How IAM calls the services that helpers ask.
SERVICES = {
    "application-autoscaling": "application-autoscaling",
    "cloudwatch": "cloudwatch",
    "iam": "iam",
    "logs": "logs",
    "pricing": "pricing",
    "resourcegroupstaggingapi": "tag",
    "s3": "s3",
    "sagemaker": "sagemaker",
    "sagemaker-runtime": "sagemaker",
    "scheduler": "scheduler",
    "service-quotas": "servicequotas",
    "sts": "sts",
}
S3_CALLS = {
    "delete_objects",
    "head_object",
    "list_multipart_uploads",
    "list_object_versions",
    "list_objects_v2",
}
NOT_IN_THE_TABLE = {
    "get_caller_identity",  # everyone may
    "list_attached_user_policies",  # preflight, of users without the right to simulate
    "search",  # regular expressions
}


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms, as pairs of a name and what follows."""


_Loader.add_multi_constructor(
    "!",
    lambda loader, name, node: {
        name: getattr(loader, f"construct_{node.id}")(node, **_deep(node)),
    },
)


def _deep(node):
    return {} if node.id == "scalar" else {"deep": True}


@pytest.fixture(scope="module")
def resources():
    return yaml.load(TEMPLATE, _Loader)["Resources"]


def filled_in(made):
    """A part of the template as CloudFormation would fill it in, with the default parameters."""
    if isinstance(made, list):
        return [filled_in(one) for one in made]
    if not isinstance(made, dict):
        return made
    if "If" in made:
        return filled_in(made["If"][2])
    if "Ref" in made or "Sub" in made:
        text = made["Sub"] if "Sub" in made else f"${{{made['Ref']}}}"
        return text.replace("${AWS::AccountId}", ACCOUNT).replace("${AWS::Partition}", "aws")
    return {key: filled_in(value) for key, value in made.items()}


def policy(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def listed(value):
    return value if isinstance(value, list) else [value]


# Every statement that allows something, of all policies.
ALLOWED = [
    pytest.param(one, id=f"{name}-{one['Sid']}")
    for name in POLICIES
    for one in policy(name)["Statement"]
    if one["Effect"] == "Allow"
]


# --- least rights


@pytest.mark.parametrize("statement", ALLOWED)
def test_actions_are_listed_one_by_one(statement):
    for action in listed(statement["Action"]):
        assert re.fullmatch("[a-z-]+[a-z0-9-]*:[A-Za-z]+", action), action


@pytest.mark.parametrize("statement", ALLOWED)
def test_resources_are_the_workshops_wherever_iam_can_tell_them_apart(statement):
    if statement["Resource"] == "*":
        assert set(listed(statement["Action"])) <= WITHOUT_RESOURCES
        return
    for arn in listed(statement["Resource"]):
        assert arn in NOT_OURS or arn.split(":", 5)[5].partition("*")[0].count("inf2-workshop-")


@pytest.mark.parametrize("statement", ALLOWED)
def test_a_role_is_passed_to_one_service_only(statement):
    if "iam:PassRole" in listed(statement["Action"]):
        assert statement["Action"] == "iam:PassRole"
        assert "*" not in statement["Resource"].rpartition("/")[2]
        passed = statement["Condition"]["StringEquals"]["iam:PassedToService"]
        assert passed in ("sagemaker.amazonaws.com", "scheduler.amazonaws.com")


def test_a_participant_makes_no_bucket_role_or_user():
    actions = {
        action for one in policy("participant")["Statement"] for action in listed(one["Action"])
    }
    assert not {one for one in actions if re.match("(s3|iam):(Create|Put|Attach|Delete)", one)} - {
        "iam:CreateServiceLinkedRole",
        "s3:PutObject",
        "s3:PutObjectTagging",
        "s3:DeleteObject",
        "s3:DeleteObjectVersion",
    }


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_as_short_as_iam_wants_it(name):
    assert len(re.sub(r"\s", "", json.dumps(policy(name)))) <= 6144


def test_a_prefix_is_wanted_only_where_iam_knows_one():
    knowing = {"s3:ListBucket", "s3:ListBucketVersions"}  # Service Authorization Reference
    for name in POLICIES:
        for one in policy(name)["Statement"]:
            if "s3:prefix" in one.get("Condition", {}).get("StringLike", {}):
                assert set(listed(one["Action"])) <= knowing


@pytest.mark.parametrize("name", POLICIES)
def test_the_readme_says_what_each_action_is_for(name):
    for one in policy(name)["Statement"]:
        assert f"`{one['Sid']}`" in README
        for action in listed(one["Action"]):
            service, _, operation = action.partition(":")
            assert re.search(rf"\b{service}\b.*\b{operation}\b", README), action


# --- no action too many, and none too few


def allowed(name):
    statements = [one for one in policy(name)["Statement"] if one["Effect"] == "Allow"]
    return {action for one in statements for action in listed(one["Action"])}


def rows():
    """Action, calls in code and helpers of the table "Who asks for what"."""
    section = README.split("## Who asks for what\n")[1].split("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:2] == "| "]
    return [(action, set(re.findall("`(.+?)`", how)), by) for action, how, by in cells[1:]]


@pytest.fixture(scope="module")
def called():
    """All names that the helpers look up or spell out: of methods, operations and functions."""
    found = set()
    for path in sorted((settings.ROOT / "helpers").rglob("*.py")):
        if "rehearsal" not in path.relative_to(settings.ROOT).parts:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                found |= _names(node)
    return found


def _names(node):
    if isinstance(node, ast.Attribute):
        owner = getattr(node.value, "id", getattr(node.value, "attr", ""))
        return {node.attr, f"{owner}.{node.attr}"}
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    return set()


@pytest.fixture(scope="module")
def operations():
    """Actions by what boto3 calls the operations of the workshop's services."""
    found = {}
    for service, prefix in SERVICES.items():
        for name in botocore.session.Session().get_service_model(service).operation_names:
            found.setdefault(xform_name(name), set()).add(f"{prefix}:{name}")
    return found


def test_the_table_has_each_action_of_a_participant_once():
    assert [action for action, _, _ in rows()] == sorted(allowed("participant"))


def test_each_action_is_called_by_a_helper_or_explained(called):
    for action, calls, by in rows():
        assert calls <= called, f"nobody calls {action}: take it away"
        assert calls or len(by.split()) > 3, f"{action} is not explained"


def test_the_helpers_in_the_table_are_there():
    for _, calls, by in rows():
        helpers = re.findall(r"`(\w+)\.(\w+)`", by)
        assert helpers or not calls
        for module, function in helpers:
            assert hasattr(importlib.import_module(f"helpers.{module}"), function), function


def test_whatever_the_helpers_call_is_in_the_table(called, operations):
    in_table = {call: set() for _, calls, _ in rows() for call in calls}
    for action, calls, _ in rows():
        for call in calls:
            in_table[call].add(action)
    for name in sorted(called & operations.keys() - NOT_IN_THE_TABLE):
        actions = in_table.get(name, set())
        is_s3 = name in S3_CALLS  # whose actions are called otherwise
        assert actions and (is_s3 or actions <= operations[name]), f"no one may {name}"


# --- the template


def test_cloudformation_takes_the_template():
    found = api.lint_all(TEMPLATE)
    assert [str(one) for one in found if not one.rule.id.startswith("I")] == []  # advice aside


def test_a_participants_own_role_is_the_shared_one_with_a_name():
    found = api.lint_all(PARTICIPANTS)
    assert [str(one) for one in found if not one.rule.id.startswith("I")] == []
    made = yaml.load(PARTICIPANTS, _Loader)["Resources"]["Fn::ForEach::Participants"][2]
    role = made["RoleOf&{Name}"]["Properties"]
    assert role["RoleName"] == {"Sub": f"{identities.PARTICIPANT}-${{Name}}"}
    assert {"Key": "participant", "Value": {"Ref": "Name"}} in role["Tags"]
    (attached,) = role["ManagedPolicyArns"]
    assert attached["Sub"].endswith(":policy/inf2-workshop-participant")
    trusted = filled_in(role["AssumeRolePolicyDocument"])
    assert trusted["Statement"][0]["Action"] == "sts:AssumeRole"  # no tags of one's own choice
    shared = identities.trust(identities.PARTICIPANT, ACCOUNT)
    assert trusted["Statement"][1:] == shared["Statement"][1:]


@pytest.mark.parametrize("name", POLICIES)
def test_the_template_has_the_policies_word_for_word(resources, name):
    made = resources[f"{name.title()}Policy"]["Properties"]
    assert made["ManagedPolicyName"] == f"inf2-workshop-{name}"
    assert made["PolicyDocument"] == policy(name)


@pytest.mark.parametrize("role", identities.ROLES)
def test_the_rehearsals_roles_are_the_templates(resources, role):
    names, services = identities.ROLES[role]
    title = role.removeprefix("inf2-workshop-").title()
    made = resources[f"{title}Role"]["Properties"]
    assert made["RoleName"] == role
    attached = [one["Ref"] for one in made["ManagedPolicyArns"]]
    assert attached == [f"{name.title()}Policy" for name in names]
    trusted = [
        one["Principal"]["Service"]
        for one in made["AssumeRolePolicyDocument"]["Statement"]
        if "Service" in one["Principal"]
    ]
    assert trusted == [f"{service}.amazonaws.com" for service in services]
    assert filled_in(made["AssumeRolePolicyDocument"]) == identities.trust(role, ACCOUNT)


def test_sessions_look_for_the_roles_by_the_names_they_have():
    assert session.EXECUTION_ROLE == identities.EXECUTION
    assert session.SCHEDULER_ROLE == identities.SCHEDULER


def test_the_bucket_is_encrypted_private_and_spoken_to_with_tls(resources):
    bucket = resources["WeightsBucket"]["Properties"]
    assert bucket["BucketName"] == {"Sub": "inf2-workshop-${AWS::AccountId}-${AWS::Region}"}
    assert identities.bucket("${AWS::AccountId}", "${AWS::Region}") == bucket["BucketName"]["Sub"]
    assert all(bucket["PublicAccessBlockConfiguration"].values())
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    (denial,) = resources["WeightsBucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert denial["Effect"] == "Deny"
    assert denial["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
