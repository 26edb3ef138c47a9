# SPDX-License-Identifier: Apache-2.0
"""The ring behind the software /dev/mpsafe, in the layout of ffi/mpsafe_uapi.h.

tests/test_uapi.py compares this layout with the one the compiler sees.
"""

import os
import struct
import time
from collections import deque
from typing import Final

from mpsafe.soft.parts import PLACES, Absorbed, Fatal, Mode, Place, Process

__all__ = ["ACCESSES", "FAULTS", "LAYOUT", "MODES", "PLACE_NUMBERS", "RecordRing"]

LAYOUT: Final = struct.Struct("<IHHQQQQiIQQQQQHHIIHH16s16sHHI")

MODES: Final[dict[Mode, int]] = {"off": 0, "observe": 1, "absorb": 2}
ACCESSES: Final = {"none": 0, "read": 1, "write": 2, "atomic": 3}
FAULTS: Final = {"pde": 1, "pte": 2, "ro": 3, "other": 4}
PLACE_NUMBERS: Final[dict[Place, int]] = {"wild": 1, "hole": 2, "external": 3}
_POLICY, _ABSORBED, _PASSED, _GONE, _KILLED = 1, 2, 3, 4, 6
_SM: Final = 1


class RecordRing:
    """Records, oldest first; reading does not consume. `first` is the `seq` of the oldest kept."""

    def __init__(self, capacity: int = 4096) -> None:
        self._load = int.from_bytes(os.urandom(8), "little")
        self._ring: deque[bytes] = deque(maxlen=capacity)
        self._seq = 0

    @property
    def load(self) -> int:
        """Which load of the module this is."""
        return self._load

    @property
    def size(self) -> int:
        """Of one record, in bytes."""
        return LAYOUT.size

    @property
    def capacity(self) -> int:
        """How many records are kept."""
        return self._ring.maxlen or 0

    @property
    def last(self) -> int:
        """The `seq` of the newest record, 0 if there is none."""
        return self._seq

    @property
    def first(self) -> int:
        """The `seq` of the oldest record that is still there; one past the last if none is."""
        return self._seq - len(self._ring) + 1

    def since(self, seq: int) -> list[bytes]:
        """The records from `seq` on, as many as are still there."""
        skip = max(0, seq - self.first)
        return list(self._ring)[skip:]

    def policy(self, mode: Mode) -> None:
        """The mode in force changed, or was asked for."""
        self._append(_POLICY, mode, None)

    def absorbed(self, mode: Mode, fault: Absorbed, uuid: bytes, latency_ns: int) -> None:
        """A sink took an access."""
        self._append(
            _ABSORBED, mode, fault.process, va=fault.va, access=fault.access, fault=fault.detail,
            sink=fault.sink, uuid=uuid, latency_ns=latency_ns,
        )  # fmt: skip

    def passed(self, mode: Mode, fault: Fatal, uuid: bytes) -> None:
        """A fault was seen and left to the stock path."""
        self._append(
            _PASSED, mode, fault.process, va=fault.va, access=fault.access, fault=fault.detail,
            status=fault.status, uuid=uuid,
        )  # fmt: skip

    def gone(self, mode: Mode, process: Process) -> None:
        """A doomed client's address space is gone."""
        self._append(_GONE, mode, process)

    def killed(self, mode: Mode, process: Process) -> None:
        """A deadline of the kernel's own passed: SIGKILL was sent."""
        self._append(_KILLED, mode, process)

    def _append(
        self,
        kind: int,
        mode: Mode,
        process: Process | None,
        *,
        va: int = 0,
        access: str = "none",
        fault: str = "",
        sink: tuple[int, int] = (0, 0),
        status: int = 0,
        uuid: bytes = bytes(16),
        latency_ns: int = 0,
    ) -> None:
        self._seq += 1
        number, pid, uid, start, faults, comm = 0, 0, 0, 0, 0, b""
        if process is not None:
            number, pid, uid, start = process.number, process.pid, process.uid, process.start_ticks
            faults, comm = process.faults, process.comm.encode()[:15]
        place = PLACES.get(fault)
        number_of_place, unit = (PLACE_NUMBERS[place], _SM) if place is not None else (0, 0)
        self._ring.append(
            LAYOUT.pack(
                LAYOUT.size, kind, MODES[mode], self._load, self._seq, time.monotonic_ns(), number,
                pid, uid, start, va, *sink, faults, ACCESSES[access], FAULTS.get(fault, 0),
                status, latency_ns, number_of_place, unit, uuid, comm, 0, 0, 0,
            )
        )  # fmt: skip
