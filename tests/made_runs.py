"""Records and runs made by hand, for tests of what is done with them."""

from helpers import results
from helpers.records import Failure, RequestRecord


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
        tokens_source="chunks",
        asked_tokens=tokens,
        finish_reason=None if error else "length",
        error=Failure(error, "it went wrong") if error else None,
        counts={"chunks": tokens},
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


def config(*, target="rehearsal", concurrency=2, requests=10, started_utc=None, speed=1.0):
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
        "load": {
            "concurrency": concurrency,
            "requests": requests,
            "input_tokens": 550,
            "output_tokens": 11,
        },
    }
    return made | ({"started_utc": started_utc} if started_utc else {})


def run(folder, *, records=None, target="rehearsal", concurrency=2, **more):
    """A run on disk."""
    records = steady(users=concurrency) if records is None else records
    made = config(target=target, concurrency=concurrency, **more)
    recorder = results.Recorder(folder, made)
    for one in records:
        recorder.add(one)
    return recorder.finish(results.summary(recorder.records, recorder.config))
