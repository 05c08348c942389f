"""Deploy an endpoint, find it again, wait for it, and read its container's log."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from helpers import containers, contracts, costs, hub, resources, sdk
from helpers.errors import (
    ContainerError,
    EndpointError,
    EndpointFailed,
    EndpointMissing,
)
from helpers.recipes import RECIPES, Recipe
from helpers.resources import CONFIG, ENDPOINT, MODEL, Kind
from helpers.session import Session, reason

VARIANT = "AllTraffic"
LOG_GROUP = "/aws/sagemaker/Endpoints/{name}"
IN_PROGRESS = ("Creating", "Updating", "SystemUpdating", "RollingBack")
DELETE_TIMEOUT_S = 900
_JUST_NOW_S = 600  # in service for less: the start-up is still news
_LOOKS_ALLOWED_TO_FAIL = 10  # in a row, while waiting: a laptop loses its network now and then


@dataclass(frozen=True)
class Endpoint:
    """An endpoint as SageMaker describes it, without secrets.

    Attributes:
        name: Its name, and that of its model and configuration.
        status: SageMaker's: `Creating`, `InService`, `Failed`, `Deleting`, …
        recipe_name: The recipe it was made from, empty when unknown.
        model_id: Hugging Face model, empty when unknown.
        image: Container image, empty when its model is gone.
        env: The container's environment, secrets covered.
        instance_type: SageMaker instance type, empty when its configuration is gone.
        instance_count: Instances.
        created: When it was created, AWS time.
        modified: When its status last changed, AWS time.
        price_per_hour: $ an hour for all instances, None when unknown.
        failure_reason: Why it failed, empty when it did not.
    """

    name: str
    status: str
    recipe_name: str
    model_id: str
    image: str
    env: Mapping[str, str]
    instance_type: str
    instance_count: int
    created: datetime
    modified: datetime
    price_per_hour: float | None
    failure_reason: str = ""

    def cost_so_far(self, session: Session) -> float:
        """$ from its creation until now, at most: SageMaker bills once the instance is there."""
        return self.cost((session.clock.now() - self.created).total_seconds())

    def cost(self, seconds: float) -> float:
        """$ for so many seconds of AWS time; 0 when the price is unknown."""
        return max(0.0, seconds) / 3600 * (self.price_per_hour or 0.0)


# --- Deploy ---------------------------------------------------------------------------------


def deploy(
    session: Session,
    recipe: Recipe,
    *,
    role: str,
    hf_token: str | None = None,
    instance_count: int = 1,
) -> Endpoint:
    """Create model, configuration and endpoint, or attach to the endpoint that is there.

    A failed endpoint of the same name is replaced; what an interrupted deployment left is made
    anew. It returns while the endpoint is still `Creating`: see `wait`.

    Args:
        session: The workshop's session.
        recipe: What to deploy.
        role: ARN of the execution role.
        hf_token: For a gated model; left out, the one of the environment (`hub.token`).
        instance_count: Instances behind the endpoint.

    Raises:
        EndpointError: When it cannot be created, is there with another configuration, or is to
            have no instance.
        ContainerError: When the region does not offer the container.
    """
    if instance_count < 1:
        raise EndpointError(
            f"An endpoint needs at least one instance, not {instance_count}: give instance_count=1 "
            "or more."
        )
    name = resources.name_of(session.participant, recipe.name)
    image = containers.image_uri(recipe.framework, recipe.container_version, region=session.region)
    there = _look(session, name)
    if there and there.status == "Failed":
        session.say(f"Endpoint {name} has failed: it is replaced.")
        remove(session, name)
    elif there and there.status == "Deleting":
        session.say(f"Endpoint {name} is being deleted: waiting until it is gone.")
        _wait_until_gone(session, name)
    elif there:
        _refuse_other_configuration(there, recipe, image, instance_count)
        session.say(f"Endpoint {name} is there, {there.status}: attached to it.")
        return there
    env = dict(recipe.env)
    token = (hf_token or hub.token()) if recipe.gated else None
    if token:
        env["HF_TOKEN"] = token
    elif recipe.gated:
        raise EndpointError(
            f"{recipe.model_id} is gated: set HF_TOKEN, or run `hf auth login`, and try again."
        )
    for kind in (CONFIG, MODEL):  # without an endpoint they are leftovers, and cost nothing
        resources.delete(session, kind, name)
    try:
        _create_all(session, recipe, name, image, env, role=role, instance_count=instance_count)
        created = look(session, name)
    except KeyboardInterrupt:
        created = None
    if created is None:
        there = _look(session, name)
        raise EndpointError(
            f"Interrupted. {_still_there(there) if there else 'No endpoint was created.'}"
        )
    session.say(
        f"Endpoint {name}: {instance_count} x {recipe.instance_type}, "
        f"${created.price_per_hour or 0:.2f} an hour from now until you delete it "
        f"({costs.PRICE_DATE})."
    )
    return created


def _create_all(
    session: Session,
    recipe: Recipe,
    name: str,
    image: str,
    env: Mapping[str, str],
    *,
    role: str,
    instance_count: int,
) -> None:
    core, shapes = sdk.sagemaker_core("resources"), sdk.sagemaker_core("shapes")
    _forget_foreign_client()
    tags = [
        shapes.Tag(key=key, value=value)
        for key, value in resources.tags(session, recipe.name).items()
    ]
    here = {"session": session.boto, "region": session.region, "tags": tags}
    ami = recipe.inference_ami_version
    steps: tuple[tuple[Kind, Callable[[], Any]], ...] = (
        (
            MODEL,
            lambda: core.Model.create(
                model_name=name,
                primary_container=shapes.ContainerDefinition(image=image, environment=dict(env)),
                execution_role_arn=role,
                **here,
            ),
        ),
        (
            CONFIG,
            lambda: core.EndpointConfig.create(
                endpoint_config_name=name,
                production_variants=[
                    shapes.ProductionVariant(
                        variant_name=VARIANT,
                        model_name=name,
                        instance_type=recipe.instance_type,
                        initial_instance_count=instance_count,
                        container_startup_health_check_timeout_in_seconds=(
                            recipe.health_check_timeout_s
                        ),
                        volume_size_in_gb=recipe.volume_gb,
                        **({"inference_ami_version": ami} if ami else {}),
                    )
                ],
                **here,
            ),
        ),
        (
            ENDPOINT,
            lambda: core.Endpoint.create(endpoint_name=name, endpoint_config_name=name, **here),
        ),
    )
    for kind, create in steps:
        problem = _problem(create, recipe, session, secret=env.get("HF_TOKEN"))
        # The SDK can raise while it reads the answer: what counts is what is there.
        if problem and resources.describe(session, kind, name) is None:
            raise EndpointError(f"The {kind.label} {name} could not be created: {problem}")


def _problem(
    create: Callable[[], Any], recipe: Recipe, session: Session, *, secret: str | None
) -> str:
    """What went wrong in a sentence, empty when nothing did; no exception is kept.

    The SDK's exceptions hold the request, and the request holds the token.
    """
    try:
        with sdk.quiet():
            create()
    except Exception as error:  # whatever the SDK's validation or parsing comes up with
        problem = reason(error, secret)
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
        if code == "ResourceLimitExceeded":
            quota = costs.INSTANCES[recipe.instance_type].quota_code
            problem += (
                f" Request {quota or 'that quota'} in Service Quotas (service code sagemaker) in "
                f"{session.region}, or choose another region or instance."
            )
        return problem
    return ""


def _forget_foreign_client() -> None:
    """Make sagemaker-core use the session it is given.

    2.20 keeps the first client of the process, whatever session is passed later; 2.27 keeps one
    for each session.
    """
    client = sdk.sagemaker_core("utils.utils").SageMakerClient
    kept = type(client)._instances
    if isinstance(kept.get(client), client):
        del kept[client]


def _refuse_other_configuration(
    there: Endpoint, recipe: Recipe, image: str, instance_count: int
) -> None:
    if not there.image or not there.instance_type:
        return  # its model or configuration is gone: nothing to compare
    wanted = {
        **recipe.env,
        "image": image,
        "instance type": recipe.instance_type,
        "instance count": instance_count,
    }
    has = {
        **there.env,
        "image": there.image,
        "instance type": there.instance_type,
        "instance count": there.instance_count,
    }
    differing = [
        f"{key} {has.get(key, 'absent')} instead of {wanted.get(key, 'absent')}"
        for key in sorted(wanted.keys() | has.keys())
        if not hub.is_secret(key) and has.get(key) != wanted.get(key)
    ]
    if differing:
        raise EndpointError(
            f"Endpoint {there.name} is there with another configuration "
            f"({'; '.join(differing)}): use it as it is, or run 08_clean_up first."
        )


# --- Find -----------------------------------------------------------------------------------


def find(session: Session, name: str | None = None, *, in_service: bool = False) -> Endpoint:
    """The participant's endpoint.

    Args:
        session: The workshop's session.
        name: Its name; left out, the only one the participant has.
        in_service: Refuse one that does not answer requests yet or any more.

    Raises:
        EndpointMissing: When there is none.
        EndpointError: When there are several, or it is not in service though asked for.
    """
    found = look(session, name) if name else _only_one(session)
    if in_service and found.status != "InService":
        raise EndpointError(
            f"Endpoint {found.name} is {found.status}: run 03_deploy_endpoint, it waits until the "
            "endpoint is in service."
        )
    return found


def _only_one(session: Session) -> Endpoint:
    mine = [
        one
        for one in resources.of_participant(session, ENDPOINT)
        if one.status != "Deleting"  # as good as gone
    ]
    if not mine:
        raise EndpointMissing(
            f"Participant {session.participant} has no endpoint in {session.region}: "
            "run 03_deploy_endpoint."
        )
    if len(mine) > 1:
        raise EndpointError(
            f"Participant {session.participant} has {len(mine)} endpoints: "
            "set ENDPOINT_NAME (or --endpoint) to one of "
            f"{', '.join(one.name for one in mine)}."
        )
    return look(session, mine[0].name)


def look(session: Session, name: str) -> Endpoint:
    """An endpoint by name.

    Raises:
        EndpointMissing: When it is not there.
        EndpointError: When SageMaker cannot be asked.
    """
    found = _look(session, name)
    if found is None:
        raise EndpointMissing(
            f"There is no endpoint {name} in {session.region}: run 03_deploy_endpoint."
        )
    return found


def _look(session: Session, name: str) -> Endpoint | None:
    described = resources.describe(session, ENDPOINT, name)
    if described is None:
        return None
    config = resources.describe(session, CONFIG, described["EndpointConfigName"]) or {}
    variant = next(iter(config.get("ProductionVariants", [])), {})
    model = resources.describe(session, MODEL, variant["ModelName"]) if variant else None
    container = (model or {}).get("PrimaryContainer", {})
    env = hub.mask(container.get("Environment", {}))
    running = next(iter(described.get("ProductionVariants", [])), {})
    instance_type = variant.get("InstanceType", "")
    count = running.get("CurrentInstanceCount") or variant.get("InitialInstanceCount", 0)
    known = costs.INSTANCES.get(instance_type)
    tags = resources.tags_of(session, described["EndpointArn"])
    return Endpoint(
        name=described["EndpointName"],
        status=described["EndpointStatus"],
        recipe_name=tags.get("recipe") or _recipe_of(session, name),
        model_id=contracts.model_of(env),
        image=container.get("Image", ""),
        env=env,
        instance_type=instance_type,
        instance_count=count,
        created=described["CreationTime"],
        modified=described["LastModifiedTime"],
        price_per_hour=known.price_per_hour * count if known else None,
        failure_reason=hub.redact(described.get("FailureReason", "")),
    )


def _recipe_of(session: Session, name: str) -> str:
    named = (r for r in RECIPES if resources.name_of(session.participant, r) == name)
    return next(named, "")


# --- Wait -----------------------------------------------------------------------------------


def wait(
    session: Session,
    endpoint: Endpoint,
    *,
    poll_s: float = 15,
    timeout_s: float = 5400,
    mark_s: float = 300,
) -> Endpoint:
    """Wait until an endpoint is in service; says a line at every mark.

    Args:
        session: The workshop's session.
        endpoint: What `deploy` gave.
        poll_s: AWS seconds between two looks.
        timeout_s: AWS seconds since its creation after which to give up.
        mark_s: AWS seconds between two lines.

    Returns:
        The endpoint, `InService`.

    Raises:
        EndpointFailed: When it failed; says why, and what its container said last.
        EndpointError: On time-out or interrupt; says what exists and bills.
    """
    try:
        return _wait(session, endpoint, poll_s=poll_s, timeout_s=timeout_s, mark_s=mark_s)
    except KeyboardInterrupt:
        pass
    raise EndpointError(f"Interrupted. {_still_there(endpoint)}")


def _wait(
    session: Session, endpoint: Endpoint, *, poll_s: float, timeout_s: float, mark_s: float
) -> Endpoint:
    def age_s(moment: datetime) -> float:
        return (moment - endpoint.created).total_seconds()

    def say_marks(until_s: float) -> None:
        nonlocal mark
        while mark * mark_s <= until_s:
            seconds = mark * mark_s
            session.say(f"Creating, {seconds / 60:g} min, ${endpoint.cost(seconds):.2f} so far")
            mark += 1

    came_s, mark = age_s(session.clock.now()), 1
    while True:
        asked_s = age_s(session.clock.now())  # a mark is said when it was still starting then
        endpoint = _patient_look(session, endpoint, poll_s=poll_s)
        if endpoint.status in ("InService", "Failed"):
            break
        if endpoint.status == "Deleting":
            raise EndpointError(
                f"Endpoint {endpoint.name} is being deleted: run 03_deploy_endpoint again."
            )
        if asked_s > timeout_s:
            raise EndpointError(
                f"Still {endpoint.status} after {asked_s / 60:.0f} min. {_still_there(endpoint)}"
            )
        say_marks(asked_s)
        session.clock.sleep(poll_s)
    took_s = age_s(endpoint.modified)
    if endpoint.status == "Failed":
        raise EndpointFailed(_post_mortem(session, endpoint))
    if came_s < took_s + _JUST_NOW_S:
        say_marks(took_s)  # those a slow look has missed
        session.say_measured(
            f"InService after {took_s / 60:.1f} min, ${endpoint.cost(took_s):.2f} so far"
        )
    else:
        session.say_measured(f"InService, ${endpoint.cost_so_far(session):.2f} since its creation")
    return endpoint


def _patient_look(session: Session, endpoint: Endpoint, *, poll_s: float) -> Endpoint:
    """A look that survives a network that comes and goes."""
    for _ in range(_LOOKS_ALLOWED_TO_FAIL - 1):
        try:
            return look(session, endpoint.name)
        except EndpointMissing:
            raise
        except EndpointError:
            session.clock.sleep(poll_s)
    return look(session, endpoint.name)


def _still_there(endpoint: Endpoint) -> str:
    price = f"${endpoint.price_per_hour:.2f}" if endpoint.price_per_hour else "by the hour"
    return (
        f"Endpoint {endpoint.name} goes on starting and bills {price} an hour: run "
        "03_deploy_endpoint again to wait for it, or 08_clean_up to delete it."
    ).replace("by the hour an hour", "by the hour")


def _post_mortem(session: Session, endpoint: Endpoint) -> str:
    """SageMaker's reason, the container's last lines and, where the contract tells, the remedy."""
    parts = [f"Endpoint {endpoint.name} failed: {endpoint.failure_reason}"]
    lines = container_log(session, endpoint.name, since=endpoint.created)
    if lines:  # SageMaker restarts the container: what it repeats is shown once
        once = reversed(dict.fromkeys(reversed(lines)))
        parts += ["The container's last lines:", *(f"  {line}" for line in once)]
    else:
        parts.append("Its container has left no log.")
    parts.append(f"What to do: {_remedy(endpoint)} Then run 03_deploy_endpoint again.")
    return "\n".join(parts)


def _remedy(endpoint: Endpoint) -> str:
    if re.search("capacity", endpoint.failure_reason, re.IGNORECASE):
        return f"AWS has no {endpoint.instance_type} left here: try later or in another region."
    try:
        contract = contracts.contract_for_image(endpoint.image)
        broken = contracts.check(contract, endpoint.env, instance_type=endpoint.instance_type)
    except ContainerError as error:
        return str(error)
    if broken:
        return broken[0].remedy
    return "check the token and its license, or give the container more time (3600 s at most)."


# --- Log and removal ------------------------------------------------------------------------


def container_log(
    session: Session, name: str, *, lines: int = 20, since: datetime | None = None
) -> list[str]:
    """The last lines the endpoint's container wrote, oldest first; empty without a log.

    Args:
        session: The workshop's session.
        name: The endpoint.
        lines: How many at most.
        since: Leave out what is older, of an earlier endpoint of that name for example.
    """
    logs, group = session.client("logs"), LOG_GROUP.format(name=name)
    after = {"startTime": int(since.timestamp() * 1000)} if since else {}
    try:
        streams = logs.describe_log_streams(
            logGroupName=group, orderBy="LastEventTime", descending=True
        )["logStreams"]
        events: list[dict[str, Any]] = []
        for stream in streams[:4]:  # of the latest instances
            events += logs.get_log_events(
                logGroupName=group,
                logStreamName=stream["logStreamName"],
                limit=lines,
                startFromHead=False,
                **after,
            )["events"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return []
        return [f"(the log {group} cannot be read: {reason(error)})"]
    except BotoCoreError as error:
        return [f"(the log {group} cannot be read: {reason(error)})"]
    events.sort(key=lambda event: event["timestamp"])
    return [hub.redact(event["message"].rstrip()) for event in events[-lines:]]


def remove(session: Session, name: str, *, poll_s: float = 5) -> bool:
    """Delete an endpoint and wait until it is gone; False when it was not there.

    AWS refuses to delete an endpoint that is being created or updated: this waits for that too.

    Raises:
        EndpointError: When it cannot be deleted, or is still there after 15 minutes.
    """
    there = resources.describe(session, ENDPOINT, name)
    if there and there["EndpointStatus"] in IN_PROGRESS:
        session.say(
            f"Endpoint {name} is {there['EndpointStatus']}: AWS deletes it once that has ended, "
            "waiting."
        )
        _wait_while(session, name, lambda status: status in IN_PROGRESS, 3 * 3600, poll_s)
    if not there or not resources.delete(session, ENDPOINT, name):
        return False
    _wait_until_gone(session, name, poll_s=poll_s)
    return True


def _wait_until_gone(session: Session, name: str, *, poll_s: float = 5) -> None:
    _wait_while(session, name, lambda status: status is not None, DELETE_TIMEOUT_S, poll_s)


def _wait_while(
    session: Session,
    name: str,
    holds: Callable[[str | None], bool],
    timeout_s: float,
    poll_s: float,
) -> None:
    end_s = session.clock.monotonic() + timeout_s
    while True:
        there = resources.describe(session, ENDPOINT, name)
        status = there["EndpointStatus"] if there else None
        if not holds(status):
            return
        if session.clock.monotonic() > end_s:
            raise EndpointError(
                f"Endpoint {name} is still {status} after {timeout_s / 60:g} min and may still "
                "bill: run 08_clean_up again, or delete it in the SageMaker console."
            )
        session.clock.sleep(poll_s)
