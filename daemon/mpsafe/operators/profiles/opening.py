# SPDX-License-Identifier: Apache-2.0
"""Which project wrote a folder is seen from its files."""

from pathlib import Path

from mpsafe.errors import BadProfile
from mpsafe.operators.profiles.aiconfigurator import Aiconfigurator
from mpsafe.operators.profiles.llmservingsim import LlmServingSim
from mpsafe.operators.profiles.profile import Profile
from mpsafe.operators.profiles.vidur import Vidur

__all__ = ["open_profile"]


def open_profile(directory: str) -> Profile:
    """Raises BadProfile."""
    path = Path(directory)
    if not path.is_dir():
        raise BadProfile(directory, "is no directory")
    if (path / "gemm").is_dir():
        return Aiconfigurator.open(path)
    if (path / "tp1" / "dense.csv").is_file():
        return LlmServingSim.open(path)
    if (path / "mlp.csv").is_file():
        return Vidur.open(path)
    if (path / "perf_model.csv").is_file():
        raise BadProfile(directory, "is Splitwise's: whole models and no operators; only its power is of use here")
    raise BadProfile(directory, "holds no tables that are known here: gemm/, tp1/dense.csv or mlp.csv")
