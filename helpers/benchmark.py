"""Measure an endpoint: so many users, so many requests, one folder of results a run.

`python -m helpers.benchmark --endpoint NAME --concurrency 5 --requests 50` does the same from a
terminal; a list of concurrencies (`1,2,4,8`) is a sweep.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from helpers import costs, hub, load, prompts, results
from helpers.errors import InvocationError, ResultsError, WorkshopError
from helpers.load import Request
from helpers.messages import MODEL, request_body
from helpers.records import RequestRecord
from helpers.results import Run
from helpers.transport import SageMakerStream

# The load of the original guide (philschmid/huggingface-inferentia2-samples, May 2024).
CONCURRENCY = 5
REQUESTS = 50
INPUT_TOKENS = 550
OUTPUT_TOKENS = 150
_MILESTONES = 5  # progress is said this often


def run(
    session,
    endpoint,
    *,
    concurrency: int = CONCURRENCY,
    requests: int = REQUESTS,
    input_tokens: int = INPUT_TOKENS,
    output_tokens: int = OUTPUT_TOKENS,
    seed: int = 0,
    results_dir: Path | str | None = None,
) -> Run:
    """Benchmark an endpoint with a closed loop of users and save what came of it.

    One request a user warms up beforehand and is in no latency figure; the measured ones follow
    without a pause.

    Args:
        session: The workshop's session.
        endpoint: As `endpoint.find` gives it.
        concurrency: Users, each with one request in flight.
        requests: Measured requests of all users together.
        input_tokens: Tokens of each prompt, chat template not counted.
        output_tokens: Tokens each reply may have at most.
        seed: Chooses the prompts; the same seed sends the same ones.
        results_dir: Where the run's folder is made; the session's results folder by default.

    Raises:
        ResultsError: When a number makes no sense, or the folder cannot be written.
        InvocationError: When the endpoint's address cannot be reached at all.
        KeyboardInterrupt: After what there is has been saved, and the saying of where.
    """
    plan = _plan(
        endpoint,
        concurrency=concurrency,
        requests=requests,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        seed=seed,
    )
    transport = SageMakerStream.of(session, endpoint.name)
    config = _config(
        session,
        endpoint,
        transport=transport.name,
        load={
            "kind": "closed_loop",
            "concurrency": concurrency,
            "requests": requests,
            "warmup": concurrency,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "seed": seed,
            "timeout_s": load.TIMEOUT_S,
            "retries": 0,
            "prompts": prompts.SOURCE,
        },
    )
    recorder = results.Recorder(Path(results_dir or session.settings.results_dir), config)
    session.say(
        f"{concurrency} {_users(concurrency)}, {requests} requests of {input_tokens} tokens in "
        f"and up to {output_tokens} out, after {concurrency} to warm up"
    )
    progress = _Progress(session, requests)

    def on_record(record: RequestRecord) -> None:
        recorder.add(record)
        progress.add(record)

    try:
        load.drive(
            transport,
            plan,
            load.ClosedLoop(concurrency),
            warmup=concurrency,
            timeout_s=load.TIMEOUT_S / session.clock.speed,
            on_record=on_record,
        )
    except InvocationError:
        recorder.discard()  # no connection: nothing was sent
        raise
    except KeyboardInterrupt:
        _finish(recorder)
        session.say(f"interrupted: what there is was kept in {recorder.path}")
        raise
    finished = _finish(recorder)
    _say_verdict(session, finished)
    return finished


def sweep(
    session,
    endpoint,
    *,
    concurrencies: Sequence[int] = (1, 2, 4, 8),
    requests: int = REQUESTS,
    input_tokens: int = INPUT_TOKENS,
    output_tokens: int = OUTPUT_TOKENS,
    seed: int = 0,
    results_dir: Path | str | None = None,
) -> list[Run]:
    """One run for each number of users, in the order given; arguments and errors as in `run`.

    Raises:
        ResultsError: Before anything is sent, when one of the runs makes no sense.
    """
    settings = {
        "requests": requests,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "seed": seed,
    }
    for concurrency in concurrencies:
        _check(concurrency=concurrency, **settings)
    return [
        run(session, endpoint, concurrency=concurrency, results_dir=results_dir, **settings)
        for concurrency in concurrencies
    ]


def _check(
    *, concurrency: int, requests: int, input_tokens: int, output_tokens: int, seed: int
) -> None:
    if concurrency < 1 or requests < 2 * concurrency:
        raise ResultsError(
            f"{requests} requests say nothing about {concurrency} users: "
            "take one user or more, and at least two requests a user."
        )
    if output_tokens < 2:
        raise ResultsError("Ask for at least 2 output tokens: fewer have no time between them.")
    try:
        prompts.prompt(input_tokens, seed=seed)
    except ValueError as error:
        raise ResultsError(str(error)) from error


def _plan(endpoint, *, concurrency: int, requests: int, **prompt: int) -> list[Request]:
    _check(concurrency=concurrency, requests=requests, **prompt)
    return list(_requests(endpoint, concurrency + requests, **prompt))


def _requests(
    endpoint, count: int, *, input_tokens: int, output_tokens: int, seed: int
) -> Iterator[Request]:
    for index in range(count):
        text = prompts.prompt(input_tokens, seed=seed * 1_000_003 + index)
        body = request_body(
            [{"role": "user", "content": text}],
            model=endpoint.model_id or MODEL,
            max_tokens=output_tokens,
            stream=True,
        )
        yield Request(json.dumps(body).encode(), input_tokens, output_tokens, prompts.SOURCE)


def _config(session, endpoint, *, transport: str, load: dict) -> dict:
    """All that is needed to repeat the run, and nothing secret."""
    price = costs.price_per_hour(endpoint.instance_type) * endpoint.instance_count
    return {
        "target": session.target,
        "region": session.region,
        "clock_speed": session.clock.speed,
        "endpoint": {
            "name": endpoint.name,
            "recipe": endpoint.recipe_name,
            "model_id": endpoint.model_id,
            "image": endpoint.image,
            "instance_type": endpoint.instance_type,
            "instance_count": endpoint.instance_count,
            "env": hub.mask(endpoint.env),
        },
        "price": {"usd_per_hour": price, "source": costs.PRICE_SOURCE},
        "transport": transport,
        "load": load,
        "client": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "botocore": version("botocore"),
        },
    }


def _finish(recorder: results.Recorder) -> Run:
    return recorder.finish(results.summary(recorder.records, recorder.config))


class _Progress:
    """Says a line at each fifth of the requests: how many lines there are never varies."""

    def __init__(self, session, requests: int):
        self._session = session
        self._requests = requests
        self._marks = {-(-requests * step // _MILESTONES) for step in range(1, _MILESTONES + 1)}
        self._done = 0
        self._errors = 0

    def add(self, record: RequestRecord) -> None:
        if record.phase != "measured" or (record.error and record.error.kind == "interrupted"):
            return
        self._done += 1
        self._errors += record.error is not None
        if self._done in self._marks:
            self._session.say(
                f"{self._done} of {self._requests} requests done, errors: {self._errors}"
            )


def _say_verdict(session, finished: Run) -> None:
    asked, inside = finished.summary["requests"], finished.summary["window"]
    if asked["errors"]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in asked["errors_by_kind"].items())
        first = next(record.error for record in finished.records if record.error)
        words = first.original_message or first.message
        session.say(f"{asked['errors']} of {asked['measured']} failed: {kinds}; first: {words}")
    if not inside or not inside["requests"]:
        session.say("no request was completed under the asked load: there are no figures")
        return
    session.say_measured(
        f"{inside['output_tokens_per_s']:.1f} output tokens/s, "
        f"first token after {_seconds(inside['ttft_s'])}, "
        f"{_milliseconds(inside['tpot_s'])} per token after that (medians), "
        f"${inside['cost_per_million_output_tokens_usd']:.2f} per million output tokens"
    )


def _users(count: int) -> str:
    return "user" if count == 1 else "users"


def _seconds(spread: dict) -> str:
    return "too few requests to say" if spread["p50"] is None else f"{spread['p50']:.2f} s"


def _milliseconds(spread: dict) -> str:
    return "unknown" if spread["p50"] is None else f"{spread['p50'] * 1000:.1f} ms"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from a terminal; 0 when requests succeeded, 1 when none did, 130 when interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    from helpers import endpoint as endpoints  # only the terminal needs to look it up
    from helpers import metrics
    from helpers.session import open_session

    try:
        session = open_session(options.target)
        found = sweep(
            session,
            endpoints.find(session, options.endpoint, in_service=True),
            concurrencies=options.concurrency,
            requests=options.requests,
            input_tokens=options.input_tokens,
            output_tokens=options.output_tokens,
            seed=options.seed,
            results_dir=options.results,
        )
    except WorkshopError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    session.say(metrics.table(found).to_string(index=False))
    for finished in found:
        session.say(f"saved in {finished.path}")
    return 0 if all(finished.summary["requests"]["complete"] for finished in found) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.benchmark",
        description="Benchmark a SageMaker endpoint; WORKSHOP_TARGET says which AWS.",
    )
    parser.add_argument("--endpoint", help="its name; yours, when there is only one")
    parser.add_argument(
        "--concurrency", type=_numbers, default=[CONCURRENCY], help="users, or a list: 1,2,4,8"
    )
    parser.add_argument("--requests", type=int, default=REQUESTS, help="measured ones a run")
    parser.add_argument("--input-tokens", type=int, default=INPUT_TOKENS, help="of each prompt")
    parser.add_argument("--output-tokens", type=int, default=OUTPUT_TOKENS, help="at most a reply")
    parser.add_argument("--seed", type=int, default=0, help="chooses the prompts")
    parser.add_argument("--results", type=Path, help="where the run's folder is made")
    parser.add_argument("--target", choices=("rehearsal", "aws"), help="instead of the variable")
    return parser


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of users nor a list such as 1,2,4,8"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
