# SPDX-License-Identifier: Apache-2.0
"""This test will watch a host in `mpsafe top`: faults, a daemon that dies and comes back, and the way out."""

from collections.abc import Callable

import pytest

from command import Terminal, mpsafe, printed
from daemon_process import Mpsafed
from requires import requires
from tenant_process import Tenant

pytestmark = requires("soft")


def test_once_is_one_picture_without_colours(mpsafed: Mpsafed, tenant: Callable[..., Tenant]) -> None:
    chat = tenant("chat", mpsafed.socket)
    chat.do("wild_write")
    mpsafed.fault_closed()
    for options in (["--once"], []):
        shown = mpsafe("top", *options, "--socket", mpsafed.socket)
        assert f"mpsafed {mpsafed.client.describe().version}, pid {mpsafed.pid}" in shown
        assert f"memory fault of chat ({chat.pid}) absorbed" in shown
        assert "\x1b" not in shown
        assert "q quits" not in shown
    found = printed("top", "--socket", mpsafed.socket)
    assert found["shape"] == "mpsafe.top/1"
    assert [one["name"] for one in found["tenants"]] == ["chat", "embed", "batch"]
    assert [one["pid"] for one in found["servers"]] == [server.pid for server in mpsafed.client.describe().servers]
    assert any(event["kind"] == "fault" for event in found["events"])


def test_it_follows_the_host(mpsafed: Mpsafed, tenant: Callable[..., Tenant]) -> None:
    with Terminal("top", "--socket", mpsafed.socket) as terminal:
        terminal.until(r"chat +any +absent +0")
        chat = tenant("chat", mpsafed.socket)
        terminal.until(r"chat +any +healthy +1 +1")
        (server,) = mpsafed.client.describe().servers
        terminal.until(rf"{server.pid} +\d+ .*active +1")
        chat.do("wild_write")
        terminal.until(rf"memory fault of chat \({chat.pid}\) absorbed")
        terminal.until(r"chat +any +absent +1")
        terminal.type("x")
        terminal.type("q")
        assert terminal.ended() == 0


def test_a_daemon_that_dies_is_told_and_the_next_one_found(mpsafed: Mpsafed) -> None:
    with Terminal("top", "--socket", mpsafed.socket) as terminal:
        terminal.until(f"pid {mpsafed.pid}")
        mpsafed.kill()
        terminal.until("mpsafed does not answer on .*; asking again")
        mpsafed.start()
        terminal.until(f"pid {mpsafed.pid}, driver software, acting")
        terminal.interrupt()
        assert terminal.ended() == 0


@pytest.mark.parametrize("columns", [80, 140])
def test_no_line_is_wider_than_the_terminal(mpsafed: Mpsafed, columns: int) -> None:
    line = "NVRM: Xid (PCI:0000:01:00): 13, pid=31337, name=a, Graphics SM Warp Exception on (GPC 0): " + "x" * 300
    with mpsafed.host.kernel_log.open("a") as log:
        log.write(f"3,99999,1,-;{line}\n")
    mpsafed.until(lambda event: event.fault is not None)
    with Terminal("top", "--socket", mpsafed.socket, columns=columns) as terminal:
        shown = terminal.until(r"(?s)Last events.*Xid.*q quits|Last events(?s:.*)q quits")
        assert max(len(one.rstrip("\r")) for one in shown.split("\n")) <= columns
        terminal.type("q")
        assert terminal.ended() == 0
