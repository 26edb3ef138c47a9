# SPDX-License-Identifier: Apache-2.0
"""The patched driver's device, ffi/mpsafe_uapi.h: records by read(), a policy, a dead-man switch."""

from typing import Literal, Protocol, TypeAlias

__all__ = ["Driver", "Mode"]

Mode: TypeAlias = Literal["off", "observe", "absorb"]


class Driver(Protocol):
    """One opened device. Closing it returns new faults to stock behaviour, unless the fd store holds it as well."""

    def fileno(self) -> int:
        """Readable when a record is there."""
        ...

    def read(self) -> list[bytes]:
        """The records that are there, oldest first; none if there is none. OSError if the device is gone."""
        ...

    def set_mode(self, mode: Mode) -> None:
        """Asks for a mode; a record of type POLICY tells what is in force."""
        ...

    def heartbeat(self) -> None:
        """The owner lives. Due every MPSAFE_HEARTBEAT_MS at the latest."""
        ...

    def close(self) -> None:
        """Lets the device go."""
        ...
