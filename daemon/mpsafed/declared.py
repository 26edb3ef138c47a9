# SPDX-License-Identifier: Apache-2.0
"""What the configuration declares of the MPS control daemons, and what an admin has chosen since."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from mpsafe.model import Limits

__all__ = ["Choice", "Declared", "How"]

How: TypeAlias = Literal["adopt", "systemd", "session"]


@dataclass(frozen=True, slots=True)
class Declared:
    """One control daemon as it is to be.

    `uid`: whose alone it is, and as whom it runs; None: it serves every user and runs as root. `how` it
    is started: not by us (adopt), as the unit mpsafe-mps@NAME.service, or in a session of its own.
    `protocol` is what we start, an adopted one is asked. `limits` are those of the configuration.
    """

    name: str
    uid: int | None
    program: str
    pipe_directory: Path
    log_directory: Path
    how: How
    protocol: Literal[2, 3] = 2
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Choice:
    """What an admin declared through io.mpsafe.Mps; kept in the state. `limits` None: the configuration's."""

    control: str
    wanted: bool = True
    limits: Limits | None = None
