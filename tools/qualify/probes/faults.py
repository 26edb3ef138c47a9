# SPDX-License-Identifier: Apache-2.0
"""Faults outside MPS: what they do to their own process, to another on the same device, to the log."""

import signal
import time
from functools import partial
from typing import Final

from tools.qualify.actor import FAULTS
from tools.qualify.probe import Answer, Probe
from tools.qualify.stage import Stage

__all__ = ["FAULTS_ALONE"]


def fault(stage: Stage, answer: Answer, *, kind: str) -> None:
    """One process faults; a bystander works before and after; a newcomer comes after."""
    offender, bystander = stage.open("offender"), stage.open("bystander")
    bystander.ask("work")
    reply = stage.provoke(offender, kind)
    launched_ns = int(reply.data["launched_ns"])
    work = bystander.ask("work")
    answer.outcome |= {
        "offender": reply.result,
        "offender_again": offender.ask("work").result,
        "bystander": work.result,
        "bystander_correct": work.correct,
        "newcomer": stage.start("newcomer").ask("open", uuid=stage.target.uuid).result,
    }
    answer.measured["error_after_launch_ms"] = round((reply.data["returned_ns"] - launched_ns) / 1e6, 3)
    answer.measured["failed_call"] = reply.call
    outcome, measured, raw = stage.xid_facts(launched_ns, [offender, bystander])
    answer.outcome |= outcome
    answer.measured |= measured
    answer.raw |= raw
    answer.expect(reply.result != 0, f"{kind} is an error of the process that did it")
    answer.expect(work.correct, "another process on the device is not hit")


def killed_while_busy(stage: Stage, answer: Answer) -> None:
    """SIGKILL with a kernel in flight that would never end."""
    victim, bystander = stage.open("victim"), stage.open("bystander")
    launched_ns = int(victim.ask("endless").data["launched_ns"])
    killed_ns = time.monotonic_ns()
    victim.signal(signal.SIGKILL)
    victim.kill()
    answer.measured["end_after_kill_ms"] = round((time.monotonic_ns() - killed_ns) / 1e6, 3)
    work = bystander.ask("work")
    answer.outcome |= {"bystander": work.result, "bystander_correct": work.correct}
    outcome, measured, raw = stage.xid_facts(launched_ns, [victim, bystander])
    answer.outcome |= outcome
    answer.measured |= measured
    answer.raw |= raw
    answer.expect(work.correct, "another process on the device is not hit")


_REPRODUCED: Final = ("offender", "offender_again", "bystander", "bystander_correct", "newcomer", "xids", "xid_names")

FAULTS_ALONE: Final = (
    *(
        Probe(
            f"fault_{kind}",
            f"What does {kind.replace('_', ' ')} do outside MPS, and what does the log say?",
            partial(fault, kind=kind),
            reproduced=_REPRODUCED,
        )
        for kind in FAULTS
    ),
    Probe(
        "killed_while_busy",
        "What does SIGKILL with a kernel in flight do outside MPS?",
        killed_while_busy,
        reproduced=("bystander", "bystander_correct", "xids"),
    ),
)
