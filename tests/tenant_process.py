# SPDX-License-Identifier: Apache-2.0
"""A small real tenant: a CUDA program that works, faults on demand, and ends at its first error.

    python tenant_process.py NAME SOCKET      attaches for tenant NAME where SOCKET is not empty

It says "up", then answers each line of stdin with "ok" or "error <CUresult>", and ends with status 1
after an error, as real programs do:

    work        a kernel run and its result checked
    serve       "ok" at once, then work without an end: it ends by itself when its work is stopped
    linger      errors do not end it from now on
    report      it tells the daemon that its context is lost, which need not be so
    <fault>     one of contract/check_cuda_faults.FAULTS
"""

import struct
import sys
import time
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Final, Self

from contract.check_cuda_faults import FAULTS, Rig
from fork_server import Forked
from mpsafe import cuda
from mpsafe.client import Client
from mpsafe.errors import BadCudaCall, DaemonUnreachable
from mpsafe.model import Identity
from mpsafe.soft.host import SoftwareHost
from mpsafed.processes import identify

__all__ = ["Tenant"]

PATIENCE_S: Final = 60.0


class Tenant:
    """Such a process on a software host; without a `socket` it knows of no daemon."""

    def __init__(self, host: SoftwareHost, name: str, socket: str = "", *, up: bool = True) -> None:
        self.name = name
        self._complaints = host.directory / f"tenant-{time.monotonic_ns()}.log"
        with self._complaints.open("wb") as complaints:
            self.process = Forked("tenant_process", [name, socket], environment=host.environment, stderr=complaints)
        identity = identify(self.process.pid)
        assert identity is not None
        self.identity: Identity = identity
        if up:
            try:
                self.is_up()
            except AssertionError:
                self.__exit__(None, None, None)
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()

    @property
    def pid(self) -> int:
        """The process's pid."""
        return self.process.pid

    def is_up(self) -> Self:
        """Waits until it has its context."""
        if self._line() != "up":
            raise AssertionError(f"tenant {self.name} did not start: {self._complaints.read_text()[-500:]}")
        return self

    def do(self, command: str) -> str:
        """Sends a command; the answer, "" if it ended without one."""
        self.say(command)
        return self._line()

    def say(self, command: str) -> None:
        """Sends a command and does not wait for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def wait(self) -> int:
        """Waits for its end: the exit status, negative for a signal."""
        return self.process.wait(PATIENCE_S)

    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def work(rig: Rig) -> None:
    """Fills the buffer through the device and looks whether it is filled."""
    rig.module.kernel("fill").launch(cuda.U64(rig.seen.address), cuda.U64(1), cuda.U32(7))
    rig.context.synchronize()
    assert struct.unpack("I", rig.seen.read()) == (7,), "wrong answer"


def obey(rig: Rig, command: str) -> None:
    """One command, and all of its work done. Raises BadCudaCall."""
    if command == "serve":
        sys.stdout.write("ok\n")
        sys.stdout.flush()
        while True:
            work(rig)
    if command == "work":
        work(rig)
    else:
        FAULTS[command][0](rig)
    rig.context.synchronize()


def main() -> int:
    """As the module says."""
    name, socket = sys.argv[1:]
    lingering = False
    with ExitStack() as stack:
        client = stack.enter_context(Client(socket))
        if socket:
            stack.enter_context(client.attach(name))
        driver = cuda.load()
        driver.init()
        rig = Rig(driver, stack)
        sys.stdout.write("up\n")
        sys.stdout.flush()
        for line in sys.stdin:
            command, answer = line.strip(), "ok"
            if command == "linger":
                lingering = True
            elif command == "report":
                with suppress(DaemonUnreachable):
                    client.report(error=700, text="an illegal memory access was encountered")
            else:
                try:
                    obey(rig, command)
                except BadCudaCall as error:
                    answer = f"error {error.result}"
            sys.stdout.write(f"{answer}\n")
            sys.stdout.flush()
            if answer != "ok" and not lingering:
                return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
