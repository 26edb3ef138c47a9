# SPDX-License-Identifier: Apache-2.0
"""This test will read MPS's logs, as real ones and the software host write them, through rotation and restarts."""

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsafe.model import SourceState
from mpsafe.soft.host import SoftwareHost
from mpsafed.signals import ClientConnected, Cursor, FaultMet, ServerChanged, Signal
from mpsafed.sources import Source, keep_running
from mpsafed.sources.mps_logs import ControlLog, ServerLog, local_time_ns
from requires import requires
from tenant_process import Tenant
from tools.qualify.finding import Qualification

PATIENCE_S = 60
STAMP = "2026-11-20 13:14:15.678"
WHEN_NS = int(datetime(2026, 11, 20, 13, 14, 15, 678000).timestamp() * 1000) * 1_000_000


def line(text: str, *, who: str = "Server", pid: int = 500, stamp: str = STAMP) -> str:
    return f"[{stamp} {who} {pid:>5}] {text}\n"


END = line("NEW SERVER 99999: Ready", who="Control") + line("Client {PID: 99999, Context ID: 0} connected", pid=99998)


def read(source: Source, until: Callable[[list[Signal]], bool]) -> list[Signal]:
    """What the source emits until there is enough."""

    async def reading() -> list[Signal]:
        found: list[Signal] = []
        task = asyncio.ensure_future(source.run(found.append, lambda _: None))
        while not until(found) and not task.done():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        return found

    return asyncio.run(asyncio.wait_for(reading(), PATIENCE_S))


def _ends(signal: Signal) -> bool:
    return (isinstance(signal, ServerChanged) and signal.server == 99999) or (
        isinstance(signal, ClientConnected) and signal.pid == 99999
    )


def said(kind: type[ControlLog] | type[ServerLog], directory: Path, text: str | bytes) -> list[Signal]:
    """What the log means that holds this text."""
    name = "control.log" if kind is ControlLog else "server.log"
    (directory / name).write_bytes((text.encode() if isinstance(text, str) else text) + END.encode())
    source = kind(directory, Cursor(kind.name, "absent", 0))
    return read(source, lambda signals: any(map(_ends, signals)))[:-1]


def test_births_and_deaths_of_servers(tmp_path: Path) -> None:
    text = "".join(
        line(words, who="Control", pid=1)
        for words in (
            "Starting control daemon using socket /tmp/nvidia-mps/control",
            "Starting new server 500 for user 1000",
            "NEW SERVER 500: Ready",
            "NEW CLIENT 77 from user 1000: Server already exists",
            "Server 500 exited with status 0",
            "Server 501 exited with status -15",
        )
    )
    signals = said(ControlLog, tmp_path, text)
    assert all(isinstance(signal, ServerChanged) for signal in signals)
    assert [(s.server, s.state, s.uid) for s in signals if isinstance(s, ServerChanged)] == [
        (500, "initializing", 1000),
        (500, "active", None),
        (500, "gone", None),
        (501, "gone", None),
    ]
    assert {signal.time_ns for signal in signals} == {WHEN_NS}


def test_clients_states_and_faults(tmp_path: Path) -> None:
    text = "".join(
        line(words)
        for words in (
            "Server status changed to INITIALIZING",
            "Server status changed to ACTIVE",
            "Received new client request for {PID: 77, Context ID: 0}",
            "Client {PID: 77, Context ID: 3} connected",
            "Server status changed to FAULT",
            "Client {PID: 77, Context: 3} encountered a fatal GPU error.",
            "Client process 77 disconnected",
        )
    )
    starting, active, connected, fault, met = said(ServerLog, tmp_path, text)
    assert [s.state for s in (starting, active, fault) if isinstance(s, ServerChanged)] == [
        "initializing",
        "active",
        "fault",
    ]
    assert isinstance(connected, ClientConnected)
    assert (connected.server, connected.pid) == (500, 77)
    assert isinstance(met, FaultMet)
    assert (met.server, met.pid, met.time_ns) == (500, 77, WHEN_NS)
    assert "encountered a fatal GPU error" in met.text


def test_a_server_that_makes_its_contexts_anew_after_a_fault_is_active(tmp_path: Path) -> None:
    """580.159.04 writes no status; the same line at a start says nothing, and that of another server neither."""
    anew = line("Creating server context on device 0 (NVIDIA H100 80GB HBM3)")
    fatal = line("Server is handling a fatal GPU error.")
    text = anew + fatal + anew.replace("500]", "501]") + anew + anew
    assert [s.state for s in said(ServerLog, tmp_path, text) if isinstance(s, ServerChanged)] == ["fault", "active"]


def test_the_logs_of_real_faults_are_understood(tmp_path: Path) -> None:
    """What MPS servers on real GPUs have written: tools/qualify/results."""
    seen = 0
    for path in sorted((Path(__file__).parents[1] / "tools" / "qualify" / "results").glob("*.json")):
        for name, finding in Qualification.load(path).findings.items():
            lines = finding.raw.get("logs", {}).get("server.log", [])
            if not name.startswith(("mps_fault_", "mps_whose_")) or not lines:
                continue
            text = "".join(f"{one}\n" for one in lines)
            signals = said(ServerLog, tmp_path, text)
            states = [s.state for s in signals if isinstance(s, ServerChanged)]
            assert states == (["fault", "active"] if name.startswith("mps_fault_") else ["fault"]), name
            connected = {s.pid for s in signals if isinstance(s, ClientConnected)}
            assert {s.pid for s in signals if isinstance(s, FaultMet)} <= connected, name
            memory = "misaligned" not in name and "trap" not in name
            assert any(isinstance(s, FaultMet) for s in signals) == memory, name
            seen += 1
    assert seen >= 15


def test_each_control_daemon_has_sources_of_its_own(tmp_path: Path) -> None:
    """Their signals say whose they are and who can have written them."""
    assert ControlLog(tmp_path, None).name == ControlLog.name == "mps-control-log"
    assert ServerLog(tmp_path, None, control="uid-1000").name == "mps-server-log uid-1000"
    assert ServerLog.name_of("uid-1000") == "mps-server-log uid-1000"
    (tmp_path / "control.log").write_text(line("Starting new server 500 for user 1000", who="Control") + END)
    text = line("Client {PID: 77, Context ID: 3} connected") + line("Server status changed to FAULT")
    (tmp_path / "server.log").write_text(text + line("Client {PID: 77, Context: 3} encountered a fatal GPU error."))
    beginning = Cursor("", "absent", 0)
    writers = iter([1000, None, 1000])
    control = ControlLog(tmp_path, beginning, control="uid-1000", writer=lambda: None)
    server = ServerLog(tmp_path, beginning, control="uid-1000", writer=lambda: next(writers))
    (started, _) = read(control, lambda signals: len(signals) == 2)
    connected, fault, met = read(server, lambda signals: len(signals) == 3)
    assert isinstance(started, ServerChanged)
    assert (started.control, started.writer) == ("uid-1000", None)
    assert isinstance(connected, ClientConnected)
    assert (connected.control, connected.writer) == ("uid-1000", 1000)
    assert isinstance(fault, ServerChanged)
    assert (fault.control, fault.writer) == ("uid-1000", None)
    assert isinstance(met, FaultMet)
    assert met.writer == 1000


def test_a_line_that_is_too_long_is_no_signal(tmp_path: Path) -> None:
    long = line("Client {PID: 77, Context: 3} encountered a fatal GPU error." + "x" * 60_000)
    (signal,) = said(ServerLog, tmp_path, long + line("Server is handling a fatal GPU error."))
    assert isinstance(signal, ServerChanged)


@pytest.mark.parametrize(
    "text",
    [
        "Server status changed to FAULT\n",
        line("Server status changed to BROKEN"),
        line("Server status changed to FAULT now"),
        line("the client says: Server status changed to FAULT"),
        line("Client {PID: x, Context ID: 0} connected"),
        line("Client {PID: 12345678901, Context ID: 0} connected"),
        line("Client {PID: 1, Context ID: 0} connected and more"),
        line("Server status changed to FAULT", who="Client"),
        line("Server status changed to FAULT", stamp="yesterday"),
        f"x{line('Server status changed to FAULT')}",
        line("name\rfoo").rstrip("\n") + line("Server status changed to FAULT").replace("[", "\r[", 1),
        b"\xff\xfe\n",
    ],
)
def test_what_is_not_recognised_is_no_signal(tmp_path: Path, text: str | bytes) -> None:
    assert said(ServerLog, tmp_path, text) == []


def test_a_time_that_is_none_is_now(tmp_path: Path) -> None:
    (signal,) = said(ServerLog, tmp_path, line("Server status changed to FAULT", stamp="2026-99-99 99:99:99.999"))
    assert signal.time_ns > WHEN_NS or signal.time_ns > 0


@pytest.mark.parametrize(("hour", "utc_hour"), [(0, 0), (1, 1), (2, 1)])
def test_in_an_hour_that_comes_twice_a_line_is_of_just_now(
    monkeypatch: pytest.MonkeyPatch, hour: int, utc_hour: int
) -> None:
    """Summer time ends at 01:00 UTC: 02:30 local time is 00:30 UTC, and an hour later 01:30 UTC."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        now_ns = int(datetime(2026, 10, 25, hour, 31, tzinfo=UTC).timestamp()) * 1_000_000_000
        found_ns = local_time_ns("2026-10-25 02:30:00.000", now_ns=now_ns)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert datetime.fromtimestamp(found_ns / 1e9, UTC) == datetime(2026, 10, 25, utc_hour, 30, tzinfo=UTC)


@pytest.mark.parametrize("who", ["Legacy Server", "Server", "Other"])
def test_forms_of_older_drivers(tmp_path: Path, who: str) -> None:
    (signal,) = said(ServerLog, tmp_path, line("Server status changed to FAULT", who=who))
    assert isinstance(signal, ServerChanged)
    assert signal.server == 500


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=80),
    st.sampled_from([ControlLog, ServerLog]),
)
def test_any_line_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, text: str, kind: type[ControlLog] | type[ServerLog]
) -> None:
    for whole in (f"{text}\n", line(text)):
        assert len(said(kind, tmp_path_factory.mktemp("any"), whole)) <= 1


def test_a_rotated_log_is_followed_without_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the daemon runs it: the source ends with its file and is started again on the new one."""
    monkeypatch.setattr("mpsafed.sources.RETRY_SECONDS", 0)
    path = tmp_path / "server.log"
    states: list[SourceState] = []

    async def rotating() -> list[int]:
        found: list[Signal] = []
        source = ServerLog(tmp_path, None)
        task = asyncio.ensure_future(keep_running(source, found.append, states.append))
        for round_ in range(5):
            with path.open("a") as log:
                for pid in range(3):
                    log.write(line(f"Client {{PID: {10 * round_ + pid}, Context ID: 0}} connected"))
                    log.flush()
            while len(found) < 3 * round_ + 3:
                await asyncio.sleep(0)
            path.rename(tmp_path / f"server.log.{round_}")
        task.cancel()
        await asyncio.wait([task])
        return [signal.pid for signal in found if isinstance(signal, ClientConnected)]

    pids = asyncio.run(asyncio.wait_for(rotating(), PATIENCE_S))
    assert pids == [10 * round_ + pid for round_ in range(5) for pid in range(3)]
    assert {state.detail for state in states if not state.alive} == {"not seen yet"}


def test_a_source_that_cannot_read_says_so_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpsafed.sources.RETRY_SECONDS", 0)
    directory = tmp_path / "log"
    states: list[SourceState] = []

    async def coming_back() -> None:
        found: list[Signal] = []
        task = asyncio.ensure_future(keep_running(ServerLog(directory, None), found.append, states.append))
        while not any("No such file" in state.detail for state in states):
            await asyncio.sleep(0)
        directory.mkdir()
        (directory / "server.log").write_text(line("Server status changed to FAULT"))
        while not found:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(asyncio.wait_for(coming_back(), PATIENCE_S))
    assert not any(state.alive for state in states[:-1]), "it is not alive before it can read"
    assert states[-1] == SourceState(ServerLog.name, True, os.fspath(directory / "server.log"))


@requires("soft")
def test_the_software_hosts_logs_are_understood(software_host: SoftwareHost) -> None:
    with Tenant(software_host, "chat") as chat:
        assert chat.do("wild_write") == "error 700"
        chat.wait()
        beginning = Cursor("", "absent", 0)
        control = read(ControlLog(software_host.log_directory, beginning), lambda signals: len(signals) == 2)
        server = read(ServerLog(software_host.log_directory, beginning), lambda signals: len(signals) >= 3)
    assert [s.state for s in control if isinstance(s, ServerChanged)] == ["initializing", "active"]
    assert [type(signal) for signal in server[:3]] == [ClientConnected, FaultMet, ServerChanged]
