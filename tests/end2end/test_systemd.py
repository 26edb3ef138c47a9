# SPDX-License-Identifier: Apache-2.0
"""This test will install mpsafe on a systemd host, let it live and die there, and take it away again."""

import json
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from end2end.systemd_root import REPOSITORY, SystemdRoot, booted
from requires import requires, tool

pytestmark = requires("root", "systemd", "namespaces", "soft", "make", "nsenter")

KERNEL_LOG = "/run/kernel-log"
MPSAFE = "/usr/local/bin/mpsafe"
FOLDERS = ["/etc", "/run", "/usr", "/var"]
XID = "3,1,0,-;NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


def files(host: SystemdRoot) -> set[str]:
    return set(host.run("find", *FOLDERS, "-xdev", "-not", "-path", "/run/systemd/*").splitlines())


def make(host: SystemdRoot, target: str) -> str:
    return host.run(tool("make"), "--no-print-directory", "--directory", REPOSITORY, target)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Generator[SystemdRoot, None, None]:
    subprocess.run([tool("make"), "--directory", REPOSITORY, "build/wheels"], check=True, capture_output=True)
    with booted(tmp_path_factory.mktemp("host")) as root:
        root.run("systemctl", "start", "systemd-journald.service")
        before = files(root)
        make(root, "install")
        root.run("mkdir", "/etc/mpsafe/mpsafe.toml.d")
        root.write(Path("/etc/mpsafe/mpsafe.toml.d/test.toml"), f'[sources]\nkernel_log = "{KERNEL_LOG}"\n')
        root.write(Path(KERNEL_LOG), "")
        root.run("systemctl", "enable", "--now", "mpsafed.socket")
        yield root
        root.run("rm", "-r", "/etc/mpsafe/mpsafe.toml.d", KERNEL_LOG)
        told = make(root, "uninstall")
        assert "/var/lib/mpsafe" in told
        root.run("rm", "-r", "/var/lib/mpsafe")
        assert files(root) - before - {"/etc/group-", "/etc/gshadow-"} == set()


def daemon(host: SystemdRoot) -> int:
    """The pid of the daemon that answers, as systemd inside counts: the call waits until there is one."""
    return int(json.loads(host.run(MPSAFE, "status", "--json"))["host"]["pid"])


def end(host: SystemdRoot, pid: int, how: signal.Signals) -> None:
    """Send the daemon a signal and wait until that process is gone."""
    host.run("systemctl", "kill", f"--signal={how.name}", "--kill-whom=main", "mpsafed.service")
    host.run("tail", f"--pid={pid}", "--follow", "/dev/null")


def test_first_call_starts_the_daemon(host: SystemdRoot) -> None:
    host.run("systemctl", "stop", "mpsafed.service")
    assert host.show("mpsafed.service", "ActiveState") == "inactive"
    pid = daemon(host)
    host.run("systemctl", "start", "mpsafed.service")
    assert host.show("mpsafed.service", "ActiveState") == "active"
    assert host.show("mpsafed.service", "MainPID") == str(pid)
    assert host.show("mpsafed.service", "StatusText").startswith("serving")


def test_anybody_may_ask(host: SystemdRoot) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    assert json.loads(host.run(*nobody, MPSAFE, "status", "--json"))["host"]["acting"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM])
def test_daemon_comes_back_however_it_ends(host: SystemdRoot, how: signal.Signals) -> None:
    pid = daemon(host)
    end(host, pid, how)
    assert daemon(host) != pid


def test_daemon_that_hangs_is_replaced(host: SystemdRoot) -> None:
    host.run("systemctl", "service-watchdogs", "yes")
    host.run("mkdir", "-p", "/run/systemd/system/mpsafed.service.d")
    host.write(Path("/run/systemd/system/mpsafed.service.d/test.conf"), "[Service]\nWatchdogSec=2\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "mpsafed.service")
    pid = daemon(host)
    end(host, pid, signal.SIGSTOP)
    assert daemon(host) != pid
    host.run("rm", "-r", "/run/systemd/system/mpsafed.service.d")
    host.run("systemctl", "daemon-reload")


def test_event_outlives_the_daemon_and_is_in_the_journal(host: SystemdRoot) -> None:
    stream = (MPSAFE, "events", "--json", "--follow")
    daemon(host)
    host.run("sh", "-c", 'echo "$1" >>"$2"', "sh", XID, KERNEL_LOG)
    entry = json.loads(host.first_line(*stream))["event"]
    told = json.loads(host.run("journalctl", "--output=json", "--lines=1", f"MPSAFE_SEQ={entry['seq']}"))
    assert told["XID"] == str(entry["fault"]["xid"]) == "79"
    assert told["_SYSTEMD_UNIT"] == "mpsafed.service"
    end(host, daemon(host), signal.SIGKILL)
    assert json.loads(host.first_line(*stream))["event"] == entry


def test_configuration_is_checked(host: SystemdRoot) -> None:
    assert "nothing wrong" in host.run(MPSAFE, "config", "check")


def test_group_of_administrators_is_there(host: SystemdRoot) -> None:
    assert host.run("getent", "group", "mpsafe-admin").startswith("mpsafe-admin:")
