# SPDX-License-Identifier: Apache-2.0
"""aisimulate, NVIDIA's model-level simulator of vLLM, on the same trace, device, model and budget as ours.

Its program is named by $MPSAFE_AISIMULATE (it wants an environment of its own: pip install --pre --only-binary :all:
aisimulate); without it these rows are left out, and that is said. Neither is a measurement: a speed says something only
together with the difference.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mpsafe.operators.simulator.run import Outcome
from mpsafe.operators.traces import Trace
from tools.bench.rows import Row

__all__ = ["BATCH", "BUDGET", "MODEL", "rows"]

MODEL: Final = ("llama-3.1-8b", "meta-llama/Meta-Llama-3.1-8B")
BUDGET: Final = 1024
BATCH: Final = 256
BLOCK: Final = 512


def rows(trace: Trace, ours: Outcome) -> Iterator[Row]:
    """Ours is of one replica of the model with that budget and batch on H200."""
    program = os.environ.get("MPSAFE_AISIMULATE")
    if program is None:
        print("aisimulate: not run, MPSAFE_AISIMULATE does not name its program", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        theirs = _run(program, Path(folder), trace)
    case = f"{trace.name}, {MODEL[0]}, one H200"
    yield Row(f"{case}: simulated in", ours.sim_seconds, "s", "aisimulate", theirs["wall_time_ms"] / 1000)
    for name, mine, other in (
        ("TTFT mean", ours.ttft_ms.mean, "mean_ttft_ms"),
        ("TTFT p50", ours.ttft_ms.p50, "median_ttft_ms"),
        ("TTFT p99", ours.ttft_ms.p99, "p99_ttft_ms"),
        ("TBT mean", ours.tbt_ms.mean, "mean_itl_ms"),
        ("TBT p99", ours.tbt_ms.p99, "p99_itl_ms"),
    ):
        yield Row(f"{case}: {name}", mine, "ms", "aisimulate", theirs[other])


def _run(program: str, folder: Path, trace: Trace) -> dict[str, float]:
    """Each prompt has blocks of its own, so that nothing is reused, as in ours."""
    used = 0
    with (folder / "trace.jsonl").open("w") as file:
        for arrival, prompt, output in zip(trace.arrivals_s, trace.prompts, trace.outputs, strict=True):
            blocks = -(-int(prompt) // BLOCK)
            line = {
                "timestamp": round(1000 * float(arrival)),
                "input_length": int(prompt),
                "output_length": int(output),
            }
            file.write(json.dumps({**line, "hash_ids": list(range(used, used + blocks))}) + "\n")
            used += blocks
    scheduler = {"max_batched_tokens": BUDGET}
    config = {
        "traffic": {
            "source": {"type": "trace", "paths": [str(folder / "trace.jsonl")], "format": "mooncake"},
            "load": {"type": "trace_timestamps"},
        },
        "engine": {
            "mode": "aggregated",
            "model": MODEL[1],
            "hardware": "h200_sxm",
            "backend": "vllm",
            "workers": {"aggregated": {"scheduler": scheduler}},
        },
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    files = ["-c", str(folder / "config.yaml"), "--output-dir", str(folder / "out")]
    command = [program, "predict", "--format", "json", *files]
    subprocess.run(command, check=True, capture_output=True, timeout=1800)
    found: dict[str, float] = json.loads((folder / "out" / "prediction.json").read_text())
    return found
