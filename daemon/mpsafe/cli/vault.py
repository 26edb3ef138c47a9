# SPDX-License-Identifier: Apache-2.0
"""mpsafe vault: the regions that are held, and what can be let go of."""

import sys

import click
from rich.text import Text

from mpsafe.cli.options import age, coloured, console, json_option, print_json, size, socket_option, table, words
from mpsafe.client import Client
from mpsafe.errors import UnknownRegion
from mpsafe.model import Region
from mpsafe.protocol.vault import VaultState

__all__ = ["vault"]


@click.group()
def vault() -> None:
    """The vault: GPU memory that no client owns."""


@vault.command()
@socket_option
@json_option
def ls(socket: str, as_json: bool) -> None:
    """Show the regions, oldest first."""
    with Client(socket) as client:
        state = client.vault()
    if as_json:
        print_json("mpsafe.vault/1", vault=state)
        return
    out = console()
    shown = table("", "region#", "tenant", "name", "kind", "state", "size#", "handles#", "epoch#", "uid#", "age#")
    for one in state.regions:
        cells = (size(one.nbytes), str(len(one.sizes)), str(one.epoch or ""), str(one.uid), age(one.created_ns))
        shown.add_row(str(one.id), words(one.tenant), words(one.name), one.kind, coloured(one.state), *cells)
    if state.regions:
        out.print(shown)
    out.print(_held(state))


@vault.command()
@socket_option
@json_option
@click.argument("region", type=click.IntRange(min=1))
def show(socket: str, as_json: bool, region: int) -> None:
    """Show all that is known of one region."""
    with Client(socket) as client:
        found = _known(client, region)
    if as_json:
        print_json("mpsafe.region/1", region=found)
        return
    out = console()
    process = f"{found.creator.pid} of uid {found.uid}"
    committed = f"{age(found.committed_ns)} ago" if found.committed_ns else "never"
    for name, value in (
        ("region", f"{found.tenant}/{found.name} ({found.id}), {found.kind}, {found.state}"),
        ("device", found.device),
        ("size", f"{size(found.nbytes)} in {len(found.sizes)} handles, layout of {found.layout_bytes} bytes"),
        ("epoch", str(found.epoch or "none")),
        ("created", f"{age(found.created_ns)} ago by process {process}"),
        ("committed", f"{committed} {found.digest}".rstrip()),
    ):
        out.print(Text(f"{name:<10} ", "dim") + words(value))


@vault.command()
@socket_option
@click.argument("region", type=click.IntRange(min=1))
@click.option("--yes", is_flag=True, help="do not ask, also at a terminal")
def rm(socket: str, region: int, yes: bool) -> None:
    """Let go of a region: its memory is free when nobody has it mapped any more."""
    with Client(socket) as client:
        found = _known(client, region)
        if sys.stdin.isatty() and not yes:
            name = words(f"{found.tenant}/{found.name}")
            click.confirm(f"Let go of {name}, {size(found.nbytes)}?", abort=True)
        client.release_region(region)


@vault.command()
@socket_option
@json_option
@click.option("--dry-run", is_flag=True, help="only name them")
def gc(socket: str, as_json: bool, dry_run: bool) -> None:
    """Let go of regions that nobody can use any more. Wants the role admin."""
    with Client(socket) as client:
        collected = client.collect(dry_run=dry_run)
    if as_json:
        print_json("mpsafe.collected/1", collected=collected)
        return
    out = console()
    for one in collected:
        region = one.region
        out.print(words(f"{region.id}  {region.tenant}/{region.name}, {size(region.nbytes)}: {one.why}"))
    done = "would be let go of" if dry_run else "let go of"
    out.print(f"{len(collected)} regions {done}, {size(sum(one.region.nbytes for one in collected))}")


@vault.command()
@socket_option
@click.option("--yes", is_flag=True, help="do not ask, also at a terminal")
def drain(socket: str, yes: bool) -> None:
    """Let go of everything, and take nothing in until mpsafed is restarted: the driver may be unloaded then.

    What is held pins the driver. Wants the role admin.
    """
    with Client(socket) as client:
        if sys.stdin.isatty() and not yes:
            count = len(client.vault().regions)
            click.confirm(f"Let go of all {count} regions? Takeovers will find nothing.", abort=True)
        click.echo(f"{client.drain()} regions let go of")


def _known(client: Client, number: int) -> Region:
    found = next((one for one in client.vault().regions if one.id == number), None)
    if found is None:
        raise UnknownRegion(str(number))
    return found


def _held(state: VaultState) -> Text:
    total = size(sum(region.nbytes for region in state.regions))
    held = f"{len(state.regions)} regions, {total}, held by {state.holder}"
    return words(f"{held}; nothing more is taken in: {state.closed}" if state.closed else held)
