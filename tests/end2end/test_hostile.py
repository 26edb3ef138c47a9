# SPDX-License-Identifier: Apache-2.0
"""This test will have strangers and a broken host do their worst to the real daemon: it lives, and says what it saw."""

import os
import signal
import subprocess
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from as_user import as_user
from daemon_process import Mpsafed
from mpsafe.errors import UnknownClient
from mpsafe.model import Event, SourceState
from mpsafe.soft.host import SoftwareHost
from old_pid import start_with_pid
from raw_peer import ATTACH, SOMEBODY, WATCH, connect, send
from requires import requires, tool
from tenant_process import Tenant

pytestmark = requires("soft")

CONNECTIONS = 200
ATTACHMENTS = 64
NOBODYS_PID = 4_000_001
MPS_LINE = "[2026-01-01 00:00:00.000 Server {server:>5}] {text}\n"
FALLEN = "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."


def log_line(host: SoftwareHost, text: str, *, priority: int) -> None:
    """A record of the kernel log; a priority over 7 is that of a facility which every process may use."""
    with host.kernel_log.open("a") as log:
        log.write(f"{priority},1,1,-;{text}\n")


def fell(event: Event) -> bool:
    return event.fault is not None and event.fault.xid == 79


def source(daemon: Mpsafed, name: str, wanted: Callable[[SourceState], bool]) -> SourceState:
    """Waits until a source is as `wanted`."""
    while True:
        (state,) = (one for one in daemon.client.describe().sources if one.name == name)
        if wanted(state):
            return state


@requires("root")
def test_a_fault_is_dealt_with_while_strangers_flood_the_socket(
    mpsafed: Mpsafed, tenant: Callable[..., Tenant]
) -> None:
    """Half of them watch and never read, the others attach as often as they can."""
    other, guilty = tenant("chat", mpsafed.socket), tenant("embed", mpsafed.socket)
    pid, descriptors = mpsafed.client.describe().pid, mpsafed.descriptors()
    with ExitStack() as stack:
        for number in range(CONNECTIONS):
            with as_user(SOMEBODY):
                sock = stack.enter_context(connect(mpsafed))
            send(sock, WATCH if number % 2 else ATTACH * ATTACHMENTS)
        guilty.say("wild_write")
        event = mpsafed.fault_closed()
        assert event.blame.client == guilty.identity
        assert [(action.kind, action.state) for action in event.actions] == [("fence", "killed")]
        assert other.do("work") == "ok"
    while mpsafed.descriptors() > descriptors:
        assert mpsafed.client.describe().pid == pid
    assert "Traceback" not in mpsafed.errors.read_text()


def test_lines_that_every_process_may_write_are_no_word_of_the_kernel(
    mpsafed: Mpsafed, tenant: Callable[..., Tenant]
) -> None:
    innocent = tenant("chat", mpsafed.socket)
    for number in (13, 31, 79):
        log_line(mpsafed.host, f"NVRM: Xid (PCI:0000:01:00): {number}, pid={innocent.pid}, name=python", priority=14)
    log_line(mpsafed.host, FALLEN, priority=3)
    mpsafed.until(fell)
    assert [event.kind for event in mpsafed.client.events()] == ["device"]
    assert innocent.do("work") == "ok"


@requires("root")
@pytest.mark.parametrize("server", ["the real one", "one that is not there"])
def test_a_line_that_a_stranger_wrote_into_a_log_of_mps_costs_nobody(
    mpsafed: Mpsafed, tenant: Callable[..., Tenant], server: str
) -> None:
    """It names a client, and a process that never was one; both live."""
    innocent = tenant("chat", mpsafed.socket)
    log = mpsafed.host.log_directory / "server.log"
    log.chmod(0o666)
    mpsafed.host.log_directory.chmod(0o755)
    pid = int(mpsafed.host.control("get_server_list")) if server == "the real one" else NOBODYS_PID
    with subprocess.Popen(["sleep", "600"]) as bystander:
        try:
            with as_user(SOMEBODY), log.open("a") as file:
                for victim in (bystander.pid, innocent.pid):
                    file.write(MPS_LINE.format(server=pid, text=f"Client {{PID: {victim}, Context ID: 0}} connected"))
                    met = f"Client {{PID: {victim}, Context: 1}} encountered a fatal GPU error."
                    file.write(MPS_LINE.format(server=pid, text=met))
                for text in ("Server is handling a fatal GPU error.", "Server status changed to FAULT"):
                    file.write(MPS_LINE.format(server=pid, text=text))
            seen = 0
            while any(event.phase == "open" for event in mpsafed.client.events()) or seen < 20:
                seen += 1
            log_line(mpsafed.host, FALLEN, priority=3)
            mpsafed.until(fell)
            accused = [event.blame.client for event in mpsafed.client.events() if event.kind == "fault"]
            assert accused.count(None) == len(accused)
            assert bystander.poll() is None
            assert innocent.do("work") == "ok"
        finally:
            bystander.kill()


@requires("root")
def test_a_new_process_with_the_pid_of_a_fenced_one_is_somebody_else(
    mpsafed: Mpsafed, tenant: Callable[..., Tenant]
) -> None:
    """The kernel tells late of the old one; the new one is neither blamed nor touched."""
    other, guilty = tenant("chat", mpsafed.socket), tenant("embed", mpsafed.socket)
    guilty.say("wild_write")
    closed = mpsafed.fault_closed()
    guilty.wait()
    while guilty.pid in [client.identity.pid for client in mpsafed.client.clients()]:
        pass
    start_with_pid(guilty.pid, ["sleep", "600"])
    try:
        log_line(mpsafed.host, f"NVRM: Xid (PCI:0000:01:00): 13, pid={guilty.pid}, name=python, Graphics", priority=3)
        late = mpsafed.fault_closed(since=closed.seq)
        assert late.blame.client in (None, guilty.identity)
        with pytest.raises(UnknownClient):
            mpsafed.client.fence(guilty.pid)
        assert os.waitpid(guilty.pid, os.WNOHANG) == (0, 0)
        assert other.do("work") == "ok"
    finally:
        os.kill(guilty.pid, signal.SIGKILL)
        os.waitpid(guilty.pid, 0)


@contextmanager
def tmpfs(directory: Path, size: str) -> Generator[Path]:
    directory.mkdir()
    subprocess.run([tool("mount"), "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run([tool("umount"), "--lazy", directory], check=True)


@requires("namespaces", "mount")
def test_a_full_disk_stops_no_fence_and_loses_no_entry(place: Path) -> None:
    with SoftwareHost(place) as host, ExitStack() as stack:
        host.start_mps()
        disk = stack.enter_context(tmpfs(place / "state", "64k"))
        daemon = stack.enter_context(Mpsafed(host))
        daemon.start()
        other, guilty = (stack.enter_context(Tenant(host, name, daemon.socket)) for name in ("chat", "embed"))
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(1024))
        guilty.say("wild_write")
        event = daemon.fault_closed()
        assert [(action.kind, action.state) for action in event.actions] == [("fence", "killed")]
        assert other.do("work") == "ok"
        filler.unlink()
        log_line(host, FALLEN, priority=3)
        last = daemon.until(fell)
        daemon.kill()
        assert [entry.seq for entry in daemon.written()] == list(range(1, len(daemon.written()) + 1))
        assert last in daemon.written()


def test_a_kernel_log_that_cannot_be_read_is_said_and_read_again(mpsafed: Mpsafed) -> None:
    log, aside = mpsafed.host.kernel_log, mpsafed.host.directory / "aside"
    log.rename(aside)
    log.mkdir()
    with aside.open("a"):  # the daemon looks when something happens to what it reads
        os.utime(aside)
    lost = source(mpsafed, "kernel-log", lambda state: not state.alive and state.detail != "not seen yet")
    assert "is no regular file" in lost.detail
    log.rmdir()
    aside.rename(log)
    source(mpsafed, "kernel-log", lambda state: state.alive)
    log_line(mpsafed.host, FALLEN, priority=3)
    mpsafed.until(fell)


@pytest.mark.parametrize("what", ["/dev/zero", "a pipe that nobody writes to", "a file that is not a log"])
def test_a_link_in_the_place_of_a_log_holds_up_nobody(
    mpsafed: Mpsafed, tenant: Callable[..., Tenant], what: str
) -> None:
    """The user whose control daemon it is can put one there."""
    other, guilty = tenant("chat", mpsafed.socket), tenant("embed", mpsafed.socket)
    target = mpsafed.host.directory / "target"
    if what.startswith("/dev"):
        target = Path(what)
    elif "pipe" in what:
        os.mkfifo(target)
    else:
        target.write_text("root:x:0:0\n" * 1000)
    log = mpsafed.host.log_directory / "server.log"
    link = log.with_name("link")
    link.symlink_to(target)
    link.rename(log)
    refused = source(mpsafed, "mps-server-log", lambda state: not state.alive and state.detail != "not seen yet")
    assert "symbolic link" in refused.detail
    guilty.say("wild_write")
    event = mpsafed.fault_closed()
    assert event.blame.client == guilty.identity
    assert other.do("work") == "ok"


def test_a_link_in_the_place_of_the_pipe_directory_costs_the_proof_only(
    mpsafed: Mpsafed, tenant: Callable[..., Tenant]
) -> None:
    """The control program finds no daemon there: the fence assumes, and the next one proves again."""
    other, *guilty = (tenant(name, mpsafed.socket) for name in ("chat", "embed", "batch"))
    pipes = mpsafed.host.pipe_directory
    aside = pipes.with_name("aside")
    pipes.rename(aside)
    pipes.symlink_to("/nowhere")
    ways: list[bool] = []
    for one in guilty:
        seen = mpsafed.client.events()[-1].seq if ways else 0
        one.say("wild_write")
        closed = mpsafed.fault_closed(since=seen)
        states = [entry.actions[0].state for entry in mpsafed.written() if entry.id == closed.id and entry.actions]
        assert states[-1] == "killed"
        ways.append("proven" in states)
        if pipes.is_symlink():
            pipes.unlink()
            aside.rename(pipes)
    assert ways == [False, True]
    assert other.do("work") == "ok"
