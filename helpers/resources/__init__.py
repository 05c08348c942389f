"""What carries this workshop's names and tags: how it is named, found, told apart, deleted.

All kinds have the same small face: `listed` (what is named so in a region), `tags`, `delete` (ask
for it), `is_there`. Whose something is, its tag `participant` decides. Without one, what is tagged
beside it under the same name; then its name, but only when the name can be read in one way.

`names` has names and tags, `kind` the face; each kind stands in the module of its service, and
`inventory` has them all in their order and finds them.
"""

from helpers.resources.bucket import OBJECTS
from helpers.resources.inventory import (
    ALL_KINDS,
    Unseen,
    ask_to_delete,
    is_there,
    look,
    of_participant,
)
from helpers.resources.kind import ABSENT, ASKED, BUSY, Found, Kind, is_missing
from helpers.resources.logs import LOG_GROUP, logs_of
from helpers.resources.names import (
    FOLDER,
    LOG_GROUPS,
    NAME_LENGTH,
    PREFIX,
    WORKSHOP,
    expires_in,
    name_of,
    participant_in,
    tags,
)
from helpers.resources.sagemaker import (
    CONFIG,
    ENDPOINT,
    FAILED,
    IN_PROGRESS,
    KINDS,
    MODEL,
    delete,
    describe,
    tags_of,
)
from helpers.resources.scaling_targets import SCALING_TARGET
from helpers.resources.schedules import (
    SCHEDULE,
    SCHEDULE_GROUP,
    due,
    groups_with,
    moment,
    schedules_in,
)

__all__ = [
    "ABSENT",
    "ALL_KINDS",
    "ASKED",
    "BUSY",
    "CONFIG",
    "ENDPOINT",
    "FAILED",
    "FOLDER",
    "IN_PROGRESS",
    "KINDS",
    "LOG_GROUP",
    "LOG_GROUPS",
    "MODEL",
    "NAME_LENGTH",
    "OBJECTS",
    "PREFIX",
    "SCALING_TARGET",
    "SCHEDULE",
    "SCHEDULE_GROUP",
    "WORKSHOP",
    "Found",
    "Kind",
    "Unseen",
    "ask_to_delete",
    "delete",
    "describe",
    "due",
    "expires_in",
    "groups_with",
    "is_missing",
    "is_there",
    "logs_of",
    "look",
    "moment",
    "name_of",
    "of_participant",
    "participant_in",
    "schedules_in",
    "tags",
    "tags_of",
]
