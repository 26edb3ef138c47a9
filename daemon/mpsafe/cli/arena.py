# SPDX-License-Identifier: Apache-2.0
"""mpsafe arena: routers of language models, graded and scored; each command is imported when it is called."""

import importlib
from typing import Final

import click
from typing_extensions import override

from mpsafe.errors import ExtraMissing

__all__ = ["arena"]

MODULES: Final = {
    "suite": "arena_running",
    "train": "arena_running",
    "route": "arena_running",
    "run": "arena_running",
    "validate": "arena_scoring",
    "grade": "arena_grading",
    "score": "arena_scoring",
    "robustness": "arena_scoring",
    "matrix": "arena_grading",
    "compare": "arena_judging",
    "curve": "arena_judging",
    "board": "arena_board",
    "live": "arena_live",
    "replay": "arena_live",
}


class Arena(click.Group):
    """Commands that need the extra `arena`: without it, the way to it."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(MODULES)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in MODULES:
            return None
        try:
            module = importlib.import_module(f"mpsafe.cli.{MODULES[cmd_name]}")
        except ModuleNotFoundError as error:
            raise ExtraMissing("arena", error.name or "") from error
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Arena)
def arena() -> None:
    """Routers of language models, judged as RouterArena does."""
