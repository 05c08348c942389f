"""End a request of boto3 from another thread, before its answer has begun."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

from botocore import awsrequest


class Ending:
    """What another thread ends a request with, also one that has not been answered yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end: Callable[[], None] | None = None
        self._is_over = False

    def end(self) -> None:
        """End the request now, or as soon as it is sent."""
        with self._lock:
            self._is_over = True
            if self._end:
                self._end()

    def is_by(self, end: Callable[[], None] | None) -> None:
        """Have this end it from now on; None where there is nothing to end."""
        with self._lock:
            self._end = end
            if self._is_over and end:
                end()


_ending: ContextVar[Ending | None] = ContextVar("ending", default=None)


class _Endable:
    """A connection whose wait for an answer an `Ending` can end."""

    def getresponse(self):
        if (ending := _ending.get()) is None:
            return super().getresponse()
        ending.is_by(partial(_shut, self.sock))
        try:
            return super().getresponse()
        finally:
            ending.is_by(None)  # from here on it may be another request's


def _shut(connected: Any) -> None:
    with suppress(AttributeError, OSError):
        connected.shutdown(socket.SHUT_RDWR)


class _HTTP(_Endable, awsrequest.AWSHTTPConnection):
    pass


class _HTTPS(_Endable, awsrequest.AWSHTTPSConnection):
    pass


class _HTTPPool(awsrequest.AWSHTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(awsrequest.AWSHTTPSConnectionPool):
    ConnectionCls = _HTTPS


@contextmanager
def ended_by(ending: Ending | None, client) -> Iterator[None]:
    """What a boto3 client waits for in here, this ending ends; None for nothing."""
    if ending:
        _let_end(client)
    token = _ending.set(ending)
    try:
        yield
    finally:
        _ending.reset(token)


def _let_end(client) -> None:
    """Have the client's connections be `_Endable`: botocore has no public way to reach them."""
    with suppress(AttributeError):  # else its requests end when they time out
        pools = client._endpoint.http_session._pool_classes_by_scheme
        pools.update(http=_HTTPPool, https=_HTTPSPool)
