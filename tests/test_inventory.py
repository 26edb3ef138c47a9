# SPDX-License-Identifier: Apache-2.0
"""This test will show that servers and clients are known as they are, whichever source tells first."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from control_program import ControlProgram
from mpsafe.model import Client, Identity, Server
from mpsafe.soft.host import SoftwareHost
from mpsafed.mps.control import Control
from mpsafed.mps.inventory import Inventory
from mpsafed.processes import identify
from requires import requires
from tenant_process import Tenant

SERVER = 4_000_001  # nobody has this pid


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


@pytest.fixture
def clients() -> Iterator[list[Identity]]:
    """Three processes that could be clients."""
    started = [
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(3)
    ]
    yield [found for process in started if (found := identify(process.pid)) is not None]
    for process in started:
        process.kill()
        process.communicate()


def answers(*pids: int, state: str = "ACTIVE") -> dict[str, str]:
    listed = " ".join(map(str, pids))
    return {
        "get_server_list": f"echo {SERVER}",
        "get_server_status*": f"echo {state}",
        "get_client_list*": f"printf '%s\\n' {listed}",
    }


def inventory(
    control: Control, came: Callable[[Client], None] = lambda _: None, tenants: dict[Identity, str] | None = None
) -> Inventory:
    return Inventory(control, tenant_of=(tenants or {}).get, came=came)


@asynccontextmanager
async def held(program: ControlProgram, directory: Path, pattern: str) -> AsyncGenerator[Coroutine[Any, Any, None]]:
    """Inside, the program has made up its answer to `pattern` and has not given it; afterwards it gives it."""
    asked, gate = directory / "asked", directory / "gate"
    os.mkfifo(gate)
    original = program.path.read_text()
    program.path.write_text(
        original.replace(
            "read -r command",
            f'read -r command; case $command in {pattern}) answer=$(echo "$command" | {program.path}.old); '
            f': >"{asked}"; read -r _ <"{gate}"; echo "$answer"; exit;; esac',
        )
    )
    old = Path(f"{program.path}.old")
    old.write_text(original)
    old.chmod(0o755)
    yield _exists(asked)
    with gate.open("w") as opened:
        opened.write("go\n")


async def _exists(path: Path) -> None:
    while not path.exists():
        await asyncio.sleep(0)


def test_lists_become_servers_and_clients(tmp_path: Path, clients: list[Identity]) -> None:
    came: list[Client] = []
    program = ControlProgram(tmp_path, answers(*(client.pid for client in clients[:2]), 4_000_002))

    async def check() -> None:
        found = inventory(program.control(), came.append, {clients[0]: "chat"})
        assert found.trouble
        await found.refresh()
        assert found.trouble == ""
        assert found.servers == {SERVER: Server(SERVER, 0, "active", 3)}
        assert list(found.clients) == clients[:2], "who has ended is no client"
        first = found.clients[clients[0]]
        name = psutil.Process(clients[0].pid).name()
        assert first == Client(clients[0], os.geteuid(), name, SERVER, "chat", "connected")
        assert [client.identity for client in came] == clients[:2]
        await found.refresh()
        assert len(came) == 2, "each is told once"

    run(check())


def test_a_client_that_left_its_server_is_none(tmp_path: Path, clients: list[Identity]) -> None:
    program = ControlProgram(tmp_path, answers(clients[0].pid, clients[1].pid))

    async def check() -> None:
        found = inventory(program.control())
        await found.refresh()
        program.answer(answers(clients[1].pid))
        await found.refresh()
        assert list(found.clients) == [clients[1]]

    run(check())


def test_a_client_that_is_being_fenced_stays_known(tmp_path: Path, clients: list[Identity]) -> None:
    program = ControlProgram(tmp_path, answers(clients[0].pid))

    async def check() -> None:
        found = inventory(program.control())
        await found.refresh()
        found.set_state(clients[0], "doomed")
        program.answer(answers())
        await found.refresh()
        assert found.clients[clients[0]].state == "doomed"

    run(check())


def test_a_client_that_ended_is_not_taken_for_one_that_left(tmp_path: Path) -> None:
    """Its end is told by itself, and says more: until then it stays known, also where nobody has waited for it."""
    process = subprocess.Popen(["sleep", "1000"])
    identity = identify(process.pid)
    assert identity is not None
    program = ControlProgram(tmp_path, answers(process.pid))

    async def check() -> None:
        found = inventory(program.control())
        await found.refresh()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        program.answer(answers())
        await found.refresh()
        assert list(found.clients) == [identity]
        process.wait()
        await found.refresh()
        assert list(found.clients) == [identity]
        found.gone(identity)
        assert found.clients == {}

    run(check())


def test_a_client_that_came_while_a_list_was_on_its_way_is_kept(tmp_path: Path, clients: list[Identity]) -> None:
    """The list is older than the line of the log that told of the client."""
    program = ControlProgram(tmp_path, answers(clients[0].pid))

    async def check() -> None:
        found = inventory(program.control())
        await found.refresh()
        async with held(program, tmp_path, "get_client_list*") as asked:
            refreshing = asyncio.ensure_future(found.refresh())
            await asked
            found.connected(SERVER, clients[1].pid)
        await refreshing
        assert list(found.clients) == clients[:2]

    run(check())


def test_a_state_that_the_log_told_meanwhile_is_asked_for_again(tmp_path: Path, clients: list[Identity]) -> None:
    """An answer that was made before the server's fault does not hide it for ever."""
    program = ControlProgram(tmp_path, answers(clients[0].pid))

    async def check() -> None:
        found = inventory(program.control())
        following = asyncio.ensure_future(found.follow())
        async with held(program, tmp_path, "get_server_status*") as asked:
            refreshing = asyncio.ensure_future(found.refresh())
            await asked
            program.answer(answers(clients[0].pid, state="FAULT"))
            found.changed(SERVER, "fault", None)
            await asyncio.sleep(0)
        await refreshing
        while found.servers[SERVER].state != "fault":
            await asyncio.sleep(0.001)
        following.cancel()
        await asyncio.wait([following])

    run(check())


def test_who_asks_gets_an_answer_that_is_not_older_than_the_question(tmp_path: Path, clients: list[Identity]) -> None:
    program = ControlProgram(tmp_path, answers(clients[0].pid))

    async def check() -> None:
        found = inventory(program.control())
        async with held(program, tmp_path, "get_client_list*") as asked:
            first = asyncio.ensure_future(found.refresh())
            await asked
            program.answer(answers(*(client.pid for client in clients)))
            second = asyncio.ensure_future(found.refresh())
            await asyncio.sleep(0)
        await asyncio.gather(first, second)
        assert list(found.clients) == clients

    run(check())


def test_many_who_ask_at_once_share_the_answers(tmp_path: Path, clients: list[Identity]) -> None:
    """Anybody may ask: it must not cost a program each."""
    program = ControlProgram(tmp_path, answers(clients[0].pid))

    async def check() -> None:
        found = inventory(program.control())
        await asyncio.gather(*(found.refresh() for _ in range(100)))
        assert len(program.commands()) <= 2 * 3

    run(check())


def test_one_who_stops_asking_does_not_stop_the_others(tmp_path: Path, clients: list[Identity]) -> None:
    program = ControlProgram(tmp_path, answers(clients[0].pid))

    async def check() -> None:
        found = inventory(program.control())
        impatient, patient = (asyncio.ensure_future(found.refresh()) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        await patient
        assert list(found.clients) == clients[:1]

    run(check())


def test_trouble_keeps_what_is_known(tmp_path: Path, clients: list[Identity]) -> None:
    program = ControlProgram(tmp_path, answers(clients[0].pid))

    async def check() -> None:
        found = inventory(program.control())
        await found.refresh()
        program.answer({"get_server_list": "exit 1"})
        await found.refresh()
        assert "no MPS control daemon" in found.trouble
        assert list(found.clients) == clients[:1]
        assert list(found.servers) == [SERVER]

    run(check())


def test_a_server_goes_and_comes_by_its_log(tmp_path: Path) -> None:
    async def check() -> None:
        found = inventory(ControlProgram(tmp_path, {}).control())
        found.changed(SERVER, "initializing", 1000)
        found.changed(SERVER, "fault", None)
        assert found.servers == {SERVER: Server(SERVER, 1000, "fault", 0)}
        found.changed(SERVER, "gone", None)
        assert found.servers == {}

    run(check())


def test_a_pid_of_another_server_is_another_client(tmp_path: Path, clients: list[Identity]) -> None:
    """A process whose server was restarted connects again."""

    async def check() -> None:
        found = inventory(ControlProgram(tmp_path, {}).control())
        found.connected(SERVER, clients[0].pid)
        found.connected(SERVER + 1, clients[0].pid)
        assert found.clients[clients[0]].server == SERVER + 1

    run(check())


@requires("soft")
def test_the_software_hosts_own(software_host: SoftwareHost) -> None:
    control = Control(os.fspath(software_host.control_program), software_host.environment)
    with Tenant(software_host, "chat") as chat, Tenant(software_host, "embed") as embed:

        async def check() -> None:
            found = inventory(control)
            await found.refresh()
            (server,) = found.servers.values()
            assert (server.state, server.clients, server.uid) == ("active", 2, os.geteuid())
            assert set(found.clients) == {chat.identity, embed.identity}

        run(check())
