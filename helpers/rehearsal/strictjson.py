"""JSON as strictly as the servers that the rehearsal stands in for take it.

Python's parser takes more: other encodings than UTF-8, NaN, numbers beyond a double, half surrogate
pairs, and nesting that no later step survives. Words are about those of serde_json, which TGI's
router reads with.
"""

import json
import math
from typing import Any

# So many digits may be beyond a double.
_NINES, _LONG = bytes.maketrans(b"0123456789", b"9" * 10), b"9" * 309
_DEPTH = 128  # serde_json's recursion limit


def parse(body: bytes) -> Any:
    """What a body says.

    Raises:
        ValueError: When it is no JSON; says why.
    """
    try:
        given = json.loads(
            body.decode(),
            parse_constant=_no_constant,
            parse_float=_float,
            # Asked only when needed: a call for each of a million numbers takes half a second.
            parse_int=_int if _LONG in body.translate(_NINES) else None,
        )
        if b"\\u" in body:
            json.dumps(given, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except json.JSONDecodeError as error:
        what = f"expected value at line {error.lineno} column {error.colno}"
        raise ValueError(what) from None
    except UnicodeError:
        raise ValueError("invalid unicode code point") from None
    except RecursionError:
        raise ValueError("recursion limit exceeded") from None
    if _too_deep(given):
        raise ValueError("recursion limit exceeded")
    return given


def _no_constant(name: str) -> None:
    raise json.JSONDecodeError("no JSON", name, 0)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("number out of range")
    return number


def _int(digits: str) -> int:
    _float(digits)
    return int(digits)


def _too_deep(given: Any) -> bool:
    level = [given]
    for _ in range(_DEPTH):
        level = [value for value in level if isinstance(value, dict | list)]
        if not level:
            return False
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
        ]
    return True
