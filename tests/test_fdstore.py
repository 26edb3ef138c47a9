# SPDX-License-Identifier: Apache-2.0
"""This test will be handed descriptors as systemd does it, and hear what the fd store is told."""

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Final

import pytest

from mpsafed.fdstore import FdStore

PATIENCE_S: Final = 60

# systemd counts from 3, and only the process with the pid in LISTEN_PID is meant: sd_listen_fds(3).
HANDED_OVER = 'exec 3<&"$0" 4<&"$1" 5<&"$2"; export LISTEN_PID=$$ LISTEN_FDS=3; shift 2; exec "$@"'
DAEMON = """
import json, os
from mpsafed.fdstore import FdStore
store = FdStore({"varlink", "driver"})
names = ["varlink", "driver", "driver", "older"]
taken = [store.taken(name) for name in names]
opened = [fd for fd in (3, 4, 5) if os.path.exists(f"/proc/self/fd/{fd}")]
print(json.dumps([taken, [os.get_inheritable(fd) for fd in taken if fd], opened]))
"""


class Systemd:
    """The other end of sd_notify(3)."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(os.fspath(path))
        self._socket.settimeout(PATIENCE_S)

    def hears(self) -> tuple[str, list[int]]:
        """The next message, with its descriptors."""
        text, fds, _, _ = socket.recv_fds(self._socket, 4096, 8)
        return text.decode(), fds

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    heard = Systemd(place / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", os.fspath(place / "notify"))
    yield heard
    heard.close()


def start(names: str) -> tuple[list[int | None], list[bool], list[int]]:
    """A daemon that is handed three descriptors: what it takes by name, what is inherited, what of it is open."""
    with open(os.devnull, "rb") as null:
        fds = [fcntl.fcntl(null, fcntl.F_DUPFD, 10) for _ in range(3)]
    run = subprocess.run(
        ["bash", "-c", HANDED_OVER, *map(str, fds), sys.executable, "-c", DAEMON],
        pass_fds=fds,
        env={**os.environ, "LISTEN_FDNAMES": names},
        capture_output=True,
        text=True,
        check=True,
    )
    for fd in fds:
        os.close(fd)
    taken, inherited, opened = json.loads(run.stdout)
    return taken, inherited, opened


def test_what_is_handed_over_is_told_apart_by_name() -> None:
    taken, inherited, _ = start("driver:varlink:unknown")
    assert taken == [4, 3, None, None], "each is taken once"
    assert inherited == [False, False], "no child gets it"


def test_what_nobody_wants_is_closed_and_let_go_of(systemd: Systemd) -> None:
    _, _, opened = start("varlink:older:driver")
    assert opened == [3, 5]
    assert systemd.hears() == ("FDSTOREREMOVE=1\nFDNAME=older", [])


def test_of_two_with_one_name_the_first_counts() -> None:
    taken, _, opened = start("varlink:driver:driver")
    assert taken[:3] == [3, 4, None]
    assert opened == [3, 4]


def test_without_systemd_nothing_is_handed_over_or_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTEN_FDS", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    store = FdStore({"driver"})
    assert store.taken("driver") is None
    with open(os.devnull, "rb") as file:
        assert store.kept("driver", take=lambda _: pytest.fail("there is none"), make=lambda: file) is file


def test_what_is_stored_arrives_under_its_name(systemd: Systemd) -> None:
    store = FdStore(())
    reading, writing = os.pipe()
    store.store("region-7", writing)
    text, (copy,) = systemd.hears()
    assert text == "FDSTORE=1\nFDNAME=region-7\nFDPOLL=0"
    os.write(copy, b"the same pipe")
    assert os.read(reading, 100) == b"the same pipe"
    store.remove("region-7")
    assert systemd.hears() == ("FDSTOREREMOVE=1\nFDNAME=region-7", [])
    for fd in (reading, writing, copy):
        os.close(fd)


@pytest.mark.parametrize("dead", [False, True])
def test_what_rests_there_is_taken_once_if_it_lives(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch, dead: bool
) -> None:
    with open(os.devnull, "rb") as resting, open(os.devnull, "rb") as made:
        monkeypatch.setattr("systemd.daemon.listen_fds_with_names", lambda: {resting.fileno(): "driver"})
        store = FdStore({"driver"})

        def take(fd: int) -> BufferedReader:
            assert fd == resting.fileno()
            if dead:
                raise BrokenPipeError("nobody is there")
            return resting

        assert store.kept("driver", take=take, make=lambda: made) is (made if dead else resting)
        if not dead:
            assert store.kept("driver", take=lambda _: pytest.fail("twice"), make=lambda: made) is made
        assert systemd.hears() == ("FDSTOREREMOVE=1\nFDNAME=driver", [])
        text, (copy,) = systemd.hears()
        assert text == "FDSTORE=1\nFDNAME=driver\nFDPOLL=0"
        assert os.path.sameopenfile(copy, made.fileno())
        os.close(copy)


def test_a_systemd_that_does_not_hear_is_no_end(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", os.fspath(place / "nobody"))
    FdStore(()).remove("driver")
    assert "systemd does not hear 'FDSTOREREMOVE=1 FDNAME=driver'" in caplog.text
