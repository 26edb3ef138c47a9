# SPDX-License-Identifier: Apache-2.0
"""Which error each fault leaves behind, for any libcuda.so.1. Each fault ends a process: a child runs it.

    python check_cuda_faults.py [LIBRARY]           prints one line a fault: name, a tab, "ok" or what was wrong
    python check_cuda_faults.py LIBRARY FAULT       is such a child: prints the CUresult, and what was read

Outside MPS a fault is its process's own. Under MPS it ends the other clients of the server as well.
"""

import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Final

from mpsafe import cuda
from mpsafe.errors import BadCudaCall

__all__ = ["FAULTS", "check_cuda_faults", "provoke"]

WILD: Final = 0x300000000000
SEEN: Final = 0xFEEDFACE


class Rig:
    """A context on the first device, the kernels, and one granule of memory at reserved addresses."""

    def __init__(self, driver: cuda.Driver, stack: ExitStack) -> None:
        device = driver.devices()[0]
        self.context = stack.enter_context(cuda.Context(driver, device))
        self.module = stack.enter_context(cuda.Module(self.context, cuda.kernels()))
        self.illegal = stack.enter_context(cuda.Module(self.context, cuda.ILLEGAL_INSTRUCTION))
        granule = cuda.granularity(driver, device)
        self.place = stack.enter_context(cuda.Reservation(self.context, granule))
        self.memory = stack.enter_context(cuda.Memory.create(driver, device, granule))
        self.seen = stack.enter_context(cuda.Buffer(self.context, 4))
        self.seen.write(struct.pack("I", SEEN))

    def read(self, address: int) -> None:
        self.module.kernel("read_address").launch(cuda.U64(address), cuda.U64(self.seen.address))

    def write(self, address: int) -> None:
        self.module.kernel("write_address").launch(cuda.U64(address), cuda.U32(1))


def wild_read(rig: Rig) -> None:
    rig.read(WILD)


def wild_write(rig: Rig) -> None:
    rig.write(WILD)


def read_without_access(rig: Rig) -> None:
    rig.place.map(rig.memory)
    rig.read(rig.place.address)


def write_to_read_only(rig: Rig) -> None:
    rig.place.map(rig.memory)
    rig.place.set_access("read")
    rig.write(rig.place.address)


def use_after_unmap(rig: Rig) -> None:
    rig.place.map(rig.memory)
    rig.place.set_access("readwrite")
    rig.place.write(b"was here")
    rig.place.unmap()
    rig.write(rig.place.address)


def misaligned(rig: Rig) -> None:
    rig.module.kernel("misaligned").launch(cuda.U64(rig.seen.address))


def trap(rig: Rig) -> None:
    rig.module.kernel("trap").launch()


def illegal_instruction(rig: Rig) -> None:
    rig.illegal.kernel("illegal_instruction").launch()


# The results that a fault may leave. An illegal instruction is a trap on the real driver: see mpsafe.cuda.
FAULTS: Final[dict[str, tuple[Callable[[Rig], None], frozenset[int]]]] = {
    "wild_read": (wild_read, frozenset({700})),
    "wild_write": (wild_write, frozenset({700})),
    "read_without_access": (read_without_access, frozenset({700})),
    "write_to_read_only": (write_to_read_only, frozenset({700})),
    "use_after_unmap": (use_after_unmap, frozenset({700})),
    "misaligned": (misaligned, frozenset({716})),
    "trap": (trap, frozenset({719})),
    "illegal_instruction": (illegal_instruction, frozenset({715, 719})),
}


def provoke(driver: cuda.Driver, name: str) -> tuple[int, int]:
    """Provokes the fault: the error that it leaves, and, where it leaves none, what a read saw."""
    driver.init()
    with ExitStack() as stack:
        rig = Rig(driver, stack)
        FAULTS[name][0](rig)
        try:
            rig.context.synchronize()
        except BadCudaCall as error:
            assert driver.result("cuCtxSynchronize") == error.result, "the error does not stick"
            assert driver.result("cuMemFree_v2", rig.seen.address) == error.result, "a call does not know of the error"
            return error.result, 0
        (seen,) = struct.unpack("I", rig.seen.read())
        return 0, seen


def check_cuda_faults(library: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Provokes each fault in a child of its own: by name "ok", or what was wrong."""
    found: dict[str, str] = {}
    for name, (_, allowed) in FAULTS.items():
        child = subprocess.run(
            [sys.executable, __file__, library, name],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        result = child.stdout.partition(" ")[0]
        expected = result.isdecimal() and int(result) in allowed
        found[name] = "ok" if expected else f"{child.stdout}{child.stderr}".strip()
    return found


def main() -> int:
    """As the module says; 1 if anything is wrong."""
    library = sys.argv[1] if len(sys.argv) > 1 else cuda.load().path
    if len(sys.argv) > 2:
        result, seen = provoke(cuda.load(library), sys.argv[2])
        sys.stdout.write(f"{result} {seen:#x}\n")
        return 0
    found = check_cuda_faults(library)
    for name, outcome in found.items():
        sys.stdout.write(f"{name}\t{outcome}\n")
    return 0 if set(found.values()) == {"ok"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
