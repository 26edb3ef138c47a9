# SPDX-License-Identifier: Apache-2.0
"""mpsafe fence: one client is stopped in the order that cannot hurt the others, and each step is told."""

import sys

import click
from rich.console import Console
from rich.text import Text

from mpsafe.cli.options import console, say, socket_option, words
from mpsafe.client import Client
from mpsafe.model import Action, Event

__all__ = ["fence"]

_STYLES = {"proven": "green", "assumed": "yellow", "failed": "red", "killed": "bold"}


@click.command()
@socket_option
@click.option("--wait/--no-wait", default=True, show_default=True, help="follow it to its end, or print its event only")
@click.option("--yes", is_flag=True, help="do not ask, also at a terminal")
@click.argument("pid", type=click.IntRange(min=1))
def fence(socket: str, wait: bool, yes: bool, pid: int) -> int:
    """Stop a client in the order that spares the others.

    Freeze PID, cut it off, terminate its GPU work, and kill it last; the other clients of its server go on.
    Wants the role admin. Exit status 1 if it is not stopped.
    """
    with Client(socket) as client:
        if sys.stdin.isatty() and not yes:
            known = next((one for one in client.clients() if one.identity.pid == pid), None)
            who = words(f"{known.tenant or known.name} ({pid}) of uid {known.uid}" if known else f"process {pid}")
            click.confirm(f"Stop {who}, and lose what it computes?", abort=True)
        number = client.fence(pid)
        if not wait:
            click.echo(f"event {number}")
            return 0
        return _follow(console(), client, number)


def _follow(out: Console, client: Client, number: int) -> int:
    """Each step as it is written down, over restarts of the daemon; the exit status."""
    first: Event | None = None
    for watched in client.watch(since=number - 1):
        event = watched.event
        if event is None or event.id != number:
            continue
        step = next((action for action in event.actions if action.kind == "fence"), None)
        if step is None:
            continue
        if first is None:
            first = event
            say(out, Text(f"#{event.id} ", "dim"), words(event.summary))
        say(out, _margin(step, (event.entered_ns - first.entered_ns) / 1e9), words(step.detail))
        if event.phase == "closed":
            return 0 if step.state == "killed" else 1
    return 1


def _margin(step: Action, after_s: float) -> Text:
    style = _STYLES.get(step.state, "")
    return Text.assemble((f"{after_s:8.3f} s  ", "dim"), (f"{step.state:<12} ", style))
