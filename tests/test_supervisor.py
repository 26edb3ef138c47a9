# SPDX-License-Identifier: Apache-2.0
"""This test will keep real control daemons as they are declared: adopted, started, killed, limited and stopped."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from contract.mps_client import MpsClient
from contract.mps_rig import NOBODY, finish, runs_as_nobody
from control_daemons import BRANCHES, EVERY_PROGRAM, Rig, rig, run
from mpsafe.errors import BadRequest, ControlFailed, NotOurs, NotSupported, UnknownControl
from mpsafe.model import ControlDaemon, Limits
from mpsafed.declared import Choice
from mpsafed.mps.starting import start_control
from requires import requires
from supervised import supervised

HALF = Limits(50.0, 1, {"0": 2048})
DEVICE = "GPU-74d43ed3-cdf7-e667-3644-bf5b4f46ed65"


@pytest.fixture(params=EVERY_PROGRAM)
def programs(request: pytest.FixtureRequest, place: Path) -> Iterator[Rig]:
    with rig(request.param, place) as programs:
        yield programs


@pytest.fixture(params=BRANCHES)
def real(request: pytest.FixtureRequest, place: Path) -> Iterator[Rig]:
    with rig(request.param, place) as programs:
        yield programs


def pid_of(control: ControlDaemon) -> int:
    assert control.identity is not None
    return control.identity.pid


def test_what_does_not_run_is_started_with_its_limits(programs: Rig) -> None:
    async def check() -> None:
        one = programs.declare(limits=HALF)
        async with supervised(programs, one) as life:
            assert (life.one().state, life.one().wanted) == ("starting", True)
            found = await life.running()
            assert (found.interface, found.declared, found.in_force) == ("v2", HALF, HALF)
            assert (found.drift, found.trouble, found.starts) == ([], "", 1)
            assert found.identity == life.controls["one"].identity()
            assert life.told == [(True, f"control daemon {pid_of(found)} was started")]
        assert programs.front_end(one, typed="get_default_device_pinned_mem_limit 0") == "2G\n"
        assert (one.pipe_directory.stat().st_mode & 0o777, one.log_directory.stat().st_mode & 0o777) == (0o711, 0o700)

    run(check())


def test_what_runs_is_adopted_and_left_running(programs: Rig) -> None:
    """Over any number of lives of mpsafed it stays the same process."""

    async def check() -> None:
        one = programs.declare(limits=HALF)
        await start_control(programs.control(one), Limits())
        pids: set[int] = set()
        for _ in range(3):
            async with supervised(programs, one) as life:
                found = await life.running()
                pids.add(pid_of(found))
                assert (found.in_force, found.starts) == (HALF, 0)
                assert life.told == [], "that it runs is no news"
        assert len(pids) == 1

    run(check())


def test_one_that_is_killed_is_started_again_with_its_limits(programs: Rig) -> None:
    async def check() -> None:
        one = programs.declare(limits=HALF)
        async with supervised(programs, one) as life:
            first = await life.running()
            os.kill(pid_of(first), signal.SIGKILL)
            await life.until(lambda control: control.state != "running")
            await life.rests(1.0)
            life.time.move(1.0)
            second = await life.running()
            assert pid_of(second) != pid_of(first)
            assert (second.in_force, second.starts) == (HALF, 2)
            await life.rests(60.0)
            life.time.move(60.0)
            await life.rests(60.0)
            os.kill(pid_of(second), signal.SIGKILL)
            third = await life.until(lambda control: control.starts == 3 and control.in_force)
            assert third.in_force == HALF
            assert [running for running, _ in life.told] == [True, False, True, False, True]
            assert life.told[1] == (False, f"control daemon {pid_of(first)} has ended")

    run(check())


def test_one_that_does_not_start_is_tried_less_and_less_and_told_once(programs: Rig) -> None:
    async def check() -> None:
        one = programs.declare()
        one.log_directory.parent.mkdir()
        one.log_directory.symlink_to("/")
        async with supervised(programs, one) as life:
            for wait_s in (1.0, 2.0, 4.0):
                await life.rests(wait_s)
                assert life.one().state == "failed"
                life.time.move(wait_s)
            sentence = f"nvidia-cuda-mps-control, 'start': {one.log_directory}: a file or a symbolic link is there, "
            assert life.one().trouble == f"{sentence}expected a directory; remove it"
            assert life.told == [(False, life.one().trouble)]
            with pytest.raises(ControlFailed, match="symbolic link"):
                await life.supervisor.start("one")
            one.log_directory.unlink()
            await life.supervisor.start("one")
            assert (life.one().state, life.one().trouble) == ("running", "")

    run(check())


def test_one_without_a_program(programs: Rig) -> None:
    async def check() -> None:
        one = replace(programs.declare(), program="/nonexistent/nvidia-cuda-mps-control")
        async with supervised(programs, one) as life:
            found = await life.until(lambda control: control.state == "failed")
            assert "/nonexistent/nvidia-cuda-mps-control cannot be run: No such file or directory" in found.trouble

    run(check())


def test_stopped_and_started_by_hand(programs: Rig) -> None:
    async def check() -> None:
        one = programs.declare()
        async with supervised(programs, one) as life:
            first = await life.running()
            for force in (False, True):
                await life.supervisor.stop("one", force=force)
                found = life.one()
                assert (found.state, found.wanted, found.trouble) == ("stopped", False, "")
                await life.supervisor.stop("one", force=force)
                life.time.move(3600.0)
                await life.rests(1.0)
                assert life.one().state == "stopped"
                await life.supervisor.start("one")
                assert life.one().state == "running"
            assert (False, f"control daemon {pid_of(first)} has ended as it was told to") in life.told
            assert [choice.wanted for choice in life.remembered] == [False, True, False, True]
            await life.supervisor.stop("one", force=False)
        async with supervised(programs, one, choices={"one": life.remembered[-1]}) as life:
            await life.rests(1.0)
            assert life.one().state == "stopped", "what an admin chose outlives mpsafed"

    run(check())


def test_what_somebody_else_put_there_is_not_stopped_by_itself(programs: Rig) -> None:
    async def check() -> None:
        one = programs.declare()
        await start_control(programs.control(one), Limits())
        async with supervised(programs, one, choices={"one": Choice("one", wanted=False)}) as life:
            found = await life.until(lambda control: control.state == "running")
            await life.rests(60.0)
            life.time.move(3600.0)
            await life.rests(60.0)
            assert (life.one().identity, life.one().trouble) == (found.identity, "it runs, and is not to")
            await life.supervisor.stop("one", force=False)
            assert life.one().state == "stopped", "an admin may"

    run(check())


def test_limits_of_an_admins(programs: Rig) -> None:
    async def check() -> None:
        one = programs.declare(limits=HALF)
        async with supervised(programs, one) as life:
            await life.running()
            await life.supervisor.set_limits("one", Limits(33.333, None, {"1": 1500}))
            assert life.one().declared == Limits(33.333, None, {"1": 1500})
            assert life.one().in_force == Limits(33.3, 0, {"1": 1024}), "and the rest is MPS's own default again"
            assert life.one().drift == []
            assert programs.front_end(one, typed="get_default_device_pinned_mem_limit 0") == ""
            with pytest.raises(BadRequest, match="expected over 0 to 100"):
                await life.supervisor.set_limits("one", Limits(0.0))
            with pytest.raises(BadRequest, match="no SM partitions"):
                await life.supervisor.set_limits("one", Limits(partitions={DEVICE: [2]}))
            with pytest.raises(NotSupported, match="wants MPS v3"):
                await life.supervisor.set_limits("one", Limits(pinned_mib={"all": 1024}))
            with pytest.raises(NotSupported, match=r"wants the MPS of CUDA 13\.1 or newer"):
                await life.supervisor.partition("one", DEVICE, [2, 4])
            assert life.one().declared == Limits(33.333, None, {"1": 1500})
            await life.supervisor.set_limits("one", None)
            assert (life.one().declared, life.one().in_force) == (HALF, HALF)
            assert [choice.limits for choice in life.remembered] == [Limits(33.333, None, {"1": 1500}), None]

    run(check())


@requires("root")
def test_a_limit_that_another_user_changed_is_repaired(real: Rig) -> None:
    """On 535 any user who can connect may change the default percentage; 550 refuses."""

    async def check() -> None:
        one = real.declare(limits=HALF)
        async with supervised(real, one) as life:
            await life.running()
            await life.rests(60.0)
            answer = await asyncio.to_thread(
                real.front_end, one, typed="set_default_active_thread_percentage 77", uid=NOBODY
            )
            if real.programs.branch >= 550:
                assert answer.startswith(f"Insufficient privileges for UID {NOBODY}")
                return
            assert answer == "77.0\n"
            assert real.front_end(one, typed="get_default_active_thread_percentage") == "77.0\n"
            life.time.move(60.0)
            await life.rests(60.0)
            assert real.front_end(one, typed="get_default_active_thread_percentage") == "50.0\n"
            assert (life.one().in_force, life.one().drift) == (HALF, [])

    run(check())


def test_one_that_is_adopted_only(programs: Rig) -> None:
    async def check() -> None:
        one = programs.declare(how="adopt", limits=HALF)
        async with supervised(programs, one) as life:
            await life.rests(1.0)
            assert life.one().state == "stopped"
            for forbidden in (life.supervisor.start("one"), life.supervisor.stop("one", force=True)):
                with pytest.raises(NotOurs, match="is not started and stopped by mpsafed"):
                    await forbidden
            await start_control(programs.control(replace(one, how="session")), Limits())
            life.time.move(1.0)
            found = await life.running()
            assert found.in_force == HALF
            finish(pid_of(found), signal.SIGKILL)
            await life.until(lambda control: control.state == "stopped")
            life.time.move(3600.0)
            await life.rests(1.0)
            assert life.one().state == "stopped"
            assert life.remembered == []

    run(check())


@requires("root")
def test_a_users_own_runs_as_the_user(programs: Rig) -> None:
    if not (programs.is_real or runs_as_nobody(sys.executable)):
        pytest.skip("the stand-in's Python is in a directory that other users may not enter")

    async def check() -> None:
        one = programs.declare(uid=NOBODY, limits=HALF)
        async with supervised(programs, one) as life:
            found = await life.running()
            assert set(psutil.Process(pid_of(found)).uids()) == {NOBODY}
            assert psutil.Process(pid_of(found)).gids().effective == one.pipe_directory.stat().st_gid
            assert (found.in_force, found.trouble) == (HALF, "")
            assert one.pipe_directory.stat().st_mode & 0o777 == one.log_directory.stat().st_mode & 0o777 == 0o700
            assert (one.log_directory / "control.log").stat().st_uid == NOBODY
            await life.supervisor.stop("one", force=False)

    run(check())


def test_servers_that_fail_are_told_by_the_list_and_the_log(real: Rig) -> None:
    """There is no device: each start of a server ends at once, and the command says nothing of it."""

    async def check() -> None:
        one = real.declare()
        async with supervised(real, one) as life:
            await life.running()
            control = life.controls["one"]
            await control.start_server(os.geteuid())
            while " exited with status 1" not in (one.log_directory / "control.log").read_text():
                await asyncio.sleep(0.002)
            assert await control.servers() == []
            await life.supervisor.stop("one", force=False)
            assert (life.one().state, life.one().trouble) == ("stopped", ""), "its status is the server's, not its own"

    run(check())


def test_names_that_are_none(programs: Rig) -> None:
    async def check() -> None:
        async with supervised(programs) as life:
            for asked in (
                life.supervisor.start("two"),
                life.supervisor.stop("two", force=True),
                life.supervisor.set_limits("two", None),
                life.supervisor.partition("two", DEVICE, []),
                life.supervisor.apply_limits("two", 1),
            ):
                with pytest.raises(UnknownControl, match="no MPS control daemon named 'two'"):
                    await asked
            assert life.supervisor.overview() == []

    run(check())


def test_several_do_not_wait_for_each_other(programs: Rig) -> None:
    async def check() -> None:
        broken = replace(programs.declare("broken"), program="/nonexistent")
        good, other = programs.declare("good"), programs.declare("other")
        async with supervised(programs, broken, good, other) as life:
            pids = {pid_of(await life.running("good")), pid_of(await life.running("other"))}
            assert len(pids) == 2
            await life.until(lambda control: control.state == "failed", "broken")
            assert [control.name for control in life.supervisor.overview()] == ["broken", "good", "other"]

    run(check())


@pytest.fixture
def stand_in(place: Path) -> Iterator[Rig]:
    """It has a device, so it can have clients."""
    with rig("stand-in", place) as programs:
        yield programs


def test_a_stop_waits_for_clients_until_it_is_forced(stand_in: Rig) -> None:
    async def check() -> None:
        one = stand_in.declare()
        async with supervised(stand_in, one) as life:
            await life.running()
            with MpsClient(life.controls["one"].environment) as client:
                assert [client.ask("init"), client.ask("open 0")] == [0, 0]
                stopping = asyncio.ensure_future(life.supervisor.stop("one", force=False))
                while "Cmd:quit" not in (one.log_directory / "control.log").read_text():
                    await asyncio.sleep(0.002)
                assert (client.ask("work 0"), stopping.done(), life.one().state) == (0, False, "running")
                await life.supervisor.stop("one", force=True)
                await stopping
                assert life.one().state == "stopped"
                assert client.ask("end 0") != 0

    run(check())


@requires("root")
def test_one_that_is_everybodys_takes_other_users_in_its_closed_directory(stand_in: Rig) -> None:
    async def check() -> None:
        async with supervised(stand_in, stand_in.declare()) as life:
            await life.running()
            with MpsClient(life.controls["one"].environment, uid=NOBODY) as client:
                assert [client.ask("init"), client.ask("open 0"), client.ask("work 0")] == [0, 0, 0]

    run(check())
