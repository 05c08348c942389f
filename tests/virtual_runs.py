"""Runs against the scheduler in virtual time, token by token, with whatever is to go wrong."""

import heapq
import itertools
from dataclasses import replace

from made_runs import record, run

from helpers import twin

GUIDE = {  # 1.2 s of prefill, 39.8 ms a step, 4 slots
    "image": "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:"
    "2.1.2-optimum0.0.22-neuronx-py310-ubuntu22.04",
    "env": {
        "HF_MODEL_ID": "meta-llama/Meta-Llama-3-70B-Instruct",
        "HF_BATCH_SIZE": "4",
        "HF_SEQUENCE_LENGTH": "4096",
    },
}
TIMING = twin.PUBLISHED[4]


def served(
    timing=TIMING,
    *,
    users=None,
    requests=50,
    tokens=150,
    warmup=None,
    rounds=False,
    arrivals_s=None,
    late_s=0.0,
    strangers=0,
    speed=1.0,
):
    """Records of a load, each token with its stamp.

    `late_s` passes between an answer and its user's next request; `strangers` are further users
    whose requests are in no record. `tokens` is one length or a list of them, which is repeated.
    """
    lengths = itertools.cycle([tokens] if isinstance(tokens, int) else tokens)
    if warmup is None:
        warmup = users or 0
    batch, now_s, made, stamps = twin.StaticBatch(timing), 0.0, [], {}
    sends = [(at_s, index, None) for index, at_s in enumerate(arrivals_s or ())]
    sends += [(0.0, user, user) for user in range((users or 0) + strangers)]
    numbers, total = itertools.count(), len(sends) if arrivals_s else requests + warmup
    inside, finished, waiting = {}, 0, []

    def submit():
        at_s, _, user = heapq.heappop(sends)
        is_mine = user is None or user < users
        number = next(numbers) if is_mine else f"a stranger's {user}, {now_s}"
        if is_mine and number >= total:
            return
        inside[number] = at_s, user
        stamps[number] = []
        batch.submit(number, next(lengths) if is_mine else 150)

    while finished < total:
        if batch.idle:
            now_s = max(now_s, sends[0][0])
            submit()
        step = batch.next_step()
        now_s += step.duration_s
        while sends and sends[0][0] < now_s:
            submit()
        for number in step.emits:
            stamps[number].append(now_s)
        for number in step.finished:
            at_s, user = inside.pop(number)
            again = (now_s + late_s, 0 if user is None else user, user)
            if isinstance(number, str):
                heapq.heappush(sends, (now_s, *again[1:]))
                continue
            finished += 1
            made.append(_record(number, user, at_s, stamps.pop(number), number < warmup, speed))
            if rounds:
                waiting.append(again)
                if not any(isinstance(one, int) for one in inside):
                    sends += [(now_s + late_s, *one[1:]) for one in waiting]
                    heapq.heapify(sends)
                    waiting.clear()
            elif user is not None:
                heapq.heappush(sends, again)
    return made


def _record(index, user, sent_s, stamps_s, is_warmup, speed):
    chunk_s = tuple(700 + stamp_s / speed for stamp_s in stamps_s)
    one = record(index, user=user, tokens=len(chunk_s), phase="warmup" if is_warmup else "measured")
    return replace(
        one,
        sent_s=700 + sent_s / speed,
        first_s=chunk_s[0],
        last_s=chunk_s[-1],
        ended_s=chunk_s[-1],
        chunk_s=chunk_s,
    )


def bundled(records, size):
    """The same replies with so many tokens after the first at a time, when the last is there."""

    def held_back(stamps_s):
        last = len(stamps_s) - 1
        return tuple(stamps_s[min(last, -(-n // size) * size)] for n in range(last + 1))

    return [replace(one, chunk_s=held_back(one.chunk_s)) for one in records]


def of_guide(folder, records, *, endpoint=GUIDE, audit=(), **config):
    """A run of the guide's endpoint, with these checks in its audit instead of its own."""
    made = run(folder, records=records, **config)
    config = made.config | {"endpoint": made.config["endpoint"] | endpoint}
    if not audit:
        return replace(made, config=config)
    verdict = {"valid": all(one["level"] != "invalid" for one in audit), "checks": list(audit)}
    return replace(made, config=config, summary=made.summary | {"audit": verdict})
