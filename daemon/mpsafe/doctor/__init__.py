# SPDX-License-Identifier: Apache-2.0
"""What is wrong on this host: checks that look and change nothing. One kind a file.

A check gets the scene and yields findings; what it cannot look at it says. It reads what others wrote,
so it trusts nothing, and it needs the daemon only where it compares with what that knows.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, TypeAlias

from mpsafe.doctor.bypass import bypass
from mpsafe.doctor.client_limits import client_limits
from mpsafe.doctor.compute_mode import compute_mode
from mpsafe.doctor.daemon import daemon
from mpsafe.doctor.declared_limits import declared_limits
from mpsafe.doctor.directories import directories
from mpsafe.doctor.finding import Finding
from mpsafe.doctor.group import group
from mpsafe.doctor.leftovers import leftovers
from mpsafe.doctor.old_control import old_control
from mpsafe.doctor.patched import patched
from mpsafe.doctor.scene import Scene
from mpsafe.doctor.versions import versions

__all__ = ["CHECKS", "examine"]

Check: TypeAlias = Callable[[Scene], Iterator[Finding]]

# By the title that `mpsafe doctor` prints, in its order.
CHECKS: Final[dict[str, Check]] = {
    "daemon": daemon,
    "who may act": group,
    "driver": versions,
    "patched driver": patched,
    "compute mode": compute_mode,
    "control daemons": declared_limits,
    "directories": directories,
    "left behind": leftovers,
    "old control program": old_control,
    "bypass": bypass,
    "limits of clients": client_limits,
}


def examine(scene: Scene) -> list[Finding]:
    """All that the checks find, in their order; one that meets something unreadable costs no other."""
    found: list[Finding] = []
    for title, check in CHECKS.items():
        try:
            found += [replace(finding, check=title) for finding in check(scene)]
        except OSError as error:
            text = f"{error.filename or 'something'} cannot be looked at: {error.strerror or error}"
            found.append(Finding("warning", text, "run mpsafe doctor as root", check=title))
    return found
