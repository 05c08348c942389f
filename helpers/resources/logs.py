"""Log groups of endpoints."""

from dataclasses import replace
from datetime import UTC, datetime

from helpers.resources.kind import ASKED, ERRORS, Found, Kind
from helpers.resources.names import LOG_GROUPS, participant_in
from helpers.session import Session


class _LogGroup(Kind):
    """Log groups of endpoints."""

    def listed(self, session, prefix):
        pages = session.client("logs").get_paginator("describe_log_groups")
        for page in pages.paginate(logGroupNamePrefix=f"{LOG_GROUPS}{prefix}"):
            for one in page["logGroups"]:
                created = datetime.fromtimestamp(one["creationTime"] / 1000, UTC)
                arn = one["arn"].removesuffix(":*")
                yield Found(self, one["logGroupName"], arn, session.region, created)

    def tags(self, session, found):
        return session.client("logs").list_tags_for_resource(resourceArn=found.arn)["tags"]

    def delete(self, session, found):
        session.client("logs").delete_log_group(logGroupName=found.name)
        return ASKED

    def is_there(self, session, found):
        pages = session.client("logs").get_paginator("describe_log_groups")
        return any(
            one["logGroupName"] == found.name
            for page in pages.paginate(logGroupNamePrefix=found.name)
            for one in page["logGroups"]
        )

    def deployment(self, found):
        return found.name.removeprefix(LOG_GROUPS)

    def owner(self, found):
        return participant_in(found.deployment)


LOG_GROUP = _LogGroup("log group", "logs", "log-group:", "storage")


def logs_of(session: Session, endpoint: Found) -> list[Found]:
    """The log group of an endpoint, if there is one and one may see it."""
    try:
        listed = list(LOG_GROUP.listed(session, endpoint.name))
    except ERRORS:
        return []
    return [replace(one, owner=endpoint.owner) for one in listed if one.deployment == endpoint.name]
