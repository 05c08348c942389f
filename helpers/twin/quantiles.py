"""Quantiles of a stream in constant memory."""

import random
from array import array

import numpy as np

KEPT = 65_536


class Quantiles:
    """Quantiles of values that come one by one: exact up to `KEPT`, then of a random sample.

    The sample is a reservoir: every value is in it with the same chance. Its median lies, with
    95 % confidence, within 0.4 % of the ranks around the true one.

    Args:
        seed: Which of the random samples.
    """

    def __init__(self, seed: int = 0):
        self._kept = array("d")
        self._seen = 0
        self._random = random.Random(seed).random

    def add(self, value: float) -> None:
        """Count one more value."""
        self._seen += 1
        if self._seen <= KEPT:
            self._kept.append(value)
        elif (place := int(self._random() * self._seen)) < KEPT:
            self._kept[place] = value

    def at(self, share: float) -> float:
        """The value below which that share of all values lies, linear between two of them.

        Raises:
            ValueError: When there was no value.
        """
        if not self._seen:
            raise ValueError("There are no quantiles of no values.")
        return float(np.quantile(np.frombuffer(self._kept), share))
