# SPDX-License-Identifier: Apache-2.0
"""This test will ask pipe directories who listens there: v2 and v3, dead and busy, and not ours to enter."""

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from as_user import as_user
from mpsafe.doctor.pipes import Pipes
from requires import requires


@contextmanager
def listening(path: Path, backlog: int = 8) -> Generator[socket.socket]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(os.fspath(path))
        sock.listen(backlog)
        yield sock


@pytest.mark.parametrize("control", ["control", "uid_1001/control"])
def test_who_listens(place: Path, control: str) -> None:
    with listening(place / control):
        assert Pipes().listener(place) == os.getpid()
    assert Pipes().listener(place) is None, "the socket is still there"
    assert (place / control).is_socket()


def test_each_directory_is_asked_once(place: Path) -> None:
    pipes = Pipes()
    (place / "link").symlink_to(place)
    with listening(place / "control") as sock:
        assert pipes.listener(place) == pipes.listener(place / "link") == os.getpid()
        sock.setblocking(False)
        sock.accept()[0].close()
        with pytest.raises(BlockingIOError):
            sock.accept()


def test_one_that_does_not_accept_listens_nevertheless(place: Path) -> None:
    with listening(place / "control", 0), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as first:
        first.connect(os.fspath(place / "control"))
        assert Pipes().listener(place) == 0


def test_a_path_may_be_longer_than_a_socket_address(place: Path) -> None:
    with listening(place / "control"):
        deep = place
        for _ in range(20):
            deep = deep / "directory"
            deep.mkdir()
        (deep / "mps").symlink_to(place)
        assert Pipes().listener(deep / "mps") == os.getpid()


def test_where_there_is_nothing(place: Path) -> None:
    assert Pipes().listener(place) is None
    with pytest.raises(FileNotFoundError):
        Pipes().listener(place / "nowhere")
    (place / "file").touch()
    with pytest.raises(NotADirectoryError):
        Pipes().listener(place / "file")


@requires("root")
def test_a_directory_that_is_not_ours_to_enter(place: Path) -> None:
    mine = place / "mine"
    with listening(mine / "control"):
        mine.chmod(0o700)
        with as_user(65534), pytest.raises(PermissionError):
            Pipes().listener(mine)
