# SPDX-License-Identifier: Apache-2.0
"""mpsafe standby: who waits to take over."""

import click

from mpsafe.cli.options import coloured, console, json_option, print_json, socket_option, table, words
from mpsafe.client import Client

__all__ = ["standby"]


@click.group()
def standby() -> None:
    """Warm processes that take over when the one that serves is lost."""


@standby.command()
@socket_option
@json_option
def ls(socket: str, as_json: bool) -> None:
    """Show the standbys, and what waiting costs."""
    with Client(socket) as client:
        found = client.standbys()
    if as_json:
        print_json("mpsafe.standbys/1", standbys=found)
        return
    if not found:
        console().print("Nobody waits: start one with systemctl start mpsafe-standby@TENANT, see mpsafed(8).")
        return
    shown = table("", "tenant", "pid#", "uid#", "phase", "device memory#")
    for one in found:
        resident = f"{one.resident_bytes / 2**20:.0f} MiB" if one.resident_bytes else ""
        shown.add_row(words(one.tenant), str(one.identity.pid), str(one.uid), coloured(one.phase), resident)
    console().print(shown)
