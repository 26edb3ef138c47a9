# SPDX-License-Identifier: Apache-2.0
"""A small kernel that watches memory and locks (KASAN, PROVE_LOCKING), built from Debian 12's own kernel source.

Its configuration is tinyconfig with debug-kernel.config on top: what the guest needs without systemd.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tools.vm.cache import digest, kept
from tools.vm.kernel import Kernel
from tools.vm.packages import NotRun, unpacked

__all__ = ["debug_kernel"]

SOURCE: Final = "linux-source-6.1"
CONFIG: Final = Path(__file__).with_name("debug-kernel.config")
PROGRAMS: Final = ("bc", "bison", "flex", "gcc", "make", "xz")
LIBELF: Final = Path("/usr/include/gelf.h")
# Three quarters of the source, of which the build wants no file but the Kconfig ones.
NOT_NEEDED: Final = (
    "*/Documentation/*.rst",
    "*/Documentation/*.yaml",
    "*/arch/[!x]*/*.[chS]",
    "*/arch/[!x]*/*.dts*",
    "*/drivers/gpu/*.[ch]",
    "*/drivers/media/*.[ch]",
    "*/drivers/net/*/*.[ch]",
    "*/sound/*.[ch]",
    "*/tools/testing/*",
)
OPTIONS: Final = ("CONFIG_KASAN=y", "CONFIG_PROVE_LOCKING=y", "CONFIG_DEBUG_ATOMIC_SLEEP=y", "CONFIG_VIRTIO_CONSOLE=y")


def debug_kernel() -> tuple[Kernel, Path]:
    """The kernel, and the folder against which modules for it are built (KDIR). Made where it is not there: minutes."""
    if missing := [program for program in PROGRAMS if not shutil.which(program)]:
        raise NotRun(f"no {', '.join(missing)} to build a kernel with")
    if not LIBELF.exists():
        raise NotRun(f"no {LIBELF} to build a kernel with: libelf-dev has it")
    tree = unpacked(SOURCE)
    made = kept("debug-kernel", digest([tree.name, CONFIG, Path(__file__)]), lambda path: _make(tree, path))
    release = (made / "include" / "config" / "kernel.release").read_text().strip()
    return Kernel(release, made / "arch" / "x86" / "boot" / "bzImage", None), made


def _make(tree: Path, path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    excluded = [f"--exclude={pattern}" for pattern in NOT_NEEDED]
    archive = tree / "usr" / "src" / f"{SOURCE}.tar.xz"
    subprocess.run(["tar", "-x", "-f", archive, "-C", path, "--strip-components=1", *excluded], check=True)
    make: list[str | Path] = ["nice", "make", "-s", f"-j{os.cpu_count()}", "-C", path]
    with (path / "build.log").open("w") as log:
        merge: list[str | Path] = [path / "scripts" / "kconfig" / "merge_config.sh", "-m", "-O", path]
        for step in (
            [*make, "tinyconfig"],
            [*merge, path / ".config", CONFIG],
            [*make, "olddefconfig"],
            [*make, "bzImage", "modules"],
        ):
            subprocess.run(step, stdout=log, stderr=subprocess.STDOUT, check=True)
    configured = (path / ".config").read_text().splitlines()
    assert (lost := [option for option in OPTIONS if option not in configured]) == [], f"not in the kernel: {lost}"
