# SPDX-License-Identifier: Apache-2.0
"""This test will read what the journal is told of an event, also as a real datagram."""

import subprocess
import sys
from dataclasses import replace
from typing import get_args

import pytest

from mpsafe.model import Action, Blame, Event, EventKind, Fault, Identity
from mpsafed import journal
from requires import requires

EVENT = Event(
    9, 7, 1, "fault", "open", "SM exception of embed (11)", device="GPU-1", server=500,
    fault=Fault("sm", absorbed=False, xid=13), blame=Blame(Identity(11, 110), "python", "embed"),
    actions=[Action("note", None, "done", "x"), Action("restart_server", None, "terminating", "shutdown_server 500")],
)  # fmt: skip

LISTENER = """
import os, socket
from pathlib import Path
from mpsafe.model import Event
from mpsafed import journal
path = Path("/run/systemd/journal/socket")
path.parent.mkdir(parents=True)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    sock.bind(os.fspath(path))
    journal.tell(Event(9, 7, 1, "device", "closed", "words"))
    os.write(1, sock.recv(65536))
"""


def test_an_event_can_be_searched_for() -> None:
    found = journal.fields(EVENT)
    assert found == {
        "MESSAGE_ID": journal.MESSAGE_IDS["fault"],
        "PRIORITY": "3",
        "MPSAFE_EVENT": "7",
        "MPSAFE_SEQ": "9",
        "MPSAFE_PHASE": "open",
        "GPU_UUID": "GPU-1",
        "MPS_SERVER": "500",
        "XID": "13",
        "CLIENT_PID": "11",
        "MPSAFE_TENANT": "embed",
        "MPSAFE_ACTION": "restart_server",
        "MPSAFE_ACTION_STATE": "terminating",
    }


def test_what_is_not_known_has_no_field() -> None:
    found = journal.fields(Event(1, 1, 1, "exit", "closed", "words"))
    assert sorted(found) == ["MESSAGE_ID", "MPSAFE_EVENT", "MPSAFE_PHASE", "MPSAFE_SEQ", "PRIORITY"]


@pytest.mark.parametrize("kind", get_args(EventKind))
def test_each_kind_has_its_message_id(kind: EventKind) -> None:
    found = journal.fields(replace(EVENT, kind=kind))["MESSAGE_ID"]
    assert len(bytes.fromhex(found)) == 16
    assert list(journal.MESSAGE_IDS.values()).count(found) == 1


def test_without_a_journal_it_is_a_line(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SOCKET", "/nowhere/socket")
    with caplog.at_level("INFO"):
        journal.tell(EVENT)
    assert caplog.messages == ["event 7: SM exception of embed (11) [restart_server terminating: shutdown_server 500]"]


@requires("namespaces")
def test_a_journal_gets_a_datagram_of_fields() -> None:
    """In a mount namespace of its own the journal's socket is ours."""
    script = 'mount -t tmpfs t /run && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", LISTENER]
    datagram = subprocess.run(command, check=True, capture_output=True).stdout
    lines = datagram.split(b"\n")
    assert b"MESSAGE=event 7: words" in lines
    assert b"MPSAFE_EVENT=7" in lines
    assert b"MESSAGE_ID=" + journal.MESSAGE_IDS["device"].encode() in lines
