# SPDX-License-Identifier: Apache-2.0
"""Long runs of the real daemon on the software GPU, for what a short test does not find.

    python -m tools.soak rounds --count 500               faults, forgeries and pid reuse at random: who is blamed
    python -m tools.soak kills --count 100 --control real the daemon is killed under load: who notices
    python -m tools.soak flood --seconds 60               10,000 kernel log lines a second: what it costs
    python -m tools.soak takeovers --count 1000           owner, standby, daemon and MPS server end: no state is lost

Each writes build/soak/NAME.json and ends with status 1 if something was wrong. The daemon and the tenants
are those of the tests.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
