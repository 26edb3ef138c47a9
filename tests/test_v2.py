# SPDX-License-Identifier: Apache-2.0
"""This test will ask real control daemons, of two branches and the stand-in's, everything that v2 knows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.mps_rig import NOBODY, eventually
from control_daemons import BRANCHES, EVERY_PROGRAM, Rig, rig, run
from control_program import ControlProgram
from mpsafe.errors import ControlFailed, NotSupported
from mpsafe.model import Limits
from mpsafed.declared import Declared
from mpsafed.mps.front_end import FrontEnd
from mpsafed.mps.starting import start_control
from mpsafed.mps.v2 import V2
from requires import requires

NO_SERVER = 1
DEVICE = "GPU-74d43ed3-cdf7-e667-3644-bf5b4f46ed65"

LSPART_WITH_DASHES = """\
GPU            Partition   free   used   free  used  clients
                           chunk  chunk  SM    SM
GPU-74d43ed3   -           0      9      74    72    -
GPU-74d43ed3   Dx4AAAAA    -      7      -     56    Yes
GPU-74d43ed3   D/79e/AA    -      2      -     16    No
"""
LSPART_WITHOUT = """\
GPU Partition free used free used clients
chunks chunks SM SM
GPU-74d43ed3 6 9 52 72
GPU-74d43ed3 Dx4AAAAA 7 56 Yes
GPU-74d43ed3 D/79e/AA 2 16 No
"""


@pytest.fixture(params=EVERY_PROGRAM)
def daemon(request: pytest.FixtureRequest, place: Path) -> Iterator[tuple[Rig, Declared]]:
    """A control daemon that runs."""
    with rig(request.param, place) as programs:
        declared = programs.declare()
        run(start_control(programs.control(declared), Limits()))
        yield programs, declared


def v2_of(daemon: tuple[Rig, Declared]) -> V2:
    return V2(daemon[0].control(daemon[1]).front_end)


def scripted(directory: Path, answers: dict[str, str]) -> tuple[V2, ControlProgram]:
    program = ControlProgram(directory, answers)
    return V2(FrontEnd(str(program.path), {}, deadline_s=60)), program


def test_without_servers(daemon: tuple[Rig, Declared]) -> None:
    async def check() -> None:
        v2, branch = v2_of(daemon), daemon[0].programs.branch
        assert await v2.servers() == []
        assert await v2.limited() == [None]
        assert await v2.server_state(NO_SERVER) == ("unknown" if branch < 550 else "gone")
        assert await v2.clients(NO_SERVER) == []
        assert await v2.terminate_client(NO_SERVER, 2, deadline_s=60) is False
        await v2.shutdown_server(NO_SERVER)
        with pytest.raises(ControlFailed, match="expected a percentage, got 'Server 1 not found'"):
            await v2.limits(NO_SERVER, [])
        with pytest.raises(ControlFailed, match="Server 1 not found"):
            await v2.set_limits(NO_SERVER, Limits(pinned_mib={"0": 1024}))

    run(check())


def test_limits_are_read_back_as_they_are_printed(daemon: tuple[Rig, Declared]) -> None:
    async def check() -> None:
        v2 = v2_of(daemon)
        assert await v2.limits(None, ["0"]) == Limits(100.0, 0)
        await v2.set_limits(None, Limits(33.333, 1, {"0": 512, "1": 1500, "31": 2048}))
        assert await v2.limits(None, ["0", "1", "31"]) == Limits(33.3, 1, {"0": 512, "1": 1024, "31": 2048})
        assert await v2.limits(None, ["1", "2"]) == Limits(33.3, 1, {"1": 1024})
        await v2.set_limits(None, Limits(pinned_mib={"0": 0}))
        assert await v2.limits(None, ["0", "1"]) == Limits(33.3, 1, {"1": 1024}), "0 takes a limit away"
        await v2.set_limits(None, Limits())
        assert await v2.limits(None, ["1"]) == Limits(33.3, 1, {"1": 1024}), "nothing is nothing"

    run(check())


def test_what_is_refused(daemon: tuple[Rig, Declared]) -> None:
    async def check() -> None:
        v2 = v2_of(daemon)
        with pytest.raises(ControlFailed, match="must be 0 or 1"):
            await v2.set_limits(None, Limits(client_priority=7))
        with pytest.raises(NotSupported, match="all devices together wants MPS v3"):
            await v2.set_limits(None, Limits(pinned_mib={"all": 1024}))
        for asked in (v2.partitions(), v2.partition(DEVICE, [2])):
            with pytest.raises(NotSupported, match=r"a partition of SMs wants the MPS of CUDA 13\.1 or newer"):
                await asked

    run(check())


def test_a_server_is_asked_for(daemon: tuple[Rig, Declared]) -> None:
    """The real one finds no device and dies: the list and the log tell, the command does not."""
    programs, declared = daemon
    log = declared.log_directory / "control.log"

    async def check() -> None:
        await v2_of(daemon).start_server(0)

    run(check())
    eventually(lambda: "Starting new server " in log.read_text(), "a start")
    if programs.is_real:
        eventually(lambda: " exited with status 1" in log.read_text(), "its end")
        assert programs.front_end(declared, typed="get_server_list") == ""


@pytest.mark.parametrize("which", ["stand-in"])
def test_a_server_has_limits_of_its_own(which: str, place: Path) -> None:
    async def check(programs: Rig) -> None:
        control = programs.control(programs.declare())
        await start_control(control, Limits())
        v2 = V2(control.front_end)
        await v2.set_limits(None, Limits(40.0))
        await v2.start_server(0)
        while not (servers := await v2.servers()):
            pass
        assert await v2.limited() == [None, *servers]
        assert (await v2.limits(servers[0], [])).active_thread_percentage == 40.0
        await v2.set_limits(servers[0], Limits(25.0, None, {"0": 1024}))
        assert await v2.limits(servers[0], ["0"]) == Limits(25.0, 0, {"0": 1024})
        assert await v2.limits(None, ["0"]) == Limits(40.0, 0)
        await v2.shutdown_server(servers[0])
        while await v2.servers():
            pass
        assert await v2.server_state(servers[0]) == "gone"

    with rig(which, place) as programs:
        run(check(programs))


@pytest.mark.parametrize("force", [False, True])
def test_quit(daemon: tuple[Rig, Declared], force: bool) -> None:
    programs, declared = daemon

    async def check() -> None:
        await v2_of(daemon).quit(force=force)

    run(check())
    eventually(lambda: programs.control(declared).identity() is None, "nobody listens")
    log = declared.log_directory / "control.log"
    eventually(lambda: "Exit with status 0" in log.read_text(), "its last word")


def test_quit_of_one_whose_server_has_failed(daemon: tuple[Rig, Declared]) -> None:
    """Status 1 tells of the server: it ends all the same, and that is no failure of the command."""
    programs, declared = daemon
    if not programs.is_real:
        pytest.skip("the stand-in's servers find a device")
    log = declared.log_directory / "control.log"

    async def check() -> None:
        await v2_of(daemon).start_server(0)
        while " exited with status 1" not in log.read_text():
            await v2_of(daemon).servers()
        await v2_of(daemon).quit(force=False)

    run(check())
    eventually(lambda: programs.control(declared).identity() is None, "nobody listens")
    eventually(lambda: "Exit with status 1" in log.read_text(), "its last word")


@requires("root")
@pytest.mark.parametrize("which", BRANCHES)
def test_quit_that_is_not_ours_to_say(which: str, place: Path) -> None:
    with rig(which, place) as programs:
        declared = programs.declare()
        run(start_control(programs.control(declared), Limits()))
        nobody = FrontEnd(declared.program, programs.control(declared).environment, uid=NOBODY)

        async def check() -> None:
            with pytest.raises(ControlFailed, match="Not enough privilege to execute quit command"):
                await V2(nobody).quit(force=True)

        run(check())
        assert programs.control(declared).identity() is not None


@pytest.mark.parametrize("table", [LSPART_WITH_DASHES, LSPART_WITHOUT])
def test_partitions_as_they_are_published(tmp_path: Path, table: str) -> None:
    (tmp_path / "table").write_text(table)
    v2, program = scripted(
        tmp_path,
        {
            "lspart": f"cat '{tmp_path}/table'",
            "sm_partition add*": f"echo Partition {DEVICE}/Fx4AAA created",
            "sm_partition rm*": ":",
        },
    )

    async def check() -> None:
        assert await v2.partitions() == {"GPU-74d43ed3": [7, 2]}
        await v2.partition(DEVICE, [7, 4, 4])

    run(check())
    assert [command for command in program.commands() if command != "lspart"] == [
        f"sm_partition rm {DEVICE} D/79e/AA",
        f"sm_partition add {DEVICE} 4",
        f"sm_partition add {DEVICE} 4",
    ]


def test_a_partition_that_does_not_fit(tmp_path: Path) -> None:
    words = "Failed to fulfill the requested SM partition of 28 chunks, error CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION"
    v2, _ = scripted(tmp_path, {"lspart": ":", "sm_partition add*": f"echo {words}"})

    async def check() -> None:
        with pytest.raises(ControlFailed, match="requested SM partition of 28 chunks"):
            await v2.partition(DEVICE, [28])

    run(check())
