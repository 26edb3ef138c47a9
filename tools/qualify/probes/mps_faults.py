# SPDX-License-Identifier: Apache-2.0
"""The same faults under MPS: who is hit, what the server says, how long until it serves again."""

import re
import signal
import time
from collections.abc import Mapping
from functools import partial
from typing import Final

from tools.qualify.actor import FAULTS
from tools.qualify.mps import PrivateMps
from tools.qualify.probe import Answer, Probe
from tools.qualify.stage import Actor, Stage

__all__ = ["MPS_FAULTS"]

_NEWCOMER_S: Final = 5.0
_RECOVERY_S: Final = 30.0
_MET: Final = re.compile("encountered a fatal GPU error")


def newcomer(stage: Stage, mps: PrivateMps, *, limit_s: float) -> tuple[Actor, int | str]:
    """One more client, and what its context gave: a CUresult, or that it waits."""
    actor = stage.start("newcomer", environment=mps.environment)
    try:
        reply = actor.ask("open", uuid=stage.target.uuid, limit_s=limit_s)
    except TimeoutError:
        return actor, "waits"
    return actor, reply.result


def recovery(stage: Stage, mps: PrivateMps, answer: Answer, *, since_ns: int) -> None:
    """How long, from when the last of the faulted has left, until a new client has a context."""
    refusals: list[int | str] = []
    while (time.monotonic_ns() - since_ns) / 1e9 < _RECOVERY_S:
        actor, result = newcomer(stage, mps, limit_s=_RECOVERY_S)
        if result == 0:
            answer.outcome["recovered"] = actor.ask("work").correct
            answer.measured["recovered_after_ms"] = round((time.monotonic_ns() - since_ns) / 1e6, 3)
            answer.measured["refusals_until_then"] = refusals
            return
        refusals.append(result)
        actor.end()
    answer.outcome["recovered"] = False
    answer.measured["refusals_until_then"] = refusals


def fault(stage: Stage, answer: Answer, *, kind: str) -> None:
    """Two clients and a process outside; one client faults."""
    mps = PrivateMps(stage)
    offender = stage.open("offender", environment=mps.environment)
    bystander = stage.open("bystander", environment=mps.environment)
    outsider = stage.open("outsider")
    server = mps.server()
    bystander.ask("work")
    reply = stage.provoke(offender, kind)
    launched_ns = int(reply.data["launched_ns"])
    answer.outcome |= {
        "offender": reply.result,
        "bystander": bystander.ask("work").result,
        "outsider": outsider.ask("work").result,
        "server_state": mps.state(server),
    }
    late, answer.outcome["newcomer"] = newcomer(stage, mps, limit_s=_NEWCOMER_S)
    answer.measured["error_after_launch_ms"] = round((reply.data["returned_ns"] - launched_ns) / 1e6, 3)
    answer.measured["failed_call"] = reply.call
    outcome, measured, raw = stage.xid_facts(launched_ns, [offender, bystander, outsider], server=server)
    answer.outcome |= outcome
    answer.measured |= measured
    answer.raw |= raw
    answer.outcome["offender_again"] = offender.ask("work").result
    answer.outcome["named_by_server"] = named(mps, {offender.pid: "offender", bystander.pid: "bystander"})
    for actor in (late, offender, bystander):
        actor.end()
    recovery(stage, mps, answer, since_ns=time.monotonic_ns())
    answer.outcome["server_is_the_same"] = mps.control("get_server_list").split() == [str(server)]
    answer.raw["logs"] = mps.logs()
    answer.expect(answer.outcome["outsider"] == 0, "a process outside MPS is not hit")
    answer.expect(answer.outcome["recovered"], "the server serves again when the faulted clients have left")


def killed_while_busy(stage: Stage, answer: Answer) -> None:
    """A client is killed with a kernel in flight; the other one works on, or not."""
    mps = PrivateMps(stage)
    victim = stage.open("victim", environment=mps.environment)
    bystander = stage.open("bystander", environment=mps.environment)
    server = mps.server()
    launched_ns = int(victim.ask("endless").data["launched_ns"])
    victim.signal(signal.SIGKILL)
    victim.kill()
    work = bystander.ask("work")
    answer.outcome |= {"bystander": work.result, "bystander_correct": work.correct, "server_state": mps.state(server)}
    outcome, measured, raw = stage.xid_facts(launched_ns, [victim, bystander], server=server)
    answer.outcome |= outcome
    answer.measured |= measured
    answer.raw |= raw | {"logs": mps.logs()}


def named(mps: PrivateMps, roles: Mapping[int, str]) -> list[str]:
    """Whom the server's log names as the one that met a fatal error."""
    lines = [line for name, lines in mps.logs().items() if name == "server.log" for line in lines]
    return sorted({role for line in lines if _MET.search(line) for pid, role in roles.items() if str(pid) in line})


def whose(stage: Stage, answer: Answer, *, kind: str, place: int) -> None:
    """Three clients, one of which faults: whose pid is in the kernel's log, and whom does the server's log name?

    What the server's log says depends on who saw it first, and is nobody's to reproduce.
    """
    mps = PrivateMps(stage)
    clients = [stage.open(name, environment=mps.environment) for name in ("first", "second", "third")]
    server = mps.server()
    for client in clients:
        client.ask("work")
    reply = stage.provoke(clients[place], kind)
    answer.outcome["results"] = [
        reply.result if client is clients[place] else client.ask("work").result for client in clients
    ]
    outcome, measured, raw = stage.xid_facts(int(reply.data["launched_ns"]), clients, server=server)
    answer.outcome |= outcome
    answer.measured |= measured
    answer.outcome["named_by_server"] = named(mps, {client.pid: client.role for client in clients})
    answer.raw |= raw | {"logs": mps.logs(), "pids": {client.role: client.pid for client in clients}}


# Of such a fault the client that caused it may be told that all is well, the next to ask its exact error, all others
# only that something failed: who hears what is a race, and not the software GPU's.
_EXACT: Final = ("misaligned",)
_REPRODUCED: Final = (
    "offender",
    "bystander",
    "outsider",
    "server_state",
    "newcomer",
    "xids",
    "xid_names",
    "recovered",
    "server_is_the_same",
)

MPS_FAULTS: Final = (
    *(
        Probe(
            f"mps_fault_{kind}",
            f"What does {kind.replace('_', ' ')} do under MPS: to the clients, the server, the log?",
            partial(fault, kind=kind),
            reproduced=_REPRODUCED[1:] if kind in _EXACT else _REPRODUCED,
        )
        for kind in FAULTS
    ),
    *(
        Probe(
            f"mps_whose_{kind}_{place + 1}",
            f"Of three clients, number {place + 1} does {kind.replace('_', ' ')}: whom do the logs name?",
            partial(whose, kind=kind, place=place),
            reproduced=("xids", "xid_names") if kind in _EXACT else ("results", "xids", "xid_names"),
        )
        for kind in ("wild_write", "misaligned", "trap")
        for place in range(3)
    ),
    Probe(
        "mps_killed_while_busy",
        "What does SIGKILL of a busy client do to the server and its other client?",
        killed_while_busy,
    ),
)
