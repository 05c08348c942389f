"""Everything about endpoints that notebooks call, from the modules that do it.

`deployed` finds, looks and removes; `deployment` creates; `waiting` waits and explains a failure;
`capacity` does both until there is a machine; `logs` reads what the container wrote; `lifetime` is
the schedule that deletes an endpoint, whose face is `helpers.guard`.
"""

from helpers.endpoint.capacity import bring_up
from helpers.endpoint.deployed import (
    DELETE_TIMEOUT_S,
    Endpoint,
    find,
    look,
    remove,
)
from helpers.endpoint.deployment import VARIANT, deploy
from helpers.endpoint.logs import LOG_GROUP, container_log
from helpers.endpoint.waiting import wait
from helpers.resources import IN_PROGRESS

__all__ = [
    "DELETE_TIMEOUT_S",
    "IN_PROGRESS",
    "LOG_GROUP",
    "VARIANT",
    "Endpoint",
    "bring_up",
    "container_log",
    "deploy",
    "find",
    "look",
    "remove",
    "wait",
]
