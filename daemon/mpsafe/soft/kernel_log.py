# SPDX-License-Identifier: Apache-2.0
"""The software kernel's log, in the record format of /dev/kmsg (kernel document ABI/testing/dev-kmsg)."""

import os
import re
import time
from pathlib import Path
from typing import Final

from mpsafe.soft.parts import Fatal

__all__ = ["MMU_FAULTS", "SM_FAULTS", "TRAP", "KernelLog"]

MMU_FAULTS: Final = {
    "pde": "FAULT_PDE",
    "pte": "FAULT_PTE",
    "ro": "FAULT_RO_VIOLATION",
    "other": "FAULT_REGION_VIOLATION",
}
SM_FAULTS: Final = {
    "illegal_instruction": "Illegal Instruction Encoding",
    "misaligned": "Misaligned Address",
}
TRAP: Final = "trap"


class KernelLog:
    """One record a line: "3,<seq>,<usec>,-;<text>"."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._seq = 0

    def error(self, text: str) -> None:
        """One line at priority 3 (facility kernel, level error)."""
        escaped = re.sub(r"[^ -\x5b\x5d-~]", lambda m: "".join(f"\\x{b:02x}" for b in m[0].encode()), text)
        os.write(self._fd, f"3,{self._seq},{time.monotonic_ns() // 1000},-;{escaped}\n".encode())
        self._seq += 1

    def fault(self, fault: Fatal, pci: str) -> list[int]:
        """What 580.159.04 prints on an H100 (tools/qualify/results), and the numbers of its Xids.

        A memory fault is Xid 31 with the pid of the newest channel; an SM exception is Xid 13, in lines without a pid,
        and of a process outside MPS one with it; a trap is not described. Of an MPS server, Xid 43 says that
        a channel of the server itself was stopped, and so it does of a trap elsewhere.
        """
        assert fault.newest is not None
        named, owner = fault.newest.process, fault.newest.group.owner
        at = f"NVRM: Xid (PCI:{pci.removesuffix('.0')})"
        channel = f"channel 0x{fault.newest.number + 7:08x}"
        who = f"pid={named.pid}, name={named.comm}"
        if fault.fault_class == "mmu":
            self.error(
                f"{at}: 31, {who}, {channel}, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC1 GPCCLIENT_T1_8 "
                f"faulted @ 0x{fault.va >> 32:x}_{fault.va & 0xFFFFFFFF:08x}. Fault is of type "
                f"{MMU_FAULTS[fault.detail]} ACCESS_TYPE_VIRT_{fault.access.upper()}"
            )
            return [31]
        xids: list[int] = []
        if fault.detail in SM_FAULTS:
            self.error(f"{at}: 13, Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): {SM_FAULTS[fault.detail]}")
            self.error(f"{at}: 13, Graphics Exception: ESR 0x519730=0x500000f 0x519734=0x0 0x519728=0x0 0x51972c=0x0")
            xids.append(13)
        if fault.newest.group.shared or not xids:
            stopped = owner if fault.newest.group.shared else named
            self.error(f"{at}: 43, pid={stopped.pid}, name={stopped.comm}, {channel}")
            xids.append(43)
        else:
            self.error(
                f"{at}: 13, {who}, Graphics Exception: {channel}, Class 0000cbc0, Offset 00000000, Data 00000000"
            )
        return xids
