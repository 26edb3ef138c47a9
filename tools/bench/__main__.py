# SPDX-License-Identifier: Apache-2.0
"""python -m tools.bench [--gpu] [NAME ...]: runs all benchmarks, or those named; with --gpu on a real device."""

import importlib
import importlib.util
import os
import sys
from typing import Final

BENCHES: Final = (
    "arena",
    "daemon",
    "experts",
    "kernel",
    "leases",
    "operators",
    "operators_simulate",
    "sharing",
    "takeover",
)
WANT_TORCH: Final = ("experts", "sharing")
ON_A_GPU: Final = ("takeover",)


def main() -> int:
    """Runs them one after the other; status 2 for a name that is none."""
    gpu = "--gpu" in sys.argv[1:]
    there = ON_A_GPU if gpu else BENCHES
    wanted = [word for word in sys.argv[1:] if word != "--gpu"] or list(there)
    unknown = [name for name in wanted if name not in there]
    if unknown:
        where = " for a real device" if gpu else ""
        print(f"no benchmark{where} is named {', '.join(unknown)}; there are: {', '.join(there)}", file=sys.stderr)
        return 2
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # bounds are for one thread; read when NumPy is imported
    for name in wanted:
        if name in WANT_TORCH and importlib.util.find_spec("torch") is None:
            print(f"{name}: not run, it wants torch: make .venv/torch", file=sys.stderr)
            continue
        module = importlib.import_module(f"tools.bench.{name}")
        if gpu:
            module.main(gpu=True)
        else:
            module.main()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
