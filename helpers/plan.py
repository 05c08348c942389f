"""What a run asks for: a load in AWS time, and the requests that make it."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from helpers import checks, load, prompts
from helpers.errors import ResultsError
from helpers.load import Request
from helpers.messages import request_body

# The load of the original guide (philschmid/huggingface-inferentia2-samples, May 2024).
CONCURRENCY = 5
REQUESTS = 50
INPUT_TOKENS = 550
OUTPUT_TOKENS = 150
KINDS = ("closed_loop", "rounds", "arrivals")
PROCESSES = ("poisson", "constant")
_MOST = {
    "concurrency": checks.MOST_USERS,
    "input_tokens": checks.MOST_TOKENS,
    "output_tokens": checks.MOST_TOKENS,
}


@dataclass(frozen=True)
class Load:
    """A load, in AWS time; what `run.json` holds as `load`.

    Attributes:
        kind: `closed_loop`, `rounds` or `arrivals`; `arrivals` by itself when there is a rate.
        concurrency: Users of a closed loop, or requests in a round; not for arrivals.
        think_s: Seconds that a user of a closed loop waits after an answer.
        rate_per_s: Requests a second that arrive, whatever has become of earlier ones.
        process: `poisson` (independent people) or `constant` distances, for arrivals.
        requests: Measured requests; 50 unless a duration is given.
        duration_s: Seconds in which measured requests are sent; with a number of them too, the run
            ends with whichever is reached first.
        warmup: Requests beforehand that are in no latency; as many as users, or 5 arrivals.
        input_tokens: Tokens of each prompt, chat template not counted; their mean.
        input_tokens_stddev: Their standard deviation.
        output_tokens: Tokens each reply may have at most; their mean.
        output_tokens_stddev: Their standard deviation.
        seed: Chooses prompts, lengths and arrivals; the same seed sends the same.
        timeout_s: Seconds after which a request is given up.
        sampling: Members added to each request, such as `temperature`.

    Raises:
        ResultsError: When these make no load.
    """

    kind: str = "closed_loop"
    concurrency: int | None = None
    think_s: float = 0.0
    rate_per_s: float | None = None
    process: str | None = None
    requests: int | None = None
    duration_s: float | None = None
    warmup: int | None = None
    input_tokens: int = INPUT_TOKENS
    input_tokens_stddev: float = 0.0
    output_tokens: int = OUTPUT_TOKENS
    output_tokens_stddev: float = 0.0
    seed: int = 0
    timeout_s: float = load.TIMEOUT_S
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.rate_per_s is not None and self.kind == "closed_loop":
            self._set(kind="arrivals")
        if self.kind == "arrivals":
            self._set(process=self.process or PROCESSES[0])
        elif self.concurrency is None:
            self._set(concurrency=CONCURRENCY)
        if self.requests is None and self.duration_s is None:
            self._set(requests=REQUESTS)
        if self.warmup is None:
            self._set(warmup=self.concurrency or CONCURRENCY)
        if wrong := self._misfit():
            raise ResultsError(wrong)

    def _set(self, **values) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _misfit(self) -> str | None:
        """What makes no sense, in one sentence."""
        if self.kind not in KINDS:
            return f"There is no load {self.kind!r}: choose among {', '.join(KINDS)}."
        return self._misfit_of_numbers() or (
            self._misfit_of_arrivals() if self.kind == "arrivals" else self._misfit_of_users()
        )

    def _misfit_of_numbers(self) -> str | None:
        positive = ("rate_per_s", "duration_s", "timeout_s", "requests")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                return f"{name} is more than 0, not {value}."
        for name in ("think_s", "input_tokens_stddev", "output_tokens_stddev", "warmup"):
            if not 0 <= getattr(self, name) < float("inf"):
                return f"{name} is 0 or more, not {getattr(self, name)}."
        for name, most in _MOST.items():
            if (getattr(self, name) or 0) > most:
                return f"{name} is at most {most:,}, not {getattr(self, name)}."
        if self.output_tokens < 2:
            return "Ask for at least 2 output tokens: fewer have no time between them."
        try:
            prompts.prompt(self.input_tokens)
        except ValueError as error:
            return str(error)
        return None

    def _misfit_of_arrivals(self) -> str | None:
        if self.rate_per_s is None:
            return "Arrivals need a rate, in requests a second."
        if self.concurrency is not None or self.think_s:
            return "Arrivals come by a rate: users and their think time belong to a closed loop."
        if self.process not in PROCESSES:
            return f"Arrivals are {' or '.join(PROCESSES)}, not {self.process!r}."
        if self._arrivals() < 2:
            return (
                f"{self.rate_per_s:g} requests a second are fewer than two in {self.duration_s} s."
            )
        return None

    def _misfit_of_users(self) -> str | None:
        users = self.concurrency
        if self.rate_per_s is not None or self.process is not None:
            return "A rate belongs to arrivals: leave users, rounds and their think time out."
        if users < 1 or (self.requests is not None and self.requests < 2 * users):
            return (
                f"{self.requests} requests say nothing about {users} users: "
                "take one user or more, and at least two requests a user."
            )
        if self.kind == "rounds" and self.think_s:
            return "Users of rounds wait for each other and do not think: leave the think time out."
        return None

    def as_config(self) -> dict:
        """For `run.json`."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return own | {"retries": 0, "prompts": prompts.SOURCE}

    @classmethod
    def of_config(cls, config: Mapping) -> "Load":
        """The load of a `run.json`."""
        names = {field.name for field in fields(cls)} & set(config)
        return cls(**{name: config[name] for name in names})

    @property
    def who(self) -> str:
        """Who sends, in words."""
        if self.kind == "arrivals":
            return f"{self.rate_per_s:g} requests/s ({self.process})"
        who = f"{self.concurrency} {'user' if self.concurrency == 1 else 'users'}"
        who += " in rounds" if self.kind == "rounds" else ""
        return who + (f" who think {self.think_s:g} s" if self.think_s else "")

    @property
    def ends(self) -> str:
        """After what it ends, in words."""
        ends = [f"{self.requests} requests"] if self.requests else []
        ends += [f"{self.duration_s:g} s"] if self.duration_s else []
        return " or ".join(ends)

    def __str__(self) -> str:
        return (
            f"{self.who}, {self.ends} of {self.input_tokens} tokens in and up to "
            f"{self.output_tokens} out, after {self.warmup} to warm up"
        )

    @property
    def is_endless(self) -> bool:
        """Whether only time ends it, so that nobody knows how many requests it will take."""
        return self.requests is None and self.kind != "arrivals"

    def pattern(self, *, clock_speed: float = 1.0, count: int | None = None) -> load.Pattern:
        """The engine's pattern, in real seconds.

        Args:
            clock_speed: AWS seconds in a real second.
            count: Arrivals, warm-up among them; all of the load's by default.
        """
        if self.kind == "rounds":
            return load.Rounds(self.concurrency)
        if self.kind == "closed_loop":
            return load.ClosedLoop(self.concurrency, self.think_s / clock_speed)
        rate, count = self.rate_per_s * clock_speed, count or self.warmup + self._arrivals()
        if self.process == "constant":
            return load.Arrivals.constant(rate, count=count)
        return load.Arrivals.poisson(rate, count=count, warmup=self.warmup, seed=self.seed)

    def indexes(self) -> Sequence[int] | Iterator[int]:
        """The places of its requests, warm-up first; endless where only time ends it."""
        if self.is_endless:
            return itertools.count()
        return range(self.warmup + (self._arrivals() if self.kind == "arrivals" else self.requests))

    def _arrivals(self) -> int:
        ends = [self.requests] if self.requests else []
        ends += [round(self.rate_per_s * self.duration_s)] if self.duration_s else []
        return min(ends)

    def request(self, index: int, *, model: str, is_chat: bool = True) -> Request:
        """The request at a place, with a prompt of its own.

        Args:
            index: From 0.
            model: What the request calls the model.
            is_chat: Whether the endpoint speaks the Messages API; TGI's own `inputs` otherwise.
        """
        seed = self.seed * 1_000_003 + index
        prompt_tokens = prompts.length(
            self.input_tokens,
            stddev=self.input_tokens_stddev,
            seed=f"in {seed}",
            least=prompts.LEAST,
        )
        output_tokens = prompts.length(
            self.output_tokens, stddev=self.output_tokens_stddev, seed=f"out {seed}", least=2
        )
        text = prompts.prompt(prompt_tokens, seed=seed)
        body = (_chat if is_chat else _generation)(text, output_tokens, model=model)
        (body if is_chat else body["parameters"]).update(self.sampling)
        return Request(json.dumps(body).encode(), prompt_tokens, output_tokens, prompts.SOURCE)


def _chat(text: str, output_tokens: int, *, model: str) -> dict:
    body = request_body(
        [{"role": "user", "content": text}], model=model, max_tokens=output_tokens, stream=True
    )
    # Containers that can count in a stream do so when asked; the others ignore it.
    return body | {"stream_options": {"include_usage": True}}


def _generation(text: str, output_tokens: int, *, model: str) -> dict:
    return {"inputs": text, "parameters": {"max_new_tokens": output_tokens}, "stream": True}
