# SPDX-License-Identifier: Apache-2.0
"""This test will make the rig's own checks fail: a command, a kernel that complains, a machine that dies."""

import pytest

from requires import requires
from tools.vm import GuestLost, booted, complaints
from vm.rig import NEEDS, or_skip

pytestmark = [requires(*NEEDS), pytest.mark.timeout(900)]

CLEAN = """\
[    7.456985] mpsafe_standalone: loading out-of-tree module taints kernel.
[    7.479452] mpsafe: /dev/mpsafe, abi 1, driver none, features 0x7b
"""
WRONG = [
    "[   12.1] WARNING: CPU: 1 PID: 77 at kernel/softirq.c:361 __local_bh_enable_ip+0x5c/0x80",
    "[   12.1] BUG: KASAN: slab-use-after-free in mpsafe_core_read+0x1/0x2 [mpsafe_standalone]",
    "[   12.1] WARNING: possible recursive locking detected",
    "[   12.1] INFO: task rmmod:200 blocked for more than 61 seconds.",
    "[   12.1] BUG: sleeping function called from invalid context at include/linux/sched/mm.h:274",
    "[   12.1] general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1] PREEMPT SMP",
]


@pytest.mark.parametrize("line", WRONG)
def test_a_complaint_is_seen(line: str) -> None:
    assert complaints(CLEAN) == []
    assert complaints(CLEAN + line + "\n") == [line]


def test_a_guest_whose_kernel_complains_fails_the_test() -> None:
    with or_skip(), pytest.raises(AssertionError, match="kernel complains"), booted("agent") as guest:
        assert guest.run("echo", "hello") == "hello\n"
        with pytest.raises(AssertionError, match="status 1"):
            guest.run("false")
        guest.sh("echo '<4>BUG: not really' >/dev/kmsg")


def test_a_guest_that_dies_is_told_with_its_console() -> None:
    with or_skip(), pytest.raises(GuestLost, match="Kernel panic"), booted("agent") as guest:
        guest.sh("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger")
