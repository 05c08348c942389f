"""Why the guide of May 2024 reported what it did.

Its three figures (results/published/guide-2024-05.csv) are what llmperf's SageMaker client made of
50 requests. Counted the same way, the model gives them with two times that a search finds, and
those two say what the endpoint did in output tokens. All of it is the model's, nothing measured.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from helpers.settings import ROOT
from helpers.twin.calibration import calibrate
from helpers.twin.published import PUBLISHED
from helpers.twin.scheduler import Timing
from helpers.twin.search import Found, search
from helpers.twin.waits import Waits, waits

SLOTS, USERS, REQUESTS = 4, 5, 50
WITHIN = 0.2  # how far a figure may be off and still be called explained
ASSUMED = (
    "TGI's scheduler of version 2.0.2, which the guide's container (0.0.22) had.",
    "The lengths that its command asked for: it names none, so they are the fork's defaults, "
    "550 ± 150 tokens in and 150 ± 80 out; every reply is as long as asked.",
    "All five requests of a round are sent at once, and rounds follow each other without a pause; "
    "really the client was in Europe, the endpoint in us-east-1, and prompts were made in between.",
    "A reply has as many tokens for Llama 2's tokenizer, which the fork counts with, as for "
    "Llama 3's, which makes up to 15 % fewer (Meta, April 2024).",
    "The guide is one draw of 50 lengths, the model the mean of many: chance alone moves its "
    "figures by 3 to 6 %.",
)
OPEN = (
    "Why its decode step was so long stays open: Hugging Face measured 46 ms on the same machine "
    "a month later, outside what gives every figure within 20 %, and nothing published says more."
)

_FOLDER = ROOT / "results" / "published"
_JUNE = "optimum-2024-06-llama3-70b-inf2.48xlarge-bs4.csv"
_TTFT, _RATE, _PER_TOKEN = "TTFT mean (s)", "tokens/s, prompt counted", "latency (ms/token counted)"
_TRUE = "output tokens/s"
_DRAWS = 20
_SEARCHED = {"prefill_s": (0.2, 4.0), "decode_step_s": (0.02, 0.2)}


@dataclass(frozen=True)
class Sent:
    """What the guide's client sent and how it counted, as far as that is assumed.

    Attributes:
        assumption: In a few words.
        input_stddev: Of the prompts' 550 tokens.
        output_stddev: Of the replies' 150 tokens.
        counted: Tokens that its tokenizer counts for one of a reply.
        network_s: Seconds until a request has reached the endpoint and its answer the client.
        between_rounds_s: Seconds of the client's own before each round.
    """

    assumption: str
    input_stddev: int = 150
    output_stddev: int = 80
    counted: float = 1.0
    network_s: float = 0.0
    between_rounds_s: float = 0.0


# Defaults of token_benchmark_ray.py in philschmid/llmperf at 5c1c321; the guide's command names
# no length (philschmid/huggingface-inferentia2-samples, llama3-70b/).
AS_ASKED = Sent("lengths as its command asked for")
# Europe to us-east-1 takes about 0.1 s there and back, and a new client needs three or four of
# them: TCP, TLS, request. A second for five prompts and clients is a guess.
OTHERWISE = (
    Sent("every request of the mean length", input_stddev=0, output_stddev=0),
    Sent("15 % more tokens counted in a reply", counted=1.15),
    Sent("0.4 s of network, 1 s between rounds", network_s=0.4, between_rounds_s=1.0),
)


def explain(sent: Sent = AS_ASKED) -> pd.DataFrame:
    """The guide's figures beside the model's, and the output rate that follows from them.

    Args:
        sent: What is assumed of the client.

    Returns:
        `figure`, `guide`, `model`, `difference (%)` and `chance (%)`, by how much a figure of 50
        requests differs from draw to draw (standard deviation). The guide has no figure for the
        last row, output tokens/s.
    """
    wanted, found = published(), times(sent)
    spread = _figures(sent, found.prefill_s, found.decode_step_s)
    rows = [
        {
            "figure": name,
            "guide": wanted.get(name, np.nan),
            "model": values.mean(),
            "difference (%)": 100 * (values.mean() / wanted.get(name, np.nan) - 1),
            "chance (%)": 100 * values.std() / values.mean(),
        }
        for name, values in spread.items()
    ]
    return pd.DataFrame(rows).round(2)


def beside() -> pd.DataFrame:
    """The same load and the same way of counting with other times of the same machine.

    Returns:
        A row for the times found here, for those that Hugging Face's tables of June 2024 and of
        container 0.0.28 give, and for the guide's own figures.
    """
    found = times()
    endpoints = {
        "found by the search": Timing(SLOTS, found.prefill_s, found.decode_step_s),
        "Hugging Face, June 2024": calibrate(pd.read_csv(_FOLDER / _JUNE)).timing(SLOTS),
        "container 0.0.28": PUBLISHED[SLOTS],
    }
    rows = [
        {
            "times": name,
            "prefill (s)": timing.prefill_s,
            "decode step (ms)": 1000 * timing.decode_step_s,
            **_means(AS_ASKED, timing.prefill_s, timing.decode_step_s),
        }
        for name, timing in endpoints.items()
    ]
    return pd.DataFrame([*rows, {"times": "the guide's figures", **published()}]).round(2)


def assumptions() -> pd.DataFrame:
    """How much of the answer hangs on what is assumed of the client, a row an assumption.

    Returns:
        `assumption`, the two times and the `largest error (%)` of the three figures, output
        tokens/s with the least and the most of all times that give each figure within 20 %, and
        what the times of container 0.0.28 give.
    """
    return pd.DataFrame([_row(sent) for sent in (AS_ASKED, *OTHERWISE)]).round(2)


def _row(sent: Sent) -> dict:
    found, (least, most), later = times(sent), throughput(sent), PUBLISHED[SLOTS]
    return {
        "assumption": sent.assumption,
        "prefill (s)": found.prefill_s,
        "decode step (ms)": 1000 * found.decode_step_s,
        "largest error (%)": 100 * found.worst,
        _TRUE: _means(sent, found.prefill_s, found.decode_step_s)[_TRUE],
        "least": least,
        "most": most,
        "container 0.0.28": _means(sent, later.prefill_s, later.decode_step_s)[_TRUE],
    }


def sentence() -> str:
    """All of it in one sentence."""
    found, row = times(), _row(AS_ASKED)
    least_s, most_s = found.prefill_region_s
    least_ms, most_ms = (1000 * step_s for step_s in found.decode_step_region_s)
    return (
        f"The model says: a prefill of {found.prefill_s:.2f} s and a decode step of "
        f"{1000 * found.decode_step_s:.0f} ms give the guide's three figures within "
        f"{math.ceil(100 * found.worst)} % "
        f"(within {100 * WITHIN:.0f} %: {least_s:.2f} to {most_s:.2f} s "
        f"and {least_ms:.0f} to {most_ms:.0f} ms); in output tokens that is {row[_TRUE]:.0f} "
        f"tokens/s ({row['least']:.0f} to {row['most']:.0f}), and {row['container 0.0.28']:.0f} "
        "with the times of container 0.0.28."
    )


def published() -> dict[str, float]:
    """The guide's three figures."""
    row = pd.read_csv(_FOLDER / "guide-2024-05.csv").iloc[0]
    return {
        _TTFT: row["time to first token (ms)"] / 1000,
        _RATE: row["throughput as llmperf counts it (t/s)"],
        _PER_TOKEN: row["latency as llmperf counts it (ms/token)"],
    }


@functools.cache
def times(sent: Sent = AS_ASKED) -> Found:
    """The two times with which the model gives the guide's figures, and the region within 20 %."""
    return search(functools.partial(_means, sent), published(), within=WITHIN, **_SEARCHED)


@functools.cache
def throughput(sent: Sent = AS_ASKED) -> tuple[float, float]:
    """The least and the most output tokens/s of all times that give each figure within 20 %."""
    rates = [_means(sent, *point)[_TRUE] for point in times(sent).points()]
    return min(rates), max(rates)


# --- the guide's load, and its client's way of counting -------------------------------------------


@functools.cache
def _draws(input_stddev: int, output_stddev: int) -> tuple[Waits, np.ndarray]:
    """Some runs of the guide's size, one a row, and the tokens of their prompts."""
    runs, prompts = [], []
    for seed in range(_DRAWS if input_stddev or output_stddev else 1):
        generator = np.random.default_rng(seed)
        prompts.append(_positive(generator, 550, input_stddev))
        replies = _positive(generator, 150, output_stddev).tolist()
        runs.append(waits(slots=SLOTS, load="rounds", concurrency=USERS, output_tokens=replies))
    stacked = (
        np.stack([getattr(run, part) for run in runs]) for part in ("prefills", "steps", "tokens")
    )
    return Waits(*stacked), np.stack(prompts)


def _positive(generator: np.random.Generator, mean: int, stddev: int) -> np.ndarray:
    """Lengths as llmperf draws them: cut to whole numbers, and again until they are above 0."""
    lengths = np.zeros(REQUESTS, dtype=int)
    while (none := lengths <= 0).any():
        lengths[none] = generator.normal(mean, stddev, none.sum()).astype(int)
    return lengths


def _figures(sent: Sent, prefill_s: float, decode_step_s: float) -> dict[str, np.ndarray]:
    """The three figures of llmperf and the output rate, one value a draw."""
    runs, prompts = _draws(sent.input_stddev, sent.output_stddev)
    sent_s, first_s, last_s = np.moveaxis(runs.times(prefill_s, decode_step_s), -1, 0)
    counted = prompts + sent.counted * runs.tokens
    rounds = REQUESTS / USERS
    whole_s = last_s.max(axis=1) + rounds * (sent.network_s + sent.between_rounds_s)
    return {
        _TTFT: (first_s - sent_s + sent.network_s).mean(axis=1),
        _RATE: counted.sum(axis=1) / whole_s,
        _PER_TOKEN: 1000 * ((last_s - sent_s + sent.network_s) / counted).mean(axis=1),
        _TRUE: runs.tokens.sum(axis=1) / whole_s,
    }


def _means(sent: Sent, prefill_s: float, decode_step_s: float) -> dict[str, float]:
    spread = _figures(sent, prefill_s, decode_step_s)
    return {name: float(values.mean()) for name, values in spread.items()}
