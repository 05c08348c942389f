"""What is kept of each request, and of the client that sent it.

Stamps are `CLOCK_MONOTONIC` seconds of the machine that keeps the records, and real ones: in a
rehearsal AWS time passes `clock_speed` times as fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Failure:
    """Why a request has no complete reply; the record's `ended_s` says when.

    Attributes:
        kind: SageMaker's own error type (`ModelError`, `ThrottlingException`, `StreamBroken`, …);
            for an error inside a stream the kind that `messages.Fault` has (`validation`,
            `overloaded`, …); where nobody named one, `connection`, `timeout`, `truncated`,
            `framing`, `empty` or `interrupted`.
        message: What was said, shortened.
        status: HTTP status of SageMaker's answer.
        original_status: HTTP status of the container's answer.
        original_message: The container's own words.
    """

    kind: str
    message: str
    status: int | None = None
    original_status: int | None = None
    original_message: str | None = None


@dataclass(frozen=True)
class RequestRecord:
    """One request, finished or failed.

    Attributes:
        index: Place in the plan, from 0.
        user: Which of the concurrent users sent it, from 0; None when it was sent by a schedule.
        phase: `warmup` or `measured`.
        inference_id: Sent as `X-Amzn-SageMaker-Inference-Id`, to be found again in AWS's logs.
        sent_s: When latency begins: before the first byte of the request was written, or, with an
            arrival schedule, when that was intended.
        first_s: First chunk with text; None without any.
        last_s: Last chunk with text; None without any.
        ended_s: The reply was complete, or given up.
        chunk_s: Every chunk with text.
        connect_s: Seconds spent on opening the connection for it.
        sign_s: Seconds spent on signing, before `sent_s`.
        send_s: Seconds spent on handing the request to the socket.
        prompt_tokens: Tokens of the prompt.
        prompt_source: How they are known: `usage` (the server counted) or how they were made.
        output_tokens: Tokens of the reply, the prompt never among them.
        tokens_source: How they are known, a key of `counts`: `usage` where the server counts, else
            `tokenizer`, else `chunks` (one token a chunk, as TGI sends).
        asked_tokens: Output tokens asked for.
        finish_reason: The container's own word.
        error: Why there is no complete reply; None when there is.
        counts: Output tokens by each source there was: `usage`, `tokenizer`, `chunks`.
        dispatch_s: Seconds from the intended time to the first byte written; 0 without a schedule.
        part: 0, and one more each time a broken run was resumed. Stamps of different parts may be
            of different boots: only those of one part can be compared.
        client: Which process sent it, a place in the summary's `clients`.
    """

    index: int
    user: int | None
    phase: str
    inference_id: str
    sent_s: float
    first_s: float | None
    last_s: float | None
    ended_s: float
    chunk_s: tuple[float, ...]
    connect_s: float
    sign_s: float
    send_s: float
    prompt_tokens: int
    prompt_source: str
    output_tokens: int
    tokens_source: str
    asked_tokens: int
    finish_reason: str | None
    error: Failure | None
    counts: Mapping[str, int] = field(default_factory=dict)
    dispatch_s: float = 0.0
    part: int = 0
    client: int = 0


@dataclass(frozen=True)
class ClientHealth:
    """What one client process noticed of itself while it sent requests; real seconds.

    Attributes:
        host: The machine's name.
        wall_s: From the start of the clock to the end of the last request.
        cpu_s: CPU time of the whole process in that time, user and system.
        loop_lag_p50_s: How late the event loop called back, median.
        loop_lag_p99_s: The same, 99th percentile.
        loop_lag_max_s: The same, at most.
        round_trip_s: Network round trip: median time of opening a TCP connection.
        clock_offset_s: What was added to this client's stamps to bring them to the clock of the
            machine that keeps the records; 0 on the same machine.
        clock_error_s: How wrong that may be; 0 on the same machine.
        part: As in `RequestRecord`.
    """

    host: str
    wall_s: float
    cpu_s: float
    loop_lag_p50_s: float
    loop_lag_p99_s: float
    loop_lag_max_s: float
    round_trip_s: float
    clock_offset_s: float = 0.0
    clock_error_s: float = 0.0
    part: int = 0
