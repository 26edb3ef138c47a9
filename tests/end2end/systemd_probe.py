# SPDX-License-Identifier: Apache-2.0
"""What mpsafed has to be allowed, done in the sandbox of its unit: python systemd_probe.py NAME [ARGUMENT]

It ends with status 0, or with the error of the kernel.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

NOBODY: Final = 65534
# linux/connector.h: the group of the process connector.
CN_IDX_PROC: Final = 1
NETLINK_CONNECTOR: Final = 11


def kill_another_users_process() -> None:
    with subprocess.Popen(["sleep", "infinity"], user=NOBODY) as child:
        try:
            os.kill(child.pid, signal.SIGSTOP)
        finally:
            os.seteuid(NOBODY)
            child.kill()


def read_the_kernel_log() -> None:
    os.close(os.open("/dev/kmsg", os.O_RDONLY))


def write_what_is_anothers() -> None:
    Path(sys.argv[2]).write_text("1")


def hear_of_processes() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_CONNECTOR) as sock:
        sock.bind((0, CN_IDX_PROC))


def ask_as_another_user() -> None:
    said = subprocess.run(["id", "-u"], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=True)
    assert said.stdout == b"65534\n"


def make_a_users_directory() -> None:
    made = Path("/run/mpsafe-mps/probe")
    made.mkdir()
    try:
        os.chown(made, NOBODY, NOBODY)
        made.chmod(0o711)
    finally:
        made.rmdir()


def start_a_unit() -> None:
    subprocess.run(["systemctl", "start", sys.argv[2]], check=True)


def write_where_it_may_not() -> None:
    Path("/etc/probe").touch()


PROBES: Final[dict[str, Callable[[], None]]] = {
    probe.__name__: probe
    for probe in (
        kill_another_users_process,
        read_the_kernel_log,
        write_what_is_anothers,
        hear_of_processes,
        ask_as_another_user,
        make_a_users_directory,
        start_a_unit,
        write_where_it_may_not,
    )
}

if __name__ == "__main__":
    PROBES[sys.argv[1]]()
