# SPDX-License-Identifier: Apache-2.0
"""A peer that speaks to the daemon byte by byte, and the daemon that it speaks to."""

import json
import os
import socket
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from daemon_process import Mpsafed
from mpsafe.soft.host import SoftwareHost

__all__ = [
    "ATTACH",
    "DESCRIBE",
    "NOBODY",
    "PATIENCE_S",
    "SOMEBODY",
    "TENANTS",
    "WATCH",
    "connect",
    "is_closed",
    "receive",
    "replies",
    "send",
    "serving",
    "unharmed",
]

PATIENCE_S = 60.0
NOBODY, SOMEBODY = 65534, 4242
DESCRIBE = b'{"method":"io.mpsafe.Host.Describe"}\0'
TENANTS = b'{"method":"io.mpsafe.Host.ListTenants"}\0'
WATCH = b'{"method":"io.mpsafe.Events.Watch","more":true}\0'
ATTACH = b'{"method":"io.mpsafe.Host.Attach"}\0'
PRIVATE = f'[daemon]\nadmin_group = "daemon"\n[[tenant]]\nname = "private"\nuid = {SOMEBODY}\n'


@contextmanager
def serving() -> Generator[Mpsafed]:
    """One daemon for all of this file: what one test does must not matter to the next."""
    with tempfile.TemporaryDirectory(prefix="mpsafe-") as name:
        Path(name).chmod(0o755)
        with SoftwareHost(Path(name)) as host:
            host.start_mps()
            more = PRIVATE if os.geteuid() == 0 else PRIVATE.replace('[daemon]\nadmin_group = "daemon"\n', "")
            with Mpsafed(host, more=more) as daemon:
                daemon.start()
                daemon.client.attach("chat").close()  # which has it watch this process's end from now on
                yield daemon


@contextmanager
def unharmed(daemon: Mpsafed) -> Generator[None]:
    """After each test the same daemon answers, has told no traceback, and holds no more than before."""
    daemon.client.close()
    pid, descriptors = daemon.client.describe().pid, daemon.descriptors()
    told = daemon.errors.stat().st_size
    yield
    assert daemon.client.describe().pid == pid
    assert "Traceback" not in daemon.errors.read_text()[told:]
    for _ in range(100):
        if daemon.descriptors() <= descriptors:
            break
        daemon.client.describe()  # is answered after what was asked before
    assert daemon.descriptors() <= descriptors


def connect(daemon: Mpsafed) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(daemon.socket)
    sock.settimeout(PATIENCE_S)
    return sock


def replies(sock: socket.socket, count: int) -> list[dict[str, Any]]:
    """The next replies; fewer if the daemon closes the connection."""
    data = b""
    while data.count(b"\0") < count and (more := receive(sock)):
        data += more
    return [json.loads(message) for message in data.split(b"\0")[:-1]]


def receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 20)
    except ConnectionResetError:
        return b""


def send(sock: socket.socket, data: bytes) -> None:
    """As much as the daemon takes."""
    with suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(data)


def is_closed(sock: socket.socket) -> bool:
    """Waits for the end of the connection, past what is sent before."""
    while receive(sock):
        pass
    return True
