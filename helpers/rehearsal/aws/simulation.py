"""iam:SimulatePrincipalPolicy, which moto lacks: what a user or role might do, and nothing done.

As on AWS, condition keys have the values that the request gives them; filled in are only those that
say who the principal is, and what time it is. One result for each action and resource; that AWS
does not gather the resources of an action into one result is [unverified].

Source: IAM API reference, SimulatePrincipalPolicy.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from xml.sax.saxutils import escape

from helpers.rehearsal.aws import actions, policies
from helpers.rehearsal.aws.awsjson import AwsError
from helpers.rehearsal.aws.policies import Context, Statement
from helpers.rehearsal.aws.principals import BOUNDARY, Directory, Principal, Verdict
from helpers.rehearsal.server import Answer, Request

OPERATION = "SimulatePrincipalPolicy"
_ACTION = re.compile(r"[a-zA-Z0-9-]+:[a-zA-Z]+")
_PAGE = 100
_NOT_OFFERED = (
    "CallerArn",
    "PermissionsBoundaryPolicyInputList.member.1",
    "PolicyExclusionList.member.1.PolicyType",
    "ResourceHandlingOption",
    "ResourceOwner",
    "ResourcePolicy",
)
# Of the request's time and principal; AWS fills these in.
_FILLED_IN = ("aws:currenttime", "aws:epochtime", "aws:principal", "aws:userid", "aws:username")


def answer(request: Request, directory: Directory, *, now: Mapping[str, tuple[str, ...]]) -> Answer:
    """Answer a request.

    Args:
        request: As it was received.
        directory: Who there is.
        now: Condition keys that say what time it is.

    Raises:
        AwsError: When it cannot be carried out.
    """
    given = actions.form(request)
    for name in _NOT_OFFERED:
        if name in given:
            offered = name.partition(".")[0]
            raise _invalid(f"The rehearsal AWS simulates without {offered}.")
    who = _principal(given, directory)
    names = actions.numbered(given, "ActionNames")
    for name in names:
        if not _ACTION.fullmatch(name):
            raise _invalid(f"Invalid Action Name: {name}")  # [unverified]
    if not names:
        raise _invalid("ActionNames is required.")
    resources = actions.numbered(given, "ResourceArns") or (actions.ANY,)
    values = {**now, **who.values, **_context(given)}
    pairs = [(action, resource) for action in names for resource in resources]
    start, size = _number(given, "Marker", 0), _number(given, "MaxItems", _PAGE)
    shown = [_result(who, *pair, values) for pair in pairs[start : start + size]]
    more = start + size < len(pairs)
    marker = f"<Marker>{start + size}</Marker>" if more else ""
    body = (
        f'<{OPERATION}Response xmlns="https://iam.amazonaws.com/doc/2010-05-08/">'
        f"<{OPERATION}Result><IsTruncated>{str(more).lower()}</IsTruncated>{marker}"
        f"{_list('EvaluationResults', shown)}</{OPERATION}Result></{OPERATION}Response>"
    )
    return Answer(200, {"Content-Type": "text/xml"}, body.encode())


def _principal(given: Mapping[str, str], directory: Directory) -> Principal:
    arn = given.get("PolicySourceArn", "")
    if not re.fullmatch(r"arn:aws:iam::\d{12}:(user|role)/.+", arn):
        # As people meet it who pass the ARN of an assumed role [unverified].
        message = f"Invalid Entity Arn: {arn} does not clearly define entity type and name."
        raise _invalid(message)
    who = directory.entities.get(arn)
    if who is None:
        raise AwsError("NoSuchEntity", f"The entity {arn} cannot be found.", status=404)
    added: list[Statement] = []
    for text in actions.numbered(given, "PolicyInputList"):
        try:
            added += policies.parse(text, "PolicyInputList")
        except ValueError as error:
            raise _invalid(str(error)) from None
    return replace(who, statements=(*who.statements, *added))


def _number(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name, str(default))
    if not re.fullmatch("[0-9]{1,9}", text):
        raise _invalid(f"Invalid {name}: {text[:100]}")  # [unverified]
    return int(text)


def _context(given: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The condition keys of a request."""
    found: dict[str, tuple[str, ...]] = {}
    for name, key in given.items():
        if re.fullmatch(r"ContextEntries\.member\.\d+\.ContextKeyName", name):
            values = f"{name.rpartition('.')[0]}.ContextKeyValues"
            found[key.lower()] = actions.numbered(given, values)
    return found


def _result(who: Principal, action: str, resource: str, values: policies.Values) -> str:
    verdict = who.judge(action, resource, Context(values))
    missing = [
        f"<member>{escape(key)}</member>"
        for key in sorted(who.spelled_keys(action))
        if not key.lower().startswith(_FILLED_IN) and key.lower() not in values
    ]
    found = _list("MatchedStatements", map(_statement, verdict.deciding))
    details = f"{found}{_list('MissingContextValues', missing)}{_boundary(who, verdict)}"
    decision = verdict.decision.value
    one = f"<EvalResourceName>{escape(resource)}</EvalResourceName>"
    specific = f"<member>{one}<EvalResourceDecision>{decision}</EvalResourceDecision>{details}"
    return (
        f"<member><EvalActionName>{escape(action)}</EvalActionName>{one}"
        f"<EvalDecision>{decision}</EvalDecision>{details}"
        f"{_list('ResourceSpecificResults', [f'{specific}</member>'])}</member>"
    )


def _statement(statement: Statement) -> str:
    source = f"<SourcePolicyId>{escape(statement.policy)}</SourcePolicyId>"
    return f"<member>{source}<SourcePolicyType>IAM Policy</SourcePolicyType></member>"


def _boundary(who: Principal, verdict: Verdict) -> str:
    if not any(kind == BOUNDARY for kind, _ in who.limits):
        return ""
    allowed = str(verdict.kind != BOUNDARY).lower()
    inner = f"<AllowedByPermissionsBoundary>{allowed}</AllowedByPermissionsBoundary>"
    return f"<PermissionsBoundaryDecisionDetail>{inner}</PermissionsBoundaryDecisionDetail>"


def _list(name: str, members: Iterator[str] | list[str]) -> str:
    return f"<{name}>{''.join(members)}</{name}>"


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidInput", message)
