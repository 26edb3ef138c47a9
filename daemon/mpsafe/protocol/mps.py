# SPDX-License-Identifier: Apache-2.0
"""io.mpsafe.Mps: the MPS control daemons of this host, whether they run, and the limits that they set."""

from typing import Final, Protocol

from asyncvarlink import VarlinkInterface, varlinkmethod

from mpsafe.errors import BadRequest, ControlFailed, NotOurs, NotPermitted, NotSupported, UnknownControl
from mpsafe.model import ControlDaemon, Limits
from mpsafe.protocol.replies import declared

__all__ = ["NAME", "Mps", "MpsInterface"]

NAME: Final = "io.mpsafe.Mps"


class Mps(Protocol):
    """What the daemon implements. `control` is a control daemon's name."""

    async def status(self) -> list[ControlDaemon]: ...
    async def start(self, control: str) -> ControlDaemon: ...
    async def stop(self, control: str, *, force: bool) -> ControlDaemon: ...
    async def set_limits(self, control: str, limits: Limits | None) -> ControlDaemon: ...
    async def partition(self, control: str, device: str, chunks: list[int]) -> ControlDaemon: ...


class MpsInterface(VarlinkInterface, name=NAME):
    """The MPS control daemons. What is declared here outlives them and mpsafed, and is applied again."""

    errors = declared(NAME, NotPermitted, BadRequest, UnknownControl, NotOurs, NotSupported, ControlFailed)

    def __init__(self, mps: Mps) -> None:
        self._mps = mps

    @varlinkmethod(return_parameter="controls")
    async def Status(self) -> list[ControlDaemon]:
        """All control daemons, with the limits that were declared and those that were read back."""
        return await self._mps.status()

    @varlinkmethod(return_parameter="control")
    async def Start(self, *, control: str) -> ControlDaemon:
        """It is to run from now on; returns once it answers, or says why it does not."""
        return await self._mps.start(control)

    @varlinkmethod(return_parameter="control")
    async def Stop(self, *, control: str, force: bool | None = None) -> ControlDaemon:
        """It is not to run. Without `force` it ends when its clients have left, and this waits for them."""
        return await self._mps.stop(control, force=bool(force))

    @varlinkmethod(return_parameter="control")
    async def SetLimits(self, *, control: str, limits: Limits | None = None) -> ControlDaemon:
        """Declares limits, sets and reads them back; without `limits` those of the configuration count again.

        They count for clients that connect from now on: MPS changes nothing for one that is there.
        """
        return await self._mps.set_limits(control, limits)

    @varlinkmethod(return_parameter="control")
    async def Partition(self, *, control: str, device: str, chunks: list[int]) -> ControlDaemon:
        """Declares the SM partitions of one device, by UUID: sizes in chunks; none takes them away."""
        return await self._mps.partition(control, device, chunks)
