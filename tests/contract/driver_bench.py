# SPDX-License-Identifier: Apache-2.0
"""What the checks of a driver use: how it is opened, and processes that are its clients.

A client is a process of its own, so that it has a pid of its own and can be killed.
"""

import errno
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mpsafe.errors import SourceLost
from mpsafe.model import Identity
from mpsafed.driver import Driver, DriverClient, Place, Unit
from mpsafed.driver.records import Record, RecordKind, decode
from mpsafed.driver.software import SoftwareDriver
from mpsafed.driver.uvm import UvmDriver
from mpsafed.processes import identify

__all__ = ["PATIENCE_S", "Bench", "Victim", "cuda_bench", "module_bench", "refused", "software_bench"]

PATIENCE_S: Final = 60.0

_OF_MODULE: Final = "import os, time\nos.open('/dev/mpsafe-client', os.O_RDWR)\nprint(flush=True)\ntime.sleep(1e6)"
_OF_CUDA: Final = """
import time
from mpsafe import cuda
driver = cuda.load()
driver.init()
context = cuda.Context(driver, driver.devices()[0])
print(flush=True)
time.sleep(1e6)
"""
_OF_SOFTWARE: Final = """
import socket, sys, time
kernel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
kernel.connect(sys.argv[1])
for request in (b"hello cuda", b"open 0 0"):
    kernel.send(request)
    assert kernel.recv(4096).startswith(b"ok"), request
print(flush=True)
time.sleep(1e6)
"""


@dataclass(slots=True)
class Victim:
    """A client that does nothing but be one."""

    process: "subprocess.Popen[bytes]"
    identity: Identity

    def end(self) -> None:
        """By SIGKILL, which needs no proof here: nothing of it runs on a device."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()


@dataclass
class Bench:
    """One implementation. `place` is what an injector says, `more_places` what it may say besides where it is believed,
    `heartbeat_s` the dead man's limit, `copies` whether it has a copy engine.

    `sends_ahead`: records count as read once they are on their way to the owner, asked for or not.
    """

    opens: Callable[[], Driver]
    client_program: tuple[str, ...]
    place: Place
    heartbeat_s: float
    sends_ahead: bool
    more_places: tuple[Place, ...] = ()
    copies: bool = True
    drivers: list[Driver] = field(default_factory=lambda: list[Driver]())
    victims: list[Victim] = field(default_factory=lambda: list[Victim]())

    def open(self) -> Driver:
        """The device, once it is free: the kernel may see the end of its last owner a little later."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                driver = self.opens()
            except (SourceLost, ConnectionError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                self.drivers.append(driver)
                return driver

    def close(self, driver: Driver) -> None:
        """Lets go of one that `open` gave."""
        self.drivers.remove(driver)
        driver.close()

    def client(self) -> Victim:
        """A new one."""
        process = subprocess.Popen([sys.executable, "-c", *self.client_program], stdout=subprocess.PIPE)
        assert process.stdout is not None
        ready = process.stdout.readline()
        identity = identify(process.pid)
        assert ready and identity is not None, "the client did not start"
        self.victims.append(Victim(process, identity))
        return self.victims[-1]

    def clear(self) -> None:
        """Ends all that a check has left."""
        for driver in list(self.drivers):
            self.close(driver)
        while self.victims:
            self.victims.pop().end()

    def entry(self, driver: Driver, victim: Victim) -> DriverClient:
        """What the driver says of a client."""
        return next(one for one in driver.clients() if one.identity == victim.identity)

    def fault(
        self,
        driver: Driver,
        victim: Victim,
        va: int,
        fault: str = "pte",
        *,
        unit: Unit = "sm",
        place: Place | None = None,
    ) -> int:
        """Its status, 0 if it was absorbed."""
        number = self.entry(driver, victim).number
        return driver.inject(number, va, access="write", fault=fault, unit=unit, place=place or self.place)

    def records(self, driver: Driver, until: Callable[[list[Record]], bool]) -> list[Record]:
        """What is read, until it is enough."""
        found: list[Record] = []
        deadline = time.monotonic() + PATIENCE_S
        while not until(found):
            found += [decode(raw) for raw in driver.read()]
            assert time.monotonic() < deadline, f"only {[record.kind for record in found]}"
            select.select([driver], [], [], 0.05)
        return found

    def last(self, driver: Driver, kind: RecordKind) -> Record:
        """The newest record of a kind, once there is one."""
        return [one for one in self.records(driver, lambda found: kind in [r.kind for r in found]) if one.kind == kind][
            -1
        ]


def refused(number: int, request: Callable[[], object]) -> None:
    """The request raises OSError with that errno."""
    try:
        request()
    except OSError as error:
        assert error.errno == number, f"expected {errno.errorcode[number]}, got {error}"
    else:
        raise AssertionError(f"expected {errno.errorcode[number]}, and it was granted")


def ended_by_sigkill(victim: Victim) -> bool:
    """Waits for its end."""
    return victim.process.wait(PATIENCE_S) == -signal.SIGKILL


def module_bench(device: Path = Path("/dev/mpsafe")) -> Bench:
    """The stand-alone module, loaded with mpsafe_inject=1."""
    return Bench(lambda: UvmDriver(device), (_OF_MODULE,), "wild", 5.0, False, ("hole", "external"))


def cuda_bench(device: Path = Path("/dev/mpsafe")) -> Bench:
    """A patched nvidia-uvm, loaded with mpsafe_inject=1; its clients have a context on the first GPU."""
    return Bench(lambda: UvmDriver(device), (_OF_CUDA,), "unknown", 5.0, sends_ahead=False)


def software_bench(directory: Path, *, heartbeat_s: float) -> Bench:
    """A software host that was started with `inject`, in that directory."""
    program = (_OF_SOFTWARE, os.fspath(directory / "rm"))
    return Bench(
        lambda: SoftwareDriver(directory / "mpsafe"), program, "unknown", heartbeat_s, sends_ahead=True, copies=False
    )
