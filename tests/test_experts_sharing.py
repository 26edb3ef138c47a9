# SPDX-License-Identifier: Apache-2.0
"""This test will serve one model from four processes: one copy of its experts, one link and one device's memory.

The processes are the same from test to test, since each imports torch; the last test kills them.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from contract.mps_rig import eventually
from daemon_process import Mpsafed
from expert_server import Server
from mpsafe.client import Client
from mpsafe.soft.host import SoftwareHost
from requires import requires
from vault_process import OUTSIDE, VaultProcess

pytestmark = requires("soft", "torch")

MIB = 1 << 20
DEVICE_MIB = 256
SETTINGS = "[store]\ngrace_ms = 0\n[leases]\nreserve_mib = 16\nlook_ms = 20\nsettle_ms = 100\npressure_ms = 2000\n"
BLOCK_MOST = 8 * MIB


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mpsafed]:
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("host")
        host = stack.enter_context(SoftwareHost(directory, memory_bytes=DEVICE_MIB * MIB))
        host.start_mps()
        daemon = stack.enter_context(Mpsafed(host, more=SETTINGS))
        daemon.start(ready_for="calls")
        yield daemon


@pytest.fixture(scope="module")
def servers(daemon: Mpsafed) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        found = [stack.enter_context(Server(daemon)) for _ in range(4)]
        for one in found:
            one.up()
        yield found


def leases_are(client: Client, count: int) -> bool:
    return len(client.leases()) == count


def nothing_is_left(client: Client) -> bool:
    return not client.leases() and not client.contents()


def test_four_processes_have_one_copy_and_an_antagonist_changes_no_answer(
    daemon: Mpsafed, servers: list[Server]
) -> None:
    first = servers[0]
    wanted = first.ask("answer(1, 24)")[0]
    for one in servers:
        one.begin("answer(1, 24)")
    assert {one.value()[0] for one in servers} == {wanted}

    each = [one.ask("pss()") for one in servers]
    assert sum(one["rss"] for one in each) > 2 * first.nbytes
    assert sum(one["pss"] for one in each) <= first.nbytes
    contents = daemon.client.contents()
    assert (len(contents), {one.users for one in contents}) == (4, {4})
    assert sum(one.size_bytes for one in contents) == first.nbytes

    eventually(partial(fit, daemon, servers), "the caches are what the leases have room for")
    before = caches(servers)
    assert daemon.client.devices()[0].memory_used_bytes == sum(before)
    for one in servers:
        one.begin("answer(2, 200)")
    with VaultProcess(daemon.host, "batch", daemon.socket, environment=OUTSIDE) as antagonist:
        room = DEVICE_MIB - 16 - sum(before) // MIB
        taken = room + int(0.3 * sum(before)) // MIB
        antagonist.do("memories = []")
        for _ in range(taken // 2):
            eventually(lambda: takes(antagonist), "the antagonist gets its memory")
        assert not any(one.has_answered() for one in servers), "they were to be in the middle of it"
        answers = {one.value()[0] for one in servers}
        assert len(answers) == 1
        during = caches(servers)
        assert sum(during) < 0.8 * sum(before)
        assert all(left >= 0 for left in unused(daemon, servers, during))
        assert all(lease.state == "held" for lease in daemon.client.leases())

    eventually(lambda: sum(caches(servers)) >= 0.95 * sum(before), "the caches have grown again")
    assert first.ask("answer(2, 200)")[0] in answers


def caches(servers: list[Server]) -> list[int]:
    """Bytes of each after a token more: a lease that has grown is followed when one begins."""
    return [one.ask("(answer(3, 1), served.cache_bytes)")[1] for one in servers]


def fit(daemon: Mpsafed, servers: list[Server]) -> bool:
    """Whether each is as large as whole blocks allow."""
    return all(0 <= left < BLOCK_MOST for left in unused(daemon, servers, caches(servers)))


def unused(daemon: Mpsafed, servers: list[Server], caches: list[int]) -> list[int]:
    """What each has of its lease beyond its cache, in bytes."""
    granted = {lease.identity.pid: lease.granted_bytes for lease in daemon.client.leases()}
    return [granted[one.process.pid] - cache for one, cache in zip(servers, caches, strict=True)]


def takes(antagonist: VaultProcess) -> bool:
    """2 MiB more; False where the device has none left yet."""
    antagonist.begin("memories.append(cuda.Memory.create(driver, driver.devices()[0], 2 << 20))")
    return antagonist.answer().startswith("= ")


def test_a_daemon_that_dies_is_not_noticed_by_who_serves(daemon: Mpsafed, servers: list[Server]) -> None:
    wanted = servers[0].ask("answer(1, 60)")[0]
    published = sorted(content.hash for content in daemon.client.contents())
    for one in servers:
        one.begin("answer(1, 60)")
    daemon.kill()
    daemon.client.close()
    daemon.start(ready_for="calls")
    assert {one.value()[0] for one in servers} == {wanted}
    eventually(lambda: len(daemon.client.leases()) == 4, "all have their leases again")
    pids = {one.process.pid for one in servers}
    device = daemon.client.devices()[0].uuid
    with Client(daemon.socket) as client, client.attach("chat"), client.link(device) as page:
        eventually(lambda: pids <= {cell.pid for _, cell in page.cells()}, "all are on the new page of the link")
    assert sorted(content.hash for content in daemon.client.contents()) == published
    with Server(daemon) as fifth:
        fifth.up()
        assert fifth.ask("answer(1, 60)")[0] == wanted
        assert sorted(content.hash for content in daemon.client.contents()) == published
        assert fifth.ask("pss()")["pss"] < 0.5 * fifth.nbytes


def test_whoever_is_killed_leaves_nothing(daemon: Mpsafed, servers: list[Server]) -> None:
    before = daemon.descriptors()
    for number, one in enumerate(servers):
        one.begin("answer(1, 500)")
        if number % 2:
            servers[0].process.poll()
        one.kill()
        eventually(partial(leases_are, daemon.client, len(servers) - number - 1), "its lease has ended")
    eventually(lambda: nothing_is_left(daemon.client), "nothing is kept")
    assert daemon.descriptors() < before
    assert daemon.client.devices()[0].memory_used_bytes == 0
