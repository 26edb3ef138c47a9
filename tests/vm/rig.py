# SPDX-License-Identifier: Apache-2.0
"""What the tests in a virtual machine share: the module, a guest with mpsafe installed, clients in it."""

import json
import os
import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from tools.vm import REPOSITORY, VM, Guest, NotRun, booted, debug_kernel, distribution_kernel

__all__ = [
    "CLIENT",
    "NEEDS",
    "OWNER",
    "Client",
    "asked",
    "built_module",
    "eventually",
    "guest",
    "install",
    "or_skip",
    "owned",
    "programs",
]

NEEDS: Final = ("qemu-system-x86_64", "mke2fs", "setpriv", "apt-get", "dpkg-deb", "cc", "make")
BUILD: Final = REPOSITORY / "driver_patches" / "standalone" / "build"
PATIENCE_S: Final = 120.0
CANNOT: Final = 77
CLIENT: Final = "tests/vm/guest/client.py"
OWNER: Final = "tests/vm/guest/owner.py"
CONFIG: Final = """
[driver]
kind = "uvm"
[sources]
nvml_events = false
"""
ADD_MODULE: Final = """
folder=/lib/modules/$(uname -r)
mkdir -p $folder
touch $folder/modules.order $folder/modules.builtin
cp mpsafe_standalone.ko $folder
depmod
"""
INSTALL: Final = """
for command in mpsafe:mpsafe.cli mpsafed:mpsafed.main; do
    printf '#!/usr/bin/python3\\nfrom %s import main\\nraise SystemExit(main())\\n' "${command#*:}" \\
        >"/usr/local/bin/${command%:*}"
    chmod 0755 "/usr/local/bin/${command%:*}"
done
for unit in systemd/mpsafed.service systemd/mpsafed.socket; do
    sed 's,@bindir@,/usr/local/bin,' "$unit" >"/etc/systemd/system/${unit##*/}"
done
for rules in systemd/*.rules; do
    [ ! -e "$rules" ] || install -D -m 0644 "$rules" "/etc/udev/rules.d/${rules##*/}"
done
systemd-sysusers "$PWD"/systemd/mpsafe.sysusers.conf
systemd-tmpfiles --create "$PWD"/systemd/mpsafe.tmpfiles.conf
udevadm control --reload
systemctl daemon-reload
"""


@cache
def built_module(kdir: Path | None = None) -> Path:
    """mpsafe_standalone.ko, against the headers of the guest's kernel or those that are given."""
    arguments = [kdir, VM / "standalone"] if kdir else []
    done = subprocess.run([BUILD, *arguments], capture_output=True, text=True, check=False)
    if done.returncode == CANNOT:
        raise NotRun(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.split()[-1])


def programs(folder: Path) -> dict[str, Path]:
    """The guest's programs in C, by name: static, so that they run with any C library."""
    built: dict[str, Path] = {}
    for source in sorted((REPOSITORY / "tests" / "vm" / "guest").glob("*.c")):
        built[source.stem] = folder / source.stem
        include = [f"-I{REPOSITORY / name}" for name in ("ffi", "driver_patches/standalone")]
        flags = ["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", *include]
        subprocess.run(["cc", *flags, source, "-o", built[source.stem]], check=True)
    return built


@contextmanager
def or_skip() -> Generator[None, None, None]:
    """What this machine cannot run is skipped, unless MPSAFE_REQUIRE has "vm"."""
    try:
        yield
    except NotRun as error:
        if "vm" in os.environ.get("MPSAFE_REQUIRE", "").split(","):
            raise
        pytest.skip(str(error))


@contextmanager
def guest(
    init: Literal["systemd", "agent"],
    *,
    debug: bool = False,
    extra: Mapping[str, Path] | None = None,
    limit_s: int = 3600,
) -> Generator[Guest, None, None]:
    """A guest into which `modprobe mpsafe_standalone` loads the module; a skip where there can be none.

    `debug`: on the kernel that watches memory and locks, which has no systemd.
    """
    with or_skip():
        kernel, kdir = debug_kernel() if debug else (distribution_kernel(), None)
        files = {"mpsafe_standalone.ko": built_module(kdir), **(extra or {})}
        with booted(init, kernel=kernel, extra=files, limit_s=limit_s) as machine:
            machine.sh(ADD_MODULE)
            yield machine


def install(machine: Guest) -> None:
    """mpsafe, as `make install` would place it; enabled, not started."""
    machine.write("/etc/mpsafe/mpsafe.toml", CONFIG)
    machine.sh(INSTALL)
    machine.run("systemctl", "enable", "--now", "mpsafed.socket")


@dataclass(frozen=True, slots=True)
class Client:
    """A process with /dev/mpsafe-client open, as the module's make-believe of one."""

    machine: Guest
    name: str
    pid: int

    @classmethod
    def started(cls, machine: Guest, name: str, *, uid: int = 0) -> "Client":
        """Serves already; `name` is its own."""
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"] if uid else []
        client = cls(machine, name, machine.start(*user, "python3", CLIENT, "serve", name))
        client.ask("ready")
        return client

    def ask(self, *command: str) -> str:
        """What the client answers; see guest/client.py."""
        return self.machine.run("python3", CLIENT, "ask", self.name, *command).strip()

    def alive(self) -> bool:
        """Whether its process is there, dead and not reaped ones not counted."""
        state = self.machine.run("ps", "-o", "stat=", "-p", str(self.pid), status=None).strip()
        return bool(state) and not state.startswith("Z")

    def end(self) -> None:
        """Kills it and waits for its end."""
        self.machine.run("kill", "-KILL", str(self.pid), status=None)
        eventually(lambda: not self.alive(), f"the client {self.name} ends")


def owned(machine: Guest, seconds: int, mode: str, *more: str) -> int:
    """The pid of an owner in that mode, which has the device already; see guest/owner.py."""
    pid = machine.start("python3", OWNER, str(seconds), mode, *more)
    machine.sh(f"until grep -q owns /tmp/{pid}.out; do kill -0 {pid}; sleep 0.1; done")
    return pid


def eventually(holds: Any, what: str) -> None:
    """Waits until it is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)


def asked(machine: Guest, *arguments: str) -> Any:
    """What `mpsafe ... --json` prints."""
    return json.loads(machine.run("mpsafe", *arguments, "--json"))
