"""A rehearsal server of a test module's own, fast, and answers put in AWS's mouth."""

import contextlib
import json
import os

from botocore.awsrequest import AWSResponse

from helpers import session as sessions
from helpers import settings
from helpers.rehearsal import launch

SPEED = 3600  # one second here is one hour there


@contextlib.contextmanager
def server(state_dir):
    """Start a server, make it this process's rehearsal, and stop it."""
    before = dict(os.environ)
    os.environ.update(
        WORKSHOP_TARGET="rehearsal", WORKSHOP_STATE=str(state_dir), WORKSHOP_SPEED=str(SPEED)
    )
    loaded = settings.load()
    try:
        yield launch.ensure(loaded)
    finally:
        sessions.leave_rehearsal()
        launch.stop(loaded)
        os.environ.clear()
        os.environ.update(before)


class _Raw:
    def __init__(self, body):
        self._body = body

    def stream(self, *_, **__):
        yield self._body

    def read(self, *_):
        return self._body


def refuse(session, operation, code, message, *, status=400, service="sagemaker"):
    """From now on AWS refuses an operation to the clients this session makes."""

    def answer(request, **_):
        body = json.dumps({"__type": code, "message": message}).encode()
        return AWSResponse(request.url, status, {"x-amzn-errortype": code}, _Raw(body))

    session.boto.events.register(f"before-send.{service}.{operation}", answer)


def pretend(session, operation, *, times=10**9, service="sagemaker", **members):
    """The next answers of an operation to this session's clients have these members."""
    left = iter(range(times))

    def change(parsed, **_):
        if next(left, None) is not None:
            parsed.update(members)

    session.boto.events.register(f"after-call.{service}.{operation}", change)


def fail_after(session, operation, error, *, service="sagemaker"):
    """From now on the operation happens, and reading its answer raises."""

    def fail(**_):
        raise error

    session.boto.events.register(f"after-call.{service}.{operation}", fail)
