# SPDX-License-Identifier: Apache-2.0
"""mpsafe mps: the MPS control daemons, whether they run, and the limits that they set."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeVar

import click
from rich.text import Text

from mpsafe.cli.control import control_block, limits_text
from mpsafe.cli.options import console, json_option, print_json, say, socket_option, words
from mpsafe.client import Client
from mpsafe.errors import UnknownControl
from mpsafe.model import ControlDaemon, Limits

__all__ = ["mps"]

F = TypeVar("F", bound=Callable[..., Any])

PINNED_MIB_MAX: Final = 1 << 24

_PINNED: Final = re.compile(r"(?P<device>[0-9]|[12][0-9]|3[01]|all)=(?P<mib>[0-9]{1,8})")


@click.group()
def mps() -> None:
    """The MPS control daemons: start, stop, limits.

    CONTROL is a control daemon's name; it may be left out where there is only one.
    """


def _control(command: F) -> F:
    return socket_option(json_option(click.argument("control", required=False)(command)))


@mps.command()
@_control
def status(socket: str, as_json: bool, control: str | None) -> None:
    """Show what runs, its limits, and how far a fault reaches."""
    with Client(socket) as client:
        servers = client.describe().servers
        shown = [one for one in client.controls() if control in (None, one.name)]
    if control is not None and not shown:
        raise UnknownControl(control)
    if as_json:
        print_json("mpsafe.controls/1", controls=shown)
        return
    out = console()
    if not shown:
        out.print("The configuration leads to no MPS control daemon: see mpsafe.toml(5), [mps] and [[tenant]].")
    for number, one in enumerate(shown):
        if number:
            out.print()
        out.print(control_block(one, servers))


@mps.command()
@_control
def start(socket: str, as_json: bool, control: str | None) -> None:
    """Have it run from now on, also after a boot."""
    with Client(socket) as client:
        _print(client.start_mps(_chosen(client, control).name), as_json=as_json)


@mps.command()
@click.option("--force", is_flag=True, help="do not wait for its clients: they lose what they compute")
@_control
def stop(socket: str, as_json: bool, control: str | None, force: bool) -> None:
    """Have it end, once its clients have left, and not run again."""
    with Client(socket) as client:
        chosen = _chosen(client, control)
        left = sum(server.clients for server in client.describe().servers if server.control == chosen.name)
        if left and not force:
            click.echo(f"{chosen.name} ends when its {left} clients have left; --force does not wait", err=True)
        _print(client.stop_mps(chosen.name, force=force), as_json=as_json)


def _pinned(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    """DEVICE=MIB, each device once."""
    found: dict[str, int] = {}
    for value in values:
        limit = _PINNED.fullmatch(value)
        if limit is None or not 1 <= int(limit["mib"]) <= PINNED_MIB_MAX:
            problem = f"{value!r} is not DEVICE=MIB: a device from 0 to 31 or all, and 1 to {PINNED_MIB_MAX} MiB"
            raise click.BadParameter(problem, ctx, parameter)
        found[limit["device"]] = int(limit["mib"])
    return found


@mps.command()
@click.option("--show", is_flag=True, help="change nothing, which is also what happens without an option")
@click.option(
    "--active-thread-percentage",
    "percentage",
    type=click.FloatRange(0, 100, min_open=True),
    metavar="N",
    help="the share of the SMs that one client may use",
)
@click.option("--client-priority", "priority", type=click.IntRange(0, 1), metavar="N", help="0 normal, 1 below normal")
@click.option(
    "--pinned-mib",
    "pinned_mib",
    multiple=True,
    callback=_pinned,
    metavar="DEVICE=MIB",
    help="device memory of one client",
)
@click.option("--reset", is_flag=True, help="first go back to the limits of the configuration")
@_control
def limits(
    socket: str,
    as_json: bool,
    control: str | None,
    show: bool,
    percentage: float | None,
    priority: int | None,
    pinned_mib: dict[str, int],
    reset: bool,
) -> None:
    """Show or set the limits for clients that connect from now on; those not named stay as they are."""
    given = Limits(percentage, priority, pinned_mib)
    changes = reset or given != Limits()
    if show and changes:
        raise click.UsageError("--show changes nothing: leave out the other options")
    with Client(socket) as client:
        one = _chosen(client, control)
        if reset:
            one = client.set_limits(one.name, None)
        if given != Limits():
            one = client.set_limits(one.name, _over(one.declared, given))
    _print(one, as_json=as_json)


@mps.command()
@socket_option
@json_option
@click.argument("control")
@click.argument("device")
@click.argument("chunks", nargs=-1, type=click.IntRange(min=1))
def partition(socket: str, as_json: bool, control: str, device: str, chunks: tuple[int, ...]) -> None:
    """Set the SM partitions of DEVICE, a UUID: the size of each in CHUNKS, none to take them away."""
    with Client(socket) as client:
        _print(client.partition(control, device, list(chunks)), as_json=as_json)


def _chosen(client: Client, name: str | None) -> ControlDaemon:
    """The control daemon of that name, or the only one."""
    controls = client.controls()
    found = [one for one in controls if name in (None, one.name)]
    if name is not None and not found:
        raise UnknownControl(name)
    if len(found) != 1:
        names = ", ".join(one.name for one in controls)
        raise click.UsageError(f"name one of the control daemons: {names}" if names else "there is no control daemon")
    return found[0]


def _over(declared: Limits, given: Limits) -> Limits:
    percentage, priority = given.active_thread_percentage, given.client_priority
    return replace(
        declared,
        active_thread_percentage=declared.active_thread_percentage if percentage is None else percentage,
        client_priority=declared.client_priority if priority is None else priority,
        pinned_mib=declared.pinned_mib | given.pinned_mib,
    )


def _print(control: ControlDaemon, *, as_json: bool) -> None:
    """What has become of it, and what is not as declared."""
    if as_json:
        print_json("mpsafe.control/1", control=control)
        return
    out = console()
    say(out, Text(), words(f"{control.name} is {control.state}; limits: {limits_text(control.declared)}"))
    for text in [*control.drift, *filter(None, [control.trouble])]:
        say(out, Text("  "), words(text, "red"))
