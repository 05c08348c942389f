"""SageMaker's runtime in rehearsal: the twin in real time behind each endpoint's containers.

A request passes three layers: the container reads it or refuses it (`validation`), one replica's
`StaticBatch` decides when its tokens come, and a door wraps what the container says as SageMaker
does on that route.
"""

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from helpers import contracts, twin
from helpers.clock import Clock
from helpers.rehearsal import text, validation, wire
from helpers.rehearsal.control import Deployment
from helpers.rehearsal.server import Request, Response
from helpers.rehearsal.validation import JSON, PLAIN, Asked, Refused

EVENT_LINES = "text/event-stream"
_IGNORES_STOP = {"0.0.22"}  # container versions, shared/wire-format.md

Cut = Callable[[bytes], Iterable[bytes]]


class Runtime:
    """Invokes endpoints.

    Args:
        clock: AWS time; its speed divides every duration.
        seed: Of the replies and of the choice between replicas.
        cut: Cuts a container's bytes into payload parts.
    """

    def __init__(self, clock: Clock, *, seed: int = 0, cut: Cut = wire.one_line_a_part):
        self._clock = clock
        self._seed = seed
        self._cut = cut
        self._chance = random.Random(seed)
        self._numbers = itertools.count(1)
        self._containers: dict[tuple[str, str], _Container] = {}  # by uid and variant

    async def invoke(self, deployment: Deployment, request: Request, response: Response) -> None:
        """Answer a request to an endpoint that is in service; returns when the answer is complete.

        The path decides: `…/invocations` answers as a whole, `…/invocations-response-stream` as an
        event stream, `…/openai/v1/chat/completions` as the container does. A client that goes away
        frees its slot.
        """
        container = self._container(deployment)
        door = self._door(deployment, request.path, response)
        try:
            asked = validation.read(
                request.body,
                content_type=request.headers.get("content-type", ""),
                dialect=container.dialect,
                shape=container.shape,
                openai_route=isinstance(door, _OpenAiDoor),
            )
        except Refused as refused:
            door.refuse(refused.status, *_refusal(container.dialect, refused))
            return
        try:
            validation.check(asked, container.dialect, container.shape)
            replica = self._replica(container, deployment.instance_count)
        except Refused as refused:
            if asked.stream and container.dialect.refuses_in_stream:
                send, end = door.stream(EVENT_LINES)
                send(_refusal_line(container.dialect, refused))
                end()
            else:
                door.refuse(refused.status, *_refusal(container.dialect, refused))
            return
        sink = self._sink(container, asked, door)
        key = replica.submit(sink, sink.reply.output_tokens)
        response.on_disconnect(sink.leave)
        try:
            await sink.done
        finally:
            replica.cancel(key)

    def _sink(self, container: "_Container", asked: Asked, door: "_Door") -> "_Sink":
        """What the request's tokens go to, with the reply that they make up."""
        stop = () if container.contract.version in _IGNORES_STOP else asked.stop
        reply = text.reply(asked.question, max_tokens=asked.max_tokens, stop=stop, seed=self._seed)
        answer = wire.Answer(
            container.dialect,
            model=asked.model,
            version=container.version,
            number=next(self._numbers),
            prompt_tokens=asked.prompt_tokens,
            output_tokens=reply.output_tokens,
            include_usage=asked.include_usage,
        )
        full = asked.parameters.get("return_full_text") and not asked.chat
        whole_text = asked.prompt + reply.text if full else reply.text
        details = bool(asked.parameters.get("details"))
        if asked.stream and asked.chat:
            return _Streamed(reply, wire.ChatStream(answer), *door.stream(EVENT_LINES))
        if asked.stream:
            lines = wire.GenerateStream(answer, text=whole_text, details=details)
            return _Streamed(reply, lines, *door.stream(EVENT_LINES))

        def complete(created: bytes) -> None:
            if asked.chat:
                body = wire.chat_reply(answer, whole_text, reply.finish, int(created))
            else:
                body = wire.generate_reply(answer, whole_text, reply.finish, details=details)
            door.whole(JSON, body)

        return _Whole(reply, complete)

    def _container(self, deployment: Deployment) -> "_Container":
        key = deployment.uid, deployment.variant
        container = self._containers.get(key)
        if container is None:
            container = self._containers[key] = _Container.of(deployment)
        return container

    def _replica(self, container: "_Container", count: int) -> "_Replica":
        """One of the replicas at random, as SageMaker chooses unless told otherwise."""
        number = self._chance.randrange(count)
        replica = container.replicas.get(number)
        if replica is None:
            replica = container.replicas[number] = _Replica(container.timing, self._clock)
        limit = container.shape.max_concurrent_requests
        if container.dialect.reply_error == "tgi" and len(replica) >= limit:
            raise Refused(429, "Model is overloaded", "overloaded")
        return replica

    def _door(self, deployment: Deployment, path: str, response: Response) -> "_Door":
        if path.endswith("/openai/v1/chat/completions"):
            return _OpenAiDoor(response)
        if path.endswith("/invocations-response-stream"):
            return _EventStreamDoor(deployment, response, self._cut)
        return _InvocationDoor(deployment, response)


@dataclass(frozen=True)
class _Container:
    """What runs behind an endpoint, once for all its requests."""

    contract: contracts.Contract
    shape: contracts.Shape
    dialect: wire.Dialect
    timing: twin.Timing
    replicas: dict[int, "_Replica"]  # those that have been asked

    @classmethod
    def of(cls, deployment: Deployment) -> "_Container":
        contract = contracts.contract_for_image(deployment.image)
        shape = contracts.shape(contract, deployment.env)
        timing = twin.timing(
            shape.model_id or "",
            instance_type=deployment.instance_type,
            batch_size=shape.batch_size,
        )
        return cls(contract, shape, wire.dialect(contract.dialect), timing, {})

    @property
    def version(self) -> str:
        """Of the server inside, e.g. `2.0.2`."""
        return self.contract.server.split()[-1]


# --- Time -----------------------------------------------------------------------------------


class _Replica:
    """One machine: runs its `StaticBatch` against the loop's clock.

    Every step has an absolute deadline: the one before, plus its duration. A timer that fires late
    (epoll rounds up to 1 ms, more than a decode step at speed 60) therefore delays single tokens
    but never the pace: steps that are due run one after the other, without sleeping.
    """

    def __init__(self, timing: twin.Timing, clock: Clock):
        self._batch = twin.StaticBatch(timing)
        self._clock = clock
        self._sinks: dict[int, _Sink] = {}
        self._keys = itertools.count()
        self._step: twin.Step | None = None  # the one under way
        self._deadline = 0.0

    def __len__(self) -> int:
        return len(self._sinks)

    def submit(self, sink: "_Sink", output_tokens: int) -> int:
        key = next(self._keys)
        self._sinks[key] = sink
        self._batch.submit(key, output_tokens)
        if self._step is None:
            self._deadline = asyncio.get_running_loop().time()
            self._start()
        return key

    def cancel(self, key: int) -> None:
        if self._sinks.pop(key, None) is not None:
            self._batch.cancel(key)

    def _start(self) -> None:
        self._step = self._batch.next_step()
        if self._step is not None:
            self._deadline += self._step.duration_s / self._clock.speed
            # A deadline in the past is called at once, but not before the loop has looked for
            # input: catching up shuts out neither new requests nor disconnects.
            asyncio.get_running_loop().call_at(self._deadline, self._finish)

    def _finish(self) -> None:
        step = self._step
        # Before anything is sent: who answers a last token with a new request comes too late for
        # this step, as with a real server.
        self._start()
        created = str(int(self._clock.time())).encode()
        for key in step.emits:
            sink = self._sinks.get(key)
            if sink is None:  # has left while the step was under way
                continue
            try:
                sink.token(created)
            except Exception as error:
                sink.fail(error)
        for key in step.finished:
            self._sinks.pop(key, None)


class _Sink:
    """Where one request's tokens go.

    Attributes:
        reply: What they make up.
        done: Completed with the last token, or when the client has gone.
    """

    def __init__(self, reply: text.Reply):
        self.reply = reply
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._at = 0
        self._last = reply.output_tokens - 1

    def token(self, created: bytes) -> None:
        """Take the next token; `created` is the epoch second in ASCII."""
        raise NotImplementedError

    def leave(self) -> None:
        """Nobody waits for the rest."""
        if not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        """The rest cannot be sent."""
        if not self.done.done():
            self.done.set_exception(error)


class _Whole(_Sink):
    """Answers when the last token is due."""

    def __init__(self, reply: text.Reply, complete: Callable[[bytes], None]):
        super().__init__(reply)
        self._complete = complete

    def token(self, created: bytes) -> None:
        if self._at == self._last:
            self._complete(created)
            self.leave()
        self._at += 1


class _Streamed(_Sink):
    """Sends each token when it is due."""

    def __init__(
        self,
        reply: text.Reply,
        lines: wire.ChatStream | wire.GenerateStream,
        send: Callable[[bytes], None],
        end: Callable[[], None],
    ):
        super().__init__(reply)
        self._pieces = reply.pieces
        self._lines = lines
        self._send = send
        self._end = end

    def token(self, created: bytes) -> None:
        at = self._at
        self._at = at + 1
        if at == 0:
            for line in self._lines.opening(created):
                self._send(line)
        if at < self._last:
            self._send(self._lines.token(created, self._pieces[at]))
            return
        self._send(self._lines.last(created, self._pieces[at], self.reply.finish))
        for line in self._lines.closing(created):
            self._send(line)
        self._end()
        self.leave()


# --- Doors ----------------------------------------------------------------------------------


class _Door(Protocol):
    """How a route hands on what the container says."""

    def whole(self, content_type: str, body: bytes) -> None:
        """The container has answered with 200 and this body."""

    def refuse(self, status: int, content_type: str, body: bytes) -> None:
        """The container has answered with an error."""

    def stream(self, content_type: str) -> tuple[Callable[[bytes], None], Callable[[], None]]:
        """The container has begun to stream: what sends a line, and what ends the stream."""


class _OpenAiDoor:
    """`…/openai/v1/chat/completions`: the container's own answer."""

    def __init__(self, response: Response):
        self._response = response

    def whole(self, content_type: str, body: bytes) -> None:
        self._response.respond(200, {"Content-Type": content_type}, body)

    def refuse(self, status: int, content_type: str, body: bytes) -> None:
        self._response.respond(status, {"Content-Type": content_type}, body)

    def stream(self, content_type: str) -> tuple[Callable[[bytes], None], Callable[[], None]]:
        stream = self._response.start_stream(200, {"Content-Type": content_type})
        return stream.write, stream.end


class _InvocationDoor:
    """`InvokeEndpoint`: the container's body, whole; its errors as `ModelError`."""

    def __init__(self, deployment: Deployment, response: Response):
        self._deployment = deployment
        self._response = response

    def whole(self, content_type: str, body: bytes) -> None:
        headers = {
            "Content-Type": content_type,
            "x-Amzn-Invoked-Production-Variant": self._deployment.variant,
        }
        self._response.respond(200, headers, body)

    def refuse(self, status: int, content_type: str, body: bytes) -> None:
        headers = {"Content-Type": JSON, "x-amzn-ErrorType": "ModelError"}
        self._response.respond(424, headers, _model_error(self._deployment, status, body))

    def stream(self, content_type: str) -> tuple[Callable[[bytes], None], Callable[[], None]]:
        lines: list[bytes] = []
        return lines.append, lambda: self.whole(content_type, b"".join(lines))


class _EventStreamDoor(_InvocationDoor):
    """`InvokeEndpointWithResponseStream`: the container's bytes in payload parts."""

    def __init__(self, deployment: Deployment, response: Response, cut: Cut):
        super().__init__(deployment, response)
        self._cut = cut

    def whole(self, content_type: str, body: bytes) -> None:
        send, end = self.stream(content_type)
        send(body)
        end()

    def stream(self, content_type: str) -> tuple[Callable[[bytes], None], Callable[[], None]]:
        headers = {
            "Content-Type": wire.EVENT_STREAM,
            "X-Amzn-SageMaker-Content-Type": content_type,
            "x-Amzn-Invoked-Production-Variant": self._deployment.variant,
        }
        stream, cut = self._response.start_stream(200, headers), self._cut

        def send(data: bytes) -> None:
            for part in cut(data):
                stream.write(wire.payload_part(part))

        return send, stream.end


# --- Refusals -------------------------------------------------------------------------------


def _refusal(dialect: wire.Dialect, refused: Refused) -> tuple[str, bytes]:
    """Content type and body of the container's answer."""
    if refused.error_type is None:
        return PLAIN, refused.message.encode()
    return JSON, wire.error_body(dialect, refused.status, refused.message, refused.error_type)


def _refusal_line(dialect: wire.Dialect, refused: Refused) -> bytes:
    return wire.error_line(dialect, refused.status, refused.message, refused.error_type)


def _model_error(deployment: Deployment, status: int, body: bytes) -> bytes:
    """SageMaker's `ModelError` around a container's error, members as in botocore's model."""
    side = "client" if status < 500 else "server"
    said = body.decode()
    region = deployment.region
    log_url = (
        f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}"
        f"#logEventViewer:group={deployment.log_group}"
    )
    return json.dumps(
        {
            "Message": f'Received {side} error ({status}) from primary with message "{said}". '
            f"See {log_url} in account {deployment.account} for more information.",
            "OriginalStatusCode": status,
            "OriginalMessage": said,
            "LogStreamArn": deployment.log_stream_arn,
        }
    ).encode()
