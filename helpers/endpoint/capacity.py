"""Bring an endpoint up where there is a machine: later, or in another region."""

import os
from collections.abc import Sequence
from typing import Any

from helpers import containers, resources
from helpers.endpoint import deployed, lifetime, logs
from helpers.endpoint.deployed import Endpoint
from helpers.endpoint.deployment import (
    deploy,
    interrupted,
    is_whole,
    refuse_other_than_a_recipe,
)
from helpers.endpoint.waiting import wait
from helpers.errors import CapacityError, EndpointError, QuotaError, WorkshopError
from helpers.recipes import Recipe
from helpers.resources import CONFIG, MODEL
from helpers.session import Session

FIRST_PAUSE_S = 120.0  # AWS time before the second attempt; twice as long before each later one
LONGEST_PAUSE_S = 1800.0


def bring_up(
    session: Session,
    recipe: Recipe,
    *,
    attempts: int = 1,
    regions: Sequence[str] = (),
    weights: str | None = None,
    **given: Any,
) -> Endpoint:
    """Deploy and wait; where AWS has no machine, try again later, then in the next region.

    A region without capacity is tried so many times, one without quota once. What a region is left
    with is removed. In another region the session itself goes on there, which is remembered for
    the other notebooks. An endpoint that is there already, in any of these regions, is attached to.

    Args:
        session: The workshop's session; its region comes first.
        recipe: What to deploy.
        attempts: How often to try in each region.
        regions: Where to go on then, in this order.
        weights: As in `deploy`; a bucket serves its own region only.
        **given: `deploy`'s other arguments.

    Returns:
        The endpoint, `InService`.

    Raises:
        CapacityError: When no region has a machine, or may have one.
        QuotaError: When the only one may have none.
        EndpointError: Whatever else keeps it from coming up.
    """
    _refuse_nonsense(recipe, attempts, regions)
    name = resources.name_of(session.participant, recipe.name)
    order = tuple(dict.fromkeys([session.region, *regions]))
    if weights and len(order) > 1:
        raise EndpointError(
            "SageMaker reads weights from a bucket in its own region only: leave regions out, or "
            "weights."
        )
    for region in order:
        containers.image_uri(recipe.framework, recipe.container_version, region=region)
    try:
        return _somewhere(session, recipe, name, order, attempts, weights=weights, **given)
    except KeyboardInterrupt:
        pass
    raise interrupted(session, name)


def _refuse_nonsense(recipe: Recipe, attempts: int, regions: Sequence[str]) -> None:
    refuse_other_than_a_recipe(recipe)
    if not is_whole(attempts) or attempts < 1:
        raise EndpointError(
            f"At least one attempt is needed, a whole number, not {attempts!r}: give attempts=1."
        )
    is_list = isinstance(regions, list | tuple | set | frozenset)
    if not is_list or not all(isinstance(one, str) for one in regions):
        raise EndpointError(
            f"regions is a list of names of regions, not {regions!r}: give one such as "
            '["us-west-2"].'
        )


def _somewhere(
    session: Session, recipe: Recipe, name: str, order: Sequence[str], attempts: int, **given: Any
) -> Endpoint:
    """In the first region that has a machine."""
    problems = []
    for region in _from_where_it_is(session, name, order):
        _go(session, region)
        try:
            return _insist(session, recipe, name, attempts, **given)
        except (CapacityError, QuotaError) as error:
            if len(order) == 1:
                raise
            problems.append(f"{region}: {str(error).splitlines()[0]}")
        undo(session, name)
    _go(session, order[0])
    raise CapacityError(
        f"No machine for {name}, {_tried(attempts)} in each of {', '.join(order)}: "
        f"{' '.join(problems)} Try later, with more ATTEMPTS, or with another region in "
        "OTHER_REGIONS (attempts and regions of endpoint.bring_up)."
    )


def _tried(attempts: int) -> str:
    return f"tried {'once' if attempts == 1 else f'{attempts} times'}"


def undo(session: Session, name: str) -> None:
    """Remove a deployment from the session's region, its guard last.

    Raises:
        EndpointError: When something cannot be deleted.
    """
    deployed.remove(session, name)
    for kind in (CONFIG, MODEL):
        resources.delete(session, kind, name)
    logs.remove_group(session, name)
    lifetime.remove(session, name)


def _insist(session: Session, recipe: Recipe, name: str, attempts: int, **given: Any) -> Endpoint:
    """Deploy and wait, so many times as there is no capacity."""
    pause_s = FIRST_PAUSE_S
    for _ in range(attempts - 1):
        try:
            return wait(session, deploy(session, recipe, **given))
        except CapacityError:
            deployed.remove(session, name)
        session.say(
            f"No {recipe.instance_type} in {session.region}: next attempt in {pause_s / 60:g} min."
        )
        session.clock.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    try:
        return wait(session, deploy(session, recipe, **given))
    except CapacityError as error:
        problem = str(error)
    raise CapacityError(f"{problem}\nThis was {_tried(attempts)} in {session.region}.")


def _from_where_it_is(session: Session, name: str, order: Sequence[str]) -> tuple[str, ...]:
    """The regions, the one first in which the endpoint is coming up or in service."""
    for region in order[1:] and order:
        here = session if region == session.region else session.in_region(region)
        try:
            status = deployed.status_of(here, name)
        except WorkshopError as error:
            session.say(f"{region} cannot be looked at: {error}")
            continue
        if status not in (None, "Failed", "Deleting"):
            return (region, *(one for one in order if one != region))
    return tuple(order)


def _go(session: Session, region: str) -> None:
    if region == session.region:
        return
    session.move_to(region)
    named = os.environ.get("WORKSHOP_REGION") or region
    others = (
        "and so do the other notebooks"
        if named == region
        else (f"the other notebooks do when you set WORKSHOP_REGION={region}, it is {named}")
    )
    session.say(f"This session goes on in {region}; {others}.")
