"""`python -m helpers.rehearsal`: serve the rehearsal AWS until told to stop.

Standard output carries only lines that a shell can evaluate; everything else goes to standard
error.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from helpers import settings
from helpers.clock import Clock
from helpers.errors import WorkshopError
from helpers.rehearsal import launch, routes
from helpers.rehearsal.server import HOST, Server


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        loaded = settings.load()
        if options.state_dir:
            loaded = replace(loaded, state_dir=options.state_dir.resolve())
        if options.stop:
            stopped = launch.stop(loaded)
            _say("The rehearsal has stopped." if stopped else "No rehearsal was running.")
            return 0
        return asyncio.run(_serve(loaded, options))
    except WorkshopError as error:
        _say(str(error))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.rehearsal",
        description="Serve a rehearsal of AWS on 127.0.0.1, or stop the one that runs.",
    )
    parser.add_argument("--port", type=_port, default=4566, help="0 for any (default: 4566)")
    parser.add_argument(
        "--speed",
        type=_positive,
        default=settings.DEFAULT_SPEED,
        help="seconds of AWS time in one real second (default: %(default)g)",
    )
    parser.add_argument(
        "--idle-minutes",
        type=_not_negative,
        default=0.0,
        help="stop after so many real minutes without a request (default: 0, never)",
    )
    parser.add_argument(
        "--state-dir", type=Path, help="where to note the address (default: .rehearsal)"
    )
    parser.add_argument("--stop", action="store_true", help="stop the rehearsal that runs")
    return parser


def _port(text: str) -> int:
    if not (text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text}")
    return int(text)


def _not_negative(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"not a number of 0 or more: {text}")
    return number


def _positive(text: str) -> float:
    number = _not_negative(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return number


async def _serve(loaded: settings.Settings, options: argparse.Namespace) -> int:
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    _allow_many_connections()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)

    clock = Clock(options.speed)
    door = routes.FrontDoor(clock, stop=stopping.set)
    server = Server(door)
    try:
        port = await server.start(options.port)
    except OSError:
        door.close()
        _say(f"Port {options.port} of {HOST} is taken: pass another --port, or 0 for any.")
        return 1
    info = launch.ServerInfo(f"http://{HOST}:{port}", os.getpid(), clock.speed, clock.origin)
    noted = False
    try:
        noted = await asyncio.to_thread(_note, loaded, info)
        _announce(info)
        await _until(stopping, server, options.idle_minutes * 60)
    finally:
        if noted:
            launch.unregister(loaded.state_dir, info)
        await server.stop()
        door.close()
    return 0


def _note(loaded: settings.Settings, info: launch.ServerInfo) -> bool:
    """Register the server for the notebooks, unless they have one."""
    other = launch.status(loaded)
    if other is not None:
        _say(f"The notebooks go on using the rehearsal at {other.url}; this one is beside it.")
        return False
    launch.register(loaded.state_dir, info)
    return True


def _announce(info: launch.ServerInfo) -> None:
    for name, value in launch.environment(info.url).items():
        print(f"export {name}={shlex.quote(value)}")
    sys.stdout.flush()
    # From here on standard output is closed to everyone: moto prints.
    sys.stdout = sys.stderr
    _say(f"The rehearsal AWS serves {info.url} at speed {info.speed:g}; Ctrl-C stops it.")


async def _until(stopping: asyncio.Event, server: Server, idle_s: float) -> None:
    """Wait for the word to stop, or for a server that nobody uses."""
    while not stopping.is_set():
        left_s = idle_s - server.idle_s() if idle_s else None
        if left_s is not None and left_s <= 0:
            _say(f"No request for {idle_s / 60:g} minutes: the rehearsal stops.")
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), left_s)


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _say(sentence: str) -> None:
    print(f"[rehearsal] {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
