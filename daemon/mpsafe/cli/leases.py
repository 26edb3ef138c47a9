# SPDX-License-Identifier: Apache-2.0
"""mpsafe leases: who has been granted how much of which device."""

import click

from mpsafe.cli.options import age, coloured, console, json_option, print_json, size, socket_option, table, words
from mpsafe.client import Client
from mpsafe.protocol.leases import Lease, Span

__all__ = ["leases"]


@click.command()
@socket_option
@json_option
def leases(socket: str, as_json: bool) -> None:
    """Show the leases of device memory and SM share."""
    with Client(socket) as client:
        found = client.leases()
    if as_json:
        print_json("mpsafe.leases/1", leases=found)
        return
    if not found:
        console().print("Nobody has a lease: see mpsafe.leases, and io.mpsafe.Leases.")
        return
    shown = table("", "lease#", "device", "tenant", "pid#", "floor/target/ceiling#", "granted#", "SM#", "state", "age#")
    for one in found:
        shown.add_row(
            str(one.id),
            words(one.device),
            words(one.tenant),
            str(one.identity.pid),
            _span(one.memory),
            size(one.granted_bytes) if one.memory.ceiling else "",
            f"{one.sm_percent} %" if one.sm.ceiling else "",
            coloured(one.state) + words(_asked(one)),
            age(one.created_ns),
        )
    console().print(shown)


def _span(memory: Span) -> str:
    return "/".join(size(nbytes) for nbytes in (memory.floor, memory.target, memory.ceiling)) if memory.ceiling else ""


def _asked(one: Lease) -> str:
    return f", to go down to {size(one.asked_bytes)}" if one.asked_bytes < one.granted_bytes else ""
