# SPDX-License-Identifier: Apache-2.0
"""What a check says: how bad it is, one sentence that names the thing, and the way out."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Finding", "Severity"]

Severity: TypeAlias = Literal["ok", "note", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`ok` was looked at, `note` is worth knowing, `warning` may hurt, `wrong` does; `check` is whose title."""

    severity: Severity
    text: str
    way_out: str = ""
    pid: int | None = None
    path: str | None = None
    check: str = ""
