"""Measure an endpoint: a load, and one folder of results a run.

`python -m helpers.benchmark` does the same from a terminal; its options are in
`helpers/terminal.py`.
"""

import itertools
import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from helpers import audit, contracts, costs, hub, load, messages, metrics, results, tokenizer
from helpers.errors import (
    ClusterError,
    InvocationError,
    ResultsError,
    SettingsError,
    WorkshopError,
)
from helpers.load import Request
from helpers.plan import Load
from helpers.progress import Progress
from helpers.records import ClientHealth, RequestRecord
from helpers.results import Recorder, Run
from helpers.session import DUMMY_HF_TOKEN, Voice, rehearsal_at
from helpers.settings import PYTHON, ROOT
from helpers.transport import OpenAIStream, SageMakerStream, Transport

ENGINES = ("asyncio", "ray", "boto3")
ROUTES = ("sagemaker", "openai")
SERVER = "server"  # the target that is neither AWS nor its rehearsal


@dataclass(frozen=True)
class Subject:
    """What is measured, and how to reach it.

    Attributes:
        transport: The service.
        voice: Says things, with the target's word beside them.
        config: `run.json` without load and limits.
        model: What requests call the model.
        counter: The model's own tokenizer, where it can be had.
        is_chat: Whether it speaks the Messages API.
        boto: Session and endpoint's name for plain boto3, None where that does not apply.
    """

    transport: Transport
    voice: Voice
    config: Mapping[str, Any]
    model: str
    counter: tokenizer.Counter
    is_chat: bool = True
    boto: tuple[Any, str] | None = None

    @property
    def clock_speed(self) -> float:
        """AWS seconds in a real second."""
        return self.config["clock_speed"]


def run(
    session,
    endpoint,
    *,
    limits: Mapping[str, float] | None = None,
    route: str = "sagemaker",
    engine: str = "asyncio",
    ray_address: str = "auto",
    results_dir: Path | str | None = None,
    **options: Any,
) -> Run:
    """Benchmark an endpoint and save what came of it.

    Five users in a closed loop unless the options say otherwise. Warm-up requests are in no latency
    figure; the measured ones follow without a pause.

    Args:
        session: The workshop's session.
        endpoint: As `endpoint.find` gives it.
        limits: What a good request keeps, in seconds, e.g. `{"ttft_s": 2.0, "tpot_s": 0.06}`.
        route: `sagemaker`, or `openai` for the endpoint's OpenAI route.
        engine: `asyncio`; `ray` for many machines; `boto3` as a cross-check with few users.
        ray_address: Of the Ray cluster.
        results_dir: Where the run's folder is made; the session's results folder by default.
        **options: The load, attributes of `helpers.plan.Load`, for example `concurrency`,
            `requests`, `rate_per_s`, `duration_s`, `output_tokens`.

    Raises:
        ResultsError: When a number makes no sense, or the folder cannot be written.
        InvocationError: When the endpoint's address cannot be reached at all.
        KeyboardInterrupt: After what there is has been saved, and the saying of where.
    """
    asked = Load(**options)
    check_fits(endpoint, asked)
    return measure(
        of_endpoint(session, endpoint, route=route),
        asked,
        limits=limits,
        engine=engine,
        ray_address=ray_address,
        results_dir=results_dir or session.settings.results_dir,
    )


def sweep(
    session,
    endpoint,
    *,
    concurrencies: Sequence[int] = (),
    rates_per_s: Sequence[float] = (),
    **options: Any,
) -> list[Run]:
    """One run for each number of users, or for each rate of arrivals, in the order given.

    Other arguments and errors as in `run`.

    Raises:
        ResultsError: Before anything is sent, when one of the runs makes no sense.
    """
    loads = [{"concurrency": users} for users in concurrencies]
    loads += [{"rate_per_s": rate} for rate in rates_per_s]
    names = Load.__dataclass_fields__
    shared = {name: value for name, value in options.items() if name in names}
    for one in loads:
        check_fits(endpoint, Load(**one, **shared))
    return [run(session, endpoint, **one, **options) for one in loads]


def resume(session, path: Path | str, *, engine: str = "asyncio", ray_address: str = "auto") -> Run:
    """Go on with a run that was cut off: what it has is kept, what is missing is sent.

    Args:
        session: The workshop's session; None for a server that was named by its URL.
        path: The run's folder.
        engine: As in `run`.
        ray_address: As in `run`.

    Raises:
        ResultsError: When nothing is missing, or the run belongs to another target.
    """
    broken = results.load(path)
    if session is not None and session.target != broken.target:
        raise ResultsError(
            f"{broken.path.name} was a run of {broken.target}, this session's target is "
            f"{session.target}: set WORKSHOP_TARGET={broken.target}."
        )
    subject = _subject_of(session, broken)
    if subject.clock_speed != broken.config["clock_speed"]:
        raise ResultsError(
            f"{broken.path.name} began at speed {broken.config['clock_speed']:g}, and now it is "
            f"{subject.clock_speed:g}: set WORKSHOP_SPEED to that of the run."
        )
    plan = _rest(broken, subject)
    drive = _driver(engine, subject, ray_address=ray_address)
    recorder = Recorder.resume(broken)
    subject.voice.say(f"going on with {broken.path.name}, which has {len(broken.records)} requests")
    return _play(subject, plan, recorder, drive)


def measure(
    subject: Subject,
    asked: Load,
    *,
    limits: Mapping[str, float] | None = None,
    engine: str = "asyncio",
    ray_address: str = "auto",
    results_dir: Path | str = ROOT / "results",
    metadata: Mapping[str, str] | None = None,
) -> Run:
    """Put a load on whatever is measured and save what came of it; arguments as in `run`."""
    drive = _driver(engine, subject, ray_address=ray_address)
    limits = dict(limits or {})
    metrics.check_limits(limits)
    config = {**subject.config, "engine": engine, "limits": limits, "load": asked.as_config()}
    config["metadata"] = dict(metadata or {})
    recorder = Recorder(Path(results_dir), config)
    subject.voice.say(str(asked))
    return _play(subject, _whole(asked, subject), recorder, drive)


# --- what is measured -----------------------------------------------------------------------------


def of_endpoint(session, endpoint, *, route: str = "sagemaker") -> Subject:
    """A SageMaker endpoint.

    Raises:
        ResultsError: When there is no such route.
    """
    if route not in ROUTES:
        raise ResultsError(f"There is no route {route!r}: choose among {', '.join(ROUTES)}.")
    served, counter = _shape(endpoint), tokenizer.counter(endpoint.model_id)
    transport: Transport = SageMakerStream.of(session, endpoint.name)
    if route == "openai":
        transport = OpenAIStream(
            messages.openai_url(session, endpoint.name), key=lambda: messages.bearer_token(session)
        )
    config = {
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
        "price": {"usd_per_hour": endpoint.price_per_hour, "source": costs.PRICE_SOURCE},
        "transport": transport.name,
        "route": route,
        "tokenizer": counter.message,
        "client": _client(),
    }
    return Subject(
        transport,
        session,
        config,
        endpoint.model_id or messages.MODEL,
        counter,
        is_chat=route == "openai" or served is None or served.messages_api,
        boto=(session, endpoint.name) if route == "sagemaker" else None,
    )


def of_server(
    url: str, *, model: str, key: str | None = None, price_per_hour: float | None = None
) -> Subject:
    """Any OpenAI-compatible server.

    Args:
        url: Its base URL, for example `http://127.0.0.1:8000/v1`.
        model: What it calls the model.
        key: Its bearer token, a secret.
        price_per_hour: $ an hour for all of it; None leaves out what depends on it.

    Raises:
        InvocationError: When that is no URL.
        ResultsError: When the price is none.
    """
    if price_per_hour is not None and not 0 <= price_per_hour < math.inf:
        raise ResultsError(f"A price is 0 dollars an hour or more, not {price_per_hour}.")
    transport = OpenAIStream(url, key=key)
    rehearsal = rehearsal_at(url)
    target = "rehearsal" if rehearsal else SERVER
    # A rehearsal's models are on its own Hub, and nobody's token has to go there.
    hub_of = {"HF_ENDPOINT": rehearsal.url, "HF_TOKEN": DUMMY_HF_TOKEN} if rehearsal else {}
    counter = tokenizer.counter(model, environ={**os.environ, **hub_of})
    config = {
        "target": target,
        "region": None,
        "clock_speed": rehearsal.speed if rehearsal else 1.0,
        "endpoint": {
            "name": f"{transport.address.host}-{transport.address.port}",
            "url": url,
            "recipe": model,
            "model_id": model,
            "image": None,
            "instance_type": None,
            "instance_count": 1,
            "env": {},
        },
        "price": {"usd_per_hour": price_per_hour, "source": "as given"},
        "transport": transport.name,
        "route": "openai",
        "tokenizer": counter.message,
        "client": _client(),
    }
    return Subject(transport, Voice(target), config, model, counter)


def _subject_of(session, broken: Run) -> Subject:
    """What a run has measured, found again."""
    from helpers import endpoint as endpoints

    told = broken.config["endpoint"]
    if "url" in told:
        return of_server(
            told["url"],
            model=told["model_id"],
            key=os.environ.get("OPENAI_API_KEY"),
            price_per_hour=broken.config["price"]["usd_per_hour"],
        )
    found = endpoints.find(session, told["name"], in_service=True)
    return of_endpoint(session, found, route=broken.config["route"])


def _client() -> dict:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "botocore": version("botocore"),
    }


def _shape(endpoint) -> contracts.Shape | None:
    """What the container makes of its environment, None for an image that nobody here knows."""
    try:
        contract = contracts.contract_for_image(endpoint.image)
    except WorkshopError:
        return None
    return contracts.shape(contract, endpoint.env)


def check_fits(endpoint, asked: Load) -> None:
    """Refuse beforehand what the container would refuse each time.

    Raises:
        ResultsError: When prompt and answer are longer than the endpoint takes.
    """
    served = _shape(endpoint)
    if served is None:
        return
    total = asked.input_tokens + asked.output_tokens
    if asked.input_tokens > served.max_input_tokens or total > served.max_total_tokens:
        raise ResultsError(
            f"{endpoint.name} takes prompts of up to {served.max_input_tokens} tokens and "
            f"{served.max_total_tokens} together with the answer: {asked.input_tokens} in and "
            f"{asked.output_tokens} out do not fit."
        )


# --- how it is measured ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """The requests that a run still has to send, by their order; warm-up comes first.

    Attributes:
        asked: The load.
        model: What requests call the model.
        is_chat: Whether the endpoint speaks the Messages API.
        left: Places of the measured requests in the whole plan; None where only time ends it.
        first: Place of the first measured one, where only time ends it.
    """

    asked: Load
    model: str
    is_chat: bool
    left: Sequence[int] | None
    first: int = 0

    def index(self, number: int) -> int:
        """The place in the whole plan of what is sent as this number."""
        after = number - self.asked.warmup
        if after < 0:
            return number
        return self.first + after if self.left is None else self.left[after]

    def __call__(self, number: int) -> Request:
        """The request that is sent as this number."""
        return self.asked.request(self.index(number), model=self.model, is_chat=self.is_chat)

    @property
    def count(self) -> int | None:
        """How many, None where only time ends it."""
        return None if self.left is None else self.asked.warmup + len(self.left)

    def requests(self) -> Iterable[Request]:
        """All of them; endless where only time ends it."""
        if self.count is None:
            return map(self, itertools.count())
        return [self(number) for number in range(self.count)]


Drive = Callable[..., list[ClientHealth]]


def _driver(engine: str, subject: Subject, *, ray_address: str) -> Drive:
    """What sends a plan's requests; arguments but for the plan as `load.drive` has them."""
    if engine == "asyncio":
        return lambda transport, plan, pattern, **options: [
            load.drive(transport, plan.requests(), pattern, **options)
        ]
    if engine == "ray":
        from helpers import cluster  # an extra, see requirements-ray.txt

        return lambda transport, plan, pattern, **options: cluster.drive(
            transport,
            plan if plan.count is None else plan.requests(),
            pattern,
            address=ray_address,
            **options,
        )
    if engine == "boto3" and subject.boto is not None:
        from helpers import crosscheck

        drive = crosscheck.driver(*subject.boto)
        return lambda transport, plan, pattern, **options: drive(
            transport, plan.requests(), pattern, **options
        )
    raise ResultsError(
        f"There is no engine {engine!r} here: choose among {', '.join(ENGINES)} (boto3 for "
        "SageMaker's own route only)."
    )


def _whole(asked: Load, subject: Subject) -> _Plan:
    """A run from its beginning."""
    left = None if asked.is_endless else asked.indexes()[asked.warmup :]
    return _Plan(asked, subject.model, subject.is_chat, left, first=asked.warmup)


def _rest(broken: Run, subject: Subject) -> _Plan:
    """What a run that broke has not sent, after a warm-up of its own."""
    asked = Load.of_config(broken.config["load"])
    if asked.duration_s is not None:
        windows = metrics.windows(broken.records, broken.config["load"])
        left_s = asked.duration_s - windows.duration_s * broken.config["clock_speed"]
        if left_s <= 0:
            raise _is_complete(broken)
        asked = replace(asked, duration_s=left_s)
    done = {
        record.index
        for record in broken.records
        if record.phase == "measured" and not (record.error and record.error.kind == "interrupted")
    }
    if asked.is_endless:
        first = max(done, default=asked.warmup - 1) + 1
        return _Plan(asked, subject.model, subject.is_chat, None, first=first)
    planned = Load.of_config(broken.config["load"]).indexes()[asked.warmup :]
    left = [index for index in planned if index not in done]
    if not left:
        raise _is_complete(broken)
    return _Plan(asked, subject.model, subject.is_chat, left)


def _is_complete(run: Run) -> ResultsError:
    return ResultsError(f"{run.path.name} is complete: there is nothing left to send.")


def _play(subject: Subject, plan: _Plan, recorder: Recorder, drive: Drive) -> Run:
    """Send what is planned, and finish the run."""
    voice, speed, asked = subject.voice, subject.clock_speed, plan.asked
    progress = Progress(
        None if plan.left is None else len(plan.left),
        asked.duration_s,
        label=voice.label,
        clock_speed=speed,
    )

    def on_record(record: RequestRecord) -> None:
        record = replace(record, index=plan.index(record.index))
        recorder.add(record)
        progress.add(record)

    try:
        clients = drive(
            subject.transport,
            plan,
            asked.pattern(clock_speed=speed, count=plan.count),
            on_record=on_record,
            warmup=asked.warmup,
            duration_s=None if asked.duration_s is None else asked.duration_s / speed,
            timeout_s=asked.timeout_s / speed,
            count_tokens=subject.counter.count,
            part=recorder.part,
        )
    except (InvocationError, SettingsError) as error:
        if not recorder.records:
            recorder.discard()  # no connection: nothing was sent
        url = subject.config["endpoint"].get("url")
        if url and getattr(error, "kind", "") == "connection":  # a server of one's own
            raise InvocationError(
                f"Nothing answers at {url}: is the server up, and the address right?",
                kind="connection",
            ) from error
        raise
    except (KeyboardInterrupt, ClusterError):
        progress.close()
        recorder.finish()
        voice.say(f"interrupted: what there is was kept in {recorder.path}")
        voice.say(f"to go on: {PYTHON} -m helpers.benchmark --resume {recorder.path}")
        raise
    progress.close()
    recorder.add_clients(clients)
    finished = recorder.finish()
    _say_verdict(voice, finished)
    return finished


def _say_verdict(voice: Voice, finished: Run) -> None:
    asked, inside = finished.summary["requests"], finished.summary["window"]
    if asked["errors"]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in asked["errors_by_kind"].items())
        first = next(one.error for one in finished.records if metrics.is_failed(one))
        words = first.original_message or first.message
        voice.say(f"{asked['errors']} of {asked['measured']} failed: {kinds}; first: {words}")
        if finished.target == SERVER and first.status in (401, 403):
            voice.say("the server wants a key: put it into OPENAI_API_KEY")
    if inside and inside["requests"]:
        cost = inside["cost_per_million_output_tokens_usd"]
        voice.say_measured(
            f"{inside['output_tokens_per_s']:.1f} output tokens/s, "
            f"first token after {_seconds(inside['ttft_s'])}, "
            f"{_milliseconds(inside['tpot_s'])} per token after that (medians)"
            + (f", ${cost:.2f} per million output tokens" if cost else "")
        )
    else:
        voice.say("no request was completed under the asked load: there are no figures")
    if good := finished.summary["goodput"]:
        voice.say_measured(
            f"{good['share']:.2f} of the requests kept every limit: {good['requests_per_s']:.3f} a "
            "second"
            if good["share"] is not None
            else "nothing can be said about the limits"
        )
    voice.say_measured(audit.sentence(finished.summary["audit"]))


def _seconds(spread: Mapping) -> str:
    return "too few requests to say" if spread["p50"] is None else f"{spread['p50']:.2f} s"


def _milliseconds(spread: Mapping) -> str:
    return "unknown" if spread["p50"] is None else f"{spread['p50'] * 1000:.1f} ms"


if __name__ == "__main__":
    from helpers.terminal import main

    sys.exit(main())
