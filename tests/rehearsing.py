"""A rehearsal server of a test module's own, fast, and answers put in AWS's mouth."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

from botocore.awsrequest import AWSResponse

from helpers import session as sessions
from helpers import settings
from helpers.rehearsal import launch

ROOT = Path(__file__).parent.parent
SPEED = 3600  # one second here is one hour there


@contextlib.contextmanager
def server(state_dir, *, speed=SPEED):
    """Start a server, make it this process's rehearsal, and stop it."""
    before = dict(os.environ)
    os.environ.update(
        WORKSHOP_TARGET="rehearsal", WORKSHOP_STATE=str(state_dir), WORKSHOP_SPEED=str(speed)
    )
    loaded = settings.load()
    try:
        yield launch.ensure(loaded)
    finally:
        sessions.leave_rehearsal()
        launch.stop(loaded)
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def serving(state_dir, *flags, speed=SPEED):
    """A server with these flags, found by every session with this state directory."""
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.rehearsal", "--port", "0", "--speed", str(speed)]
        + ["--state-dir", str(state_dir), *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline().startswith("export AWS_ENDPOINT_URL=")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        _, process.said = process.communicate(timeout=20)


def participant(shared, name=None):
    """The same session as somebody else's, with its clients: they are slow to make.

    Without a name it is a participant whom nobody else has been.
    """
    session = replace(shared, participant=name or f"p{next(_number)}")
    session._clients = shared._clients
    return session


_number = count(1)


def until(question, *, seconds=30):
    """Ask until the answer is true; the last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


class _Raw:
    def __init__(self, body):
        self._body = body

    def stream(self, *_, **__):
        yield self._body

    def read(self, *_):
        return self._body


def refuse(session, operation, code, message, *, status=400, service="sagemaker"):
    """From now on AWS refuses an operation to this session."""

    def answer(request, **_):
        headers, body = _refusal(service, code, message)
        return AWSResponse(request.url, status, headers, _Raw(body))

    _register(session, f"before-send.{service}.{operation}", answer)


def _refusal(service, code, message):
    """An error as the service's protocol has it."""
    if service in ("s3", "iam", "sts"):
        error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        body = error if service == "s3" else f"<ErrorResponse>{error}</ErrorResponse>"
        return {"content-type": "text/xml"}, body.encode()
    body = json.dumps({"__type": code, "message": message})
    return {"x-amzn-errortype": code}, body.encode()


def pretend(session, operation, *, times=10**9, service="sagemaker", **members):
    """The next answers of an operation to this session have these members."""
    left = iter(range(times))

    def change(parsed, **_):
        if next(left, None) is not None:
            parsed.update(members)

    after(session, operation, change, service=service)


def fail_after(session, operation, error, *, service="sagemaker"):
    """From now on the operation happens, and reading its answer raises."""

    def fail(**_):
        raise error

    after(session, operation, fail, service=service)


def after(session, operation, handler, *, service="sagemaker"):
    """Call a handler with the parsed answer of every such operation of this session."""
    _register(session, f"after-call.{service}.{operation}", handler)


_registered = []


def restore():
    """Undo all of this."""
    while _registered:
        emitter, event, handler = _registered.pop()
        emitter.unregister(event, handler)


def _register(session, event, handler):
    for emitter in _emitters(session):
        emitter.register(event, handler)
        _registered.append((emitter, event, handler))


def _emitters(session):
    """Of the session, for clients it makes later, and of those that are there already."""
    yield session.boto.events
    yield from (client.meta.events for client in session._clients.values())
    yield from (one.sagemaker_client.meta.events for one in _kept_by_the_sdk(session))


def _kept_by_the_sdk(session):
    """What sagemaker-core keeps of this session's clients: from 2.27 on, one for each session."""
    sdk = sys.modules.get("sagemaker.core.utils.utils")
    kept = sdk and type(sdk.SageMakerClient)._instances.get(sdk.SageMakerClient)
    if not isinstance(kept, dict):
        return []
    return list({id(one): one for one in kept.values() if one.session is session.boto}.values())
