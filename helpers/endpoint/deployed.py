"""What is deployed: find the participant's endpoint, look at it, remove it."""

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from botocore.exceptions import BotoCoreError, ClientError

from helpers import contracts, costs, hub, resources
from helpers.errors import EndpointError, EndpointMissing
from helpers.recipes import RECIPES
from helpers.resources import CONFIG, ENDPOINT, IN_PROGRESS, MODEL, PREFIX, Found
from helpers.session import Session

DELETE_TIMEOUT_S = 900
MODEL_FOLDER = "/opt/ml/model"  # where SageMaker puts weights from S3, AWS's hosting guide
REPLICAS_AT_MOST = "replicas-at-most"  # the tag that says how many an endpoint may have had


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
        weights: S3 prefix its weights come from, empty when the container downloads them.
        most_instances: The most that it may have had, for what it has cost at most.
        participant: Whose it is by its tag, empty when that cannot be read.
        expires: When it is to delete itself by its tag, or `never`; empty when that cannot be
            read. Its schedule is what does it.
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
    weights: str = ""
    most_instances: int = 0
    participant: str = ""
    expires: str = ""

    @property
    def bills(self) -> bool:
        """Whether it has a machine, as far as one knows: one that failed has none.

        What AWS documents is that "DeleteEndpoint is the only operation that can be performed on a
        failed endpoint" (API reference, EndpointStatus, 2026-11); that its machines go when it
        fails stands nowhere [unverified], so delete it all the same.
        """
        return self.status != "Failed"

    def cost_so_far(self, session: Session) -> float:
        """$ from its creation until now, or until it failed; at most.

        SageMaker bills once the instance is there, and instances that came later for less long.
        """
        until = session.clock.now() if self.bills else self.modified
        return self.cost((until - self.created).total_seconds())

    def cost(self, seconds: float) -> float:
        """$ for so many seconds of AWS time, at most; 0 when the price is unknown."""
        if not self.price_per_hour or not self.instance_count:
            return 0.0
        each = self.price_per_hour / self.instance_count
        return max(0.0, seconds) / 3600 * each * max(self.most_instances, self.instance_count)


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
    found = _named(session, name) if name else _only_one(session)
    if in_service and found.status != "InService":
        raise EndpointError(
            f"Endpoint {found.name} is {found.status}: run 03_deploy_endpoint, it waits until the "
            "endpoint is in service."
        )
    return found


def _named(session: Session, name: str) -> Endpoint:
    """An endpoint by name; where it is none of the workshop's and may not be seen, says so."""
    try:
        return look(session, name)
    except EndpointMissing:
        raise
    except EndpointError as error:
        if name.startswith(f"{PREFIX}-"):
            raise
        problem = str(error)
    yours = ""
    with contextlib.suppress(EndpointError):
        yours = "; yours: " + (", ".join(one.name for one in _mine(session)) or "none")
    raise EndpointError(f"No endpoint of the workshop's is called {name}{yours}. {problem}")


def _mine(session: Session) -> list[Found]:
    """The participant's endpoints, without those that are as good as gone."""
    found = resources.of_participant(session, ENDPOINT)
    return [one for one in found if one.status != "Deleting"]


def _only_one(session: Session) -> Endpoint:
    mine = _mine(session)
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
    found = peek(session, name)
    if found is None:
        raise EndpointMissing(
            f"There is no endpoint {name} in {session.region}: run 03_deploy_endpoint."
        )
    return found


def peek(session: Session, name: str) -> Endpoint | None:
    """An endpoint by name, None when it is not there.

    Raises:
        EndpointError: When SageMaker cannot be asked.
    """
    described = resources.describe(session, ENDPOINT, name)
    if described is None:
        return None
    config = resources.describe(session, CONFIG, described["EndpointConfigName"]) or {}
    variant = next(iter(config.get("ProductionVariants", [])), {})
    model = resources.describe(session, MODEL, variant["ModelName"]) if variant else None
    container = (model or {}).get("PrimaryContainer", {})
    env = hub.mask(container.get("Environment", {}))
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    weights = source.get("S3Uri", "")
    running = next(iter(described.get("ProductionVariants", [])), {})
    instance_type = variant.get("InstanceType", "")
    count = running.get("CurrentInstanceCount") or variant.get("InitialInstanceCount", 0)
    wanted = running.get("DesiredInstanceCount") or 0
    known = costs.INSTANCES.get(instance_type)
    tags = resources.tags_of(session, described["EndpointArn"])
    recipe_name = tags.get("recipe") or _recipe_of(session, name)
    return Endpoint(
        name=described["EndpointName"],
        status=described["EndpointStatus"],
        recipe_name=recipe_name,
        model_id=_model_of(env, weights, recipe_name),
        image=container.get("Image", ""),
        env=env,
        instance_type=instance_type,
        instance_count=count,
        created=described["CreationTime"],
        modified=described["LastModifiedTime"],
        price_per_hour=known.price_per_hour * count if known else None,
        failure_reason=hub.redact(described.get("FailureReason", "")),
        weights=weights,
        most_instances=max(count, wanted, _tagged_most(tags)),
        participant=tags.get("participant", ""),
        expires=tags.get("expires", ""),
    )


def remember_most(session: Session, arn: str, count: int) -> None:
    """Let an endpoint's tag say how many replicas it may have had, as far as it may be written.

    To be called before there are so many: nobody else remembers it after a scale-in, and what an
    endpoint has cost at most depends on it.

    Args:
        session: The workshop's session.
        arn: The endpoint's.
        count: Replicas; a larger number that the tag says already stays.
    """
    with contextlib.suppress(ClientError, BotoCoreError, EndpointError):
        if count > _tagged_most(resources.tags_of(session, arn)):
            tag = {"Key": REPLICAS_AT_MOST, "Value": str(count)}
            session.client("sagemaker").add_tags(ResourceArn=arn, Tags=[tag])


def _tagged_most(tags: Mapping[str, str]) -> int:
    value = tags.get(REPLICAS_AT_MOST, "")
    return int(value) if re.fullmatch("[0-9]{1,6}", value) else 0


def _model_of(env: Mapping[str, str], weights: str, recipe_name: str) -> str:
    """The model's name on the Hub, also when its weights come from S3."""
    named = contracts.model_of(env)
    if named != MODEL_FOLDER:
        return named
    copied = re.search("/weights/([^/]+/[^/]+)/?$", weights)
    recipe = RECIPES.get(recipe_name)
    return copied[1] if copied else recipe.model_id if recipe else named


def _recipe_of(session: Session, name: str) -> str:
    named = (r for r in RECIPES if resources.name_of(session.participant, r) == name)
    return next(named, "")


def remove(session: Session, name: str, *, poll_s: float = 5) -> bool:
    """Delete an endpoint and wait until it is gone; False when it was not there.

    AWS refuses to delete an endpoint that is being created or updated: this waits for that too.
    One that is being deleted already, by whomever, is waited for as well.

    Raises:
        EndpointError: When it cannot be deleted, or is still there after 15 minutes.
    """
    status = status_of(session, name)
    if status in IN_PROGRESS:
        session.say(f"Endpoint {name} is {status}: AWS deletes it once that has ended, waiting.")
        _wait_while(session, name, lambda status: status in IN_PROGRESS, 3 * 3600, poll_s)
        status = status_of(session, name)
    if status is None:
        return False
    if status != "Deleting":
        try:
            resources.delete(session, ENDPOINT, name)
        except EndpointError:
            if status_of(session, name) not in (None, "Deleting"):  # its time to live has ended
                raise
    wait_until_gone(session, name, poll_s=poll_s)
    return True


def status_of(session: Session, name: str) -> str | None:
    """An endpoint's status, None when it is not there.

    Raises:
        EndpointError: When SageMaker cannot be asked.
    """
    there = resources.describe(session, ENDPOINT, name)
    return there["EndpointStatus"] if there else None


def wait_until_gone(session: Session, name: str, *, poll_s: float = 5) -> None:
    """Wait until an endpoint that is being deleted is gone.

    Raises:
        EndpointError: When it is still there after 15 minutes.
    """
    _wait_while(session, name, lambda status: status is not None, DELETE_TIMEOUT_S, poll_s)


def _wait_while(
    session: Session,
    name: str,
    holds: Callable[[str | None], bool],
    timeout_s: float,
    poll_s: float,
) -> None:
    end_s = session.clock.monotonic() + timeout_s
    while holds(status := status_of(session, name)):
        if session.clock.monotonic() > end_s:
            raise EndpointError(
                f"Endpoint {name} is still {status} after {timeout_s / 60:g} min and may still "
                "bill: run 08_clean_up again, or delete it in the SageMaker console."
            )
        session.clock.sleep(poll_s)
