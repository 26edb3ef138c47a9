# SPDX-License-Identifier: Apache-2.0
"""mpsafe clients: who is connected to the MPS servers."""

import click

from mpsafe.cli.options import coloured, console, json_option, print_json, socket_option, table, words
from mpsafe.client import Client

__all__ = ["clients"]


@click.command()
@socket_option
@json_option
def clients(socket: str, as_json: bool) -> None:
    """List the clients of the MPS servers.

    Other users' clients are shown to admins only.
    """
    with Client(socket) as client:
        found = client.clients()
    if as_json:
        print_json("mpsafe.clients/1", clients=found)
        return
    shown = table("", "pid#", "name", "user#", "tenant", "server#", "state")
    for one in found:
        tenant = words(one.tenant or "")
        shown.add_row(
            str(one.identity.pid), words(one.name), str(one.uid), tenant, str(one.server), coloured(one.state)
        )
    console().print(shown)
