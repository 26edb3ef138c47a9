# SPDX-License-Identifier: Apache-2.0
"""mpsafe events: what happened, who did it, what was done."""

from datetime import datetime

import click

from mpsafe.cli.options import console, json_option, print_json, socket_option
from mpsafe.client import Client
from mpsafe.model import Event

__all__ = ["events", "sentence"]

_STYLES = {"fault": "red", "eviction": "yellow", "exit": "dim", "server": "yellow", "device": "magenta"}


@click.command()
@socket_option
@json_option
@click.option("--follow", "-f", is_flag=True, help="go on with each new entry, over restarts of the daemon")
@click.option(
    "--since", type=click.IntRange(min=0), default=0, metavar="SEQ", help="only what is newer than this entry"
)
@click.option("--evidence", is_flag=True, help="show why a client is blamed")
def events(socket: str, as_json: bool, follow: bool, since: int, evidence: bool) -> None:
    """List events; with --follow each entry of the stream, as it comes."""
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


def _tell(event: Event, lost: int, *, as_json: bool, evidence: bool) -> None:
    if as_json:
        print_json("mpsafe.event/1", lost=lost, event=event)
        return
    out = console()
    when = datetime.fromtimestamp(event.time_ns / 1e9).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    style = _STYLES[event.kind]
    out.print(f"{when} #{event.id}", end=" ")
    out.print(f"{event.kind:<8}", style=style, end=" ")
    out.print(sentence(event), markup=False)
    if evidence:
        for one in event.blame.evidence:
            out.print(f"    {one.source}: {one.text}", markup=False, style="dim")
