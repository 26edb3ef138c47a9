# SPDX-License-Identifier: Apache-2.0
"""The software kernel's log, in the record format of /dev/kmsg (kernel document ABI/testing/dev-kmsg)."""

import os
import re
import time
from pathlib import Path
from typing import Final

from mpsafe.soft.parts import Fatal

__all__ = ["MMU_FAULTS", "SM_FAULTS", "KernelLog"]

MMU_FAULTS: Final = {
    "pde": "FAULT_PDE",
    "pte": "FAULT_PTE",
    "ro": "FAULT_RO_VIOLATION",
    "other": "FAULT_REGION_VIOLATION",
}
SM_FAULTS: Final = {
    "illegal_instruction": "Illegal Instruction Encoding",
    "misaligned": "Misaligned Address",
    "trap": "Illegal Instruction Parameter",
}


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

    def fault(self, fault: Fatal, pci: str) -> None:
        """What a driver of branch 580 prints: Xid 31 or 13, then 43 for the channel."""
        who = f"pid={fault.process.pid}, name={fault.process.comm}"
        at = f"NVRM: Xid (PCI:{pci.removesuffix('.0')})"
        channel = f"Ch {fault.channel + 7:08x}"
        if fault.fault_class == "mmu":
            self.error(
                f"{at}: 31, {who}, {channel}, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC0 GPCCLIENT_T1_0 "
                f"faulted @ 0x{fault.va >> 32:x}_{fault.va & 0xFFFFFFFF:08x}. Fault is of type "
                f"{MMU_FAULTS[fault.detail]} ACCESS_TYPE_VIRT_{fault.access.upper()}"
            )
        else:
            sm = "(GPC 0, TPC 0, SM 0)"
            self.error(f"{at}: 13, {who}, Graphics SM Warp Exception on {sm}: {SM_FAULTS[fault.detail]}")
            self.error(f"{at}: 13, {who}, Graphics Exception: ESR 0x504730=0x0 0x504734=0x20 0x504728=0x0 0x50472c=0x0")
        self.error(f"{at}: 43, {who}, {channel}")
