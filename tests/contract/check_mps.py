# SPDX-License-Identifier: Apache-2.0
"""What mpsafe relies on of nvidia-cuda-mps-control, v2, where no server can start: the real program and ours.

    python check_mps.py [CONTROL [BRANCH]]      with tests/ in PYTHONPATH; one line a check: name, tab, outcome

Each check has directories of its own and runs where no device is to be had: on a machine with one,
set CUDA_VISIBLE_DEVICES to nothing. What needs servers and clients is in check_mps_clients.py.
Front end and daemon may be of different make, as they speak one wire. Where branches differ, `branch`
(535, 550, ...) says what the daemon's is; a newer one is taken to do as 550 does.
"""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from contract.mps_rig import (
    LINE,
    NOBODY,
    PATIENCE_S,
    Mps,
    NotRun,
    Programs,
    Reply,
    as_nobody,
    eventually,
    finish,
    modes,
    over_the_wire,
)

__all__ = ["CHECKS", "check_mps", "outcomes"]

NO_DAEMON: Final = "Cannot find MPS control daemon process\n"


def starts_and_quits(mps: Mps) -> None:
    assert mps.start() == Reply("", "", 0)
    pid = mps.pid()
    assert pid is not None
    quit_reply = mps.run("quit")
    assert (quit_reply.text, quit_reply.complaint, quit_reply.status) == ("", "", 0)
    finish(pid)
    assert mps.pid() is None
    assert mps.log()[-2:] == ["Cmd:quit", "Exit with status 0"]
    assert {path.name for path in mps.pipes.iterdir()} == {"control", "control_privileged", "control_lock"}
    assert mps.start().status == 0, "what was left is in the way"


def quit_takes_a_limit(mps: Mps) -> None:
    mps.start()
    pid = mps.pid()
    assert pid is not None
    assert mps.run("quit -t 2").status == 0
    finish(pid)
    assert mps.log()[-2:] == ["quit command issued with timeout of 2", "Exit with status 0"]


def files_and_modes(mps: Mps) -> None:
    mps.start()
    pipe_files = {
        "control": stat.S_IFSOCK | 0o666,
        "control_privileged": stat.S_IFSOCK | 0o755,
        "control_lock": stat.S_IFREG | 0o666,
        "log": stat.S_IFIFO | 0o777,
    }
    if mps.programs.branch >= 550:
        pipe_files["nvidia-cuda-mps-control.pid"] = stat.S_IFREG | 0o666
        assert (mps.pipes / "nvidia-cuda-mps-control.pid").read_text() == str(mps.pid())
    assert modes(mps.pipes) == pipe_files
    assert modes(mps.logs) == {"control.log": stat.S_IFREG | 0o644, "server.log": stat.S_IFREG | 0o644}
    assert stat.S_IMODE(mps.pipes.stat().st_mode) == 0o777
    assert stat.S_IMODE(mps.logs.stat().st_mode) == 0o700


def a_second_instance_is_refused(mps: Mps) -> None:
    mps.start()
    pid = mps.pid()
    assert mps.start() == Reply("An instance of this daemon is already running\n", "", 1)
    assert mps.pid() == pid


def without_a_daemon(mps: Mps) -> None:
    assert mps.run("get_server_list") == Reply("", NO_DAEMON, 1)
    assert mps.run(end="") == Reply("", NO_DAEMON, 1)


def a_directory_that_cannot_be_made(mps: Mps) -> None:
    nowhere = mps.pipes / "not" / "there"
    reply = mps.start(CUDA_MPS_PIPE_DIRECTORY=os.fspath(nowhere))
    assert reply.status == 1
    assert f"Cannot access CUDA_MPS_PIPE_DIRECTORY={nowhere}\n" in reply.text


def without_logs_it_works(mps: Mps) -> None:
    nowhere = mps.logs / "not" / "there"
    reply = mps.start(CUDA_MPS_LOG_DIRECTORY=os.fspath(nowhere))
    assert reply.status == 0
    assert reply.text.startswith(f"Warning: Failed writing log files to directory [{nowhere}].")
    mps.expect("get_default_client_priority", "0")


def a_killed_daemon_leaves_files_that_prove_nothing(mps: Mps) -> None:
    mps.start()
    left = modes(mps.pipes)
    pid = mps.pid()
    assert pid is not None
    finish(pid, signal.SIGKILL)
    assert modes(mps.pipes) == left
    without_a_daemon(mps)
    assert mps.start() == Reply("", "", 0)
    assert mps.pid() not in (None, pid)
    assert modes(mps.pipes) == left


def the_foreground_has_the_log_on_stdout(mps: Mps) -> None:
    daemon = subprocess.Popen(
        [mps.programs.daemon, "-f"], env=mps.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    assert daemon.stdout is not None
    first = LINE.fullmatch(daemon.stdout.readline().rstrip("\n"))
    assert first and first[3] == f"Starting control daemon using socket {mps.pipes / 'control'}"
    eventually(lambda: mps.pid() == daemon.pid, "a daemon that listens")
    assert mps.run("quit").status == 0
    rest = daemon.communicate(timeout=PATIENCE_S)[0].splitlines()
    assert daemon.returncode == 0
    assert rest[-1].endswith("] Exit with status 0")


def the_log_tells_of_each_command(mps: Mps) -> None:
    mps.start()
    mps.expect("get_default_active_thread_percentage", "100.0")
    first = [
        f"Starting control daemon using socket {mps.pipes / 'control'}",
        f"To connect CUDA applications to this daemon, set env CUDA_MPS_PIPE_DIRECTORY={mps.pipes}",
    ]
    lines = ["Accepting connection...", "NEW UI", "Cmd:get_default_active_thread_percentage", "100.0", "UI closed"]
    eventually(lambda: mps.log()[:2] == first and mps.log()[-5:] == lines, f"{first} and {lines}")


def commands_are_answered_in_order(mps: Mps) -> None:
    mps.start()
    three = mps.run("get_default_client_priority", "get_default_active_thread_percentage", "nonsense 1", end="")
    assert three == Reply('0\n100.0\nUnknown command "nonsense"\n', "", 0)
    assert mps.run(end="") == Reply("", "", 0)


def arguments_are_passed_over(mps: Mps) -> None:
    """So a question in the language of v3 is none, and the answer is nothing."""
    mps.start()
    assert mps.call("server", "list", "--format=csv") == Reply("", "", 0)
    eventually(lambda: mps.log()[-2:] == ["NEW UI", "UI closed"], "a front end that asked for nothing")


def unknown_commands_are_named(mps: Mps) -> None:
    mps.start()
    names = ["help", "device_query", "lspart", "GET_SERVER_LIST", "get_server_lists", "", "   "]
    mps.expect_all({name: [f'Unknown command "{name.strip()}"'] for name in names})


def without_a_server_lists_are_empty(mps: Mps) -> None:
    mps.start()
    mps.expect("get_server_list")
    mps.expect_all({" get_server_list": [], "get_server_list x": [], "get_device_client_list": []})
    mps.expect("ps", "Server not found")


def an_absent_server_is_not_found(mps: Mps) -> None:
    mps.start()
    not_found = ["Server 1 not found"]
    mps.expect("get_client_list 1", *not_found)
    mps.expect_all(
        {
            "get_device_client_list 1": not_found,
            "shutdown_server 1": not_found,
            "shutdown_server 1 -f": not_found,
            "get_active_thread_percentage 1": not_found,
            "set_active_thread_percentage 1 50": not_found,
            "get_device_pinned_mem_limit 1 0": not_found,
            "set_device_pinned_mem_limit 1 0 1G": not_found,
            "get_client_list": ["Server 0 not found"],
            "ps -p 1": [*not_found, *not_found, ""],
            "terminate_client 1": [*not_found, "Server 1 not found!", "1"],
        }
    )
    mps.expect("terminate_client 1 2", *not_found, "Server 1 not found!", "1")
    if mps.programs.branch < 550:
        mps.expect("get_server_status 1", 'Unknown command "get_server_status"')
    else:
        mps.expect("get_server_status 1", *not_found)
        wanted = ["A server PID is required"]
        mps.expect_all({"get_server_status": wanted, "get_server_status x": wanted})


def a_percentage_that_is_refused_leaves_the_old_one(mps: Mps) -> None:
    mps.start()
    command = "set_default_active_thread_percentage"
    for word, found in (
        ("37.5", "37.5"),
        ("0", "37.5"),
        ("101", "37.5"),
        ("abc", "37.5"),
        ("-5", "37.5"),
        ("", "37.5"),
    ):
        mps.expect(f"{command} {word}", found)
    assert "Invalid percentage, expected between (0.0, 100.0]" in mps.log()
    for word, found in (("12,5", "12.0"), ("33.333", "33.3"), ("50%", "50.0"), ("1e1", "10.0"), ("100", "100.0")):
        mps.expect(f"{command} {word}", found)
        mps.expect("get_default_active_thread_percentage", found)


def a_memory_limit_has_to_be_read_back(mps: Mps) -> None:
    mps.start()
    mps.expect("get_default_device_pinned_mem_limit 0")
    for device, word, found in (
        ("0", "2G", ["2G"]),
        ("0", "512M", ["512M"]),
        ("0", "0", []),
        ("0", "1500M", ["1G"]),
        ("0", "1.5G", ["1M"]),
        ("0", "banana", []),
        ("31", "1G", ["1G"]),
        ("32", "1G", []),
        ("99", "1G", []),
    ):
        setting = f"set_default_device_pinned_mem_limit {device} {word}"
        mps.expect_all({setting: [], f"get_default_device_pinned_mem_limit {device}": found})


def a_priority_is_0_or_1(mps: Mps) -> None:
    mps.start()
    mps.expect("get_default_client_priority", "0")
    mps.expect("set_default_client_priority 1")
    mps.expect("set_default_client_priority 7", "Invalid priority value - must be 0 or 1!")
    mps.expect("get_default_client_priority", "1")


def the_environment_sets_defaults(mps: Mps) -> None:
    mps.start(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="42", CUDA_MPS_CLIENT_PRIORITY="1")
    mps.expect("get_default_active_thread_percentage", "42.0")
    mps.expect("get_default_client_priority", "1")


def a_wrong_environment_is_passed_over(mps: Mps) -> None:
    mps.start(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="420", CUDA_MPS_CLIENT_PRIORITY="7")
    mps.expect("get_default_active_thread_percentage", "100.0")
    mps.expect("get_default_client_priority", "0")
    complaints = [
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE should be between (0.0, 100.0]",
        "CUDA_MPS_CLIENT_PRIORITY should be between [0,1]",
    ]
    assert mps.log()[2:4] == complaints


def start_server_says_nothing_even_if_the_server_dies(mps: Mps) -> None:
    mps.start()
    for command in ("start_server", "start_server -uid", "start_server -uid x", "start_server 0"):
        mps.expect(command, "A user id (UID) is required to start a new server")
    uid = os.geteuid()
    mps.expect(f"start_server -uid {uid}")
    pattern = re.compile(r"Server (\d+) exited with status 1")
    eventually(lambda: any(pattern.fullmatch(text) for text in mps.log()), "a server that fails to start")
    (pid,) = (found[1] for text in mps.log() if (found := pattern.fullmatch(text)))
    assert f"Starting new server {pid} for user {uid}" in mps.log()
    mps.expect("get_server_list")
    daemon = mps.pid()
    assert daemon is not None
    # The front end's status is the daemon's if it reads the reply before the connection breaks.
    assert mps.run("quit").status in (0, 1)
    finish(daemon)
    assert mps.log()[-1] == "Exit with status 1"


def another_user_may_read_and_little_else(mps: Mps) -> None:
    mps.start()

    def ask(command: str) -> list[str]:
        return as_nobody(lambda: over_the_wire(mps.pipes, command))

    assert ask("get_default_active_thread_percentage") == ["100.0"]
    assert ask("get_server_list") == []
    assert ask("shutdown_server 1") == ["Server 1 not found"]
    assert ask("quit") == ask("quit -t 1") == ["Not enough privilege to execute quit command"]
    (refusal,) = ask("start_server -uid 0")
    assert refusal.startswith(f"Insufficient privileges for UID {NOBODY}")
    for command, found in (
        ("set_default_active_thread_percentage 77", ("get_default_active_thread_percentage", "77.0", "100.0")),
        ("set_default_client_priority 1", ("get_default_client_priority", "1", "0")),
        ("set_default_device_pinned_mem_limit 0 1G", ("get_default_device_pinned_mem_limit 0", "1G", "")),
    ):
        getter, changed, kept = found
        reply = ask(command)
        if mps.programs.branch >= 550:
            assert reply[0].startswith(f"Insufficient privileges for UID {NOBODY}. Control deamon settings"), reply
            changed = kept
        mps.expect(getter, *[changed] * bool(changed))


def a_connection_that_says_nothing_is_passed_over(mps: Mps) -> None:
    mps.start()
    pid = mps.pid()
    for name in ("control", "control_privileged"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(os.fspath(mps.pipes / name))
            assert sock.recv(64) == b"OUTBHELL\0"
    mps.expect("get_default_client_priority", "0")
    assert mps.pid() == pid


CHECKS: Final[tuple[Callable[[Mps], None], ...]] = (
    starts_and_quits,
    quit_takes_a_limit,
    files_and_modes,
    a_second_instance_is_refused,
    without_a_daemon,
    a_directory_that_cannot_be_made,
    without_logs_it_works,
    a_killed_daemon_leaves_files_that_prove_nothing,
    the_foreground_has_the_log_on_stdout,
    the_log_tells_of_each_command,
    commands_are_answered_in_order,
    arguments_are_passed_over,
    unknown_commands_are_named,
    without_a_server_lists_are_empty,
    an_absent_server_is_not_found,
    a_percentage_that_is_refused_leaves_the_old_one,
    a_memory_limit_has_to_be_read_back,
    a_priority_is_0_or_1,
    the_environment_sets_defaults,
    a_wrong_environment_is_passed_over,
    start_server_says_nothing_even_if_the_server_dies,
    another_user_may_read_and_little_else,
    a_connection_that_says_nothing_is_passed_over,
)


def outcomes(programs: Programs, checks: Mapping[str, Callable[[Mps], None]]) -> dict[str, str]:
    """Runs checks, each in directories of its own: by name "ok", "not run: ..." or what was wrong."""
    found: dict[str, str] = {}
    for name, check in checks.items():
        with tempfile.TemporaryDirectory(prefix="mps-", ignore_cleanup_errors=True) as directory:
            Path(directory).chmod(0o755)
            try:
                with Mps(programs, Path(directory)) as mps:
                    check(mps)
            except NotRun as reason:
                found[name] = f"not run: {reason}"
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                found[name] = repr(error)
            else:
                found[name] = "ok"
    return found


def check_mps(programs: Programs, checks: Sequence[Callable[[Mps], None]] = CHECKS) -> dict[str, str]:
    """Runs these checks: see `outcomes`."""
    return outcomes(programs, {check.__name__: check for check in checks})


def main() -> int:
    """As the module says; 1 if anything is wrong."""
    program = Path(
        sys.argv[1] if len(sys.argv) > 1 else shutil.which("nvidia-cuda-mps-control") or "nvidia-cuda-mps-control"
    )
    branch = int(sys.argv[2]) if len(sys.argv) > 2 else 550
    found = check_mps(Programs(program, program, branch))
    for name, outcome in found.items():
        sys.stdout.write(f"{name}\t{outcome}\n")
    return 0 if all(outcome.startswith(("ok", "not run")) for outcome in found.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
