"""requirements.txt names what the code imports, bounded and explained; the lock pins it."""

import ast
import json
import re
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
FILES = ("requirements.txt", "requirements-ray.txt", "tests/requirements.txt")
# `make lab`, `make test`; what Gradio and moto's server import; the SDK, by a computed name.
NOT_IN_AN_IMPORT = {"jupyterlab", "ipywidgets", "nbval", "flask", "flask-cors", "sagemaker-core"}


def lines(*names):
    text = "".join((ROOT / name).read_text() for name in names)
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def names(*files):
    return {canonical(Requirement(line.partition("#")[0]).name) for line in lines(*files)}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def sources():
    for path in (ROOT / "helpers").rglob("*.py"):
        yield path.read_text()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                yield "".join(cell["source"])


def imported():
    """Return the distributions that helpers/ and the notebooks import by name."""
    modules = set()
    for source in sources():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.partition(".")[0])
    of = packages_distributions()
    foreign = modules - {"helpers"} - set(sys.stdlib_module_names)
    return {canonical(of[module][0]) for module in foreign}


def brought_by(named):
    """Return what the named distributions themselves depend on, extras included."""
    return {canonical(Requirement(text).name) for name in named for text in requires(name) or []}


def test_every_package_the_code_imports_is_named_or_brought_by_one_that_is():
    named = names("requirements.txt", "requirements-ray.txt")
    # nbformat comes with nbclient, botocore with boto3 and urllib3 with botocore.
    assert imported() - named - brought_by(named | {"botocore"}) == set()


def test_every_named_package_is_used():
    named = names("requirements.txt", "requirements-ray.txt")
    assert named - imported() == NOT_IN_AN_IMPORT


def test_each_requirement_is_bounded_and_says_what_it_is_for():
    for line in lines(*FILES):
        requirement, _, comment = line.partition("#")
        operators = {specifier.operator for specifier in Requirement(requirement).specifier}
        assert operators == {">=", "<"}, line
        assert comment.strip(), line


def test_the_lock_pins_every_requirement_within_its_bounds():
    locked = {}
    for line in lines("requirements.lock"):
        if not line.startswith(" "):
            pinned = Requirement(line)
            (specifier,) = pinned.specifier
            assert specifier.operator == "==", line
            locked.setdefault(canonical(pinned.name), []).append(specifier.version)
    for line in lines(*FILES):
        requirement = Requirement(line.partition("#")[0])
        versions = locked[canonical(requirement.name)]
        assert all(version in requirement.specifier for version in versions), line
