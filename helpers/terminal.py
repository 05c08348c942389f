"""`python -m helpers.benchmark`: its options, and llmperf's names for them.

Flags of `token_benchmark_ray.py` (ray-project/llmperf) mean here what they mean there, except that
users do not wait for each other unless `--rounds` is given.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from helpers import benchmark, checks, metrics, plan
from helpers.errors import ResultsError, WorkshopError
from helpers.results import Run
from helpers.session import Voice

_LIMITS = {"ttft": "ttft_s", "tpot": "tpot_s", "latency": "latency_s"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 when every run has figures that passed their audit, 1 when one has not, 130 when
        interrupted.
    """
    options = parser().parse_args(arguments)
    try:
        voice, found = _resumed(options) if options.resume else _measured(options)
        _show(voice, found, options)
    except WorkshopError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if all(run.is_valid and run.summary["requests"]["complete"] for run in found) else 1


def _measured(options: argparse.Namespace) -> tuple[Voice, list[Run]]:
    if options.rate and options.concurrency:
        raise ResultsError("A load has users or a rate of arrivals: give one of the two.")
    loads = [{"rate_per_s": rate, "process": options.process} for rate in options.rate or ()]
    loads = loads or [
        {"concurrency": users, "process": options.process}
        for users in options.concurrency or [None]
    ]
    if options.rate and options.llmperf:
        raise ResultsError("llmperf knows users and no arrivals: leave --llmperf or --rate out.")
    asked = [plan.Load(**_load(options), **one) for one in loads]
    if options.openai_url:
        subject = benchmark.of_server(
            options.openai_url,
            model=options.model or _missing("--model, as the server calls it"),
            key=os.environ.get("OPENAI_API_KEY"),
            price_per_hour=options.price_per_hour,
        )
        results_dir = options.results or benchmark.ROOT / "results"
    else:
        from helpers import endpoint as endpoints  # only AWS needs to be asked
        from helpers.session import open_session

        session = open_session(options.target)
        found = endpoints.find(session, options.endpoint or options.model, in_service=True)
        for one in asked:
            benchmark.check_fits(found, one)
        subject = benchmark.of_endpoint(session, found, route=options.route)
        results_dir = options.results or session.settings.results_dir
    runs = [
        benchmark.measure(
            subject,
            one,
            limits=dict(options.limit),
            results_dir=results_dir,
            metadata=options.metadata,
            **_engine(options),
        )
        for one in asked
    ]
    return subject.voice, runs


def _resumed(options: argparse.Namespace) -> tuple[Voice, list[Run]]:
    from helpers import results
    from helpers.session import open_session

    target = results.load(options.resume).target
    own = target == benchmark.SERVER
    session = None if own else open_session(options.target or target)
    finished = benchmark.resume(session, options.resume, **_engine(options))
    return session or Voice(target), [finished]


def _load(options: argparse.Namespace) -> dict:
    """What all loads of a sweep have in common."""
    return {
        "kind": "rounds" if options.rounds else "closed_loop",
        "think_s": options.think,
        "requests": options.requests,
        "duration_s": options.duration,
        "warmup": options.warmup,
        "input_tokens": options.input_tokens,
        "input_tokens_stddev": options.input_tokens_stddev,
        "output_tokens": options.output_tokens,
        "output_tokens_stddev": options.output_tokens_stddev,
        "seed": options.seed,
        "sampling": options.sampling,
    }


def _engine(options: argparse.Namespace) -> dict:
    if options.ray:
        return {"engine": "ray", "ray_address": options.ray}
    return {"engine": "boto3" if options.boto3 else "asyncio"}


def _show(voice: Voice, found: list[Run], options: argparse.Namespace) -> None:
    for run in found:
        whose = f"{plan.Load.of_config(run.config['load']).who}: " if len(found) > 1 else ""
        for check in run.summary["audit"]["checks"]:
            if check["level"] != "ok":
                voice.say(
                    f"{whose}{check['level']}: {check['check']}: {check['found']}; "
                    f"{check['advice']}"
                )
    voice.say(metrics.table(found).to_string(index=False))
    for run in found:
        voice.say(f"saved in {run.path}")
    if options.llmperf:
        from helpers import llmperf

        for run in found:
            voice.say("in llmperf's format: " + " and ".join(map(str, llmperf.write(run))))
    if options.report:
        from helpers import report  # draws: matplotlib takes a second to import

        for run in found:
            voice.say(f"report: {report.write(run, [one for one in found if one is not run])}")


def _missing(what: str) -> str:
    raise ResultsError(f"Give {what}.")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.benchmark",
        description="Benchmark a SageMaker endpoint (WORKSHOP_TARGET says on which AWS), or any "
        "OpenAI-compatible server.",
        epilog="Seconds are AWS time. llmperf's own names for these flags are understood as well; "
        "its users wait for each other, which they do here with --rounds only.",
    )
    add = parser.add_argument_group("what is measured").add_argument
    add("--endpoint", help="the endpoint's name; yours, when there is only one")
    add("--target", choices=("rehearsal", "aws"), help="instead of WORKSHOP_TARGET")
    add(
        "--route",
        "--llm-api",
        choices=benchmark.ROUTES,
        default="sagemaker",
        help="openai is the endpoint's own OpenAI route (default: %(default)s)",
    )
    add("--openai-url", metavar="URL", help="a server of your own; its key is in OPENAI_API_KEY")
    add("--model", help="what that server calls the model")
    add("--price-per-hour", type=float, metavar="USD", help="of that server")

    add = parser.add_argument_group("the load").add_argument
    add(
        "--concurrency",
        "--num-concurrent-requests",
        type=checks.list_of(int, "1,2,4,8"),
        help=f"users, or a list to sweep over: 1,2,4,8 (default: {plan.CONCURRENCY})",
    )
    add("--think", type=float, default=0.0, metavar="S", help="seconds between a user's requests")
    add("--rounds", action="store_true", help="users wait for each other, as llmperf has it")
    add(
        "--rate",
        type=checks.list_of(float, "1,2,4,8"),
        help="arrivals a second instead of users, or a list",
    )
    add("--process", choices=plan.PROCESSES, help="how they arrive (default: poisson)")
    add(
        "--requests",
        "--max-num-completed-requests",
        type=int,
        help=f"measured ones a run (default: {plan.REQUESTS}, without --duration)",
    )
    add("--duration", "--timeout", type=float, metavar="S", help="seconds in which they are sent")
    add("--warmup", type=int, help="requests beforehand (default: one a user)")
    for what, default in (("input", plan.INPUT_TOKENS), ("output", plan.OUTPUT_TOKENS)):
        add(
            f"--{what}-tokens",
            f"--mean-{what}-tokens",
            type=int,
            default=default,
            help=f"{'each prompt' if what == 'input' else 'at most a reply'} (default: {default})",
        )
        add(
            f"--{what}-tokens-stddev",
            f"--stddev-{what}-tokens",
            type=float,
            default=0.0,
            help="standard deviation of these lengths, drawn around that mean (default: 0, all "
            "alike)",
        )
    add("--seed", type=int, default=0, help="chooses prompts, lengths and arrivals")
    add(
        "--sampling",
        "--additional-sampling-params",
        type=_object,
        default={},
        metavar="JSON",
        help="members added to each request",
    )

    add = parser.add_argument_group("how, and what is kept").add_argument
    add(
        "--limit",
        type=_limit,
        action="append",
        default=[],
        metavar="NAME=S",
        help="what a good request keeps, in seconds: ttft=2, tpot=0.06, latency=30",
    )
    add("--ray", metavar="ADDRESS", help="send from all machines of a Ray cluster, e.g. auto")
    add("--boto3", action="store_true", help="send with plain boto3, as a cross-check")
    add(
        "--resume",
        type=Path,
        metavar="RUN",
        help="go on with a run that was cut off; its load stays",
    )
    add("--results", "--results-dir", type=Path, help="where the run's folder is made")
    add("--metadata", type=_pairs, default={}, help="name=foo,bar=1, kept with the run")
    add("--llmperf", action="store_true", help="also write llmperf's pair of files")
    add("--no-report", dest="report", action="store_false", help="write no report.html")
    return parser


def _object(text: str) -> dict:
    try:
        given = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON ({error})") from error
    if not isinstance(given, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is no object such as {{"temperature": 0.7}}')
    return given


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    if not all(name and equals for name, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as name=foo,bar=1")
    return {name: value for name, _, value in pairs}


def _limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return _LIMITS[name], float(value)
    except (KeyError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no limit such as ttft=2, tpot=0.06 or latency=30"
        ) from error
