"""Checks of who one is and what one may: on AWS, and on the Hugging Face Hub."""

import os
from collections.abc import Callable
from dataclasses import replace

from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

from helpers import hub, resources
from helpers.errors import SessionError
from helpers.preflight import rights
from helpers.preflight.asked import FAILED, GO_ON, NOT_CHECKED, OK, WARNING, Asked, Result
from helpers.session import reason

_SAGEMAKER, _SCHEDULER = "sagemaker.amazonaws.com", "scheduler.amazonaws.com"


def identity(asked: Asked) -> list[Result]:
    """Whether the keys are any good, and not the root user's."""
    try:
        arn = asked.client("sts").get_caller_identity()["Arn"]
    except (ClientError, BotoCoreError) as error:
        if isinstance(error, ConnectionError | HTTPClientError):
            raise  # nobody has looked at the keys
        return [
            Result(
                "identity",
                FAILED,
                reason(error).rstrip("."),
                "Sign in again (`aws sso login` or `aws configure`), then open the session again.",
            )
        ]
    if arn.endswith(":root"):
        return [
            Result(
                "identity",
                WARNING,
                f"{arn} is the account's root user",
                "Work as a user or role with the rights of iam/participant.json.",
            )
        ]
    return [Result("identity", OK, arn)]


def role(asked: Asked) -> list[Result]:
    """The role under which the container runs: it exists, and trusts SageMaker."""
    try:
        arn = asked.role
    except SessionError as error:
        return [
            Result(
                "role",
                FAILED,
                str(error).rstrip("."),
                "Deploy iam/template.yaml, which makes inf2-workshop-execution, or set ROLE_ARN in "
                "notebook 01.",
            )
        ]
    partition = arn.split(":")[1]
    # The star is a character of aws:SourceArn: SageMaker developer guide, "Cross-service confused
    # deputy prevention".
    source = f"arn:{partition}:sagemaker:{asked.session.region}:{asked.session.account}:*"
    remedy = "Deploy iam/template.yaml, which makes inf2-workshop-execution, or give the ARN of "
    remedy += f"another role of this account that trusts {_SAGEMAKER} in ROLE_ARN."
    bad = _untrusting(asked, "role", arn, _SAGEMAKER, source, remedy)
    return [bad or Result("role", OK, f"{arn} trusts SageMaker")]


def _untrusting(
    asked: Asked, check: str, arn: str, service: str, source: str, remedy: str
) -> Result | None:
    """What keeps a service from acting under a role, None when nothing does."""
    try:
        problem = rights.problem_of_role(
            asked.client("iam"),
            arn,
            account=asked.session.account,
            service=service,
            sources=[source],
        )
    except rights.UnknownTrust as error:
        remedy = f"Compare the conditions of its trust policy with iam/template.yaml. {GO_ON}"
        return Result(check, NOT_CHECKED, str(error), remedy)
    return Result(check, FAILED, problem, remedy) if problem else None


def permissions(asked: Asked) -> list[Result]:
    """Of whoever deploys and of the role under which the container runs, in one row."""
    role, scheduler = _or_none(lambda: asked.role), _or_none(asked.session.scheduler_role)
    passed = {_SAGEMAKER: role, _SCHEDULER: scheduler}
    place = _place(asked, {service: arn for service, arn in passed.items() if arn})
    rows = [_rights(asked, place, rights.PARTICIPANT, asked.session.identity, "you")]
    if role:
        rows.append(_rights(asked, place, rights.EXECUTION, role, role.rpartition("/")[2]))
    worst = min((one.state for one in rows), key=(FAILED, NOT_CHECKED, WARNING, OK).index)
    said = "; ".join(one.said for one in rows)
    remedies = dict.fromkeys(one.remedy for one in rows if one.remedy)
    return [Result("permissions", worst, said, " ".join(remedies))]


def _place(asked: Asked, passed: dict[str, str]) -> rights.Place:
    return rights.Place(asked.session, asked.endpoint_name, asked.recipe.instance_type, passed)


def _rights(asked: Asked, place: rights.Place, kind: str, arn: str, who: str) -> Result:
    iam = asked.client("iam")
    principal = rights.principal_of(iam, arn)
    attach = f"Attach iam/{kind}.json to {principal}"
    if principal.endswith(":root"):
        return Result("permissions", OK, f"{who} may do everything")
    try:
        found = rights.denied(iam, principal, kind, place)
    except ClientError as error:
        simulated = reason(error).rstrip(".")
    else:
        if found.needed:
            said = f"{who} may not {', '.join(found.needed)}"
            return Result("permissions", FAILED, said, f"{attach} (iam/README.md says how).")
        if found.later:
            first = "delete the endpoint" if kind == rights.SCHEDULER else "deploy"
            said = f"{who} may {first}, and may not {', '.join(found.later)}"
            remedy = f"{attach} for what comes later (iam/README.md says what each is for)."
            return Result("permissions", WARNING, said, remedy)
        return Result("permissions", OK, f"{who} may do all of iam/{kind}.json")
    name = rights.enough_by_name(iam, principal, kind)
    if name:
        said = f"of {who} only the name of a policy is known, {name}: {simulated}"
        remedy = "Allow iam:SimulatePrincipalPolicy to have it simulated."
        return Result("permissions", WARNING, said, remedy)
    said = f"{who}: no attached policy is known to be enough, and {simulated}"
    return Result("permissions", NOT_CHECKED, said, f"{attach}, or compare by eye. {GO_ON}")


def scheduler_role(asked: Asked) -> list[Result]:
    """The role under which the endpoint is deleted when its time is up."""
    try:
        arn = asked.session.scheduler_role()
    except SessionError as error:
        return [
            Result(
                "scheduler-role",
                FAILED,
                str(error).rstrip("."),
                "Deploy iam/template.yaml, which makes inf2-workshop-scheduler: without it nothing "
                "deletes the endpoint when its time is up.",
            )
        ]
    source = f"arn:{arn.split(':')[1]}:scheduler:{asked.session.region}:{asked.session.account}:"
    source += f"schedule-group/{resources.PREFIX}-{asked.session.participant}"
    remedy = "Deploy iam/template.yaml, which makes inf2-workshop-scheduler, or give the ARN of "
    remedy += f"another role of this account that trusts {_SCHEDULER} in "
    remedy += "WORKSHOP_SCHEDULER_ROLE_ARN: without it nothing deletes the endpoint."
    bad = _untrusting(asked, "scheduler-role", arn, _SCHEDULER, source, remedy)
    if bad:
        return [bad]
    found = _rights(asked, _place(asked, {}), rights.SCHEDULER, arn, arn.rpartition("/")[2])
    if found.state == OK:
        return [Result("scheduler-role", OK, f"{arn} may delete the endpoint when its time is up")]
    return [replace(found, check="scheduler-role")]


def _or_none(get: Callable[[], str]) -> str | None:
    try:
        return get()
    except SessionError:
        return None


# --- The Hugging Face Hub ------------------------------------------------------------------


def token_and_license(asked: Asked) -> list[Result]:
    """Whether the token is one, and its owner may download the model."""
    model_id = asked.recipe.model_id
    if not asked.recipe.gated or asked.weights:
        why = f"the weights come from {asked.weights}" if asked.weights else f"{model_id} is open"
        return [Result(name, OK, f"not needed: {why}") for name in ("token", "license")]
    environ = dict(os.environ) | ({"HF_TOKEN": asked.hf_token} if asked.hf_token else {})
    found = hub.check_token(model_id, environ=environ)
    said, _, remedy = found.message.partition(": ")
    remedy = f"{remedy[:1].upper()}{remedy[1:]}"
    license_ = f"the license of {model_id}"
    if found.user is None:
        state = FAILED if found.source == "none" or found.refused else NOT_CHECKED
        return [
            Result("token", state, said, remedy if state == FAILED else GO_ON),
            Result("license", NOT_CHECKED, "no token to ask with", "Mend the token first."),
        ]
    token = Result("token", OK, f"of {found.user}, from {found.source}")
    if found.licence_accepted:
        return [token, Result("license", OK, f"{found.user} has accepted {license_}")]
    if found.licence_accepted is None:
        return [token, Result("license", NOT_CHECKED, said, f"Try again later. {GO_ON}")]
    url = f"{hub.HUB_URL}/{model_id}"
    remedy = remedy if url in remedy else f"{remedy} See {url}."
    return [token, Result("license", FAILED, said, remedy)]
