"""What several test files share of the rehearsal AWS."""

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does.
settings.register_profile("workshop", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("workshop")


@pytest.fixture(scope="module")
def shared(request, tmp_path_factory):
    """A session at a server of the file's own; its clients, slow to make, serve everybody."""
    import rehearsing  # reads the environment, which the run replaces first

    with rehearsing.server(tmp_path_factory.mktemp(request.module.__name__)):
        yield rehearsing.sessions.open_session()
