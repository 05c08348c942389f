"""How a static-batch Neuron endpoint behaves: its two times and its scheduler. No I/O, no clock."""

from helpers.twin.published import PUBLISHED, timing
from helpers.twin.scheduler import StaticBatch, Step, Timing
from helpers.twin.simulation import Served, lengths, serve, simulate

__all__ = [
    "PUBLISHED",
    "Served",
    "StaticBatch",
    "Step",
    "Timing",
    "lengths",
    "serve",
    "simulate",
    "timing",
]
