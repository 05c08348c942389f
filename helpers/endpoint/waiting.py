"""Wait until an endpoint is in service, say how far it is, and why it failed."""

from collections.abc import Sequence
from datetime import datetime

from helpers import contracts, costs, models, symptoms
from helpers.endpoint import deployed, lifetime, logs
from helpers.endpoint.deployed import Endpoint
from helpers.endpoint.watching import Marks, patiently
from helpers.errors import (
    CapacityError,
    ContainerError,
    EndpointError,
    EndpointFailed,
    WorkshopError,
)
from helpers.resources import IN_PROGRESS
from helpers.session import Session
from helpers.symptoms import Symptom

_JUST_NOW_S = 600  # in service for less: the start-up is still news
# A mark's line tells what was logged until this long after it, and is said later than that: so it
# does not depend on when somebody looked.
_LOG_SLACK_S = 2.0
# What no container recovers from: SageMaker starts it again and again until its time is up.
FATAL = (
    "license not accepted",
    "token refused",
    "gated model",
    "cache miss",
    "no model named",
    "no batch size",
    "two names for a length",
    "no room for an answer",
    "other batch size",
    "no Neuron cores",
    "too few Neuron cores",
    "disk full",
    "file of the model missing",
)


def wait(
    session: Session,
    endpoint: Endpoint,
    *,
    poll_s: float = 15,
    timeout_s: float = 5400,
    mark_s: float = 300,
) -> Endpoint:
    """Wait until an endpoint is in service; says at every mark how far it is and what it cost.

    At every mark, and at the end, it sees to it that the endpoint's time to live is still there.

    Args:
        session: The workshop's session.
        endpoint: What `deploy` gave.
        poll_s: AWS seconds between two looks.
        timeout_s: AWS seconds since its creation, or since its update began, after which to give
            up.
        mark_s: AWS seconds between two lines.

    Returns:
        The endpoint, `InService`.

    Raises:
        EndpointFailed: When it failed; says why, and what its container said last.
        CapacityError: When it failed because AWS has no machine for it.
        EndpointError: On time-out or interrupt; says what exists and bills.
    """
    try:
        return _wait(session, endpoint, poll_s=poll_s, timeout_s=timeout_s, mark_s=mark_s)
    except KeyboardInterrupt:
        pass
    raise EndpointError(f"Interrupted. {still_there(session, endpoint)}")


def still_there(session: Session, endpoint: Endpoint) -> str:
    """What exists, what it bills, when that ends, and what to do about it."""
    if not endpoint.bills:
        return (
            f"Endpoint {endpoint.name} has failed: run 03_deploy_endpoint again to replace it, or "
            "08_clean_up to delete it."
        )
    price = f"${endpoint.price_per_hour:.2f} an hour" if endpoint.price_per_hour else "by the hour"
    try:
        ends = f"It {lifetime.when(session, lifetime.expiry(session, endpoint.name))}."
    except WorkshopError as error:
        ends = str(error)
    return (
        f"Endpoint {endpoint.name} goes on starting and bills {price}. {ends} Run "
        "03_deploy_endpoint again to wait for it, or 08_clean_up to delete it."
    )


# --- Waiting --------------------------------------------------------------------------------


def _wait(
    session: Session, endpoint: Endpoint, *, poll_s: float, timeout_s: float, mark_s: float
) -> Endpoint:
    name, progress = endpoint.name, _Progress(session, endpoint, mark_s)
    came_s = progress.age_s(session.clock.now())
    while True:
        asked_s = progress.age_s(session.clock.now())  # a mark is said when it was starting then
        endpoint = patiently(session, lambda: deployed.look(session, name), poll_s=poll_s)
        if endpoint.status in ("InService", "Failed"):
            break
        if endpoint.status == "Deleting":
            raise EndpointError(
                f"Endpoint {endpoint.name} is being deleted: run 03_deploy_endpoint again."
            )
        if asked_s > timeout_s:
            raise EndpointError(
                f"Still {endpoint.status} after {asked_s / 60:.0f} min. "
                f"{still_there(session, endpoint)}"
            )
        if progress.say_until(asked_s - _LOG_SLACK_S):
            _keep_guard(session, endpoint)
        session.clock.sleep(poll_s)
    if endpoint.status == "Failed":
        raise _failure(session, endpoint)
    _keep_guard(session, endpoint)
    took_s = progress.age_s(endpoint.modified)
    if came_s < took_s + _JUST_NOW_S and took_s > 0:
        progress.say_until(took_s)  # those a slow look has missed
        session.say_measured(
            f"InService after {took_s / 60:.1f} min, ${endpoint.cost(took_s):.2f} so far"
        )
    else:
        session.say_measured(f"InService, ${endpoint.cost_so_far(session):.2f} since its creation")
    return endpoint


def _keep_guard(session: Session, endpoint: Endpoint) -> None:
    """Put back a time to live that a clean-up elsewhere has taken; whoever may not is told so."""
    try:
        lifetime.mend(session, endpoint)
    except WorkshopError as error:
        session.say(f"Whether {endpoint.name} still deletes itself is not known: {error}")


class _Progress:
    """The lines that are said while an endpoint starts, one at every mark.

    Args:
        session: The workshop's session.
        endpoint: What starts; its age counts from its creation, or from when its update began.
        every_s: AWS seconds from one to the next.
    """

    def __init__(self, session: Session, endpoint: Endpoint, every_s: float):
        self._session, self._endpoint = session, endpoint
        changing = endpoint.status in IN_PROGRESS and endpoint.status != "Creating"
        self._since: datetime = endpoint.modified if changing else endpoint.created
        self._marks = Marks(every_s)
        self._dead = False

    def age_s(self, moment: datetime) -> float:
        """AWS seconds from its beginning to a moment."""
        return (moment - self._since).total_seconds()

    def say_until(self, age_s: float) -> bool:
        """Say the lines of all marks up to an age that have not been said; whether there were."""
        due = list(self._marks.due(age_s))
        for mark_s in due:
            self._say(mark_s)
        return bool(due)

    def _say(self, age_s: float) -> None:
        endpoint, expected_s = self._endpoint, models.startup_s(self._endpoint.model_id)
        status = endpoint.status if endpoint.status in IN_PROGRESS else "Creating"
        doing, died_of = self._doing(age_s)
        most = "at most " if doing == logs.WAITING else ""  # without a machine nothing bills
        cost = f", {most}${endpoint.cost(age_s):.2f} so far" if endpoint.price_per_hour else ""
        self._session.say(f"{status}, {_of(age_s, expected_s)}, {doing}{cost}")
        if died_of and not self._dead:
            self._dead = True
            self._session.say(
                f"It will not come up: {died_of.cause} AWS deletes nothing that is {status}, and "
                "goes on until its health check times out."
            )

    def _doing(self, age_s: float) -> tuple[str, Symptom | None]:
        until = self._since.timestamp() + age_s + _LOG_SLACK_S
        lines = logs.read_until(
            self._session,
            self._endpoint.name,
            since=self._since,
            until=datetime.fromtimestamp(until, self._since.tzinfo),
        )
        found = symptoms.recognize("\n".join(lines))
        if found and found.name in FATAL:
            return f"its container has died ({found.name})", found
        return logs.stage(lines), None


def _of(age_s: float, expected_s: float) -> str:
    if age_s <= expected_s:
        return f"{age_s / 60:g} of about {expected_s / 60:.0f} min"
    return f"{age_s / 60:g} min instead of about {expected_s / 60:.0f}"


# --- Failure --------------------------------------------------------------------------------


def _failure(session: Session, endpoint: Endpoint) -> EndpointFailed:
    """SageMaker's reason, the container's last lines, what they mean and what helps."""
    parts = [f"Endpoint {endpoint.name} failed: {endpoint.failure_reason}"]
    lines = logs.container_log(session, endpoint.name, since=endpoint.created)
    if lines:  # SageMaker restarts the container: what it repeats is shown once
        once = reversed(dict.fromkeys(reversed(lines)))
        parts += ["The container's last lines:", *(f"  {line}" for line in once)]
    else:
        parts.append("Its container has left no log.")
    found = _recognized(session, endpoint, lines)
    if found:
        parts.append(f"What it means: {found.cause}")
    parts.append(f"What to do: {_remedy(endpoint, found)} Then run 03_deploy_endpoint again.")
    kind = CapacityError if found and found.name == "no capacity" else EndpointFailed
    return kind("\n".join(parts))


def _recognized(session: Session, endpoint: Endpoint, lines: Sequence[str]) -> Symptom | None:
    known = costs.INSTANCES.get(endpoint.instance_type)
    facts = {
        "instance_type": endpoint.instance_type,
        "model_id": endpoint.model_id,
        "region": session.region,
        "quota_code": known.quota_code if known else "",
        "uri": endpoint.weights,
    }
    return symptoms.recognize("\n".join([*lines, endpoint.failure_reason]), **facts)


def _remedy(endpoint: Endpoint, found: Symptom | None) -> str:
    """The contract's, which knows the configuration; else the symptom's."""
    if found and found.name == "no capacity":
        return (
            "Try later or in another region: with ATTEMPTS and OTHER_REGIONS (attempts and regions "
            "of endpoint.bring_up) 03_deploy_endpoint does both by itself."
        )
    try:
        contract = contracts.contract_for_image(endpoint.image)
        broken = contracts.check(contract, endpoint.env, instance_type=endpoint.instance_type)
    except ContainerError as error:
        return str(error)
    if broken and not endpoint.weights:
        return broken[0].remedy
    if found:
        return found.remedy
    return "check the token and its license, or give the container more time (3600 s at most)."
