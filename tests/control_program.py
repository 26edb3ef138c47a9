# SPDX-License-Identifier: Apache-2.0
"""A real program in the place of `nvidia-cuda-mps-control`: a shell script that answers as a test says."""

import os
from collections.abc import Mapping
from pathlib import Path

from mpsafed.declared import Declared
from mpsafed.mps.control import Control

__all__ = ["ControlProgram", "control_of"]

# What mpsafed finds out first, how a control daemon is to be spoken to, is answered and not written down.
SCRIPT = """#!/bin/sh
command="$*"
test $# -gt 0 || read -r command
case $command in
{probed}
esac
printf '%s\\n' "$command" >>'{log}'
case $command in
{cases}
*) echo "Unknown command \\"$command\\"" ;;
esac
"""
PROBED = {"get_default_active_thread_percentage": "echo 100.0; exit"}
PROBED_V3 = {
    "get_default_active_thread_percentage": "exit 2",
    "server list --format=csv": "echo name,uid,pid,status,pipe-directory,allowed-devices,context-ids; exit",
}


def control_of(
    program: str | os.PathLike[str],
    environment: Mapping[str, str],
    *,
    name: str = "default",
    uid: int | None = None,
    deadline_s: float = 60.0,
) -> Control:
    """A control daemon that is there already, in the directories that the environment names."""
    pipes, logs = (Path(environment.get(f"CUDA_MPS_{kind}_DIRECTORY", "/nonexistent")) for kind in ("PIPE", "LOG"))
    declared = Declared(name, uid, os.fspath(program), pipes, logs, "adopt")
    return Control(declared, environment, deadline_s=deadline_s)


class ControlProgram:
    """`answers` are shell commands by pattern of the command: {"get_server_list": "echo 5"}."""

    def __init__(self, directory: Path, answers: Mapping[str, str], *, protocol: int = 2) -> None:
        self.path = directory / "nvidia-cuda-mps-control"
        self.log = directory / "commands"
        self.log.touch()
        self._probed = PROBED if protocol == 2 else PROBED_V3
        self.answer(answers)

    def answer(self, answers: Mapping[str, str]) -> None:
        """It answers so from now on."""
        fresh = self.path.with_suffix(".new")
        probed = {pattern: words for pattern, words in self._probed.items() if pattern not in answers}
        fresh.write_text(SCRIPT.format(log=self.log, probed=_cases(probed), cases=_cases(answers)))
        fresh.chmod(0o755)
        fresh.rename(self.path)

    def control(self, *, name: str = "default", uid: int | None = None, deadline_s: float = 60.0) -> Control:
        """What the daemon makes of it."""
        return control_of(self.path, dict(os.environ), name=name, uid=uid, deadline_s=deadline_s)

    def commands(self) -> list[str]:
        """What it was asked."""
        return self.log.read_text().splitlines()


def _cases(answers: Mapping[str, str]) -> str:
    return "\n".join(f"{pattern.replace(' ', chr(92) + ' ')}) {words} ;;" for pattern, words in answers.items())
