# SPDX-License-Identifier: Apache-2.0
"""A CUDA process that the checks of MPS hold and look at. It obeys lines and answers each with one.

    python mps_client.py [UID]      becomes that user once it has read what another user may not be able to

init             the result of cuInit
open DEVICE      a context on that device, with the project's kernels: its result
work DEVICE      a kernel run and its outcome checked: 0, or the error that it met
fault DEVICE KERNEL
                 the error that a kernel of that name leaves, 0 if it leaves none
end DEVICE       works until an error comes: that error
"""

import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mpsafe import cuda
from mpsafe.errors import BadCudaCall

__all__ = ["INVALID_DEVICE", "MpsClient"]

WILD: Final = 0x300000000000
WORDS: Final = 64
INVALID_DEVICE: Final = 101


class Work:
    """One context with what its work needs; it ends with the process, as its context may have failed."""

    def __init__(self, driver: cuda.Driver, device: int, kernels: str) -> None:
        self.context = cuda.Context(driver, driver.devices()[device])
        self.module = cuda.Module(self.context, kernels)
        self.buffer = cuda.Buffer(self.context, 4 * WORDS)
        self.turn = 0

    def work(self) -> int:
        self.turn += 1
        try:
            self.context.make_current()
            arguments = cuda.U64(self.buffer.address), cuda.U64(WORDS), cuda.U32(self.turn)
            self.module.kernel("fill").launch(*arguments, threads=WORDS)
            self.context.synchronize()
            found = self.buffer.read()
        except BadCudaCall as error:
            return error.result
        assert found == struct.pack("I", self.turn) * WORDS, "a wrong result without an error"
        return 0

    def fault(self, kernel: str) -> int:
        arguments = (cuda.U64(WILD), cuda.U32(1)) if kernel == "write_address" else ()
        try:
            self.context.make_current()
            self.module.kernel(kernel).launch(*arguments)
            self.context.synchronize()
        except BadCudaCall as error:
            return error.result
        return 0


def obey(driver: cuda.Driver, kernels: str, works: dict[str, Work], words: list[str]) -> int:
    match words:
        case ["init"]:
            return driver.result("cuInit", 0)
        case ["open", device]:
            try:
                if int(device) >= len(driver.devices()):
                    return INVALID_DEVICE
                works[device] = Work(driver, int(device), kernels)
            except BadCudaCall as error:
                return error.result
            return 0
        case ["work", device]:
            return works[device].work()
        case ["fault", device, kernel]:
            return works[device].fault(kernel)
        case ["end", device]:
            while (result := works[device].work()) == 0:
                pass
            return result
        case _:
            raise ValueError(words)


class MpsClient:
    """Such a process, seen from outside. It is killed with the `with` if it has not ended."""

    def __init__(self, environment: Mapping[str, str], *, uid: int | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__), *([] if uid is None else [str(uid)])],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def tell(self, command: str) -> None:
        """Sends a command; `heard` takes the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def heard(self) -> int:
        """The next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the client has ended"
        return int(line)

    def ask(self, command: str) -> int:
        """A command and its answer."""
        self.tell(command)
        return self.heard()

    def leave(self) -> None:
        """Ends it as a program ends."""
        self.process.communicate(timeout=60)


def main() -> None:
    """As the module says."""
    driver, kernels = cuda.load(), cuda.kernels()
    if len(sys.argv) > 1:
        uid = int(sys.argv[1])
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    works: dict[str, Work] = {}
    for line in sys.stdin:
        sys.stdout.write(f"{obey(driver, kernels, works, line.split())}\n")
        sys.stdout.flush()
    # After a fatal error nothing can be undone: no finalizer may try.
    os._exit(0)


if __name__ == "__main__":
    main()
