"""Who there is in the account and what their policies say, as moto's IAM and STS know it."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from helpers.rehearsal.aws import policies
from helpers.rehearsal.aws.policies import Context, Decision, Statement

log = logging.getLogger(__name__)

Statements = tuple[Statement, ...]

IDENTITY = "identity-based policy"
BOUNDARY = "permissions boundary"
SESSION = "session policy"
_NOTHING = json.dumps({"Statement": {"Effect": "Deny", "Action": "*", "Resource": "*"}})


@dataclass(frozen=True)
class Verdict:
    """Whether someone may do something.

    Attributes:
        decision: As IAM calls it.
        kind: The kind of policy that decides.
        deciding: The statements that decide.
    """

    decision: Decision
    kind: str
    deciding: tuple[Statement, ...] = ()


@dataclass(frozen=True)
class Principal:
    """A user, a role, or a session of a role.

    Attributes:
        arn: As it is called in refusals.
        entity_arn: Of the user or the role itself.
        values: Condition keys that say who it is, in lower case.
        statements: Of its own policies and its groups'.
        limits: Statements that have to allow as well, by kind of policy.
    """

    arn: str
    entity_arn: str
    values: Mapping[str, tuple[str, ...]]
    statements: Statements
    limits: tuple[tuple[str, Statements], ...] = ()

    def judge(self, action: str, resource: str, context: Context) -> Verdict:
        """Whether it may do something; `context` holds its `values` too."""
        verdicts = [
            Verdict(decision, kind, tuple(found))
            for kind, statements in ((IDENTITY, self.statements), *self.limits)
            for decision, found in [policies.evaluate(statements, action, resource, context)]
        ]
        for worst in (Decision.EXPLICIT_DENY, Decision.IMPLICIT_DENY):
            for verdict in verdicts:
                if verdict.decision is worst:
                    return verdict
        return verdicts[0]

    def keys(self, action: str) -> set[str]:
        """Condition keys and variables on which it depends whether it may do something."""
        return {key for one in self._about(action) for key in one.keys}

    def spelled_keys(self, action: str) -> set[str]:
        """The condition keys among them, as its policies spell them."""
        return {one.spelled for each in self._about(action) for one in each.conditions}

    def _about(self, action: str) -> Iterator[Statement]:
        for statements in (self.statements, *(statements for _, statements in self.limits)):
            yield from (one for one in statements if one.is_about(action))


@dataclass(frozen=True)
class Directory:
    """Everyone, at one moment.

    Attributes:
        keys: By access key.
        entities: Users and roles by ARN.
        trust: Trust policies of roles by ARN.
    """

    keys: Mapping[str, Principal] = field(default_factory=dict)
    entities: Mapping[str, Principal] = field(default_factory=dict)
    trust: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def trusts(self, role_arn: str, service: str) -> bool:
        """Whether a role exists and lets a service assume it; conditions are not looked at.

        Args:
            role_arn: The role.
            service: E.g. `sagemaker`.
        """
        named = f"{service}.amazonaws.com"
        return any(named in _named(one, "Service") for one in self._trusting(role_arn))

    def may_assume(self, who: Principal, role_arn: str) -> bool:
        """Whether a role exists and lets someone assume it; conditions are not looked at."""
        account = who.entity_arn.split(":")[4]
        accepted = {"*", account, f"arn:aws:iam::{account}:root", who.entity_arn, who.arn}
        return any(
            accepted & set(_named(one, "AWS")) or one.get("Principal") == "*"
            for one in self._trusting(role_arn)
        )

    def session(self, role_arn: str, name: str) -> Principal | None:
        """A role as a service acts with it; None when there is no such role."""
        role = self.entities.get(role_arn)
        return _session(role, name) if role else None

    def _trusting(self, role_arn: str) -> Iterator[Mapping[str, Any]]:
        for one in _listed(self.trust.get(role_arn, {}).get("Statement", [])):
            actions = set(_listed(one.get("Action", [])))
            if one.get("Effect") == "Allow" and actions & {"sts:AssumeRole", "sts:*", "*"}:
                yield one


def _named(statement: Mapping[str, Any], kind: str) -> list[str]:
    principal = statement.get("Principal", {})
    return _listed(principal.get(kind, [])) if isinstance(principal, dict) else []


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# --- in moto's thread


def read(account: str) -> Directory:
    """Everyone that moto knows; to be called in moto's thread."""
    from moto.iam.models import iam_backends
    from moto.sts.models import sts_backends

    iam = iam_backends[account]["aws"]
    entities: dict[str, Principal] = {}
    trust: dict[str, Mapping[str, Any]] = {}
    keys: dict[str, Principal] = {}
    for role in iam.roles.values():
        entities[role.arn] = _role(iam, role, account)
        trust[role.arn] = json.loads(role.assume_role_policy_document)
    for user in iam.users.values():
        entities[user.arn] = principal = _user(iam, user, account)
        keys |= {key.access_key_id: principal for key in user.access_keys}
    for assumed in sts_backends[account]["aws"].assumed_roles:
        role = entities.get(assumed.role_arn)
        if role:
            keys[assumed.access_key_id] = _session(role, assumed.session_name, assumed.policy)
    return Directory(keys, entities, trust)


def _role(iam: Any, role: Any, account: str) -> Principal:
    values = {
        "aws:principalarn": (role.arn,),
        "aws:principalaccount": (account,),
        "aws:principaltype": ("AssumedRole",),
        "aws:userid": (role.id,),
        **_tags(role.tags),
    }
    return Principal(
        role.arn, role.arn, values, _statements(role), _boundary(iam, role.permissions_boundary_arn)
    )


def _user(iam: Any, user: Any, account: str) -> Principal:
    values = {
        "aws:principalarn": (user.arn,),
        "aws:principalaccount": (account,),
        "aws:principaltype": ("User",),
        "aws:userid": (user.id,),
        "aws:username": (user.name,),
        **_tags({tag["Key"]: tag["Value"] for tag in user.tags or []}),
    }
    groups = iam.get_groups_for_user(user.name)
    own = [one for entity in (user, *groups) for one in _statements(entity)]
    return Principal(user.arn, user.arn, values, tuple(own))


def _session(role: Principal, name: str, policy: str | None = None) -> Principal:
    """A session of a role; its policy, if it has one, limits what it may do."""
    limits = [*role.limits, (SESSION, _parsed(policy, SESSION))] if policy else role.limits
    account, role_name = role.arn.split(":")[4], role.arn.rpartition("/")[2]
    return replace(
        role,
        arn=f"arn:aws:sts::{account}:assumed-role/{role_name}/{name}",
        values={
            **role.values,
            "aws:userid": (f"{role.values['aws:userid'][0]}:{name}",),
            "aws:multifactorauthpresent": ("false",),
        },
        limits=tuple(limits),
    )


def _statements(entity: Any) -> Statements:
    """Of a user's, role's or group's own policies, inline and attached."""
    documents = dict(entity.policies)
    documents |= {one.name: _document(one) for one in entity.managed_policies.values()}
    return tuple(one for name, text in documents.items() for one in _parsed(text, name))


def _boundary(iam: Any, arn: str | None) -> tuple[tuple[str, Statements], ...]:
    if not arn:
        return ()
    found = iam.managed_policies.get(arn)
    document = _document(found) if found else _NOTHING
    return ((BOUNDARY, _parsed(document, arn.rpartition("/")[2])),)


def _document(policy: Any) -> str:
    return next(one.document for one in policy.versions if one.is_default)


def _parsed(document: str, name: str) -> Statements:
    """The statements of a document; one that cannot be read denies everything."""
    try:
        return policies.parse(document, name)
    except ValueError as error:
        log.error("%s. It denies everything.", error)
        return policies.parse(_NOTHING, name)


def _tags(tags: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Tags of a principal as condition keys."""
    return {
        f"aws:principaltag/{key.lower()}": (value["Value"] if isinstance(value, dict) else value,)
        for key, value in (tags or {}).items()
    }
