"""The command line of the demo: `python -m helpers.demo --help`."""

import argparse
import signal
import sys
import threading
from collections.abc import Sequence

from helpers.demo import SYSTEM_PROMPT, launch
from helpers.errors import WorkshopError, nobody_reads


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a chat page for an endpoint of yours until Ctrl-C."""
    from helpers import endpoint, session

    parser = argparse.ArgumentParser(prog="python -m helpers.demo", description=main.__doc__)
    parser.add_argument("--endpoint", metavar="NAME", help="default: the one that is yours")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="a public address, with a password")
    parser.add_argument(
        "--system-prompt", default=SYSTEM_PROMPT, metavar="TEXT", help="what the page begins with"
    )
    chosen = parser.parse_args(arguments)
    try:
        here = session.open_session()
        found = endpoint.find(here, chosen.endpoint, in_service=True)
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        demo = launch(
            here,
            found,
            share=chosen.share,
            port=chosen.port,
            system_prompt=chosen.system_prompt,
        )
        with demo:
            if demo.password:
                print(f"Password: {demo.password}", file=sys.stderr)
            here.say("Ctrl-C ends the page; the endpoint bills until it is deleted.")
            stop.wait()
        here.say("Ended. The endpoint is still up.")
    except BrokenPipeError:  # who reads has gone
        nobody_reads()
        return 1
    except WorkshopError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while the endpoint was being looked up
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
