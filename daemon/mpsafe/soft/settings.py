# SPDX-License-Identifier: Apache-2.0
"""The limits of a control daemon and of each server, with the real program's way of reading them.

Measured on 535.309.01 and 550.163.01: a number is what it begins with. So "12,5" is 12.0 percent and
"1.5G" is 1 MiB, and whoever sets a limit has to read it back. They limit nothing on the software GPU.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

__all__ = ["MIB_BYTES", "Settings", "number"]

MIB_BYTES: Final = 1 << 20
ORDINALS: Final = 32
MIB_PER_GIB: Final = 1024

_INTEGER: Final = re.compile(r"\s*([+-]?\d+)")
_DECIMAL: Final = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_SIZE: Final = re.compile(r"(\d{1,15})(G?)")


def number(words: list[str], index: int) -> int:
    """The integer with which that word begins; 0 if there is no such word or it begins with none."""
    found = _INTEGER.match(words[index]) if index < len(words) else None
    return int(found[1]) if found else 0


def _percentage(word: str) -> float | None:
    found = _DECIMAL.match(word)
    value = float(found[0]) if found else 0.0
    return value if math.isfinite(value) and 0.0 < value <= 100.0 else None


def _ordinal(word: str) -> int | None:
    return int(word) if word.isdecimal() and int(word) < ORDINALS else None


@dataclass(slots=True)
class Settings:
    """Active thread percentage, client priority, and pinned memory limits in MiB by device ordinal."""

    percentage: float = 100.0
    priority: int = 0
    pinned_mib: dict[int, int] = field(default_factory=lambda: dict[int, int]())
    complaints: list[str] = field(default_factory=lambda: list[str]())

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Settings":
        """As the environment of the control daemon sets them; `complaints` are lines for its log."""
        settings = cls()
        if (word := environment.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")) is not None:
            settings.percentage = _percentage(word) or 100.0
            if _percentage(word) is None:
                settings.complaints.append("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE should be between (0.0, 100.0]")
        if (word := environment.get("CUDA_MPS_CLIENT_PRIORITY")) is not None and not settings.set_priority(word):
            settings.complaints.append("CUDA_MPS_CLIENT_PRIORITY should be between [0,1]")
        return settings

    def copy(self) -> "Settings":
        """For a server, which begins with the daemon's."""
        return replace(self, pinned_mib=dict(self.pinned_mib), complaints=[])

    def percentage_text(self) -> str:
        """As the program prints it."""
        return f"{self.percentage:.1f}"

    def set_percentage(self, word: str) -> bool:
        """Whether it was one; the old one stays if not."""
        value = _percentage(word)
        if value is not None:
            self.percentage = value
        return value is not None

    def set_priority(self, word: str) -> bool:
        """Whether it was one."""
        value = number([word], 0)
        if value in (0, 1):
            self.priority = value
        return value in (0, 1)

    def pinned_text(self, word: str) -> str:
        """A device's limit as the program prints it: GiB are cut to whole ones. Empty if it has none."""
        ordinal = _ordinal(word)
        mib = 0 if ordinal is None else self.pinned_mib.get(ordinal, 0)
        if mib >= MIB_PER_GIB:
            return f"{mib // MIB_PER_GIB}G"
        return f"{mib}M" if mib else ""

    def set_pinned(self, word: str, value: str) -> None:
        """A limit that cannot be read takes the old one away; a device that is no ordinal is passed over."""
        ordinal = _ordinal(word)
        if ordinal is None:
            return
        found = _SIZE.match(value)
        self.pinned_mib[ordinal] = int(found[1]) * (MIB_PER_GIB if found[2] else 1) if found else 0
