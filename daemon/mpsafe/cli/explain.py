# SPDX-License-Identifier: Apache-2.0
"""`mpsafe explain`: what an Xid means, what stock MPS does, what mpsafe does, what NVIDIA advises.

Needs no daemon. JSON shapes, one object a line:

--stdin, LINE   {"line", "xid", "pci", "gpu_instance", "compute_instance", "pid", "name", "channel",
                "caused_by", "class", "address", "fault_type", "access", "action"}: mpsafe.xid.Xid.
                `line` counts from 1; a line that is no Xid has null in every other place.
XID             {"shape": "mpsafe.xid/1", ...}: mpsafe.catalogue.Entry, its `fault_class` as `class`
no argument     {"shape": "mpsafe.xids/1", "entries": [...]}: all of them, each without the shape
"""

import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final, TypeAlias

import click

from mpsafe import catalogue, xid
from mpsafe.catalogue import Entry
from mpsafe.cli.terminal import printable
from mpsafe.errors import UnknownXid
from mpsafe.xid import Xid

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["explain"]

# The rest of a longer line is not looked at: nobody logs such lines, and memory stays bounded.
LINE_BYTES_MAX: Final = 1 << 20
LABEL_WIDTH: Final = 12

_Rows: TypeAlias = list[tuple[str, str]]


@click.command()
@click.argument("subject", metavar="[XID | LINE]", required=False)
@click.option("--stdin", "from_stdin", is_flag=True, help="Read log lines and explain the Xids among them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --stdin one object for each line read.")
def explain(subject: str | None, *, from_stdin: bool, as_json: bool) -> None:
    """Explain an Xid, or a log line that holds one.

    Without an argument, list the known Xids.

    \b
      mpsafe explain 31
      mpsafe explain 'NVRM: Xid (PCI:0000:01:00): 13, Graphics Exception'
      dmesg --follow | mpsafe explain --stdin
    """
    if from_stdin and subject is not None:
        raise click.UsageError("--stdin reads the lines: leave out XID or LINE")
    with _until_the_reader_leaves():
        if from_stdin:
            _stream(_lines(sys.stdin.buffer), as_json=as_json)
        elif subject is None:
            _list(as_json=as_json)
        elif (word := subject.lower().removeprefix("xid").strip()).isdecimal() and len(word) < 10:
            _explain_number(int(word), as_json=as_json)
        else:
            _explain_line(subject, as_json=as_json)


def _explain_number(number: int, *, as_json: bool) -> None:
    entry = catalogue.load().get(number)
    if entry is None:
        raise UnknownXid(number)
    if as_json:
        click.echo(json.dumps({"shape": "mpsafe.xid/1"} | _fields(entry)))
    else:
        _print(_console(), f"Xid {entry.xid}: {entry.name}", _about(entry))


def _explain_line(line: str, *, as_json: bool) -> None:
    # An argument that is no UTF-8 arrives with surrogates, which JSON cannot hold.
    found = xid.parse(line.encode(errors="surrogateescape").decode(errors="replace"))
    if as_json:
        click.echo(_line_json(1, found))
        return
    if found is None:
        raise click.UsageError("neither the number of an Xid nor a log line with one")
    entry = catalogue.load().get(found.xid)
    _print(_console(), _title(found, entry), _said(found) + (_about(entry) if entry else []))
    if entry is None:
        raise UnknownXid(found.xid)


def _list(*, as_json: bool) -> None:
    entries = catalogue.load().values()
    if as_json:
        click.echo(json.dumps({"shape": "mpsafe.xids/1", "entries": [_fields(entry) for entry in entries]}))
        return
    for entry in entries:
        click.echo(f"{entry.xid:>3}  {entry.fault_class:6}  {entry.immediate or '-':20}  {entry.name}")


def _stream(lines: Iterable[bytes], *, as_json: bool) -> None:
    if as_json:
        sink = sys.stdout.buffer
        for number, line in enumerate(lines, start=1):
            sink.write(_line_json(number, _parse(line)).encode() + b"\n")
            sink.flush()
        return
    console = _console()
    number = seen = 0
    for number, line in enumerate(lines, start=1):
        if found := _parse(line):
            seen += 1
            entry = catalogue.load().get(found.xid)
            advice = _advice(entry) if entry and found.xid != xid.RECOVERY_ACTION_CHANGED else []
            _print(console, f"line {number}: {_title(found, entry)}", _said(found) + advice)
    click.echo(f"{number} lines read, {seen} with an Xid; more about one with: mpsafe explain XID")


def _lines(source: BinaryIO) -> Iterator[bytes]:
    while line := source.readline(LINE_BYTES_MAX):
        yield line
        while line and not line.endswith(b"\n"):
            line = source.readline(LINE_BYTES_MAX)


def _parse(line: bytes) -> Xid | None:
    return xid.parse(line.decode(errors="replace")) if b"Xid" in line else None


def _fields(value: Entry | Xid) -> dict[str, object]:
    return {
        "class" if field.name == "fault_class" else field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
    }


def _line_json(number: int, found: Xid | None) -> str:
    return f'{{"line": {number}, {_NO_XID if found is None else json.dumps(_fields(found))[1:]}'


_NO_XID: Final = json.dumps(
    dict.fromkeys("class" if field.name == "fault_class" else field.name for field in dataclasses.fields(Xid))
)[1:]


def _title(found: Xid, entry: Entry | None) -> str:
    return f"Xid {found.xid}: {entry.name if entry else 'not in the catalogue'}"


def _said(found: Xid) -> _Rows:
    """What the line itself says."""
    instance = "".join(
        f", {name} instance {number}"
        for name, number in (("GPU", found.gpu_instance), ("compute", found.compute_instance))
        if number is not None
    )
    process = ", ".join(filter(None, [found.name, None if found.pid is None else f"pid {found.pid}"]))
    fault = " ".join(filter(None, [found.fault_type, found.access, found.address and f"at {found.address}"]))
    rows = [
        ("device", (found.pci or "not named") + instance),
        ("process", process),
        ("channel", found.channel),
        ("fault", fault),
        ("follows", None if found.caused_by is None else f"Xid {found.caused_by}"),
        ("asks for", found.action if found.xid == xid.RECOVERY_ACTION_CHANGED else None),
    ]
    return [(label, text) for label, text in rows if text]


def _about(entry: Entry) -> _Rows:
    return [
        ("meaning", entry.meaning),
        ("class", f"{entry.fault_class}: {entry.why}"),
        ("stock MPS", entry.stock_text),
        ("mpsafe", entry.mpsafe_text),
        *_advice(entry),
        *([("then", f"{entry.follow_up}: {entry.follow_up_text}")] if entry.follow_up else []),
        *[("source", source) for source in entry.sources],
    ]


def _advice(entry: Entry) -> _Rows:
    return [("advised", f"{entry.immediate}: {entry.immediate_text}" if entry.immediate else "nothing published")]


def _console() -> "Console":
    # rich takes longer to import than all of --json takes to run.
    from rich.console import Console

    return Console(highlight=False, markup=False, soft_wrap=True)


def _print(console: "Console", title: str, rows: _Rows) -> None:
    from rich.text import Text

    console.print(title, style="bold")
    for label, text in rows:
        lines = textwrap.wrap(
            printable(text), max(console.width - LABEL_WIDTH, 20), break_long_words=False, break_on_hyphens=False
        )
        console.print(Text.assemble((f"  {label}".ljust(LABEL_WIDTH), "dim"), ("\n" + " " * LABEL_WIDTH).join(lines)))


@contextmanager
def _until_the_reader_leaves() -> Generator[None]:
    """The end of `mpsafe explain | head` is no error."""
    try:
        yield
    except BrokenPipeError:
        # Python flushes stdout once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
