# SPDX-License-Identifier: Apache-2.0
"""The ring behind the software /dev/mpsafe, in the layout of ffi/mpsafe_uapi.h.

tests/test_uapi.py compares this layout with the one the compiler sees.
"""

import os
import struct
import time
from collections import deque
from typing import Final

from mpsafe.soft.parts import SINK_BYTES, Absorbed, Fatal, Mode, Process

__all__ = ["ACCESSES", "LAYOUT", "RecordRing"]

LAYOUT: Final = struct.Struct("<IHHQQQQiIQQQQQHHiII16s16s")

_MODES: Final[dict[Mode, int]] = {"off": 0, "observe": 1, "absorb": 2}
ACCESSES: Final = {"none": 0, "read": 1, "write": 2, "atomic": 3}
_FAULTS: Final = {"pde": 1, "pte": 2, "ro": 3}
_POLICY, _ABSORBED, _PASSED, _GONE = 1, 2, 3, 4
_NOT_SUPPORTED: Final = 0x56


class RecordRing:
    """Records, oldest first; reading does not consume. `first` is the `seq` of the oldest kept."""

    def __init__(self, capacity: int = 4096) -> None:
        self._load = int.from_bytes(os.urandom(8), "little")
        self._ring: deque[bytes] = deque(maxlen=capacity)
        self._seq = 0

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
            sink=True, uuid=uuid, latency_ns=latency_ns,
        )  # fmt: skip

    def passed(self, mode: Mode, fault: Fatal, uuid: bytes) -> None:
        """A fault was seen and left to the stock path."""
        self._append(
            _PASSED, mode, fault.process, va=fault.va, access=fault.access, fault=fault.detail,
            status=_NOT_SUPPORTED, uuid=uuid,
        )  # fmt: skip

    def gone(self, mode: Mode, process: Process) -> None:
        """A doomed client's address space is gone."""
        self._append(_GONE, mode, process)

    def _append(
        self,
        kind: int,
        mode: Mode,
        process: Process | None,
        *,
        va: int = 0,
        access: str = "none",
        fault: str = "",
        sink: bool = False,
        status: int = 0,
        uuid: bytes = bytes(16),
        latency_ns: int = 0,
    ) -> None:
        self._seq += 1
        number, pid, uid, start, faults, comm = 0, 0, 0, 0, 0, b""
        if process is not None:
            number, pid, uid, start = process.number, process.pid, process.uid, process.start_ticks
            faults, comm = process.faults, process.comm.encode()[:15]
        base, size = (va // SINK_BYTES * SINK_BYTES, SINK_BYTES) if sink else (0, 0)
        self._ring.append(
            LAYOUT.pack(
                LAYOUT.size, kind, _MODES[mode], self._load, self._seq, time.monotonic_ns(), number,
                pid, uid, start, va, base, size, faults, ACCESSES[access], _FAULTS.get(fault, 0),
                status, latency_ns, 0, uuid, comm,
            )
        )  # fmt: skip
