"""What several test files share."""

from functools import cache

import pytest
from botocore.loaders import JSONFileLoader
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does.
settings.register_profile("workshop", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("workshop")

# What AWS's services can do is megabytes of JSON, which every session would read anew. S3's, whose
# paths botocore changes, is each reader's own.
_fresh = JSONFileLoader().load_file
_shared = cache(_fresh)
JSONFileLoader.load_file = lambda _, path: (_fresh if "/s3" in path else _shared)(path)


@pytest.fixture(scope="module")
def shared(request, tmp_path_factory):
    """A session at a server of the file's own; its clients, slow to make, serve everybody."""
    import rehearsing  # reads the environment, which the run replaces first

    with rehearsing.server(tmp_path_factory.mktemp(request.module.__name__)):
        yield rehearsing.sessions.open_session()


@pytest.fixture(scope="module")
def served():
    """An endpoint that answers what a test tells it to, for a whole file."""
    from scripted import ScriptedEndpoint

    endpoint = ScriptedEndpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def scripted(served):
    """The same, as new."""
    served.forget()
    return served


@pytest.fixture(scope="module")
def browser():
    """Chromium, for a whole file: it takes a second to start."""
    from browser import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def one_day(monkeypatch):
    """A scaled fleet's one day of chance instead of four, where that is enough."""
    from helpers.capacity import fleet

    monkeypatch.setattr(fleet, "CHANCE_DAYS", 1)
