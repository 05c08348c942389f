import logging
import sys

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
