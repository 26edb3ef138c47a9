# SPDX-License-Identifier: Apache-2.0
"""mpsafe demo: the same faults twice, with stock MPS and with mpsafe."""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mpsafe.cli.options import console
from mpsafe.demo.hosts import GpuHost, Host, SoftwareGpu
from mpsafe.demo.report import page, told
from mpsafe.demo.scenario import CASES, GUILTY, TENANTS, Note, Run, run
from mpsafe.demo.takeover import HOWS, How, Loss, lose

__all__ = ["demo"]

STRIP = 60
LINES = 8


@click.command()
@click.option("--gpu", is_flag=True, help="on this host's NVIDIA GPU, with the real MPS programs; wants root")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("build/demo.html"),
    show_default=True,
    help="where the timeline picture goes",
)
def demo(gpu: bool, out: Path) -> None:
    """Run the same faults with stock MPS and with mpsafe."""
    screen = console()
    what = "a real GPU" if gpu else "the software GPU: no figure here is a GPU's"
    screen.print(f"Three tenants share one device through MPS; {GUILTY} has a bug. On {what}.\n")
    runs: list[Run] = []
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="mpsafe-demo-") as name:
            directory = Path(name)
            host = _host(directory / "gpu", gpu=gpu)
            with _shown(screen, case.title) as watch:
                runs.append(run(host, case, directory, watch))
    losses = _decoder(screen, gpu=gpu)
    screen.print(_table(runs))
    screen.print(
        f"{GUILTY} catches its CUDA error and keeps its context open: stock MPS serves nobody again until it has left.",
        style="dim",
    )
    for line in told(losses):
        screen.print(line)
    out.parent.mkdir(parents=True, exist_ok=True)
    device = "NVIDIA GPU" if gpu else "Software GPU (no silicon)"
    out.write_text(page(runs, losses, device=device), encoding="utf-8")
    screen.print(f"\nThe timelines: {out}")


def _decoder(screen: Console, *, gpu: bool) -> dict[How, Loss]:
    """A decoder that loses its MPS server in the middle of three requests: with a restart, and with a standby."""
    screen.rule("mpsafe, SM exception beside a decoder", align="left")
    losses: dict[How, Loss] = {}
    for how in HOWS:
        with tempfile.TemporaryDirectory(prefix="mpsafe-demo-") as name, screen.status(f"{how} ..."):
            losses[how] = lose(_host(Path(name) / "gpu", gpu=gpu), how, Path(name))
    return losses


def _host(directory: Path, *, gpu: bool) -> Host:
    return GpuHost(directory) if gpu else SoftwareGpu(directory)


@contextlib.contextmanager
def _shown(screen: Console, title: str) -> Generator[Callable[[Run], None]]:
    """Shows a run as it happens; where nobody looks, what was said is printed line by line."""
    screen.rule(title, align="left")
    if not screen.is_terminal:
        last: list[Run] = []
        yield last.append
        for line in _lines(last[-1], None) if last else ():
            screen.print(line)
        return
    with Live(console=screen, refresh_per_second=10) as live:
        yield lambda current: live.update(_picture(current))


def _picture(current: Run) -> Group:
    table = Table(box=None, pad_edge=False)
    for heading in ("tenant", "answers", "failed", "the last seconds"):
        table.add_column(heading)
    for tenant in TENANTS:
        samples = list(current.samples.get(tenant, ()))
        failed = sum(not sample.good for sample in samples if current.fault_at and sample.sent >= current.fault_at)
        strip = Text()
        for start in range(max(0, len(samples) - STRIP * 5), len(samples), 5):
            good = all(sample.good for sample in samples[start : start + 5])
            strip.append("█", style="green" if good else "red")
        answered = sum(sample.good for sample in samples)
        table.add_row(tenant, str(answered), Text(str(failed), style="red" if failed else "dim"), strip)
    return Group(table, *_lines(current, LINES))


def _lines(current: Run, limit: int | None) -> list[Text]:
    """What was said, oldest first; what was said again and again once, with how often."""
    counts = Counter((note.who, note.text) for note in current.notes)
    first: dict[tuple[str, str], Note] = {}
    for note in sorted(current.notes, key=lambda note: note.when):
        first.setdefault((note.who, note.text), note)
    lines: list[Text] = []
    for note in list(first.values())[-limit if limit else None :]:
        when = f"{note.when - current.fault_at:+7.3f} s " if current.fault_at else " " * 10
        again = f" ({counts[note.who, note.text]} times)" if counts[note.who, note.text] > 1 else ""
        style = {"mpsafe": "blue", "kernel": "magenta"}.get(note.who, "dim")
        lines.append(Text.assemble((when, "dim"), (f"{note.who:<11}", style), note.text, (again, "dim")))
    return lines


def _table(runs: list[Run]) -> Table:
    table = Table("tenant", *(one.case.title for one in runs), title="What the fault cost")
    for tenant in TENANTS:
        cells: list[Text] = []
        for one in runs:
            outcome = one.outcome(tenant)
            style = "green" if outcome.first_failed_s is None else "red" if outcome.back_s is None else "yellow"
            cells.append(Text(outcome.sentence, style=style))
        table.add_row(f"{tenant} (guilty)" if tenant == GUILTY else tenant, *cells)
    return table
