"""Services of AWS's JSON protocol behind a front door of their own, asked by boto3 over HTTP."""

import asyncio
import threading

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import Session as BotoSession

from helpers.rehearsal.server import Server

_SESSION = BotoSession()


def model(name):
    """botocore's service model."""
    return _SESSION.get_service_model(name)


class Door:
    """A server that hands requests to services by the prefix of their `X-Amz-Target`."""

    def __init__(self):
        self.services = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        assert self._ready.wait(10)

    def open(self, *services):
        self.services = {service.target_prefix: service for service in services}

    async def _main(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = Server(self._answer)
        self.port = await server.start()
        self._ready.set()
        await self._stop.wait()
        await server.stop()

    async def _answer(self, request, response):
        prefix, _, operation = request.headers["x-amz-target"].partition(".")
        answer = self.services[prefix].answer(operation, request.body, region=request.region)
        response.respond(*answer)

    def client(self, service, region="us-east-1"):
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="KEY",
            aws_secret_access_key="SECRET",
            config=Config(retries={"total_max_attempts": 1}),
        )

    def close(self):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()


def refusal(call, **arguments):
    """Code and words of the error that a call ends with."""
    with pytest.raises(ClientError) as error:
        call(**arguments)
    told = error.value.response["Error"]
    return told["Code"], told["Message"]
