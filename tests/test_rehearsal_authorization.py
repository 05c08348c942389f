"""Who may do what in rehearsal, asked by boto3, and refused in AWS's words."""

import json
import logging
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import timedelta
from itertools import count
from urllib.parse import urlencode

import boto3
import pytest
import rehearsing
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from small_aws import create_endpoint

from helpers import messages
from helpers.rehearsal import launch
from helpers.rehearsal.aws import (
    accesslog,
    actions,
    identities,
    operations,
    policies,
    services,
)
from helpers.rehearsal.aws.accesslog import AccessLog
from helpers.rehearsal.aws.actions import Place
from helpers.rehearsal.aws.awsjson import AwsError
from helpers.rehearsal.aws.policies import Context, Decision
from helpers.rehearsal.server import Request
from helpers.rehearsal.signature import Signed
from helpers.session import open_session

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/"
USER = f"arn:aws:iam::{ACCOUNT}:user/"
ARN = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:"
PARTICIPANT = f"arn:aws:sts::{ACCOUNT}:assumed-role/inf2-workshop-participant/rehearsal"
IMAGE = (
    "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:"
    "2.1.2-optimum0.0.22-neuronx-py310-ubuntu22.04"
)
VARIANT = {
    "ServiceNamespace": "sagemaker",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}
DELETE = "arn:aws:scheduler:::aws-sdk:sagemaker:deleteEndpoint"
NUMBER = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with rehearsing.server(tmp_path_factory.mktemp("authorization")) as running:
        yield running


@pytest.fixture(scope="module")
def admin(server):
    return open_session(identity="admin")


@pytest.fixture(scope="module")
def session(server):
    return open_session()


def statement(effect="Allow", **members):
    return {"Effect": effect, "Action": "*", "Resource": "*", **members}


def document(*statements, version="2012-10-17"):
    return json.dumps({"Version": version, "Statement": list(statements)})


def client_of(admin, service, key):
    return boto3.client(
        service,
        region_name="us-east-1",
        endpoint_url=admin.boto.endpoint_url,
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
        aws_session_token=key.get("SessionToken"),
        config=Config(retries={"total_max_attempts": 1}),
    )


class Someone:
    """A user of the test's own, with one inline policy."""

    def __init__(self, admin, *statements, tags=None):
        self._admin, self.name = admin, f"someone-{next(NUMBER)}"
        tags = [{"Key": key, "Value": value} for key, value in (tags or {}).items()]
        self.iam.create_user(UserName=self.name, Tags=tags)
        self.key = self.iam.create_access_key(UserName=self.name)["AccessKey"]
        self.arn = f"{USER}{self.name}"
        if statements:
            self.put(*statements)

    @property
    def iam(self):
        return self._admin.client("iam")

    def put(self, *statements, name="own"):
        self.iam.put_user_policy(
            UserName=self.name, PolicyName=name, PolicyDocument=document(*statements)
        )

    def client(self, service):
        return client_of(self._admin, service, self.key)


def refused(call, **arguments):
    """Status, code and words of a refusal; the words from `is not authorized` on."""
    with pytest.raises(ClientError) as error:
        call(**arguments)
    told = error.value.response
    code, message = told["Error"]["Code"], told["Error"]["Message"]
    assert code.startswith(("AccessDenied", "ValidationException")), error.value
    status = told["ResponseMetadata"]["HTTPStatusCode"]
    return status, code, message


def words(action, resource=None, who=PARTICIPANT, *, kind="identity-based policy"):
    on = f" on resource: {resource}" if resource else ""
    why = f"because no {kind} allows the {action} action"
    return f"User: {who} is not authorized to perform: {action}{on} {why}"


# --- a refusal, in the words and the protocol of each service


@pytest.mark.parametrize(
    ("service", "operation", "arguments", "status", "code", "action", "resource"),
    [
        (
            "sagemaker",
            "create_endpoint",
            {"EndpointName": "Other", "EndpointConfigName": "c"},
            400,
            "AccessDeniedException",
            "sagemaker:CreateEndpoint",
            f"{ARN}endpoint/other",
        ),
        (
            "sagemaker",
            "create_endpoint",
            {"EndpointName": "inf2-workshop-e", "EndpointConfigName": "c"},
            400,
            "AccessDeniedException",
            "sagemaker:CreateEndpoint",
            f"{ARN}endpoint-config/c",
        ),
        (
            "sagemaker",
            "list_training_jobs",
            {},
            400,
            "AccessDeniedException",
            "sagemaker:ListTrainingJobs",
            None,
        ),
        (
            "sagemaker-runtime",
            "invoke_endpoint",
            {"EndpointName": "other", "Body": b"{}"},
            403,
            "AccessDeniedException",
            "sagemaker:InvokeEndpoint",
            f"{ARN}endpoint/other",
        ),
        (
            "sagemaker-runtime",
            "invoke_endpoint_with_response_stream",
            {"EndpointName": "other", "Body": b"{}"},
            403,
            "AccessDeniedException",
            "sagemaker:InvokeEndpointWithResponseStream",
            f"{ARN}endpoint/other",
        ),
        (
            "s3",
            "create_bucket",
            {"Bucket": "mine"},
            403,
            "AccessDenied",
            "s3:CreateBucket",
            '"arn:aws:s3:::mine"',
        ),
        ("s3", "list_buckets", {}, 403, "AccessDenied", "s3:ListAllMyBuckets", None),
        (
            "iam",
            "create_role",
            {"RoleName": "r", "AssumeRolePolicyDocument": "{}"},
            403,
            "AccessDenied",
            "iam:CreateRole",
            f"{ROLE}r",
        ),
        (
            "scheduler",
            "delete_schedule",
            {"Name": "n"},
            403,
            "AccessDeniedException",
            "scheduler:DeleteSchedule",
            f"arn:aws:scheduler:us-east-1:{ACCOUNT}:schedule/default/n",
        ),
        (
            "logs",
            "delete_log_group",
            {"logGroupName": "other"},
            400,
            "AccessDeniedException",
            "logs:DeleteLogGroup",
            f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:other:log-stream:",
        ),
        (
            "cloudwatch",
            "put_metric_data",
            {"Namespace": "n", "MetricData": [{"MetricName": "m", "Value": 1}]},
            400,
            "AccessDeniedException",
            "cloudwatch:PutMetricData",
            None,
        ),
        (
            "service-quotas",
            "request_service_quota_increase",
            {"ServiceCode": "sagemaker", "QuotaCode": "L-286C98BC", "DesiredValue": 99},
            400,
            "AccessDeniedException",
            "servicequotas:RequestServiceQuotaIncrease",
            f"arn:aws:servicequotas:us-east-1:{ACCOUNT}:sagemaker/L-286C98BC",
        ),
        (
            "application-autoscaling",
            "register_scalable_target",
            {
                "ServiceNamespace": "sagemaker",
                "ResourceId": "endpoint/other/variant/AllTraffic",
                "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
            },
            400,
            "ValidationException",
            "sagemaker:DescribeEndpoint",
            f"{ARN}endpoint/other",
        ),
        ("events", "list_rules", {}, 400, "AccessDeniedException", "events:ListRules", None),
        (
            "events",
            "put_rule",
            {"Name": "r", "ScheduleExpression": "rate(1 day)"},
            400,
            "AccessDeniedException",
            "events:PutRule",
            f"arn:aws:events:us-east-1:{ACCOUNT}:rule/r",
        ),
        (
            "resourcegroupstaggingapi",
            "get_tag_keys",
            {},
            400,
            "AccessDeniedException",
            "tag:GetTagKeys",
            None,
        ),
    ],
)
def test_a_refusal_has_awss_words(
    session, service, operation, arguments, status, code, action, resource
):
    call = getattr(session.client(service), operation)
    assert refused(call, **arguments) == (status, code, words(action, resource))


def test_everyone_may_ask_who_they_are(admin):
    nobody = Someone(admin)
    assert nobody.client("sts").get_caller_identity()["Arn"] == nobody.arn
    assert refused(nobody.client("sagemaker").list_models)[2] == words(
        "sagemaker:ListModels", who=nobody.arn
    )


def test_a_presigned_request_is_none_of_another_service(admin):
    nobody = Someone(admin)
    url = nobody.client("sts").generate_presigned_url("get_caller_identity", HttpMethod="GET")
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(url)
    with error.value:
        assert b"presigned requests to S3 only, not to sts" in error.value.read()


# --- which policies count


def test_policies_of_a_group_and_attached_ones_count_too(admin):
    anna, iam = Someone(admin), admin.client("iam")
    sagemaker, logs = anna.client("sagemaker"), anna.client("logs")
    iam.create_group(GroupName="group")
    iam.add_user_to_group(GroupName="group", UserName=anna.name)
    refused(sagemaker.list_models)
    iam.put_group_policy(
        GroupName="group",
        PolicyName="p",
        PolicyDocument=document(statement(Action="sagemaker:List*")),
    )
    assert sagemaker.list_models()["Models"] == []
    made = iam.create_policy(PolicyName="p", PolicyDocument=document(statement(Action="logs:*")))
    iam.attach_group_policy(GroupName="group", PolicyArn=made["Policy"]["Arn"])
    assert logs.describe_log_groups()["logGroups"] == []
    iam.create_policy_version(
        PolicyArn=made["Policy"]["Arn"],
        PolicyDocument=document(statement(Action="s3:*")),
        SetAsDefault=True,
    )
    refused(logs.describe_log_groups)
    iam.remove_user_from_group(GroupName="group", UserName=anna.name)
    refused(sagemaker.list_models)


def test_an_explicit_denial_wins_and_says_so(admin):
    anna = Someone(admin, statement(), statement("Deny", Action="sagemaker:Delete*"))
    assert anna.client("sagemaker").list_models()["Models"] == []
    assert refused(anna.client("sagemaker").delete_model, ModelName="m")[2] == (
        f"User: {anna.arn} is not authorized to perform: sagemaker:DeleteModel on resource: "
        f"{ARN}model/m with an explicit deny in an identity-based policy"
    )


def test_a_boundary_and_a_sessions_policy_limit_what_a_role_may(admin):
    iam = admin.client("iam")
    trust = document({"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"})
    boundary = iam.create_policy(
        PolicyName="boundary", PolicyDocument=document(statement(Action="sagemaker:*"))
    )["Policy"]["Arn"]
    role = iam.create_role(
        RoleName="limited", AssumeRolePolicyDocument=trust, PermissionsBoundary=boundary
    )["Role"]["Arn"]
    iam.put_role_policy(RoleName="limited", PolicyName="p", PolicyDocument=document(statement()))
    policy = document(statement(Action="sagemaker:ListModels"), statement(Action="logs:*"))
    keys = admin.client("sts").assume_role(RoleArn=role, RoleSessionName="anna", Policy=policy)
    sagemaker = client_of(admin, "sagemaker", keys["Credentials"])
    who = f"arn:aws:sts::{ACCOUNT}:assumed-role/limited/anna"
    assert sagemaker.list_models()["Models"] == []
    assert refused(sagemaker.list_endpoints)[2] == words(
        "sagemaker:ListEndpoints", who=who, kind="session policy"
    )
    logs = client_of(admin, "logs", keys["Credentials"])
    assert "because no permissions boundary allows" in refused(logs.describe_log_groups)[2]


def test_a_boundary_limits_what_a_user_may(admin):
    iam = admin.client("iam")
    limits = iam.create_policy(
        PolicyName="of-users", PolicyDocument=document(statement(Action="sagemaker:*"))
    )["Policy"]["Arn"]
    iam.create_user(UserName="limited", PermissionsBoundary=limits)
    iam.put_user_policy(UserName="limited", PolicyName="p", PolicyDocument=document(statement()))
    told = iam.get_user(UserName="limited")["User"]["PermissionsBoundary"]
    assert told["PermissionsBoundaryArn"] == limits
    key = iam.create_access_key(UserName="limited")["AccessKey"]
    logs = client_of(admin, "logs", key)
    assert client_of(admin, "sagemaker", key).list_models()["Models"] == []
    assert refused(logs.describe_log_groups)[2].endswith(
        "because no permissions boundary allows the logs:DescribeLogGroups action"
    )
    iam.delete_user_permissions_boundary(UserName="limited")
    assert logs.describe_log_groups()
    iam.put_user_permissions_boundary(UserName="limited", PermissionsBoundary=limits)
    refused(logs.describe_log_groups)


def test_an_inline_policy_and_an_attached_one_of_the_same_name_both_count(admin):
    anna, iam = Someone(admin), admin.client("iam")
    anna.put(statement(Action="sagemaker:ListModels"), name="same")
    attached = iam.create_policy(
        PolicyName="same", PolicyDocument=document(statement(Action="logs:DescribeLogGroups"))
    )
    iam.attach_user_policy(UserName=anna.name, PolicyArn=attached["Policy"]["Arn"])
    assert anna.client("sagemaker").list_models()["Models"] == []
    assert anna.client("logs").describe_log_groups()


def test_a_role_is_assumed_when_both_sides_allow_it(admin):
    assume = admin.client("sts").assume_role
    told = refused(assume, RoleArn=f"{ROLE}inf2-workshop-execution", RoleSessionName="anna")
    assert told[2].endswith(f"perform: sts:AssumeRole on resource: {ROLE}inf2-workshop-execution")
    refused(assume, RoleArn=f"{ROLE}nobody", RoleSessionName="anna")
    instructor = open_session(identity="instructor").client("sts")
    refused(instructor.assume_role, RoleArn=f"{ROLE}workshop-admin", RoleSessionName="anna")
    keys = instructor.assume_role(
        RoleArn=f"{ROLE}inf2-workshop-participant", RoleSessionName="anna"
    )["Credentials"]
    refused(client_of(admin, "s3", keys).list_buckets)
    assert client_of(admin, "sagemaker", keys).list_models()["Models"] == []


def test_rights_survive_a_restart_and_end_with_their_role(tmp_path):
    with rehearsing.server(tmp_path):
        admin = open_session(identity="admin")
        anna = Someone(admin, statement(Action="sagemaker:ListModels"))
        launch.stop(admin.settings)
        again = open_session(identity="admin")
        keys = dict(anna.key)
        assert client_of(again, "sagemaker", keys).list_models()["Models"] == []
        refused(client_of(again, "sagemaker", keys).list_endpoints)
        iam = again.client("iam")
        policy = f"arn:aws:iam::{ACCOUNT}:policy/inf2-workshop-participant"
        iam.detach_role_policy(RoleName="inf2-workshop-participant", PolicyArn=policy)
        refused(open_session().client("sagemaker").list_endpoints)
        iam.delete_role(RoleName="inf2-workshop-participant")
        gone = open_session().client("sagemaker")
        assert "no longer there" in refused(gone.list_endpoints)[2]


# --- what requests ask for


def test_tags_are_asked_for_apart(admin):
    anna = Someone(admin, statement(Action="sagemaker:CreateModel"))
    anna.put(
        statement(
            Action="sagemaker:AddTags",
            Condition={"StringEquals": {"aws:RequestTag/team": "blue"}},
        ),
        name="tags",
    )
    create = anna.client("sagemaker").create_model
    model = {"ModelName": "m", "PrimaryContainer": {"Image": IMAGE}}
    told = refused(create, **model, Tags=[{"Key": "team", "Value": "red"}])
    assert told[2] == words("sagemaker:AddTags", f"{ARN}model/m", anna.arn)
    with pytest.raises(ClientError, match="Execution role is required"):
        create(**model, Tags=[{"Key": "team", "Value": "blue"}])


def test_a_role_is_passed_to_the_service_it_is_meant_for(session):
    create = session.client("sagemaker").create_model
    model = {"ModelName": "inf2-workshop-m", "PrimaryContainer": {"Image": IMAGE}}
    for name in ("workshop-admin", "inf2-workshop-scheduler"):
        told = refused(create, **model, ExecutionRoleArn=ROLE + name)
        assert told[2] == words("iam:PassRole", ROLE + name)
    create(**model, ExecutionRoleArn=session.role())
    session.client("sagemaker").delete_model(ModelName="inf2-workshop-m")


def trusting(principal, effect="Allow", **condition):
    one = {"Effect": effect, "Principal": principal, "Action": "sts:AssumeRole"}
    return {**one, "Condition": condition} if condition else one


@pytest.mark.parametrize(
    ("statements", "trusts"),
    [
        ([{"StringEquals": {"aws:SourceAccount": ACCOUNT}}], True),
        ([{"StringEquals": {"aws:SourceAccount": "210987654321"}}], False),
        ([{"ArnLike": {"aws:SourceArn": f"arn:aws:sagemaker:*:{ACCOUNT}:*"}}], True),
        ([{"ArnLike": {"aws:SourceArn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:*"}}], True),
        ([{"ArnLike": {"aws:SourceArn": f"arn:aws:sagemaker:us-west-2:{ACCOUNT}:*"}}], False),
        ([{"ArnLike": {"aws:SourceArn": f"arn:aws:sagemaker:*:{ACCOUNT}:endpoint/e"}}], False),
        ([{"StringEquals": {"aws:SourceVpc": "v"}}], False),
        ([{}, {"StringEquals": {"aws:SourceAccount": ACCOUNT}}], False),  # the second one denies
    ],
)
def test_a_role_trusts_a_service_under_its_conditions(admin, statements, trusts):
    iam, name = admin.client("iam"), f"role-{next(NUMBER)}"
    service, effects = {"Service": "sagemaker.amazonaws.com"}, ("Allow", "Deny")
    trust = document(
        *(
            trusting(service, effect, **one)
            for effect, one in zip(effects, statements, strict=False)
        )
    )
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    model = {"ModelName": name, "ExecutionRoleArn": role, "PrimaryContainer": {"Image": IMAGE}}
    create = admin.client("sagemaker").create_model
    if trusts:
        assert create(**model)["ModelArn"]
    else:
        with pytest.raises(ClientError, match="trust relationship"):
            create(**model)


def test_a_role_is_assumed_under_the_conditions_of_its_trust(admin):
    iam, assume = admin.client("iam"), admin.client("sts").assume_role
    root = {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    trust = document(trusting(root, StringEquals={"sts:ExternalId": "42"}))
    role = iam.create_role(RoleName="external", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    refused(assume, RoleArn=role, RoleSessionName="anna")
    refused(assume, RoleArn=role, RoleSessionName="anna", ExternalId="41")
    assert assume(RoleArn=role, RoleSessionName="anna", ExternalId="42")["Credentials"]


@pytest.mark.parametrize("name", ["nobody", "inf2-workshop-scheduler"])
def test_a_role_that_sagemaker_may_not_assume_makes_no_model(admin, name):
    with pytest.raises(ClientError) as error:
        admin.client("sagemaker").create_model(
            ModelName="m", ExecutionRoleArn=ROLE + name, PrimaryContainer={"Image": IMAGE}
        )
    assert error.value.response["Error"] == {
        "Code": "ValidationException",
        "Message": (
            f'The execution role ARN "{ROLE}{name}" is invalid. Please ensure that the role exists '
            'and that its trust relationship policy allows the action "sts:AssumeRole" for the '
            'service principal "sagemaker.amazonaws.com".'
        ),
    }


def test_a_participant_configures_neuron_instances_only(session):
    create = session.client("sagemaker").create_endpoint_config
    variant = {"VariantName": "v", "ModelName": "inf2-workshop-m", "InitialInstanceCount": 1}
    name = "inf2-workshop-c"

    def variants(*types):
        return [{**variant, "VariantName": one[3:7], "InstanceType": one} for one in types]

    told = words("sagemaker:CreateEndpointConfig", f"{ARN}endpoint-config/{name}")
    for types in (("ml.p5.48xlarge",), ("ml.inf2.xlarge", "ml.p5.48xlarge")):
        answer = refused(create, EndpointConfigName=name, ProductionVariants=variants(*types))
        assert answer[2] == told
    with pytest.raises(ClientError, match="Could not find model"):
        create(EndpointConfigName=name, ProductionVariants=variants("ml.inf2.xlarge"))


def test_one_tagged_as_a_participant_leaves_the_others_things_alone(admin):
    iam, sagemaker = admin.client("iam"), admin.client("sagemaker")
    sagemaker.create_model(
        ModelName="inf2-workshop-bob-m",
        ExecutionRoleArn=f"{ROLE}inf2-workshop-execution",
        PrimaryContainer={"Image": IMAGE},
        Tags=[{"Key": "participant", "Value": "bob"}],
    )
    policy = f"arn:aws:iam::{ACCOUNT}:policy/inf2-workshop-participant"
    anna = Someone(admin, tags={"participant": "anna"})
    iam.attach_user_policy(UserName=anna.name, PolicyArn=policy)
    role = iam.create_role(  # as iam/participants.yaml makes it
        RoleName="inf2-workshop-participant-bob",
        AssumeRolePolicyDocument=json.dumps(identities.trust(identities.PARTICIPANT, ACCOUNT)),
        Tags=[{"Key": "participant", "Value": "bob"}],
    )["Role"]
    iam.attach_role_policy(RoleName=role["RoleName"], PolicyArn=policy)
    assume = open_session(identity="instructor").client("sts").assume_role
    keys = assume(RoleArn=role["Arn"], RoleSessionName="bob")["Credentials"]
    clients = {
        "anna": anna.client("sagemaker"),
        "bob": client_of(admin, "sagemaker", keys),
    }
    assert clients["anna"].describe_model(ModelName="inf2-workshop-bob-m")
    told = refused(clients["anna"].delete_model, ModelName="inf2-workshop-bob-m")
    assert told[2].endswith("with an explicit deny in an identity-based policy")
    clients["bob"].delete_model(ModelName="inf2-workshop-bob-m")


def test_objects_of_the_workshop_are_open_and_no_others(session):
    s3, of = session.client("s3"), {"Bucket": session.bucket}
    key, copy = "inf2-workshop/anna/weights/o/m/w", "inf2-workshop/anna/copy"
    s3.put_object(**of, Key=key, Body=b"w", Tagging="participant=anna")
    s3.copy_object(**of, Key=copy, CopySource={"Bucket": session.bucket, "Key": key})
    assert s3.head_object(**of, Key=copy)["ContentLength"] == 1
    url = s3.generate_presigned_url("get_object", Params={**of, "Key": key})
    assert urllib.request.urlopen(url).read() == b"w"
    upload = s3.create_multipart_upload(**of, Key="inf2-workshop/anna/u")["UploadId"]
    of_upload = {**of, "Key": "inf2-workshop/anna/u", "UploadId": upload}
    s3.upload_part(**of_upload, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(**of_upload)
    listed = s3.list_objects_v2(**of, Prefix="inf2-workshop/anna/")["Contents"]
    assert [one["Key"] for one in listed] == [copy, key]
    listed = s3.list_object_versions(**of, Prefix="inf2-workshop/anna/")["Versions"]
    assert [one["Key"] for one in listed] == [copy, key]
    assert "Uploads" not in s3.list_multipart_uploads(**of)  # of which IAM knows no prefix
    objects = [{"Key": copy}, {"Key": key}]
    s3.delete_objects(**of, Delete={"Objects": objects})
    bucket = f"arn:aws:s3:::{session.bucket}"
    for call, arguments, action, resource in (
        (s3.list_objects_v2, {}, "s3:ListBucket", bucket),
        (s3.list_objects_v2, {"Prefix": "other/"}, "s3:ListBucket", bucket),
        (s3.get_object, {"Key": "k"}, "s3:GetObject", f"{bucket}/k"),
        (s3.get_bucket_policy, {}, "s3:GetBucketPolicy", bucket),
        (s3.delete_bucket, {}, "s3:DeleteBucket", bucket),
        (s3.get_object_tagging, {"Key": key}, "s3:GetObjectTagging", f"{bucket}/{key}"),
        (s3.get_bucket_encryption, {}, "s3:GetEncryptionConfiguration", bucket),
        (s3.list_object_versions, {}, "s3:ListBucketVersions", bucket),
        (
            s3.delete_object,
            {"Key": "k", "VersionId": "null"},
            "s3:DeleteObjectVersion",
            f"{bucket}/k",
        ),
        (
            s3.copy_object,
            {"Key": copy, "CopySource": {"Bucket": "b", "Key": "k"}},
            "s3:GetObject",
            "arn:aws:s3:::b/k",
        ),
    ):
        told = refused(call, **of, **arguments)
        assert told[2] == words(action, f'"{resource}"')
    presigned = s3.generate_presigned_url("get_object", Params={**of, "Key": "k"})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(presigned)
    with error.value:
        assert b"s3:GetObject" in error.value.read()


def test_of_many_objects_those_of_others_stay(session, admin):
    s3, of = session.client("s3"), {"Bucket": session.bucket}
    mine, other = "inf2-workshop/anna/<1>", "k & <k>"
    for key in (mine, other):
        admin.client("s3").put_object(**of, Key=key, Body=b"1")
    objects = [{"Key": mine}, {"Key": other}, {"Key": other, "VersionId": "null"}]
    answer = s3.delete_objects(**of, Delete={"Objects": objects})
    assert [one["Key"] for one in answer["Deleted"]] == [mine]
    arn = f'"arn:aws:s3:::{session.bucket}/{other}"'
    assert answer["Errors"] == [
        {"Key": other, "Code": "AccessDenied", "Message": words("s3:DeleteObject", arn)},
        {
            "Key": other,
            "VersionId": "null",
            "Code": "AccessDenied",
            "Message": words("s3:DeleteObjectVersion", arn),
        },
    ]
    answer = s3.delete_objects(**of, Delete={"Objects": [{"Key": other}], "Quiet": True})
    assert [one["Key"] for one in answer["Errors"]] == [other]
    assert admin.client("s3").list_objects_v2(**of)["KeyCount"] == 1
    admin.client("s3").delete_object(**of, Key=other)


def test_many_objects_that_cannot_be_read_are_none(session):
    s3 = session.client("s3")
    s3.meta.events.register(
        "before-call.s3.DeleteObjects", lambda params, **_: params.update(body=b"<Delete>")
    )
    with pytest.raises(ClientError, match="MalformedXML"):
        s3.delete_objects(Bucket=session.bucket, Delete={"Objects": [{"Key": "k"}]})


def test_a_bearer_token_needs_two_actions(admin):
    anna = Someone(admin, statement(Action="sagemaker:InvokeEndpoint"))
    boto = boto3.Session(anna.key["AccessKeyId"], anna.key["SecretAccessKey"])
    token = messages.bearer_token(replace(admin, boto=boto))
    url = f"{admin.boto.endpoint_url}/endpoints/e/openai/v1/chat/completions"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def ask():
        request = urllib.request.Request(url, b"{}", headers)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request)
        with error.value:
            return json.loads(error.value.read())["message"]

    assert ask() == words("sagemaker:CallWithBearerToken", who=anna.arn)
    anna.put(statement(Action="sagemaker:CallWithBearerToken"), name="token")
    assert ask() == "Endpoint e of account 123456789012 not found."
    anna.put(statement("Deny", Action="sagemaker:InvokeEndpoint"), name="denial")
    assert "with an explicit deny" in ask()


def test_what_scales_and_what_guards_is_the_workshops_only(session):
    scheduler, scaling = session.client("scheduler"), session.client("application-autoscaling")
    group = {"Name": "inf2-workshop-anna", "Tags": [{"Key": "workshop", "Value": "inferentia2"}]}
    arn = scheduler.create_schedule_group(**group)["ScheduleGroupArn"]
    assert scheduler.list_tags_for_resource(ResourceArn=arn)["Tags"]
    schedule = {
        "Name": "inf2-workshop-anna-m",
        "GroupName": group["Name"],
        "ScheduleExpression": "at(2099-01-01T00:00:00)",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": {"Arn": DELETE, "RoleArn": session.scheduler_role(), "Input": "{}"},
    }
    scheduler.create_schedule(**schedule)
    assert scheduler.get_schedule(Name=schedule["Name"], GroupName=group["Name"])
    told = refused(
        scheduler.update_schedule,
        **{**schedule, "Target": {**schedule["Target"], "RoleArn": session.role()}},
    )
    assert told[2] == words("iam:PassRole", session.role())
    refused(scheduler.create_schedule, **{**schedule, "GroupName": "default"})
    assert scheduler.list_schedules()["Schedules"]
    scheduler.delete_schedule_group(Name=group["Name"])
    variant = {**VARIANT, "ResourceId": "endpoint/inf2-workshop-e/variant/AllTraffic"}
    with pytest.raises(ClientError, match="No scalable target"):
        scaling.deregister_scalable_target(**variant)
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []
    other = {**variant, "ServiceNamespace": "ecs", "ScalableDimension": "ecs:service:DesiredCount"}
    target = f"arn:aws:application-autoscaling:us-east-1:{ACCOUNT}:scalable-target/*"
    told = refused(scaling.deregister_scalable_target, **other)
    assert told[2] == words("application-autoscaling:DeregisterScalableTarget", target)


# --- the scheduler acts with its role's rights


def test_a_schedule_waits_for_the_rights_of_its_role(admin):
    iam, sagemaker, scheduler = map(admin.client, ("iam", "sagemaker", "scheduler"))
    trusted = {"Service": "scheduler.amazonaws.com"}
    trust = document({"Effect": "Allow", "Principal": trusted, "Action": "sts:AssumeRole"})
    role = iam.create_role(RoleName="guard", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    sagemaker.create_model(
        ModelName="due",
        ExecutionRoleArn=f"{ROLE}workshop-execution-role",
        PrimaryContainer={"Image": IMAGE},
    )
    due = admin.clock.now() + timedelta(minutes=10)
    scheduler.create_schedule(
        Name="s",
        ScheduleExpression=f"at({due:%Y-%m-%dT%H:%M:%S})",
        FlexibleTimeWindow={"Mode": "OFF"},
        ActionAfterCompletion="DELETE",
        Target={
            "Arn": "arn:aws:scheduler:::aws-sdk:sagemaker:deleteModel",
            "RoleArn": role,
            "Input": json.dumps({"ModelName": "due"}),
        },
    )
    admin.clock.sleep(1800)
    assert sagemaker.describe_model(ModelName="due")
    iam.put_role_policy(
        RoleName="guard",
        PolicyName="p",
        PolicyDocument=document(
            statement(Action="sagemaker:DeleteModel", Resource=f"{ARN}model/d*")
        ),
    )
    assert rehearsing.until(lambda: not sagemaker.list_models(NameContains="due")["Models"])


@pytest.fixture(scope="module")
def scaled(admin):
    """The name of an endpoint that is registered with Application Auto Scaling."""
    sagemaker, name = admin.client("sagemaker"), "inf2-workshop-scaled"
    create_endpoint(sagemaker, name)
    waiting = {"Delay": 0.2, "MaxAttempts": 200}
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig=waiting)
    target = {**VARIANT, "ResourceId": f"endpoint/{name}/variant/AllTraffic"}
    register = open_session().client("application-autoscaling").register_scalable_target
    register(**target, MinCapacity=1, MaxCapacity=2)  # as participant: with all that it tries out
    return name


def test_what_registering_tries_out_is_asked_for_without_an_alarm(admin, scaled):
    anna = Someone(admin, statement(), statement("Deny", Action="cloudwatch:PutMetricAlarm"))
    target = {**VARIANT, "ResourceId": f"endpoint/{scaled}/variant/AllTraffic"}
    told = refused(anna.client("application-autoscaling").register_scalable_target, **target)
    alarm = f"arn:aws:cloudwatch:us-east-1:{ACCOUNT}:alarm: with an explicit deny"
    assert told[:2] == (400, "ValidationException")
    assert alarm in told[2]


def test_what_scales_is_deleted_by_who_may_deregister_it(admin, scaled):
    delete = statement(Action="sagemaker:DeleteEndpoint")
    anna = Someone(admin, delete)
    target = f"arn:aws:application-autoscaling:us-east-1:{ACCOUNT}:scalable-target/*"
    told = refused(anna.client("sagemaker").delete_endpoint, EndpointName=scaled.title())
    assert told[2] == words("application-autoscaling:DeregisterScalableTarget", target, anna.arn)
    with pytest.raises(ClientError, match="Could not find endpoint"):
        anna.client("sagemaker").delete_endpoint(EndpointName=f"{scaled}-not")


def test_time_to_live_ends_what_scales(admin, session, scaled):
    scheduler, sagemaker = session.client("scheduler"), session.client("sagemaker")
    scheduler.create_schedule_group(Name="inf2-workshop-anna")
    due = session.clock.now() + timedelta(minutes=10)
    schedule = {
        "Name": scaled,
        "ScheduleExpression": f"at({due:%Y-%m-%dT%H:%M:%S})",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Target": {
            "Arn": DELETE,
            "RoleArn": session.scheduler_role(),
            "Input": json.dumps({"EndpointName": scaled}),
        },
    }
    with pytest.raises(ClientError, match="must allow AWS EventBridge Scheduler to assume"):
        admin.client("scheduler").create_schedule(**schedule)  # in no group of the workshop's
    scheduler.create_schedule(**schedule, GroupName="inf2-workshop-anna")
    assert rehearsing.until(lambda: not sagemaker.list_endpoints(NameContains=scaled)["Endpoints"])
    describe = session.client("application-autoscaling").describe_scalable_targets
    assert describe(ServiceNamespace="sagemaker")["ScalableTargets"] == []
    used = rights(session)[f"{ROLE}inf2-workshop-scheduler"]
    assert used["application-autoscaling:DeregisterScalableTarget"] == {"allowed": 1, "refused": 0}


# --- the access log


def rights(session):
    with urllib.request.urlopen(f"{session.boto.endpoint_url}/_rehearsal/rights") as answer:
        return json.load(answer)


def test_the_access_log_counts_what_was_judged(admin):
    anna = Someone(admin, statement(Action="sagemaker:ListModels"))
    sagemaker = anna.client("sagemaker")
    for _ in range(3):
        sagemaker.list_models()
    refused(sagemaker.list_endpoints)
    refused(anna.client("sagemaker-runtime").invoke_endpoint, EndpointName="e", Body=b"{}")
    assert rights(admin)[anna.arn] == {
        "sagemaker:InvokeEndpoint": {"allowed": 0, "refused": 1},
        "sagemaker:ListEndpoints": {"allowed": 0, "refused": 1},
        "sagemaker:ListModels": {"allowed": 3, "refused": 0},
    }
    admin.client("iam").delete_user_policy(UserName=anna.name, PolicyName="own")
    refused(sagemaker.list_models)
    assert rights(admin)[anna.arn]["sagemaker:ListModels"] == {"allowed": 3, "refused": 1}


def test_the_access_log_is_among_what_the_rehearsal_offers(session):
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{session.boto.endpoint_url}/_rehearsal/right")
    with error.value:
        assert b"GET /_rehearsal/rights" in error.value.read()


def test_the_access_log_stays_small(monkeypatch):
    monkeypatch.setattr(accesslog, "MOST_PAIRS", 2)
    log = AccessLog()
    for action in ("a" * 1000, "b", "c", "d", "b"):
        log.note("anna", action, allowed=True)
    log.note("bob", "b", allowed=False)
    assert log.told() == {
        "*": {"*": {"allowed": 2, "refused": 1}},
        "anna": {"a" * 200: {"allowed": 1, "refused": 0}, "b": {"allowed": 2, "refused": 0}},
    }


# --- simulation


def simulate(session, name, actions, resources=(), **context):
    entries = [
        {"ContextKeyName": key, "ContextKeyType": "string", "ContextKeyValues": [value]}
        for key, value in context.items()
    ]
    pages = session.client("iam").get_paginator("simulate_principal_policy")
    return pages.paginate(
        PolicySourceArn=name,
        ActionNames=actions,
        ContextEntries=entries,
        PaginationConfig={"PageSize": 3},
        **({"ResourceArns": list(resources)} if resources else {}),
    ).build_full_result()["EvaluationResults"]


def test_a_simulation_decides_for_each_action_and_resource(session):
    source = f"{ROLE}inf2-workshop-participant"
    actions = ["sagemaker:CreateEndpoint", "sagemaker:DeleteEndpoint"]
    results = simulate(session, source, actions, [f"{ARN}endpoint/inf2-workshop-e", f"{ARN}x/y"])
    assert [
        (one["EvalActionName"], one["EvalResourceName"][len(ARN) :], one["EvalDecision"])
        for one in results
    ] == [
        (actions[0], "endpoint/inf2-workshop-e", "allowed"),
        (actions[0], "x/y", "implicitDeny"),
        (actions[1], "endpoint/inf2-workshop-e", "allowed"),
        (actions[1], "x/y", "implicitDeny"),
    ]
    first = results[0]
    assert first["MatchedStatements"][0]["SourcePolicyId"] == "inf2-workshop-participant"
    assert first["ResourceSpecificResults"][0]["EvalResourceDecision"] == "allowed"
    assert simulate(session, source, ["s3:ListAllMyBuckets"])[0]["EvalResourceName"] == "*"


def test_a_simulation_knows_only_the_context_it_is_given(session):
    ask = (session, f"{ROLE}inf2-workshop-participant", ["iam:PassRole"], [session.role()])
    (one,) = simulate(*ask)
    assert one["EvalDecision"] == "implicitDeny"
    assert one["MissingContextValues"] == ["iam:PassedToService"]
    (one,) = simulate(*ask, **{"iam:PassedToService": "sagemaker.amazonaws.com"})
    assert (one["EvalDecision"], one["MissingContextValues"]) == ("allowed", [])


def test_a_simulation_tells_explicit_denials_and_boundaries(admin):
    anna = Someone(admin, statement(), statement("Deny", Action="s3:*"))
    results = simulate(admin, anna.arn, ["s3:GetObject", "logs:GetLogEvents"])
    assert [one["EvalDecision"] for one in results] == ["explicitDeny", "allowed"]
    iam = admin.client("iam")
    policy = iam.create_policy(PolicyName="b", PolicyDocument=document(statement(Action="s3:*")))
    trust = document({"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"})
    made = iam.create_role(
        RoleName="bounded",
        AssumeRolePolicyDocument=trust,
        PermissionsBoundary=policy["Policy"]["Arn"],
    )
    iam.put_role_policy(RoleName="bounded", PolicyName="p", PolicyDocument=document(statement()))
    results = simulate(admin, made["Role"]["Arn"], ["s3:GetObject", "logs:GetLogEvents"])
    assert [
        (
            one["EvalDecision"],
            one["PermissionsBoundaryDecisionDetail"]["AllowedByPermissionsBoundary"],
        )
        for one in results
    ] == [("allowed", True), ("implicitDeny", False)]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ({"PolicySourceArn": PARTICIPANT}, "InvalidInput", "does not clearly define"),
        ({"PolicySourceArn": f"{ROLE}nobody"}, "NoSuchEntity", "nobody"),
        ({"ActionNames": ["ListModels"]}, "InvalidInput", "ListModels"),
        ({"ActionNames": []}, "InvalidInput", "ActionNames"),
        ({"ResourceOwner": ACCOUNT}, "InvalidInput", "without ResourceOwner"),
        ({"Marker": "x"}, "InvalidInput", "Marker"),
        ({"PolicyInputList": ["{}"]}, "InvalidInput", "cannot be read"),
    ],
)
def test_a_simulation_that_makes_no_sense_is_refused(admin, arguments, code, said):
    asked = {"PolicySourceArn": f"{ROLE}workshop-admin", "ActionNames": ["s3:GetObject"]}
    with pytest.raises(ClientError, match=said) as error:
        admin.client("iam").simulate_principal_policy(**{**asked, **arguments})
    assert error.value.response["Error"]["Code"] == code


def test_who_may_not_simulate_is_told_so(session):
    told = refused(
        session.client("iam").simulate_principal_policy,
        PolicySourceArn=f"{ROLE}workshop-admin",
        ActionNames=["s3:GetObject"],
    )
    assert told[2] == words("iam:SimulatePrincipalPolicy", f"{ROLE}workshop-admin")


# --- the evaluation itself

CONTEXT = {
    "aws:username": ("anna",),
    "aws:principalarn": (f"{USER}anna",),
    "aws:tagkeys": ("team", "cost"),
    "aws:requesttag/team": ("blue",),
    "aws:currenttime": ("2026-11-28T12:00:00Z",),
    "aws:sourceip": ("127.0.0.1",),
    "aws:securetransport": ("true",),
    "s3:max-keys": ("10",),
}


def decide(*statements, action="s3:GetObject", resource="arn:aws:s3:::b/k", version="2012-10-17"):
    known = {*CONTEXT, "aws:principaltag/team", "aws:requesttag/cost"}
    parsed = policies.parse(document(*statements, version=version))
    context = Context(CONTEXT, lambda key: key in known)
    return policies.evaluate(parsed, action, resource, context)[0]


def allows(*statements, **asked):
    return decide(*statements, **asked) is Decision.ALLOWED


@pytest.mark.parametrize(
    ("members", "matches"),
    [
        ({"Action": "s3:getobject"}, True),
        ({"Action": ["sqs:*", "s3:Get?bject"]}, True),
        ({"Action": "s3:Put*"}, False),
        ({"Action": "s3:GetObject[A]"}, False),
        ({"Resource": "arn:aws:s3:::b/*"}, True),
        ({"Resource": "arn:aws:s3:::B/*"}, False),
        ({"Resource": "arn:aws:s3:*:*:b/k"}, True),
        ({"Resource": "arn:aws:s3:*"}, True),
        ({"Resource": "arn:aws:*"}, True),
        ({"Resource": "arn:aws:sqs:*"}, False),
        ({"Resource": "arn:*:b/k"}, True),
        ({"Resource": "arn:*s:b/k"}, False),
        ({"Resource": "arn:aws:s3:::?/${aws:username}"}, False),
    ],
)
def test_actions_and_resources_match_as_in_iam(members, matches):
    assert allows(statement(**members)) is matches


def test_all_but_some_actions_or_resources():
    no_reading = {"Effect": "Allow", "NotAction": "s3:Get*", "Resource": "*"}
    assert not allows(no_reading)
    assert allows(no_reading, action="s3:PutObject")
    elsewhere = {"Effect": "Allow", "Action": "*", "NotResource": "arn:aws:s3:::b/*"}
    assert not allows(elsewhere)
    assert allows(elsewhere, resource="arn:aws:s3:::c/k")


def test_a_wildcard_spans_no_colon_before_the_fifth_unless_it_ends_its_segment():
    arn = "arn:aws:logs:us-east-1:1:log-group:a:log-stream:b"
    assert allows(statement(Resource="arn:aws:logs:*:1:log-group:a*"), resource=arn)
    assert allows(statement(Resource="arn:aws:logs:*:log-group:a*"), resource=arn)
    assert not allows(statement(Resource="arn:aws:logs:u*1:log-group:a*"), resource=arn)
    everything_there = statement("Deny", Resource="arn:aws:logs:*")
    assert decide(statement(), everything_there, resource=arn) is Decision.EXPLICIT_DENY


def test_variables_stand_for_what_is_known_of_the_request():
    home = statement(Resource="arn:aws:s3:::b/${aws:username}/*")
    assert allows(home, resource="arn:aws:s3:::b/anna/k")
    assert not allows(home, resource="arn:aws:s3:::b/bob/k")
    assert not allows(home, resource="arn:aws:s3:::b/anna/k", version="2008-10-17")
    assert allows(statement(Resource="arn:aws:s3:::b/${*}"), resource="arn:aws:s3:::b/*")
    assert not allows(statement(Resource="arn:aws:s3:::b/${*}"))
    named = statement(Resource="arn:aws:s3:::b/${aws:PrincipalTag/team, 'k'}")
    assert allows(named)
    absent = "arn:aws:s3:::b/${aws:PrincipalTag/team}"
    assert not allows(statement(Resource=absent))
    no_action = {"Effect": "Allow", "Action": "*", "NotResource": absent}
    assert not allows(no_action)


def test_a_value_with_a_wildcard_in_it_matches_only_itself():
    context = Context({"aws:username": ("*",)})
    parsed = policies.parse(document(statement(Resource="arn:aws:s3:::b/${aws:username}")))
    assert policies.evaluate(parsed, "s3:GetObject", "arn:aws:s3:::b/k", context)[0] is (
        Decision.IMPLICIT_DENY
    )


@pytest.mark.parametrize(
    ("operator", "key", "values", "met"),
    [
        ("StringEquals", "aws:RequestTag/team", ["red", "blue"], True),
        ("StringEquals", "AWS:requesttag/TEAM", "Blue", False),
        ("StringEqualsIgnoreCase", "aws:RequestTag/team", "Blue", True),
        ("StringNotEquals", "aws:RequestTag/team", ["red", "blue"], False),
        ("StringNotEquals", "aws:RequestTag/cost", "x", True),
        ("StringEquals", "aws:RequestTag/cost", "x", False),
        ("StringEqualsIfExists", "aws:RequestTag/cost", "x", True),
        ("StringEqualsIfExists", "aws:RequestTag/team", "x", False),
        ("StringLike", "aws:RequestTag/team", "b*", True),
        ("StringNotLike", "aws:RequestTag/team", "b*", False),
        ("StringEquals", "aws:username", "${aws:username}", True),
        ("StringEquals", "aws:username", "${aws:PrincipalTag/team}", False),
        ("StringNotEquals", "aws:username", "${aws:PrincipalTag/team}", True),
        ("ForAllValues:StringEquals", "aws:TagKeys", ["team", "cost", "x"], True),
        ("ForAllValues:StringEquals", "aws:TagKeys", ["team"], False),
        ("ForAllValues:StringEquals", "aws:RequestTag/cost", ["x"], True),
        ("ForAnyValue:StringEquals", "aws:TagKeys", ["team"], True),
        ("ForAnyValue:StringEquals", "aws:RequestTag/cost", ["x"], False),
        ("ForAnyValue:StringNotEquals", "aws:TagKeys", ["team"], True),
        ("ForAllValues:StringNotEquals", "aws:TagKeys", ["team"], False),
        ("Null", "aws:RequestTag/cost", "true", True),
        ("Null", "aws:RequestTag/team", "true", False),
        ("Null", "aws:RequestTag/team", False, True),
        ("Bool", "aws:SecureTransport", True, True),
        ("Bool", "aws:SecureTransport", "false", False),
        ("NumericLessThan", "s3:max-keys", 11, True),
        ("NumericGreaterThanEquals", "s3:max-keys", "11", False),
        ("NumericNotEquals", "s3:max-keys", 10, False),
        ("DateLessThan", "aws:CurrentTime", "2026-12-01", True),
        ("DateGreaterThan", "aws:CurrentTime", "1795000000", True),
        ("IpAddress", "aws:SourceIp", "127.0.0.0/8", True),
        ("NotIpAddress", "aws:SourceIp", "127.0.0.0/8", False),
        ("IpAddress", "aws:SourceIp", ["here", "127.0.0.0/8"], True),
        ("NotIpAddress", "aws:SourceIp", ["here", "127.0.0.0/8"], False),
        ("ArnLike", "aws:username", "arn:aws:iam::*:user/x", False),
        ("ArnLike", "aws:PrincipalArn", "arn:aws:iam::*:user/anna", True),
        ("ArnLike", "aws:PrincipalArn", "arn:aws:iam:*", False),
        # Not known, so refused
        ("StringSounds", "aws:username", "anna", False),
        ("ForSomeValues:StringEquals", "aws:TagKeys", "team", False),
        ("StringNotEquals", "aws:SourceVpc", "vpc-1", False),
        ("StringEqualsIfExists", "aws:SourceVpc", "vpc-1", False),
        ("Null", "aws:SourceVpc", "true", False),
        ("NumericLessThan", "aws:username", 11, False),
        ("DateLessThan", "aws:username", "2026-12-01", False),
        ("DateLessThan", "aws:CurrentTime", "tomorrow", False),
        ("IpAddress", "aws:SourceIp", "here", False),
        ("NotIpAddress", "aws:SourceIp", ["here", "10.0.0.0/8"], False),
        ("NumericGreaterThan", "s3:max-keys", "-inf", False),
        ("NumericLessThan", "s3:max-keys", "inf", False),
        ("NumericNotEquals", "s3:max-keys", "nan", False),
    ],
)
def test_conditions_are_met_as_in_iam(operator, key, values, met):
    assert allows(statement(Condition={operator: {key: values}})) is met


def test_what_cannot_be_judged_denies_and_is_said_once(caplog):
    never_seen = {"StringEquals": {"aws:SourceVpce": "vpce-1"}}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert decide(statement(), statement("Deny", Condition=never_seen)) is (
                Decision.EXPLICIT_DENY
            )
    assert caplog.text.count("the condition key aws:sourcevpce") == 1
    unmet = {**never_seen, "Bool": {"aws:SecureTransport": "false"}}
    assert allows(statement(), statement("Deny", Condition=unmet))
    nobody = statement("Deny", Resource="arn:aws:s3:::b/${saml:sub}")
    assert decide(statement(), nobody) is Decision.EXPLICIT_DENY
    assert not allows(statement(Resource="arn:aws:s3:::b/${saml:sub}"))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"Statement": {"Effect": "Maybe", "Action": "*", "Resource": "*"}}'],
)
def test_what_is_no_policy_is_refused(text):
    with pytest.raises(ValueError, match="The policy p cannot be read"):
        policies.parse(text, "p")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
MEMBERS = st.sampled_from(
    [
        "ModelName",
        "EndpointName",
        "EndpointConfigName",
        "ProductionVariants",
        "Tags",
        "TagKeys",
        "ResourceArn",
        "ExecutionRoleArn",
        "ResourceARN",
        "ResourceId",
        "ServiceNamespace",
        "logGroupName",
        "logGroupNames",
        "tags",
        "resourceArn",
        "AlarmNames",
        "Name",
        "Rule",
        "EventBusName",
        "ServiceCode",
        "GroupName",
        "Target",
    ]
)
OPERATIONS = st.sampled_from(
    [
        "CreateModel",
        "AddTags",
        "CreateEndpointConfig",
        "RegisterScalableTarget",
        "DeleteScalingPolicy",
        "CreateLogGroup",
        "GetLogEvents",
        "PutMetricAlarm",
        "DescribeAlarms",
        "PutRule",
        "GetRole",
        "AssumeRole",
    ]
)


def signed_for(service):
    return Signed("AKIA", "20261122", "us-east-1", service, ("host",), "0", "", None)


SERVICES = st.sampled_from([*services.OFFERED, "sagemaker", "application-autoscaling", "pricing"])


@given(
    SERVICES,
    st.sampled_from(["GET", "PUT", "POST", "DELETE"]),
    st.sampled_from(["/", "//", "/b", "/b/k", "/schedules/n", "/schedule-groups/g", "/tags/a"]),
    st.one_of(st.text(alphabet="=&%ab./?", max_size=12), st.just("delete"), st.just("uploadId=1")),
    OPERATIONS,
    st.one_of(st.binary(max_size=20), st.dictionaries(MEMBERS, JSON, max_size=4)),
    st.booleans(),
)
def test_whatever_is_sent_asks_for_something(
    service, method, path, query, operation, body, in_json
):
    headers = {"host": "b.localhost"}
    if in_json:
        prefix = operations._model(service).metadata.get("targetPrefix", "X")
        headers = {"x-amz-target": f"{prefix}.{operation}"}
    if isinstance(body, dict):
        body = (json.dumps(body) if in_json else f"Action={operation}&{urlencode(body)}").encode()
    request = Request(method, path, query, headers, body)
    try:
        read = operations.read(request, signed_for(service))
    except AwsError as error:
        assert str(error)
        return
    asks = actions.asked(read, Place("us-east-1", ACCOUNT))
    prefix = {"monitoring": "cloudwatch", "tagging": "tag"}.get(service, service)
    assert asks[0].action.startswith(f"{prefix}:")
    assert all(isinstance(one.resource, str) and one.resource for one in asks)


TEXT = st.text(alphabet="ab:*?${}/,'", max_size=12)
PATTERN = st.one_of(
    TEXT, st.sampled_from(["*", "s3:*", "arn:aws:s3:::*", "arn:aws:s3:::${aws:username}"])
)
OPERATOR = st.sampled_from(
    [*policies._COMPARISONS, *policies._POSITIVE, "Null", "Nonsense", "ForAnyValue:StringLike"]
)
STATEMENT = st.builds(
    lambda effect, action, resource, operator, key, value: {
        "Effect": effect,
        "Action": action,
        "Resource": resource,
        "Condition": {operator: {key: value}} if operator else {},
    },
    st.sampled_from(["Allow", "Deny"]),
    PATTERN,
    PATTERN,
    st.one_of(st.none(), OPERATOR),
    st.sampled_from(["aws:username", "aws:TagKeys", "aws:Other"]),
    TEXT,
)


@given(st.lists(STATEMENT, max_size=4), TEXT, TEXT)
def test_whatever_policies_say_a_denial_wins_and_nothing_else_permits(statements, action, resource):
    decision = decide(*statements, action=action, resource=resource)
    denials = [one for one in statements if one["Effect"] == "Deny"]
    if decision is Decision.ALLOWED:
        assert decide(*denials, action=action, resource=resource) is Decision.IMPLICIT_DENY
    assert decide(*denials, action=action, resource=resource) is not Decision.ALLOWED
    everything = [*statements, statement("Deny")]
    assert decide(*everything, action=action, resource=resource) is Decision.EXPLICIT_DENY


@given(st.lists(STATEMENT, max_size=3), TEXT, TEXT)
def test_one_more_permission_takes_none_away(statements, action, resource):
    if allows(*statements, action=action, resource=resource):
        assert allows(statement(Action="x:y"), *statements, action=action, resource=resource)
