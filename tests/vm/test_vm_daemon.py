# SPDX-License-Identifier: Apache-2.0
"""This test will run mpsafed on a real kernel, with the stand-alone module behind /dev/mpsafe and systemd as process 1.

There is no MPS in the guest: what a fence asks of MPS is refused, and the client ends all the same.
"""

import json
import signal
from collections.abc import Generator
from typing import Any

import pytest

from requires import requires
from tools.vm import Guest
from vm.rig import NEEDS, Client, asked, eventually, guest, install

pytestmark = [requires(*NEEDS), pytest.mark.timeout(900)]

UNIT = "mpsafed.service"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
WILD = "0x300000000000"


@pytest.fixture(scope="module")
def host() -> Generator[Guest, None, None]:
    with guest("systemd") as machine:
        machine.run("modprobe", "mpsafe_standalone", "mpsafe_inject=1")
        install(machine)
        yield machine
        machine.run("systemctl", "stop", UNIT, "mpsafed.socket")
        machine.run("rmmod", "mpsafe_standalone")


def show(host: Guest, property_name: str) -> str:
    return host.run("systemctl", "show", "--value", f"--property={property_name}", UNIT).strip()


def driver_is_seen(host: Guest) -> bool:
    """The first call of all starts the daemon."""
    sources = asked(host, "status")["host"]["sources"]
    return any(source["name"] == "driver" and source["alive"] for source in sources)


def entries(host: Guest) -> list[dict[str, Any]]:
    """The whole stream of the daemon, as it wrote it."""
    lines = host.run("cat", "/var/lib/mpsafe/state.jsonl").splitlines()
    return [line["event"] for line in map(json.loads, lines) if line.get("event")]


def faults_of(host: Guest, client: Client) -> list[dict[str, Any]]:
    """The events that name this client, each as it is last."""
    last = {entry["id"]: entry for entry in entries(host)}
    return [event for event in last.values() if f"({client.pid})" in json.dumps(event)]


def one_closed_fault(host: Guest, client: Client) -> None:
    """Nothing is lost and nothing is told twice."""
    eventually(lambda: [event["phase"] for event in faults_of(host, client)] == ["closed"], "its fault is closed")
    eventually(lambda: not client.alive(), "the client has ended")
    (event,) = faults_of(host, client)
    assert [(one["kind"], one["state"]) for one in event["actions"]] == [("fence", "killed")], event
    assert [entry["seq"] for entry in entries(host)] == list(range(1, len(entries(host)) + 1))


def test_the_first_call_starts_the_daemon_which_owns_the_device(host: Guest) -> None:
    assert show(host, "ActiveState") == "inactive"
    eventually(lambda: driver_is_seen(host), "the driver is a source")
    assert show(host, "ActiveState") == "active"
    assert show(host, "NFileDescriptorStore") == "1"
    assert "busy" in host.sh("exec 2>&1; cat /dev/mpsafe", status=1)


def test_a_fault_is_absorbed_and_its_client_is_fenced(host: Guest) -> None:
    eventually(lambda: driver_is_seen(host), "the driver is a source")
    innocent, guilty = Client.started(host, "innocent", uid=1000), Client.started(host, "guilty")
    assert guilty.ask("fault", WILD) == "absorbed"
    one_closed_fault(host, guilty)
    assert innocent.ask("range") == "granted"
    assert faults_of(host, innocent) == []
    innocent.end()


def test_a_fault_between_two_daemons_is_absorbed_and_told_once(host: Guest) -> None:
    eventually(lambda: driver_is_seen(host), "the driver is a source")
    guilty = Client.started(host, "between")
    before = show(host, "MainPID")
    host.run("systemctl", "kill", f"--signal={signal.SIGKILL.name}", "--kill-whom=main", UNIT)
    assert guilty.ask("fault", WILD) == "absorbed"
    eventually(lambda: driver_is_seen(host), "the driver is a source again")
    assert show(host, "MainPID") != before
    assert show(host, "NFileDescriptorStore") == "1"
    one_closed_fault(host, guilty)


def test_without_a_daemon_the_driver_is_a_stock_one(host: Guest) -> None:
    eventually(lambda: driver_is_seen(host), "the driver is a source")
    host.run("systemctl", "stop", UNIT, "mpsafed.socket")
    client = Client.started(host, "stock")
    try:
        assert client.ask("fault", WILD) == "passed"
        assert client.ask("range") == "granted"
        assert client.alive()
    finally:
        client.end()
        host.run("systemctl", "start", "mpsafed.socket")
    assert faults_of(host, client) == []


def test_nobody_else_can_open_the_device_or_look_into_it(host: Guest) -> None:
    told = host.sh(f"exec 2>&1; {' '.join(NOBODY)} cat /dev/mpsafe", status=1)
    assert "Permission denied" in told
    host.run("systemctl", "stop", UNIT, "mpsafed.socket")
    try:
        host.run("chmod", "0666", "/dev/mpsafe")
        told = host.sh(f"exec 2>&1; {' '.join(NOBODY)} cat /dev/mpsafe", status=1)
        assert "Operation not permitted" in told, "the mode of the file is not all that guards it"
    finally:
        host.run("chmod", "0600", "/dev/mpsafe")
        host.run("systemctl", "start", "mpsafed.socket")
    secret = "/sys/module/mpsafe_standalone/parameters/mpsafe_inject"
    assert "Permission denied" in host.sh(f"exec 2>&1; {' '.join(NOBODY)} cat {secret}", status=1)


def test_a_module_in_use_stays(host: Guest) -> None:
    eventually(lambda: driver_is_seen(host), "the driver is a source")
    assert "in use" in host.sh("exec 2>&1; rmmod mpsafe_standalone", status=1)
    assert driver_is_seen(host)


@requires("minutes")
def test_a_daemon_that_hangs_is_replaced(host: Guest) -> None:
    eventually(lambda: driver_is_seen(host), "the driver is a source")
    before = show(host, "MainPID")
    host.run("systemctl", "kill", "--signal=SIGSTOP", "--kill-whom=main", UNIT)
    eventually(lambda: show(host, "MainPID") not in (before, "0"), "the watchdog ends it, and another one starts")
    eventually(lambda: driver_is_seen(host), "the driver is a source again")
    assert show(host, "NFileDescriptorStore") == "1"
