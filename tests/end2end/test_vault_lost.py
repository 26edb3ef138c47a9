# SPDX-License-Identifier: Apache-2.0
"""This test will reset the device under the vault: what is lost is noticed, told, given to nobody, and made anew."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from daemon_process import Mpsafed
from mpsafe.errors import SoftwareGpuFailed
from mpsafe.model import Event, Region
from requires import requires
from vault_process import OUTSIDE, VaultProcess

pytestmark = requires("soft")

Start = Callable[[], VaultProcess]
MADE = (
    "weights = vault.create('weights', 'immutable', 4096); weights.write(b'as trained'); weights.commit();"
    "vault.claim(); kv = Durable.create(vault, 'kv', 4096); kv.data.write(b'token'); kv.commit(b'1')"
)
FALLEN = "3,{seq},1,-;NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n"


@pytest.fixture
def start(mpsafed: Mpsafed) -> Iterator[Start]:
    """Starts processes of the tenant chat, outside MPS: its server would be on the device."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(VaultProcess(mpsafed.host, "chat", mpsafed.socket, environment=OUTSIDE))


def loss(event: Event) -> bool:
    return event.kind == "device" and "the vault has lost" in event.summary


def regions(mpsafed: Mpsafed) -> dict[str, list[str]]:
    """The states of the regions by their names."""
    found: dict[str, list[str]] = {}
    for region in mpsafed.client.vault().regions:
        assert isinstance(region, Region)
        found.setdefault(region.name, []).append(region.state)
    return found


def made_and_reset(mpsafed: Mpsafed, start: Start) -> None:
    """Regions of a process that has ended, on a device that was reset since."""
    first = start()
    first.do(MADE)
    with pytest.raises(SoftwareGpuFailed):
        mpsafed.host.reset()
    first.kill()
    mpsafed.host.reset()


def is_clean_again(mpsafed: Mpsafed, start: Start) -> None:
    """Nobody is given what is lost; who makes it anew has it, and garbage collection lets go of the rest."""
    assert regions(mpsafed) == {"weights": ["lost"], "kv": ["lost"]}
    second = start()
    for name in ("weights", "kv"):
        said = second.fails(f"vault.open({name!r})")
        assert said.startswith("RegionLost"), said
    second.do(MADE)
    assert regions(mpsafed) == {"weights": ["lost", "committed"], "kv": ["lost", "open"]}
    assert second.do("vault.open('weights').read(10)") == "b'as trained'"
    assert sorted(one.region.name for one in mpsafed.client.collect()) == ["kv", "weights"]
    assert regions(mpsafed) == {"weights": ["committed"], "kv": ["open"]}


def test_a_reset_that_no_daemon_saw(mpsafed: Mpsafed, start: Start) -> None:
    first = start()
    first.do(MADE)
    mpsafed.kill()
    first.kill()
    mpsafed.host.reset()
    mpsafed.start(ready_for="calls")
    event = mpsafed.until(loss)
    assert (event.phase, event.device) == ("closed", mpsafed.client.devices()[0].uuid)
    assert "chat/weights (1), chat/kv (2)" in event.summary
    is_clean_again(mpsafed, start)


def test_a_device_that_failed_and_was_reset(mpsafed: Mpsafed, start: Start) -> None:
    """The daemon looks when the kernel's log tells of the device, and then once more for each further cause."""
    made_and_reset(mpsafed, start)
    assert "lost" not in [state for states in regions(mpsafed).values() for state in states], "nothing was told"
    with mpsafed.host.kernel_log.open("a") as log:
        log.write(FALLEN.format(seq=1))
    mpsafed.until(loss)
    is_clean_again(mpsafed, start)
    assert len([event for event in mpsafed.client.events() if loss(event)]) == 1


def test_memory_that_is_there_is_not_lost(mpsafed: Mpsafed, start: Start) -> None:
    one = start()
    one.do(MADE)
    with mpsafed.host.kernel_log.open("a") as log:
        log.write(FALLEN.format(seq=1))
    mpsafed.until(lambda event: event.kind == "device")
    assert one.do("vault.open('weights').read(10)") == "b'as trained'"
    mpsafed.kill()
    mpsafed.start(ready_for="calls")
    one.do("client.close()")
    assert one.do("vault.open('weights').read(10)") == "b'as trained'"
    assert not any(loss(event) for event in mpsafed.client.events())
