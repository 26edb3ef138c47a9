# SPDX-License-Identifier: Apache-2.0
"""What happens in systemd's journal, with fields to search by: journalctl MPSAFE_EVENT=7.

MESSAGE_ID names what an entry tells (journalctl MESSAGE_ID=...): the step of a fence or a restart, else the
kind of its event. systemd/mpsafe.catalog explains each, as journalctl -x shows. Without a journal the
same sentence goes to standard error.
"""

import contextlib
import logging
import os
import sys
from typing import Final, Literal, TypeAlias

import systemd.journal

from mpsafe.model import Action, ControlDaemon, Event, EventKind, SourceState
from mpsafed.signals import ControlChanged

__all__ = [
    "MESSAGE_IDS",
    "Told",
    "control_ended",
    "fields",
    "limits_drifted",
    "set_up",
    "source_lost",
    "tell",
]

SOCKET: Final = "/run/systemd/journal/socket"

Told: TypeAlias = (
    EventKind
    | Literal[
        "fence_begun",
        "fence_ended",
        "restart_ended",
        "blame_unknown",
        "control_ended",
        "source_lost",
        "limits_drifted",
    ]
)

MESSAGE_IDS: Final[dict[Told, str]] = {
    "fault": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e01",
    "eviction": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e02",
    "exit": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e03",
    "server": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e04",
    "device": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e05",
    "fence_begun": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e06",
    "fence_ended": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e07",
    "restart_ended": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e08",
    "blame_unknown": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e09",
    "control_ended": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e0a",
    "source_lost": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e0b",
    "limits_drifted": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e0c",
}
# syslog(3): 3 error, 4 warning, 5 notice, 6 information.
_PRIORITIES: Final[dict[Told, int]] = {
    "fault": 3,
    "eviction": 4,
    "exit": 6,
    "server": 4,
    "device": 4,
    "fence_begun": 4,
    "fence_ended": 5,
    "restart_ended": 5,
    "blame_unknown": 4,
    "control_ended": 4,
    "source_lost": 4,
    "limits_drifted": 4,
}

_log = logging.getLogger("mpsafed")


def set_up(*, verbose: bool) -> None:
    """Log lines go to standard error, which systemd takes to the journal."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.DEBUG if verbose else logging.INFO, format="%(name)s: %(message)s"
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def fields(event: Event, before: Event | None = None) -> dict[str, str]:
    """The journal fields of one entry of the stream; `before` is the entry of the same event that it follows."""
    changed = _changed(event, before)
    told = _told(event, changed)
    client = changed.target if changed is not None and changed.target is not None else event.blame.client
    return _named(
        MESSAGE_ID=MESSAGE_IDS[told],
        PRIORITY=3 if changed is not None and changed.state == "failed" else _PRIORITIES[told],
        MPSAFE_EVENT=event.id,
        MPSAFE_SEQ=event.seq,
        MPSAFE_PHASE=event.phase,
        GPU_UUID=event.device,
        MPS_SERVER=event.server,
        XID=event.fault.xid if event.fault else None,
        CLIENT_PID=client.pid if client else None,
        MPSAFE_TENANT=event.blame.tenant,
        MPSAFE_ACTION=changed.kind if changed else None,
        MPSAFE_ACTION_STATE=changed.state if changed else None,
        MPSAFE_DETAIL=changed.detail if changed else None,
    )


def tell(event: Event, before: Event | None = None) -> None:
    """Tells one entry of the stream, and if with it a fault is closed whose cause is not known, that too."""
    message = f"event {event.id}: {event.summary}"
    if (changed := _changed(event, before)) is not None:
        message += f" [{changed.kind} {changed.state}{': ' if changed.detail else ''}{changed.detail}]"
    found = fields(event, before)
    _send(message, found)
    if event.kind == "fault" and event.phase == "closed" and event.blame.client is None:
        words = f"event {event.id}: nobody is blamed for it, as no evidence names one client"
        about = _named(MESSAGE_ID=MESSAGE_IDS["blame_unknown"], PRIORITY=_PRIORITIES["blame_unknown"])
        _send(words, found | about)


def control_ended(signal: ControlChanged) -> None:
    """Tells that an MPS control daemon runs no more."""
    _note("control_ended", signal.text, MPS_CONTROL=signal.control, MPS_UID=signal.uid)


def source_lost(state: SourceState) -> None:
    """Tells that a source of signals is not seen any more, and why."""
    _note(
        "source_lost",
        f"source {state.name} is lost: {state.detail}",
        MPSAFE_SOURCE=state.name,
        MPSAFE_DETAIL=state.detail,
    )


def limits_drifted(control: ControlDaemon) -> None:
    """Tells that a control daemon's limits are not what was declared."""
    drift = "; ".join(control.drift)
    _note("limits_drifted", f"{control.name}: {drift}", MPS_CONTROL=control.name, MPSAFE_DETAIL=drift)


def _changed(event: Event, before: Event | None) -> Action | None:
    """The action that this entry tells of."""
    known = before.actions if before is not None else []
    return next((action for action in reversed(event.actions) if action not in known), None)


def _told(event: Event, changed: Action | None) -> Told:
    match changed:
        case Action(kind="fence", state="requested"):
            return "fence_begun"
        case Action(kind="fence", state="killed" | "failed"):
            return "fence_ended"
        case Action(kind="restart_server", state="done" | "failed"):
            return "restart_ended"
        case _:
            return event.kind


def _note(told: Told, message: str, **about: str | int | None) -> None:
    _send(message, _named(MESSAGE_ID=MESSAGE_IDS[told], PRIORITY=_PRIORITIES[told], **about))


def _named(**found: str | int | None) -> dict[str, str]:
    """Those that are known."""
    return {name: str(value) for name, value in found.items() if value is not None}


def _send(message: str, found: dict[str, str]) -> None:
    """What the journal does not take, as while it is started anew, goes to standard error."""
    if os.path.exists(SOCKET):
        with contextlib.suppress(OSError):
            systemd.journal.send(message, SYSLOG_IDENTIFIER="mpsafed", **found)
            return
    _log.info("%s", message)
