# SPDX-License-Identifier: Apache-2.0
"""Events in systemd's journal, with fields to search by: journalctl MPSAFE_EVENT=7.

MESSAGE_ID is one per kind of event (journalctl MESSAGE_ID=...). Without a journal the same sentence
goes to standard error.
"""

import logging
import os
import sys
from typing import Final

import systemd.journal

from mpsafe.model import Event, EventKind

__all__ = ["MESSAGE_IDS", "fields", "set_up", "tell"]

SOCKET: Final = "/run/systemd/journal/socket"

MESSAGE_IDS: Final[dict[EventKind, str]] = {
    "fault": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e01",
    "eviction": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e02",
    "exit": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e03",
    "server": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e04",
    "device": "5f2d8e6c0b6a4f0d9f2b7f3d1c8a4e05",
}
_PRIORITIES: Final[dict[EventKind, int]] = {"fault": 3, "eviction": 4, "exit": 6, "server": 4, "device": 4}

_log = logging.getLogger("mpsafed")


def set_up(*, verbose: bool) -> None:
    """Log lines go to standard error, which systemd takes to the journal."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.DEBUG if verbose else logging.INFO, format="%(name)s: %(message)s"
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def fields(event: Event) -> dict[str, str]:
    """The journal fields of one entry of the stream."""
    found: dict[str, str | int | None] = {
        "MESSAGE_ID": MESSAGE_IDS[event.kind],
        "PRIORITY": _PRIORITIES[event.kind],
        "MPSAFE_EVENT": event.id,
        "MPSAFE_SEQ": event.seq,
        "MPSAFE_PHASE": event.phase,
        "GPU_UUID": event.device,
        "MPS_SERVER": event.server,
        "XID": event.fault.xid if event.fault else None,
        "CLIENT_PID": event.blame.client.pid if event.blame.client else None,
        "MPSAFE_TENANT": event.blame.tenant,
        "MPSAFE_ACTION": event.actions[-1].kind if event.actions else None,
        "MPSAFE_ACTION_STATE": event.actions[-1].state if event.actions else None,
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def tell(event: Event) -> None:
    """Tells one entry of the stream."""
    message = f"event {event.id}: {event.summary}"
    if event.actions:
        last = event.actions[-1]
        message += f" [{last.kind} {last.state}{': ' if last.detail else ''}{last.detail}]"
    if os.path.exists(SOCKET):
        systemd.journal.send(message, SYSLOG_IDENTIFIER="mpsafed", **fields(event))
    else:
        _log.info("%s", message)
