"""Who there is in the account and what their policies say, as moto's IAM and STS know it."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from helpers.rehearsal.aws import actions, policies
from helpers.rehearsal.aws.policies import Context, Decision, Statement, Values

log = logging.getLogger(__name__)

Statements = tuple[Statement, ...]

IDENTITY = "identity-based policy"
BOUNDARY = "permissions boundary"
SESSION = "session policy"
_ASSUME = "sts:AssumeRole"
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
class Trust:
    """One statement of a role's trust policy.

    Attributes:
        principal: Whom it is about.
        statement: The rest of it; its conditions have to be met.
    """

    principal: Any
    statement: Statement

    def named(self, kind: str) -> set[str]:
        """Those of a kind whom it is about, e.g. `Service`."""
        if self.principal == "*":
            return {"*"}
        given = self.principal if isinstance(self.principal, dict) else {}
        return set(map(str, _listed(given.get(kind, []))))


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
    trust: Mapping[str, tuple[Trust, ...]] = field(default_factory=dict)

    def trusts(self, role_arn: str, service: str, source_arn: str) -> bool:
        """Whether a role exists and lets a service assume it.

        Args:
            role_arn: The role.
            service: E.g. `sagemaker`.
            source_arn: For what the service assumes it: the key `aws:SourceArn`, whose account is
                `aws:SourceAccount`.
        """
        values = {
            "aws:sourcearn": (source_arn,),
            "aws:sourceaccount": (source_arn.split(":")[4],),
            "aws:principalisawsservice": ("true",),
        }
        return self._lets(role_arn, "Service", {f"{service}.amazonaws.com"}, values)

    def may_assume(self, who: Principal, role_arn: str, values: Values) -> bool:
        """Whether a role exists and lets someone assume it; `values` are the request's."""
        account = who.entity_arn.split(":")[4]
        accepted = {"*", account, f"arn:aws:iam::{account}:root", who.entity_arn, who.arn}
        return self._lets(role_arn, "AWS", accepted, {**values, **who.values})

    def session(self, role_arn: str, name: str) -> Principal | None:
        """A role as a service acts with it; None when there is no such role."""
        role = self.entities.get(role_arn)
        return _session(role, name) if role else None

    def _lets(self, role_arn: str, kind: str, accepted: set[str], values: Values) -> bool:
        """Whether a trust policy allows it to one of these, and denies it to none."""
        context = Context(values, actions.knows)
        found = [
            one.statement.allows
            for one in self.trust.get(role_arn, ())
            if accepted & one.named(kind)
            and one.statement.is_about(_ASSUME)
            and one.statement.holds(actions.ANY, context)
        ]
        return bool(found) and all(found)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# --- in moto's thread


def read(account: str) -> Directory:
    """Everyone that moto knows; to be called in moto's thread."""
    from moto.iam.models import iam_backends
    from moto.sts.models import sts_backends

    iam = iam_backends[account]["aws"]
    entities: dict[str, Principal] = {}
    trust: dict[str, tuple[Trust, ...]] = {}
    keys: dict[str, Principal] = {}
    for role in iam.roles.values():
        entities[role.arn] = _role(iam, role, account)
        trust[role.arn] = _trust(role.assume_role_policy_document, role.name)
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
        **_tags(user.tags),
    }
    groups = iam.get_groups_for_user(user.name)
    own = [one for entity in (user, *groups) for one in _statements(entity)]
    boundary = _boundary(iam, getattr(user, "permissions_boundary_arn", None))
    return Principal(user.arn, user.arn, values, tuple(own), boundary)


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
    attached = ((one.name, _document(one)) for one in entity.managed_policies.values())
    documents = [*entity.policies.items(), *attached]  # an inline one may have the same name
    return tuple(one for name, text in documents for one in _parsed(text, name))


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


def _trust(document: str, name: str) -> tuple[Trust, ...]:
    """The statements of a trust policy; one that cannot be read trusts nobody."""
    try:
        given = json.loads(document)
        each = _listed(given["Statement"])
        # They are about the role itself and name no resource.
        about_role = [{**one, "Resource": actions.ANY} for one in each]
        parsed = policies.parse(json.dumps({**given, "Statement": about_role}), name)
        whom = [one["Principal"] for one in each]
    except (ValueError, TypeError, KeyError) as error:
        log.error("The trust policy of %s cannot be read (%s): it trusts nobody.", name, error)
        return ()
    return tuple(Trust(one, statement) for one, statement in zip(whom, parsed, strict=True))


def _tags(tags: Iterable[Mapping[str, str]] | None) -> dict[str, tuple[str, ...]]:
    """Tags of a principal as condition keys."""
    return {f"aws:principaltag/{one['Key'].lower()}": (one["Value"],) for one in tags or []}
