# SPDX-License-Identifier: Apache-2.0
"""Behind io.mpsafe.Mps: bounds on what a peer sends, and what it may see. The supervisor does the rest."""

import re
from typing import Final, Protocol

from mpsafe.errors import BadRequest, UnknownControl
from mpsafe.model import ControlDaemon, Limits
from mpsafed.api.connection import CURRENT

__all__ = ["MpsService", "Supervisor"]

NAME_MAX: Final = 64
PINNED_MIB_MAX: Final = 1 << 24
PARTITIONS_MAX: Final = 64
CHUNKS_MAX: Final = 1024

_ORDINAL: Final = re.compile(r"[0-9]|[12][0-9]|3[01]|all")
_UUID: Final = re.compile(r"(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Supervisor(Protocol):
    """What the service asks for. Raises UnknownControl, NotOurs, NotSupported and ControlFailed."""

    def overview(self) -> list[ControlDaemon]: ...
    async def start(self, name: str, /) -> object: ...
    async def stop(self, name: str, /, *, force: bool) -> object: ...
    async def set_limits(self, name: str, limits: Limits | None, /) -> object: ...
    async def partition(self, name: str, device: str, chunks: list[int], /) -> object: ...


class MpsService:
    """Each change answers with the control daemon as it is afterwards."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    async def status(self) -> list[ControlDaemon]:
        """See MpsInterface.Status. Other users' control daemons are shown to admins only."""
        peer = CURRENT.get().peer
        return [control for control in self._supervisor.overview() if peer.may_see(control.uid)]

    async def start(self, control: str) -> ControlDaemon:
        """See MpsInterface.Start."""
        self._known(control)
        await self._supervisor.start(control)
        return self._known(control)

    async def stop(self, control: str, *, force: bool) -> ControlDaemon:
        """See MpsInterface.Stop."""
        self._known(control)
        await self._supervisor.stop(control, force=force)
        return self._known(control)

    async def set_limits(self, control: str, limits: Limits | None) -> ControlDaemon:
        """See MpsInterface.SetLimits."""
        self._known(control)
        if limits is not None:
            _check_limits(limits)
        await self._supervisor.set_limits(control, limits)
        return self._known(control)

    async def partition(self, control: str, device: str, chunks: list[int]) -> ControlDaemon:
        """See MpsInterface.Partition."""
        self._known(control)
        _check_partitions(device, chunks)
        await self._supervisor.partition(control, device, chunks)
        return self._known(control)

    def _known(self, name: str) -> ControlDaemon:
        found = next((control for control in self._supervisor.overview() if control.name == name), None)
        if found is None:
            raise UnknownControl(name[:NAME_MAX])
        return found


def _check_limits(limits: Limits) -> None:
    percentage = limits.active_thread_percentage
    # Written so that what is no number is refused too.
    if percentage is not None and not 0 < percentage <= 100:
        raise BadRequest("limits.active_thread_percentage", "over 0 to 100", str(percentage))
    if limits.client_priority not in (None, 0, 1):
        raise BadRequest("limits.client_priority", "0 normal or 1 below normal", str(limits.client_priority))
    for ordinal, mebibytes in limits.pinned_mib.items():
        if _ORDINAL.fullmatch(ordinal) is None:
            raise BadRequest("limits.pinned_mib", "device ordinals 0 to 31, or all", repr(ordinal[:NAME_MAX]))
        if not 1 <= mebibytes <= PINNED_MIB_MAX:
            raise BadRequest(f"limits.pinned_mib.{ordinal}", f"1 to {PINNED_MIB_MAX} MiB", str(mebibytes))
    if sum(map(len, limits.partitions.values())) > PARTITIONS_MAX or len(limits.partitions) > PARTITIONS_MAX:
        raise BadRequest("limits.partitions", f"at most {PARTITIONS_MAX} in all", "more")
    for device, chunks in limits.partitions.items():
        _check_partitions(device, chunks)


def _check_partitions(device: str, chunks: list[int]) -> None:
    if _UUID.fullmatch(device) is None:
        raise BadRequest("device", "a UUID such as GPU-8c1ee2d3-27f1-4c5b-9c68-0f5bd2d1a1e7", repr(device[:NAME_MAX]))
    if len(chunks) > PARTITIONS_MAX:
        raise BadRequest("chunks", f"at most {PARTITIONS_MAX} partitions", str(len(chunks)))
    for size in chunks:
        if not 1 <= size <= CHUNKS_MAX:
            raise BadRequest("chunks", f"sizes of 1 to {CHUNKS_MAX} chunks", str(size))
