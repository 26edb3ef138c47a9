# SPDX-License-Identifier: Apache-2.0
"""Whether descriptors are the device memory that they are said to be: asked of a process that ends with the answer.

Only the driver can judge what a descriptor is, and the daemon opens no CUDA: `mpsafed.vault.helper` does.
"""

import asyncio
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import msgspec

from mpsafe.errors import BadHandle, VaultClosed
from mpsafed.child import Child

__all__ = ["Told", "check", "known"]

HELPER: Final = (sys.executable, "-P", "-m", "mpsafed.vault.helper")
DEADLINE_S: Final = 20.0
# CUDA_ERROR_INVALID_VALUE, _INVALID_HANDLE, _UNKNOWN: what an import may answer for memory that is no more.
UNKNOWN_HANDLE: Final = frozenset({1, 400, 999})
# No control daemon has its pipes there: the helper is no client of MPS.
NO_MPS: Final = {"CUDA_MPS_PIPE_DIRECTORY": "/nonexistent"}


class Told(msgspec.Struct):
    """What the helper says of one descriptor, a line of JSON: a device's UUID, or what is wrong.

    `result`: the CUresult of that. `trouble`: why it cannot say anything of any.
    """

    device: Annotated[str, msgspec.Meta(max_length=96)] = ""
    error: Annotated[str, msgspec.Meta(max_length=256)] = ""
    trouble: Annotated[str, msgspec.Meta(max_length=256)] = ""
    result: int = 0


async def check(fds: Sequence[int], sizes: Sequence[int], device: str, *, environment: Mapping[str, str]) -> None:
    """Raises BadHandle for the first that is not memory of that size on that device; VaultClosed if nobody can tell."""
    told = await _ask(fds, sizes, environment)
    for index, (one, nbytes) in enumerate(zip(told, sizes, strict=True)):
        if one.error or one.device != device:
            raise BadHandle(index, f"{nbytes} bytes of memory of device {device}", one.error or f"device {one.device}")


async def known(fds: Sequence[int], device: str, *, environment: Mapping[str, str]) -> str:
    """Why the driver does not know memory of that device any more, or "". VaultClosed if nobody can tell.

    What else may be wrong with an import, such as a device without room for it, is not said to be a loss.
    """
    for one in await _ask(fds, [0] * len(fds), environment):
        if one.result in UNKNOWN_HANDLE:
            return one.error
        if one.error:
            raise VaultClosed(f"handles cannot be checked: {one.error}")
        if one.device != device:
            return f"it is of device {one.device} now"
    return ""


async def _ask(fds: Sequence[int], sizes: Sequence[int], environment: Mapping[str, str]) -> list[Told]:
    """What the helper says of each."""
    command = [*HELPER, *(f"{nbytes}:{fd}" for nbytes, fd in zip(sizes, fds, strict=True))]
    try:
        child = await Child.start(
            command,
            environment={**environment, **NO_MPS},
            errors=subprocess.DEVNULL,
            pass_fds=fds,
        )
    except OSError as error:
        raise VaultClosed(f"the helper that checks handles cannot be started: {error}") from error
    try:
        async with asyncio.timeout(DEADLINE_S):
            output = await child.output.read()
    except TimeoutError:
        raise VaultClosed(f"the helper that checks handles does not answer within {DEADLINE_S:g} s") from None
    finally:
        await child.end(DEADLINE_S)
    try:
        told = [msgspec.json.decode(line, type=Told) for line in output.splitlines()]
    except msgspec.DecodeError as error:
        raise VaultClosed(f"the helper that checks handles says what makes no sense: {error}") from error
    if told and told[0].trouble:
        raise VaultClosed(f"handles cannot be checked: {told[0].trouble}")
    if len(told) != len(fds):
        raise VaultClosed("the helper that checks handles has died")
    return told
