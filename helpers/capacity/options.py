"""What the command line of the capacity model takes."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from helpers import checks, costs, recipes
from helpers.capacity import fleet
from helpers.capacity.asked import OUTPUT_TOKENS, OUTPUT_TOKENS_STDDEV
from helpers.capacity.expectation import USERS
from helpers.capacity.machines import BATCH_SIZES

Answer = Callable[[argparse.Namespace], None]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str):
        self.exit(2, f"{message[:1].upper()}{message[1:]}: see {self.prog} --help.\n")


def parser(answers: Mapping[str, Answer]) -> argparse.ArgumentParser:
    """Read the arguments of one question; what answers it is in `answer`.

    Args:
        answers: A function by the name of its question.
    """
    made = _Parser(
        prog="python -m helpers.capacity",
        description="Know before you pay: what an endpoint will do, how many replicas it takes and "
        "what they cost, predicted from two times, the prefill and the decode step. Asks no AWS.",
    )
    add = made.add_subparsers(title="questions", metavar="QUESTION", required=True).add_parser
    for name, (words, parts) in _QUESTIONS.items():
        question = add(name, help=words, description=f"{words[:1].upper()}{words[1:]}.")
        question.set_defaults(answer=answers[name])
        for part in parts:
            part(question)
    return made


def _add_people(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("who asks").add_argument
    add("--people", type=float, required=True, metavar="N", help="how many; of a day, at its peak")
    add("--every", type=float, required=True, metavar="S", help="seconds between one's questions")


def _add_users(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("load").add_argument
    add(
        "--users",
        type=checks.list_of(int, "1,4,8"),
        default=list(USERS),
        metavar="N,…",
        help=f"numbers of users (default: {','.join(map(str, USERS))})",
    )
    add("--rounds", action="store_true", help="users wait for each other")


def _add_ttft(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("limit").add_argument(
        "--ttft-p95",
        type=float,
        default=3.0,
        metavar="S",
        help="seconds to the first token that 95 of 100 requests keep (default: 3)",
    )


def _add_ttfts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("limit").add_argument(
        "--ttft-p95",
        type=checks.list_of(float, "1,4,8"),
        default=[3.0],
        metavar="S,…",
        help="seconds to the first token that 95 of 100 requests keep; several show what each "
        "costs (default: 3)",
    )


def _add_more_limits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("more limits, all of which have to hold").add_argument
    add("--tpot-p95", type=float, metavar="S", help="seconds per output token, the same")
    add("--goodput", type=float, metavar="SHARE", help="share that keeps both, such as 0.99")


def _add_against(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("to compare").add_argument(
        "--against",
        type=float,
        metavar="USD",
        help="$ per million output tokens somewhere else",
    )


def _add_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="its folder, in results/")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    recipe = recipes.get()
    add = parser.add_argument_group("each replica").add_argument
    add("--model", metavar="ID", help=f"default: {recipe.model_id}")
    add("--instance", metavar="TYPE", help=f"default: {recipe.instance_type}")
    add("--batch", type=int, metavar="N", help=f"static batch size (default: {recipe.batch_size})")
    add("--sequence-length", type=int, metavar="N", help=f"default: {recipe.sequence_length}")
    add("--prefill", type=float, metavar="S", help="seconds of a prefill (default: published)")
    add("--decode-step", type=float, metavar="S", help="seconds of a decode step (the same)")
    add(
        "--run",
        type=Path,
        metavar="RUN",
        help="take the machine, its times and, unless given here, its answers from a run",
    )


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
        type=checks.list_of(int, "1,4,8"),
        default=list(BATCH_SIZES),
        metavar="N,…",
        help=f"default: {','.join(map(str, BATCH_SIZES))}",
    )
    add("--all", action="store_true", help="also show what cannot, and why")
    add("--ray", metavar="ADDRESS", help="work on a Ray cluster, e.g. auto")


def _add_policy(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(
        "policy (default: one that keeps the limit over the day, not in every hour)"
    ).add_argument
    add("--target", type=float, metavar="N", help="requests at a time that a replica is to have")
    add("--minimum", type=int, metavar="N", help="replicas at least (default: 1)")
    add("--maximum", type=int, metavar="N", help="replicas at most")
    for way in ("in", "out"):
        add(
            f"--scale-{way}-cooldown",
            type=float,
            metavar="S",
            help=f"seconds between two scale-{way}s (default: {fleet.COOLDOWN_S})",
        )
    add(
        "--shape",
        type=checks.list_of(float, "1,4,8"),
        default=list(fleet.OFFICE_HOURS),
        metavar="X,…",
        help="share of the people at each of the 24 hours (default: office hours, assumed)",
    )


def _add_answers(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("answers").add_argument
    add(
        "--output-tokens",
        type=float,
        metavar="N",
        help=f"mean (default: {OUTPUT_TOKENS})",
    )
    add(
        "--output-tokens-stddev",
        type=float,
        metavar="N",
        help=f"standard deviation (default: {OUTPUT_TOKENS_STDDEV})",
    )
    add("--seed", type=int, default=0, help="chooses arrivals and lengths (default: 0)")


def _names(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


_QUESTIONS = {
    "endpoint": (
        "what users of one replica will see, and the price of a token",
        (_add_users, _add_machine, _add_answers),
    ),
    "replicas": (
        "how many replicas so many people take under limits",
        (_add_people, _add_ttfts, _add_more_limits, _add_against, _add_machine, _add_answers),
    ),
    "machines": (
        "which instance and batch size is cheapest under limits",
        (_add_people, _add_ttft, _add_more_limits, _add_candidates, _add_answers),
    ),
    "day": (
        "a day of a fleet that a scaling policy makes larger and smaller",
        (_add_people, _add_ttft, _add_policy, _add_machine, _add_answers),
    ),
    "run": ("a run against its prediction, and the two times it shows", (_add_path,)),
    "guide": ("why the guide of May 2024 reported what it did", ()),
}
