"""What run.json says of an endpoint."""

import pytest
from virtual_runs import GUIDE

from helpers import configured
from helpers.errors import WorkshopError

ENDPOINT = GUIDE | {"instance_type": "ml.inf2.48xlarge"}


def test_the_guides_endpoint_has_four_slots_published_times_and_a_floor():
    assert configured.shape(ENDPOINT).batch_size == 4
    assert configured.timing(ENDPOINT).decode_step_s == 0.0398
    limits = configured.limits(ENDPOINT, prompt_tokens=550)
    assert round(limits.tokens_per_s) == 279
    assert (limits.padded_tokens, limits.prompt_tokens) == (4096, 550)


@pytest.mark.parametrize("ask", [configured.timing, configured.limits])
@pytest.mark.parametrize(
    "unknown",
    [{}, ENDPOINT | {"image": None}, ENDPOINT | {"env": None}, ENDPOINT | {"instance_type": None}],
    ids=str,
)
def test_an_endpoint_that_is_not_known_is_one_sentence(ask, unknown):
    with pytest.raises(WorkshopError):
        ask(unknown)
