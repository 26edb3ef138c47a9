# SPDX-License-Identifier: Apache-2.0
"""The patched driver's own device, or that of the stand-alone module: requests are ioctls."""

import errno
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from mpsafe.errors import SourceLost
from mpsafed.driver._uapi import ffi
from mpsafed.driver.device import Device

if TYPE_CHECKING:
    from mpsafed.driver._uapi import Struct

__all__ = ["UvmDriver"]

BATCH: Final = 256

_WHY: Final = {
    errno.ENOENT: "it is not there: the nvidia-uvm that is loaded is not mpsafe's; `mpsafe driver status` says more",
    errno.ENODEV: "no module is behind it: load mpsafe's nvidia-uvm; `mpsafe driver status` says more",
    errno.ENXIO: "no module is behind it: load mpsafe's nvidia-uvm; `mpsafe driver status` says more",
    errno.EPERM: "it is for CAP_SYS_ADMIN in the initial user namespace: run mpsafed as root on the host",
    errno.EACCES: "it is root's: run mpsafed as root, or let its unit reach the device (DeviceAllow=)",
    errno.EBUSY: "another process owns it: stop the other mpsafed, `fuser /dev/mpsafe` names it",
    errno.ENOTTY: "it is no device of mpsafe's: [driver] path is to name /dev/mpsafe",
}


class UvmDriver(Device):
    """With `stored` it is an open file that an earlier process left; its records are read from the oldest on.

    SourceLost with the way out where the device cannot be had. OSError where what was stored is another
    device, or dead; the descriptor is closed then.
    """

    def __init__(self, path: Path, stored: int | None = None) -> None:
        self._fd = _opened(path) if stored is None else stored
        try:
            if stored is not None:
                _check(stored, path)
                os.set_blocking(stored, False)
            self._greet()
            if stored is not None:
                self.rewind()
        except OSError as error:
            os.close(self._fd)
            if stored is None and error.errno in _WHY:
                raise SourceLost("driver", f"{path}: {_WHY[error.errno]}") from error
            raise
        except SourceLost:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """Readable when a record is there."""
        return self._fd

    def read(self) -> list[bytes]:
        """The records that are there, at most BATCH of them."""
        size = self._about.record_bytes
        try:
            raw = os.read(self._fd, BATCH * size)
        except BlockingIOError:
            return []
        if not raw:
            raise ConnectionResetError(errno.ECONNRESET, "the device has ended")
        return [raw[start : start + size] for start in range(0, len(raw), size)]

    def rewind(self) -> None:
        """Goes back to the oldest record that is still there."""
        os.lseek(self._fd, 0, os.SEEK_SET)

    def close(self) -> None:
        """Closes the descriptor: the dead man's switch, unless a keeper holds a copy as well."""
        os.close(self._fd)

    @override
    def _request(self, number: int, struct: "Struct | None") -> None:
        if struct is None:
            fcntl.ioctl(self._fd, number)
        else:
            fcntl.ioctl(self._fd, number, ffi.buffer(struct))


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        why = _WHY.get(error.errno or 0, f"it cannot be opened: {error.strerror}")
        raise SourceLost("driver", f"{path}: {why}") from error


def _check(stored: int, path: Path) -> None:
    """That a descriptor leads to the device of that path, as it is now."""
    kept, named = os.fstat(stored), path.stat()
    if kept.st_rdev != named.st_rdev or not kept.st_rdev:
        raise ConnectionError(
            errno.ENODEV, f"what was stored is device {kept.st_rdev:#x}, {path} is {named.st_rdev:#x}"
        )
