"""sagemaker-core, imported only where it is needed (it takes seconds) and kept quiet."""

import importlib
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from types import ModuleType

from helpers import hub
from helpers.errors import ContainerError


def sagemaker_core(module: str) -> ModuleType:
    """Import `sagemaker.core.<module>`, without what importing it does to the process.

    sagemaker-core 2.20 installs rich tracebacks and a rich handler on the root logger when it is
    imported; a notebook would lose its one-sentence errors and gain log lines.

    Raises:
        ContainerError: When sagemaker-core is not installed.
    """
    try:
        with quiet():
            imported = importlib.import_module(f"sagemaker.core.{module}")
    except ImportError as error:
        raise ContainerError(
            f"sagemaker-core cannot be imported ({error}): run `pip install -r requirements.txt`."
        ) from None
    loggers = logging.getLogger().manager.loggerDict
    hub.cover_logs(*(name for name in list(loggers) if name.split(".")[0] == "sagemaker"))
    return imported


def image_uri_config(framework: str) -> dict:
    """The SDK's own table of a framework's images, read from its file without importing the SDK.

    Raises:
        ContainerError: When sagemaker-core is not installed, or keeps its table elsewhere and
            cannot be imported.
    """
    name = f"sagemaker/core/image_uri_config/{framework}.json"
    try:
        path = metadata.distribution("sagemaker-core").locate_file(name)
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (metadata.PackageNotFoundError, OSError):
        return sagemaker_core("image_uris").config_for_framework(framework)


_lock = threading.Lock()
_quiet_threads = 0
_undo = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the SDK's logs, warnings and tracebacks to itself, and requests out of debug logs.

    All of that is the process's: where several threads are quiet, the last one out undoes it.
    """
    global _quiet_threads
    with _lock:
        if _quiet_threads == 0:
            _hush()
        _quiet_threads += 1
    try:
        yield
    finally:
        with _lock:
            _quiet_threads -= 1
            if _quiet_threads == 0:
                _undo.close()


def _hush() -> None:
    import rich.traceback

    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)  # with a handler there, logging.basicConfig does nothing
    _undo.callback(root.removeHandler, handler)
    _undo.callback(logging.disable, root.manager.disable)
    logging.disable(max(root.manager.disable, logging.WARNING))
    _undo.callback(setattr, rich.traceback, "install", rich.traceback.install)
    rich.traceback.install = lambda **_: None
    _undo.callback(setattr, sys, "excepthook", sys.excepthook)
    _undo.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
