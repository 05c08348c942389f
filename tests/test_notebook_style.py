"""Every notebook has the same anatomy, and no output says what it must not."""

import ast
import copy
import json
import re
from pathlib import Path

import nbformat
import pytest

from helpers.notebooks import leaks

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
NAMES = [
    "01_environment_setup",
    "02_container_image",
    "03_deploy_endpoint",
    "04_chat",
    "05_gradio_demo",
    "06_benchmark",
    "07_plot_results",
    "08_clean_up",
]
OPTIONAL = "09_scale_out"  # read and run before 08
AFTER = {**dict(zip(NAMES, NAMES[1:], strict=False)), OPTIONAL: NAMES[-1]}
BILLING = [*NAMES[2:7], OPTIONAL]  # an endpoint may be running while these are read
FIRST_LINES = ["Goal", "Time", "Cost", "Needs", "Leaves behind"]
KNOWN_TAGS = {"nbval-ignore-output"}
MAX_CELL_LINES, MAX_CODE_LINES, MAX_BYTES = 12, 120, 100_000
FIGURES = ("image/png", "image/jpeg", "image/svg+xml")
SECTION = re.compile(r"^## (?P<title>.*)$", re.MULTILINE)
NOT_IN_A_CELL = {
    ast.FunctionDef: "def",
    ast.AsyncFunctionDef: "def",
    ast.ClassDef: "class",
    ast.Try: "try",
    ast.TryStar: "try",
}


def problems(notebook, stem, *, size=0):
    """Return what is wrong with a notebook, a sentence each, naming the cell by its index."""
    found = list(_file_problems(notebook, size))
    if len(notebook.cells) < 5:
        return [*found, f"{stem} has {len(notebook.cells)} cells: too few for the anatomy."]
    found += _frame_problems(notebook.cells, stem)
    found += _setup_problems(notebook.cells)
    found += _section_problems(notebook.cells)
    expected_count = 0
    for index, cell in enumerate(notebook.cells):
        if not cell.source.strip():
            found.append(f"Cell {index} is empty.")
        found += [f"Cell {index} holds {leak}." for leak in leaks(cell.source)]
        if cell.cell_type == "code":
            expected_count += 1
            found += [f"Cell {index} {problem}." for problem in _code_problems(cell)]
            found += [f"Cell {index} {problem}." for problem in _output_problems(cell)]
            if cell.execution_count != expected_count:
                found.append(
                    f"Cell {index} has execution count {cell.execution_count} "
                    f"instead of {expected_count}: run make record."
                )
    return found


def _file_problems(notebook, size):
    if size > MAX_BYTES:
        yield f"The notebook has {size:,} bytes; {MAX_BYTES:,} at most."
    code = sum(_lines(cell) for cell in notebook.cells if cell.cell_type == "code")
    if code > MAX_CODE_LINES:
        yield f"The notebook has {code} lines of code; {MAX_CODE_LINES} at most."


def _frame_problems(cells, stem):
    first, last, end = cells[0], cells[-1], len(cells) - 1
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "Cell 0 is not a Markdown cell that starts with a title."
    lines = re.findall(r"^\*\*(.+?):?\*\*", first.source, re.MULTILINE)
    if lines != FIRST_LINES:
        yield f"Cell 0 has the lines {lines} instead of {FIRST_LINES}."
    if last.cell_type != "markdown" or "**What you have now**" not in last.source:
        yield f"Cell {end}, the last, does not say **What you have now**."
    if AFTER.get(stem, "") not in last.source:
        yield f"Cell {end}, the last, does not name the next notebook, {AFTER[stem]}."
    if stem in BILLING and not re.search(r"Stop here\?\W+Run \W*08", last.source):
        yield f"Cell {end}, the last, does not say 'Stop here? Run 08'."


def _setup_problems(cells):
    code = [(index, cell) for index, cell in enumerate(cells) if cell.cell_type == "code"]
    roles = [
        ("only imports", lambda tree: all(_is_import(node) for node in tree.body)),
        (
            "every parameter in capitals",
            lambda tree: all(_is_parameter(node) for node in tree.body),
        ),
        (
            "a call of open_session",
            lambda tree: any(c.endswith("open_session") for c in _names_called(tree)),
        ),
    ]
    for (index, cell), (role, holds) in zip(code, roles, strict=False):
        tree = _tree(cell)
        if tree is None or not holds(tree):
            yield f"Cell {index} is not {role}: imports, parameters and session come first."
    for index, cell in code:
        nodes = getattr(_tree(cell), "body", [])
        if (index, cell) != code[0] and any(_is_import(node) for node in nodes):
            yield f"Cell {index} imports something: imports belong in the first code cell."
        if len(code) > 1 and (index, cell) != code[1] and any(map(_is_parameter, nodes)):
            yield f"Cell {index} sets a parameter: parameters belong in the second code cell."


def _section_problems(cells):
    numbers, title, prose, has_code, start = [], "the beginning", "", False, 0

    def unfinished():
        if has_code and numbers and "You should see" not in prose:
            yield f"Cell {start}, '{title}': no 'You should see' in the section."

    for index, cell in enumerate(cells):
        if cell.cell_type == "code":
            has_code = True
            if not prose.strip():
                yield f"Cell {index} has no Markdown before it in its section."
            continue
        headings = list(SECTION.finditer(cell.source))
        position = 0
        for heading in headings:
            prose += cell.source[position : heading.start()]
            yield from unfinished()
            title, position = heading["title"], heading.end()
            prose, has_code, start = "", False, index
            numbers.append(title)
            if not re.match(rf"{len(numbers)}\. [A-Z][\w'-]+ \S", title):
                yield f"Cell {index}, '{title}': the heading is not '{len(numbers)}. Verb object'."
        prose += cell.source[position:]
    yield from unfinished()
    if not numbers:
        yield "Cell 0 and those after it have no heading '## 1. Verb object'."


def _code_problems(cell):
    if _lines(cell) > MAX_CELL_LINES:
        yield f"has {_lines(cell)} lines; {MAX_CELL_LINES} at most"
    if "NBVAL_" in cell.source.upper().replace("-", "_"):
        yield "steers nbval by a comment instead of a tag"
    for tag in sorted(set(cell.metadata.get("tags", [])) - KNOWN_TAGS):
        yield f"has the tag '{tag}', which nothing here reads: {', '.join(KNOWN_TAGS)} is known"
    tree = _tree(cell)
    if tree is None:
        yield "is not plain Python (magics and shell lines belong in no cell)"
        return
    for node in ast.walk(tree):
        if type(node) in NOT_IN_A_CELL:
            yield f"has a {NOT_IN_A_CELL[type(node)]}, which belongs in helpers/"


def _output_problems(cell):
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"has the error {output.ename} as its output"
            continue
        texts = _texts(output)
        for leak in sorted({leak for text in texts.values() for leak in leaks(text)}):
            yield f"shows {leak} in its output"
        is_figure = any(kind in output.get("data", {}) for kind in FIGURES)
        for kind, text in texts.items():
            if not is_figure and "rehearsal" not in text.lower():
                yield f"shows {kind} without the word rehearsal"


def _texts(output):
    """Return an output's texts by kind: a stream's name or a MIME type that is no figure."""
    if output.output_type == "stream":
        return {output.name: output.text}
    data = {kind: value for kind, value in output.data.items() if kind not in FIGURES}
    return {
        kind: value if isinstance(value, str) else json.dumps(value) for kind, value in data.items()
    }


def _lines(cell):
    return sum(1 for line in cell.source.splitlines() if line.strip())


def _tree(cell):
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        return compile(cell.source, "cell", "exec", flags=flags, dont_inherit=True)
    except SyntaxError:
        return None


def _is_import(node):
    if isinstance(node, ast.Import | ast.ImportFrom):
        return True
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith("sys.path.insert(")


def _is_parameter(node):
    return (
        isinstance(node, ast.Assign)
        and len(node.targets) == 1
        and isinstance(node.targets[0], ast.Name)
        and re.fullmatch(r"[A-Z][A-Z0-9_]*", node.targets[0].id) is not None
    )


def _names_called(tree):
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {ast.unparse(function) for function in calls}


# The notebooks


def test_the_eight_notebooks_and_the_optional_ninth_are_there():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == [*NAMES, OPTIONAL]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_has_the_anatomy(path):
    notebook = nbformat.read(path, as_version=4)
    assert problems(notebook, path.stem, size=path.stat().st_size) == []


# The checker itself


def _say(text):
    return nbformat.v4.new_output("stream", name="stdout", text=f"[rehearsal] {text}\n")


def _good():
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    first = "# 4. Chat\n\n" + "\n\n".join(f"**{line}**: something." for line in FIRST_LINES)
    last = "**What you have now**: a chat.\n\n**Next**: `05_gradio_demo`.\n\nStop here? Run 08."
    cells = [
        markdown(first),
        code('import sys\n\nsys.path.insert(0, "..")\n\nfrom helpers import session'),
        code("ENDPOINT_NAME = None"),
        code("workshop = session.open_session()", outputs=[_say("in us-east-1")]),
        markdown("You should see a line.\n\n## 1. Ask a question\n\nBecause."),
        code('workshop.say("hello")', outputs=[_say("hello")]),
        markdown("You should see hello.\n\n## 2. Draw a picture\n\nBecause."),
        code(
            "figure",
            outputs=[
                nbformat.v4.new_output(
                    "display_data", data={"image/png": "iVBO", "text/plain": "<Figure>"}
                )
            ],
        ),
        markdown("You should see a figure."),
        markdown(last),
    ]
    for count, cell in enumerate((c for c in cells if c.cell_type == "code"), start=1):
        cell.execution_count = count
    return nbformat.v4.new_notebook(cells=cells)


def test_a_good_notebook_has_no_problems():
    assert problems(_good(), "04_chat") == []


def _set_source(index, source):
    def change(notebook):
        notebook.cells[index].source = source

    return change


def _replace(index, old, new):
    def change(notebook):
        assert old in notebook.cells[index].source
        notebook.cells[index].source = notebook.cells[index].source.replace(old, new)

    return change


def _show(text):
    def change(notebook):
        notebook.cells[5].outputs = [_say(text)]

    return change


def _tag(*tags):
    def change(notebook):
        notebook.cells[5].metadata["tags"] = list(tags)

    return change


def _count(notebook):
    notebook.cells[5].execution_count = 9


def _error(notebook):
    notebook.cells[5].outputs = [
        nbformat.v4.new_output("error", ename="KeyError", evalue="x", traceback=[])
    ]


def _unlabeled(notebook):
    notebook.cells[5].outputs = [nbformat.v4.new_output("stream", name="stdout", text="64.2\n")]


def _unlabeled_table(notebook):
    data = {"text/plain": "rehearsal 1", "text/html": "<td>1</td>"}
    notebook.cells[5].outputs = [nbformat.v4.new_output("display_data", data=data)]


def _swap_setup(notebook):
    notebook.cells[1], notebook.cells[2] = notebook.cells[2], notebook.cells[1]


BAD = {
    "no title": (_replace(0, "# 4. Chat", "Chat"), "Cell 0 is not a Markdown cell"),
    "no cost": (_replace(0, "**Cost**", "Cost"), "Cell 0 has the lines"),
    "no end": (_replace(9, "What you have now", "Done"), "Cell 9, the last, does not say"),
    "no next": (_replace(9, "05_gradio_demo", "bye"), "the next notebook, 05_gradio_demo"),
    "no warning": (_replace(9, "Run 08", "Go"), "Cell 9, the last, does not say 'Stop here?"),
    "parameters before imports": (_swap_setup, "Cell 1 is not only imports"),
    "a parameter elsewhere": (_set_source(5, "N = 1"), "Cell 5 sets a parameter"),
    "lower-case parameter": (_set_source(2, "name = 1"), "Cell 2 is not every parameter"),
    "no session": (_set_source(3, "1 + 1"), "Cell 3 is not a call of open_session"),
    "an import elsewhere": (_set_source(5, "import os"), "Cell 5 imports something"),
    "a heading out of order": (_replace(6, "## 2.", "## 3."), "Cell 6, '3. Draw a picture'"),
    "a heading of one word": (_replace(4, "Ask a question", "Ask"), "Cell 4, '1. Ask'"),
    "no explanation": (_replace(4, "\n\nBecause.", ""), "Cell 5 has no Markdown before it"),
    "no expectation": (_replace(6, "You should see", "See"), "Cell 4, '1. Ask a question': no"),
    "a long cell": (_set_source(5, "x\n" * 13), "Cell 5 has 13 lines"),
    "a function": (_set_source(5, "def f(): ..."), "Cell 5 has a def"),
    "an async function": (_set_source(5, "async def f(): ..."), "Cell 5 has a def"),
    "a class": (_set_source(5, "class A: ..."), "Cell 5 has a class"),
    "a try": (_set_source(5, "try:\n    x\nexcept E:\n    y"), "Cell 5 has a try"),
    "an install": (_set_source(5, "%pip install x"), "Cell 5 is not plain Python"),
    "a shell line": (_set_source(5, "!pip install x"), "Cell 5 is not plain Python"),
    "an empty cell": (_set_source(5, " \n"), "Cell 5 is empty"),
    "a wrong count": (_count, "Cell 5 has execution count 9 instead of 4"),
    "an error": (_error, "Cell 5 has the error KeyError"),
    "an unlabeled figure": (_unlabeled, "Cell 5 shows stdout without the word rehearsal"),
    "an unlabeled table": (_unlabeled_table, "Cell 5 shows text/html without the word"),
    "an account": (_show("111122223333"), "Cell 5 shows an account id"),
    "a token": (_show("hf_abcdefghijkl"), "Cell 5 shows a Hugging Face token"),
    "a key": (_show("AKIAABCDEFGHIJKLMNOP"), "Cell 5 shows an AWS access key"),
    "a path": (_show("/home/me/x"), "Cell 5 shows an absolute path"),
    "a token in the code": (_set_source(5, "t = 'hf_abcdefghijkl'"), "Cell 5 holds a Hugging"),
    "an unknown tag": (_tag("nbval-ignore-outputs"), "Cell 5 has the tag 'nbval-ignore-outputs'"),
    "a skipped cell": (_tag("nbval-skip"), "Cell 5 has the tag 'nbval-skip'"),
    "a comment for nbval": (_set_source(5, "# NBVAL_SKIP\nx"), "Cell 5 steers nbval"),
}


@pytest.mark.parametrize(("spoil", "sentence"), BAD.values(), ids=BAD)
def test_a_bad_notebook_is_refused_with_a_sentence_that_names_the_cell(spoil, sentence):
    notebook = copy.deepcopy(_good())
    spoil(notebook)
    assert any(sentence in problem for problem in problems(notebook, "04_chat"))


def test_a_notebook_of_too_many_lines_or_bytes_is_refused():
    notebook = _good()
    notebook.cells[5].source = "x\n" * 121
    assert any("lines of code" in line for line in problems(notebook, "04_chat"))
    assert any("100,001 bytes" in line for line in problems(_good(), "04_chat", size=100_001))


def test_a_notebook_without_headings_or_cells_is_refused():
    notebook = _good()
    for cell in notebook.cells[1:-1]:
        if cell.cell_type == "markdown":
            cell.source = "Text."
    assert any("no heading" in problem for problem in problems(notebook, "04_chat"))
    assert "too few" in problems(nbformat.v4.new_notebook(), "04_chat")[-1]


@pytest.mark.parametrize(
    "text",
    [
        "arn:aws:sts::123456789012:assumed-role/workshop-execution-role/rehearsal",
        "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-inference:2.1",
        "results/20260301T120000Z-rehearsal and http://127.0.0.1:4566/tmp",
        "0.123456789012 seconds, 1234567890123 ns",
        "/opt/ml/model, and/or, inf2-workshop/model",
    ],
)
def test_what_the_workshop_shows_on_purpose_is_no_leak(text):
    assert leaks(text) == []
