"""Scaling targets of Application Auto Scaling."""

from collections.abc import Iterator
from typing import Any

from helpers.resources.kind import ASKED, Found, Kind
from helpers.resources.names import participant_in
from helpers.session import Session

_NAMESPACE, _DIMENSION = "sagemaker", "sagemaker:variant:DesiredInstanceCount"


def variant(resource_id: str) -> dict[str, str]:
    """What names a variant in Application Auto Scaling, by e.g. `endpoint/NAME/variant/VARIANT`."""
    return {
        "ServiceNamespace": _NAMESPACE,
        "ResourceId": resource_id,
        "ScalableDimension": _DIMENSION,
    }


class _ScalingTarget(Kind):
    """Scalable targets; a target's policies go with it."""

    def listed(self, session, prefix):
        for one in self._targets(session):
            if one["ResourceId"].startswith(f"endpoint/{prefix}"):
                yield Found(
                    self,
                    one["ResourceId"],
                    one.get("ScalableTargetARN", ""),
                    session.region,
                    one["CreationTime"],
                    f"{one['MinCapacity']} to {one['MaxCapacity']} instances",
                )

    def tags(self, session, found):
        if not found.arn:
            return {}
        client = session.client("application-autoscaling")
        return client.list_tags_for_resource(ResourceARN=found.arn)["Tags"]

    def delete(self, session, found):
        client, named = session.client("application-autoscaling"), variant(found.name)
        pages = client.get_paginator("describe_scaling_policies").paginate(**named)
        names = [one["PolicyName"] for page in pages for one in page["ScalingPolicies"]]
        for name in names:
            client.delete_scaling_policy(PolicyName=name, **named)
        client.deregister_scalable_target(**named)
        return ASKED

    def is_there(self, session, found):
        return any(True for _ in self._targets(session, ResourceIds=[found.name]))

    def deployment(self, found):
        return found.name.split("/")[1]

    def owner(self, found):
        return participant_in(found.deployment)

    def _targets(self, session: Session, **chosen: Any) -> Iterator[dict[str, Any]]:
        client = session.client("application-autoscaling")
        pages = client.get_paginator("describe_scalable_targets").paginate(
            ServiceNamespace=_NAMESPACE, ScalableDimension=_DIMENSION, **chosen
        )
        for page in pages:
            yield from page["ScalableTargets"]


SCALING_TARGET = _ScalingTarget("scaling target", "application-autoscaling", "scalable-target/")
