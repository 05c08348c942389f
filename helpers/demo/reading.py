"""One reply, read in a thread of its own, so that the page's pace changes no time stamp."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

from helpers.ending import Ending
from helpers.errors import InvocationError
from helpers.messages import ChatStream

# Between two versions. Showing one takes the page 10 ms of a core (make latency, 2026-11), and what
# it cannot show in time it does not skip: it falls behind. A 70B's token takes 30 ms and more.
PACE_S = 0.025


@dataclass(frozen=True)
class Measured:
    """What can be said of a reply, in AWS time.

    Attributes:
        first_s: From sending the request to the first text; None when none has come.
        tokens_per_s: Pace after it; None for fewer than two tokens.
        tokens: Output tokens, as the container counted, else pieces of text.
    """

    first_s: float | None
    tokens_per_s: float | None
    tokens: int


class Reading:
    """A reply being read.

    Iterating gives the whole text so far whenever there is more, 40 times a second at most; a page
    that is slower than the endpoint skips versions and loses nothing. Create and iterate it in one
    event loop.

    Attributes:
        text: Everything so far.
        error: What ended it early, None when nothing did.
    """

    def __init__(self, open_stream: Callable[..., ChatStream], *, clock):
        self.text = ""
        self.error: InvocationError | None = None
        self._open_stream = open_stream
        self._clock = clock
        self._stream: ChatStream | None = None
        self._sent_s = self._first_s = self._last_s = clock.monotonic()
        self._ending = Ending()
        self._closed = self._ended = False
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        threading.Thread(target=self._read, name="chat-reply", daemon=True).start()

    async def __aiter__(self) -> AsyncIterator[str]:
        shown, ended = 0, False
        while not ended:
            await self._news.wait()
            self._news.clear()
            # Asked before the text: what comes later sets news again.
            ended = self._ended or self._closed
            if len(self.text) > shown:
                shown = len(self.text)
                yield self.text
                if not ended:
                    await asyncio.sleep(PACE_S)

    def close(self) -> None:
        """End the request upstream, also while the endpoint has not answered."""
        self._closed = True
        self._ending.end()
        self._tell()

    @property
    def finish_reason(self) -> str | None:
        """Why the reply ended, in the container's word; None while it runs or when stopped."""
        return self._stream and self._stream.finish_reason

    def measured(self) -> Measured:
        """Time to first token, pace after it, tokens."""
        if not self.text:
            return Measured(None, None, 0)
        tokens, took_s = self._stream.output_tokens, self._last_s - self._first_s
        pace = (tokens - 1) / took_s if tokens > 1 and took_s > 0 else None
        return Measured(self._first_s - self._sent_s, pace, tokens)

    def _read(self) -> None:
        try:
            self._sent_s = self._clock.monotonic()
            with self._open_stream(ending=self._ending) as self._stream:
                self._collect(self._stream)
        except InvocationError as error:
            self.error = error
        except Exception as error:  # nobody else sees what happens in this thread
            self.error = InvocationError(f"The page failed ({error!r}).", kind="page")
        finally:
            self._ended = True
            self._tell()

    def _collect(self, stream: ChatStream) -> None:
        for piece in stream:
            self._last_s = self._clock.monotonic()
            if not self.text:
                self._first_s = self._last_s
            self.text += piece
            self._tell()

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop is gone: the page was closed
            self._loop.call_soon_threadsafe(self._news.set)
