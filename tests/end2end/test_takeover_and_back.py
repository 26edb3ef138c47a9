# SPDX-License-Identifier: Apache-2.0
"""This test will have a tenant return into MPS after a takeover, and a standby started where none waits."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon_process import Mpsafed
from mpsafe.soft.host import SoftwareHost
from requires import requires
from tenant_process import Tenant
from vault_process import OUTSIDE, VaultProcess

pytestmark = requires("soft")

RETURNS = '[[tenant]]\nname = "chat"\nafter_takeover = "return"\n'
KEEPS = '[[tenant]]\nname = "chat"\nstandby = "systemd"\n'
SYSTEMCTL = '#!/bin/sh\necho "$*" >>{told}\nexit {status}\n'
QUIET = "from mpsafe.model import Figures; client.report(Figures(queue={0}, in_flight={0}))"


AGAIN = """
word = next(one for one in words if one.phase == 'promoted')
client.progress(word.event, received_ns=time.time_ns())
"""


def test_a_tenant_returns_into_mps_when_it_is_quiet(mpsafed: Mpsafed) -> None:
    """Taken over twice: out of the server that was lost, and back into the one that came after it."""
    mpsafed.override(RETURNS)
    mpsafed.kill()
    mpsafed.start()
    host, socket = mpsafed.host, mpsafed.socket
    with (
        VaultProcess(host, "chat", socket) as primary,
        VaultProcess(host, "chat", socket, environment=OUTSIDE) as outside,
    ):
        primary.do("vault.claim(); kv = Durable.create(vault, 'kv', 4096); kv.data.write(b'first'); kv.commit(b'1')")
        outside.stands_by()
        with Tenant(host, "batch", socket) as neighbour:
            neighbour.say("trap")
            outside.result()
        assert outside.do("next(words).phase") == "'granted'"
        outside.do("client.progress(word.event, serving_ns=time.time_ns())")
        outside.do("kv = Durable.open(vault, 'kv', write=True); kv.data.write(b'again'); kv.commit(b'2')")
        lost = mpsafed.fault_closed()
        outside.do(QUIET.format(1))
        with VaultProcess(host, "chat", socket) as back:
            assert back.fails("vault.claim()").startswith("EpochHeld")
            back.stands_by()
            outside.do(QUIET.format(0))
            assert outside.process.wait(60) == -15
            back.result()
            assert back.do("(word.phase, word.epoch)") == "('promoted', 3)"
            assert back.do("next(words).phase") == "'granted'", "the end of a process outside MPS is its proof"
            back.do("client.progress(word.event, serving_ns=time.time_ns())")
            assert back.do("Durable.open(vault, 'kv', write=True).data.read(5)") == "b'again'"
            event = mpsafed.until(
                lambda event: event.seq > lost.seq and bool(event.takeovers) and event.phase == "closed"
            )
            assert (event.kind, event.takeovers[0].victim) == ("exit", outside.identity)
            assert back.identity in [client.identity for client in mpsafed.client.clients()]


def test_a_standby_that_comes_too_late_to_a_takeover_is_promoted_when_it_comes(mpsafed: Mpsafed) -> None:
    """The process that serves ends while the daemon is away, and the standby is not back when the next one looks."""
    host, socket = mpsafed.host, mpsafed.socket
    with (
        VaultProcess(host, "chat", socket) as primary,
        VaultProcess(host, "chat", socket, environment=OUTSIDE) as standby,
    ):
        primary.do("vault.claim(); kv = Durable.create(vault, 'kv', 4096); kv.data.write(b'first'); kv.commit(b'1')")
        standby.do("words = client.stand_by('chat'); next(words)")
        standby.begin(AGAIN)
        mpsafed.kill()
        standby.process.send_signal(signal.SIGSTOP)
        primary.kill()
        mpsafed.start()
        failed = mpsafed.until(lambda event: bool(event.takeovers) and event.phase == "closed")
        assert [action.state for action in failed.actions] == ["failed"]
        standby.process.send_signal(signal.SIGCONT)
        standby.result()
        assert standby.do("word.phase") == "'promoted'"
        assert standby.do("Durable.open(vault, 'kv').data.read(5)") == "b'first'"
        standby.do("client.progress(word.event, serving_ns=time.time_ns())")
        done = mpsafed.until(lambda event: event.id > failed.id and bool(event.takeovers) and event.phase == "closed")
        assert (done.takeovers[0].victim, done.takeovers[0].standby) == (primary.identity, standby.identity)
        with VaultProcess(host, "chat", socket, environment=OUTSIDE) as next_one:
            next_one.stands_by()
            assert mpsafed.client.events()[-1].id == done.id, "nobody is lost, so nobody takes over"


def test_a_standby_in_mps_that_was_promoted_asks_the_next_daemon_what_became_of_it(mpsafed: Mpsafed) -> None:
    host, socket = mpsafed.host, mpsafed.socket
    with (
        VaultProcess(host, "chat", socket, environment=OUTSIDE) as primary,
        VaultProcess(host, "chat", socket) as standby,
    ):
        primary.do("vault.claim()")
        standby.do("words = client.stand_by('chat'); next(words)")
        standby.begin("next(words).phase")
        primary.kill()
        assert standby.result() == "'promoted'"
        mpsafed.kill()
        mpsafed.start()
        standby.do(AGAIN)
        assert standby.do("next(words).phase") in ("'granted'", "'refused'")


@pytest.mark.parametrize("status", [0, 1])
def test_a_standby_is_started_where_none_waits(
    place: Path, software_host: SoftwareHost, tenant: Callable[..., Tenant], status: int
) -> None:
    """Once for the process that serves, also where systemd refuses; the daemon goes on."""
    told, programs = place / "told", place / "programs"
    programs.mkdir()
    (programs / "systemctl").write_text(SYSTEMCTL.format(told=told, status=status))
    (programs / "systemctl").chmod(0o755)
    path = f"{programs}:{software_host.environment['PATH']}"
    with Mpsafed(software_host, more=KEEPS, environment={"PATH": path}) as daemon:
        daemon.start()
        with VaultProcess(software_host, "chat", daemon.socket) as primary:
            primary.do("vault.claim()")
            while not told.exists():
                assert daemon.client.describe().pid
            assert told.read_text() == "start --no-block mpsafe-standby@chat.service\n"
            other = tenant("batch", daemon.socket)
            other.say("trap")
            daemon.fault_closed()
        assert told.read_text().count("\n") == 1
