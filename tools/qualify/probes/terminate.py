# SPDX-License-Identifier: Apache-2.0
"""`terminate_client`: what it answers, and what becomes of its target and of another client."""

import signal
import time
from functools import partial
from subprocess import Popen
from typing import Final, Literal, TypeAlias

from tools.qualify.mps import PrivateMps
from tools.qualify.probe import Answer, Probe
from tools.qualify.stage import Actor, Stage

__all__ = ["TERMINATE"]

Condition: TypeAlias = Literal["healthy", "busy", "faulted", "stopped"]
_STOPPED_S: Final = 3.0
_COMMAND_S: Final = 6.0


def terminate(stage: Stage, answer: Answer, *, condition: Condition) -> None:
    """Two clients; one, in that condition, is terminated."""
    mps = PrivateMps(stage)
    target = stage.open("target", environment=mps.environment)
    bystander = stage.open("bystander", environment=mps.environment)
    server = mps.server()
    if condition == "busy":
        target.ask("endless")
    elif condition == "faulted":
        answer.outcome["fault"] = stage.provoke(target, "trap").result
    elif condition == "stopped":
        target.signal(signal.SIGSTOP)

    began_ns = time.monotonic_ns()
    command = mps.begin(f"terminate_client {server} {target.pid}")
    if condition == "stopped":
        try:
            answer.outcome["reply_while_stopped"] = mps.finish(command, limit_s=_STOPPED_S, kill=False)
        except TimeoutError:
            answer.outcome["reply_while_stopped"] = None
        target.signal(signal.SIGCONT)
    try:
        answer.outcome["reply"] = mps.finish(command, limit_s=stage.bounded_s(_COMMAND_S), kill=False).splitlines()
    except TimeoutError:
        answer.outcome["reply"] = None
    answer.measured["reply_after_ms"] = round((time.monotonic_ns() - began_ns) / 1e6, 3)
    if answer.outcome["reply"] is None:
        _hangs(answer, mps, command, (target, bystander))
    else:
        answer.outcome |= {"target": target.ask("work").result, "bystander": bystander.ask("work").result}
        answer.outcome["server_state"] = mps.state(server)
        answer.outcome["listed_after"] = str(target.pid) in mps.control(f"get_client_list {server}").split()
    newcomer = stage.start("newcomer", environment=mps.environment)
    if condition != "faulted":
        answer.outcome["newcomer"] = newcomer.ask("open", uuid=stage.target.uuid).result
        answer.expect(answer.outcome["reply"] == ["0"], "terminate_client answers 0 when the work has stopped")
        answer.expect(answer.outcome["bystander"] == 0, "terminating a client does not hit another one")
    outcome, measured, raw = stage.xid_facts(began_ns, [target, bystander, newcomer], server=server)
    answer.outcome |= outcome
    answer.measured |= measured
    answer.raw |= raw | {"logs": mps.logs()}


def _hangs(answer: Answer, mps: PrivateMps, command: Popen[str], clients: tuple[Actor, Actor]) -> None:
    """No answer: whether its target and the other one still get theirs, and what it says when they have ended."""
    for client in clients:
        try:
            answer.outcome[client.role] = client.ask("work", limit_s=_STOPPED_S).result
        except TimeoutError:
            answer.outcome[client.role] = "waits"
    for client in clients:
        client.kill()
        try:
            answer.outcome[f"reply_after_the_{client.role}"] = mps.finish(command, limit_s=_STOPPED_S, kill=False)
            return
        except TimeoutError:
            answer.outcome[f"reply_after_the_{client.role}"] = None
    command.kill()


def _probe(condition: Condition, *extra: str) -> Probe:
    return Probe(
        f"mps_terminate_{condition}",
        f"What does terminate_client do to a {condition} client?",
        partial(terminate, condition=condition),
        reproduced=("reply", "target", "bystander", "server_state", "xids", *extra),
    )


TERMINATE: Final = (
    _probe("healthy", "newcomer"),
    _probe("busy", "newcomer"),
    _probe("stopped", "newcomer", "reply_while_stopped"),
    Probe(
        "mps_terminate_faulted",
        "What does terminate_client do to a faulted client?",
        partial(terminate, condition="faulted"),
        reproduced=("fault", "reply"),
    ),
)
