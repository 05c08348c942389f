"""Where a line belongs: what CONTRIBUTING.md says of imports, and no import goes in a circle."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The data and the models of helpers/ that the rehearsal may use; of `messages` it is the format of
# the stream that a model server behind `--backend` answers with.
SHARED = {
    "clock",
    "contracts",
    "costs",
    "errors",
    "hub",
    "messages",
    "models",
    "neuron_cache",
    "recipes",
    "settings",
    "target_tracking",
    "twin",
}


def module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in (ROOT / "helpers").rglob("*.py")}


def imports(name, *, at_import=False):
    """The modules of helpers/ that one imports; `at_import`, not inside functions."""
    tree = ast.parse(MODULES[name].read_text())
    nodes = tree.body if at_import else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found & MODULES.keys()


def test_no_import_goes_in_a_circle():
    # A module stands for its own face's, which imports it: who is in the folder knows the others.
    graph = {name: imports(name, at_import=True) - {name} for name in MODULES}
    list(TopologicalSorter(graph).static_order())


def test_only_the_session_and_the_workshop_know_the_rehearsal():
    knowing = {
        name
        for name in MODULES
        if not name.startswith("helpers.rehearsal")
        and any(one.startswith("helpers.rehearsal") for one in imports(name))
    }
    assert knowing == {"helpers.session", "helpers.workshop"}
    assert all(
        {one for one in imports(name) if one.startswith("helpers.rehearsal")}
        == {"helpers.rehearsal.launch"}
        for name in knowing
    )


def test_the_rehearsal_knows_data_and_models_only():
    used = {
        one
        for name in MODULES
        if name.startswith("helpers.rehearsal")
        for one in imports(name)
        if not one.startswith("helpers.rehearsal")
    }
    assert used <= {f"helpers.{name}" for name in SHARED}


def test_the_rehearsals_server_starts_without_pandas():
    used = ["helpers.rehearsal.aws.control", *(f"helpers.{name}" for name in sorted(SHARED))]
    code = f"import sys, {', '.join(used)}; sys.exit('pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_sagemaker_core_is_asked_for_by_two_modules():
    using = {name for name, path in MODULES.items() if ".sagemaker_core(" in path.read_text()}
    assert using == {"helpers.containers", "helpers.endpoint.deployment"}
    assert not [
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom | ast.Import)
        and "sagemaker" in ast.unparse(node).split()[1]
        and "helpers" not in ast.unparse(node)
    ]
