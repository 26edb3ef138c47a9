# SPDX-License-Identifier: Apache-2.0
"""What mpsafe relies on of MPS with servers and clients: on a device, or on the software GPU.

    python check_mps_clients.py [CONTROL [BRANCH]]      with tests/ in PYTHONPATH; one line a check: name, tab, outcome

Two checks want two devices and are not run with one. What a driver of newer CUDA words differently is
not checked: states and results are.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from contract.check_mps import outcomes
from contract.mps_client import INVALID_DEVICE, MpsClient
from contract.mps_rig import Mps, NotRun, Programs, as_nobody, eventually, finish, over_the_wire

__all__ = ["CHECKS"]

ILLEGAL_ADDRESS, LAUNCH_FAILED = 700, 719
RPC_FAILURE, NOT_READY, TERMINATED = 806, 807, 810


class Scene:
    """A started daemon and the clients of a check; they are gone when the check is over."""

    def __init__(self, mps: Mps, stack: ExitStack) -> None:
        self.mps = mps
        self._stack = stack
        assert mps.start().status == 0

    def newcomer(self) -> MpsClient:
        """A process that has not used the driver yet."""
        return self._stack.enter_context(MpsClient(self.mps.environment))

    def client(self, *devices: int) -> MpsClient:
        """A client that has worked on these devices; on the first if none is named."""
        client = self.newcomer()
        assert client.ask("init") == 0
        for device in devices or (0,):
            result = client.ask(f"open {device}")
            if result == INVALID_DEVICE:
                raise NotRun(f"wants {device + 1} devices")
            assert (result, client.ask(f"work {device}")) == (0, 0)
        return client

    def server(self) -> int:
        """The pid of the one server."""
        (pid,) = self.mps.ask("get_server_list")
        return int(pid)

    def state(self) -> str:
        """What the server says of itself."""
        return "".join(self.mps.ask(f"get_server_status {self.server()}"))

    def clients(self) -> set[int]:
        """The pids of its clients."""
        return {int(word) for word in self.mps.ask(f"get_client_list {self.server()}")}

    def refusal(self) -> int:
        """What a new client is told, by cuInit or at its first context."""
        newcomer = self.newcomer()
        result = newcomer.ask("init") or newcomer.ask("open 0")
        newcomer.leave()
        return result

    def recovers(self) -> None:
        """Back to ACTIVE, the next client works."""
        eventually(lambda: self.state() == "ACTIVE", "a server that is ACTIVE again")
        assert self.client().ask("work 0") == 0


def a_client_brings_its_server_up(scene: Scene) -> None:
    client = scene.client()
    server = scene.server()
    assert scene.state() == "ACTIVE"
    assert scene.clients() == {client.pid}
    header, row = scene.mps.ask("ps")
    assert header.split() == ["PID", "ID", "SERVER", "DEVICE", "NAMESPACE", "COMMAND"]
    assert [row.split()[0], row.split()[2]] == [str(client.pid), str(server)]
    assert any(str(client.pid) in line.split() for line in scene.mps.ask("get_device_client_list"))
    log = scene.mps.log()
    uid = os.geteuid()
    assert f"Starting new server {server} for user {uid}" in log
    assert f"NEW CLIENT {client.pid} from user {uid}: Server is not ready, push client to pending list" in log
    assert f"NEW SERVER {server}: Ready" in log
    second = scene.client()
    assert f"NEW CLIENT {second.pid} from user {uid}: Server already exists" in scene.mps.log()
    assert scene.server() == server


def a_client_leaves_and_its_server_stays(scene: Scene) -> None:
    client = scene.client()
    server = scene.server()
    client.leave()
    eventually(lambda: scene.clients() == set(), "an empty client list")
    assert (scene.server(), scene.state()) == (server, "ACTIVE")


def a_killed_client_is_missed(scene: Scene) -> None:
    client, other = scene.client(), scene.client()
    finish(client.pid, signal.SIGKILL)
    eventually(lambda: scene.clients() == {other.pid}, "the other client alone")
    assert other.ask("work 0") == 0


def a_fault_ends_all_clients(scene: Scene, kernel: str, error: int) -> None:
    guilty, bystander = scene.client(), scene.client()
    server = scene.server()
    assert guilty.ask(f"fault 0 {kernel}") == error
    assert bystander.ask("end 0") == error
    assert bystander.ask("work 0") == error, "the error does not stick"
    assert scene.state() == "FAULT"
    assert scene.refusal() == NOT_READY
    guilty.leave()
    assert scene.state() == "FAULT", "a client that was reached is still there"
    assert scene.refusal() == NOT_READY
    bystander.leave()
    scene.recovers()
    assert scene.server() == server


def a_memory_fault_ends_all_clients(scene: Scene) -> None:
    a_fault_ends_all_clients(scene, "write_address", ILLEGAL_ADDRESS)


def an_exception_ends_all_clients(scene: Scene) -> None:
    a_fault_ends_all_clients(scene, "trap", LAUNCH_FAILED)


def a_fault_stays_on_the_devices_that_are_shared(scene: Scene) -> None:
    elsewhere = scene.client(1)
    guilty = scene.client(0)
    assert guilty.ask("fault 0 trap") == LAUNCH_FAILED
    assert elsewhere.ask("work 1") == 0
    assert scene.state() == "FAULT"
    assert scene.refusal() == NOT_READY, "new clients are refused on all devices"
    guilty.leave()
    scene.recovers()
    assert elsewhere.ask("work 1") == 0


def a_client_on_both_devices_carries_a_fault_over(scene: Scene) -> None:
    on_both = scene.client(0, 1)
    elsewhere = scene.client(1)
    guilty = scene.client(0)
    assert guilty.ask("fault 0 trap") == LAUNCH_FAILED
    assert [on_both.ask("end 0"), on_both.ask("end 1"), elsewhere.ask("end 1")] == [LAUNCH_FAILED] * 3


def a_terminated_client_finds_810_and_nobody_else(scene: Scene) -> None:
    victim, bystander = scene.client(), scene.client()
    server = scene.server()
    scene.mps.expect(f"terminate_client {server} {victim.pid}", "0")
    assert victim.ask("end 0") == TERMINATED
    assert bystander.ask("work 0") == 0
    assert scene.state() == "ACTIVE"
    assert scene.client().ask("work 0") == 0


def a_stranger_is_not_terminated(scene: Scene) -> None:
    client = scene.client()
    reply = scene.mps.ask(f"terminate_client {scene.server()} {os.getpid()}")
    assert reply and reply != ["0"], reply
    assert client.ask("work 0") == 0


def a_killed_server_leaves_806(scene: Scene) -> None:
    client = scene.client()
    server = scene.server()
    finish(server, signal.SIGKILL)
    assert client.ask("end 0") == RPC_FAILURE
    eventually(lambda: scene.mps.ask("get_server_list") == [], "an empty server list")
    assert any(text.startswith(f"Server {server} exited with status ") for text in scene.mps.log())
    client.leave()
    assert scene.client().ask("work 0") == 0
    assert scene.server() != server


def a_shutdown_waits_for_clients(scene: Scene) -> None:
    client = scene.client()
    server = scene.server()
    scene.mps.expect(f"shutdown_server {server}")
    assert client.ask("work 0") == 0
    assert scene.server() == server
    client.leave()
    finish(server)
    eventually(lambda: f"Server {server} exited with status 0" in scene.mps.log(), "an exit status of 0")


def a_forced_shutdown_does_not(scene: Scene) -> None:
    client = scene.client()
    server = scene.server()
    scene.mps.expect(f"shutdown_server {server} -f")
    assert client.ask("end 0") != 0
    finish(server)


def quit_ends_by_force_after_its_limit(scene: Scene) -> None:
    client = scene.client()
    daemon, server = scene.mps.pid(), scene.server()
    assert daemon is not None
    scene.mps.run("quit -t 1")
    finish(server)
    finish(daemon)
    assert client.ask("end 0") != 0


def a_server_begins_with_the_defaults_and_has_its_own(scene: Scene) -> None:
    scene.mps.expect("set_default_active_thread_percentage 40", "40.0")
    scene.client()
    server = scene.server()
    scene.mps.expect(f"get_active_thread_percentage {server}", "40.0")
    scene.mps.expect(f"set_active_thread_percentage {server} 25", "25.0")
    scene.mps.expect("set_default_active_thread_percentage 60", "60.0")
    scene.mps.expect(f"get_active_thread_percentage {server}", "25.0")


def another_user_has_no_say_over_a_server(scene: Scene) -> None:
    client = scene.client()
    server = scene.server()

    def ask(command: str) -> list[str]:
        return as_nobody(lambda: over_the_wire(scene.mps.pipes, command))

    for command in (
        f"terminate_client {server} {client.pid}",
        f"shutdown_server {server} -f",
        f"set_active_thread_percentage {server} 10",
    ):
        (reply,) = ask(command)
        assert "Insufficient privileges" in reply, reply
    assert (client.ask("work 0"), scene.state()) == (0, "ACTIVE")


CHECKS: Final[tuple[Callable[[Scene], None], ...]] = (
    a_client_brings_its_server_up,
    a_client_leaves_and_its_server_stays,
    a_killed_client_is_missed,
    a_memory_fault_ends_all_clients,
    an_exception_ends_all_clients,
    a_fault_stays_on_the_devices_that_are_shared,
    a_client_on_both_devices_carries_a_fault_over,
    a_terminated_client_finds_810_and_nobody_else,
    a_stranger_is_not_terminated,
    a_killed_server_leaves_806,
    a_shutdown_waits_for_clients,
    a_forced_shutdown_does_not,
    quit_ends_by_force_after_its_limit,
    a_server_begins_with_the_defaults_and_has_its_own,
    another_user_has_no_say_over_a_server,
)


def check_mps_clients(programs: Programs) -> dict[str, str]:
    """Runs all checks: by name "ok", "not run: ..." or what was wrong."""

    def on_stage(check: Callable[[Scene], None]) -> Callable[[Mps], None]:
        def staged(mps: Mps) -> None:
            with ExitStack() as stack:
                check(Scene(mps, stack))

        return staged

    return outcomes(programs, {check.__name__: on_stage(check) for check in CHECKS})


def main() -> int:
    """As the module says; 1 if anything is wrong."""
    program = Path(
        sys.argv[1] if len(sys.argv) > 1 else shutil.which("nvidia-cuda-mps-control") or "nvidia-cuda-mps-control"
    )
    found = check_mps_clients(Programs(program, program, int(sys.argv[2]) if len(sys.argv) > 2 else 550))
    for name, outcome in found.items():
        sys.stdout.write(f"{name}\t{outcome}\n")
    return 0 if all(outcome.startswith(("ok", "not run")) for outcome in found.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
