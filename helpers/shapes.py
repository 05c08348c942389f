"""What the files of a run hold, and what is wrong with one that holds something else.

Who reads a run reads it without looking at each figure again, so that all of it is looked at here.
"""

import json
import reprlib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from helpers import checks, metrics
from helpers.errors import ResultsError
from helpers.plan import Load
from helpers.records import ClientHealth, Failure, RequestRecord
from helpers.settings import HIGHEST_SPEED

_MOST = 1e18  # Of a run's numbers none is larger, and with larger ones its figures would overflow.
_LOWEST_SPEED = 1e-6  # of the clock; with lower ones, too
# Of one request: eight times the context of Llama 3.1, as the longest of other servers' models.
# The model gives each token of an answer its own time.
_MOST_TOKENS = 8 * checks.MOST_TOKENS
_NUMBER = int | float
_NUMBER_OR_NONE = _NUMBER | None


@dataclass(frozen=True)
class _OrNone:
    """Something of a shape, or nothing."""

    shape: Any


# What others read of a run: a file without it, or with something else there, is no run's. What has
# a question mark may be missing. A list has any number of what is in it.
_CONFIG = {
    "target": str,
    "started_utc": str,
    "clock_speed": _NUMBER,
    "endpoint": {
        "name": str,
        "instance_type": str | None,
        "recipe?": str | None,
        "model_id?": str | None,
        "image?": str | None,
        "url?": str | None,
        "instance_count?": int | None,
        "env?": dict[str, str],
    },
    "price": {"usd_per_hour": _NUMBER_OR_NONE},
    "limits": dict[str, _NUMBER],
    "load": {
        "kind": str,
        "concurrency": int | None,
        "think_s": _NUMBER,
        "rate_per_s": _NUMBER_OR_NONE,
        "process": str | None,
        "requests": int | None,
        "duration_s": _NUMBER_OR_NONE,
        "warmup": int,
        "input_tokens": int,
        "input_tokens_stddev": _NUMBER,
        "output_tokens": int,
        "output_tokens_stddev": _NUMBER,
        "seed": int,
        "timeout_s": _NUMBER,
        "sampling?": dict,
    },
    "client?": dict | None,
    "metadata?": dict | None,
}
_INTERVALS = dict[str, tuple[_NUMBER, _NUMBER]]
_SPREAD = {  # `intervals.distribution`
    "mean": _NUMBER_OR_NONE,
    **{f"p{percentile}": _NUMBER_OR_NONE for percentile in metrics.PERCENTILES},
    "ci95": _INTERVALS,
}
_FIGURES = {  # `metrics.figures`, and what arrivals have beside them
    "duration_s": _NUMBER,
    "requests": int,
    "requests_per_s": _NUMBER,
    "mean_concurrency": _NUMBER,
    "output_tokens": _NUMBER,
    "output_tokens_per_s": _NUMBER,
    "total_tokens_per_s": _NUMBER,
    "cost_per_million_output_tokens_usd": _NUMBER_OR_NONE,
    "ci95": _INTERVALS,
    "ci95_missing": str | None,
    **dict.fromkeys(("ttft_s", "tpot_s", "itl_s", "latency_s", "dispatch_s?"), _SPREAD),
    **dict.fromkeys(("offered_per_s?", "sent_per_s?", "completed_per_s?"), _NUMBER_OR_NONE),
}
_SUMMARY = {
    "target": str,
    "requests": {
        "warmup": int,
        "measured": int,
        "complete": int,
        "errors": int,
        "error_rate": _NUMBER_OR_NONE,
    },
    "tokens": {
        "output_mean": _NUMBER_OR_NONE,
        "prompt_mean": _NUMBER_OR_NONE,
        "output_source": dict[str, int],
        "prompt_source": dict[str, int],
    },
    "window": _OrNone(_FIGURES),
    "whole_run": _OrNone(_FIGURES),
    "clients": list,
    "goodput": _OrNone(
        {
            "limits": dict[str, _NUMBER],
            "share": _NUMBER_OR_NONE,
            "requests_per_s": _NUMBER_OR_NONE,
        }
    ),
    "audit": {
        "valid": bool,
        "checks": [dict.fromkeys(("check", "level", "found", "limit", "advice"), str)],
    },
    "llmperf": dict | None,
}


def _as_json(fields: type) -> dict:
    """The shape that a dataclass has in JSON: whole seconds have no point, tuples are lists."""
    kinds = {float: _NUMBER, float | None: _NUMBER_OR_NONE, tuple[float, ...]: list[_NUMBER]}
    kinds[Failure | None] = _OrNone(_FAILURE)
    kinds[Mapping[str, int]] = dict[str, int]
    return {name: kinds.get(kind, kind) for name, kind in typing.get_type_hints(fields).items()}


_FAILURE = typing.get_type_hints(Failure)
_RECORD = {"target": str, **_as_json(RequestRecord)}
_COUNTS = [name for name, kind in _RECORD.items() if kind in (int, int | None)]
_TOKENS = [name for name in _COUNTS if name.endswith("_tokens")]
_CLIENT = _as_json(ClientHealth)
_TIMES = [name for name in _CLIENT if name.endswith("_s") and name != "clock_offset_s"]


def of_config(data: object) -> str | None:
    """What is wrong with a `run.json`, None when nothing is."""
    return _misfit(data, _CONFIG) or _of_values(data)


def _of_values(config: Mapping) -> str | None:
    """What makes no sense of a configuration, though it has the right types."""
    speed = config["clock_speed"]
    if not _LOWEST_SPEED <= speed <= HIGHEST_SPEED:
        return f"clock_speed is {speed!r}"
    if (config["price"]["usd_per_hour"] or 0) < 0:
        return "price.usd_per_hour is below 0"
    try:
        datetime.fromisoformat(config["started_utc"])
    except ValueError:
        return "started_utc is no time"
    if wrong := _of_limits(config["limits"]):
        return wrong
    try:
        load = Load.of_config(config["load"])
    except ResultsError as error:
        return str(error).rstrip(".")
    # A load completes what is not said; a run says all of it.
    others = [
        name for name, value in vars(load).items() if config["load"].get(name, value) != value
    ]
    return f"load.{others[0]} does not go with the rest of the load" if others else None


def of_summary(data: object) -> str | None:
    """What is wrong with a `summary.json`, None when nothing is."""
    if wrong := _misfit(data, _SUMMARY) or of_clients(data):
        return wrong
    return _of_limits(data["goodput"]["limits"]) if data["goodput"] else None


def _of_limits(limits: Mapping) -> str | None:
    try:
        metrics.check_limits(limits)
    except ResultsError as error:
        return str(error).rstrip(".")
    return None


def of_clients(data: object) -> str | None:
    """What is wrong with what a file says of the load engine, None when nothing is."""
    if wrong := _misfit(data, {"clients": list}):
        return wrong
    for client in data["clients"]:
        wrong = _misfit(client, _CLIENT)
        wrong = wrong or next((f"{name} is below 0" for name in _TIMES if client[name] < 0), None)
        if wrong:
            return f"of its clients: {wrong}"
    return None


def of_request(data: object) -> str | None:
    """What is wrong with a line of `requests.jsonl`, None when nothing is."""
    if wrong := _misfit(data, _RECORD):
        return wrong
    # A clock begins at 0, and the model's does too.
    if negative := next((name for name in (*_COUNTS, "sent_s") if (data[name] or 0) < 0), None):
        return f"{negative} is below 0"
    if many := next((name for name in _TOKENS if data[name] > _MOST_TOKENS), None):
        return f"{many} is above {_MOST_TOKENS:,}"
    if any((data[name] is None) == bool(data["chunk_s"]) for name in ("first_s", "last_s")):
        return "chunk_s does not go with first_s and last_s"
    return None


def parsed(text: str) -> Any:
    """JSON with no number in it that a run cannot have.

    Raises:
        ValueError: When it is none.
    """
    try:
        return json.loads(
            text,
            parse_int=_in_range(int),
            parse_float=_in_range(float),
            parse_constant=_in_range(float),
        )
    except RecursionError as error:
        raise ValueError("one thing in another, too deep") from error


def _in_range(kind: Callable[[str], float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not -_MOST <= value <= _MOST:
            raise ValueError(f"{reprlib.repr(text)} is no number of a run")
        return value

    return number


def _misfit(data: object, shape: Any, at: str = "") -> str | None:
    """Where data differs from a shape, None when it has what the shape asks for."""
    if isinstance(shape, _OrNone):
        return None if data is None else _misfit(data, shape.shape, at)
    if isinstance(shape, Mapping):
        return _misfit_of_object(data, shape, at)
    if isinstance(shape, list):
        if not isinstance(data, list):
            return f"{at} is no list"
        found = (_misfit(one, shape[0], f"{at}.{place}") for place, one in enumerate(data))
        return next(filter(None, found), None)
    return None if _is(data, shape) else f"{at} has the wrong type"


def _misfit_of_object(data: object, shape: Mapping, at: str) -> str | None:
    if not isinstance(data, dict):
        return f"{at or 'it'} is no object"
    for key, kind in shape.items():
        name = key.removesuffix("?")
        place = f"{at}.{name}" if at else name
        if name in data:
            wrong = _misfit(data[name], kind, place)
        else:
            wrong = f"{place} is missing" if name == key else None
        if wrong:
            return wrong
    return None


def _is(value: object, kind: Any) -> bool:
    """Whether a value is of a kind; to Python truth is a number, here it is not."""
    origin = typing.get_origin(kind)
    if origin not in (dict, list, tuple):
        return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    of = typing.get_args(kind)
    if origin is dict:
        return isinstance(value, dict) and all(_is(one, of[1]) for one in value.values())
    if origin is list:
        return isinstance(value, list) and all(_is(one, of[0]) for one in value)
    return isinstance(value, list) and len(value) == len(of) and all(map(_is, value, of))
