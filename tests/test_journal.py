# SPDX-License-Identifier: Apache-2.0
"""This test will read what the journal is told of an event, also as a real datagram."""

import subprocess
import sys
from dataclasses import replace
from typing import get_args

import pytest

from mpsafe.model import (
    Action,
    ActionKind,
    ActionState,
    Blame,
    ControlDaemon,
    Event,
    EventKind,
    Fault,
    Identity,
    Limits,
    SourceState,
)
from mpsafed import journal
from mpsafed.signals import ControlChanged
from requires import requires

EVENT = Event(
    9, 7, 1, "fault", "open", "SM exception of embed (11)", device="GPU-1", server=500,
    fault=Fault("sm", absorbed=False, xid=13), blame=Blame(Identity(11, 110), "python", "embed"),
    actions=[Action("note", None, "done", "x"), Action("restart_server", None, "terminating", "shutdown_server 500")],
)  # fmt: skip

LISTENER = """
import os, socket
from pathlib import Path
from mpsafe.model import Event, SourceState
from mpsafed import journal
path = Path("/run/systemd/journal/socket")
path.parent.mkdir(parents=True)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    sock.bind(os.fspath(path))
    journal.tell(Event(9, 7, 1, "device", "closed", "words"))
    journal.source_lost(SourceState("driver", False, "gone\\nfor good"))
    for _ in range(2):
        os.write(1, sock.recv(65536))
"""


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What is told on standard error, where there is no journal."""
    monkeypatch.setattr(journal, "SOCKET", "/nowhere/socket")
    caplog.set_level("INFO")
    return caplog


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
        "MPSAFE_DETAIL": "shutdown_server 500",
    }


def test_what_is_not_known_has_no_field() -> None:
    found = journal.fields(Event(1, 1, 1, "exit", "closed", "words"))
    assert sorted(found) == ["MESSAGE_ID", "MPSAFE_EVENT", "MPSAFE_PHASE", "MPSAFE_SEQ", "PRIORITY"]


@pytest.mark.parametrize("kind", get_args(EventKind))
def test_each_kind_has_its_message_id(kind: EventKind) -> None:
    assert journal.fields(replace(EVENT, kind=kind))["MESSAGE_ID"] == journal.MESSAGE_IDS[kind]


def test_message_ids_are_128_bits_and_each_another() -> None:
    assert {len(bytes.fromhex(found)) for found in journal.MESSAGE_IDS.values()} == {16}
    assert len(set(journal.MESSAGE_IDS.values())) == len(journal.MESSAGE_IDS)


@pytest.mark.parametrize(
    ("kind", "state", "told", "priority"),
    [
        ("fence", "requested", "fence_begun", "4"),
        ("fence", "frozen", "fault", "3"),
        ("fence", "killed", "fence_ended", "5"),
        ("fence", "failed", "fence_ended", "3"),
        ("restart_server", "requested", "fault", "3"),
        ("restart_server", "done", "restart_ended", "5"),
        ("restart_server", "failed", "restart_ended", "3"),
        ("note", "done", "fault", "3"),
    ],
)
def test_the_step_of_an_action_has_a_message_id(
    kind: ActionKind, state: ActionState, told: journal.Told, priority: str
) -> None:
    found = journal.fields(replace(EVENT, actions=[Action(kind, None, state, "why")]))
    assert (found["MESSAGE_ID"], found["PRIORITY"]) == (journal.MESSAGE_IDS[told], priority)


def test_of_several_actions_the_one_that_changed_is_told(told: pytest.LogCaptureFixture) -> None:
    first, second = EVENT.actions
    moved = replace(first, state="failed", detail="too late")
    after = replace(EVENT, seq=10, actions=[moved, second])
    assert journal.fields(after, EVENT)["MPSAFE_DETAIL"] == "too late"
    journal.tell(after, EVENT)
    assert told.messages == ["event 7: SM exception of embed (11) [note failed: too late]"]


def test_the_client_is_the_one_that_is_fenced() -> None:
    fence = Action("fence", Identity(12, 120), "requested", "")
    assert journal.fields(replace(EVENT, actions=[fence]))["CLIENT_PID"] == "12"


def test_an_entry_that_changes_no_action_tells_of_none(told: pytest.LogCaptureFixture) -> None:
    closed = replace(EVENT, seq=10, phase="closed")
    assert "MPSAFE_ACTION" not in journal.fields(closed, EVENT)
    journal.tell(closed, EVENT)
    assert told.messages == ["event 7: SM exception of embed (11)"]


def test_a_fault_that_is_closed_without_blame_is_told_as_such(told: pytest.LogCaptureFixture) -> None:
    journal.tell(replace(EVENT, blame=Blame(), actions=[]))
    assert len(told.messages) == 1
    journal.tell(replace(EVENT, blame=Blame(), actions=[], phase="closed"))
    assert told.messages[1:] == [
        "event 7: SM exception of embed (11)",
        "event 7: nobody is blamed for it, as no evidence names one client",
    ]


def test_without_a_journal_it_is_a_line(told: pytest.LogCaptureFixture) -> None:
    journal.tell(EVENT)
    assert told.messages == ["event 7: SM exception of embed (11) [restart_server terminating: shutdown_server 500]"]


def test_a_journal_that_takes_nothing_is_no_end(
    told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(journal, "SOCKET", "/dev/null")
    monkeypatch.setattr("systemd.journal.send", refuse)
    journal.tell(EVENT)
    assert len(told.messages) == 1


def test_what_is_no_event_is_told_too(told: pytest.LogCaptureFixture) -> None:
    journal.source_lost(SourceState("driver", False, "it is gone"))
    journal.control_ended(ControlChanged(time_ns=1, control="uid-1001", running=False, text="control uid-1001 ended"))
    limits = Limits(active_thread_percentage=50.0)
    journal.limits_drifted(
        ControlDaemon(
            "uid-1001", 1001, "/run/p", "/run/l", None, "running", "v2", True, limits, Limits(),
            ["100 %, declared 50 %", "no priority"], "", 1,
        )
    )  # fmt: skip
    assert told.messages == [
        "source driver is lost: it is gone",
        "control uid-1001 ended",
        "uid-1001: 100 %, declared 50 %; no priority",
    ]


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
    assert b"MPSAFE_SOURCE=driver" in lines
    assert b"MESSAGE_ID=" + journal.MESSAGE_IDS["source_lost"].encode() in lines
