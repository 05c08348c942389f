"""Runs on disk: one folder a run, everything in it marked with its target.

`run.json` has what is needed to repeat the run, `requests.jsonl` one line a request as it
finished, `clients.json` how the load engine fared, `summary.json` the figures. Published
measurements are read from `results/published/`.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from helpers import audit, costs, llmperf, metrics, shapes
from helpers.errors import ResultsError
from helpers.plan import Load
from helpers.records import ClientHealth, Failure, RequestRecord
from helpers.settings import ROOT

PUBLISHED = ROOT / "results" / "published"
REHEARSAL_NOTE = "rehearsal: simulated on the reader's machine, nothing here was measured on AWS"


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

    @property
    def is_valid(self) -> bool:
        """Whether it has passed its audit."""
        return self.summary["audit"]["valid"]

    def __repr__(self) -> str:
        load = Load.of_config(self.config["load"])
        verdict = "" if self.is_valid else ", INVALID"
        name = self.config["endpoint"]["name"]
        return f"Run({load.who}, {load.ends}, {name}, {self.target}{verdict})"


class Recorder:
    """Writes a run while it happens.

    Args:
        results_dir: Where runs are kept; made when it is missing.
        config: What `run.json` is to hold, without secrets; `target`, `endpoint.name` and `load`
            also name the folder.
        now: Tells the time, for the folder's name.

    Attributes:
        path: The run's folder.
        config: What `run.json` holds.
        records: What has been recorded.
        clients: How the load engine fared, one a process and part.
        part: 0; one more each time the run was resumed.

    Raises:
        ResultsError: When the folder cannot be written.
    """

    def __init__(
        self,
        results_dir: Path,
        config: Mapping,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ):
        started = now()
        note = {"note": REHEARSAL_NOTE} if config["target"] == "rehearsal" else {}
        stamp = {"started_utc": started.isoformat(timespec="seconds")}
        self.config = {"target": config["target"], **note, **stamp, **config}
        self.records: list[RequestRecord] = []
        self.clients: list[ClientHealth] = []
        self.part = 0
        name = "-".join(
            (
                started.strftime("%Y%m%dT%H%M%SZ"),
                config["target"],
                config["endpoint"]["name"],
                _load_word(config["load"]),
            )
        )
        self.path = new_folder(Path(results_dir), name)
        with _writing(self.path):
            _write_json(self.path / "run.json", self.config)
            (self.path / "requests.jsonl").touch()

    @classmethod
    def resume(cls, run: "Run") -> "Recorder":
        """Go on with a run that broke: what it has is kept, its figures are made anew.

        Raises:
            ResultsError: When the folder cannot be written.
        """
        self = cls.__new__(cls)
        self.path, self.config = run.path, run.config
        self.records, self.clients = list(run.records), _read_clients(run.path)
        self.part = 1 + max((record.part for record in run.records), default=-1)
        with _writing(self.path):
            (self.path / "summary.json").unlink(missing_ok=True)
            _drop_half_a_line(self.path / "requests.jsonl")
        return self

    def add(self, record: RequestRecord) -> None:
        """Keep a record; it is on disk when this returns.

        Raises:
            ResultsError: When it cannot be written.
        """
        self.records.append(record)
        # Not `asdict`: it would go through every chunk's stamp.
        error = record.error and asdict(record.error)
        line = {"target": self.config["target"], **vars(record), "error": error}
        with (
            _writing(self.path),
            (self.path / "requests.jsonl").open("a", encoding="utf-8") as lines,
        ):
            # Escaped: a server's words may have half a character, which UTF-8 has not.
            lines.write(json.dumps(line) + "\n")

    def add_clients(self, clients: Sequence[ClientHealth]) -> None:
        """Keep how the load engine fared.

        Raises:
            ResultsError: When it cannot be written.
        """
        self.clients += clients
        told = {"target": self.config["target"], "clients": [asdict(one) for one in self.clients]}
        with _writing(self.path):
            _write_json(self.path / "clients.json", told)

    def discard(self) -> None:
        """Remove the folder: for a run that could not begin."""
        shutil.rmtree(self.path, ignore_errors=True)

    def finish(self) -> Run:
        """Write the summary and hand out the run.

        Raises:
            ResultsError: When it cannot be written.
        """
        made = summary(self.records, self.config, clients=self.clients)
        with _writing(self.path):
            _write_json(self.path / "summary.json", made)
        return Run(self.path, self.config, self.records, made)


def _load_word(load: Mapping) -> str:
    """A load as a part of a folder's name: `c5`, `rounds5` or `r0.5`."""
    if load["kind"] == "arrivals":
        return f"r{load['rate_per_s']:g}"
    return f"{'c' if load['kind'] == 'closed_loop' else 'rounds'}{load['concurrency']}"


def _drop_half_a_line(path: Path) -> None:
    """A run that was killed can end in half a line: what follows must not be appended to it."""
    data = path.read_bytes()
    path.write_bytes(data[: data.rfind(b"\n") + 1])


def load(path: Path | str) -> Run:
    """Read a run back; a run that was cut off gets its summary from the requests it has.

    Raises:
        ResultsError: When this is no run, or one of its files cannot be read.
    """
    path = Path(path)
    if why := _no_run(path):
        raise ResultsError(
            f"{path} holds no run ({why}): name the folder of one run, "
            "or make one with 06_benchmark."
        )
    config = _read_json(path / "run.json", shapes.of_config)
    records = _read_records(path / "requests.jsonl")
    if (path / "summary.json").is_file():
        return Run(path, config, records, _read_json(path / "summary.json", shapes.of_summary))
    made = summary(records, config, clients=_read_clients(path))
    return Run(path, config, records, made)


def _no_run(path: Path) -> str:
    """Why a path is no run's folder; empty when it may be one."""
    try:
        return "" if (path / "run.json").is_file() else "no run.json in it"
    except OSError as error:  # a longer name than a folder can have, or one that is closed to us
        return error.strerror.lower()


def summary(
    records: Sequence[RequestRecord], config: Mapping, *, clients: Sequence[ClientHealth] = ()
) -> dict:
    """What `summary.json` holds: the figures, the audit of them, and llmperf's triple beside.

    Args:
        records: Every record of the run.
        config: What `run.json` holds: the run's own load, price, clock and target.
        clients: How the load engine fared.
    """
    load, speed = config["load"], config["clock_speed"]
    made = metrics.summary(
        records,
        load=load,
        price_per_hour=config["price"]["usd_per_hour"],
        clock_speed=speed,
        target=config["target"],
        limits=config["limits"],
    )
    return made | {
        "clients": [asdict(client) for client in clients],
        "audit": audit.audit(
            records,
            load=load,
            clock_speed=speed,
            figures=made["window"],
            tokens=made["tokens"],
            clients=clients,
        ),
        "llmperf": llmperf.triple(records, clock_speed=speed),
    }


def runs(results_dir: Path | str, *, target: str | None = None) -> list[Run]:
    """All runs in a folder, oldest first; only those of one target when it is named.

    Args:
        results_dir: The folder; a relative one that is not here is looked for in the repository.
        target: `rehearsal` or `aws`.

    Raises:
        ResultsError: When there is none, or one of them cannot be read.
    """
    results_dir = Path(results_dir)
    if not os.path.exists(results_dir):  # `Path.exists` raises where a name is too long
        results_dir = ROOT / results_dir
    folders = [path.parent for path in _matching(results_dir, "*/run.json")]
    found = [load(folder) for folder in folders]
    found = [run for run in found if target in (None, run.target)]
    if not found:
        kind = f"{target} run" if target else "run"
        elsewhere = _newest_workshop(results_dir, target)
        hint = f", or set RESULTS_DIR to {elsewhere}" if elsewhere else ""
        raise ResultsError(f"No {kind} in {results_dir}: make one with 06_benchmark{hint}.")
    return found


def _matching(folder: Path, pattern: str) -> list[Path]:
    """What matches in a folder; nothing in what is none, as where a name is too long."""
    return sorted(folder.glob(pattern)) if os.path.isdir(folder) else []


def _newest_workshop(results_dir: Path, target: str | None) -> Path | None:
    """The newest folder of `make workshop` with such a run, relative to the repository's root."""
    for path in reversed(_matching(results_dir, "workshop-*/*/run.json")):
        try:
            found = load(path.parent)
        except ResultsError:
            continue
        if target in (None, found.target):
            folder = path.parent.parent
            return folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    return None


def closed_loops(found: Sequence[Run]) -> list[Run]:
    """Those of these runs in which users asked again as soon as they had their answer."""
    return [run for run in found if run.config["load"]["kind"] == "closed_loop"]


def latest(found: Sequence[Run], *, users: int) -> Run:
    """The newest of these runs that had so many users; oldest first as `runs` gives them.

    Raises:
        ResultsError: When none had.
    """
    for run in reversed(found):
        if run.config["load"]["concurrency"] == users:
            return run
    there = sorted({run.config["load"]["concurrency"] for run in found})
    raise ResultsError(
        f"No run with {users} users: choose one of {', '.join(map(str, there)) or 'none'}, "
        "or make one with 06_benchmark."
    )


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
            "server": "container 0.0.28",
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
            "source": "the guide of May 2024, container 0.0.22, batch 4",
            "model": _MODEL,
            "server": data["container"].replace("TGI", "container"),
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


def new_folder(results_dir: Path, name: str) -> Path:
    """Make a folder of that name, numbered when another run began in the same second.

    Raises:
        ResultsError: When it cannot be made.
    """
    with _writing(results_dir):
        results_dir.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = results_dir / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir()
                return path
            except FileExistsError:
                number += 1


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResultsError(
            f"Cannot write into {folder} ({error.strerror or error}): make room there, or name a "
            "folder that can be written with WORKSHOP_RESULTS or --results."
        ) from error


def _write_json(path: Path, data: Mapping) -> None:
    whole = path.with_name(f".{path.name}")  # a full disk leaves the old one, or none
    whole.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    whole.replace(path)


def _read_json(path: Path, wrong: Callable[[object], str | None]) -> dict:
    try:
        data = shapes.parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(path, f"cannot be read ({error})") from error
    if found := wrong(data):
        raise _broken(path, f"is not what a run writes ({found})")
    return data


def _read_records(path: Path) -> list[RequestRecord]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise _broken(path, f"cannot be read ({error})") from error
    *complete, _ = lines  # a run that was killed can end in half a line
    records = []
    for number, line in enumerate(complete, start=1):
        try:
            records.append(_record(shapes.parsed(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise _broken(path, f"has a line that is no request ({number}: {error})") from error
    return records


def _record(data: object) -> RequestRecord:
    if wrong := shapes.of_request(data):
        raise ValueError(wrong)
    data.pop("target")
    error, chunk_s = data.pop("error"), tuple(data.pop("chunk_s"))
    return RequestRecord(**data, chunk_s=chunk_s, error=Failure(**error) if error else None)


def _read_clients(folder: Path) -> list[ClientHealth]:
    path = folder / "clients.json"
    if not path.is_file():  # the run was cut off
        return []
    told = _read_json(path, shapes.of_clients)["clients"]
    names = {field.name for field in fields(ClientHealth)}
    return [ClientHealth(**{name: one[name] for name in names}) for one in told]


def _broken(path: Path, how: str) -> ResultsError:
    return ResultsError(
        f"{path.name} in {path.parent} {how}: remove this folder, or move it elsewhere."
    )
