# SPDX-License-Identifier: Apache-2.0
"""Control daemons for tests to supervise: the real programs of two branches, and the stand-in with a device."""

import asyncio
import os
import subprocess
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from contract.mps_rig import PATIENCE_S, NotRun, Programs, finish, real_programs
from mpsafe.model import Limits
from mpsafe.soft.host import LIBRARIES, SoftwareHost
from mpsafed.declared import Declared, How
from mpsafed.mps.control import Control

__all__ = ["BRANCHES", "EVERY_PROGRAM", "Rig", "rig", "run"]

BRANCHES = ("535", "550")
T = TypeVar("T")

EVERY_PROGRAM = (*BRANCHES, "stand-in")


@dataclass(frozen=True, slots=True)
class Rig:
    """The programs, and what was declared to be run with them."""

    programs: Programs
    directory: Path
    declared: list[Declared] = field(default_factory=lambda: list[Declared]())

    @property
    def is_real(self) -> bool:
        """NVIDIA's program, whose servers find no device here."""
        return "MPSAFE_SOFT_DIR" not in self.programs.environment

    def declare(
        self, name: str = "one", *, uid: int | None = None, how: How = "session", limits: Limits | None = None
    ) -> Declared:
        """A control daemon in directories of its own, which are not made."""
        pipes, logs = self.directory / "pipes" / name, self.directory / "logs" / name
        program = os.fspath(self.programs.daemon)
        one = Declared(name, uid, program, pipes, logs, how, limits=limits or Limits())
        self.declared.append(one)
        return one

    def control(self, declared: Declared) -> Control:
        """Asks it, patiently."""
        return Control(declared, self.programs.environment, deadline_s=PATIENCE_S)

    def front_end(self, declared: Declared, *words: str, typed: str = "", uid: int | None = None) -> str:
        """What the program itself prints, run as this user or as we are."""
        done = subprocess.run(
            [self.programs.daemon, *words],
            input=typed + "\n" * bool(typed),
            env=self.control(declared).environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
            check=False,
        )
        return done.stdout


@contextmanager
def rig(which: str, directory: Path) -> Generator[Rig]:
    """`which` of EVERY_PROGRAM; a skip with its reason where it is not to be had. Afterwards nothing runs."""
    if which == "stand-in":
        if not (LIBRARIES / "libcuda.so.1").exists():
            pytest.skip("the software GPU is not built: make .venv/ready")
        with SoftwareHost(directory / "host") as host:
            yield from _ended(
                Rig(Programs(host.control_program, host.control_program, 550, host.environment), directory)
            )
        return
    try:
        programs = real_programs(which)
    except NotRun as reason:
        pytest.skip(str(reason))
    yield from _ended(Rig(programs, directory))


def _ended(rig: Rig) -> Generator[Rig]:
    try:
        yield rig
    finally:
        for declared in rig.declared:
            if (identity := rig.control(declared).identity()) is not None:
                rig.front_end(declared, typed="quit -t 1")
                finish(identity.pid)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs it, patiently and not for ever."""
    return asyncio.run(asyncio.wait_for(work, 120))
