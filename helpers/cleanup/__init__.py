"""Find what the workshop has made, delete it, see that it is gone, and say what it cost.

`view` looks, `deletion` deletes and verifies, `instructor` shows who has what. From a terminal:
`python -m helpers.cleanup --all-regions --dry-run`.
"""

from helpers.cleanup.deletion import bill, delete, delete_seen, remaining
from helpers.cleanup.instructor import participants
from helpers.cleanup.view import ALL_REGIONS, View, leftovers, look, say_unseen

__all__ = [
    "ALL_REGIONS",
    "View",
    "bill",
    "delete",
    "delete_seen",
    "leftovers",
    "look",
    "participants",
    "remaining",
    "say_unseen",
]
