"""llmperf, the client with which the original guide was measured: its figures and its files.

Read in `philschmid/llmperf`, commit 5c1c321 (2024-06-17), a fork of `ray-project/llmperf`: its
SageMaker client begins the text it counts with the prompt. Everything here is for comparison only.

`python -m helpers.llmperf DIR` recomputes each summary in a folder from the individual responses
beside it, and says what differs.
"""

import argparse
import json
import math
import os
import re
import reprlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.errors import ResultsError
from helpers.metrics import is_answered, latency_s, tpot_s, ttft_s, whole
from helpers.records import RequestRecord

WHY = (
    "llmperf's SageMaker client puts the prompt in front of the reply before it counts tokens, and "
    "divides each request's whole time, the wait for the first token included, by that count: so "
    "its throughput is too high and its latency per token too low."
)
# How long a run took is in none of its files; this figure is the only way back to it.
TAKEN_OVER = "results_num_completed_requests_per_min"
_SUMMARY, _INDIVIDUAL = "_summary.json", "_individual_responses.json"
_FAILED = 500  # whatever went wrong
_VERSION = "2023-08-31"  # of the format, src/llmperf/utils.py
_PERCENTILES = (25, 50, 75, 90, 95, 99)
_METRICS = (
    "inter_token_latency_s",
    "ttft_s",
    "end_to_end_latency_s",
    "request_output_throughput_token_per_s",
    "number_input_tokens",
    "number_output_tokens",
)
_TTFT = "time to first token, mean (ms)"
_THROUGHPUT = "throughput (tokens/s)"
_PER_TOKEN = "whole request over its tokens, mean (ms)"
_TPOT = "time per output token after the first, mean (ms)"
# What two summaries are compared by: label, key, scale.
_COMPARED = (
    ("users at once", "num_concurrent_requests", 1),
    ("requests completed", "results_num_completed_requests", 1),
    ("prompt tokens a request, mean", "results_number_input_tokens_mean", 1),
    ("tokens counted as output a request, mean", "results_number_output_tokens_mean", 1),
    (_TTFT, "results_ttft_s_mean", 1000),
    (_THROUGHPUT, "results_mean_output_throughput_token_per_s", 1),
    (_PER_TOKEN, "results_inter_token_latency_s_mean", 1000),
)
_NEEDED = (*(key for _, key, _ in _COMPARED), TAKEN_OVER)
_LARGEST = 1e18  # what no time, count or rate reaches, and what 64 bits hold


# --- its figures of our requests ------------------------------------------------------------------


def triple(records: Sequence[RequestRecord], *, clock_speed: float = 1.0) -> dict:
    """What llmperf would report of these requests, over the whole run, in AWS time.

    Prompt tokens count as output, as they do there. Left out is the one token a request that its
    tokenizer adds to every text.

    Args:
        records: Every record of the run.
        clock_speed: AWS seconds in a real second.

    Returns:
        `why` it is wrong, `requests` completed, `counted_tokens`, and `ttft_ms`,
        `throughput_tokens_per_s` and `latency_ms_per_token`, None without a completed request.
    """
    responses = _responses(records, clock_speed=clock_speed)
    figures = summarize(responses, duration_s=_duration_s(records, clock_speed=clock_speed))
    requests = figures["results_num_completed_requests"]

    def figure(key: str, scale: float) -> float | None:
        return figures[key] * scale if requests else None

    return {
        "why": WHY,
        "requests": requests,
        "counted_tokens": sum(one["number_output_tokens"] for one in _completed(responses)),
        "ttft_ms": figure("results_ttft_s_mean", 1000),
        "throughput_tokens_per_s": figure("results_mean_output_throughput_token_per_s", 1),
        "latency_ms_per_token": figure("results_inter_token_latency_s_mean", 1000),
    }


def table(run) -> pd.DataFrame:
    """The published kind of triple beside the same requests with output tokens only.

    The first three rows differ in nothing but the tokens counted; the last one is what the pace of
    an answer is called here, and has no counterpart there.
    """
    speed = run.config["clock_speed"]
    theirs = triple(run.records, clock_speed=speed)
    complete = [record for record in run.records if record.error is None]

    def in_ms(measure: Callable[[RequestRecord], float | None]) -> pd.Series:
        return pd.Series(map(measure, complete), dtype=float) * 1000 * speed

    rows = (
        (_TTFT, theirs["ttft_ms"], in_ms(ttft_s).mean()),
        (
            _THROUGHPUT,
            theirs["throughput_tokens_per_s"],
            (run.summary["whole_run"] or {}).get("output_tokens_per_s"),
        ),
        (
            _PER_TOKEN,
            theirs["latency_ms_per_token"],
            (in_ms(latency_s) / [record.output_tokens for record in complete]).mean(),
        ),
        (_TPOT, None, in_ms(tpot_s).mean()),
    )
    columns = ["metric", "as llmperf counts", "output tokens only"]
    frame = pd.DataFrame(rows, columns=columns).astype({columns[1]: float, columns[2]: float})
    return frame.round(2).assign(target=run.target)


def beside(published: Mapping, run) -> pd.DataFrame:
    """A summary that llmperf wrote beside the one it would have written of our run.

    Whether the published one counts prompts shows in the tokens counted a request: only the
    fork's SageMaker client does.

    Args:
        published: A summary, as `read` gives it.
        run: Ours.

    Raises:
        ResultsError: When llmperf could not have made such a run, as in `write`.
    """
    ours = _summary(run, _responses_of(run))
    rows = [(label, published[key] * scale, ours[key] * scale) for label, key, scale in _COMPARED]
    columns = ["metric", "published", "this run, as llmperf counts"]
    return pd.DataFrame(rows, columns=columns).round(2).assign(target=run.target)


def _responses(records: Sequence[RequestRecord], *, clock_speed: float) -> list[dict]:
    """What llmperf keeps of each request; interrupted ones it never has."""
    return [_response(record, clock_speed) for record in records if is_answered(record)]


def _response(record: RequestRecord, clock_speed: float) -> dict:
    """One request in the fork's words: `src/llmperf/ray_clients/sagemaker_client.py`."""
    counted = record.prompt_tokens + record.output_tokens if record.chunk_s else 0
    took_s = (latency_s(record) or 0) * clock_speed
    response = {
        "error_msg": "",
        "error_code": None,
        "inter_token_latency_s": took_s / counted if counted else 0,
        "ttft_s": 0,
        "end_to_end_latency_s": 0,
        "request_output_throughput_token_per_s": 0,
        "number_total_tokens": record.prompt_tokens + counted,
        "number_output_tokens": counted,
        "number_input_tokens": record.prompt_tokens,
    }
    if record.error:
        # It takes the start off its clock only after the last line, so that a stream that broke
        # leaves the clock itself.
        broken = {"error_msg": record.error.message, "error_code": _FAILED}
        return response | broken | {"ttft_s": record.first_s or 0}
    return response | {
        "ttft_s": (ttft_s(record) or 0) * clock_speed,
        "end_to_end_latency_s": took_s,
        "request_output_throughput_token_per_s": counted / took_s if took_s else 0,
    }


def _duration_s(records: Sequence[RequestRecord], *, clock_speed: float) -> float:
    spans = whole(records)
    return spans.duration_s * clock_speed if spans else math.inf


# --- its files ------------------------------------------------------------------------------------


def write(run, folder: Path | str | None = None) -> tuple[Path, Path]:
    """Write the pair of files that llmperf would have written of the same requests.

    Names, keys, types and quirks are its own: **the prompt is counted as output**, and once more
    in the total; whole numbers that are a minimum or maximum are strings; what has no value is
    NaN; a stream that broke has its client's clock for a time to first token. Beyond it, both
    files say the `target`, and a rehearsal also says so in the model's name and thereby in the
    files' names.

    Our own measurement stays: requests are those of the whole run, warm-up included and
    interrupted ones left out; tokens are counted as the records count them; latencies end with the
    last text; times are AWS time, `timestamp` is the start of the run.

    Args:
        run: A run of users; an arrival schedule is nothing that llmperf knows.
        folder: Where the files go, made when it is missing; the run's own folder by default.

    Returns:
        The paths of the summary and of the individual responses.

    Raises:
        ResultsError: When no request was finished, the run has no users or no date, or the folder
            cannot be written.
    """
    responses = _responses_of(run)
    summary = _summary(run, responses)
    folder = Path(folder or run.path)
    stem = summary["name"].removesuffix("_summary")
    paths = folder / f"{stem}{_SUMMARY}", folder / f"{stem}{_INDIVIDUAL}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, data in zip(paths, (summary, responses), strict=True):
            path.write_text(json.dumps(data, indent=4), encoding="utf-8")
    except OSError as error:
        raise ResultsError(
            f"Cannot write into {folder} ({error.strerror or error}): make room there, or name a "
            "folder that can be written."
        ) from error
    return paths


def _responses_of(run) -> list[dict]:
    if run.config["load"]["concurrency"] is None:
        raise ResultsError(
            "llmperf knows users and no arrival rate: write a run of users (closed loop or rounds)."
        )
    responses = _responses(run.records, clock_speed=run.config["clock_speed"])
    if not responses:
        raise ResultsError(
            f"No request of {run.path} was finished, and llmperf writes nothing then: "
            "write another run."
        )
    return [response | {"target": run.target} for response in responses]


def _summary(run, responses: Sequence[Mapping]) -> dict:
    load, model = run.config["load"], run.config["endpoint"]["name"]
    if run.target == "rehearsal":
        model = f"rehearsal-{model}"
    name = f"{model}_{load['input_tokens']}_{load['output_tokens']}"
    duration_s = _duration_s(run.records, clock_speed=run.config["clock_speed"])
    return {
        "version": _VERSION,
        "name": re.sub(r"\W+", "-", name) + "_summary",
        "model": model,
        "mean_input_tokens": load["input_tokens"],
        "stddev_input_tokens": round(load["input_tokens_stddev"]),
        "mean_output_tokens": load["output_tokens"],
        "stddev_output_tokens": round(load["output_tokens_stddev"]),
        "num_concurrent_requests": load["concurrency"],
        **summarize(responses, duration_s=duration_s),
        "target": run.target,
        "timestamp": _started(run),
    }


def _started(run) -> int:
    try:
        return int(datetime.fromisoformat(run.config["started_utc"]).timestamp())
    except (ValueError, OverflowError) as error:
        raise ResultsError(
            f"started_utc in {run.path / 'run.json'} is no date ({error}): restore that file."
        ) from error


@dataclass(frozen=True)
class Pair:
    """What llmperf wrote of one run.

    Attributes:
        name: What both paths begin with.
        summary: The summary, None where there is no such file.
        individual: One dictionary a request, None where there is no such file.
    """

    name: str
    summary: dict | None
    individual: list[dict] | None


def read(path: Path | str) -> Pair:
    """Read what llmperf wrote: `*_summary.json` and `*_individual_responses.json`.

    Args:
        path: One of the two files, or a folder with one such pair; the other file is read along
            when it lies beside it.

    Raises:
        ResultsError: When this is not llmperf's, or cannot be read.
    """
    path = Path(path)
    if not os.path.exists(path):  # `Path.exists` raises where a name is too long
        raise ResultsError(f"There is no {path}: name a file of llmperf, or a folder with a pair.")
    names = _names(path.iterdir() if path.is_dir() else [path])
    if len(names) != 1:
        raise ResultsError(
            f"{path} stands for {len(names)} results of llmperf: name one file that ends in "
            f"{_SUMMARY} or {_INDIVIDUAL}, or a folder with one pair of them."
        )
    (name,) = names
    return Pair(
        name,
        _read_json(Path(name + _SUMMARY), _wrong_summary),
        _read_json(Path(name + _INDIVIDUAL), _wrong_responses),
    )


def _names(paths: Iterable[Path]) -> set[str]:
    """What the names of llmperf's files among these begin with."""
    return {
        str(path).removesuffix(suffix)
        for path in paths
        for suffix in (_SUMMARY, _INDIVIDUAL)
        if path.name.endswith(suffix)
    }


def _read_json(path: Path, wrong: Callable[[object], str | None]):
    if not os.path.exists(path):
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path} cannot be read ({error}): fetch it again.") from error
    if what := wrong(data):
        raise ResultsError(f"{path} is not llmperf's ({what}): name a file that it wrote.")
    return data


def _wrong_summary(data: object) -> str | None:
    if not isinstance(data, dict):
        return "it is no object"
    wrong = [key for key in _NEEDED if not _is_number(data.get(key))]
    return f"{wrong[0]} is no number" if wrong else None


def _wrong_responses(data: object) -> str | None:
    if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
        return "it is no list of responses"
    for place, one in enumerate(data):
        for key in ("error_code", *_METRICS):
            if key not in one:
                return f"response {place} has no {key}"
            value = one[key]
            if not (
                value is None or _is_number(value) or (key, type(value)) == ("error_code", str)
            ):
                return f"{key} of response {place} is no number"
    return None


def _is_number(value: object) -> bool:
    """Whether it can be computed with; NaN is a number, of which Python's JSON knows."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and not abs(value) >= _LARGEST


# --- its summary of its responses -----------------------------------------------------------------


def summarize(individual_responses: Sequence[Mapping], *, duration_s: float) -> dict:
    """Recompute llmperf's summary: every `results_*` key, in its order and its types.

    Failed requests are in no figure but the counts of errors. Percentiles are interpolated
    linearly, the standard deviation is that of a sample; without a completed request all of these
    are NaN.

    Args:
        individual_responses: What llmperf keeps of each request.
        duration_s: How long its run took, which is not in its files; `math.inf` for one that
            completed nothing.
    """
    completed, codes = _completed(individual_responses), _error_codes(individual_responses)
    started = len(individual_responses)
    result = {}
    for name in _METRICS:
        result |= _statistics(f"results_{name}", [one[name] for one in completed])
    counted = sum(one["number_output_tokens"] or 0 for one in completed)
    return result | {
        "results_num_requests_started": started,
        "results_error_rate": len(codes) / started if started else 0,
        "results_number_errors": len(codes),
        "results_error_code_frequency": str(dict(Counter(codes).most_common())),
        "results_mean_output_throughput_token_per_s": counted / duration_s,
        "results_num_completed_requests": len(completed),
        TAKEN_OVER: len(completed) / duration_s * 60,
    }


def differences(pair: Pair) -> list[str]:
    """Where a summary is not what its own individual responses give, a sentence a figure.

    All of llmperf's figures are recomputed but `TAKEN_OVER`: from that one comes the duration,
    without which there is no throughput.

    Raises:
        ResultsError: When one of the two files is missing.
    """
    if pair.summary is None or pair.individual is None:
        missing = _SUMMARY if pair.summary is None else _INDIVIDUAL
        raise ResultsError(f"There is no {pair.name}{missing}: both files of a run are needed.")
    theirs = {key: value for key, value in pair.summary.items() if key.startswith("results_")}
    completed = len(_completed(pair.individual))
    per_minute = theirs[TAKEN_OVER]
    duration_s = 60 * completed / per_minute if completed and per_minute else math.inf
    ours = summarize(pair.individual, duration_s=duration_s)
    return [
        f"{key} is {reprlib.repr(theirs.get(key))}, its responses give {ours.get(key)!r}"
        for key in ours | theirs
        if not _equal(theirs.get(key), ours.get(key))
    ]


def _completed(responses: Sequence[Mapping]) -> list[Mapping]:
    return [one for one in responses if one["error_code"] is None]


def _error_codes(responses: Sequence[Mapping]) -> list:
    """Codes of the failed; whole numbers become floats beside a success, as they do in pandas."""
    codes = [one["error_code"] for one in responses if one["error_code"] is not None]
    if len(codes) < len(responses):
        codes = [float(code) if isinstance(code, int) else code for code in codes]
    return codes


def _statistics(name: str, values: Sequence[float | None]) -> dict:
    series = pd.Series(values, dtype=None if values else float).dropna()
    spread = {f"quantiles_p{p}": series.quantile(p / 100) for p in _PERCENTILES} | {
        "mean": series.mean(),
        "min": series.min(),
        "max": series.max(),
        "stddev": series.std(),
    }
    # JSON does not know numpy's whole numbers, and llmperf lets them become strings.
    return {
        f"{name}_{statistic}": str(value) if isinstance(value, np.integer) else float(value)
        for statistic, value in spread.items()
    }


def _equal(theirs: object, ours: object) -> bool:
    if type(theirs) is not type(ours):
        return False
    if isinstance(ours, float):
        return math.isclose(theirs, ours, rel_tol=1e-9, abs_tol=1e-12) or theirs != theirs != ours
    if isinstance(ours, str):  # numpy 2 names its types in the counts of errors
        theirs = re.sub(r"np\.\w+\((.*?)\)", r"\1", theirs)
    return theirs == ours


def main(arguments: Sequence[str] | None = None) -> int:
    """Check all pairs in a folder; 0 when all are equal, 1 when one differs or there is none."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.llmperf",
        description="Recompute llmperf's summaries from its individual responses.",
    )
    parser.add_argument("folder", type=Path, help="searched with all folders in it")
    folder = parser.parse_args(arguments).folder
    names = sorted(_names(folder.rglob("*.json") if os.path.isdir(folder) else ()))
    if not names:
        print(f"No file of llmperf in {folder}: name a folder with *{_SUMMARY} in it.")
        return 1
    equal = 0
    for name in names:
        try:
            found = differences(read(f"{name}{_SUMMARY}"))
        except ResultsError as error:
            found = [str(error)]
        equal += not found
        print(f"{Path(name).relative_to(folder)}: {'; '.join(found) or 'equal'}")
    print(
        f"{equal} of {len(names)} summaries in {folder} equal what their individual responses "
        f"give; taken over is {TAKEN_OVER}, which holds the duration"
    )
    return 0 if equal == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
