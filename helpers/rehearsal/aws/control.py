"""SageMaker's control plane: models, endpoint configurations, endpoints and their tags."""

import re
from collections.abc import Callable
from typing import Any, Protocol

from botocore.model import ServiceModel

from helpers.rehearsal.aws import modeldata
from helpers.rehearsal.aws.awsjson import ACCOUNT, REGION, Service, invalid, timestamp
from helpers.rehearsal.aws.catalog import CONFIG, ENDPOINT, MODEL, Catalog, Kind, Resource
from helpers.rehearsal.aws.endpoints import Data, Deployment, Endpoints, Faults, Logs
from helpers.rehearsal.timeline import Timeline

# Private registries, also FIPS, dual-stack and those of other partitions.
_ECR = re.compile(r"\d{12}\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+\.[a-z0-9.-]+/\S+")
_INSTANCE_MEMBERS = ("ModelName", "InstanceType", "InitialInstanceCount")


class Roles(Protocol):
    """What is asked about an execution role."""

    def trusts(self, role_arn: str, service: str, source_arn: str) -> bool:
        """Whether it exists and lets a service assume it for something."""


class ControlPlane:
    """The SageMaker operations of the workshop, in AWS time.

    Args:
        timeline: When what happens.
        logs: Where containers write.
        model: botocore's service model of SageMaker.
        quota: How many instances of a type may serve in a region.
        data: What lies in S3 for models to load.
        faults: What is to go wrong.
        roles: Which roles there are; None takes every one.
        account: Twelve digits.
    """

    def __init__(
        self,
        timeline: Timeline,
        *,
        logs: Logs,
        model: ServiceModel,
        quota: Callable[[str, str], float],
        data: Data,
        faults: Faults,
        roles: Roles | None = None,
        account: str = ACCOUNT,
    ):
        self._timeline = timeline
        self._data = data
        self._roles = roles
        self._journal: list[dict[str, Any]] = []
        self.catalog = catalog = Catalog(account=account)
        self.endpoints = endpoints = Endpoints(
            catalog,
            timeline=timeline,
            logs=logs,
            quota=quota,
            data=data,
            faults=faults,
            record=self._record,
        )
        self.service = Service(
            model,
            {
                "CreateModel": self._create_model,
                "DescribeModel": self._describe_model,
                "ListModels": lambda given, region: catalog.page(MODEL, given, region),
                "DeleteModel": lambda given, region: self._delete(MODEL, given, region),
                "CreateEndpointConfig": self._create_config,
                "DescribeEndpointConfig": self._describe_config,
                "ListEndpointConfigs": lambda given, region: catalog.page(CONFIG, given, region),
                "DeleteEndpointConfig": lambda given, region: self._delete(CONFIG, given, region),
                "CreateEndpoint": endpoints.create,
                "DescribeEndpoint": endpoints.describe,
                "ListEndpoints": lambda given, region: catalog.page(ENDPOINT, given, region),
                "UpdateEndpoint": endpoints.update,
                "UpdateEndpointWeightsAndCapacities": endpoints.scale,
                "DeleteEndpoint": endpoints.delete,
                "AddTags": catalog.add_tags,
                "ListTags": catalog.list_tags,
                "DeleteTags": catalog.delete_tags,
            },
            advance=timeline.advance,
        )

    def serving(self, name: str, *, region: str = REGION, variant: str | None = None) -> Deployment:
        """What runs under an endpoint's name; see `Endpoints.serving`."""
        self._timeline.advance()
        return self.endpoints.serving(name, region=region, variant=variant)

    def journal(self) -> list[dict[str, Any]]:
        """Every create, update and delete that succeeded: time (epoch), operation, name, detail."""
        return list(self._journal)

    def dump(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {
            "catalog": self.catalog.dump(),
            "endpoints": self.endpoints.dump(),
            "journal": self._journal,
        }

    def restore(self, dumped: dict[str, Any]) -> None:
        """Take back what `dump` gave."""
        self.catalog.restore(dumped["catalog"])
        self.endpoints.restore(dumped["endpoints"])
        self._journal = list(dumped["journal"])

    # --- models

    def _create_model(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        container = given.get("PrimaryContainer")
        if container is None or "Containers" in given:
            raise invalid("The rehearsal AWS serves models with exactly one PrimaryContainer.")
        if not container.get("Image"):
            raise invalid("The rehearsal AWS needs the PrimaryContainer's Image.")
        if "ExecutionRoleArn" not in given:
            raise invalid("Execution role is required to create a model.")
        role = given["ExecutionRoleArn"]
        # The star is a character of aws:SourceArn here: SageMaker developer guide, "Cross-service
        # confused deputy prevention".
        source = f"arn:aws:sagemaker:{region}:{self.catalog.account}:*"
        if self._roles is not None and not self._roles.trusts(role, "sagemaker", source):
            # As hashicorp/terraform-provider-aws quotes it, internal/service/sagemaker/endpoint.go.
            raise invalid(
                f'The execution role ARN "{role}" is invalid. Please ensure that the role exists '
                'and that its trust relationship policy allows the action "sts:AssumeRole" for '
                'the service principal "sagemaker.amazonaws.com".'
            )
        image = container["Image"]
        access = container.get("ImageConfig", {}).get("RepositoryAccessMode")
        if access != "Vpc" and not _ECR.fullmatch(image):
            # Seen in aws/sagemaker-python-sdk, pull request 4700 (2024-05).
            raise invalid(
                f'Using non-ECR image "{image}" without Vpc repository access mode is not '
                "supported."
            )
        if "AdditionalModelDataSources" in container:
            raise invalid("The rehearsal AWS has no additional model data sources.")
        if data := modeldata.data_of(container):
            self._data.check(data, role=given["ExecutionRoleArn"], region=region)
        detail = image.rpartition("/")[2]
        return self._create(MODEL, given, region, detail)

    def _describe_model(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        model = self.catalog.find(MODEL, given["ModelName"], region)
        described = {"EnableNetworkIsolation": False, **model.described()}
        container = {"Mode": "SingleModel", **described["PrimaryContainer"]}
        return {**described, "PrimaryContainer": container}

    # --- endpoint configurations

    def _create_config(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        variants = given["ProductionVariants"]
        names = [variant["VariantName"] for variant in variants]
        if len(set(names)) < len(names):
            raise invalid("Production variant names must be unique within an endpoint.")
        for variant in variants:
            for member in _INSTANCE_MEMBERS:
                if member not in variant:
                    raise invalid(
                        f"The rehearsal AWS serves instance-based endpoints: production variant "
                        f"{variant['VariantName']} needs {member}."
                    )
            self.catalog.find(MODEL, variant["ModelName"], region)
        for variant in variants:
            variant.setdefault("InitialVariantWeight", 1.0)
        detail = ", ".join(
            f"{one['InitialInstanceCount']} x {one['InstanceType']}" for one in variants
        )
        return self._create(CONFIG, given, region, detail)

    def _describe_config(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        return self.catalog.find(CONFIG, given["EndpointConfigName"], region).described()

    # --- both

    def _create(
        self, kind: Kind, given: dict[str, Any], region: str, detail: str
    ) -> dict[str, Any]:
        resource = self.catalog.add(kind, given, region, self._timeline.now)
        self._record(f"Create{kind.member}", resource, detail)
        return {f"{kind.member}Arn": resource.arn}

    def _delete(self, kind: Kind, given: dict[str, Any], region: str) -> None:
        # AWS lets go of a model or configuration that an endpoint still uses.
        resource = self.catalog.find(kind, given[f"{kind.member}Name"], region)
        self.catalog.remove(resource)
        self._record(f"Delete{kind.member}", resource, resource.arn)

    def _record(self, operation: str, resource: Resource, detail: str) -> None:
        now = timestamp(self._timeline.now)
        self._journal.append(
            {"time": now, "operation": operation, "name": resource.name, "detail": detail}
        )
