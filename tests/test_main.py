# SPDX-License-Identifier: Apache-2.0
"""This test will start and stop the daemon in every way that an administrator and systemd do."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from as_user import as_user
from daemon_process import Mpsafed
from mpsafe.client import Client
from mpsafe.errors import DaemonUnreachable
from mpsafe.soft.host import SoftwareHost
from requires import requires
from tenant_process import Tenant

PATIENCE_S = 60.0


def mpsafed_program(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    return subprocess.run(
        [sys.executable, "-m", "mpsafed.main", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | more,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def config(place: Path, more: str = "") -> Path:
    path = place / "mpsafe.toml"
    path.write_text(f"""
[daemon]
socket = "{place}/varlink"
state_directory = "{place}/state"
[sources]
kernel_log = "{place}/kmsg"
[mps]
control = "{place}/no-such-program"
log_directory = "{place}/log"
{more}""")
    return path


def test_a_configuration_is_checked(place: Path) -> None:
    done = mpsafed_program("--check-config", "--config", config(place, '[[tenant]]\nname = "chat"\n'))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{place}/mpsafe.toml: 1 tenants, nothing wrong\n"
    assert not (place / "state").exists(), "checking does nothing"


@pytest.mark.parametrize("check", [True, False])
def test_a_wrong_configuration_cannot_run(place: Path, check: bool) -> None:
    arguments = ["--check-config"] if check else []
    done = mpsafed_program(*arguments, "--config", config(place, "[tenants]\n"))
    assert (done.returncode, done.stdout) == (77, "")
    assert done.stderr.startswith(f"mpsafed: {place}/mpsafe.toml: unknown table 'tenants'; did you mean tenant?\n  ")
    assert "Traceback" not in done.stderr


def test_unknown_arguments(place: Path) -> None:
    assert mpsafed_program("--frobnicate").returncode == 2


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ('[daemon]\nstate_directory = "/dev/null/state"\n', "/dev/null"),
        (f'[daemon]\nsocket = "/tmp/{"x" * 200}"\n', "socket"),
        ('[daemon]\nsocket = "/dev/null/socket"\n', "/dev/null"),
    ],
)
def test_a_host_that_refuses_is_told_in_a_sentence(place: Path, more: str, reason: str) -> None:
    path = config(place)
    (place / "mpsafe.toml.d").mkdir()
    (place / "mpsafe.toml.d" / "a.toml").write_text(more)
    done = mpsafed_program("--config", path)
    assert done.returncode == 77
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_in_the_place_of_the_socket_is_not_deleted(place: Path) -> None:
    (place / "varlink").write_text("precious")
    done = mpsafed_program("--config", config(place))
    assert done.returncode == 77
    assert (place / "varlink").read_text() == "precious"


@requires("soft")
def test_a_second_daemon_does_nothing(mpsafed: Mpsafed) -> None:
    """Neither to the state, nor to the host: it says who is there and ends."""
    pid = mpsafed.client.describe().pid
    state = mpsafed.state.read_bytes()
    inode = mpsafed.state.stat().st_ino
    done = subprocess.run(
        [sys.executable, "-m", "mpsafed.main", "--config", mpsafed.config],
        env=mpsafed.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 77
    assert done.stderr == (
        f"mpsafed: another process answers on {mpsafed.socket}\n"
        "  stop it with: systemctl stop mpsafed.socket mpsafed.service\n"
    )
    assert mpsafed.state.read_bytes() == state
    assert mpsafed.state.stat().st_ino == inode
    assert mpsafed.client.describe().pid == pid


HEIR = """
import os, socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
if os.fork() == 0:
    time.sleep(1)
"""


@requires("soft")
def test_a_child_of_a_dead_daemon_that_still_has_its_socket_is_waited_for(mpsafed: Mpsafed) -> None:
    mpsafed.kill()
    os.unlink(mpsafed.socket)
    subprocess.run([sys.executable, "-c", HEIR, mpsafed.socket], check=True)
    mpsafed.client.close()
    mpsafed.start(ready_for="calls")
    assert mpsafed.client.describe().pid == mpsafed.pid


@requires("soft")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_told(mpsafed: Mpsafed, number: signal.Signals) -> None:
    with mpsafed.client.attach("chat"), Client(mpsafed.socket) as watcher:
        stream = watcher.watch(patience_s=0)
        next(stream)
        mpsafed.process.send_signal(number)
        assert mpsafed.process.wait(PATIENCE_S) == 0
        with pytest.raises(DaemonUnreachable):
            next(stream)
    assert "Traceback" not in mpsafed.errors.read_text()
    mpsafed.start()
    assert mpsafed.client.describe().acting


@requires("soft")
def test_it_stops_in_the_middle_of_a_fence_which_the_next_one_ends(
    mpsafed: Mpsafed, tenant: Callable[..., Tenant]
) -> None:
    guilty, other = tenant("embed", mpsafed.socket), tenant("chat", mpsafed.socket)
    guilty.say("wild_write")
    mpsafed.until(lambda event: bool(event.actions))
    assert mpsafed.terminate() == 0
    mpsafed.start()
    event = mpsafed.fault_closed()
    assert [(action.kind, action.state) for action in event.actions] == [("fence", "killed")]
    assert guilty.wait() in (1, -9)
    assert other.do("work") == "ok"


@requires("soft")
def test_what_it_tells_systemd(software_host: SoftwareHost) -> None:
    """Ready once it serves, alive every second, and stopping."""
    path = os.fspath(software_host.directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, Mpsafed(software_host) as daemon:
        told.bind(path)
        told.settimeout(PATIENCE_S)
        daemon.launch(NOTIFY_SOCKET=path)
        said: list[str] = []
        while not any("READY=1" in text for text in said):
            said.append(told.recv(4096).decode())
        assert daemon.client.describe().acting
        while sum("WATCHDOG=1" in text for text in said) < 2:
            said.append(told.recv(4096).decode())
        daemon.process.send_signal(signal.SIGTERM)
        while not any("STOPPING=1" in text for text in said):
            said.append(told.recv(4096).decode())
        assert daemon.process.wait(PATIENCE_S) == 0


@requires("soft")
def test_it_takes_the_socket_that_systemd_passes(software_host: SoftwareHost) -> None:
    """Who connects before it has started waits, and is served."""
    path = os.fspath(software_host.directory / "passed")
    code = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
        "os.environ['LISTEN_FDS'] = '1'; os.environ['LISTEN_FDNAMES'] = 'varlink'; "
        "os.execv(sys.executable, [sys.executable, '-m', 'mpsafed.main', *sys.argv[2:]])"
    )
    with socket.socket(socket.AF_UNIX) as listener, Mpsafed(software_host) as daemon:
        listener.bind(path)
        listener.listen()
        with socket.socket(socket.AF_UNIX) as early:
            early.settimeout(PATIENCE_S)
            early.connect(path)
            early.sendall(b'{"method":"io.mpsafe.Host.ListTenants"}\0')
            process = subprocess.Popen(
                [sys.executable, "-c", code, str(listener.fileno()), "--config", daemon.config],
                env=daemon.environment,
                pass_fds=[listener.fileno()],
                stderr=subprocess.DEVNULL,
            )
            try:
                assert b'"chat"' in early.recv(1 << 20)
                with Client(path) as client:
                    assert client.describe().pid == process.pid
            finally:
                process.terminate()
                assert process.wait(PATIENCE_S) == 0
        assert os.path.exists(path), "the socket is systemd's"


@requires("soft")
def test_it_serves_where_there_is_no_mps_and_says_what_it_cannot_see(place: Path) -> None:
    with SoftwareHost(place) as host, Mpsafed(host) as daemon:
        (place / "mpsafe.toml.d" / "20-no-mps.toml").write_text(f'[mps]\nlog_directory = "{place}/nowhere"\n')
        daemon.start()
        while True:
            found = daemon.client.describe()
            seen = {source.name: source for source in found.sources}
            if "No such file" in seen["mps-server-log"].detail:
                break
        assert "no MPS control daemon" in found.trouble
        assert seen["driver"].alive
        assert not seen["mps-control-log"].alive
        assert not seen["mps-server-log"].alive
        assert found.servers == []


@requires("soft")
def test_clients_are_known_without_the_logs(software_host: SoftwareHost, place: Path) -> None:
    """Who is found in the control program's lists only is watched, and its faults are fenced in order, all the same."""
    with Mpsafed(software_host, more=f'[mps]\nlog_directory = "{place}/nowhere"\n') as daemon:
        daemon.start()
        with Tenant(software_host, "chat", daemon.socket) as chat:
            assert [client.identity for client in daemon.client.clients()] == [chat.identity]
            chat.process.kill()
            event = daemon.until(lambda event: event.kind == "exit")
            assert [evidence.pid for evidence in event.blame.evidence] == [chat.pid]
        with Tenant(software_host, "embed", daemon.socket) as embed:
            embed.say("wild_write")
            event = daemon.fault_closed(since=event.seq)
            assert event.blame.client == embed.identity
            entries = [entry for entry in daemon.written() if entry.id == event.id and entry.actions]
            assert "proven" in [entry.actions[0].state for entry in entries]


@requires("soft")
def test_a_damaged_state_is_said_and_does_not_stop_it(mpsafed: Mpsafed, tenant: Callable[..., Tenant]) -> None:
    """Watchers get what is left, and are told what is lost."""
    for _ in range(3):
        chat = tenant("chat")
        mpsafed.client.clients()
        chat.process.kill()
        mpsafed.until(lambda event: event.kind == "exit", since=mpsafed.client.describe().last_event - 1)
        chat.wait()
    mpsafed.kill()
    lines = mpsafed.state.read_bytes().split(b"\n")
    entries = [number for number, line in enumerate(lines) if line.startswith(b'{"event"')]
    assert len(entries) >= 3
    lines[entries[1]] = b"damaged"
    mpsafed.state.write_bytes(b"\n".join(lines))
    mpsafed.start()
    assert any("1 damaged" in source.detail for source in mpsafed.client.describe().sources)
    with Client(mpsafed.socket, timeout_s=PATIENCE_S) as client:
        stream = client.watch(since=0)
        assert [(w.seq, w.lost) for w in (next(stream), next(stream), next(stream))] == [(0, 0), (1, 0), (3, 1)]
        later = client.watch(since=3)
        assert next(later).seq == 3
        assert mpsafed.client.describe().acting, "a watcher behind the gap does not stop the daemon"


@requires("root", "soft")
def test_the_socket_is_for_everybody_and_the_state_is_not(mpsafed: Mpsafed) -> None:
    with Client(mpsafed.socket) as client, as_user(65534):
        assert client.tenants()
        with pytest.raises(PermissionError):
            mpsafed.state.read_bytes()
