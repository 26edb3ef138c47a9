# SPDX-License-Identifier: Apache-2.0
"""The daemon itself: whether it answers, acts, and sees what it is to see."""

from collections.abc import Iterator

from mpsafe.doctor.finding import Finding
from mpsafe.doctor.scene import Scene

__all__ = ["daemon"]


def daemon(scene: Scene) -> Iterator[Finding]:
    """What it refused, and which of its sources it cannot see."""
    host = scene.told.host
    yield from (Finding("wrong" if host is None else "warning", str(one), one.hint) for one in scene.told.refused)
    if host is None:
        yield Finding("note", "without mpsafed, clients, limits and devices are not compared")
        return
    yield Finding("ok", f"mpsafed {host.version} answers, pid {host.pid}", pid=host.pid)
    if not host.acting:
        way_out = "let it act with [policy] act = true, see mpsafe.toml(5)"
        yield Finding("note", "mpsafed only notes what it would do: it is a dry run", way_out)
    if host.trouble:
        yield Finding("warning", f"mpsafed cannot list the MPS servers: {host.trouble}", "see: mpsafe mps status")
    for source in host.sources:
        if not source.alive:
            text = f"mpsafed cannot see {source.name}: {source.detail}"
            yield Finding("warning", text, "see what it needs in mpsafe.toml(5), [sources]")
    if host.lost_signals:
        text = f"{host.lost_signals} signals were lost before mpsafed could read them"
        yield Finding("warning", text, "see when with: mpsafe events")
