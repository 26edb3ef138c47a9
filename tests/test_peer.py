# SPDX-License-Identifier: Apache-2.0
"""This test will show who is at the other end of a socket, and what that gives the right to do."""

import grp
import inspect
import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from as_user import as_user
from mpsafe.errors import NotPermitted
from mpsafe.protocol.events import EventsInterface
from mpsafe.protocol.host import HostInterface
from mpsafe.protocol.leases import LeasesInterface
from mpsafe.protocol.mps import MpsInterface
from mpsafe.protocol.standby import StandbyInterface
from mpsafe.protocol.store import StoreInterface
from mpsafe.protocol.vault import VaultInterface
from mpsafed.peer import METHOD_ROLES, Peer, peer_of
from mpsafed.processes import identify
from requires import requires

NOBODY = 65534
NO_GROUP = "no-such-group"


@contextmanager
def connected(place: Path, user: tuple[int, tuple[int, ...]] | None = None) -> Generator[socket.socket]:
    """The accepted end of a connection that this process made, as that user if one is given."""
    path = os.fspath(place / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as ours:
        listener.bind(path)
        listener.listen()
        os.chmod(path, 0o666)
        if user is None:
            ours.connect(path)
        else:
            with as_user(user[0], groups=user[1]):
                ours.connect(path)
        accepted, _ = listener.accept()
        with accepted:
            yield accepted


def test_the_kernel_says_who_it_is(place: Path) -> None:
    with connected(place) as sock:
        peer = peer_of(sock, NO_GROUP)
    assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
    assert peer.identity == identify(os.getpid())
    assert peer.admin == (os.geteuid() == 0)


def test_a_member_of_the_admin_group_is_an_admin(place: Path) -> None:
    with connected(place) as sock:
        assert peer_of(sock, grp.getgrgid(os.getegid()).gr_name).admin


@requires("root")
def test_other_users_are_none(place: Path) -> None:
    with connected(place, (NOBODY, ())) as sock:
        peer = peer_of(sock, NO_GROUP)
    assert peer.uid == NOBODY
    assert not peer.admin


@requires("root")
@pytest.mark.parametrize(("groups", "admin"), [((1, 2, 3), True), ((2, 3), False), (tuple(range(2, 250)), False)])
def test_groups_are_those_that_the_peer_connected_with(place: Path, groups: tuple[int, ...], admin: bool) -> None:
    with connected(place, (NOBODY, groups)) as sock:
        assert peer_of(sock, grp.getgrgid(1).gr_name).admin is admin


@requires("root")
def test_a_peer_in_more_groups_than_we_read_counts_by_its_first(place: Path) -> None:
    with connected(place, (NOBODY, tuple(range(1, 2000)))) as sock:
        assert not peer_of(sock, grp.getgrgid(1).gr_name).admin


def test_a_peer_that_has_ended_has_no_identity(place: Path) -> None:
    path = os.fspath(place / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        code = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
        subprocess.run([sys.executable, "-c", code], check=True)
        accepted, _ = listener.accept()
        with accepted:
            assert peer_of(accepted, NO_GROUP).identity is None


def test_each_method_has_its_role() -> None:
    declared = {
        f"{interface.name}.{name}"
        for interface in (
            HostInterface,
            EventsInterface,
            LeasesInterface,
            MpsInterface,
            StandbyInterface,
            StoreInterface,
            VaultInterface,
        )
        for name, _ in inspect.getmembers(interface, inspect.isfunction)
        if name[0].isupper()
    }
    assert declared == {name for name in METHOD_ROLES if name.startswith("io.mpsafe.")}


@pytest.mark.parametrize("method", [*METHOD_ROLES, "io.mpsafe.Events.Unknown", ""])
def test_roles(method: str) -> None:
    Peer(1, 0, True, None).demand(method)
    user = Peer(1, 1000, False, None)
    if METHOD_ROLES.get(method) == "anyone":
        user.demand(method)
    else:
        with pytest.raises(NotPermitted) as caught:
            user.demand(method)
        assert (caught.value.method, caught.value.role, caught.value.uid) == (method, "admin", 1000)


def test_what_belongs_to_another_is_not_shown() -> None:
    user, admin = Peer(1, 1000, False, None), Peer(1, 1001, True, None)
    assert [user.may_see(uid) for uid in (1000, 1001, None)] == [True, False, True]
    assert all(admin.may_see(uid) for uid in (1000, 1001, None))
