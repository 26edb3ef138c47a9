# SPDX-License-Identifier: Apache-2.0
"""This test will rest the vault in a real systemd's file descriptor store, and kill, restart and overfill it."""

import contextlib
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from end2end.systemd_root import NEEDS, REPOSITORY, SystemdRoot, daemon, end
from requires import requires

pytestmark = requires(*NEEDS)

GPU = "/run/software-gpu"
SOCKET = "/run/mpsafe/mpsafe.varlink"
UNIT = "mpsafed.service"
CONFIG = f"""
[mps]
control = "{GPU}/bin/nvidia-cuda-mps-control"
mode = "adopt"
pipe_directory = "{GPU}/mps"
log_directory = "{GPU}/log"
[[tenant]]
name = "chat"
"""
SETTINGS = Path("/etc/mpsafe/mpsafe.toml.d/software-gpu.toml")
DROP_IN = Path(f"/run/systemd/system/{UNIT}.d/software-gpu.conf")
# Where the helper that checks handles finds the software GPU, and room for the index and three handles.
UNIT_MORE = f"""[Service]
Environment=MPSAFE_SOFT_DIR={GPU} LD_LIBRARY_PATH={REPOSITORY}/daemon/mpsafe/soft/lib
FileDescriptorStoreMax=4
"""


class Guest:
    """The software host and a process of its tenant."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def do(self, words: str) -> str:
        """What came of it: "= ..." or "! ..."."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{words}\n")
        return self._process.stdout.readline().strip()


@pytest.fixture
def guest(host: SystemdRoot) -> Iterator[Guest]:
    """With a daemon whose unit has room for four descriptors."""
    host.write(SETTINGS, CONFIG)
    host.run("mkdir", "-p", DROP_IN.parent)
    host.write(DROP_IN, UNIT_MORE)
    host.run("systemctl", "daemon-reload")
    with _guest(host) as started:
        host.run("systemctl", "restart", UNIT)
        assert started.do("again") == "up"
        yield started
        host.run("systemctl", "stop", UNIT)
    host.run("rm", "-r", SETTINGS, DROP_IN.parent, GPU)
    host.run("systemctl", "daemon-reload")


@contextlib.contextmanager
def _guest(host: SystemdRoot) -> Generator[Guest]:
    python, here = REPOSITORY / ".venv" / "bin" / "python", REPOSITORY / "tests"
    paths = f"PYTHONPATH={here}:{REPOSITORY / 'daemon'}"
    with host.process("env", paths, python, here / "end2end" / "systemd_vault_guest.py", GPU, SOCKET) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield Guest(process)
        finally:
            process.communicate()


def stored(host: SystemdRoot) -> int:
    return int(host.show(UNIT, "NFileDescriptorStore"))


def test_what_is_held_survives_the_daemon_and_its_upgrade(host: SystemdRoot, guest: Guest) -> None:
    assert guest.do("client.vault().holder") == "= 'systemd'"
    words = "w = vault.create('weights', 'immutable', 1); w.write(b'trained'); w.commit(); vault.claim()"
    assert guest.do(words) == "= None"
    assert guest.do("kv = Durable.create(vault, 'kv', 4096); kv.data.write(b'token'); kv.commit(b'1')") == "= None"
    assert stored(host) == 3, "the index and two handles"
    end(host, daemon(host), signal.SIGKILL)
    assert guest.do("client.close(); again = vault.open('weights')") == "= None"
    assert guest.do("again.read(7)") == "= b'trained'"
    host.run("systemctl", "restart", UNIT)
    assert guest.do("again") == "up", "the process that wrote has ended"
    assert guest.do("[(r.name, r.state) for r in vault.regions()]") == "= [('weights', 'committed'), ('kv', 'suspect')]"
    assert guest.do("vault.open('weights').read(7)") == "= b'trained'"
    assert guest.do("Durable.open(vault, 'kv').data.read(5)") == "= b'token'"
    assert stored(host) == 3


def test_a_store_that_has_no_room_left_is_noticed(host: SystemdRoot, guest: Guest) -> None:
    for number in range(3):
        assert guest.do(f"w{number} = vault.create('w{number}', 'immutable', 1)") == "= None"
    assert stored(host) == 4
    refused = guest.do("w3 = vault.create('w3', 'immutable', 1)")
    assert refused.startswith("! VaultClosed: the vault takes nothing in: systemd's store holds 4 descriptors where")
    assert "FileDescriptorStoreMax=" in refused
    assert guest.do("[r.name for r in vault.regions()]") == "= ['w0', 'w1', 'w2']"
    assert guest.do("vault.release(w0); w3 = vault.create('w3', 'immutable', 1)") == "= None"
    assert stored(host) == 4
    assert guest.do("client.drain()") == "= 3"
    assert stored(host) == 1
