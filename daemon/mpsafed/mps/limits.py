# SPDX-License-Identifier: Apache-2.0
"""Limits as they are declared and as the control program prints them; pure.

The program rounds and cuts what it prints, and refuses without a word: only what is read back counts.
v2 prints a percentage with one decimal and memory of 1024 MiB and more in whole GiB (measured on
535.309.01 and 550.163.01); v3 prints two decimals (documented).
"""

import re
from typing import Final

from mpsafe.errors import BadRequest
from mpsafe.model import Limits

__all__ = ["ALL_DEVICES", "NO_LIMITS", "checked", "differences", "mib_of", "printed_mib", "with_undone"]

ALL_DEVICES: Final = "all"
NO_LIMITS: Final = Limits()
MIB_PER_GIB: Final = 1024
MIB_MAX: Final = 1 << 24
CHUNKS_MAX: Final = 1024
PARTITIONS_MAX: Final = 64
ROUNDING: Final = 0.05 + 1e-9

_ORDINAL: Final = re.compile(r"[0-9]|[12][0-9]|3[01]|all")
_DEVICE: Final = re.compile(r"(GPU|MIG)-[0-9a-f-]{8,64}")
_SIZE: Final = re.compile(r"(\d{1,9})([MG])")


def differences(declared: Limits, found: Limits) -> list[str]:
    """A sentence for each declared limit that is not in force; what is not declared may be anything."""
    told: list[str] = []
    percentage = declared.active_thread_percentage
    if percentage is not None and (
        found.active_thread_percentage is None or abs(percentage - found.active_thread_percentage) > ROUNDING
    ):
        told.append(f"active thread percentage: {percentage:g} declared, {_said(found.active_thread_percentage)}")
    if declared.client_priority not in (None, found.client_priority):
        told.append(f"client priority: {declared.client_priority} declared, {_said(found.client_priority)}")
    for device, mib in declared.pinned_mib.items():
        in_force = printed_mib(found.pinned_mib.get(device, 0))
        if printed_mib(mib) != in_force:
            told.append(f"pinned memory, device {device}: {printed_mib(mib)} declared, {in_force} in force")
    for device, chunks in declared.partitions.items():
        if sorted(chunks) != sorted(found.partitions.get(device, [])):
            told.append(f"SM partitions of {device}: {chunks} declared, {found.partitions.get(device, [])} in force")
    return told


def with_undone(declared: Limits, before: Limits) -> Limits:
    """`declared`, and MPS's own default for each limit that was declared `before` and is not any more."""
    percentage, priority = declared.active_thread_percentage, declared.client_priority
    if percentage is None and before.active_thread_percentage is not None:
        percentage = 100.0
    if priority is None and before.client_priority is not None:
        priority = 0
    return Limits(
        percentage,
        priority,
        dict.fromkeys(before.pinned_mib, 0) | declared.pinned_mib,
        {device: list[int]() for device in before.partitions} | declared.partitions,
    )


def checked(limits: Limits) -> Limits:
    """The same limits. Raises BadRequest if one of them makes no sense."""
    percentage, priority = limits.active_thread_percentage, limits.client_priority
    if percentage is not None and not 0 < percentage <= 100:
        raise BadRequest("active_thread_percentage", "over 0 to 100", f"{percentage:g}")
    if priority not in (None, 0, 1):
        raise BadRequest("client_priority", "0 (normal) or 1 (below normal)", str(priority))
    for device, mib in limits.pinned_mib.items():
        if not _ORDINAL.fullmatch(device):
            raise BadRequest("pinned_mib", "device ordinals from 0 to 31, or all", repr(device[:40]))
        if not 1 <= mib <= MIB_MAX:
            raise BadRequest("pinned_mib", f"1 to {MIB_MAX} MiB", str(mib))
    for device, chunks in limits.partitions.items():
        if not _DEVICE.fullmatch(device):
            raise BadRequest("device", "the UUID of a device, GPU-... or MIG-...", repr(device[:80]))
        if len(chunks) > PARTITIONS_MAX or not all(1 <= size <= CHUNKS_MAX for size in chunks):
            expected = f"at most {PARTITIONS_MAX} sizes from 1 to {CHUNKS_MAX} chunks"
            raise BadRequest("chunks", expected, str(chunks[: PARTITIONS_MAX + 1])[:80])
    return limits


def printed_mib(mib: int) -> str:
    """A size in MiB as the program prints it."""
    if mib >= MIB_PER_GIB:
        return f"{mib // MIB_PER_GIB}G"
    return f"{mib}M" if mib else "none"


def mib_of(text: str) -> int | None:
    """The MiB that the program has printed; None if it is no size."""
    found = _SIZE.fullmatch(text.strip())
    return int(found[1]) * (MIB_PER_GIB if found[2] == "G" else 1) if found else None


def _said(found: float | None) -> str:
    return "unknown" if found is None else f"{found:g} in force"
