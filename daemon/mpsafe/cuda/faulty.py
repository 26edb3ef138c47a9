# SPDX-License-Identifier: Apache-2.0
"""A process that faults on the device on purpose, and ends: a drill's fault is a real one.

python -m mpsafe.cuda.faulty sm|memory [DEVICE-UUID]
"""

import sys
from typing import Final

from mpsafe import cuda
from mpsafe.errors import BadCudaCall

__all__ = ["FAULTED", "KINDS", "main"]

KINDS: Final = ("sm", "memory")
FAULTED: Final = 3
WILD_ADDRESS: Final = 0x5000_0000_0000


def main() -> int:
    """Faults."""
    kind, *wait = sys.argv[1:]
    driver = cuda.load()
    driver.init()
    with cuda.Context(driver, driver.devices()[0]) as context, cuda.Module(context, cuda.kernels()) as module:
        if wait:
            print("ready", flush=True)
            sys.stdin.readline()
        try:
            if kind == "sm":
                module.kernel("trap").launch()
            else:
                module.kernel("write_address").launch(cuda.U64(WILD_ADDRESS), cuda.U32(1))
            context.synchronize()
        except BadCudaCall:
            return FAULTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
