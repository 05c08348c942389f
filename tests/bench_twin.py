"""The twin in virtual time: simulated requests a minute on one core, and its memory.

    .venv/bin/python tests/bench_twin.py [--requests 100000 1000000]

Each line is a process of its own: seconds are its CPU's, memory is what it takes at most beyond
what its imports took (of far too many arrivals nearly all wait, and those are kept). Lengths vary
(250 ± 50 tokens), four slots, the published times.
"""

import argparse
import contextlib
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers import twin

TIMING = twin.PUBLISHED[4]
LOADS = {
    "closed, 4 users": {"load": "closed", "concurrency": 4},
    "closed, 64 users": {"load": "closed", "concurrency": 64},
    "rounds of 5": {"load": "rounds", "concurrency": 5},
    "rounds of 64": {"load": "rounds", "concurrency": 64},
    "arrivals, half full": {"load": "arrivals", "rate_per_s": 0.12},
    "arrivals, nearly full": {"load": "arrivals", "rate_per_s": 0.24},
    "arrivals, far too many": {"load": "arrivals", "rate_per_s": 10.0},
}
PREDICTION = "predict, 8 users"
GOAL_M = 5.0  # million requests a minute, so that 1 is kept where the machine is slower


def main():
    options = _parser().parse_args()
    if options.child:
        name, requests = options.child
        return _measure(name, int(requests))
    print(f"{'load':24}{'requests':>10}{'M requests/min':>16}{'memory (MB)':>13}")
    slowest = min(
        _in_a_process(name, requests)
        for name in (*LOADS, PREDICTION)
        for requests in options.requests
    )
    print(f"\nThe slowest makes {slowest:.1f} million requests a minute; {GOAL_M:g} is the goal.")
    return slowest < GOAL_M


def _parser():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--child", nargs=2, metavar=("LOAD", "REQUESTS"), help=argparse.SUPPRESS)
    return parser


def _in_a_process(name, requests):
    command = [sys.executable, __file__, "--child", name, str(requests)]
    rate, memory_mb = subprocess.check_output(command, text=True).split()
    print(f"{name:24}{requests:>10,}{float(rate):>16.1f}{memory_mb:>13}", flush=True)
    return float(rate)


def _measure(name, requests):
    _work(name, 100)
    before_mb, begins_s = _peak_mb(), time.process_time()
    _work(name, requests)
    spent_s = time.process_time() - begins_s
    print(f"{requests / spent_s * 60 / 1e6} {_peak_mb() - before_mb:.1f}")


def _work(name, requests):
    if name == PREDICTION:
        times = {"prefill_s": TIMING.prefill_s, "decode_step_s": TIMING.decode_step_s}
        lengths = {"output_tokens": 250, "output_tokens_stddev": 50}
        twin.predict(batch_size=4, **times, concurrency=8, **lengths, requests=requests)
        return
    served = twin.serve(TIMING, **LOADS[name], requests=requests, lengths=twin.lengths(250, 50))
    for _ in served:
        pass


def _peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
