# SPDX-License-Identifier: Apache-2.0
"""The source tree that DKMS builds from: a patched copy of what nvidia-uvm needs, and our rules for it."""

import hashlib
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from mpsafe import __version__
from mpsafe.driver.stock import Stock, unpacked

__all__ = ["NAME", "fill", "forms", "package_version", "prepared", "same"]

NAME: Final = "mpsafe-nvidia-uvm"

_LEFT_OUT: Final = ("nvidia-drm", "nvidia-modeset", "nvidia-peermem", "*.o_binary", "dkms.conf", "debian")
# What NVIDIA's Kbuild would build is nvidia and nvidia-uvm; the former is there for its checks of the kernel.
_ONLY_UVM: Final = "\nobj-m := nvidia-uvm.o\nalways-y :=\nalways :=\n"


def package_version(stock: Stock) -> str:
    """The version in DKMS: the driver's, then ours."""
    return f"{stock.version}-mpsafe{__version__}"


def forms() -> Path:
    """The folder dkms/: in an installed package beside the patch, else in the repository."""
    installed = Path(__file__).with_name("patch") / "dkms"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "driver_patches" / "dkms"


def fill(form: str, **values: str) -> str:
    """The text of a form in dkms/: `@name@` stands for a value."""
    text = (forms() / form).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


@contextmanager
def prepared(stock: Stock, beside: Path, patch: Callable[[Path], object], *, depends: bool) -> Generator[Path]:
    """A new tree in the folder `beside`, where the last rename is to happen; what is not moved away is deleted.

    `patch` gets the copy, and raises what is wrong with it. `depends`: the stock module is in DKMS too, and is to be
    built first.
    """
    folder = Path(mkdtemp(prefix=f".{NAME}-", dir=beside))
    try:
        tree = folder / "tree"
        with unpacked(stock) as top:
            shutil.copytree(top, tree, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        patch(tree)
        with (tree / "Kbuild").open("a") as kbuild:
            kbuild.write(_ONLY_UVM)
        line = f'BUILD_DEPENDS[0]="{stock.package}"' if depends else ""
        conf = fill("dkms.conf.in", name=NAME, version=package_version(stock), depends=line)
        (tree / "dkms.conf").write_text(conf)
        for script in ("build", "symvers"):
            shutil.copyfile(forms() / script, tree / f"mpsafe-{script}")
        tree.chmod(0o755)
        yield tree
    finally:
        shutil.rmtree(folder)


def same(one: Path, other: Path) -> bool:
    """Whether two trees hold the same files."""
    return one.is_dir() and other.is_dir() and _digest(one) == _digest(other)


def _digest(tree: Path) -> bytes:
    digest = hashlib.sha256()
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(tree)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.digest()
