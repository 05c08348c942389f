"""IAM policies: whether an action on a resource is allowed, in a context.

Explicit denials first, then permissions, else an implicit denial. What this cannot judge, such as
an unknown condition operator or key, refuses and does not permit, and the log says so.

Source: IAM user guide, "Policy evaluation logic", "IAM JSON policy elements: Condition operators",
"Set operators", "Variables and tags", "Resource".
"""

import fnmatch
import ipaddress
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any

log = logging.getLogger(__name__)

# Keys in lower case, as they match in any case; each has one value or several.
Values = Mapping[str, tuple[str, ...]]


class Decision(Enum):
    """What an evaluation ends with, as SimulatePrincipalPolicy calls it."""

    ALLOWED = "allowed"
    IMPLICIT_DENY = "implicitDeny"
    EXPLICIT_DENY = "explicitDeny"


@dataclass(frozen=True)
class Context:
    """What is known of a request.

    Attributes:
        values: By condition key, in lower case.
        knows: Whether a key could have a value here; one that could and has none is absent.
    """

    values: Values = field(default_factory=dict)
    knows: Callable[[str], bool] = lambda key: True


class _NotKnown(Exception):
    """Something in a condition that cannot be judged."""


@dataclass(frozen=True)
class _Condition:
    operator: str
    key: str  # in lower case
    spelled: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Statement:
    """One statement of a policy.

    Attributes:
        allows: Its effect; else it denies.
        actions: Patterns.
        except_actions: Whether it is about all actions but these.
        resources: Patterns, with variables.
        except_resources: Whether it is about all resources but these.
        conditions: All must hold.
        has_variables: Of version 2012-10-17, where `${…}` is a variable.
        policy: Name of the policy it stands in.
    """

    allows: bool
    actions: tuple[str, ...]
    except_actions: bool
    resources: tuple[str, ...]
    except_resources: bool
    conditions: tuple[_Condition, ...]
    has_variables: bool
    policy: str

    @property
    def keys(self) -> frozenset[str]:
        """Condition keys and variables that it asks for, in lower case."""
        texts = (value for one in self.conditions for value in one.values)
        asked = {one.key for one in self.conditions}
        return self._variables(self.resources) | self._variables(texts) | asked

    def is_about(self, action: str) -> bool:
        """Whether it says something about an action, e.g. `s3:GetObject`."""
        found = any(_action_matches(pattern, action.lower()) for pattern in self.actions)
        return found != self.except_actions

    def holds(self, resource: str, context: Context) -> bool:
        """Whether it applies to a resource in a context; what is not known, refuses."""
        absent = [key for key in self._variables(self.resources) if not context.values.get(key)]
        unknown = next((f"the variable {key}" for key in absent if not context.knows(key)), "")
        if absent and self.allows and (unknown or self.except_resources):
            return False
        found = any(self._covers(pattern, resource, context) for pattern in self.resources)
        if found == self.except_resources and not unknown:
            return False
        for condition in self.conditions:
            try:
                if not _is_met(condition, context, has_variables=self.has_variables):
                    return False
            except _NotKnown as error:
                unknown = str(error)
        if unknown:
            _say_once(self.policy, unknown)
        return not (unknown and self.allows)

    def _variables(self, texts: Iterable[str]) -> frozenset[str]:
        if not self.has_variables:
            return frozenset()
        names = {match[1].lower() for text in texts for match in _VARIABLE.finditer(text)}
        return frozenset(names - set(_LITERALS))

    def _covers(self, pattern: str, resource: str, context: Context) -> bool:
        variables = context.values if self.has_variables else None
        return _resource_matches(pattern, resource, variables)


def parse(document: str, name: str = "") -> tuple[Statement, ...]:
    """The statements of a policy document.

    Raises:
        ValueError: When it is no policy.
    """
    try:
        return _parse(document, name)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"The policy {name} cannot be read: {error}") from error


@lru_cache(maxsize=512)
def _parse(document: str, name: str) -> tuple[Statement, ...]:
    read = json.loads(document)
    has_variables = read.get("Version") == "2012-10-17"
    return tuple(_statement(one, name, has_variables) for one in _list(read["Statement"]))


def _statement(given: Mapping[str, Any], name: str, has_variables: bool) -> Statement:
    if given["Effect"] not in ("Allow", "Deny"):
        raise ValueError(f"its effect is {given['Effect']}")
    except_actions = "NotAction" in given
    except_resources = "NotResource" in given
    return Statement(
        allows=given["Effect"] == "Allow",
        actions=_texts(given["NotAction" if except_actions else "Action"]),
        except_actions=except_actions,
        resources=_texts(given["NotResource" if except_resources else "Resource"]),
        except_resources=except_resources,
        conditions=tuple(
            _Condition(operator, key.lower(), key, _texts(values))
            for operator, asked in given.get("Condition", {}).items()
            for key, values in asked.items()
        ),
        has_variables=has_variables,
        policy=name,
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(
        json.dumps(one) if isinstance(one, bool | int | float) else str(one)
        for one in _list(values)
    )


def evaluate(
    statements: Iterable[Statement], action: str, resource: str, context: Context
) -> tuple[Decision, list[Statement]]:
    """Whether statements allow an action on a resource, and those that decide.

    Args:
        statements: Of all policies together.
        action: E.g. `sagemaker:CreateEndpoint`.
        resource: An ARN, or `*` for an action that knows no resources.
        context: What is known of the request.
    """
    found = [one for one in statements if one.is_about(action) and one.holds(resource, context)]
    denying = [one for one in found if not one.allows]
    if denying:
        return Decision.EXPLICIT_DENY, denying
    return (Decision.ALLOWED if found else Decision.IMPLICIT_DENY), found


def now(epoch_s: float) -> dict[str, tuple[str, ...]]:
    """The condition keys that say what time it is."""
    text = datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"aws:epochtime": (f"{epoch_s:.0f}",), "aws:currenttime": (text,)}


# --- patterns

_VARIABLE = re.compile(r"\$\{\s*([^},]+?)\s*(?:,\s*'([^']*)'\s*)?\}")
_LITERALS = ("*", "?", "$")


@lru_cache(maxsize=4096)
def _action_matches(pattern: str, action: str) -> bool:
    # fnmatch's brackets have no meaning here
    escaped = pattern.lower().replace("[", "[[]")
    return fnmatch.fnmatchcase(action, escaped)


def _resource_matches(pattern: str, arn: str, variables: Values | None) -> bool:
    """Whether an ARN has the form of a `Resource`.

    A wildcard before the fifth colon spans no colon, but for a `*` that ends its segment: "it can
    expand to match beyond the colon boundaries" (user guide, "Resource").
    """
    if pattern == "*":
        return True
    *parts, last = pattern.split(":", 5)
    ending = _expression(last, variables)
    if ending is None:
        return False
    spanning = (
        f"{_wildcards(part[:-1], '[^:]')}.*" if part.endswith("*") else _wildcards(part, "[^:]")
        for part in parts
    )
    return _compiled(":".join([*spanning, ending])).fullmatch(arn) is not None


def _arn_matches(pattern: str, arn: str, variables: Values | None) -> bool:
    """Whether an ARN meets a condition: its six components are compared one by one."""
    *parts, last = pattern.split(":", 5)
    if len(parts) < 5:
        return False
    ending = _expression(last, variables)
    if ending is None:
        return False
    start = ":".join(_wildcards(part, "[^:]") for part in parts)
    return _compiled(f"{start}:{ending}").fullmatch(arn) is not None


def _expression(pattern: str, variables: Values | None) -> str | None:
    """A regular expression for a pattern; None when one of its variables has no value."""
    if variables is None or "${" not in pattern:
        return _wildcards(pattern, ".")
    parts, end = [], 0
    for match in _VARIABLE.finditer(pattern):
        parts.append(_wildcards(pattern[end : match.start()], "."))
        value = _value(match, variables)
        if value is None:
            return None
        parts.append(re.escape(value))
        end = match.end()
    return "".join(parts) + _wildcards(pattern[end:], ".")


def _resolved(text: str, variables: Values | None) -> str | None:
    """A text with its variables' values in it; None when one has none."""
    if variables is None or "${" not in text:
        return text
    values = [_value(match, variables) for match in _VARIABLE.finditer(text)]
    if None in values:
        return None
    rest = iter(values)
    return _VARIABLE.sub(lambda match: next(rest), text)


def _value(match: re.Match[str], variables: Values) -> str | None:
    name, default = match[1], match[2]
    if name in _LITERALS:
        return name
    found = variables.get(name.lower(), ())
    return found[0] if len(found) == 1 else default  # several values make no variable


@lru_cache(maxsize=4096)
def _wildcards(text: str, any_character: str) -> str:
    return "".join(
        f"{any_character}*" if one == "*" else any_character if one == "?" else re.escape(one)
        for one in text
    )


@lru_cache(maxsize=4096)
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.DOTALL)


# --- conditions


def _is_met(condition: _Condition, context: Context, *, has_variables: bool) -> bool:
    given = context.values.get(condition.key, ())
    if not given and not context.knows(condition.key):
        raise _NotKnown(f"the condition key {condition.key}")
    operator, among = condition.operator, ""
    if ":" in operator:
        among, _, operator = operator.partition(":")
    if operator == "Null":
        return any(value.lower() == str(not given).lower() for value in condition.values)
    if_exists = operator.endswith("IfExists")
    operator = operator.removesuffix("IfExists")
    negated = operator not in _COMPARISONS
    comparison = _COMPARISONS.get(_POSITIVE.get(operator, operator))
    if comparison is None or among not in ("", "ForAllValues", "ForAnyValue"):
        raise _NotKnown(f"the condition operator {condition.operator}")
    if not given:
        return if_exists or among == "ForAllValues" or (negated and not among)
    variables = context.values if has_variables else None

    def matches(value: str) -> bool:
        found, unknown = False, None
        for wanted in condition.values:
            try:
                found = found or comparison(wanted, value, variables)
            except _NotKnown as error:
                unknown = error
        if unknown and not found:  # the one that cannot be judged might be the one
            raise unknown
        return found != negated

    if among == "ForAllValues":
        return all(map(matches, given))
    if among == "ForAnyValue" or not negated:
        return any(map(matches, given))
    return all(map(matches, given))


def _equals(wanted: str, value: str, variables: Values | None) -> bool:
    return _resolved(wanted, variables) == value


def _equals_in_any_case(wanted: str, value: str, variables: Values | None) -> bool:
    resolved = _resolved(wanted, variables)
    return resolved is not None and resolved.casefold() == value.casefold()


def _like(wanted: str, value: str, variables: Values | None) -> bool:
    expression = _expression(wanted, variables)
    return expression is not None and _compiled(expression).fullmatch(value) is not None


def _bool(wanted: str, value: str, variables: Values | None) -> bool:
    return wanted.lower() == value.lower()


def _numeric(compare: Callable[[float, float], bool]) -> Callable[..., bool]:
    def matches(wanted: str, value: str, variables: Values | None) -> bool:
        resolved = _resolved(wanted, variables)
        return resolved is not None and compare(_number(value), _number(resolved))

    return matches


def _date(compare: Callable[[float, float], bool]) -> Callable[..., bool]:
    def matches(wanted: str, value: str, variables: Values | None) -> bool:
        return compare(_epoch_s(value), _epoch_s(wanted))

    return matches


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _NotKnown(f"the number {text}")
    return number


def _epoch_s(text: str) -> float:
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _NotKnown(f"the date {text}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _ip_address(wanted: str, value: str, variables: Values | None) -> bool:
    try:
        network = ipaddress.ip_network(wanted, strict=False)
        return ipaddress.ip_address(value) in network
    except ValueError:
        raise _NotKnown(f"the address {wanted}") from None


_COMPARISONS: Mapping[str, Callable[[str, str, Values | None], bool]] = {
    "StringEquals": _equals,
    "StringEqualsIgnoreCase": _equals_in_any_case,
    "StringLike": _like,
    "ArnEquals": _arn_matches,  # the two behave identically
    "ArnLike": _arn_matches,
    "Bool": _bool,
    "NumericEquals": _numeric(lambda value, wanted: value == wanted),
    "NumericLessThan": _numeric(lambda value, wanted: value < wanted),
    "NumericLessThanEquals": _numeric(lambda value, wanted: value <= wanted),
    "NumericGreaterThan": _numeric(lambda value, wanted: value > wanted),
    "NumericGreaterThanEquals": _numeric(lambda value, wanted: value >= wanted),
    "DateEquals": _date(lambda value, wanted: value == wanted),
    "DateLessThan": _date(lambda value, wanted: value < wanted),
    "DateLessThanEquals": _date(lambda value, wanted: value <= wanted),
    "DateGreaterThan": _date(lambda value, wanted: value > wanted),
    "DateGreaterThanEquals": _date(lambda value, wanted: value >= wanted),
    "IpAddress": _ip_address,
}
_POSITIVE = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
    "NumericNotEquals": "NumericEquals",
    "DateNotEquals": "DateEquals",
    "NotIpAddress": "IpAddress",
}


@lru_cache(maxsize=1024)
def _say_once(policy: str, what: str) -> None:
    log.warning("The policy %s asks for %s, which cannot be judged here: refused.", policy, what)
