"""Run one notebook, and keep what must not be committed out of its outputs."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

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
        seconds: Wall time, kernel start included.
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
    notebook = nbformat.read(path, as_version=4)
    reached = []
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=CELL_TIMEOUT_S,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # a kernel's own log is no progress
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=lambda cell, cell_index: reached.append((cell_index, cell.source)),
    )
    started = time.monotonic()
    error = None
    try:
        client.execute(env=dict(environ))
    except CellExecutionError as failure:
        error = _sentence(failure.evalue, kind=failure.ename)
    except (CellTimeoutError, DeadKernelError) as failure:
        error = _sentence(str(failure), kind=type(failure).__name__)
    return Executed(
        path.stem,
        notebook,
        seconds=time.monotonic() - started,
        error=error,
        cell=reached[-1] if error and reached else None,
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
    return notebook


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
