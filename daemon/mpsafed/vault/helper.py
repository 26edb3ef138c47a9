# SPDX-License-Identifier: Apache-2.0
"""Says of descriptors whether they are device memory: a process of its own, which ends with the answer.

    python -m mpsafed.vault.helper SIZE:FD...

It imports each, which only the driver can judge, and maps it into reserved addresses that nothing may access, unless
its SIZE is 0: then only whether the driver knows it is asked. It has
no context, is no client of MPS, and nobody's rights once the driver is open and before it meets what a stranger passed.
A line of JSON (mpsafed.vault.check, Told) for each; one alone where the driver cannot be asked.
"""

import importlib
import os
import sys
from typing import Any, Final

import msgspec

from mpsafe.errors import BadCudaCall, CannotRun
from mpsafed.vault.check import Told

__all__ = ["main"]

NOBODY: Final = 65534


def main() -> int:
    """Checks what it inherits."""
    # By name, as the daemon imports this module's neighbours and must not have CUDA with them.
    cuda: Any = importlib.import_module("mpsafe.cuda")
    try:
        driver = cuda.load()
        driver.init()
        uuids = [device.uuid for device in driver.devices()]
    except (BadCudaCall, CannotRun) as error:
        _tell(Told(trouble=str(error)[:256]))
        return 0
    _drop_rights()
    for argument in sys.argv[1:]:
        nbytes, fd = map(int, argument.split(":"))
        try:
            with cuda.Memory.import_fd(driver, fd, nbytes) as memory:
                exact = nbytes == 0 or memory.is_exact()
                told = Told(device=uuids[memory.device_ordinal()]) if exact else Told(error="memory of another size")
        except BadCudaCall as error:
            told = Told(error=str(error)[:256], result=error.result)
        _tell(told)
    return 0


def _drop_rights() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def _tell(told: Told) -> None:
    print(msgspec.json.encode(told).decode(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
