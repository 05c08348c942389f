"""Run one notebook, and keep what must not be committed out of its outputs."""

import ast
import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from helpers.errors import ResultsError

CELL_TIMEOUT_S = 600

_LEAKS = {
    # Allowed: the rehearsal's own, and the public registries that hold AWS's containers.
    "an account id": r"(?<![\d.])(?!123456789012|763104351884)\d{12}(?!\d|\.\d|\.dkr\.ecr\.)",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{8,}",
    "an AWS access key": r"\bA(?:KIA|SIA)[A-Z0-9]{12,}",
    "an absolute path": r"(?<![\w.-])/(?:home|root|Users|tmp|work|private|var)(?![\w-])",
}
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Executed:
    """One notebook after its run.

    Attributes:
        name: File name without `.ipynb`.
        notebook: The notebook with its outputs, as far as it came.
        seconds: Wall time of its turn.
        error: One sentence, or None when every cell ran.
        cell: Index of the cell that failed, and its source.
    """

    name: str
    notebook: nbformat.NotebookNode
    seconds: float
    error: str | None = None
    cell: tuple[int, str] | None = None


def find(folder: Path) -> list[Path]:
    """Return the numbered notebooks of a folder, in the order in which they are run.

    Notebook 08 deletes what the others need, so an optional 09 runs before it.
    """
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"), key=lambda p: (p.stem[:2] == "08", p.stem))
    if not found:
        raise ResultsError(
            f"There is no numbered notebook, such as 01_environment_setup, in {folder}."
        )
    return found


def execute(path: Path, *, environ: Mapping[str, str]) -> Executed:
    """Run one notebook in a fresh kernel, in its own folder.

    Args:
        path: The notebook; the file itself stays as it is.
        environ: The kernel's whole environment.
    """
    with prepared([path], environ=environ) as (run,):
        return run()


@contextmanager
def prepared(
    paths: Sequence[Path], *, environ: Mapping[str, str]
) -> Iterator[list[Callable[[], Executed]]]:
    """Start a fresh kernel for each notebook and run its imports ahead; yield what runs the rest.

    Importing pandas, Gradio and the SDK takes longer than most notebooks need, and the deployment
    of notebook 03 leaves the machine idle. Only a first cell that does nothing but import is run
    before its turn. One notebook is prepared at a time, in the order given. Whatever has not
    ended when the block ends is stopped.
    """
    running: list[_Running] = []
    try:
        for path in paths:
            running.append(_Running(path, environ, after=running[-1].ready if running else None))
        yield [one.take_turn for one in running]
    finally:
        for one in running:
            one.abandon()
        for one in running:
            one.ended.wait()
            one.thread.join()


class _Running:
    """One notebook in a thread of its own, which stops before its second cell until its turn."""

    def __init__(self, path: Path, environ: Mapping[str, str], *, after: threading.Event | None):
        self._path, self._environ, self._after = path, environ, after
        self.ready = threading.Event()  # its imports have run, or it has ended
        self.ended = threading.Event()  # an interrupted join() takes a thread for ended (bpo-45274)
        self._notebook = nbformat.read(path, as_version=4)
        code = [cell.source for cell in self._notebook.cells if cell.cell_type == "code"]
        self._ahead = 1 if code and _only_imports(code[0]) else 0  # cells to run before the turn
        self._reached: list[tuple[int, str]] = []
        self._turn = threading.Event()
        self._abandoned = False
        self._error: str | None = None
        self._client = NotebookClient(
            self._notebook,
            kernel_name="python3",
            timeout=CELL_TIMEOUT_S,
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"],  # a kernel's own log is no progress
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_execute=self._before_cell,
        )
        self.thread = threading.Thread(target=self._execute, name=path.stem, daemon=True)
        self.thread.start()

    def take_turn(self) -> Executed:
        """Run what is left of the notebook, and wait until it has ended."""
        started = time.monotonic()
        self._turn.set()
        self.ended.wait()
        return Executed(
            self._path.stem,
            self._notebook,
            seconds=time.monotonic() - started,
            error=self._error,
            cell=self._reached[-1] if self._error and self._reached else None,
        )

    def abandon(self) -> None:
        """End the kernel of a notebook that has not ended; nothing when it has."""
        self._abandoned = True
        if self._turn.is_set() and not self.ended.is_set():
            # Without a process the kernel is about to start, or has just ended.
            provisioner = getattr(self._client.km, "provisioner", None)
            if pid := getattr(provisioner, "pid", None):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # a cell may run for minutes
        self._turn.set()

    def _execute(self) -> None:
        if self._after:
            self._after.wait()
        try:
            if not self._abandoned:
                asyncio.run(self._client.async_execute(env=dict(self._environ)))
        except _Abandoned:
            pass
        except CellExecutionError as failure:
            self._error = _sentence(failure.evalue, kind=failure.ename)
        except Exception as failure:  # a cell that takes too long, a kernel that dies or never was
            self._error = _sentence(str(failure), kind=type(failure).__name__)
        finally:
            self.ready.set()
            self.ended.set()

    def _before_cell(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        if len(self._reached) == self._ahead:
            self.ready.set()
            self._turn.wait()
        if self._abandoned:
            raise _Abandoned
        self._reached.append((cell_index, cell.source))


class _Abandoned(Exception):
    """The run has ended before this notebook's turn."""


def _only_imports(source: str) -> bool:
    """Whether a cell does nothing but import and say where from (`sys.path.insert`)."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return False
    return all(
        isinstance(one, ast.Import | ast.ImportFrom)
        or ast.unparse(one).startswith("sys.path.insert(")
        for one in statements
    )


def _sentence(text: str, *, kind: str) -> str:
    lines = _ANSI.sub("", text).strip().splitlines()
    return f"{kind}: {lines[0]}" if lines else kind


def normalize(notebook: nbformat.NotebookNode, stem: str) -> nbformat.NotebookNode:
    """Return a notebook without what differs between machines and runs, outputs aside."""
    notebook = nbformat.from_dict(notebook)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for index, cell in enumerate(notebook.cells):
        cell.id = f"{stem[:2]}-{index:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        for output in cell.get("outputs", []):
            if "text" in output:
                output.text = _as_shown(output.text)
    return notebook


def _as_shown(text: str) -> str:
    """What stays of lines that were written over."""
    return "\n".join(line.rpartition("\r")[2].rstrip() for line in text.split("\n"))


def output_leaks(notebook: nbformat.NotebookNode, stem: str) -> list[str]:
    """Return a sentence for each output that holds a path, a token or somebody's account."""
    found = []
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            data = {k: v for k, v in output.get("data", {}).items() if k != "image/png"}
            texts = [output.get("text", ""), *data.values()]
            kinds = {leak for text in texts for leak in leaks(str(text))}
            found += [f"{stem}: cell {index} shows {kind} in its output." for kind in sorted(kinds)]
    return found


def leaks(text: str) -> list[str]:
    """Name the kinds of things in a text that must not be committed."""
    return [kind for kind, pattern in _LEAKS.items() if re.search(pattern, text)]
