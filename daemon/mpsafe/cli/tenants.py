# SPDX-License-Identifier: Apache-2.0
"""mpsafe tenants: how the tenants are, and what they say of their own work."""

from dataclasses import dataclass

import click
from rich.table import Table

from mpsafe.cli.options import coloured, console, json_option, print_json, socket_option, table, user, words
from mpsafe.client import Client
from mpsafe.model import TenantHealth
from mpsafe.status import StatusPage

__all__ = ["TenantLine", "tenant_lines", "tenant_table", "tenants"]

NOBODY = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class TenantLine:
    """One tenant as the status page has it; a figure is 0 until a process of the tenant has reported it."""

    name: str
    uid: int | None
    health: TenantHealth
    generation: int
    processes: int
    queue: int
    in_flight: int
    latency_ns: int
    resident_bytes: int


@click.command()
@socket_option
@json_option
def tenants(socket: str, as_json: bool) -> None:
    """Show the tenants: health, and what they say of their work."""
    with Client(socket) as client, client.attach() as attached:
        lines = tenant_lines(attached.page)
    if as_json:
        print_json("mpsafe.tenants/1", tenants=lines)
        return
    console().print(tenant_table("", lines))


def tenant_lines(page: StatusPage) -> list[TenantLine]:
    """All tenants, read without a call."""
    return [
        TenantLine(
            one.name,
            None if one.uid == NOBODY else one.uid,
            one.health,
            one.generation,
            one.clients,
            one.queue,
            one.in_flight,
            one.latency_ns,
            one.resident_bytes,
        )
        for one in page.tenants()
    ]


def tenant_table(title: str, lines: list[TenantLine]) -> Table:
    """A line for each tenant; what was never reported is left empty."""
    shown = table(title, "tenant", "user#", "health", "gen#", "procs#", "queue#", "in flight#", "latency#", "resident#")
    for one in lines:
        figures = (
            str(one.queue or ""),
            str(one.in_flight or ""),
            f"{one.latency_ns / 1e6:.1f} ms" if one.latency_ns else "",
            f"{one.resident_bytes / 2**30:.1f} GiB" if one.resident_bytes else "",
        )
        state = coloured(one.health)
        shown.add_row(words(one.name), user(one.uid), state, str(one.generation), str(one.processes or ""), *figures)
    return shown
