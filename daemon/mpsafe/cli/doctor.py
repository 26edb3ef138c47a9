# SPDX-License-Identifier: Apache-2.0
"""mpsafe doctor: what is wrong on this host, and the way out."""

from collections import Counter
from itertools import groupby
from typing import Final

import click
from rich.console import Console
from rich.text import Text

from mpsafe.cli.options import coloured, console, json_option, print_json, say, socket_option, words
from mpsafe.doctor import examine
from mpsafe.doctor.finding import Finding, Severity
from mpsafe.doctor.scene import Scene

__all__ = ["doctor"]

MARGIN: Final = 11

_ORDER: Final[tuple[Severity, ...]] = ("wrong", "warning", "note", "ok")


@click.command()
@socket_option
@json_option
def doctor(socket: str, as_json: bool) -> int:
    """Look for what is wrong on this host, and for the way out.

    Bypassed MPS, dead daemons, open directories, limits that are not in force, versions that differ. Changes
    nothing, works without the daemon, and sees more as root. Exit status 1 if something is wrong.
    """
    found = examine(Scene.of(socket))
    if as_json:
        print_json("mpsafe.doctor/1", findings=found)
    else:
        _print(console(), found)
    return int(any(finding.severity == "wrong" for finding in found))


def _print(out: Console, found: list[Finding]) -> None:
    for title, findings in groupby(found, key=lambda finding: finding.check):
        out.print(Text(title, "bold"))
        for finding in sorted(findings, key=lambda finding: _ORDER.index(finding.severity)):
            margin = Text.assemble("  ", coloured(finding.severity))
            margin.pad_right(MARGIN - margin.cell_len)
            say(out, margin, words(finding.text))
            if finding.way_out:
                say(out, Text(" " * MARGIN), words(finding.way_out, "dim"))
    counts = Counter(finding.severity for finding in found)
    told = ", ".join(f"{counts[severity]} {severity}" for severity in _ORDER if counts[severity])
    out.print(f"\n{told}")
