# SPDX-License-Identifier: Apache-2.0
"""Control daemons in words: what limits they set, and how far one client's fault reaches."""

from collections.abc import Iterable

from rich.console import Group
from rich.table import Table

from mpsafe.cli.options import coloured, table, user, words
from mpsafe.model import ControlDaemon, Limits, Server

__all__ = ["control_block", "control_table", "limits_text", "reach"]


def limits_text(limits: Limits | None) -> str:
    """All of them in one line."""
    if limits is None:
        return "not known"
    told: list[str] = []
    if limits.active_thread_percentage is not None:
        told.append(f"{limits.active_thread_percentage:g} % of the SMs a client")
    if limits.client_priority is not None:
        told.append(f"priority {'normal' if limits.client_priority == 0 else 'below normal'}")
    for device, mebibytes in sorted(limits.pinned_mib.items()):
        told.append(f"{mebibytes} MiB a client on {'all devices' if device == 'all' else f'device {device}'}")
    for device, chunks in sorted(limits.partitions.items()):
        told.append(f"partitions of {', '.join(map(str, chunks)) or 'no'} chunks on {device}")
    return "; ".join(told) or "none: MPS's own defaults"


def reach(control: ControlDaemon, servers: Iterable[Server]) -> str:
    """Whom the fault of one client reaches that the driver does not absorb: all clients of its server."""
    count = sum(server.clients for server in servers if server.control == control.name)
    if control.uid is None:
        others = f"everybody's other {count - 1} clients" if count > 2 else "everybody's clients"
        return f"a fault of one client of any user reaches {others}"
    if count < 2:
        there = "this one client" if count else "no client"
        return f"a fault of one client of uid {control.uid} reaches uid {control.uid} alone, which has {there} now"
    others = f"{count - 1} other client{'s' if count > 2 else ''}"
    return f"a fault of one client of uid {control.uid} reaches its {others}, and nobody else's"


def control_table(title: str, controls: list[ControlDaemon]) -> Group:
    """A line each, and below it what is not as it was declared."""
    shown = table(title, "control", "user#", "state", "pid#", "speaks", "limits")
    for one in controls:
        pid = str(one.identity.pid) if one.identity else ""
        limits = words(limits_text(one.declared))
        shown.add_row(words(one.name), user(one.uid), coloured(one.state), pid, one.interface, limits)
    troubles = [
        words(f"{one.name}: {text}", "red") for one in controls for text in [*filter(None, [one.trouble]), *one.drift]
    ]
    return Group(shown, *troubles)


def control_block(control: ControlDaemon, servers: Iterable[Server]) -> Table:
    """All of one control daemon, a line each."""
    block = Table.grid(padding=(0, 2))
    block.add_column(min_width=10)
    block.add_column()
    whose = "everybody's" if control.uid is None else f"of uid {control.uid}"
    pid = f", pid {control.identity.pid}" if control.identity else ""
    block.add_row(
        words(control.name, "bold"), coloured(control.state) + words(f"{pid}, speaks {control.interface}, {whose}")
    )
    rows = {
        "reach": reach(control, servers),
        "limits": limits_text(control.declared),
        "in force": limits_text(control.in_force) if control.drift else "",
        "pipes": control.pipe_directory,
        "logs": control.log_directory,
        "wanted": "" if control.wanted else "it is not to run: mpsafe mps start has it run",
    }
    for label, text in rows.items():
        if text:
            block.add_row(words(f"  {label}", "dim"), words(text))
    for text in control.drift:
        block.add_row(words("  drift", "red"), words(text))
    if control.trouble:
        block.add_row(words("  trouble", "red"), words(control.trouble))
    return block
