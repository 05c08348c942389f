"""Deploy: create model, configuration and endpoint with their guard, or attach to what is there.

The order makes every moment safe: the schedule that deletes the endpoint comes first, then its log
group, then model and configuration, and last what bills. Whatever ends this process in between,
the same call goes on from what AWS itself says is there.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

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
_TRIES, _PAUSE_S = 6, 10.0  # while somebody else deploys under the same name, AWS seconds


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
        EndpointError: When it cannot be created, is there with another configuration or of
            another participant, or an argument makes no sense.
        QuotaError: When the account may not have so many instances.
        GuardError: When its deletion cannot be scheduled; nothing that bills is made then.
        ContainerError: When the region does not offer the container.
        SessionError: When there is no role for the schedule.
        SettingsError: When the token has characters that none has.
    """
    refuse_other_than_a_recipe(recipe)
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
    _refuse_nonsense(session, recipe, role, instance_count, ttl_h, weights)
    image = containers.image_uri(recipe.framework, recipe.container_version, region=session.region)
    wanted = _Wanted(recipe, _environment(recipe, weights), image, instance_count, weights)
    for _ in range(_TRIES):
        there = _attached(session, name, wanted, ttl_h)
        if there:
            return there
        try:
            return _created(session, name, wanted, role=role, hf_token=hf_token, ttl_h=ttl_h)
        except _Overtaken:
            session.say(f"{name} is being deployed elsewhere as well: looking again.")
            session.clock.sleep(_PAUSE_S)
    raise EndpointError(
        f"{name} is being deployed elsewhere as well, and the two get in each other's way: let one "
        "of them end, and try again."
    )


def _attached(
    session: Session, name: str, wanted: "_Wanted", ttl_h: float | None
) -> Endpoint | None:
    """The endpoint that is there, as it was asked for and guarded; None when one is to be made."""
    there = deployed.peek(session, name)
    if there is None:
        return None
    _refuse_anothers(session, "endpoint", name, there.participant)
    if there.status == "Failed":
        session.say(f"Endpoint {name} has failed: it is replaced.")
        deployed.remove(session, name)
        return None
    if there.status == "Deleting":
        session.say(f"Endpoint {name} is being deleted: waiting until it is gone.")
        deployed.wait_until_gone(session, name)
        return None
    due = _kept(session, name, ttl_h, wanted.recipe)
    wanted.refuse_other(there)
    session.say(f"Endpoint {name} is there, {there.status}: attached to it.")
    session.say_measured(f"Endpoint {name} {lifetime.when(session, due)}")
    return there


def _created(
    session: Session,
    name: str,
    wanted: "_Wanted",
    *,
    role: str,
    hf_token: str | None,
    ttl_h: float | None,
) -> Endpoint:
    """A new endpoint, guarded before it is there.

    Raises:
        _Overtaken: When somebody else's deployment of the name got in between.
    """
    recipe = wanted.recipe
    token = None if wanted.weights else _token(recipe, hf_token)
    _refuse_anothers_leftovers(session, name)
    expires = _guarded(session, name, ttl_h, recipe)
    tags = resources.tags(session, recipe.name, expires=expires)
    logs.make_group(session, name, tags)
    env = {**wanted.env, **({"HF_TOKEN": token} if token else {})}
    _remove_leftovers(session, name, wanted, env, role=role, tags=tags)
    container = _container(wanted.image, env, wanted.weights)
    _create_all(
        session, recipe, name, container, tags, role=role, instance_count=wanted.instance_count
    )
    due = _kept(session, name, ttl_h, recipe)  # a clean-up elsewhere may have taken it meanwhile
    created = deployed.look(session, name)
    if created.participant not in ("", session.participant):  # both were made at the same time
        lifetime.remove(session, name)
    _refuse_anothers(session, "endpoint", name, created.participant)
    wanted.refuse_other(created)
    session.say(
        f"Endpoint {name}: {created.instance_count} x {recipe.instance_type}, "
        f"${created.price_per_hour or 0:.2f} an hour from now ({costs.PRICE_DATE})."
    )
    session.say_measured(f"Endpoint {name} {lifetime.when(session, due)}")
    return created


def _refuse_anothers(session: Session, what: str, name: str, participant: str) -> None:
    """Refuse to attach to, replace or remove what is another participant's by its tag."""
    if participant and participant != session.participant:
        raise EndpointError(
            f"The {what} {name} is participant {participant}'s, whose recipe makes the same name "
            f"as yours ({session.participant}): give your recipe another name."
        )


def _refuse_anothers_leftovers(session: Session, name: str) -> None:
    for kind in (CONFIG, MODEL):
        left = resources.describe(session, kind, name)
        if left:
            tags = resources.tags_of(session, left[f"{kind.member}Arn"])
            _refuse_anothers(session, kind.label, name, tags.get("participant", ""))


def _remove_leftovers(
    session: Session,
    name: str,
    wanted: "_Wanted",
    env: Mapping[str, str],
    *,
    role: str,
    tags: Mapping[str, str],
) -> None:
    """Delete a model and a configuration that no endpoint has and that are not as wanted.

    Those that are may be of a deployment elsewhere that is about to make the endpoint: they stay,
    with the tags that count now.

    Raises:
        _Overtaken: When there is an endpoint by now.
    """
    for kind, is_wanted in ((CONFIG, wanted.is_config), (MODEL, wanted.is_model)):
        left = resources.describe(session, kind, name)
        if left is None:
            continue
        if is_wanted(left, name, env, role):
            with suppress(ClientError, BotoCoreError):
                session.client("sagemaker").add_tags(
                    ResourceArn=left[f"{kind.member}Arn"],
                    Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
                )
            continue
        if deployed.status_of(session, name) is not None:
            raise _Overtaken
        resources.delete(session, kind, name)


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


def is_whole(value: object) -> bool:
    """Whether something is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def refuse_other_than_a_recipe(recipe: object) -> None:
    """Refuse what has nothing to deploy in it.

    Raises:
        EndpointError: When it is no recipe.
    """
    if not isinstance(recipe, Recipe):
        raise EndpointError(
            f"A recipe is deployed, not {recipe!r}: give recipes.get('llama-3-70b'), for example."
        )


def _refuse_nonsense(
    session: Session,
    recipe: Recipe,
    role: str,
    instance_count: int,
    ttl_h: float | None,
    weights: str | None,
) -> None:
    """Refuse what cannot come to anything, before anything is made."""
    if not is_whole(instance_count) or instance_count < 1:
        raise EndpointError(
            f"An endpoint needs at least one instance, not {instance_count!r}: give a whole "
            "number, instance_count=1 or more."
        )
    if not isinstance(role, str):
        raise EndpointError(
            f"The execution role is given by its ARN, not as {role!r}: session.role() has it."
        )
    if weights is not None and not (
        isinstance(weights, str) and weights.startswith("s3://") and weights.endswith("/")
    ):
        raise EndpointError(
            f"{weights!r} is no S3 prefix: give what `python -m helpers.weights` prints, it begins "
            "with s3:// and ends with a slash."
        )
    if ttl_h is None:
        return
    lifetime.in_hours(session, ttl_h, never="ttl_h=None for none")
    needs_s = models.startup_s(recipe.model_id)
    if ttl_h * 3600 <= needs_s:
        raise EndpointError(
            f"A time to live of {ttl_h:g} h ends before the endpoint answers, after about "
            f"{needs_s / 60:.0f} min: give more, such as ttl_h={lifetime.DEFAULT_TTL_H:g}."
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
    token = hub.clean(given) or hub.token()
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
    made: list[Kind] = []
    for kind, create in steps:
        secret = container["environment"].get("HF_TOKEN")
        kind_of_error, problem = _problem(create, recipe, session, secret=secret)
        # The SDK can raise while it reads the answer: what counts is what is there.
        if problem and resources.describe(session, kind, name) is None:
            if any(resources.describe(session, before, name) is None for before in made):
                raise _Overtaken  # what it needs was deleted meanwhile
            raise kind_of_error(f"The {kind.label} {name} could not be created: {problem}")
        made.append(kind)


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


class _Overtaken(Exception):
    """Somebody else deploys under the same name at the same time."""


@dataclass(frozen=True)
class _Wanted:
    """What an endpoint is to be, to compare with what is there.

    Attributes:
        recipe: What is deployed.
        env: The container's environment, without the token.
        image: The container's image.
        instance_count: Instances.
        weights: S3 prefix of the model's files, None for the Hub.
    """

    recipe: Recipe
    env: Mapping[str, str]
    image: str
    instance_count: int
    weights: str | None

    def refuse_other(self, there: Endpoint) -> None:
        """Refuse an endpoint with another configuration.

        Raises:
            EndpointError: Names what differs.
        """
        if not there.image or not there.instance_type:
            return  # its model or configuration is gone: nothing to compare
        wanted = {
            **self.env,
            "image": self.image,
            "instance type": self.recipe.instance_type,
            "instance count": self.instance_count,
            "weights": self.weights or "the Hub's",
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

    def is_model(self, told: Mapping[str, Any], _: str, env: Mapping[str, str], role: str) -> bool:
        """Whether a model, as SageMaker describes it, is the one that is to be made."""
        container = told.get("PrimaryContainer", {})
        source = container.get("ModelDataSource", {}).get("S3DataSource", {})
        return (
            container.get("Image") == self.image
            and container.get("Environment") == env
            and source.get("S3Uri") == self.weights
            and told.get("ExecutionRoleArn") == role
        )

    def is_config(self, told: Mapping[str, Any], name: str, *_: object) -> bool:
        """Whether an endpoint configuration, as SageMaker describes it, is the one to be made."""
        variants = told.get("ProductionVariants", [])
        wanted = {
            "VariantName": VARIANT,
            "ModelName": name,
            "InstanceType": self.recipe.instance_type,
            "InitialInstanceCount": self.instance_count,
            "ContainerStartupHealthCheckTimeoutInSeconds": self.recipe.health_check_timeout_s,
            "VolumeSizeInGB": self.recipe.volume_gb,
            "InferenceAmiVersion": self.recipe.inference_ami_version,
        }
        return len(variants) == 1 and all(
            variants[0].get(key) == value for key, value in wanted.items()
        )
