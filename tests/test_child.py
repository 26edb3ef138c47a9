# SPDX-License-Identifier: Apache-2.0
"""This test will start programs that answer, stay, flood and leave children, and end the loop while one starts."""

import asyncio
import gc
import os
import select
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import psutil
import pytest

from mpsafed.child import Child

T = TypeVar("T")

# More turns of the loop than the start of a child takes.
TURNS_MAX = 12


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 60))


async def start(*command: str, **how: Any) -> Child:
    return await Child.start(command, environment=None, errors=subprocess.DEVNULL, **how)


def test_a_conversation() -> None:
    async def check() -> None:
        child = await start("cat")
        child.write(b"one\ntwo")
        child.close_stdin()
        assert await child.output.read(-1) == b"one\ntwo"
        assert await child.ended()
        assert child.status == 0
        assert await child.end()

    run(check())


def test_one_that_stays_is_killed_with_what_it_started() -> None:
    async def check() -> None:
        child = await start("sh", "-c", "sleep 1000 & echo $!; wait")
        grandchild = os.pidfd_open(int(await child.output.readline()))
        assert child.status is None
        assert not await child.ended(0)
        assert await child.end()
        assert child.status == -9
        assert await child.output.read(-1) == b""
        assert select.select([grandchild], [], [], 60)[0]
        os.close(grandchild)

    run(check())


def test_its_end_is_seen_though_its_child_holds_the_pipes() -> None:
    async def check() -> None:
        child = await start("sh", "-c", "sleep 1000 & exit 3")
        try:
            assert await child.ended(60)
            assert child.status == 3
        finally:
            os.killpg(child.pid, 9)
        assert await child.end()

    run(check())


def test_one_that_reads_nothing() -> None:
    async def check() -> None:
        child = await start("sleep", "1000")
        with pytest.raises(BlockingIOError):
            for _ in range(1 << 10):
                child.write(b"x" * 4096)
        child.close_stdin()
        child.close_stdin()
        await child.end()
        deaf = await start("sh", "-c", "exec <&-; echo; sleep 1000")
        await deaf.output.readline()
        with pytest.raises(BrokenPipeError):
            deaf.write(b"x")
        await deaf.end()

    run(check())


def test_a_line_that_is_too_long() -> None:
    async def check() -> None:
        child = await start("yes", "x" * 5000, line_max_bytes=4096)
        with pytest.raises(ValueError, match="limit"):
            await child.output.readline()
        await child.end()

    run(check())


def test_a_program_that_is_not_there_leaves_nothing_open() -> None:
    async def check() -> None:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(FileNotFoundError):
            await start("/absent")
        await asyncio.sleep(0)
        assert os.listdir("/proc/self/fd") == before

    run(check())


@pytest.mark.parametrize("turns", range(TURNS_MAX))
def test_a_loop_that_ends_while_it_starts(turns: int) -> None:
    """With asyncio's own subprocesses this does not end."""

    async def use() -> None:
        child = await start(sys.executable, "-c", "input()")
        try:
            await child.ended()
        finally:
            await child.end()

    async def check() -> None:
        using = asyncio.ensure_future(use())
        for _ in range(turns):
            await asyncio.sleep(0)
        assert not using.done()

    descriptors, children = set(os.listdir("/proc/self/fd")), psutil.Process().children()
    run(check())
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert set(psutil.Process().children()) <= {*children}
