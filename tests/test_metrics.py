# SPDX-License-Identifier: Apache-2.0
"""This test will scrape the metrics as Prometheus does, and badly."""

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser

from contract.mps_rig import eventually
from mpsafe.model import (
    Action,
    ActionState,
    Blame,
    Client,
    ControlDaemon,
    ControlState,
    Event,
    Fault,
    Figures,
    Identity,
    Limits,
    Server,
    SourceState,
    Tenant,
)
from mpsafed import metrics
from mpsafed.metrics import Metrics, Overview, server

PATIENCE_S: Final = 60.0
WHO: Final = Identity(11, 110)
FAULT: Final = Event(
    7, 7, 1_000_000_000, "fault", "open", "words", device="GPU-1", fault=Fault("sm", absorbed=False, xid=13),
    blame=Blame(WHO, "python", "embed"), entered_ns=1_000_400_000,
)  # fmt: skip


def control(name: str, state: ControlState = "running", drift: tuple[str, ...] = ()) -> ControlDaemon:
    return ControlDaemon(name, 1, "/p", "/l", None, state, "v2", True, Limits(), Limits(), list(drift), "", 1)


@pytest.fixture
def path(place: Path) -> Path:
    return place / "metrics"


@pytest.fixture
def counted(path: Path) -> Iterator[Metrics]:
    served = metrics.serve(os.fspath(path))
    yield served
    served.close()


def connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE_S)
    sock.connect(os.fspath(path))
    return sock


def answer(sock: socket.socket, accept: str = "application/openmetrics-text") -> tuple[str, str]:
    """Asks as HTTP/1.1; the head of the answer and its body."""
    sock.sendall(f"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n".encode())
    found = b""
    while chunk := sock.recv(65536):
        found += chunk
    head, _, body = found.decode().partition("\r\n\r\n")
    return head, body


def scrape(path: Path) -> dict[tuple[str, ...], float]:
    """Values by sample name and label values, in the order of the labels; OpenMetrics' own parser reads the answer."""
    with connected(path) as sock:
        head, body = answer(sock)
    assert head.startswith("HTTP/1.0 200")
    assert "application/openmetrics-text" in head
    families: Iterator[Metric] = parser.text_string_to_metric_families(body)  # type: ignore[no-untyped-call] # it has no types
    return {
        (sample.name.removeprefix("mpsafe_"), *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def test_signals_are_counted(counted: Metrics, path: Path) -> None:
    for name in ("driver", "driver", "kernel_log"):
        counted.signal(name)
    counted.lost(3)
    counted.lost(4)
    found = scrape(path)
    assert found["signals_total", "driver"] == 2
    assert found["signals_total", "kernel_log"] == 1
    assert found["signals_lost_total",] == 7


def test_what_an_entry_adds_is_counted_once(counted: Metrics, path: Path) -> None:
    fence = Action("fence", WHO, "requested", "")
    stream = [FAULT, replace(FAULT, actions=[fence])]
    states: tuple[ActionState, ...] = ("frozen", "cut", "terminating", "proven", "killed")
    stream += [replace(FAULT, actions=[replace(fence, state=state)]) for state in states]
    stream[-1] = replace(stream[-1], phase="closed")
    for before, event in zip([None, *stream], stream, strict=False):
        counted.entry(event, before)
    found = scrape(path)
    assert found["events_total", "sm", "fault"] == 1
    assert found["xids_total", "GPU-1", "13"] == 1
    assert (found["fence_proofs_total", "proven"], found["fence_proofs_total", "assumed"]) == (1, 0)
    assert (found["fences_total", "killed"], found["fences_total", "failed"]) == (1, 0)
    assert (found["blames_total", "known"], found["blames_total", "unknown"]) == (1, 0)
    assert found["decision_seconds_count",] == 1
    assert found["decision_seconds_sum",] == pytest.approx(0.0004)
    assert (found["decision_seconds_bucket", "0.00025"], found["decision_seconds_bucket", "0.0005"]) == (0, 1)


def test_an_xid_that_comes_later_and_a_restart_without_blame(counted: Metrics, path: Path) -> None:
    first = replace(FAULT, blame=Blame(), fault=Fault("sm", absorbed=False))
    second = replace(first, fault=FAULT.fault)
    restart = Action("restart_server", None, "requested", "")
    stream = [first, second, replace(second, actions=[restart])]
    stream.append(replace(second, actions=[replace(restart, state="failed")], phase="closed"))
    for before, event in zip([None, *stream], stream, strict=False):
        counted.entry(event, before)
    found = scrape(path)
    assert found["xids_total", "GPU-1", "13"] == 1
    assert (found["server_restarts_total", "done"], found["server_restarts_total", "failed"]) == (0, 1)
    assert (found["blames_total", "known"], found["blames_total", "unknown"]) == (0, 1)


def test_what_a_log_can_name_makes_no_label(counted: Metrics, path: Path) -> None:
    """Numbers that are no Xid are one series, however many there are."""
    for xid in range(100_000, 100_100):
        counted.entry(replace(FAULT, fault=Fault("other", absorbed=False, xid=xid), device=None))
    xids = {key: value for key, value in scrape(path).items() if key[0] == "xids_total"}
    assert xids == {("xids_total", "unknown", "other"): 100}


def test_a_clock_that_was_set_back_is_no_negative_latency(counted: Metrics, path: Path) -> None:
    counted.entry(replace(FAULT, entered_ns=1, actions=[Action("note", None, "done", "")]))
    assert scrape(path)["decision_seconds_sum",] == 0


def test_the_host_as_it_was_told_last(counted: Metrics, path: Path) -> None:
    one, two = control("uid-1"), control("uid-2", state="failed", drift=("100 %, declared 50 %",))
    clients = [
        Client(WHO, 1, "python", 500, "embed", "connected"),
        Client(Identity(12, 120), 1, "python", 500, None, "gone"),
    ]
    counted.source(SourceState("driver", True, "mode absorb"))
    counted.source(SourceState("nvml", False, "gone"))
    counted.overview(
        Overview(
            controls=[one, two],
            servers=[Server(500, 1, "active", 1, "uid-1"), Server(501, 1, "fault", 0, "uid-1")],
            clients=clients,
            tenants=[
                Tenant("embed", 1, "fenced", 1, [WHO], Figures(queue=4, in_flight=3, latency_ns=5_000_000)),
                Tenant("chat", 2, "absent", 0, []),
            ],
            beat_ns=time.monotonic_ns() - 2_000_000_000,
        )
    )
    found = scrape(path)
    assert (found["source_alive", "driver"], found["source_alive", "nvml"]) == (1, 0)
    assert (found["control_running", "uid-1"], found["control_running", "uid-2"]) == (1, 0)
    assert (found["limits_drift", "uid-1"], found["limits_drift", "uid-2"]) == (0, 1)
    assert (found["clients", "uid-1"], found["clients", "uid-2"]) == (1, 0)
    assert (found["servers", "uid-1", "active"], found["servers", "uid-1", "fault"]) == (1, 1)
    assert found["servers", "uid-2", "active"] == 0
    assert {state: found["tenant_health", state, "embed"] for state in ("healthy", "fenced")} == {
        "healthy": 0, "fenced": 1,
    }  # fmt: skip
    assert found["tenant_health", "absent", "chat"] == 1
    assert [found[f"tenant_{name}", "embed"] for name in ("in_flight", "queue", "latency_seconds")] == [3, 4, 0.005]
    assert found["tenant_queue", "chat"] == 0, "it reports nothing"
    assert 2 <= found["driver_heartbeat_age_seconds",] < PATIENCE_S
    counted.overview(Overview())
    found = scrape(path)
    assert not [key for key in found if key[0] in ("clients", "tenant_health", "driver_heartbeat_age_seconds")]


def test_prometheus_text_is_had_too(counted: Metrics, path: Path) -> None:
    counted.signal("driver")
    with connected(path) as sock:
        head, body = answer(sock, "text/plain")
    assert "text/plain" in head
    assert 'mpsafe_signals_total{source="driver"} 1.0' in body


@pytest.mark.parametrize(
    "sent", [b"", b"\xff" * 100_000 + b"\n", b"GET\n", b"POST /x HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n"]
)
def test_whoever_misbehaves_is_let_go_and_the_next_is_served(
    counted: Metrics, path: Path, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "DEADLINE_S", 0.05)
    with connected(path) as sock:
        try:
            sock.sendall(sent)
            while sock.recv(65536):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
    monkeypatch.undo()
    counted.signal("driver")
    assert scrape(path)["signals_total", "driver"] == 1


def test_a_slow_scraper_costs_its_deadline_and_no_descriptor_more(
    counted: Metrics, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many that send nothing wait in the kernel, where they cost the daemon nothing, and are hung up on in turn."""
    monkeypatch.setattr(server, "DEADLINE_S", 0.05)
    waiting = [connected(path) for _ in range(8)]
    before = len(os.listdir("/proc/self/fd"))
    counted.signal("driver")
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    for sock in waiting:
        assert sock.recv(100) == b""
        sock.close()


def test_closing_waits_for_no_scraper(path: Path) -> None:
    """With the deadline in the far future a scraper that is silent is hung up on."""
    before = threading.active_count()
    served = metrics.serve(os.fspath(path))
    with connected(path) as served_now, connected(path):
        served_now.sendall(b"GET /")
        served.close()
        eventually(lambda: threading.active_count() <= before, "nobody serves any more")
    assert not path.exists()


def test_what_a_dead_daemon_left_makes_room(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    served = metrics.serve(os.fspath(path))
    assert path.stat().st_mode & 0o777 == 0o666
    assert ("signals_lost_total",) in scrape(path)
    with pytest.raises(OSError, match="another program listens there"):
        metrics.serve(os.fspath(path))
    served.close()


def test_a_file_is_not_taken_away(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(OSError, match="already in use"):
        metrics.serve(os.fspath(path))
    assert path.read_text() == "mine"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_loopback_port_is_served(host: str) -> None:
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host.strip("[]"), 0))
            port = probe.getsockname()[1]
    except OSError as error:
        pytest.skip(f"no {host}: {error.strerror}")
    served = metrics.serve(f"{host}:{port}")
    with socket.create_connection((host.strip("[]"), port), timeout=PATIENCE_S) as sock:
        head, body = answer(sock)
    served.close()
    assert head.startswith("HTTP/1.0 200")
    assert body.endswith("# EOF\n")


def test_a_port_that_there_is_not_is_refused() -> None:
    with pytest.raises(OSError, match="expected a port up to 65535, got 99999") as refused:
        metrics.serve("127.0.0.1:99999")
    assert refused.value.errno == errno.EINVAL


def test_without_a_place_to_listen_nothing_is_imported() -> None:
    script = """
import sys
from mpsafe.model import Event, SourceState
from mpsafed import metrics
nothing = metrics.serve("")
nothing.signal("driver"); nothing.lost(1); nothing.entry(Event(1, 1, 1, "exit", "open", "words"))
nothing.source(SourceState("driver", True, "")); nothing.overview(metrics.Overview()); nothing.close()
assert not {"prometheus_client", "wsgiref", "http.server"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
