# SPDX-License-Identifier: Apache-2.0
"""Options and output that several commands share."""

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mpsafe.cli.terminal import printable
from mpsafe.protocol import DEFAULT_SOCKET

__all__ = [
    "age",
    "coloured",
    "console",
    "json_option",
    "print_json",
    "say",
    "size",
    "socket_option",
    "table",
    "user",
    "words",
]

UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")

F = TypeVar("F", bound=Callable[..., Any])

_STYLES: Final = {
    **dict.fromkeys(("active", "committed", "held", "healthy", "ok", "running", "serving", "warm"), "green"),
    **dict.fromkeys(("absent", "note", "stopped"), "dim"),
    **dict.fromkeys(
        ("doomed", "fenced", "initializing", "pressed", "promoted", "starting", "suspect", "waiting", "warning"),
        "yellow",
    ),
    **dict.fromkeys(("failed", "fault", "late", "lost", "wrong"), "red"),
}


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
    """For people: colours on a terminal only, and no line is cut in a pipe. Texts are shown as they are."""
    out = Console(highlight=False, markup=False, emoji=False)
    return out if out.is_terminal else Console(highlight=False, markup=False, emoji=False, width=160)


def say(out: Console, margin: Text, text: Text) -> None:
    """One line; at a terminal, what does not fit goes on behind the margin."""
    width = out.width - margin.cell_len
    if not out.is_terminal or width < 20:
        out.print(margin + text, soft_wrap=True)
        return
    for number, part in enumerate(text.wrap(out, width)):
        part.rstrip()
        out.print((margin if number == 0 else Text(" " * margin.cell_len)) + part)


def table(title: str, *headings: str) -> Table:
    """A table in the style of all commands; a heading that ends in `#` is of a column of numbers."""
    found = Table(
        box=box.SIMPLE_HEAD,
        title=title or None,
        title_justify="left",
        title_style="bold",
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in headings:
        found.add_column(heading.rstrip("#"), justify="right" if heading.endswith("#") else "left")
    return found


def words(text: object, style: str = "") -> Text:
    """A text of somebody else's, for a cell or a line."""
    return Text(printable(str(text)), style)


def coloured(word: str) -> Text:
    """A state in its colour: green is well, yellow under way, red lost."""
    return words(word, _STYLES.get(word, ""))


def user(uid: int | None) -> str:
    """A uid; None is everybody's."""
    return "any" if uid is None else str(uid)


def size(nbytes: float) -> str:
    """Bytes in the unit that fits."""
    power = min(len(UNITS) - 1, max(0, int(nbytes).bit_length() - 1) // 10)
    return f"{nbytes / 1024**power:.{0 if power < 2 else 1}f} {UNITS[power]}"


def age(since_ns: int) -> str:
    """How long ago a time was, in nanoseconds since the epoch of the clock."""
    seconds = max(0.0, (time.time_ns() - since_ns) / 1e9)
    for most, unit, seconds_each in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < most:
            return f"{seconds / seconds_each:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
