import json
import os
import subprocess
import sys

import boto3
import pytest
import rehearsing
from botocore.exceptions import ConnectTimeoutError, NoCredentialsError
from moto import mock_aws

from helpers import session as sessions
from helpers.errors import SessionError, SettingsError
from helpers.session import open_session, reason

ROLE_ARN = "arn:aws:iam::123456789012:role/service-role/execution"
TRUST = {"Statement": [{"Principal": {"Service": "sagemaker.amazonaws.com"}}]}


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
    assert session.role() == "arn:aws:iam::123456789012:role/workshop-execution-role"


def test_in_rehearsal_plain_boto3_reaches_nothing_real(rehearsal, monkeypatch):
    real = {
        "AWS_ACCESS_KEY_ID": "AKIAREAL",
        "AWS_SECRET_ACCESS_KEY": "real-secret",
        "AWS_PROFILE": "production",
        "AWS_ENDPOINT_URL_STS": "http://192.0.2.1",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "TRUE",
        "HTTPS_PROXY": "http://192.0.2.1:1",
        "HTTP_PROXY": "http://192.0.2.1:1",
        "HF_TOKEN": "hf_realrealreal",
        "HF_ENDPOINT": "http://192.0.2.1",
    }
    for name, value in real.items():
        monkeypatch.setenv(name, value)
    open_session()
    assert not set(real.values()) & set(os.environ.values())
    assert boto3.client("sts").get_caller_identity()["Arn"].endswith("/rehearsal")
    code = "import boto3; print(boto3.client('sts').get_caller_identity()['Account'])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "123456789012"


def test_the_users_environment_comes_back(rehearsal, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "production")
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
    assert session.participant == "anna-schmidt"


def test_aws_on_loopback_is_refused(on_aws):
    on_aws.setenv("AWS_ENDPOINT_URL", "http://localhost:4566")
    with pytest.raises(SessionError, match="WORKSHOP_TARGET=rehearsal"):
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
        ('{"SpaceName": "Lab 7"}', "lab-7"),
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


def test_what_pydantic_refuses_is_said_without_the_input():
    from pydantic import BaseModel, ValidationError

    class Strict(BaseModel):
        number: int

    with pytest.raises(ValidationError) as caught:
        Strict(number="hf_realrealreal")
    assert "number" in reason(caught.value)
    assert "hf_realrealreal" not in reason(caught.value)
