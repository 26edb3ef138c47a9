# SPDX-License-Identifier: Apache-2.0
"""Where NVIDIA's sources come from: packages, folders, or tags of a bare git repository. Ours keeps none of it."""

import subprocess
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from mpsafe.driver.stock import Stock, inside, unpacked

__all__ = ["REPOSITORY", "Missing", "packaged", "tagged", "tree"]

REPOSITORY: Final = Path(__file__).parents[2]
PACKAGE: Final = "nvidia-open-kernel-source"
UNPACK_S: Final = 300
MODULE: Final = "kernel-open/nvidia-uvm"


class Missing(Exception):
    """What is wanted is not to be had on this machine, and why."""


def packaged() -> dict[str, Stock]:
    """Debian's, by the driver's version."""
    command = [str(REPOSITORY / "tools" / "packages" / "unpack"), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=UNPACK_S)
    if done.returncode:
        raise Missing(done.stderr.strip() or f"{PACKAGE} could not be unpacked")
    folders = [Path(line.partition(" ")[2]) for line in done.stdout.splitlines()]
    stocks = [inside(archive) for folder in folders for archive in sorted(folder.glob("usr/src/*.tar.xz"))]
    return {stock.version: stock for stock in stocks}


@contextmanager
def tree(name: str) -> Generator[Path]:
    """The folder that holds Kbuild and nvidia-uvm/, of a packaged version or of a path."""
    stock = inside(Path(name)) if Path(name).exists() else packaged().get(name)
    if stock is None:
        raise Missing(f"{name} is neither a path nor one of {', '.join(packaged())}, which Debian has")
    with unpacked(stock) as top:
        yield top


@contextmanager
def tagged(repository: Path, tag: str) -> Generator[Path]:
    """What of a tag is needed to patch it: the folder that holds kernel-open/."""
    git = ["git", "-C", str(repository), "archive", tag, "--", MODULE, "kernel-open/Kbuild"]
    done = subprocess.run(git, capture_output=True, check=False, timeout=UNPACK_S)
    if done.returncode:
        raise Missing(f"{tag}: {done.stderr.decode(errors='replace').strip()}")
    with TemporaryDirectory(prefix="mpsafe-driver-") as folder:
        with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)
