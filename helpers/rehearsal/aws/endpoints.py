"""The life of an endpoint: Creating, InService, Updating, Failed, Deleting.

An endpoint has a fleet: for each production variant a container, an instance type and so many
replicas. Every change builds the next fleet and puts it in place when its time has come, or leaves
the old one where it was and says why. How long that takes is `startup`'s business.
"""

import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from helpers.rehearsal.aws import modeldata, startup
from helpers.rehearsal.aws.awsjson import REGION, AwsError, invalid, timestamp
from helpers.rehearsal.aws.catalog import CONFIG, ENDPOINT, MODEL, Catalog, Resource
from helpers.rehearsal.aws.modeldata import ModelFiles
from helpers.rehearsal.timeline import Timeline
from helpers.target_tracking import SCALE_IN_S

# Seconds of AWS time. Public reports say "a minute or two" of deletions; none measured here
# [unverified].
DELETING_S = 15.0
NO_CAPACITY_S = 600.0
# As CI runs of aws/deep-learning-containers met it (pull request 6673, 2026-08).
NO_CAPACITY = (
    "Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity error. "
    "Please retry using a different ML instance type or after some time."
)
_SERVING = ("InService", "Updating", "SystemUpdating", "RollingBack")


class Logs(Protocol):
    """Where a container's log goes."""

    def write(
        self, group: str, stream: str, lines: list[tuple[float, str]], *, region: str
    ) -> None:
        """Append lines, each with its epoch second."""


class Faults(Protocol):
    """What is to go wrong."""

    def get(self, name: str) -> Mapping[str, Any] | None:
        """The options of a fault that is active, None when it is not."""

    def strikes_in(self, name: str, region: str) -> bool:
        """Whether a fault is active in a region."""


class Data(Protocol):
    """The data of models in S3."""

    def check(self, container: Mapping[str, Any], *, role: str, region: str) -> None:
        """Refuse data that SageMaker could not copy."""

    def files(self, container: Mapping[str, Any]) -> ModelFiles | None:
        """What it would copy now, None when there is nothing."""


@dataclass(frozen=True)
class Deployment:
    """What an endpoint that is in service runs.

    Attributes:
        name: The endpoint's name.
        uid: Different for every fleet of every endpoint ever created, also under the same name.
        image: Image URI of the container.
        env: The container's environment, secrets included.
        instance_type: With the leading `ml.`.
        instance_count: Replicas.
        region: Where it runs.
        account: Whose it is.
        variant: Its production variant.
        model_id: The Hub's name of what it has loaded from S3, empty when `env` names the model.
    """

    name: str
    uid: str
    image: str
    env: Mapping[str, str]
    instance_type: str
    instance_count: int
    region: str = REGION
    account: str = "123456789012"
    variant: str = "AllTraffic"
    model_id: str = ""

    @property
    def log_group(self) -> str:
        """CloudWatch log group of the endpoint."""
        return log_group(self.name)

    @property
    def log_stream_arn(self) -> str:
        """What a ModelError names as `LogStreamArn`."""
        return f"arn:aws:logs:{self.region}:{self.account}:log-group:{self.log_group}"


def log_group(name: str) -> str:
    """CloudWatch log group of an endpoint."""
    return f"/aws/sagemaker/Endpoints/{name}"


@dataclass(frozen=True)
class Variant:
    """One production variant of a fleet."""

    name: str
    image: str
    env: dict[str, str]
    instance_type: str
    count: int
    weight: float
    health_check_timeout_s: float | None = None
    volume_gb: float | None = None
    inference_ami: str | None = None
    download_timeout_s: float | None = None
    data: dict[str, Any] | None = None  # a container definition's, where the weights lie in S3
    model_id: str = ""  # what lay there when the fleet was made


@dataclass(frozen=True)
class Fleet:
    """What runs, or is about to run, behind an endpoint."""

    uid: str
    config: str
    variants: tuple[Variant, ...]
    since_s: float

    def instances(self) -> Counter[str]:
        """How many of each instance type."""
        counted: Counter[str] = Counter()
        for variant in self.variants:
            counted[variant.instance_type] += variant.count
        return counted

    def replicas(self) -> dict[str, int]:
        """How many of each variant."""
        return {variant.name: variant.count for variant in self.variants}

    def size(self) -> str:
        """How many of what, in words."""
        return ", ".join(f"{one.count} x {one.instance_type}" for one in self.variants)


@dataclass
class _Life:
    """What an endpoint is beyond a named resource.

    Attributes:
        fleet: What serves; of one that is not there yet, what is being started.
        next: What takes its place when the change under way ends.
        change: Names that change; what was begun for another one comes too late.
        failure_reason: Of the last change, when it failed.
    """

    fleet: Fleet
    next: Fleet | None = None
    change: str = ""
    failure_reason: str | None = None


Record = Callable[..., None]


class Endpoints:
    """The endpoints of an account.

    Args:
        catalog: Holds their names and tags, and the configurations and models they are made from.
        timeline: When what happens.
        logs: Where containers write.
        quota: How many instances of a type may serve in a region.
        data: What lies in S3 for models to load.
        faults: What is to go wrong.
        record: Writes into the journal: operation, resource, time, detail.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        timeline: Timeline,
        logs: Logs,
        quota: Callable[[str, str], float],
        data: Data,
        faults: Faults,
        record: Record,
    ):
        self._catalog = catalog
        self._timeline = timeline
        self._logs = logs
        self._quota = quota
        self._data = data
        self._faults = faults
        self._record = record
        self._lives: dict[str, _Life] = {}  # by ARN
        self._chance = random.Random(0)
        self.before_update: list[Callable[[Resource, Fleet, Fleet], None]] = []
        self.on_updated: list[Callable[[Resource], None]] = []
        self.on_deleted: list[Callable[[Resource], None]] = []
        self.on_retired: list[Callable[..., None]] = []
        for kind in ("logged", "started", "updated", "deleted"):
            timeline.on(f"endpoint {kind}", getattr(self, f"_on_{kind}"))

    # --- operations

    def create(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        """Answer CreateEndpoint."""
        fleet = self._fleet(given["EndpointConfigName"], region)
        self._catalog.check_new(ENDPOINT, given["EndpointName"], region)
        self._check_quotas(fleet.instances(), region)
        endpoint = self._catalog.add(ENDPOINT, given, region, self._now)
        endpoint.status = "Creating"
        self._lives[endpoint.arn] = life = _Life(fleet, change=fleet.uid)
        self._record("CreateEndpoint", endpoint, fleet.size())
        self._start(endpoint, life, fleet, "endpoint started")
        return {"EndpointArn": endpoint.arn}

    def describe(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        """Answer DescribeEndpoint."""
        endpoint = self._catalog.find(ENDPOINT, given["EndpointName"], region)
        life = self._lives[endpoint.arn]
        described = {
            **endpoint.described(),
            "EndpointStatus": endpoint.status,
            "LastModifiedTime": timestamp(endpoint.modified_s),
        }
        described.pop("DeploymentConfig", None)
        if life.failure_reason:
            described["FailureReason"] = life.failure_reason
        if endpoint.status in _SERVING:
            described["EndpointConfigName"] = life.fleet.config
            described["ProductionVariants"] = _variant_summaries(life)
        if life.next is not None and life.next.uid != life.fleet.uid:
            described["PendingDeploymentSummary"] = _pending_summary(life.next)
        return described

    def update(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        """Answer UpdateEndpoint: a new fleet comes up beside the old one and takes its place.

        What a variant keeps follows `RetainAllVariantProperties`.
        """
        endpoint, life = self._changeable(given["EndpointName"], region)
        # The configuration in use must still be there (hashicorp/terraform-provider-aws#40048).
        self._catalog.find(CONFIG, life.fleet.config, region)
        fleet = self._fleet(given["EndpointConfigName"], region)
        if given.get("RetainAllVariantProperties"):
            excluded = given.get("ExcludeRetainedVariantProperties", [])
            fleet = _retaining(life.fleet, fleet, {one["VariantPropertyType"] for one in excluded})
        for check in self.before_update:
            check(endpoint, life.fleet, fleet)
        self._check_quotas(fleet.instances(), region)
        self._change(endpoint, life, fleet, "UpdateEndpoint")
        self._start(endpoint, life, fleet, "endpoint updated")
        return {"EndpointArn": endpoint.arn}

    def scale(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        """Answer UpdateEndpointWeightsAndCapacities: more or fewer replicas, other weights."""
        endpoint, life = self._changeable(given["EndpointName"], region)
        wanted = {one["VariantName"]: one for one in given["DesiredWeightsAndCapacities"]}
        known = {variant.name for variant in life.fleet.variants}
        for name, one in wanted.items():
            if name not in known:
                raise invalid(f'Could not find variant "{name}" of endpoint "{endpoint.arn}".')
            if "ServerlessUpdateConfig" in one:
                raise invalid("The rehearsal AWS serves instance-based endpoints only.")
            if one.get("DesiredInstanceCount") == 0:  # words [unverified]
                raise invalid(f'Variant "{name}" needs at least one instance.')
        fleet = replace(
            life.fleet,
            since_s=self._now,
            variants=tuple(
                replace(
                    variant,
                    count=wanted.get(variant.name, {}).get("DesiredInstanceCount", variant.count),
                    weight=wanted.get(variant.name, {}).get("DesiredWeight", variant.weight),
                )
                for variant in life.fleet.variants
            ),
        )
        self._check_quotas(fleet.instances() - life.fleet.instances(), region)
        # By variant: an instance that serves one is not the other's.
        before = life.fleet.replicas()
        more = any(count > before[name] for name, count in fleet.replicas().items())
        self._change(endpoint, life, fleet, "UpdateEndpointWeightsAndCapacities")
        if more:
            self._start(endpoint, life, fleet, "endpoint updated")
        else:
            self._end_change(SCALE_IN_S, "endpoint updated", endpoint, life, None)
        return {"EndpointArn": endpoint.arn}

    def delete(self, given: dict[str, Any], region: str) -> None:
        """Answer DeleteEndpoint."""
        endpoint = self._catalog.find(ENDPOINT, given["EndpointName"], region)
        if endpoint.status not in ("InService", "Failed"):
            # Also true of one that is still being created: AWS makes you wait, and bills.
            raise invalid(f'Cannot update in-progress endpoint "{endpoint.arn}".')
        life = self._lives[endpoint.arn]
        life.change = _uid()
        endpoint.status, endpoint.modified_s = "Deleting", self._now
        self._record("DeleteEndpoint", endpoint, endpoint.arn)
        for tell in self.on_deleted:
            tell(endpoint)
        self._end_change(DELETING_S, "endpoint deleted", endpoint, life, None)

    # --- what the runtime and auto scaling ask

    def serving(self, name: str, *, region: str = REGION, variant: str | None = None) -> Deployment:
        """What runs under an endpoint's name; unlike elsewhere, capitals matter here.

        Args:
            name: The endpoint's.
            region: From the request's signature.
            variant: `TargetVariant`; left out, one at random, by their weights.

        Raises:
            AwsError: When there is no such endpoint or variant, or it is not in service.
        """
        endpoint = self._catalog.get(ENDPOINT, name, region)
        if endpoint is None or endpoint.name != name or endpoint.status not in _SERVING:
            message = f"Endpoint {name} of account {self._catalog.account} not found."
            raise AwsError("ValidationError", message)
        fleet = self._lives[endpoint.arn].fleet
        if variant is None:
            return self._deployment(endpoint, fleet, self._by_weight(fleet.variants))
        for one in fleet.variants:
            if one.name == variant:
                return self._deployment(endpoint, fleet, one)
        # words [unverified]
        raise AwsError("ValidationError", f"Variant {variant[:200]} not found for Request")

    def _by_weight(self, variants: tuple[Variant, ...]) -> Variant:
        weights = [variant.weight for variant in variants]
        if len(variants) == 1 or not any(weights):
            return variants[0]
        return self._chance.choices(variants, weights)[0]

    def fleet(self, name: str, region: str) -> Fleet | None:
        """What serves under a name, None when nothing does."""
        endpoint = self._catalog.get(ENDPOINT, name, region)
        if endpoint is None or endpoint.status not in _SERVING:
            return None
        return self._lives[endpoint.arn].fleet

    def status(self, name: str, region: str) -> str | None:
        """An endpoint's status, None when there is none."""
        endpoint = self._catalog.get(ENDPOINT, name, region)
        return endpoint.status if endpoint else None

    # --- changes

    @property
    def _now(self) -> float:
        return self._timeline.now

    def _fleet(self, config_name: str, region: str) -> Fleet:
        """What a configuration asks for, as of now: later changes to its models do not count."""
        config = self._catalog.find(CONFIG, config_name, region)
        variants = []
        for given in config.spec["ProductionVariants"]:
            model = self._catalog.find(MODEL, given["ModelName"], region)
            container = model.spec["PrimaryContainer"]
            env = dict(container.get("Environment", {}))
            data = modeldata.data_of(container)
            files = self._data.files(data) if data else None
            variants.append(
                Variant(
                    name=given["VariantName"],
                    image=container["Image"],
                    env=env,
                    instance_type=given["InstanceType"],
                    count=given["InitialInstanceCount"],
                    weight=given["InitialVariantWeight"],
                    health_check_timeout_s=given.get("ContainerStartupHealthCheckTimeoutInSeconds"),
                    volume_gb=given.get("VolumeSizeInGB"),
                    inference_ami=given.get("InferenceAmiVersion"),
                    download_timeout_s=given.get("ModelDataDownloadTimeoutInSeconds"),
                    data=data,
                    model_id=files.model_id if files and startup.is_local(env) else "",
                )
            )
        return Fleet(_uid(), config.name, tuple(variants), self._now)

    def _changeable(self, name: str, region: str) -> tuple[Resource, _Life]:
        endpoint = self._catalog.find(ENDPOINT, name, region)
        if endpoint.status != "InService":
            raise invalid(f'Cannot update in-progress endpoint "{endpoint.arn}".')
        return endpoint, self._lives[endpoint.arn]

    def _change(self, endpoint: Resource, life: _Life, fleet: Fleet, operation: str) -> None:
        life.next, life.change, life.failure_reason = fleet, _uid(), None
        endpoint.status, endpoint.modified_s = "Updating", self._now
        self._record(operation, endpoint, fleet.size())

    def _check_quotas(self, wanted: Counter[str], region: str) -> None:
        """Refuse more instances than the account may have; an update counts both fleets."""
        used: Counter[str] = Counter()
        for endpoint in self._catalog.all(ENDPOINT, region):
            if endpoint.status != "Failed":
                used += self._held(endpoint)
        for instance_type, delta in wanted.items():
            limit = self._quota(instance_type, region)
            if used[instance_type] + delta > limit:
                raise AwsError(
                    "ResourceLimitExceeded",
                    f"The account-level service limit '{instance_type} for endpoint usage' is "
                    f"{limit:g} Instances, with current utilization of {used[instance_type]} "
                    f"Instances and a request delta of {delta} Instances. Please use AWS Service "
                    "Quotas to request an increase for this quota. If AWS Service Quotas is not "
                    "available, contact AWS support to request an increase for this quota.",
                )

    def _held(self, endpoint: Resource) -> Counter[str]:
        life = self._lives[endpoint.arn]
        now, then = life.fleet.instances(), life.next
        if then is None:
            return now
        return now | then.instances() if then.uid == life.fleet.uid else now + then.instances()

    def _start(self, endpoint: Resource, life: _Life, fleet: Fleet, then: str) -> None:
        """Start what a fleet has more of than runs.

        The first failure ends it, the slowest start completes it.
        """
        ends: list[tuple[float, str | None]] = []
        same = fleet.uid == life.fleet.uid and fleet is not life.fleet
        running = life.fleet.replicas() if same else {}
        for variant in fleet.variants:
            first = running.get(variant.name, 0)
            if variant.count <= first:
                continue
            plan = startup.plan(
                variant.image,
                variant.env,
                variant=variant.name,
                instance_type=variant.instance_type,
                health_check_timeout_s=variant.health_check_timeout_s,
                volume_gb=variant.volume_gb,
                inference_ami=variant.inference_ami,
                uri=modeldata.uri_of(variant.data) if variant.data else None,
                files=self._data.files(variant.data) if variant.data else None,
                download_timeout_s=variant.download_timeout_s,
                fault=next(filter(self._is_on, ("health-check", "gated-model")), None),
            )
            if self._faults.strikes_in("no-capacity", endpoint.region):
                ends.append((NO_CAPACITY_S, NO_CAPACITY))
                continue
            ends.append((plan.duration_s, plan.failure_reason))
            for instance in range(first, variant.count):
                self._log(endpoint, life, f"{variant.name}/i-{fleet.uid}{instance:02x}", plan.log)
        failures = [end for end in ends if end[1]]
        duration_s, reason = min(failures) if failures else max(ends)
        self._end_change(duration_s, then, endpoint, life, reason)

    def _log(
        self, endpoint: Resource, life: _Life, stream: str, lines: Iterable[tuple[float, str]]
    ) -> None:
        for after_s, line in lines:
            self._timeline.at(
                endpoint.modified_s + after_s,
                "endpoint logged",
                region=endpoint.region,
                name=endpoint.name,
                change=life.change,
                stream=stream,
                line=line,
            )

    def _is_on(self, fault: str) -> bool:
        return self._faults.get(fault) is not None

    def _end_change(
        self, after_s: float, then: str, endpoint: Resource, life: _Life, reason: str | None
    ) -> None:
        self._timeline.at(
            endpoint.modified_s + after_s,
            then,
            region=endpoint.region,
            name=endpoint.name,
            change=life.change,
            reason=reason,
        )

    # --- what happens by itself

    def _of(self, event: Mapping[str, Any]) -> tuple[Resource, _Life] | None:
        """The endpoint that an event is for, None when it has changed again since."""
        endpoint = self._catalog.get(ENDPOINT, event["name"], event["region"])
        life = self._lives.get(endpoint.arn) if endpoint else None
        return (endpoint, life) if life and life.change == event["change"] else None

    def _on_logged(self, at_s: float, event: dict[str, Any]) -> None:
        if self._of(event):
            group, line = log_group(event["name"]), (at_s, event["line"])
            self._logs.write(group, event["stream"], [line], region=event["region"])

    def _on_started(self, at_s: float, event: dict[str, Any]) -> None:
        if found := self._of(event):
            endpoint, life = found
            life.failure_reason = event["reason"]
            endpoint.status = "Failed" if event["reason"] else "InService"
            endpoint.modified_s = at_s

    def _on_updated(self, at_s: float, event: dict[str, Any]) -> None:
        if found := self._of(event):
            endpoint, life = found
            life.failure_reason = event["reason"]
            if life.failure_reason is None:
                retired, life.fleet = life.fleet, life.next
                endpoint.spec["EndpointConfigName"] = life.fleet.config
                if retired.uid != life.fleet.uid:
                    self._retire(retired, drain=True)
            # What failed leaves the old fleet in service; its reason stays [unverified].
            life.next = None
            endpoint.status, endpoint.modified_s = "InService", at_s
            for tell in self.on_updated:
                tell(endpoint)

    def _on_deleted(self, at_s: float, event: dict[str, Any]) -> None:
        if found := self._of(event):
            endpoint, life = found
            self._catalog.remove(endpoint)
            del self._lives[endpoint.arn]
            self._retire(life.fleet, drain=False)

    def _retire(self, fleet: Fleet, *, drain: bool) -> None:
        """Tell who holds containers that these go; to drain is to let answers under way end."""
        for tell in self.on_retired:
            tell(fleet.uid, drain=drain)

    def _deployment(self, endpoint: Resource, fleet: Fleet, variant: Variant) -> Deployment:
        return Deployment(
            name=endpoint.name,
            uid=fleet.uid,
            image=variant.image,
            env=variant.env,
            instance_type=variant.instance_type,
            instance_count=variant.count,
            region=endpoint.region,
            account=self._catalog.account,
            variant=variant.name,
            model_id=variant.model_id,
        )

    # --- state

    def dump(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {arn: asdict(life) for arn, life in self._lives.items()}

    def restore(self, dumped: Mapping[str, Any]) -> None:
        """Take back what `dump` gave."""
        self._lives = {
            arn: _Life(
                **{**life, "fleet": _read_fleet(life["fleet"]), "next": _read_fleet(life["next"])}
            )
            for arn, life in dumped.items()
        }


def _read_fleet(dumped: Mapping[str, Any] | None) -> Fleet | None:
    if dumped is None:
        return None
    return Fleet(**{**dumped, "variants": tuple(Variant(**one) for one in dumped["variants"])})


def _retaining(old: Fleet, new: Fleet, excluded: Iterable[str]) -> Fleet:
    """The new fleet with the counts and weights of the old one's variants of the same name."""
    before = {variant.name: variant for variant in old.variants}

    def kept(variant: Variant) -> Variant:
        was = before.get(variant.name, variant)
        count = variant.count if "DesiredInstanceCount" in excluded else was.count
        weight = variant.weight if "DesiredWeight" in excluded else was.weight
        return replace(variant, count=count, weight=weight)

    return replace(new, variants=tuple(map(kept, new.variants)))


def _variant_summaries(life: _Life) -> list[dict[str, Any]]:
    same = life.next is not None and life.next.uid == life.fleet.uid
    wanted = {one.name: one for one in (life.next if same else life.fleet).variants}
    return [
        {
            "VariantName": one.name,
            "DeployedImages": [_image(one, life.fleet.since_s)],
            "CurrentWeight": one.weight,
            "DesiredWeight": wanted[one.name].weight,
            "CurrentInstanceCount": one.count,
            "DesiredInstanceCount": wanted[one.name].count,
        }
        for one in life.fleet.variants
    ]


def _pending_summary(fleet: Fleet) -> dict[str, Any]:
    variants = [
        {
            "VariantName": one.name,
            "DeployedImages": [_image(one, fleet.since_s)],
            "DesiredWeight": one.weight,
            "CurrentInstanceCount": 0,
            "DesiredInstanceCount": one.count,
            "InstanceType": one.instance_type,
            "VariantStatus": [{"Status": "Creating", "StartTime": timestamp(fleet.since_s)}],
        }
        for one in fleet.variants
    ]
    return {
        "EndpointConfigName": fleet.config,
        "ProductionVariants": variants,
        "StartTime": timestamp(fleet.since_s),
    }


def _image(variant: Variant, resolved_s: float) -> dict[str, Any]:
    return {"SpecifiedImage": variant.image, "ResolutionTime": timestamp(resolved_s)}


def _uid() -> str:
    return uuid.uuid4().hex[:16]
