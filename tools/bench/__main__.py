# SPDX-License-Identifier: Apache-2.0
"""python -m tools.bench [NAME ...]: runs all benchmarks, or those named."""

import importlib
import sys
from typing import Final

BENCHES: Final = ("daemon", "kernel", "takeover")


def main() -> int:
    """Runs them one after the other; status 2 for a name that is none."""
    wanted = sys.argv[1:] or list(BENCHES)
    unknown = [name for name in wanted if name not in BENCHES]
    if unknown:
        print(f"no benchmark is named {', '.join(unknown)}; there are: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    for name in wanted:
        importlib.import_module(f"tools.bench.{name}").main()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
