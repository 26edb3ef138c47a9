# SPDX-License-Identifier: Apache-2.0
"""This test will load the stand-alone module on a real kernel, abuse its devices, and look what the kernel log says.

In `make test-all` it does the same on a kernel that watches memory and locks: see tools/vm/debug_kernel.py.
"""

from collections.abc import Generator
from pathlib import Path

import pytest

from requires import requires
from tools.vm import Guest
from vm.rig import NEEDS, Client, guest, owned, programs

pytestmark = [requires(*NEEDS), pytest.mark.timeout(1800)]

CALLS = 20_000


@pytest.fixture(scope="module", params=["distribution", pytest.param("debug", marks=requires("minutes"))])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Guest, None, None]:
    built = programs(tmp_path_factory.mktemp("programs"))
    with guest("agent", debug=request.param == "debug", extra=built) as booted:
        yield booted


@pytest.fixture
def loaded(machine: Guest) -> Generator[Guest, None, None]:
    machine.run("modprobe", "mpsafe_standalone", "mpsafe_inject=1")
    yield machine
    machine.run("rmmod", "mpsafe_standalone")
    assert "were forgotten" not in machine.kernel_log(), "a sink was left over"


def test_loaded_module_tells_what_it_can_do(loaded: Guest) -> None:
    parameters = Path("/sys/module/mpsafe_standalone/parameters")
    assert loaded.run("cat", parameters / "mpsafe_enable").strip() == "Y"
    assert int(loaded.run("cat", parameters / "mpsafe_features")) & (1 << 6), "it is the stand-alone one"


def test_kill_switch_leaves_no_device(machine: Guest) -> None:
    machine.run("modprobe", "mpsafe_standalone", "mpsafe_enable=0")
    try:
        machine.run("test", "-e", "/dev/mpsafe", status=1)
    finally:
        machine.run("rmmod", "mpsafe_standalone")


def test_a_bad_size_of_the_ring_is_refused(machine: Guest) -> None:
    machine.run("modprobe", "mpsafe_standalone", "mpsafe_ring=100", status=1)
    assert "mpsafe_ring=100 is not a power of two" in machine.kernel_log()


def test_an_owner_that_dies_leaves_stock_behaviour(loaded: Guest) -> None:
    client = Client.started(loaded, "client")
    owner = owned(loaded, 60, "absorb")
    assert client.ask("fault", "0x1000") == "absorbed"
    assert client.ask("range") == "refused"
    loaded.run("kill", "-KILL", str(owner))
    other = Client.started(loaded, "other")
    assert other.ask("fault", "0x1000") == "passed"
    assert client.ask("fault", "0x1000") == "absorbed", "the doomed stay absorbed"
    client.end()
    other.end()


def test_it_stays_while_a_client_or_the_owner_has_it_open(loaded: Guest) -> None:
    client = Client.started(loaded, "client")
    assert "in use" in loaded.sh("exec 2>&1; rmmod mpsafe_standalone", status=1)
    client.end()
    owner = owned(loaded, 60, "observe")
    assert "in use" in loaded.sh("exec 2>&1; rmmod mpsafe_standalone", status=1)
    loaded.run("kill", "-KILL", str(owner))


def test_malformed_requests_are_refused_and_nothing_else_happens(loaded: Guest) -> None:
    told = loaded.run("./ioctl_fuzz", str(CALLS), limit_s=600)
    assert "ENOTTY" in told, told


def test_the_edges_of_the_device_are_as_its_contract_says(loaded: Guest) -> None:
    loaded.run("./device_edges", limit_s=300)
