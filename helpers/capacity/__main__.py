"""The command line of the capacity model: `python -m helpers.capacity --help`."""

import argparse
import io
import sys
from collections.abc import Iterable, Sequence

import pandas as pd

from helpers import checks, contracts, costs, models, recipes, results, twin, verdict
from helpers.capacity import expectation, fleet, options
from helpers.capacity.asked import Answers, Limits, Machine
from helpers.capacity.machines import compiled, machines
from helpers.capacity.sizing import HOURS_A_MONTH, Sizing, chance, replicas
from helpers.errors import WorkshopError, nobody_reads
from helpers.twin import guide

_PREDICTED = "Predicted by the model, not measured."
_PRICES = f"Prices: SageMaker endpoints on demand, {costs.PRICE_DATE}."
_CONTAINERS = [version for _, version in contracts.CONTRACTS]
_ASKED = f"of the containers {_CONTAINERS[0]} to {_CONTAINERS[-1]}"
_COMPILED = (
    f"Compiled: whether the Neuron cache has the shape for at least one {_ASKED}; with `no` none "
    "of them would start with it, with `assumed` nobody has looked it up. A published shape that "
    "is not in the cache was compiled by those who measured it. Derived: scaled from published "
    "times, a guess."
)
_COMPILED_ONE = {
    "yes": f"Compiled: yes, the Neuron cache has the shape for at least one {_ASKED}.",
    "assumed": f"Compiled: assumed for at least one {_ASKED}; nobody has looked the shape up.",
    "no": f"Compiled: no, the Neuron cache is not known to have the shape for any {_ASKED}: none "
    "of them would start with it.",
}
_CHEAPEST, _DEAREST = 0.0001, 1_000_000  # $ per 1M output tokens: beyond them no service's price
_SLOWEST_STEP_S = 10  # above it, somebody means milliseconds
_OF_THE_FLOOR = "Floor: 100 % is reading the weights once a step, as fast as the memory can."
_A_RUN = "as in a benchmark of 50 requests, or 4 a user, the last ones leave slots empty"
_CHANCE = (
    "Other random arrivals (--seed) move the number of replicas by some {:.0f} %, at times by "
    "twice that."
)
_OVER_THE_DAY = (
    "Kept over the day: by 95 of 100 of all its requests, though hours may miss it. Chance moves a "
    f"policy: figures are of {fleet.CHANCE_DAYS} days (in brackets the worst and the best), good "
    "to some 5 % of the dollars and 4 points of the share. Assumed: AWS's alarm looks at the "
    "highest number of requests within ten seconds."
)
_ARRIVALS = (
    "Assumed: people ask independently of each other and as often however long they wait; "
    "SageMaker sends each request to a replica at random, its default."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer one question; 0, 2 when it cannot be answered, 130 on an interrupt."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of few characters shows others as ?
    chosen = options.parser(_ANSWERS).parse_args(arguments)
    if sys.stdout is None:
        print("The answer could not be written: the output is closed.", file=sys.stderr)
        return 1
    try:
        chosen.answer(chosen)
        sys.stdout.flush()
    except WorkshopError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is not None:  # a file's fault: the output has no name
            print(f"{error.filename} cannot be used: {error.strerror}.", file=sys.stderr)
            return 2
        # Who reads has gone, or the disk is full.
        nobody_reads()
        if not isinstance(error, BrokenPipeError):
            print(f"The answer could not be written: {error.strerror}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


# --- The questions --------------------------------------------------------------------------


def _endpoint(chosen: argparse.Namespace) -> None:
    machine, answers = _machine(chosen), _answers(chosen)
    table = expectation.expect(
        machine,
        users=[checks.whole("--users", one, most=checks.MOST_USERS) for one in chosen.users],
        answers=answers,
        load="rounds" if chosen.rounds else "closed",
        seed=chosen.seed,
    )
    _say_machine(machine)
    again = "all have their answers" if chosen.rounds else "their answer is there"
    print(f"{_load_said(chosen, answers)} Users ask again as soon as {again}; {_A_RUN}.")
    _print(table)
    _say_compiled(chosen, machine)
    print(f"${machine.price_per_hour:.2f} an hour. {_PRICES}")


def _replicas(chosen: argparse.Namespace) -> None:
    machine = _machine(chosen)
    if chosen.against is not None and not _CHEAPEST <= chosen.against <= _DEAREST:
        raise WorkshopError(
            f"--against is a price from ${_CHEAPEST:g} to ${_DEAREST:,} for a million output "
            f"tokens, not {chosen.against:g}."
        )
    asked = _who(chosen)
    by_limit = {limit_s: _limits(chosen, limit_s) for limit_s in chosen.ttft_p95}
    found, too_tight = _sized(machine, _asking(chosen), by_limit)
    _say_machine(machine)
    if len(by_limit) > 1:
        print(f"{asked}, by the limit of their first token:")
        _print(_by_limit(found))
        for why in too_tight:
            print(why)
    for one in found.values() if len(by_limit) == 1 else ():
        count = f"{one.replicas:,} {'replica' if one.replicas == 1 else 'replicas'}"
        print(
            f"{asked}, {one.limits}: {count}, ${one.price_per_month:,.0f} a month, "
            f"${one.price_per_month / chosen.people:,.2f} a person."
        )
        _print(one.table())
    if chosen.against is not None:
        print(_elsewhere(chosen, found.values()))
    _say_compiled(chosen, machine)
    most = max(one.chance for one in found.values())
    load = _load_said(chosen, _answers(chosen))
    print(load, _CHANCE.format(100 * most), _ARRIVALS, _PRICES, sep="\n")


def _sized(
    machine: Machine, asking: dict, by_limit: dict[float, Limits]
) -> tuple[dict[float, Sizing], list[str]]:
    """What keeps each limit, and why others cannot be kept.

    Raises:
        WorkshopError: When none can.
    """
    found, too_tight = {}, []
    for limit_s, limits in by_limit.items():
        try:
            found[limit_s] = replicas(machine, **asking, limits=limits)
        except WorkshopError as error:
            too_tight.append(str(error))
    if not found:
        raise WorkshopError(too_tight[0])
    return found, too_tight


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
    tokens = chosen.people / chosen.every * _answers(chosen).tokens * 3600 * HOURS_A_MONTH
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
    if not len(fitting) and not chosen.all:
        raise WorkshopError(
            f"None of the {len(table)} keeps {limits}: see with --all why, and allow more or leave "
            "room for larger machines."
        )
    model_id = recipes.get().model_id if chosen.model is None else chosen.model
    print(
        f"{_PREDICTED} {model_id} for {_who(chosen)}, {limits}"
        f"{'; the cheapest first.' if len(fitting) else ': none keeps it.'}"
    )
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
    print(_load_said(chosen, _answers(chosen)), _COMPILED, _OF_THE_FLOOR, sep="\n")
    if len(fitting):
        most = max(chance(limits, prefill_s) for prefill_s in fitting["prefill (s)"])
        print(_CHANCE.format(100 * most))
    print(_ARRIVALS, _PRICES, sep="\n")


def _in_short(table: pd.DataFrame) -> pd.DataFrame:
    """For a terminal: without the times, with thousands told apart."""
    shown = table.drop(columns=["prefill (s)", "decode step (ms)"])
    for name in ("replicas", "$ a month"):
        shown[name] = [f"{one:,}" for one in shown[name].fillna(0)]
        shown.loc[shown[name] == "0", name] = ""
    for name in shown.columns[shown.isna().any()]:
        shown[name] = shown[name].astype(object).fillna("")
    return shown


def _day(chosen: argparse.Namespace) -> None:
    machine, limits = _machine(chosen), Limits(chosen.ttft_p95)
    found = fleet.day(
        machine, **_asking(chosen), limits=limits, shape=chosen.shape, policy=_policy(chosen)
    )
    policy = found.policy
    _say_machine(machine)
    print(
        f"At most {_who(chosen)}, {limits}. Policy: "
        f"{policy.minimum:,} to {policy.maximum:,} replicas, "
        f"{policy.concurrent_per_replica:.3g} requests at a time each; a new replica takes "
        f"{models.startup_s(machine.model_id) / 60:.0f} min."
    )
    _print(found.totals())
    if not found.kept:
        print(_why_not_kept(chosen))
    _print(found.hours)
    load = _load_said(chosen, _answers(chosen))
    print(_OVER_THE_DAY, _shape_said(chosen), load, _ARRIVALS, _PRICES, sep="\n")


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
    run = _loaded(chosen)
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
    if given[1] is not None and given[1] > _SLOWEST_STEP_S:
        raise WorkshopError(
            f"--decode-step is in seconds, and no endpoint takes {given[1]:g} s for a token: give "
            f"{given[1] / 1000:g} for {given[1]:g} ms."
        )
    if chosen.run:
        named = (chosen.model, chosen.instance, chosen.sequence_length, chosen.prefill)
        if any(one is not None for one in named):
            raise WorkshopError(
                "A run says which model and machine it measured and has its own times: leave "
                "--model, --instance, --sequence-length, --prefill and --decode-step out."
            )
        return Machine.of_run(_loaded(chosen), batch_size=chosen.batch)
    recipe = recipes.get()
    model_id = recipe.model_id if chosen.model is None else chosen.model
    if given[0] is None and models.named_b(model_id) is None:
        raise models.sizeless(model_id, ": give its two times, --prefill and --decode-step.")
    return Machine.named(
        model_id,
        instance_type=recipe.instance_type if chosen.instance is None else chosen.instance,
        batch_size=recipe.batch_size if chosen.batch is None else chosen.batch,
        sequence_length=recipe.sequence_length
        if chosen.sequence_length is None
        else chosen.sequence_length,
        times_s=None if given[0] is None else given,
    )


def _loaded(chosen: argparse.Namespace) -> results.Run:
    """The run that the arguments name, read once."""
    if not isinstance(chosen.run, results.Run):
        chosen.run = results.load(chosen.run)
    return chosen.run


def _answers(chosen: argparse.Namespace) -> Answers:
    """As long as asked, else as in the run there is, else the usual ones."""
    own = chosen.output_tokens, chosen.output_tokens_stddev
    is_of_run = getattr(chosen, "run", None) and None in own
    usual = Answers.of_run(_loaded(chosen)) if is_of_run else Answers()
    tokens, stddev = own
    return Answers(
        usual.tokens if tokens is None else tokens, usual.stddev if stddev is None else stddev
    )


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


def _who(chosen: argparse.Namespace) -> str:
    who = "1 person who asks" if chosen.people == 1 else f"{chosen.people:,.15g} people who ask"
    return f"{who} every {chosen.every:g} s"


def _load_said(chosen: argparse.Namespace, answers: Answers) -> str:
    asked = (chosen.output_tokens, chosen.output_tokens_stddev) != (None, None)
    of_run = ", as in the run" if getattr(chosen, "run", None) and not asked else ""
    return (
        f"Load: answers of {answers}{of_run}. How long a prompt is does not matter: above batch 1 "
        "it is padded to the whole sequence length, at batch 1 every prefill is taken to be alike."
    )


def _say_compiled(chosen: argparse.Namespace, machine: Machine) -> None:
    if not chosen.run:  # what was measured did start
        print(_COMPILED_ONE[compiled(machine)])


def _shape_said(chosen: argparse.Namespace) -> str:
    if tuple(chosen.shape) == fleet.OFFICE_HOURS:
        return "Assumed: a day of office hours in one time zone (--shape for another)."
    return "A day as given."


def _print(table: pd.DataFrame, *, index: bool = True) -> None:
    print(table.to_string(index=index))


if __name__ == "__main__":
    sys.exit(main())
