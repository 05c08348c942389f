"""What moto 5.2 gets wrong, mended where a reader of endpoint metrics or rights would meet it.

Seen in moto 5.2.5, `moto/cloudwatch/models.py`: dimensions match in one order only, ListMetrics
repeats a metric for every datum, percentiles are not implemented, and nothing is ever forgotten.
In `moto/iam/responses.py`: a user's permissions boundary is dropped. In `moto/scheduler/models.py`:
a list of schedules ends in an error when the one that its next page begins with is deleted.
"""

from typing import Any

from helpers.rehearsal.aws import paging
from helpers.rehearsal.aws.awsjson import AwsError

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


def mend_scheduler() -> None:
    """Let moto's lists of schedules go on whatever is deleted meanwhile, in this process."""
    from moto.core.exceptions import InvalidToken
    from moto.scheduler.models import EventBridgeSchedulerBackend as Backend

    moto_list = Backend.list_schedules

    def page(
        self: Any, *filters: Any, max_results: int | None = None, next_token: str | None = None
    ):
        given = {"filters": filters, "MaxResults": max_results, "NextToken": next_token}
        try:
            shown, more = paging.page(
                moto_list.__wrapped__(self, *filters),
                {name: value for name, value in given.items() if value},
                operation=f"ListSchedules {self.region_name}",
                place=lambda one: [one.creation_date, one.group_name, one.name],
                size=100,
                error=InvalidToken.__name__,
                descending=True,
            )
        except AwsError as error:
            raise InvalidToken(str(error)) from error
        return shown, more.get("NextToken")

    if moto_list.__module__ != __name__:  # not twice
        Backend.list_schedules = page


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
