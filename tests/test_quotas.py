"""How many machines are allowed and used, as real clients ask the rehearsal for them."""

import made_things as made
import pytest
import rehearsing
from botocore.exceptions import ClientError, EndpointConnectionError

from helpers import endpoint, quotas, resources

TYPE = "ml.inf2.xlarge"
LIMIT = 20  # instances of each type, in the rehearsal's account
CODE = "L-C8AB7CDA"


@pytest.fixture
def session(shared):
    """A participant of the test's own, who leaves nothing."""
    session = rehearsing.participant(shared)
    yield session
    rehearsing.restore()
    endpoint.remove(session, name_of(session), poll_s=60)


@pytest.fixture
def served(session):
    """The name of an endpoint with one machine, in service."""
    made.endpoint(session, name_of(session), made.tags_for(session.participant))
    made.in_service(session, name_of(session))
    return name_of(session)


def name_of(session):
    return resources.name_of(session.participant, "llama-3-8b")


def deny(session, operation, *, service="sagemaker"):
    rehearsing.refuse(session, operation, "AccessDeniedException", "no", service=service)


def in_use(session, instance_type=TYPE):
    return quotas.in_use(session.client("sagemaker"), instance_type)


def limit(session, code=CODE):
    return quotas.limit(session.client("service-quotas"), code)


# --- what is allowed


def test_the_limit_is_of_the_account(session):
    assert limit(session) == LIMIT
    assert quotas.of(session, TYPE).limit == LIMIT


def test_an_account_without_a_quota_of_its_own_has_awss(session):
    rehearsing.refuse(
        session, "GetServiceQuota", "NoSuchResourceException", "none", service="service-quotas"
    )
    assert limit(session) == 0
    assert quotas.of(session, TYPE).limit == 0


def test_a_limit_that_may_not_be_read_is_said_to_be_unknown_and_reaches(session):
    deny(session, "GetServiceQuota", service="service-quotas")
    with pytest.raises(ClientError):
        limit(session)
    quota = quotas.of(session, TYPE)
    assert str(quota).endswith("it cannot be read, and AWS refuses what is too much.")
    assert quota.reaches(1000)


def test_of_an_instance_that_nobody_here_knows_no_limit_is_asked(session):
    deny(session, "GetServiceQuota", service="service-quotas")
    quota = quotas.of(session, "ml.trn1.32xlarge")
    assert (quota.limit, quota.code) == (None, "")


# --- what is used


def test_endpoints_of_the_type_are_counted_by_name(session, served):
    assert in_use(session).instances[served] == 1
    assert served not in in_use(session, "ml.inf2.48xlarge").instances
    quota = quotas.of(session, TYPE)
    assert str(quota) == (
        f"Quota of {TYPE} for endpoint usage in us-east-1: {LIMIT}, {quota.used} in use."
    )
    assert quota.reaches(LIMIT - quota.used) and not quota.reaches(LIMIT - quota.used + 1)
    assert quota.reaches(0)


def test_one_that_is_being_created_is_counted_as_asked_for(session):
    made.endpoint(session, name_of(session), count=3)
    assert in_use(session).instances[name_of(session)] == 3


def test_a_change_under_way_uses_the_larger_number(session, served):
    before = quotas.used(session, TYPE)
    session.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=served,
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 3}],
    )
    assert quotas.used(session, TYPE) == before + 2


def test_one_that_goes_meanwhile_uses_nothing(session, served):
    rehearsing.refuse(
        session, "DescribeEndpoint", "ValidationException", 'Could not find endpoint "e"'
    )
    assert served not in in_use(session).instances
    assert in_use(session).unseen == 0


@pytest.mark.parametrize("operation", ["DescribeEndpoint", "DescribeEndpointConfig"])
def test_those_that_may_not_be_looked_at_are_counted_apart(session, served, operation):
    deny(session, operation)
    found = in_use(session)
    assert (served in found.instances, found.unseen >= 1) == (False, True)
    assert quotas.used(session, TYPE) == 0


def test_where_endpoints_may_not_be_listed_nobody_can_tell(session, served):
    deny(session, "ListEndpoints")
    with pytest.raises(ClientError):
        in_use(session)
    assert quotas.used(session, TYPE) == 0


def test_a_network_that_goes_away_is_the_callers_to_know(session, served):
    rehearsing.fail_after(
        session, "DescribeEndpoint", EndpointConnectionError(endpoint_url="https://aws")
    )
    with pytest.raises(EndpointConnectionError):
        in_use(session)
    assert quotas.used(session, TYPE) == 0
