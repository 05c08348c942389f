"""Each row of the table of what goes wrong for people (`sdk-and-aws.md`), produced in rehearsal.

`ROWS` are that table's. A comment says which of preflight's checks catches a row beforehand; where
only running shows it, the test is that the failure names its cause and remedy.
"""

import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import rehearsing
from botocore.exceptions import ClientError
from deployed import IMAGE
from hypothesis import given
from hypothesis import strategies as st

from helpers import benchmark, cleanup, contracts, endpoint, hub, messages, recipes, symptoms
from helpers.errors import EndpointError, InvocationError, SessionError
from helpers.rehearsal import hub as played_hub
from helpers.session import open_session, reason

ROWS = (
    "did not pass the ping health check",
    "service limit is 0",
    "insufficient capacity",
    "CreateBucket … AccessDenied",
    "current AWS identity is not a role",
    "first token after 5.5 s",
    "KeyError: 'content'",
    "Received server error (0) … timed out",
    "a bill",
)
SPEED = 300  # a deployment of 8 minutes takes 1.6 s
QUESTION = [{"role": "user", "content": "What is a rehearsal?"}]
RECIPE = recipes.get("llama-3-8b")
PREFIX = "inf2-workshop-rehearsal"
# What the container dies of, with what else is asked for, and the time it is given (s).
DEATHS = {
    f"{PREFIX}-miss": ({"HF_BATCH_SIZE": "3", "MAX_BATCH_SIZE": "3"}, 60),
    f"{PREFIX}-gated": ({"HF_TOKEN": ""}, 60),
    f"{PREFIX}-slow": ({}, 60),
}
_seen = set()


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A session with one endpoint in service and one for each death, all started at once."""
    with rehearsing.server(tmp_path_factory.mktemp("symptoms"), speed=SPEED):
        here = open_session()
        for name, (env, timeout_s) in {f"{PREFIX}-good": ({}, 3600), **DEATHS}.items():
            create(here, name, timeout_s=timeout_s, **env)
        yield here


@pytest.fixture(scope="module")
def served(session):
    session.client("sagemaker").get_waiter("endpoint_in_service").wait(
        EndpointName=f"{PREFIX}-good", WaiterConfig={"Delay": 0.1, "MaxAttempts": 200}
    )
    return endpoint.find(session, f"{PREFIX}-good")


@pytest.fixture
def refused(session):
    """The same session, whose AWS is about to refuse something."""
    yield session
    rehearsing.restore()


@pytest.fixture
def laptop(session):
    """A session of somebody who is signed in as a user."""
    session.client("sts").get_caller_identity()  # it has its keys
    here = open_session(identity="laptop")
    assert here.identity == "arn:aws:iam::123456789012:user/laptop"
    yield here
    rehearsing.restore()
    open_session()


def create(session, name, *, timeout_s=3600, **env):
    """With plain boto3: the SDK takes seconds to import."""
    sagemaker = session.client("sagemaker")
    env = {**RECIPE.env, "HF_TOKEN": "hf_of_nobody", **env}
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=session.role(),
        PrimaryContainer={"Image": IMAGE, "Environment": {k: v for k, v in env.items() if v}},
    )
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": name,
        "InstanceType": RECIPE.instance_type,
        "InitialInstanceCount": 1,
        "ContainerStartupHealthCheckTimeoutInSeconds": timeout_s,
    }
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)


def failed(session, name):
    """SageMaker's reason and the container's log, as a failed deployment shows them."""
    found = rehearsing.until(
        lambda: (one := endpoint.look(session, name)).status == "Failed" and one, seconds=20
    )
    return found.failure_reason, endpoint.container_log(session, name)


def row(name):
    assert name in ROWS
    _seen.add(name)


# --- the rows


@pytest.mark.parametrize(
    ("name", "symptom", "remedy"),
    [
        (f"{PREFIX}-miss", "cache miss", "Ask for a shape that is cached"),  # preflight: cache
        (f"{PREFIX}-gated", "gated model", "accept it at https://huggingface.co/meta-llama/"),
        (f"{PREFIX}-slow", "health check", "more time (3600 s at most)"),  # preflight: timeout
    ],  # the second: preflight's token and license
)
def test_a_failed_health_check_is_told_apart_by_the_log(session, name, symptom, remedy):
    row("did not pass the ping health check")
    reason_given, log = failed(session, name)
    assert ROWS[0] in reason_given
    assert symptoms.recognize(reason_given).name == "health check"
    found = symptoms.recognize("\n".join([reason_given, *log]))
    assert (found.name, remedy in found.remedy) == (symptom, True)
    assert endpoint.container_log(session, name)  # as the remedy says: CloudWatch has it


def test_no_quota_names_the_code_to_request(session):  # preflight: quota
    row("service limit is 0")
    with session.fault("no-quota"), pytest.raises(ClientError) as seen:
        session.client("sagemaker").create_endpoint(
            EndpointName=f"{PREFIX}-none", EndpointConfigName=f"{PREFIX}-slow"
        )
    found = symptoms.recognize(str(seen.value), region=session.region)
    assert found.name == "no quota"
    assert "Request L-C8AB7CDA in Service Quotas (service code sagemaker) in us-east-1" in (
        found.remedy
    )
    used = symptoms.recognize(str(seen.value).replace("usage' is 0", "usage' is 1"))
    assert (used.name, "L-C8AB7CDA" in used.remedy) == ("quota used up", True)


def test_no_capacity_says_to_try_later_or_elsewhere(session):  # only running shows it
    row("insufficient capacity")
    with session.fault("no-capacity"):
        create(session, f"{PREFIX}-full")
        said, _ = failed(session, f"{PREFIX}-full")
    found = symptoms.recognize(said, instance_type=RECIPE.instance_type)
    assert found.cause == "The region is out of ml.inf2.xlarge."
    assert found.remedy.startswith("Try later or in another region")


def test_the_sdks_default_bucket_is_not_needed(session):  # preflight: permissions
    row("CreateBucket … AccessDenied")
    with pytest.raises(ClientError) as seen:
        session.client("s3").create_bucket(Bucket="sagemaker-us-east-1-123456789012")
    earlier = "An error occurred (AccessDenied) when calling the CreateBucket operation"
    for said in (str(seen.value), reason(seen.value), f"{earlier}: Access Denied"):
        found = symptoms.recognize(said)
        assert (found.name, "makes none" in found.remedy) == ("no right to a bucket", True)
    # The remedy: deploying asks for no bucket, as every other test of this file shows.


def test_on_a_laptop_the_role_has_to_be_named(laptop):  # preflight: role
    row("current AWS identity is not a role")
    # An account without the workshop's roles; with them, theirs is taken.
    rehearsing.refuse(laptop, "GetRole", "NoSuchEntity", "no", status=404, service="iam")
    with pytest.raises(SessionError) as seen:
        laptop.role()
    sdks = "The current AWS identity is not a role: arn:aws:iam::123456789012:user/laptop, "
    for said in (str(seen.value), sdks + "therefore it cannot be used as a SageMaker role"):
        found = symptoms.recognize(said)
        assert (found.name, "ROLE_ARN" in found.remedy) == ("no role", True)
        assert found.remedy.startswith("Deploy iam/template.yaml")
    given = "arn:aws:iam::123456789012:role/inf2-workshop-execution"
    assert laptop.role(given) == given  # the remedy


def test_a_late_first_token_is_the_queue(session, served, tmp_path, capsys):
    # Only running shows it; preflight's check `shape` says how many slots there are.
    row("first token after 5.5 s")
    said = {}
    for users in (1, 16):
        benchmark.run(
            session,
            served,
            concurrency=users,
            requests=2 * users,
            warmup=users,
            input_tokens=100,
            output_tokens=60,
            results_dir=tmp_path,
        )
        said[users] = capsys.readouterr().out
    first_s = {
        users: float(re.search(r"first token after (\d+\.\d\d) s", text)[1])
        for users, text in said.items()
    }
    assert first_s[16] > 2 * first_s[1]
    found = symptoms.recognize(said[16])
    assert (found.name, "no more users than" in found.remedy) == ("late first token", True)
    assert symptoms.recognize("first token after 5.5 s, normal?") == found


def test_the_last_chunk_of_an_old_tgi_has_no_content(session, served):  # only running shows it
    row("KeyError: 'content'")
    runtime = session.client("sagemaker-runtime")
    body = json.dumps({"model": "tgi", "messages": QUESTION, "max_tokens": 1000, "stream": True})
    answer = runtime.invoke_endpoint_with_response_stream(
        EndpointName=served.name, ContentType="application/json", Body=body
    )
    with pytest.raises(KeyError) as seen:
        naive(answer["Body"])
    found = symptoms.recognize(f"{type(seen.value).__name__}: {seen.value}")
    assert (found.name, '.get("content")' in found.remedy) == ("empty delta", True)
    remedied = messages.stream(runtime, served.name, QUESTION, max_tokens=1000)
    assert "".join(remedied) == remedied.text != ""
    assert remedied.finish_reason != "length"  # it is the special token at the end of a reply


def naive(events):
    """Read a stream as the guide's readers do: every chunk has text."""
    data = b"".join(event["PayloadPart"]["Bytes"] for event in events)
    lines = [line for line in data.decode().splitlines() if line.startswith("data:")]
    return "".join(json.loads(line[5:])["choices"][0]["delta"]["content"] for line in lines)


def test_past_60_s_a_whole_answer_is_lost_and_a_stream_is_not(session, served):
    row("Received server error (0) … timed out")  # only running shows it
    runtime = session.client("sagemaker-runtime", retries={"total_max_attempts": 1})
    body = json.dumps({"model": "tgi", "messages": QUESTION, "max_tokens": 20})
    with session.fault("stall", tokens=5, seconds=90):
        with pytest.raises(ClientError) as raw:
            runtime.invoke_endpoint(
                EndpointName=served.name, ContentType="application/json", Body=body
            )
        with pytest.raises(InvocationError) as told:
            messages.chat(runtime, served.name, QUESTION, max_tokens=20)
        remedied = messages.stream(runtime, served.name, QUESTION, max_tokens=20)
        assert len("".join(remedied)) > 20
    assert re.search(r"Received server error \(0\).*timed out", str(raw.value))
    for said in (str(raw.value), str(told.value)):
        found = symptoms.recognize(said)
        assert (found.name, "Stream it" in found.remedy) == ("60 s limit", True)


def test_an_endpoint_that_nobody_uses_bills_until_it_is_deleted(session):
    # Only time shows it; the guard's time to live ends it (tests/test_guard.py).
    row("a bill")
    create(session, f"{PREFIX}-forgotten")
    forgotten = endpoint.look(session, f"{PREFIX}-forgotten")
    day = replace(session, clock=_Later(session.clock, timedelta(days=1)))
    assert forgotten.cost_so_far(day) > 24 * 0.98
    found = symptoms.recognize("Why is there a bill of $23.76?")
    assert (found.name, "helpers.cleanup" in found.remedy) == ("a bill", True)
    assert forgotten.name in set(cleanup.leftovers(session)["name"])
    left = endpoint.look(session, f"{PREFIX}-slow")  # a failed one is found as well
    assert left.name in set(cleanup.leftovers(session)["name"])


class _Later:
    def __init__(self, clock, by):
        self._clock, self._by = clock, by

    def now(self):
        return self._clock.now().astimezone(UTC) + self._by


def test_every_row_is_met_in_this_file():
    assert _seen == set(ROWS)


# --- the words of containers, the Hub and the helpers


def refusals():
    """Everything `contracts.check` lets a container say, and which symptom it is."""
    broken = {
        "no model named": {"HF_MODEL_ID": None, "MODEL_ID": None, "SM_ON_MODEL": None},
        "no batch size": {"MAX_BATCH_SIZE": None},
        "not a number": {"MAX_TOTAL_TOKENS": "4k"},
        "no room for an answer": {"MAX_INPUT_LENGTH": "4096"},
        "prefill too small": {"MAX_BATCH_PREFILL_TOKENS": "1"},
        "gated model": {"HF_TOKEN": None},
        "too few Neuron cores": {"HF_NUM_CORES": "48"},
        "cache miss": {"HF_BATCH_SIZE": "3", "MAX_BATCH_SIZE": "3"},
        "other batch size": {"MAX_BATCH_PREFILL_TOKENS": "16001"},
    }
    for version in ("0.0.22", "0.0.28"):
        recipe = recipes.get("llama-3-70b" if version == "0.0.22" else "llama-3-70b-tgi-0.0.28")
        for symptom, changes in broken.items():
            yield pytest.param(recipe, changes, symptom, id=f"{version}, {symptom}")


@pytest.mark.parametrize(("recipe", "changes", "symptom"), list(refusals()))
def test_what_a_container_dies_of_is_recognized(recipe, changes, symptom):
    env = {**recipe.env, "HF_TOKEN": "hf_of_nobody", **changes}
    env = {name: value for name, value in env.items() if value is not None}
    violations = contracts.check(recipe.contract, env, instance_type="ml.inf2.48xlarge")
    assert symptom in {symptoms.recognize(one.message).name for one in violations}


@pytest.mark.parametrize(
    "contract", list(contracts.CONTRACTS.values()), ids=lambda one: one.version
)
def test_every_containers_words_for_its_refusals_are_known(contract):
    found = [symptoms.recognize(words).name for _, words in contract.required]
    found.append(symptoms.recognize(contract.cache_refusal.format_map(_Anything())).name)
    if contract.batch_refusal:
        found.append(symptoms.recognize(contract.batch_refusal).name)
    assert set(found) <= {"no model named", "no batch size", "cache miss", "other batch size"}


class _Anything(dict):
    def __missing__(self, key):
        return "org/model"


@pytest.mark.parametrize(
    ("token", "symptom"),
    [
        (None, "gated model"),
        ("not-a-token", "token refused"),
        (played_hub.UNGRANTED_TOKEN, "license not accepted"),
    ],
)
def test_the_hubs_refusals_are_told_apart(token, symptom):
    status, words = played_hub.refusal("meta-llama/A-1.5B", token, gated=True)
    found = symptoms.recognize(f"{status} Client Error. {words}")
    assert found.name == symptom
    if symptom != "token refused":
        assert "at https://huggingface.co/meta-llama/A-1.5B " in found.remedy


@pytest.mark.parametrize(
    ("said", "symptom"),
    [
        ("Both `max_input_tokens` (4000) and `max_input_length` (4000) are set", "two names"),
        ("No neuron cores detected on the host.", "no Neuron cores"),
        ("OSError: [Errno 28] No space left on device", "disk full"),
        ("OSError: /opt/ml/model does not appear to have a file named config.json.", "file of"),
        ("ResourceLimitExceeded", "quota used up"),
        ("Could not find model data at s3://b/weights/.", "weights not found"),
        ('Could not access model data at s3://b/w/. Please ensure that the role "r"', "weights"),
        ("Could not assume role arn:aws:iam::123456789012:role/x.", "role not assumable"),
        ("An error occurred (ExpiredTokenException) when calling", "credentials expired"),
        ("User: a is not authorized to perform: sagemaker:CreateEndpoint on", "right missing"),
        ('Cannot update in-progress endpoint "arn".', "in progress"),
        ("AttributeError: 'EventStream' object has no attribute 'get'", "broken stream"),
        ("The container has no room for another request (Model is overloaded)", "overloaded"),
        ("ThrottlingException: Rate exceeded", "throttled"),
        ("Endpoint x of account 123456789012 not found.", "no endpoint"),
        ("time to first token 5505.33 ms", "late first token"),
        ("Participant anna has no endpoint", "no endpoint"),
        ("OSError: You are trying to access a gated repo.", "gated model"),
        ("No cached version found for meta-llama/Meta-Lla", "cache miss"),
        ("No cached version found", "cache miss"),
        ("InsufficientCapacity", "no capacity"),
        ("nrt_init failed. Status = 1", "Neuron runtime"),
        ("ERROR NRT:nrt_init Unable to determine Neuron Driver version.", "Neuron runtime"),
        ("OutOfMemory", "out of memory"),
        ("torch.OutOfMemoryError: no", "out of memory"),
        ("ERROR TDRV:dmem_alloc_internal Failed to alloc DEVICE memory: 13743184", "out of memory"),
        ("ModelError 424", "generation failed"),
        ('Received client error (424) from primary with message "x"', "generation failed"),
        ("Received server error (500) from primary and could not load", "generation failed"),
        ('ModelError: Received client error (429) with message "full"', "overloaded"),
        ("weights folder x: kept: not confirmed.", "kept by clean-up"),
        ("Not looked at in us-west-2", "not looked at"),
        ("Not looked at in us-west-2: anything (not allowed to call ListEndpoints).", "right miss"),
        ("RuntimeError: CUDA out of memory. Tried to allocate 2 GiB", "a GPU's memory"),
        ("ModelError: `inputs` must have less than 4000 tokens. Given: 512", None),
        ("INFO NRT:nrt_init started, nothing was kept", None),
        ("time to first token 505.33 ms, 24.0 s in all", None),
        ("first token after 2.9 s", None),
        ("all is well", None),
        ("", None),
    ],
)
def test_words_and_their_symptoms(said, symptom):
    found = symptoms.recognize(said)
    assert (found and found.name.startswith(symptom)) if symptom else found is None


def test_a_helpers_own_sentence_is_recognized_too(refused):
    rehearsing.refuse(refused, "DescribeEndpoint", "AccessDeniedException", "no")
    with pytest.raises(EndpointError) as seen:
        endpoint.look(refused, f"{PREFIX}-good")
    assert symptoms.recognize(str(seen.value)).name == "right missing"


# --- the table itself


def test_what_the_text_says_wins_over_what_the_caller_knows():
    said = "account-level service limit 'ml.inf2.48xlarge for endpoint usage' is 0 Instances"
    found = symptoms.recognize(said, instance_type="ml.inf2.xlarge", unknown="ignored")
    assert "L-286C98BC" in found.remedy
    other = symptoms.recognize(said.replace("inf2.48", "inf9.48"), quota_code="L-1")
    assert "Request L-1 in" in other.remedy


def test_every_symptom_says_all_of_it_without_a_gap():
    table = symptoms.table()
    assert table.index.is_unique and len(table) == len(symptoms.SYMPTOMS)
    for one in symptoms.SYMPTOMS:
        assert re.compile(one.pattern)
        assert one.source
    for text in [*table["cause"], *table["what to do"]]:
        assert text.endswith(".") and not re.search(r"[{}]", text)


def test_no_token_comes_through():
    token = "hf_AbCdEfGhIjKlMnOp"
    found = symptoms.recognize(f"Access to model {token}/x is restricted.", region=token)
    assert found.name == "gated model"
    assert token not in repr(found) and hub.MASK in found.remedy


@given(st.text(), st.dictionaries(st.sampled_from(["region", "uri", "x"]), st.text()))
def test_any_text_has_a_symptom_or_none(text, facts):
    found = symptoms.recognize(text, **facts)
    assert found is None or found.name in set(symptoms.table().index)
    assert symptoms.explain(text, **facts) == (f"{found.cause} {found.remedy}" if found else "")


@given(st.sampled_from([one.pattern for one in symptoms.SYMPTOMS]), st.data())
def test_long_hostile_logs_are_read_quickly(pattern, data):
    piece = re.sub(r"\\.|[^\w :/'-]", "", pattern)[:30] or "x"
    began = datetime.now(UTC)
    symptoms.recognize(piece * data.draw(st.integers(1, 20_000)))
    assert datetime.now(UTC) - began < timedelta(seconds=10)


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (["KeyError:", "'content'"], 0, "empty delta\n  means: The last chunks"),
        (["never heard of it"], 1, "Not recognized. Paste the whole message, or the last"),
        (["--list"], 0, "license not accepted: The token's owner has not accepted"),
    ],
)
def test_the_command_line_takes_what_is_pasted(capsys, text, status, said):
    assert symptoms.main(text) == status
    assert capsys.readouterr().out.startswith(said)


def test_the_command_line_reads_a_log_from_its_input():
    command = [sys.executable, "-m", "helpers.symptoms"]
    log = "Starting the container\nHF_MODEL_ID must be set\n"
    ran = subprocess.run(
        command, input=log, capture_output=True, text=True, cwd=rehearsing.ROOT, timeout=20
    )
    assert (ran.returncode, ran.stdout.splitlines()[0]) == (0, "no model named")


def test_the_answer_to_what_nobody_knows_is_short(capsys):
    symptoms.main(["never heard of it"])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_sources_are_such_as_a_reader_can_find():
    for one in symptoms.SYMPTOMS:
        for file in re.findall(r"helpers/[\w/.]+\w", one.source):
            assert (rehearsing.ROOT / file).is_file()
        assert ".md" not in one.source


@pytest.mark.parametrize("option", [["--list"], []])
def test_a_reader_that_stops_listening_is_no_error(option):
    # What it writes fits into no pipe's end that is closed already.
    command = [sys.executable, "-m", "helpers.symptoms", *option]
    ran = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=rehearsing.ROOT,
    )
    ran.stdout.close()
    _, said = ran.communicate(b"HF_MODEL_ID must be set", timeout=20)
    assert said == b""


def test_ctrl_c_while_it_waits_for_the_error_ends_with_a_word(capsys, monkeypatch):
    class Terminal:
        def isatty(self):
            return True

        def read(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Terminal())
    assert symptoms.main([]) == 130
    assert capsys.readouterr().err.splitlines() == [
        "Paste the error, then press Ctrl-D on a line of its own.",
        "Interrupted.",
    ]
