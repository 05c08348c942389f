"""What the notebooks, run by nbval before this file, have left and needed. See the Makefile."""

import json
import os
import urllib.request
from pathlib import Path

from helpers import settings
from helpers.rehearsal import launch

IAM = Path(__file__).parent.parent / "iam"
PARTICIPANT = "arn:aws:sts::123456789012:assumed-role/inf2-workshop-participant/rehearsal"
SCHEDULER = "arn:aws:sts::123456789012:assumed-role/inf2-workshop-scheduler/"


def rights():
    """What was asked of the notebooks' rehearsal: how often allowed and refused, by principal."""
    server = launch.status(settings.load())
    with urllib.request.urlopen(f"{server.url}/_rehearsal/rights", timeout=30) as answer:
        return json.load(answer)


def listed(policy):
    statements = json.loads((IAM / f"{policy}.json").read_text())["Statement"]
    allowed = [one["Action"] for one in statements if one["Effect"] == "Allow"]
    return {action for one in allowed for action in ([one] if isinstance(one, str) else one)}


def test_the_notebooks_were_run_under_the_participants_rights_and_needed_no_other():
    asked = rights()
    assert {one for one in asked if not one.startswith(SCHEDULER)} == {PARTICIPANT}
    actions = asked[PARTICIPANT]
    assert {"sagemaker:CreateEndpoint", "sagemaker:DeleteEndpoint"} <= actions.keys()
    refused = {action: told["refused"] for action, told in actions.items() if told["refused"]}
    assert refused == {}
    assert actions.keys() - {"sts:GetCallerIdentity"} <= listed("participant")


def test_no_file_that_the_notebooks_have_written_holds_their_token():
    """What they print is compared with what is committed, and holds none either."""
    token = os.environ["HF_TOKEN"].encode()
    scratch = Path(os.environ["WORKSHOP_STATE"]).parent
    written = [file for file in scratch.rglob("*") if file.is_file()]
    assert scratch / "state" / "server.log" in written
    assert any(file.name == "requests.jsonl" for file in written)
    assert [file for file in written if token in file.read_bytes()] == []
