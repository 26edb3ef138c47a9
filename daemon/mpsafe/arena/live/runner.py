# SPDX-License-Identifier: Apache-2.0
"""One run: the same queries at the same times for every router. Right is what the same model says undisturbed."""

import json
import os
import random
import socket
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import msgspec

from mpsafe.arena.live.faults import Down, Happened, Injector, downs
from mpsafe.arena.live.host import LiveHost
from mpsafe.arena.live.plan import Plan
from mpsafe.arena.live.state import Outstanding
from mpsafe.arena.routers import Query, Router
from mpsafe.arena.routers.aware import StateAware
from mpsafe.errors import DemoCannotRun

__all__ = ["PROMPTS", "TOKENS", "Decision", "Status", "Trace", "drive", "undisturbed"]

Status = Literal["right", "wrong", "refused", "cut", "late"]

PROMPTS: Final = ("the quick brown", "fox", "jumps over", "a lazy dog", "and then", "it rains", "on the plain", "again")
TOKENS: Final = 8
PATIENCE_S: Final = 1.5
THREADS: Final = 32
PACKET_MAX: Final = 4096


class _Said(msgspec.Struct):
    said: str = ""
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """One query: what was picked, what was known then, and what became of it. Times in seconds of the run.

    `status`: right; wrong, another answer than the model gives undisturbed; refused, nobody listened; cut, the
    connection ended; late, no answer within 1.5 s. `busy_s`: for how long the device worked on it. `age_s`, `epoch`,
    `sequence`: of the reading that the router looked at, None where it looks at none.
    """

    query: int
    at_s: float
    prompt: str
    picked: str
    decision_us: float
    status: Status
    took_s: float
    busy_s: float = 0.0
    epoch: int | None = None
    sequence: int | None = None
    age_s: float | None = None
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """All of one run. `router`: its name; `aware`: whether it looks at the host; `faulted`: whether the plan was
    carried out.
    """

    router: str
    aware: bool
    faulted: bool
    seconds: float
    decisions: list[Decision]
    happened: list[Happened]
    downs: list[Down]


def undisturbed(live: LiveHost) -> dict[tuple[str, str], str]:
    """What each model says to each prompt when nothing happens."""
    found: dict[tuple[str, str], str] = {}
    for name, one in live.models.items():
        for prompt in PROMPTS:
            answer, status = _ask(one.path, prompt, patience_s=60.0)
            if status != "right":
                raise DemoCannotRun(f"the model {name} does not answer an undisturbed request: {status}")
            found[name, prompt] = answer.said
    return found


def drive(
    live: LiveHost,
    router: Router,
    plan: Plan,
    expected: Mapping[tuple[str, str], str],
    outstanding: Outstanding,
    *,
    name: str,
    faulted: bool,
) -> Trace:
    """Asks as the plan's seed has it, and has its faults happen meanwhile."""
    arrivals = schedule(plan)
    pending: list[Future[Decision]] = []
    with Injector(live, plan.faults if faulted else ()) as injector, ThreadPoolExecutor(THREADS) as pool:
        zero_ns = time.monotonic_ns()
        injector.start(zero_ns)
        for number, (at_s, prompt) in enumerate(arrivals):
            time.sleep(max(0.0, at_s - (time.monotonic_ns() - zero_ns) / 1e9))
            decided = _decide(router, number, prompt, zero_ns)
            outstanding.began(decided.picked, number)
            path, wanted = live.models[decided.picked].path, expected[decided.picked, prompt]
            pending.append(pool.submit(_answered, decided, path, wanted, outstanding, zero_ns))
        results = [one.result() for one in pending]
    live.until_ready()
    happened = sorted(injector.happened, key=lambda one: one.began_s)
    return Trace(
        name, isinstance(router, StateAware), faulted, plan.seconds, results, happened, downs(live, happened, zero_ns)
    )


def schedule(plan: Plan) -> list[tuple[float, str]]:
    """When each query comes, in seconds, and its prompt: a Poisson process by the plan's seed."""
    dice = random.Random(f"arrivals {plan.seed}")
    found: list[tuple[float, str]] = []
    at_s = dice.expovariate(plan.rate)
    while at_s < plan.seconds:
        found.append((at_s, dice.choice(PROMPTS)))
        at_s += dice.expovariate(plan.rate)
    return found


def _decide(router: Router, number: int, prompt: str, zero_ns: int) -> Decision:
    began_ns = time.monotonic_ns()
    picked = router.route(Query(str(number), prompt))
    took_us = (time.monotonic_ns() - began_ns) / 1e3
    decided = Decision(number, (began_ns - zero_ns) / 1e9, prompt, picked, took_us, "late", 0.0)
    if isinstance(router, StateAware) and (seen := router.seen) is not None:
        return replace(decided, epoch=seen.epoch, sequence=seen.sequence, age_s=seen.age_s, stale=seen.stale)
    return decided


def _answered(decided: Decision, path: Path, wanted: str, outstanding: Outstanding, zero_ns: int) -> Decision:
    answer, status = _ask(path, decided.prompt, patience_s=PATIENCE_S)
    outstanding.ended(decided.picked, decided.query, answered=status == "right")
    took_s = (time.monotonic_ns() - zero_ns) / 1e9 - decided.at_s
    if status == "right" and answer.said != wanted:
        status = "wrong"
    return replace(decided, status=status, took_s=took_s, busy_s=answer.busy_s)


def _ask(path: Path, prompt: str, *, patience_s: float) -> tuple[_Said, Status]:
    """What was said; `right` is any answer here."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(patience_s)
        try:
            sock.connect(os.fspath(path))
        except OSError:
            return _Said(), "refused"
        try:
            sock.send(json.dumps({"prompt": prompt.encode().hex(), "tokens": TOKENS}).encode())
            packet = sock.recv(PACKET_MAX)
        except TimeoutError:
            return _Said(), "late"
        except OSError:
            return _Said(), "cut"
    if not packet:
        return _Said(), "cut"
    try:
        return msgspec.json.decode(packet, type=_Said), "right"
    except msgspec.DecodeError:
        return _Said(), "wrong"
