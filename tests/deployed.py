"""A rehearsal server of a test file's own, with the original guide's endpoint in service."""

from contextlib import contextmanager

import rehearsing

from helpers import recipes, session

NAME = "inf2-workshop-rehearsal-test"
MODEL_ID = "meta-llama/Meta-Llama-3-70B-Instruct"
IMAGE = (
    "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:"
    "2.1.2-optimum0.0.22-neuronx-py310-ubuntu22.04"
)
ENV = {**recipes.get("llama-3-70b").env, "HF_TOKEN": "hf_of_nobody"}


@contextmanager
def rehearsal(state_dir, *, speed=rehearsing.SPEED, instances=1):
    """A session with the endpoint `NAME` behind it."""
    with rehearsing.server(state_dir, speed=speed):
        here = session.open_session()
        _deploy(here, instances)
        yield here


def _deploy(here, instances):
    """With plain boto3: the SDK takes ten seconds to import."""
    sagemaker = here.client("sagemaker")
    sagemaker.create_model(
        ModelName=NAME,
        ExecutionRoleArn=here.role(),
        PrimaryContainer={"Image": IMAGE, "Environment": ENV},
    )
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": NAME,
        "InstanceType": "ml.inf2.48xlarge",
        "InitialInstanceCount": instances,
        "ContainerStartupHealthCheckTimeoutInSeconds": 3600,
    }
    sagemaker.create_endpoint_config(EndpointConfigName=NAME, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName=NAME, WaiterConfig={"Delay": 0.2, "MaxAttempts": 200}
    )
