# SPDX-License-Identifier: Apache-2.0
"""How a control daemon is started: as a unit of its own, or in a session of its own. Never as our child.

It outlives us either way. Its directories are made first, as the program would make them writable for
everybody.
"""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

from mpsafe.errors import ControlFailed, NotOurs
from mpsafe.model import Limits
from mpsafed.mps.control import Control
from mpsafed.mps.directories import make_directories
from mpsafed.mps.front_end import FrontEnd

__all__ = ["RUN_DIRECTORY", "start_control"]

RUN_DIRECTORY: Final = Path("/run/mpsafe")
START_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 2.0
ANSWER_LOOK_SECONDS: Final = 0.05


async def start_control(
    control: Control, limits: Limits, *, run_directory: Path = RUN_DIRECTORY, systemctl: str = "systemctl"
) -> None:
    """Starts it and returns once the program, or systemd, says that it runs. Raises ControlFailed with the reason."""
    declared = control.declared
    if declared.uid not in (None, os.geteuid()) and os.geteuid() != 0:
        raise ControlFailed("start", f"a control daemon of uid {declared.uid} wants root to start it")
    if declared.how == "adopt":
        raise NotOurs(declared.name)
    make_directories(declared)
    match declared.how:
        case "systemd":
            unit = f"mpsafe-mps@{declared.uid or 0}.service"
            _write_environment(run_directory / f"mps-{declared.uid or 0}.env", control, _options(control, limits))
            for verb in ("start", "restart"):  # a unit whose servers outlive it counts as started, and nobody answers
                await _run(FrontEnd(systemctl, os.environ), verb, unit, named=f"systemctl {verb} {unit}")
                if await _answers(control):
                    break
        case "session":
            await _run(control.front_end, "-d", *_options(control, limits), named="-d")


async def _answers(control: Control) -> bool:
    """Whether somebody listens, soon: systemd may say that it runs before."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            while control.identity() is None:
                await asyncio.sleep(ANSWER_LOOK_SECONDS)
            return True
    return False


def _options(control: Control, limits: Limits) -> list[str]:
    """`-S`: SM partitions are to be had, which v2 knows only from its start. `-m`: v3 serves every user."""
    if control.declared.protocol == 3:
        return ["-p", "3", *["-m"] * (control.declared.uid is None)]
    return ["-S"] if any(limits.partitions.values()) else []


async def _run(program: FrontEnd, *arguments: str, named: str) -> None:
    reply = await program.run(*arguments, named=named, deadline_s=START_SECONDS)
    if reply.status:
        said = reply.text.strip().replace("\n", "; ")[:200]
        raise ControlFailed(named, f"it ended with status {reply.status}" + (f": {said}" if said else ""))


def _write_environment(path: Path, control: Control, arguments: list[str]) -> None:
    """What the unit reads as its EnvironmentFile (systemd.exec(5)), in place of the one that is there."""
    values = {name: value for name, value in control.environment.items() if name.startswith("CUDA_MPS_")}
    values["MPS_ARGUMENTS"] = " ".join(arguments)
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.write_text("".join(f"{name}={_quoted(value)}\n" for name, value in values.items()))
        fresh.rename(path)
    except OSError as error:
        raise ControlFailed("start", f"{path} cannot be written: {error.strerror}") from error


def _quoted(value: str) -> str:
    escaped = "".join(f"\\{char}" if char in '\\"`$' else char for char in value)
    return f'"{escaped}"'
