# SPDX-License-Identifier: Apache-2.0
"""mpsafe operators: how many of which operator a load needs; each command is imported when it is called."""

import importlib
from typing import Final

import click
from typing_extensions import override

from mpsafe.errors import ExtraMissing

__all__ = ["operators"]

MODULES: Final = {
    "plan": ("operators_plan", "plan"),
    "simulate": ("operators_simulate", "simulate"),
    "compare": ("operators_simulate", "compare_fleets"),
}


class Operators(click.Group):
    """Commands that need the extra `operators`: without it, the way to it."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(MODULES)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in MODULES:
            return None
        module, name = MODULES[cmd_name]
        try:
            command = getattr(importlib.import_module(f"mpsafe.cli.{module}"), name)
        except ModuleNotFoundError as error:
            raise ExtraMissing("operators", error.name or "") from error
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Operators)
def operators() -> None:
    """Scale the operators of a model, not the model."""
