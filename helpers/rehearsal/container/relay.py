"""A backend's answer in a container's words."""

import json
from collections.abc import Callable
from dataclasses import replace

from helpers.clock import Clock
from helpers.messages import Chunk, Usage
from helpers.rehearsal.container import wire
from helpers.rehearsal.container.backend import Backend, BackendFailed
from helpers.rehearsal.container.calls import Call
from helpers.rehearsal.container.doors import Outlet
from helpers.rehearsal.container.validation import Refused

# Reasons of every dialect in the words of `wire`; what is not here ended by itself.
_FINISH = {"length": "length", "stop_sequence": "stop"}
_BROKE_OFF = "The backend's stream ended before its answer was complete."


class Relay:
    """Asks a backend on behalf of one request.

    Args:
        backend: Whom to ask.
        call: The request.
        answer: How the container writes its answer; the counts are the backend's.
        give: Gives a whole answer.
        begin: Begins a streamed one; it is told what says when the stream was last heard.
        clock: AWS time, for what the answer says of its own age.
    """

    def __init__(
        self,
        backend: Backend,
        call: Call,
        answer: wire.Answer,
        *,
        give: Callable[[bytes], None],
        begin: Callable[[Callable[[], float]], Outlet],
        clock: Clock,
    ):
        self._backend = backend
        self._call = call
        self._answer = answer
        self._give = give
        self._begin = begin
        self._clock = clock
        self._lines = wire.ChatStream(answer)
        self._outlet: Outlet | None = None
        self._text: list[str] = []
        self._heard_s = call.arrival_s

    async def run(self) -> None:
        """Answer the request.

        Raises:
            Refused: When the backend failed before the answer began.
        """
        asked, usage = self._call.asked, None
        finish: str | None = None  # until the backend has said that it is complete
        try:
            async with self._backend.chat(asked.parameters, max_tokens=asked.max_tokens) as chunks:
                if asked.stream:
                    self._outlet = self._begin(lambda: self._heard_s)
                async for chunk in chunks:
                    if chunk.text:
                        if self._call.tokens == asked.max_tokens:  # it does not keep to it
                            finish = "length"
                            break
                        self._take(chunk)
                    if chunk.finish_reason:
                        finish = _FINISH.get(str(chunk.finish_reason), "eos")
                    elif chunk.is_done:
                        finish = finish or "eos"
                    usage = chunk.usage or usage
                if finish is None:
                    raise BackendFailed(500, _BROKE_OFF)
        except BackendFailed as error:
            self._fail(error)
        else:
            self._end(finish, usage)

    def _take(self, chunk: Chunk) -> None:
        call = self._call
        self._heard_s = call.now_s()
        call.tokens += 1
        if self._outlet is None:
            self._text.append(_sayable(chunk.text).decode())
            return
        created = self._created()
        if call.tokens == 1:
            for line in self._lines.opening(created):
                self._outlet.send(line)
        self._outlet.send(self._lines.token(created, _piece(chunk.text)))

    def _end(self, finish: str, usage: Usage | None) -> None:
        call, created = self._call, self._created()
        call.finish, call.last_s = finish, call.now_s()
        if usage:
            call.prompt_tokens = _count(usage.prompt_tokens) or call.prompt_tokens
            call.tokens = _count(usage.output_tokens) or call.tokens
        answer = replace(self._answer, prompt_tokens=call.prompt_tokens, output_tokens=call.tokens)
        if self._outlet is None:
            self._give(wire.chat_reply(answer, "".join(self._text), finish, int(created)))
            return
        self._lines.answer = answer
        # Its last token has gone out already: here it is an empty one, or the end of turn.
        last = self._lines.last(created, None if finish == "eos" else b'""', finish)
        self._outlet.close([last, *self._lines.closing(created)])

    def _created(self) -> bytes:
        return str(int(self._clock.time())).encode()

    def _fail(self, error: BackendFailed) -> None:
        self._call.status = error.status
        if self._outlet is None:
            raise Refused(error.status, error.message, "generation") from None
        dialect = self._answer.dialect
        self._call.finish_as("failed")
        self._outlet.close([wire.error_line(dialect, error.status, error.message, "generation")])


def _count(value: object) -> int | None:
    """A count, if the backend's is one."""
    return value if type(value) is int and value >= 0 else None


def _piece(text: str) -> bytes:
    return _sayable(json.dumps(text, ensure_ascii=False))


def _sayable(text: str) -> bytes:
    # A server that cuts between the halves of a character sends what UTF-8 cannot say.
    return text.encode(errors="replace")
