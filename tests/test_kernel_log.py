# SPDX-License-Identifier: Apache-2.0
"""This test will read the kernel log, the real one and a file in its place, and try to forge lines in it."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsafe.errors import SourceLost
from mpsafed.signals import Cursor, Signal, SignalsLost, XidSeen
from mpsafed.sources import now_ns
from mpsafed.sources.kernel_journal import KernelJournal
from mpsafed.sources.kernel_log import KernelLog, PrintkClock, kernel_log
from requires import requires

PATIENCE_S = 60
KMSG: Final = Path("/dev/kmsg")
XID = "NVRM: Xid (PCI:0000:01:00): 13, pid=77, name=python, Graphics SM Warp Exception on (GPC 0, TPC 0, SM 0)"


def _may_use_the_real_one() -> bool:
    return os.access(KMSG, os.R_OK | os.W_OK)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kmsg"


def record(text: str, *, priority: int = 3, seq: int = 1, usec: int = 1_000_000, rest: str = "-") -> str:
    return f"{priority},{seq},{usec},{rest};{text}\n"


def add(path: Path, text: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)


def read(path: Path, start: Cursor | None, *, until: Callable[[list[Signal]], bool]) -> list[Signal]:
    """What a source that starts there emits, until there is enough."""
    return _run(_read(KernelLog(path, start), until))


def _run(work: Coroutine[Any, Any, list[Signal]]) -> list[Signal]:
    return asyncio.run(asyncio.wait_for(work, PATIENCE_S))


async def _read(log: KernelLog, until: Callable[[list[Signal]], bool]) -> list[Signal]:
    found: list[Signal] = []
    told: list[str] = []
    task = asyncio.ensure_future(log.run(found.append, told.append))
    while not until(found) and not task.done():
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    assert told == [os.fspath(log._path)]  # pyright: ignore[reportPrivateUsage] -- what it was made with
    return found


BEGINNING = Cursor("kernel-log", "absent", 0)
END = record(XID.replace("77", "99"), seq=9999)


def all_of(path: Path) -> list[Signal]:
    """What the file says, and the line behind it that ends the reading."""
    add(path, END)
    found = read(path, BEGINNING, until=lambda signals: _pids(signals)[-1:] == [99])
    return found[:-1]


def _pids(signals: list[Signal]) -> list[int | None]:
    return [signal.xid.pid for signal in signals if isinstance(signal, XidSeen)]


def test_an_xid_line_is_a_signal_with_its_time_and_place(path: Path) -> None:
    usec = time.monotonic_ns() // 1000
    add(path, record("Linux version 6", seq=0))
    add(path, record(XID, usec=usec))
    (signal,) = all_of(path)
    assert isinstance(signal, XidSeen)
    assert (signal.xid.xid, signal.xid.pid, signal.xid.pci) == (13, 77, "0000:01:00")
    assert signal.text == XID
    assert abs(signal.time_ns - time.time_ns()) < 60e9
    assert signal.cursor is not None
    assert signal.cursor.source == KernelLog.name


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(record(XID, priority=0o13), id="user facility"),
        pytest.param(record(XID, priority=11), id="facility 1"),
        pytest.param(record(XID, priority=30), id="daemon facility"),
        pytest.param(record(XID, priority=2**31), id="huge priority"),
        pytest.param(f"{XID}\n", id="no record"),
        pytest.param(f"-3,1,1,-;{XID}\n", id="negative priority"),
        pytest.param(f"3,1,-;{XID}\n", id="field missing"),
        pytest.param(f" 3,1,1,-;{XID}\n", id="continuation line"),
        pytest.param(f"{'3' * 11},1,1,-;{XID}\n", id="priority too long"),
        pytest.param(record(f"audit: name={XID}"), id="words of a user in a line of the kernel"),
        pytest.param(record(f"oom-kill: task_memcg=/{XID},task=x"), id="the name of a cgroup"),
        pytest.param(record(f"x{XID}"), id="not at the beginning"),
        pytest.param(record("python[77]: segfault\n KEY=" + XID), id="a dictionary line"),
        pytest.param(record("NVRM: loading NVIDIA UNIX x86_64 Kernel Module"), id="another line of the driver"),
        pytest.param(record("NVRM: Xid (PCI:"), id="cut off"),
        pytest.param(b"\xff\xfe,1,1,-;\n", id="no text"),
        pytest.param("\n\n;\n,,,;\n", id="nothing"),
    ],
)
def test_what_is_no_word_of_the_driver_does_not_count(path: Path, line: str | bytes) -> None:
    add(path, line)
    assert all_of(path) == []


@pytest.mark.parametrize("rest", ["-", "c", "-,caller=T123", "-,caller=C0"])
def test_forms_of_a_record(path: Path, rest: str) -> None:
    add(path, record(XID, rest=rest))
    assert _pids(all_of(path)) == [77]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60) | st.just(record(XID)), max_size=5))
def test_any_file_can_be_read(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.mktemp("any") / "kmsg"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    assert set(_pids(all_of(path))) <= {77}


def test_what_was_there_before_the_first_start_is_old(path: Path) -> None:
    add(path, record(XID))
    log = KernelLog(path, None)
    assert log.cursor.position == path.stat().st_size
    add(path, END)
    assert _pids(_run(_read(log, lambda signals: bool(signals)))) == [99]


def test_what_comes_while_nobody_reads_is_read_later(path: Path) -> None:
    add(path, record(XID.replace("77", "1")))
    (first,) = read(path, BEGINNING, until=lambda signals: bool(signals))
    add(path, record(XID.replace("77", "2")))
    add(path, record(XID.replace("77", "3")))
    assert _pids(read(path, first.cursor, until=lambda signals: len(signals) == 2)) == [2, 3]


def test_a_log_that_is_not_there_yet_is_read_from_its_beginning(path: Path) -> None:
    log = KernelLog(path, None)
    add(path, record(XID))
    assert _pids(_run(_read(log, lambda signals: bool(signals)))) == [77]


def test_a_log_that_nobody_can_read_is_lost(tmp_path: Path) -> None:
    with pytest.raises(SourceLost, match="is no regular file"):
        read(tmp_path, None, until=lambda _: False)


@pytest.mark.skipif(not _may_use_the_real_one(), reason="/dev/kmsg cannot be read and written")
def test_a_line_that_a_process_wrote_to_the_real_log_never_counts() -> None:
    """The kernel gives it a facility other than its own, whatever the process asked for."""
    log = KernelLog(KMSG, None)
    before = log.cursor.position
    for priority in ("", "<3>", "<0>", "<11>"):
        with KMSG.open("wb", buffering=0) as kmsg:
            kmsg.write(f"{priority}{XID.replace('python', 'mpsafe test, ignore')}\n".encode())
    signals = _run(_read(log, lambda _: log.cursor.position >= before + 4))
    assert [signal for signal in signals if isinstance(signal, XidSeen) and signal.xid.pid == 77] == []
    assert log.cursor.position >= before + 4, "all were read"


@pytest.mark.skipif(not _may_use_the_real_one(), reason="/dev/kmsg cannot be read and written")
def test_the_real_log_is_read_from_a_cursor() -> None:
    with KMSG.open("wb", buffering=0) as kmsg:
        kmsg.write(b"mpsafe test, ignore\n")
    end = KernelLog(KMSG, None).cursor
    assert end.position >= 0
    log = KernelLog(KMSG, Cursor(end.source, end.stream, end.position - 1))
    assert _run(_read(log, lambda _: log.cursor.position >= end.position)) == [], "one record, and none is lost"
    other_boot = KernelLog(KMSG, Cursor(end.source, "another boot", end.position + 1_000_000))
    signals = _run(_read(other_boot, lambda _: other_boot.cursor.stream == end.stream))
    assert not any(isinstance(signal, SignalsLost) for signal in signals)


def test_a_record_that_comes_while_one_waits_sets_the_clock() -> None:
    """However far printk's clock is from CLOCK_MONOTONIC."""
    clock = PrintkClock()
    before = now_ns()
    clock.arrived(5_000_000_000)
    after = now_ns()
    when = clock.time_ns(5_000_000_000)
    assert before <= when <= after
    assert clock.time_ns(4_000_000_000) == when - 1_000_000_000, "also for what came before it"


def test_until_a_record_has_come_the_clock_is_monotonic() -> None:
    before = now_ns()
    stamp = time.monotonic_ns()
    assert abs(PrintkClock().time_ns(stamp) - before) < PATIENCE_S * 1_000_000_000


def test_the_setting_says_which_log_it_is(path: Path) -> None:
    assert isinstance(kernel_log("journal", None), KernelJournal)
    assert isinstance(kernel_log(os.fspath(path), None), KernelLog)


@requires("root", "setpriv")
@pytest.mark.skipif(not KMSG.exists(), reason="/dev/kmsg is missing")
@pytest.mark.parametrize("may", [True, False])
def test_the_journal_stands_in_for_a_device_that_cannot_be_opened(may: bool) -> None:
    script = (
        "import os\n"
        "from mpsafed.sources.kernel_log import kernel_log\n"
        "try:\n"
        "    os.open('/dev/kmsg', os.O_RDONLY | os.O_NONBLOCK)\n"
        "except OSError:\n"
        "    opens = False\n"
        "else:\n"
        "    opens = True\n"
        "print(opens, type(kernel_log('/dev/kmsg', None)).__name__)\n"
    )
    drop = ["--bounding-set=-syslog,-dac_override,-sys_admin", "--reuid=65534", "--clear-groups", "--inh-caps=-all"]
    python = [*(["setpriv", *drop] if not may else []), sys.executable, "-c"]
    if subprocess.run([*python, "import mpsafed"], capture_output=True, check=False).returncode:
        pytest.skip("this Python is in a directory that other users may not enter")
    done = subprocess.run([*python, script], capture_output=True, text=True, check=True, env=os.environ)
    opens, which = done.stdout.split()
    assert which == ("KernelLog" if opens == "True" else "KernelJournal")


def test_a_cursor_of_the_journal_is_none_of_the_device(path: Path) -> None:
    """Or all of this boot would be read again where the setting is changed."""
    add(path, record(XID))
    assert KernelLog(path, Cursor("kernel-log", "journal s=1;i=2", 0)).cursor.position == path.stat().st_size
