# SPDX-License-Identifier: Apache-2.0
"""A host with systemd on which mpsafe was installed, for all tests that want one; at the end nothing of it is left."""

import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from end2end.systemd_root import KERNEL_LOG, REPOSITORY, SystemdRoot, booted
from requires import tool

FOLDERS = ["/etc", "/run", "/usr", "/var"]
# Copies that groupadd makes, and what journalctl makes of all catalogues that are installed.
OTHERS = {"/etc/group-", "/etc/gshadow-", "/var/lib/systemd/catalog", "/var/lib/systemd/catalog/database"}


def files(host: SystemdRoot) -> set[str]:
    return set(host.run("find", *FOLDERS, "-xdev", "-not", "-path", "/run/systemd/*").splitlines())


def make(host: SystemdRoot, target: str) -> str:
    return host.run(tool("make"), "--no-print-directory", "--directory", REPOSITORY, target)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Generator[SystemdRoot, None, None]:
    subprocess.run([tool("make"), "--directory", REPOSITORY, "build/wheels"], check=True, capture_output=True)
    with booted(tmp_path_factory.mktemp("host")) as root:
        root.run("systemctl", "start", "systemd-journald.service")
        before = files(root)
        make(root, "install")
        root.run("mkdir", "/etc/mpsafe/mpsafe.toml.d")
        root.write(Path("/etc/mpsafe/mpsafe.toml.d/test.toml"), f'[sources]\nkernel_log = "{KERNEL_LOG}"\n')
        root.write(Path(KERNEL_LOG), "")
        root.run("systemctl", "enable", "--now", "mpsafed.socket")
        yield root
        root.run("rm", "-r", "/etc/mpsafe/mpsafe.toml.d", KERNEL_LOG)
        told = make(root, "uninstall")
        kept = files(root) & {"/var/lib/mpsafe", "/var/log/mpsafe-mps"}
        assert all(path in told for path in kept), told
        root.run("rm", "-rf", *kept)
        assert files(root) - before - OTHERS == set()
