# SPDX-License-Identifier: Apache-2.0
"""This test will damage the daemon's journal in every way that a crash can, and look what is still known."""

import os
import resource
import signal
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsafe.model import Client, Event, Identity, Server
from mpsafed import state as module
from mpsafed.signals import Cursor
from mpsafed.state import Line, Member, State

EVENT = Event(0, 0, 1, "exit", "open", "first words")
WHO = Identity(11, 110)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def state(directory: Path) -> Iterator[State]:
    opened = State(directory)
    yield opened
    opened.close()


def again(directory: Path) -> State:
    """What a daemon that starts now would know."""
    found = State(directory)
    found.close()
    return found


def fill(state: State, events: int) -> None:
    for number in range(1, events + 1):
        cursors = [Cursor("kernel-log", "boot", number), Cursor("driver", "load", number)]
        state.record(replace(EVENT, summary=f"words {number}"), cursors)


def test_a_new_directory_is_private_and_knows_nothing(directory: Path, state: State) -> None:
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "state.jsonl").stat().st_mode) == 0o600
    assert (state.next_seq, state.events(), state.stream, state.cursors) == (1, [], [], {})


def test_an_event_is_named_by_its_first_entry(state: State) -> None:
    first = state.record(EVENT)
    other = state.record(EVENT)
    changed = state.record(replace(first, phase="closed"))
    assert [(entry.seq, entry.id) for entry in state.stream] == [(1, 1), (2, 2), (3, 1)]
    assert state.latest(1) == changed
    assert state.events() == [changed, other], "oldest event first, not oldest entry"


def test_everything_is_known_again(directory: Path, state: State) -> None:
    fill(state, 3)
    member, client = Member("chat", WHO, 4), Client(WHO, 0, "python", 500, "chat", "connected")
    gone = Identity(12, 120)
    for line in (
        Line(member=member),
        Line(client=client),
        Line(server=Server(500, 0, "active", 1)),
        Line(client=replace(client, identity=gone)),
        Line(member=Member("chat", gone, 5)),
        Line(gone=gone),
    ):
        state.append(line)
    found = again(directory)
    assert found.stream == state.stream
    assert found.next_seq == 4
    assert found.cursors == {"kernel-log": Cursor("kernel-log", "boot", 3), "driver": Cursor("driver", "load", 3)}
    assert found.members == {WHO: member}
    assert found.clients == {WHO: client}
    assert found.servers == {500: Server(500, 0, "active", 1)}
    assert found.generations == {"chat": 5}, "a generation is never given twice"
    assert found.damaged == 0


@given(st.data())
def test_a_file_that_was_cut_anywhere_is_a_beginning_of_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Events and the cursors that led to them are cut together: a signal is in the stream or is read again."""
    directory = tmp_path_factory.mktemp("cut")
    state = State(directory)
    fill(state, data.draw(st.integers(0, 5)))
    state.close()
    path = directory / "state.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    found = State(directory)
    count = len(found.stream)
    assert found.stream == state.stream[:count]
    assert [entry.seq for entry in found.stream] == list(range(1, count + 1))
    assert {cursor.position for cursor in found.cursors.values()} <= {count} - {0}
    assert found.damaged == 0, "a torn line is no damage"
    entry = found.record(EVENT)
    found.close()
    assert entry.seq == count + 1
    assert again(directory).stream == [*state.stream[:count], entry]


@pytest.mark.parametrize("garbage", [b"{", b"null", b"\x00\xff", b'{"event": {"seq": "x"}}', b"", b"[" * 10_000])
def test_a_damaged_line_costs_itself_only(directory: Path, state: State, garbage: bytes) -> None:
    fill(state, 3)
    path = directory / "state.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[1] = garbage
    path.write_bytes(b"\n".join(lines))
    found = again(directory)
    assert [entry.seq for entry in found.stream] == [1, 3]
    assert found.next_seq == 4
    assert found.damaged == 1
    assert (directory / "state.damaged").read_bytes() == b"\n".join(lines), "kept aside for a person to read"


@given(st.binary(max_size=300))
def test_any_bytes_can_be_loaded(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    directory = tmp_path_factory.mktemp("any")
    (directory / "state.jsonl").write_bytes(data)
    state = State(directory)
    entry = state.record(EVENT)
    state.close()
    assert again(directory).stream[-1] == entry


def test_what_is_unknown_in_a_line_of_a_later_version_is_passed_over(directory: Path, state: State) -> None:
    fill(state, 1)
    with (directory / "state.jsonl").open("ab") as file:
        file.write(b'{"lease":{"tenant":"chat"},"cursors":[{"source":"kernel-log","stream":"b","position":9,"x":1}]}\n')
    found = again(directory)
    assert found.cursors["kernel-log"].position == 9
    assert found.damaged == 0


def test_compaction_keeps_what_is_known(directory: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_BYTES", 1000)
    fill(state, 50)
    state.append(Line(member=Member("chat", WHO, 1)))
    state.append(Line(client=Client(WHO, 0, "python", 500, "chat", "connected")))
    state.append(Line(server=Server(500, 0, "fault", 1)))
    state.append(Line(member=Member("embed", Identity(12, 120), 7)))
    state.append(Line(gone=Identity(12, 120)))
    before = (directory / "state.jsonl").stat()
    found = again(directory)
    after = (directory / "state.jsonl").stat()
    assert after.st_ino != before.st_ino, "it was compacted"
    assert stat.S_IMODE(after.st_mode) == 0o600
    for known in (found, again(directory)):
        assert known.stream == state.stream
        assert known.cursors == state.cursors
        assert known.members == state.members
        assert known.clients == state.clients
        assert known.servers == state.servers
        assert known.generations == state.generations, "a generation is never given twice"


def test_a_compacted_file_can_be_written_to(directory: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(state, 50)
    monkeypatch.setattr(module, "COMPACT_BYTES", 1000)
    compacted = State(directory)
    entry = compacted.record(EVENT)
    compacted.close()
    assert again(directory).stream[-1] == entry


def test_a_crash_during_compaction_leaves_the_old_file(directory: Path, state: State) -> None:
    fill(state, 3)
    (directory / "state.new").write_bytes(b'{"event":{"seq":9')
    assert again(directory).stream == state.stream


def test_old_entries_are_forgotten_and_open_events_are_not(
    directory: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEP_EVENTS", 10)
    long_ago = state.record(replace(EVENT, summary="still open"))
    for _ in range(50):
        state.record(replace(EVENT, phase="closed"))
    assert 10 <= len(state.stream) <= 20
    assert [entry.seq for entry in state.stream] == list(range(state.stream[0].seq, 52))
    assert state.latest(long_ago.id) == long_ago
    assert long_ago in state.recent()
    monkeypatch.setattr(module, "COMPACT_BYTES", 1)
    for _ in range(2):
        assert again(directory).latest(long_ago.id) == long_ago, "also after a compaction"


def test_recent_events_are_bounded(state: State) -> None:
    first = state.record(EVENT)
    for _ in range(2 * module.RECENT):
        state.record(replace(EVENT, phase="closed"))
    assert len(state.recent()) == module.RECENT
    assert state.recent()[0] == first


def test_a_full_disk_loses_nothing(directory: Path, state: State) -> None:
    """RLIMIT_FSIZE refuses the write as a full disk does, in the middle of a line."""
    fill(state, 1)
    path = directory / "state.jsonl"
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, old[1]))
        state.record(EVENT)
        state.record(EVENT)
        assert "File too large" in state.trouble
        assert len(state.stream) == 3, "the daemon acts upon what it could not write"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    state.record(EVENT)
    assert state.trouble == ""
    assert again(directory).stream == state.stream


def test_lines_are_plain_json(directory: Path, state: State) -> None:
    """A person with jq can read it, and a text cannot break out of its line."""
    state.record(replace(EVENT, summary='a "text"\nof two lines\x00\u2028'))
    (line,) = (directory / "state.jsonl").read_bytes().splitlines()
    assert msgspec.json.decode(line)["event"]["summary"] == 'a "text"\nof two lines\x00\u2028'


def test_synced_lines_are_on_the_disk(state: State) -> None:
    state.record(EVENT)
    state.sync()


def test_the_file_is_not_inherited(directory: Path, state: State) -> None:
    fds = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    ours = [fd for fd in fds if os.readlink(f"/proc/self/fd/{fd}") == os.fspath(directory / "state.jsonl")]
    assert ours
    assert not any(os.get_inheritable(int(fd)) for fd in ours)
