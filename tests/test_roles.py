# SPDX-License-Identifier: Apache-2.0
"""This test will connect as other users, and look what the daemon lets them do and see."""

import grp
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from as_user import as_user
from daemon_process import Mpsafed
from mpsafe.client import Client
from mpsafe.errors import NotPermitted
from raw_peer import NOBODY, SOMEBODY, TENANTS, WATCH, connect, is_closed, replies, serving, unharmed
from requires import requires
from tenant_process import Tenant

pytestmark = requires("soft")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Mpsafed]:
    with serving() as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def goes_on(daemon: Mpsafed) -> Iterator[None]:
    with unharmed(daemon):
        yield


@requires("root")
def test_a_stranger_may_read_and_not_fence(daemon: Mpsafed) -> None:
    with Client(daemon.socket) as client:
        with as_user(NOBODY):
            assert client.describe().acting
        assert client.devices()
        assert {tenant.name for tenant in client.tenants()} >= {"chat", "private"}
        with pytest.raises(NotPermitted) as caught:
            client.fence(1)
        assert caught.value.fields() == {"method": "io.mpsafe.Events.Fence", "role": "admin", "uid": NOBODY}
        assert "wants the role admin" in str(caught.value)
        assert client.describe().acting, "a refusal ends the request and not the connection"


@requires("root")
def test_a_member_of_the_admin_group_may_fence(daemon: Mpsafed) -> None:
    with Tenant(daemon.host, "chat", daemon.socket) as chat, Client(daemon.socket) as client:
        with as_user(NOBODY, groups=(grp.getgrnam("daemon").gr_gid,)):
            client.describe()
        seen = client.describe().last_event
        number = client.fence(chat.pid)
        assert chat.wait() == -9
        event = daemon.until(lambda event: event.id == number and event.phase == "closed", since=seen)
        assert event.blame.client == chat.identity
        assert [(action.kind, action.state) for action in event.actions] == [("fence", "killed")]
        assert f"uid {NOBODY}" in event.blame.evidence[0].text


@requires("root")
@pytest.mark.parametrize(("uid", "permitted"), [(SOMEBODY, True), (0, True), (NOBODY, False)])
def test_a_tenant_belongs_to_its_user(daemon: Mpsafed, uid: int, permitted: bool) -> None:
    with Client(daemon.socket) as client:
        with as_user(uid):
            client.tenants()
        if permitted:
            client.attach("private").close()
        else:
            with pytest.raises(NotPermitted, match=rf"wants the role tenant private \(uid {SOMEBODY}\)"):
                client.attach("private")


@requires("root")
def test_other_users_clients_and_events_are_not_shown(daemon: Mpsafed) -> None:
    with Client(daemon.socket) as stranger, Tenant(daemon.host, "chat", daemon.socket) as chat:
        with as_user(NOBODY):
            seen = stranger.describe().last_event
        assert chat.identity in [client.identity for client in daemon.client.clients()]
        assert stranger.clients() == []
        chat.process.kill()
        event = daemon.until(lambda event: event.kind == "exit", since=seen)
        assert event.uid == 0
        assert [evidence.pid for evidence in event.blame.evidence] == [chat.pid]
        shown = [event for event in stranger.events(since=seen) if event.kind == "exit"]
        assert [event.summary for event in shown] == ["exit of another user's client"]
        assert all(event.blame.client is None and event.blame.evidence == [] for event in shown)
        assert all(event.blame.tenant is None and event.uid is None for event in shown)
        assert str(chat.pid) not in repr(shown)
        explained = stranger.explain(event.id)
        assert explained.event == shown[-1]
        assert explained.because == ["Nobody is blamed: it is no fault."]


@requires("root")
def test_other_users_events_are_not_streamed(daemon: Mpsafed) -> None:
    with Tenant(daemon.host, "chat", daemon.socket) as chat, ExitStack() as stack:
        with as_user(NOBODY):
            sock = stack.enter_context(connect(daemon))
        sock.sendall(WATCH)
        assert replies(sock, 1)[0]["parameters"]["watched"]["event"] is None
        chat.process.kill()
        (reply,) = replies(sock, 1)
        assert reply["parameters"]["watched"]["event"]["summary"] == "exit of another user's client"
        assert str(chat.pid) not in json.dumps(reply)


@requires("root")
def test_evidence_that_names_no_user_is_for_admins(daemon: Mpsafed) -> None:
    """A line about a process that is nobody's client tells its pid and its name."""
    seen = daemon.client.describe().last_event
    line = "NVRM: Xid (PCI:0000:01:00): 13, pid=31337, name=secret, Graphics SM Warp Exception on (GPC 0): x"
    with daemon.host.kernel_log.open("a") as log:
        log.write(f"3,99999,1,-;{line}\n")
    event = daemon.until(lambda event: event.fault is not None, since=seen)
    assert line in [evidence.text for evidence in event.blame.evidence]
    with Client(daemon.socket) as stranger:
        with as_user(NOBODY):
            shown = stranger.events(since=seen)
            explained = [stranger.explain(event.id) for event in shown]
        assert shown
        for told in (repr(shown), repr(explained)):
            assert "secret" not in told
            assert "31337" not in told


@requires("root")
def test_each_user_has_a_number_of_connections(daemon: Mpsafed) -> None:
    with ExitStack() as stack:
        opened: list[socket.socket] = []
        with as_user(NOBODY):
            for _ in range(128):
                opened.append(stack.enter_context(connect(daemon)))
        for sock in opened:
            sock.sendall(TENANTS)
            assert len(replies(sock, 1)) == 1
        with as_user(NOBODY):
            assert is_closed(stack.enter_context(connect(daemon)))
        with as_user(SOMEBODY):
            another = stack.enter_context(connect(daemon))
        another.sendall(TENANTS)
        assert len(replies(another, 1)) == 1
        opened[0].close()
        daemon.client.tenants()
        with as_user(NOBODY):
            again = stack.enter_context(connect(daemon))
        again.sendall(TENANTS)
        assert len(replies(again, 1)) == 1
