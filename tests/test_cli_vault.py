# SPDX-License-Identifier: Apache-2.0
"""This test will look at the vault and the standbys from the command line, and drill takeovers there."""

import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from command import Terminal, mpsafe, printed
from daemon_process import Mpsafed
from requires import requires
from tenant_process import Tenant
from vault_process import OUTSIDE, VaultProcess

pytestmark = requires("soft")

Start = Callable[..., VaultProcess]

SERVES = """
for word in words:
    client.progress(word.event, received_ns=time.time_ns())
    client.progress(word.event, serving_ns=time.time_ns())
"""


@pytest.fixture
def start(mpsafed: Mpsafed) -> Iterator[Start]:
    with ExitStack() as stack:

        def started(*, outside: bool = False) -> VaultProcess:
            process = VaultProcess(mpsafed.host, "chat", mpsafed.socket, environment=OUTSIDE if outside else None)
            return stack.enter_context(process)

        yield started


@pytest.fixture
def standby(start: Start) -> tuple[VaultProcess, VaultProcess]:
    """The process that serves chat, and one that waits and will say that it serves."""
    primary, waiting = start(), start(outside=True)
    primary.do("vault.claim(); kv = Durable.create(vault, 'kv', 4096); kv.commit(b'1')")
    waiting.do("words = client.stand_by('chat', resident_bytes=3 << 20); next(words)")
    waiting.begin(SERVES)
    return primary, waiting


def test_regions_are_shown_let_go_of_and_collected(mpsafed: Mpsafed, start: Start) -> None:
    socket = ("--socket", mpsafed.socket)
    assert mpsafe("vault", "ls", *socket) == "0 regions, 0 B, held by keeper\n"
    one = start()
    for _ in range(2):
        one.do("weights = vault.create('weights', 'immutable', 5 << 20); weights.commit(); weights.close()")
    one.do("vault.claim(); kv = Durable.create(vault, 'kv', 1)")
    head, *lines, total = [line.split() for line in mpsafe("vault", "ls", *socket).splitlines()]
    assert head[:5] == ["region", "tenant", "name", "kind", "state"]
    assert [line[:7] for line in lines[1:]] == [
        ["1", "chat", "weights", "immutable", "committed", "6.0", "MiB"],
        ["2", "chat", "weights", "immutable", "committed", "6.0", "MiB"],
        ["3", "chat", "kv", "durable", "open", "2.0", "MiB"],
    ]
    assert " ".join(total) == "3 regions, 14.0 MiB, held by keeper"
    told = mpsafe("vault", "show", 1, *socket)
    assert "chat/weights (1), immutable, committed" in told
    assert "sum64:" in told
    assert [region["id"] for region in printed("vault", "ls", *socket)["vault"]["regions"]] == [1, 2, 3]
    collected = "1  chat/weights, 6.0 MiB: region 2 of the same name is newer\n1 regions {}, 6.0 MiB\n"
    assert mpsafe("vault", "gc", "--dry-run", *socket) == collected.format("would be let go of")
    assert mpsafe("vault", "gc", *socket) == collected.format("let go of")
    mpsafe("vault", "rm", 2, *socket)
    assert "the vault has no region 2" in mpsafe("vault", "rm", 2, *socket, status=1)
    with Terminal("vault", "drain", *socket) as terminal:
        terminal.until(r"Let go of all 1 regions\?")
        terminal.type("y\r")
        assert terminal.ended() == 0
    assert "nothing more is taken in: it was drained" in mpsafe("vault", "ls", *socket)


def test_standbys_are_shown(mpsafed: Mpsafed, standby: tuple[VaultProcess, VaultProcess]) -> None:
    _, waiting = standby
    told = mpsafe("standby", "ls", "--socket", mpsafed.socket).split()
    assert told[told.index("chat") :] == ["chat", str(waiting.process.pid), "0", "warm", "3", "MiB"]
    (one,) = printed("standby", "ls", "--socket", mpsafed.socket)["standbys"]
    assert (one["phase"], one["resident_bytes"]) == ("warm", 3 << 20)


def test_a_planned_takeover(mpsafed: Mpsafed, standby: tuple[VaultProcess, VaultProcess], tmp_path: Path) -> None:
    primary, waiting = standby
    told = mpsafe("drill", "chat", "--svg", tmp_path / "drill.svg", "--socket", mpsafed.socket)
    assert f"chat ({primary.process.pid}) is fenced by hand" in told
    times = [float(line.split()[0]) for line in told.splitlines() if " ms  " in line]
    assert len(times) == 7
    assert times == sorted(times)
    picture = xml.etree.ElementTree.fromstring((tmp_path / "drill.svg").read_text())
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert f"chat: process {primary.process.pid} is lost, {waiting.process.pid} takes over in epoch 2" in texts
    assert "first correct answer" in texts


def test_a_real_fault(
    mpsafed: Mpsafed, standby: tuple[VaultProcess, VaultProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, _ = standby
    told = mpsafe("drill", "chat", "--fault", "sm", "--socket", mpsafed.socket, status=1)
    assert "the process that was to fault did not come so far" in told, "this process knows of no GPU"
    for name, value in mpsafed.host.environment.items():
        monkeypatch.setenv(name, value)
    told = mpsafe("drill", "chat", "--fault", "sm", "--socket", mpsafed.socket)
    assert "the old process is proven stopped" in told
    assert primary.process.wait(60) in (-9, -15)


def test_nobody_pays_for_a_drill_who_has_no_standby(
    mpsafed: Mpsafed, standby: tuple[VaultProcess, VaultProcess]
) -> None:
    with Tenant(mpsafed.host, "batch", mpsafed.socket) as neighbour:
        told = mpsafe("drill", "chat", "--fault", "sm", "--socket", mpsafed.socket, status=1)
        assert f"nobody would take over for batch ({neighbour.pid})" in told
        assert "no client of an MPS server serves tenant embed" in mpsafe(
            "drill", "embed", "--socket", mpsafed.socket, status=1
        )
        mpsafe("drill", "nobody", "--socket", mpsafed.socket, status=1)
        assert neighbour.do("work") == "ok"
