"""What moto 5.2 gets wrong, mended where a reader of endpoint metrics or rights would meet it.

Seen in moto 5.2.5, `moto/cloudwatch/models.py`: dimensions match in one order only, ListMetrics
repeats a metric for every datum, percentiles are not implemented, and nothing is ever forgotten.
In `moto/iam/responses.py`: a user's permissions boundary is dropped.
"""

from typing import Any

KEPT_DATA = 50_000  # of a region; moto reads all of them for every question


def mend_cloudwatch() -> None:
    """Mend moto's CloudWatch in this process."""
    from moto.cloudwatch import models

    moto_statistic = models.Statistics.get_statistics_for_type

    def statistic(self: Any, name: str) -> float | None:
        if not name.startswith("p"):
            return moto_statistic(self, name)
        return _percentile(sorted(self.metric_single_values_list), float(name[1:]))

    models.Dimension.__lt__ = lambda self, other: _pair(self) < _pair(other)
    models.are_dimensions_same = lambda one, other: _pairs(one) == _pairs(other)
    if getattr(moto_statistic, "__module__", "") != __name__:  # not twice
        models.Statistics.get_statistics_for_type = statistic


def mend_iam() -> None:
    """Let moto's IAM keep the permissions boundaries of users, in this process."""
    from moto.core.responses import ActionResult
    from moto.iam.responses import IamResponse

    moto_create = IamResponse.create_user

    def create(self: Any) -> Any:
        result = moto_create(self)
        _limit(result.result["User"], self._get_param("PermissionsBoundary"))
        return result

    def put(self: Any) -> Any:
        user = self.backend.get_user(self._get_param("UserName"))
        _limit(user, self._get_param("PermissionsBoundary"))
        return ActionResult({})

    def delete(self: Any) -> Any:
        _limit(self.backend.get_user(self._get_param("UserName")), None)
        return ActionResult({})

    if getattr(moto_create, "__module__", "") != __name__:  # not twice
        IamResponse.create_user = create
        IamResponse.put_user_permissions_boundary = put
        IamResponse.delete_user_permissions_boundary = delete


def _limit(user: Any, arn: str | None) -> None:
    kind = {"PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": arn}
    user.permissions_boundary_arn = arn
    user.permissions_boundary = kind if arn else None


def forget_old_data(backend: Any) -> None:
    """Let a CloudWatch backend of moto's forget its oldest data."""
    del backend.metric_data[:-KEPT_DATA]


def _percentile(values: list[float], percent: float) -> float:
    if not values:
        return 0.0
    place = (len(values) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def _pair(dimension: Any) -> tuple[str, str]:
    return dimension.name, dimension.value or ""


def _pairs(dimensions: Any) -> list[tuple[str, str]]:
    return sorted(map(_pair, dimensions))
