# SPDX-License-Identifier: Apache-2.0
"""Which fault when: a file in YAML, or a plan that is drawn by a seed."""

import importlib
import os
import random
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from mpsafe.arena.files import contents
from mpsafe.arena.live.host import OUTSIDE, SERVED
from mpsafe.errors import BadArenaFile

__all__ = ["KINDS", "Fault", "Kind", "Plan", "changed", "draw", "read", "written"]

Kind = Literal["mmu", "sm", "kill", "hang", "slowdown", "daemon_restart"]

KINDS: Final[dict[Kind, str]] = {
    "mmu": "a memory fault of the target, by io.mpsafe.Events.Inject",
    "sm": "a trap of a neighbour on the MPS server, which ends every client of it",
    "kill": "SIGKILL to the target",
    "hang": "SIGSTOP to the target, and SIGCONT after duration_s",
    "slowdown": "the target is stopped three quarters of the time for duration_s",
    "daemon_restart": "SIGKILL to mpsafed, which is started again after duration_s",
}
NO_TARGET: Final = ("sm", "daemon_restart")
ENDURING: Final = ("hang", "slowdown", "daemon_restart")
SECONDS_MAX: Final = 600.0
FIRST_S: Final = 2.0
# How far apart the faults of a plan that is drawn begin, and how long what endures takes.
APART_S: Final = 4.5
ENDURES_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Fault:
    """`at_s`: after the run has begun; `target`: a model, empty for what has none; `duration_s`: of what endures."""

    at_s: float
    kind: Kind
    target: str = ""
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The faults by time. `seed`: of the queries and of when they come; `rate`: queries a second."""

    seed: int = 0
    seconds: float = 25.0
    rate: float = 8.0
    faults: tuple[Fault, ...] = field(default=())


def read(path: Path, *, seconds: float | None = None) -> Plan:
    """A plan from a file, of which `seconds` are run. BadArenaFile names the fault and the field that is wrong."""
    yaml: Any = importlib.import_module("yaml")
    try:
        found = msgspec.convert(yaml.safe_load(contents(path)), Plan, strict=True)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadArenaFile(os.fspath(path), "", f"it is no YAML: {str(error).splitlines()[0]}") from None
    except msgspec.ValidationError as error:
        raise BadArenaFile(os.fspath(path), "", str(error)) from None
    found = replace(found, seconds=found.seconds if seconds is None else seconds)
    for name, value, most in (("seconds", found.seconds, SECONDS_MAX), ("rate", found.rate, 1000.0)):
        if not 0 < value <= most:
            raise BadArenaFile(os.fspath(path), name, f"more than 0 and at most {most:g} is expected, not {value:g}")
    for number, fault in enumerate(found.faults, 1):
        if problem := _problem(fault, found):
            raise BadArenaFile(os.fspath(path), f"fault {number}", problem)
    return replace(found, faults=tuple(sorted(found.faults, key=lambda one: one.at_s)))


def _problem(fault: Fault, plan: Plan) -> str:
    if not 0 <= fault.at_s < plan.seconds:
        return f"at_s: 0 to {plan.seconds:g}, the seconds of the run, is expected, not {fault.at_s:g}"
    if fault.kind in NO_TARGET and fault.target:
        return f"target: {fault.kind} has none"
    if fault.kind not in NO_TARGET and fault.target not in _targets(fault.kind):
        return f"target: one of {', '.join(_targets(fault.kind))} is expected of {fault.kind}, not {fault.target!r}"
    if fault.kind in ENDURING and not 0 < fault.duration_s <= plan.seconds:
        return f"duration_s: more than 0 and at most {plan.seconds:g} is expected of {fault.kind}"
    if fault.kind not in ENDURING and fault.duration_s:
        return f"duration_s: {fault.kind} does not endure"
    return ""


def _targets(kind: Kind) -> list[str]:
    """The models that can be met by it: a memory fault is injected into clients of MPS."""
    return [name for name in SERVED if kind != "mmu" or name not in OUTSIDE]


def changed(plan: Plan, *, rate: float | None, seed: int | None) -> Plan:
    """The same faults with other queries."""
    return replace(plan, rate=plan.rate if rate is None else rate, seed=plan.seed if seed is None else seed)


def draw(*, seed: int, seconds: float, rate: float) -> Plan:
    """Kinds and targets by the seed, as many as there is time for; a daemon that is away comes last, if at all."""
    dice = random.Random(seed)
    others: list[Kind] = [kind for kind in KINDS if kind != "daemon_restart"]
    dice.shuffle(others)
    count = max(1, int((seconds - FIRST_S) / APART_S))
    kinds: list[Kind] = [*others[: count - 1], "daemon_restart"] if count > 1 else others[:1]
    faults: list[Fault] = []
    for number, kind in enumerate(kinds):
        target = "" if kind in NO_TARGET else dice.choice(_targets(kind))
        endures_s = round(min(ENDURES_S, seconds / 3), 2) if kind in ENDURING else 0.0
        faults.append(Fault(round(min(FIRST_S, seconds / 4) + APART_S * number, 2), kind, target, endures_s))
    return Plan(seed, seconds, rate, tuple(faults))


def written(plan: Plan) -> str:
    """A plan as a file."""
    yaml: Any = importlib.import_module("yaml")
    faults = [
        {name: value for name, value in asdict(fault).items() if value or name == "at_s"} for fault in plan.faults
    ]
    told = {"seed": plan.seed, "seconds": plan.seconds, "rate": plan.rate, "faults": faults}
    return str(yaml.safe_dump(told, sort_keys=False))
