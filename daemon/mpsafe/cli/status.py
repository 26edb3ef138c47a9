# SPDX-License-Identifier: Apache-2.0
"""mpsafe status: the daemon, the devices, the MPS servers, the tenants, and what cannot be seen."""

import click
from rich.console import Console
from rich.table import Table

from mpsafe.cli.options import console, json_option, print_json, socket_option
from mpsafe.client import Client
from mpsafe.model import Device, Tenant
from mpsafe.protocol.host import Description

__all__ = ["status"]

_STYLES = {"healthy": "green", "active": "green", "absent": "dim", "fenced": "yellow", "lost": "red", "fault": "red"}


@click.command()
@socket_option
@json_option
def status(socket: str, as_json: bool) -> None:
    """Show the host: daemon, devices, MPS servers, tenants."""
    with Client(socket) as client:
        host, devices, tenants = client.describe(), client.devices(), client.tenants()
    if as_json:
        print_json("mpsafe.status/1", host=host, devices=devices, tenants=tenants)
        return
    out = console()
    _print_daemon(out, host)
    out.print(_device_table(devices))
    out.print(_server_table(host))
    out.print(_tenant_table(tenants))


def _print_daemon(out: Console, host: Description) -> None:
    acting = "acting" if host.acting else "dry run: nothing is acted upon"
    out.print(f"mpsafed {host.version}, pid {host.pid}, driver {host.driver}, {acting}, {host.last_event} entries")
    for source in host.sources:
        if not source.alive:
            out.print(f"[yellow]cannot see {source.name}[/]: {source.detail}")
    if host.trouble:
        out.print(f"[yellow]cannot see the MPS servers[/]: {host.trouble}")
    if host.lost_signals:
        out.print(f"[red]{host.lost_signals} signals were lost before they could be read[/]")


def _device_table(devices: list[Device]) -> Table:
    table = Table("device", "name", "PCI", "driver", "memory used", title="Devices", title_justify="left")
    for device in devices:
        used, total = device.memory_used_bytes / 2**30, device.memory_total_bytes / 2**30
        table.add_row(device.uuid, device.name, device.pci, device.driver_version, f"{used:.1f} of {total:.1f} GiB")
    return table


def _server_table(host: Description) -> Table:
    table = Table("server", "user", "state", "clients", title="MPS servers", title_justify="left")
    for server in host.servers:
        table.add_row(str(server.pid), str(server.uid), _coloured(server.state), str(server.clients))
    return table


def _tenant_table(tenants: list[Tenant]) -> Table:
    table = Table("tenant", "user", "health", "generation", "processes", title="Tenants", title_justify="left")
    for tenant in tenants:
        user = "any" if tenant.uid is None else str(tenant.uid)
        processes = ", ".join(str(identity.pid) for identity in tenant.clients)
        table.add_row(tenant.name, user, _coloured(tenant.health), str(tenant.generation), processes)
    return table


def _coloured(word: str) -> str:
    style = _STYLES.get(word)
    return f"[{style}]{word}[/]" if style else word
