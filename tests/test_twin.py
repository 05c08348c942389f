import csv
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import twin
from helpers.errors import WorkshopError
from helpers.settings import ROOT
from helpers.twin import published

LLAMA_70B = "meta-llama/Meta-Llama-3-70B-Instruct"
TIMING = twin.Timing(slots=4, prefill_s=1.0, decode_step_s=0.1)


def batch_of(*requests, timing=TIMING):
    batch = twin.StaticBatch(timing)
    for name, output_tokens in requests:
        batch.submit(name, output_tokens)
    return batch


def steps(batch):
    while step := batch.next_step():
        yield step


def run(batch, count):
    return [batch.next_step() for _ in range(count)]


# --- the scheduler


def test_an_idle_endpoint_has_nothing_to_do():
    batch = twin.StaticBatch(TIMING)
    assert batch.idle
    assert batch.next_step() is None


def test_the_first_token_comes_with_the_prefill():
    prefill, decode = steps(batch_of(("a", 2)))
    assert (prefill.kind, prefill.duration_s, list(prefill.emits)) == ("prefill", 1.0, ["a"])
    assert (decode.kind, decode.duration_s, list(decode.finished)) == ("decode", 0.1, ["a"])


def test_a_request_for_one_token_ends_with_its_prefill():
    (prefill,) = steps(batch_of(("a", 1)))
    assert list(prefill.finished) == ["a"]


def test_requests_prefilled_together_get_their_first_token_together():
    prefill = batch_of(("a", 5), ("b", 5), ("c", 5)).next_step()
    assert prefill.duration_s == pytest.approx(3.0)
    assert list(prefill.emits) == ["a", "b", "c"]


def test_a_decode_step_takes_the_same_time_for_one_slot_as_for_all():
    alone, full = batch_of(("a", 5)), batch_of(*((name, 5) for name in "abcd"))
    assert run(alone, 2)[1].duration_s == run(full, 2)[1].duration_s
    assert len(full.next_step().emits) == 4


def test_a_request_beyond_the_slots_waits_for_a_free_one():
    batch = batch_of(*((name, 3) for name in "abcde"))
    order = [(step.kind, "".join(step.emits)) for step in steps(batch)]
    assert order == [
        ("prefill", "abcd"),
        ("decode", "abcd"),
        ("decode", "abcd"),
        ("prefill", "e"),
        ("decode", "e"),
        ("decode", "e"),
    ]


def test_active_slots_pause_while_another_request_is_prefilled():
    batch = batch_of(("a", 10))
    run(batch, 2)
    batch.submit("b", 10)  # with 4 slots one that waits is always enough: floor(0.3 * 3) = 0
    prefill, decode = run(batch, 2)
    assert (prefill.kind, list(prefill.emits)) == ("prefill", ["b"])
    assert list(decode.emits) == ["a", "b"]


EIGHT = twin.Timing(8, 1.0, 0.1)


def test_one_request_does_not_interrupt_seven_before_20_tokens_of_theirs():
    batch = batch_of(*((name, 100) for name in "abcdefg"), timing=EIGHT)
    batch.next_step()  # the first of their tokens
    batch.submit("h", 100)  # floor(0.3 * 7) = 2
    assert [step.kind for step in run(batch, 20)] == ["decode"] * 19 + ["prefill"]


def test_two_requests_interrupt_six_at_once():
    batch = batch_of(*((name, 100) for name in "abcdef"), timing=EIGHT)
    batch.next_step()
    batch.submit("g", 100)
    batch.submit("h", 100)
    assert list(batch.next_step().emits) == ["g", "h"]


def test_a_long_queue_does_not_interrupt_seven_for_one_free_slot():
    # floor(0.3 * 7) = 2 wait, but a batch of 2 does not fit: TGI puts the smaller one back.
    batch = batch_of(
        ("a", 5), *((n, 100) for n in "bcdefgh"), *((n, 9) for n in "ijk"), timing=EIGHT
    )
    kinds = [step.kind for step in run(batch, 21)]
    assert kinds == ["prefill"] + ["decode"] * 19 + ["prefill"]


def test_patience_is_counted_from_the_last_prefill():
    batch = batch_of(*((name, 100) for name in "abcdefg"), timing=EIGHT)
    run(batch, 16)  # a prefill and 15 decode steps
    batch.submit("h", 100)
    assert [step.kind for step in run(batch, 5)] == ["decode"] * 4 + ["prefill"]


def test_who_was_interrupted_gets_a_token_before_the_next_interruption():
    batch = batch_of(("a", 100))
    run(batch, 2)
    batch.submit("b", 100)
    batch.next_step()
    batch.submit("c", 100)
    assert [step.kind for step in run(batch, 2)] == ["decode", "prefill"]


def test_a_cancelled_request_frees_its_slot():
    batch = batch_of(*((name, 50) for name in "abcd"))
    batch.next_step()
    batch.submit("e", 50)
    for name in "abc":
        batch.cancel(name)
    assert list(batch.next_step().emits) == ["e"]
    assert len(batch) == 2


def test_a_request_cancelled_in_the_queue_is_never_served():
    batch = batch_of(("a", 1), ("b", 1))
    batch.cancel("b")
    assert ["".join(step.emits) for step in steps(batch)] == ["a"]


def test_cancelling_what_is_not_there_changes_nothing():
    batch = batch_of(("a", 2))
    batch.cancel("x")
    assert [len(step.emits) for step in steps(batch)] == [1, 1]


def test_the_same_request_cannot_be_there_twice():
    batch = batch_of(("a", 2))
    with pytest.raises(ValueError, match="already there"):
        batch.submit("a", 2)


def test_a_request_for_no_token_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        batch_of(("a", 0))


events = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 40)),
        st.tuples(st.just("cancel"), st.integers(0, 10)),
        st.tuples(st.just("step"), st.integers(1, 30)),
    ),
    max_size=40,
)


@given(events, st.integers(1, 6))
def test_every_request_gets_exactly_its_tokens_and_never_more_than_the_slots_run(events, slots):
    batch = twin.StaticBatch(twin.Timing(slots, 1.0, 0.1))
    missing, cancelled = {}, set()

    def take(step):
        assert len(step.emits) <= slots
        for name in step.emits:
            assert name not in cancelled
            missing[name] -= step.count
        assert {name for name in step.emits if not missing[name]} == set(step.finished)

    for event, number in events:
        if event == "submit":
            name = len(missing)
            missing[name] = number
            batch.submit(name, number)
        elif event == "cancel":
            if missing.get(number):
                cancelled.add(number)
            batch.cancel(number)
        elif step := batch.next_step(limit=number):
            take(step)
    for step in steps(batch):
        take(step)
    assert all(not left for name, left in missing.items() if name not in cancelled)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(1, 5))
def test_many_decode_steps_at_once_are_the_same_as_one_by_one(lengths, slots):
    timing = twin.Timing(slots, 1.0, 0.1)

    def tokens(limit):
        batch = batch_of(*enumerate(lengths), timing=timing)
        while step := batch.next_step(limit):
            for _ in range(step.count):
                yield step.kind, tuple(step.emits)

    assert list(tokens(1)) == list(tokens(10**9))


# --- times


def test_llama_3_70b_on_inf2_48xlarge_has_the_published_times():
    published = twin.timing(LLAMA_70B, instance_type="ml.inf2.48xlarge", batch_size=4)
    assert (published.prefill_s, published.decode_step_s) == (1.2, 0.0398)
    assert "derived" not in published.source


@pytest.mark.parametrize(
    ("instance", "batch_size"),
    [("inf2.48xlarge", 1), ("inf2.48xlarge", 4)] + [("trn1.32xlarge", size) for size in (1, 4, 8)],
)
def test_the_published_times_come_from_the_published_tables(instance, batch_size):
    name = f"optimum-0.0.28-llama3-70b-{instance}-bs{batch_size}.csv"
    with open(ROOT / "results" / "published" / name, newline="") as lines:
        row = next(csv.DictReader(lines))
    ttft_s = float(row["Time-to-first-token @ P50 (s)"])
    step_s = (250 / float(row["throughput (t/s)"]) - ttft_s) / 249
    times = twin.timing(LLAMA_70B, instance_type=instance, batch_size=batch_size)
    assert times.slots == batch_size
    assert times.prefill_s == pytest.approx(ttft_s, rel=0.005)
    assert times.decode_step_s == pytest.approx(step_s, rel=0.005)
    assert instance in times.source
    assert "derived" not in times.source


def test_a_small_model_on_one_chip_is_scaled_and_says_so():
    small = twin.timing(
        "meta-llama/Meta-Llama-3-8B-Instruct", instance_type="inf2.xlarge", batch_size=4
    )
    assert small.decode_step_s == pytest.approx(0.0398 * 8 / 70 * 12)
    assert small.prefill_s == pytest.approx(1.2 * 8 / 70 * 12)
    assert "derived" in small.source


def test_a_larger_batch_has_a_slower_step():
    eight = twin.timing(LLAMA_70B, instance_type="ml.inf2.48xlarge", batch_size=8)
    assert eight.decode_step_s > 0.0398
    assert eight.prefill_s == pytest.approx(1.2)


def test_a_batch_between_two_published_ones_has_a_step_between_theirs():
    six = twin.timing(LLAMA_70B, instance_type="ml.trn1.32xlarge", batch_size=6)
    assert six.decode_step_s == pytest.approx((0.0269 + 0.0296) / 2)
    assert six.prefill_s == pytest.approx(0.848)
    assert "derived" in six.source


def test_another_model_on_a_published_machine_is_scaled_from_that_machine():
    small = twin.timing(
        "meta-llama/Meta-Llama-3-8B-Instruct", instance_type="ml.trn1.32xlarge", batch_size=4
    )
    assert small.decode_step_s == pytest.approx(0.0269 * 8 / 70)
    assert "derived" in small.source


def test_a_scale_of_one_is_not_yet_a_measurement():
    half = twin.timing("somebody/Model-35B", instance_type="ml.inf2.24xlarge", batch_size=4)
    assert half.decode_step_s == pytest.approx(0.0398)
    assert "derived" in half.source


def test_another_model_of_70_b_has_not_been_measured():
    other = twin.timing("Qwen/Chat-70B", instance_type="ml.inf2.48xlarge", batch_size=4)
    assert other.decode_step_s == pytest.approx(0.0398)
    assert "derived" in other.source and published.between(other) is None


def test_the_size_in_a_name_is_not_its_version():
    half = twin.timing(
        "meta-llama/Llama-3.3-70B-Instruct", instance_type="ml.inf2.24xlarge", batch_size=4
    )
    assert half.decode_step_s == pytest.approx(0.0398 * 2)


@pytest.mark.parametrize(("batch_size", "longer"), [(4, 4), (8, 4), (1, 1)])
def test_above_batch_1_a_prefill_is_padded_to_the_sequence_length(batch_size, longer):
    machine = {"instance_type": "ml.inf2.48xlarge", "batch_size": batch_size}
    usual = twin.timing(LLAMA_70B, **machine, sequence_length=4096)
    long = twin.timing(LLAMA_70B, **machine, sequence_length=4 * 4096)
    assert usual == twin.timing(LLAMA_70B, **machine)
    assert long.prefill_s == pytest.approx(longer * usual.prefill_s)
    assert long.decode_step_s == usual.decode_step_s
    assert ("derived" in long.source) == (batch_size > 1)


@pytest.mark.parametrize("length", [0, 1.5, 10**9])
def test_a_sequence_length_that_makes_no_sense_is_refused(length):
    with pytest.raises(WorkshopError, match="A sequence length is"):
        twin.timing(
            LLAMA_70B, instance_type="ml.inf2.48xlarge", batch_size=4, sequence_length=length
        )


@pytest.mark.parametrize(
    ("instance", "batch_size"), [("inf2.48xlarge", 4), ("inf2.48xlarge", 1), ("trn1.32xlarge", 8)]
)
def test_published_times_may_be_those_without_the_clients_pause(instance, batch_size):
    times = twin.timing(LLAMA_70B, instance_type=instance, batch_size=batch_size)
    name = f"optimum-0.0.28-llama3-70b-{instance}-bs{batch_size}.csv"
    with open(ROOT / "results" / "published" / name, newline="") as lines:
        by_latency = twin.calibrate(next(csv.DictReader(lines)))
    fastest, slowest = twin.between(times)
    assert fastest.decode_step_s == pytest.approx(by_latency.decode_step_s, rel=0.001)
    assert slowest.decode_step_s == times.decode_step_s
    assert fastest.prefill_s == pytest.approx(0.97 * times.prefill_s)
    assert slowest.prefill_s == pytest.approx(1.03 * times.prefill_s)


def test_nobody_knows_how_sure_other_times_are():
    derived = twin.timing(LLAMA_70B, instance_type="inf2.48xlarge", batch_size=8)
    assert twin.between(derived) is None
    assert twin.between(twin.Timing(4, 1.2, 0.0398)) is None


@pytest.mark.parametrize(
    ("model_id", "instance_type", "batch_size", "words"),
    [
        ("gpt2", "ml.inf2.48xlarge", 4, "how large the model is"),
        (LLAMA_70B, "ml.p5.48xlarge", 4, "ml.inf2.48xlarge"),
        ("mistralai/Mixtral-8x7B", "ml.inf2.48xlarge", 4, "how large the model is"),
        ("a/foo-0b", "ml.inf2.48xlarge", 4, "how large the model is"),
        (None, "ml.inf2.48xlarge", 4, "how large the model is"),
        *(
            (LLAMA_70B, "ml.inf2.48xlarge", size, "A batch size is a whole number of 1 or more")
            for size in (0, 4.5, True, "4", None, math.nan)
        ),
        (LLAMA_70B, "ml.inf2.48xlarge", 10**9, "A batch size is at most 1,024, not 1000000000"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_one_sentence(
    model_id, instance_type, batch_size, words
):
    with pytest.raises(WorkshopError, match=words):
        twin.timing(model_id, instance_type=instance_type, batch_size=batch_size)


@pytest.mark.parametrize(
    "times",
    [
        (0, 1.0, 0.1),
        (4, 0.0, 0.1),
        (4, 1.0, float("nan")),
        (4.5, 1.0, 0.1),
        (float("inf"), 1.0, 0.1),
        (True, 1.0, 0.1),
        ("4", 1.0, 0.1),
        (4, "1", 0.1),
    ],
)
def test_an_endpoint_needs_whole_slots_and_positive_times(times):
    with pytest.raises(ValueError, match="positive times"):
        twin.Timing(*times)
