"""A run's own requests in the model, and the figures of both by one definition."""

from typing import Any

import numpy as np

from helpers.errors import WorkshopError
from helpers.twin.waits import waits


class Replay:
    """A run of users beside the model of it: the same requests, lengths and order.

    The figures are the median time to the first token, the median time a token after it, and the
    output tokens a second while the asked load was there: from the first measured request on, in a
    closed loop until the first user has no more, in rounds until the last measured one has ended.
    Tokens count as spread evenly from first to last, in the run as in the model, because the model
    keeps no more of them.

    Args:
        run: A run of users.
        slots: Static batch size.

    Attributes:
        measured: The run's figures by name, AWS seconds.
        fastest: Its shortest time to a first token, which can be late and never early, and its
            shortest time a token but for the 5 % that a late first token made short.

    Raises:
        WorkshopError: When the run was resumed, its users think, or too few requests ended while
            all of them were at work.
    """

    def __init__(self, run: Any, slots: int):
        load, name = run.config["load"], run.path.name
        if load["think_s"]:
            raise WorkshopError(
                f"The users of {name} think, which the model's do not: calibrate by a run without "
                "think time."
            )
        if any(record.part for record in run.records):
            raise WorkshopError(
                f"{name} was resumed, so that its requests are no single load: calibrate by a run "
                "in one go."
            )
        records = sorted(run.records, key=lambda record: record.index)
        self._kind = load["kind"]
        self._is_good = np.array([one.error is None and one.output_tokens > 1 for one in records])
        self._is_measured = np.array([one.phase == "measured" for one in records])
        self._tokens = np.array([max(1, one.output_tokens) for one in records])
        self._waits = waits(
            slots=slots,
            load="rounds" if self._kind == "rounds" else "closed",
            concurrency=load["concurrency"],
            output_tokens=self._tokens.tolist(),
        )
        stamps_s = [
            (one.sent_s, one.first_s or one.ended_s, one.last_s or one.ended_s) for one in records
        ]
        stamps_s = np.array(stamps_s) * run.config["clock_speed"]
        self.measured = self._figures(stamps_s)
        if not (self.measured and self.predicted(1.0, 1.0)):
            raise WorkshopError(
                f"In {name} no measured request ended while all users were at work: calibrate by a "
                "longer run."
            )
        sent_s, first_s, last_s = stamps_s[self._is_good].T
        steps_s = (last_s - first_s) / (self._tokens[self._is_good] - 1)
        if not (steps_s > 0).any():
            raise WorkshopError(
                f"No reply of {name} came token by token, so that it tells no decode step: "
                "calibrate by a run that streams."
            )
        self.fastest = (
            float(min(first_s - sent_s)),
            float(np.percentile(steps_s[steps_s > 0], 5)),
        )

    def predicted(self, prefill_s: float, decode_step_s: float) -> dict[str, float]:
        """The model's figures by name."""
        return self._figures(self._waits.times(prefill_s, decode_step_s))

    def _figures(self, stamps_s: np.ndarray) -> dict[str, float]:
        sent_s, first_s, last_s = stamps_s.T
        opens_s = sent_s[self._is_measured].min()
        closes_s = last_s[self._is_measured].max()
        if self._kind == "closed_loop":
            closes_s = last_s[last_s > sent_s.max()].min(initial=closes_s)
        mine = self._is_good & self._is_measured & (last_s > opens_s) & (last_s <= closes_s)
        if not mine.any():
            return {}
        decode_s = np.maximum(last_s - first_s, 1e-9)
        inside = np.clip((closes_s - first_s) / decode_s, 0, 1)
        inside -= np.clip((opens_s - first_s) / decode_s, 0, 1)
        tokens = (self._tokens * inside)[self._is_good].sum()
        return {
            "ttft_s": float(np.median((first_s - sent_s)[mine])),
            "tpot_s": float(np.median(decode_s[mine] / (self._tokens[mine] - 1))),
            "output_tokens_per_s": float(tokens / (closes_s - opens_s)),
        }
