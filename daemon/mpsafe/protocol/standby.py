# SPDX-License-Identifier: Apache-2.0
"""io.mpsafe.Standby: a warm process of a tenant, outside the server that it protects against, and its promotion."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from asyncvarlink import VarlinkInterface, varlinkmethod

from mpsafe.errors import BadRequest, NoStandby, NotPermitted, UnknownTenant
from mpsafe.model import Standby as StandbyProcess
from mpsafe.protocol.replies import declared

__all__ = ["NAME", "Awaited", "Phase", "Standby", "StandbyInterface"]

NAME: Final = "io.mpsafe.Standby"

Phase: TypeAlias = Literal["warm", "promoted", "granted", "refused"]


@dataclass(frozen=True, slots=True)
class Awaited:
    """One word to a standby.

    `warm`: it is registered and waits. `promoted`: it is the tenant's process from now on, holds `epoch`, and may
    read what is committed; `event` tells why. `granted`: the old process's work is proven stopped, its durable
    regions are to be written. `refused`: there is no such proof, nor will there be; `detail` says why.
    """

    phase: Phase
    epoch: int
    event: int
    detail: str


class Standby(Protocol):
    """What the daemon implements."""

    def wait(self, tenant: str, resident_bytes: int) -> AsyncIterator[Awaited]: ...
    def progress(self, event: int, *, received_ns: int | None, serving_ns: int | None) -> None: ...
    def standbys(self) -> list[StandbyProcess]: ...
    def promote(self, tenant: str) -> int: ...


class StandbyInterface(VarlinkInterface, name=NAME):
    """A warm process of a tenant, and its promotion."""

    errors = declared(NAME, NotPermitted, UnknownTenant, NoStandby, BadRequest)

    def __init__(self, standby: Standby) -> None:
        self._standby = standby

    @varlinkmethod(return_parameter="awaited", delay_generator=False)
    async def Await(self, *, tenant: str, resident_bytes: int | None = None) -> AsyncIterator[Awaited]:
        """Registers the peer's process as a standby and tells it what becomes of it; ends with `granted` or `refused`.

        Who hangs up is no standby any more. One that was promoted before the daemon was restarted is told so again.
        """
        async for awaited in self._standby.wait(tenant, resident_bytes or 0):
            yield awaited

    @varlinkmethod
    def Progress(self, *, event: int, received_ns: int | None = None, serving_ns: int | None = None) -> None:
        """When the promoted process had read that, and gave its first correct answer: for the timeline."""
        self._standby.progress(event, received_ns=received_ns, serving_ns=serving_ns)

    @varlinkmethod(return_parameter="standbys")
    def List(self) -> list[StandbyProcess]:
        """The standbys that the peer may see."""
        return self._standby.standbys()

    @varlinkmethod(return_parameter="event")
    def Promote(self, *, tenant: str) -> int:
        """Takes over for a tenant whose process works: fences it and promotes a standby. Wants the role admin."""
        return self._standby.promote(tenant)
