# SPDX-License-Identifier: Apache-2.0
"""This test will show that servers and clients are known as they are, whichever source tells first."""

import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from contract.mps_rig import NOBODY
from control_daemons import run
from control_program import ControlProgram, control_of
from mpsafe.model import Client, Identity, Server
from mpsafe.soft.host import SoftwareHost
from mpsafed.mps.control import Control
from mpsafed.mps.controls import Controls
from mpsafed.mps.inventory import Inventory
from mpsafed.processes import identify
from requires import requires
from tenant_process import Tenant

SERVER = 4_000_001  # nobody has this pid


@pytest.fixture
def clients() -> Iterator[list[Identity]]:
    """Three processes that could be clients."""
    started = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
    yield [found for process in started if (found := identify(process.pid)) is not None]
    for process in started:
        process.kill()
        process.communicate()


def answers(*pids: int, state: str = "ACTIVE") -> dict[str, str]:
    return {
        "get_server_list": f"echo {SERVER}",
        "get_server_status*": f"echo {state}",
        "get_client_list*": f"printf '%s\\n' {' '.join(map(str, pids))}",
    }


def inventory(
    *controls: Control,
    came: Callable[[Client], None] = lambda _: None,
    tenants: dict[Identity, str] | None = None,
    faulted: Callable[[Server, int | None], None] = lambda server, uid: None,
) -> Inventory:
    return Inventory(Controls(controls), tenant_of=(tenants or {}).get, came=came, faulted=faulted)


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
        found = inventory(program.control(), came=came.append, tenants={clients[0]: "chat"})
        assert found.trouble
        await found.refresh()
        assert found.trouble == ""
        assert found.servers == {SERVER: Server(SERVER, 0, "active", 3, "default")}
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


def test_trouble_keeps_what_is_known_and_still_runs(tmp_path: Path, clients: list[Identity]) -> None:
    server = clients[2].pid
    program = ControlProgram(tmp_path, {**answers(clients[0].pid), "get_server_list": f"echo {server}; echo {SERVER}"})

    async def check() -> None:
        found = inventory(program.control())
        await found.refresh()
        program.answer({"get_server_list": "exit 1"})
        await found.refresh()
        assert "no MPS control daemon" in found.trouble
        assert list(found.clients) == clients[:1]
        assert list(found.servers) == [server], "the other has no process"

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


def test_one_control_daemon_that_fails_hides_no_other(tmp_path: Path, clients: list[Identity]) -> None:
    (tmp_path / "other").mkdir()
    server = os.getpid()
    first = ControlProgram(tmp_path, {**answers(clients[0].pid), "get_server_list": f"echo {server}"})
    listed = {"get_server_list": f"echo {SERVER}", "get_client_list*": f"echo {clients[1].pid}"}
    second = ControlProgram(tmp_path / "other", listed)

    async def check() -> None:
        found = inventory(first.control(name="first"), second.control(name="second"))
        await found.refresh()
        assert {pid: one.control for pid, one in found.servers.items()} == {server: "first", SERVER: "second"}
        first.answer({"*": "exit 1"})
        second.answer({**listed, "get_client_list*": f"echo {clients[2].pid}"})
        await found.refresh()
        assert found.trouble.startswith("first: ")
        assert "no MPS control daemon" in found.trouble
        assert set(found.servers) == {server, SERVER}
        assert list(found.clients) == [clients[0], clients[2]]
        first.answer({"get_server_list": ":"})
        await found.refresh()
        assert (found.trouble, list(found.servers)) == ("", [SERVER])

    run(check())


@pytest.fixture
def theirs() -> Iterator[list[Identity]]:
    """Two processes of another user's: a server and a client."""
    started = [subprocess.Popen(["sleep", "1000"], user=NOBODY, group=NOBODY, extra_groups=[]) for _ in range(2)]
    yield [found for process in started if (found := identify(process.pid)) is not None]
    for process in started:
        process.kill()
        process.wait()


@requires("root")
def test_a_line_that_a_user_can_have_written_adds_that_users_processes_only(
    tmp_path: Path, clients: list[Identity], theirs: list[Identity]
) -> None:
    async def check() -> None:
        found = inventory(ControlProgram(tmp_path, {}).control())
        server, client = theirs
        found.connected(server.pid, clients[0].pid, writer=NOBODY)
        found.connected(clients[0].pid, client.pid, writer=NOBODY)
        found.connected(SERVER, client.pid, writer=NOBODY)
        assert (found.clients, found.servers) == ({}, {})
        found.changed(clients[0].pid, "fault", None, writer=NOBODY)
        found.changed(server.pid, "active", 0, writer=NOBODY)
        assert found.servers == {}, "neither another user's server, nor one that is said to be another's"
        found.changed(server.pid, "active", NOBODY, control="theirs", writer=NOBODY)
        found.connected(server.pid, client.pid, control="theirs", writer=NOBODY)
        assert found.servers == {server.pid: Server(server.pid, NOBODY, "active", 0, "theirs")}
        assert list(found.clients) == [client]
        found.changed(server.pid, "fault", None, writer=NOBODY - 1)
        assert found.servers[server.pid].state == "active"

    run(check())


def test_a_line_that_anybody_can_have_written_adds_nothing(tmp_path: Path, clients: list[Identity]) -> None:
    """It says that it is time to ask, and what is asked then is so."""
    program = ControlProgram(tmp_path, answers(clients[0].pid))

    async def check() -> None:
        found = inventory(program.control())
        following = asyncio.ensure_future(found.follow())
        found.connected(SERVER + 1, clients[1].pid, writer=None)
        found.changed(SERVER + 1, "fault", os.geteuid(), writer=None)
        assert (found.clients, found.servers) == ({}, {})
        while not found.clients:
            await asyncio.sleep(0.001)
        assert (list(found.clients), list(found.servers)) == ([clients[0]], [SERVER])
        following.cancel()
        await asyncio.wait([following])
        await found.close()

    run(check())


@pytest.mark.parametrize("writer", [0, None])
def test_a_server_is_gone_when_its_process_is(tmp_path: Path, writer: int | None) -> None:
    process = subprocess.Popen(["sleep", "1000"])

    async def check() -> None:
        found = inventory(ControlProgram(tmp_path, {}).control())
        found.changed(process.pid, "active", None)
        found.changed(process.pid, "gone", None, writer=writer)
        assert list(found.servers) == [process.pid], "it is there, whatever is written"
        process.kill()
        process.wait()
        found.changed(process.pid, "gone", None, writer=writer)
        assert found.servers == {}

    run(check())


@requires("soft")
def test_the_software_hosts_own(software_host: SoftwareHost) -> None:
    control = control_of(software_host.control_program, software_host.environment)
    with Tenant(software_host, "chat") as chat, Tenant(software_host, "embed") as embed:

        async def check() -> None:
            found = inventory(control)
            await found.refresh()
            (server,) = found.servers.values()
            assert (server.state, server.clients, server.uid) == ("active", 2, os.geteuid())
            assert set(found.clients) == {chat.identity, embed.identity}

        run(check())


def test_a_server_in_fault_is_told_once_and_again_after_it_was_active(tmp_path: Path) -> None:
    told: list[int] = []

    async def check() -> None:
        program = ControlProgram(tmp_path, {})
        known = inventory(program.control(), faulted=lambda server, uid: told.append(server.pid))
        for state in ("FAULT", "FAULT", "ACTIVE", "FAULT"):
            program.answer(answers(state=state))
            await known.refresh()

    run(check())
    assert told == [SERVER, SERVER]
