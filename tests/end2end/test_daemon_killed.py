# SPDX-License-Identifier: Apache-2.0
"""This test will kill the daemon at every step of what it does about a fault, and look what is lost."""

from collections.abc import Callable, Iterator

import pytest

from daemon_process import TENANTS, Mpsafed
from mortal_daemon import Mortal
from mpsafe.model import Event
from mpsafe.soft.host import SoftwareHost
from requires import requires
from tenant_process import Tenant
from vault_process import OUTSIDE, VaultProcess

pytestmark = requires("soft", "cc")

# Where the daemon dies: at an entry that was written and nothing done about it yet, or at one that was
# half written, which is also after what was done about the one before; the latter at some steps only.
# No fence and no restart has so many entries.
ENTRIES_MAX = 60
HOW = pytest.mark.parametrize(("how", "stride"), [("after", 1), ("torn", 3)])


@pytest.fixture
def mortal(software_host: SoftwareHost) -> Iterator[Mortal]:
    with Mortal(software_host) as daemon:
        daemon.start()
        yield daemon


def faults(daemon: Mpsafed) -> list[Event]:
    """The latest entry of each fault; the stream has no gap, and the daemon tells what its file says."""
    written = daemon.written()
    assert [entry.seq for entry in written] == list(range(1, len(written) + 1))
    told = daemon.client.events()
    assert {event.id for event in told} == {entry.id for entry in written}
    return [event for event in told if event.kind == "fault"]


@HOW
def test_at_each_step_of_a_fence(mortal: Mortal, tenant: Callable[..., Tenant], how: str, stride: int) -> None:
    others = [tenant("chat", mortal.socket), tenant("batch", mortal.socket)]
    servers = mortal.host.control("get_server_list")
    guilty: list[Tenant] = []
    step = 0
    for step in range(1, ENTRIES_MAX, stride):
        before = mortal.last_seq()
        guilty.append(tenant("embed", mortal.socket))
        mortal.arm(before + step, how)
        guilty[-1].say("wild_write")
        died = mortal.dies(since=before)
        mortal.disarm()
        if died:
            mortal.start()
        event = mortal.fault_closed(since=before)
        assert [(action.kind, action.target, action.state) for action in event.actions] == [
            ("fence", guilty[-1].identity, "killed")
        ]
        assert guilty[-1].wait() in (1, -9)
        assert [fault.blame.client for fault in faults(mortal)] == [one.identity for one in guilty]
        assert [other.do("work") for other in others] == ["ok", "ok"]
        assert mortal.host.control("get_server_list") == servers
        if not died:
            break
    assert 6 < step < ENTRIES_MAX - stride


@HOW
def test_at_each_step_of_a_restart(mortal: Mortal, tenant: Callable[..., Tenant], how: str, stride: int) -> None:
    servers: list[int | None] = [None]
    step = 0
    for step in range(1, ENTRIES_MAX, stride):
        before = mortal.last_seq()
        started = [tenant(name, mortal.socket, up=False) for name in TENANTS[:2]]
        assert [one.is_up().do("work") for one in started] == ["ok", "ok"]
        mortal.arm(before + step, how)
        started[-1].say("trap")
        died = mortal.dies(since=before)
        mortal.disarm()
        if died:
            mortal.start(ready_for="calls")
        event = mortal.fault_closed(since=before)
        assert [(action.kind, action.state) for action in event.actions] == [("restart_server", "done")]
        assert event.server not in servers
        servers.append(event.server)
        assert all(one.wait() in (1, -9, -15) for one in started)
        assert [fault.server for fault in faults(mortal)] == servers[1:]
        if not died:
            break
    assert 5 < step < ENTRIES_MAX - stride


# What a standby does until it serves, whatever becomes of the daemon: what it is told twice it says twice.
FOLLOW = """
for word in client.stand_by('chat'):
    with contextlib.suppress(MpsafeError):
        client.progress(word.event, received_ns=time.time_ns())
        client.progress(word.event, serving_ns=time.time_ns())
"""


@HOW
def test_at_each_step_of_a_takeover(mortal: Mortal, tenant: Callable[..., Tenant], how: str, stride: int) -> None:
    other = tenant("batch", mortal.socket)
    granted: list[bool] = []
    step = 0
    for step in range(1, ENTRIES_MAX, stride):
        before = mortal.last_seq()
        with (
            VaultProcess(mortal.host, "chat", mortal.socket) as primary,
            VaultProcess(mortal.host, "chat", mortal.socket, environment=OUTSIDE) as standby,
        ):
            epoch = int(primary.do("vault.claim()"))
            primary.do("kv = Durable.create(vault, 'kv', 4096); kv.data.write(b'token'); kv.commit(b'1')")
            standby.do("from mpsafe.errors import MpsafeError; words = client.stand_by('chat'); next(words)")
            standby.begin(FOLLOW.replace("client.stand_by('chat')", "words"))
            mortal.arm(before + step, how)
            primary.begin("kernel('write_address').launch(cuda.U64(0x5000_0000_0000), cuda.U32(1)); time.sleep(60)")
            died = mortal.dies(since=before)
            mortal.disarm()
            if died:
                mortal.start()
            event = mortal.fault_closed(since=before)
            assert {(action.kind, action.target, action.state) for action in event.actions} == {
                ("takeover", primary.identity, "done"),
                ("fence", primary.identity, "killed"),
            }, (step, event)
            standby.result()
            assert primary.process.wait(60) == -9
            assert [one.standby for one in event.takeovers] == [standby.identity]
            standby.do("client.close()")
            assert int(standby.do("vault.claim()")) == epoch + 1
            # A daemon that died while MPS was asked to terminate the client asks again, and MPS knows it no more.
            assumed = any("assumed" in action.detail for action in event.actions)
            assert standby.do("word.phase") == ("'refused'" if assumed else "'granted'")
            granted.append(not assumed)
            standby.do(f"kv = Durable.open(vault, 'kv', write={not assumed}); assert kv.data.read(5) == b'token'")
            standby.do("vault.release(kv.region)")
            assert other.do("work") == "ok"
        if not died:
            break
    assert 8 < step < ENTRIES_MAX - stride
    assert granted.count(True) > 2 * granted.count(False)


def test_before_a_fault(mortal: Mortal, tenant: Callable[..., Tenant]) -> None:
    other, guilty = tenant("chat", mortal.socket), tenant("embed", mortal.socket)
    mortal.kill()
    assert [one.do("work") for one in (other, guilty)] == ["ok", "ok"], "nobody needs the daemon to work"
    mortal.start()
    guilty.say("wild_read")
    event = mortal.fault_closed()
    assert event.blame.client == guilty.identity
    assert event.blame.tenant == "embed", "membership outlives the daemon"
    assert guilty.wait() in (1, -9)
    assert other.do("work") == "ok"


def test_a_fault_while_there_is_no_daemon(mortal: Mortal, tenant: Callable[..., Tenant]) -> None:
    other, guilty = tenant("chat", mortal.socket), tenant("embed", mortal.socket)
    (server,) = mortal.client.describe().servers
    mortal.kill()
    assert guilty.do("trap") == "error 719"
    assert guilty.wait() == 1
    mortal.start()
    event = mortal.fault_closed()
    assert event.server == server.pid
    assert [(action.kind, action.state) for action in event.actions] == [("restart_server", "done")]
    assert other.wait() in (-9, -15)
    assert len(faults(mortal)) == 1
