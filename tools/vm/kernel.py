# SPDX-License-Identifier: Apache-2.0
"""What the guest boots: a kernel, and the few files with which it finds its root."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.vm.cache import digest, kept
from tools.vm.packages import newest, unpacked

__all__ = ["Kernel", "distribution_kernel", "initramfs"]

DEBIAN_KERNEL: Final = r"linux-image-6[.]1[.]0-[0-9]+-cloud-amd64"
INIT: Final = Path(__file__).with_name("init")
# In the order in which each finds what it needs. A kernel that has one built in lacks the file.
MODULES: Final = (
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/block/virtio_blk.ko",
    "drivers/char/virtio_console.ko",
    "fs/overlayfs/overlay.ko",
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel: its release, the file that QEMU boots, and the folder `kernel` of its modules, if it has any."""

    release: str
    image: Path
    modules: Path | None


def distribution_kernel() -> Kernel:
    """Debian 12's newest kernel for virtual machines."""
    name = newest(DEBIAN_KERNEL)
    release = name.removeprefix("linux-image-")
    tree = unpacked(name)
    return Kernel(release, tree / "boot" / f"vmlinuz-{release}", tree / "lib" / "modules" / release / "kernel")


def initramfs(kernel: Kernel) -> Path:
    """busybox, `init` and modules, as the kernel unpacks them into its memory."""
    busybox = unpacked("busybox-static") / "bin" / "busybox"
    modules = [kernel.modules / name for name in MODULES] if kernel.modules else []

    def make(path: Path) -> None:
        root = path.with_suffix(".root")
        shutil.rmtree(root, ignore_errors=True)
        for folder in ("bin", "modules", "dev", "proc", "sys", "lower", "writable", "new"):
            (root / folder).mkdir(parents=True)
        shutil.copy(busybox, root / "bin" / "busybox")
        shutil.copy(INIT, root / "init")
        for number, module in enumerate(one for one in modules if one.exists()):
            shutil.copy(module, root / "modules" / f"{number}-{module.name}")
        names = "\n".join(os.fspath(one.relative_to(root)) for one in sorted(root.rglob("*")))
        with path.open("wb") as archive:
            command: list[str | Path] = [busybox, "cpio", "-o", "-H", "newc", "-R", "0:0"]
            subprocess.run(
                command, cwd=root, input=names.encode(), stdout=archive, stderr=subprocess.DEVNULL, check=True
            )
        shutil.rmtree(root)

    key = digest([kernel.release, busybox, INIT, Path(__file__), *(one for one in modules if one.exists())])
    return kept(f"initramfs-{kernel.release}", key, make)
