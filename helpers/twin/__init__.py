"""How a static-batch Neuron endpoint behaves: its two times and its scheduler. No I/O, no clock."""

from helpers.twin.calibration import Calibration, calibrate
from helpers.twin.prediction import predict
from helpers.twin.published import PUBLISHED, between, timing
from helpers.twin.quantiles import Quantiles
from helpers.twin.scheduler import StaticBatch, Step, Timing
from helpers.twin.simulation import Served, lengths, serve, simulate

__all__ = [
    "PUBLISHED",
    "Calibration",
    "Quantiles",
    "Served",
    "StaticBatch",
    "Step",
    "Timing",
    "between",
    "calibrate",
    "lengths",
    "predict",
    "serve",
    "simulate",
    "timing",
]
