import hashlib
import json
import os
import subprocess
import sys

import boto3
import pytest
import rehearsing
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
)
from moto import mock_aws

from helpers import session as sessions
from helpers import settings
from helpers.errors import SessionError, SettingsError
from helpers.rehearsal import launch
from helpers.session import open_session, reason

ROLE_ARN = "arn:aws:iam::123456789012:role/service-role/execution"
TRUST = {
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "sagemaker.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ]
}


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    with rehearsing.server(tmp_path_factory.mktemp("session")) as server:
        yield server


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """What a test changes in the environment is gone after it."""
    before = dict(os.environ)
    yield
    sessions.leave_rehearsal()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def on_aws(monkeypatch):
    """AWS as moto plays it inside this process, without any address to call."""
    monkeypatch.setenv("WORKSHOP_TARGET", "aws")
    monkeypatch.setenv("WORKSHOP_REGION", "eu-west-1")
    with mock_aws():
        yield monkeypatch


def as_identity(monkeypatch, arn):
    monkeypatch.setattr(sessions, "_identity", lambda boto: ("123456789012", arn))


# --- rehearsal


def test_a_rehearsal_needs_no_account(rehearsal):
    session = open_session()
    assert session.target == session.label == "rehearsal"
    assert session.region == "us-east-1"
    assert session.account == "123456789012"
    assert session.participant == "rehearsal"
    assert session.clock.speed == rehearsing.SPEED
    assert session.clock.origin == rehearsal.origin
    assert session.identity.endswith("assumed-role/inf2-workshop-participant/rehearsal")
    assert session.role() == "arn:aws:iam::123456789012:role/inf2-workshop-execution"
    assert session.scheduler_role() == "arn:aws:iam::123456789012:role/inf2-workshop-scheduler"
    assert session.bucket == "inf2-workshop-123456789012-us-east-1"


@pytest.mark.parametrize(
    ("identity", "arn"),
    [
        ("participant", "sts::123456789012:assumed-role/inf2-workshop-participant/rehearsal"),
        ("instructor", "sts::123456789012:assumed-role/inf2-workshop-instructor/instructor"),
        ("laptop", "iam::123456789012:user/laptop"),
        ("admin", "sts::123456789012:assumed-role/workshop-admin/rehearsal"),
    ],
)
def test_a_rehearsal_knows_four_identities(rehearsal, monkeypatch, identity, arn):
    assert open_session(identity=identity).identity == f"arn:aws:{arn}"
    sessions.leave_rehearsal()
    monkeypatch.setenv("WORKSHOP_IDENTITY", identity.upper())
    session = open_session()
    assert session.identity == f"arn:aws:{arn}"
    assert session.role().endswith("role/inf2-workshop-execution")


def test_sessions_of_two_identities_do_not_become_each_other(rehearsal):
    one, other = open_session(), open_session(identity="laptop")
    for session in (one, other, one.in_region("us-west-2"), other.in_region("us-west-2")):
        assert session.client("sts").get_caller_identity()["Arn"] == session.identity


def test_a_session_goes_to_another_region_as_it_is(rehearsal):
    here = open_session(participant="anna")
    there = here.in_region("eu-west-1")
    assert there.client("sagemaker").meta.region_name == "eu-west-1"
    assert there.boto.region_name == there.region == "eu-west-1"
    assert here.client("sagemaker").meta.region_name == here.region == "us-east-1"
    assert there.bucket == "inf2-workshop-123456789012-eu-west-1"
    assert (there.participant, there.clock) == ("anna", here.clock)
    assert there.client("sts").get_caller_identity()["Arn"] == here.identity
    assert here.in_region("us-east-1") is here
    with pytest.raises(SettingsError, match="eu-wst"):
        here.in_region("eu-wst")


def test_in_another_region_on_aws_one_stays_on_aws(rehearsal):
    with mock_aws():
        real = open_session("aws", region="eu-west-1")
        open_session("rehearsal")
        there = real.in_region("us-west-2")
        assert ".us-west-2." in there.client("sagemaker").meta.endpoint_url
        assert there.boto.get_credentials() is real.boto.get_credentials()


def test_in_rehearsal_plain_boto3_reaches_nothing_real(rehearsal, monkeypatch):
    real = {
        "AWS_ACCESS_KEY_ID": "AKIAREAL",
        "AWS_SECRET_ACCESS_KEY": "real-secret",
        "AWS_PROFILE": "production",
        "AWS_ENDPOINT_URL_STS": "http://192.0.2.1",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "TRUE",
        "AWS_ACCOUNT_ID": "210987654321",
        "AWS_SDK_UA_APP_ID": "real-app",
        "AWS_LOGIN_CACHE_DIRECTORY": "/real/cache",
        "AWS_SOMETHING_NEW": "real-and-new",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": "/real/config.yaml",
        "HTTPS_PROXY": "http://192.0.2.1:1",
        "HTTP_PROXY": "http://192.0.2.1:1",
        "HF_TOKEN": "hf_realrealreal",
        "HF_ENDPOINT": "http://192.0.2.1",
    }
    for name, value in real.items():
        monkeypatch.setenv(name, value)
    open_session()
    assert not set(real.values()) & set(os.environ.values())
    assert "AWS_SOMETHING_NEW" not in os.environ
    assert boto3.client("sts").get_caller_identity()["Arn"].endswith("/rehearsal")
    code = "import boto3; print(boto3.client('sts').get_caller_identity()['Account'])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "123456789012"


def test_the_users_environment_comes_back(rehearsal, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_ACCOUNT_ID", "210987654321")
    monkeypatch.setenv("HF_TOKEN", "hf_realrealreal")
    before = dict(os.environ)
    open_session()
    open_session(region="eu-west-1")
    assert dict(os.environ) != before
    os.environ["HF_ENDPOINT"] = "http://set-by-the-user-since"
    sessions.leave_rehearsal()
    assert os.environ.pop("HF_ENDPOINT") == "http://set-by-the-user-since"
    assert dict(os.environ) == before


def test_from_rehearsal_to_aws_in_one_process(rehearsal, monkeypatch):
    with mock_aws():  # its credentials stand for the user's
        open_session()
        session = open_session("aws", region="eu-west-1")
    assert session.target == "aws"
    assert "AWS_ENDPOINT_URL" not in os.environ
    assert session.clock.speed == 1
    assert session.client("sagemaker").meta.endpoint_url.endswith("eu-west-1.amazonaws.com")


def test_a_session_stays_where_it_was_opened(rehearsal):
    with mock_aws():
        real = open_session("aws", region="eu-west-1")
        rehearsed = open_session("rehearsal")
        assert ".eu-west-1." in real.client("sagemaker").meta.endpoint_url
        sessions.leave_rehearsal()
        assert rehearsed.client("sagemaker").meta.endpoint_url == rehearsal.url
        assert rehearsed.boto.client("logs").meta.endpoint_url == rehearsal.url
        assert ".eu-west-1." in real.client("logs").meta.endpoint_url


def test_a_rehearsal_never_uses_the_users_proxy(rehearsal, monkeypatch):
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    session = open_session()
    sessions.leave_rehearsal()
    assert os.environ["HTTP_PROXY"] == "http://127.0.0.1:9"
    client = session.client("sts", retries={"total_max_attempts": 1}, read_timeout=7)
    assert client.get_caller_identity()["Account"] == "123456789012"
    assert client.meta.config.read_timeout == 7
    assert session.boto.client("sts").get_caller_identity()["Account"] == "123456789012"


def test_two_regions_in_one_process(rehearsal):
    one, other = open_session(region="us-east-1"), open_session(region="us-west-2")
    assert one.client("sagemaker").meta.region_name == "us-east-1"
    assert other.client("sagemaker").meta.region_name == "us-west-2"


def test_a_rehearsal_started_by_hand_is_used(rehearsal, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", rehearsal.url)
    monkeypatch.setenv("WORKSHOP_STATE", "/nowhere/at/all")
    assert open_session().clock.origin == rehearsal.origin


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "https://sagemaker.example.com"])
def test_a_rehearsal_never_uses_an_address_where_none_answers(rehearsal, monkeypatch, url):
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(SessionError, match="unset it"):
        open_session()


# --- AWS


def test_on_aws_the_identity_names_account_and_participant(on_aws):
    as_identity(on_aws, "arn:aws:iam::123456789012:user/team/Anna.Schmidt")
    session = open_session()
    assert (session.region, session.account) == ("eu-west-1", "123456789012")
    assert session.participant == "anna-schmid-1261"


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:4566",
        "https://localhost:4566",
        "https://LOCALHOST.:4566",
        "https://sagemaker.localhost",
        "https://127.0.0.1:4566",
        "https://127.8.8.8",
        "https://127.1",
        "https://2130706433",
        "https://0x7f000001",
        "https://0.0.0.0:4566",
        "https://[::1]:4566",
        "https://[::]:4566",
        "https://[::ffff:127.0.0.1]:4566",
        "https://rehearsal.example.com",
        "http://sagemaker.eu-west-1.amazonaws.com",
        "localhost:4566",
    ],
)
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"])
def test_aws_on_loopback_is_refused(on_aws, name, url):
    on_aws.setattr(sessions.socket, "getaddrinfo", resolving_to("127.0.0.1"))
    on_aws.setenv(name, url)
    with pytest.raises(SessionError, match="WORKSHOP_TARGET=rehearsal") as caught:
        open_session()
    assert url in str(caught.value)


def resolving_to(address):
    return lambda *_, **__: [(2, 1, 6, "", (address, 0))]


def test_aws_on_loopback_is_refused_in_a_configuration_file(on_aws, tmp_path):
    config = tmp_path / "config"
    config.write_text(
        "[default]\nservices = mine\n[services mine]\nsagemaker =\n"
        "  endpoint_url = https://127.0.0.1:4566\n"
        "cloudwatch =\n  endpoint_url = https://127.0.0.1:4566\n"
    )
    on_aws.setenv("AWS_CONFIG_FILE", str(config))
    with pytest.raises(SessionError, match="sagemaker would be called at"):
        open_session()
    config.write_text(config.read_text().replace("sagemaker =", "s3 ="))
    with pytest.raises(SessionError, match="cloudwatch would be called at"):
        open_session().client("cloudwatch")


class _Probe:
    """A socket that binds, or does not."""

    def __init__(self, *_, own):
        self._own = own

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def bind(self, _):
        if not self._own:
            raise OSError


@pytest.mark.parametrize("own", [True, False])
def test_an_address_of_this_machine_is_refused_and_another_is_not(monkeypatch, own):
    monkeypatch.setattr(sessions.socket, "getaddrinfo", resolving_to("192.0.2.1"))
    monkeypatch.setattr(sessions.socket, "socket", lambda *_: _Probe(own=own))
    assert sessions._is_here("vpce.example.com") is own
    assert sessions._is_here("2001:db8::1") is own


def test_a_host_that_does_not_resolve_is_not_this_machine(monkeypatch):
    def unknown(*_, **__):
        raise OSError

    monkeypatch.setattr(sessions.socket, "getaddrinfo", unknown)
    assert not sessions._is_here("nowhere.example.com")


@pytest.mark.parametrize("identity", settings.IDENTITIES)
def test_aws_with_the_rehearsals_credentials_is_refused(on_aws, identity):
    on_aws.setenv("AWS_ACCESS_KEY_ID", launch.credentials(identity)["AWS_ACCESS_KEY_ID"])
    with pytest.raises(SessionError, match="credentials are the rehearsal's"):
        open_session()


def test_a_missing_region_is_one_sentence(on_aws):
    on_aws.delenv("WORKSHOP_REGION")
    on_aws.delenv("AWS_DEFAULT_REGION", raising=False)
    with pytest.raises(SessionError, match="WORKSHOP_REGION"):
        open_session()


def test_a_misspelt_region_is_one_sentence(on_aws):
    with pytest.raises(SettingsError, match="us-est"):
        open_session(region="us-est")


def test_missing_credentials_are_one_sentence(on_aws, monkeypatch):
    def nobody(*_, **__):
        raise NoCredentialsError

    monkeypatch.setattr(boto3.Session, "client", nobody)
    with pytest.raises(SessionError, match="aws configure"):
        open_session()


def test_an_iam_user_is_asked_for_a_role(on_aws):
    as_identity(on_aws, "arn:aws:iam::123456789012:user/anna")
    session = open_session()
    with pytest.raises(SessionError, match="ROLE_ARN"):
        session.role()
    assert session.role(ROLE_ARN) == ROLE_ARN
    assert open_session(role_arn=ROLE_ARN).role() == ROLE_ARN


def create_role(session, name, *services):
    principal = {"Service": [f"{one}.amazonaws.com" for one in services]}
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    trust = {"Statement": [statement]}
    return session.client("iam").create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps(trust)
    )["Role"]["Arn"]


def test_the_workshops_roles_are_found_by_name(on_aws):
    as_identity(on_aws, "arn:aws:iam::123456789012:user/anna")
    session = open_session()
    untrusting = create_role(session, "inf2-workshop-execution", "lambda")
    with pytest.raises(SessionError, match="is not a role"):
        session.role()
    session.client("iam").delete_role(RoleName="inf2-workshop-execution")
    assert create_role(session, "inf2-workshop-execution", "sagemaker") == untrusting
    assert session.role() == untrusting
    assert open_session(role_arn=ROLE_ARN).role() == ROLE_ARN
    scheduler = create_role(session, "inf2-workshop-scheduler", "scheduler")
    assert session.scheduler_role() == scheduler
    on_aws.setenv("WORKSHOP_SCHEDULER_ROLE_ARN", ROLE_ARN)
    assert open_session().scheduler_role() == ROLE_ARN
    on_aws.setenv("WORKSHOP_SCHEDULER_ROLE_ARN", "scheduler")
    with pytest.raises(SessionError, match="looks like"):
        open_session().scheduler_role()


def test_an_execution_role_that_the_scheduler_trusts_serves_both(on_aws):
    as_identity(on_aws, "arn:aws:sts::123456789012:assumed-role/execution/SageMaker")
    session = open_session()
    with pytest.raises(SessionError, match="deploy iam/template.yaml"):
        session.scheduler_role()
    arn = create_role(session, "execution", "sagemaker", "scheduler")
    assert session.role() == session.scheduler_role() == arn


def test_a_bucket_of_ones_own_is_used(on_aws):
    assert open_session().bucket == "inf2-workshop-123456789012-eu-west-1"
    on_aws.setenv("WORKSHOP_BUCKET", "mine")
    assert open_session().bucket == "mine"


def test_what_is_no_role_arn_is_refused(on_aws):
    with pytest.raises(SessionError, match="looks like"):
        open_session().role("arn:aws:iam::123456789012:user/anna")


def test_an_assumed_role_is_found_with_its_path(on_aws):
    as_identity(on_aws, "arn:aws:sts::123456789012:assumed-role/execution/SageMaker")
    session = open_session()
    session.client("iam").create_role(
        RoleName="execution", Path="/service-role/", AssumeRolePolicyDocument=json.dumps(TRUST)
    )
    assert session.role() == ROLE_ARN


def test_a_role_that_sagemaker_may_not_assume_is_refused(on_aws):
    as_identity(on_aws, "arn:aws:sts::123456789012:assumed-role/AWSReservedSSO_Admin_1/anna")
    session = open_session()
    session.client("iam").create_role(
        RoleName="AWSReservedSSO_Admin_1",
        AssumeRolePolicyDocument=json.dumps({"Statement": [{"Principal": {"Federated": "x"}}]}),
    )
    with pytest.raises(SessionError, match="may not assume"):
        session.role()


def test_a_role_that_cannot_be_read_comes_from_studio_or_from_the_user(on_aws, tmp_path):
    as_identity(on_aws, "arn:aws:sts::123456789012:assumed-role/unreadable/SageMaker")
    session = open_session()
    with pytest.raises(SessionError, match="cannot be read"):
        session.role()
    studio = tmp_path / "metadata.json"
    studio.write_text(json.dumps({"ExecutionRoleArn": ROLE_ARN}))
    on_aws.setattr(sessions, "STUDIO_METADATA", studio)
    assert session.role() == ROLE_ARN


# --- participants


@pytest.mark.parametrize(
    ("metadata", "participant"),
    [
        ('{"UserProfileName": "Anna", "SpaceName": "lab"}', "anna"),
        ('{"SpaceName": "Lab 7"}', "lab-7-002d"),
        ('{"ResourceName": "my-notebook"}', "my-notebook"),
        ("[]", "sagemaker"),
        ("not json", "sagemaker"),
    ],
)
def test_in_studio_the_profile_tells_people_apart(on_aws, tmp_path, metadata, participant):
    as_identity(on_aws, "arn:aws:sts::123456789012:assumed-role/execution/SageMaker")
    studio = tmp_path / "metadata.json"
    studio.write_text(metadata)
    on_aws.setattr(sessions, "STUDIO_METADATA", studio)
    assert open_session().participant == participant


def test_long_names_that_begin_alike_stay_two(rehearsal):
    one = open_session(participant="christopher.smith@example.com").participant
    other = open_session(participant="christopher.smithson@example.com").participant
    assert one != other
    assert max(len(one), len(other)) <= 16


@pytest.mark.parametrize("names", [("Ösen", "Äsen"), ("anna.b", "anna-b"), ("日本語", "日本")])
def test_different_names_stay_different(names):
    one, other = map(sessions._slug, names)
    assert one != other


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("rehearsal", "rehearsal"),
        (" Anna ", "anna"),
        ("anna-b", "anna-b"),
        ("Ösen", "osen-"),
        ("anna.b", "anna-b-"),
        ("日本語", "p-"),
        ("42", "p-"),
    ],
)
def test_a_name_that_loses_something_gains_a_digest(name, slug):
    if slug.endswith("-"):
        slug += hashlib.sha256(name.lower().encode()).hexdigest()[:4]
    assert sessions._slug(name) == slug


def test_a_participant_without_letters_is_refused(rehearsal):
    with pytest.raises(SettingsError, match="WORKSHOP_PARTICIPANT"):
        open_session(participant="---")


# --- what it says


def test_every_line_it_says_carries_the_label(rehearsal, capsys):
    session = open_session()
    session.say("one\ntwo")
    session.say("")
    session.say_measured("1.23 s\n4.56 s")
    assert capsys.readouterr().out.splitlines() == [
        "[rehearsal] one",
        "[rehearsal] two",
        "[rehearsal]",
        "1.23 s [rehearsal]",
        "4.56 s [rehearsal]",
    ]


def test_a_rehearsal_describes_itself_as_simulated(rehearsal, capsys):
    open_session().describe()
    said = capsys.readouterr().out
    assert "nothing here is measured" in said
    assert f"one second here is {rehearsing.SPEED} seconds there" in said
    assert all(line.startswith("[rehearsal] ") for line in said.splitlines())


def test_aws_describes_itself_as_billed(on_aws, capsys):
    open_session(participant="anna").describe()
    said = capsys.readouterr().out
    assert "billed until you delete it" in said
    assert "[aws] Participant: anna" in said


def test_what_notebook_01_has_chosen_holds_until_it_chooses_nothing(on_aws, tmp_path, capsys):
    on_aws.delenv("WORKSHOP_TARGET")
    on_aws.setenv("WORKSHOP_STATE", str(tmp_path))
    open_session("aws", participant="anna", remember=True).describe()
    assert "01_environment_setup" not in capsys.readouterr().out
    session = open_session()
    session.describe()
    assert (session.target, session.participant) == ("aws", "anna")
    assert "Target aws was chosen in 01_environment_setup: set TARGET" in capsys.readouterr().out
    on_aws.setenv("WORKSHOP_TARGET", "aws")
    assert open_session(remember=True).target == "aws"
    on_aws.delenv("WORKSHOP_TARGET")
    assert settings.load().target == "rehearsal"


def test_a_choice_that_fails_leaves_no_older_one(on_aws, tmp_path):
    on_aws.delenv("WORKSHOP_TARGET")
    on_aws.setenv("WORKSHOP_STATE", str(tmp_path))
    open_session("aws", remember=True)
    with pytest.raises(SettingsError):
        open_session("aws", region="us-est", remember=True)
    assert settings.load().target == "rehearsal"


def test_a_table_carries_the_label_in_its_corner(rehearsal):
    session = open_session()
    versions = session.versions()
    table = session.table(versions)
    assert table.columns.name == "rehearsal"
    assert versions.columns.name is None
    assert "rehearsal" in table.to_html()
    assert versions.loc["boto3", "version"] == boto3.__version__


def test_a_package_that_is_not_there_is_listed_as_such(rehearsal, monkeypatch):
    monkeypatch.setattr(sessions, "PACKAGES", ("no-such-package",))
    assert open_session().versions().loc["no-such-package", "version"] == "not installed"


def test_clients_are_made_once_for_each_configuration(rehearsal):
    session = open_session()
    assert session.client("sts") is session.client("sts")
    impatient = session.client("sts", read_timeout=1)
    assert impatient is not session.client("sts")
    assert impatient.meta.config.read_timeout == 1


def test_neither_session_nor_settings_show_credentials(rehearsal, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "real-secret")
    monkeypatch.setenv("HF_TOKEN", "hf_realrealreal")
    assert "real" not in repr(open_session()).replace("rehearsal", "")


# --- errors in a sentence


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("ExpiredToken", "expired"),
        ("InvalidClientTokenId", "does not accept"),
        ("AccessDeniedException", "not allowed to call DescribeEndpoint"),
        ("ThrottlingException", "Rate exceeded (ThrottlingException)"),
    ],
)
def test_an_error_of_aws_is_one_sentence(rehearsal, code, words):
    session = open_session()
    rehearsing.refuse(session, "DescribeEndpoint", code, "Rate exceeded")
    client = session.client("sagemaker", retries={"total_max_attempts": 1})
    with pytest.raises(client.exceptions.ClientError) as caught:
        client.describe_endpoint(EndpointName="x")
    assert words in reason(caught.value)


def test_other_errors_are_one_sentence_without_secrets():
    assert "reached" in reason(ConnectTimeoutError(endpoint_url="https://x"))
    assert reason(SessionError("Say this.")) == "Say this."
    assert reason(RuntimeError("sesame\nmore"), "sesame") == "RuntimeError: ***"


def test_what_botocore_refuses_is_said_in_full_without_secrets():
    report = "Missing required parameter: A\nInvalid length for B, value: sesame"
    said = reason(ParamValidationError(report=report), "sesame")
    assert said == (
        "Parameter validation failed: Missing required parameter: A; "
        "Invalid length for B, value: ***."
    )


@pytest.mark.parametrize("kind", [EndpointConnectionError, ConnectionClosedError])
def test_a_rehearsal_that_has_ended_is_said_to_have(kind):
    assert "The rehearsal AWS has ended" in reason(kind(endpoint_url="http://127.0.0.1:9/x"))
    assert "check the network" in reason(kind(endpoint_url="https://sts.amazonaws.com"))


def test_a_rehearsal_that_is_slow_has_not_ended():
    assert "has ended" not in reason(ReadTimeoutError(endpoint_url="http://127.0.0.1:9"))


def test_a_role_of_a_rehearsal_that_has_ended(rehearsal, tmp_path, monkeypatch):
    session = open_session()
    studio = tmp_path / "metadata.json"
    studio.write_text(json.dumps({"ExecutionRoleArn": ROLE_ARN}))
    monkeypatch.setattr(sessions, "STUDIO_METADATA", studio)
    ended = EndpointConnectionError(endpoint_url=rehearsal.url)
    rehearsing.fail_after(session, "GetRole", ended, service="iam")
    with pytest.raises(SessionError, match=r"^The rehearsal AWS has ended"):
        session.role()


def test_an_identity_in_a_rehearsal_that_has_ended():
    ended = EndpointConnectionError(endpoint_url="http://127.0.0.1:9")
    assert str(sessions._unknown_identity(ended)).startswith("The rehearsal AWS has ended")


def test_what_pydantic_refuses_is_said_without_the_input():
    from pydantic import BaseModel, ValidationError

    class Strict(BaseModel):
        number: int

    with pytest.raises(ValidationError) as caught:
        Strict(number="hf_realrealreal")
    assert "number" in reason(caught.value)
    assert "hf_realrealreal" not in reason(caught.value)
