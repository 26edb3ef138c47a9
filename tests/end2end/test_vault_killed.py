# SPDX-License-Identifier: Apache-2.0
"""This test will kill the daemon at every line of the vault's index, and the owner of a region in the middle of it."""

import os
from collections.abc import Iterator

import psutil
import pytest

from mortal_daemon import Mortal
from mpsafe.soft.host import SoftwareHost
from requires import requires
from vault_process import OUTSIDE, VaultProcess

pytestmark = requires("soft", "cc")

LINES_MAX = 20
# What an owner does, an entry each; what was done is in `done`, and its last one may have been done unheard.
WORDS = """
done, failed = [], None
try:
    vault.claim(); done.append('claim')
    kv = Durable.create(vault, 'kv', 4096); kv.data.write(b'token'); kv.commit(b'1'); done.append('kv')
    weights = vault.create('weights', 'immutable', 3 << 20); weights.write(b'trained'); done.append('weights')
    weights.commit(); done.append('commit')
    spare = vault.create('spare', 'immutable', 1); done.append('spare')
    vault.release(spare); done.append('release')
except Exception as error:
    failed = error
"""
STEPS = ["claim", "kv", "weights", "commit", "spare", "release"]


@pytest.fixture
def mortal(software_host: SoftwareHost) -> Iterator[Mortal]:
    with Mortal(software_host) as daemon:
        daemon.start()
        yield daemon


def held(mortal: Mortal) -> int:
    """How many descriptors the keeper has, but for its own sockets, standard streams and selector."""
    keepers = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "mpsafed.vault.keeper" in (process.info["cmdline"] or [])
        and os.fspath(mortal.host.directory) in (process.info["cmdline"] or [])[-1]
    ]
    folders = [f"/proc/{keeper.pid}/fd" for keeper in keepers]
    links = [os.readlink(f"{folder}/{fd}") for folder in folders for fd in os.listdir(folder)]
    return sum(link.startswith("/memfd:") for link in links)


@pytest.mark.parametrize("how", ["after", "torn"])
def test_at_each_line_of_the_index(mortal: Mortal, how: str) -> None:
    reached: list[str] = []
    for line in range(1, LINES_MAX):
        with VaultProcess(mortal.host, "chat", mortal.socket, environment=OUTSIDE) as owner:
            mortal.arm_line(line, how)
            owner.do(WORDS)
            told = owner.do("done")
            died = owner.do("failed") != "None"
            mortal.disarm()
            if died:
                assert mortal.process.wait(60) == -9
                mortal.start(ready_for="calls")
            owner.do("client.close()")
            done = [step for step in STEPS if repr(step) in told]
            there = {region.name: region for region in mortal.client.vault().regions}
            missing = STEPS[len(done)] if len(done) < len(STEPS) else ""
            expected = {step for step in ("kv", "weights", "spare") if step in done}
            expected -= {"spare"} if "release" in done else set()
            unheard = {missing} & {"kv", "weights", "spare"}
            gone = {"spare"} & {missing.replace("release", "spare")}
            assert expected - gone <= set(there) <= expected | unheard, (line, done, there)
            if "commit" in done:
                assert there["weights"].state == "committed"
                assert owner.do("vault.open('weights').read(7)") == "b'trained'"
            if "kv" in done:
                assert owner.do("Durable.open(vault, 'kv').data.read(5)") == "b'token'"
            handles = sum(len(region.sizes) for region in there.values())
            # There is no keeper before there is something to hold.
            assert held(mortal) in ({1 + handles} if handles else {0, 1}), "the index, and one for each handle"
            reached.append(missing)
            for region in there.values():
                mortal.client.release_region(region.id)
        mortal.terminate()
        mortal.start(ready_for="calls")
        if not died:
            break
    assert set(reached) >= {"claim", "kv", "weights", "commit", "spare", "release", ""}


@pytest.mark.parametrize("step", ["exported", "sent", "answered"])
def test_an_owner_that_dies_in_a_create(mortal: Mortal, step: str) -> None:
    """Before it was asked, before it was answered, and behind that: memory is held for it only in the last case."""
    with VaultProcess(mortal.host, "chat", mortal.socket) as owner:
        owner.do("vault.claim(); device = driver.devices()[0]; memory = cuda.Memory.create(driver, device, 2 << 20)")
        owner.do("handle = memory.export()")
        if step == "sent":
            owner.do("from mpsafe.client.wire import Wire; from mpsafe.client import calls")
            owner.do("p, f = calls.created('chat', 'kv', 'durable', device.uuid, [2 << 20], [handle], None)")
            owner.do(
                "wire = Wire(client.socket, timeout_s=60); wire.send('io.mpsafe.Vault.Create', p, more=False, fds=f)"
            )
        if step == "answered":
            owner.do("client.create_region('chat', 'kv', 'durable', device.uuid, [2 << 20], [handle])")
        owner.kill()
    with VaultProcess(mortal.host, "chat", mortal.socket) as heir:
        while heir.do("client.vault().regions") == "[]" and step == "answered":
            pass
        names = [region.name for region in mortal.client.vault().regions]
        assert names == (["kv"] if step == "answered" else names[:1])
        assert heir.do("vault.claim()") == "2"
    mortal.kill()
    mortal.start(ready_for="calls")
    assert [region.name for region in mortal.client.vault().regions] == names
