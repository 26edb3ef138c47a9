# SPDX-License-Identifier: Apache-2.0
"""The excerpts of real tables in tests/data/profiles, opened."""

from functools import lru_cache
from pathlib import Path

from mpsafe.operators.profiles import Profile, open_profile

__all__ = ["PROFILES", "h200"]

PROFILES = Path(__file__).parent / "data" / "profiles"


@lru_cache(maxsize=1)
def h200() -> Profile:
    return open_profile(str(PROFILES / "aiconfigurator" / "h200_sxm"))
