"""The documentation of the rehearsal lists what it offers, no more and no less."""

import re
from pathlib import Path

import pytest

from helpers.clock import Clock
from helpers.rehearsal import routes
from helpers.rehearsal.faults import FAULTS

README = (Path(routes.__file__).parent / "README.md").read_text()
BY_HAND = {  # not of the JSON protocol
    "InvokeEndpoint",
    "InvokeEndpointWithResponseStream",
    "CreateSchedule",
    "UpdateSchedule",
    "GetSchedule",
    "ListSchedules",
    "DeleteSchedule",
    "GetResources",
}


@pytest.fixture(scope="module")
def parts():
    parts = routes.load(Clock(60), routes.Options())
    yield parts
    parts.services.close()


def rows(section):
    text = README.split(f"## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_operation_stands_in_the_table_once(parts):
    offered = {name for service in parts.targets.values() for name in service.operations}
    listed = [
        name
        for operation, *_ in rows("Operations")
        for name in re.split(r",\s*", operation)
        if re.fullmatch("(?:[A-Z][A-Za-z]+){1}[a-z]", name) and name not in BY_HAND
    ]
    assert sorted(listed) == sorted(offered)


def test_every_row_says_what_is_checked_or_what_is_not_done(parts):
    for operation, checks, leaves, *_ in rows("Operations")[1:]:
        assert operation.startswith("**") or checks or leaves, operation


def test_every_fault_stands_in_the_table_as_in_the_code():
    listed = {name.strip("`"): (does, sees) for name, does, _, sees in rows("Faults")[1:]}
    assert listed == {fault.name: (fault.does, fault.sees) for fault in FAULTS.values()}


@pytest.mark.parametrize(
    ("service", "operation"),
    [
        ("sagemaker", "CreateTransformJob"),
        ("service-quotas", "PutServiceQuotaIncreaseRequestIntoTemplate"),
        ("pricing", "GetPriceListFileUrl"),
        ("application-autoscaling", "PutScheduledAction"),
    ],
)
def test_what_is_not_in_the_table_answers_with_an_error_that_names_it(parts, service, operation):
    (target,) = [one for one in parts.targets.values() if one.name == service]
    answer = target.answer(operation, b"{}")
    assert answer.status == 400
    assert operation.encode() in answer.body
    assert b"does not offer" in answer.body
