# SPDX-License-Identifier: Apache-2.0
"""mpsafe status: the daemon, the devices, the MPS servers, the tenants, and what cannot be seen."""

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mpsafe.cli.control import control_table
from mpsafe.cli.options import coloured, console, json_option, print_json, socket_option, table, user, words
from mpsafe.cli.terminal import printable
from mpsafe.client import Client
from mpsafe.model import Device, Server, Tenant
from mpsafe.protocol.host import Description

__all__ = ["server_table", "status"]


@click.command()
@socket_option
@json_option
def status(socket: str, as_json: bool) -> None:
    """Show the host: daemon, devices, MPS, tenants."""
    with Client(socket) as client:
        devices = client.devices()  # first: mpsafed asks NVML when it is asked, and tells then whether it sees it
        host, tenants = client.describe(), client.tenants()
        controls = client.controls() if "mps" in host.features else []
    if as_json:
        print_json("mpsafe.status/1", host=host, devices=devices, controls=controls, tenants=tenants)
        return
    out = console()
    _print_daemon(out, host)
    declared = [control_table("MPS control daemons", controls)] if controls else []
    servers = server_table("MPS servers", host.servers)
    for each in (_device_table(devices), *declared, servers, _tenant_table(tenants)):
        out.print()
        out.print(each)


def _print_daemon(out: Console, host: Description) -> None:
    acting = "acting" if host.acting else "dry run: nothing is acted upon"
    out.print(
        words(f"mpsafed {host.version}, pid {host.pid}, driver {host.driver}, {acting}, {host.last_event} entries")
    )
    for source in host.sources:
        if not source.alive:
            out.print(words(f"cannot see {source.name}", "yellow") + words(f": {source.detail}"))
    if host.trouble:
        out.print(words("cannot see the MPS servers", "yellow") + words(f": {host.trouble}"))
    if host.lost_signals:
        out.print(words(f"{host.lost_signals} signals were lost before they could be read", "red"))


def _device_table(devices: list[Device]) -> Table:
    """Two lines for each: the UUID is long, and has to be whole to be of use."""
    shown = table("Devices", "#", "device", "PCI, mode", "memory used#")
    for device in devices:
        used = f"{device.memory_used_bytes / 2**30:.1f} GiB\nof {device.memory_total_bytes / 2**30:.1f} GiB"
        name = words(device.name) + Text(f"\n{printable(device.uuid)}", "dim")
        mode = Text(f"{printable(device.pci)}\n{printable(device.compute_mode).replace('_', ' ')}")
        shown.add_row(str(device.index), name, mode, used)
    return shown


def server_table(title: str, servers: list[Server]) -> Table:
    """A line for each MPS server."""
    shown = table(title, "server#", "user#", "control", "state", "clients#")
    for server in servers:
        state = coloured(server.state)
        shown.add_row(str(server.pid), str(server.uid), words(server.control), state, str(server.clients))
    return shown


def _tenant_table(tenants: list[Tenant]) -> Table:
    shown = table("Tenants", "tenant", "user#", "health", "gen#", "processes")
    for tenant in tenants:
        processes = ", ".join(str(identity.pid) for identity in tenant.clients)
        shown.add_row(words(tenant.name), user(tenant.uid), coloured(tenant.health), str(tenant.generation), processes)
    return shown
