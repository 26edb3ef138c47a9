# SPDX-License-Identifier: Apache-2.0
"""QEMU as a process that cannot outlive us: TCG, two disks that nobody writes to, a console, a port.

KVM is not used even where it is: /dev/kvm answers on machines where a guest then hangs, and a test is to be the
same everywhere.
"""

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from tools.vm.kernel import Kernel, initramfs

__all__ = ["Machine", "running"]

LINE: Final = "console=ttyS0 loglevel=5 mitigations=off panic=-1 tsc=reliable no_timer_check random.trust_cpu=on"
SYSTEMD_LINE: Final = "systemd.show_status=0 systemd.getty_auto=0 systemd.log_target=journal"


@dataclass(frozen=True, slots=True)
class Machine:
    """What runs: the process that ends it when it ends, the agent's port, and the file that the console goes to."""

    process: "subprocess.Popen[bytes]"
    port: socket.socket
    _console: BinaryIO

    def console(self) -> str:
        """All that the kernel has printed so far."""
        size = os.fstat(self._console.fileno()).st_size
        return os.pread(self._console.fileno(), size, 0).decode(errors="replace").replace("\r\n", "\n")


@contextmanager
def running(
    kernel: Kernel, root: Path, tree: int, *, init: str, limit_s: int, memory_mib: int
) -> Generator[Machine, None, None]:
    """A machine that boots; it is ended after `limit_s` seconds at the latest, and with this process."""
    line = f"{LINE} {SYSTEMD_LINE} mpsafe.init={init}"
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        console = stack.enter_context(tempfile.TemporaryFile())
        dies_with_us = ["setpriv", "--pdeathsig", "KILL", "--"]
        command: list[str | Path] = [
            *dies_with_us, "timeout", "--signal=KILL", str(limit_s), *dies_with_us,
            "qemu-system-x86_64", "-machine", "pc", "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max",
            "-smp", "2", "-m", f"{memory_mib}M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", kernel.image, "-initrd", initramfs(kernel), "-append", line, "-serial", "stdio",
            "-drive", f"if=virtio,format=raw,readonly=on,file.locking=off,file={root}",
            "-add-fd", f"set=1,fd={tree}",
            "-drive", "if=virtio,format=raw,readonly=on,file.locking=off,file=/dev/fdset/1",
            "-chardev", f"socket,id=agent,fd={theirs.fileno()}",
            "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent",
        ]  # fmt: skip
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            pass_fds=[tree, theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        try:
            yield Machine(process, ours, console)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
