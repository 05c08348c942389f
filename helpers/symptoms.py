"""What goes wrong for people: the words they see, what they mean, and what helps.

One table for whoever shows an error: a failed endpoint, a chat, a benchmark, and the command line:

```bash
python -m helpers.symptoms "KeyError: 'content'"
python -m helpers.symptoms --list
```
"""

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from helpers import costs, hub

_NOTES = "public issues and forum threads, collected for this workshop (2026-08)"
_CONTRACTS = "helpers/contracts.py, read in the containers' sources (2026-08)"
# What stands in a remedy when neither the text nor the caller says it.
_UNSAID = {
    "instance_type": "the instance type",
    "model_id": "MODEL",
    "quota_code": 'the quota "… for endpoint usage"',
    "region": "this region",
    "uri": "the S3 prefix",
}
_LONGEST = 50_000  # characters of a text that are looked at, the last ones


@dataclass(frozen=True)
class Symptom:
    """One thing that goes wrong.

    Attributes:
        name: Two or three words for it.
        pattern: Regular expression of the words people see, without regard to capitals.
        cause: What they mean, in a sentence. In `SYMPTOMS` it may hold facts in braces; in what
            `recognize` and `table` give they are filled in.
        remedy: What helps, in a sentence, likewise.
        source: Where words, cause and remedy come from.
    """

    name: str
    pattern: str
    cause: str
    remedy: str
    source: str


# What a text says by itself, the first such place of each.
_MODEL = r"(?<![\w.-])[\w.-]{1,96}/[\w.-]{0,96}\w"
_FACTS = {
    "instance_type": r"\b(ml\.[a-z0-9-]{1,30}\.[a-z0-9]{1,30})\b",
    "model_id": rf"(?:Access to model|cached version found for) ({_MODEL})|({_MODEL}) is gated",
    "uri": r"(s3://[^\s\"']{0,1000}[^\s\"'.,])",
}

# The first that fits is the one: what a container says of itself before what SageMaker says of it,
# and a guess from an everyday word last.
SYMPTOMS: tuple[Symptom, ...] = (
    # --- a container's last words
    Symptom(
        "license not accepted",
        r"is restricted and you are not in the authorized list"
        r"|403 Client Error",
        "The token's owner has not accepted the license of the model, or waits for the grant.",
        "Check the token and its license: accept it at https://huggingface.co/{model_id} as the "
        "token's owner and wait for the grant.",
        "the Hub's answer (2026-11)",
    ),
    Symptom(
        "token refused",
        r"Invalid credentials in Authorization header|Invalid user token",
        "The Hub does not know the Hugging Face token: it is mistyped, expired or revoked.",
        "Create a new one at https://huggingface.co/settings/tokens and set HF_TOKEN.",
        "the Hub's answer (2026-11)",
    ),
    Symptom(
        "gated model",
        rf"Access to model .{{1,200}} is restricted|Cannot access gated repo|401 Client Error"
        rf"|trying to access a gated repo"
        rf"|{_MODEL} is gated",
        "The model is gated and the container had no Hugging Face token.",
        "Check the token and its license: accept it at https://huggingface.co/{model_id} and set "
        "HF_TOKEN, or copy the weights to S3 with helpers.weights and deploy from there.",
        _CONTRACTS,
    ),
    Symptom(
        "cache miss",
        r"No cached version found\b|No compatible neuron config found",
        "The Neuron cache holds no model compiled for this shape and container, and a cache miss "
        "never compiles: the container exits.",
        "Ask for a shape that is cached for this container: notebook 03 lists them, and "
        "contracts.report says which fits.",
        _CONTRACTS,
    ),
    Symptom(
        "no model named",
        r"HF_MODEL_ID must be set|No model id provided"
        r"|arguments are required: -m/--model",
        "The container was not told which model to load in the variable that it reads.",
        "Set HF_MODEL_ID; MODEL_ID for TGI 3.3.6, SM_ON_MODEL for vLLM.",
        _CONTRACTS,
    ),
    Symptom(
        "no batch size",
        r"MAX_BATCH_SIZE must be set",
        "This container refuses to start without the model's static batch size.",
        "Set MAX_BATCH_SIZE to the batch size that the model was compiled for.",
        _CONTRACTS,
    ),
    Symptom(
        "two names for a length",
        r"Both `max_input_tokens` \(.{0,40}\) and `max_input_length` \(.{0,40}\) are set",
        "TGI 3.3.6 copies MAX_INPUT_LENGTH to MAX_INPUT_TOKENS and then refuses to have both.",
        "Set MAX_INPUT_TOKENS only.",
        _CONTRACTS,
    ),
    Symptom(
        "no room for an answer",
        r"`?max_input_(tokens|length)`? must be < `?max_total_tokens",
        "The longest prompt leaves no token for an answer.",
        "Make MAX_INPUT_LENGTH (MAX_INPUT_TOKENS) smaller than MAX_TOTAL_TOKENS.",
        _CONTRACTS,
    ),
    Symptom(
        "prefill too small",
        r"`?max_batch_prefill_tokens`? must be >= `?max_input_(tokens|length)",
        "One prefill holds fewer tokens than the longest prompt.",
        "Leave MAX_BATCH_PREFILL_TOKENS out, or set it to the longest prompt or more.",
        _CONTRACTS,
    ),
    Symptom(
        "not a number",
        r"invalid value '[^']{0,100}' for '--[\w-]+|invalid digit found in string",
        "A variable that holds a number holds something else.",
        "Set it to a whole number above 0, without spaces or quotes.",
        _CONTRACTS,
    ),
    Symptom(
        "other batch size",
        r"Inconsistent (server configuration|batch_size configuration)"
        r"|Cannot prefill \d+ new request\(s\) with only \d+ empty slots",
        "The router lets more requests in at once than the compiled model has slots.",
        "Set MAX_BATCH_SIZE to the static batch size, and leave MAX_BATCH_PREFILL_TOKENS out.",
        _CONTRACTS,
    ),
    Symptom(
        "no Neuron cores",
        r"No neuron cores detected|No neuron device",
        "The instance type has no Neuron cores.",
        "Choose an ml.inf2 instance, such as the one of the recipe.",
        _CONTRACTS,
    ),
    Symptom(
        "too few Neuron cores",
        r"NeuronCore\(s\) not available",
        "The model was compiled for more Neuron cores than the instance has.",
        "Set HF_NUM_CORES to the instance's cores, or choose a larger instance.",
        _CONTRACTS,
    ),
    Symptom(
        "Neuron runtime",
        r"\bnrt_init\b.{0,80}?(fail|error|unable)|ERROR +NRT:nrt_init"
        r"|Failed to initialize devices, error|Unable to determine Neuron Driver version"
        r"|requires Neuron Driver version",
        "The Neuron runtime did not start: the instance has no Neuron device, its driver does not "
        "fit the container, or another process holds the cores.",
        "Choose an ml.inf2 instance, set inference_ami_version as the recipes for vLLM do, or "
        "delete the endpoint and deploy it again: that is another machine.",
        "AWS Neuron, runtime troubleshooting (2026-11); the remedies for SageMaker are derived",
    ),
    Symptom(
        "a GPU's memory",
        r"\bCUDA\b.{0,20}\bout of memory",
        "A GPU has no memory left. That is no message of these containers: inf2 has Neuron cores "
        "and no GPU.",
        "Look for the program that wrote it, on another machine or behind another endpoint.",
        "PyTorch, CUDACachingAllocator.cpp (2026-11)",
    ),
    Symptom(
        "out of memory",
        r"\bOut ?Of ?Memory(Error)?\b|\bOOM\b|OOMKilled|Failed to allocate \d|NRT_RESOURCE\b"
        r"|Failed to alloc(ate)? DEVICE memory|status=4 message=.Allocation Failure",
        "Weights and KV cache do not fit into the memory of the Neuron cores, or loading needs "
        "more than the machine's own.",
        "Choose a larger instance, a smaller batch or fewer tokens: preflight's check `memory` "
        "says what is needed and what there is.",
        "AWS Neuron, runtime troubleshooting; aws-neuron/transformers-neuronx issue 49 (2023-10)",
    ),
    Symptom(
        "disk full",
        r"\[Errno 28\]|No space left on device",
        "The weights do not fit on the disk: inf2 has none of its own, and containers 0.0.22 and "
        "0.0.23 keep a second copy of them.",
        "Set volume_gb to 512.",
        _CONTRACTS,
    ),
    Symptom(
        "file of the model missing",
        r"does not appear to have a file named|Can't load tokenizer for '/opt"
        r"|No such file or directory: '/opt/ml/model"
        r"|Error no file named .{0,200} found in directory",
        "A file of the model is not where its weights are loaded from.",
        "Copy the model to S3 again with `python -m helpers.weights` (what is there is skipped), "
        "and deploy from the address that it prints.",
        "transformers, utils/hub.py and modeling_utils.py (2026-11)",
    ),
    # --- what AWS refuses
    Symptom(
        "no quota",
        r"account-level service limit '.{1,80} for endpoint usage' is 0 ",
        "The account may have no endpoint on {instance_type} in {region}: many accounts start at "
        "0.",
        "Request {quota_code} in Service Quotas (service code sagemaker) in {region}, a day or "
        "more before the workshop, or choose another region or instance.",
        _NOTES,
    ),
    Symptom(
        "quota used up",
        r"account-level service limit '.{1,80} for endpoint usage' is |ResourceLimitExceeded",
        "All instances of {instance_type} that the account may have in {region} are in use.",
        "Delete an endpoint that nobody needs (08_clean_up), or request more of {quota_code} in "
        "Service Quotas (service code sagemaker) in {region}.",
        _NOTES,
    ),
    Symptom(
        "no capacity",
        r"Insufficient ?(Instance ?)?Capacity"
        r"|Unable to provision requested ML compute capacity",
        "The region is out of {instance_type}.",
        "Try later or in another region; endpoint.bring_up does both when it is given attempts "
        "and regions.",
        f"{_NOTES}; aws/deep-learning-containers, pull request 6673 (2026-08)",
    ),
    Symptom(
        "no right to a bucket",
        r"CreateBucket\b.{0,300}Access ?Denied|Access ?Denied.{0,300}\bCreateBucket"
        r"|not authorized to perform: s3:CreateBucket|not allowed to call CreateBucket",
        "The SageMaker SDK wants to make its default bucket, and participants may not.",
        "Nothing here needs that bucket: deploy with endpoint.deploy, which makes none.",
        _NOTES,
    ),
    Symptom(
        "no role",
        r"is not a role\b",
        "You are not signed in with a role, as on a laptop, so there is none for SageMaker to take "
        "over.",
        "Deploy iam/template.yaml, whose inf2-workshop-execution is found by its name; or set "
        "ROLE_ARN in notebook 01 (or WORKSHOP_ROLE_ARN) to the ARN of a role that SageMaker may "
        "assume.",
        _NOTES,
    ),
    Symptom(
        "weights not found",
        r"Could not find model data at s3:",
        "Nothing lies at {uri}.",
        "Copy the weights there with `python -m helpers.weights` and deploy from the address that "
        "it prints; ModelBuilder makes up an address (aws/sagemaker-python-sdk issue 5588): use "
        "endpoint.deploy.",
        "CreateModel's words as public reports quote them (2024 to 2026)",
    ),
    Symptom(
        "weights not readable",
        r"Could not access model data at s3:",
        "The execution role may not read {uri}, or the bucket is in another region.",
        "Give the execution role s3:GetObject and s3:ListBucket for it (iam/execution.json), and "
        "use a bucket in {region}.",
        "philschmid/llm-sagemaker-sample issue 2 (2023-10)",
    ),
    Symptom(
        "weights not downloaded",
        r"Failed to download model data for container",
        "SageMaker could not copy {uri} to the instance: it is gone, not readable for the "
        "execution role, or larger than the time for it allows.",
        "Look whether it is there (`python -m helpers.weights` copies what is missing), and give "
        "ModelDataDownloadTimeoutInSeconds 3600.",
        "fraud-detection-using-machine-learning issue 9 (2021-03)",
    ),
    Symptom(
        "role not assumable",
        r"Could not assume role|SageMaker may not assume your role"
        r"|trust relationship policy allows the action .{0,3}sts:AssumeRole",
        "The execution role does not exist, or SageMaker may not assume it.",
        "Give the ARN of a role that trusts sagemaker.amazonaws.com: inf2-workshop-execution, "
        "made by iam/template.yaml.",
        "CreateModel's words as public reports quote them (2020 to 2026)",
    ),
    Symptom(
        "credentials expired",
        r"ExpiredToken|security token included in the request is (expired|invalid)"
        r"|credentials have expired|UnrecognizedClientException|InvalidClientTokenId"
        r"|Unable to locate credentials",
        "AWS does not accept the credentials, or not any more.",
        "Sign in again (`aws sso login`, or reopen Studio), then rerun the first cell.",
        "botocore and AWS's common errors (2026-08)",
    ),
    Symptom(
        "right missing",
        r"is not authorized to perform: |AccessDenied"
        r"|not allowed to call \w+",
        "The identity lacks a right that the call needs.",
        "Ask for the policy of your part: iam/README.md says who needs what, and the message names "
        "the action.",
        "AWS IAM, troubleshooting access denied errors (2026-08)",
    ),
    Symptom(
        "in progress",
        r"Cannot update in-progress endpoint",
        "AWS changes or deletes no endpoint while it is being created or updated, and bills "
        "meanwhile.",
        "Wait until it is InService or Failed; 08_clean_up waits for that.",
        "SageMaker's answer (2026-08)",
    ),
    Symptom(
        "kept by clean-up",
        r"\bkept: ",
        "Clean-up found it and left it on purpose: it cannot be told whose it is, what belongs to "
        "it could not be deleted, or it guards what still bills.",
        "Do what stands behind `kept:`, then run 08_clean_up again.",
        "helpers/cleanup/deletion.py",
    ),
    Symptom(
        "not looked at",
        r"\bNot looked at in ",
        "Clean-up could not look there, for the reason in brackets, so something may be there that "
        "bills.",
        "Ask for the right that is missing, or let the instructor look; then run 08_clean_up "
        "again.",
        "helpers/cleanup/view.py",
    ),
    # --- what a chat or a benchmark meets
    Symptom(
        "empty delta",
        r"KeyError: '(content|delta)'",
        "The last chunks of a stream carry no text: TGI 2.0.2 sends an empty delta for a special "
        "token.",
        'Read it with .get("content"), or let messages.stream do it.',
        f"{_NOTES}; TGI 2.0.2, router/src/lib.rs",
    ),
    Symptom(
        "60 s limit",
        r"Received server error \(0\)|invocation timed out|ModelInvocationTimeExceeded"
        r"|within the timeout period allowed|did not answer in time|Read timeout on endpoint URL",
        "The answer was not complete when SageMaker's time was up: 60 s for a whole reply, 8 "
        "minutes for a stream.",
        "Stream it (messages.stream), or shorten it with fewer max_tokens.",
        _NOTES,
    ),
    Symptom(
        "broken stream reader",
        r"'EventStream' object has no attribute 'get'",
        "Endpoint.invoke_with_response_stream of sagemaker-core 2.20 to 2.27 is broken.",
        "Stream with boto3's sagemaker-runtime, as messages.stream does.",
        _NOTES,
    ),
    Symptom(
        "overloaded",
        r"Model is overloaded|429 Too Many Requests|ModelError.{0,80}\b429\b",
        "All slots are taken and the container's queue is full.",
        "Try again in a moment, with fewer users, or add a replica.",
        _CONTRACTS,
    ),
    Symptom(
        "generation failed",
        r"ModelError\W{0,3}(424|5\d\d)\b|\b(424|5\d\d)\W{0,3}ModelError"
        r"|Received (client|server) error \((424|5\d\d)\)|Request failed during generation",
        "The container took the request and failed at it: 424 is TGI's word for a model that broke "
        "off, SageMaker calls whatever a container answers a ModelError.",
        "Try once more, then read the container's log (endpoint.container_log): when it repeats, "
        "deploy anew.",
        "SageMaker's InvokeEndpoint, ModelError; TGI 2.0.2, router/src/server.rs (2026-08)",
    ),
    Symptom(
        "throttled",
        r"ThrottlingException|Rate exceeded|TooManyRequestsException|\bSlowDown\b",
        "Calls come faster than AWS takes them.",
        "Wait a few seconds, or send fewer at once.",
        "AWS's common errors (2026-08)",
    ),
    Symptom(
        "no endpoint",
        r"Endpoint \S{1,80} of account \d{12} not found|Could not find endpoint"
        r"|There is no endpoint|has no endpoint\b",
        "No endpoint of that name is in service there.",
        "Run 03_deploy_endpoint, in the region and for the participant of this session.",
        "SageMaker's answer (2026-08)",
    ),
    Symptom(
        "late first token",
        r"(first token|TTFT)[^.;\n]{0,60}?\D((?<![\d.])([3-9]|[1-9]\d+)(\.\d+)? ?s\b"
        r"|(?<![\d.])([3-9]|[1-9]\d)\d{3}(\.\d+)? ?ms\b)",
        "Requests queue for a slot, and each prefill reads a prompt padded to its full length: "
        "it is the queue, not the distance to the region.",
        "Send with no more users than the batch has slots, or add a replica; see 06_benchmark.",
        f"{_NOTES}; the published runs of results/published",
    ),
    # --- what says little by itself
    Symptom(
        "health check",
        r"did not pass the ping health check",
        "The container did not answer in time: a cache miss, a gated model, or a slow load; "
        "SageMaker gives one reason for all of them.",
        "Read the container's log first (CloudWatch, /aws/sagemaker/Endpoints/NAME); where it says "
        "nothing, check the token and its license, or give the container more time (3600 s at "
        "most).",
        _NOTES,
    ),
    Symptom(
        "a bill",
        r"\bbill(s|ed|ing)?\b|\b(invoice|charged)\b",
        "An endpoint bills from its creation until it is deleted, whether it is used or not.",
        "Run 08_clean_up, or `python -m helpers.cleanup --all-regions`: it deletes endpoint, "
        "configuration and model, and finds leftovers.",
        _NOTES,
    ),
)


def recognize(text: str, **facts: object) -> Symptom | None:
    """The first symptom whose words stand in a text, facts filled in; None when none does.

    Args:
        text: An error, a reason of failure, lines of a log, or all of them.
        **facts: What the caller knows and the text may not say: `instance_type`, `model_id`,
            `region`, `quota_code`, `uri`. What the text says wins; others are ignored.
    """
    text = text[-_LONGEST:]
    for symptom in SYMPTOMS:
        if re.search(symptom.pattern, text, re.IGNORECASE):
            return _filled(symptom, {**facts, **_said(text)})
    return None


def explain(text: str, **facts: object) -> str:
    """What a text means and what to do, in two sentences; empty when nothing is recognized."""
    found = recognize(text, **facts)
    return f"{found.cause} {found.remedy}" if found else ""


def table() -> pd.DataFrame:
    """All symptoms: what it is, what it means, what to do, and where that comes from."""
    rows = [_filled(symptom, {}) for symptom in SYMPTOMS]
    return pd.DataFrame(
        {
            "symptom": [one.name for one in rows],
            "cause": [one.cause for one in rows],
            "what to do": [one.remedy for one in rows],
            "source": [one.source for one in rows],
        }
    ).set_index("symptom")


def _said(text: str) -> dict[str, str]:
    """The facts that stand in a text."""
    found = ((name, re.search(pattern, text, re.IGNORECASE)) for name, pattern in _FACTS.items())
    return {name: next(filter(None, match.groups())) for name, match in found if match}


def _filled(symptom: Symptom, facts: dict[str, object]) -> Symptom:
    known = {name: hub.redact(str(value)) for name, value in facts.items() if value}
    instance = costs.INSTANCES.get(known.get("instance_type", ""))
    if instance and instance.quota_code:
        known.setdefault("quota_code", instance.quota_code)
    known = {**_UNSAID, **known}
    return replace(
        symptom,
        cause=symptom.cause.format_map(known),
        remedy=symptom.remedy.format_map(known),
    )


# --- Command line ---------------------------------------------------------------------------


_UNKNOWN = (
    "Not recognized. Paste the whole message, or the last lines of the container's log "
    "(CloudWatch, /aws/sagemaker/Endpoints/NAME), instead of a part. `--list` shows what is known."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0 when the text was recognized, else 1."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.symptoms",
        description="Say what an error means and what to do.",
    )
    parser.add_argument("text", nargs="*", help="the error; left out: read from standard input")
    parser.add_argument("--list", action="store_true", help="show what is known, and what it means")
    given = parser.parse_args(arguments)
    if given.list:
        for one in SYMPTOMS:
            print(f"{one.name}: {_filled(one, {}).cause}")
        return 0
    if not given.text and sys.stdin.isatty():
        print("Paste the error, then press Ctrl-D on a line of its own.", file=sys.stderr)
    found = recognize(" ".join(given.text) or sys.stdin.read())
    if found is None:
        print(_UNKNOWN)
        return 1
    print(f"{found.name}\n  means: {found.cause}\n  do:    {found.remedy}\n  from:  {found.source}")
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # `| head` ends it without a word, as it ends other commands
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
