"""Run the whole workshop in rehearsal, or record the notebooks' outputs.

    python -m helpers.workshop            make workshop: all, then figures, cost, what was made
    python -m helpers.workshop --record   make record: write the outputs back into notebooks/

Both start a rehearsal AWS of their own and stop it, also when a notebook fails.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import pandas as pd

from helpers import costs, metrics, notebooks, results, settings
from helpers.clock import Clock
from helpers.errors import RehearsalError, ResultsError, SettingsError, WorkshopError
from helpers.rehearsal import launch

# Nothing of the caller's may decide what a rehearsal does, or end in a saved notebook.
FOREIGN = ("AWS_", "WORKSHOP_", "HF_", "HUGGING_FACE_")
SAMPLE = "rehearsal-llama-3-70b-5-users"  # in results/samples/


@dataclass(frozen=True)
class Thing:
    """Something that existed on the rehearsal AWS.

    Attributes:
        kind: `model`, `endpoint config` or `endpoint`.
        name: Its name.
        detail: The image, or the size as in `1 x ml.inf2.48xlarge`.
        created_s: Epoch second of AWS time.
        until_s: When it was deleted or, if it was not, the moment of asking; the same.
        deleted: Whether it was.
        resized: When an endpoint began to change to another size, and to which; the same.
    """

    kind: str
    name: str
    detail: str
    created_s: float
    until_s: float
    deleted: bool = False
    resized: tuple[tuple[float, str], ...] = ()


# Running


def rehearsal_environment(
    environ: Mapping[str, str], *, state_dir: Path, results_dir: Path
) -> dict[str, str]:
    """Return an environment in which notebooks rehearse, and only that.

    Credentials, tokens and every setting of the caller's are left out, except WORKSHOP_SPEED.

    Raises:
        SettingsError: WORKSHOP_TARGET asks for AWS: nobody watches the money here.
    """
    _refuse_aws(environ)
    kept = {name: value for name, value in environ.items() if not name.startswith(FOREIGN)}
    if "WORKSHOP_SPEED" in environ:
        kept["WORKSHOP_SPEED"] = environ["WORKSHOP_SPEED"]
    return kept | {
        "WORKSHOP_TARGET": "rehearsal",
        "WORKSHOP_STATE": str(state_dir),
        "WORKSHOP_RESULTS": str(results_dir),
    }


def _refuse_aws(environ: Mapping[str, str]) -> None:
    target = environ.get("WORKSHOP_TARGET", "rehearsal")
    if target != "rehearsal":
        raise SettingsError(
            f"WORKSHOP_TARGET is {target}, but unattended runs only rehearse, so that nobody "
            "spends money by accident: unset it, or open the notebooks with make lab and run "
            "them on AWS yourself."
        )


@contextmanager
def rehearsal(
    environ: Mapping[str, str], *, results_dir: Path | None = None
) -> Iterator[dict[str, str]]:
    """Yield the environment of a rehearsal AWS that ends with this block, whatever happens in it.

    Args:
        environ: The caller's environment.
        results_dir: Where results go; without one they are thrown away.
    """
    with tempfile.TemporaryDirectory(prefix="workshop-", ignore_cleanup_errors=True) as scratch:
        given = rehearsal_environment(
            environ,
            state_dir=Path(scratch, "state"),
            results_dir=results_dir or Path(scratch, "results"),
        )
        try:
            yield given
        finally:
            launch.stop(settings.load(given))


def things(environ: Mapping[str, str]) -> list[Thing]:
    """Ask a rehearsal AWS what was created, and until when it lasted; nothing when none was needed.

    Raises:
        RehearsalError: It was started and answers no more.
    """
    loaded = settings.load(environ)
    server = launch.status(loaded)
    if server is None and not launch.was_started(loaded):
        return []
    # No proxy of the caller's: the server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        if server is None:
            raise ConnectionError
        with opener.open(f"{server.url}/_rehearsal/journal", timeout=10) as answer:
            entries = json.load(answer)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RehearsalError(
            "The rehearsal AWS has ended before its journal could be read, so what it cost and "
            "whether anything was left is not known: run the workshop again."
        ) from error
    return lives(entries, now_s=Clock(server.speed, server.origin).time())


def run(paths: Sequence[Path], results_dir: Path, *, environ: Mapping[str, str]) -> bool:
    """Run notebooks in order against one rehearsal, and print what came of it.

    Executed notebooks are saved in `<results_dir>/notebooks`, also the one that failed; the
    first failure ends the run.

    Args:
        paths: The notebooks.
        results_dir: Folder to make; numbered when there is one of that name.
        environ: The caller's environment.

    Returns:
        True if every notebook ran and nothing was left on the rehearsal AWS.
    """
    _refuse_aws(environ)
    results_dir = results.new_folder(results_dir.parent, results_dir.name)
    made, unknown = [], None
    with rehearsal(environ, results_dir=results_dir) as given:
        say(f"Running {len(paths)} notebooks against a rehearsal AWS on this machine.")
        executed_dir = results_dir / "notebooks"
        executed_dir.mkdir()
        with notebooks.prepared(paths, environ=given) as turns:
            for path, take_turn in zip(paths, turns, strict=True):
                executed = take_turn()
                nbformat.write(executed.notebook, executed_dir / path.name)
                _report(executed)
                if executed.error:
                    break
        try:
            made = things(given)
        except RehearsalError as error:
            unknown = error
    left = [thing for thing in made if not thing.deleted]
    _print_outcome(results_dir, made)
    if unknown:
        say(str(unknown))
    for thing in left:
        say(f"Left behind: {thing.kind} {thing.name}.")
    ok = executed.error is None and not left and not unknown
    say("Everything worked and nothing was left." if ok else "Not everything worked: see above.")
    return ok


def _report(executed: notebooks.Executed) -> None:
    outcome = "failed" if executed.error else "ok"
    say(f"{executed.name:<24}{outcome:<8}{executed.seconds:6.1f} s")
    if executed.error:
        say(f"    {executed.error}")
        index, source = executed.cell or (None, "")
        say(f"    in cell {index}:" if executed.cell else "    before its first cell")
        for line in source.splitlines():
            say(f"    | {line}")


# What came of it


def lives(entries: Sequence[Mapping], *, now_s: float) -> list[Thing]:
    """Read a rehearsal's journal: each thing created, in order, with its end if it had one.

    Args:
        entries: `time` (epoch seconds, AWS time), `operation`, `name` and `detail` of each change.
        now_s: The moment of asking, AWS time.
    """
    found = []
    for entry in entries:
        verb, kind = re.fullmatch(r"([A-Z][a-z]+)(\w*)", entry["operation"]).groups()
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind).lower()
        if verb == "Create":
            found.append(Thing(kind, entry["name"], entry["detail"], entry["time"], now_s))
        elif verb == "Delete":
            index, thing = _newest(found, kind, entry["name"])
            found[index] = replace(thing, until_s=entry["time"], deleted=True)
        elif entry["operation"].startswith("UpdateEndpoint"):
            index, thing = _newest(found, "endpoint", entry["name"])
            resized = (*thing.resized, (entry["time"], entry["detail"]))
            found[index] = replace(thing, resized=resized)
    return found


def _newest(found: Sequence[Thing], kind: str, name: str) -> tuple[int, Thing]:
    """A name can be used again: the newest of that name is the one that is changed."""
    return next(
        (index, thing)
        for index, thing in reversed(list(enumerate(found)))
        if (thing.kind, thing.name) == (kind, name)
    )


def made_table(made: Sequence[Thing]) -> pd.DataFrame:
    """Return one row for each thing: kind, name, when created and deleted (AWS time)."""
    return pd.DataFrame(
        {
            "kind": thing.kind,
            "name": thing.name,
            "created": _moment(thing.created_s),
            "deleted": _moment(thing.until_s) if thing.deleted else "not deleted",
        }
        for thing in made
    )


def cost_table(made: Sequence[Thing]) -> pd.DataFrame:
    """Return one row for each endpoint: what it would have cost from creation to deletion."""
    rows = []
    for thing in made:
        if thing.kind != "endpoint":
            continue
        sizes = dict.fromkeys([thing.detail, *(detail for _, detail in thing.resized)])
        rows.append(
            {
                "endpoint": thing.name,
                "instances": ", then ".join(sizes),
                "minutes": round((thing.until_s - thing.created_s) / 60, 1),
                "cost ($)": round(_dollars(thing), 2),
            }
        )
    return pd.DataFrame(rows)


def _dollars(thing: Thing) -> float:
    """What an endpoint's instances cost from its creation on, each size for as long as it was."""
    begins = [(thing.created_s, thing.detail), *thing.resized]
    ends = [*(time_s for time_s, _ in thing.resized), thing.until_s]
    return sum(
        costs.cost(end_s - begin_s, instance_type=instance_type, instances=int(count))
        for (begin_s, size), end_s in zip(begins, ends, strict=True)
        for count, instance_type in re.findall(r"(\d+) x (\S+?)(?:,|$)", size)
    )


def _moment(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _print_outcome(results_dir: Path, made: Sequence[Thing]) -> None:
    tables = {
        "Benchmark (rehearsal: simulated, not measured)": _benchmark_table(results_dir),
        "Cost it would have had on AWS (rehearsal: no money was spent)": cost_table(made),
        "Created and deleted (rehearsal, in AWS time)": made_table(made),
    }
    for title, table in tables.items():
        if not table.empty:
            say("")
            say(title)
            for line in table.to_string(index=False).splitlines():
                say(line)
    say("")
    for what, where in _places(results_dir).items():
        say(f"{what}: {where}")


def _benchmark_table(results_dir: Path) -> pd.DataFrame:
    try:
        return metrics.table(results.runs(results_dir, target="rehearsal"))
    except ResultsError:  # no benchmark was run
        return pd.DataFrame()


def _places(results_dir: Path) -> dict[str, Path]:
    places = {"Executed notebooks": results_dir / "notebooks"}
    if figures := sorted(results_dir.rglob("*.png")):
        folders = {figure.parent for figure in figures}
        places["Figures"] = folders.pop() if len(folders) == 1 else results_dir
    places["Results"] = results_dir
    here = Path.cwd()
    return {
        what: path.relative_to(here) if path.is_relative_to(here) else path
        for what, path in places.items()
    }


def say(text: str) -> None:
    """Print a line that says it comes from a rehearsal."""
    print(f"[rehearsal] {text}".rstrip(), flush=True)


# Recording


def record(paths: Sequence[Path], *, environ: Mapping[str, str]) -> bool:
    """Run notebooks in order and write their outputs back into the files.

    Two recordings of the same notebooks differ only in simulated figures and moments. Nothing
    is written unless all of them ran and none of their outputs holds what must not be committed.

    Returns:
        True if the outputs were written.
    """
    recorded = {}
    with rehearsal(environ) as given:
        results_dir = Path(given["WORKSHOP_RESULTS"])
        say(f"Recording {len(paths)} notebooks against a rehearsal AWS on this machine.")
        with notebooks.prepared(paths, environ=given) as turns:
            for path, take_turn in zip(paths, turns, strict=True):
                executed = take_turn()
                _report(executed)
                if executed.error:
                    return False
                recorded[path] = notebooks.normalize(executed.notebook, path.stem)
        found = [
            sentence
            for path, nb in recorded.items()
            for sentence in notebooks.output_leaks(nb, path.stem)
        ]
        for sentence in found:
            say(sentence)
        if found:
            return False
        _keep_sample(results_dir, notebooks_dir=paths[0].parent)
    for path, notebook in recorded.items():
        nbformat.write(notebook, path)
    say(f"Wrote the outputs of {len(recorded)} notebooks.")
    return True


def _keep_sample(results_dir: Path, *, notebooks_dir: Path) -> None:
    """Keep the first run as the sample in results/, and one of its figures for the README."""
    run = next(iter(sorted(path.parent for path in results_dir.glob("*/run.json"))), None)
    if run is None:
        return
    sample = notebooks_dir.parent / "results" / "samples" / SAMPLE
    shutil.rmtree(sample, ignore_errors=True)
    sample.mkdir(parents=True)
    for name in ("run.json", "requests.jsonl", "clients.json", "summary.json"):
        shutil.copy(run / name, sample)
    for figure in run.glob("throughput.png"):
        shutil.copy(figure, notebooks_dir / "images")
    say(f"Wrote the sample {SAMPLE}.")


# The terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.workshop", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write outputs into the notebooks")
    parser.add_argument("--notebooks", type=Path, default=settings.ROOT / "notebooks")
    arguments = parser.parse_args(argv)
    try:
        with _interruptible():
            paths = notebooks.find(arguments.notebooks)
            if arguments.record:
                return 0 if record(paths, environ=os.environ) else 1
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
            results_dir = settings.load().results_dir / f"workshop-{stamp}-rehearsal"
            return 0 if run(paths, results_dir, environ=os.environ) else 1
    except WorkshopError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be gone
            print("Interrupted; the rehearsal AWS is stopped and nothing bills.", file=sys.stderr)
        return 130


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let `kill` and a closed terminal end the block like Ctrl-C; handlers are put back after."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    # What the caller ignores stays ignored: that is what nohup is for.
    before = {
        name: handler
        for name in (signal.SIGTERM, signal.SIGHUP)
        if (handler := signal.getsignal(name)) not in (signal.SIG_IGN, None)
    }

    def interrupt(*_) -> None:
        for name in before:
            signal.signal(name, signal.SIG_IGN)  # a second one must not cut the clean-up short
        raise KeyboardInterrupt

    try:
        for name in before:
            signal.signal(name, interrupt)
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


if __name__ == "__main__":
    sys.exit(main())
