import math

import pytest

from helpers import capacity, costs, twin
from helpers.errors import WorkshopError

LLAMA = "meta-llama/Meta-Llama-3-70B-Instruct"
LIMITS = capacity.Limits(ttft_p95_s=3)


def test_an_endpoint_of_the_guide_costs_374_dollars_a_day():
    assert costs.cost(24 * 3600, instance_type="ml.inf2.48xlarge") == pytest.approx(373.92)


def test_two_instances_cost_twice_as_much():
    one = costs.cost(60, instance_type="ml.inf2.xlarge")
    assert costs.cost(60, instance_type="ml.inf2.xlarge", instances=2) == 2 * one


def test_time_that_has_not_passed_costs_nothing():
    assert costs.cost(-5, instance_type="ml.inf2.xlarge") == 0


def test_the_name_works_with_and_without_its_prefix():
    assert costs.price_per_hour("inf2.48xlarge") == costs.price_per_hour("ml.inf2.48xlarge")


def test_an_unknown_instance_is_refused_with_the_known_ones():
    with pytest.raises(WorkshopError, match=r"ml\.inf2\.48xlarge"):
        costs.price_per_hour("ml.g5.xlarge")


@pytest.mark.parametrize(
    "ask",
    [
        costs.price_per_hour,
        lambda none: twin.timing(LLAMA, instance_type=none, batch_size=4),
        lambda none: capacity.Machine.named(LLAMA, instance_type=none, batch_size=4),
        lambda none: capacity.machines(people=20, every_s=90, limits=LIMITS, instances=[none]),
        lambda none: capacity.machines(people=20, every_s=90, limits=LIMITS, instances=none),
    ],
    ids=["price", "times", "machine", "machines", "all machines"],
)
@pytest.mark.parametrize("none", [None, 4])
def test_what_is_no_name_of_an_instance_is_refused_whoever_is_asked(ask, none):
    with pytest.raises(WorkshopError, match=rf"a name such as 'ml\.inf2\.48xlarge', not {none}"):
        ask(none)


def test_a_million_tokens_at_100_a_second_take_10000_seconds():
    assert costs.per_million_tokens(100, price_per_hour=3.6) == pytest.approx(10)


def test_tokens_that_never_come_have_no_price():
    assert math.isinf(costs.per_million_tokens(0, price_per_hour=1))


def test_sagemaker_costs_more_than_ec2_and_every_core_has_16_gib():
    for instance in costs.INSTANCES.values():
        assert instance.price_per_hour > instance.ec2_price_per_hour
        assert instance.hbm_gib == 16 * instance.cores == 32 * instance.chips
        assert "2025" in instance.source


def test_the_table_carries_units_in_its_headers():
    table = costs.instances()
    assert table.loc["inf2.48xlarge", "SageMaker endpoint ($/h)"] == 15.58
    assert table.loc["inf2.48xlarge", "HBM (GiB)"] == 384
