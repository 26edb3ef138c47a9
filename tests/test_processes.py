# SPDX-License-Identifier: Apache-2.0
"""This test will hold, freeze and end real processes, also those that end first."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from mpsafe.model import Identity
from mpsafed.processes import Process, identify, name_and_uid
from mpsafed.signals import ClientGone, Signal
from mpsafed.sources.process_ends import ProcessEnds

PATIENCE_S = 60


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for the end of its stdin."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    yield process
    process.kill()
    process.communicate()


def identity_of(process: subprocess.Popen[bytes]) -> Identity:
    found = identify(process.pid)
    assert found is not None
    return found


def status(process: subprocess.Popen[bytes]) -> str:
    return psutil.Process(process.pid).status()


def test_an_identity_is_pid_and_start_time(sleeper: subprocess.Popen[bytes]) -> None:
    ours, theirs = identify(os.getpid()), identity_of(sleeper)
    assert ours is not None
    assert (ours.pid, theirs.pid) == (os.getpid(), sleeper.pid)
    assert ours.start_ticks < theirs.start_ticks
    seconds = (theirs.start_ticks - ours.start_ticks) / os.sysconf("SC_CLK_TCK")
    apart = psutil.Process(sleeper.pid).create_time() - psutil.Process().create_time()
    assert abs(seconds - apart) < 1


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**70])
def test_no_process(pid: int) -> None:
    assert identify(pid) is None


def test_a_process_that_has_ended_has_no_name(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identity_of(sleeper)
    sleeper.kill()
    sleeper.wait()
    assert name_and_uid(identity) is None


def test_a_name_cannot_forge_an_identity() -> None:
    """The name of a process may hold the parenthesis that ends it in /proc/PID/stat."""
    code = "import ctypes; ctypes.CDLL(None).prctl(15, b') R 1 1 1 1 1', 0, 0, 0); print('named', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        before = identify(process.pid)
        assert process.stdout is not None
        assert process.stdout.readline() == b"named\n"
        assert identify(process.pid) == before
        process.kill()


def test_name_and_uid_are_of_this_process_only(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identity_of(sleeper)
    assert name_and_uid(identity) == (psutil.Process(sleeper.pid).name(), os.geteuid())
    assert name_and_uid(Identity(identity.pid, identity.start_ticks + 1)) is None


def test_a_hold_on_another_process_with_that_pid_is_refused(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identity_of(sleeper)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ProcessLookupError):
        Process(Identity(identity.pid, identity.start_ticks - 1))
    assert len(os.listdir("/proc/self/fd")) == before


def test_freeze_and_thaw(sleeper: subprocess.Popen[bytes]) -> None:
    with Process(identity_of(sleeper)) as process:
        process.freeze()
        os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED)
        assert status(sleeper) == "stopped"
        process.freeze()
        process.thaw()
        os.waitid(os.P_PID, sleeper.pid, os.WCONTINUED)
        process.thaw()
        assert status(sleeper) != "stopped"


def test_the_end_is_waited_for(sleeper: subprocess.Popen[bytes]) -> None:
    async def ends() -> None:
        with Process(identity_of(sleeper)) as process:
            assert not await process.ended(0)
            process.ask_to_end()
            assert await process.ended(PATIENCE_S)
            assert await process.ended(0), "and can be asked for again"

    asyncio.run(ends())
    assert sleeper.wait() == -15


def test_a_stopped_process_can_be_killed(sleeper: subprocess.Popen[bytes]) -> None:
    async def ends() -> None:
        with Process(identity_of(sleeper)) as process:
            process.freeze()
            process.kill()
            assert await process.ended(PATIENCE_S)

    asyncio.run(ends())


def test_signals_to_a_process_that_has_ended_do_nothing(sleeper: subprocess.Popen[bytes]) -> None:
    """Its parent may have waited for it at any time."""
    with Process(identity_of(sleeper)) as process:
        sleeper.kill()
        sleeper.wait()
        for send in (process.freeze, process.thaw, process.ask_to_end, process.kill):
            send()
        assert asyncio.run(process.ended(0))


def test_ends_are_told_once_and_also_of_the_dead(sleeper: subprocess.Popen[bytes]) -> None:
    async def ends() -> list[Identity]:
        told: list[Identity] = []
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def emit(signal: Signal) -> None:
            assert isinstance(signal, ClientGone)
            told.append(signal.client)
            if signal.client == living and not done.done():
                done.set_result(None)

        living, dead = identity_of(sleeper), Identity(2**22 + 1, 1)
        watched = ProcessEnds(emit)
        watched.watch(dead)
        assert told == [dead]
        watched.watch(living)
        watched.watch(living)
        sleeper.kill()
        await asyncio.wait_for(done, PATIENCE_S)
        watched.close()
        return told

    assert asyncio.run(ends())[1:] == [identity_of(sleeper)]


def test_nobody_is_watched_after_close(sleeper: subprocess.Popen[bytes]) -> None:
    async def ends() -> None:
        told: list[Signal] = []
        watched = ProcessEnds(told.append)
        before = len(os.listdir("/proc/self/fd"))
        watched.watch(identity_of(sleeper))
        watched.close()
        assert len(os.listdir("/proc/self/fd")) == before
        sleeper.kill()
        os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
        await asyncio.sleep(0)
        assert told == []

    asyncio.run(ends())
