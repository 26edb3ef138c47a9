# SPDX-License-Identifier: Apache-2.0
"""Sets limits and reads them back: the programs refuse and cut without a word, so only that counts."""

from dataclasses import replace

from mpsafe.errors import ControlFailed
from mpsafe.model import Limits
from mpsafed.mps.dialect import Dialect
from mpsafed.mps.limits import differences
from mpsafed.processes import identify

__all__ = ["apply", "apply_to"]


async def apply(dialect: Dialect, limits: Limits) -> tuple[Limits | None, list[str]]:
    """Brings everything that has limits of its own to these; what is then in force, and what differs still.

    In force is what the next server begins with; where there is no such thing, what the first one has.
    Raises ControlFailed where the daemon does not answer, NotSupported where it has no such limit.
    """
    in_force: Limits | None = None
    drift: list[str] = []
    for server in await dialect.limited():
        try:
            found, differing = await apply_to(dialect, server, limits)
        except ControlFailed as error:
            if server is None:
                raise
            if identify(server) is not None:
                drift.append(str(error))
            continue
        drift += differing
        in_force = in_force or found
    if limits.partitions:
        partitions = await _apply_partitions(dialect, limits)
        drift += differences(Limits(partitions=limits.partitions), Limits(partitions=partitions))
        in_force = replace(in_force or Limits(), partitions=partitions)
    return in_force, drift


async def apply_to(dialect: Dialect, server: int | None, limits: Limits) -> tuple[Limits, list[str]]:
    """The same for one server, or for the defaults; without partitions, which are the devices'. Raises as above."""
    wanted = replace(limits, partitions={})
    found = await dialect.limits(server, wanted.pinned_mib)
    if differences(wanted, found):
        await dialect.set_limits(server, wanted)
        found = await dialect.limits(server, wanted.pinned_mib)
    place = "" if server is None else f"server {server}: "
    return found, [f"{place}{sentence}" for sentence in differences(wanted, found)]


async def _apply_partitions(dialect: Dialect, limits: Limits) -> dict[str, list[int]]:
    found = await _partitions(dialect, limits)
    for device, chunks in limits.partitions.items():
        if sorted(chunks) != sorted(found[device]):
            await dialect.partition(device, chunks)
    return await _partitions(dialect, limits)


async def _partitions(dialect: Dialect, limits: Limits) -> dict[str, list[int]]:
    """Those of the devices that are declared: the daemon may shorten their UUIDs."""
    found = await dialect.partitions()
    return {
        device: [size for known, sizes in found.items() if device.startswith(known) for size in sizes]
        for device in limits.partitions
    }
