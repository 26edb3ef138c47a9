# SPDX-License-Identifier: Apache-2.0
"""This test will lose the process that serves a tenant, in every way there is, and have its standby go on."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from daemon_process import Mpsafed
from mpsafe.errors import NoStandby, UnknownTenant
from mpsafe.model import Event, Takeover
from requires import requires
from tenant_process import Tenant
from vault_process import OUTSIDE, VaultProcess

pytestmark = requires("soft")

Start = Callable[..., VaultProcess]


@pytest.fixture
def start(mpsafed: Mpsafed) -> Iterator[Start]:
    """Starts processes of the tenant chat, clients of the MPS server or `outside` of it."""
    with ExitStack() as stack:

        def started(*, outside: bool = False) -> VaultProcess:
            process = VaultProcess(mpsafed.host, "chat", mpsafed.socket, environment=OUTSIDE if outside else None)
            return stack.enter_context(process)

        yield started


def serves(process: VaultProcess) -> None:
    """Holds the epoch, and has published something."""
    process.do("vault.claim(); kv = Durable.create(vault, 'kv', 4096); kv.data.write(b'token'); kv.commit(b'1')")


def taken_over(mpsafed: Mpsafed, standby: VaultProcess) -> Event:
    """The event in which the standby was promoted, once it is closed."""
    standby.do("client.progress(word.event, serving_ns=time.time_ns())")
    number = int(standby.do("word.event"))
    return mpsafed.until(lambda event: event.id == number and event.phase == "closed")


def in_order(event: Event, takeover: Takeover) -> None:
    """Every stamp of the timeline is there, each behind what it follows from."""
    assert event.time_ns <= takeover.signal_ns <= takeover.decided_ns <= takeover.promoted_ns
    assert takeover.promoted_ns <= takeover.granted_ns
    assert takeover.decided_ns <= takeover.received_ns <= takeover.serving_ns
    assert takeover.proven_ns <= takeover.granted_ns


def test_a_fault_that_takes_the_server(mpsafed: Mpsafed, start: Start) -> None:
    """A neighbour's SM exception ends the server; the standby reads at once, and writes when the server has ended."""
    with Tenant(mpsafed.host, "batch", mpsafed.socket) as neighbour:
        primary, standby = start(), start(outside=True)
        serves(primary)
        standby.stands_by()
        neighbour.say("trap")
        standby.result()
        assert standby.do("(word.phase, word.epoch)") == "('promoted', 2)"
        assert standby.do("Durable.open(vault, 'kv').data.read(5)") == "b'token'"
        assert standby.do("next(words).phase") == "'granted'"
        standby.do("kv = Durable.open(vault, 'kv', write=True); kv.data.write(b'next!'); kv.commit(b'2')")
        event = taken_over(mpsafed, standby)
    assert {(action.kind, action.state) for action in event.actions} == {
        ("restart_server", "done"),
        ("takeover", "done"),
    }
    (takeover,) = event.takeovers
    assert (takeover.tenant, takeover.victim, takeover.standby) == ("chat", primary.identity, standby.identity)
    in_order(event, takeover)
    assert takeover.proven_ns
    assert primary.process.wait(60) in (-9, -15)
    assert standby.do("[(r.epoch, r.state) for r in vault.regions()]") == "[(2, 'open')]"


def test_a_fault_that_was_absorbed(mpsafed: Mpsafed, start: Start) -> None:
    """The tenant's own fault costs it its process, which is fenced, and nobody else anything."""
    with Tenant(mpsafed.host, "batch", mpsafed.socket) as neighbour:
        primary, standby = start(), start(outside=True)
        serves(primary)
        standby.stands_by()
        primary.begin("kernel('write_address').launch(cuda.U64(0x5000_0000_0000), cuda.U32(1)); time.sleep(60)")
        standby.result()
        assert standby.do("next(words).phase") == "'granted'"
        event = taken_over(mpsafed, standby)
        assert [(action.kind, action.state) for action in event.actions] == [("takeover", "done"), ("fence", "killed")]
        in_order(event, event.takeovers[0])
        assert neighbour.do("work") == "ok"


def test_a_process_that_just_ends_proves_nothing(mpsafed: Mpsafed, start: Start) -> None:
    primary, standby = start(), start(outside=True)
    serves(primary)
    standby.stands_by()
    primary.kill()
    standby.result()
    assert standby.do("next(words).phase") == "'refused'"
    assert "NotGranted" in standby.fails("Durable.open(vault, 'kv', write=True)")
    assert standby.do("old = Durable.open(vault, 'kv'); assert old.committed().payload == b'1'") == "None"
    standby.do("kv = Durable.create(vault, 'kv', 4096); kv.data.copy_from(cuda.Span(context, old.data.address, 4096))")
    standby.do("kv.commit(b'2')")
    event = taken_over(mpsafed, standby)
    assert (event.kind, event.blame.client) == ("exit", primary.identity)
    (action,) = event.actions
    assert (action.kind, action.state) == ("takeover", "done")
    assert "no durable region was granted: it ended by itself" in action.detail
    assert standby.do("[(r.epoch, r.state) for r in vault.regions()]") == "[(1, 'suspect'), (2, 'open')]"


def test_by_hand(mpsafed: Mpsafed, start: Start) -> None:
    primary, standby = start(), start(outside=True)
    serves(primary)
    standby.stands_by()
    number = mpsafed.client.promote("chat")
    standby.result()
    assert standby.do("next(words).phase") == "'granted'"
    event = taken_over(mpsafed, standby)
    assert event.id == number
    assert [(action.kind, action.state) for action in event.actions] == [("takeover", "done"), ("fence", "killed")]
    assert primary.process.wait(60) == -9


def test_the_second_standby_takes_over_from_the_first(mpsafed: Mpsafed, start: Start) -> None:
    """What was promoted runs outside MPS: its end proves that its work has stopped."""
    primary, first, second = start(), start(outside=True), start(outside=True)
    serves(primary)
    first.stands_by()
    second.stands_by()
    mpsafed.client.promote("chat")
    first.result()
    assert first.do("next(words).phase") == "'granted'"
    first.do("kv = Durable.open(vault, 'kv', write=True); kv.commit(b'2')")
    taken_over(mpsafed, first)
    first.kill()
    second.result()
    assert second.do("(word.epoch, next(words).phase)") == "(3, 'granted')"
    second.do("kv = Durable.open(vault, 'kv', write=True); assert kv.committed().payload == b'2'")
    event = taken_over(mpsafed, second)
    in_order(event, event.takeovers[0])


def test_a_standby_that_says_nothing_is_passed_over(mpsafed: Mpsafed, start: Start) -> None:
    primary, deaf, standby = start(), start(outside=True), start(outside=True)
    serves(primary)
    deaf.do("words = client.stand_by('chat'); next(words)")
    standby.stands_by()
    mpsafed.client.promote("chat")
    standby.result()
    assert standby.do("word.epoch") == "3"
    assert deaf.process.wait(60) == -9, "it might wake up and serve beside the other"
    assert standby.do("next(words).phase") == "'granted'"
    taken_over(mpsafed, standby)


def test_a_standby_in_the_server_that_it_protects_against(start: Start) -> None:
    error = start().fails("next(client.stand_by('chat'))")
    assert error.startswith("BadRequest: parameter tenant: expected a process outside MPS server")


def test_nobody_waits(mpsafed: Mpsafed, start: Start) -> None:
    serves(start())
    with pytest.raises(NoStandby, match="tenant chat has no standby"):
        mpsafed.client.promote("chat")
    with pytest.raises(UnknownTenant):
        mpsafed.client.promote("nobody")


def test_a_fault_during_a_takeover(mpsafed: Mpsafed, start: Start) -> None:
    """The promoted process is killed before the proof: the next standby goes on, and is granted when that comes."""
    primary, first, second = start(), start(outside=True), start(outside=True)
    serves(primary)
    first.stands_by()
    second.stands_by()
    mpsafed.client.promote("chat")
    first.result()
    first.kill()
    second.result()
    assert second.do("(word.epoch, next(words).phase)") == "(3, 'granted')"
    second.do("kv = Durable.open(vault, 'kv', write=True); assert kv.committed().payload == b'1'")
    taken_over(mpsafed, second)
    mpsafed.until(lambda event: event.kind == "exit" and event.phase == "closed" and event.id == 1)


def test_a_fence_without_a_standby_leaves_the_state_to_whoever_comes_next(mpsafed: Mpsafed, start: Start) -> None:
    primary = start()
    serves(primary)
    number = mpsafed.client.fence(primary.identity.pid)
    mpsafed.until(lambda event: event.id == number and event.phase == "closed")
    heir = start(outside=True)
    assert heir.do("vault.claim()") == "2"
    heir.do("kv = Durable.open(vault, 'kv', write=True); assert kv.committed().payload == b'1'")
