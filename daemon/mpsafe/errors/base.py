# SPDX-License-Identifier: Apache-2.0
"""What an error ends: `Refused` the one request, `ConnectionEnded` the connection, `SourceLost` one source until
it is back, `CannotRun` the program.
"""

from dataclasses import dataclass, fields
from typing import ClassVar

from typing_extensions import override

__all__ = [
    "CannotRun",
    "ConnectionEnded",
    "MpsafeError",
    "Refused",
    "SourceLost",
]


@dataclass(eq=False)
class MpsafeError(Exception):
    """Base of all errors that mpsafe raises on purpose."""

    code: ClassVar[str] = "mpsafe"
    hint: ClassVar[str] = "see the journal of mpsafed.service"

    def fields(self) -> dict[str, str | int]:
        """The error's own data by field name, as it travels over the socket."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Refused(MpsafeError):
    """Ends one request; the connection and everybody else go on."""


class ConnectionEnded(MpsafeError):
    """Ends one connection."""


@dataclass(eq=False)
class SourceLost(MpsafeError):
    """Ends one source of signals until it is back; the daemon says what it cannot see."""

    code: ClassVar[str] = "source-lost"
    hint: ClassVar[str] = "mpsafe status lists the sources and what each one sees"
    source: str
    reason: str

    @override
    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class CannotRun(MpsafeError):
    """Ends the program before it has done anything: exit status 77."""
