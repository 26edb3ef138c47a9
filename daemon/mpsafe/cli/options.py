# SPDX-License-Identifier: Apache-2.0
"""Options and output that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console

from mpsafe.protocol import DEFAULT_SOCKET

__all__ = ["console", "json_option", "print_json", "socket_option"]

F = TypeVar("F", bound=Callable[..., Any])


def socket_option(command: F) -> F:
    """--socket."""
    return click.option(
        "--socket", default=DEFAULT_SOCKET, envvar="MPSAFE_SOCKET", show_default=True, help="where mpsafed listens"
    )(command)


def json_option(command: F) -> F:
    """--json."""
    return click.option("as_json", "--json", is_flag=True, help="print JSON; the shapes are in mpsafe-json(7)")(command)


def print_json(shape: str, **members: object) -> None:
    """One object on one line. `shape` names what it holds and the version of that."""
    click.echo(msgspec.json.encode({"shape": shape, **members}))


def console() -> Console:
    """For people: colours on a terminal only, and no line is cut in a pipe."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=160)
