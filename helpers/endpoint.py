"""Everything about endpoints that notebooks call, from the modules that do it.

`deployed` finds, looks and removes; `deployment` creates; `waiting` waits and explains a failure;
`capacity` does both until there is a machine; `container_log` reads what the container wrote.
"""

from helpers.capacity import bring_up
from helpers.container_log import LOG_GROUP, container_log
from helpers.deployed import DELETE_TIMEOUT_S, IN_PROGRESS, Endpoint, find, look, remove
from helpers.deployment import VARIANT, deploy
from helpers.waiting import wait

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
