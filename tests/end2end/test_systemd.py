# SPDX-License-Identifier: Apache-2.0
"""This test will install mpsafe on a systemd host, let it live and die there, and take it away again."""

import json
import signal
from pathlib import Path

import pytest

from end2end.systemd_root import KERNEL_LOG, MPSAFE, NEEDS, SystemdRoot, daemon, end
from requires import requires

pytestmark = requires(*NEEDS)

XID = "3,1,0,-;NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


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
    explained = host.run("journalctl", "--catalog", "--lines=1", f"MPSAFE_SEQ={entry['seq']}")
    assert f"Subject: A device has changed, event {entry['id']}" in explained
    end(host, daemon(host), signal.SIGKILL)
    assert json.loads(host.first_line(*stream))["event"] == entry


def test_configuration_is_checked(host: SystemdRoot) -> None:
    assert "nothing wrong" in host.run(MPSAFE, "config", "check")


def test_group_of_administrators_is_there(host: SystemdRoot) -> None:
    assert host.run("getent", "group", "mpsafe-admin").startswith("mpsafe-admin:")
