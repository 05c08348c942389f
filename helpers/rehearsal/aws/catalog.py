"""What a SageMaker account holds: models, endpoint configurations and endpoints, with their tags.

Names are unique within kind and region, whatever their capitals; lists page by place and not by
number, so that what is deleted meanwhile moves nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from helpers.rehearsal.aws.awsjson import ACCOUNT, AwsError, invalid, timestamp
from helpers.rehearsal.aws.paging import Place, check_only_page, page

_PAGE = 10  # MaxResults when a list operation is given none (API reference)
_MAX_TAGS = 50


@dataclass(frozen=True)
class Kind:
    """How one kind of resource is called in requests, ARNs and messages."""

    member: str  # EndpointConfig -> EndpointConfigName, EndpointConfigArn, EndpointConfigs
    in_arn: str
    noun: str


MODEL = Kind("Model", "model", "model")
CONFIG = Kind("EndpointConfig", "endpoint-config", "endpoint configuration")
ENDPOINT = Kind("Endpoint", "endpoint", "endpoint")
KINDS = (MODEL, CONFIG, ENDPOINT)


@dataclass
class Resource:
    """One resource.

    Attributes:
        kind: What it is.
        region: Where.
        name: As it was given.
        arn: Its ARN.
        created_s: Epoch second of AWS time.
        spec: What it was created from, as the request had it.
        tags: By key.
        modified_s: Epoch second of the last change.
        status: Of an endpoint; else empty.
        more: What only an endpoint has (see `endpoints`), as JSON.
    """

    kind: Kind
    region: str
    name: str
    arn: str
    created_s: float
    spec: dict[str, Any]
    tags: dict[str, str] = field(default_factory=dict)
    modified_s: float = 0.0
    status: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """What every Describe starts from: what was given, and what AWS adds."""
        given = {name: value for name, value in self.spec.items() if name != "Tags"}
        return {
            **given,
            f"{self.kind.member}Arn": self.arn,
            "CreationTime": timestamp(self.created_s),
        }


class Catalog:
    """All resources of an account.

    Args:
        account: Twelve digits.
    """

    def __init__(self, *, account: str = ACCOUNT):
        self.account = account
        self._resources: dict[tuple[Kind, str, str], Resource] = {}

    def all(self, kind: Kind, region: str | None = None) -> Iterator[Resource]:
        """Every resource of a kind, in one region or in all."""
        for (of, where, _), resource in list(self._resources.items()):
            if of is kind and region in (None, where):
                yield resource

    def arn(self, kind: Kind, region: str, name: str) -> str:
        """The ARN that a resource of that name has."""
        return f"arn:aws:sagemaker:{region}:{self.account}:{kind.in_arn}/{name.lower()}"

    def add(self, kind: Kind, given: dict[str, Any], region: str, now_s: float) -> Resource:
        """Create a resource from a request.

        Raises:
            AwsError: When the name is taken or the tags are wrong.
        """
        name = given[f"{kind.member}Name"]
        self.check_new(kind, name, region)
        tags = _tags(given.get("Tags", []))
        arn = self.arn(kind, region, name)
        resource = Resource(kind, region, name, arn, now_s, given, tags, modified_s=now_s)
        self._resources[(kind, region, name.lower())] = resource
        return resource

    def check_new(self, kind: Kind, name: str, region: str) -> None:
        """Refuse a name that is taken."""
        if (kind, region, name.lower()) in self._resources:
            arn = self.arn(kind, region, name)
            raise invalid(f'Cannot create already existing {kind.noun} "{arn}".')

    def get(self, kind: Kind, name: str, region: str) -> Resource | None:
        """The resource of that name, None when there is none."""
        return self._resources.get((kind, region, name.lower()))

    def find(self, kind: Kind, name: str, region: str) -> Resource:
        """The resource of that name.

        Raises:
            AwsError: When there is none.
        """
        resource = self.get(kind, name, region)
        if resource is None:
            raise invalid(f'Could not find {kind.noun} "{self.arn(kind, region, name)}".')
        return resource

    def remove(self, resource: Resource) -> None:
        """Forget a resource."""
        del self._resources[(resource.kind, resource.region, resource.name.lower())]

    def page(self, kind: Kind, given: Mapping[str, Any], region: str) -> dict[str, Any]:
        """Answer a List operation."""
        wanted = [one for one in self.all(kind, region) if _matches(one, given)]
        shown, rest = page(
            wanted,
            given,
            operation=f"List{kind.member}s {region}",
            place=_PLACES[given.get("SortBy", "CreationTime")],
            size=_PAGE,
            error="ValidationException",
            descending=given.get("SortOrder", "Descending") == "Descending",
        )
        return {f"{kind.member}s": [_summary(resource) for resource in shown], **rest}

    # --- tags

    def tags_of(self, arn: str) -> dict[str, str] | None:
        """The tags of a resource, None when it is not there."""
        try:
            return self._by_arn(arn).tags
        except (AwsError, ValueError):
            return None

    def add_tags(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        """Answer AddTags."""
        resource = self._by_arn(given["ResourceArn"])
        tags = {**resource.tags, **_tags(given["Tags"])}
        if len(tags) > _MAX_TAGS:
            raise invalid(f"A resource has at most {_MAX_TAGS} tags.")
        resource.tags = tags
        return {"Tags": _tag_list(tags)}

    def list_tags(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        """Answer ListTags: one page has room for all that a resource can have."""
        check_only_page(given, "ValidationException")
        return {"Tags": _tag_list(self._by_arn(given["ResourceArn"]).tags)}

    def delete_tags(self, given: dict[str, Any], region: str) -> dict[str, Any]:
        """Answer DeleteTags."""
        resource = self._by_arn(given["ResourceArn"])
        for key in given["TagKeys"]:
            resource.tags.pop(key, None)
        return {}

    def _by_arn(self, arn: str) -> Resource:
        _, _, _, region, account, path = arn.split(":", 5)
        in_arn, _, name = path.partition("/")
        kind = next((kind for kind in KINDS if kind.in_arn == in_arn), None)
        if kind is None:
            raise invalid(f'The rehearsal AWS has no resource of the kind of "{arn}".')
        if account != self.account:
            raise invalid(f'Could not find {kind.noun} "{arn}".')
        return self.find(kind, name, region)

    # --- state

    def dump(self) -> list[dict[str, Any]]:
        """All of it, as JSON."""
        return [
            {**asdict(resource), "kind": resource.kind.member}
            for resource in self._resources.values()
        ]

    def restore(self, dumped: list[dict[str, Any]]) -> None:
        """Take back what `dump` gave."""
        kinds = {kind.member: kind for kind in KINDS}
        self._resources.clear()
        for one in dumped:
            resource = Resource(**{**one, "kind": kinds[one["kind"]]})
            key = resource.kind, resource.region, resource.name.lower()
            self._resources[key] = resource


# Where a resource stands in a list; names are unique, so no two stand in the same place.
_PLACES: Mapping[str, Callable[[Resource], Place]] = {
    "CreationTime": lambda one: [one.created_s, one.name],
    "Name": lambda one: one.name,
    "Status": lambda one: [one.status, one.name],
}


def _summary(resource: Resource) -> dict[str, Any]:
    member = resource.kind.member
    summary = {
        f"{member}Name": resource.name,
        f"{member}Arn": resource.arn,
        "CreationTime": timestamp(resource.created_s),
    }
    if resource.kind is ENDPOINT:
        summary["LastModifiedTime"] = timestamp(resource.modified_s)
        summary["EndpointStatus"] = resource.status
    return summary


def _matches(resource: Resource, given: Mapping[str, Any]) -> bool:
    infinity = float("inf")
    return (
        given.get("NameContains", "").lower() in resource.name.lower()
        and resource.created_s < given.get("CreationTimeBefore", infinity)
        and resource.created_s > given.get("CreationTimeAfter", -infinity)
        and resource.modified_s < given.get("LastModifiedTimeBefore", infinity)
        and resource.modified_s > given.get("LastModifiedTimeAfter", -infinity)
        and given.get("StatusEquals", resource.status) == resource.status
    )


def check_tag_keys(keys: Iterable[str]) -> None:
    """Refuse keys that are AWS's own; words [unverified]."""
    for key in keys:
        if key.lower().startswith("aws:"):
            raise invalid(
                f'System tags cannot be added by requester: the tag key "{key}" begins with "aws:".'
            )


def _tags(tags: list[dict[str, str]]) -> dict[str, str]:
    check_tag_keys(tag["Key"] for tag in tags)
    by_key = {tag["Key"]: tag["Value"] for tag in tags}
    if len(by_key) < len(tags):
        raise invalid("Duplicate tag keys found. Please note that Tag keys are case insensitive.")
    return by_key


def _tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]
