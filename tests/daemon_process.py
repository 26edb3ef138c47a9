# SPDX-License-Identifier: Apache-2.0
"""The real daemon as a process of a test: on a software host, ready when it says so, killed when asked."""

import grp
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Final, Literal, Self

import msgspec

from fork_server import Forked
from mpsafe.client import Client
from mpsafe.client.calls import Watching
from mpsafe.client.wire import Wire
from mpsafe.model import Event
from mpsafe.soft.host import SoftwareHost
from mpsafed.state import Line
from mpsafed.vault.holder import Keeper

__all__ = ["PATIENCE_S", "TENANTS", "Mpsafed"]

PATIENCE_S: Final = 60.0
POLL_S: Final = 0.01
TENANTS: Final = ("chat", "embed", "batch")

CONFIG: Final = """
[daemon]
socket = "{host.directory}/varlink"
state_directory = "{host.directory}/state"
admin_group = "{admins}"
[sources]
kernel_log = "{host.kernel_log}"
[driver]
kind = "software"
path = "{host.driver}"
[mps]
mode = "adopt"
control = "{host.control_program}"
pipe_directory = "{host.pipe_directory}"
log_directory = "{host.log_directory}"
[vault]
keeper = "{host.directory}/keeper"
[takeover]
received_ms = 20000 # on a busy machine a second is not enough
{tenants}
"""


class Mpsafed:
    """`python -m mpsafed.main` with a configuration of its own; `more` is a drop-in laid over that."""

    def __init__(self, host: SoftwareHost, *, more: str = "", environment: Mapping[str, str] | None = None) -> None:
        self.host = host
        self.socket = os.fspath(host.directory / "varlink")
        self.state = host.directory / "state" / "state.jsonl"
        self.errors = host.directory / "mpsafed.log"
        self.config = host.directory / "mpsafe.toml"
        # Whoever runs the tests is to have the role admin, root or not.
        admins = "mpsafe-admin" if os.geteuid() == 0 else grp.getgrgid(os.getegid()).gr_name
        tenants = "\n".join(f'[[tenant]]\nname = "{name}"' for name in TENANTS)
        self.config.write_text(CONFIG.format(host=host, admins=admins, tenants=tenants))
        self.override(more)
        self.environment = {**host.environment, **(environment or {})}
        self.client = Client(self.socket, timeout_s=PATIENCE_S)
        self._process: Forked | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        if self._process is not None:
            self.kill()
        keeper = Keeper(self.host.directory / "keeper")
        fds = keeper.handed_over()
        for fd in fds.values():
            os.close(fd)
        keeper.let_go(fds)
        keeper.close()

    @property
    def pid(self) -> int:
        """The daemon's pid."""
        return self.process.pid

    @property
    def process(self) -> Forked:
        """The daemon's process."""
        assert self._process is not None, "the daemon was not started"
        return self._process

    def override(self, more: str) -> None:
        """Lays a drop-in over the configuration, for the next start."""
        drop_ins = self.config.with_name(self.config.name + ".d")
        drop_ins.mkdir(exist_ok=True)
        (drop_ins / "10-test.toml").write_text(more)

    def launch(self, **more: str) -> None:
        """Starts it and does not wait."""
        with self.errors.open("ab") as errors:
            self._process = Forked(
                "mpsafed.main",
                ["--config", self.config],
                environment={**self.environment, **more},
                stderr=errors,
                talks=False,
                new_session=True,
            )

    def start(self, *, ready_for: Literal["faults", "calls"] = "faults") -> None:
        """Starts it and waits until it says that it serves, as it would to systemd (sd_notify(3))."""
        path = self.host.directory / "notify"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(os.fspath(path))
            self.launch(NOTIFY_SOCKET=os.fspath(path))
            self._until(notified, lambda: b"READY=1" in notified.recv(4096))
        if ready_for == "faults":
            self.until_policy()

    def until_policy(self) -> None:
        """Waits until the driver has its policy: a fault before that meets stock behaviour."""
        while not any(s.name == "driver" and s.alive for s in self.client.describe().sources):
            assert self.process.poll() is None
            time.sleep(POLL_S)

    def _until(self, sock: socket.socket, ready: Callable[[], bool]) -> None:
        pidfd = os.pidfd_open(self.pid)
        try:
            while True:
                found, _, _ = select.select([sock.fileno(), pidfd], [], [], PATIENCE_S)
                assert found, "the daemon says nothing"
                assert sock.fileno() in found, f"the daemon ended with {self.process.wait()}: {self.errors.read_text()}"
                if ready():
                    return
        finally:
            os.close(pidfd)

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self._process = None

    def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE_S)
        self._process = None
        return status

    def entries(self, *, since: int = 0) -> Iterator[Event]:
        """The entries of the event stream as they come; DaemonUnreachable if none comes for PATIENCE_S."""
        with Wire(self.socket, timeout_s=PATIENCE_S) as wire:
            wire.send("io.mpsafe.Events.Watch", {"since": since}, more=True)
            while True:
                reply, _ = wire.receive(Watching)
                if reply.watched.event is not None:
                    yield reply.watched.event

    def until(self, wanted: Callable[[Event], bool], *, since: int = 0) -> Event:
        """The first entry behind `since` that is `wanted`."""
        return next(event for event in self.entries(since=since) if wanted(event))

    def fault_closed(self, *, since: int = 0) -> Event:
        """The entry behind `since` that closes a fault."""
        return self.until(lambda event: event.kind == "fault" and event.phase == "closed", since=since)

    def written(self) -> list[Event]:
        """The event entries of the state file, whether the daemon runs or not."""
        if not self.state.exists():
            return []
        lines = self.state.read_bytes().split(b"\n")[:-1]
        return [event for line in lines if (event := msgspec.json.decode(line, type=Line).event) is not None]

    def descriptors(self) -> int:
        """How many file descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))
