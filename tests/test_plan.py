"""What a run asks for: loads that make sense, and requests that can be had again."""

import itertools
import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import load
from helpers.errors import ResultsError
from helpers.plan import Load


def bodies(asked, count, **options):
    places = itertools.islice(asked.indexes(), count)
    return [asked.request(index, model="m", **options) for index in places]


def test_nothing_asked_is_the_load_of_the_guide():
    asked = Load()
    assert (asked.kind, asked.concurrency, asked.requests) == ("closed_loop", 5, 50)
    assert (asked.input_tokens, asked.output_tokens, asked.warmup) == (550, 150, 5)
    assert str(asked) == (
        "5 users, 50 requests of 550 tokens in and up to 150 out, after 5 to warm up"
    )


def test_a_rate_makes_arrivals():
    asked = Load(rate_per_s=0.5, duration_s=60)
    assert (asked.kind, asked.process, asked.concurrency) == ("arrivals", "poisson", None)
    assert len(asked.indexes()) == 30 + asked.warmup
    assert "0.5 requests/s (poisson), 60 s of" in str(asked)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"concurrency": 0}, "0 users"),
        ({"concurrency": 30}, "two requests a user"),
        ({"requests": 0}, "requests is more than 0"),
        ({"duration_s": -1}, "duration_s is more than 0"),
        ({"duration_s": float("nan")}, "duration_s is more than 0"),
        ({"think_s": -1}, "think_s is 0 or more"),
        ({"output_tokens": 1}, "at least 2 output tokens"),
        ({"input_tokens": 3}, "no room for its task"),
        ({"input_tokens": 10**10}, "input_tokens is at most 131,072, not 10000000000"),
        ({"concurrency": 10**6, "requests": 10**8}, "concurrency is at most 10,000"),
        ({"rate_per_s": 0}, "rate_per_s is more than 0"),
        ({"rate_per_s": 1, "concurrency": 5}, "users and their think time belong"),
        ({"rate_per_s": 1, "process": "gamma"}, "poisson or constant"),
        ({"rate_per_s": 0.001, "duration_s": 60}, "fewer than two"),
        ({"kind": "rounds", "think_s": 1}, "wait for each other"),
        ({"kind": "rounds", "rate_per_s": 1}, "A rate belongs to arrivals"),
        ({"kind": "arrivals"}, "need a rate"),
        ({"kind": "burst"}, "There is no load 'burst'"),
        ({"process": "poisson"}, "A rate belongs to arrivals"),
    ],
)
def test_a_load_that_makes_no_sense_is_one_sentence(options, words):
    with pytest.raises(ResultsError, match=words) as refused:
        Load(**options)
    assert "\n" not in str(refused.value)


def test_the_same_seed_sends_the_same_and_another_does_not():
    one, again, other = (bodies(Load(seed=seed), 3) for seed in (1, 1, 2))
    assert one == again and one != other
    assert len({request.body for request in one}) == 3, "every request has a prompt of its own"


@given(
    options=st.fixed_dictionaries(
        {},
        optional={
            "concurrency": st.integers(1, 5),
            "think_s": st.floats(0, 10),
            "duration_s": st.floats(1, 1e4),
            "input_tokens_stddev": st.floats(0, 500),
            "seed": st.integers(0, 2**31),
            "sampling": st.dictionaries(st.text(max_size=5), st.integers()),
        },
    )
)
def test_a_load_can_be_read_back_from_its_run(options):
    asked = Load(**options)
    assert Load.of_config(json.loads(json.dumps(asked.as_config()))) == asked


def test_lengths_are_spread_around_their_mean_and_never_too_short():
    asked = Load(
        input_tokens=60,
        input_tokens_stddev=40,
        output_tokens=100,
        output_tokens_stddev=30,
        requests=2000,
    )
    made = bodies(asked, 2000)
    outputs = [request.output_tokens for request in made]
    assert statistics.mean(outputs) == pytest.approx(100, abs=3)
    assert statistics.stdev(outputs) == pytest.approx(30, abs=2)
    assert min(request.prompt_tokens for request in made) > 20
    for request in made[:20]:
        body = json.loads(request.body)
        assert body["max_tokens"] == request.output_tokens
        assert len(body["messages"][0]["content"].split()) == request.prompt_tokens


def test_without_spread_every_length_is_the_one_asked_for():
    made = bodies(Load(input_tokens=40, output_tokens=9), 10)
    assert {(one.prompt_tokens, one.output_tokens) for one in made} == {(40, 9)}


def test_containers_that_can_count_are_asked_to():
    (request,) = bodies(Load(sampling={"temperature": 0.7}), 1)
    body = json.loads(request.body)
    assert body["stream"] is True and body["stream_options"] == {"include_usage": True}
    assert body["temperature"] == 0.7


def test_an_endpoint_without_the_messages_api_gets_tgis_own_request():
    (request,) = bodies(Load(sampling={"top_p": 0.9}), 1, is_chat=False)
    body = json.loads(request.body)
    assert set(body) == {"inputs", "parameters", "stream"}
    assert body["parameters"] == {"max_new_tokens": 150, "top_p": 0.9}


def test_the_pattern_is_in_real_time():
    assert Load(think_s=6).pattern(clock_speed=60) == load.ClosedLoop(5, 0.1)
    assert Load(kind="rounds").pattern(clock_speed=60) == load.Rounds(5)
    arrivals = Load(rate_per_s=0.5, process="constant", requests=4, warmup=0)
    assert arrivals.pattern(clock_speed=60).times_s == pytest.approx((0, 1 / 30, 2 / 30, 0.1))


def test_only_time_may_end_a_closed_loop():
    asked = Load(duration_s=60)
    assert asked.is_endless and asked.requests is None
    assert next(itertools.islice(asked.indexes(), 10_000, None)) == 10_000
    assert not Load(duration_s=60, requests=50).is_endless, "whichever is reached first"
