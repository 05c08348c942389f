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
from functools import partial
from pathlib import Path
from typing import Any

from helpers import settings
from helpers.errors import RehearsalError, WorkshopError
from helpers.rehearsal import faults, launch, routes, state
from helpers.rehearsal.container import cuts
from helpers.rehearsal.container.truth import Truth
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
        type=_speed,
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
        "--state-dir",
        type=Path,
        help="where to keep the address and all state (default: .rehearsal)",
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME[:OPTION=N,...]",
        help=f"let something go wrong; may be given again: {', '.join(faults.FAULTS)}",
    )
    parser.add_argument(
        "--quota",
        type=_whole,
        metavar="N",
        help="instances of each type that an account may have in a region (default: 20)",
    )
    parser.add_argument(
        "--cut",
        choices=cuts.POLICIES,
        default="sometimes",
        help="where a streamed answer is cut into payload parts (default: %(default)s)",
    )
    parser.add_argument(
        "--truth", type=Path, metavar="FILE", help="append the true times of each request, as JSON"
    )
    parser.add_argument(
        "--backend",
        metavar="URL",
        help="let an OpenAI-compatible server on this machine answer, e.g. http://127.0.0.1:8000/v1",
    )
    parser.add_argument(
        "--backend-model", metavar="NAME", help="what to ask it for (default: its first model)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="forget what earlier rehearsals have left"
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


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"a whole number of instances, not {text}")
    return int(text)


def _positive(text: str) -> float:
    number = _not_negative(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return number


def _speed(text: str) -> float:
    number = _positive(text)
    if number > settings.HIGHEST_SPEED:
        raise argparse.ArgumentTypeError(f"at most {settings.HIGHEST_SPEED:.0f}, not {text}")
    return number


async def _serve(loaded: settings.Settings, options: argparse.Namespace) -> int:
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    _allow_many_connections()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)

    other = await asyncio.to_thread(launch.status, loaded)
    started_with = _options(options, None if other else loaded.state_dir)
    clock = started_with.state.clock(options.speed)
    problems: list[BaseException] = []

    def give_up(error: BaseException) -> None:
        problems.append(error)
        stopping.set()

    door = routes.FrontDoor(
        clock,
        stop=stopping.set,
        load=partial(routes.load, options=started_with),
        faults=started_with.faults,
        failed=give_up,
    )
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
        await _close(started_with.runtime)
    if problems:
        _say(str(problems[0]))
    return 1 if problems else 0


def _options(given: argparse.Namespace, state_dir: Path | None) -> routes.Options:
    """What the command line asks for.

    Args:
        given: The command line.
        state_dir: Where state is kept; None beside another server, which keeps its own there.
    """
    active = faults.Faults()
    active.put({name: value for text in given.fault for name, value in faults.parse(text).items()})
    if given.fresh:
        _forget(state_dir)
    runtime: dict[str, Any] = {"cut": given.cut, "faults": active}
    if given.truth:
        runtime["truth"] = Truth(given.truth)
    if given.backend:
        from helpers.rehearsal.container.backend import Backend  # imports an HTTP client

        runtime["backend"] = Backend(given.backend, model=given.backend_model)
    limits = {} if given.quota is None else {"limit": float(given.quota)}
    return routes.Options(active, state.State(state_dir), runtime, limits)


async def _close(runtime: dict[str, Any]) -> None:
    """Let what a runtime was given write its last line and hang up."""
    if "backend" in runtime:
        await runtime["backend"].close()
    if "truth" in runtime:
        try:
            runtime["truth"].close()
        except OSError as error:
            _say(f"The last records of --truth could not be written ({error.strerror}).")


def _forget(state_dir: Path | None) -> None:
    if state_dir is None:
        raise RehearsalError(
            "A rehearsal runs and holds what --fresh would forget: stop it first, with "
            "`python -m helpers.rehearsal --stop`."
        )
    try:
        state.forget(state_dir)
    except OSError as error:
        raise RehearsalError(
            f"The state in {state_dir} cannot be removed ({error.strerror}): name another folder "
            "with --state-dir."
        ) from error


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
