# SPDX-License-Identifier: Apache-2.0
"""This test will hold the stand-in for MPS to the contract that the real nvidia-cuda-mps-control passes here."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contract import check_mps, check_mps_clients
from contract.check_mps_clients import Scene
from contract.mps_client import MpsClient
from contract.mps_rig import NOBODY, Mps, NotRun, Programs, eventually, finish, real_programs
from mpsafe.soft.host import SoftwareHost
from mpsafed.signals import ClientConnected, FaultMet, ServerChanged, Signal
from mpsafed.sources import Source
from mpsafed.sources.mps_logs import ControlLog, ServerLog
from requires import requires

pytestmark = requires("soft")

BRANCHES = ("535", "550")
SOMEBODY = NOBODY - 1
CONNECTION_FAILED, MAX_CLIENTS = 805, 808

# What the wire between a front end and a daemon of different make has to carry.
MIXED: tuple[Callable[[Mps], None], ...] = (
    check_mps.starts_and_quits,
    check_mps.quit_takes_a_limit,
    check_mps.commands_are_answered_in_order,
    check_mps.an_absent_server_is_not_found,
    check_mps.the_log_tells_of_each_command,
)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory that other users may enter, with a short name: socket paths are short."""
    with tempfile.TemporaryDirectory(prefix="mps-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def host(directory: Path) -> Iterator[SoftwareHost]:
    with SoftwareHost(directory, devices=2, memory_bytes=1 << 30) as host:
        yield host


@pytest.fixture(scope="module")
def software(host: SoftwareHost) -> Programs:
    """The stand-in, with a software device."""
    return Programs(host.control_program, host.control_program, 550, host.environment)


@pytest.fixture(scope="module")
def software_without_device(software: Programs) -> Programs:
    """The stand-in where no server can start."""
    return Programs(
        software.daemon, software.front_end, 550, {**software.environment, "MPSAFE_SOFT_DIR": "/nonexistent"}
    )


@pytest.fixture(params=BRANCHES, scope="module")
def real(request: pytest.FixtureRequest) -> Programs:
    """The real programs of a branch."""
    try:
        return real_programs(request.param)
    except NotRun as reason:
        pytest.skip(str(reason))


def settle(outcome: str) -> None:
    if outcome.startswith("not run: "):
        pytest.skip(outcome.removeprefix("not run: "))
    assert outcome == "ok"


@pytest.fixture(scope="module")
def stand_in_outcomes(software_without_device: Programs) -> dict[str, str]:
    return check_mps.check_mps(software_without_device)


@pytest.mark.parametrize("name", [check.__name__ for check in check_mps.CHECKS])
def test_contract_of_the_stand_in(stand_in_outcomes: dict[str, str], name: str) -> None:
    settle(stand_in_outcomes[name])


@pytest.fixture(scope="module")
def real_outcomes(real: Programs) -> dict[str, str]:
    return check_mps.check_mps(real)


@pytest.mark.parametrize("name", [check.__name__ for check in check_mps.CHECKS])
def test_contract_of_the_real_program(real_outcomes: dict[str, str], name: str) -> None:
    settle(real_outcomes[name])


@pytest.fixture(scope="module")
def client_outcomes(software: Programs) -> dict[str, str]:
    return check_mps_clients.check_mps_clients(software)


@pytest.mark.parametrize("name", [check.__name__ for check in check_mps_clients.CHECKS])
def test_contract_with_clients(client_outcomes: dict[str, str], name: str) -> None:
    settle(client_outcomes[name])


def test_the_real_front_end_speaks_to_our_daemon(real: Programs, software_without_device: Programs) -> None:
    ours = software_without_device
    mixed = Programs(ours.daemon, real.front_end, ours.branch, ours.environment)
    assert set(check_mps.check_mps(mixed, MIXED).values()) == {"ok"}


def test_our_front_end_speaks_to_the_real_daemon(real: Programs, software_without_device: Programs) -> None:
    merged = {**software_without_device.environment, **real.environment}
    mixed = Programs(real.daemon, software_without_device.front_end, real.branch, merged)
    assert set(check_mps.check_mps(mixed, MIXED).values()) == {"ok"}


@pytest.fixture
def mps(software: Programs) -> Iterator[Mps]:
    with tempfile.TemporaryDirectory(prefix="mps-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        with Mps(software, Path(name)) as mps:
            yield mps


@pytest.fixture
def scene(mps: Mps) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(mps, stack)


def test_no_server_to_be_had_is_805(software_without_device: Programs, tmp_path: Path) -> None:
    with Mps(software_without_device, tmp_path) as mps, MpsClient(mps.environment) as client:
        mps.start()
        assert client.ask("init") == CONNECTION_FAILED
        starts = [text for text in mps.log() if text.startswith("Starting new server ")]
        assert len(starts) == 6, "as many as were measured on 535.309.01"
        reasons = [text for text in mps.log("server.log") if text.startswith("Failed to start")]
        assert reasons == ["Failed to start : no CUDA-capable device is detected"] * 6
        mps.expect("get_server_list")


def test_a_daemon_that_dies_while_a_client_waits_is_805(scene: Scene) -> None:
    daemon = int((scene.mps.pipes / "nvidia-cuda-mps-control.pid").read_text())
    os.kill(daemon, signal.SIGSTOP)
    client = scene.newcomer()
    client.tell("init")
    ends = f" {scene.mps.pipes / 'control'}\n"
    eventually(lambda: Path("/proc/net/unix").read_text().count(ends) > 1, "a client in the backlog")
    finish(daemon, signal.SIGKILL)
    assert client.heard() == CONNECTION_FAILED


def test_one_client_too_many_is_808(mps: Mps) -> None:
    mps.environment["MPSAFE_SOFT_CLIENT_LIMIT"] = "2"
    with ExitStack() as stack:
        scene = Scene(mps, stack)
        first, _ = scene.client(), scene.client()
        assert scene.refusal() == MAX_CLIENTS
        assert any("Maximum number of clients (2) reached." in text for text in mps.log("server.log"))
        first.leave()
        eventually(lambda: len(scene.clients()) == 1, "room for a client")
        assert scene.client().ask("work 0") == 0


def test_a_stopped_client_is_terminated_when_it_goes_on(scene: Scene) -> None:
    victim, other = scene.client(), scene.client()
    os.kill(victim.pid, signal.SIGSTOP)
    command = f"terminate_client {scene.server()} {victim.pid}\n"
    front_end = subprocess.Popen(
        [scene.mps.programs.front_end],
        env=scene.mps.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert front_end.stdin is not None
    front_end.stdin.write(command)
    front_end.stdin.flush()
    eventually(lambda: "Cmd:" + command.strip() in scene.mps.log(), "the command")
    assert scene.refusal() == 807, "nobody is let in meanwhile"
    assert other.ask("work 0") == 0
    assert front_end.poll() is None
    os.kill(victim.pid, signal.SIGCONT)
    assert front_end.communicate(timeout=60)[0] == "0\n"
    assert victim.ask("end 0") == 810


@requires("root")
def test_one_user_has_the_server_at_a_time(scene: Scene) -> None:
    def users() -> set[int]:
        status = Path(f"/proc/{scene.server()}/status").read_text()
        return {int(word) for word in status.partition("Uid:")[2].splitlines()[0].split()}

    def is_told_of(text: str) -> None:
        eventually(lambda: text in scene.mps.log(), text)

    env = scene.mps.environment
    with MpsClient(env, uid=NOBODY) as first, MpsClient(env, uid=SOMEBODY) as second, MpsClient(env) as third:
        assert [first.ask("init"), first.ask("open 0")] == [0, 0]
        assert f"Starting new server {scene.server()} for user {NOBODY}" in scene.mps.log()
        assert users() == {NOBODY}

        for client, uid in ((second, SOMEBODY), (third, 0)):
            client.tell("init")
            is_told_of(f"NEW CLIENT {client.pid} from user {uid}: Server is not ready, push client to pending list")
        assert first.ask("work 0") == 0
        held = scene.server()
        first.leave()
        assert [second.heard(), second.ask("open 0"), second.ask("work 0")] == [0, 0, 0]
        assert f"Server {held} exited with status 0" in scene.mps.log()
        assert f"Starting new server {scene.server()} for user {SOMEBODY}" in scene.mps.log()
        assert users() == {SOMEBODY}
        second.leave()
        assert [third.heard(), third.ask("open 0"), third.ask("work 0")] == [0, 0, 0]
        assert users() == {0}


AS_NOBODY = f"""
import os, sys
from mpsafe.soft import control, control_daemon
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
sys.argv[1:] = ["-d"]
sys.exit(control.main())
"""


@requires("root")
def test_a_daemon_that_cannot_become_the_user_gives_805(mps: Mps) -> None:
    for made in (mps.pipes, mps.logs):
        made.mkdir()
        os.chown(made, NOBODY, NOBODY)
    assert subprocess.run([sys.executable, "-c", AS_NOBODY], env=mps.environment, check=False).returncode == 0
    with MpsClient(mps.environment) as client, MpsClient(mps.environment, uid=NOBODY) as own:
        assert client.ask("init") == CONNECTION_FAILED
        assert "Failed to start server using uid 0. Operation not permitted" in mps.log()
        assert [own.ask("init"), own.ask("open 0"), own.ask("work 0")] == [0, 0, 0]


def test_the_logs_are_what_the_daemon_reads(scene: Scene) -> None:
    signals: list[Signal] = []

    def story() -> tuple[int, int, int]:
        guilty, bystander = scene.client(), scene.client()
        server = scene.server()
        assert guilty.ask("fault 0 write_address") == 700
        guilty.leave()
        bystander.leave()
        scene.recovers()
        finish(server, signal.SIGKILL)
        eventually(lambda: scene.mps.ask("get_server_list") == [], "no server")
        return server, guilty.pid, bystander.pid

    async def read() -> tuple[int, int, int]:
        sources: list[Source] = [ControlLog(scene.mps.logs, None), ServerLog(scene.mps.logs, None)]
        readers = [asyncio.create_task(source.run(signals.append, lambda _: None)) for source in sources]
        told = await asyncio.to_thread(story)
        async with asyncio.timeout(60):
            while not any(isinstance(s, ServerChanged) and s.state == "gone" for s in signals):
                await asyncio.sleep(0.01)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        return told

    server, guilty, bystander = asyncio.run(read())
    changes = [s for s in signals if isinstance(s, ServerChanged)]
    assert {s.server for s in changes} == {server}
    states = [s.state for s in changes if s.text.startswith(("Server is", "Creating"))]
    assert states == ["fault", "active"]
    others = [s.state for s in changes if not s.text.startswith(("Server is", "Creating"))]
    assert others == ["initializing", "active", "gone"]
    assert len([s for s in signals if isinstance(s, FaultMet)]) == 1
    connected = [s.pid for s in signals if isinstance(s, ClientConnected)]
    assert connected[:2] == [guilty, bystander]
