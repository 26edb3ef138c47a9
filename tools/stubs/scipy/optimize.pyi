# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .sparse import csr_array

class Bounds:
    def __init__(self, lb: float, ub: npt.NDArray[np.float64]) -> None: ...

class LinearConstraint:
    def __init__(self, A: csr_array, lb: Sequence[float], ub: Sequence[float]) -> None: ...

class OptimizeResult:
    x: npt.NDArray[np.float64] | None
    status: int

def milp(
    c: npt.NDArray[np.float64],
    *,
    integrality: npt.NDArray[np.float64],
    bounds: Bounds,
    constraints: LinearConstraint,
    options: dict[str, float],
) -> OptimizeResult: ...
