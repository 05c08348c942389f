"""What a reader sees of each fault that strikes an answer, through the notebooks' helpers."""

import contextlib
import json
import urllib.request

import deployed
import pytest
from botocore.exceptions import ClientError

from helpers import endpoint, errors, messages
from helpers.rehearsal.faults import FAULTS
from helpers.session import open_session

SPEED = 300  # a stall of 30 s of AWS time is 0.1 s here
QUESTION = [{"role": "user", "content": "What is a rehearsal?"}]
OPTIONS = {"model": deployed.MODEL_ID, "max_tokens": 40}

_seen = set()


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with deployed.rehearsal(tmp_path_factory.mktemp("faults"), speed=SPEED) as here:
        yield here


@contextlib.contextmanager
def fault(session, name, **options):
    _seen.add(name)
    with session.fault(name, **options):
        yield


def runtime(session, **config):
    return session.client("sagemaker-runtime", retries={"total_max_attempts": 1}, **config)


def chat(session, **config):
    return messages.chat(runtime(session, **config), deployed.NAME, QUESTION, **OPTIONS)


def stream(session, **config):
    return messages.stream(runtime(session, **config), deployed.NAME, QUESTION, **OPTIONS)


def streamed(session, **config):
    """The stream, read until it ends or breaks, and what it broke with."""
    lines = stream(session, **config)
    try:
        list(lines)
    except errors.InvocationError as error:
        return lines, error
    return lines, None


@pytest.fixture(scope="module")
def whole(session):
    """What is answered when nothing goes wrong."""
    return streamed(session)[0].text


def test_throttling_is_retried_by_boto3_until_it_is_all_there_is(session, whole):
    with fault(session, "throttling", every=2):
        assert messages.chat(
            session.client("sagemaker-runtime"), deployed.NAME, QUESTION, **OPTIONS
        ).text
    with fault(session, "throttling", every=1), pytest.raises(errors.InvocationError) as seen:
        chat(session)
    assert seen.value.kind == "throttled"
    assert "Rate exceeded" in str(seen.value)


def test_expired_credentials_say_to_sign_in_again(session):
    with fault(session, "expired-credentials"):
        with pytest.raises(errors.InvocationError) as seen:
            chat(session)
        with pytest.raises(errors.EndpointError, match="expired"):
            endpoint.look(session, deployed.NAME)
    assert seen.value.kind == "credentials"
    assert endpoint.look(session, deployed.NAME).status == "InService"


@pytest.mark.parametrize(
    ("service", "call", "expired", "throttled"),
    [
        ("sts", "get_caller_identity", "ExpiredToken", "Throttling"),
        ("s3", "list_buckets", "ExpiredToken", "SlowDown"),
        ("sagemaker", "list_models", "ExpiredTokenException", "ThrottlingException"),
    ],
)
def test_each_service_has_its_own_word_for_it(session, service, call, expired, throttled):
    client = session.client(service, retries={"total_max_attempts": 1})
    for name, options, code in (
        ("expired-credentials", {}, expired),
        ("throttling", {"every": 1}, throttled),
    ):
        with session.fault(name, **options), pytest.raises(ClientError) as seen:
            getattr(client, call)()
        assert seen.value.response["Error"]["Code"] == code


def test_a_model_error_carries_the_containers_status_and_words(session, whole):
    with fault(session, "model-error", every=1), pytest.raises(errors.InvocationError) as seen:
        chat(session)
    assert (seen.value.status, seen.value.original_status) == (424, 500)
    with fault(session, "model-error", every=3):
        outcomes = []
        for _ in range(6):
            try:
                outcomes.append(chat(session).text == whole)
            except errors.InvocationError:
                outcomes.append("error")
    assert outcomes == [True, True, "error"] * 2


@pytest.mark.parametrize("name", ["broken-stream", "connection-reset", "corrupt-frame"])
def test_a_stream_that_breaks_keeps_what_has_arrived(session, whole, name):
    with fault(session, name, tokens=10):
        lines, error = streamed(session)
    assert error.kind == "broken"
    assert error.partial == lines.text
    assert 0 < len(lines.text) < len(whole)
    assert whole.startswith(lines.text)
    assert streamed(session)[0].text == whole


def test_a_stall_is_a_pause_until_sagemakers_eight_minutes_are_over(session, whole):
    with fault(session, "stall", tokens=10, seconds=60):
        assert streamed(session)[0].text == whole
    with fault(session, "stall", tokens=10, seconds=600):
        lines, error = streamed(session)
    assert error.kind == "timeout"
    assert whole.startswith(error.partial) and error.partial


def test_a_slow_network_delays_every_word_and_loses_none(session, whole):
    with fault(session, "slow-network", latency_ms=30_000, jitter_ms=10_000):
        assert streamed(session)[0].text == whole


def test_garbage_between_the_lines_costs_at_most_a_word(session, whole):
    with fault(session, "garbage", tokens=10):
        lines, error = streamed(session)
    assert error is None or error.kind == "broken"
    assert whole.startswith(lines.text[:20])


def test_every_fault_of_an_answer_is_met_in_this_file():
    assert _seen == {one.name for one in FAULTS.values() if one.where != "control plane"}


# --- turning them on and off


def ask(session, method, body=None, path="/_rehearsal/faults"):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(session.boto.endpoint_url + path, data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_faults_are_put_read_and_taken_away_over_http(session):
    status, told = ask(session, "PUT", {"stall": {"seconds": 3}, "throttling": True})
    assert (status, set(told["active"])) == (200, {"stall", "throttling"})
    assert told["active"]["stall"]["seconds"] == 3
    assert ask(session, "GET")[1]["active"] == told["active"]
    assert set(told["offered"]) == set(FAULTS)
    assert ask(session, "DELETE")[1]["active"] == {}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"no-fault": True}, "There is no fault 'no-fault'; there are no-quota"),
        ({"stall": {"seconds": -1}}, "seconds of the fault stall cannot be -1"),
        ({"stall": {"secs": 1}}, "has no option 'secs'"),
        ([], "Faults are given by name"),
    ],
)
def test_a_fault_that_does_not_exist_changes_nothing(session, body, words):
    ask(session, "PUT", {"stall": True})
    status, told = ask(session, "PUT", body)
    assert (status, words in told["message"]) == (400, True)
    assert set(ask(session, "DELETE")[1]["active"]) == set()


def test_overlapping_blocks_end_their_own_faults_only(session):
    one, other = session.fault("stall"), session.fault("throttling", every=9)
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert set(ask(session, "GET")[1]["active"]) == {"throttling"}
    other.__exit__(None, None, None)
    assert ask(session, "GET")[1]["active"] == {}


def test_a_block_leaves_the_other_faults_as_they_were(session):
    ask(session, "PUT", {"stall": {"seconds": 0}})
    with pytest.raises(ZeroDivisionError), session.fault("throttling", every=7):
        assert set(ask(session, "GET")[1]["active"]) == {"stall", "throttling"}
        raise ZeroDivisionError
    assert set(ask(session, "GET")[1]["active"]) == {"stall"}
    with pytest.raises(errors.RehearsalError, match="There is no fault"), session.fault("none"):
        raise AssertionError("the block must not run")
    ask(session, "DELETE")


def test_on_aws_nothing_goes_wrong_on_purpose(session, capsys):
    aws = open_session()
    object.__setattr__(aws.settings, "target", "aws")
    with aws.fault("no-quota"):
        assert ask(session, "GET")[1]["active"] == {}
    assert "On AWS nothing goes wrong on purpose" in capsys.readouterr().out
