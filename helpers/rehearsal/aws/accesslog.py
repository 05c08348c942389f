"""Who asked for which actions, and how often that was allowed and refused: for a look at rights."""

from dataclasses import dataclass

MOST_PAIRS = 10_000  # of a principal and an action; later ones are counted together
OTHERS = "*"
_LONGEST = 200  # characters of what somebody has made up


@dataclass
class _Count:
    allowed: int = 0
    refused: int = 0


class AccessLog:
    """Counts what was judged since the rehearsal began; nothing of it is kept."""

    def __init__(self):
        self._counts: dict[tuple[str, str], _Count] = {}

    def note(self, principal: str, action: str, *, allowed: bool) -> None:
        """Count one decision.

        Args:
            principal: The ARN of who asked.
            action: E.g. `sagemaker:CreateEndpoint`.
            allowed: What was decided.
        """
        count = self._counts.get((principal, action))
        if count is None:
            count = self._new(principal[:_LONGEST], action[:_LONGEST])
        if allowed:
            count.allowed += 1
        else:
            count.refused += 1

    def told(self) -> dict[str, dict[str, dict[str, int]]]:
        """By principal and action; beyond `MOST_PAIRS`, all others under `OTHERS`."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        for (principal, action), count in sorted(self._counts.items()):
            found.setdefault(principal, {})[action] = vars(count).copy()
        return found

    def _new(self, principal: str, action: str) -> _Count:
        pair = (principal, action) if len(self._counts) < MOST_PAIRS else (OTHERS, OTHERS)
        return self._counts.setdefault(pair, _Count())
