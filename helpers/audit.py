"""Whether a run measured what it was asked to, and whether its client was fit to.

Each check is `ok`, a `note` (the figures stand, and this should be known) or `invalid` (they do not
say what they seem to). The client is an instrument on this machine: what it is judged by is real
time, also in a rehearsal, where AWS time passes faster. The endpoint's figures are AWS time.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from helpers import metrics
from helpers.errors import ResultsError
from helpers.records import ClientHealth, RequestRecord
from helpers.units import ms, percent

# Little's law holds exactly: what is missing is time in which users were neither waiting for an
# answer nor thinking. A curve over users is not off by more than 5 % of its abscissa then.
MISSING_USERS_NOTE, MISSING_USERS = 0.05, 0.10
# Figures of one rate are not those of another (vLLM issue 21104: 200/s asked for, 183.5 sent).
RATE_OFF = 0.02
# A late arrival is latency that the endpoint did not cause: so much of the median time to first
# token, or as much as the event loop may be late.
DISPATCH_SHARE_NOTE, DISPATCH_SHARE = 0.01, 0.05
# A queue that grows: latencies of the last third half as long again as those of the first, and one
# request in twenty not completed. Of simulated steady queues below 80 % load hardly any look so.
GREW, NOT_COMPLETED = 1.5, 0.05
# Each stamp is late by as much as the loop is. A token takes 25 ms and more on the machines here,
# a first token a second and more: 50 ms are 5 % of that, and gaps between tokens mean nothing.
LOOP_LAG_NOTE_S, LOOP_LAG_S = 0.010, 0.050
# One thread sends and stamps. Above this it waits for itself, and so do the stamps.
CPU_SHARE = 0.80
# More of the time to first token than that is the network's, not the endpoint's.
ROUND_TRIP_SHARE = 0.10
# Shorter answers are another load: more prompts a second, and less time for each in the batch.
LENGTHS_OFF = 0.05
# Tokens of the chat template around one user message (helpers/prompts.py); the asked length is
# without them, and a server may count them or not.
TEMPLATE_TOKENS = 10
# Failed requests free their slots early, so that the others are faster than they would have been.
ERRORS = 0.01
# Stamps of several machines are compared by clocks that were set by asking each other. Latencies
# do not mix them, the window's edges do: a note from the error of a stamp on, and no rate within
# 1 % when the window is only a hundred times as long as that error.
CLOCK_ERROR_S, CLOCK_ERROR_SHARE = 0.005, 0.01


@dataclass(frozen=True)
class _Run:
    """What the checks look at."""

    records: Sequence[RequestRecord]
    load: Mapping
    clock_speed: float
    figures: Mapping | None
    tokens: Mapping
    clients: Sequence[ClientHealth]
    spans: metrics.Windows

    @property
    def complete(self) -> list[RequestRecord]:
        return [record for record in self.records if record.error is None]

    @property
    def ttft_s(self) -> float | None:
        """The median time to the first token, real seconds."""
        median_s = self.figures and self.figures["ttft_s"]["p50"]
        return median_s / self.clock_speed if median_s else None


def audit(
    records: Sequence[RequestRecord],
    *,
    load: Mapping,
    clock_speed: float,
    figures: Mapping | None,
    tokens: Mapping,
    clients: Sequence[ClientHealth],
) -> dict:
    """Check a run.

    Args:
        records: Every record of the run.
        load: `load` of `run.json`.
        clock_speed: AWS seconds in a real second.
        figures: `window` of `metrics.summary`; None when the asked load was never there.
        tokens: `tokens` of `metrics.summary`.
        clients: How each client process fared; empty when the run was cut off.

    Returns:
        `valid` (no check is `invalid`) and `checks`: for each `check` (its name), `level` (`ok`,
        `note` or `invalid`), `found`, `limit` and `advice` (empty when all is well), all text.
    """
    spans = metrics.windows(records, load)
    run = _Run(records, load, clock_speed, figures, tokens, clients, spans)
    checks = [check for look in _CHECKS for check in look(run)]
    return {"valid": all(check["level"] != "invalid" for check in checks), "checks": checks}


def table(run) -> pd.DataFrame:
    """One row a check of a run's audit; `target` comes last.

    Raises:
        ResultsError: When the run has no audit.
    """
    found = run.summary.get("audit")
    if not found:
        raise ResultsError(f"{run.path.name} was never audited: benchmark again with 06_benchmark.")
    columns = {"level": "verdict", "advice": "what to do"}
    return pd.DataFrame(found["checks"]).rename(columns=columns).assign(target=run.target)


def sentence(audit: Mapping) -> str:
    """The verdict in one line; what makes a run invalid is named with its limit."""
    by_level = Counter(check["level"] for check in audit["checks"])
    if audit["valid"]:
        notes = f", {_count(by_level['note'], 'note')}" if by_level["note"] else ""
        return f"audit: valid, {_count(by_level['ok'], 'check')} passed{notes}"
    wrong = [check for check in audit["checks"] if check["level"] == "invalid"]
    reasons = (
        f"{check['check']}: {check['found']}"
        + (f" (limit {check['limit']})" if check["limit"] else "")
        for check in wrong
    )
    return f"audit: INVALID: {'; '.join(reasons)}"


def _check(
    check: str,
    found: str,
    *,
    limit: str = "",
    note: bool = False,
    invalid: bool = False,
    advice: str = "",
) -> dict[str, str]:
    level = "invalid" if invalid else "note" if note else "ok"
    return {
        "check": check,
        "level": level,
        "found": found,
        "limit": limit,
        "advice": "" if level == "ok" else advice,
    }


# --- the load -------------------------------------------------------------------------------------


def _load(run: _Run) -> list[dict]:
    if run.figures is None:
        return [
            _check(
                "load",
                "the asked load was never there, so there are no figures",
                invalid=True,
                advice="ask for more requests or more time, at least two requests a user",
            )
        ]
    look = {"closed_loop": _users, "rounds": _rounds, "arrivals": _rate}[run.load["kind"]]
    return look(run)


def _users(run: _Run) -> list[dict]:
    """Little's law, with requests cut at the window's edges, so that it holds exactly.

    Rate times mean latency of the requests that ended in a window is the same in a long one; in a
    short one it is off by whatever latencies changed since its oldest request was sent. Failed
    requests kept a user busy as well.
    """
    users, think_s = run.load["concurrency"], run.load["think_s"] / run.clock_speed
    thinking_s = metrics.thinking_s(run.records, run.spans, think_s=think_s)
    there = run.figures["mean_concurrency"] + thinking_s / run.spans.duration_s
    missing = abs(1 - there / users)
    what = "waiting for an answer or thinking" if think_s else "waiting for an answer"
    return [
        _check(
            "load",
            f"{there:.2f} of {_count(users, 'user')} {what} on average",
            limit=f"{percent(MISSING_USERS)} off, note from {percent(MISSING_USERS_NOTE)}",
            note=missing > MISSING_USERS_NOTE,
            invalid=missing > MISSING_USERS,
            advice="the client was late to send the next request: see its CPU and event loop",
        )
    ]


def _rounds(run: _Run) -> list[dict]:
    users = run.load["concurrency"]
    return [
        _check(
            "load",
            f"{run.figures['mean_concurrency']:.2f} of {_count(users, 'user')} waiting for an "
            "answer on average: rounds never hold the asked concurrency",
            note=True,
            advice="rounds are for comparison with llmperf; to measure so many users, take a "
            "closed loop",
        )
    ]


def _rate(run: _Run) -> list[dict]:
    offered, sent = run.figures["offered_per_s"], run.figures["sent_per_s"]
    mine = metrics.within(run.records, run.spans, kind="arrivals")
    late_s = float(np.percentile([record.dispatch_s for record in mine], 99))
    ttft_s = run.ttft_s or 0.0
    note_s = max(LOOP_LAG_NOTE_S, DISPATCH_SHARE_NOTE * ttft_s)
    limit_s = max(LOOP_LAG_S, DISPATCH_SHARE * ttft_s)
    advice = "the client did not keep the schedule: ask for a lower rate, or use more clients"
    return [
        _check(
            "load",
            f"{sent:.2f} requests/s sent of {offered:.2f} scheduled ({run.load['rate_per_s']:g} "
            f"asked, {run.load['process']})",
            limit=f"{percent(RATE_OFF)} off the schedule",
            invalid=abs(sent / offered - 1) > RATE_OFF,
            advice=advice,
        ),
        _check(
            "dispatch",
            f"requests left up to {ms(late_s)} after their time (p99){_real(run)}",
            limit=f"{ms(limit_s)}, note from {ms(note_s)}",
            note=late_s > note_s,
            invalid=late_s > limit_s,
            advice=advice,
        ),
        _kept_up(run, mine),
    ]


def _kept_up(run: _Run, mine: Sequence[RequestRecord]) -> dict:
    """A rate that the endpoint cannot serve is a finding, not a fault of the measurement."""
    sent, completed = run.figures["sent_per_s"], run.figures["completed_per_s"]
    in_order = sorted((one for one in mine if one.error is None), key=lambda one: one.sent_s)
    took_s = [metrics.latency_s(record) for record in in_order if record.chunk_s]
    third = len(took_s) // 3
    first_s = float(np.median(took_s[:third])) if third else 0.0
    growth = float(np.median(took_s[-third:])) / first_s if first_s else 1.0
    found = (
        f"{sent:.2f} requests/s were sent in the window and {completed:.2f} ended in it, latencies "
        f"of the last third were {growth:.1f} times those of the first"
    )
    is_growing = growth > GREW and completed < (1 - NOT_COMPLETED) * sent
    if is_growing:
        found = f"the endpoint could not keep up, latencies grow with the run's length: {found}"
    return _check(
        "kept up",
        found,
        limit=f"{GREW:g} times and {percent(NOT_COMPLETED)} not completed",
        note=is_growing,
        advice="read the throughput as the endpoint's most, and no latency: ask for a lower rate",
    )


# --- the client -----------------------------------------------------------------------------------


def _clients(run: _Run) -> list[dict]:
    unseen = {record.part for record in run.records} - {one.part for one in run.clients}
    checks = []
    if not run.clients or unseen:
        all_of_it = "the client was not observed (plain boto3, or a run that was cut off)"
        part_of_it = f"the client was not observed in part {', '.join(map(str, sorted(unseen)))}"
        checks.append(
            _check(
                "client",
                part_of_it if run.clients else all_of_it,
                note=True,
                advice="whether it was fit to measure is unknown: the engine's whole runs say it",
            )
        )
    if run.clients:
        checks += [_event_loop(run), _cpu(run), _network(run), *_clock(run)]
    return checks


def _event_loop(run: _Run) -> dict:
    worst = max(run.clients, key=lambda one: one.loop_lag_p99_s)
    return _check(
        "event loop",
        f"up to {ms(worst.loop_lag_p99_s)} late (p99){_on(worst, run)}{_real(run)}",
        limit=f"{ms(LOOP_LAG_S)}, note from {ms(LOOP_LAG_NOTE_S)}",
        note=worst.loop_lag_p99_s > LOOP_LAG_NOTE_S,
        invalid=worst.loop_lag_p99_s > LOOP_LAG_S,
        advice="stamps are late by as much: stop what else runs on this machine, ask for fewer "
        "users, or use more clients",
    )


def _cpu(run: _Run) -> dict:
    def share(one: ClientHealth) -> float:
        return one.cpu_s / one.wall_s if one.wall_s > 0 else 0.0

    worst = max(run.clients, key=share)
    return _check(
        "client CPU",
        f"{percent(share(worst), 1)} of a core{_on(worst, run)}",
        limit=percent(CPU_SHARE),
        invalid=share(worst) > CPU_SHARE,
        advice="one thread sends and stamps, and it was full: ask for fewer users, or use more "
        "clients",
    )


def _network(run: _Run) -> dict:
    """The round trip is in every time to first token.

    Both are held against each other in real time. In a rehearsal a stamp's real seconds are
    multiplied to AWS time, and the round trip within them as well: to compare the real round trip
    with the AWS time of the first token would make the network look so many times as fast.
    """
    worst = max(run.clients, key=lambda one: one.round_trip_s)
    found = f"{ms(worst.round_trip_s)} round trip{_on(worst, run)}{_real(run)}"
    share = 0.0
    if run.ttft_s:
        share = worst.round_trip_s / run.ttft_s
        found += f", {percent(share, 1)} of the median time to first token"
    return _check(
        "network",
        found,
        limit=percent(ROUND_TRIP_SHARE),
        note=share > ROUND_TRIP_SHARE,
        advice="run the client in the endpoint's region",
    )


def _clock(run: _Run) -> list[dict]:
    worst = max(run.clients, key=lambda one: one.clock_error_s)
    if not worst.clock_error_s:
        return []  # one machine, one clock
    shortest_s = min((span.duration_s for span in run.spans), default=0.0)
    limit_s = max(CLOCK_ERROR_SHARE * shortest_s, CLOCK_ERROR_S)
    return [
        _check(
            "clock",
            f"clocks agree within {ms(worst.clock_error_s)}{_on(worst, run)}",
            limit=f"{ms(limit_s)}, note from {ms(CLOCK_ERROR_S)}",
            note=worst.clock_error_s > CLOCK_ERROR_S,
            invalid=worst.clock_error_s > limit_s,
            advice="the window's edges are uncertain by as much: measure longer, or with clients "
            "on one machine",
        )
    ]


def _real(run: _Run) -> str:
    """Marks what is real time where AWS time is another."""
    return "" if run.clock_speed == 1 else " in this machine's time"


def _on(client: ClientHealth, run: _Run) -> str:
    """Where the worst of several clients ran."""
    return f" on {client.host}" if len({one.host for one in run.clients}) > 1 else ""


# --- the requests ---------------------------------------------------------------------------------


def _lengths(run: _Run) -> list[dict]:
    asked, output = run.tokens["asked_mean"], run.tokens["output_mean"]
    if not asked:
        return []  # nothing was completed: other checks say so
    return [_output_length(asked, output), _prompt_length(run)]


def _output_length(asked: float, output: float) -> dict:
    # One more is the token that ends the reply, where the server counts it.
    least, most = (1 - LENGTHS_OFF) * asked, (1 + LENGTHS_OFF) * asked + 1
    return _check(
        "output length",
        f"{output:.1f} tokens a reply of {asked:.1f} asked",
        limit=f"{least:.1f} to {most:.1f} tokens",
        note=not least <= output <= most,
        advice="the model ended early or late, so this is another load than the asked one: "
        "compare it only with runs of the same real length",
    )


def _prompt_length(run: _Run) -> dict:
    asked = run.load["input_tokens"]
    counted = [r.prompt_tokens for r in run.complete if r.prompt_source == "usage"]
    if not counted:
        return _check("prompt length", f"{asked} tokens as made; the server did not count them")
    mean = float(np.mean(counted))
    # A mean of so many drawn lengths is not the mean they were drawn with.
    chance = 2 * run.load["input_tokens_stddev"] / len(counted) ** 0.5
    off = LENGTHS_OFF * asked + chance
    least, most = max(0.0, asked - off), asked + TEMPLATE_TOKENS + off
    return _check(
        "prompt length",
        f"{mean:.1f} tokens counted by the server of {asked} asked without the chat template",
        limit=f"{least:.1f} to {most:.1f} tokens",
        note=not least <= mean <= most,
        advice="prompts are made of words that are one token each for Llama 3: for this model, "
        "ask for a length that the server counts as the one you want",
    )


def _errors(run: _Run) -> list[dict]:
    measured = [r for r in run.records if r.phase == "measured" and metrics.is_answered(r)]
    failed = sum(map(metrics.is_failed, measured))
    warmup = sum(metrics.is_failed(r) for r in run.records if r.phase != "measured")
    cut_off = [r for r in run.records if r.phase == "measured" and not metrics.is_answered(r)]
    share = failed / len(measured) if measured else 0.0
    found = f"{percent(share, 1)} of the requests failed"
    if warmup:
        found += f", and {warmup} to warm up"
    # Those of a schedule that are still running are the slow ones; users are all cut off alike.
    is_biased = bool(cut_off) and run.load["kind"] == "arrivals"
    if is_biased:
        found += f"; {len(cut_off)} were interrupted, the slow ones among them"
    return [
        _check(
            "errors",
            found,
            limit=percent(ERRORS),
            note=bool(failed or warmup) or is_biased,
            invalid=share > ERRORS,
            advice="read what failed in requests.jsonl, and repeat the run without it",
        )
    ]


def _size(run: _Run) -> list[dict]:
    if run.figures is None:
        return []
    count, withheld = run.figures["requests"], run.figures["ttft_s"]["withheld"]
    found = f"{_count(count, 'request')} in the window"
    if withheld:
        found += f", too few for {', '.join(withheld)}"
    if run.figures["ci95_missing"]:
        found += f"; {run.figures['ci95_missing']}"
    return [
        _check(
            "number of requests",
            found,
            note=bool(withheld or run.figures["ci95_missing"]),
            invalid="p50" in withheld,
            limit="10 for p90, 20 for p95, 100 for p99",
            advice="ask for more requests, or for more time; those that end before or after the "
            "asked load was there are not among them",
        )
    ]


def _tokens(run: _Run) -> list[dict]:
    if not run.complete:
        return []
    used = Counter(record.tokens_source for record in run.complete)
    pairs = Counter(
        (record.tokens_source, other)
        for record in run.complete
        for other in record.counts
        if other != record.tokens_source
    )
    said = [_agreement(run.complete, one, other) for one, other in sorted(pairs)]
    words = dict.fromkeys(words for words, _ in said)  # each once
    found = [f"counted by {' and '.join(sorted(used))}", *words]
    if not said:
        found.append("nothing to compare with")
    return [
        _check(
            "token counts",
            "; ".join(found),
            note=len(used) > 1 or set(used) == {"chunks"} or any(differs for _, differs in said),
            advice="a chunk may hold several tokens, and another tokenizer counts otherwise: "
            "trust the server's own count (usage) most, counted chunks least; run.json says why "
            "there was no tokenizer",
        )
    ]


def _agreement(records: Sequence[RequestRecord], used: str, other: str) -> tuple[str, bool]:
    """How the count that is used compares with another, and whether they disagree."""
    both = [r for r in records if r.tokens_source == used and other in r.counts]
    differences = [record.output_tokens - record.counts[other] for record in both]
    if not any(differences):
        return f"as many by {other}", False
    if used == "usage" and set(differences) <= {0, 1}:  # none where a reply was cut by its length
        where = f"{sum(differences)} of {_count(len(both), 'reply', 'replies')}"
        return f"the server counts one more than {other} in {where}: the end token", False
    counted = sum(record.counts[other] for record in both)
    return f"{sum(r.output_tokens for r in both)} by {used} (used), {counted} by {other}", True


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


_CHECKS: tuple[Callable[[_Run], list[dict]], ...] = (
    _load,
    _clients,
    _lengths,
    _errors,
    _size,
    _tokens,
)
