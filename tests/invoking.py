"""The runtime alone: behind the real HTTP server for boto3, or in virtual time."""

import asyncio
import gc
import http.client
import json
import math
import selectors
import threading

import boto3
from botocore.config import Config

from helpers import contracts, recipes
from helpers.clock import Clock
from helpers.rehearsal.aws.endpoints import Deployment
from helpers.rehearsal.container import wire
from helpers.rehearsal.container.runtime import Runtime
from helpers.rehearsal.server import Request, Server

MODEL = "meta-llama/Meta-Llama-3-70B-Instruct"
ENV = recipes.get("llama-3-70b").env
VLLM_ENV = {"SM_ON_MODEL": MODEL, "SM_ON_BATCH_SIZE": "4", "SM_ON_SEQUENCE_LENGTH": "4096"}
MESSAGES = [{"role": "user", "content": "What is a rehearsal?"}]


def image(version, framework=contracts.TGI):
    repository = contracts.REPOSITORIES[framework]
    tag = contracts.CONTRACTS[framework, version].tag
    return f"763104351884.dkr.ecr.us-east-1.amazonaws.com/{repository}:{tag}"


def deployment(
    name,
    *,
    version="0.0.22",
    framework=contracts.TGI,
    count=1,
    env=ENV,
    machine="inf2.48xlarge",
    **more,
):
    return Deployment(
        name=name,
        uid=name,
        image=image(version, framework),
        env={**env, **more},
        instance_type=f"ml.{machine}",
        instance_count=count,
    )


SLOW = {"machine": "inf2.xlarge", "HF_MODEL_ID": "nobody/Slow-280B"}  # 1.9 s a token

DEPLOYMENTS = {
    each.name: each
    for each in (
        deployment("llama"),
        deployment("raw", MESSAGES_API_ENABLED="false"),
        deployment("stops", version="0.0.23"),
        deployment("tgi211", version="0.0.24"),
        deployment("tgi3", version="0.0.28"),
        deployment("vllm", version="0.4.4", framework=contracts.VLLM, env=VLLM_ENV),
        deployment("busy", MAX_CONCURRENT_REQUESTS="1"),
        deployment("long", version="0.0.28", MAX_TOTAL_TOKENS="8192"),
        deployment("slow", **SLOW),
    )
}


class Local:
    """The runtime behind the real HTTP server, on a thread of its own."""

    def __init__(self, *, speed, deployments=DEPLOYMENTS, **options):
        self.deployments = deployments
        self.options = options
        self._ready = threading.Event()
        self._speed = speed
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self):
        self.runtime = Runtime(Clock(self._speed), **self.options)

        async def handle(request, response):
            name = request.path.split("/")[2]
            await self.runtime.invoke(self.deployments[name], request, response)

        server = Server(handle)
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.port = await server.start()
        self._ready.set()
        await self._stop.wait()
        await server.stop()
        if backend := self.options.get("backend"):
            await backend.close()

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def call(self, function, *arguments, **options):
        """Call something of the runtime where it runs."""

        async def called():
            return function(*arguments, **options)

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(10)

    def client(self, **options):
        return boto3.client(
            "sagemaker-runtime",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id="rehearsal",
            aws_secret_access_key="rehearsal",
            config=Config(retries={"total_max_attempts": 1}, **options),
        )

    def openai(self, name, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(
                "POST",
                f"/endpoints/{name}/openai/v1/chat/completions",
                body=json.dumps(body),
                headers={"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type"), response.read()
        finally:
            connection.close()


# --- asking


def asked(**more):
    return {"model": "m", "messages": MESSAGES, "max_tokens": 20, **more}


def invoke(client, name, body, **more):
    body = body if isinstance(body, bytes) else json.dumps(body)
    return client.invoke_endpoint(
        **{"EndpointName": name, "Body": body, "ContentType": "application/json", **more}
    )


def whole(client, name, body):
    return json.loads(invoke(client, name, body)["Body"].read())


def stream(client, name, body, **more):
    """The events of a streamed answer, as they come."""
    answer = client.invoke_endpoint_with_response_stream(
        EndpointName=name, Body=json.dumps(body), ContentType="application/json", **more
    )
    return answer["Body"]


def parts(client, name, body, **more):
    return [event["PayloadPart"]["Bytes"] for event in stream(client, name, body, **more)]


def read(events):
    """The bytes that come until the stream breaks, and with what it breaks."""
    data = b""
    try:
        for event in events:
            data += event["PayloadPart"]["Bytes"]
    except Exception as error:
        return data, error
    finally:
        events.close()
    return data, None


def chunks_of(data):
    """The JSON of whole lines, `[DONE]` left out."""
    rows = [row for row in data.split(b"\n") if row.startswith(b"data:")]
    return [json.loads(row[5:]) for row in rows if not row.endswith(b"[DONE]")]


def lines(client, name, body):
    """The JSON of a streamed answer's lines, of which there are no others."""
    data = b"".join(parts(client, name, body))
    assert all(row.startswith(b"data:") for row in data.split(b"\n") if row)
    return chunks_of(data)


def content(chunks):
    return "".join(
        choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]
    )


# --- virtual time


class _Instant(selectors.DefaultSelector):
    """Waits in no time: the loop's clock jumps, in steps of its timer's resolution."""

    resolution_s = 1e-9
    now_s = 0.0

    def select(self, timeout=None):
        ready = super().select(0)
        if timeout and not ready:
            self.now_s += math.ceil(timeout / self.resolution_s) * self.resolution_s
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Real asyncio in virtual time."""

    def __init__(self, *, resolution_s=1e-9):
        selector = _Instant()
        selector.resolution_s = resolution_s
        super().__init__(selector)

    def time(self):
        return self._selector.now_s


def in_virtual_time(main, *, resolution_s=1e-9):
    loop = VirtualLoop(resolution_s=resolution_s)
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()
        gc.collect()


class Arrivals:
    """A response that notes what was written and when, keep-alives apart, and how it ended."""

    KEEP_ALIVES = (wire.KEEP_ALIVE, wire.payload_part(wire.KEEP_ALIVE))

    _transport = asyncio.BaseTransport()  # without a socket

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.times_s = []
        self.keep_alives_s = []
        self.writes = []
        self.status = None
        self.body = None
        self.ended = None
        self.leave = lambda: None

    @property
    def started(self):
        return self.status is not None

    @property
    def data(self):
        return b"".join(self.writes)

    def respond(self, status, headers, body):
        assert not self.started
        self.status, self.headers, self.body = status, headers, body
        self._finish("whole")

    def start_stream(self, status, headers):
        assert not self.started
        self.status = status
        return self

    def write(self, data):
        if self.ended is None:
            times_s = self.keep_alives_s if data in self.KEEP_ALIVES else self.times_s
            times_s.append(self.loop.time())
            self.writes.append(data)

    def end(self):
        self._finish("end")

    def abort(self):
        self._finish("abort")

    def on_disconnect(self, callback):
        self.leave = callback

    def _finish(self, how):
        if self.ended is None:
            self.ended, self.ended_s = how, self.loop.time()


def request(number=0, *, output_tokens=20, route="invocations-response-stream", **more):
    """A request to stream so many tokens, or whatever else."""
    body = {**asked(stream=True, max_tokens=output_tokens), "seed": number, **more}
    return Request(
        "POST",
        f"/endpoints/e/{route}",
        "",
        {"content-type": "application/json"},
        json.dumps(body).encode(),
    )
