"""Keeps every test and every notebook's kernel off AWS, and in order.

It lies at the root because `pytest notebooks` does not load one inside `tests/`.
"""

import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
GUARD = ROOT / "tests" / "guard"
GUARD_LOG = "NETWORK_GUARD_LOG"  # of the run, all of its processes and their children

_scratch = pytest.StashKey[Path]()


def pytest_configure(config):
    """Give the run an environment of its own: rehearsal, no credentials, guarded sockets."""
    scratch = Path(tempfile.mkdtemp(prefix="workshop-tests-"))
    config.stash[_scratch] = scratch
    _replace_environment(scratch, log=os.environ[GUARD_LOG] if _is_worker(config) else None)

    sys.path.insert(0, str(GUARD))
    import network_guard

    network_guard.install()

    if config.option.nbval:
        config.option.nbval_current_env = True
        config.option.nbval_cell_timeout = 300
        if not config.option.nbval_sanitize_with:
            config.option.nbval_sanitize_with = str(ROOT / "tests" / "nbval_sanitize.cfg")


def _is_worker(config):
    """Whether this is one of the processes among which pytest-xdist distributes test files."""
    return hasattr(config, "workerinput")


def _replace_environment(scratch, *, log):
    """Drop what could lead to AWS or the Hub, and add what all child processes share."""
    for name in list(os.environ):
        if name.upper().startswith(("AWS_", "WORKSHOP_", "HF_", "GRADIO_", "HUGGING_FACE_")):
            del os.environ[name]
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        os.environ.pop(name, None)
        os.environ.pop(name.lower(), None)
    python_path = [str(GUARD), os.environ.get("PYTHONPATH", "")]
    os.environ.update(
        WORKSHOP_TARGET="rehearsal",
        WORKSHOP_STATE=str(scratch / "state"),
        WORKSHOP_RESULTS=str(scratch / "results"),
        NETWORK_GUARD_LOG=log or str(scratch / "guard.log"),
        PYTHONPATH=os.pathsep.join(filter(None, python_path)),
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_EC2_METADATA_DISABLED="true",
        HF_HOME=str(scratch / "huggingface"),
        # What a rehearsal takes for a token, and different each time: nothing may keep it.
        HF_TOKEN=f"hf_rehearsal{secrets.token_hex(11)}",
        HF_HUB_DISABLE_TELEMETRY="1",
        GRADIO_ANALYTICS_ENABLED="False",
    )


def pytest_collection_modifyitems(items):
    """Run the notebooks after the unit tests, 08 last, then the look at what they have left."""
    items.sort(key=_turn)


def _turn(item):
    is_notebook, name = item.path.suffix == ".ipynb", item.path.name
    # Notebook 08 deletes what 09 needs, as helpers.notebooks.find knows.
    is_last = name == "after_notebooks.py"
    return is_last, is_notebook, is_notebook and name.startswith("08_"), name


def pytest_sessionfinish(session):
    """Let the run fail if anything in it has tried to leave loopback."""
    if not _is_worker(session.config) and _left_loopback():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    """Say what has tried to."""
    for line in _left_loopback():
        terminalreporter.write_line(f"FAILED: this run left loopback: {line}", red=True)


def _left_loopback():
    log = Path(os.environ[GUARD_LOG])
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session):
    """Stop the rehearsal server that the notebooks share before coverage is added up."""
    try:
        return (yield)
    finally:
        from helpers import settings
        from helpers.rehearsal import launch

        launch.stop(settings.load())


def pytest_unconfigure(config):
    """Remove the run's scratch folder."""
    scratch = config.stash.get(_scratch, None)
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
