"""`python -m helpers.capacity`: a question from the terminal, an answer that says what it is."""

import os
import subprocess
import sys

import made_runs
import pytest
import virtual_runs

from helpers import capacity, costs, results
from helpers.capacity.__main__ import main
from helpers.settings import ROOT

PEOPLE = ("--people", "2000", "--every", "90")
# Quick to size: answers of one token, and a replica that sustains a hundred of them a second.
SAMPLE = str(ROOT / "results" / "samples" / "rehearsal-llama-3-70b-5-users")
ONE_TOKEN = ("--output-tokens", "1", "--output-tokens-stddev", "0")
QUICK = ("--prefill", "0.004", "--decode-step", "0.001", "--batch", "2", *ONE_TOKEN)


@pytest.fixture
def ask(capsys):
    """Ask, and have what was printed."""

    def asking(*arguments):
        assert main(arguments) == 0
        printed, errors = capsys.readouterr()
        assert errors == ""
        return printed

    return asking


@pytest.fixture
def refused(capsys):
    """Ask what cannot be answered, and have the sentence."""

    def asking(*arguments):
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = ended.code
        printed, errors = capsys.readouterr()
        assert status == 2 and printed == ""
        assert errors.count("\n") == 1 and errors.endswith(".\n")
        return errors

    return asking


def row(printed, name):
    (line,) = (line for line in printed.splitlines() if line.startswith(name))
    return line.removeprefix(name).split()


def test_an_endpoint_is_predicted_from_published_times_with_its_floor_and_its_price(ask):
    printed = ask("endpoint")
    assert "Predicted by the model, not measured." in printed
    assert "prefill 1.2 s, decode step 39.8 ms (optimum-neuron v0.0.28" in printed
    assert "Floor: at most 279 tokens/s" in printed and "reading the weights 14.3 ms" in printed
    assert f"$15.58 an hour. Prices: SageMaker endpoints on demand, {costs.PRICE_DATE}." in printed
    assert [row(printed, f"{users} ") for users in (1, 4, 5, 8, 16)]
    asked_here = capacity.expect(users=[5]).loc[5, "predicted tokens/s"]
    assert float(row(printed, "5 ")[0]) == asked_here


def test_in_rounds_users_wait_for_each_other(ask):
    one, other = (
        float(row(ask("endpoint", "--users", "5", *way), "5 ")[0]) for way in ((), ("--rounds",))
    )
    assert other < one


def test_replicas_for_so_many_people_and_what_they_cost_a_month(ask):
    printed = ask("replicas", *PEOPLE, "--ttft-p95", "3", "--tpot-p95", "0.5", *QUICK)
    assert "2,000 people who ask every 90 s, TTFT p95 3 s, TPOT p95 500 ms: 1 replica, " in printed
    assert "(given)" in printed
    assert row(printed, "replicas  ") == ["1"]
    assert row(printed, "$ a month (730 h)") == [f"{15.58 * 730:,.0f}"]
    assert "Assumed: people ask independently" in printed and "Other random arrivals" in printed


def test_machines_that_cannot_are_counted_and_shown_with_their_reason_when_asked(ask):
    few = (*PEOPLE, *ONE_TOKEN, "--instances", "inf2.xlarge,inf2.48xlarge", "--batch-sizes", "1")
    printed = ask("machines", *few, "--ttft-p95", "3")
    assert "1 more cannot: --all shows them and why." in printed
    assert row(printed, "inf2.48xlarge")[1:3] == ["published", "yes"]
    printed = ask("machines", *few, "--ttft-p95", "0.5", "--all")
    assert "a prefill alone takes" not in row(printed, "inf2.48xlarge")
    assert "No number of replicas brings the first token within 0.5 s" in printed
    assert "Weights and KV cache take 142 GB" in printed


def test_the_cheapest_that_would_start_is_named(ask):
    printed = ask("machines", *PEOPLE, "--instances", "inf2.48xlarge", "--batch-sizes", "4,8")
    assert row(printed, "inf2.48xlarge      8")[:2] == ["derived", "no"]
    assert "Cheapest that is compiled today: inf2.48xlarge, batch 4" in printed


def test_one_instance_and_one_batch_size_need_no_list():
    asked = {"people": 20, "every_s": 90, "limits": capacity.Limits(ttft_p95_s=3)}
    table = capacity.machines(**asked, instances="inf2.48xlarge", batch_sizes=4)
    assert table[["instance", "batch"]].to_numpy().tolist() == [["inf2.48xlarge", 4]]


def test_several_limits_show_what_each_costs(ask):
    printed = ask("replicas", *PEOPLE, "--ttft-p95", "1,2", *QUICK)
    assert row(printed, "1 ")[0] == row(printed, "2 ")[0] == "1"


def test_of_several_limits_one_that_nothing_keeps_says_so_beside_the_others(ask):
    printed = ask("replicas", *PEOPLE, "--ttft-p95", "0.001,2", *QUICK)
    assert row(printed, "2 ")[0] == "1"
    assert "brings the first token within 0.001 s: a prefill alone takes 0.004 s" in printed


def test_a_price_elsewhere_is_held_against_it(ask):
    printed = ask("replicas", *PEOPLE, "--against", "60", *QUICK)
    tokens = 2000 / 90 * 3600 * 730  # one an answer
    assert f"the same answers cost ${60 * tokens / 1e6:,.0f} a month" in printed
    assert f"{15.58 * 730 / (60 * tokens / 1e6):.2g} times that" in printed


def test_a_day_of_a_fleet_beside_a_constant_one(ask, one_day):
    day = ("day", "--people", "1000000", "--every", "90")
    printed = ask(*day, "--target", "1.5", "--minimum", "2", "--maximum", "300000")
    assert "Policy: 2 to 300,000 replicas, 1.5 requests at a time each" in printed
    assert "scaled by the policy" in printed and "constant" in printed
    assert sum(line[2:5] == ":00" for line in printed.splitlines()) == 24
    assert "Assumed: a day of office hours" in printed
    shape = ",".join(["1"] * 24)
    printed = ask(*day, "--target", "1.5", "--maximum", "300000", "--shape", shape)
    assert "A day as given." in printed


def test_a_policy_of_ones_own_that_keeps_no_limit_is_said_to_be_small_or_late(ask, one_day):
    printed = ask("day", "--people", "30", "--every", "90", "--target", "2", "--maximum", "1")
    assert row(printed, "scaled by the policy")[0] == "1", "one replica all day: none starts"
    assert "it has too few replicas, or they start too late" in printed


def test_where_no_policy_keeps_the_limit_replicas_start_too_late(ask, one_day):
    shape = ",".join("1" if hour in (11, 13, 15, 17, 19) else "0" for hour in range(24))
    people = ("--people", "2000", "--every", "90")
    printed = ask("day", *people, "--ttft-p95", "1.6", "--shape", shape)
    assert "None of the policies that were tried keeps the limit over the day" in printed


def test_a_model_of_unknown_size_is_predicted_by_given_times(ask):
    printed = ask("endpoint", "--model", "gpt2", "--prefill", "0.1", "--decode-step", "0.01")
    assert "Floor: not known" in printed


def test_a_run_gives_the_machine_and_its_times(ask, tmp_path):
    config = made_runs.config(concurrency=1)
    config["endpoint"] |= virtual_runs.GUIDE
    recorder = results.Recorder(tmp_path, config)
    for record in virtual_runs.served(users=1):
        recorder.add(record)
    path = recorder.finish().path
    printed = ask("endpoint", "--run", str(path), "--users", "1")
    assert "rehearsal" in printed and "decode step 39.8" in printed


def test_a_run_is_held_against_its_prediction(ask):
    printed = ask("run", str(ROOT / "results" / "samples" / "rehearsal-llama-3-70b-5-users"))
    assert printed.startswith("rehearsal: 56 tokens/s, the model says 56, the floor is 279")
    assert "The two times that this run shows: batch 4, prefill 1." in printed


def test_a_prediction_says_how_long_answers_are_and_that_a_prompt_may_be_as_long_as_it_likes(ask):
    few = ("--people", "20", "--every", "90", "--instances", "inf2.48xlarge", "--batch-sizes", "4")
    endpoint = ask("endpoint", "--users", "1")
    for printed in (endpoint, ask("machines", *few)):
        assert "Load: answers of 250 ± 50 tokens. How long a prompt is does not matter" in printed
    assert "Users ask again as soon as their answer is there; as in a benchmark of 50" in endpoint
    assert "Load: answers of 1 token." in ask("replicas", *PEOPLE, *QUICK)
    rounds = ask("endpoint", "--users", "1", "--rounds")
    assert "Users ask again as soon as all have their answers; as" in rounds


def test_a_run_says_how_long_its_answers_were_unless_others_are_asked_for(ask):
    run = ("endpoint", "--users", "1", "--run", SAMPLE)
    assert "Load: answers of 150 tokens, as in the run." in ask(*run)
    asked = ask(*run, "--output-tokens", "99", "--output-tokens-stddev", "9")
    assert "Load: answers of 99 ± 9 tokens. " in asked
    assert "Load: answers of 99 tokens. " in ask(*run, "--output-tokens", "99"), "the run's spread"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((), "Compiled: yes, the Neuron cache has the shape for at least one of the containers"),
        (("--batch", "8"), "Compiled: no, the Neuron cache is not known to have the shape for any"),
        (("--instance", "inf2.24xlarge", "--batch", "1"), "Compiled: no"),
    ],
)
def test_whether_the_shape_would_start_is_said(ask, asked, said):
    assert said in ask("endpoint", "--users", "1", *asked)


def test_what_a_run_measured_did_start(ask):
    assert "Compiled" not in ask("endpoint", "--users", "1", "--run", SAMPLE)


def test_one_person_asks_and_several_ask(ask):
    assert "1 person who asks every 90 s" in ask(
        "replicas", "--people", "1", "--every", "90", *QUICK
    )


def test_all_machines_and_why_not_are_shown_without_a_warning(ask, recwarn):
    few = (*PEOPLE, "--instances", "inf2.xlarge,inf2.48xlarge", "--batch-sizes", "4", *ONE_TOKEN)
    assert "Weights and KV cache take" in ask("machines", *few, "--all")
    assert not recwarn.list


def test_machines_are_as_sure_as_the_least_sure_of_them(ask):
    few = (*PEOPLE, "--instances", "inf2.48xlarge", *ONE_TOKEN)
    assert "by some 5 %" in ask("machines", *few, "--batch-sizes", "1")
    both = ask("machines", *few, "--batch-sizes", "1,4", "--ttft-p95", "1.75")
    assert "by some 7 %" in both, "at batch 4 a prefill of 1.2 s is nearly all of the limit"


def at_a_terminal(command, **environment):
    return subprocess.run(
        ["bash", "-c", command.replace("capacity", f"{sys.executable} -m helpers.capacity", 1)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_a_closed_output_is_said_in_one_sentence():
    ended = at_a_terminal("capacity endpoint >&-")
    assert ended.stderr == "The answer could not be written: the output is closed.\n"
    assert ended.returncode == 1


@pytest.mark.parametrize("command", ["replicas --help", "endpoint --users 1 --model ü-70B"])
def test_a_terminal_of_few_characters_gets_the_others_as_question_marks(command):
    ended = at_a_terminal(f"capacity {command}", PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "?" in ended.stdout


@pytest.mark.parametrize("reader", ["true", "head -1"])
def test_who_reads_may_stop_reading(reader):
    command = f"set -o pipefail; {sys.executable} -m helpers.capacity endpoint | {reader}"
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert ended.stderr == "" and ended.returncode in (0, 1)


def test_a_full_disk_is_said_in_one_sentence():
    command = [sys.executable, "-m", "helpers.capacity", "endpoint"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.stderr == "The answer could not be written: No space left on device.\n"
    assert ended.returncode == 1


def test_a_file_that_cannot_be_used_is_not_taken_for_the_output(refused, monkeypatch):
    def closed(path):
        raise PermissionError(13, "Permission denied", f"{path}/summary.json")

    monkeypatch.setattr("helpers.results.load", closed)
    assert refused("run", "x") == "x/summary.json cannot be used: Permission denied.\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Following arguments are required: QUESTION"),
        (("endpoints",), "invalid choice"),
        (("replicas",), "are required: --people, --every"),
        (("replicas", "--people", "x", "--every", "90"), "invalid float value"),
        (("replicas", *PEOPLE, "--ttft-p95", "1"), "a prefill alone takes 1.2 s"),
        (("replicas", *PEOPLE, "--ttft-p95", "1,0.5"), "within 1 s: a prefill alone takes 1.2 s"),
        (("replicas", *PEOPLE, "--ttft-p95", "3,nan"), "is more than 0, not nan"),
        (("replicas", *PEOPLE, "--goodput", "95"), "between 0 and 1"),
        (("replicas", "--people", "-1", "--every", "90"), "number of people is 1 or more"),
        (("endpoint", "--users", "many"), "neither a number nor a list such as 1,4,8"),
        (("endpoint", "--users", "0"), "--users is a whole number of 1 or more, not 0"),
        (("endpoint", "--model", "gpt2"), "give its two times, --prefill and --decode-step"),
        (("machines", *PEOPLE, "--model", "gpt2"), "choose a name that says it"),
        (("endpoint", "--instance", "p5.48xlarge"), "No specification of 'ml.p5.48xlarge'"),
        (("endpoint", "--instance", "inf2.xlarge"), "to stay free: choose a larger instance."),
        (
            ("endpoint", "--batch", "256"),
            "to stay free: choose a larger instance or a smaller batch.",
        ),
        (
            ("machines", *PEOPLE, "--ttft-p95", "0.05"),
            "keeps TTFT p95 0.05 s: see with --all why, and allow more",
        ),
        (
            ("machines", *PEOPLE, "--output-tokens", "5000"),
            "Answers of 5000 +- 50 tokens do not fit into a slot of 4,096",
        ),
        (
            ("machines", *PEOPLE, "--sequence-length", "100", "--all"),
            "Answers of 250 +- 50 tokens do not fit into a slot of 100",
        ),
        (("endpoint", "--batch", "0"), "A batch size is a whole number of 1 or more, not 0"),
        (("endpoint", "--model", ""), "does not say how large the model is"),
        (("endpoint", "--instance", ""), "No specification of"),
        *(
            (
                ("replicas", *PEOPLE, "--against", price, *QUICK),
                f"to $1,000,000 for a million output tokens, not {price}.",
            )
            for price in ("0", "-1", "nan", "inf", "1e+308", "1e-308")
        ),
        (("run", "nowhere"), "holds no run"),
        (("run", "a" * 300), "holds no run (file name too long)"),
        (("replicas", *PEOPLE, "--run", "a" * 300), "holds no run (file name too long)"),
        (("day", *PEOPLE, "--scale-in-cooldown", "60"), "give its --target"),
        (("day", *PEOPLE, "--target", "2", "--maximum", "5", "--minimum", "0"), "1 or more"),
        (("endpoint", "--prefill", "1"), "Give both times"),
        (
            ("endpoint", "--prefill", "1.2", "--decode-step", "39.8"),
            "no endpoint takes 39.8 s for a token: give 0.0398 for 39.8 ms",
        ),
        (
            ("endpoint", "--prefill", "0", "--decode-step", "1"),
            "a prefill in seconds is more than 0",
        ),
        (("endpoint", "--run", "nowhere"), "holds no run"),
        (("endpoint", "--run", "x", "--model", "y"), "leave --model"),
        (("machines", *PEOPLE, "--batch-sizes", "4,x"), "neither a number nor a list"),
        (("machines", *PEOPLE, "--instances", ""), "at least one instance type"),
        (("day", *PEOPLE, "--shape", "1,2"), "24 numbers from 0 to 1"),
        (("day", *PEOPLE, "--maximum", "5"), "give its --target"),
        (("day", *PEOPLE, "--target", "2"), "give --maximum"),
        (("day", *PEOPLE, "--target", "2", "--maximum", "0"), "whole number of 1 or more"),
    ],
    ids=lambda words: " ".join(words)[:60] if isinstance(words, tuple) else "",
)
def test_what_cannot_be_answered_is_one_sentence(refused, arguments, words):
    assert words.lower() in refused(*arguments).lower()


def test_an_interrupt_ends_it_quietly(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("helpers.capacity.expectation.expect", interrupted)
    assert main(["endpoint"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"
