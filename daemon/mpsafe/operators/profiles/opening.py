# SPDX-License-Identifier: Apache-2.0
"""Which project wrote a folder is seen from its files."""

from pathlib import Path

from mpsafe.errors import BadProfile
from mpsafe.operators.profiles.aiconfigurator import Aiconfigurator
from mpsafe.operators.profiles.profile import Profile

__all__ = ["open_profile"]


def open_profile(directory: str) -> Profile:
    """Raises BadProfile."""
    path = Path(directory)
    if not path.is_dir():
        raise BadProfile(directory, "is no directory")
    if (path / "gemm").is_dir():
        return Aiconfigurator.open(path)
    raise BadProfile(directory, "holds no tables that are known here: gemm/ and attention/ of aiconfigurator")
