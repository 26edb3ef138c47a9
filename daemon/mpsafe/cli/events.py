# SPDX-License-Identifier: Apache-2.0
"""mpsafe events: what happened, who did it, what was done."""

from datetime import datetime
from typing import Final

import click
from rich.text import Text

from mpsafe.blame import because
from mpsafe.cli.options import console, json_option, print_json, say, socket_option, words
from mpsafe.client import Client
from mpsafe.model import Event

__all__ = ["events", "line", "sentence"]

_STYLES: Final = {"fault": "red", "eviction": "yellow", "exit": "dim", "server": "yellow", "device": "magenta"}


@click.command()
@socket_option
@json_option
@click.option("--follow", "-f", is_flag=True, help="go on with each new entry, over restarts of the daemon")
@click.option(
    "--since", type=click.IntRange(min=0), default=0, metavar="SEQ", help="only what is newer than this entry"
)
@click.option("--evidence", is_flag=True, help="tell why a client is blamed or nobody is, and show the evidence")
def events(socket: str, as_json: bool, follow: bool, since: int, evidence: bool) -> None:
    """List events: what happened, who did it, what was done.

    With --follow each entry of the stream, as it comes.
    """
    with Client(socket) as client:
        if not follow:
            for event in client.events(since=since):
                _tell(event, 0, as_json=as_json, evidence=evidence)
            return
        for watched in client.watch(since=since):
            if watched.lost:
                click.echo(f"{watched.lost} entries before {watched.seq} were forgotten", err=True)
            if watched.event is not None:
                _tell(watched.event, watched.lost, as_json=as_json, evidence=evidence)


def sentence(event: Event) -> str:
    """One line on one entry."""
    action = next((action for action in reversed(event.actions) if action.kind != "note"), None)
    done = f" [{action.kind.replace('_', ' ')}: {action.state}]" if action is not None else ""
    return f"{event.summary}{done}"


def line(event: Event, time_format: str) -> tuple[Text, Text]:
    """When, which and of what kind, for the margin; and what."""
    when = datetime.fromtimestamp(event.time_ns / 1e9).strftime(time_format)
    kind = (f"{event.kind:<8} ", _STYLES[event.kind])
    return Text.assemble((f"{when} #{event.id:<4} ", "dim"), kind), words(sentence(event))


def _tell(event: Event, lost: int, *, as_json: bool, evidence: bool) -> None:
    if as_json:
        explained = {"because": because(event)} if evidence else {}
        print_json("mpsafe.event/1", lost=lost, event=event, **explained)
        return
    out = console()
    say(out, *line(event, f"%Y-%m-%d %H:%M:%S.{event.time_ns // 1_000_000 % 1000:03}"))
    if evidence:
        for reason in because(event):
            say(out, Text("    "), words(reason))
        for one in event.blame.evidence:
            say(out, Text(f"    {one.source:<14} ", "dim"), words(one.text, "dim"))
