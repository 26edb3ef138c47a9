# SPDX-License-Identifier: Apache-2.0
"""This test will see processes be born and end, and be told of each end once, whoever else tells it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsafe.errors import SourceLost
from mpsafe.model import Identity
from mpsafed.processes import identify
from mpsafed.signals import ClientGone, Signal, SignalsLost
from mpsafed.sources.process_ends import ProcessEnds, how_it_ended
from mpsafed.sources.process_events import ProcessEvents
from requires import requires

PATIENCE_S = 60
WAITS = "import sys; sys.stdin.read()"


@dataclass
class Heard:
    """What the sources have said."""

    signals: list[Signal] = field(default_factory=lambda: list[Signal]())
    births: list[tuple[int, int]] = field(default_factory=lambda: list[tuple[int, int]]())
    missed: int = 0

    def ends(self) -> list[tuple[Identity, str]]:
        return [(each.client, each.how) for each in self.signals if isinstance(each, ClientGone)]


@asynccontextmanager
async def listening(heard: Heard) -> AsyncGenerator[ProcessEnds]:
    """Both sources of ends, as the daemon has them; skips where the kernel does not tell."""
    ends = ProcessEnds(heard.signals.append)

    def missed() -> None:
        heard.missed += 1

    def born(parent: int, child: int) -> None:
        heard.births.append((parent, child))

    events = ProcessEvents(ends, parents=lambda: {os.getpid()}, born=born, missed=missed)
    told: list[str] = []
    task = asyncio.ensure_future(events.run(heard.signals.append, told.append))
    try:
        await until(lambda: bool(told) or task.done())
        if task.done() and isinstance(lost := task.exception(), SourceLost):
            pytest.skip(str(lost))
        yield ends
    finally:
        task.cancel()
        await asyncio.wait([task])
        ends.close()


async def until(told: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not told():
            await asyncio.sleep(0)


def waiting(script: str = WAITS) -> "subprocess.Popen[bytes]":
    """A process that does what it does once its stdin ends."""
    return subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)


def identity_of(process: "subprocess.Popen[bytes]") -> Identity:
    found = identify(process.pid)
    assert found is not None
    return found


def let_go(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.close()


@requires("root")
@pytest.mark.parametrize(
    ("script", "how"),
    [
        (WAITS, "exit status 0"),
        (f"{WAITS}; sys.exit(3)", "exit status 3"),
        (f"{WAITS}; import os; os.kill(os.getpid(), 11)", "signal 11 (SIGSEGV)"),
        (
            f"{WAITS}; import os, threading; t = threading.Thread(target=lambda: os._exit(7)); t.start(); t.join()",
            "exit status 7",
        ),
    ],
)
def test_an_end_is_told_once_and_how(script: str, how: str) -> None:
    async def scenario() -> None:
        heard = Heard()
        async with listening(heard) as ends:
            process = waiting(script)
            ends.watch(identity := identity_of(process))
            ends.watch(identity)
            let_go(process)
            await until(lambda: bool(heard.ends()))
            after = waiting("")
            ends.watch(identity_of(after))
            let_go(after)
            await until(lambda: len(heard.ends()) > 1)
            assert [end for end in heard.ends() if end[0] == identity] == [(identity, how)]
            process.wait()
            after.wait()

    asyncio.run(scenario())


@requires("root")
def test_a_first_thread_that_ends_is_no_end_of_its_process() -> None:
    """Its process goes on; only the pidfd knows."""
    script = (
        "import ctypes, os, sys, threading\n"
        "def last():\n"
        "    while 'Z' not in open(f'/proc/{os.getpid()}/stat').read().rpartition(')')[2].split()[0]: pass\n"
        "    print('alone', flush=True)\n"
        "    sys.stdin.read()\n"
        "    os._exit(5)\n"
        "threading.Thread(target=last).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )

    async def scenario() -> None:
        heard = Heard()
        async with listening(heard) as ends:
            command = [sys.executable, "-c", script]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            ends.watch(identity := identity_of(process))
            assert process.stdout is not None
            alone = await asyncio.get_running_loop().run_in_executor(None, process.stdout.readline)
            assert alone == b"alone\n"
            other = waiting("")
            ends.watch(identity_of(other))
            let_go(other)
            await until(lambda: bool(heard.ends()))
            assert [end[0].pid for end in heard.ends()] == [other.pid]
            let_go(process)
            await until(lambda: len(heard.ends()) > 1)
            assert heard.ends()[1] == (identity, "exit status 5")
            process.wait()
            other.wait()
            process.stdout.close()

    asyncio.run(scenario())


@requires("root")
def test_births_of_watched_parents_are_told_and_no_threads() -> None:
    async def scenario() -> None:
        heard = Heard()
        async with listening(heard):
            children = [waiting("") for _ in range(3)]
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
            await until(lambda: len(heard.births) >= 3)
            assert heard.births == [(os.getpid(), child.pid) for child in children]
            for child in children:
                let_go(child)
                child.wait()

    asyncio.run(scenario())


@requires("root")
def test_what_the_kernel_had_no_room_for_is_counted_and_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        heard = Heard()
        async with listening(heard):  # or it is skipped with the reason
            pass
        monkeypatch.setattr("mpsafed.sources.process_events.BUFFER_BYTES", 1)
        async with listening(heard):
            for _ in range(30):
                subprocess.run(["/bin/sh", "-c", "(:); (:); (:); (:); (:)"], check=True)
            await until(lambda: heard.missed > 0)
            await until(lambda: any(isinstance(each, SignalsLost) for each in heard.signals))

    asyncio.run(scenario())


def test_without_process_events_an_end_is_told_all_the_same() -> None:
    async def scenario() -> None:
        heard = Heard()
        ends = ProcessEnds(heard.signals.append)
        process = waiting()
        ends.watch(identity := identity_of(process))
        let_go(process)
        await until(lambda: bool(heard.ends()))
        assert heard.ends() == [(identity, "the process has ended")]
        process.wait()
        ends.watch(identity)
        assert len(heard.ends()) == 2, "who has ended already is told at once"
        ends.close()

    asyncio.run(scenario())


def test_a_word_that_does_not_come_is_not_waited_for_long() -> None:
    async def scenario() -> None:
        heard = Heard()
        ends = ProcessEnds(heard.signals.append)
        ends.heard = True
        process = waiting()
        ends.watch(identity := identity_of(process))
        let_go(process)
        await until(lambda: bool(heard.ends()))
        assert heard.ends() == [(identity, "the process has ended")]
        process.wait()

    asyncio.run(scenario())


@requires("setpriv")
@requires("root")
def test_without_the_right_to_listen_it_says_so() -> None:
    script = (
        "import asyncio\n"
        "from mpsafed.sources.process_ends import ProcessEnds\n"
        "from mpsafed.sources.process_events import ProcessEvents\n"
        "source = ProcessEvents(ProcessEnds(print), parents=set, born=print, missed=print)\n"
        "try:\n"
        "    asyncio.run(source.run(print, print))\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    command = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    reason = "process-events: it wants CAP_NET_ADMIN; ends of clients are seen, not how"
    assert done.stdout.strip() == f"SourceLost {reason}", done.stderr


@given(st.integers(0, 0xFFFFFFFF))
def test_any_wait_status_has_words(status: int) -> None:
    assert how_it_ended(status)


def test_words_of_a_wait_status() -> None:
    assert how_it_ended(256) == "exit status 1"
    assert how_it_ended(11) == "signal 11 (SIGSEGV)"
    assert how_it_ended(11 | 128) == "signal 11 (SIGSEGV)", "with a core dump"
    assert how_it_ended(signal.SIGRTMIN + 1) == f"signal {signal.SIGRTMIN + 1}"
