# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with the patched driver on a machine."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from mpsafe.errors import CannotRun, MpsafeError

__all__ = ["DriverCannotRun", "DriverStepFailed"]


@dataclass(eq=False)
class DriverCannotRun(CannotRun):
    """Something is missing or is not as it has to be; nothing was changed."""

    code: ClassVar[str] = "driver-cannot-run"
    hint: ClassVar[str] = "see what is there with: mpsafe driver status"
    problem: str

    @override
    def __str__(self) -> str:
        return self.problem


@dataclass(eq=False)
class DriverStepFailed(MpsafeError):
    """A step failed, and what had been done before it was undone."""

    code: ClassVar[str] = "driver-step-failed"
    hint: ClassVar[str] = "the stock module is in its place; see what is there with: mpsafe driver status"
    step: str
    problem: str

    @override
    def __str__(self) -> str:
        return f"{self.step}: {self.problem}"
