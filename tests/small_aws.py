"""The rehearsal AWS without its runtime, asked by boto3 over HTTP, on a clock that tests set."""

import asyncio
import json
import threading
import urllib.error
import urllib.request
from datetime import UTC, datetime

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.session import Session as BotoSession

from helpers import contracts, recipes
from helpers.rehearsal import hub, routes, timeline
from helpers.rehearsal.aws import control, modeldata, services
from helpers.rehearsal.faults import Faults
from helpers.rehearsal.server import Server

ORIGIN = 1_790_000_000.0
ROLE = "arn:aws:iam::123456789012:role/workshop-execution-role"
ARN = "arn:aws:sagemaker:us-east-1:123456789012"
RECIPE = recipes.RECIPES["llama-3-70b"]
GUIDE_ENV = {**RECIPE.env, "HF_TOKEN": "hf_not_to_be_logged"}
PING = (
    "The primary container for production variant AllTraffic did not pass the ping health check. "
    "Please check CloudWatch logs for this endpoint."
)


class SetClock:
    """AWS time that stands still until a test moves it."""

    speed = 60.0
    origin = ORIGIN

    def __init__(self):
        self.now_s = ORIGIN

    def time(self):
        return self.now_s

    def now(self):
        return datetime.fromtimestamp(self.now_s, UTC)


class Echo:
    """Answers an invocation with what it was given; the real runtime has tests of its own."""

    async def invoke(self, deployment, request, response):
        told = {
            "name": deployment.name,
            "uid": deployment.uid,
            "instances": deployment.instance_count,
            "type": deployment.instance_type,
            "region": deployment.region,
            "variant": deployment.variant,
            "log": deployment.log_stream_arn,
            "body": request.body.decode(),
        }
        response.respond(200, {"Content-Type": "application/json"}, json.dumps(told).encode())


class World:
    """A front door with everything behind it but the runtime, and clients for it."""

    def __init__(self):
        self.clock = SetClock()
        self.role_may = lambda role, ask, region: True
        self.stopped = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        assert self._ready.wait(10)
        self.url = f"http://127.0.0.1:{self.port}"

    async def _main(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._door = routes.FrontDoor(self.clock, stop=self.stopped.set, load=self._load)
        server = Server(self._door)
        self.port = await server.start()
        self._ready.set()
        await self._stop.wait()
        await server.stop()
        self._door.close()

    def _load(self, clock):
        self.services = services.Services(account=control.ACCOUNT)
        self.model = BotoSession().get_service_model("sagemaker")
        gated = {recipe.model_id: recipe.gated for recipe in recipes.RECIPES.values()}
        self.services.wait()
        self.timeline = timeline.Timeline(clock)
        self.faults = Faults()
        self.control = control.ControlPlane(
            self.timeline,
            logs=self.services,
            model=self.model,
            quota=lambda instance_type, region: 20,
            data=modeldata.ModelData(self.services, may=self._may),
            faults=self.faults,
        )
        return routes.Parts(
            self.control,
            Echo(),
            self.services,
            None,
            hub.Hub({**gated, "o/open": False}),
            self.timeline,
            {"SageMaker": self.control.service},
        )

    def _may(self, role, ask, *, region):
        return self.role_may(role, ask, region)

    def empty(self):
        """Forget every model, configuration and endpoint."""
        self.client("sts").get_caller_identity()  # everything is loaded
        self.control.restore({"catalog": [], "endpoints": {}, "journal": []})
        self.timeline.restore([])
        self.faults.put({})

    def restarted(self):
        """Put what would be kept into a control plane that knows nothing; returns it."""
        kept = json.dumps({"control": self.control.dump(), "timeline": self.timeline.dump()})
        self.empty()
        kept = json.loads(kept)
        self.control.restore(kept["control"])
        self.timeline.restore(kept["timeline"])
        return kept

    def close(self):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def client(self, service, region="us-east-1", **config):
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id=services.ACCESS_KEY,
            aws_secret_access_key=services.SECRET_KEY,
            aws_session_token=services.SESSION_TOKEN,
            config=Config(retries={"total_max_attempts": 1}, **config),
        )

    def ask(self, path, *, method="GET", data=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.headers, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, json.loads(error.read())

    def signed(
        self, path, *, method="GET", data=None, service="sagemaker", region="us-east-1", **headers
    ):
        """Ask with a signature and without a client in between."""
        request = AWSRequest(method, self.url + path, headers, data=data)
        keys = Credentials(services.ACCESS_KEY, services.SECRET_KEY, services.SESSION_TOKEN)
        SigV4Auth(keys, service, region).add_auth(request)
        return self.ask(path, method=method, data=data, **request.headers)

    def sagemaker(self, operation, body, *, region="us-east-1", method="POST"):
        """Ask for an operation without a client in between, which would refuse bad input itself."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        target = {"X-Amz-Target": f"SageMaker.{operation}"}
        status, headers, told = self.signed("/", method=method, data=data, region=region, **target)
        assert headers["x-amzn-RequestId"]
        return status, told

    def container_log(self, name, region="us-east-1"):
        client = self.client("logs", region)
        group = f"/aws/sagemaker/Endpoints/{name}"
        streams = client.describe_log_streams(logGroupName=group)["logStreams"]
        assert len(streams) == 1
        assert streams[0]["logStreamName"].startswith("AllTraffic/i-")
        return client.get_log_events(
            logGroupName=group, logStreamName=streams[0]["logStreamName"], startFromHead=True
        )["events"]


def image(recipe=RECIPE):
    registry = "763104351884.dkr.ecr.us-east-1.amazonaws.com"
    return f"{registry}/{contracts.REPOSITORIES[recipe.framework]}:{recipe.contract.tag}"


def create_model(client, name="m", **env):
    return client.create_model(
        ModelName=name,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": image(), "Environment": {**GUIDE_ENV, **env}},
    )


def create_config(client, name="c", model="m", **variant):
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": model,
        "InstanceType": "ml.inf2.48xlarge",
        "InitialInstanceCount": 1,
        "ContainerStartupHealthCheckTimeoutInSeconds": 2400,
        **variant,
    }
    return client.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[{key: value for key, value in variant.items() if value is not None}],
    )


def create_endpoint(client, name="e", env=(), **variant):
    create_model(client, f"{name}-m", **dict(env))
    create_config(client, f"{name}-c", f"{name}-m", **variant)
    return client.create_endpoint(EndpointName=name, EndpointConfigName=f"{name}-c")


def status_of(client, name="e"):
    return client.describe_endpoint(EndpointName=name)["EndpointStatus"]


def without_metadata(answer):
    answer.pop("ResponseMetadata")
    return answer


def moment(epoch_s):
    return datetime.fromtimestamp(epoch_s, UTC)
