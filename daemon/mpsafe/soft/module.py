# SPDX-License-Identifier: Apache-2.0
"""What the patched module knows of its owner, its policy and its clients, as ffi/mpsafe_uapi.h describes it."""

import errno
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from mpsafe.soft import layouts
from mpsafe.soft.machine import Machine
from mpsafe.soft.parts import Absorbed, ClientMode, Fatal, Mode, Place, Process, SinkPolicy
from mpsafe.soft.peer import identity
from mpsafe.soft.records import ACCESSES, FAULTS, MODES, PLACE_NUMBERS, RecordRing

__all__ = ["Module"]

ABI: Final = 1
FEATURES: Final = 1 << 0 | 1 << 3
FEATURE_INJECT: Final = 1 << 5
INHERIT: Final = 0xFFFF
SINKS_MAX: Final = 4096
LIVE, DOOMED, RELEASED = 1, 2, 3
RELEASE, EXTEND, KILL = 1, 2, 3

_MODES_BY_NUMBER: Final[dict[int, Mode]] = {number: mode for mode, number in MODES.items()}
_CLIENT_MODES: Final[dict[int, ClientMode]] = {**_MODES_BY_NUMBER, INHERIT: "inherit"}
_NUMBERS: Final[dict[ClientMode, int]] = {mode: number for number, mode in _CLIENT_MODES.items()}


class Module:
    """`limit_s`: how long the mode stays in force without a heartbeat. `inject`: None where it is not allowed."""

    def __init__(
        self,
        machine: Machine,
        ring: RecordRing,
        *,
        driver: str,
        limit_s: float,
        inject: Callable[[Process, str, int, str], int] | None,
    ) -> None:
        self._machine = machine
        self._ring = ring
        self._driver = driver
        self._limit_s = limit_s
        self._inject = inject
        self._loaded_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._expires: float | None = None
        self._absorbed = self._passed = self._killed = self._refused_before = self._expired = self._slowest_ns = 0
        self.lost = 0

    def open(self) -> None:
        """There is an owner."""
        self._expires = time.monotonic() + self._limit_s

    def close(self) -> None:
        """There is none any more: nothing of what it set stays."""
        self._expires = None
        self._machine.policy = SinkPolicy()
        for process in self._machine.clients:
            process.mode = "inherit"
        self._settle()

    def remaining_s(self) -> float | None:
        """When `check` has something to do; None: not until something comes."""
        due = [process.kill_ns / 1e9 for process in self._machine.clients if process.kill_ns]
        if self._expires is not None and self._machine.mode != "off":
            due.append(self._expires)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def check(self) -> None:
        """Deals with what is due: a missed heartbeat, a deadline."""
        self._settle()
        now = time.monotonic_ns()
        for process in self._machine.clients:
            if process.kill_ns and process.kill_ns <= now:
                process.kill_ns = 0
                self._ring.killed(self._machine.mode, process)
                self._kill(process)

    def absorbed(self, fault: Absorbed, uuid: bytes, latency_ns: int) -> None:
        """A sink took an access."""
        process, policy = fault.process, self._machine.policy
        process.spent_ns += latency_ns
        self._slowest_ns = max(self._slowest_ns, latency_ns)
        if not process.doomed_ns:
            process.doomed_ns = time.monotonic_ns()
            process.kill_ns = process.doomed_ns + policy.kill_ms * 1_000_000 if policy.kill_ms else 0
        if fault.new:
            self._absorbed += 1
            self._ring.absorbed(self._machine.mode, fault, uuid, latency_ns)

    def passed(self, fault: Fatal, uuid: bytes) -> None:
        """A fault was seen, unless the mode is off, and left to the stock path."""
        if fault.fault_class == "mmu" and self._machine.mode_of(fault.process) != "off":
            fault.process.faults += 1
            self._passed += 1
            self._ring.passed(self._machine.mode, fault, uuid)

    def gone(self, process: Process) -> None:
        """A client's address space is gone."""
        self._refused_before += process.refused
        if process.doomed:
            self._ring.gone(self._machine.mode, process)

    def request(self, number: int, payload: bytes) -> bytes:
        """Carries a request out and returns its struct. OSError(errno, what was wrong, struct) if it is refused."""
        match number:
            case layouts.HELLO_NUMBER:
                return self._hello(*layouts.HELLO.unpack(_sized(payload, layouts.HELLO.size)))
            case layouts.POLICY_SET_NUMBER:
                self._set_policy(*layouts.POLICY.unpack(_sized(payload, layouts.POLICY.size)))
            case layouts.POLICY_GET_NUMBER:
                return self._policy()
            case layouts.HEARTBEAT_NUMBER:
                self._beat()
            case layouts.CLIENT_NEXT_NUMBER:
                return self._client_behind(layouts.CLIENT.unpack(_sized(payload, layouts.CLIENT.size))[0])
            case layouts.CLIENT_MODE_NUMBER:
                self._set_mode(*layouts.CLIENT_MODE.unpack(_sized(payload, layouts.CLIENT_MODE.size)))
            case layouts.STATS_NUMBER:
                return self._stats()
            case layouts.ANSWER_NUMBER:
                self._answer(*layouts.ANSWER.unpack(_sized(payload, layouts.ANSWER.size)))
            case layouts.INJECT_NUMBER:
                return self._injected(payload)
            case _:
                raise OSError(errno.ENOTTY, "no such request")
        return payload

    def _hello(self, size: int, abi: int, *_: object) -> bytes:
        features = FEATURES | (FEATURE_INJECT if self._inject is not None else 0)
        filled = layouts.HELLO.pack(
            layouts.HELLO.size, ABI, self._ring.load, self._loaded_ns, features, self._ring.capacity, self._ring.size,
            0, self._driver.encode(),
        )  # fmt: skip
        if size != layouts.HELLO.size:
            raise OSError(errno.EINVAL, "size")
        if abi != ABI:
            raise OSError(errno.EPROTO, "abi", filled)
        return filled

    def _set_policy(
        self, mode: int, in_force: int, places: int, units: int, sinks: int, budget: int, grow: int, more: int,
        hold: int, kill: int, *reserved: int,
    ) -> None:  # fmt: skip
        known = sum(1 << number for number in PLACE_NUMBERS.values())
        ranges = {
            "mode": mode in _MODES_BY_NUMBER,
            "in_force": in_force == 0,
            "places": places & ~known == 0,
            "units": units & ~0b110 == 0,
            "sinks_max": 1 <= sinks <= SINKS_MAX,
            "budget_us": 1 <= budget <= 60_000_000,
            "grow_after": grow <= more,
            "hold_ms": hold <= 60_000,
            "kill_ms": kill <= 600_000,
            "reserved": not any(reserved),
        }
        for field, right in ranges.items():
            if not right:
                raise OSError(errno.EINVAL, field)
        chosen: frozenset[Place] = frozenset(place for place, number in PLACE_NUMBERS.items() if places >> number & 1)
        self._machine.policy = SinkPolicy(
            _MODES_BY_NUMBER[mode], chosen, units, sinks, budget, (grow, more), hold, kill
        )
        self._beat()

    def _policy(self) -> bytes:
        policy = self._machine.policy
        places = sum(1 << PLACE_NUMBERS[place] for place in policy.places)
        return layouts.POLICY.pack(
            MODES[policy.mode], MODES[self._machine.mode], places, policy.units, policy.sinks_max, policy.budget_us,
            *policy.grow_after, policy.hold_ms, policy.kill_ms, 0, 0, 0,
        )  # fmt: skip

    def _beat(self) -> None:
        self._expires = time.monotonic() + self._limit_s
        self._settle()

    def _settle(self) -> None:
        """Puts in force what the policy says, while somebody lives who wants it."""
        alive = self._expires is not None and time.monotonic() < self._expires
        mode = self._machine.policy.mode if alive else "off"
        if mode == self._machine.mode:
            return
        self._expired += self._expires is not None and not alive
        self._machine.mode = mode
        self._ring.policy(mode)

    def _client_behind(self, last: int) -> bytes:
        for process in self._machine.clients:
            if process.number > last:
                state = RELEASED if process.released else DOOMED if process.doomed else LIVE
                return layouts.CLIENT.pack(
                    process.number, process.pid, process.uid, process.start_ticks, process.created_ns,
                    process.doomed_ns, process.kill_ns, process.faults, sum(size for _, size in process.sinks),
                    process.spent_ns, len(process.sinks), process.refused, state, _NUMBERS[process.mode], 0,
                    process.comm.encode()[:15],
                )  # fmt: skip
        raise OSError(errno.ENOENT, "client")

    def _set_mode(self, number: int, mode: int, *reserved: int) -> None:
        if mode not in _CLIENT_MODES or any(reserved):
            raise OSError(errno.EINVAL, "mode")
        self._client(number).mode = _CLIENT_MODES[mode]

    def _stats(self) -> bytes:
        clients = self._machine.clients
        refused = self._refused_before + sum(process.refused for process in clients)
        return layouts.STATS.pack(
            self._absorbed, self._passed, 0, refused, self._killed, self._ring.last, self.lost, self._expired,
            self._slowest_ns, len(clients), sum(process.doomed for process in clients),
            sum(len(process.sinks) for process in clients), 0,
        )  # fmt: skip

    def _answer(self, number: int, action: int, ms: int) -> None:
        if action not in (RELEASE, EXTEND, KILL) or (not 1 <= ms <= 600_000 if action == EXTEND else ms != 0):
            raise OSError(errno.EINVAL, "action")
        process = self._client(number)
        if not process.doomed:
            raise OSError(errno.EINVAL, "client")
        if action == RELEASE:
            process.released = True
        elif action == EXTEND:
            process.kill_ns = process.kill_ns and time.monotonic_ns() + ms * 1_000_000
        else:
            process.kill_ns = 0
            self._kill(process)

    def _injected(self, payload: bytes) -> bytes:
        number, va, access, fault, unit, place, status, reserved, uuid = layouts.INJECT.unpack(
            _sized(payload, layouts.INJECT.size)
        )
        if self._inject is None:
            raise OSError(errno.EPERM, "the software kernel was started without --inject")
        accesses = {number: word for word, number in ACCESSES.items()}
        faults = {number: word for word, number in FAULTS.items()}
        if access not in accesses or fault not in faults or unit != 1 or place or status or reserved:
            raise OSError(errno.EINVAL, "access, fault, unit, place or reserved")
        status = self._inject(self._client(number), faults[fault], va, accesses[access])
        return layouts.INJECT.pack(number, va, access, fault, unit, place, status, reserved, uuid)

    def _client(self, number: int) -> Process:
        found = next((process for process in self._machine.clients if process.number == number), None)
        if found is None:
            raise OSError(errno.ESRCH, "client")
        return found

    def _kill(self, process: Process) -> None:
        """SIGKILL to that very process."""
        self._killed += 1
        try:
            pidfd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return
        try:
            if identity(process.pid)[0] == process.start_ticks:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except (OSError, ValueError):  # it has ended meanwhile
            pass
        finally:
            os.close(pidfd)


def _sized(payload: bytes, size: int) -> bytes:
    if len(payload) != size:
        raise OSError(errno.EFAULT, "payload")
    return payload
