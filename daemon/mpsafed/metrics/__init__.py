# SPDX-License-Identifier: Apache-2.0
"""What is counted of the daemon's work, and served as OpenMetrics where the configuration says so.

`prometheus_client` and the server are imported only then. No label is a pid or anything else that grows
without a bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mpsafe.model import Client, ControlDaemon, Event, Server, SourceState, Tenant

__all__ = ["Metrics", "Overview", "serve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The host at one moment. `beat_ns` is the driver's last heartbeat, CLOCK_MONOTONIC."""

    controls: Sequence[ControlDaemon] = ()
    servers: Sequence[Server] = ()
    clients: Sequence[Client] = ()
    tenants: Sequence[Tenant] = ()
    beat_ns: int | None = None


class Metrics:
    """Is told what happens. This one counts nothing, which is the default."""

    def signal(self, source: str) -> None:
        """A source has emitted a signal."""

    def lost(self, count: int) -> None:
        """So many signals are known to be lost."""

    def entry(self, event: Event, before: Event | None = None) -> None:
        """The stream has grown by `event`; `before` is the entry of the same event that it follows."""

    def source(self, state: SourceState) -> None:
        """A source sees again, or does not see any more."""

    def overview(self, overview: Overview) -> None:
        """How the host is, in the place of what was told before."""

    def close(self) -> None:
        """Serves no more."""


def serve(listen: str) -> Metrics:
    """Counts, and serves at the path of a Unix socket or at a loopback ADDRESS:PORT; where `listen` is empty, neither.

    Every local user may read there, as with a loopback port. OSError if it cannot be listened there.
    """
    if not listen:
        return Metrics()
    from mpsafed.metrics.counted import Counted

    return Counted(listen)
