# SPDX-License-Identifier: Apache-2.0
"""What is put into a driver's source, and where it is found: in the installed package, or in the repository."""

from dataclasses import dataclass
from pathlib import Path

from mpsafe.driver.trouble import DriverCannotRun

__all__ = ["PatchFiles", "patch_files"]


@dataclass(frozen=True, slots=True)
class PatchFiles:
    """`cocci` is the semantic patch, `sources` the files that are ours alone, `dkms` what DKMS and modprobe need."""

    cocci: Path
    sources: tuple[Path, ...]
    dkms: Path


def patch_files() -> PatchFiles:
    """Raises DriverCannotRun if this installation has none."""
    installed = Path(__file__).parent / "patch"
    repository = Path(__file__).parents[3]
    folder, uapi = installed, installed / "mpsafe_uapi.h"
    if not installed.is_dir():
        folder, uapi = repository / "driver_patches", repository / "ffi" / "mpsafe_uapi.h"
    sources = (*sorted(path for path in (folder / "src").glob("*") if path.is_file()), uapi)
    files = PatchFiles(folder / "mpsafe.cocci", sources, folder / "dkms")
    for path in (files.cocci, uapi, folder / "src" / "mpsafe.Kbuild"):
        if not path.is_file():
            raise DriverCannotRun(f"{path} is not there: install mpsafe again, or run it from its repository")
    return files
