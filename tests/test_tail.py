# SPDX-License-Identifier: Apache-2.0
"""This test will follow a file through everything that loggers and rotators do to it."""

import asyncio
import os
import shutil
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsafe.errors import SourceLost
from mpsafed.signals import Cursor
from mpsafed.sources.tail import CHUNK, LINE_MAX, end_of, follow

PATIENCE_S = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, PATIENCE_S))


def add(path: Path, text: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)


async def take(lines: AsyncIterator[tuple[str, Cursor]], count: int) -> list[str]:
    """The next lines, however long they take."""
    return [(await anext(lines))[0] for _ in range(count)]


async def waits(lines: AsyncIterator[tuple[str, Cursor]]) -> "asyncio.Future[tuple[str, Cursor]]":
    """Asks for the next line, which is not there yet: the reader sleeps now."""
    step = asyncio.ensure_future(anext(lines))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not step.done()
    return step


START = Cursor("log", "absent", 0)


def test_lines_come_as_they_are_written(path: Path) -> None:
    async def check() -> None:
        add(path, "one\ntwo\n")
        lines = follow(path, START)
        assert await take(lines, 2) == ["one", "two"]
        step = await waits(lines)
        add(path, "three\n")
        assert (await step)[0] == "three"

    run(check())


def test_a_line_counts_once_it_is_whole(path: Path) -> None:
    async def check() -> None:
        add(path, "begin")
        lines = follow(path, START)
        step = await waits(lines)
        add(path, "ning")
        for _ in range(5):
            await asyncio.sleep(0)
        assert not step.done()
        add(path, " and end\nmore")
        assert (await step)[0] == "beginning and end"

    run(check())


def test_a_file_that_appears_later_is_read_from_its_beginning(path: Path) -> None:
    async def check() -> None:
        start = end_of(path, "log")
        assert start == START
        lines = follow(path, start)
        step = await waits(lines)
        add(path.with_name("other"), "not this one\n")
        path.with_name("other").rename(path.with_name("another"))
        add(path, "first\n")
        assert (await step)[0] == "first"

    run(check())


def test_what_was_there_before_is_old(path: Path) -> None:
    async def check() -> None:
        add(path, "old\n")
        lines = follow(path, end_of(path, "log"))
        step = await waits(lines)
        add(path, "new\n")
        assert (await step)[0] == "new"

    run(check())


def test_a_cursor_goes_on_where_it_stands(path: Path) -> None:
    async def check() -> None:
        add(path, "one\ntwo\nthree\n")
        lines = follow(path, START)
        _, cursor = await anext(lines)
        await take(lines, 2)
        assert await take(follow(path, cursor), 2) == ["two", "three"]

    run(check())


def test_a_cursor_of_another_file_begins_anew(path: Path) -> None:
    async def check() -> None:
        add(path, "old file with a longer text\n")
        cursor = end_of(path, "log")
        path.rename(path.with_name("server.log.1"))
        add(path, "new\n")
        assert await take(follow(path, cursor), 1) == ["new"]

    run(check())


def test_a_truncated_file_is_read_from_its_beginning(path: Path) -> None:
    """As copytruncate does."""

    async def check() -> None:
        add(path, "a long line before\n")
        lines = follow(path, START)
        await take(lines, 1)
        step = await waits(lines)
        os.truncate(path, 0)
        add(path, "short\n")
        assert (await step)[0] == "short"

    run(check())


@pytest.mark.parametrize("how", ["rename", "unlink"])
def test_a_file_that_went_away_ends_the_stream(path: Path, how: str) -> None:
    async def check() -> None:
        add(path, "one\n")
        lines = follow(path, START)
        await take(lines, 1)
        step = await waits(lines)
        add(path, "last words\n")
        if how == "rename":
            path.rename(path.with_name("server.log.1"))
        else:
            path.unlink()
        assert (await step)[0] == "last words"
        with pytest.raises(StopAsyncIteration):
            await anext(lines)

    run(check())


def test_nothing_is_lost_between_the_last_read_and_the_rotation(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is written and the file moved just after the reader has found the file's end."""
    pread = os.pread

    def rotated_after_the_end(fd: int, size: int, offset: int) -> bytes:
        data = pread(fd, size, offset)
        if not data and path.exists():
            add(path, "in between\n")
            path.rename(path.with_name("server.log.1"))
        return data

    async def check() -> None:
        add(path, "one\n")
        monkeypatch.setattr(os, "pread", rotated_after_the_end)
        assert [line async for line, _ in follow(path, START)] == ["one", "in between"]

    run(check())


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_long_line_is_cut_and_its_rest_is_no_line(path: Path, pieces: int) -> None:
    """Or whoever may make a line long could begin another one in it."""

    async def check() -> None:
        long = "x" * (3 * LINE_MAX) + "[forged]"
        lines = follow(path, START)
        add(path, "")
        size = -(-len(long) // pieces)
        step = await waits(lines)
        for at in range(0, len(long), size):
            add(path, long[at : at + size])
            for _ in range(5):
                await asyncio.sleep(0)
        add(path, "\nafter\n")
        assert (await step)[0] == long[:LINE_MAX]
        assert await take(lines, 1) == ["after"]

    run(check())


@pytest.mark.parametrize("within", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\0"])
def test_only_a_newline_ends_a_line(path: Path, within: str) -> None:
    async def check() -> None:
        add(path, f"one{within}[still one]\ntwo\n")
        assert await take(follow(path, START), 2) == [f"one{within}[still one]", "two"]

    run(check())


def test_what_is_no_text_is_read_all_the_same(path: Path) -> None:
    async def check() -> None:
        add(path, b"\xff\xfe\n\nok\n")
        assert await take(follow(path, START), 3) == ["��", "", "ok"]

    run(check())


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=20), max_size=20), st.data())
def test_however_a_text_is_cut_its_lines_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[str], data: st.DataObject
) -> None:
    """Also where the daemon is restarted at any line."""
    path = tmp_path_factory.mktemp("tail") / "log"
    whole = "".join(f"{line}\n" for line in wanted).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))

    async def check() -> None:
        path.write_bytes(b"")
        cursor, found = START, list[str]()
        for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            add(path, whole[begin:end])
            complete = whole[:end].count(b"\n") - len(found)
            lines = follow(path, cursor)
            for _ in range(complete):
                line, cursor = await anext(lines)
                found.append(line)
        assert found == wanted

    run(check())


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_directory_that_goes_away_ends_the_stream(tmp_path: Path, how: str) -> None:
    directory = tmp_path / "log"
    path = directory / "server.log"

    async def check() -> None:
        directory.mkdir()
        add(path, "one\n")
        lines = follow(path, START)
        assert await take(lines, 1) == ["one"]
        step = await waits(lines)
        if how == "moved":
            directory.rename(tmp_path / "log.old")
        else:
            shutil.rmtree(directory)
        with pytest.raises(StopAsyncIteration):
            await step
        directory.mkdir()
        add(path, "back\n")
        assert await take(follow(path, START), 1) == ["back"]

    run(check())


def test_a_directory_that_goes_away_before_the_file_came_ends_the_stream(tmp_path: Path) -> None:
    directory = tmp_path / "log"

    async def check() -> None:
        directory.mkdir()
        lines = follow(directory / "server.log", START)
        step = await waits(lines)
        directory.rmdir()
        with pytest.raises(StopAsyncIteration):
            await step

    run(check())


@pytest.mark.parametrize("dangling", [False, True])
def test_a_symbolic_link_is_not_followed(path: Path, dangling: bool) -> None:
    """Whoever may write to the directory could have any file read."""

    async def check() -> None:
        target = path.with_name("secret")
        if not dangling:
            add(target, "secret\n")
        path.symlink_to(target)
        with pytest.raises(SourceLost, match=r"server\.log is a symbolic link: not followed"):
            await anext(follow(path, START))

    run(check())


def test_a_file_that_is_replaced_by_a_link_ends_the_stream(path: Path) -> None:
    async def check() -> None:
        add(path, "one\n")
        lines = follow(path, START)
        await take(lines, 1)
        step = await waits(lines)
        path.rename(path.with_name("kept"))
        path.symlink_to(path.with_name("kept"))
        with pytest.raises(StopAsyncIteration):
            await step

    run(check())


@pytest.mark.parametrize("what", ["fifo", "directory", "socket"])
def test_what_is_no_regular_file_is_not_read(path: Path, what: str) -> None:
    """A FIFO without a writer would be waited for for ever."""

    async def check() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            if what == "fifo":
                os.mkfifo(path)
            elif what == "directory":
                path.mkdir()
            else:
                listener.bind(os.fspath(path))
            with pytest.raises((SourceLost, OSError)) as caught:
                await anext(follow(path, START))
            assert what == "socket" or "is no regular file: not read" in str(caught.value)

    run(check())


def test_a_line_of_a_gibibyte_costs_a_chunk_of_memory(path: Path) -> None:
    async def check() -> None:
        with path.open("wb") as file:
            file.truncate(1 << 30)
            file.seek(1 << 30)
            file.write(b"\nafter\n")
        lines = follow(path, START)
        tracemalloc.start()
        try:
            cut, _ = await anext(lines)
            after, cursor = await anext(lines)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (len(cut), after) == (LINE_MAX, "after")
        assert cursor.position == path.stat().st_size
        assert peak_bytes < 8 * CHUNK

    run(check())


def test_a_long_file_leaves_others_their_turn(path: Path) -> None:
    async def check() -> None:
        add(path, b"line\n" * CHUNK)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        task = asyncio.ensure_future(other())
        await take(follow(path, START), CHUNK)
        assert turns >= 4
        task.cancel()
        await asyncio.wait([task])

    run(check())


def test_a_directory_that_is_not_there_is_an_error(path: Path) -> None:
    async def check() -> None:
        with pytest.raises(OSError):
            await anext(follow(path / "log", START))

    run(check())


def test_descriptors_are_let_go(path: Path) -> None:
    async def check(count: Callable[[], int]) -> None:
        add(path, "one\n")
        before = count()
        lines = follow(path, START)
        await take(lines, 1)
        step = await waits(lines)
        step.cancel()
        await asyncio.wait([step])
        assert count() == before

    run(check(lambda: len(os.listdir("/proc/self/fd"))))
