# SPDX-License-Identifier: Apache-2.0
"""The steps of a fence, a restart and a takeover as data: what may follow what, and what each one means. Pure.

A step is written down when what it says is true, and before the next is begun. A daemon that finds
one takes the action up from there, and may write that same step again: everything may be done twice.
The page "The safety protocol" of ARCHITECTURE.md shows these tables; a test compares.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mpsafe.model import ActionKind, ActionState

__all__ = ["STEPS", "Step", "ended", "grants_durable", "legal"]


@dataclass(frozen=True, slots=True)
class Step:
    """One state of an action. `proof`: with this it is known that the old client's GPU work has stopped."""

    then: tuple[ActionState, ...]
    true: str
    found: str
    proof: bool = False


_FENCE: Final[Mapping[ActionState, Step]] = {
    "requested": Step(
        ("frozen", "proven", "assumed", "killed", "failed"),
        "the event names the client; nothing is done yet",
        "freezes it, also where that was done already",
    ),
    "frozen": Step(
        ("cut", "proven", "assumed", "failed"),
        "the client publishes nothing: its cgroup is frozen, or it has SIGSTOP",
        "freezes it again and goes on",
    ),
    "cut": Step(
        ("terminating", "proven", "assumed", "failed"),
        "its connections and holds are revoked; it is still frozen",
        "revokes again; its connections have ended with the daemon that died",
    ),
    "terminating": Step(
        ("proven", "assumed", "failed"),
        "it runs again, thawed and continued; terminate_client is asked for",
        "thaws it both ways and asks again",
    ),
    "proven": Step(
        ("killed", "failed"),
        "its GPU work has stopped: the control program answered 0, or the server ended",
        "kills it",
        proof=True,
    ),
    "assumed": Step(
        ("killed", "failed"),
        "no proof was had in time, or the process ended first",
        "kills it",
    ),
    "killed": Step((), "the process has ended", "nothing: the fence is over"),
    "failed": Step(
        (), "it was given up, thawed, for the reason that the detail gives", "nothing: an admin may ask again"
    ),
}

_RESTART: Final[Mapping[ActionState, Step]] = {
    "requested": Step(
        ("terminating", "started", "done", "failed"),
        "the event names the server; nothing is done yet",
        "looks at the server again",
    ),
    "terminating": Step(
        ("killed", "done", "failed"),
        "the control daemon lists the server, which did not become ACTIVE by itself; it is being ended",
        "looks at the server again, and ends it if it is still there and not ACTIVE",
    ),
    "killed": Step(
        ("started", "failed"),
        "the server has ended, which proves that all work in it has stopped, and so have its clients",
        "sets the default limits and starts a server, unless there is one",
        proof=True,
    ),
    "started": Step(
        ("limited", "failed"),
        "another server is ACTIVE; it was started under the default limits that are declared",
        "finds that server, or starts one",
    ),
    "limited": Step(
        ("done", "failed"),
        "the server's own limits were set and read back; the detail tells what differs",
        "sets them again",
    ),
    "done": Step((), "a server is ACTIVE and takes clients", "nothing: the restart is over"),
    "failed": Step(
        (), "it was given up for the reason that the detail gives", "nothing: the next fault is another event"
    ),
}

_TAKEOVER: Final[Mapping[ActionState, Step]] = {
    "requested": Step(
        ("promoted", "done", "failed"),
        "the event names the tenant and the process that serves it no more; nobody is told yet",
        "tells the process that holds the tenant's epoch, if that is another one, else a standby",
    ),
    "promoted": Step(
        ("granted", "done", "failed"),
        "a standby holds the tenant's next epoch and was told; the old process's durable regions are suspect",
        "tells it again when it asks; if it does not ask in time, another standby",
    ),
    "granted": Step(
        ("done", "failed"),
        "the old process's work is proven stopped; its durable regions are the new one's to write",
        "tells it again when it asks",
    ),
    "done": Step((), "the new process serves the tenant, or the detail says what is missing", "nothing: it is over"),
    "failed": Step(
        (), "nobody serves the tenant, for the reason that the detail gives", "nothing: the next fault is another event"
    ),
}

_NOTE: Final[Mapping[ActionState, Step]] = {"done": Step((), "nothing was to be done", "nothing")}

STEPS: Final[Mapping[ActionKind, Mapping[ActionState, Step]]] = {
    "fence": _FENCE,
    "restart_server": _RESTART,
    "takeover": _TAKEOVER,
    "note": _NOTE,
}


def legal(kind: ActionKind, old: ActionState, new: ActionState) -> bool:
    """Whether `new` may be written after `old`: it follows, or it is the step that a new daemon found."""
    step = STEPS[kind].get(old)
    return step is not None and (new in step.then or (new == old and bool(step.then)))


def ended(kind: ActionKind, state: ActionState) -> bool:
    """Whether nothing more is done about an action."""
    step = STEPS[kind].get(state)
    return step is None or not step.then


def grants_durable(kind: ActionKind, state: ActionState) -> bool:
    """Whether memory that the old client could write may be given to another writer.

    To be asked of each entry as it is written: that a fence has `killed` does not say that there was a
    proof, and `assumed` never grants.
    """
    step = STEPS[kind].get(state)
    return step is not None and step.proof
