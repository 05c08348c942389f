"""Check before deploying what can be known before deploying: one table, in seconds, for nothing.

An endpoint takes 40 minutes to fail. What it would fail of is asked of AWS, of the Hugging Face Hub
and of the container's contract beforehand. A check that cannot be made is `not checked` and holds
nothing up; one that failed stops the deployment unless it is overridden by its name.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

import pandas as pd

from helpers import deadline
from helpers.errors import PreflightError
from helpers.preflight import account, configuration, region, rights, stored
from helpers.preflight.asked import FAILED, GO_ON, NOT_CHECKED, OK, WARNING, Asked, Result
from helpers.preflight.shown import Left
from helpers.recipes import Recipe
from helpers.session import Session, reason

__all__ = [
    "CHECKS",
    "FAILED",
    "LIMIT_S",
    "NOT_CHECKED",
    "OK",
    "WARNING",
    "Asked",
    "Result",
    "check",
    "require",
    "table",
]

LIMIT_S = 8.0  # real seconds; a check without an answer by then is not checked

# What is checked together because one answer tells both.
_GROUPS: dict[str, Callable[[Asked], list[Result]]] = {
    "identity": account.identity,
    "role": account.role,
    "permissions": account.permissions,
    "scheduler-role": account.scheduler_role,
    "container": region.container,
    "prices": region.instance_and_price,
    "quota": region.quota,
    "hub": account.token_and_license,
    "weights": stored.stored_weights,
    "contract": configuration.contract,
    "cache": configuration.cache,
    "shape": configuration.shape,
    "memory": configuration.memory,
    "disk": configuration.disk,
    "timeout": configuration.timeout,
}
_NAMES = {group: (group,) for group in _GROUPS} | {
    "prices": ("instance", "price"),
    "hub": ("token", "license"),
}
# Of those that ask AWS as somebody: what they find when nobody is known is nothing.
_SIGNED = ("role", "permissions", "scheduler-role", "quota", "weights")
_REGIONAL = ("container", "prices", "quota")
_IN_REGIONS = ("container", "instance", "quota")

CHECKS = {
    "identity": "who asks",
    "role": "the execution role exists and trusts SageMaker",
    "permissions": "what you and the execution role may do",
    "scheduler-role": "the role that deletes the endpoint when its time is up",
    "container": "the region offers the image",
    "instance": "the region offers the machine",
    "quota": "how many machines are allowed, used and left",
    "token": "the Hugging Face token is one",
    "license": "its owner may download the model",
    "weights": "weights in S3 are there and may be read",
    "contract": "the container takes the environment",
    "cache": "the shape has been compiled",
    "shape": "prompt and answer fit into a slot",
    "memory": "weights and KV cache fit into HBM",
    "disk": "the weights fit onto the volume",
    "timeout": "the health check outlasts the loading",
    "price": "what an hour costs",
}


def check(
    session: Session,
    recipe: Recipe,
    *,
    role: str | None = None,
    hf_token: str | None = None,
    instance_count: int = 1,
    regions: Iterable[str] | None = None,
    only: str | Collection[str] | None = None,
    weights: str | None = None,
) -> list[Result]:
    """Check everything that decides whether a deployment comes up; takes less than ten seconds.

    Args:
        session: The workshop's session.
        recipe: What is to be deployed.
        role: ARN of the execution role; left out, `session.role()`.
        hf_token: For a gated model; left out, the one of the environment.
        instance_count: Instances behind the endpoint.
        regions: Further regions that a deployment may move to: container, instance and quota are
            checked there too, and what they lack is a warning.
        only: The name of one check, or several.
        weights: `s3://…/` when the container takes the weights from there, without a token.

    Returns:
        One result a check, in the order of `CHECKS`, further regions last.

    Raises:
        PreflightError: When there is no check of a name, or no number of instances.
    """
    wanted = _known(CHECKS if only is None else only)
    if not isinstance(instance_count, int) or isinstance(instance_count, bool):
        raise PreflightError(f"instance_count is a whole number, not {instance_count!r}.")
    if instance_count < 1:
        raise PreflightError(
            f"An endpoint has 1 instance or more, not {instance_count}: to pay for none, deploy "
            "nothing."
        )
    asked = Asked(session, recipe, role, hf_token, instance_count, weights)
    asked.prepare()
    tasks = {group: _Task(asked, group) for group in _GROUPS}
    regions = [regions] if isinstance(regions, str) else regions
    for further in dict.fromkeys(regions or ()):
        if further != session.region:
            tasks |= {f"{group} {further}": _Task(asked, group, further) for group in _REGIONAL}
    tasks = {name: task for name, task in tasks.items() if task.checks(wanted)}
    signed = any(task.group in _SIGNED for task in tasks.values())
    asking = ({"identity": _Task(asked, "identity")} if signed else {}) | tasks
    found = deadline.together(asking, limit_s=LIMIT_S)
    results = [one for name, task in tasks.items() for one in task.results(found[name], wanted)]
    if signed and _is_unknown(found["identity"]):
        results = [_unsigned(one) for one in results]
    order = list(CHECKS)
    return sorted(results, key=lambda one: (" " in one.check, order.index(one.check.split()[0])))


def table(results: Iterable[Result]) -> pd.DataFrame:
    """The results by check, with what to do; what is not ok stands first."""
    order = (FAILED, NOT_CHECKED, WARNING, OK)
    rows = [
        (one.check, f"{one.state}: {one.said}", one.remedy)
        for one in sorted(results, key=lambda one: order.index(one.state))
    ]
    return Left(rows, columns=["check", "result", "what to do"]).set_index("check")


def require(results: Iterable[Result], *, override: str | Collection[str] = ()) -> str:
    """Stop when a check has failed that nobody overrides; the rest lets a deployment happen.

    Args:
        results: What `check` returned.
        override: Names of checks that may fail.

    Returns:
        A sentence or two: what is overridden, what was not checked or not asked for, and that
        nothing else is known.

    Raises:
        PreflightError: Names every failed check, what it found and what to do; or a name that is
            none of a check.
    """
    allowed, results = _known(override), list(results)
    failed = [one for one in results if one.state == FAILED and one.check not in allowed]
    if not failed:
        return _what_is_known(results)
    problems = "; ".join(
        f"{one.check} ({one.said}): {one.remedy.rstrip('.') or 'see the table'}" for one in failed
    )
    count = f"{len(failed)} checks have" if len(failed) > 1 else "A check has"
    raise PreflightError(
        f"{count} failed, so nothing was deployed: {problems}; or deploy all the same with "
        f"override={[one.check for one in failed]}."
    )


def _what_is_known(results: Iterable[Result]) -> str:
    """What a deployment may meet although nothing stops it."""
    results = list(results)
    asked = len({one.check.split()[0] for one in results})
    only = f" Asked for: {asked} of {len(CHECKS)} checks." if asked < len(CHECKS) else ""
    overridden = [f"{one.check}, which says {one.said}" for one in results if one.state == FAILED]
    open_ = [one.check for one in results if one.state == NOT_CHECKED]
    else_ = " else" if overridden else ""
    first = f"Overridden: {'; '.join(overridden)}. " if overridden else ""
    behind = f"; not checked: {', '.join(open_)}" if open_ else ""
    return f"{first}Nothing{else_} known keeps it from coming up{behind}.{only}"


def _known(names: str | Iterable[str]) -> list[str]:
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise PreflightError(f"There is no check {unknown[0]!r}: choose from {', '.join(CHECKS)}.")
    return names


@dataclass(frozen=True)
class _Task:
    """Checks that one answer decides, here or in a further region."""

    asked: Asked
    group: str
    region: str = ""

    def __call__(self) -> list[Result]:
        """Make the checks; in a further region a failure is none of the deployment's yet."""
        make = _GROUPS[self.group]
        if not self.region:
            return make(self.asked)
        there = replace(self.asked, session=self.asked.session.in_region(self.region))
        there.prepare()
        return [replace(one, state=WARNING) if one.state == FAILED else one for one in make(there)]

    def checks(self, wanted: Collection[str]) -> list[str]:
        """Names of those that are wanted."""
        there = [name for name in _NAMES[self.group] if not self.region or name in _IN_REGIONS]
        return [name for name in there if name in wanted]

    def results(self, answer: list[Result] | Exception, wanted: Collection[str]) -> list[Result]:
        """Those that are wanted; when they could not be made, with why."""
        if isinstance(answer, Exception):
            answer = [_not_checked(name, answer, self.asked) for name in self.checks(wanted)]
        behind = f" {self.region}" if self.region else ""
        return [
            replace(one, check=f"{one.check}{behind}")
            for one in answer
            if one.check in self.checks(wanted)
        ]


def _is_unknown(identity: list[Result] | Exception) -> bool:
    """Whether AWS does not know who asks."""
    return not isinstance(identity, Exception) and identity[0].state == FAILED


def _unsigned(result: Result) -> Result:
    """What a check has found by asking AWS as nobody: nothing, unless it had no need to ask."""
    if result.check.split()[0] not in _SIGNED or result.state == OK:
        return result
    said = "AWS does not know who asks"
    return Result(result.check, NOT_CHECKED, said, "Sign in first, as the check identity says.")


def _not_checked(name: str, error: Exception, asked: Asked) -> Result:
    """What becomes of a check that could not be made."""
    if isinstance(error, TimeoutError):
        return Result(name, NOT_CHECKED, str(error), f"Try again later. {GO_ON}")
    said = reason(error, asked.token).rstrip(".")
    remedy = f"Try again later. {GO_ON}"
    if rights.is_denied(error):
        remedy = f"Have the rights of iam/participant.json given to you. {GO_ON}"
    return Result(name, NOT_CHECKED, said, remedy)
