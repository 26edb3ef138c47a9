# SPDX-License-Identifier: Apache-2.0
"""python -m tools.driver.support: takes over what `python -m tools.driver counts` found, and writes the support table.

The facts are driver_patches/support.json: by driver version, what its hooks came to and which kernels it was compiled
for. What was found now replaces what is there of the same version; the rest stays.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from tools.driver.compiling import BUILD
from tools.driver.sources import REPOSITORY

__all__ = ["FACTS", "PAGE", "Support", "load", "page", "table"]

FACTS: Final = REPOSITORY / "driver_patches" / "support.json"
PAGE: Final = REPOSITORY / "driver_patches" / "README.md"
BEGIN: Final = "<!-- support: written by `python -m tools.driver.support`; a test compares -->\n"
END: Final = "<!-- /support -->\n"


@dataclass(frozen=True, slots=True)
class Support:
    """One driver version. `hooks` places in `lines` lines, or why not; `objects` and `modules` are kernels."""

    version: str
    hooks: int
    lines: int
    refused: str
    objects: tuple[str, ...]
    modules: tuple[str, ...]


def load(file: Path = FACTS) -> list[Support]:
    """In the order of versions."""
    rows = msgspec.json.decode(file.read_bytes(), type=list[Support]) if file.exists() else []
    return sorted(rows, key=_order)


def table(rows: list[Support]) -> str:
    """Markdown, the newest driver first."""
    lines = ["| driver | hooks | touched objects compiled for | whole nvidia-uvm.ko linked for |", "|---|---|---|---|"]
    for row in reversed(rows):
        hooks = f"refused: {row.refused}" if row.refused else f"each where it has to be: {row.hooks}, {row.lines} lines"
        lines.append(f"| {row.version} | {hooks} | {_kernels(row.objects)} | {_kernels(row.modules)} |")
    return "\n".join(lines) + "\n"


def page(text: str, rows: list[Support]) -> str:
    """The page with the table of these rows."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.partition(END)[2]}"


def _kernels(kernels: tuple[str, ...]) -> str:
    return ", ".join(kernels) or "not tried"


def _order(row: Support) -> list[int]:
    return [int(part) for part in row.version.split(".")]


def _found(row: dict[str, Any]) -> Support:
    compiled = row["compiled"]
    return Support(
        row["version"],
        sum(hook["count"] for hook in row["hooks"]),
        sum(hook["lines"] for hook in row["hooks"]),
        row["refused"].partition(";")[0],
        tuple(sorted(one["kernel"] for one in compiled)),
        tuple(sorted(one["kernel"] for one in compiled if one["module"])),
    )


def _main() -> int:
    counted = BUILD / "support.json"
    if not counted.exists():
        print(f"{counted} is not there: run python -m tools.driver counts first", file=sys.stderr)
        return 77
    rows = {row.version: row for row in load()}
    rows |= {row.version: row for row in map(_found, json.loads(counted.read_text()))}
    known = sorted(rows.values(), key=_order)
    FACTS.write_text(json.dumps([asdict(row) for row in known], indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text(), known))
    print(f"{PAGE}: {len(known)} driver versions")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
