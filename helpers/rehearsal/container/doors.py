"""How each route of SageMaker's runtime hands on what a container says.

A door is opened for one request. `Outlet` is what a streamed answer goes into: the container's
lines, and what SageMaker itself says when the stream does not end well.
"""

import json
import random
import socket
from collections.abc import Callable, Sequence
from struct import pack

from helpers.rehearsal.aws.endpoints import Deployment
from helpers.rehearsal.container import cuts, wire
from helpers.rehearsal.container.validation import JSON
from helpers.rehearsal.server import Response, Stream

EVENT_LINES = "text/event-stream"

# Seconds of AWS time from a request's arrival to the end of its answer. AWS: InvokeEndpoint's API
# reference (60 s), "Invoke real-time endpoints" (streams, 8 minutes); for the OpenAI route the
# same is assumed [unverified].
WHOLE_LIMIT_S = 60.0
STREAM_LIMIT_S = 480.0

# Words seen in aws-samples/host-yolov8-on-sagemaker-endpoint issue 21 and others.
_TIMED_OUT = (
    "Your invocation timed out while waiting for a response from container primary. Review the "
    "latency metrics for each container in Amazon CloudWatch, resolve the issue, and try again."
)
# Words of botocore's model of sagemaker-runtime; what the service really says is [unverified].
TIME_EXCEEDED = (
    "ModelInvocationTimeExceeded",
    "The model failed to finish sending the response within the timeout period allowed by Amazon "
    "SageMaker AI.",
)
STREAM_BROKEN = (
    "StreamBroken",
    "The Transmission Control Protocol (TCP) connection between the client and the model was "
    "reset or closed.",
)

Finish = Callable[[str], None]


class Outlet:
    """Where a container's stream goes."""

    def send(self, line: bytes) -> None:
        """Send a line."""
        raise NotImplementedError

    def close(self, lines: Sequence[bytes]) -> None:
        """Send the last lines, which come at the same moment, and end the stream."""
        raise NotImplementedError

    def error(self, code: str, message: str) -> None:
        """SageMaker gives the stream up, with the code and words of a `ModelStreamError`."""
        raise NotImplementedError

    def reset(self) -> None:
        """Break the client's connection off."""
        raise NotImplementedError

    def corrupt(self, line: bytes) -> None:
        """Send a line whose checksum is wrong, where there is one."""
        self.send(line)


class Door:
    """How a route hands on what the container says; this one is `InvokeEndpoint`.

    Args:
        deployment: What is behind it.
        response: The answer to be given.
        finish: Told `complete` when it has been given.
    """

    def __init__(self, deployment: Deployment, response: Response, finish: Finish):
        self._deployment = deployment
        self._response = response
        self._finish = finish
        self._outlet: Outlet | None = None

    streams = False  # whether a stream arrives as one

    def limit_s(self, *, asked_stream: bool) -> float:
        """AWS seconds that an answer may take."""
        return WHOLE_LIMIT_S

    def whole(self, content_type: str, body: bytes) -> None:
        """The container has answered with 200 and this body."""
        headers = {
            "Content-Type": content_type,
            "x-Amzn-Invoked-Production-Variant": self._deployment.variant,
        }
        self._respond(200, headers, body)
        self._finish("complete")

    def refuse(self, status: int, content_type: str, body: bytes) -> None:
        """The container has answered with an error."""
        self._model_error(status, body.decode())

    def stream(self, content_type: str) -> Outlet:
        """The container has begun to stream."""
        return _Collected(self, content_type)

    def time_out(self) -> None:
        """The answer has taken too long."""
        if self._outlet is not None:
            self._outlet.error(*TIME_EXCEEDED)
        else:
            self._model_error(0, _TIMED_OUT)

    def vanish(self) -> None:
        """The endpoint is deleted while it answers [unverified, as are the words]."""
        if self._outlet is not None:
            self._outlet.error(*STREAM_BROKEN)
        else:
            body = {"Message": "The service is unavailable. Try your call again."}
            headers = {"Content-Type": JSON, "x-amzn-ErrorType": "ServiceUnavailable"}
            self._respond(503, headers, json.dumps(body).encode())

    def _model_error(self, status: int, said: str) -> None:
        headers = {"Content-Type": JSON, "x-amzn-ErrorType": "ModelError"}
        self._respond(424, headers, _model_error(self._deployment, status, said))

    def _respond(self, status: int, headers: dict[str, str], body: bytes) -> None:
        # Who was given up may still be answered by a container that does not know it yet.
        if not self._response.started:
            self._response.respond(status, headers, body)


class EventStreamDoor(Door):
    """`InvokeEndpointWithResponseStream`: the container's bytes in payload parts."""

    streams = True

    def __init__(
        self,
        deployment: Deployment,
        response: Response,
        finish: Finish,
        *,
        cut: type[cuts.Lines],
        chance: random.Random,
    ):
        super().__init__(deployment, response, finish)
        self._cut = cut
        self._chance = chance

    def limit_s(self, *, asked_stream: bool) -> float:
        """AWS seconds that an answer may take, whatever the body asked for."""
        return STREAM_LIMIT_S

    def whole(self, content_type: str, body: bytes) -> None:
        """The container has answered with 200 and this body."""
        if not self._response.started:
            self.stream(content_type).close([body])

    def stream(self, content_type: str) -> Outlet:
        """The container has begun to stream."""
        headers = {
            "Content-Type": wire.EVENT_STREAM,
            "X-Amzn-SageMaker-Content-Type": content_type,
            "x-Amzn-Invoked-Production-Variant": self._deployment.variant,
        }
        stream = self._response.start_stream(200, headers)
        self._outlet = _Events(stream, self._cut(stream.write, self._chance), self._finish)
        return self._outlet


class OpenAiDoor(Door):
    """`…/openai/v1/chat/completions`: the container's own answer."""

    streams = True

    def limit_s(self, *, asked_stream: bool) -> float:
        """AWS seconds that an answer may take."""
        return STREAM_LIMIT_S if asked_stream else WHOLE_LIMIT_S

    def whole(self, content_type: str, body: bytes) -> None:
        """The container has answered with 200 and this body."""
        self._respond(200, {"Content-Type": content_type}, body)
        self._finish("complete")

    def refuse(self, status: int, content_type: str, body: bytes) -> None:
        """The container has answered with an error."""
        self._respond(status, {"Content-Type": content_type}, body)

    def stream(self, content_type: str) -> Outlet:
        """The container has begun to stream."""
        stream = self._response.start_stream(200, {"Content-Type": content_type})
        self._outlet = _Plain(stream, self._finish)
        return self._outlet


class _Plain(Outlet):
    """The container's lines as they are."""

    def __init__(self, stream: Stream, finish: Finish):
        self._stream = stream
        self._finish = finish
        self.send = stream.write  # nothing in between: this is called for every token

    def close(self, lines: Sequence[bytes]) -> None:
        self._burst(lines)
        self._stream.end()
        self._finish("complete")

    def error(self, code: str, message: str) -> None:
        self._stream.abort()  # plain HTTP has no words for it

    def reset(self) -> None:
        _reset(self._stream)

    def _burst(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            self.send(line)


class _Events(_Plain):
    """The container's bytes in payload parts, SageMaker's words as an exception."""

    def __init__(self, stream: Stream, cut: cuts.Lines, finish: Finish):
        super().__init__(stream, finish)
        self.send = cut.send
        self._burst = cut.burst

    def error(self, code: str, message: str) -> None:
        self._stream.write(wire.exception("ModelStreamError", message, error_code=code))
        self._stream.end()

    def corrupt(self, line: bytes) -> None:
        self._stream.write(wire.corrupted(wire.payload_part(line)))


class _Collected(Outlet):
    """A stream that nobody sees as one: `InvokeEndpoint` waits for all of it."""

    def __init__(self, door: Door, content_type: str):
        self._door = door
        self._content_type = content_type
        self._lines: list[bytes] = []
        self.send = self._lines.append

    def close(self, lines: Sequence[bytes]) -> None:
        self._lines += lines
        self._door.whole(self._content_type, b"".join(self._lines))


def _reset(stream: Stream) -> None:
    """Close a connection so that the client gets a TCP reset instead of an end."""
    connection = stream._transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
    stream.abort()


def _model_error(deployment: Deployment, status: int, said: str) -> bytes:
    """SageMaker's `ModelError` around a container's error, members as in botocore's model."""
    side = "client" if 400 <= status < 500 else "server"
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
