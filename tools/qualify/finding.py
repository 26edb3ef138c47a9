# SPDX-License-Identifier: Apache-2.0
"""What came out: a finding a probe, a qualification a run, written after each probe."""

import dataclasses
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

__all__ = ["FORMAT", "VERSION", "Finding", "Host", "Json", "Qualification", "Status"]

FORMAT: Final = "mpsafe-qualify"
VERSION: Final = 1

Json: TypeAlias = dict[str, Any]
Status: TypeAlias = Literal["ok", "failed", "not run"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one probe.

    `outcome` is what happened, in values that another run can be compared with: CUresults, Xid
    numbers, who was hit. `measured` holds figures of this run, times in milliseconds; `raw` texts as
    they were read. `reason` says what was not as the design wants it, or why the probe was not run.
    """

    name: str
    status: Status
    reason: str = ""
    seconds: float = 0.0
    outcome: Json = field(default_factory=lambda: dict[str, Any]())
    measured: Json = field(default_factory=lambda: dict[str, Any]())
    raw: Json = field(default_factory=lambda: dict[str, Any]())


@dataclass(frozen=True, slots=True)
class Host:
    """Where it ran. `software`: on the software GPU, and no figure is a GPU's."""

    software: bool
    device: str
    uuid: str
    driver: str
    cuda: int
    kernel: str
    cpus: int
    hypervisor: bool
    python: str


@dataclass(frozen=True, slots=True)
class Qualification:
    """One run, as it lies in one file."""

    date: str
    host: Host
    findings: dict[str, Finding]

    def file_name(self) -> str:
        """<date>-<device>-<driver>, without what a file name should not hold."""
        words = f"{self.date} {self.host.device} {self.host.driver}"
        return re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-").lower()

    def save(self, path: Path) -> None:
        """Writes the file as a whole: a run that is killed leaves the last one."""
        whole: Json = {
            "format": FORMAT,
            "version": VERSION,
            "date": self.date,
            "host": dataclasses.asdict(self.host),
            "findings": [dataclasses.asdict(finding) for finding in self.findings.values()],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(whole, indent=1) + "\n")
        os.replace(fresh, path)

    @classmethod
    def load(cls, path: Path) -> "Qualification":
        """Reads such a file. ValueError with a sentence if it is none."""
        try:
            whole: Json = json.loads(path.read_text())
            if (whole["format"], whole["version"]) != (FORMAT, VERSION):
                raise ValueError(f"format {whole['format']!r} version {whole['version']!r}")
            findings = [Finding(**finding) for finding in whole["findings"]]
            return cls(whole["date"], Host(**whole["host"]), {finding.name: finding for finding in findings})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no {FORMAT} of version {VERSION}: {error!r}") from error
