"""The front door's map: which request goes to which part of the local AWS."""

import asyncio
import base64
import binascii
import json
import logging
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from typing import Any
from urllib.parse import parse_qs, unquote

from helpers.clock import Clock
from helpers.rehearsal.server import Answer, Request, Response

log = logging.getLogger(__name__)

NAME = "rehearsal"
ROOT = "/_rehearsal"

_RUNTIME = re.compile(
    r"/endpoints/([^/]+)/(invocations|invocations-response-stream|openai/v1/chat/completions)"
)
_TOKEN_PREFIX = "sagemaker-api-key-"
_UNSIGNED = ("MissingAuthenticationTokenException", "Missing Authentication Token")


@dataclass(frozen=True)
class Parts:
    """What answers once everything is loaded."""

    control: Any
    runtime: Any
    services: Any
    hub: Any


def load(clock: Clock) -> Parts:
    """Import and build all parts; takes seconds, beside a server that already answers."""
    from botocore.session import Session

    from helpers.rehearsal import awsjson, control, services, timeline

    aws = services.Services(account=awsjson.ACCOUNT)
    model = Session().get_service_model("sagemaker")

    from helpers import recipes
    from helpers.rehearsal import hub, runtime

    gated = {recipe.model_id: recipe.gated for recipe in recipes.RECIPES.values()}
    parts = Parts(
        control=control.ControlPlane(
            timeline.Timeline(clock),
            logs=aws,
            model=model,
            quota=lambda instance_type, region: 20,
            faults=_Calm(),
        ),
        runtime=runtime.Runtime(clock),
        services=aws,
        hub=hub.Hub(gated),
    )
    aws.wait()
    return parts


class _Calm:
    def get(self, name):
        return None


class FrontDoor:
    """Hands each request to the part that answers it.

    Args:
        clock: AWS time.
        stop: Called when a client asks the server to stop.
        load: Builds the parts, in a thread; requests wait for it, `/_rehearsal` does not.
    """

    def __init__(
        self, clock: Clock, *, stop: Callable[[], None], load: Callable[[Clock], Parts] = load
    ):
        self._clock = clock
        self._stop = stop
        loop = asyncio.get_running_loop()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._parts = loop.run_in_executor(self._loader, load, clock)
        self._parts.add_done_callback(_report)

    def close(self) -> None:
        """Let the threads end."""
        self._loader.shutdown(wait=False, cancel_futures=True)
        if self._parts.done() and not self._parts.cancelled() and not self._parts.exception():
            self._parts.result().services.close()

    async def __call__(self, request: Request, response: Response) -> None:
        """Answer one request."""
        if request.path == ROOT or request.path.startswith(f"{ROOT}/"):
            response.respond(*await self._own(request))
            return
        # Shielded: a request that is cancelled must not cancel what all others wait for.
        parts = await asyncio.shield(self._parts)
        target = request.headers.get("x-amz-target", "")
        if target.startswith("SageMaker."):
            response.respond(*_control(parts, request, target))
        elif request.path.startswith("/endpoints/"):
            await _invoke(parts, request, response)
        elif _is_hub(request):
            response.respond(*parts.hub.answer(request.path, request.headers))
        else:
            parts.control._timeline.advance()  # so that a log that is due is there to be read
            response.respond(*await parts.services.answer(request))

    async def _own(self, request: Request) -> Answer:
        asked = (request.method, request.path.removeprefix(ROOT))
        if "origin" in request.headers:
            return _json(403, {"message": "Web pages have no business with the rehearsal AWS."})
        if asked == ("GET", ""):
            return _json(200, self._info())
        if asked == ("GET", "/journal"):
            parts = await asyncio.shield(self._parts)
            return _json(200, parts.control.journal())
        if asked == ("POST", "/stop"):
            self._stop()
            return _json(200, {"message": "The rehearsal AWS stops."})
        message = "Offered: GET /_rehearsal, GET /_rehearsal/journal, POST /_rehearsal/stop."
        return _json(404, {"message": message})

    def _info(self) -> dict[str, Any]:
        return {
            "name": NAME,
            "speed": self._clock.speed,
            "origin": self._clock.origin,
            "time": self._clock.time(),
            "pid": os.getpid(),
            "version": metadata.version("botocore"),
        }


def _report(loading: asyncio.Future) -> None:
    if not loading.cancelled() and loading.exception() is not None:
        log.error("The rehearsal AWS could not load its parts.", exc_info=loading.exception())


def _control(parts: Parts, request: Request, target: str) -> Answer:
    if request.region is None:
        return _refusal(403, *_UNSIGNED)
    if request.method != "POST":
        return _refusal(405, "MethodNotAllowed", "SageMaker's operations are POST requests.")
    operation = target.removeprefix("SageMaker.")
    return parts.control.answer(operation, request.body, region=request.region)


async def _invoke(parts: Parts, request: Request, response: Response) -> None:
    match = _RUNTIME.fullmatch(request.path)
    if match is None:
        message = f"The rehearsal AWS does not offer {request.path[:200]}."
        response.respond(*_refusal(404, "UnknownOperationException", message))
        return
    if request.method != "POST":
        response.respond(*_refusal(405, "MethodNotAllowed", "Endpoints are invoked with POST."))
        return
    region = request.region
    if match[2].startswith("openai"):
        region = region or token_region(request.headers.get("authorization", ""))
    if region is None:
        response.respond(*_refusal(403, *_UNSIGNED))
        return

    from helpers.rehearsal.awsjson import AwsError

    try:
        variant = request.headers.get("x-amzn-sagemaker-target-variant")
        deployment = parts.control.serving(unquote(match[1]), region=region, variant=variant)
    except AwsError as error:
        response.respond(*error.answer())
        return
    await parts.runtime.invoke(deployment, request, response)


def token_region(authorization: str) -> str | None:
    """Region of a bearer token made by `generate_token`: a presigned URL in base64.

    Whether the token has expired is not looked at: its time is real, the rehearsal's is not.
    """
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.startswith(_TOKEN_PREFIX):
        return None
    try:
        url = base64.b64decode(token.removeprefix(_TOKEN_PREFIX), validate=True).decode()
    except (binascii.Error, UnicodeError):
        return None
    credential = parse_qs(url.partition("?")[2]).get("X-Amz-Credential", [""])[0]
    parts = credential.split("/")
    return parts[2] if len(parts) == 5 else None


def _is_hub(request: Request) -> bool:
    signed = request.region is not None or "X-Amz-" in request.query
    return request.path.startswith("/api/") and not signed


def _refusal(status: int, code: str, message: str) -> Answer:
    answer = _json(status, {"__type": code, "message": message})
    return answer._replace(headers={**answer.headers, "x-amzn-ErrorType": code})


def _json(status: int, body: Any) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(body).encode())
