# SPDX-License-Identifier: Apache-2.0
"""What tenants' processes report of themselves, as figures for the status page."""

from collections.abc import Iterable
from dataclasses import fields

from mpsafe.model import Figures, Identity

__all__ = ["Reports"]


class Reports:
    """The newest figures of each process."""

    def __init__(self) -> None:
        self._figures: dict[Identity, Figures] = {}

    def put(self, process: Identity, figures: Figures) -> None:
        """Takes in a report; what it leaves out stays as it was reported before."""
        before = self._figures.get(process, Figures())
        given = {f.name: getattr(figures, f.name) for f in fields(Figures)}
        kept = {name: getattr(before, name) if value is None else value for name, value in given.items()}
        self._figures[process] = Figures(**kept)

    def forget(self, process: Identity) -> None:
        """The process has ended."""
        self._figures.pop(process, None)

    def of_one(self, process: Identity) -> Figures | None:
        """What one process has reported, if anything."""
        return self._figures.get(process)

    def of(self, processes: Iterable[Identity]) -> Figures:
        """What several processes report together: sums, and the worst latency; 0 where nobody says."""
        found = [self._figures[process] for process in processes if process in self._figures]
        return Figures(
            queue=sum(one.queue or 0 for one in found),
            in_flight=sum(one.in_flight or 0 for one in found),
            latency_ns=max((one.latency_ns or 0 for one in found), default=0),
            resident_bytes=sum(one.resident_bytes or 0 for one in found),
        )
