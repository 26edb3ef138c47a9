# SPDX-License-Identifier: Apache-2.0

import numpy as np
import numpy.typing as npt

def gammaincinv(a: float, y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]: ...
def stdtrit(df: float, p: float) -> float: ...
