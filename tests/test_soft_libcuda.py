# SPDX-License-Identifier: Apache-2.0
"""The software libcuda.so.1 over a real software kernel and the stand-in for MPS, between real processes."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract import check_cuda_init, check_soft_cuda
from contract.check_cuda_faults import SEEN
from mpsafe.soft.host import LIBRARIES, SoftwareHost
from mpsafed.driver import Policy
from mpsafed.driver.software import SoftwareDriver
from requires import requires

pytestmark = requires("soft")

TESTS = Path(__file__).parent
LIBCUDA = os.fspath(LIBRARIES / "libcuda.so.1")
NOT_INITIALIZED = 3
CONNECTION_FAILED, RPC_FAILURE, SERVER_NOT_READY, CLIENT_TERMINATED = 805, 806, 807, 810


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareHost]:
    with SoftwareHost(tmp_path_factory.mktemp("host"), devices=2, memory_bytes=1 << 30) as host:
        yield host


@pytest.fixture
def mps(tmp_path: Path) -> Iterator[SoftwareHost]:
    with SoftwareHost(tmp_path / "host", memory_bytes=1 << 30) as host:
        host.start_mps()
        yield host


def environment(host: SoftwareHost, **more: str) -> dict[str, str]:
    """The host's, with what a child imports from here."""
    path = os.pathsep.join([host.environment["PYTHONPATH"], os.fspath(TESTS)])
    return {**host.environment, "PYTHONPATH": path, **more}


def run(env: Mapping[str, str], script: str, *arguments: str) -> str:
    """What a child process prints."""
    command = [sys.executable, os.fspath(TESTS / script), *arguments]
    return subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def outcomes(env: Mapping[str, str], script: str, *arguments: str) -> dict[str, str]:
    """By name, what the checks of a contract script found."""
    command = [sys.executable, os.fspath(TESTS / "contract" / script), *arguments]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    return dict(line.split("\t", 1) for line in done.stdout.splitlines())


class Child:
    """A process of soft_cuda_child.py, seen from outside."""

    def __init__(self, env: Mapping[str, str], role: str) -> None:
        command = [sys.executable, os.fspath(TESTS / "soft_cuda_child.py"), role]
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> int:
        self.process.communicate(timeout=60)
        return self.process.returncode


@contextmanager
def running(env: Mapping[str, str]) -> Generator[Child]:
    """A client with a kernel that never ends; it has to end well once an error has reached it."""
    child = Child(env, "endless")
    try:
        assert child.line() == "running"
        yield child
        assert child.end() == 0
    finally:
        child.process.kill()


@pytest.fixture(scope="module")
def software_only(host: SoftwareHost) -> Mapping[str, str]:
    return outcomes(environment(host), "check_soft_cuda.py")


@pytest.mark.parametrize("name", [check.__name__ for check in check_soft_cuda.CHECKS])
def test_wrong_calls(software_only: Mapping[str, str], name: str) -> None:
    assert software_only.get(name) == "ok"


@pytest.mark.parametrize("directory", ["none", "empty", "stale"])
def test_without_a_device(tmp_path: Path, directory: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "MPSAFE_SOFT_DIR"}
    if directory != "none":
        env["MPSAFE_SOFT_DIR"] = os.fspath(tmp_path)
    if directory == "stale":
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(os.fspath(tmp_path / "rm"))
    env |= {"CUDA_MPS_PIPE_DIRECTORY": os.fspath(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    found = outcomes(env, "check_cuda_init.py", LIBCUDA)
    assert found == {check.__name__: "ok" for check in check_cuda_init.CHECKS}


def test_a_forked_child_has_no_driver_and_does_not_keep_the_parents(host: SoftwareHost) -> None:
    parent = Child(environment(host), "fork")
    lines = {parent.line(), parent.line()}
    assert lines == {f"child {NOT_INITIALIZED} {NOT_INITIALIZED} {NOT_INITIALIZED}", "parent kept"}
    parent.process.kill()
    parent.process.wait()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as rm:
        rm.connect(os.fspath(host.directory / "rm"))
        rm.send(b"hello nvml")
        rm.recv(4096)
        rm.send(b"processes 0")
        assert f" {parent.process.pid}:" not in rm.recv(4096).decode()
    parent.end()


def test_there_is_no_thread_before_the_first_work(host: SoftwareHost) -> None:
    assert run(environment(host), "soft_cuda_child.py", "threads").split() == ["1", "1", "2"]


def test_an_absorbed_fault_reads_zeros_and_goes_on(host: SoftwareHost) -> None:
    faults = os.fspath(TESTS / "contract" / "check_cuda_faults.py")
    with contextlib.closing(SoftwareDriver(host.driver)) as owner:
        owner.set_policy(Policy(mode="absorb"))
        assert run(environment(host), faults, LIBCUDA, "wild_read") == "0 0x0\n"
        for name in ("wild_write", "write_to_read_only", "use_after_unmap"):
            owner.heartbeat()
            assert run(environment(host), faults, LIBCUDA, name) == f"0 {SEEN:#x}\n"
        owner.heartbeat()
        assert run(environment(host), faults, LIBCUDA, "trap").startswith("719 "), "an exception cannot be absorbed"


def test_an_asynchronous_copy_faults_when_it_runs(host: SoftwareHost) -> None:
    assert run(environment(host), "soft_cuda_child.py", "copy").split() == ["0", "700"]
    with contextlib.closing(SoftwareDriver(host.driver)) as owner:
        owner.set_policy(Policy(mode="absorb"))
        assert run(environment(host), "soft_cuda_child.py", "copy").split() == ["0", "0"]


@pytest.mark.parametrize("there", ["nothing", "a socket that nobody listens on"])
def test_without_mps_the_path_is_the_ordinary_one(host: SoftwareHost, tmp_path: Path, there: str) -> None:
    if there != "nothing":
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(os.fspath(tmp_path / "control"))
    env = environment(host, CUDA_MPS_PIPE_DIRECTORY=os.fspath(tmp_path))
    assert run(env, "soft_cuda_child.py", "init").split() == ["0", "0"]


@pytest.mark.parametrize(
    ("packets", "result"),
    [
        pytest.param([b""], CONNECTION_FAILED, id="closes at once"),
        pytest.param([b"HELLO\0"], CONNECTION_FAILED, id="another greeting"),
        pytest.param([b"OUTBHELL\0", b"nonsense"], CONNECTION_FAILED, id="nonsense"),
        pytest.param([b"OUTBHELL\0", b"error 0"], CONNECTION_FAILED, id="no error"),
        pytest.param([b"OUTBHELL\0", b"server /nowhere"], CONNECTION_FAILED, id="a server that is not there"),
        pytest.param([b"OUTBHELL\0", b"x" * 5000], CONNECTION_FAILED, id="too long"),
        pytest.param([b"OUTBHELL\0", b"error 808"], 808, id="an error"),
    ],
)
def test_a_control_daemon_that_does_not_help(
    host: SoftwareHost, tmp_path: Path, packets: list[bytes], result: int
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(os.fspath(tmp_path / "control"))
        listener.listen()

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.send(packets[0])
                for packet in packets[1:]:
                    assert peer.recv(64) == b"OUTBCRED\0" + bytes([1, 0, 0, 0]) + bytes(8)
                    peer.send(packet)

        thread = threading.Thread(target=answer)
        thread.start()
        env = environment(host, CUDA_MPS_PIPE_DIRECTORY=os.fspath(tmp_path))
        assert run(env, "soft_cuda_child.py", "init").split() == [str(result), "-"]
        thread.join()


def test_a_client_says_so(mps: SoftwareHost) -> None:
    assert run(environment(mps), "soft_cuda_child.py", "init").split() == ["0", "1"]


def test_a_fatal_fault_reaches_the_other_clients_and_keeps_new_ones_out(mps: SoftwareHost) -> None:
    faults = os.fspath(TESTS / "contract" / "check_cuda_faults.py")
    with running(environment(mps)) as bystander:
        assert run(environment(mps), faults, LIBCUDA, "trap").startswith("719 ")
        assert [bystander.line(), bystander.line()] == ["ended 719", "again 719"]
        assert run(environment(mps), "soft_cuda_child.py", "init").split() == [str(SERVER_NOT_READY), "-"]


def test_a_terminated_client_finds_its_own_error_and_harms_nobody(mps: SoftwareHost) -> None:
    server = ""
    with running(environment(mps)) as bystander:
        with running(environment(mps)) as victim:
            server = mps.control("get_server_list").strip()
            assert mps.control(f"terminate_client {server} {victim.process.pid}").strip().endswith("0")
            assert [victim.line(), victim.line()] == [f"ended {CLIENT_TERMINATED}", f"again {CLIENT_TERMINATED}"]
        assert bystander.process.poll() is None
        assert mps.control(f"terminate_client {server} {bystander.process.pid}").strip().endswith("0")
        assert bystander.line() == f"ended {CLIENT_TERMINATED}"


def test_a_server_that_is_gone_takes_its_clients_along(mps: SoftwareHost) -> None:
    with running(environment(mps)) as client:
        os.kill(int(mps.control("get_server_list")), 9)
        assert [client.line(), client.line()] == [f"ended {RPC_FAILURE}", f"again {RPC_FAILURE}"]
