# SPDX-License-Identifier: Apache-2.0
"""Errors that end one request for a share of something: of a device, or of host memory."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from mpsafe.errors.base import Refused

__all__ = ["BadContent", "LeasePressed", "NoRoom", "StoreFull", "UnknownContent", "UnknownDevice", "UnknownLease"]


@dataclass(eq=False)
class NoRoom(Refused):
    """A lease's floor cannot be met. `what`: bytes, or per cent of the SMs."""

    code: ClassVar[str] = "no-room"
    hint: ClassVar[str] = "see who holds the rest with: mpsafe leases"
    device: str
    what: str
    asked: int
    free: int

    @override
    def __str__(self) -> str:
        return f"device {self.device} has {self.free} {self.what} to promise, and a floor of {self.asked} was asked for"


@dataclass(eq=False)
class LeasePressed(Refused):
    """A lease that is asked for memory has to free that before it gets more."""

    code: ClassVar[str] = "lease-pressed"
    hint: ClassVar[str] = "free the memory and say so with Renew; mpsafe leases shows how much"
    lease: int
    asked_bytes: int

    @override
    def __str__(self) -> str:
        return f"lease {self.lease} is to go down to {self.asked_bytes} bytes before it gets more"


@dataclass(eq=False)
class UnknownLease(Refused):
    """There is no such lease, or it is not the peer's; it may have expired."""

    code: ClassVar[str] = "unknown-lease"
    hint: ClassVar[str] = "see which there are with: mpsafe leases; one that ended is acquired again"
    lease: int

    @override
    def __str__(self) -> str:
        return f"there is no lease {self.lease} of this process"


@dataclass(eq=False)
class UnknownDevice(Refused):
    """No device of that UUID is seen now."""

    code: ClassVar[str] = "unknown-device"
    hint: ClassVar[str] = "mpsafe status lists the devices, and what NVML says"
    device: str
    problem: str

    @override
    def __str__(self) -> str:
        return f"device {self.device}: {self.problem}"


@dataclass(eq=False)
class BadContent(Refused):
    """A descriptor is not the sealed content that it is said to be. `content` is the hash that was named."""

    code: ClassVar[str] = "bad-content"
    hint: ClassVar[str] = "publish a memfd with the seals write, grow, shrink and seal, its size, and its sha256"
    content: str
    expected: str
    got: str

    @override
    def __str__(self) -> str:
        return f"content {self.content[:16]}: expected {self.expected}, got {self.got}"


@dataclass(eq=False)
class UnknownContent(Refused):
    """The store has no content of that hash, or none that this user may have."""

    code: ClassVar[str] = "unknown-content"
    hint: ClassVar[str] = "publish it; see what there is with: mpsafe store ls"
    content: str

    @override
    def __str__(self) -> str:
        return f"the store has no content {self.content[:16]}"


@dataclass(eq=False)
class StoreFull(Refused):
    """A tenant's contents would be more than it may keep. `what`: bytes or contents."""

    code: ClassVar[str] = "store-full"
    hint: ClassVar[str] = "let go of what is not used, or raise store_bytes of the tenant in mpsafe.toml"
    tenant: str
    what: str
    limit: int
    wanted: int

    @override
    def __str__(self) -> str:
        return f"tenant {self.tenant} may keep {self.limit} {self.what} in the store, and would keep {self.wanted}"
