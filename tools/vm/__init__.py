# SPDX-License-Identifier: Apache-2.0
"""A virtual machine for what needs a kernel of its own: a module, its device, systemd as process 1.

    with booted("systemd") as guest:
        guest.run("modprobe", "mpsafe_standalone")

Debian 12's kernel and packages, unpacked into build/vm and never installed, in QEMU without any acceleration, so
it runs where QEMU does. The guest sees two disks, both read-only: a root file system that is kept from run to run
(`image`), and this work tree as it is now (`tree`). What it writes stays in its memory. On the host a run consists of
processes and nameless files, so nothing is left of it, however it ends.

    python -m tools.vm boot            a shell of its own in the guest: what a person wants
"""

from tools.vm.cache import VM
from tools.vm.debug_kernel import debug_kernel
from tools.vm.guest import Guest, GuestLost, booted, complaints
from tools.vm.kernel import Kernel, distribution_kernel
from tools.vm.packages import NotRun
from tools.vm.tree import REPOSITORY

__all__ = [
    "REPOSITORY",
    "VM",
    "Guest",
    "GuestLost",
    "Kernel",
    "NotRun",
    "booted",
    "complaints",
    "debug_kernel",
    "distribution_kernel",
]
