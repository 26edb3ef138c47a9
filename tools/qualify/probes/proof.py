# SPDX-License-Identifier: Apache-2.0
"""What proves that a client's work has stopped: a kernel that counts a word up, which a process outside looks at."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, TypeAlias

from tools.qualify.mps import PrivateMps
from tools.qualify.probe import Answer, Probe
from tools.qualify.probes.memory import create, import_into
from tools.qualify.stage import Actor, Broken, Stage

__all__ = ["PROOF"]

End: TypeAlias = Literal["fault", "terminate", "kill"]

_STATE_S: Final = 10.0
_LOOK_S: Final = 0.05


def counted(stage: Stage, answer: Answer, *, end: End, mps: bool = True) -> None:
    """A worker counts in memory that an outsider has imported; the worker is ended; when does the count stand still?"""
    ours = PrivateMps(stage) if mps else None
    environment = ours.environment if ours is not None else stage.environment
    worker = stage.open("worker", environment=environment)
    neighbour = stage.open("neighbour", environment=environment)
    outsider = stage.open("outsider")
    made = create(worker)
    answer.outcome["import"] = import_into(outsider, made).result
    os.close(made.fd)
    worker.ask("tick")
    answer.outcome["counts"] = _counts(outsider)
    answer.expect(answer.outcome["counts"], "what a kernel of the worker writes is seen outside")
    began_ns = time.monotonic_ns()

    def look(name: str) -> None:
        answer.measured[f"{name}_ms"] = round((time.monotonic_ns() - began_ns) / 1e6, 3)
        answer.outcome[f"counts_{name}"] = _counts(outsider)

    if end == "kill":
        worker.signal(signal.SIGKILL)
        worker.kill()
        look("after_the_end")
        answer.outcome["neighbour"] = neighbour.ask("work").result
    elif ours is not None and end == "terminate":
        answer.outcome["reply"] = ours.control(f"terminate_client {ours.server()} {worker.pid}").splitlines()
        look("after_the_reply")
        answer.outcome["neighbour"] = neighbour.ask("work").result
    elif ours is not None:
        _fault(stage, answer, ours, worker, neighbour, look)
    answer.outcome["still_counts"] = _counts(outsider)
    answer.expect(not answer.outcome["still_counts"], "the count stands still in the end")
    answer.outcome["outsider_correct"] = outsider.ask("work").correct


def _fault(
    stage: Stage, answer: Answer, mps: PrivateMps, worker: Actor, neighbour: Actor, look: Callable[[str], None]
) -> None:
    """The neighbour traps. Looks at each thing that could be a proof, in the order in which they come."""
    server = mps.server()
    answer.outcome["neighbour"] = stage.provoke(neighbour, "trap").result
    look("after_the_neighbours_error")
    answer.outcome["worker"] = worker.ask("work").result
    look("after_the_workers_error")
    ends = time.monotonic() + stage.bounded_s(_STATE_S)
    while (state := mps.state(server)) != "FAULT":
        if time.monotonic() > ends:
            raise Broken(f"the server is {state}, and not FAULT, {_STATE_S:g} s after a trap")
    look("after_the_state_is_fault")
    neighbour.end()
    look("after_the_neighbours_end")
    worker.end()
    look("after_the_workers_end")


def _counts(outsider: Actor) -> bool:
    """Whether the word moves."""
    before = outsider.ask("word").data["value"]
    time.sleep(_LOOK_S)
    return bool(outsider.ask("word").data["value"] != before)


def beside(stage: Stage, answer: Answer) -> None:
    """A trap in one MPS server while a client of another one, of a daemon of its own, works on the same device."""
    one, other = PrivateMps(stage), PrivateMps(stage, name="mps-beside")
    offender = stage.open("offender", environment=one.environment)
    standby = stage.open("standby", environment=other.environment)
    server = other.server()
    before = standby.ask("work")
    answer.outcome["offender"] = stage.provoke(offender, "trap").result
    after = standby.ask("work")
    answer.outcome |= {
        "standby_before": before.correct,
        "standby": after.result,
        "standby_correct": after.correct,
        "server_state": other.state(server),
    }
    answer.raw["logs"] = other.logs()
    answer.expect(after.correct, "a client of another MPS server is not hit")


def _probe(end: End, question: str, *reproduced: str) -> Probe:
    seen = ("import", "counts", "still_counts", "outsider_correct", *reproduced)
    return Probe(f"mps_proof_{end}", question, partial(counted, end=end), reproduced=seen)


PROOF: Final = (
    Probe(
        "proof_kill",
        "Does a kernel of a process outside MPS still write after the process was killed?",
        partial(counted, end="kill", mps=False),
        reproduced=("import", "counts", "counts_after_the_end", "still_counts", "outsider_correct"),
    ),
    _probe(
        "terminate", "Does a kernel still write after terminate_client's answer?", "reply", "counts_after_the_reply"
    ),
    _probe("kill", "Does a kernel of a client of MPS still write after the client was killed?"),
    _probe("fault", "When, after another client's fault, does a kernel not write any more?", "neighbour", "worker"),
    Probe(
        "mps_beside",
        "Is a standby in a second MPS server out of reach of a fault in the first?",
        beside,
        reproduced=("offender", "standby_before", "standby", "standby_correct", "server_state"),
    ),
)
