# SPDX-License-Identifier: Apache-2.0
"""What the core is to do, in plain Python and by other means: a list for the ring, a set of slots for the sinks.

Written after mpsafe_uapi.h and mpsafe_core.h, not after the C.
"""

from dataclasses import dataclass, field
from typing import Final

from core.library import Fields, Sight, Value, Who
from core.requests import DEFAULT_POLICY, wrong_fields

__all__ = ["Client", "Model", "Sink"]

OFF, ABSORB, INHERIT = 0, 2, 0xFFFF
LIVE, DOOMED, RELEASED = 1, 2, 3
POLICY, ABSORBED, PASSED, GONE, ORPHAN, KILLED = 1, 2, 3, 4, 5, 6
OK, NOT_SUPPORTED, NO_MEMORY, LIMIT, STATE = 0, 0x56, 0x51, 0x1A, 0x40
EPERM, ENOENT, ESRCH, EBADF, EBUSY, EEXIST, EINVAL, EPROTO = 1, 2, 3, 9, 16, 17, 22, 71

SLOT: Final = 0x1_0000
GROWN: Final = 0x20_0000
STORM: Final = 0x2000_0000
MS: Final = 1_000_000
HEARTBEAT: Final = 5000 * MS
SINKABLE: Final = frozenset({1, 2, 3})
BLANK: Final[Fields] = {
    **dict.fromkeys(
        "client tgid uid start_ticks va sink_base sink_size faults access fault status latency_ns".split(), 0
    ),
    **dict.fromkeys("place unit veid gpc reserved".split(), 0),
    "gpu_uuid": bytes(16),
    "comm": bytes(16),
}


@dataclass(frozen=True, slots=True)
class Sink:
    """A sink of one client."""

    gpu: bytes
    base: int
    size: int
    backing: int = 0


@dataclass(slots=True, eq=False)
class Client:
    """One client; `pending` is its fault between begin and end: when it began, the verdict, whether it is silent."""

    number: int
    key: int
    who: Who
    process: int
    created: int
    state: int = LIVE
    mode: int = INHERIT
    gone: bool = False
    refused: int = 0
    doomed: int = 0
    kill: int = 0
    held_until: int | None = None
    extended_until: int = 0
    faults: int = 0
    spent: int = 0
    sinks: list[Sink] = field(default_factory=lambda: list[Sink]())
    pending: tuple[int, int, bool] | None = None


class Model:
    """The core. A method takes what the C takes and returns what it returns."""

    def __init__(self, ring: int) -> None:
        self.ring = ring
        self.records: list[Fields] = []
        self.read_to = 0
        self.seen: set[int] = set()
        self.lost = 0
        self.now = 0
        self.owned = False
        self.heartbeat_at = 0
        self.in_force = OFF
        self.policy: Fields = DEFAULT_POLICY
        self.limits: Fields = DEFAULT_POLICY
        self.clients: dict[int, Client] = {}
        self.made = 0
        self.counts = dict.fromkeys("absorbed passed orphans refused killed expired latency_max_ns".split(), 0)
        self.killed: list[int] = []

    # The clock, the owner, the policy.

    def at(self, now: int) -> None:
        self.now = max(self.now, now)
        self._settle()

    def _settle(self) -> None:
        alive = self.owned and self.now - self.heartbeat_at <= HEARTBEAT
        mode = _int(self.policy, "mode") if alive else OFF
        if mode != self.in_force:
            self.counts["expired"] += self.owned and not alive
            self.in_force = mode
            self._record(POLICY)

    def open(self) -> int:
        if self.owned:
            return -EBUSY
        self.owned, self.heartbeat_at, self.read_to = True, self.now, 0
        return 0

    def close(self) -> None:
        self.owned, self.policy = False, DEFAULT_POLICY
        for client in self.clients.values():
            client.mode = INHERIT
        self._settle()

    # Records.

    def _record(self, kind: int, client: Client | None = None, **more: Value) -> None:
        common: Fields = {
            "size": 144, "type": kind, "mode": self.in_force, "load": 77, "seq": len(self.records) + 1,
            "time_ns": self.now,
        }  # fmt: skip
        if client:
            who = client.who
            common |= {
                "client": client.number, "tgid": who.tgid, "uid": who.uid, "start_ticks": who.start_ticks,
                "comm": who.comm[:15].ljust(16, b"\0"), "faults": client.faults,
            }  # fmt: skip
        overwritten = len(self.records) + 1 - self.ring
        if overwritten > 0 and not any(seq >= overwritten for seq in self.seen):
            self.lost += 1
        self.records.append(BLANK | common | more)

    def read(self) -> Fields | None:
        following = max(self.read_to, len(self.records) - self.ring) + 1
        if following > len(self.records):
            return None
        self.read_to = following
        self.seen.add(following)
        return self.records[following - 1]

    def readable(self) -> bool:
        return self.read_to < len(self.records)

    # Clients.

    def create(self, key: int, who: Who, process: int) -> int:
        if key in self.clients:
            return -EEXIST
        self.made += 1
        self.clients[key] = Client(self.made, key, who, process, self.now)
        return 0

    def destroy(self, key: int) -> None:
        client = self.clients.pop(key, None)
        if client:
            client.gone = True
            if client.state != LIVE:
                self._record(GONE, client)

    def by_number(self, number: int) -> Client | None:
        return next((client for client in self.clients.values() if client.number == number), None)

    def refuses(self, client: Client) -> bool:
        refuses = client.state != LIVE
        client.refused += refuses
        self.counts["refused"] += refuses
        return refuses

    def hold(self, client: Client) -> int:
        if client.state != DOOMED:
            return 0
        if client.held_until is None:
            client.held_until = max(self.now + _int(self.limits, "hold_ms") * MS, client.extended_until)
        return max(0, client.held_until - self.now)

    # Faults.

    def fault_begin(self, client: Client, sight: Sight, began: int) -> tuple[int, Sink | None, bool]:
        """The verdict, the sink, and whether it is there already."""
        verdict, silent, sink = self._judge(client, sight)
        client.pending = (began, verdict, silent)
        if verdict != OK or sink is None:
            return verdict, None, False
        return verdict, sink, sink in client.sinks

    def _judge(self, client: Client, sight: Sight) -> tuple[int, bool, Sink | None]:
        mode = min(self.in_force, client.mode)
        if client.gone:
            return STATE, True, None
        if client.state == LIVE and mode != ABSORB:
            return STATE, mode == OFF, None
        live = client.state == LIVE
        known = sight.fault in (1, 2, 3) and sight.place in SINKABLE and sight.unit in (1, 2)
        allowed = _int(self.limits, "places") & 1 << sight.place and _int(self.limits, "units") & 1 << sight.unit
        if not known or (live and not allowed):
            return NOT_SUPPORTED, False, None
        if client.spent >= _int(self.limits, "budget_us") * 1000:
            return LIMIT, False, None
        for there in client.sinks:
            if there.gpu == sight.gpu and there.base <= sight.va < there.base + there.size:
                return OK, False, there
        sink = self._sink(client, sight)
        if sink is None:
            return NOT_SUPPORTED, False, None
        return (LIMIT if len(client.sinks) >= _int(self.limits, "sinks_max") else OK), False, sink

    def _sink(self, client: Client, sight: Sight) -> Sink | None:
        first, second = _pair(self.limits["grow_after"])
        size = STORM if len(client.sinks) >= second else GROWN if len(client.sinks) >= first else SLOT
        others = [there for there in client.sinks if there.gpu == sight.gpu]
        block = sight.va // size * size
        base = max([block, sight.room[0], *(there.base + there.size for there in others if there.base <= sight.va)])
        end = min([block + size, sight.room[1], *(there.base for there in others if there.base > sight.va)])
        slot = sight.va // SLOT * SLOT
        return Sink(sight.gpu, base, end - base) if base <= slot and slot + SLOT <= end else None

    def starve(self, client: Client) -> None:
        """There was no memory for the sink of the fault that has just begun."""
        assert client.pending is not None
        client.pending = (client.pending[0], NO_MEMORY, False)

    def fault_end(self, client: Client, sight: Sight, sink: Sink | None, backing: int, status: int, ended: int) -> None:
        assert client.pending is not None
        began, verdict, silent = client.pending
        client.pending = None
        status = verdict or status
        latency = max(0, ended - began)
        if silent:
            return
        seen: Fields = {
            "va": sight.va, "access": sight.access, "fault": sight.fault, "status": status, "place": sight.place,
            "unit": sight.unit, "veid": sight.veid, "gpc": sight.gpc, "gpu_uuid": sight.gpu,
            "latency_ns": min(latency, 2**32 - 1),
        }  # fmt: skip
        client.faults += 1
        client.spent = min(client.spent + latency, 2**64 - 1)
        if status != OK:
            self.counts["passed"] += 1
            self._record(PASSED, client, **seen)
            return
        assert sink is not None
        self.counts["absorbed"] += 1
        self.counts["latency_max_ns"] = max(self.counts["latency_max_ns"], latency)
        if not any(there.gpu == sink.gpu and there.base == sink.base for there in client.sinks):
            client.sinks.append(Sink(sink.gpu, sink.base, sink.size, backing))
        if client.state == LIVE:
            client.state, client.doomed = DOOMED, self.now
            kill_ms = _int(self.limits, "kill_ms")
            client.kill = self.now + kill_ms * MS if kill_ms and client.process else 0
        self._record(ABSORBED, client, sink_base=sink.base, sink_size=sink.size, **seen)

    def sinks_drop(self, client: Client, gpu: bytes) -> list[int]:
        """The backings that are dropped, in order of address."""
        dropped = sorted((sink for sink in client.sinks if sink.gpu == gpu), key=lambda sink: sink.base)
        client.sinks = [sink for sink in client.sinks if sink.gpu != gpu]
        return [sink.backing for sink in dropped if sink.backing]

    def orphan(self, sight: Sight) -> None:
        if self.in_force != OFF:
            self.counts["orphans"] += 1
            self._record(
                ORPHAN, va=sight.va, access=sight.access, fault=sight.fault, status=NOT_SUPPORTED, place=sight.place,
                unit=sight.unit, veid=sight.veid, gpc=sight.gpc, gpu_uuid=sight.gpu,
            )  # fmt: skip

    def tick(self) -> int:
        for client in sorted(self.clients.values(), key=lambda client: client.number):
            if client.kill and client.kill <= self.now:
                client.kill = 0
                self._kill(client)
                self._record(KILLED, client)
        dues = [client.kill for client in self.clients.values() if client.kill]
        if self.in_force != OFF:
            dues.append(self.heartbeat_at + HEARTBEAT + 1)
        return min(dues, default=0)

    def _kill(self, client: Client) -> None:
        self.counts["killed"] += 1
        self.killed.append(client.process)

    # Requests: the result, the fields any of which is wrong, and what the struct's fields are then.

    def heartbeat(self) -> int:
        if not self.owned:
            return -EBADF
        self.heartbeat_at = self.now
        self._settle()
        return 0

    def request(self, name: str, fields: Fields, *, inject: bool) -> tuple[int, list[str], Fields]:
        if not self.owned:
            return -EBADF, [], {}
        if name == "inject" and not inject:
            return -EPERM, [], {}
        wrong = wrong_fields(name, fields)
        if wrong:
            return -EINVAL, wrong, {}
        if name == "hello" and fields["abi"] != 1:
            return -EPROTO, ["abi"], {"abi": 1}
        named = {"client_mode", "answer", "inject"}
        client = self.by_number(_int(fields, "client")) if name in named else None
        if name in named and (client is None or (name == "answer" and fields["action"] == 3 and not client.process)):
            return -ESRCH, ["client"], {}
        if name == "answer" and client and client.state == LIVE:
            return -EINVAL, ["client"], {}
        if client:
            return self._of_client(name, fields, client)
        return self._of_all(name, fields)

    def _of_client(self, name: str, fields: Fields, client: Client) -> tuple[int, list[str], Fields]:
        if name == "client_mode":
            client.mode = _int(fields, "mode")
        elif name == "inject":
            return 0, [], {"status": NOT_SUPPORTED}
        elif fields["action"] == 1:
            client.state = RELEASED
        elif fields["action"] == 2:
            until = self.now + _int(fields, "ms") * MS
            client.extended_until = until
            client.held_until = until if client.held_until is not None else None
            client.kill = until if client.kill else 0
        else:
            client.kill = 0
            self._kill(client)
        return 0, [], {}

    def _of_all(self, name: str, fields: Fields) -> tuple[int, list[str], Fields]:
        if name == "policy_set":
            self.policy = self.limits = dict(fields)
            self.heartbeat_at, self.in_force = self.now, _int(fields, "mode")
            self._record(POLICY)
            return 0, [], {}
        if name == "policy_get":
            return 0, [], self.policy | {"in_force": self.in_force}
        if name == "stats":
            return 0, [], self.stats()
        if name == "client_next":
            later = [client for client in self.clients.values() if client.number > _int(fields, "client")]
            if not later:
                return -ENOENT, [], {}
            return 0, [], _describe(min(later, key=lambda client: client.number))
        return 0, [], {"size": 72, "abi": 1, "load": 77, "loaded_ns": 88, "ring": self.ring, "record_size": 144}

    def stats(self) -> Fields:
        clients = list(self.clients.values())
        now: Fields = {
            "records": len(self.records), "lost": self.lost, "clients": len(clients),
            "doomed": sum(client.state != LIVE for client in clients),
            "sinks": sum(len(client.sinks) for client in clients), "reserved": 0,
        }  # fmt: skip
        return self.counts | now


def _describe(client: Client) -> Fields:
    who = client.who
    return {
        "client": client.number, "tgid": who.tgid, "uid": who.uid, "start_ticks": who.start_ticks,
        "created_ns": client.created, "doomed_ns": client.doomed, "kill_ns": client.kill, "faults": client.faults,
        "sink_bytes": sum(sink.size for sink in client.sinks), "spent_ns": client.spent, "sinks": len(client.sinks),
        "refused": client.refused, "state": client.state, "mode": client.mode, "reserved": 0,
        "comm": who.comm[:15].ljust(16, b"\0"),
    }  # fmt: skip


def _int(fields: Fields, name: str) -> int:
    value = fields[name]
    assert isinstance(value, int)
    return value


def _pair(value: Value) -> tuple[int, int]:
    assert isinstance(value, tuple)
    first, second = value
    return first, second
