# SPDX-License-Identifier: Apache-2.0
"""This test will talk to the software kernel as its processes and its owner do, well and badly."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from contract.mps_rig import eventually, finish
from mpsafe.errors import SourceLost
from mpsafe.soft.host import SoftwareHost
from mpsafed.driver import Policy
from mpsafed.driver.records import Record, decode
from mpsafed.driver.software import SoftwareDriver
from requires import requires

pytestmark = requires("soft")

GIB = 1 << 30
PATIENCE_S = 60.0
WRITE = "mmu pde va=0x300000000000 access=write"


class Peer:
    """A process on the software kernel, as a connection of ours: all of them have our pid."""

    def __init__(self, host: SoftwareHost, role: str = "cuda") -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(os.fspath(host.directory / "rm"))
        self.sock.send(f"hello {role}".encode())
        reply, fds, _, _ = socket.recv_fds(self.sock, 4096, 1)
        assert reply.startswith(b"ok devices="), reply
        self.notifier = fds[0] if fds else -1

    def close(self) -> None:
        self.sock.close()
        if self.notifier >= 0:
            os.close(self.notifier)
            self.notifier = -1

    def ask(self, request: str) -> str:
        self.sock.send(request.encode())
        return self.sock.recv(4096).decode()

    def open(self, device: int = 0, group: str = "0") -> str:
        """The channel."""
        word, channel, _ = self.ask(f"open {device} {group}").split(" ")
        assert word == "ok"
        return channel

    def state(self) -> tuple[int, int]:
        """Error and doom, as its notifier shows them."""
        raw = os.pread(self.notifier, 8, 0)
        return int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:], "little")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SoftwareHost]:
    with SoftwareHost(tmp_path / "host", devices=2, memory_bytes=GIB, heartbeat_ms=60_000, records=64) as host:
        yield host


@pytest.fixture
def peer(host: SoftwareHost) -> Iterator[Callable[..., Peer]]:
    """Connects peers, and closes them when the test is over."""
    with ExitStack() as stack:

        def connect(role: str = "cuda") -> Peer:
            made = Peer(host, role)
            stack.callback(made.close)
            return made

        yield connect


@pytest.fixture
def owner(host: SoftwareHost) -> Iterator[SoftwareDriver]:
    driver = SoftwareDriver(host.driver)
    yield driver
    driver.close()


def records(driver: SoftwareDriver, count: int) -> list[Record]:
    """That many records, waited for."""
    found: list[Record] = []
    while len(found) < count:
        new = [decode(raw) for raw in driver.read()]
        assert new or select.select([driver], [], [], PATIENCE_S)[0], f"only {found}"
        found += new
    assert len(found) == count, found
    return found


def reopened(host: SoftwareHost, count: int) -> list[Record]:
    """What a new owner reads first, as soon as the kernel has noticed the end of the old one."""
    found: list[Record] = []

    def read() -> bool:
        with contextlib.closing(SoftwareDriver(host.driver)) as driver, contextlib.suppress(SourceLost):
            found.extend(records(driver, count))
        return bool(found)

    eventually(read, "a device that is free again")
    return found


def test_memory_is_charged_once_and_comes_back(peer: Callable[..., Peer]) -> None:
    one, other = peer(), peer()

    def used() -> int:
        return int(one.ask("device 0").split("used=")[1].split(" ")[0])

    assert one.ask(f"alloc 0 17 {GIB // 2}") == other.ask(f"alloc 0 17 {GIB // 2}") == "ok"
    assert used() == GIB // 2
    assert one.ask(f"alloc 0 18 {GIB // 2 + 1}") == "error 2"
    assert one.ask(f"alloc 1 18 {GIB // 2 + 1}") == "ok", "the other device has its own"
    assert one.ask("free 0 17") == "ok"
    assert used() == GIB // 2, "the other one holds it still"
    assert one.ask("free 0 17") == one.ask("free 0 99") == "error 1"
    other.close()
    eventually(lambda: used() == 0, "memory that a dead process held")


@pytest.mark.parametrize(
    "request_",
    [
        " ",
        "nonsense",
        "hello cuda",
        "open 0",
        "open x 0",
        "open 0 0 0",
        "close 1",
        "alloc 0 1 -5",
        "alloc 0 1 " + "9" * 5000,
        "fault 1 mmu pde va=0x0 access=write",
        "fault 1 mmu nonsense va=0x0 access=write",
        "fault 1 sm pde va=0x0 access=none",
        "fault 1 mmu pde va=0x10000000000000000 access=write",
        "fault 1 mmu pde va=-0x1 access=write",
        "fault 1 mmu pde va=0x0 access=sideways",
        "group",
        "terminate 1 1",
        "recreate 1",
        "é",
        "\0",
    ],
)
def test_a_request_that_is_none_is_refused(peer: Callable[..., Peer], request_: str) -> None:
    one = peer()
    assert one.ask(request_).startswith("error ")
    assert one.ask("device 0").startswith("ok ")


def test_no_device_is_101_and_no_hello_is_3(host: SoftwareHost, peer: Callable[..., Peer]) -> None:
    assert peer().ask("open 2 0") == "error 101"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(os.fspath(host.directory / "rm"))
        sock.send(b"open 0 0")
        assert sock.recv(4096) == b"error 3"


def sent(path: Path, packet: bytes) -> bool:
    """Connects, sends that and leaves; False where the driver still has another owner, and turns this one away."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(os.fspath(path))
        try:
            return sock.send(packet) == len(packet)
        except BrokenPipeError:
            return False


def test_nonsense_on_both_sockets_hurts_nobody(host: SoftwareHost, peer: Callable[..., Peer]) -> None:
    for name in ("rm", "mpsafe"):
        for packet in (b"", b"\xff" * 100, b"x" * 60_000, b"policy sideways", b"heartbeat", b"hello cuda\0"):
            eventually(partial(sent, host.directory / name, packet), "the owner before is gone")
    assert peer().ask("device 0").startswith("ok ")


def test_a_hundred_processes_at_once(host: SoftwareHost, peer: Callable[..., Peer]) -> None:
    many = [peer() for _ in range(100)]
    for one in many:
        one.open()
    assert many[0].ask("processes 0").startswith("ok 100 ")
    for one in many[1:]:
        one.close()
    eventually(lambda: many[0].ask("processes 0").startswith("ok 1 "), "one process")


def test_a_watcher_that_does_not_read_is_dropped(peer: Callable[..., Peer]) -> None:
    watcher, busy = peer("nvml"), peer()
    assert watcher.ask("watch") == "ok"
    while True:
        channel = busy.open()
        busy.ask(f"fault {channel} sm trap va=0x0 access=none")
        busy.close()
        try:
            watcher.sock.send(b"device 0", socket.MSG_DONTWAIT)
        except (BrokenPipeError, ConnectionResetError):
            break
        except BlockingIOError:
            pass
        busy = peer()
    assert peer().ask("device 0").startswith("ok ")


def test_clients_killed_at_any_moment(host: SoftwareHost, peer: Callable[..., Peer]) -> None:
    program = """
import os, signal, socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
for request in sys.argv[2:]:
    sock.send(request.encode())
os.kill(os.getpid(), signal.SIGKILL)
"""
    requests = ["hello cuda", "open 0 0", "alloc 0 5 4096", "fault 1 sm trap va=0x0 access=none", "watch"]
    for count in range(len(requests) + 1):
        command = [sys.executable, "-S", "-c", program, os.fspath(host.directory / "rm"), *requests[:count]]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    one = peer()
    eventually(lambda: " used=0 " in one.ask("device 0"), "memory that dead processes held")
    assert one.ask("processes 0") == "ok 0"


def test_a_kernel_log_line_has_the_form_of_the_real_ones(host: SoftwareHost, peer: Callable[..., Peer]) -> None:
    one, other = peer(), peer()
    assert one.ask(f"fault {one.open()} {WRITE}") == "ok fatal 700"
    assert other.ask(f"fault {other.open(1)} sm trap va=0x0 access=none") == "ok fatal 719"
    lines = host.kernel_log.read_text().splitlines()
    assert [line.split(",")[:2] for line in lines] == [["3", str(number)] for number in range(2)]
    texts = [line.split(";", 1)[1] for line in lines]
    who = f"pid={os.getpid()}, name="
    assert texts[0].startswith(f"NVRM: Xid (PCI:0000:01:00): 31, {who}")
    assert "faulted @ 0x3000_00000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_WRITE" in texts[0]
    assert texts[1].startswith(f"NVRM: Xid (PCI:0000:02:00): 43, {who}")


def test_the_kernel_log_of_an_mps_server_names_whoever_came_last_or_the_server(
    host: SoftwareHost, peer: Callable[..., Peer]
) -> None:
    """As an H100 does with 580.159.04: tools/qualify/results, mps_whose_*."""
    server, guilty, last = peer("mps"), peer(), peer()
    for detail, xids in (("misaligned", ["13,", "13,", "43,"]), ("trap", ["43,"])):
        group = server.ask("group").removeprefix("ok ")
        channel = guilty.open(0, group)
        last.open(0, group)
        before = len(host.kernel_log.read_text().splitlines())
        guilty.ask(f"fault {channel} sm {detail} va=0x0 access=none")
        texts = [line.split("): ", 1)[1] for line in host.kernel_log.read_text().splitlines()[before:]]
        assert [text[:3] for text in texts] == xids
        assert all("pid=" not in text for text in texts[:-1])
        guilty, last = peer(), peer()


def test_only_the_guilty_is_marked(host: SoftwareHost, owner: SoftwareDriver, peer: Callable[..., Peer]) -> None:
    owner.set_policy(Policy(mode="absorb"))
    assert [r.kind for r in records(owner, 1)] == ["policy"]
    server, guilty, bystander = peer("mps"), peer(), peer()
    group = server.ask("group").removeprefix("ok ")
    channel, other = guilty.open(0, group), bystander.open(0, group)
    assert guilty.ask(f"fault {channel} {WRITE}") == "ok absorbed"
    assert guilty.ask(f"fault {channel} {WRITE}") == "ok absorbed"
    assert guilty.ask(f"fault {channel} mmu ro va=0x500000000000 access=atomic") == "ok absorbed"
    assert (guilty.state(), bystander.state()) == ((0, 1), (0, 0))
    first, second = records(owner, 2)
    assert (first.kind, first.address, first.access, first.fault) == ("absorbed", 0x300000000000, "write", "pde")
    assert (second.address, second.access, second.faults) == (0x500000000000, "atomic", 2)
    assert first.client.pid == os.getpid()
    assert host.kernel_log.read_text() == "", "the kernel says nothing of it"
    assert bystander.ask(f"fault {other} sm trap va=0x0 access=none") == "ok fatal 719", "an exception is not absorbed"
    guilty.close()
    assert [r.kind for r in records(owner, 1)] == ["gone"]


def test_observe_records_and_lets_it_run(owner: SoftwareDriver, peer: Callable[..., Peer]) -> None:
    owner.set_policy(Policy(mode="observe"))
    one = peer()
    assert one.ask(f"fault {one.open()} {WRITE}") == "ok fatal 700"
    policy, passed = records(owner, 2)
    assert (policy.mode, passed.kind, passed.status, passed.address) == ("observe", "passed", 0x40, 0x300000000000)
    other = peer()
    assert other.ask(f"fault {other.open()} sm trap va=0x0 access=none") == "ok fatal 719"
    owner.set_policy(Policy(mode="off"))
    assert [r.kind for r in records(owner, 1)] == ["policy"], "an exception is not the driver's to see"


def test_the_mode_ends_with_its_owner(host: SoftwareHost, owner: SoftwareDriver, peer: Callable[..., Peer]) -> None:
    owner.set_policy(Policy(mode="absorb"))
    records(owner, 1)
    doomed, late = peer(), peer()
    channel, other = doomed.open(), late.open()
    assert doomed.ask(f"fault {channel} {WRITE}") == "ok absorbed"
    (absorbed,) = records(owner, 1)
    owner.close()

    seen = reopened(host, 3)
    assert [(r.kind, r.mode) for r in seen] == [("policy", "absorb"), ("absorbed", "absorb"), ("policy", "off")]
    assert (seen[1].load, seen[1].seq, seen[1].client) == (absorbed.load, absorbed.seq, absorbed.client)
    assert late.ask(f"fault {other} {WRITE}") == "ok fatal 700"
    assert doomed.ask(f"fault {channel} mmu pde va=0x700000000000 access=read") == "ok absorbed", (
        "once doomed, absorbed"
    )


def test_there_is_one_owner_at_a_time(host: SoftwareHost, owner: SoftwareDriver) -> None:
    owner.set_policy(Policy(mode="observe"))
    records(owner, 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as second:
        second.connect(os.fspath(host.driver))
        assert second.recv(4096) == b"busy"
        assert second.recv(4096) == b""
    owner.set_policy(Policy(mode="off"))
    assert [r.mode for r in records(owner, 1)] == ["off"]


def test_a_missed_heartbeat_ends_the_mode(tmp_path: Path) -> None:
    with SoftwareHost(tmp_path / "host", heartbeat_ms=50) as host:
        driver = SoftwareDriver(host.driver)
        driver.set_policy(Policy(mode="absorb"))
        assert [r.mode for r in records(driver, 2)] == ["absorb", "off"]
        peer = Peer(host)
        assert peer.ask(f"fault {peer.open()} {WRITE}") == "ok fatal 700"
        driver.heartbeat()
        assert records(driver, 2)[0].mode == "absorb", "a heartbeat brings back what a missed one had put off"
        peer.close()
        driver.close()


def test_an_owner_that_lags_sees_a_gap(host: SoftwareHost, owner: SoftwareDriver, peer: Callable[..., Peer]) -> None:
    owner.set_policy(Policy(mode="absorb", sinks_max=4096, grow_after=(4096, 4096)))
    one = peer()
    channel = one.open()
    count = 4000
    for page in range(count):
        assert one.ask(f"fault {channel} mmu pde va={page << 16:#x} access=write") == "ok absorbed"
    seen: list[int] = []
    last = count + 1  # the policy was the first
    while seen[-1:] != [last]:
        new = [decode(raw).seq for raw in owner.read()]
        assert new or select.select([owner], [], [], PATIENCE_S)[0], "the last record does not come"
        seen += new
    assert seen == sorted(set(seen)), "in order, none twice"
    assert len(seen) < last, "the ring has 64 places and a socket some hundreds"
    assert seen[-64:] == list(range(last - 63, last + 1)), "what was kept comes without a gap"


def test_the_kernel_outlives_an_owner_that_is_killed(host: SoftwareHost) -> None:
    program = "import sys\nfrom pathlib import Path\nfrom mpsafed.driver import Policy\n"
    program += "from mpsafed.driver.software import SoftwareDriver\nowner = SoftwareDriver(Path(sys.argv[1]))\n"
    program += "owner.set_policy(Policy(mode='absorb'))\nprint('absorbing', flush=True)\nsys.stdin.read()"
    killed = subprocess.Popen(
        [sys.executable, "-c", program, os.fspath(host.driver)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert killed.stdout is not None
    assert killed.stdout.readline()
    finish(killed.pid, signal.SIGKILL)
    killed.communicate()

    assert [r.mode for r in reopened(host, 2)] == ["absorb", "off"]
