"""What can go wrong, as one sentence that says what to do.

```
WorkshopError
├── SettingsError        the target, region or another setting makes no sense
├── SessionError         no credentials, no role, or a target that must not be used
├── ContainerError       no such framework, version, region or image
├── PreflightError       a check that failed stops the deployment
├── EndpointError        an endpoint cannot be made, found or deleted
│   ├── EndpointMissing  there is none
│   ├── QuotaError       the account may not have so many instances
│   ├── GuardError       a time to live cannot be set, read or ended
│   └── EndpointFailed   there is one, and it did not come up
│       └── CapacityError  the region has no machine for it
├── InvocationError      the endpoint answered with an error, or not at all
├── WeightsError         a model cannot be copied to S3
├── ClusterError         a client on another machine was lost
├── ResultsError         a run cannot be read or written
└── RehearsalError       the local AWS did not start or answer
```
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class WorkshopError(Exception):
    """Base of every error the workshop raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """Let IPython show the sentence instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class SettingsError(WorkshopError):
    """The target, region or another setting makes no sense."""


class SessionError(WorkshopError):
    """No credentials, no role, or a target that must not be used."""


class ContainerError(WorkshopError):
    """No such framework, version, region or image."""


class PreflightError(WorkshopError):
    """A check that failed stops the deployment."""


class EndpointError(WorkshopError):
    """An endpoint cannot be made, found or deleted."""


class EndpointMissing(EndpointError):
    """There is no such endpoint."""


class EndpointFailed(EndpointError):
    """The endpoint exists and did not come up."""


class CapacityError(EndpointFailed):
    """AWS has no machine of that type left in the region."""


class QuotaError(EndpointError):
    """The account may not have so many instances of that type in the region."""


class GuardError(EndpointError):
    """A time to live cannot be set, read or ended."""


class InvocationError(WorkshopError):
    """The endpoint answered with an error, or not at all.

    Attributes:
        kind: One word or two for what happened, e.g. `throttled`, `validation`, `timeout`.
        status: HTTP status of SageMaker's answer, None when there was none.
        original_status: HTTP status of the container's answer.
        original_message: What the container itself said.
        partial: Text that had arrived before the error.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        status: int | None = None,
        original_status: int | None = None,
        original_message: str | None = None,
        partial: str = "",
    ):
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.original_status = original_status
        self.original_message = original_message
        self.partial = partial

    def __reduce__(self):
        """Pickle with the keyword arguments, so that the error can cross a process."""
        return _invocation_error, (str(self), self.__dict__)


class WeightsError(WorkshopError):
    """A model cannot be copied to S3."""


class ClusterError(WorkshopError):
    """A client on another machine was lost; what had been recorded is kept."""


class ResultsError(WorkshopError):
    """A run cannot be read or written."""


class RehearsalError(WorkshopError):
    """The local AWS did not start or answer."""


def _invocation_error(message: str, details: dict) -> InvocationError:
    return InvocationError(message, **details)


@contextmanager
def shown(say: Callable[[str], None]) -> Iterator[None]:
    """Say a workshop error and go on: for lessons that fail on purpose.

    Args:
        say: What prints it, for example a session's `say`.
    """
    try:
        yield
    except WorkshopError as error:
        say(f"{type(error).__name__}: {error}")


def nobody_reads() -> None:
    """Let what a command still prints go nowhere: when it ends, Python flushes once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
