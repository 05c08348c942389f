"""The command line of the capacity model: `python -m helpers.capacity --help`."""

import argparse
import math
import os
import sys
from collections.abc import Iterable, Sequence

import pandas as pd

from helpers import checks, costs, models, recipes, results, twin, verdict
from helpers.capacity import expectation, fleet, options
from helpers.capacity.asked import Answers, Limits, Machine
from helpers.capacity.machines import machines
from helpers.capacity.sizing import CHANCE, HOURS_A_MONTH, Sizing, replicas
from helpers.errors import WorkshopError
from helpers.twin import guide

_PREDICTED = "Predicted by the model, not measured."
_PRICES = f"Prices: SageMaker endpoints on demand, {costs.PRICE_DATE}."
_COMPILED = (
    "Compiled: whether the Neuron cache has the shape; with `no` the container would not start, "
    "with `assumed` nobody has looked it up. Derived: scaled from published times, a guess."
)
_OF_THE_FLOOR = "Floor: 100 % is reading the weights once a step, as fast as the memory can."
_CHANCE = "Chance moves the number of replicas by about {:.0f} % (--seed)."
_OVER_THE_DAY = (
    "Kept over the day: by 95 of 100 of all its requests, though hours may miss it. Chance moves a "
    f"policy: figures are of {fleet.CHANCE_DAYS} days (in brackets the worst and the best), good "
    "to some 5 % of the dollars and 3 points of the share. Assumed: AWS's alarm looks at the "
    "highest number of requests within ten seconds."
)
_ARRIVALS = (
    "Assumed: people ask independently of each other and as often however long they wait; "
    "SageMaker sends each request to a replica at random, its default."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer one question; 0, 2 when it cannot be answered, 130 on an interrupt."""
    chosen = options.parser(_ANSWERS).parse_args(arguments)
    try:
        chosen.answer(chosen)
        sys.stdout.flush()
    except WorkshopError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:  # who reads has gone, or the disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more
        if not isinstance(error, BrokenPipeError):
            print(f"The answer could not be written: {error.strerror}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


# --- The questions --------------------------------------------------------------------------


def _endpoint(chosen: argparse.Namespace) -> None:
    machine = _machine(chosen)
    table = expectation.expect(
        machine,
        users=[checks.whole("--users", one, most=checks.MOST_USERS) for one in chosen.users],
        answers=_answers(chosen),
        load="rounds" if chosen.rounds else "closed",
        seed=chosen.seed,
    )
    _say_machine(machine)
    _print(table)
    print(f"${machine.price_per_hour:.2f} an hour. {_PRICES}")


def _replicas(chosen: argparse.Namespace) -> None:
    machine = _machine(chosen)
    if chosen.against is not None and not 0 < chosen.against < math.inf:
        raise WorkshopError(f"--against is a price above 0, not {chosen.against:g}.")
    asked = f"{chosen.people:,.15g} people who ask every {chosen.every:g} s"
    found = {
        limit_s: replicas(machine, **_asking(chosen), limits=_limits(chosen, limit_s))
        for limit_s in chosen.ttft_p95
    }
    _say_machine(machine)
    if len(found) > 1:
        print(f"{asked}, by the limit of their first token:")
        _print(_by_limit(found))
    for one in found.values() if len(found) == 1 else ():
        count = f"{one.replicas:,} {'replica' if one.replicas == 1 else 'replicas'}"
        print(
            f"{asked}, {one.limits}: {count}, ${one.price_per_month:,.0f} a month, "
            f"${one.price_per_month / chosen.people:,.2f} a person."
        )
        _print(one.table())
    if chosen.against is not None:
        print(_elsewhere(chosen, found.values()))
    chance = max(one.chance for one in found.values())
    print(_CHANCE.format(100 * chance), _ARRIVALS, _PRICES, sep="\n")


def _by_limit(found: dict[float, Sizing]) -> pd.DataFrame:
    rows = {
        f"{limit_s:g}": {
            "replicas": f"{one.replicas:,}",
            "$ a month": f"{one.price_per_month:,.0f}",
            "$ per 1M output tokens": f"{one.per_million_tokens:,.2f}",
            "TTFT p50 (s)": f"{one.each.ttft_p50_s:.2f}",
            "slots in use (%)": f"{100 * one.each.slots_used:.0f}",
        }
        for limit_s, one in found.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(index="TTFT p95 (s)")


def _elsewhere(chosen: argparse.Namespace, found: Iterable[Sizing]) -> str:
    """What the same answers cost somewhere else."""
    tokens = chosen.people / chosen.every * chosen.output_tokens * 3600 * HOURS_A_MONTH
    cost = tokens / 1e6 * chosen.against
    times = ", ".join(f"{one.price_per_month / cost:.2g}" for one in found)
    return (
        f"At ${chosen.against:g} per 1M output tokens, prompts left out, the same answers cost "
        f"${cost:,.0f} a month: this is {times} times that."
    )


def _machines(chosen: argparse.Namespace) -> None:
    limits = _limits(chosen, chosen.ttft_p95)
    table = machines(
        chosen.model,
        **_asking(chosen),
        limits=limits,
        sequence_length=chosen.sequence_length,
        instances=chosen.instances,
        batch_sizes=chosen.batch_sizes,
        ray=chosen.ray,
    )
    fitting = table[table["replicas"].notna()]
    model_id = recipes.get().model_id if chosen.model is None else chosen.model
    print(
        f"{_PREDICTED} {model_id} for {chosen.people:,.15g} people who ask every "
        f"{chosen.every:g} s, {limits}; the cheapest first."
    )
    if len(fitting) or chosen.all:
        _print(_in_short(table if chosen.all else fitting.drop(columns="why not")), index=False)
    if not chosen.all and len(fitting) < len(table):
        print(f"{len(table) - len(fitting)} more cannot: --all shows them and why.")
    ready = fitting[fitting["compiled"] == "yes"]
    if len(ready):
        best = ready.iloc[0]
        print(
            f"Cheapest that is compiled today: {best['instance']}, batch {best['batch']}, "
            f"{best['replicas']:,} x, ${best['$ a month']:,} a month."
        )
    elif len(fitting):
        print("None of these is known to be compiled.")
    print(_COMPILED, _OF_THE_FLOOR, _CHANCE.format(100 * CHANCE), _ARRIVALS, _PRICES, sep="\n")


def _in_short(table: pd.DataFrame) -> pd.DataFrame:
    """For a terminal: without the times, with thousands told apart."""
    shown = table.drop(columns=["prefill (s)", "decode step (ms)"])
    for name in ("replicas", "$ a month"):
        shown[name] = [f"{one:,}" for one in shown[name].fillna(0)]
        shown.loc[shown[name] == "0", name] = ""
    return shown.fillna("")


def _day(chosen: argparse.Namespace) -> None:
    machine, limits = _machine(chosen), Limits(chosen.ttft_p95)
    found = fleet.day(
        machine, **_asking(chosen), limits=limits, shape=chosen.shape, policy=_policy(chosen)
    )
    policy = found.policy
    _say_machine(machine)
    print(
        f"At most {chosen.people:,.15g} people who ask every {chosen.every:g} s, {limits}. Policy: "
        f"{policy.minimum:,} to {policy.maximum:,} replicas, "
        f"{policy.concurrent_per_replica:.3g} requests at a time each; a new replica takes "
        f"{models.startup_s(machine.model_id) / 60:.0f} min."
    )
    _print(found.totals())
    if not found.kept:
        print(_why_not_kept(chosen))
    _print(found.hours)
    print(_OVER_THE_DAY, _shape_said(chosen), _ARRIVALS, _PRICES, sep="\n")


def _why_not_kept(chosen: argparse.Namespace) -> str:
    if chosen.target:
        return (
            "This policy does not keep the limit over the day: it has too few replicas, or they "
            "start too late."
        )
    return (  # each has room for twice the replicas that the peak takes
        "None of the policies that were tried keeps the limit over the day: replicas start too "
        "late for it."
    )


def _run(chosen: argparse.Namespace) -> None:
    run = results.load(chosen.run)
    print(f"{verdict.against(run)}.")
    try:
        print(f"The two times that this run shows: {twin.calibrate(run)}.")
    except WorkshopError as error:
        print(f"It does not show its two times. {error}")


def _guide(_: argparse.Namespace) -> None:
    print(guide.sentence())
    for table in (guide.explain(), guide.beside(), guide.assumptions()):
        print()
        _print(table, index=False)
    print("\nAssumed:")
    for line in guide.ASSUMED:
        print(f"- {line}")
    print(guide.OPEN)


_ANSWERS = {
    "endpoint": _endpoint,
    "replicas": _replicas,
    "machines": _machines,
    "day": _day,
    "run": _run,
    "guide": _guide,
}


# --- What is asked about --------------------------------------------------------------------


def _machine(chosen: argparse.Namespace) -> Machine:
    """The machine that the arguments name: of a run, by its times, or of a recipe."""
    given = chosen.prefill, chosen.decode_step
    if (given[0] is None) != (given[1] is None):
        raise WorkshopError("Give both times, --prefill and --decode-step, or neither.")
    if chosen.run:
        named = (chosen.model, chosen.instance, chosen.sequence_length, chosen.prefill)
        if any(one is not None for one in named):
            raise WorkshopError(
                "A run says which model and machine it measured and has its own times: leave "
                "--model, --instance, --sequence-length, --prefill and --decode-step out."
            )
        return Machine.of_run(results.load(chosen.run), batch_size=chosen.batch)
    recipe = recipes.get()
    model_id = recipe.model_id if chosen.model is None else chosen.model
    if given[0] is None and models.named_b(model_id) is None:
        raise WorkshopError(
            f"The name {model_id!r} does not say how large the model is (one size, as in -8B "
            "or -70B): give its two times, --prefill and --decode-step."
        )
    return Machine.named(
        model_id,
        instance_type=recipe.instance_type if chosen.instance is None else chosen.instance,
        batch_size=recipe.batch_size if chosen.batch is None else chosen.batch,
        sequence_length=recipe.sequence_length
        if chosen.sequence_length is None
        else chosen.sequence_length,
        times_s=None if given[0] is None else given,
    )


def _answers(chosen: argparse.Namespace) -> Answers:
    return Answers(chosen.output_tokens, chosen.output_tokens_stddev)


def _limits(chosen: argparse.Namespace, ttft_p95_s: float) -> Limits:
    return Limits(ttft_p95_s, chosen.tpot_p95, chosen.goodput)


def _asking(chosen: argparse.Namespace) -> dict:
    return {
        "people": chosen.people,
        "every_s": chosen.every,
        "answers": _answers(chosen),
        "seed": chosen.seed,
    }


def _policy(chosen: argparse.Namespace) -> fleet.Policy | None:
    own = {
        "--minimum": chosen.minimum,
        "--maximum": chosen.maximum,
        "--scale-in-cooldown": chosen.scale_in_cooldown,
        "--scale-out-cooldown": chosen.scale_out_cooldown,
    }
    given = {name: value for name, value in own.items() if value is not None}
    if chosen.target is None:
        if given:
            raise WorkshopError(
                f"{next(iter(given))} belongs to a policy of your own: give its --target, too."
            )
        return None
    if chosen.maximum is None:
        raise WorkshopError("A policy goes up to a number of replicas: give --maximum.")
    return fleet.Policy(
        chosen.target,
        given.get("--minimum", 1),
        chosen.maximum,
        given.get("--scale-in-cooldown", fleet.COOLDOWN_S),
        given.get("--scale-out-cooldown", fleet.COOLDOWN_S),
    )


# --- Words ----------------------------------------------------------------------------------


def _say_machine(machine: Machine) -> None:
    floor = machine.floor
    print(f"{_PREDICTED} {machine}.")
    if floor:
        print(
            f"Floor: at most {floor.tokens_per_s:.0f} tokens/s a replica; "
            f"{floor.share(machine.timing)}."
        )
    else:
        print(f"Floor: not known, for {machine.model_id!r} does not say how large the model is.")


def _shape_said(chosen: argparse.Namespace) -> str:
    if tuple(chosen.shape) == fleet.OFFICE_HOURS:
        return "Assumed: a day of office hours in one time zone (--shape for another)."
    return "A day as given."


def _print(table: pd.DataFrame, *, index: bool = True) -> None:
    print(table.to_string(index=index))


if __name__ == "__main__":
    sys.exit(main())
