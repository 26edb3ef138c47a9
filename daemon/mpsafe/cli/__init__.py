# SPDX-License-Identifier: Apache-2.0
"""The command `mpsafe`: one file per command. A command asks and renders, nothing else.

Exit status: 0; 1 failed; 2 usage; 77 cannot run here, with the way out.
"""

import importlib
import sys
from typing import Final

import click
from typing_extensions import override

from mpsafe.cli.terminal import printable
from mpsafe.errors import CannotRun, ConnectionEnded, MpsafeError

__all__ = ["Commands", "cli", "main"]

SECTIONS: Final = {
    "Look": ("status", "tenants", "clients", "leases", "store", "events", "top"),
    "Act": ("fence", "mps", "vault", "standby", "drill", "driver"),
    "Serve": ("experts", "operators", "arena"),
    "Find out": ("doctor", "explain", "config", "demo"),
}


class Commands(click.Group):
    """Imports a command when it is called: `mpsafe explain` in a pipe does not wait for the others."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in SECTIONS.values() for name in names]

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = getattr(importlib.import_module(f"mpsafe.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By what they are for."""
        width = max(map(len, self.list_commands(ctx)))
        for title, names in SECTIONS.items():
            commands = [command for name in names if (command := self.get_command(ctx, name)) is not None]
            limit = formatter.width - width - 6
            with formatter.section(title):
                formatter.write_dl([(f"{c.name or '':<{width}}", c.get_short_help_str(limit)) for c in commands])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mpsafe")
def cli() -> None:
    """Makes NVIDIA MPS safe to share."""


def main() -> int:
    """Runs a command; an error of ours is a sentence and a hint, never a traceback."""
    try:
        result: object = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        return 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except MpsafeError as error:
        click.echo(f"mpsafe: {printable(str(error))}\n  {error.hint}", err=True)
        return 77 if isinstance(error, CannotRun | ConnectionEnded) else 1
    except (BrokenPipeError, KeyboardInterrupt):
        sys.stderr.close()
        return 1
    return result if isinstance(result, int) else 0
