# SPDX-License-Identifier: Apache-2.0
"""This test will hold the support table of driver_patches/README.md against the facts beside it."""

import re

from mpsafe.driver.hooks import HOOKS, LINES_MAX
from mpsafe.driver.stock import BRANCHES
from tools.driver.support import PAGE, Support, load, page, table


def test_the_page_shows_the_facts() -> None:
    assert page(PAGE.read_text(), load()) == PAGE.read_text()


def test_each_branch_has_a_version_whose_hooks_land() -> None:
    landed = [row for row in load() if not row.refused]
    assert {int(row.version.partition(".")[0]) for row in landed} >= set(BRANCHES)
    expected = (sum(hook.places for hook in HOOKS), sum(hook.places * len(hook.lines) for hook in HOOKS))
    assert {(row.hooks, row.lines) for row in landed} == {expected}
    assert expected[1] <= LINES_MAX


def test_a_version_that_is_refused_says_why() -> None:
    row = Support("610.10", 0, 0, "nvidia-uvm 610.10, hook load: uvm.c, uvm_init: expected 1, got 0", (), ())
    assert re.search(r"\| 610\.10 \| refused: .*hook load.* \| not tried \| not tried \|", table([row]))
