"""Refuses every address beyond loopback, and writes down who asked.

`install()` adds an audit hook to the running interpreter. It sees Python's own sockets (boto3,
urllib, httpx, Gradio), not those opened by C or Rust libraries (libzmq, hf-xet).
"""

import ipaddress
import os
import sys

LOG_VARIABLE = "NETWORK_GUARD_LOG"

# Audit events and where each carries its host: ("address", i) a socket address, ("host", i) a name.
_EVENTS = {
    "socket.connect": ("address", 1),
    "socket.sendto": ("address", 1),
    "socket.sendmsg": ("address", 1),
    "socket.bind": ("address", 1),
    "socket.getaddrinfo": ("host", 0),
    "socket.gethostbyname": ("host", 0),
    "socket.gethostbyaddr": ("host", 0),
}


class BeyondLoopbackError(RuntimeError):
    """A connection, datagram or name look-up beyond this machine was refused."""


def is_loopback(host):
    """Tell whether a host, name or literal address, is this machine's loopback."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host is None or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _host(event, args):
    kind, index = _EVENTS[event]
    value = args[index]
    if kind == "host":
        return value
    # An address of two or four parts is internet; a string is a Unix socket; None is connected.
    return value[0] if isinstance(value, tuple) and len(value) in (2, 4) else None


def _audit(event, args):
    if event not in _EVENTS:
        return
    host = _host(event, args)
    if is_loopback(host):
        return
    command = " ".join(sys.orig_argv[1:])[:200]
    line = f"{event} {host!r} by process {os.getpid()}: {command}"
    log = os.environ.get(LOG_VARIABLE)
    if log:
        with open(log, "a", encoding="utf-8") as file:
            file.write(line.replace("\n", " ") + "\n")
    raise BeyondLoopbackError(f"The tests keep everything on loopback, but {line}")


def install():
    """Guard this interpreter for the rest of its life (an audit hook cannot be removed)."""
    sys.addaudithook(_audit)
