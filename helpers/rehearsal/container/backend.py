"""A real model behind the rehearsal: any server on this machine that speaks OpenAI's chat API.

Only text and token counts are taken over. The container's contract, its dialect and SageMaker's
framing stay the rehearsal's; the pace is the backend's own, in real time.
"""

import ipaddress
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from helpers.errors import RehearsalError
from helpers.messages import Chunk, SSEDecoder, parse_chunk

_CONNECT_S = 5.0  # an answer may take as long as SageMaker lets it


class BackendFailed(Exception):
    """The backend did not answer, or with an error.

    Attributes:
        status: HTTP status for the container to answer with.
        message: What went wrong.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
        self.message = message.encode(errors="replace").decode()  # half a character is none


class Backend:
    """A server that answers chat completions.

    Args:
        url: Base URL of its API, e.g. `http://127.0.0.1:8000/v1`; on this machine only.
        model: What it calls its model; left out, the first that it lists.

    Raises:
        RehearsalError: When the URL leads elsewhere.
    """

    def __init__(self, url: str, *, model: str | None = None):
        self.url = _on_loopback(url)
        self._model = model
        # No proxy of the environment, no redirect: nothing may leave this machine.
        self._http = httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=None),
        )

    @asynccontextmanager
    async def chat(
        self, given: Mapping[str, Any], *, max_tokens: int
    ) -> AsyncIterator[AsyncIterator[Chunk]]:
        """Ask for a chat completion; what comes of it, piece by piece, once it has begun.

        Args:
            given: The request as the container got it.
            max_tokens: Most output tokens.

        Raises:
            BackendFailed: Here, or while it streams.
        """
        known = {name: each for name, each in given.items() if name != "max_completion_tokens"}
        body = {
            **known,
            "model": await self._name(),
            "max_tokens": max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            async with self._http.stream(
                "POST", f"{self.url}/chat/completions", json=body
            ) as answer:
                if answer.status_code != 200:
                    words = (await answer.aread()).decode(errors="replace")
                    raise BackendFailed(_as_error(answer.status_code), words)
                async with aclosing(_chunks(answer)) as chunks:
                    yield chunks
        except httpx.HTTPError as error:
            raise self._failure(error) from None

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def _name(self) -> str:
        if self._model is None:
            try:
                answer = await self._http.get(f"{self.url}/models")
                self._model = str(answer.json()["data"][0]["id"])
            except httpx.HTTPError as error:
                raise self._failure(error) from None
            except (ValueError, LookupError, TypeError):
                message = f"The backend at {self.url} lists no model: name one."
                raise BackendFailed(502, message) from None
        return self._model

    def _failure(self, error: httpx.HTTPError) -> BackendFailed:
        words = str(error) or type(error).__name__
        return BackendFailed(502, f"The backend at {self.url} does not answer: {words}.")


async def _chunks(answer: httpx.Response) -> AsyncIterator[Chunk]:
    decoder = SSEDecoder()
    async for data in answer.aiter_bytes():
        for payload in decoder.feed(data):
            yield _checked(payload)
    for payload in decoder.close():
        yield _checked(payload)


def _checked(payload: str) -> Chunk:
    chunk = parse_chunk(payload)
    if chunk.error:
        raise BackendFailed(_meant(chunk.error.status), chunk.error.message)
    return chunk


def _meant(status: object) -> int:
    """The status that an error in a stream names, if it names one."""
    return status if isinstance(status, int) and 400 <= status < 600 else 500


def _as_error(status: int) -> int:
    """A status that says that something went wrong, also for a redirect."""
    return status if status >= 400 else 502


def _on_loopback(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts = host = None
    if not (parts and parts.scheme in ("http", "https") and _is_loopback(host)):
        raise RehearsalError(
            f"In rehearsal nothing leaves this machine: the backend's URL must be one of "
            f"127.0.0.1, such as http://127.0.0.1:8000/v1, not {url!r}."
        )
    return url.rstrip("/")


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
