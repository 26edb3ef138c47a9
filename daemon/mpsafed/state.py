# SPDX-License-Identifier: Apache-2.0
"""What must survive the daemon: the event stream, where sources have read to, who belongs to whom.

One append-only file of JSON lines, written before anything is done about an event. An event and the
cursors that led to it are one line, so that after a SIGKILL a signal is either in the stream or
will be read again. A torn last line is cut off; a damaged one is left out and the file kept aside.
Written lines survive the process at once and a power loss after the next `sync`.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from mpsafe.model import Client, Event, Identity, Server
from mpsafed.declared import Choice
from mpsafed.signals import Cursor

__all__ = ["Line", "Member", "State"]

KEEP_EVENTS: Final = 10_000
COMPACT_BYTES: Final = 16 << 20
RECENT: Final = 128


class Member(msgspec.Struct, frozen=True):
    """A process attached for a tenant; `generation` counts them."""

    tenant: str
    identity: Identity
    generation: int


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the file."""

    event: Event | None = None
    cursors: list[Cursor] = []
    member: Member | None = None
    client: Client | None = None
    gone: Identity | None = None
    server: Server | None = None
    choice: Choice | None = None
    standby: tuple[Identity, str] | None = None
    generations: dict[str, int] = {}


class State:
    """The state directory's journal, read whole at start and appended to from then on."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = directory / "state.jsonl"
        self._encoder = msgspec.json.Encoder()
        self.stream: list[Event] = []
        self.cursors: dict[str, Cursor] = {}
        self.members: dict[Identity, Member] = {}
        self.clients: dict[Identity, Client] = {}
        self.servers: dict[int, Server] = {}
        self.choices: dict[str, Choice] = {}
        self.standbys: dict[Identity, str] = {}
        self.generations: dict[str, int] = {}
        self.damaged = 0
        self.trouble = ""
        self._unwritten = bytearray()
        self._latest: dict[int, Event] = {}
        self._recent: dict[int, Event] = {}
        self._load()
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size > COMPACT_BYTES:
            self._compact()

    @property
    def next_seq(self) -> int:
        """The `seq` of the next entry of the stream."""
        return self.stream[-1].seq + 1 if self.stream else 1

    def events(self) -> list[Event]:
        """The latest entry of each event, oldest event first."""
        return list(self._latest.values())

    def recent(self) -> list[Event]:
        """The latest entries of the last RECENT events, and of older ones that are open; oldest first."""
        return list(self._recent.values())

    def latest(self, number: int) -> Event:
        """The latest entry of one event."""
        return self._latest[number]

    def known(self, number: int) -> Event | None:
        """The latest entry of one event, if it has one."""
        return self._latest.get(number)

    def record(self, event: Event, cursors: Iterable[Cursor] = ()) -> Event:
        """Appends an entry; gives it its `seq`, and its `id` if it has none."""
        seq = self.next_seq
        entry = replace(event, seq=seq, id=event.id or seq)
        self.append(Line(event=entry, cursors=list(cursors)))
        return entry

    def append(self, line: Line) -> None:
        """Takes one line in and writes it. Where the disk refuses, the line waits, and `trouble` says why."""
        self._unwritten += self._encoder.encode(line) + b"\n"
        self._write()
        self._take_in(line)

    def _write(self) -> None:
        try:
            while self._unwritten:
                del self._unwritten[: os.write(self._fd, self._unwritten)]
        except OSError as error:
            self.trouble = f"{self._path}: {error.strerror}; {len(self._unwritten)} bytes wait to be written"
        else:
            self.trouble = ""

    def sync(self) -> None:
        """Makes what was written survive a power loss; slow, call it off the event loop."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)

    def _take_in(self, line: Line) -> None:
        if line.event is not None:
            self.stream.append(line.event)
            self._latest[line.event.id] = self._recent[line.event.id] = line.event
            if len(self._recent) > RECENT:
                self._drop_oldest_closed()
            if len(self.stream) > 2 * KEEP_EVENTS:
                self._forget()
        for cursor in line.cursors:
            self.cursors[cursor.source] = cursor
        self.generations.update(line.generations)
        if line.member is not None:
            self.members[line.member.identity] = line.member
            self.generations[line.member.tenant] = line.member.generation
        if line.server is not None:
            self.servers[line.server.pid] = line.server
        if line.choice is not None:
            self.choices[line.choice.control] = line.choice
        if line.client is not None:
            self.clients[line.client.identity] = line.client
        if line.standby is not None:
            self.standbys[line.standby[0]] = line.standby[1]
        if line.gone is not None:
            self.standbys.pop(line.gone, None)
            self.clients.pop(line.gone, None)
            self.members.pop(line.gone, None)

    def _drop_oldest_closed(self) -> None:
        oldest = next((number for number, event in self._recent.items() if event.phase == "closed"), None)
        if oldest is not None:
            del self._recent[oldest]

    def _forget(self) -> None:
        del self.stream[:-KEEP_EVENTS]
        kept = {event.id for event in self.stream}
        self._latest = {k: e for k, e in self._latest.items() if k in kept or e.phase == "open"}

    def _load(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            os.truncate(self._path, whole)
        decoder = msgspec.json.Decoder(Line)
        for raw in data[:whole].splitlines():
            try:
                self._take_in(decoder.decode(raw))
            except msgspec.DecodeError:
                self.damaged += 1
        if self.damaged:
            self._path.with_suffix(".damaged").write_bytes(data)

    def _compact(self) -> None:
        fresh = self._path.with_suffix(".new")
        kept = self.stream[-KEEP_EVENTS:]
        lines = [Line(event=event) for event in self.events() if event.phase == "open" and event.seq < kept[0].seq]
        lines += [Line(event=event) for event in kept]
        lines += [Line(member=member) for member in self.members.values()]
        lines += [Line(client=client) for client in self.clients.values()]
        lines += [Line(server=server) for server in self.servers.values()]
        lines += [Line(standby=standby) for standby in self.standbys.items()]
        lines += [Line(choice=choice) for choice in self.choices.values()]
        lines.append(Line(cursors=list(self.cursors.values()), generations=self.generations))
        with fresh.open("wb") as file:
            file.writelines(self._encoder.encode(line) + b"\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        fresh.chmod(0o600)
        fresh.rename(self._path)
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
