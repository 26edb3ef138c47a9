# SPDX-License-Identifier: Apache-2.0
"""A process with a context that says so, and ends everybody's at the first line of its stdin: an SM exception."""

import contextlib
import sys

from mpsafe import cuda
from mpsafe.errors import BadCudaCall


def main() -> None:
    """What it does."""
    driver = cuda.load()
    driver.init()
    with cuda.Context(driver, driver.devices()[0]) as context, cuda.Module(context, cuda.kernels()) as module:
        print("ready", flush=True)
        if sys.stdin.readline():
            with contextlib.suppress(BadCudaCall):
                module.kernel("trap").launch()
                context.synchronize()


if __name__ == "__main__":
    main()
