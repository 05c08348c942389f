"""The front door's map: which request goes to which part of the local AWS."""

import asyncio
import gc
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

from helpers.clock import Clock
from helpers.errors import RehearsalError
from helpers.rehearsal import faults, strictjson
from helpers.rehearsal.faults import Faults
from helpers.rehearsal.server import Answer, Request, Response
from helpers.rehearsal.state import State

if TYPE_CHECKING:
    from helpers.rehearsal.aws.operations import Operation
    from helpers.rehearsal.signature import Signed

log = logging.getLogger(__name__)

NAME = "rehearsal"
ROOT = "/_rehearsal"

_TICK_S = 0.1  # real seconds
_TOKEN_DOOR = "/openai/v1/chat/completions"  # which alone takes bearer tokens
_HUB = re.compile(r"/api/|/[^/]+/[^/]+/resolve/")
_FAULTS = re.compile("(GET|PUT|DELETE) /faults(?:/([a-z-]+))?")
_READS = ("Describe", "Get", "List")
# What a request may ask for that no endpoint here has; else it would be dropped in silence.
_NOT_OFFERED = (
    "target-model",
    "target-container-hostname",
    "inference-component",
    "session-id",
    "enable-explanations",
)


@dataclass(frozen=True)
class Options:
    """What a rehearsal is started with.

    Attributes:
        faults: What is to go wrong.
        state: Where everything is kept.
        runtime: Keyword arguments of `runtime.Runtime`: how it cuts, what it records, who answers.
        quotas: Keyword arguments of `quotas.Quotas`: the limit.
    """

    faults: Faults = field(default_factory=Faults)
    state: State = field(default_factory=lambda: State(None))
    runtime: Mapping[str, Any] = field(default_factory=dict)
    quotas: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """What answers once everything is loaded.

    Attributes:
        control: SageMaker's control plane.
        runtime: SageMaker's runtime.
        services: What moto plays.
        schedules: EventBridge Scheduler, which moto keeps and does not run.
        hub: The Hugging Face Hub.
        timeline: What happens by itself.
        targets: Services of the JSON protocol, by the prefix of their `X-Amz-Target`.
        state: Where it is kept.
        tagging: Resource Groups Tagging, over what moto plays and what it does not.
        rights: Who may do what; None lets everyone do everything.
    """

    control: Any
    runtime: Any
    services: Any
    schedules: Any
    hub: Any
    timeline: Any
    targets: Mapping[str, Any]
    state: State = field(default_factory=lambda: State(None))
    tagging: Any = None
    rights: Any = None

    @property
    def signed_for(self) -> dict[str, Any]:
        """The same services by what their requests are signed for."""
        return {service.signing_name: service for service in self.targets.values()}


def load(clock: Clock, options: Options) -> Parts:
    """Import and build all parts; takes seconds, beside a server that already answers."""
    from botocore.session import Session

    from helpers.rehearsal.aws import awsjson, control, operations, services
    from helpers.rehearsal.timeline import Timeline

    aws = services.Services(awsjson.ACCOUNT, options.state.journal, clock=clock.time)
    model = Session().get_service_model
    operations.load()

    from helpers import recipes
    from helpers.rehearsal import hub
    from helpers.rehearsal.aws import (
        authorization,
        autoscaling,
        metrics,
        modeldata,
        pricing,
        quotas,
        schedules,
        tagging,
    )
    from helpers.rehearsal.container import runtime

    timeline = Timeline(clock, changed=options.state.changed)
    limits = quotas.Quotas(
        timeline, model=model("service-quotas"), faults=options.faults, **options.quotas
    )
    rights = authorization.Authorizer(
        lambda: aws.directory,
        tags=lambda arn: sagemaker.catalog.tags_of(arn),
        clock=clock.time,
        besides=lambda ask, region: scaling.besides(ask, region),
        account=awsjson.ACCOUNT,
    )
    sagemaker = control.ControlPlane(
        timeline,
        logs=aws,
        model=model("sagemaker"),
        quota=limits.limit,
        data=modeldata.ModelData(aws, may=rights.allows),
        faults=options.faults,
        roles=rights,
    )
    endpoints = sagemaker.endpoints
    meter = metrics.EndpointMetrics(timeline, endpoints=endpoints, publish=aws.put_metrics)
    scaling = autoscaling.AutoScaling(
        timeline, model=model("application-autoscaling"), endpoints=endpoints, metrics=meter
    )
    endpoints.before_update.append(scaling.check_update)
    answering = runtime.Runtime(clock, meter=meter, **options.runtime)
    endpoints.on_retired.append(answering.forget)
    options.state.hold(
        timeline=timeline, control=sagemaker, quotas=limits, metrics=meter, scaling=scaling
    )
    in_json = (
        sagemaker.service,
        limits.service,
        pricing.Pricing(model("pricing")).service,
        scaling.service,
    )
    gated = {recipe.model_id: recipe.gated for recipe in recipes.RECIPES.values()}
    aws.wait()
    plans = schedules.Schedules(
        timeline,
        aws,
        model=model("scheduler"),
        targets={"sagemaker": sagemaker.service},
        account=awsjson.ACCOUNT,
        roles=rights,
    )
    plans.resume()
    tags = tagging.Tagging(
        model("resourcegroupstaggingapi"),
        catalog=sagemaker.catalog,
        scaling=scaling,
        services=aws,
        account=awsjson.ACCOUNT,
    )
    # What is loaded stays: to look through all of it again would hold up every stream for 0.1 s.
    gc.collect()
    gc.freeze()
    return Parts(
        control=sagemaker,
        runtime=answering,
        services=aws,
        schedules=plans,
        tagging=tags,
        hub=hub.Hub(gated),
        timeline=timeline,
        targets={service.target_prefix: service for service in in_json},
        state=options.state,
        rights=rights,
    )


class FrontDoor:
    """Hands each request to the part that answers it, and lets time pass when nobody asks.

    Args:
        clock: AWS time.
        stop: Called when a client asks the server to stop.
        faults: What is to go wrong, for everything that is signed.
        failed: Called with what kept the parts from loading.
        load: Builds the parts, in a thread; requests wait for it, `/_rehearsal` does not.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        stop: Callable[[], None],
        load: Callable[[Clock], Parts],
        faults: Faults | None = None,
        failed: Callable[[BaseException], None] = lambda error: None,
    ):
        self._clock = clock
        self._stop = stop
        self._faults = Faults() if faults is None else faults
        loop = asyncio.get_running_loop()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._parts = loop.run_in_executor(self._loader, load, clock)
        self._parts.add_done_callback(partial(_report, failed))
        self._ticker = loop.create_task(self._tick())

    def close(self) -> None:
        """Keep the state and let the threads end."""
        self._ticker.cancel()
        self._loader.shutdown(wait=False, cancel_futures=True)
        if self._parts.done() and not self._parts.cancelled() and not self._parts.exception():
            parts = self._parts.result()
            self._keep(parts, at_once=True)
            parts.services.close()

    async def __call__(self, request: Request, response: Response) -> None:
        """Answer one request."""
        if request.path == ROOT or request.path.startswith(f"{ROOT}/"):
            response.respond(*await self._own(request))
            return
        # Shielded: a request that is cancelled must not cancel what all others wait for.
        parts = await asyncio.shield(self._parts)
        parts.timeline.advance()
        if _is_hub(request):
            response.respond(*parts.hub.answer(request.path, request.headers, request.query))
            return

        from helpers.rehearsal.aws import operations, services
        from helpers.rehearsal.aws.awsjson import AwsError

        try:
            signed = _admit(parts, request)
            self._strike(request)
            operation = operations.read(request, signed)
            if (operation.service, operation.name) == ("s3", "DeleteObjects"):
                response.respond(*await _delete_objects(parts, operation, signed))
                return
            _authorize(parts, operation, signed, with_token=_has_token(request))
        except AwsError as error:
            response.respond(*services.refusal(request, error))
            return
        await self._carry_out(parts, operation, response, signed.region)

    async def _carry_out(
        self, parts: Parts, operation: "Operation", response: Response, region: str
    ) -> None:
        """Hand an operation to the part that plays its service."""
        sent, changes = operation.request, not operation.name.startswith(_READS)
        if operation.service == "runtime":
            await _invoke(parts, operation, response, region)
        elif own := parts.signed_for.get(operation.service):
            answer = own.answer(operation.name, sent.body, region=region)
            self._answer_kept(parts, response, answer, changes=changes)
        elif operation.service == "scheduler":
            answer = await parts.schedules.answer(sent)
            self._answer_kept(parts, response, answer, changes=changes)
        elif operation.service == "tagging":
            response.respond(*await parts.tagging.answer(sent))
        else:
            response.respond(*await parts.services.answer(sent))

    def _answer_kept(
        self, parts: Parts, response: Response, answer: Answer, *, changes: bool
    ) -> None:
        """Answer when what has changed is on disk: a success survives whatever comes then."""
        if changes and answer.status < 300:
            parts.state.changed()
            self._keep(parts)
        response.respond(*answer)

    # --- time

    async def _tick(self) -> None:
        """Let happen what is due, and keep what has changed, also when nobody asks."""
        try:
            parts = await asyncio.shield(self._parts)
        except Exception:  # said by `_report`
            return
        while True:
            await asyncio.sleep(_TICK_S)
            try:
                parts.timeline.advance()
            except Exception:
                log.exception("Something that was due could not happen.")
            self._keep(parts)

    def _keep(self, parts: Parts, *, at_once: bool = False) -> None:
        try:
            parts.state.save(self._clock.time(), at_once=at_once)
        except OSError as error:
            log.error("The rehearsal's state could not be written: %s.", error.strerror)
        except Exception:
            log.exception("The rehearsal's state could not be written.")

    # --- faults

    def _strike(self, request: Request) -> None:
        """Let a signed request meet the faults that are for all of them."""
        if not self._faults:
            return

        from helpers.rehearsal import signature

        if self._faults.get("expired-credentials") is not None:
            raise signature.ended(request)
        if self._faults.strikes("throttling") is not None:
            raise signature.throttled(request)

    # --- the rehearsal's own doors

    async def _own(self, request: Request) -> Answer:
        asked = f"{request.method} {request.path.removeprefix(ROOT)}".strip()
        if "origin" in request.headers:
            return _json(403, {"message": "Web pages have no business with the rehearsal AWS."})
        if asked == "GET":
            return _json(200, self._info())
        if asked == "GET /journal":
            parts = await asyncio.shield(self._parts)
            return _json(200, parts.control.journal())
        if asked == "GET /rights":
            parts = await asyncio.shield(self._parts)
            return _json(200, parts.rights.log.told() if parts.rights else {})
        if match := _FAULTS.fullmatch(asked):
            return self._set_faults(match[1], match[2], request.body)
        if asked == "POST /stop":
            self._stop()
            return _json(200, {"message": "The rehearsal AWS stops."})
        message = (
            "Offered: GET /_rehearsal, GET /_rehearsal/journal, GET /_rehearsal/rights, GET, PUT "
            "and DELETE /_rehearsal/faults, POST /_rehearsal/stop."
        )
        return _json(404, {"message": message})

    def _set_faults(self, method: str, name: str | None, body: bytes) -> Answer:
        """Read, replace or end the active faults, all of them or the one that is named."""
        try:
            if method == "PUT" and name:
                self._faults.add(name, strictjson.parse(body or b"{}"))
            elif method == "PUT":
                self._faults.put(strictjson.parse(body))
            elif method == "DELETE" and name:
                self._faults.remove(name)
            elif method == "DELETE":
                self._faults.put({})
        except RehearsalError as error:
            return _json(400, {"message": str(error)})
        except ValueError:
            message = 'Send the faults as a JSON object, e.g. {"throttling": true}.'
            return _json(400, {"message": message})
        offered = {name: fault.does for name, fault in faults.FAULTS.items()}
        return _json(200, {"active": self._faults.active(), "offered": offered})

    def _info(self) -> dict[str, Any]:
        return {
            "name": NAME,
            "speed": self._clock.speed,
            "origin": self._clock.origin,
            "time": self._clock.time(),
            "now": f"{self._clock.now():%Y-%m-%dT%H:%M:%SZ}",
            "pid": os.getpid(),
            "version": metadata.version("botocore"),
        }


def _report(failed: Callable[[BaseException], None], loading: asyncio.Future) -> None:
    if not loading.cancelled() and loading.exception() is not None:
        log.error("The rehearsal AWS could not load its parts.", exc_info=loading.exception())
        failed(loading.exception())


def _admit(parts: Parts, request: Request) -> "Signed":
    """How a request is signed, by header, by query or by bearer token.

    Raises:
        AwsError: When it is not signed, or not as AWS wants it.
    """
    from helpers.rehearsal import signature
    from helpers.rehearsal.aws.awsjson import AwsError

    told = {"secrets": parts.services.secret, "now": time.time()}
    at_endpoint = request.path.startswith("/endpoints/")
    if at_endpoint and request.path.endswith(_TOKEN_DOOR) and _has_token(request):
        return signature.verify_token(request.headers["authorization"], **told)
    target = request.headers.get("x-amz-target", "").partition(".")[0]
    service = parts.targets[target].signing_name if target in parts.targets else None
    if at_endpoint and request.service != "s3":  # a bucket may be called `endpoints`
        service = "sagemaker"
    signed = signature.verify(request, service=service, **told)
    if signed.expires_s is not None and signed.service != "s3":  # moto takes them for S3's
        message = f"The rehearsal AWS takes presigned requests to S3 only, not to {signed.service}."
        raise AwsError("UnknownOperationException", message)
    return signed


def _has_token(request: Request) -> bool:
    return request.headers.get("authorization", "")[:7].lower() == "bearer "


def _authorize(parts: Parts, operation: "Operation", signed: "Signed", *, with_token: bool) -> None:
    """Refuse what the signer may not do.

    Raises:
        AwsError: In AWS's words.
    """
    if parts.rights is None:
        return
    if operation.service != "runtime":
        parts.rights.check(signed.key, operation, region=signed.region)
        return
    name, door = operation.given["EndpointName"], operation.name
    parts.rights.check_invocation(
        signed.key, name, door, region=signed.region, with_token=with_token
    )


async def _delete_objects(parts: Parts, operation: "Operation", signed: "Signed") -> Answer:
    """Delete those objects of a request to S3 that the signer may delete.

    Raises:
        AwsError: When it cannot be read.
    """
    from helpers.rehearsal.aws import deletions

    denied = {}
    if parts.rights is not None:
        denied = parts.rights.denied(signed.key, operation, region=signed.region)
    return await deletions.carry_out(operation.request, denied, parts.services.answer)


async def _invoke(parts: Parts, operation: "Operation", response: Response, region: str) -> None:
    request = operation.request
    if request.method != "POST":
        response.respond(*_refusal(405, "MethodNotAllowed", "Endpoints are invoked with POST."))
        return
    unknown = [name for name in _NOT_OFFERED if f"x-amzn-sagemaker-{name}" in request.headers]
    if unknown:
        message = f"The rehearsal AWS does not offer X-Amzn-SageMaker-{unknown[0].title()}."
        response.respond(*_refusal(400, "ValidationError", message))
        return

    from helpers.rehearsal.aws.awsjson import AwsError

    try:
        variant = request.headers.get("x-amzn-sagemaker-target-variant")
        name = operation.given["EndpointName"]
        deployment = parts.control.serving(name, region=region, variant=variant)
    except AwsError as error:
        response.respond(*error.answer())
        return
    await parts.runtime.invoke(deployment, request, response)


def _is_hub(request: Request) -> bool:
    signed = "authorization" in request.headers and request.region is not None
    signed = signed or "X-Amz-" in request.query or "AWSAccessKeyId=" in request.query
    return bool(_HUB.match(request.path)) and not signed


def _refusal(status: int, code: str, message: str) -> Answer:
    answer = _json(status, {"__type": code, "message": message})
    return answer._replace(headers={**answer.headers, "x-amzn-ErrorType": code})


def _json(status: int, body: Any) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(body).encode())
