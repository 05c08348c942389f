"""The timeline of a run: what a client saw, what it did not see, and who says so."""

from dataclasses import replace

import pytest
from made_runs import arrivals, queued, record, run

from helpers import timeline
from helpers.errors import ResultsError

TGI = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:{tag}"
GUIDE = {  # 1.2 s of prefill, 39.8 ms a step, 4 slots
    "image": TGI.format(tag="2.1.2-optimum0.0.22-neuronx-py310-ubuntu22.04"),
    "env": {
        "HF_MODEL_ID": "meta-llama/Meta-Llama-3-70B-Instruct",
        "HF_BATCH_SIZE": "4",
        "HF_SEQUENCE_LENGTH": "4096",
    },
}


@pytest.fixture
def made(tmp_path):
    """Make a run of an endpoint that the twin knows, unless told otherwise."""

    def make(records, *, endpoint=GUIDE, **config):
        found = run(tmp_path, records=records, **config)
        config = found.config | {"endpoint": found.config["endpoint"] | endpoint}
        return replace(found, config=config)

    return make


def spans(traced, kind, row=None):
    return [
        (pytest.approx(one.starts_s, abs=1e-6), pytest.approx(one.ends_s, abs=1e-6))
        for one in traced.spans
        if one.kind == kind and row in (None, one.row)
    ]


def three_users():
    """The first is prefilled alone; the two others together, while the first one waits."""
    first = record(0, user=0, sent_s=50.0, ttft_s=1.2, gap_s=0.04, tokens=21)
    late = tuple(stamp if n < 3 else stamp + 2.4 for n, stamp in enumerate(first.chunk_s))
    first = replace(first, chunk_s=late, last_s=late[-1], ended_s=late[-1])
    others = [
        record(user, user=user, sent_s=50.0, ttft_s=3.6, gap_s=0.04, tokens=21) for user in (1, 2)
    ]
    return [first, *others]


def test_what_starts_together_was_prefilled_together_just_before(made):
    traced = timeline.trace(made(three_users(), concurrency=3))
    assert spans(traced, "prefill", row=1) == [(0.0, 1.2)]
    assert spans(traced, "prefill", row=2) == spans(traced, "prefill", row=3) == [(1.2, 3.6)]
    assert spans(traced, "queue", row=1) == []
    assert spans(traced, "queue", row=2) == [(0.0, 1.2)]
    assert not spans(traced, "wait")


def test_the_prefill_of_others_shows_as_a_pause_without_tokens(made):
    traced = timeline.trace(made(three_users(), concurrency=3))
    assert spans(traced, "pause") == [(1.28, 3.72)]
    assert spans(traced, "decode", row=1) == [(1.2, 1.28), (3.72, 4.4)]
    assert traced.pause_s == pytest.approx(0.2)


def test_a_prefill_is_never_longer_than_the_wait(made):
    quick = [record(user, user=user, ttft_s=0.5) for user in (0, 1)]
    traced = timeline.trace(made(quick, concurrency=2))
    assert spans(traced, "prefill") == [(0.0, 0.5)] * 2
    assert not spans(traced, "queue")


@pytest.mark.parametrize(
    "unknown",
    [
        {"image": None, "env": None},
        {"image": "vllm/vllm-openai:latest"},
        {"instance_type": None},
        {"instance_type": "ml.g5.xlarge"},
        {"env": {}},
        {"env": {"HF_MODEL_ID": "gpt2"}},
        {"env": GUIDE["env"] | {"HF_BATCH_SIZE": "four"}},
    ],
    ids=str,
)
def test_where_the_twin_knows_nothing_queue_and_prefill_stay_one_wait(made, unknown):
    traced = timeline.trace(made(three_users(), concurrency=3, endpoint=GUIDE | unknown))
    assert traced.timing is None
    assert {span.kind for span in traced.spans} == {"wait", "decode", "pause"}
    assert spans(traced, "wait", row=2) == [(0.0, 3.6)]


def test_it_says_by_whom_queue_and_prefill_were_told_apart(made):
    timing = timeline.trace(made(three_users(), concurrency=3)).timing
    assert timing.prefill_s == 1.2 and "optimum-neuron" in timing.source


def test_times_are_aws_seconds_since_the_start(made):
    records = [record(0, sent_s=700.0, ttft_s=0.02, gap_s=0.001)]
    traced = timeline.trace(made(records, concurrency=1, speed=60.0))
    assert spans(traced, "prefill") == [(0.0, 1.2)]
    assert traced.ends_s == pytest.approx(1.8)


def test_a_row_a_user(made):
    traced = timeline.trace(made(queued(users=5, requests=20), concurrency=5))
    assert traced.rows == 5 and {span.row for span in traced.spans} == {1, 2, 3, 4, 5}
    for row in range(1, 6):
        mine = sorted(span[2:4] for span in traced.spans if span.row == row)
        assert all(one[1] <= other[0] + 1e-6 for one, other in zip(mine, mine[1:], strict=False)), (
            "a user waits for an answer before the next request"
        )


def test_without_users_the_rows_in_use_are_the_requests_in_flight(made):
    records = arrivals([0.0, 0.5, 1.0, 10.0, 10.1], ttft_s=1.0, gap_s=0.1, tokens=11)
    traced = timeline.trace(made(records, rate_per_s=0.5))
    rows = [span.row for span in traced.spans if span.kind == "decode"]
    assert rows == [1, 2, 3, 1, 2] and traced.rows == 3


def test_a_late_arrival_begins_when_it_was_intended(made):
    records = arrivals([0.0, 5.0, 6.0], dispatch_s=0.7)
    traced = timeline.trace(made(records, rate_per_s=0.5, endpoint={}))
    assert [begins for begins, _ in spans(traced, "wait")] == [0.0, 5.0, 6.0]


def test_warm_up_and_window_are_told(made):
    traced = timeline.trace(made(queued(users=4, requests=20), concurrency=4))
    assert {span.is_warmup for span in traced.spans} == {True, False}
    ((opens_s, closes_s),) = traced.windows_s
    assert 0 < opens_s < closes_s <= traced.ends_s


def test_failures_stand_where_they_ended_and_an_end_is_no_failure(made):
    records = [
        record(0, user=0, tokens=0, ttft_s=2.0, error="ModelError"),
        record(1, user=1, tokens=5, ttft_s=1.0, error="StreamBroken"),
        record(2, user=2, tokens=0, ttft_s=3.0, error="interrupted"),
        record(3, user=3),
    ]
    traced = timeline.trace(made(records, concurrency=4))
    assert [(one.row, round(one.at_s, 6), one.was_cut_off) for one in traced.stops] == [
        (1, 2.0, False),
        (2, 1.4, False),
        (3, 3.0, True),
    ]
    assert spans(traced, "wait", row=1) == [(0.0, 2.0)], "it may have waited for anything"


def test_a_stream_that_hung_until_its_time_out_pauses_to_its_end(made):
    hung = replace(record(0, tokens=5, error="timeout"), ended_s=30.0)
    assert spans(timeline.trace(made([hung], concurrency=1)), "pause") == [(1.4, 30.0)]


def test_the_parts_of_a_resumed_run_follow_each_other_without_their_break(made):
    parts = [
        replace(record(index, sent_s=sent_s), part=part, index=index)
        for index, (part, sent_s) in enumerate([(0, 900.0), (0, 902.0), (1, 5.0)])
    ]
    traced = timeline.trace(made(parts, concurrency=1, endpoint={}))
    assert traced.parts_s == pytest.approx([0.0, 4.0])
    assert [begins for begins, _ in spans(traced, "wait")] == pytest.approx([0.0, 2.0, 4.0])


def test_of_many_requests_the_first_are_shown_and_the_others_counted(made):
    whole = made(queued(users=4, requests=100), concurrency=4, requests=100)
    traced = timeline.trace(whole, requests=30)
    assert (traced.shown, traced.requests) == (30, 104)
    assert sum(span.kind == "prefill" for span in traced.spans) == 30
    left_out = sorted(one.sent_s for one in whole.records)[30]
    assert traced.ends_s == pytest.approx(left_out), "up to there nothing is missing"


def test_each_row_shows_four_requests_however_many_rows_there_are(made):
    whole = made(queued(users=20, requests=100), concurrency=20, requests=100)
    assert timeline.trace(whole, requests=10).shown == 80


def test_chunks_that_were_read_together_make_no_pause_of_everything(made):
    one = record(0, gap_s=0.04, tokens=40)
    pairs = tuple(one.chunk_s[n - n % 2] for n in range(40))
    traced = timeline.trace(made([replace(one, chunk_s=pairs, last_s=pairs[-1])], concurrency=1))
    assert not spans(traced, "pause")


def test_a_run_without_requests_is_one_sentence(made):
    with pytest.raises(ResultsError, match="no request"):
        timeline.trace(made([], concurrency=1))
