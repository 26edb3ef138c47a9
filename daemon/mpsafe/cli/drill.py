# SPDX-License-Identifier: Apache-2.0
"""mpsafe drill: a takeover on a live host, planned or by a real fault, and its timeline."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.text import Text

from mpsafe.cli.options import console, json_option, print_json, say, socket_option, words
from mpsafe.client import Client
from mpsafe.cuda.faulty import FAULTED, KINDS
from mpsafe.errors import DrillRefused, UnknownTenant
from mpsafe.model import Client as MpsClient
from mpsafe.model import ControlDaemon, Event
from mpsafe.timeline import moments, picture

__all__ = ["drill"]

PATIENCE_S: Final = 60.0
POLL_S: Final = 0.05


@click.command()
@socket_option
@json_option
@click.option("--fault", type=click.Choice(KINDS), help="a real fault in its MPS server, not a planned takeover")
@click.option("--yes", is_flag=True, help="do not ask, also at a terminal")
@click.option("--force", is_flag=True, help="also where a client of the server has no standby")
@click.option("--svg", type=click.Path(path_type=Path), help="write the timeline there as a picture")
@click.argument("tenant")
def drill(socket: str, as_json: bool, fault: str | None, yes: bool, force: bool, svg: Path | None, tenant: str) -> int:
    """Have TENANT's standby take over, and show the timeline.

    Without --fault the process that serves TENANT is fenced, and nobody else touched. With it a small process of
    ours joins its MPS server and faults there: sm ends the server for all its clients, memory does where no driver
    absorbs it. Wants the role admin. Exit status 1 if the standby does not serve.
    """
    with Client(socket) as client:
        served = _served(client, tenant)
        at_risk = [one for one in client.clients() if one.server == served.server] if fault else [served]
        _guard(client, at_risk, fault=fault, force=force, yes=yes)
        last = client.describe().last_event
        if fault:
            _fault(client, served, fault)
        else:
            client.promote(tenant)
        event = _taken_over(client, tenant, since=last)
    if svg is not None:
        svg.write_text(picture(f"mpsafe drill {tenant}", event), encoding="utf-8")
    if as_json:
        print_json("mpsafe.drill/1", event=event)
    else:
        _tell(console(), event)
    ours = next(one for one in event.takeovers if one.tenant == tenant)
    return 0 if ours.serving_ns else 1


def _served(client: Client, tenant: str) -> MpsClient:
    """The client that serves the tenant."""
    if all(one.name != tenant for one in client.tenants()):
        raise UnknownTenant(tenant)
    found = [one for one in client.clients() if one.tenant == tenant]
    if not found:
        raise DrillRefused(f"no client of an MPS server serves tenant {tenant}")
    return found[0]


def _guard(client: Client, at_risk: list[MpsClient], *, fault: str | None, force: bool, yes: bool) -> None:
    """Refuses what would cost somebody without a standby, and asks."""
    waited_for = {one.tenant for one in client.standbys() if one.phase == "warm"}
    bare = [one for one in at_risk if one.tenant not in waited_for]
    if bare and not force:
        names = ", ".join(f"{one.tenant or one.name} ({one.identity.pid})" for one in bare)
        raise DrillRefused(f"nobody would take over for {names}")
    if sys.stdin.isatty() and not yes:
        who = words(", ".join(f"{one.tenant or one.name} ({one.identity.pid})" for one in at_risk))
        click.confirm(f"{'Fault beside' if fault else 'Fence'} {who}?", abort=True)


def _fault(client: Client, served: MpsClient, kind: str) -> None:
    """A process of the server's user joins it, and faults."""
    name = next(one.control for one in client.describe().servers if one.pid == served.server)
    control: ControlDaemon = next(one for one in client.controls() if one.name == name)
    user = control.uid if os.geteuid() == 0 else None
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mpsafe.cuda.faulty", kind],
        env={**os.environ, "CUDA_MPS_PIPE_DIRECTORY": control.pipe_directory},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        user=user,
        check=False,
        timeout=PATIENCE_S,
    )
    if done.returncode not in (0, FAULTED) and done.returncode > 0:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise DrillRefused(f"the process that was to fault did not come so far: {said}")


def _taken_over(client: Client, tenant: str, *, since: int) -> Event:
    """The event of the takeover, once it is closed."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for event in client.events(since=since):
            if event.phase == "closed" and any(one.tenant == tenant for one in event.takeovers):
                return event
        time.sleep(POLL_S)
    raise DrillRefused(f"no takeover of tenant {tenant} has ended within {PATIENCE_S:g} s; see mpsafe events")


def _tell(out: Console, event: Event) -> None:
    say(out, Text(f"#{event.id} ", "dim"), words(event.summary))
    for takeover in event.takeovers:
        out.print(words(f"{takeover.tenant}: epoch {takeover.epoch}", "bold"))
        for moment in moments(event, takeover):
            out.print(Text(f"  {moment.after_ms:9.2f} ms  ", "dim") + words(moment.words))
    for action in event.actions:
        if action.state != "done" or action.kind == "takeover":
            say(out, Text(f"  {action.kind:<16}", "dim"), words(f"{action.state}: {action.detail}"))
