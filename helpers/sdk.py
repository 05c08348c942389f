"""sagemaker-core, imported only where it is needed (it takes seconds) and kept quiet."""

import importlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from types import ModuleType

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
            return importlib.import_module(f"sagemaker.core.{module}")
    except ImportError as error:
        raise ContainerError(
            f"sagemaker-core cannot be imported ({error}): run `pip install -r requirements.txt`."
        ) from None


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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the SDK's logs, warnings and tracebacks to itself, and requests out of debug logs."""
    import rich.traceback

    root, disabled = logging.getLogger(), logging.root.manager.disable
    excepthook, install = sys.excepthook, rich.traceback.install
    handler = logging.NullHandler()  # with a handler there, logging.basicConfig does nothing
    root.addHandler(handler)
    rich.traceback.install = lambda **_: None
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        rich.traceback.install = install
        sys.excepthook = excepthook
        root.removeHandler(handler)
