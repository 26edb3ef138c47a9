# SPDX-License-Identifier: Apache-2.0
"""This test will compare the README's hardware figures with the results that they were taken from."""

from pathlib import Path
from typing import Any

import pytest

from tools.qualify.finding import Qualification

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "tools" / "qualify" / "results"
RUN = "2026-11-26-nvidia-h100-80gb-hbm3-580.159.04"


def measured(suffix: str, probe: str) -> dict[str, Any]:
    return Qualification.load(RESULTS / f"{RUN}{suffix}.json").findings[probe].measured


def figures() -> list[str]:
    """Each as the README words it."""
    takeover, costs = measured("-2", "takeover_sm_fault"), measured("", "import_cost")
    beside, flow = measured("", "neighbour_cost"), measured("", "vault_throughput")
    context, copies = measured("", "context_cost"), measured("", "link")["16_mib"]

    def since(name: str) -> float:
        return float(takeover[name]) - float(takeover["signal_ms"])

    def mapping(size: str) -> str:
        return f"{sum(costs[size][step] for step in ('import_us', 'reserve_us', 'map_us', 'access_us')):.0f} us"

    def times(name: str) -> str:
        return f"{beside[name]['p50_us']:.0f} / {beside[name]['p99_us']:.0f}"

    return [
        f"{since('received_ms'):.1f} ms / {since('serving_ms'):.1f} ms; the proof, the end of the server, "
        f"after {since('proven_ms'):.0f} ms",
        f"{takeover['standby_silence_ms']:.0f} ms / {takeover['restart_silence_ms']:.0f} ms",
        f"{context['outside']['mib']:.0f} MiB outside MPS, {context['mps_second']['mib']:.0f} MiB in it, "
        f"{context['mps_beside']['mib']:.0f} MiB the first of a server",
        f"{mapping('2_mib')} / {mapping('1024_mib')} / {mapping('16384_mib')}",
        f"512 allocations of 2 MiB {costs['2_mib']['total_ms']:.0f} ms",
        f"alone {times('alone')} us; beside a warm standby {times('beside_a_warm_standby')}; beside a busy client "
        f"{times('beside_a_busy_client')}; beside a standby that serves outside MPS "
        f"**{times('beside_a_serving_standby')}**",
        f"{flow['commit_us']:.0f} us, {flow['create_ms']:.0f} ms",
        f"{flow['published_tokens_per_s']:.0f} tokens/s, without {flow['unpublished_tokens_per_s']:.0f}",
        f"{copies['to_device']:.1f} GB/s to the device, {copies['to_host']:.1f} GB/s back",
    ]


@pytest.mark.parametrize("figure", figures())
def test_a_figure_is_that_of_the_results(figure: str) -> None:
    assert figure in (ROOT / "README.md").read_text()


def test_the_table_of_the_demo_is_what_it_printed() -> None:
    readme = (ROOT / "README.md").read_text()
    rows = [line for line in (RESULTS / f"{RUN}-demo.txt").read_text().splitlines() if "back after" in line]
    assert len(rows) == 3
    for row in rows:
        cells = " | ".join(cell.strip() for cell in row.strip("│ ").split("│"))
        assert f"| {cells} |" in readme
    for silence in ("silent for 807 ms", "silent for 45 ms"):
        assert silence in (RESULTS / f"{RUN}-demo.txt").read_text()
