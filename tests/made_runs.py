"""Records and runs made by hand, for tests of what is done with them."""

import heapq
import random
from dataclasses import replace

from helpers import results
from helpers.records import ClientHealth, Failure, RequestRecord


def record(
    index=0,
    *,
    user=0,
    sent_s=0.0,
    ttft_s=1.0,
    gap_s=0.1,
    tokens=11,
    phase="measured",
    error=None,
    prompt_tokens=550,
):
    """A request whose tokens come `gap_s` apart after `ttft_s`; with `error` it ends there."""
    chunk_s = tuple(sent_s + ttft_s + gap_s * step for step in range(tokens))
    return RequestRecord(
        index=index,
        user=user,
        phase=phase,
        inference_id=f"id-{index}",
        sent_s=sent_s,
        first_s=chunk_s[0] if chunk_s else None,
        last_s=chunk_s[-1] if chunk_s else None,
        ended_s=chunk_s[-1] if chunk_s else sent_s + ttft_s,
        chunk_s=chunk_s,
        connect_s=0.0,
        sign_s=0.0005,
        send_s=0.0001,
        prompt_tokens=prompt_tokens,
        prompt_source="as asked",
        output_tokens=tokens,
        tokens_source="tokenizer",
        asked_tokens=tokens,
        finish_reason=None if error else "length",
        error=Failure(error, "it went wrong") if error else None,
        counts={"tokenizer": tokens, "chunks": tokens},
    )


def steady(*, users=2, each=5, start_s=100.0, ttft_s=1.0, gap_s=0.1, tokens=11):
    """Users who all take equally long, one request after another; the first of each warms up."""
    took_s = ttft_s + gap_s * (tokens - 1)
    made = [
        record(
            turn * users + user,
            user=user,
            sent_s=start_s + turn * took_s,
            ttft_s=ttft_s,
            gap_s=gap_s,
            tokens=tokens,
            phase="measured" if turn else "warmup",
        )
        for turn in range(each + 1)
        for user in range(users)
    ]
    return sorted(made, key=lambda one: one.ended_s)


def queued(*, users, requests, slots=4, think_s=0.0, seed=0):
    """Users of a server with so many slots, whose replies are of chance length: they wait in turn.

    Each warms up once. A request waits for a slot, 1 s for its first token, 0.1 s for each more.
    """
    chance = random.Random(seed)
    free_s, ready = [0.0] * slots, [(0.0, user) for user in range(users)]
    made = []
    for index in range(users + requests):
        sent_s, user = heapq.heappop(ready)
        began_s = max(sent_s, heapq.heappop(free_s))
        one = record(
            index,
            user=user,
            sent_s=sent_s,
            ttft_s=began_s - sent_s + 1.0,
            tokens=max(2, round(chance.gauss(30, 9))),
            phase="warmup" if index < users else "measured",
        )
        heapq.heappush(free_s, one.ended_s)
        heapq.heappush(ready, (one.ended_s + think_s, user))
        made.append(one)
    return sorted(made, key=lambda one: one.ended_s)


def rounds(*, tokens, each=3, start_s=100.0):
    """Rounds of as many users as there are lengths of replies; the first round warms up."""
    made = []
    for turn in range(each + 1):
        phase = "measured" if turn else "warmup"
        together = [
            record(user=user, sent_s=start_s, tokens=length, phase=phase)
            for user, length in enumerate(tokens)
        ]
        start_s = max(one.ended_s for one in together)
        made += together
    return [replace(one, index=index) for index, one in enumerate(made)]


def arrivals(times_s, *, warmup=0, slots=None, dispatch_s=0.0, **reply):
    """Requests by a schedule, each sent so much too late; with slots they wait for one in turn."""
    free_s = [times_s[0]] * (slots or len(times_s))
    made = []
    for index, time_s in enumerate(times_s):
        waits_s = max(0.0, heapq.heappop(free_s) - time_s)
        one = record(
            index,
            user=None,
            sent_s=time_s,
            phase="measured" if index >= warmup else "warmup",
            **{**reply, "ttft_s": reply.get("ttft_s", 1.0) + waits_s},
        )
        heapq.heappush(free_s, one.ended_s)
        made.append(replace(one, dispatch_s=dispatch_s))
    return made


def health(**changes):
    """A client that was fit to measure."""
    fit = {"wall_s": 20.0, "cpu_s": 2.0, "round_trip_s": 0.0002}
    lags = {"loop_lag_p50_s": 0.0001, "loop_lag_p99_s": 0.002, "loop_lag_max_s": 0.004}
    return ClientHealth(**{"host": "here", **fit, **lags, **changes})


def asked(**changes):
    """A load as `run.json` holds it; with a rate it is one of arrivals."""
    made = {
        "kind": "closed_loop",
        "concurrency": 2,
        "think_s": 0.0,
        "rate_per_s": None,
        "process": None,
        "requests": 10,
        "duration_s": None,
        "warmup": 2,
        "input_tokens": 550,
        "input_tokens_stddev": 0.0,
        "output_tokens": 11,
        "output_tokens_stddev": 0.0,
        "seed": 0,
        "timeout_s": 500.0,
        "retries": 0,
        "prompts": "made by hand",
    }
    if "rate_per_s" in changes:
        made |= {"kind": "arrivals", "concurrency": None, "process": "constant"}
    return made | changes


def config(*, target="rehearsal", concurrency=2, requests=10, started_utc=None, speed=1.0, **load):
    if "rate_per_s" not in load:
        load["concurrency"] = concurrency
    made = {
        "target": target,
        "region": "us-east-1",
        "clock_speed": speed,
        "endpoint": {
            "name": "inf2-workshop-ada-llama-3-70b",
            "recipe": "llama-3-70b",
            "instance_type": "ml.inf2.48xlarge",
            "instance_count": 1,
        },
        "price": {"usd_per_hour": 36.0, "source": "made up"},
        "limits": {},
        "load": asked(requests=requests, **load),
    }
    return made | ({"started_utc": started_utc} if started_utc else {})


def run(folder, *, records=None, target="rehearsal", concurrency=2, **more):
    """A run on disk."""
    records = steady(users=concurrency) if records is None else records
    made = config(target=target, concurrency=concurrency, **more)
    recorder = results.Recorder(folder, made)
    for one in records:
        recorder.add(one)
    return recorder.finish()
