"""What a user or a role may do, by IAM's own simulation of its policies.

The actions are those of `iam/participant.json`, `iam/execution.json` and `iam/scheduler.json`: who
has more is asked for no more, and who has the same rights under another name passes.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from botocore.client import BaseClient
from botocore.exceptions import ClientError

from helpers import deadline, settings, trust
from helpers.resources import PREFIX
from helpers.session import Session

FOLDER = settings.ROOT / "iam"
PARTICIPANT, EXECUTION, SCHEDULER = "participant", "execution", "scheduler"
# Attached policies that are known to be enough, where nothing may be simulated.
_ENOUGH = {
    PARTICIPANT: ("AdministratorAccess",),
    EXECUTION: ("AdministratorAccess", "AmazonSageMakerFullAccess"),
    SCHEDULER: ("AdministratorAccess", "AmazonSageMakerFullAccess"),
}
_NEEDED = {  # without these no endpoint comes up, or nothing deletes it; the rest is for later
    PARTICIPANT: re.compile(
        r"sagemaker:(Create|Describe|Delete)\w+|sagemaker:(AddTags|InvokeEndpoint)|iam:PassRole|"
        r"scheduler:(CreateSchedule|GetSchedule|TagResource)\w*"
    ),
    EXECUTION: re.compile(r"ecr:\w+|logs:(CreateLogStream|PutLogEvents)"),
    SCHEDULER: re.compile("sagemaker:DeleteEndpoint"),
}
_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")
_ASSUMED = re.compile(r"arn:[\w-]+:sts::\d{12}:assumed-role/([^/]+)/.+")
_LANES = 6
_LIMIT_S = 6.0


def is_denied(error: Exception) -> bool:
    """Whether an error of AWS says that one has no right to ask."""
    return isinstance(error, ClientError) and error.response["Error"]["Code"] in _DENIED


# --- Roles ----------------------------------------------------------------------------------


class UnknownTrust(Exception):
    """A trust policy has a condition of which it is not known here whether it holds."""


def problem_of_role(
    iam: BaseClient, arn: str, *, account: str, service: str, sources: Iterable[str]
) -> str:
    """What keeps a service from acting under a role, in a clause; empty when nothing does.

    Args:
        iam: A client of IAM.
        arn: The role's.
        account: In which it has to be.
        service: Who is to assume it, e.g. `sagemaker.amazonaws.com`.
        sources: ARNs of what the service does it for, for conditions of the trust policy.

    Raises:
        UnknownTrust: When the trust depends on what is not known here.
        ClientError: When the role may not be read.
        BotoCoreError: When IAM cannot be reached.
    """
    if arn.split(":")[4] != account:
        return f"{arn} belongs to another account than {account}"
    name = arn.rpartition("/")[2]
    try:
        role = iam.get_role(RoleName=name)["Role"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchEntity":
            return f"there is no role {name} in account {account}"
        raise
    if role["Arn"] != arn:
        return f"the role {name} is {role['Arn']}, not {arn}"
    document = role["AssumeRolePolicyDocument"]
    known = {"aws:SourceAccount": [account], "aws:SourceArn": list(sources)}
    verdict = trust.trusts(document, service, known)
    if verdict is None:
        raise UnknownTrust(f"{arn} trusts {service} if {trust.conditions(document)} fits")
    return "" if verdict else f"{arn} does not trust {service}"


def principal_of(iam: BaseClient, identity: str) -> str:
    """The ARN whose policies decide: a role's for a session under that role.

    Raises:
        ClientError: When IAM refuses for another reason than a missing right.
        BotoCoreError: When IAM cannot be reached.
    """
    assumed = _ASSUMED.fullmatch(identity)
    if not assumed:
        return identity
    try:
        return iam.get_role(RoleName=assumed[1])["Role"]["Arn"]
    except ClientError as error:
        if not is_denied(error):
            raise
    partition, account = identity.split(":")[1], identity.split(":")[4]
    return f"arn:{partition}:iam::{account}:role/{assumed[1]}"  # right unless it has a path


# --- Simulation -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """What takes the place of the stars in a policy's resources and conditions.

    Attributes:
        session: Region and account.
        name: The endpoint's.
        instance_type: With the leading `ml.`.
        roles: The role each service is passed, by the service's host name.
    """

    session: Session
    name: str
    instance_type: str
    roles: dict[str, str]


@dataclass(frozen=True)
class Denied:
    """Actions that a principal may not carry out.

    Attributes:
        needed: Without them no endpoint comes up, or nothing deletes it.
        later: What is needed for something else: scaling, weights, metrics.
    """

    needed: tuple[str, ...]
    later: tuple[str, ...]


def denied(iam: BaseClient, arn: str, kind: str, place: Place) -> Denied:
    """Actions of a policy of this repository that IAM's simulation denies to a principal.

    Args:
        iam: A client of IAM.
        arn: A user's or a role's.
        kind: `PARTICIPANT`, `EXECUTION` or `SCHEDULER`.
        place: Where the actions are to happen.

    Raises:
        ClientError: When it may not be simulated.
        BotoCoreError: When IAM cannot be reached.
        OSError: When the policy's file is not there.
        TimeoutError: When it takes too long.
    """
    asked = [one for one in _questions(kind, place) if one.applies_to(arn)]

    def ask(lane: int) -> list[str]:
        return [action for one in asked[lane::_LANES] for action in one.denied(iam, arn)]

    lanes = {str(lane): partial(ask, lane) for lane in range(_LANES)}
    found: list[str] = []
    for answer in deadline.together(lanes, limit_s=_LIMIT_S).values():
        if isinstance(answer, Exception):
            raise answer
        found += answer
    needed = [action for action in dict.fromkeys(found) if _NEEDED[kind].fullmatch(action)]
    return Denied(tuple(sorted(needed)), tuple(sorted(set(found) - set(needed))))


def enough_by_name(iam: BaseClient, arn: str, kind: str) -> str:
    """An attached policy that is known to be enough, empty when there is none.

    Raises:
        ClientError: When the attached policies may not be listed.
        BotoCoreError: When IAM cannot be reached.
    """
    name = arn.rpartition("/")[2]
    if ":user/" in arn:
        attached = iam.list_attached_user_policies(UserName=name)["AttachedPolicies"]
    else:
        attached = iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
    names = [policy["PolicyName"] for policy in attached]
    known = (*_ENOUGH[kind], f"{PREFIX}-{kind}")
    return next((one for one in names if one in known), "")


def may_read(iam: BaseClient, arn: str, *, bucket: str, prefix: str, account: str) -> bool:
    """Whether IAM's simulation lets a role load what lies below a prefix of S3.

    Args:
        iam: A client of IAM.
        arn: The role's.
        bucket: Its name.
        prefix: With a slash at its end.
        account: Whose bucket it is taken for.

    Raises:
        ClientError: When it may not be simulated.
        BotoCoreError: When IAM cannot be reached.
    """
    partition = arn.split(":")[1]
    there = f"arn:{partition}:s3:::{bucket}"
    values = {
        "aws:ResourceAccount": account,
        "aws:PrincipalAccount": account,
        "s3:prefix": prefix,
    }
    context = [
        {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
        for key, value in values.items()
    ]
    asked = (("s3:ListBucket", there), ("s3:GetObject", f"{there}/{prefix}config.json"))
    for action, resource in asked:
        answer = iam.simulate_principal_policy(
            PolicySourceArn=arn,
            ActionNames=[action],
            ResourceArns=[resource],
            ContextEntries=context,
        )
        if any(one["EvalDecision"] != "allowed" for one in answer["EvaluationResults"]):
            return False
    return True


@dataclass(frozen=True)
class _Question:
    """One statement of a policy: may these actions be carried out on these resources?"""

    statement: dict[str, Any]
    place: Place

    def applies_to(self, arn: str) -> bool:
        """What is said of users only is not asked of roles."""
        return ":user/" in arn or "${aws:username}" not in json.dumps(self.statement["Resource"])

    @property
    def actions(self) -> list[str]:
        return _list(self.statement["Action"])

    def denied(self, iam: BaseClient, arn: str) -> list[str]:
        """Its actions that are allowed on none of its resources, or explicitly denied on one."""
        decisions: dict[str, list[str]] = {action: [] for action in self.actions}
        pages = iam.get_paginator("simulate_principal_policy").paginate(
            PolicySourceArn=arn,
            ActionNames=self.actions,
            ResourceArns=[self._resource(one, arn) for one in _list(self.statement["Resource"])],
            ContextEntries=list(self._context),
        )
        for page in pages:
            for result in page["EvaluationResults"]:
                parts = result.get("ResourceSpecificResults") or [result]
                decisions[result["EvalActionName"]] += [
                    part.get("EvalResourceDecision") or part["EvalDecision"] for part in parts
                ]
        return [
            action
            for action, said in decisions.items()
            if "allowed" not in said or "explicitDeny" in said
        ]

    def _resource(self, pattern: str, principal: str) -> str:
        """A resource that the pattern stands for, as the workshop will name it."""
        passed = self._passed_role
        if passed:
            return passed
        if not pattern.startswith("arn:"):
            return pattern
        session = self.place.session
        _, _, service, region, account, rest = pattern.split(":", 5)
        partition = session.identity.split(":")[1]
        region = session.region if region == "*" else region
        account = session.account if account == "*" else account
        rest = rest.replace("${aws:username}", principal.rpartition("/")[2])
        rest = rest.replace(f"{PREFIX}-*", self.place.name).replace("*", "x")
        return f"arn:{partition}:{service}:{region}:{account}:{rest}"

    @cached_property
    def _passed_role(self) -> str | None:
        if self.actions != ["iam:PassRole"]:
            return None
        services = next(
            (one["ContextKeyValues"] for one in self._context if "Passed" in one["ContextKeyName"]),
            [""],
        )
        return self.place.roles.get(services[0])

    @property
    def _context(self) -> Iterator[dict[str, Any]]:
        """What the call would say of itself: what the statement's conditions want to hear."""
        for operator, keys in self.statement.get("Condition", {}).items():
            if operator == "Null":  # says that a key has to be there; another condition has it
                continue
            many = operator.startswith(("ForAllValues:", "ForAnyValue:"))
            for key, values in keys.items():
                yield {
                    "ContextKeyName": key,
                    "ContextKeyValues": [self._value(key, _list(values)[0])],
                    "ContextKeyType": "stringList" if many else "string",
                }
                if "${aws:PrincipalAccount}" in _list(values):
                    yield {
                        "ContextKeyName": "aws:PrincipalAccount",
                        "ContextKeyValues": [self.place.session.account],
                        "ContextKeyType": "string",
                    }

    def _value(self, key: str, wanted: str) -> str:
        if key == "sagemaker:InstanceTypes":
            return self.place.instance_type
        wanted = wanted.replace("${aws:PrincipalAccount}", self.place.session.account)
        return wanted.replace("*", "x")


def _questions(kind: str, place: Place) -> list[_Question]:
    policy = json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
    return [
        _Question(statement, place)
        for statement in policy["Statement"]
        if statement["Effect"] == "Allow"
    ]


def _list(value: Any) -> list:
    return value if isinstance(value, list) else [value]
