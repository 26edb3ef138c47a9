# SPDX-License-Identifier: Apache-2.0
"""mpsafe clients: who is connected to the MPS servers."""

import click
from rich.table import Table

from mpsafe.cli.options import console, json_option, print_json, socket_option
from mpsafe.client import Client

__all__ = ["clients"]


@click.command()
@socket_option
@json_option
def clients(socket: str, as_json: bool) -> None:
    """List the clients of the MPS servers; other users' clients are shown to admins only."""
    with Client(socket) as client:
        found = client.clients()
    if as_json:
        print_json("mpsafe.clients/1", clients=found)
        return
    table = Table("pid", "name", "user", "tenant", "server", "state")
    for one in found:
        table.add_row(str(one.identity.pid), one.name, str(one.uid), one.tenant or "", str(one.server), one.state)
    console().print(table)
