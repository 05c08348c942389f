"""The command line of the capacity model: `python -m helpers.capacity --help`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from helpers import costs, models, recipes, results
from helpers.capacity import expectation, fleet
from helpers.capacity.asked import OUTPUT_TOKENS, OUTPUT_TOKENS_STDDEV, Answers, Limits, Machine
from helpers.capacity.expectation import USERS
from helpers.capacity.machines import BATCH_SIZES, machines
from helpers.capacity.sizing import CHANCE, replicas
from helpers.errors import WorkshopError
from helpers.twin import guide

_PREDICTED = "Predicted by the model, not measured."
_PRICES = f"Prices: SageMaker endpoints on demand, {costs.PRICE_DATE}."
_CHANCE = f"Chance moves the number of replicas by about {100 * CHANCE:.0f} % (--seed)."
_ARRIVALS = (
    "Assumed: people ask independently of each other and as often however long they wait; "
    "SageMaker sends each request to a replica at random, its default."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer one question; 0, 2 when it cannot be answered, 130 on an interrupt."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.answer(chosen)
    except WorkshopError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


# --- The questions --------------------------------------------------------------------------


def _endpoint(chosen: argparse.Namespace) -> None:
    machine = _machine(chosen)
    table = expectation.expect(
        machine,
        users=chosen.users,
        answers=_answers(chosen),
        load="rounds" if chosen.rounds else "closed",
        seed=chosen.seed,
    )
    _say_machine(machine)
    _print(table)
    print(f"${machine.price_per_hour:.2f} an hour. {_PRICES}")


def _replicas(chosen: argparse.Namespace) -> None:
    machine, limits = _machine(chosen), _limits(chosen)
    found = replicas(machine, **_asking(chosen), limits=limits)
    _say_machine(machine)
    print(
        f"{chosen.people:,.15g} people who ask every {chosen.every:g} s, {limits}: "
        f"{found.replicas:,} {'replica' if found.replicas == 1 else 'replicas'}, "
        f"${found.price_per_month:,.0f} a month."
    )
    _print(found.table())
    print(f"{_CHANCE} {_ARRIVALS} {_PRICES}")


def _machines(chosen: argparse.Namespace) -> None:
    limits = _limits(chosen)
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
    print(
        f"{_PREDICTED} {chosen.model or recipes.get().model_id} for {chosen.people:,.15g} people "
        f"who ask every {chosen.every:g} s, {limits}; the cheapest first."
    )
    if len(fitting) or chosen.all:
        shown = table if chosen.all else fitting.drop(columns="why not")
        _print(shown.astype(object).where(shown.notna(), ""), index=False)
    if not chosen.all and len(fitting) < len(table):
        print(f"{len(table) - len(fitting)} more cannot: --all shows them and why.")
    print(
        f"Floor: 100 % would be reading the weights once a step, as fast as the memory can. "
        f"{_CHANCE} {_ARRIVALS} {_PRICES}"
    )


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
    _print(found.hours)
    print(f"{_shape_said(chosen)} {_ARRIVALS} {_PRICES}")


def _guide(_: argparse.Namespace) -> None:
    print(guide.sentence())
    for table in (guide.explain(), guide.beside(), guide.assumptions()):
        print()
        _print(table, index=False)
    print("\nAssumed:")
    for line in guide.ASSUMED:
        print(f"- {line}")
    print(guide.OPEN)


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
    return Machine.named(
        chosen.model or recipe.model_id,
        instance_type=chosen.instance or recipe.instance_type,
        batch_size=recipe.batch_size if chosen.batch is None else chosen.batch,
        sequence_length=recipe.sequence_length
        if chosen.sequence_length is None
        else chosen.sequence_length,
        times_s=None if given[0] is None else given,
    )


def _answers(chosen: argparse.Namespace) -> Answers:
    return Answers(chosen.output_tokens, chosen.output_tokens_stddev)


def _limits(chosen: argparse.Namespace) -> Limits:
    return Limits(chosen.ttft_p95, chosen.tpot_p95, chosen.goodput)


def _asking(chosen: argparse.Namespace) -> dict:
    return {
        "people": chosen.people,
        "every_s": chosen.every,
        "answers": _answers(chosen),
        "seed": chosen.seed,
    }


def _policy(chosen: argparse.Namespace) -> fleet.Policy | None:
    if chosen.target is None:
        if chosen.minimum is not None or chosen.maximum is not None:
            raise WorkshopError(
                "--minimum and --maximum belong to a policy of your own: give its --target, too."
            )
        return None
    if chosen.maximum is None:
        raise WorkshopError("A policy goes up to a number of replicas: give --maximum.")
    return fleet.Policy(
        chosen.target,
        chosen.minimum or 1,
        chosen.maximum,
        chosen.scale_in_cooldown,
        chosen.scale_out_cooldown,
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


# --- The arguments --------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str):
        self.exit(2, f"{message[:1].upper()}{message[1:]}: see {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m helpers.capacity",
        description="Know before you pay: what an endpoint will do, how many replicas it takes and "
        "what they cost, predicted from two times, the prefill and the decode step. Asks no AWS.",
    )
    add = parser.add_subparsers(title="questions", metavar="QUESTION", required=True).add_parser
    one = add("endpoint", help="what users of one replica will see, and the price of a token")
    _ask(one, _endpoint, _add_machine, _add_answers)
    one.add_argument(
        "--users",
        type=_numbers(int),
        default=list(USERS),
        metavar="N,…",
        help=f"numbers of users (default: {','.join(map(str, USERS))})",
    )
    one.add_argument("--rounds", action="store_true", help="users wait for each other")
    one = add("replicas", help="how many replicas so many people take under limits")
    _ask(one, _replicas, _add_people, _add_limits, _add_machine, _add_answers)
    one = add("machines", help="which instance and batch size is cheapest under limits")
    _ask(one, _machines, _add_people, _add_limits, _add_candidates, _add_answers)
    one = add("day", help="a day of a fleet that a scaling policy makes larger and smaller")
    _ask(one, _day, _add_people, _add_ttft, _add_policy, _add_machine, _add_answers)
    _ask(add("guide", help="why the guide of May 2024 reported what it did"), _guide)
    return parser


def _ask(parser: argparse.ArgumentParser, answer: Callable, *parts: Callable) -> None:
    parser.set_defaults(answer=answer)
    for part in parts:
        part(parser)


def _add_people(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("who asks").add_argument
    add("--people", type=float, required=True, metavar="N", help="how many; of a day, at its peak")
    add("--every", type=float, required=True, metavar="S", help="seconds between one's questions")


def _add_ttft(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("limit").add_argument(
        "--ttft-p95",
        type=float,
        default=3.0,
        metavar="S",
        help="seconds to the first token that 95 of 100 requests keep (default: 3)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    _add_ttft(parser)
    add = parser.add_argument_group("more limits, all of which have to hold").add_argument
    add("--tpot-p95", type=float, metavar="S", help="seconds per output token, the same")
    add("--goodput", type=float, metavar="SHARE", help="share that keeps both, such as 0.99")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    recipe = recipes.get()
    add = parser.add_argument_group("each replica").add_argument
    add("--model", metavar="ID", help=f"default: {recipe.model_id}")
    add("--instance", metavar="TYPE", help=f"default: {recipe.instance_type}")
    add("--batch", type=int, metavar="N", help=f"static batch size (default: {recipe.batch_size})")
    add("--sequence-length", type=int, metavar="N", help=f"default: {recipe.sequence_length}")
    add("--prefill", type=float, metavar="S", help="seconds of a prefill (default: published)")
    add("--decode-step", type=float, metavar="S", help="seconds of a decode step (the same)")
    add("--run", type=Path, metavar="RUN", help="take the machine and its times from a run")


def _add_candidates(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what to choose from").add_argument
    add("--model", metavar="ID", help=f"default: {recipes.get().model_id}")
    add("--sequence-length", type=int, default=4096, metavar="N", help="default: 4096")
    add(
        "--instances",
        type=_names,
        default=list(costs.INSTANCES),
        metavar="TYPE,…",
        help="default: all with a known price",
    )
    add(
        "--batch-sizes",
        type=_numbers(int),
        default=list(BATCH_SIZES),
        metavar="N,…",
        help=f"default: {','.join(map(str, BATCH_SIZES))}",
    )
    add("--all", action="store_true", help="also show what cannot, and why")
    add("--ray", metavar="ADDRESS", help="work on a Ray cluster, e.g. auto")


def _add_policy(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("policy (default: one that keeps the limit)").add_argument
    add("--target", type=float, metavar="N", help="requests at a time that a replica is to have")
    add("--minimum", type=int, metavar="N", help="replicas at least (default: 1)")
    add("--maximum", type=int, metavar="N", help="replicas at most")
    for way in ("in", "out"):
        add(
            f"--scale-{way}-cooldown",
            type=float,
            default=fleet.COOLDOWN_S,
            metavar="S",
            help=f"seconds between two scale-{way}s (default: {fleet.COOLDOWN_S})",
        )
    add(
        "--shape",
        type=_numbers(float),
        default=list(fleet.OFFICE_HOURS),
        metavar="X,…",
        help="share of the people at each of the 24 hours (default: office hours, assumed)",
    )


def _add_answers(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("answers").add_argument
    add(
        "--output-tokens",
        type=float,
        default=OUTPUT_TOKENS,
        metavar="N",
        help=f"mean (default: {OUTPUT_TOKENS})",
    )
    add(
        "--output-tokens-stddev",
        type=float,
        default=OUTPUT_TOKENS_STDDEV,
        metavar="N",
        help=f"standard deviation (default: {OUTPUT_TOKENS_STDDEV})",
    )
    add("--seed", type=int, default=0, help="chooses arrivals and lengths (default: 0)")


def _numbers(kind: type) -> Callable[[str], list]:
    def numbers(text: str) -> list:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"{text!r} is neither a number nor a list such as 1,4,8"
            ) from error

    return numbers


def _names(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


if __name__ == "__main__":
    sys.exit(main())
