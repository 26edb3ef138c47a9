# SPDX-License-Identifier: Apache-2.0
"""This test will put descriptors with the keeper process, die, come back, and send it what makes no sense."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from as_user import as_user
from contract.mps_rig import NOBODY, eventually
from mpsafe.errors import VaultClosed
from mpsafed.vault.holder import Keeper
from mpsafed.vault.keeper import FDS_MAX
from requires import requires


@pytest.fixture
def path(place: Path) -> Path:
    return place / "keeper"


@pytest.fixture
def keeper(path: Path) -> Iterator[Keeper]:
    """One that is let go of with all that it holds."""
    made = Keeper(path)
    yield made
    again = Keeper(path)
    held = again.handed_over()
    for fd in held.values():
        os.close(fd)
    again.let_go(held)
    again.close()
    made.close()


def memory(text: bytes) -> int:
    fd = os.memfd_create("memory")
    os.write(fd, text)
    return fd


def is_gone(path: Path) -> bool:
    return not any(os.fspath(path) in (p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))


def test_what_is_held_outlives_who_held_it(keeper: Keeper, path: Path) -> None:
    assert keeper.handed_over() == {}
    texts = {f"vault-{number}": b"%d" % number for number in range(2 * FDS_MAX + 3)}
    ours = {name: memory(text) for name, text in texts.items()}
    keeper.hold(ours)
    for fd in ours.values():
        os.close(fd)
    keeper.close()
    again = Keeper(path)
    back = again.handed_over()
    assert {name: os.pread(fd, 100, 0) for name, fd in back.items()} == texts
    for fd in back.values():
        os.close(fd)
    again.let_go([name for name in texts if name != "vault-7"])
    assert set(again.handed_over()) == {"vault-7"}
    again.close()


def test_it_ends_when_it_holds_nothing_and_nobody_is_connected(keeper: Keeper, path: Path) -> None:
    fd = memory(b"x")
    keeper.hold({"vault-1": fd})
    os.close(fd)
    assert not is_gone(path)
    keeper.let_go(["vault-1", "vault-2"])
    assert path.exists(), "somebody is connected"
    keeper.close()
    eventually(lambda: is_gone(path) and not path.exists(), "the keeper ends")


@pytest.mark.parametrize(
    "message", [b"", b"nonsense", b"hold", b"hold a", b"hold a a", b"\xff" * 100, b"drop " + b"x " * 200]
)
def test_what_makes_no_sense_costs_nobody_anything(keeper: Keeper, path: Path, message: bytes) -> None:
    fd = memory(b"kept")
    keeper.hold({"vault-1": fd})
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(os.fspath(path))
        peer.settimeout(60)
        socket.send_fds(peer, [message], [fd, fd] if message == b"hold a a" else [])
        assert peer.recv(100) in (b"", b"ok")
    os.close(fd)
    held = keeper.handed_over()
    assert set(held) == {"vault-1"}
    os.close(held["vault-1"])


@requires("root")
def test_another_user_gets_nothing(keeper: Keeper, path: Path) -> None:
    fd = memory(b"secret")
    keeper.hold({"vault-1": fd})
    os.close(fd)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o666)
    with as_user(NOBODY), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(os.fspath(path))
        peer.settimeout(60)
        try:
            peer.send(b"list")
            assert peer.recv(100) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass


def test_a_keeper_that_cannot_be_started(tmp_path: Path) -> None:
    lost = Keeper(tmp_path / "no" / "such" / "place")
    with pytest.raises(VaultClosed, match=r"the keeper on .* does not answer"):
        lost.hold({"vault-1": 0})
    assert lost.handed_over() == {}
    lost.let_go(["vault-1"])


def test_a_keeper_that_was_killed_is_told(keeper: Keeper, path: Path) -> None:
    """What it held is lost with it, which its daemon hears with the next word; then there is another."""
    fd = memory(b"x")
    keeper.hold({"vault-1": fd})
    for process in psutil.process_iter(["cmdline"]):
        if os.fspath(path) in (process.info["cmdline"] or []):
            process.kill()
    eventually(lambda: is_gone(path), "the keeper ends")
    with pytest.raises(VaultClosed):
        keeper.hold({"vault-2": fd})
    keeper.hold({"vault-2": fd})
    os.close(fd)
    held = keeper.handed_over()
    assert set(held) == {"vault-2"}
    os.close(held["vault-2"])
