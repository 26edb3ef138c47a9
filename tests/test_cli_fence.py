# SPDX-License-Identifier: Apache-2.0
"""This test will fence clients from the command line: in a pipe, at a terminal, and who is none."""

from collections.abc import Callable

import pytest

from command import Terminal, mpsafe
from daemon_process import Mpsafed
from requires import requires
from tenant_process import Tenant

pytestmark = requires("soft")

STEPS = ["requested", "frozen", "cut", "terminating", "proven", "killed"]


def test_each_step_is_told_until_the_client_is_gone(mpsafed: Mpsafed, tenant: Callable[..., Tenant]) -> None:
    chat, embed = tenant("chat", mpsafed.socket), tenant("embed", mpsafed.socket)
    title, *steps = mpsafe("fence", chat.pid, "--socket", mpsafed.socket).splitlines()
    assert f"chat ({chat.pid}) is fenced by hand" in title
    assert [line.split()[2] for line in steps] == STEPS
    assert all(float(line.split()[0]) >= 0 for line in steps)
    assert chat.wait() == -9
    assert embed.do("work") == "ok"


def test_without_waiting_the_event_is_named(mpsafed: Mpsafed, tenant: Callable[..., Tenant]) -> None:
    chat = tenant("chat", mpsafed.socket)
    word, number = mpsafe("fence", chat.pid, "--no-wait", "--socket", mpsafed.socket).split()
    assert word == "event"
    event = mpsafed.until(lambda event: event.id == int(number) and event.phase == "closed")
    assert event.blame.client == chat.identity


@pytest.mark.parametrize(("answer", "status"), [("y\r", 0), ("n\r", 1)])
def test_at_a_terminal_it_asks_first(mpsafed: Mpsafed, tenant: Callable[..., Tenant], answer: str, status: int) -> None:
    chat = tenant("chat", mpsafed.socket)
    with Terminal("fence", chat.pid, "--socket", mpsafed.socket) as terminal:
        terminal.until(rf"Stop chat \({chat.pid}\) of uid \d+, and lose what it computes\?")
        assert chat.alive()
        terminal.type(answer)
        if status == 0:
            terminal.until("killed")
        assert terminal.ended() == status
    assert chat.alive() == bool(status)


def test_at_a_terminal_yes_is_an_answer(mpsafed: Mpsafed, tenant: Callable[..., Tenant]) -> None:
    chat = tenant("chat", mpsafed.socket)
    with Terminal("fence", "--yes", chat.pid, "--socket", mpsafed.socket) as terminal:
        terminal.until("killed")
        assert terminal.ended() == 0


def test_who_is_no_client_is_refused(mpsafed: Mpsafed) -> None:
    told = mpsafe("fence", 1, "--socket", mpsafed.socket, status=1)
    assert told == (
        "mpsafe: process 1 is not a client of an MPS server that mpsafed knows\n"
        "  see who is connected with: mpsafe clients\n"
    )
    assert "is not in the range" in mpsafe("fence", 0, "--socket", mpsafed.socket, status=2)
