# SPDX-License-Identifier: Apache-2.0
"""The stock driver's source, as packages leave it on a machine.

Debian: /usr/src/nvidia-current-VERSION and nvidia-current-open-VERSION (nvidia-kernel-dkms, nvidia-open-kernel-dkms),
or nvidia-kernel.tar.xz and nvidia-open-kernel.tar.xz (nvidia-kernel-source, nvidia-open-kernel-source). Ubuntu:
nvidia-VERSION and nvidia-srv-VERSION. NVIDIA's own packages and installer: nvidia-open-VERSION and nvidia-VERSION.
nvidia-uvm has the same open source in the open and in the proprietary flavour.
"""

import re
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Final

from mpsafe.driver.trouble import DriverCannotRun

__all__ = ["BRANCHES", "Stock", "choose", "found", "inside", "known", "unpacked"]

BRANCHES: Final = (535, 550, 560, 565, 570, 575, 580, 590, 595)

_VERSION: Final = re.compile(r'NV_VERSION_STRING=\\?"(\d{3}\.\d{2,3}(?:\.\d{2})?)\\?"')
_PACKAGE: Final = re.compile(r'^PACKAGE_NAME="?([\w.+-]+)"?$', re.MULTILINE)
_READ_MAX: Final = 1 << 20
_UNPACKED_MAX: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Stock:
    """One source of the driver: a tree, or an archive of one. `package` is its name in DKMS, if it has one."""

    path: Path
    version: str
    package: str = ""

    @property
    def branch(self) -> int:
        """550 of 550.163.01."""
        return int(self.version.partition(".")[0])


def found(root: Path = Path("/")) -> list[Stock]:
    """All below /usr/src; of one version the open flavour is first, and a tree before an archive."""
    names = sorted((root / "usr" / "src").glob("nvidia*"), key=lambda path: ("open" not in path.name, path.name))
    trees = [stock for path in names if path.is_dir() and (stock := _of_tree(path))]
    archives = [stock for path in names if path.name.endswith("kernel.tar.xz") and (stock := _of_archive(path))]
    return trees + archives


def inside(path: Path) -> Stock:
    """The source that a person named."""
    if not path.exists():
        raise DriverCannotRun(f"--source {path}: there is no such folder or archive")
    stock = _of_tree(path) if path.is_dir() else _of_archive(path)
    if stock is None:
        wanted = "a folder or .tar.xz archive with nvidia-uvm/, and Kbuild with NV_VERSION_STRING beside it"
        raise DriverCannotRun(f"--source {path}: expected {wanted}")
    return stock


def known(stock: Stock, *, try_unknown: bool) -> Stock:
    """The same, unless its branch is none that the patch was tried on."""
    if stock.branch not in BRANCHES and not try_unknown:
        names = ", ".join(map(str, BRANCHES))
        raise DriverCannotRun(
            f"driver {stock.version} is of branch {stock.branch}, and the patch was tried on {names}; "
            "to try all the same (each hook is still counted): --try-unknown"
        )
    return stock


def choose(stocks: list[Stock], wanted: str | None) -> Stock:
    """The source of the version that runs or is installed; without one, the only version that there is."""
    if not stocks:
        raise DriverCannotRun(
            "no source of the NVIDIA driver is in /usr/src; install your distribution's DKMS package of it (Debian: "
            "nvidia-open-kernel-dkms, Ubuntu: nvidia-dkms-NNN-open) or name a folder with --source"
        )
    fitting = [stock for stock in stocks if wanted in (None, stock.version)]
    there = ", ".join(dict.fromkeys(f"{stock.version} ({stock.path})" for stock in stocks))
    if not fitting:
        raise DriverCannotRun(
            f"the driver of this machine is {wanted}, and its source is not in /usr/src: only {there}"
        )
    if len({stock.version for stock in fitting}) > 1:
        raise DriverCannotRun(
            f"no driver is installed, and there is more than one source; choose with --source: {there}"
        )
    return fitting[0]


@contextmanager
def unpacked(stock: Stock) -> Generator[Path]:
    """The folder that holds Kbuild and nvidia-uvm/; of an archive, one that is gone afterwards."""
    if stock.path.is_dir():
        yield _top(stock.path) or stock.path
        return
    with TemporaryDirectory(prefix="mpsafe-driver-") as folder, tarfile.open(stock.path) as archive:
        if sum(member.size for member in archive) > _UNPACKED_MAX:
            raise DriverCannotRun(f"{stock.path} unpacks to more than {_UNPACKED_MAX >> 20} MiB")
        archive.extractall(folder, filter="data")
        tops = [top for path in sorted(Path(folder).rglob("nvidia-uvm")) if (top := _top(path.parent))]
        if not tops:
            raise DriverCannotRun(f"{stock.path} holds no nvidia-uvm/")
        yield tops[0]


def _top(path: Path) -> Path | None:
    for top in (path / "kernel-open", path / "kernel", path):
        if (top / "nvidia-uvm").is_dir() and (top / "Kbuild").is_file():
            return top
    return None


def _of_tree(path: Path) -> Stock | None:
    top = _top(path)
    if top is None or (version := _VERSION.search(_read(top / "Kbuild"))) is None:
        return None
    package = _PACKAGE.search(_read(top / "dkms.conf"))
    return Stock(path, version[1], package[1] if package else "")


def _of_archive(path: Path) -> Stock | None:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if PurePosixPath(member.name).name == "Kbuild" and (file := archive.extractfile(member)) is not None:
                    version = _VERSION.search(file.read(_READ_MAX).decode(errors="replace"))
                    if version:
                        return Stock(path, version[1])
    except (OSError, tarfile.TarError):
        return None
    return None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_READ_MAX).decode(errors="replace")
    except OSError:
        return ""
