# SPDX-License-Identifier: Apache-2.0
"""mpsafe store: host data that several processes have one copy of."""

import click

from mpsafe.cli.options import age, console, json_option, print_json, size, socket_option, table, words
from mpsafe.client import Client

__all__ = ["store"]


@click.group()
def store() -> None:
    """Host data by content hash, one copy for all who use it."""


@store.command()
@socket_option
@json_option
def ls(socket: str, as_json: bool) -> None:
    """Show the contents that are kept, and who published them."""
    with Client(socket) as client:
        found = client.contents()
    if as_json:
        print_json("mpsafe.store/1", contents=found)
        return
    out = console()
    if found:
        shown = table("", "sha256", "size#", "tenant", "uid#", "users#", "published#", "unused#")
        for one in found:
            unused = age(one.unused_ns) if one.unused_ns else ""
            texts = (size(one.size_bytes), words(one.tenant), str(one.uid), str(one.users), age(one.published_ns))
            shown.add_row(words(one.hash[:16]), *texts, unused)
        out.print(shown)
    out.print(f"{len(found)} contents, {size(sum(one.size_bytes for one in found))}")
