# SPDX-License-Identifier: Apache-2.0
"""This test will set limits on daemons and servers, also on some that refuse, forget, and die meanwhile."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.mps_rig import finish
from control_daemons import Rig, rig, run
from control_program import ControlProgram
from mpsafe.errors import ControlFailed, NotSupported
from mpsafe.model import Limits
from mpsafed.mps.applying import apply, apply_to
from mpsafed.mps.front_end import FrontEnd
from mpsafed.mps.v2 import V2
from mpsafed.mps.v3 import V3
from supervised import supervised

DEVICE = "GPU-74d43ed3-cdf7-e667-3644-bf5b4f46ed65"
GONE = 4_000_001  # nobody has this pid
HALF = Limits(50.0, 1, {"0": 2048})


@pytest.fixture
def stand_in(place: Path) -> Iterator[Rig]:
    """It has a device, so its servers start."""
    with rig("stand-in", place) as programs:
        yield programs


def v2(directory: Path, answers: dict[str, str]) -> V2:
    return V2(FrontEnd(str(ControlProgram(directory, answers).path), {}, deadline_s=60))


def test_the_servers_that_run_and_those_to_come(stand_in: Rig) -> None:
    async def check() -> None:
        one = stand_in.declare(limits=HALF)
        async with supervised(stand_in, one) as life:
            await life.running()
            control = life.controls["one"]
            await control.start_server(os.geteuid())
            while not (servers := await control.servers()):
                pass
            ask = f"get_active_thread_percentage {servers[0]}"
            assert stand_in.front_end(one, typed=ask) == "50.0\n", "it began with the defaults"
            assert await life.supervisor.apply_limits("one", servers[0]) == []
            await life.supervisor.set_limits("one", Limits(25.0))
            assert stand_in.front_end(one, typed=ask) == "25.0\n"
            assert life.one().drift == []
            stand_in.front_end(one, typed=f"set_active_thread_percentage {servers[0]} 90")
            assert await life.supervisor.apply_limits("one", servers[0]) == []
            assert stand_in.front_end(one, typed=ask) == "25.0\n"
            finish(servers[0], signal.SIGKILL)
            while await control.servers():
                pass
            (sentence,) = await life.supervisor.apply_limits("one", servers[0])
            assert f"Server {servers[0]} not found" in sentence

    run(check())


def test_a_limit_that_is_not_taken_is_told(tmp_path: Path) -> None:
    refusing = {
        "get_server_list": f"echo {os.getpid()}",
        "*active_thread_percentage*": "echo 100.0",
        "get_default_client_priority": "echo 0",
        "set_default_client_priority*": ":",
        "*device_pinned_mem_limit*": ":",
    }

    async def check() -> None:
        in_force, drift = await apply(v2(tmp_path, refusing), HALF)
        assert in_force == Limits(100.0, 0)
        differences = [
            "active thread percentage: 50 declared, 100 in force",
            "client priority: 1 declared, 0 in force",
            "pinned memory, device 0: 2G declared, none in force",
        ]
        assert drift == [*differences, *(f"server {os.getpid()}: {sentence}" for sentence in differences)]

    run(check())


def test_what_is_as_declared_is_not_set_again(tmp_path: Path) -> None:
    program = ControlProgram(
        tmp_path, {"get_default_active_thread_percentage": "echo 50.0", "get_default_client_priority": "echo 1"}
    )

    async def check() -> None:
        dialect = V2(FrontEnd(str(program.path), {}, deadline_s=60))
        assert await apply_to(dialect, None, Limits(50.0, 1)) == (Limits(50.0, 1), [])

    run(check())
    assert not [command for command in program.commands() if command.startswith("set")]


def test_a_server_that_is_lost_meanwhile_is_passed_over(tmp_path: Path) -> None:
    answers = {
        "get_server_list": f"echo {GONE}; echo {os.getpid()}",
        "get_default_active_thread_percentage": "echo 50.0",
        "get_default_client_priority": "echo 0",
        "get_active_thread_percentage*": "echo Server not found",
    }

    async def check() -> None:
        in_force, drift = await apply(v2(tmp_path, answers), Limits(50.0))
        assert in_force == Limits(50.0, 0)
        assert len(drift) == 1, "the one that runs and does not answer is told"
        assert "expected a percentage, got 'Server not found'" in drift[0]

    run(check())


def test_a_daemon_that_does_not_answer(tmp_path: Path) -> None:
    async def check() -> None:
        with pytest.raises(ControlFailed, match="no MPS control daemon"):
            await apply(v2(tmp_path, {"get_server_list": ":", "*": "exit 1"}), HALF)

    run(check())


def test_partitions_are_made_and_read_back(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.touch()
    answers = {
        "get_server_list": ":",
        "get_default_active_thread_percentage": "echo 100.0",
        "get_default_client_priority": "echo 0",
        "lspart": f"cat '{table}'",
        "sm_partition add*": f"echo GPU-74d43ed3 Dx4A - ${{command##* }} - 56 No >>'{table}'; echo Partition p created",
        "sm_partition rm*": f": >'{table}'",
    }

    async def check() -> None:
        dialect = v2(tmp_path, answers)
        in_force, drift = await apply(dialect, Limits(partitions={DEVICE: [4, 2]}))
        assert (in_force, drift) == (Limits(100.0, 0, {}, {DEVICE: [4, 2]}), [])
        in_force, drift = await apply(dialect, Limits(partitions={DEVICE: []}))
        assert (in_force, drift) == (Limits(100.0, 0, {}, {DEVICE: []}), [])
        with pytest.raises(NotSupported):
            await apply(v2(tmp_path, answers | {"lspart": 'echo "Unknown command"'}), Limits(partitions={DEVICE: [1]}))

    run(check())


def test_v3_has_servers_limits_only(tmp_path: Path) -> None:
    """Without a server nothing can be limited, and nothing is in force."""

    def scripted(rows: str) -> V3:
        answers = {
            "server list*": f"printf '{rows}'",
            "namespace get default * active-thread-percentage": "test -e $0.set && echo 50.00 || echo 100.00",
            "namespace get*": "echo -",
            "server set * --active-thread-percentage=50": ": >$0.set",
        }
        return V3(FrontEnd(str(ControlProgram(tmp_path, answers, protocol=3).path), {}, deadline_s=60))

    async def check() -> None:
        assert await apply(scripted(""), Limits(50.0)) == (None, [])
        assert await apply(scripted("one,0,48201,Ready,/run/one,-,-\\n"), Limits(50.0)) == (Limits(50.0), [])

    run(check())
