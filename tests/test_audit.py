"""Whether a run is what it seems: each check, on records made by hand."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import arrivals, asked, health, queued, record, rounds, run, steady

from helpers import audit, metrics
from helpers.errors import ResultsError


def audited(records, *, clients=None, clock_speed=1.0, **load):
    """The audit of records, of a closed loop of as many users as there are unless told else."""
    if "rate_per_s" not in load:
        load.setdefault("concurrency", max(1, len({one.user for one in records})))
    made = asked(**load)
    summary = metrics.summary(records, load=made, price_per_hour=36.0, clock_speed=clock_speed)
    return audit.audit(
        records,
        load=made,
        clock_speed=clock_speed,
        figures=summary["window"],
        tokens=summary["tokens"],
        clients=[health()] if clients is None else clients,
    )


def check(name, *args, **options):
    (found,) = [one for one in audited(*args, **options)["checks"] if one["check"] == name]
    return found


def level(name, *args, **options):
    return check(name, *args, **options)["level"]


def with_pauses(pause_s, *, users=2, each=10):
    """Steady users (2 s a request) whose client is late to send the next request."""
    return [
        replace(
            one,
            **{
                name: getattr(one, name) + pause_s * (one.index // users)
                for name in ("sent_s", "first_s", "last_s", "ended_s")
            },
            chunk_s=tuple(stamp + pause_s * (one.index // users) for stamp in one.chunk_s),
        )
        for one in steady(users=users, each=each)
    ]


def failing(records, count, kind="timeout"):
    """The same, of which the last so many measured ones failed."""
    error = record(error=kind).error
    ended = sorted((one for one in records if one.phase == "measured"), key=lambda o: o.ended_s)
    failed = {one.index for one in ended[-count:]} if count else ()
    return [replace(one, error=error) if one.index in failed else one for one in records]


# --- the verdict ----------------------------------------------------------------------------------


def test_a_good_run_is_valid_and_says_how_many_checks_it_passed():
    found = audited(steady(each=50))
    assert found["valid"]
    assert [one["check"] for one in found["checks"]] == [
        "load",
        "event loop",
        "client CPU",
        "network",
        "output length",
        "prompt length",
        "errors",
        "number of requests",
        "token counts",
    ]
    assert {one["level"] for one in found["checks"]} == {"ok"}
    assert audit.sentence(found) == "audit: valid, 9 checks passed"


def test_a_note_leaves_a_run_valid_and_is_counted():
    found = audited(steady(each=10))
    assert audit.sentence(found) == "audit: valid, 8 checks passed, 1 note"


def test_what_makes_a_run_invalid_is_said_with_its_limit():
    found = audited(failing(steady(each=50), 5), clients=[health(cpu_s=19.0)])
    assert not found["valid"]
    assert audit.sentence(found) == (
        "audit: INVALID: client CPU: 95.0 % of a core (limit 80 %); "
        "errors: 5.0 % of the requests failed (limit 1 %)"
    )


def test_every_check_is_text_and_advises_where_something_is_amiss():
    for records in (steady(), [], [record(tokens=0, error="timeout")], failing(steady(), 3)):
        found = audited(records, clients=[health(loop_lag_p99_s=0.5)])
        assert json.loads(json.dumps(found)) == found
        for one in found["checks"]:
            assert list(one) == ["check", "level", "found", "limit", "advice"]
            assert all(isinstance(text, str) for text in one.values())
            assert bool(one["advice"]) == (one["level"] != "ok")


def test_the_table_has_a_row_a_check_and_the_target_last(tmp_path):
    table = audit.table(run(tmp_path))
    assert list(table.columns) == ["check", "verdict", "found", "limit", "what to do", "target"]
    assert set(table["target"]) == {"rehearsal"}
    assert "load" in set(table["check"]) and set(table["verdict"]) <= {"ok", "note", "invalid"}


def test_a_run_without_an_audit_is_named(tmp_path):
    made = run(tmp_path)
    made.summary["audit"] = None
    with pytest.raises(ResultsError, match="never audited: benchmark again"):
        audit.table(made)


# --- users ----------------------------------------------------------------------------------------


@given(
    users=st.integers(1, 9),
    slots=st.integers(1, 4),
    think_s=st.sampled_from([0.0, 0.7, 20.0]),
    clock_speed=st.sampled_from([1.0, 60.0]),
    failures=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_littles_law_holds_whenever_users_do_nothing_but_wait_and_think(
    users, slots, think_s, clock_speed, failures, seed
):
    records = queued(users=users, requests=5 * users, slots=slots, think_s=think_s, seed=seed)
    found = check(
        "load",
        failing(records, min(failures, users)),
        think_s=think_s * clock_speed,
        clock_speed=clock_speed,
    )
    assert found["level"] == "ok"
    assert found["found"].startswith(f"{users:.2f} of {users} user")


@pytest.mark.parametrize(
    ("pause_s", "expected"), [(0.05, "ok"), (0.16, "note"), (0.3, "invalid"), (9.0, "invalid")]
)
def test_users_kept_waiting_by_the_client_are_missing_from_the_load(pause_s, expected):
    found = check("load", with_pauses(pause_s))
    assert found["level"] == expected
    assert found["limit"] == "10 % off, note from 5 %"


def test_a_client_that_does_not_wait_as_long_as_users_think_is_told_from_one_that_does():
    records = with_pauses(1.0)
    assert level("load", records, think_s=1.0) == "ok"
    assert level("load", records, think_s=0.5) == "invalid"
    assert "waiting for an answer or thinking" in check("load", records, think_s=1.0)["found"]


def test_users_whose_requests_fail_were_there_all_the_same():
    assert level("load", failing(steady(each=10), 15)) == "ok"


def test_a_run_without_a_window_is_invalid():
    found = audited([record(tokens=0, error="timeout")], concurrency=2)
    assert not found["valid"]
    assert "the asked load was never there" in audit.sentence(found)
    assert not audited([])["valid"]


def test_rounds_are_said_never_to_hold_the_asked_concurrency():
    found = check("load", rounds(tokens=(11, 31), each=5), kind="rounds", concurrency=2)
    assert found["level"] == "note"
    assert found["found"] == (
        "1.50 of 2 users waiting for an answer on average: rounds never hold the asked concurrency"
    )


# --- arrivals -------------------------------------------------------------------------------------

EVERY_SECOND = [float(time_s) for time_s in range(100)]


def test_a_schedule_that_was_kept_is_said_in_requests_a_second():
    records = arrivals(EVERY_SECOND, dispatch_s=0.001)
    assert check("load", records, rate_per_s=1.0)["found"] == (
        "1.00 requests/s sent of 1.00 scheduled (1 asked, constant)"
    )
    assert level("load", records, rate_per_s=1.0) == "ok"
    assert level("dispatch", records, rate_per_s=1.0) == "ok"


@pytest.mark.parametrize(("lost", "expected"), [(0.01, "ok"), (0.03, "invalid")])
def test_a_rate_that_was_not_delivered_makes_a_run_invalid(lost, expected):
    records = [replace(one, dispatch_s=lost * one.sent_s) for one in arrivals(EVERY_SECOND)]
    assert level("load", records, rate_per_s=1.0) == expected


@pytest.mark.parametrize(
    ("dispatch_s", "ttft_s", "expected"),
    [
        (0.009, 0.1, "ok"),
        (0.011, 0.1, "note"),
        (0.06, 0.1, "invalid"),
        (0.015, 2.0, "ok"),
        (0.06, 2.0, "note"),
        (0.11, 2.0, "invalid"),
    ],
)
def test_late_arrivals_are_held_against_the_event_loops_limits_or_a_share_of_the_first_token(
    dispatch_s, ttft_s, expected
):
    """In real time: a rehearsal may not be sixty times as late as a measurement."""
    records = arrivals(EVERY_SECOND, dispatch_s=dispatch_s, ttft_s=ttft_s)
    for speed in (1.0, 60.0):
        found = level("dispatch", records, rate_per_s=1 / speed, clock_speed=speed)
        assert found == expected


def test_an_endpoint_that_falls_behind_is_a_finding_and_no_fault_of_the_client():
    found = audited(arrivals(EVERY_SECOND, slots=1), rate_per_s=1.0)  # 2 s each, one a second
    (kept_up,) = [one for one in found["checks"] if one["check"] == "kept up"]
    assert found["valid"] and kept_up["level"] == "note"
    assert kept_up["found"].startswith(
        "the endpoint could not keep up, latencies grow with the run's length: 1.00 requests/s "
        "were sent in the window and 0.49 ended in it"
    )


@pytest.mark.parametrize("slots", [2, 3, None])
def test_an_endpoint_that_keeps_up_is_not_said_to_fall_behind(slots):
    assert level("kept up", arrivals(EVERY_SECOND, slots=slots), rate_per_s=1.0) == "ok"


def test_replies_that_take_no_time_do_not_grow():
    at_once = arrivals(EVERY_SECOND, ttft_s=0.0, tokens=1)
    assert level("kept up", at_once, rate_per_s=1.0) == "ok"


def test_too_few_arrivals_to_have_thirds_are_audited_all_the_same():
    assert level("kept up", arrivals([0.0, 1.0]), rate_per_s=1.0) == "ok"
    failed = failing(arrivals(EVERY_SECOND), 100)
    assert not audited(failed, rate_per_s=1.0)["valid"]


def test_interrupted_arrivals_are_said_to_be_the_slow_ones():
    records = failing(arrivals(EVERY_SECOND), 3, kind="interrupted")
    found = check("errors", records, rate_per_s=1.0)
    assert found["level"] == "note"
    assert found["found"] == (
        "0.0 % of the requests failed; 3 were interrupted, the slow ones among them"
    )


# --- the client -----------------------------------------------------------------------------------


@pytest.mark.parametrize("clock_speed", [1.0, 60.0])
@pytest.mark.parametrize(
    ("name", "client", "expected", "words"),
    [
        ("event loop", {"loop_lag_p99_s": 0.009}, "ok", "up to 9.0 ms late (p99)"),
        ("event loop", {"loop_lag_p99_s": 0.011}, "note", "up to 11.0 ms late (p99)"),
        ("event loop", {"loop_lag_p99_s": 0.051}, "invalid", "up to 51.0 ms late (p99)"),
        ("client CPU", {"cpu_s": 15.9}, "ok", "79.5 % of a core"),
        ("client CPU", {"cpu_s": 16.1}, "invalid", "80.5 % of a core"),
        ("client CPU", {"wall_s": 0.0}, "ok", "0.0 % of a core"),
        ("network", {"round_trip_s": 0.09}, "ok", "9.0 % of the median"),
        ("network", {"round_trip_s": 0.11}, "note", "11.0 % of the median"),
    ],
)
def test_the_client_is_judged_in_real_time(name, client, expected, words, clock_speed):
    """Its share of a first token after one real second is the same however fast AWS time runs."""
    found = check(name, steady(), clients=[health(**client)], clock_speed=clock_speed)
    assert found["level"] == expected
    assert words in found["found"]


def test_the_worst_of_several_clients_counts_and_is_named():
    clients = [health(), health(host="there", loop_lag_p99_s=0.06)]
    found = check("event loop", steady(), clients=clients)
    assert found["level"] == "invalid"
    assert found["found"].endswith("on there")


@pytest.mark.parametrize(
    ("error_s", "each", "expected"),
    [(0.004, 5, "ok"), (0.05, 5, "note"), (0.2, 5, "invalid"), (0.2, 50, "note")],
)
def test_clocks_of_several_machines_agree_as_far_as_the_window_needs(error_s, each, expected):
    clients = [health(), health(host="there", clock_error_s=error_s)]
    assert level("clock", steady(each=each), clients=clients) == expected


def test_a_clock_is_never_asked_to_be_better_than_its_note():
    clients = [health(), health(host="there", clock_error_s=0.004)]
    found = check("clock", steady(each=1), clients=clients)  # 1 % of so short a window is 20 ms
    assert found["limit"] == "20.0 ms, note from 5.0 ms"
    found = check("clock", steady(each=1, ttft_s=0.1, gap_s=0.001), clients=clients)
    assert (found["level"], found["limit"]) == ("ok", "5.0 ms, note from 5.0 ms")


def test_one_clock_needs_no_check():
    assert "clock" not in {one["check"] for one in audited(steady())["checks"]}


def test_a_client_that_nobody_observed_is_noted():
    found = check("client", steady(), clients=[])
    assert found["level"] == "note"
    assert found["found"].startswith("the client was not observed (plain boto3, or a run that")


def test_a_part_in_which_nobody_observed_the_client_is_named():
    records = steady() + [replace(one, part=1) for one in steady()]
    found = check("client", records, clients=[health(part=1)])
    assert found["found"] == "the client was not observed in part 0"
    assert level("event loop", records, clients=[health(part=1)]) == "ok"


# --- lengths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked_tokens", "expected"), [(11, "ok"), (10, "ok"), (12, "note"), (150, "note"), (9, "note")]
)
def test_replies_shorter_or_longer_than_asked_are_noted(asked_tokens, expected):
    records = [replace(one, asked_tokens=asked_tokens) for one in steady()]
    found = check("output length", records)
    assert found["level"] == expected
    assert found["found"] == f"11.0 tokens a reply of {asked_tokens}.0 asked"


def test_a_reply_may_be_one_token_longer_since_its_end_may_count():
    records = [replace(one, asked_tokens=100) for one in steady()]
    assert check("output length", records)["limit"] == "95.0 to 106.0 tokens"


@pytest.mark.parametrize(
    ("counted", "expected"),
    [(550, "ok"), (560, "ok"), (530, "ok"), (587, "ok"), (588, "note"), (522, "note")],
)
def test_prompts_that_the_server_counts_otherwise_are_noted(counted, expected):
    """Within 5 %, with or without the 10 tokens of the chat template."""
    records = [replace(one, prompt_tokens=counted, prompt_source="usage") for one in steady()]
    found = check("prompt length", records)
    assert (found["level"], found["limit"]) == (expected, "522.5 to 587.5 tokens")


def test_prompts_of_drawn_lengths_may_be_longer_by_chance():
    records = [replace(one, prompt_tokens=600, prompt_source="usage") for one in steady()]
    assert level("prompt length", records) == "note"
    found = check("prompt length", records, input_tokens_stddev=100.0)
    assert (found["level"], found["limit"]) == ("ok", "464.8 to 645.2 tokens")


def test_prompts_that_nobody_counted_are_as_they_were_made():
    found = check("prompt length", steady())
    assert found["found"] == "550 tokens as made; the server did not count them"


# --- errors and numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(("failed", "expected"), [(0, "ok"), (1, "note"), (2, "invalid")])
def test_more_than_one_failure_in_a_hundred_makes_a_run_invalid(failed, expected):
    assert level("errors", failing(steady(each=50), failed)) == expected


def test_interrupted_requests_are_no_errors():
    assert level("errors", failing(steady(), 2, kind="interrupted")) == "ok"


def test_failures_while_warming_up_are_noted_only():
    first, *others = steady()
    found = check("errors", [replace(first, error=record(error="timeout").error), *others])
    assert found["level"] == "note"
    assert found["found"] == "0.0 % of the requests failed, and 1 to warm up"


@pytest.mark.parametrize(
    ("each", "expected", "words"),
    [
        (100, "ok", "200 requests in the window"),
        (25, "note", "50 requests in the window, too few for p99"),
        (4, "note", "8 requests in the window, too few for p90, p95, p99; no intervals: "),
    ],
)
def test_percentiles_that_are_withheld_are_noted(each, expected, words):
    found = check("number of requests", steady(users=2, each=each))
    assert found["level"] == expected
    assert found["found"].startswith(words)


def test_one_request_is_too_few_for_anything():
    assert level("number of requests", steady(users=1, each=1)) == "invalid"


# --- token counts ---------------------------------------------------------------------------------


def counted(*counts, source="usage"):
    """Steady requests with these counts, over and over."""
    return [
        replace(one, counts=these, output_tokens=these[source], tokens_source=source)
        for one, these in zip(steady(), counts * 6, strict=True)
    ]


SAME, END = {"usage": 11, "chunks": 11}, {"usage": 12, "chunks": 11}


@pytest.mark.parametrize(
    ("records", "expected", "words"),
    [
        (steady(), "ok", "counted by tokenizer; as many by chunks"),
        (
            counted({"chunks": 11}, {"chunks": 11}, source="chunks"),
            "note",
            "counted by chunks; nothing to compare with",
        ),
        (counted(SAME, SAME), "ok", "counted by usage; as many by chunks"),
        (
            counted(END, END),
            "ok",
            "counted by usage; the server counts one more than chunks in 12 of 12 replies: "
            "the end token",
        ),
        (
            counted(END, SAME),
            "ok",
            "counted by usage; the server counts one more than chunks in 6 of 12 replies: "
            "the end token",
        ),
        (
            counted({"usage": 22, "chunks": 11}, SAME),
            "note",
            "counted by usage; 198 by usage (used), 132 by chunks",
        ),
        (
            counted(
                {"tokenizer": 12, "chunks": 11}, {"tokenizer": 11, "chunks": 11}, source="tokenizer"
            ),
            "note",
            "counted by tokenizer; 138 by tokenizer (used), 132 by chunks",
        ),
        (
            counted(SAME | {"tokenizer": 11}, END | {"tokenizer": 11}),
            "ok",
            "counted by usage; the server counts one more than chunks in 6 of 12 replies: the end "
            "token; the server counts one more than tokenizer in 6 of 12 replies: the end token",
        ),
    ],
)
def test_counts_are_compared_and_a_disagreement_is_said(records, expected, words):
    found = check("token counts", records)
    assert (found["level"], found["found"]) == (expected, words)


def test_replies_counted_in_different_ways_are_noted():
    found = check("token counts", steady()[:6] + counted(SAME, SAME)[6:])
    assert found["level"] == "note"
    assert found["found"] == "counted by tokenizer and usage; as many by chunks"
