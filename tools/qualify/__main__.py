# SPDX-License-Identifier: Apache-2.0
"""python -m tools.qualify: asks the probes and writes each answer at once."""

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tools.qualify.finding import Finding, Host, Qualification
from tools.qualify.machine import describe, real_target, software_target
from tools.qualify.page import render
from tools.qualify.probe import Probe
from tools.qualify.probes import PROBES
from tools.qualify.stage import ROOT, NotRun, Target

__all__ = ["main"]

RESULTS: Final = Path(__file__).parent / "results"
SOFTWARE_RESULTS: Final = ROOT / "build" / "qualify"
_LOUD: Final = "THIS IS THE SOFTWARE GPU: there is no silicon, and no figure of this run is a GPU's"


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.qualify", description="ask a real GPU what mpsafe rests on")
    parser.add_argument("--list", action="store_true", help="name the probes and their questions")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only these; * and ? match")
    parser.add_argument("--resume", action="store_true", help="go on with the newest result of this device and driver")
    parser.add_argument("--software", action="store_true", help="on the software GPU; results go to build/qualify/")
    parser.add_argument("--device", metavar="UUID", help="which device; the first one unless told")
    parser.add_argument("--results", type=Path, metavar="DIR", help="write there instead")
    return parser.parse_args(arguments)


def begin(directory: Path, host: Host, *, resume: bool) -> tuple[Path, Qualification]:
    """The file to write, and what is in it already."""
    if resume:
        for path in sorted(directory.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
            found = Qualification.load(path)
            if (found.host.uuid, found.host.driver, found.host.software) == (host.uuid, host.driver, host.software):
                return path, found
    fresh = Qualification(datetime.now(UTC).strftime("%Y-%m-%d"), host, {})
    names = [fresh.file_name(), *(f"{fresh.file_name()}-{number}" for number in range(2, 1000))]
    return next(path for name in names if not (path := directory / f"{name}.json").exists()), fresh


class Screen:
    """What the terminal shows: a spinner and colours with rich, lines without."""

    def __init__(self) -> None:
        self._console = None
        if find_spec("rich") is not None and sys.stdout.isatty():
            from rich.console import Console

            self._console = Console(highlight=False)

    def asking(self, probe: Probe) -> AbstractContextManager[object]:
        """While a probe runs."""
        return nullcontext() if self._console is None else self._console.status(f"{probe.name}: {probe.question}")

    def line(self, text: str, *, style: str = "") -> None:
        """One line, as it is."""
        if self._console is None:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        else:
            self._console.print(text, style=style, markup=False, soft_wrap=True)

    def answered(self, finding: Finding) -> None:
        """The answer in a line."""
        style = {"ok": "green", "failed": "bold red", "not run": "yellow"}[finding.status]
        reason = f"  {finding.reason}" if finding.reason else ""
        self.line(f"{finding.status:8} {finding.name:28} {finding.seconds:5.1f} s{reason}", style=style)


def ask_all(target: Target, host: Host, options: argparse.Namespace, chosen: list[Probe]) -> bool:
    """Runs the probes that have no answer yet; whether none of them failed."""
    screen = Screen()
    directory: Path = options.results or (SOFTWARE_RESULTS if host.software else RESULTS)
    path, qualification = begin(directory, host, resume=options.resume)
    if host.software:
        screen.line(_LOUD, style="bold white on red")
    screen.line(f"{host.device}, driver {host.driver} -> {path}")
    for probe in chosen:
        known = qualification.findings.get(probe.name)
        if options.resume and known is not None and known.status != "not run":
            screen.line(f"known    {probe.name}")
            continue
        with screen.asking(probe):
            finding = probe.run(target)
        qualification.findings[probe.name] = finding
        qualification.save(path)
        path.with_suffix(".html").write_text(render(qualification, PROBES))
        screen.answered(finding)
    if host.software:
        screen.line(_LOUD, style="bold white on red")
    return all(finding.status != "failed" for finding in qualification.findings.values())


def main(arguments: list[str]) -> int:
    """0: no probe failed; 1: one did; 2: no such probe; 77: this cannot be run here."""
    options = parse(arguments)
    chosen = [probe for probe in PROBES if not options.only or any(fnmatch(probe.name, only) for only in options.only)]
    if not chosen:
        sys.stderr.write(f"no probe is named {' or '.join(options.only)}; --list names them\n")
        return 2
    if options.list:
        for probe in chosen:
            sys.stdout.write(f"{probe.name:28} {probe.question}\n")
        return 0
    try:
        with software_target() if options.software else nullcontext(real_target()) as bare:
            target, host = describe(bare, uuid=options.device)
            return 0 if ask_all(target, host, options, chosen) else 1
    except NotRun as reason:
        sys.stderr.write(f"cannot qualify this machine: {reason}\n(--software asks the software GPU instead)\n")
        return 77


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
