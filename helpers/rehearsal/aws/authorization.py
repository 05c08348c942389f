"""Whether who has signed a request may do what it asks for, and how AWS refuses it otherwise.

Evaluated are the policies of users, groups and roles, permissions boundaries and session policies.
Not evaluated: policies of resources, such as a bucket's, except whom a role trusts, and those of
an organization.

Words: "because no identity-based policy allows" in philschmid/cdk-samples issue 2 and, without a
resource for an action that knows none, ACloudGuru's sandbox (2023-11); "with an explicit deny in"
in aws/amazon-sagemaker-feedback issue 193; quotes around S3's ARNs as in its user guide,
"Troubleshoot access denied (403 Forbidden) errors".
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from helpers.rehearsal.aws import actions, deletions
from helpers.rehearsal.aws.accesslog import AccessLog
from helpers.rehearsal.aws.actions import ANY, RESOURCE_TAG, Ask, Place
from helpers.rehearsal.aws.awsjson import ACCOUNT, AwsError
from helpers.rehearsal.aws.deletions import Deletion
from helpers.rehearsal.aws.operations import Operation
from helpers.rehearsal.aws.policies import Context, Decision, now
from helpers.rehearsal.aws.principals import Directory, Principal, Verdict

# Same for all requests; the rehearsal is on loopback, where AWS would insist on TLS.
_ALWAYS = {
    "aws:securetransport": ("true",),
    "aws:viaawsservice": ("false",),
    "aws:principalisawsservice": ("false",),
    "aws:sourceip": ("127.0.0.1",),
}
_MOST_KEPT = 10_000
_GONE = "nobody"  # who signs with the keys of a user or role that has been deleted since


class Authorizer:
    """Judges requests by the policies of who has signed them.

    Args:
        directory: Who there is, now.
        tags: The tags of a SageMaker resource, by ARN; None for one that is not there.
        clock: AWS time, in epoch seconds.
        besides: What an action asks for as well, as things stand in a region.
        account: Twelve digits.

    Attributes:
        log: What has been judged.
    """

    def __init__(
        self,
        directory: Callable[[], Directory],
        *,
        tags: Callable[[str], Mapping[str, str] | None] = lambda arn: None,
        clock: Callable[[], float] = time.time,
        besides: Callable[[Ask, str], Iterable[Ask]] = lambda ask, region: (),
        account: str = ACCOUNT,
    ):
        self.log = AccessLog()
        self._besides = besides
        self._directory = directory
        self._tags = tags
        self._clock = clock
        self._account = account
        self._seen: Directory | None = None
        self._allowed: set[tuple[str, str, str]] = set()  # by key: always, whatever the context

    def check(self, key: str, operation: Operation, *, region: str) -> None:
        """Refuse an operation of any service but the runtime that its signer may not do.

        Args:
            key: The access key that it is signed with.
            operation: What it is.
            region: Of its signature.

        Raises:
            AwsError: When it is refused.
        """
        for ask, message in self._refused(key, operation, region):
            code, status = _error_of(operation, ask)
            raise AwsError(code, message, status=status)

    def denied(self, key: str, operation: Operation, *, region: str) -> dict[Deletion, str]:
        """What S3 says of the objects of a DeleteObjects that its signer may not delete.

        Args:
            key: The access key that it is signed with.
            operation: The DeleteObjects.
            region: Of its signature.
        """
        said = {
            (ask.action, ask.resource.removeprefix("arn:aws:s3:::").partition("/")[2]): message
            for ask, message in self._refused(key, operation, region)
        }
        found = {}
        for one in deletions.listed(operation.request.body):
            action = f"s3:DeleteObject{'Version' if one.version else ''}"
            if message := said.get((action, one.key)):
                found[one] = message
        return found

    def check_invocation(
        self, key: str, name: str, door: str, *, region: str, with_token: bool
    ) -> None:
        """Refuse an invocation that its signer may not send; see `actions.invocation`.

        Raises:
            AwsError: When it is refused.
        """
        place = Place(region, self._account)
        for ask in actions.invocation(name, door, place, with_token=with_token):
            may = self._is_allowed(key, ask, region)
            self._note(key, ask, may)
            if not may:
                message = self._words(key, ask, region)
                raise AwsError("AccessDeniedException", message, status=403)

    # --- roles that services act with

    def trusts(self, role_arn: str, service: str, source_arn: str) -> bool:
        """Whether a role exists and lets a service assume it; see `Directory.trusts`."""
        return self._directory().trusts(role_arn, service, source_arn)

    def allows(self, role_arn: str, ask: Ask, *, region: str) -> bool:
        """Whether a role may do something; False when there is no such role."""
        who = self._directory().entities.get(role_arn)
        may = who is not None and _is_yes(self._verdict(who, ask, region))
        self.log.note(role_arn, ask.action, allowed=may)
        return may

    def problem(self, role_arn: str, session: str, asks: Iterable[Ask], *, region: str) -> str:
        """What AWS says when a service acts with a role that may not do all of this; else empty."""
        who = self._directory().session(role_arn, session)
        if who is None:
            return f"The role {role_arn} cannot be assumed."
        for ask in self._all(asks, region):
            verdict = self._verdict(who, ask, region)
            self.log.note(role_arn, ask.action, allowed=_is_yes(verdict))
            if not _is_yes(verdict):
                return words(who.arn, ask, verdict)
        return ""

    # --- decisions

    def _refused(self, key: str, operation: Operation, region: str) -> Iterator[tuple[Ask, str]]:
        """What an operation asks for in vain, and what AWS says then."""
        directory = self._directory()
        who = directory.keys.get(key)
        place = Place(region, self._account, directory.entities, who.entity_arn if who else "")
        for ask in self._all(actions.asked(operation, place), region):
            may = self._is_allowed(key, ask, region)
            if may and ask.action == "sts:AssumeRole":
                values = {**_ALWAYS, **now(self._clock()), **ask.values}
                may = directory.may_assume(who, ask.resource, values)
            self._note(key, ask, may)
            if not may:
                yield ask, self._words(key, ask, region)

    def _all(self, asks: Iterable[Ask], region: str) -> Iterator[Ask]:
        for ask in asks:
            yield ask
            yield from self._besides(ask, region)

    def _note(self, key: str, ask: Ask, may: bool) -> None:
        who = self._directory().keys.get(key)
        self.log.note(who.arn if who else _GONE, ask.action, allowed=may)

    def _is_allowed(self, key: str, ask: Ask, region: str) -> bool:
        directory = self._directory()
        if directory is not self._seen or len(self._allowed) > _MOST_KEPT:
            self._seen, self._allowed = directory, set()
        if (key, ask.action, ask.resource) in self._allowed:
            return True
        who = directory.keys.get(key)
        if who is None or not _is_yes(self._verdict(who, ask, region)):
            return False
        if who.keys(ask.action) <= who.values.keys():  # whatever else the request says
            self._allowed.add((key, ask.action, ask.resource))
        return True

    def _verdict(self, who: Principal, ask: Ask, region: str) -> Verdict:
        asked = who.keys(ask.action)
        values = {**_ALWAYS, **now(self._clock()), "aws:requestedregion": (region,)}
        values |= {"aws:resourceaccount": (self._account,), **who.values, **ask.values}
        has_tags = False
        if any(key.startswith(RESOURCE_TAG) for key in asked):
            tags = self._tags(ask.resource) if ask.resource.startswith("arn:") else None
            has_tags = ask.action.startswith("sagemaker:")
            values |= {f"{RESOURCE_TAG}{key.lower()}": (tags[key],) for key in tags or {}}

        def knows(key: str) -> bool:
            return actions.knows(key) or (has_tags and key.startswith(RESOURCE_TAG))

        return who.judge(ask.action, ask.resource, Context(values, knows))

    def _words(self, key: str, ask: Ask, region: str) -> str:
        who = self._directory().keys.get(key)
        if who is None:  # its user or role has been deleted since
            return "The user or role of these keys is no longer there."
        return words(who.arn, ask, self._verdict(who, ask, region))


def _error_of(operation: Operation, ask: Ask) -> tuple[str, int]:
    """Code and status of a refusal, by protocol.

    What Application Auto Scaling finds missing in other services is a ValidationException
    (its user guide, "Permissions validation").
    """
    service = operation.service
    if service == "application-autoscaling" and not ask.action.startswith(service):
        return "ValidationException", 400
    if "x-amz-target" in operation.request.headers:
        return "AccessDeniedException", 400
    return ("AccessDeniedException" if service == "scheduler" else "AccessDenied"), 403


def _is_yes(verdict: Verdict) -> bool:
    return verdict.decision is Decision.ALLOWED


def words(arn: str, ask: Ask, verdict: Verdict) -> str:
    """How AWS says that someone may not do something."""
    resource = f'"{ask.resource}"' if ask.action.startswith("s3:") else ask.resource
    on = "" if ask.resource == ANY else f" on resource: {resource}"
    start = f"User: {arn} is not authorized to perform: {ask.action}{on}"
    if ask.action == "sts:AssumeRole":  # whichever side refuses
        return start
    if verdict.decision is Decision.EXPLICIT_DENY:
        article = "an" if verdict.kind[0] in "aeiou" else "a"
        return f"{start} with an explicit deny in {article} {verdict.kind}"
    return f"{start} because no {verdict.kind} allows the {ask.action} action"
