# SPDX-License-Identifier: Apache-2.0
"""The leases as they are kept: in memory only, each with its process. grants.py decides, this asks, waits and tells.

Pressure has two phases. A holder is asked to go down to so many bytes by a deadline. If it has not said so by then it
is late: it is shown so, and gets nothing more. What it uses is never touched, and counts until it says it is freed.
"""

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from mpsafe.errors import BadRequest, LeasePressed, NoRoom, UnknownDevice, UnknownLease
from mpsafe.model import Identity
from mpsafe.protocol.leases import Lease, LeaseState, LeaseWord, Said, Span
from mpsafed.leases.grants import Facts, Share, Short, Usage, facts_of, grant, spread, squeeze

__all__ = ["LeaseRules", "Leases", "Look"]

LEASES_MAX: Final = 4096
LEASES_PER_PROCESS: Final = 16
LISTENERS_PER_PROCESS: Final = 4

_log = logging.getLogger(__name__)

Look: TypeAlias = Callable[[], Awaitable[Mapping[str, Usage] | None]]


@dataclass(frozen=True, slots=True)
class LeaseRules:
    """Of [leases]. `settle_s`: how long there has to be no pressure before leases may grow again."""

    reserve_bytes: int
    ttl_s: float
    pressure_s: float
    look_s: float
    settle_s: float


class Leases:
    """`look` asks NVML for all devices, by UUID; None where it does not answer."""

    def __init__(self, rules: LeaseRules, look: Look) -> None:
        self._rules = rules
        self._look = look
        self._leases: dict[int, Lease] = {}
        self._deadlines: dict[int, asyncio.TimerHandle] = {}
        self._expiries: dict[int, float] = {}
        self._ttls: dict[int, float] = {}
        self._own: dict[tuple[str, int], int] = {}
        self._facts: dict[str, Facts] = {}
        self._pressed_at: dict[str, float] = {}
        self._listeners: defaultdict[Identity, list[_Listener]] = defaultdict(list)
        self._moved = asyncio.Event()
        self._next_id = 1
        self._version = 0
        self._looking: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Looks no more, and ends all leases without a word."""
        for deadline in self._deadlines.values():
            deadline.cancel()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    def overview(self) -> list[Lease]:
        """All leases, oldest first."""
        return list(self._leases.values())

    def known(self, number: int) -> Lease:
        """The lease of that id. UnknownLease."""
        if number not in self._leases:
            raise UnknownLease(number)
        return self._leases[number]

    async def acquire(self, wanted: Lease, *, resident_bytes: int, ttl_s: float | None) -> Lease:
        """What `wanted` says, with its id and what it was granted. NoRoom, UnknownDevice, BadRequest."""
        self._demand_number(wanted.identity)
        usage = await self._usage(wanted.device)
        self._demand_number(wanted.identity)
        pid = wanted.identity.pid
        if not any(one.identity == wanted.identity for one in self._on(wanted.device)):
            self._own[wanted.device, pid] = max(0, (usage.processes.get(pid, 0) or 0) - resident_bytes)
        facts = self._read(wanted.device, usage, joining={pid: min(resident_bytes, wanted.memory.ceiling)})
        found = grant(self._state(wanted.device), wanted.memory, wanted.sm, facts, resident_bytes=resident_bytes)
        if isinstance(found, Short):
            self._forget_own(wanted.device, pid)
            asked = wanted.memory.floor if found.what == "bytes" else wanted.sm.floor
            raise NoRoom(wanted.device, found.what, asked, found.free)
        now = time.time_ns()
        lease = replace(
            wanted, id=self._next_id, granted_bytes=found.held_bytes, asked_bytes=found.held_bytes,
            sm_percent=found.sm_percent, created_ns=now,
        )  # fmt: skip
        self._next_id += 1
        self._ttls[lease.id] = ttl_s or self._rules.ttl_s
        self._set(lease)
        self._hold_on(lease.id)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._keep_looking())
        if found.asks and resident_bytes < wanted.memory.floor:
            with self._undone(lambda: self.release(lease.id, "its floor was not freed")):
                await self._make_room(lease)
        self._balance(wanted.device)
        return self._leases[lease.id]

    async def resize(self, number: int, memory: Span) -> Lease:
        """Other wishes for memory; what is over the new ceiling is taken as freed. NoRoom, LeasePressed."""
        before = self.known(number)
        if memory.floor > before.memory.floor:
            await self._usage(before.device)
            before = self.known(number)
            if before.state != "held":
                raise LeasePressed(number, before.asked_bytes)
            others = {one: share for one, share in self._state(before.device).items() if one != number}
            found = grant(others, memory, Span(), self._facts[before.device], resident_bytes=before.granted_bytes)
            if isinstance(found, Short):
                raise NoRoom(before.device, found.what, memory.floor, found.free)
        nbytes = max(memory.floor, min(before.granted_bytes, memory.ceiling))
        is_there = nbytes - before.granted_bytes <= max(0, self._free(before.device))
        if nbytes > before.granted_bytes:
            self._set(replace(before, memory=memory, granted_bytes=nbytes, asked_bytes=nbytes))
        else:
            self._put(replace(before, memory=memory), nbytes)
        if not is_there:
            with self._undone(
                lambda: self._put(replace(self.known(number), memory=before.memory), before.granted_bytes)
            ):
                await self._make_room(self._leases[number])
        self._balance(before.device)
        return self.known(number)

    def renew(self, number: int, granted_bytes: int | None) -> Lease:
        """Holds a lease on; with `granted_bytes` its process has gone down to that."""
        lease = self.known(number)
        if granted_bytes is not None:
            if not lease.memory.floor <= granted_bytes <= lease.granted_bytes:
                expected = f"the lease's floor to what it has, {lease.memory.floor} to {lease.granted_bytes}"
                raise BadRequest("granted_bytes", expected, str(granted_bytes))
            self._put(lease, granted_bytes)
        self._hold_on(number)
        self._balance(lease.device)
        return self.known(number)

    def release(self, number: int, why: str = "it was released") -> None:
        """Ends a lease."""
        lease = self.known(number)
        del self._leases[number], self._expiries[number], self._ttls[number]
        self._relieve(number)
        self._forget_own(lease.device, lease.identity.pid)
        self._tell(lease, "ended", why)
        self._balance(lease.device)

    def ended(self, process: Identity) -> None:
        """A process has ended, and so do its leases."""
        for lease in [lease for lease in self._leases.values() if lease.identity == process]:
            self.release(lease.id, "its process has ended")

    async def words(self, process: Identity) -> AsyncIterator[LeaseWord]:
        """What becomes of the leases of a process; first where they stand."""
        if len(self._listeners[process]) >= LISTENERS_PER_PROCESS:
            raise BadRequest("Watch", f"at most {LISTENERS_PER_PROCESS} streams of one process", "one more")
        listener = _Listener()
        self._listeners[process].append(listener)
        try:
            for lease in [lease for lease in self._leases.values() if lease.identity == process]:
                listener.put(self._standing(lease))
            while True:
                for word in await listener.take():
                    yield word
        finally:
            self._listeners[process].remove(listener)
            if not self._listeners[process]:
                del self._listeners[process]

    def _demand_number(self, process: Identity) -> None:
        if len(self._leases) >= LEASES_MAX:
            raise BadRequest("lease", f"at most {LEASES_MAX} leases", "one more")
        if sum(lease.identity == process for lease in self._leases.values()) >= LEASES_PER_PROCESS:
            raise BadRequest("lease", f"at most {LEASES_PER_PROCESS} leases of one process", "one more")

    def _on(self, device: str) -> list[Lease]:
        return [lease for lease in self._leases.values() if lease.device == device]

    def _state(self, device: str) -> dict[int, Share]:
        return {
            one.id: Share(one.memory, one.sm, one.granted_bytes, one.sm_percent, one.state == "late")
            for one in self._on(device)
        }

    def _free(self, device: str) -> int:
        """Bytes; less than 0 where more is held than there is room for."""
        return self._facts[device].room_bytes - sum(lease.granted_bytes for lease in self._on(device))

    async def _usage(self, device: str) -> Usage:
        """What NVML says of a device now. UnknownDevice."""
        seen = await self._look()
        if seen is None:
            raise UnknownDevice(device[:96], "NVML does not answer, and without it nothing is granted")
        if device not in seen:
            raise UnknownDevice(device[:96], "NVML lists no such device")
        self._take_in(seen)
        return seen[device]

    def _take_in(self, seen: Mapping[str, Usage]) -> None:
        for device in {lease.device for lease in self._leases.values()} & set(seen):
            self._read(device, seen[device])

    def _read(self, device: str, usage: Usage, joining: Mapping[int, int] | None = None) -> Facts:
        """`joining`: bytes that a process has already of a lease that it is about to get."""
        held: defaultdict[int, int] = defaultdict(int, joining or {})
        for lease in self._on(device):
            held[lease.identity.pid] += lease.granted_bytes
        own = {pid: own for (where, pid), own in self._own.items() if where == device}
        facts = facts_of(usage, reserve_bytes=self._rules.reserve_bytes, held=held, own=own)
        self._own |= {(device, pid): nbytes for pid, nbytes in facts.own_bytes.items()}
        self._facts[device] = facts
        return facts

    def _forget_own(self, device: str, pid: int) -> None:
        if not any(lease.identity.pid == pid for lease in self._on(device)):
            self._own.pop((device, pid), None)

    def _set(self, lease: Lease) -> None:
        self._version += 1
        self._leases[lease.id] = replace(lease, version=self._version)

    def _hold_on(self, number: int) -> None:
        ttl_s = self._ttls[number]
        self._expiries[number] = asyncio.get_running_loop().time() + ttl_s
        self._set(replace(self._leases[number], expires_ns=time.time_ns() + int(ttl_s * 1e9)))

    async def _keep_looking(self) -> None:
        """As long as there are leases."""
        while self._leases:
            await asyncio.sleep(self._rules.look_s)
            try:
                await self._look_after()
            except Exception:  # what goes wrong once must not keep the leases from ending
                _log.exception("the leases could not be looked after")

    async def _look_after(self) -> None:
        now = asyncio.get_running_loop().time()
        for number in [number for number, at in self._expiries.items() if at < now]:
            self.release(number, "it was not renewed in time")
        if not self._leases or (seen := await self._look()) is None:
            return
        self._take_in(seen)
        for device in {lease.device for lease in self._leases.values()}:
            self._balance(device)

    async def _make_room(self, lease: Lease) -> None:
        """Has the others go down until the floor is there; NoRoom when their deadline is over."""
        self._set(replace(lease, state="waiting"))
        self._balance(lease.device)
        try:
            async with asyncio.timeout(self._rules.pressure_s + self._rules.look_s):
                while self._free(lease.device) < 0:
                    await self._moved.wait()
                    await self._usage(lease.device)
                    self.known(lease.id)
        except TimeoutError:
            free = max(0, lease.granted_bytes + self._free(lease.device))
            raise NoRoom(lease.device, "bytes", lease.memory.floor, free) from None
        self._set(replace(self._leases[lease.id], state="held"))

    @contextlib.contextmanager
    def _undone(self, undo: Callable[[], None]) -> Generator[None]:
        """What was granted beforehand is taken back where it does not come true; also where who waits hangs up."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(UnknownLease):
                undo()
            raise

    def _balance(self, device: str) -> None:
        """Asks, relieves and lets grow, as the facts are."""
        loop, state = asyncio.get_running_loop(), self._state(device)
        if not state or device not in self._facts:
            return
        asks = squeeze(state, self._facts[device])
        if asks:
            self._pressed_at[device] = loop.time()
        for lease in self._on(device):
            self._ask(lease, asks.get(lease.id))
        settled = loop.time() >= self._pressed_at.get(device, 0) + self._rules.settle_s
        if not asks and settled:
            for number, nbytes in spread(self._state(device), self._facts[device]).items():
                self._put(self._leases[number], nbytes)
                self._tell(self._leases[number], "grow")
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _ask(self, lease: Lease, to: int | None) -> None:
        """Phase 1, or the end of it."""
        if lease.state == "waiting":
            return
        if to is None:
            if lease.state != "held":
                self._put(lease, lease.granted_bytes)
                self._tell(self._leases[lease.id], "granted")
        elif lease.state == "held" or to < lease.asked_bytes or lease.asked_bytes < lease.memory.floor:
            state: LeaseState = "late" if lease.state == "late" else "pressed"
            self._set(replace(lease, state=state, asked_bytes=to))
            if state == "pressed":
                self._relieve(lease.id)
                loop = asyncio.get_running_loop()
                self._deadlines[lease.id] = loop.call_later(self._rules.pressure_s, self._late, lease.id)
            self._tell(self._leases[lease.id], "late" if state == "late" else "shrink")

    def _late(self, number: int) -> None:
        """Phase 2."""
        del self._deadlines[number]
        self._set(replace(self._leases[number], state="late"))
        self._tell(self._leases[number], "late")

    def _put(self, lease: Lease, nbytes: int) -> None:
        """It has so much now; what was asked of it is asked no more if it is down to that."""
        done = lease.state == "waiting" or nbytes <= lease.asked_bytes or self._free(lease.device) >= 0
        if done:
            self._relieve(lease.id)
            self._set(replace(lease, state="held", granted_bytes=nbytes, asked_bytes=nbytes))
        else:
            self._set(replace(lease, granted_bytes=nbytes))

    def _relieve(self, number: int) -> None:
        if (deadline := self._deadlines.pop(number, None)) is not None:
            deadline.cancel()

    def _tell(self, lease: Lease, word: Said, detail: str = "") -> None:
        for listener in self._listeners.get(lease.identity, []):
            listener.put(self._word(lease, word, detail))

    def _standing(self, lease: Lease) -> LeaseWord:
        match lease.state:
            case "pressed":
                return self._word(lease, "shrink")
            case "late":
                return self._word(lease, "late")
            case _:
                return self._word(lease, "granted")

    def _word(self, lease: Lease, word: Said, detail: str = "") -> LeaseWord:
        deadline = self._deadlines.get(lease.id)
        ns = 0 if deadline is None else int(deadline.when() * 1e9)
        return LeaseWord(lease.id, word, lease.asked_bytes, ns, lease.version, detail)


class _Listener:
    """What one stream has still to tell: the last word about each lease."""

    def __init__(self) -> None:
        self._words: dict[int, LeaseWord] = {}
        self._came = asyncio.Event()

    def put(self, word: LeaseWord) -> None:
        """In place of what was not told yet."""
        self._words.pop(word.lease, None)
        self._words[word.lease] = word
        self._came.set()

    async def take(self) -> list[LeaseWord]:
        """All that there is, in order; waits for the first."""
        await self._came.wait()
        self._came.clear()
        words, self._words = list(self._words.values()), {}
        return words
