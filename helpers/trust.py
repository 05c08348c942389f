"""Whether a role's trust policy lets a service of AWS act under the role.

As IAM evaluates it: a statement that denies wins, actions are compared without regard to capitals
and with wildcards, and a condition has to hold (IAM user guide, "Policy evaluation logic" and "IAM
JSON policy elements: Condition operators", read 2026-11). What a condition asks that is not known
here makes the verdict unknown, not a yes.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

_ASSUME = "sts:AssumeRole"
_OPERATOR = re.compile(
    r"(?:For(?:Any|All)Values?:)?(String|Arn)(Not)?(Equals|EqualsIgnoreCase|Like)(?:IfExists)?",
    re.IGNORECASE,
)


def trusts(
    document: Mapping[str, Any], service: str, known: Mapping[str, Iterable[str]]
) -> bool | None:
    """Whether a trust policy lets a service assume its role; None when that depends.

    Args:
        document: The role's AssumeRolePolicyDocument.
        service: Host name of the service, e.g. `sagemaker.amazonaws.com`.
        known: What the service says of itself, e.g. `aws:SourceAccount`: each value that it may
            have by the condition key.
    """
    values = {key.lower(): tuple(given) for key, given in known.items()}
    found: dict[str, set[bool | None]] = {"Allow": set(), "Deny": set()}
    for statement in _list(document.get("Statement", [])):
        if _names(statement, service) and _covers(statement):
            found.setdefault(statement.get("Effect", ""), set()).add(_holds(statement, values))
    if True in found["Deny"] or not found["Allow"] - {False}:
        return False
    return True if True in found["Allow"] and not found["Deny"] - {False} else None


def conditions(document: Mapping[str, Any]) -> str:
    """The condition keys of a trust policy, for a sentence."""
    keys = {
        key
        for statement in _list(document.get("Statement", []))
        for asked in statement.get("Condition", {}).values()
        for key in asked
    }
    return ", ".join(sorted(keys)) or "NotPrincipal"


def _names(statement: Mapping[str, Any], service: str) -> bool:
    if "NotPrincipal" in statement:
        return statement.get("Effect") == "Deny"
    principal = statement.get("Principal", {})
    if not isinstance(principal, Mapping):
        return principal == "*"
    return service in _list(principal.get("Service", [])) or "*" in _list(principal.get("AWS", []))


def _covers(statement: Mapping[str, Any]) -> bool:
    if "NotAction" in statement:
        return not any(_fits(one, _ASSUME) for one in _list(statement["NotAction"]))
    return any(_fits(one, _ASSUME) for one in _list(statement.get("Action", [])))


def _holds(statement: Mapping[str, Any], known: Mapping[str, tuple[str, ...]]) -> bool | None:
    """Whether all conditions of a statement hold; None when that is not known."""
    answers = [None] if "NotPrincipal" in statement else []
    for operator, asked in statement.get("Condition", {}).items():
        understood = _OPERATOR.fullmatch(operator)
        for key, wanted in asked.items():
            given = known.get(key.lower())
            answers.append(
                _compared(understood, _list(wanted), given) if understood and given else None
            )
    if False in answers:
        return False
    return None if None in answers else True


def _compared(operator: re.Match, wanted: list[str], given: tuple[str, ...]) -> bool | None:
    """Whether a comparison holds for each value that there may be; None when for some only."""
    kind, negated, how = operator[1].lower(), bool(operator[2]), operator[3].lower()
    fits = {any(_alike(kind, how, one, value) for one in wanted) for value in given}
    return (True in fits) != negated if len(fits) == 1 else None


def _alike(kind: str, how: str, wanted: str, value: str) -> bool:
    if how == "like" or kind == "arn":  # ArnEquals and ArnLike behave alike
        return _like(wanted, value)
    return wanted == value if how == "equals" else wanted.lower() == value.lower()


def _fits(pattern: str, text: str) -> bool:
    """Whether a pattern with stars stands for a text, without regard to capitals."""
    return _like(pattern.lower(), text.lower())


def _like(pattern: str, text: str) -> bool:
    regular = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(regular, text, re.DOTALL) is not None


def _list(value: Any) -> list:
    return value if isinstance(value, list) else [value]
