# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: `make bench [ONLY=name]`. Each claim of speed or size has its row, its baseline and its run here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
