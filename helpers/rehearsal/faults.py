"""What a rehearsal can do wrong on purpose: one table, and which of it is active.

Each fault strikes where the real one would: the control plane asks for its own by name, the
runtime for the others. Every duration is AWS time, like all times a reader sees.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from helpers.errors import RehearsalError


@dataclass(frozen=True)
class Option:
    """A number that a fault takes.

    Attributes:
        default: When it is not given.
        lowest: Smallest value.
        highest: Largest value.
        whole: Whether it must be a whole number.
        meaning: What it is, with its unit.
    """

    default: float
    lowest: float
    highest: float
    whole: bool
    meaning: str


@dataclass(frozen=True)
class Fault:
    """One thing that can go wrong.

    Attributes:
        name: As the command line and the notebooks say it.
        does: What happens.
        where: `control plane`, `runtime` or `both`.
        sees: What the reader of a notebook sees of it.
        options: Its numbers by name.
    """

    name: str
    does: str
    where: str
    sees: str
    options: Mapping[str, Option] = field(default_factory=dict)


def _every(default: int) -> dict[str, Option]:
    return {"every": Option(default, 1, 1_000_000, True, "strikes every Nth request")}


_TOKENS = {"tokens": Option(10, 0, 1_000_000, True, "after so many tokens, or before the last one")}

FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        fault.name: fault
        for fault in (
            Fault(
                "no-quota",
                "the quota for every instance type is 0",
                "control plane",
                "CreateEndpoint ends with ResourceLimitExceeded: the limit is 0 Instances",
            ),
            Fault(
                "no-capacity",
                "the region has no free machine",
                "control plane",
                "the endpoint ends Failed, for insufficient capacity",
                {"regions": Option(0, 0, 100, True, "in the first N regions asked, 0 in all")},
            ),
            Fault(
                "gated-model",
                "the license of the model is not accepted",
                "control plane",
                "the container's log says 403, the endpoint ends Failed at its health check",
            ),
            Fault(
                "health-check",
                "the container never answers /ping",
                "control plane",
                "the endpoint ends Failed: it did not pass the ping health check",
            ),
            Fault(
                "throttling",
                "calls come too fast",
                "both",
                "a short wait, as clients retry; with every=1 ThrottlingException: Rate exceeded",
                _every(2),
            ),
            Fault(
                "expired-credentials",
                "the session's credentials have run out",
                "both",
                "ExpiredTokenException: The security token included in the request is expired",
            ),
            Fault(
                "model-error",
                "the container answers with an error",
                "runtime",
                "ModelError (424) with the container's status and words",
                {
                    **_every(3),
                    "status": Option(500, 400, 599, True, "HTTP status of the container"),
                },
            ),
            Fault(
                "broken-stream",
                "the container's stream breaks half way",
                "runtime",
                "ModelStreamError (StreamBroken) inside the stream, after part of the text",
                {**_every(1), **_TOKENS},
            ),
            Fault(
                "connection-reset",
                "the client's connection is reset half way through a stream",
                "runtime",
                "a connection error, after part of the text",
                {**_every(1), **_TOKENS},
            ),
            Fault(
                "stall",
                "an answer pauses, then goes on; TGI's keep-alives come meanwhile",
                "runtime",
                "a pause; past 60 s a whole answer, past 8 min a stream ends in a time-out",
                {
                    **_every(1),
                    **_TOKENS,
                    "seconds": Option(30, 0, 3600, False, "length of the pause, AWS time"),
                },
            ),
            Fault(
                "slow-network",
                "every part of an answer comes late; their order is kept",
                "runtime",
                "a later first token, and uneven ones",
                {
                    **_every(1),
                    "latency_ms": Option(150, 0, 60_000, False, "delay of every part, AWS time"),
                    "jitter_ms": Option(50, 0, 60_000, False, "largest deviation, AWS time"),
                },
            ),
            Fault(
                "garbage",
                "one payload part of a stream is neither a line nor text",
                "runtime",
                "nothing, or a line that cannot be read; the stream goes on",
                {**_every(1), **_TOKENS},
            ),
            Fault(
                "corrupt-frame",
                "one message of an event stream arrives with a wrong checksum",
                "runtime",
                "botocore's ChecksumMismatch, after part of the text",
                {**_every(1), **_TOKENS},
            ),
        )
    }
)

Options = Mapping[str, float]


class Faults:
    """The faults that are active, and how often each has been asked for."""

    def __init__(self) -> None:
        self._active: dict[str, Options] = {}
        self._asked: dict[str, int] = {}
        self._regions: dict[str, list[str]] = {}  # in the order in which they were asked for

    def __bool__(self) -> bool:
        """Whether any is active."""
        return bool(self._active)

    def put(self, wanted: Mapping[str, object]) -> None:
        """Replace the active faults; all or none.

        Args:
            wanted: Options by name; True or an empty mapping for the defaults, False for off.

        Raises:
            RehearsalError: When there is no such fault or option, or a value is out of range.
        """
        if not isinstance(wanted, Mapping):
            raise RehearsalError(f"Faults are given by name; there are {_listed(FAULTS)}.")
        active = {}
        for name, given in wanted.items():
            fault = _fault(name)
            if given is not False:
                active[name] = _options(fault, given)
        self._active, self._asked, self._regions = active, dict.fromkeys(active, 0), {}

    def add(self, name: str, given: object) -> None:
        """Turn one fault on, or give it other options; the others stay as they are.

        Raises:
            RehearsalError: When there is no such fault or option, or a value is out of range.
        """
        self._active[name] = _options(_fault(name), given)
        self._asked[name] = 0
        self._regions.pop(name, None)

    def remove(self, name: str) -> None:
        """Turn one fault off; nothing happens when it is not on."""
        self._active.pop(name, None)

    def active(self) -> dict[str, dict[str, float]]:
        """The active faults with all their options, fit to be `put` again."""
        return {name: dict(options) for name, options in self._active.items()}

    def get(self, name: str) -> Options | None:
        """An active fault's options, None when it is not active."""
        return self._active.get(name)

    def strikes(self, name: str) -> Options | None:
        """Like `get`, asked on behalf of one request: None as well unless it is the Nth."""
        options = self._active.get(name)
        if options is None:
            return None
        self._asked[name] += 1
        return None if self._asked[name] % options.get("every", 1) else options

    def strikes_in(self, name: str, region: str) -> bool:
        """Like `get`, asked on behalf of a region: false as well beyond the first `regions`."""
        options = self._active.get(name)
        if options is None:
            return False
        regions = self._regions.setdefault(name, [])
        if region not in regions:
            regions.append(region)
        most = options.get("regions", 0)
        return not most or regions.index(region) < most


def parse(text: str) -> dict[str, dict[str, float]]:
    """A fault as the command line has it, fit to be `put`.

    Args:
        text: `NAME` or `NAME:every=5,seconds=3`.

    Raises:
        RehearsalError: When there is no such fault or option, or a value is out of range.
    """
    name, colon, rest = text.partition(":")
    given = dict(_pairs(name, rest)) if colon else {}
    return {name: dict(_options(_fault(name), given))}


def _pairs(name: str, text: str) -> Iterator[tuple[str, float]]:
    for pair in text.split(","):
        option, _, value = pair.partition("=")
        try:
            yield option.strip(), float(value) if "." in value else int(value)
        except ValueError:
            raise RehearsalError(
                f"Give the options of {name} as numbers, as in {name}:every=2, not {pair!r}; "
                f"it takes {_described(_fault(name))}."
            ) from None


def _fault(name: object) -> Fault:
    if name not in FAULTS:
        raise RehearsalError(f"There is no fault {name!r}; there are {_listed(FAULTS)}.")
    return FAULTS[name]


def _options(fault: Fault, given: object) -> Options:
    if given is True:
        given = {}
    if not isinstance(given, Mapping):
        raise RehearsalError(
            f"The fault {fault.name} is true, false or its options, not {given!r}; "
            f"it takes {_described(fault)}."
        )
    for name, value in given.items():
        _check(fault, name, value)
    return {name: given.get(name, option.default) for name, option in fault.options.items()}


def _check(fault: Fault, name: object, value: object) -> None:
    option = fault.options.get(name)  # type: ignore[call-overload]
    if option is None:
        raise RehearsalError(
            f"The fault {fault.name} has no option {name!r}; it takes {_described(fault)}."
        )
    kinds = int if option.whole else (int, float)
    fits = isinstance(value, kinds) and not isinstance(value, bool)
    if not fits or not option.lowest <= value <= option.highest:
        raise RehearsalError(
            f"{name} of the fault {fault.name} cannot be {value!r}; it takes {_described(fault)}."
        )


def _described(fault: Fault) -> str:
    ranges = [
        f"{name} from {option.lowest:g} to {option.highest:.0f} (default {option.default:g})"
        for name, option in fault.options.items()
    ]
    return ", ".join(ranges) or "no options"


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(names)
