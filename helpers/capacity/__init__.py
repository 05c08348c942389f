"""Know before you pay: how many replicas, of which machine, and what they cost.

Everything here is predicted by the twin from an endpoint's two times; nothing is measured, nothing
is deployed, no AWS is asked. `python -m helpers.capacity --help` answers from the terminal.
"""

from helpers.capacity.asked import Answers, Limits, Machine
from helpers.capacity.expectation import expect
from helpers.capacity.fleet import OFFICE_HOURS, Day, Policy, day
from helpers.capacity.machines import machines
from helpers.capacity.sizing import Sizing, replicas

__all__ = [
    "OFFICE_HOURS",
    "Answers",
    "Day",
    "Limits",
    "Machine",
    "Policy",
    "Sizing",
    "day",
    "expect",
    "machines",
    "replicas",
]
