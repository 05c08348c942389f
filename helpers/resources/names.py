"""How the workshop names and tags what it makes, and whose a name is."""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from helpers.recipes import RECIPES
from helpers.session import Session

PREFIX = "inf2-workshop"
WORKSHOP = "inferentia2"  # value of the tag `workshop`
NAME_LENGTH = 63  # SageMaker: letters, digits and single hyphens
TAG_LENGTH = 256  # of its value: letters, digits, spaces and _.:/=+-@ (tagging, AWS reference)
LOG_GROUPS = "/aws/sagemaker/Endpoints/"  # SageMaker's, one an endpoint
FOLDER = f"{PREFIX}/"  # in the bucket, one folder a participant


def name_of(participant: str, recipe_name: str) -> str:
    """The one name that model, configuration and endpoint of a recipe share."""
    name = _in_names(f"{PREFIX}-{participant}-{recipe_name}")
    if len(name) <= NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{name[: NAME_LENGTH - 7].rstrip('-')}-{digest}"


def participant_in(name: str) -> str:
    """The participant in a name of the workshop's, empty when it can be read in several ways.

    `inf2-workshop-anna-b-c` is anna's recipe `b-c` or anna-b's recipe `c`: only recipes that this
    workshop has tell where the participant ends.
    """
    if not name.startswith(f"{PREFIX}-"):
        return ""
    rest = name.removeprefix(f"{PREFIX}-")
    ends = {f"-{_in_names(recipe)}" for recipe in RECIPES}
    read = {rest.removesuffix(end) for end in ends if rest.endswith(end) and rest != end}
    return read.pop() if len(read) == 1 else ""


def tags(session: Session, recipe_name: str, *, expires: datetime | None = None) -> dict[str, str]:
    """The tags on everything the workshop creates; `expires` is a moment in UTC, or `never`.

    `person` is there when the participant's own name is longer, or spelt differently.
    """
    person = re.sub(r"[^\w\s.:/=+@-]", " ", session.person).strip()[:TAG_LENGTH]
    return {
        "workshop": WORKSHOP,
        "participant": session.participant,
        "recipe": recipe_name,
        "expires": expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if expires else "never",
        **({"person": person} if person else {}),
    }


def expires_in(tags: Mapping[str, str]) -> datetime | None:
    """The moment that the tag `expires` names; None without one."""
    try:
        told = datetime.fromisoformat(tags.get("expires", ""))
    except ValueError:
        return None
    return told if told.tzinfo else told.replace(tzinfo=UTC)


def _in_names(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]+", "-", text).strip("-")
