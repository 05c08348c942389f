"""Runs on disk: one folder a run, everything in it marked with its target.

`run.json` has what is needed to repeat the run, `requests.jsonl` one line a request as it
finished, `summary.json` the figures. Published measurements are read from `results/published/`.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from helpers import costs, metrics
from helpers.errors import ResultsError
from helpers.load import RequestRecord
from helpers.settings import ROOT
from helpers.transport import Failure

PUBLISHED = ROOT / "results" / "published"
REHEARSAL_NOTE = "rehearsal: simulated on the reader's machine, nothing here was measured on AWS"
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
# Variables whose names look secret and are not: numbers of tokens.
_NO_SECRET = re.compile(r"^MAX_.*TOKENS$", re.IGNORECASE)


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        path: Its folder.
        config: What `run.json` holds.
        records: One per request, in the order in which they ended.
        summary: What `summary.json` holds.
    """

    path: Path
    config: dict
    records: list[RequestRecord]
    summary: dict

    @property
    def target(self) -> str:
        """`rehearsal` or `aws`."""
        return self.config["target"]

    def __repr__(self) -> str:
        load = self.config["load"]
        return (
            f"Run({load['concurrency']} users, {load['requests']} requests, "
            f"{self.config['endpoint']['name']}, {self.target})"
        )


class Recorder:
    """Writes a run while it happens.

    Args:
        results_dir: Where runs are kept; made when it is missing.
        config: What `run.json` is to hold, without secrets; `target`, `endpoint.name` and
            `load.concurrency` also name the folder.
        now: Tells the time, for the folder's name.

    Attributes:
        path: The run's folder.
        records: What has been recorded.

    Raises:
        ResultsError: When the folder cannot be written.
    """

    def __init__(
        self,
        results_dir: Path,
        config: dict,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ):
        started = now()
        note = {"note": REHEARSAL_NOTE} if config["target"] == "rehearsal" else {}
        stamp = {"started_utc": started.isoformat(timespec="seconds")}
        self.config = {"target": config["target"], **note, **stamp, **config}
        self.records: list[RequestRecord] = []
        name = "-".join(
            (
                started.strftime("%Y%m%dT%H%M%SZ"),
                config["target"],
                config["endpoint"]["name"],
                f"c{config['load']['concurrency']}",
            )
        )
        try:
            self.path = _new_folder(Path(results_dir), name)
            _write_json(self.path / "run.json", self.config)
            (self.path / "requests.jsonl").touch()
        except OSError as error:
            raise ResultsError(
                f"Cannot write into {results_dir} ({error.strerror}): name a folder that can be "
                "written with WORKSHOP_RESULTS or --results."
            ) from error

    def add(self, record: RequestRecord) -> None:
        """Keep a record; it is on disk when this returns."""
        self.records.append(record)
        line = {"target": self.config["target"], **asdict(record)}
        with (self.path / "requests.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")

    def discard(self) -> None:
        """Remove the folder: for a run that could not begin."""
        shutil.rmtree(self.path)

    def finish(self, summary: dict) -> Run:
        """Write the summary and hand out the run."""
        _write_json(self.path / "summary.json", summary)
        return Run(self.path, self.config, self.records, summary)


def load(path: Path | str) -> Run:
    """Read a run back; a run that was cut off gets its summary from the requests it has.

    Raises:
        ResultsError: When this is no run, or one of its files cannot be read.
    """
    path = Path(path)
    if not (path / "run.json").is_file():
        raise ResultsError(
            f"{path} holds no run (no run.json in it): name the folder of one run, "
            "or make one with 06_benchmark."
        )
    config = _read_json(path / "run.json")
    records = _read_records(path / "requests.jsonl")
    if (path / "summary.json").is_file():
        return Run(path, config, records, _read_json(path / "summary.json"))
    return Run(path, config, records, summary(records, config))


def summary(records: list[RequestRecord], config: Mapping) -> dict:
    """The summary of records under a run's own price, clock and target."""
    return metrics.summary(
        records,
        price_per_hour=config["price"]["usd_per_hour"],
        clock_speed=config["clock_speed"],
        target=config["target"],
    )


def runs(results_dir: Path | str, *, target: str | None = None) -> list[Run]:
    """All runs in a folder, oldest first; only those of one target when it is named.

    Raises:
        ResultsError: When there is none.
    """
    folders = sorted(path.parent for path in Path(results_dir).glob("*/run.json"))
    found = [load(folder) for folder in folders]
    found = [run for run in found if target in (None, run.target)]
    if not found:
        kind = f"{target} run" if target else "run"
        raise ResultsError(f"No {kind} in {results_dir}: make one with 06_benchmark.")
    return found


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """A container's environment with every value masked whose name speaks of a secret."""
    return {
        name: "***" if _SECRET.search(name) and not _NO_SECRET.match(name) else value
        for name, value in environment.items()
    }


def published(folder: Path = PUBLISHED) -> pd.DataFrame:
    """Measurements that others published, one row a measurement, in the same units.

    The guide's throughput counts prompt tokens (`results/published/README.md`): what is given here
    as its output rate is derived, with the lengths it asked for, and marked so.

    Returns:
        Columns `source`, `model`, `server`, `instance`, `batch size`, `users`, `input tokens`,
        `output tokens`, `output tokens/s`, `TTFT p50 (s)`, `TTFT mean (s)`, `TPOT p50 (ms)`,
        `$ per 1M output tokens` (at the SageMaker price in helpers/costs.py), `derived`, `file`;
        NaN where a source does not say.
    """
    frames = [
        _optimum(folder, batch_size=4),
        _optimum(folder, batch_size=1),
        _aws_neuron(folder),
        _guide(folder),
    ]
    table = pd.concat(frames, ignore_index=True).reindex(columns=_PUBLISHED_COLUMNS)
    price = costs.price_per_hour("ml.inf2.48xlarge")
    table["$ per 1M output tokens"] = [
        costs.per_million_tokens(rate, price_per_hour=price) for rate in table["output tokens/s"]
    ]
    return table


_PUBLISHED_COLUMNS = [
    "source",
    "model",
    "server",
    "instance",
    "batch size",
    "users",
    "input tokens",
    "output tokens",
    "output tokens/s",
    "TTFT p50 (s)",
    "TTFT mean (s)",
    "TPOT p50 (ms)",
    "$ per 1M output tokens",
    "derived",
    "file",
]
_MODEL = "Llama 3 70B Instruct"
_INSTANCE = "inf2.48xlarge"


def _optimum(folder: Path, *, batch_size: int) -> pd.DataFrame:
    name = f"optimum-0.0.28-llama3-70b-inf2.48xlarge-bs{batch_size}.csv"
    data = _read_csv(folder / name)
    return pd.DataFrame(
        {
            "source": f"Hugging Face, optimum-neuron 0.0.28, batch {batch_size}",
            "model": _MODEL,
            "server": "TGI 0.0.28",
            "instance": _INSTANCE,
            "batch size": batch_size,
            "users": data["concurrent requests"],
            "input tokens": 1500,  # about; see results/published/README.md
            "output tokens": 250,
            "output tokens/s": data["throughput (t/s)"],
            "TTFT p50 (s)": data["Time-to-first-token @ P50 (s)"],
            "derived": False,
            "file": name,
        }
    )


def _aws_neuron(folder: Path) -> pd.DataFrame:
    name = "aws-neuron-2.18.1-llama3-70b-inf2.48xlarge-bs1.csv"
    data = _read_csv(folder / name)
    return pd.DataFrame(
        {
            "source": "AWS, Neuron 2.18.1, batch 1, no server",
            "model": "Llama 3 70B",
            "server": "none (transformers-neuronx)",
            "instance": _INSTANCE,
            "batch size": data["Batch Size"],
            "users": 1,
            "input tokens": data["Input Length"],
            "output tokens": data["Output Length"],
            "output tokens/s": data["Output Token Throughput (tokens/sec)"],
            "TTFT p50 (s)": data["TTFT Latency P50 (ms)"] / 1000,
            "TPOT p50 (ms)": data["TPOT Latency P50 (ms)"],
            "derived": False,
            "file": name,
        }
    )


def _guide(folder: Path) -> pd.DataFrame:
    name = "guide-2024-05.csv"
    data = _read_csv(folder / name)
    prompt, output = data["mean input tokens asked"], data["mean output tokens asked"]
    counted = data["throughput as llmperf counts it (t/s)"]
    return pd.DataFrame(
        {
            "source": "the guide of May 2024, TGI 0.0.22, batch 4",
            "model": _MODEL,
            "server": data["container"],
            "instance": _INSTANCE,
            "batch size": 4,
            "users": data["concurrent requests"],
            "input tokens": prompt,
            "output tokens": output,
            "output tokens/s": counted * output / (prompt + output),
            "TTFT mean (s)": data["time to first token (ms)"] / 1000,
            "derived": True,
            "file": name,
        }
    )


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ResultsError(
            f"The published figures in {path} cannot be read ({error}): "
            "restore the file with `git checkout results/published`."
        ) from error


def _new_folder(results_dir: Path, name: str) -> Path:
    """A folder of that name, numbered when another run began in the same second."""
    results_dir.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = results_dir / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1


def _write_json(path: Path, data: Mapping) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path} cannot be read ({error}): remove its folder.") from error


def _read_records(path: Path) -> list[RequestRecord]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ResultsError(f"{path} cannot be read ({error}): remove its folder.") from error
    *complete, _ = lines  # a run that was killed can end in half a line
    try:
        return [_record(json.loads(line)) for line in complete]
    except (ValueError, TypeError, KeyError) as error:
        raise ResultsError(
            f"{path} has a line that is no request ({error}): remove its folder."
        ) from error


def _record(data: dict) -> RequestRecord:
    data.pop("target")
    error = data.pop("error")
    chunk_s = tuple(data.pop("chunk_s"))
    return RequestRecord(**data, chunk_s=chunk_s, error=Failure(**error) if error else None)
