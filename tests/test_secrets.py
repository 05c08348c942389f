"""However a Hugging Face token is passed in, it is in no file and no output afterwards."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import settings
from helpers.rehearsal import launch

ROOT = Path(__file__).parent.parent

# One run with everything that ever sees a token: what works, and what fails in many ways.
RUN = """
import logging, sys, traceback
from helpers import benchmark, cleanup, endpoint, errors, guard, messages, preflight, recipes
from helpers import report, weights
from helpers.session import open_session

logging.basicConfig(level=logging.DEBUG)  # also what the libraries say
by_argument, odd = sys.argv[1:]
session = open_session()
small = recipes.get("llama-3-8b")
role = session.role()

def deploy(token, recipe=small, **more):
    try:
        return endpoint.bring_up(
            session, recipe, role=role, hf_token=token, ttl_h=5000, **more
        )
    except errors.WorkshopError:
        traceback.print_exc()

for token in (None, by_argument, odd):
    print(preflight.table(preflight.check(session, small, hf_token=token)).to_string())
deploy(odd)  # the Hub refuses it, and the container dies
with session.fault("no-quota"):
    deploy(by_argument, instance_count=7)
with session.fault("gated-model"):
    deploy(by_argument)
served = deploy(by_argument)
print(served, guard.expiry(session, served.name))
print(endpoint.container_log(session, served.name))
print(weights.copy(session, small, hf_token=by_argument))
question = [{"role": "user", "content": "Hello?"}]
runtime = session.client("sagemaker-runtime")
options = {"model": served.model_id, "max_tokens": 4}
print(messages.chat(runtime, served.name, question, **options).text)
run = benchmark.run(session, served, concurrency=1, requests=2, input_tokens=40, output_tokens=4)
print(report.write(run))
print(cleanup.delete(session).to_string())
deploy(None)  # the environment's
print(cleanup.delete(session).to_string())
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The tokens of a run by how they were passed in, its output, and the files it has written."""
    place = tmp_path_factory.mktemp("secrets")
    tokens = {
        "the environment": f"hf_rehearsal{secrets.token_hex(11)}",
        "hf auth login": f"hf_{secrets.token_hex(17)}",
        "an argument": f"hf_{secrets.token_hex(17)}",
        # JSON, Python and URLs write it in other ways.
        "an argument of no known form": f"odd-\"'\\/{secrets.token_hex(17)}",
    }
    login = place / "huggingface" / "token"
    login.parent.mkdir()
    login.write_text(tokens["hf auth login"])
    environ = {
        **os.environ,
        "HF_TOKEN": tokens["the environment"],
        "HF_HOME": str(login.parent),
        "WORKSHOP_STATE": str(place / "state"),
        "WORKSHOP_RESULTS": str(place / "results"),
        "WORKSHOP_SPEED": "3600",
    }
    given = [tokens["an argument"], tokens["an argument of no known form"]]
    try:
        finished = subprocess.run(
            [sys.executable, "-c", RUN, *given],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            timeout=180,
        )
    finally:
        launch.stop(settings.load(environ))
    assert finished.returncode == 0, finished.stderr[-4000:]
    files = [file for file in place.rglob("*") if file.is_file() and file != login]
    return tokens, finished.stdout + finished.stderr, files


def test_the_run_did_what_it_was_to_do(run):
    _, said, files = run
    assert "EndpointFailed" in said
    assert "QuotaError" in said
    assert "InService" in said
    assert said.count("deleted") > 10
    assert {"server.log", "requests.jsonl", "summary.json"} <= {file.name for file in files}


@pytest.mark.parametrize(
    "how",
    ["the environment", "hf auth login", "an argument", "an argument of no known form"],
)
def test_no_output_and_no_file_holds_the_token(run, how):
    tokens, said, files = run
    end = tokens[how][-22:]  # however its beginning is written
    assert end not in said
    assert [file for file in files if end.encode() in file.read_bytes()] == []
