# SPDX-License-Identifier: Apache-2.0
"""This test will provoke every fault among three real tenants, with stock MPS and with mpsafed."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contract.check_cuda_faults import FAULTS
from daemon_process import TENANTS, Mpsafed
from mpsafe.model import Event
from mpsafe.soft.host import SoftwareHost
from requires import requires
from tenant_process import Tenant

pytestmark = requires("soft")

MEMORY_FAULTS = ["wild_read", "wild_write", "read_without_access", "write_to_read_only", "use_after_unmap"]
SM_FAULTS = {"misaligned": 716, "trap": 719, "illegal_instruction": 715}


def test_each_fault_of_the_contract_has_its_class() -> None:
    assert {*MEMORY_FAULTS, *SM_FAULTS} == set(FAULTS)


def xids(host: SoftwareHost) -> list[tuple[int, int]]:
    """Number and pid of each Xid line in the kernel log; 0 where a line has none."""
    found = re.findall(r"NVRM: Xid \(PCI:[0-9a-f:]+\): (\d+), (?:pid=(\d+))?", host.kernel_log.read_text())
    return [(int(number), int(pid or 0)) for number, pid in found]


def printed(fault: str, *, last: Tenant, server: int) -> list[tuple[int, int]]:
    """What the kernel's log has of a fault under MPS: nobody's pid, the last client's or the server's."""
    if fault not in SM_FAULTS:
        return [(31, last.identity.pid)]
    return [*([(13, 0)] * 2 if fault != "trap" else []), (43, server)]


def three(host: SoftwareHost, stack: ExitStack, socket: str = "") -> list[Tenant]:
    """A tenant of each name, started together."""
    started = [stack.enter_context(Tenant(host, name, socket, up=False)) for name in TENANTS]
    return [tenant.is_up() for tenant in started]


@pytest.fixture
def tenants(software_host: SoftwareHost) -> Iterator[list[Tenant]]:
    """chat, embed and batch under stock MPS."""
    with ExitStack() as stack:
        yield three(software_host, stack)


@pytest.mark.parametrize("fault", FAULTS)
def test_stock_mps_loses_everybody(software_host: SoftwareHost, tenants: list[Tenant], fault: str) -> None:
    guilty, *others = tenants
    (server,) = map(int, software_host.control("get_server_list").split())
    result = SM_FAULTS.get(fault, 700)
    assert guilty.do(fault) == f"error {result}"
    assert [other.do("work") for other in others] == [f"error {result}"] * 2
    assert [tenant.wait() for tenant in tenants] == [1, 1, 1]
    assert xids(software_host) in [printed(fault, last=tenant, server=server) for tenant in tenants]


def told(event: Event) -> list[tuple[str, str]]:
    """The actions and how far each came, without what was only noted: a line that comes first may not say where."""
    return [(action.kind, action.state) for action in event.actions if action.kind != "note"]


def test_memory_faults_cost_only_the_guilty(mpsafed: Mpsafed, tenant: Callable[..., Tenant]) -> None:
    others = [tenant("chat", mpsafed.socket), tenant("batch", mpsafed.socket)]
    servers = mpsafed.host.control("get_server_list")
    seen = 0
    for fault in MEMORY_FAULTS:
        guilty = tenant("embed", mpsafed.socket)
        guilty.say(fault)
        assert guilty.wait() in (1, -9), "it ends by the error of its stopped work, or is killed"
        event = mpsafed.fault_closed(since=seen)
        seen = event.seq
        assert event.blame.client == guilty.identity
        assert event.blame.tenant == "embed"
        assert event.fault is not None
        assert event.fault.absorbed
        assert event.fault.fault_class == "mmu"
        assert told(event) == [("fence", "killed")]
        assert [other.do("work") for other in others] == ["ok", "ok"]
    assert xids(mpsafed.host) == [], "nothing of an absorbed fault reaches the kernel log"
    assert mpsafed.host.control("get_server_list") == servers
    faults = [event for event in mpsafed.client.events() if event.kind == "fault"]
    assert len(faults) == len(MEMORY_FAULTS)


def test_an_sm_fault_ends_the_server_and_everybody_can_come_back(
    mpsafed: Mpsafed, tenant: Callable[..., Tenant]
) -> None:
    seen = 0
    for fault, result in SM_FAULTS.items():
        lost = [tenant(name, mpsafed.socket) for name in TENANTS]
        (server,) = mpsafed.client.describe().servers
        guilty = lost[1]
        assert guilty.do(fault) == f"error {result}"
        event = mpsafed.fault_closed(since=seen)
        seen = event.seq
        assert [one.wait() for one in lost] != [0, 0, 0]
        assert event.fault is not None
        assert event.fault.fault_class == "sm"
        assert not event.fault.absorbed
        # Lines without a pid that come soon after another fault of the device may be taken for that one's.
        assert event.fault.xid in ((43,) if fault == "trap" else (13, 43))
        assert event.server == server.pid
        assert event.blame.client is None, "nothing tells whose it was"
        assert told(event) == [("restart_server", "done")]
        expected = printed(fault, last=guilty, server=server.pid)
        assert xids(mpsafed.host)[-len(expected) :] == expected
        back = [tenant(name, mpsafed.socket) for name in TENANTS]
        assert [one.do("work") for one in back] == ["ok", "ok", "ok"]
        (fresh,) = mpsafed.client.describe().servers
        assert fresh.state == "active"
        assert fresh.pid != server.pid
        assert {t.name: t.health for t in mpsafed.client.tenants()} == dict.fromkeys(TENANTS, "healthy")
    faults = [event for event in mpsafed.client.events() if event.kind == "fault"]
    assert len(faults) == len(SM_FAULTS)


def test_a_fault_in_observe_mode_is_told_with_the_kernels_own_record(place: Path) -> None:
    with SoftwareHost(place) as host, ExitStack() as stack:
        host.start_mps()
        daemon = stack.enter_context(Mpsafed(host, more='[driver]\nmode = "observe"\n'))
        daemon.start()
        chat, embed, _ = three(host, stack, daemon.socket)
        assert embed.do("wild_write") == "error 700"
        assert chat.do("work") == "error 700"
        event = daemon.fault_closed()
        assert event.blame.client == embed.identity
        assert {evidence.source for evidence in event.blame.evidence} >= {"kernel_record", "xid_pid"}
        assert told(event) == [("restart_server", "done")]
        assert len([event for event in daemon.client.events() if event.kind == "fault"]) == 1
