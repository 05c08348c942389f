"""A Ray cluster of two nodes on this machine, each with a loopback address of its own.

    python tests/ray_cluster.py

prints its address, and goes when its input ends. Ray has no public way to leave out the process
that tells `usage-stats.ray.io` when usage statistics are off, so that is done by hand.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

# Not 127.0.0.1, which Ray replaces by the machine's address outside.
NODES = ("127.0.0.2", "127.0.0.3")
_LEFT_OUT = ("start_api_server", "start_monitor", "start_log_monitor")


@dataclass(frozen=True)
class Cluster:
    """One that runs.

    Attributes:
        address: For `ray.init`.
        folder: Where Ray keeps its sockets and logs.
    """

    address: str
    folder: Path

    def processes(self, name):
        """The ids of its processes, and of those of drivers started meanwhile, by their name."""
        return (pid for pid, command, _ in self._all() if name.encode() in command)

    def processes_showing(self, text):
        """The ids of those that have a text in their command line or environment."""
        return (pid for pid, *shown in self._all() if text.encode() in b"".join(shown))

    def _all(self):
        for one in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command, environ = (one / "cmdline").read_bytes(), (one / "environ").read_bytes()
                if f"RAY_TMPDIR={self.folder}\0".encode() in environ:
                    yield int(one.name), command, environ


@contextlib.contextmanager
def running(meanwhile=contextlib.nullcontext):
    """Yields such a cluster and what a context gives, whose start takes as long as this one's."""
    # Short, because the paths of Ray's sockets may not be longer than 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        before = dict(os.environ)
        os.environ.update(environment(Path(folder)))
        process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            with meanwhile() as given:
                yield Cluster(process.stdout.readline().strip(), Path(folder)), given
        finally:
            process.communicate(timeout=30)
            os.environ.clear()
            os.environ.update(before)


def environment(folder):
    """What makes Ray quick and quiet, with all that it writes in a folder."""
    # jsonschema, with the extras that Jupyter brings, builds a grammar for a second when it is
    # imported, and Ray imports it in each of its processes. Without this module it does not.
    (folder / "rfc3987_syntax.py").write_text("raise ImportError")
    return {
        "PYTHONDONTWRITEBYTECODE": "",  # or each of its processes compiles all of Ray
        "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(folder)]),
        "RAY_AUTH_MODE": "disabled",
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }


def main():
    from ray import cluster_utils
    from ray._private.node import Node

    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        del os.environ[name]  # its processes are killed and would not tell
    for name in _LEFT_OUT:
        setattr(Node, name, lambda *_, **__: None)
    cluster = cluster_utils.Cluster()
    for address in NODES:
        cluster.add_node(node_ip_address=address, object_store_memory=80 * 2**20, wait=False)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
