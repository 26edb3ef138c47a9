# SPDX-License-Identifier: Apache-2.0
"""This test will hold the stand-alone module, on a real kernel, to the contract suite of the software driver."""

import pytest

from contract.check_driver import CHECKS
from requires import requires
from vm.rig import NEEDS, guest

pytestmark = [requires(*NEEDS), pytest.mark.timeout(900)]


def test_the_module_passes_the_contract_suite_of_the_driver() -> None:
    with guest("agent") as machine:
        machine.run("modprobe", "mpsafe_standalone", "mpsafe_inject=1")
        told = machine.sh("PYTHONPATH=tests python3 -m contract.check_driver || true", limit_s=600)
        machine.run("rmmod", "mpsafe_standalone")
        assert "were forgotten" not in machine.kernel_log(), "a sink was left over"
    outcomes = dict(line.split("\t", 1) for line in told.splitlines() if line)
    assert outcomes == {check.__name__: "ok" for check in CHECKS}
