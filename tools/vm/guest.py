# SPDX-License-Identifier: Apache-2.0
"""A booted guest as a test sees it: commands, and a kernel log that is to be free of complaints at the end."""

import json
import os
import re
import shlex
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from tools.vm.image import root_image
from tools.vm.kernel import Kernel, distribution_kernel
from tools.vm.qemu import Machine, running
from tools.vm.tree import archive

__all__ = ["Guest", "GuestLost", "booted", "complaints"]

INITS: Final = {"systemd": "/sbin/init", "agent": "/srv/mpsafe/tools/vm/module-init"}
COMPLAINT: Final = re.compile(
    r"WARNING: |BUG: |BUG |Oops|KASAN|UBSAN|KFENCE|kernel BUG at|general protection|Unable to handle kernel"
    r"|possible recursive locking|possible circular locking|inconsistent lock state|suspicious RCU usage"
    r"|INFO: task .* blocked|INFO: rcu|rcu_.* detected stalls|soft lockup|hard LOCKUP|scheduling while atomic"
    r"|sleeping function called|refcount_t: |Call Trace:|Kernel panic|Out of memory:|memory leak"
)


def complaints(log: str) -> list[str]:
    """The lines of a kernel log with which it tells that something in it is wrong."""
    return [line for line in log.splitlines() if COMPLAINT.search(line)]


class GuestLost(Exception):
    """The machine has ended or does not answer; the message has the end of its console."""


@dataclass(slots=True)
class Guest:
    """A booted guest, spoken with by one thread."""

    machine: Machine
    _received: bytearray = field(default_factory=bytearray)

    def run(self, *argv: str | Path, status: int | None = 0, input: str = "", limit_s: float = 120) -> str:
        """Runs a command as root and returns its output; None takes any status. It may take `limit_s` seconds."""
        words = [os.fspath(word) for word in argv]
        request = {"argv": words, "input": input, "limit_s": limit_s}
        self.machine.port.sendall(json.dumps(request).encode() + b"\n")
        reply = self._reply(limit_s + 60)
        told = f"{shlex.join(words)}: status {reply['status']}\n{reply['stdout']}{reply['stderr']}"
        assert reply["status"] is not None, f"not ended after {limit_s} s: {told}"
        assert status is None or reply["status"] == status, told
        return str(reply["stdout"])

    def sh(self, script: str, *, status: int | None = 0, limit_s: float = 120) -> str:
        """Runs a script of the shell, which ends at its first error, and returns its output."""
        return self.run("sh", "-euc", script, status=status, limit_s=limit_s)

    def start(self, *argv: str | Path) -> int:
        """Starts a command that goes on; returns its pid. What it says goes to /tmp/PID.out."""
        command = shlex.join(os.fspath(word) for word in argv)
        started = f"setsid sh -c 'exec {command} >/tmp/$$.out 2>&1 </dev/null' >/dev/null 2>&1 & echo $!"
        return int(self.sh(started))

    def write(self, path: str, text: str) -> None:
        """Writes a file, whose folder is made."""
        self.sh(f"mkdir -p {shlex.quote(os.path.dirname(path))}")
        self.run("tee", path, input=text)

    def kernel_log(self) -> str:
        """What the kernel has logged since it booted, as far as it keeps it."""
        return self.run("dmesg")

    def await_agent(self, limit_s: float) -> None:
        """Waits until the guest answers."""
        self._reply(limit_s)

    def _reply(self, limit_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._received:
            self.machine.port.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                more = self.machine.port.recv(1 << 16)
            except TimeoutError:
                more = b""
            if not more:
                raise GuestLost(f"no answer from the guest:\n{self.machine.console()[-8000:]}")
            self._received += more
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def booted(
    init: Literal["systemd", "agent"],
    *,
    kernel: Kernel | None = None,
    extra: Mapping[str, Path] | None = None,
    limit_s: int = 240,
    memory_mib: int = 1024,
) -> Generator[Guest, None, None]:
    """Boots a guest with this work tree in /srv/mpsafe, and `extra` files below it.

    At the end its kernel log is to have no complaint. `limit_s` seconds after the boot it is gone. NotRun where this
    machine lacks what it takes.
    """
    kernel = kernel or distribution_kernel()
    tree = archive(extra or {})
    try:
        with running(kernel, root_image(), tree, init=INITS[init], limit_s=limit_s, memory_mib=memory_mib) as machine:
            guest = Guest(machine)
            guest.await_agent(limit_s)
            yield guest
            found = complaints(machine.console()) or complaints(guest.kernel_log())
            assert not found, "the guest's kernel complains:\n" + "\n".join(found) + "\n" + guest.kernel_log()[-20000:]
    finally:
        os.close(tree)
