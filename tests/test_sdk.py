import logging
import sys
import threading

import pytest

from helpers import containers, sdk
from helpers.contracts import TGI
from helpers.errors import ContainerError


def test_the_sdk_leaves_logging_and_tracebacks_alone():
    before = (list(logging.getLogger().handlers), logging.root.manager.disable, sys.excepthook)
    sdk.sagemaker_core("resources")
    containers.image_uri(TGI, "0.0.22", region="us-east-1")
    after = (list(logging.getLogger().handlers), logging.root.manager.disable, sys.excepthook)
    assert after == before


def test_a_missing_sdk_is_one_sentence():
    with pytest.raises(ContainerError, match="pip install"):
        sdk.sagemaker_core("no_such_module")


def test_logs_are_heard_again_when_the_last_of_several_threads_is_through():
    inside, through = threading.Barrier(2, timeout=30), threading.Event()

    def first():
        with sdk.quiet():
            inside.wait()
            through.wait(10)  # it came first and leaves last

    thread = threading.Thread(target=first)
    thread.start()
    with sdk.quiet():
        inside.wait()
    assert logging.root.manager.disable >= logging.WARNING
    through.set()
    thread.join()
    assert logging.root.manager.disable == logging.NOTSET
