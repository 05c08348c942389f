"""What the workshop's notebooks call: one job a module, nothing happens on import.

Unless Python is importing it for `python -m helpers.…`: then Ctrl-C gives a word instead of a
traceback, also before the command has begun.
"""

import sys
from types import TracebackType


def _interrupted(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("Interrupted.", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # what stands there while Python looks for the module
    sys.excepthook = _interrupted
