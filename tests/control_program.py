# SPDX-License-Identifier: Apache-2.0
"""A real program in the place of `nvidia-cuda-mps-control`: a shell script that answers as a test says."""

import os
from collections.abc import Mapping
from pathlib import Path

from mpsafed.mps.control import Control

__all__ = ["ControlProgram"]

SCRIPT = """#!/bin/sh
read -r command
printf '%s\\n' "$command" >>'{log}'
case $command in
{cases}
*) echo "Unknown command \\"$command\\"" ;;
esac
"""


class ControlProgram:
    """`answers` are shell commands by pattern of the command: {"get_server_list": "echo 5"}."""

    def __init__(self, directory: Path, answers: Mapping[str, str]) -> None:
        self.path = directory / "nvidia-cuda-mps-control"
        self.log = directory / "commands"
        self.log.touch()
        self.answer(answers)

    def answer(self, answers: Mapping[str, str]) -> None:
        """It answers so from now on."""
        cases = "\n".join(f"{pattern.replace(' ', chr(92) + ' ')}) {words} ;;" for pattern, words in answers.items())
        fresh = self.path.with_suffix(".new")
        fresh.write_text(SCRIPT.format(log=self.log, cases=cases))
        fresh.chmod(0o755)
        fresh.rename(self.path)

    def control(self, *, deadline_s: float = 60.0) -> Control:
        """What the daemon makes of it."""
        return Control(os.fspath(self.path), dict(os.environ), deadline_s=deadline_s)

    def commands(self) -> list[str]:
        """What it was asked."""
        return self.log.read_text().splitlines()
