"""sagemaker-core's resources: deploy, look, invoke, delete."""

import json
from importlib.metadata import version
from pathlib import Path

from botocore.exceptions import ClientError
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant, Tag


def refusal(call, *arguments, **more):
    try:
        call(*arguments, **more)
    except ClientError as error:
        return [type(error).__name__, error.response["Error"]["Code"], str(error)]


container = json.loads(Path("small.json").read_text())
chat = Path("chat.json").read_text()
name = f"core-{version('sagemaker-core').replace('.', '-')}"

model = Model.create(
    model_name=name,
    execution_role_arn="arn:aws:iam::123456789012:role/workshop-execution-role",
    primary_container=ContainerDefinition(
        image=container["Image"], environment=container["Environment"]
    ),
)
config = EndpointConfig.create(
    endpoint_config_name=name,
    production_variants=[
        ProductionVariant(
            variant_name="AllTraffic",
            model_name=name,
            instance_type="ml.inf2.xlarge",
            initial_instance_count=1,
            container_startup_health_check_timeout_in_seconds=3600,
        )
    ],
)
endpoint = Endpoint.create(
    endpoint_name=name, endpoint_config_name=name, tags=[Tag(key="client", value="core")]
)
found = {"version": version("sagemaker-core"), "created": endpoint.endpoint_status}
endpoint.wait_for_status("InService", poll=1)
found["waited"] = endpoint.endpoint_status
answer = endpoint.invoke(body=chat, content_type="application/json")
found["whole"] = json.loads(answer.body.read())
found["variant"] = answer.invoked_production_variant
found["image"] = Model.get(name).primary_container.image
found["listed"] = [each.endpoint_name for each in Endpoint.get_all(name_contains=name)]
found["missing"] = refusal(Endpoint.get, "nobody")
found["refused"] = refusal(endpoint.invoke, body="{}", content_type="application/json")
endpoint.delete()
endpoint.wait_for_delete(poll=1)
config.delete()
model.delete()
found["left"] = [
    len(list(kind.get_all(name_contains=name))) for kind in (Endpoint, EndpointConfig, Model)
]
Path("found.json").write_text(json.dumps(found))
