"""What a check is asked about and what it answers."""

import contextlib
import threading
from dataclasses import dataclass, field

from botocore.client import BaseClient

from helpers import hub, resources
from helpers.errors import SettingsError
from helpers.recipes import Recipe
from helpers.session import Session

OK, WARNING, FAILED, NOT_CHECKED = "ok", "warning", "failed", "not checked"
GO_ON = "Nothing keeps you from deploying."

_SHORT = {  # seconds, so that a check gives up before its limit
    "connect_timeout": 2,
    "read_timeout": 3,
    "retries": {"mode": "standard", "total_max_attempts": 2},
}
_making = threading.Lock()  # boto3 makes clients in one thread at a time


@dataclass(frozen=True)
class Result:
    """What one check found.

    Attributes:
        check: Its name, one of `preflight.CHECKS`; with a region behind it for the further ones.
        state: `ok`, `warning`, `failed` or `not checked`.
        said: What was found, with the figures.
        remedy: What to do, one sentence; empty when there is nothing to do.
    """

    check: str
    state: str
    said: str
    remedy: str = ""


@dataclass(frozen=True)
class Asked:
    """What is to be deployed, and how to ask about it; the arguments of `preflight.check`."""

    session: Session
    recipe: Recipe
    given_role: str | None = None
    hf_token: str | None = field(default=None, repr=False)
    instance_count: int = 1
    weights: str | None = None

    @property
    def token(self) -> str | None:
        """The Hugging Face token, never shown; None as well when it can be none."""
        with contextlib.suppress(SettingsError):
            return hub.clean(self.hf_token) or hub.token()
        return None

    @property
    def role(self) -> str:
        """ARN of the execution role.

        Raises:
            SessionError: When there is none, or what was given is no role's.
        """
        return self.session.role(self.given_role)

    @property
    def endpoint_name(self) -> str:
        """What the endpoint will be called."""
        return resources.name_of(self.session.participant, self.recipe.name)

    def client(self, service: str) -> BaseClient:
        """A client that gives up soon."""
        with _making:
            return self.session.client(service, **_SHORT)

    def prepare(self) -> None:
        """Let the session make now what its own methods would make in several threads."""
        with _making:
            self.session.client("iam")
