"""llmperf's figures beside ours, and its files: written, read, and recomputed.

Its published results are not ours to commit. To hold `summarize` against them, fetch
`philschmid/llmperf` (or any other folder with results of llmperf) and run
`.venv/bin/python -m helpers.llmperf THAT/benchmarks/results`: on 2026-11-22 all 14 pairs of commit
5c1c321 were equal. The pairs made here have exactly its format.
"""

import json
import math
import statistics

import deployed
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import record, run, steady

from helpers import llmperf, load, metrics, prompts
from helpers.errors import ResultsError
from helpers.messages import request_body
from helpers.transport import SageMakerStream

# A summary's keys in the order in which llmperf writes them.
METRICS = (
    "inter_token_latency_s",
    "ttft_s",
    "end_to_end_latency_s",
    "request_output_throughput_token_per_s",
    "number_input_tokens",
    "number_output_tokens",
)
STATISTICS = ("p25", "p50", "p75", "p90", "p95", "p99", "mean", "min", "max", "stddev")
COUNTS = (
    "results_num_requests_started",
    "results_error_rate",
    "results_number_errors",
    "results_error_code_frequency",
    "results_mean_output_throughput_token_per_s",
    "results_num_completed_requests",
    "results_num_completed_requests_per_min",
)
RESULTS = [
    *(
        f"results_{metric}_{'quantiles_' * name.startswith('p')}{name}"
        for metric in METRICS
        for name in STATISTICS
    ),
    *COUNTS,
]
HEAD = [
    "version",
    "name",
    "model",
    "mean_input_tokens",
    "stddev_input_tokens",
    "mean_output_tokens",
    "stddev_output_tokens",
    "num_concurrent_requests",
]


def response(number=1, *, error_code=None):
    """As the SageMaker client leaves it; of a failed request nothing but its input is known."""
    known = error_code is None
    return {
        "error_msg": "" if known else "it went wrong",
        "error_code": error_code,
        "inter_token_latency_s": 0.011 * number if known else 0,
        "ttft_s": 0.7 * number if known else 0,
        "end_to_end_latency_s": 7.7 * number if known else 0,
        "request_output_throughput_token_per_s": 90.5 - number if known else 0,
        "number_total_tokens": 1240 + number if known else 550,
        "number_output_tokens": 690 + number if known else 0,
        "number_input_tokens": 550,
    }


RESPONSES = [response(1), response(2), response(4, error_code=500), response(4), response(7)]


def made_pair(folder, responses=RESPONSES, *, duration_s=30.0, name="made_550_150", **changed):
    """A pair on disk, its summary by `summarize` unless it is changed."""
    head = {"version": "2023-08-31", "name": f"{name}_summary", "num_concurrent_requests": 5}
    summary = head | llmperf.summarize(responses, duration_s=duration_s) | changed
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_summary.json").write_text(json.dumps(summary, indent=4))
    (folder / f"{name}_individual_responses.json").write_text(json.dumps(responses, indent=4))
    return folder / f"{name}_summary.json"


# --- a summary from its responses -----------------------------------------------------------------


def interpolated(values, percent):
    place = (len(values) - 1) * percent / 100
    low, high = sorted(values)[math.floor(place)], sorted(values)[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def test_every_figure_of_a_summary_is_had_from_the_responses_in_order_and_type():
    made = llmperf.summarize(RESPONSES, duration_s=30.0)
    complete = [one for one in RESPONSES if one["error_code"] is None]
    expected = {}
    for metric in METRICS:
        values = [one[metric] for one in complete]
        written = str if isinstance(values[0], int) else float  # numpy's integers, through json
        for percent in (25, 50, 75, 90, 95, 99):
            expected[f"results_{metric}_quantiles_p{percent}"] = interpolated(values, percent)
        expected[f"results_{metric}_mean"] = statistics.fmean(values)
        expected[f"results_{metric}_min"] = written(min(values))
        expected[f"results_{metric}_max"] = written(max(values))
        expected[f"results_{metric}_stddev"] = statistics.stdev(values)
    expected |= {
        "results_num_requests_started": 5,
        "results_error_rate": 0.2,
        "results_number_errors": 1,
        "results_error_code_frequency": "{500.0: 1}",
        "results_mean_output_throughput_token_per_s": (691 + 692 + 694 + 697) / 30,
        "results_num_completed_requests": 4,
        "results_num_completed_requests_per_min": 8.0,
    }
    assert list(made) == list(expected) == RESULTS
    for key, value in expected.items():
        assert type(made[key]) is type(value), key
        assert made[key] == (pytest.approx(value, rel=1e-12) if type(value) is float else value)


@pytest.mark.parametrize(
    ("codes", "written"),
    [
        ([None, None], "{}"),
        ([None, -1], "{-1.0: 1}"),  # a column with a gap holds floats
        ([500, 500], "{500: 2}"),
        ([424, 500, 500, None], "{500.0: 2, 424.0: 1}"),
        (["overloaded", None], "{'overloaded': 1}"),
    ],
)
def test_error_codes_are_counted_in_the_words_of_pandas(codes, written):
    responses = [response(error_code=code) for code in codes]
    made = llmperf.summarize(responses, duration_s=1.0)
    assert made["results_error_code_frequency"] == written
    assert made["results_number_errors"] == len(codes) - codes.count(None)


def test_without_a_completed_request_figures_are_nan_and_rates_zero():
    made = llmperf.summarize([response(error_code=500)], duration_s=math.inf)
    assert math.isnan(made["results_ttft_s_mean"])
    assert math.isnan(made["results_number_output_tokens_min"])
    assert made["results_mean_output_throughput_token_per_s"] == 0
    assert made["results_error_rate"] == 1


def test_one_request_has_no_deviation():
    assert math.isnan(llmperf.summarize([response()], duration_s=1.0)["results_ttft_s_stddev"])


# --- whether a summary is that of its responses ---------------------------------------------------


@pytest.mark.parametrize(
    "responses", [RESPONSES, [response()], [response(error_code=500)], RESPONSES[2:]]
)
def test_a_summary_equals_the_one_of_its_responses(tmp_path, responses):
    path = made_pair(tmp_path, responses, duration_s=17.3 if len(responses) > 1 else math.inf)
    assert llmperf.differences(llmperf.read(path)) == []


def test_each_figure_that_differs_is_named(tmp_path):
    wrong = {
        key: right + "0" if isinstance(right, str) else right * (1 + 1e-8) + 1e-8
        for key, right in llmperf.summarize(RESPONSES, duration_s=30.0).items()
        if key != llmperf.TAKEN_OVER
    }
    found = llmperf.differences(llmperf.read(made_pair(tmp_path, **wrong)))
    assert [sentence.split(" ")[0] for sentence in found] == RESULTS[:-1]


def test_a_wrong_duration_shows_in_the_throughput(tmp_path):
    path = made_pair(tmp_path, **{llmperf.TAKEN_OVER: 9.0})
    (found,) = llmperf.differences(llmperf.read(path))
    assert found.startswith("results_mean_output_throughput_token_per_s is 92.4")


def test_counts_of_errors_may_be_written_by_numpy_2(tmp_path):
    path = made_pair(tmp_path, results_error_code_frequency="{500.0: np.int64(1)}")
    assert llmperf.differences(llmperf.read(path)) == []


def test_the_command_checks_all_pairs_in_a_folder(tmp_path, capsys):
    made_pair(tmp_path / "one", name="a_550_150")
    made_pair(tmp_path / "two" / "deeper", name="b_550_150")
    assert llmperf.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["one/a_550_150: equal", "two/deeper/b_550_150: equal"]
    assert said[2].startswith("2 of 2 summaries")
    assert llmperf.TAKEN_OVER in said[2]


def test_the_command_says_what_differs_and_what_is_missing_or_broken(tmp_path, capsys):
    made_pair(tmp_path, name="differs", results_number_input_tokens_max="1")
    made_pair(tmp_path, name="alone").with_name("alone_individual_responses.json").unlink()
    made_pair(tmp_path, name="broken").write_text("{")
    made_pair(tmp_path, name="right")
    assert llmperf.main([str(tmp_path)]) == 1
    alone, broken, differs, right, total = capsys.readouterr().out.splitlines()
    assert "no" in alone and "alone_individual_responses.json" in alone
    assert "broken_summary.json cannot be read" in broken
    assert differs == "differs: results_number_input_tokens_max is '1', its responses give '550'"
    assert right == "right: equal"
    assert total.startswith("1 of 4")


@pytest.mark.parametrize("name", ["", "nowhere", "a" * 300])
def test_the_command_fails_where_there_is_nothing_to_check(tmp_path, capsys, name):
    assert llmperf.main([str(tmp_path / name)]) == 1
    assert "No file of llmperf" in capsys.readouterr().out


# --- its figures of our requests ------------------------------------------------------------------


def test_the_prompt_counts_as_output_there_and_not_here():
    records = steady(users=1, each=1, ttft_s=1.0, gap_s=0.1, tokens=11)  # 2 requests, 2 s each
    theirs = llmperf.triple(records)
    assert theirs["counted_tokens"] == 2 * (550 + 11)
    assert theirs["throughput_tokens_per_s"] == pytest.approx(2 * 561 / 4)
    assert theirs["latency_ms_per_token"] == pytest.approx(2000 / 561)
    assert theirs["ttft_ms"] == pytest.approx(1000)
    assert metrics.tpot_s(records[0]) == pytest.approx(0.1)
    assert theirs["why"].count(".") == 1


def test_the_triple_is_in_aws_time():
    plain, stretched = llmperf.triple(steady()), llmperf.triple(steady(), clock_speed=60.0)
    for name in ("ttft_ms", "latency_ms_per_token"):
        assert stretched[name] == pytest.approx(60 * plain[name])
    rates = plain["throughput_tokens_per_s"], stretched["throughput_tokens_per_s"]
    assert rates[1] == pytest.approx(rates[0] / 60)


@pytest.mark.parametrize("records", [[], [record(tokens=0, error="timeout")]])
def test_without_a_completed_request_there_is_no_triple(records):
    theirs = llmperf.triple(records)
    assert (theirs["requests"], theirs["counted_tokens"]) == (0, 0)
    assert theirs["ttft_ms"] is theirs["throughput_tokens_per_s"] is None
    json.dumps(theirs, allow_nan=False)


def test_the_two_definitions_stand_side_by_side(tmp_path):
    table = llmperf.table(run(tmp_path, records=steady(users=1, each=1)))
    assert list(table["as llmperf counts"]) == pytest.approx(
        [1000, 280.5, 3.57, float("nan")], nan_ok=True
    )
    assert list(table["output tokens only"]) == pytest.approx([1000, 5.5, 181.82, 100])
    assert set(table["target"]) == {"rehearsal"}


def test_a_failed_run_has_empty_cells_that_stay_numbers(tmp_path):
    failed = run(tmp_path, records=[record(tokens=0, error="timeout")], concurrency=1)
    table = llmperf.table(failed)
    for column in ("as llmperf counts", "output tokens only"):
        assert table[column].dtype == float


def test_a_published_summary_stands_beside_what_llmperf_would_have_written_of_our_run(tmp_path):
    published = llmperf.read(made_pair(tmp_path, mean_input_tokens=550)).summary
    table = llmperf.beside(published, run(tmp_path)).set_index("metric")
    tokens = table.loc["tokens counted as output a request, mean"]
    assert list(tokens[:2]) == [693.5, 561]
    assert list(table.loc["time to first token, mean (ms)"][:2]) == [2450, 1000]
    assert set(table["target"]) == {"rehearsal"}


# --- the files it would have written --------------------------------------------------------------


def test_a_pair_has_the_names_keys_and_types_of_llmperf(tmp_path):
    made = run(tmp_path, target="aws", output_tokens_stddev=20.0)
    summary_path, individual_path = llmperf.write(made, tmp_path / "out")
    name = "inf2-workshop-ada-llama-3-70b_550_11"
    assert summary_path == tmp_path / "out" / f"{name}_summary.json"
    assert individual_path == tmp_path / "out" / f"{name}_individual_responses.json"
    summary = json.loads(summary_path.read_text())
    assert list(summary) == [*HEAD, *RESULTS, "target", "timestamp"]
    assert [summary[key] for key in HEAD] == [
        *("2023-08-31", f"{name}_summary", "inf2-workshop-ada-llama-3-70b"),
        *(550, 0, 11, 20, 2),
    ]
    assert type(summary["stddev_input_tokens"]) is type(summary["timestamp"]) is int
    assert summary["results_number_input_tokens_min"] == "550"
    assert summary["results_number_output_tokens_mean"] == 561.0
    individual = json.loads(individual_path.read_text())
    assert [list(one) for one in individual] == [[*response(), "target"]] * 12
    assert summary_path.read_text().startswith('{\n    "version"')


def test_the_prompt_is_output_and_in_the_total_twice(tmp_path):
    records = steady(users=1, each=1)
    one = llmperf.read(llmperf.write(run(tmp_path, records=records))[1]).individual[0]
    assert one["number_input_tokens"] == 550
    assert one["number_output_tokens"] == 550 + 11
    assert one["number_total_tokens"] == 550 + 550 + 11
    assert one["request_output_throughput_token_per_s"] == pytest.approx(561 / 2)
    assert one["inter_token_latency_s"] == pytest.approx(2 / 561)
    assert one["end_to_end_latency_s"] == pytest.approx(2)


def test_what_is_written_holds_the_triple_and_equals_its_own_responses(tmp_path):
    records = [*steady(users=2, each=5), record(20, sent_s=101.0, tokens=4, error="StreamBroken")]
    made = run(tmp_path, records=records, speed=60.0)
    pair = llmperf.read(llmperf.write(made)[0])
    assert llmperf.differences(pair) == []
    theirs = llmperf.triple(records, clock_speed=60.0)
    assert pair.summary["results_ttft_s_mean"] * 1000 == theirs["ttft_ms"]
    throughput = pair.summary["results_mean_output_throughput_token_per_s"]
    assert throughput == theirs["throughput_tokens_per_s"]
    assert pair.summary["results_inter_token_latency_s_mean"] * 1000 == pytest.approx(
        theirs["latency_ms_per_token"]
    )


def test_failures_are_error_500_and_interrupted_requests_are_not_there(tmp_path):
    refused = record(1, sent_s=5.0, tokens=0, error="ModelError")
    broken = record(2, sent_s=5.0, ttft_s=1.0, tokens=3, error="StreamBroken")
    cut = record(3, sent_s=5.0, error="interrupted")
    made = run(tmp_path, records=[record(sent_s=4.0), refused, broken, cut], concurrency=1)
    pair = llmperf.read(llmperf.write(made)[0])
    _, refused, broken = pair.individual
    assert refused == response(error_code=500) | {"target": "rehearsal"}
    assert broken["error_code"] == 500
    assert broken["ttft_s"] == 6.0  # the clock when the first token came, never made a duration
    assert broken["number_output_tokens"] == 553
    assert broken["end_to_end_latency_s"] == 0
    assert pair.summary["results_error_code_frequency"] == "{500.0: 2}"


def test_a_rehearsal_says_so_in_both_files_and_in_their_names(tmp_path):
    for path in llmperf.write(run(tmp_path, target="rehearsal")):
        assert path.name.startswith("rehearsal-")
    pair = llmperf.read(path)
    assert pair.summary["target"] == "rehearsal"
    assert pair.summary["model"].startswith("rehearsal-")
    assert pair.summary["name"].startswith("rehearsal-")
    assert {one["target"] for one in pair.individual} == {"rehearsal"}


def test_the_files_lie_in_the_folder_of_the_run_and_leave_it_a_run(tmp_path):
    made = run(tmp_path)
    paths = llmperf.write(made)
    assert {path.parent for path in paths} == {made.path}
    assert llmperf.read(made.path).summary == llmperf.read(paths[0]).summary
    assert llmperf.write(made) == paths


def test_a_name_keeps_letters_digits_and_underscores(tmp_path):
    made = run(tmp_path, target="aws")
    made.config["endpoint"]["name"] = "01-ai/Yi--1.5 (34B)_x"
    assert llmperf.write(made)[0].name == "01-ai-Yi-1-5-34B-_x_550_11_summary.json"
    assert llmperf.read(made.path).summary["model"] == "01-ai/Yi--1.5 (34B)_x"


def test_a_run_that_llmperf_could_not_have_made_is_refused(tmp_path):
    by_schedule = run(tmp_path, rate_per_s=1.0)
    nothing = run(tmp_path, records=[record(error="interrupted")], concurrency=1)
    undated = run(tmp_path, started_utc="yesterday")
    for made, why in (
        (by_schedule, "arrival rate"),
        (nothing, "No request"),
        (undated, "started_utc in .* is no date"),
    ):
        with pytest.raises(ResultsError, match=why):
            llmperf.write(made)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match="Cannot write into .*file"):
        llmperf.write(run(tmp_path), tmp_path / "file")


# --- reading --------------------------------------------------------------------------------------


def test_a_pair_is_read_from_either_file_or_its_folder(tmp_path):
    path = made_pair(tmp_path, mean_input_tokens=550)
    pair = llmperf.read(path)
    assert pair.individual == RESPONSES
    assert pair.summary["results_num_completed_requests"] == 4
    assert llmperf.read(tmp_path) == pair
    assert llmperf.read(tmp_path / "made_550_150_individual_responses.json") == pair


def test_a_file_alone_is_read_alone(tmp_path):
    path = made_pair(tmp_path)
    path.with_name("made_550_150_individual_responses.json").unlink()
    pair = llmperf.read(path)
    assert pair.summary is not None and pair.individual is None
    with pytest.raises(ResultsError, match="both files"):
        llmperf.differences(pair)


def test_what_names_no_pair_is_said(tmp_path):
    with pytest.raises(ResultsError, match="There is no a*: name a file"):
        llmperf.read("a" * 300)
    with pytest.raises(ResultsError, match="There is no"):
        llmperf.read(tmp_path / "made_summary.json")
    with pytest.raises(ResultsError, match="0 results"):
        llmperf.read(tmp_path)
    made_pair(tmp_path, name="one")
    made_pair(tmp_path, name="two")
    with pytest.raises(ResultsError, match="2 results"):
        llmperf.read(tmp_path)
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(ResultsError, match="0 results"):
        llmperf.read(tmp_path / "notes.json")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[]", "no object"),
        (b'{"version": "2023-08-31"}', "num_concurrent_requests is no number"),
    ],
)
def test_a_summary_of_something_else_is_refused(tmp_path, text, why):
    path = made_pair(tmp_path)
    path.write_bytes(text)
    with pytest.raises(ResultsError, match=why):
        llmperf.read(path)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({}, "no list"),
        ([None], "no list"),
        ([{}], "response 0 has no error_code"),
        ([response(), response() | {"ttft_s": True}], "ttft_s of response 1 is no number"),
        ([response() | {"number_output_tokens": 10**19}], "is no number"),
        ([response() | {"error_code": []}], "error_code of response 0"),
    ],
)
def test_responses_of_something_else_are_refused(tmp_path, data, why):
    path = made_pair(tmp_path)
    path.with_name("made_550_150_individual_responses.json").write_text(json.dumps(data))
    with pytest.raises(ResultsError, match=why):
        llmperf.read(path)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
numbers = st.none() | st.integers() | st.floats() | st.text(max_size=5)


@given(
    summary=st.dictionaries(st.sampled_from([*HEAD, *RESULTS]), anything, max_size=4),
    responses=anything
    | st.lists(
        st.builds(response().__or__, st.dictionaries(st.sampled_from([*response()]), numbers)),
        max_size=4,
    ),
)
def test_whatever_is_in_the_files_they_are_compared_or_refused(
    tmp_path_factory, summary, responses
):
    path = made_pair(tmp_path_factory.getbasetemp() / "hostile", **summary)
    path.with_name("made_550_150_individual_responses.json").write_text(json.dumps(responses))
    try:
        assert isinstance(llmperf.differences(llmperf.read(path)), list)
    except ResultsError as error:
        assert "\n" not in str(error)


# --- the original guide's load, on a server that knows --------------------------------------------

USERS, REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS = 5, 50, 550, 150
SPEED = 1800.0


def rounds(here, *, prompt_tokens):
    """Records of the guide's load: 5 users in rounds, 50 requests."""
    requests = []
    for seed in range(REQUESTS):
        text = prompts.prompt(prompt_tokens, seed=seed)
        body = request_body(
            [{"role": "user", "content": text}],
            model=deployed.MODEL_ID,
            max_tokens=OUTPUT_TOKENS,
            stream=True,
        )
        requests.append(load.Request(json.dumps(body).encode(), prompt_tokens, OUTPUT_TOKENS))
    records = []
    load.drive(
        SageMakerStream.of(here, deployed.NAME),
        requests,
        load.Rounds(USERS),
        on_record=records.append,
    )
    return records


@pytest.fixture(scope="module")
def once_and_twice(tmp_path_factory):
    """The guide's endpoint (4 slots), asked with prompts of 550 tokens and of twice as many."""
    with deployed.rehearsal(tmp_path_factory.mktemp("guide"), speed=SPEED) as here:
        return [rounds(here, prompt_tokens=factor * PROMPT_TOKENS) for factor in (1, 2)]


def test_the_guides_load_runs_in_rounds_without_an_error(once_and_twice):
    for records in once_and_twice:
        assert [one.error for one in records] == [None] * REQUESTS
        in_order = sorted(records, key=lambda one: one.index)
        for start in range(USERS, REQUESTS, USERS):
            before, after = in_order[start - USERS : start], in_order[start : start + USERS]
            assert max(one.ended_s for one in before) <= min(one.sent_s for one in after)


def test_llmperf_counts_a_longer_prompt_as_output_and_the_true_figure_does_not(once_and_twice):
    seen = []
    for records in once_and_twice:
        theirs = llmperf.triple(records, clock_speed=SPEED)
        true = metrics.figures(
            records, metrics.whole(records), kind="rounds", clock_speed=SPEED, price_per_hour=None
        )
        theirs_tokens = theirs["throughput_tokens_per_s"] * true["duration_s"]
        true_tokens = true["output_tokens_per_s"] * true["duration_s"]
        assert theirs_tokens == pytest.approx(theirs["counted_tokens"])
        seen.append((round(theirs_tokens), round(true_tokens)))
    (theirs_once, true_once), (theirs_twice, true_twice) = seen
    assert true_once == true_twice == REQUESTS * OUTPUT_TOKENS
    assert theirs_once == REQUESTS * (PROMPT_TOKENS + OUTPUT_TOKENS)
    assert theirs_twice - theirs_once == REQUESTS * PROMPT_TOKENS
