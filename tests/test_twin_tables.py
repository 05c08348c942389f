"""The twin, calibrated on the first row of each published table, against the other rows.

The tables' makers sent 8 requests a user, in rounds, and asked for 245 ± 20 output tokens
(results/published/README.md). But models end answers early, and the tables say by how much: see
`test_answers_spread_by_more_than_was_asked`.
"""

import functools

import pandas as pd
import pytest

from helpers import twin
from helpers.settings import ROOT

# Millions of simulated requests take three times as long under a tracer.
pytestmark = pytest.mark.no_cover

TABLES = sorted((ROOT / "results" / "published").glob("optimum-*.csv"))
USERS_AT_MOST = 128  # beyond, a row only repeats in minutes what it says in seconds
USERS, THROUGHPUT, TTFT_S = (
    "concurrent requests",
    "throughput (t/s)",
    "Time-to-first-token @ P50 (s)",
)
every_table = pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
GUIDES_SHAPE = "optimum-0.0.28-llama3-70b-inf2.48xlarge-bs4"


@functools.cache
def read(path):
    """The row of one user, and all other rows."""
    table = pd.read_csv(path)
    return table.iloc[0], table[table[USERS].between(2, USERS_AT_MOST)].set_index(USERS)


def predicted(path, users, requests=None):
    times = twin.calibrate(read(path)[0]).timing(int(path.stem[-1]))
    return twin.predict(
        batch_size=times.slots,
        prefill_s=times.prefill_s,
        decode_step_s=times.decode_step_s,
        concurrency=users,
        output_tokens=250,
        output_tokens_stddev=50,
        requests=requests,
    ).set_index("concurrency")


@functools.cache
def as_sent(path):
    """8 requests a user."""
    return pd.concat([predicted(path, users, 8 * users) for users in read(path)[1].index])


def errors(prediction, path):
    """Relative errors of throughput and of the median TTFT, a row a number of users."""
    measured = read(path)[1]
    throughput = prediction.throughput_tokens_per_s / measured[THROUGHPUT] - 1
    return pd.DataFrame(
        {"throughput": throughput, "ttft": prediction.ttft_p50_s / measured[TTFT_S] - 1}
    )


def test_there_are_nine_tables():
    assert len(TABLES) == 9


@every_table
def test_the_first_row_predicts_the_others(path):
    error = errors(predicted(path, read(path)[1].index), path).abs().mean()
    assert error.throughput <= 0.05
    assert error.ttft <= 0.10


@every_table
def test_the_first_row_predicts_the_others_with_the_requests_that_were_sent(path):
    error = errors(as_sent(path), path)
    assert error.throughput.abs().mean() <= 0.04
    if path.stem == GUIDES_SHAPE:
        error = error.drop(8)  # the next test
    assert error.ttft.abs().mean() <= 0.08


def test_the_one_exception_lacks_one_late_request():
    """8 users of 4 slots: half of a round waits for an answer of the other half.

    The median of 64 lies between the 32nd value, the last of those that did not wait, and the 33rd,
    the first of those that did. What is published is the 32nd alone, so one late request is missing
    in the data, and of 63 the model says the same.
    """
    path = next(path for path in TABLES if path.stem == GUIDES_SHAPE)
    row, others = read(path)
    prefills_s = 4 * row[TTFT_S]
    assert others[TTFT_S][8] == pytest.approx(prefills_s, rel=0.03)
    assert errors(as_sent(path), path).ttft[8] > 0.5
    assert predicted(path, 8, 63).ttft_p50_s[8] == pytest.approx(prefills_s)
    assert predicted(path, 8, 63).ttft_p50_s[8] == pytest.approx(4.80, abs=0.005)


OTHERS = [path for path in TABLES if not path.stem.endswith("bs1") and path.stem != GUIDES_SHAPE]
every_other_table = pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)


@every_other_table
def test_in_no_other_table_that_row_is_an_exception(path):
    assert errors(as_sent(path), path).ttft[2 * int(path.stem[-1])] == pytest.approx(0, abs=0.08)


@every_other_table
def test_answers_spread_by_more_than_was_asked(path):
    """With twice as many users as slots, the median says when the first that waits is served.

    It lies in the middle between the last that does not wait, a prefill a slot, and the first that
    does: as much, the shortest answer of all that did not wait, and one more prefill.
    """
    row, others = read(path)
    times, slots = twin.calibrate(row), int(path.stem[-1])
    prefills_s = slots * times.prefill_s
    waits_s = 2 * others[TTFT_S][2 * slots] - prefills_s
    shortest = (waits_s - prefills_s - times.prefill_s) / times.decode_step_s + 1
    deviations = {4: 2.07, 8: 2.37}[slots]  # of the least of 32 and 64 normal values, on average
    assert 30 < (250 - shortest) / deviations < 55  # about 50 at batch 4, 34 and 44 at batch 8
