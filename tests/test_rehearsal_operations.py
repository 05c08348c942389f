"""A request that can be read in two ways is read in one: nobody gets by it what they may not do."""

import http.client
import json
from fnmatch import fnmatchcase
from urllib.parse import quote, urlencode, urlsplit

import pytest
import rehearsing
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.rehearsal.aws import identities, operations
from helpers.rehearsal.aws.awsjson import AwsError
from helpers.rehearsal.server import Request
from helpers.rehearsal.signature import Signed
from helpers.session import open_session

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/"
BUCKET = f"inf2-workshop-{ACCOUNT}-us-east-1"
LOGS = f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:/aws/sagemaker/Endpoints/inf2-workshop-x"
SCHEDULE = {
    "ScheduleExpression": "rate(365 days)",
    "StartDate": 4102444800,
    "FlexibleTimeWindow": {"Mode": "OFF"},
    "Target": {
        "Arn": "arn:aws:scheduler:::aws-sdk:sagemaker:deleteEndpoint",
        "RoleArn": f"{ROLE}for-all-groups",
        "Input": '{"EndpointName": "x"}',
    },
}
JSON = "application/x-amz-json-1.1"
FORM = "application/x-www-form-urlencoded"


class Door:
    """The rehearsal's front door, with requests signed as they are given."""

    def __init__(self, url):
        self.at = urlsplit(url).netloc
        self._connection = http.client.HTTPConnection(self.at, timeout=30)

    def close(self):
        self._connection.close()

    def send(self, method, path, service, headers=(), body=b"", *, host=None):
        """Status and body of what the participant is answered."""
        one = identities.IDENTITIES["participant"]
        credentials = Credentials(one.key, identities.SECRET_KEY, one.token)
        host = host or self.at
        request = AWSRequest(method, f"http://{host}{path}", dict(headers), body)
        signer = SigV4Auth
        if service == "s3":
            request.context["payload_signing_enabled"] = True
            signer = S3SigV4Auth
        signer(credentials, service, "us-east-1").add_auth(request)
        signed = {**dict(request.prepare().headers.items()), "Host": host}
        self._connection.request(method, path, body=body, headers=signed)
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")


@pytest.fixture(scope="module")
def admin(tmp_path_factory):
    """Who has made what no participant may touch."""
    with rehearsing.server(tmp_path_factory.mktemp("operations")):
        admin = open_session(identity="admin")
        prepare(admin)
        yield admin


@pytest.fixture(scope="module")
def door(admin):
    door = Door(admin.boto.endpoint_url)
    yield door
    door.close()


def prepare(admin):
    image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:x"
    admin.client("sagemaker").create_model(
        ModelName="prod",
        ExecutionRoleArn=f"{ROLE}inf2-workshop-execution",
        PrimaryContainer={"Image": image},
    )
    admin.client("logs").create_log_group(logGroupName="/prod")
    admin.client("cloudwatch").put_metric_alarm(
        AlarmName="prod",
        MetricName="m",
        Namespace="n",
        Period=60,
        EvaluationPeriods=1,
        ComparisonOperator="GreaterThanThreshold",
        Threshold=1,
        Statistic="Sum",
    )
    trust = {
        "Effect": "Allow",
        "Principal": {"Service": "scheduler.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }
    admin.client("iam").create_role(
        RoleName="for-all-groups",
        AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
    )
    scheduler = admin.client("scheduler")
    for group in ("prod", "inf2-workshop-zed"):
        scheduler.create_schedule_group(Name=group)
    scheduler.create_schedule(Name="a", GroupName="prod", **SCHEDULE)
    s3 = admin.client("s3")
    for bucket in ("prod", "inf2-workshop-empty"):
        s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket="prod", Key="secret", Body=b"SECRET")
    s3.put_object(Bucket=BUCKET, Key="secret", Body=b"SECRET")


def outside(admin):
    """All that is there and that the participant's policy says nothing of."""
    s3, scheduler = admin.client("s3"), admin.client("scheduler")
    buckets = [one["Name"] for one in s3.list_buckets()["Buckets"]]
    iam = admin.client("iam")
    found = {
        "models": [one["ModelName"] for one in admin.client("sagemaker").list_models()["Models"]],
        "groups": [
            one["logGroupName"] for one in admin.client("logs").describe_log_groups()["logGroups"]
        ],
        "alarms": [
            one["AlarmName"] for one in admin.client("cloudwatch").describe_alarms()["MetricAlarms"]
        ],
        "schedules": [
            f"{one['GroupName']}/{one['Name']}" for one in scheduler.list_schedules()["Schedules"]
        ],
        "roles": [one["RoleName"] for one in iam.list_roles()["Roles"]],
        "objects": [
            f"{bucket}/{one['Key']}"
            for bucket in buckets
            for one in s3.list_objects_v2(Bucket=bucket).get("Contents", [])
            # As the policy has it, whose first asterisk spans slashes, on AWS as well.
            if not fnmatchcase(f"{bucket}/{one['Key']}", "inf2-workshop-*/inf2-workshop/*")
        ],
    }
    found = {
        kind: [name for name in names if not name.removeprefix(_PREFIX).startswith("inf2-work")]
        for kind, names in found.items()
        if kind != "objects"
    } | {"objects": found["objects"], "roles": found["roles"]}
    quotas = admin.client("service-quotas")
    asked = quotas.list_requested_service_quota_change_history(ServiceCode="sagemaker")
    found["quotas"] = len(asked["RequestedQuotas"])
    found["buckets"] = [
        (bucket, s3.get_bucket_versioning(Bucket=bucket).get("Status")) for bucket in buckets
    ]
    return found


_PREFIX = "/aws/sagemaker/Endpoints/"


def target(operation):
    return {"Content-Type": JSON, "X-Amz-Target": operation}


def form(**members):
    return urlencode(members).encode()


def members(**given):
    return json.dumps(given).encode()


VERSIONING = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
DESCRIBE_ALARMS = "GraniteServiceVersion20100801.DescribeAlarms"
DELETE_ALARMS = {"Action": "DeleteAlarms", "AlarmNames.member.1": "prod"}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        pytest.param(
            ("POST", "/endpoints/x", "sagemaker", target("SageMaker.DeleteModel"),
             members(ModelName="prod")),
            "UnknownOperationException",
            id="a target below /endpoints/",
        ),
        pytest.param(
            ("POST", "/endpoints/inf2-workshop-x/invocations", "sagemaker",
             target("SageMaker.DeleteModel"), members(ModelName="prod")),
            "UnknownOperationException",
            id="a target with an invocation",
        ),
        pytest.param(
            ("PUT", f"/{BUCKET}?uploads=&versioning=", "s3", {}, VERSIONING),
            "Conflicting query string parameters: uploads, versioning",
            id="two subresources",
        ),
        pytest.param(
            ("PUT", f"/{BUCKET}?uploads=&policy=", "s3", {}, b"{}"),
            "Conflicting query string parameters: uploads, policy",
            id="a list and a policy",
        ),
        pytest.param(
            ("PUT", f"/{BUCKET}?%75ploads=&polic%79=", "s3", {}, b"{}"),
            "Conflicting query string parameters: uploads, policy",
            id="encoded subresources",
        ),
        pytest.param(
            ("DELETE", "/inf2-workshop-empty?uploads=", "s3"),
            "MethodNotAllowed",
            id="a subresource of another method",
        ),
        pytest.param(
            ("DELETE", "/inf2-workshop-empty?versions=&prefix=inf2-workshop/x", "s3"),
            "MethodNotAllowed",
            id="a list that deletes",
        ),
        pytest.param(
            ("DELETE", "/inf2-workshop-empty?metrics=&id=1", "s3"),
            "MethodNotAllowed",
            id="a subresource that moto overlooks",
        ),
        pytest.param(
            ("POST", "/?Action=DeleteLogGroup", "logs",
             target("Logs_20140328.DescribeLogGroups"), members(logGroupName="/prod")),
            "UnknownOperationException",
            id="a target and an Action in the query",
        ),
        pytest.param(
            ("POST", "/", "logs",
             {**target("Logs_20140328.DescribeLogGroups"), "Action": "DeleteLogGroup"}, b""),
            "logGroups",  # overlooked, as any header that means nothing
            id="a target and an Action as a header",
        ),
        pytest.param(
            ("POST", "/", "logs", target("Logs_20140328.DescribeLogGroups"),
             b'{"logGroupName": "/prod", "x&Action=DeleteLogGroup&y": 1}'),
            "logGroups",
            id="a target and an Action inside JSON",
        ),
        pytest.param(
            ("POST", "/?Action=DeleteAlarms&AlarmNames.member.1=prod", "monitoring",
             target(DESCRIBE_ALARMS), b"{}"),
            "UnknownOperationException",
            id="monitoring: a target and an Action in the query",
        ),
        pytest.param(
            ("POST", "/", "monitoring", {**target(DESCRIBE_ALARMS), "Content-Type": FORM},
             form(**DELETE_ALARMS)),
            "SerializationException",
            id="monitoring: a target and an Action in the body",
        ),
        pytest.param(
            ("POST", "/?Action=DescribeAlarms", "monitoring", {"Content-Type": FORM},
             form(**DELETE_ALARMS)),
            "MalformedQueryString",
            id="two Actions",
        ),
        pytest.param(
            ("POST", "/", "logs", target("Logs_20140328.DeleteLogGroup"),
             members(logGroupName="/prod", resourceArn=LOGS)),
            "not authorized to perform: logs:DeleteLogGroup",
            id="a member of another operation",
        ),
        pytest.param(
            ("POST", "/", "logs", target("Logs_20140328.DeleteLogGroup"),
             members(logGroupName="/prod", logGroupNames=[LOGS.rpartition(":")[2]])),
            "not authorized to perform: logs:DeleteLogGroup",
            id="a list of another operation",
        ),
        pytest.param(
            ("POST", "/", "logs", target("Logs_20140328.GetLogEvents"),
             members(logGroupName="/prod", logGroupIdentifier=LOGS, logStreamName="s")),
            "not authorized to perform: logs:GetLogEvents",
            id="two groups by two members",
        ),
        pytest.param(
            ("DELETE", "/schedules/a?groupName=prod", "scheduler",
             {"Content-Type": "application/json"}, members(GroupName="inf2-workshop-zed")),
            "not authorized to perform: scheduler:DeleteSchedule",
            id="a group in the query and one in the body",
        ),
        pytest.param(
            ("DELETE", "/schedules/a?groupName=inf2-workshop-zed&groupName=prod", "scheduler"),
            "MalformedQueryString",
            id="two groups in the query",
        ),
        pytest.param(
            ("GET", "/schedules?Action=DeleteSchedule", "scheduler"),
            '"Schedules"',
            id="the scheduler knows no Action",
        ),
        pytest.param(
            ("GET", "/schedules", "scheduler", target("AWSScheduler.DeleteSchedule")),
            "UnknownOperationException",
            id="the scheduler knows no target",
        ),
        pytest.param(
            ("POST", "/", "iam", {"Content-Type": FORM},
             form(Action="GetRole", RoleName="workshop-admin",
                  PolicySourceArn=f"{ROLE}inf2-workshop-execution")),
            "not authorized to perform: iam:GetRole",
            id="a role and the source of a policy",
        ),
        pytest.param(
            ("POST", "/", "iam", {"Content-Type": FORM},
             form(Action="ListAttachedRolePolicies", RoleName="workshop-admin",
                  PolicySourceArn=f"{ROLE}inf2-workshop-execution")),
            "not authorized to perform: iam:ListAttachedRolePolicies",
            id="the policies of a role and the source of a policy",
        ),
        pytest.param(
            ("POST", "/schedules/%62", "scheduler", {"Content-Type": "application/json"},
             members(**{**SCHEDULE, "GroupName": "inf2-workshop-zed", "Target": {
                 "Arn": "arn:aws:sqs:bogus", "RoleArn": f"{ROLE}inf2-workshop-scheduler"}})),
            "The rehearsal AWS has no target arn:aws:sqs:bogus",
            id="an encoded name is checked like any other",
        ),
        pytest.param(
            ("DELETE", "/schedules/a%2Fb?groupName=inf2-workshop-zed", "scheduler"),
            "failed to satisfy constraint",
            id="an encoded slash is none in a name",
        ),
        pytest.param(
            ("GET", "//prod/secret", "s3"), "InvalidBucketName", id="no bucket and a key"
        ),
        pytest.param(
            ("GET", "/prod%2Fsecret", "s3"), "InvalidBucketName", id="a slash in a bucket's name"
        ),
        pytest.param(
            ("PUT", f"/{BUCKET}/inf2-workshop/x", "s3", {"x-amz-copy-source": "%2Fprod%2Fsecret"}),
            "not authorized to perform: s3:GetObject",
            id="an encoded source",
        ),
        pytest.param(
            ("PUT", f"/{BUCKET}/inf2-workshop/x", "s3", {"x-amz-acl": "public-read"}, b"x"),
            "not authorized to perform: s3:PutObjectAcl",
            id="an access list with an object",
        ),
    ],
)  # fmt: skip
def test_a_request_of_two_meanings_does_only_what_its_sender_may(admin, door, request_, code):
    before = outside(admin)
    status, said = door.send(*request_)
    assert code in said, (status, said)
    assert outside(admin) == before


def test_the_region_and_the_account_are_the_signatures(admin, door):
    """moto would take them from headers."""
    elsewhere = {"User-Agent": "x region/eu-west-1", "X-Moto-Account-Id": "210987654321"}
    name = "/aws/sagemaker/Endpoints/inf2-workshop-here"
    body = members(logGroupName=name)
    headers = {**target("Logs_20140328.CreateLogGroup"), **elsewhere}
    assert door.send("POST", "/", "logs", headers, body)[0] == 200
    logs = admin.client("logs")
    found = logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    assert [one["logGroupName"] for one in found] == [name]
    logs.delete_log_group(logGroupName=name)


def test_a_bucket_in_the_host_is_the_same_bucket_in_the_path(door, admin):
    admin.client("s3").put_object(Bucket=BUCKET, Key="inf2-workshop/of/host", Body=b"HERE")
    host = f"{BUCKET}.localhost:{door.at.partition(':')[2]}"
    path = f"/inf2-workshop/{quote('of')}/host"
    assert door.send("GET", path, "s3", host=host) == (200, "HERE")
    assert "s3:GetObject" in door.send("GET", "/secret", "s3", host=host)[1]


# --- whatever is sent


PATHS = [
    "/", "/endpoints/x", "/endpoints/inf2-workshop-x/invocations", "/schedules", "/schedules/a",
    "/schedules/%61", "/schedule-groups/prod", "/schedule-groups/inf2-workshop-zed%2F..%2Fprod",
    "/prod", "/prod/secret", "//prod/secret", "/%70rod/secret", f"/{BUCKET}", f"/{BUCKET}/secret",
    f"/{BUCKET}/inf2-workshop/x", f"/{BUCKET}/inf2-workshop/../secret", "/inf2-workshop-empty",
    f"/{BUCKET}%2Finf2-workshop%2Fx", "/service/x/operation/y",
]  # fmt: skip
OPERATIONS = {
    "sagemaker": ("SageMaker", "ListModels", "DescribeModel", "DeleteModel", "CreateModel"),
    "logs": ("Logs_20140328", "DescribeLogGroups", "DeleteLogGroup", "GetLogEvents"),
    "monitoring": ("GraniteServiceVersion20100801", "DescribeAlarms", "DeleteAlarms"),
    "tagging": ("ResourceGroupsTaggingAPI_20170126", "GetResources", "TagResources"),
    "servicequotas": (
        "ServiceQuotasV20190624", "GetServiceQuota", "RequestServiceQuotaIncrease",
    ),
    "iam": ("X", "GetRole", "DeleteRole", "SimulatePrincipalPolicy"),
    "sts": ("X", "GetCallerIdentity", "AssumeRole"),
    "scheduler": ("AWSScheduler", "ListSchedules", "DeleteSchedule", "DeleteScheduleGroup"),
    "s3": ("X", "ListBuckets", "DeleteBucket"),
    "events": ("AWSEvents", "ListRules", "DeleteRule"),
}  # fmt: skip
ALL = [name for _, *names in OPERATIONS.values() for name in names]
MEMBERS = {
    "ModelName": ["prod", "inf2-workshop-x"],
    "logGroupName": ["/prod", f"{_PREFIX}inf2-workshop-x"],
    "logGroupNames": [["/prod"], [f"{_PREFIX}inf2-workshop-x"]],
    "logGroupIdentifier": ["/prod", LOGS],
    "logStreamName": ["s"],
    "resourceArn": [LOGS],
    "AlarmNames": [["prod"], ["TargetTracking-endpoint/inf2-workshop-x"]],
    "AlarmNames.member.1": ["prod", "TargetTracking-endpoint/inf2-workshop-x"],
    "RoleName": ["workshop-admin", "for-all-groups", "inf2-workshop-execution"],
    "RoleArn": [f"{ROLE}workshop-admin"],
    "RoleSessionName": ["s"],
    "PolicySourceArn": [f"{ROLE}inf2-workshop-execution"],
    "AWSServiceName": ["sagemaker.application-autoscaling.amazonaws.com"],
    "GroupName": ["prod", "inf2-workshop-zed"],
    "groupName": ["prod", "inf2-workshop-zed"],
    "Name": ["a", "prod"],
    "ServiceCode": ["sagemaker"],
    "QuotaCode": ["L-286C98BC"],
    "DesiredValue": [50],
    "Action": ALL,
}
GIVEN = st.lists(
    st.sampled_from([(name, value) for name, values in MEMBERS.items() for value in values]),
    max_size=5,
)
SUBRESOURCES = [
    "uploads=", "%75ploads=", "versioning=", "policy=", "versions=", "delete=", "tagging=", "acl=",
    "list-type=2", "prefix=inf2-workshop/x", "prefix=", "uploadId=1", "versionId=null",
    "metrics=", "lifecycle=", "x-id=GetObject",
]  # fmt: skip
QUERY = st.lists(
    st.one_of(
        st.sampled_from(SUBRESOURCES),
        GIVEN.map(lambda given: urlencode(given[:1])).filter(bool),
    ),
    max_size=4,
).map("&".join)
HEADERS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                ("Content-Type", JSON),
                ("Content-Type", FORM),
                ("Content-Type", "multipart/form-data; boundary=x"),
                ("Content-Encoding", "gzip"),
                ("User-Agent", "region/eu-west-1"),
                ("X-Moto-Account-Id", "210987654321"),
                ("x-amz-copy-source", "/prod/secret"),
                ("x-amz-copy-source", f"/{BUCKET}/inf2-workshop/x%3f/../../secret"),
                ("versionId", "null"),
                ("groupName", "prod"),
            ]
        ),
        st.tuples(st.just("Action"), st.sampled_from(ALL)),
    ),
    max_size=3,
)
DELETION = b"<Delete><Object><Key>inf2-workshop/x</Key><Key>secret</Key></Object></Delete>"
BODY = st.one_of(
    st.just(b""),
    GIVEN.map(dict).map(json.dumps).map(str.encode),
    GIVEN.map(urlencode).map(str.encode),
    st.sampled_from([DELETION, VERSIONING, members(**SCHEDULE)]),
)
HOST = st.sampled_from([None, None, None, "prod.localhost", f"{BUCKET}.localhost", "prod.s3.x.com"])


# What the participant may do in each service, and what not: members by operation.
MAY = {
    "sagemaker": [("ListModels", {}), ("DescribeModel", {"ModelName": "inf2-workshop-x"})],
    "logs": [
        ("DescribeLogGroups", {}),
        ("DeleteLogGroup", {"resourceArn": LOGS}),
    ],
    "monitoring": [("DescribeAlarms", {})],
    "iam": [("GetRole", {"RoleName": "inf2-workshop-execution"})],
    "sts": [("GetCallerIdentity", {})],
    "tagging": [("GetResources", {})],
    "servicequotas": [("GetServiceQuota", {"ServiceCode": "sagemaker", "QuotaCode": "L-286C98BC"})],
    "events": [("ListRules", {})],
}
MAY_NOT = {
    "sagemaker": [("DeleteModel", {"ModelName": "prod"})],
    "logs": [("DeleteLogGroup", {"logGroupName": "/prod"})],
    "monitoring": [("DeleteAlarms", {"AlarmNames": ["prod"]})],
    "iam": [
        ("DeleteRole", {"RoleName": "for-all-groups"}),
        ("GetRole", {"RoleName": "for-all-groups"}),
    ],
    "sts": [("AssumeRole", {"RoleArn": f"{ROLE}workshop-admin", "RoleSessionName": "sess"})],
    "servicequotas": [
        (
            "RequestServiceQuotaIncrease",
            {"ServiceCode": "sagemaker", "QuotaCode": "L-286C98BC", "DesiredValue": 50},
        )
    ],
}


def flat(given):
    """Members as the Query protocol has them."""
    found = {}
    for name, value in given.items():
        each = value if isinstance(value, list) else [value]
        names = [f"{name}.member.{number}" for number, _ in enumerate(each, 1)]
        found |= dict(zip(names if isinstance(value, list) else [name], each, strict=True))
    return found


@st.composite
def double_calls(draw):
    """One that is allowed and one that is not, each named in another place."""
    service = draw(st.sampled_from(sorted(MAY_NOT)))
    (front, front_given), (back, back_given) = draw(
        st.permutations(
            [draw(st.sampled_from(MAY[service])), draw(st.sampled_from(MAY_NOT[service]))]
        )
    )
    headers, query, body, path = {}, {}, {}, "/"
    place = draw(st.sampled_from(["target", "target", "form", "query"]))
    if place == "target":
        headers["X-Amz-Target"] = f"{OPERATIONS[service][0]}.{front}"
    else:
        (body if place == "form" else query)["Action"] = front
    place = draw(st.sampled_from(["query", "form", "header", "target", "path", "none"]))
    if place in ("target", "path"):
        headers["X-Amz-Target"] = f"{OPERATIONS[service][0]}.{back}"
        path = draw(st.sampled_from(["/", "/endpoints/x"])) if place == "target" else "/endpoints/x"
    elif place == "header":
        headers["Action"] = back
    elif place != "none":
        (body if place == "form" else query)["Action"] = back
    as_json = "Action" not in body and "X-Amz-Target" in headers
    told = draw(st.sampled_from([{**front_given, **back_given}, {**back_given, **front_given}]))
    if draw(st.integers(0, 3)):
        body |= told if as_json else flat(told)
    else:
        query |= flat(told)
    headers["Content-Type"] = JSON if as_json else FORM
    body = json.dumps(body) if as_json and body else urlencode(body)
    path = f"{path}?{urlencode(query)}" if query else path
    return "POST", path, service, headers, body.encode()


GROUPS = st.sampled_from(["prod", "inf2-workshop-zed"])


@st.composite
def double_schedules(draw):
    method = draw(st.sampled_from(["DELETE", "DELETE", "GET", "PUT", "POST"]))
    name = draw(st.sampled_from(["a", "a", "%61", "b", "%62", "a%2Fb", "%2e%2e%2Fprod%2Fa"]))
    names = st.sampled_from([*["groupName"] * 3, "GroupName", "Action", "Name"])
    query = draw(st.lists(st.tuples(names, GROUPS), min_size=1, max_size=2))
    body = draw(st.one_of(st.just({}), st.fixed_dictionaries({"GroupName": GROUPS})))
    body |= draw(st.sampled_from([{}, SCHEDULE, {**SCHEDULE, "State": "DISABLED"}]))
    headers = {"Content-Type": draw(st.sampled_from(["application/json", FORM]))}
    headers |= dict(draw(st.lists(st.tuples(names, GROUPS), max_size=1)))
    path = f"/schedules/{name}?{urlencode(query)}"
    return method, path, "scheduler", headers, json.dumps(body).encode() if body else b""


@st.composite
def double_objects(draw):
    method = draw(st.sampled_from(["GET", "PUT", "DELETE", "DELETE", "POST"]))
    there = ["", "/", "/secret", "/inf2-workshop/x", "//inf2-workshop/x", "/%2e%2e/prod/secret"]
    bucket = draw(st.sampled_from([f"/{BUCKET}", "/inf2-workshop-empty", "/prod", "//prod"]))
    query = "&".join(draw(st.lists(st.sampled_from(SUBRESOURCES), max_size=3)))
    headers = dict(draw(HEADERS))
    body = draw(st.sampled_from([b"", VERSIONING, DELETION, b"x"]))
    return method, f"{bucket}{draw(st.sampled_from(there))}?{query}", "s3", headers, body


@st.composite
def any_requests(draw):
    service = draw(st.sampled_from(sorted(OPERATIONS)))
    prefix, *names = OPERATIONS[service]
    headers = dict(draw(HEADERS))
    if draw(st.booleans()):
        headers["X-Amz-Target"] = f"{prefix}.{draw(st.sampled_from(names))}"
    method = draw(st.sampled_from(["GET", "PUT", "POST", "POST", "DELETE", "HEAD"]))
    path, query = draw(st.sampled_from(PATHS)), draw(QUERY)
    return method, f"{path}?{query}" if query else path, service, headers, draw(BODY)


REQUESTS = [double_calls(), double_schedules(), double_objects(), any_requests()]


@pytest.mark.parametrize("requests", REQUESTS, ids=["calls", "schedules", "objects", "anything"])
def test_whatever_a_participant_sends_nothing_else_changes_and_nothing_is_told(
    admin, door, requests
):
    before = outside(admin)

    @settings(max_examples=120, deadline=None, database=None)
    @given(requests, HOST)
    def try_it(request, host):
        _, said = door.send(*request, host=host if request[2] == "s3" else None)
        assert "SECRET" not in said
        assert "<RoleName>for-all-groups" not in said and "<AccessKeyId>" not in said
        if not _is_refusal(said):
            assert outside(admin) == before

    try_it()
    assert outside(admin) == before


def _is_refusal(said):
    """Whether nothing can have happened: AWS says so in the words that it keeps for that."""
    return "not authorized to perform" in said or "UnknownOperationException" in said


@given(st.one_of(REQUESTS), HOST)
def test_what_is_sent_on_is_read_again_as_the_same(request, host):
    method, path, service, headers, body = request
    path, _, query = path.partition("?")
    given_headers = {name.lower(): value for name, value in headers.items()}
    given_headers["host"] = host or "127.0.0.1"
    signed = Signed("AKIA", "20261122", "us-east-1", service, ("host",), "0", "", None)
    try:
        first = operations.read(Request(method, path, query, given_headers, body), signed)
    except AwsError as error:
        assert str(error) and error.status >= 400
        return
    again = operations.read(first.request, signed)
    assert (again.service, again.name, again.given) == (first.service, first.name, first.given)
    assert again.request == first.request
