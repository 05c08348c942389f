"""Check before deploying what can be known before deploying: one table, in seconds, for nothing.

An endpoint takes 40 minutes to fail. What it would fail of is asked of AWS, of the Hugging Face Hub
and of the container's contract beforehand. A check that cannot be made is `not checked` and holds
nothing up; one that failed stops the deployment unless it is overridden by its name.
"""

import argparse
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd
from botocore.client import BaseClient
from botocore.exceptions import BotoCoreError, ClientError

from helpers import (
    containers,
    contracts,
    costs,
    deadline,
    hub,
    models,
    neuron_cache,
    pricelist,
    recipes,
    resources,
    rights,
    usage,
)
from helpers.errors import ContainerError, PreflightError, SessionError, WorkshopError
from helpers.recipes import Recipe
from helpers.session import Session, open_session, reason

OK, WARNING, FAILED, NOT_CHECKED = "ok", "warning", "failed", "not checked"
LIMIT_S = 8.0  # real seconds; a check without an answer by then is not checked

_SHORT = {  # seconds, so that a check gives up before its limit
    "connect_timeout": 2,
    "read_timeout": 3,
    "retries": {"mode": "standard", "total_max_attempts": 2},
}
_SAGEMAKER = "sagemaker.amazonaws.com"
_GIB_IN_GB = 1.073741824
_HBM_GIB_PER_CORE = 16  # half a chip's (costs.SPECIFICATION_SOURCE)
_TIGHT = 0.9  # of what there is: code, activations and a slow day need the rest [derived]
_MOST_VOLUME_GB = 512  # SageMaker, botocore's service model
_HEALTH_CHECK_S = (60, 3600)  # the same
_GO_ON = "Nothing keeps you from deploying."


@dataclass(frozen=True)
class Result:
    """What one check found.

    Attributes:
        check: Its name, one of `CHECKS`; with a region behind it for the further ones.
        state: `ok`, `warning`, `failed` or `not checked`.
        said: What was found, with the figures.
        remedy: What to do, one sentence; empty when there is nothing to do.
    """

    check: str
    state: str
    said: str
    remedy: str = ""


# --- All of them ----------------------------------------------------------------------------


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
        PreflightError: When there is no check of a name.
    """
    wanted = _known(CHECKS if only is None else only)
    asked = Asked(session, recipe, role, hf_token, instance_count, weights)
    asked.prepare()
    tasks = {group: _Task(asked, group) for group in _GROUPS}
    for region in dict.fromkeys(regions or ()):
        if region != session.region:
            tasks |= {f"{group} {region}": _Task(asked, group, region) for group in _REGIONAL}
    tasks = {name: task for name, task in tasks.items() if task.checks(wanted)}
    found = deadline.together(tasks, limit_s=LIMIT_S)
    results = [one for name, task in tasks.items() for one in task.results(found[name], wanted)]
    order = list(CHECKS)
    return sorted(results, key=lambda one: (" " in one.check, order.index(one.check.split()[0])))


def table(results: Iterable[Result]) -> pd.DataFrame:
    """The results as a table: check, result, what to do."""
    rows = [(one.check, f"{one.state}: {one.said}", one.remedy) for one in results]
    return pd.DataFrame(rows, columns=["check", "result", "what to do"])


def require(results: Iterable[Result], *, override: str | Collection[str] = ()) -> None:
    """Stop when a check has failed that nobody overrides; the rest lets a deployment happen.

    Args:
        results: What `check` returned.
        override: Names of checks that may fail.

    Raises:
        PreflightError: Names every failed check, what it found and what to do; or a name that is
            none of a check.
    """
    allowed = _known(override)
    failed = [one for one in results if one.state == FAILED and one.check not in allowed]
    if not failed:
        return
    problems = "; ".join(
        f"{one.check} ({one.said}): {one.remedy.rstrip('.') or 'see the table'}" for one in failed
    )
    count = f"{len(failed)} checks have" if len(failed) > 1 else "A check has"
    raise PreflightError(
        f"{count} failed, so nothing was deployed: {problems}; or deploy all the same with "
        f"override={[one.check for one in failed]}."
    )


def _known(names: str | Iterable[str]) -> list[str]:
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise PreflightError(f"There is no check {unknown[0]!r}: choose from {', '.join(CHECKS)}.")
    return names


@dataclass(frozen=True)
class _Task:
    """Checks that one answer decides, here or in a further region."""

    asked: "Asked"
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


def _not_checked(name: str, error: Exception, asked: "Asked") -> Result:
    """What becomes of a check that could not be made."""
    if isinstance(error, TimeoutError):
        return Result(name, NOT_CHECKED, str(error), f"Try again later. {_GO_ON}")
    said = reason(error, asked.token).rstrip(".")
    remedy = f"Try again later. {_GO_ON}"
    if rights.is_denied(error):
        remedy = f"Have the rights of iam/participant.json given to you. {_GO_ON}"
    return Result(name, NOT_CHECKED, said, remedy)


_making = threading.Lock()  # boto3 makes clients in one thread at a time


@dataclass(frozen=True)
class Asked:
    """What is to be deployed, and how to ask about it; the arguments of `check`."""

    session: Session
    recipe: Recipe
    given_role: str | None = None
    hf_token: str | None = field(default=None, repr=False)
    instance_count: int = 1
    weights: str | None = None

    @property
    def token(self) -> str | None:
        """The Hugging Face token, never shown."""
        return self.hf_token or hub.token()

    @property
    def role(self) -> str:
        """ARN of the execution role.

        Raises:
            SessionError: When there is none.
        """
        return self.given_role or self.session.role()

    @property
    def endpoint_name(self) -> str:
        """What the endpoint will be called."""
        return resources.name_of(self.session.participant, self.recipe.name)

    def client(self, service: str) -> BaseClient:
        """A client that gives up soon."""
        with _making:
            return self.session.client(service, **_SHORT)

    def prepare(self) -> None:
        """Let the session make now what its own methods would make in several threads."""
        with _making:
            self.session.client("iam")


# --- Who one is, and what one may -----------------------------------------------------------


def _identity(asked: Asked) -> list[Result]:
    try:
        arn = asked.client("sts").get_caller_identity()["Arn"]
    except ClientError as error:
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


def _role(asked: Asked) -> list[Result]:
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
    problem = rights.problem_of_role(
        asked.client("iam"),
        arn,
        account=asked.session.account,
        service=_SAGEMAKER,
    )
    if not problem:
        return [Result("role", OK, f"{arn} trusts SageMaker")]
    remedy = "Deploy iam/template.yaml, which makes inf2-workshop-execution, or give the ARN of "
    remedy += f"another role of this account that trusts {_SAGEMAKER} in ROLE_ARN."
    return [Result("role", FAILED, problem, remedy)]


def _permissions(asked: Asked) -> list[Result]:
    """Of whoever deploys and of the role under which the container runs, in one row."""
    role, scheduler = _or_none(lambda: asked.role), _or_none(asked.session.scheduler_role)
    passed = {_SAGEMAKER: role, "scheduler.amazonaws.com": scheduler}
    place = rights.Place(
        asked.session,
        asked.endpoint_name,
        asked.recipe.instance_type,
        {service: arn for service, arn in passed.items() if arn},
    )
    rows = [_rights(asked, place, rights.PARTICIPANT, asked.session.identity, "you")]
    if role:
        rows.append(_rights(asked, place, rights.EXECUTION, role, role.rpartition("/")[2]))
    worst = min((one.state for one in rows), key=(FAILED, NOT_CHECKED, WARNING, OK).index)
    said = "; ".join(one.said for one in rows)
    remedies = dict.fromkeys(one.remedy for one in rows if one.remedy)
    return [Result("permissions", worst, said, " ".join(remedies))]


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
            said = f"{who} may deploy, and may not {', '.join(found.later)}"
            remedy = f"{attach} for what comes later (iam/README.md says what each is for)."
            return Result("permissions", WARNING, said, remedy)
        return Result("permissions", OK, f"{who} may do what iam/{kind}.json lists (simulated)")
    name = rights.enough_by_name(iam, principal, kind)
    if name:
        said = f"of {who} only the name of a policy is known, {name}: {simulated}"
        remedy = "Allow iam:SimulatePrincipalPolicy to have it simulated."
        return Result("permissions", WARNING, said, remedy)
    said = f"{who}: no attached policy is known to be enough, and {simulated}"
    return Result("permissions", NOT_CHECKED, said, f"{attach}, or compare by eye. {_GO_ON}")


def _scheduler_role(asked: Asked) -> list[Result]:
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
    return [Result("scheduler-role", OK, f"{arn} deletes the endpoint when its time is up")]


def _or_none(get: Callable[[], str]) -> str | None:
    try:
        return get()
    except SessionError:
        return None


# --- What the region has --------------------------------------------------------------------


def _container(asked: Asked) -> list[Result]:
    recipe, region = asked.recipe, asked.session.region
    name = f"{recipe.framework} {recipe.container_version}"
    try:
        containers.check_offered(recipe.framework, recipe.container_version, region=region)
    except ContainerError as error:
        both = containers.regions(recipe.framework, recipe.container_version).index
        return [
            Result(
                "container",
                FAILED,
                str(error).partition(":")[0],
                f"Choose a region that has it and the machine: {', '.join(both)}.",
            )
        ]
    return [Result("container", OK, f"{name} is offered in {region}")]


def _instance_and_price(asked: Asked) -> list[Result]:
    """Both come from the Price List: a type is offered where it has a price for hosting."""
    type_, region = asked.recipe.instance_type, asked.session.region
    try:
        here = asked.session.in_region(pricelist.region_for(region))
        listed = pricelist.hosting(replace(asked, session=here).client("pricing"), type_, region)
        problem = f"the Price List has none for {region}"
    except (BotoCoreError, ClientError) as error:  # the dated table stands in
        listed, problem = None, f"the Price List: {reason(error).rstrip('.')}"
    return [
        _instance(type_, region, listed, problem),
        _price(type_, asked.instance_count, listed, problem),
    ]


def _instance(type_: str, region: str, listed: float | None, problem: str) -> Result:
    if listed is not None:
        return Result("instance", OK, f"{type_} is offered in {region} (Price List)")
    known = containers.INF2_48XLARGE_REGIONS
    if not type_.startswith("ml.inf2."):
        remedy = f"Look at SageMaker's prices whether {region} has it. {_GO_ON}"
        return Result("instance", NOT_CHECKED, f"where {type_} is offered: {problem}", remedy)
    if region in known:
        said = f"EC2 offers {type_} in {region} (list of 2026-08; {problem})"
        return Result("instance", OK, said)
    said = f"{type_} is not offered in {region} (list of 2026-08; {problem})"
    remedy = f"Choose a region that has it: {', '.join(known)}."
    return Result("instance", FAILED, said, remedy)


def _price(type_: str, count: int, listed: float | None, problem: str) -> Result:
    instance = costs.INSTANCES.get(type_)
    if listed is None and instance is None:
        said = f"nobody here knows what {type_} costs ({problem})"
        remedy = "Look it up before you deploy: https://aws.amazon.com/sagemaker/pricing."
        return Result("price", WARNING, said, remedy)
    dated = instance.price_per_hour if instance else listed
    hourly = (dated if listed is None else listed) * count
    said = f"${hourly:.2f} an hour, ${hourly * 24:.0f} a day"
    if count > 1:
        said += f" for {count} instances"
    if listed is None:
        return Result("price", OK, f"{said} ({costs.PRICE_DATE}; {problem})")
    changed = f"; {costs.PRICE_DATE}: ${dated * count:.2f}" if dated != listed else ""
    return Result("price", OK, f"{said} (Price List{changed})")


def _quota(asked: Asked) -> list[Result]:
    type_, region = asked.recipe.instance_type, asked.session.region
    instance = costs.INSTANCES.get(type_)
    if instance is None or not instance.quota_code:
        said = f"the code of the quota for {type_} is not known here"
        remedy = f'Look for "{type_} for endpoint usage" in Service Quotas. {_GO_ON}'
        return [Result("quota", NOT_CHECKED, said, remedy)]
    limit = usage.limit(asked.client("service-quotas"), instance.quota_code)
    used = usage.in_use(asked.client("sagemaker"), type_)
    own = used.instances.get(asked.endpoint_name, 0)
    left = max(0, int(limit) - used.total)
    said = f"limit {limit:g} of {type_}, {used.total} in use, {left} left"
    if used.unseen:
        said += f" (without {used.unseen} endpoints that you may not look at)"
    needed = max(0, asked.instance_count - own)
    if needed <= left:
        return [Result("quota", OK, f"{said}; {own} of them yours" if own else said)]
    at_least = used.total + needed
    return [
        Result(
            "quota",
            FAILED,
            f"{said}, {needed} needed",
            f'Request at least {at_least} for {instance.quota_code} ("{type_} for endpoint '
            f'usage") in {region} at https://{region}.console.aws.amazon.com/servicequotas/home/'
            f"services/sagemaker/quotas/{instance.quota_code}, or choose another region.",
        )
    ]


# --- The Hugging Face Hub -------------------------------------------------------------------


def _token_and_license(asked: Asked) -> list[Result]:
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
            Result("token", state, said, remedy if state == FAILED else _GO_ON),
            Result("license", NOT_CHECKED, "no token to ask with", "Mend the token first."),
        ]
    token = Result("token", OK, f"of {found.user}, from {found.source}")
    if found.licence_accepted:
        return [token, Result("license", OK, f"{found.user} has accepted {license_}")]
    if found.licence_accepted is None:
        return [token, Result("license", NOT_CHECKED, said, f"Try again later. {_GO_ON}")]
    url = f"{hub.HUB_URL}/{model_id}"
    remedy = remedy if url in remedy else f"{remedy} See {url}."
    return [token, Result("license", FAILED, said, remedy)]


# --- The configuration ----------------------------------------------------------------------


def _contract(asked: Asked) -> list[Result]:
    recipe = asked.recipe
    env = {**recipe.env, "HF_TOKEN": "checked on its own"}
    broken = contracts.check(recipe.contract, env, instance_type=recipe.instance_type, cache=False)
    if broken:
        others = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        return [Result("contract", FAILED, broken[0].message + others, broken[0].remedy)]
    name = f"{recipe.contract.server} ({recipe.container_version})"
    old_driver = recipe.framework == contracts.VLLM and not recipe.inference_ami_version
    if old_driver and recipe.instance_type.startswith("ml.inf2."):
        return [
            Result(
                "contract",
                WARNING,
                f"{name} on inf2 gets an old Neuron driver without an inference AMI",
                f"Set inference_ami_version to {recipes.NEURON_AMI}.",
            )
        ]
    return [Result("contract", OK, f"{name} takes this environment")]


def _cache(asked: Asked) -> list[Result]:
    recipe = asked.recipe
    found = neuron_cache.look_up(recipe.contract, recipe.env, instance_type=recipe.instance_type)
    entry, wanted = found.entry, found.asked
    if entry:
        said = f"{_shape_of(entry)} is listed ({found.source})"
        if not entry.assumed:
            return [Result("cache", OK, said)]
        said = f"{_shape_of(entry)} is assumed, not seen in a list ({found.source})"
        remedy = f"Be ready to read the container's log: {entry.source}."
        return [Result("cache", WARNING, said, remedy)]
    said = f"{wanted.model_id} as {_shape_of(wanted)}, compiler {recipe.contract.compiler}, is not "
    said += f"cached, and the container does not compile ({found.source})"
    near = "; or: ".join(map(str, found.near))
    remedy = f"{near[:1].upper()}{near[1:]}." if near else _uncached(wanted.model_id)
    return [Result("cache", FAILED, said, remedy)]


def _shape_of(shape: contracts.Asked | contracts.CacheEntry) -> str:
    parts = (
        ("batch {}", shape.batch_size),
        ("{} tokens", shape.sequence_length),
        ("{} cores", shape.num_cores),
        ("{}", shape.auto_cast_type),
    )
    return ", ".join(words.format(value) for words, value in parts if value is not None)


def _uncached(model_id: str | None) -> str:
    cached = dict.fromkeys(entry.model_id for entry in contracts.CACHE)
    return f"Choose a model that is cached ({', '.join(cached)}) instead of {model_id}."


def _shape(asked: Asked) -> list[Result]:
    recipe = asked.recipe
    try:
        shape = recipe.shape
    except ContainerError as error:
        return [Result("shape", FAILED, *_said_and_remedy(error))]
    longest, total, length = shape.max_input_tokens, shape.max_total_tokens, shape.sequence_length
    limit = next((n for n in recipe.contract.input_variables if recipe.env.get(n)), "the input")
    if total > length:
        return [
            Result(
                "shape",
                FAILED,
                f"MAX_TOTAL_TOKENS {total} is more than the {length} tokens a slot holds",
                f"Set MAX_TOTAL_TOKENS to {length}, or {recipe.contract.length_variable} to "
                f"{total} if that is cached.",
            )
        ]
    if longest >= total:
        return [
            Result(
                "shape",
                FAILED,
                f"a prompt of {longest} tokens leaves no room for an answer in {total}",
                f"Set {limit} below {total}.",
            )
        ]
    said = f"longest prompt {longest} + {total - longest} left for the answer = {total} tokens"
    if recipe.framework == contracts.VLLM:
        said = f"prompt and answer share {total} tokens"
    said += f", a slot holds {length}; {shape.batch_size} slots"
    router = recipe.env.get("MAX_BATCH_SIZE", "")
    if router.isdigit() and 0 < int(router) < shape.batch_size:
        return [
            Result(
                "shape",
                WARNING,
                f"{said}, of which {router} are used",
                f"Set MAX_BATCH_SIZE to {shape.batch_size}.",
            )
        ]
    return [Result("shape", OK, said)]


def _said_and_remedy(error: Exception) -> tuple[str, str]:
    said, _, remedy = str(error).partition(": ")
    return said, f"{remedy[:1].upper()}{remedy[1:]}"


def _memory(asked: Asked) -> list[Result]:
    recipe = asked.recipe
    shape, instance = recipe.shape, costs.INSTANCES.get(recipe.instance_type)
    if instance is None:
        said = f"the memory of {recipe.instance_type} is not known here"
        remedy = f"Choose one of {', '.join(costs.INSTANCES)}. {_GO_ON}"
        return [Result("memory", NOT_CHECKED, said, remedy)]
    cores = min(shape.num_cores or instance.cores, instance.cores)
    there_gb = cores * _HBM_GIB_PER_CORE * _GIB_IN_GB
    weights_gb = models.weights_gb(recipe.model_id)
    known = models.architecture(recipe.model_id)
    slots = shape.batch_size * shape.sequence_length
    cache_gb = known.kv_bytes_per_token * slots / 1e9 if known else 0.0
    needed_gb = weights_gb + cache_gb
    cached = f"{cache_gb:.1f} GB of KV cache" if known else "a KV cache of unknown size"
    said = f"{weights_gb:.0f} GB of weights + {cached} ({shape.batch_size} x "
    said += f"{shape.sequence_length} tokens) = {needed_gb:.0f} GB of {there_gb:.0f} GB HBM "
    said += f"({cores} cores)"
    if needed_gb > there_gb:
        return [Result("memory", FAILED, said, _larger(needed_gb, shape.batch_size))]
    if not known:
        remedy = "Add the KV cache by config.json: 4 bytes x layers x KV heads x head size a token."
        return [Result("memory", WARNING, said, remedy)]
    if needed_gb > _TIGHT * there_gb:
        remedy = f"Leave a tenth free: {_larger(needed_gb / _TIGHT, shape.batch_size)}"
        return [Result("memory", WARNING, said, remedy)]
    return [Result("memory", OK, said)]


def _larger(needed_gb: float, batch_size: int) -> str:
    fitting = [
        one.name
        for one in costs.INSTANCES.values()
        if one.hbm_gib * _GIB_IN_GB >= needed_gb and one.name.startswith("ml.inf2.")
    ]
    smaller = " or a smaller batch" if batch_size > 1 else ""
    if fitting:
        return f"Choose {fitting[0]} with all its cores{smaller}."
    return f"Choose a smaller model{smaller}: no inf2 holds {needed_gb:.0f} GB."


def _disk(asked: Asked) -> list[Result]:
    recipe = asked.recipe
    copies = recipe.contract.checkpoint_copies
    weights_gb = models.weights_gb(recipe.model_id)
    needed_gb = copies * weights_gb
    times = " (two copies: this version saves the checkpoint again)" if copies > 1 else ""
    said = f"{needed_gb:.0f} GB of weights{times} on {recipe.volume_gb} GB"
    if needed_gb > _MOST_VOLUME_GB:
        return [
            Result(
                "disk",
                FAILED,
                said,
                f"Choose a smaller model: a volume holds {_MOST_VOLUME_GB} GB.",
            )
        ]
    if needed_gb > _TIGHT * recipe.volume_gb:
        state = FAILED if needed_gb > recipe.volume_gb else WARNING
        enough_gb = min(_MOST_VOLUME_GB, round(needed_gb / _TIGHT + 0.5))
        return [Result("disk", state, said, f"Set volume_gb to {enough_gb} or more.")]
    return [Result("disk", OK, said)]


def _timeout(asked: Asked) -> list[Result]:
    recipe = asked.recipe
    given_s, (lowest_s, highest_s) = recipe.health_check_timeout_s, _HEALTH_CHECK_S
    # The health check begins with the container; the instance comes before.
    loading_s = models.startup_s(recipe.model_id) - models.INSTANCE_S
    said = f"loading takes about {loading_s / 60:.0f} min, the health check waits "
    said += f"{given_s / 60:.0f} min"
    if not lowest_s <= given_s <= highest_s:
        remedy = f"Set health_check_timeout_s from {lowest_s} to {highest_s}, as SageMaker takes."
        return [Result("timeout", FAILED, said, remedy)]
    remedy = f"Set health_check_timeout_s to {highest_s}."
    if loading_s > given_s:
        if loading_s > highest_s:
            remedy += " It is the most SageMaker takes, and may not do."
        return [Result("timeout", FAILED, said, remedy)]
    if loading_s > _TIGHT * given_s:
        return [Result("timeout", WARNING, said, remedy)]
    return [Result("timeout", OK, said)]


# What is checked together because one answer tells both.
_GROUPS: dict[str, Callable[[Asked], list[Result]]] = {
    "identity": _identity,
    "role": _role,
    "permissions": _permissions,
    "scheduler-role": _scheduler_role,
    "container": _container,
    "prices": _instance_and_price,
    "quota": _quota,
    "hub": _token_and_license,
    "contract": _contract,
    "cache": _cache,
    "shape": _shape,
    "memory": _memory,
    "disk": _disk,
    "timeout": _timeout,
}
_NAMES = {group: (group,) for group in _GROUPS} | {
    "prices": ("instance", "price"),
    "hub": ("token", "license"),
}
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
    "contract": "the container takes the environment",
    "cache": "the shape has been compiled",
    "shape": "prompt and answer fit into a slot",
    "memory": "weights and KV cache fit into HBM",
    "disk": "the weights fit onto the volume",
    "timeout": "the health check outlasts the loading",
    "price": "what an hour costs",
}


# --- The command line -----------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a recipe and print the table; the command line.

    Returns:
        0 when a deployment may begin, 1 when a check has failed.
    """
    parser = argparse.ArgumentParser(prog="python -m helpers.preflight", description=main.__doc__)
    parser.add_argument("--recipe", default=recipes.DEFAULT, choices=recipes.RECIPES)
    parser.add_argument("--instance-type", metavar="TYPE", help="default: the recipe's")
    parser.add_argument("--instance-count", type=int, default=1, metavar="N")
    parser.add_argument("--region", metavar="REGION", help="default: the session's")
    parser.add_argument("--or-region", action="append", metavar="REGION", help="a further one")
    parser.add_argument("--role", metavar="ARN", help="execution role")
    parser.add_argument("--only", action="append", metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--override", action="append", default=[], metavar="CHECK")
    chosen = parser.parse_args(arguments)
    try:
        session = open_session(region=chosen.region)
        recipe = recipes.get(chosen.recipe, instance_type=chosen.instance_type)
        results = check(
            session,
            recipe,
            role=chosen.role,
            instance_count=chosen.instance_count,
            regions=chosen.or_region,
            only=chosen.only,
        )
        print(session.table(table(results)).to_string())
        require(results, override=chosen.override)
    except WorkshopError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
