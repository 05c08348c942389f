"""SageMaker's runtime in rehearsal: the twin in real time behind each endpoint's containers.

A request passes three layers: the container reads it or refuses it (`validation`), one replica's
`StaticBatch` decides when its tokens come (`replicas`), and a door wraps what the container says
as SageMaker does on that route (`doors`). Where there is a backend, it takes the replica's place
(`relay`).
"""

import asyncio
import itertools
import random
from array import array
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from helpers.clock import Clock
from helpers.rehearsal.aws.endpoints import Deployment
from helpers.rehearsal.container import breakage, cuts, text, validation, wire
from helpers.rehearsal.container.calls import Call, Noted
from helpers.rehearsal.container.containers import Container
from helpers.rehearsal.container.doors import EVENT_LINES, Door, EventStreamDoor, OpenAiDoor, Outlet
from helpers.rehearsal.container.replicas import Sink, Streamed, Whole
from helpers.rehearsal.container.timers import KeepAlive, Timer, never_behind
from helpers.rehearsal.container.truth import Truth
from helpers.rehearsal.container.validation import JSON, PLAIN, Refused
from helpers.rehearsal.faults import Faults
from helpers.rehearsal.server import Request, Response

if TYPE_CHECKING:  # brings an HTTP client that few rehearsals need
    from helpers.rehearsal.container.backend import Backend

_IGNORES_STOP = {"0.0.22"}  # container versions
# Not sent back: botocore's model of sagemaker-runtime has no such header in its answers.
_INFERENCE_ID = "x-amzn-sagemaker-inference-id"


class Meter(Protocol):
    """Who counts invocations, for CloudWatch and for scaling."""

    def begun(self, deployment: Deployment) -> None:
        """A request has reached a container."""

    def ended(
        self, deployment: Deployment, *, status: int, model_latency_s: float, overhead_s: float
    ) -> None:
        """That request has ended.

        Args:
            deployment: The same as before.
            status: HTTP status of the container; 0 when it gave no answer.
            model_latency_s: AWS seconds until the container's answer was complete. AWS's
                ModelLatency "includes … the time taken to complete the inference in the container"
                (developer guide, "Amazon SageMaker AI metrics in Amazon CloudWatch"); that this
                holds for a stream, whose first token is meant elsewhere, is [unverified].
            overhead_s: AWS seconds before the container got it: what this server itself took to
                read the request, times the clock's speed.
        """


class Runtime:
    """Invokes endpoints.

    Args:
        clock: AWS time; its speed divides every duration.
        seed: Of the replies, of the choice between replicas, and of the cuts.
        cut: How a container's bytes are cut into payload parts: a name in `cuts.POLICIES`.
        faults: What is to go wrong.
        truth: Where a record of every request goes.
        backend: What answers chats instead of made-up text. Its time is real: for what it
            answers, limits, keep-alives and faults count real seconds too.
        meter: Who counts invocations.

    Raises:
        RehearsalError: When there is no such way to cut.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        seed: int = 0,
        cut: str = "sometimes",
        faults: Faults | None = None,
        truth: Truth | None = None,
        backend: "Backend | None" = None,
        meter: Meter | None = None,
    ):
        self._clock = clock
        self._seed = seed
        self._cut = cuts.policy(cut)
        self._faults = Faults() if faults is None else faults
        self._truth = truth
        self._backend = backend
        self._meter = meter
        self._chance = random.Random(seed)
        self._numbers = itertools.count(1)
        self._containers: dict[tuple[str, str], Container] = {}  # by uid and variant

    async def invoke(self, deployment: Deployment, request: Request, response: Response) -> None:
        """Answer a request to an endpoint that is in service; returns when the answer is complete.

        The path decides: `…/invocations` answers as a whole, `…/invocations-response-stream` as an
        event stream, `…/openai/v1/chat/completions` as the container does. A client that goes away
        frees its slot. So does an answer that takes too long; a real container would go on
        generating for nobody.
        """
        container = self._container(deployment)
        inference_id = request.headers.get(_INFERENCE_ID)
        call = Call(deployment, container, inference_id, self._clock.speed)
        call.door = self._door(call, request.path, response)
        response.on_disconnect(partial(call.finish_as, "left"))
        container.running.add(call)
        if self._meter:
            self._meter.begun(deployment)
        try:
            await self._answer(call, request)
        finally:
            container.running.discard(call)
            self._note(call)

    def forget(self, uid: str, *, drain: bool = False) -> None:
        """Let go of an endpoint's containers, when it is deleted or an update has replaced them.

        Args:
            uid: The deployment's.
            drain: Whether requests that are under way may end; else they break off now.
        """
        for key in [key for key in self._containers if key[0] == uid]:
            for call in () if drain else list(self._containers[key].running):
                call.finish_as("deleted")
                call.door.vanish()
            del self._containers[key]

    # --- one request

    async def _answer(self, call: Call, request: Request) -> None:
        container = call.container
        try:
            call.asked = validation.read(
                request.body,
                content_type=request.headers.get("content-type", ""),
                dialect=container.dialect,
                shape=container.shape,
                openai_route=isinstance(call.door, OpenAiDoor),
            )
            call.prompt_tokens = call.asked.prompt_tokens
        except Refused as refused:
            _refuse(call, refused)
            return
        try:
            validation.check(call.asked, container.dialect, container.shape)
            number = self._chance.randrange(max(1, call.deployment.instance_count))
            container.check_load(number)
        except Refused as refused:
            _refuse(call, refused, in_stream=container.dialect.refuses_in_stream)
            return
        call.replica, call.submitted_s = number, call.now_s()
        container.load[number] += 1
        try:
            self._strike(call)
            await (self._relay(call) if self._relays(call) else self._generate(call))
        except Refused as refused:
            _refuse(call, refused)
        finally:
            container.load[number] -= 1
            for timer in call.timers:
                timer.cancel()

    def _relays(self, call: Call) -> bool:
        return self._backend is not None and call.asked.chat

    async def _generate(self, call: Call) -> None:
        """Answer with made-up text at the twin's pace."""
        asked, container = call.asked, call.container
        stop = () if container.contract.version in _IGNORES_STOP else asked.stop
        reply = text.reply(asked.question, max_tokens=asked.max_tokens, stop=stop, seed=self._seed)
        sink = self._sink(call, reply)
        replica = sink.replica
        key = replica.submit(sink, reply.output_tokens)
        self._limit(call, is_behind=replica.is_behind)
        try:
            if await call.done == "complete":
                call.finish = reply.finish
        finally:
            replica.cancel(key)
            call.tokens, call.late_s = sink.sent, sink.late_s

    def _sink(self, call: Call, reply: text.Reply) -> Sink:
        """What the request's tokens go to."""
        asked = call.asked
        replica = call.container.replica(call.replica, self._clock)
        answer = self._wording(call, reply.output_tokens)
        full = asked.parameters.get("return_full_text") and not asked.chat
        whole_text = asked.prompt + reply.text if full else reply.text
        details = bool(asked.parameters.get("details"))
        if asked.stream:
            lines = (
                wire.ChatStream(answer)
                if asked.chat
                else wire.GenerateStream(answer, text=whole_text, details=details)
            )
            sink = Streamed(call, reply, replica, lines=lines)
            sink.into(self._begin(call, sink.heard_s, is_behind=replica.is_behind))
            return sink

        def complete(created: int) -> None:
            if asked.chat:
                self._give(call, wire.chat_reply(answer, whole_text, reply.finish, created))
            else:
                reply_body = wire.generate_reply(answer, whole_text, reply.finish, details=details)
                self._give(call, reply_body)

        return Whole(call, reply, replica, complete=complete)

    async def _relay(self, call: Call) -> None:
        """Answer with what a backend says, at its own pace."""
        from helpers.rehearsal.container.relay import Relay

        call.speed = 1.0
        self._limit(call)
        relay = Relay(
            self._backend,
            call,
            self._wording(call, 0),
            give=partial(self._give, call),
            begin=partial(self._begin, call),
            clock=self._clock,
        )
        task = asyncio.ensure_future(relay.run())
        task.add_done_callback(partial(_pass_on, call))
        try:
            await call.done
        finally:
            task.cancel()
            await asyncio.wait({task})

    def _wording(self, call: Call, output_tokens: int) -> wire.Answer:
        return wire.Answer(
            call.container.dialect,
            model=call.asked.model,
            version=call.container.version,
            number=next(self._numbers),
            prompt_tokens=call.prompt_tokens,
            output_tokens=output_tokens,
            include_usage=call.asked.include_usage,
        )

    # --- how its answer goes out

    def _door(self, call: Call, path: str, response: Response) -> Door:
        arguments = (call.deployment, response, call.finish_as)
        if path.endswith("/openai/v1/chat/completions"):
            return OpenAiDoor(*arguments)
        if path.endswith("/invocations-response-stream"):
            chance = random.Random(self._chance.getrandbits(32))
            return EventStreamDoor(*arguments, cut=self._cut, chance=chance)
        return Door(*arguments)

    def _give(self, call: Call, body: bytes) -> None:
        """Give a whole answer, later when a fault says so."""
        late_s = breakage.of_whole_answer(call.struck, speed=call.speed, chance=self._chance)
        if late_s:
            asyncio.get_running_loop().call_later(late_s, call.door.whole, JSON, body)
        else:
            call.door.whole(JSON, body)

    def _begin(
        self,
        call: Call,
        heard_s: Callable[[], float],
        *,
        is_behind: Callable[[float], bool] = never_behind,
    ) -> Outlet:
        """Begin a streamed answer: its outlet, kept alive, behind the faults that strike it."""
        outlet = call.door.stream(EVENT_LINES)
        if self._truth and call.door.streams:
            call.sent_s = array("d")
            outlet = Noted(outlet, call.sent_s)
        for name in breakage.STREAMS_ONLY:
            if name in call.struck:
                outlet = breakage.Struck(outlet, name, call.struck[name], call.finish_as)
        if options := call.struck.get("slow-network"):
            delay = breakage.network(options, speed=call.speed, chance=self._chance)
            outlet = breakage.Late(outlet, delay)
        network = outlet
        if options := call.struck.get("stall"):  # of the model: its server still keeps alive
            outlet = breakage.Late(network, breakage.stalling(options, speed=call.speed))
            heard_s, is_behind = outlet.heard_s, never_behind
        if call.container.dialect.keeps_alive:
            keep_alive = KeepAlive(
                partial(network.send, wire.KEEP_ALIVE),
                every_s=wire.KEEP_ALIVE_S / call.speed,
                heard_s=heard_s,
                is_behind=is_behind,
            )
            call.timers.append(keep_alive)
        return outlet

    def _limit(self, call: Call, *, is_behind: Callable[[float], bool] = never_behind) -> None:
        """Give the container its time, from now: what it took to get there is this machine's."""
        limit_s = call.door.limit_s(asked_stream=call.asked.stream) / call.speed

        def time_out() -> None:
            call.finish_as("timeout")
            call.door.time_out()

        call.timers.append(Timer(call.now_s() + limit_s, time_out, is_behind=is_behind))

    # --- faults, records, containers

    def _strike(self, call: Call) -> None:
        """Choose the faults that strike a request.

        Raises:
            Refused: When the container is to answer with an error.
        """
        if not self._faults:
            return
        if error := self._faults.strikes("model-error"):
            call.struck = {"model-error": error}
            call.finish_as("model-error")
            message = "Request failed during generation: Server error: the fault model-error."
            raise Refused(int(error["status"]), message, "generation")
        names = breakage.ALL_ANSWERS
        if call.asked.stream and call.door.streams:
            names += breakage.STREAMS_ONLY
        struck = {name: self._faults.strikes(name) for name in names}
        call.struck = {name: options for name, options in struck.items() if options}

    def _note(self, call: Call) -> None:
        if self._meter:
            model_s, overhead_s = call.latencies_s()
            self._meter.ended(
                call.deployment,
                status=call.status,
                model_latency_s=model_s,
                overhead_s=overhead_s,
            )
        if self._truth:
            self._truth.write(call.record())

    def _container(self, deployment: Deployment) -> Container:
        key = deployment.uid, deployment.variant
        container = self._containers.get(key)
        if container is None:
            container = self._containers[key] = Container.of(deployment)
        return container


def _pass_on(call: Call, task: asyncio.Future) -> None:
    """What went wrong in a task ends the call; else the call has ended already, or will."""
    if not task.cancelled() and task.exception() is not None:
        call.fail(task.exception())


def _refuse(call: Call, refused: Refused, *, in_stream: bool = False) -> None:
    """Answer with the container's error; TGI's second gate does so inside a stream."""
    dialect, call.status = call.container.dialect, refused.status
    call.finish_as("refused")
    status, message, error_type = refused.status, refused.message, refused.error_type
    if in_stream and call.asked.stream:
        line = wire.error_line(dialect, status, message, error_type)
        call.door.stream(EVENT_LINES).close([line])
    elif error_type is None:
        call.door.refuse(status, PLAIN, message.encode())
    else:
        call.door.refuse(status, JSON, wire.error_body(dialect, status, message, error_type))
