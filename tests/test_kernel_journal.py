# SPDX-License-Identifier: Apache-2.0
"""This test will read the kernel's lines from a journal of its own journald's, and try to forge some."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Generator, Mapping
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from mpsafe.errors import SourceLost
from mpsafed.signals import Cursor, Signal
from mpsafed.sources.kernel_journal import KernelJournal, xid_of
from requires import requires

PATIENCE_S = 60
KMSG: Final = Path("/dev/kmsg")
JOURNALD: Final = Path("/usr/lib/systemd/systemd-journald")
XID = "NVRM: Xid (PCI:0000:01:00): 13, pid=77, name=python, Graphics SM Warp Exception on (GPC 0, TPC 0, SM 0)"
ENTRY: Mapping[str, object] = {
    "_TRANSPORT": "kernel",
    "SYSLOG_FACILITY": 0,
    "MESSAGE": XID,
    "__REALTIME_TIMESTAMP": 1_700_000_000_000_000,
}
CURSOR = Cursor("kernel-log", "journal s=1;i=2", 0)

START = """
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/systemd/journald.conf.d /run/log/journal
printf '[Journal]\\nAudit=no\\nStorage=volatile\\n' >/run/systemd/journald.conf.d/test.conf
exec /usr/lib/systemd/systemd-journald
"""


def test_an_entry_of_the_driver_is_a_signal_with_the_time_that_journald_gave_it() -> None:
    signal = xid_of(ENTRY, CURSOR)
    assert signal is not None
    assert (signal.xid.xid, signal.xid.pid, signal.text) == (13, 77, XID)
    assert signal.time_ns == 1_700_000_000_000_000_000
    assert signal.cursor == CURSOR


@pytest.mark.parametrize(
    "wrong",
    [
        {"_TRANSPORT": "journal"},
        {"_TRANSPORT": None},
        {"SYSLOG_FACILITY": 1},
        {"SYSLOG_FACILITY": "0"},
        {"SYSLOG_FACILITY": None},
        {"MESSAGE": f"x{XID}"},
        {"MESSAGE": XID.encode()},
        {"MESSAGE": [XID, XID]},
        {"MESSAGE": f"usb 1-1: name\n{XID}"},
        {"MESSAGE": None},
        {"__REALTIME_TIMESTAMP": None},
    ],
    ids=str,
)
def test_what_is_no_word_of_the_driver_does_not_count(wrong: Mapping[str, object]) -> None:
    assert xid_of({**ENTRY, **wrong}, CURSOR) is None


def test_a_journal_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    source = KernelJournal(None, str(tmp_path / "none"))
    assert source.cursor.stream == "journal of nothing"
    with pytest.raises(OSError):
        asyncio.run(source.run(lambda _: None, lambda _: None))


@pytest.mark.skipif(
    any(Path(each).is_dir() and os.listdir(each) for each in ("/run/log/journal", "/var/log/journal")),
    reason="this machine has a journal",
)
def test_a_machine_without_a_journal_is_told() -> None:
    with pytest.raises(SourceLost, match="there is no journal to read"):
        asyncio.run(KernelJournal(None).run(lambda _: None, lambda _: None))


@pytest.fixture
def journal() -> Generator[str, None, None]:
    """The journal of a journald that runs for this test, where nothing but it sees it."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", START]
    journald = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    directory = Path("/proc", str(journald.pid), "root", "run", "log", "journal")
    try:
        while not list(directory.glob("*/system.journal")):
            assert journald.poll() is None, "journald has ended"
        yield os.fspath(directory)
    finally:
        journald.kill()
        journald.wait()


def say(text: str) -> None:
    with KMSG.open("wb", buffering=0) as kmsg:
        kmsg.write(f"<3>{text}".encode())


async def hear(source: KernelJournal, enough: Callable[[], bool], *, do: Callable[[], None]) -> list[Signal]:
    """Runs the source, does something once it listens, and goes on until there is enough.

    A busy kernel may have lost a line before journald came to it: it is said again.
    """
    found: list[Signal] = []
    told: list[str] = []
    task = asyncio.ensure_future(source.run(found.append, told.append))
    async with asyncio.timeout(PATIENCE_S):
        while not told and not task.done():
            await asyncio.sleep(0.01)
        do()
        for turn in count(1):
            if enough() or task.done():
                break
            if turn % 500 == 0:
                say(XID)
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return found


@requires("namespaces")
@pytest.mark.skipif(not JOURNALD.exists(), reason="no systemd-journald")
@pytest.mark.skipif(not os.access(KMSG, os.W_OK), reason="/dev/kmsg cannot be written")
def test_a_line_that_a_process_wrote_is_passed_over(journal: str) -> None:
    """It is read, as the cursor shows, also by a source that starts where another one ended."""
    source = KernelJournal(None, journal)
    before = source.cursor
    assert asyncio.run(hear(source, lambda: source.cursor != before, do=lambda: say(XID))) == []
    again = KernelJournal(source.cursor, journal)
    assert again.cursor == source.cursor
    say(XID)
    assert asyncio.run(hear(again, lambda: again.cursor != source.cursor, do=lambda: None)) == []
