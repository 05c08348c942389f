"""Deploy: create model, configuration and endpoint with their guard, or attach to what is there.

The order makes every moment safe: the schedule that deletes the endpoint comes first, then its log
group, then model and configuration, and last what bills. Whatever ends this process in between,
the same call goes on from what AWS itself says is there.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from helpers import containers, costs, hub, models, resources, sdk, symptoms
from helpers.contracts import VLLM
from helpers.endpoint import deployed, lifetime, logs
from helpers.endpoint.deployed import MODEL_FOLDER, Endpoint
from helpers.endpoint.waiting import still_there
from helpers.errors import EndpointError, GuardError, QuotaError
from helpers.recipes import Recipe
from helpers.resources import CONFIG, ENDPOINT, MODEL, Kind
from helpers.session import Session, reason

VARIANT = "AllTraffic"


def deploy(
    session: Session,
    recipe: Recipe,
    *,
    role: str,
    hf_token: str | None = None,
    instance_count: int = 1,
    ttl_h: float | None = lifetime.DEFAULT_TTL_H,
    weights: str | None = None,
) -> Endpoint:
    """Create model, configuration and endpoint, or attach to the endpoint that is there.

    A failed endpoint of the same name is replaced; what an interrupted deployment left is made
    anew. It returns while the endpoint is still `Creating`: see `wait`.

    Args:
        session: The workshop's session.
        recipe: What to deploy.
        role: ARN of the execution role.
        hf_token: For a gated model; left out, the one of the environment (`hub.token`). Everyone
            who may call `DescribeModel` can read it.
        instance_count: Instances behind the endpoint.
        ttl_h: Hours of AWS time after which AWS deletes the endpoint; None lets it bill until
            somebody does. To attach keeps the expiry there is, and makes one where there is none.
        weights: S3 prefix with the model's files, as `helpers.weights` prints it. The container
            then loads them from there and gets no token.

    Raises:
        EndpointError: When it cannot be created, is there with another configuration, or is to
            have no instance.
        QuotaError: When the account may not have so many instances.
        GuardError: When its deletion cannot be scheduled; nothing that bills is made then.
        ContainerError: When the region does not offer the container.
        SessionError: When there is no role for the schedule.
    """
    name = resources.name_of(session.participant, recipe.name)
    try:
        return _deploy(session, recipe, name, role, hf_token, instance_count, ttl_h, weights)
    except KeyboardInterrupt:
        pass
    raise interrupted(session, name)


def interrupted(session: Session, name: str) -> EndpointError:
    """What to raise after an interrupt: what exists, what it bills and until when."""
    there = deployed.peek(session, name)
    left = still_there(session, there) if there else f"There is no endpoint {name}: nothing bills."
    return EndpointError(f"Interrupted. {left}")


def _deploy(
    session: Session,
    recipe: Recipe,
    name: str,
    role: str,
    hf_token: str | None,
    instance_count: int,
    ttl_h: float | None,
    weights: str | None,
) -> Endpoint:
    _refuse_nonsense(recipe, instance_count, ttl_h, weights)
    image = containers.image_uri(recipe.framework, recipe.container_version, region=session.region)
    env = _environment(recipe, weights)
    there = deployed.peek(session, name)
    if there and there.status == "Failed":
        session.say(f"Endpoint {name} has failed: it is replaced.")
        deployed.remove(session, name)
    elif there and there.status == "Deleting":
        session.say(f"Endpoint {name} is being deleted: waiting until it is gone.")
        deployed.wait_until_gone(session, name)
    elif there:
        due = _kept(session, name, ttl_h, recipe)
        _refuse_other_configuration(there, recipe, env, image, instance_count, weights)
        session.say(f"Endpoint {name} is there, {there.status}: attached to it.")
        session.say_measured(f"Endpoint {name} {lifetime.when(session, due)}")
        return there
    token = None if weights else _token(recipe, hf_token)
    expires = _guarded(session, name, ttl_h, recipe)
    tags = resources.tags(session, recipe.name, expires=expires)
    logs.make_group(session, name, tags)
    for kind in (CONFIG, MODEL):  # without an endpoint they are leftovers, and cost nothing
        resources.delete(session, kind, name)
    container = _container(image, {**env, **({"HF_TOKEN": token} if token else {})}, weights)
    _create_all(session, recipe, name, container, tags, role=role, instance_count=instance_count)
    due = _kept(session, name, ttl_h, recipe)  # a clean-up elsewhere may have taken it meanwhile
    created = deployed.look(session, name)
    session.say(
        f"Endpoint {name}: {instance_count} x {recipe.instance_type}, "
        f"${created.price_per_hour or 0:.2f} an hour from now ({costs.PRICE_DATE})."
    )
    session.say_measured(f"Endpoint {name} {lifetime.when(session, due)}")
    return created


def _guarded(session: Session, name: str, ttl_h: float | None, recipe: Recipe) -> datetime | None:
    """When what is about to be made deletes itself; a schedule of an earlier one counts no more."""
    if ttl_h is not None:
        return lifetime.protect(session, name, hours=ttl_h, recipe_name=recipe.name)
    with suppress(GuardError):  # who wants no guard need have no rights to one
        lifetime.remove(session, name)
    return None


def _kept(session: Session, name: str, ttl_h: float | None, recipe: Recipe) -> datetime | None:
    """When what is there deletes itself; made sure of, when it is to."""
    if ttl_h is not None:
        return lifetime.keep(session, name, hours=ttl_h, recipe_name=recipe.name)
    with suppress(GuardError):
        return lifetime.expiry(session, name)
    return None


def _refuse_nonsense(
    recipe: Recipe, instance_count: int, ttl_h: float | None, weights: str | None
) -> None:
    """Refuse what cannot come to anything, before anything is made."""
    if instance_count < 1:
        raise EndpointError(
            f"An endpoint needs at least one instance, not {instance_count}: give instance_count=1 "
            "or more."
        )
    needs_s = models.startup_s(recipe.model_id)
    if ttl_h is not None and 0 < ttl_h * 3600 <= needs_s:
        raise EndpointError(
            f"A time to live of {ttl_h:g} h ends before the endpoint answers, after about "
            f"{needs_s / 60:.0f} min: give more, such as ttl_h={lifetime.DEFAULT_TTL_H:g}."
        )
    if weights is not None and not (weights.startswith("s3://") and weights.endswith("/")):
        raise EndpointError(
            f"{weights!r} is no S3 prefix: give what `python -m helpers.weights` prints, it begins "
            "with s3:// and ends with a slash."
        )


def _environment(recipe: Recipe, weights: str | None) -> dict[str, str]:
    """What the container reads, without the token."""
    if not weights:
        return dict(recipe.env)
    env = {**recipe.env, recipe.contract.model_variable: MODEL_FOLDER}
    if recipe.framework == VLLM:  # requests go on naming the model, not a folder
        # --served_model_name of `optimum-cli neuron serve` (optimum-neuron, 2026-11).
        env["SM_ON_SERVED_MODEL_NAME"] = recipe.model_id
    return env


def _container(image: str, env: Mapping[str, str], weights: str | None) -> dict[str, Any]:
    """Arguments of sagemaker-core's ContainerDefinition."""
    given: dict[str, Any] = {"image": image, "environment": dict(env)}
    if weights:
        shapes = sdk.sagemaker_core("shapes")
        source = shapes.S3ModelDataSource(
            s3_uri=weights, s3_data_type="S3Prefix", compression_type="None"
        )
        given["model_data_source"] = shapes.ModelDataSource(s3_data_source=source)
    return given


def _token(recipe: Recipe, given: str | None) -> str | None:
    if not recipe.gated:
        return None
    token = hub.cover(given) or hub.token()
    if not token:
        raise EndpointError(
            f"{recipe.model_id} is gated: set HF_TOKEN, or run `hf auth login`, and try again."
        )
    return token


def _create_all(
    session: Session,
    recipe: Recipe,
    name: str,
    container: Mapping[str, Any],
    tags: Mapping[str, str],
    *,
    role: str,
    instance_count: int,
) -> None:
    core, shapes = sdk.sagemaker_core("resources"), sdk.sagemaker_core("shapes")
    _forget_foreign_client()
    here = {
        "session": session.boto,
        "region": session.region,
        "tags": [shapes.Tag(key=key, value=value) for key, value in tags.items()],
    }
    ami = recipe.inference_ami_version
    steps: tuple[tuple[Kind, Callable[[], Any]], ...] = (
        (
            MODEL,
            lambda: core.Model.create(
                model_name=name,
                primary_container=shapes.ContainerDefinition(**container),
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
        secret = container["environment"].get("HF_TOKEN")
        kind_of_error, problem = _problem(create, recipe, session, secret=secret)
        # The SDK can raise while it reads the answer: what counts is what is there.
        if problem and resources.describe(session, kind, name) is None:
            raise kind_of_error(f"The {kind.label} {name} could not be created: {problem}")


def _problem(
    create: Callable[[], Any], recipe: Recipe, session: Session, *, secret: str | None
) -> tuple[type[EndpointError], str]:
    """What went wrong in a sentence, empty when nothing did; no exception is kept.

    The SDK's exceptions hold the request, and the request holds the token.
    """
    try:
        with sdk.quiet():
            create()
    except Exception as error:  # whatever the SDK's validation or parsing comes up with
        problem = reason(error, secret)
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
        found = symptoms.recognize(
            problem, instance_type=recipe.instance_type, region=session.region
        )
        if found and found.name not in _SAID_ALREADY:
            problem += f" {found.remedy}"
        return QuotaError if code == "ResourceLimitExceeded" else EndpointError, problem
    return EndpointError, ""


_SAID_ALREADY = ("right missing", "credentials expired")  # with a remedy, by `reason`


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
    there: Endpoint,
    recipe: Recipe,
    env: Mapping[str, str],
    image: str,
    instance_count: int,
    weights: str | None,
) -> None:
    if not there.image or not there.instance_type:
        return  # its model or configuration is gone: nothing to compare
    wanted = {
        **env,
        "image": image,
        "instance type": recipe.instance_type,
        "instance count": instance_count,
        "weights": weights or "the Hub's",
    }
    has = {
        **there.env,
        "image": there.image,
        "instance type": there.instance_type,
        "instance count": there.instance_count,
        "weights": there.weights or "the Hub's",
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
