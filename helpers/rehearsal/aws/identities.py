"""Who can sign requests in the rehearsal: four identities with fixed keys that open nothing.

What each may do is IAM's business: `iam/` holds the policies, `seed` puts them into moto.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from helpers import settings

FOLDER = settings.ROOT / "iam"
# Right in form (20 capitals and digits, ASIA for temporary), so that every SDK takes them, and
# plainly no secret.
SECRET_KEY = "rehearsal-secret-that-opens-nothing"
SESSION_TOKEN = "rehearsal-token-that-opens-nothing"

# Roles of `iam/template.yaml`: which policies each has, which services may assume it.
PARTICIPANT = "inf2-workshop-participant"
INSTRUCTOR = "inf2-workshop-instructor"
EXECUTION = "inf2-workshop-execution"
SCHEDULER = "inf2-workshop-scheduler"
ROLES = {
    PARTICIPANT: (("participant",), ("sagemaker",)),
    INSTRUCTOR: (("participant", "instructor"), ("sagemaker",)),
    EXECUTION: (("execution",), ("sagemaker",)),
    SCHEDULER: (("scheduler",), ("scheduler",)),
}
# Under which conditions these trust a service, as in the template.
CONDITIONS = {
    "sagemaker": {"ArnLike": {"aws:SourceArn": "arn:aws:sagemaker:*:{account}:*"}},
    "scheduler": {
        "StringEquals": {"aws:SourceAccount": "{account}"},
        "ArnLike": {
            "aws:SourceArn": "arn:aws:scheduler:*:{account}:schedule-group/inf2-workshop-*"
        },
    },
}
# Not of the template: an administrator, and a role as many accounts have one for SageMaker.
ADMIN = "workshop-admin"
ROLE = "workshop-execution-role"


@dataclass(frozen=True)
class Identity:
    """One identity and its keys.

    Attributes:
        key: Access key id.
        name: Of the role, or of the user.
        session: Name of the role's session; None for a user, who needs no session token.
    """

    key: str
    name: str
    session: str | None

    @property
    def token(self) -> str | None:
        """The session token that its requests carry."""
        return SESSION_TOKEN if self.session else None


IDENTITIES = {
    "participant": Identity("ASIAREHEARSAL0000001", PARTICIPANT, "rehearsal"),
    "instructor": Identity("ASIAREHEARSAL0000002", INSTRUCTOR, "instructor"),
    "laptop": Identity("AKIAREHEARSAL0000003", "laptop", None),
    "admin": Identity("ASIAREHEARSAL0000000", ADMIN, "rehearsal"),
}
SECRETS = {one.key: (SECRET_KEY, one.token) for one in IDENTITIES.values()}


def policy(name: str) -> dict[str, Any]:
    """A policy of `iam/`, e.g. `participant`."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def trust(role: str, account: str) -> dict[str, Any]:
    """The trust policy of one of `ROLES`, as `iam/template.yaml` has it."""
    policies, services = ROLES[role]
    statements = [_trusting_root(account)] if "participant" in policies else []
    for service in services:
        text = json.dumps(CONDITIONS[service]).replace("{account}", account)
        statements.append({**_trusting(service), "Condition": json.loads(text)})
    return _document(*statements)


def bucket(account: str, region: str) -> str:
    """The bucket that `iam/template.yaml` makes."""
    return f"inf2-workshop-{account}-{region}"


def seed(account: str, region: str) -> None:
    """Put roles, policies, the user and the bucket into moto; to be called in moto's thread."""
    from moto.iam.models import iam_backends
    from moto.s3.models import s3_backends

    iam = iam_backends[account]["aws"]
    names = dict.fromkeys(name for policies, _ in ROLES.values() for name in policies)
    made = {name: _create_policy(iam, f"inf2-workshop-{name}", policy(name)) for name in names}
    for name, (policies, _) in ROLES.items():
        _create_role(iam, name, json.dumps(trust(name, account)), [made[one] for one in policies])
    everything = _create_policy(iam, "AdministratorAccess", _allowing("*"))
    _create_role(iam, ADMIN, json.dumps(_document(_trusting_root(account))), [everything])
    access = _create_policy(iam, "WorkshopAccess", _allowing("sagemaker:*"))
    _create_role(iam, ROLE, json.dumps(_document(_trusting("sagemaker"))), [access])
    for identity in IDENTITIES.values():
        if identity.session:
            _assume(account, region, identity)
        else:
            _create_user(iam, identity, made["participant"])
    s3_backends[account]["aws"].create_bucket(bucket(account, region), region)


def _create_policy(iam: Any, name: str, document: Mapping[str, Any]) -> str:
    return iam.create_policy("", "/", json.dumps(document), name, []).arn


def _create_role(iam: Any, name: str, trust: str, policies: list[str]) -> None:
    iam.create_role(name, trust, "/", None, "rehearsal", [], "3600")
    for arn in policies:
        iam.attach_role_policy(arn, name)


def _create_user(iam: Any, identity: Identity, policy_arn: str) -> None:
    user = iam.create_user("us-east-1", identity.name)
    iam.attach_user_policy(policy_arn, identity.name)
    key = user.create_access_key(prefix="AKIA")
    key.access_key_id, key.secret_access_key = identity.key, SECRET_KEY
    iam.access_keys[key.access_key_id] = key


def _assume(account: str, region: str, identity: Identity) -> None:
    from moto.sts.models import AssumedRole, sts_backends

    assumed = AssumedRole(
        account_id=account,
        region_name=region,
        access_key=SimpleNamespace(access_key_id=identity.key, secret_access_key=SECRET_KEY),
        role_session_name=identity.session,
        role_arn=f"arn:aws:iam::{account}:role/{identity.name}",
        policy=None,
        duration=3600,
        external_id=None,
    )
    assumed.session_token = SESSION_TOKEN
    sts_backends[account]["aws"].assumed_roles.append(assumed)


def _trusting_root(account: str) -> dict[str, Any]:
    principal = {"AWS": f"arn:aws:iam::{account}:root"}
    actions = ["sts:AssumeRole", "sts:TagSession"]
    return {"Effect": "Allow", "Principal": principal, "Action": actions}


def _trusting(service: str) -> dict[str, Any]:
    principal = {"Service": f"{service}.amazonaws.com"}
    return {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}


def _allowing(action: str) -> dict[str, Any]:
    return _document({"Effect": "Allow", "Action": action, "Resource": "*"})


def _document(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}
