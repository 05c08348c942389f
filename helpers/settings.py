"""Where the workshop runs and writes: arguments, environment, and what notebook 01 has chosen."""

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import SettingsError

TARGETS = ("rehearsal", "aws")
IDENTITIES = ("participant", "instructor", "laptop", "admin")  # of the rehearsal
DEFAULT_SPEED = 60.0  # one second here is one minute there
HIGHEST_SPEED = 86_400.0  # one second here is one day there: AWS time soon ends beyond it
CHOICES = ("region", "participant", "role_arn")  # kept for each target
ROOT = Path(__file__).resolve().parent.parent
# What runs this, as it is called from the repository's folder.
PYTHON = ".venv/bin/python" if Path(sys.prefix) == ROOT / ".venv" else "python"


@dataclass(frozen=True)
class Settings:
    """What one session needs to know before it talks to anything.

    Attributes:
        target: `rehearsal` (the default: nobody spends money by accident) or `aws`.
        region: AWS region, None to let the target decide.
        participant: Whose endpoint it is, None to derive it from the identity.
        role_arn: Execution role of the endpoint, None to look for it.
        scheduler_role_arn: Role with which schedules delete endpoints, None to look for it.
        bucket: Where weights are kept, None for the one that `iam/template.yaml` makes.
        identity: As whom a rehearsal's sessions act; no matter on AWS.
        endpoint_url: An `AWS_ENDPOINT_URL` the user has set.
        speed: Seconds of AWS time in one real second, rehearsal only.
        root: Root of the repository.
        buckets: Where weights were copied to, as pairs of bucket and region.
        results_dir: Where benchmark runs are written.
        state_dir: Where the rehearsal server keeps its state.
        target_remembered: True when the target is what notebook 01 has chosen.
    """

    target: str = "rehearsal"
    region: str | None = None
    participant: str | None = None
    role_arn: str | None = None
    scheduler_role_arn: str | None = None
    bucket: str | None = None
    buckets: tuple[tuple[str, str], ...] = ()
    identity: str = IDENTITIES[0]
    endpoint_url: str | None = None
    speed: float = DEFAULT_SPEED
    root: Path = ROOT
    results_dir: Path = ROOT / "results"
    state_dir: Path = ROOT / ".rehearsal"
    target_remembered: bool = False


def load(
    environ: Mapping[str, str] = os.environ,
    *,
    target: str | None = None,
    region: str | None = None,
    participant: str | None = None,
    role_arn: str | None = None,
    identity: str | None = None,
    recall_target: bool = True,
) -> Settings:
    """Settings from arguments first, then `WORKSHOP_*`, then what was remembered, then defaults.

    What was remembered for the other target does not count, and neither does the remembered target
    without `recall_target`.

    Environment: `WORKSHOP_TARGET`, `WORKSHOP_REGION` (after what was remembered also `AWS_REGION`,
    `AWS_DEFAULT_REGION`), `WORKSHOP_PARTICIPANT`, `WORKSHOP_ROLE_ARN`,
    `WORKSHOP_SCHEDULER_ROLE_ARN`, `WORKSHOP_BUCKET`, `WORKSHOP_IDENTITY`, `WORKSHOP_SPEED`,
    `WORKSHOP_RESULTS`, `WORKSHOP_STATE`, `AWS_ENDPOINT_URL`. An empty value counts as absent.

    Raises:
        SettingsError: When the target or the identity is unknown, or the speed is no positive
            number or too high.
    """

    def first(*names: str) -> str | None:
        return next((value for name in names if (value := environ.get(name, "").strip())), None)

    def folder(name: str, default: Path) -> Path:
        value = first(name)
        return Path(value).expanduser().resolve() if value else default

    state_dir = folder("WORKSHOP_STATE", Settings.state_dir)
    kept = _remembered(state_dir)
    given = target or first("WORKSHOP_TARGET")
    recalled = kept.get("target") if recall_target and not given else None
    target = _target(given or recalled or Settings.target)
    chosen = kept.get(target, {})
    return Settings(
        target=target,
        region=region
        or first("WORKSHOP_REGION")
        or chosen.get("region")
        or first("AWS_REGION", "AWS_DEFAULT_REGION"),
        participant=participant or first("WORKSHOP_PARTICIPANT") or chosen.get("participant"),
        role_arn=role_arn or first("WORKSHOP_ROLE_ARN") or chosen.get("role_arn"),
        scheduler_role_arn=first("WORKSHOP_SCHEDULER_ROLE_ARN"),
        bucket=first("WORKSHOP_BUCKET"),
        buckets=tuple(sorted(chosen.get("buckets", {}).items())),
        identity=_identity(identity or first("WORKSHOP_IDENTITY")),
        endpoint_url=first("AWS_ENDPOINT_URL"),
        speed=_speed(first("WORKSHOP_SPEED")),
        results_dir=folder("WORKSHOP_RESULTS", Settings.results_dir),
        state_dir=state_dir,
        target_remembered=recalled is not None,
    )


def remember(state_dir: Path, target: str, *, choose: bool, **choices: str | None) -> None:
    """Keep choices for the sessions that follow with a target; what is None stays as it was.

    Args:
        state_dir: `Settings.state_dir`.
        target: What they are kept for.
        choose: Whether sessions that name no target have this one, or none that is remembered.
        **choices: `region`, `participant`, `role_arn`.
    """
    kept = _remembered(state_dir)
    kept.pop("target", None)
    if choose:
        kept["target"] = target
    own = {name: value for name, value in choices.items() if value}
    kept[target] = kept.get(target, {}) | own
    _keep(state_dir, kept)


def remember_region(state_dir: Path, target: str, region: str) -> None:
    """Let the sessions that follow with a target be in this region; all else stays as it was."""
    kept = _remembered(state_dir)
    kept[target] = kept.get(target, {}) | {"region": region}
    _keep(state_dir, kept)


def remember_bucket(state_dir: Path, target: str, bucket: str, region: str) -> None:
    """Let the sessions that follow with a target know where weights were copied to."""
    kept = _remembered(state_dir)
    own = kept.setdefault(target, {})
    own["buckets"] = own.get("buckets", {}) | {bucket: region}
    _keep(state_dir, kept)


def forget_target(state_dir: Path) -> None:
    """Let sessions that name no target have the default one again."""
    kept = _remembered(state_dir)
    if kept.pop("target", None):
        _keep(state_dir, kept)


def _keep(state_dir: Path, kept: dict[str, Any]) -> None:
    state_dir.mkdir(parents=True, exist_ok=True)
    (state_dir / "choices.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def _remembered(state_dir: Path) -> dict[str, Any]:
    """`target`, if one was chosen, and for each target its choices."""
    path = state_dir / "choices.json"
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"What notebook 01 has chosen cannot be read: remove {path}."
        ) from error
    if not isinstance(read, dict):
        return {}
    kept: dict[str, Any] = {"target": read["target"]} if read.get("target") in TARGETS else {}
    for target in TARGETS:
        known = read.get(target)
        if isinstance(known, dict):
            kept[target] = {
                name: value
                for name, value in known.items()
                if name in CHOICES and isinstance(value, str)
            }
            buckets = known.get("buckets")
            if isinstance(buckets, dict):
                kept[target]["buckets"] = {
                    name: region for name, region in buckets.items() if isinstance(region, str)
                }
    return kept


def _target(value: str) -> str:
    target = value.strip().lower()
    if target not in TARGETS:
        raise SettingsError(
            f"Unknown target {value!r}: set WORKSHOP_TARGET to `rehearsal` (nothing is billed) "
            "or `aws`."
        )
    return target


def _identity(value: str | None) -> str:
    identity = (value or Settings.identity).strip().lower()
    if identity not in IDENTITIES:
        raise SettingsError(
            f"Unknown identity {value!r}: set WORKSHOP_IDENTITY to one of {', '.join(IDENTITIES)}."
        )
    return identity


def _speed(value: str | None) -> float:
    if value is None:
        return DEFAULT_SPEED
    try:
        speed = float(value)
    except ValueError:
        speed = math.nan
    if not 0 < speed <= HIGHEST_SPEED:
        raise SettingsError(
            f"WORKSHOP_SPEED is {value!r}: give a positive number of AWS seconds per real second, "
            f"{HIGHEST_SPEED:.0f} at most, e.g. {DEFAULT_SPEED:g}."
        )
    return speed
