# SPDX-License-Identifier: Apache-2.0
"""What a soak found: figures and what was wrong, printed and written to build/soak/NAME.json."""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tools.bench.rows import machine

__all__ = ["DIRECTORY", "Report"]

DIRECTORY: Final = Path("build/soak")
WRONG_MAX: Final = 100


@dataclass(slots=True)
class Report:
    """`wrong` has a sentence for each thing that must not happen."""

    soak: str
    figures: dict[str, int | float | str | list[float]] = field(
        default_factory=lambda: dict[str, int | float | str | list[float]]()
    )
    wrong: list[str] = field(default_factory=lambda: list[str]())

    def count(self, figure: str, by: int = 1) -> None:
        """Adds to a figure."""
        before = self.figures.get(figure, 0)
        assert isinstance(before, int)
        self.figures[figure] = before + by

    def complain(self, sentence: str) -> None:
        """Something is wrong."""
        self.count("wrong")
        if len(self.wrong) < WRONG_MAX:
            self.wrong.append(sentence)

    def finish(self) -> int:
        """Prints and writes it; the exit status."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        table = Table("figure", "value", title=f"{self.soak}, {when}, {machine()}, software GPU (no silicon)")
        for name, value in self.figures.items():
            shown = ", ".join(f"{one:g}" for one in value) if isinstance(value, list) else f"{value}"
            table.add_row(name, shown)
        console = Console()
        console.print(table)
        for sentence in self.wrong:
            console.print(f"[red]wrong:[/] {sentence}")
        DIRECTORY.mkdir(parents=True, exist_ok=True)
        found = {"date": when, "machine": machine(), "device": "software GPU (no silicon)", **asdict(self)}
        (DIRECTORY / f"{self.soak}.json").write_text(json.dumps(found, indent=1) + "\n")
        return 1 if self.wrong else 0
