# SPDX-License-Identifier: Apache-2.0
"""Our nvidia-uvm beside the stock one: put there by DKMS, chosen by a rule of modprobe, and both taken away again.

The stock module's file is never touched: ours has another name. Each step may be done twice, and what undoes it stands
beside it; a failure leaves the stock module alone there.
"""

import os
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, TypeAlias

from mpsafe.driver import loaded
from mpsafe.driver.programs import act, ask, need
from mpsafe.driver.stock import Stock
from mpsafe.driver.tree import NAME, fill, package_version, same
from mpsafe.driver.trouble import DriverCannotRun, DriverStepFailed

__all__ = ["BUILD_LOG", "TREES", "Tell", "install", "put", "reload", "remove"]

Tell: TypeAlias = Callable[[str], None]

TREES: Final = "usr/src"
BUILD_LOG: Final = f"var/log/{NAME}.log"

_DKMS: Final = "var/lib/dkms"
_STOCK_RULE: Final = re.compile(r"^\s*install\s+nvidia[-_]uvm\s", re.MULTILINE)


def install(tree: Path, stock: Stock, tell: Tell, *, root: Path = Path("/"), kernel: str = "") -> None:
    """Builds a prepared tree for one kernel and has modprobe take the module from now on."""
    dkms, version, kernel = need("dkms", "dkms"), package_version(stock), kernel or os.uname().release
    if not (root / "lib/modules" / kernel / "build").exists():
        raise DriverCannotRun(
            f"the headers of kernel {kernel} are not there: install the package linux-headers-{kernel}"
        )
    with ExitStack() as undo:
        _place(tree, version, dkms, undo, tell, root)
        _build(version, kernel, dkms, undo, tell, root)
        _check(stock, kernel, root)
        _choose(undo, tell, root)
        undo.pop_all()
    for other in {one.version for one in loaded.look(root, kernel).dkms} - {version}:
        _forget(other, dkms, tell, root)


def remove(tell: Tell, *, root: Path = Path("/")) -> bool:
    """Takes all of it away, the rule first; false if there was nothing. What runs goes on running."""
    state = loaded.look(root)
    rule = root / loaded.RULE
    trees = sorted((root / TREES).glob(f"{NAME}-*"))
    if rule.exists():
        rule.unlink()
        tell(f"removed /{loaded.RULE}: the next load is the stock module's")
    versions = {one.version for one in state.dkms}
    for version in sorted(versions):
        _forget(version, need("dkms", "dkms"), tell, root)
    for tree in trees:
        shutil.rmtree(tree, ignore_errors=True)
    return bool(state.rule or versions or trees)


def reload(tell: Tell, *, root: Path = Path("/")) -> None:
    """Loads nvidia-uvm again; refused while anybody uses it. modprobe falls back to the stock module by itself."""
    using = loaded.users(root)
    if using:
        names = ", ".join(f"{pid} ({name})" for pid, name in using)
        raise DriverCannotRun(
            f"nvidia-uvm is in use by {names}: stop what computes, then MPS (mpsafe mps stop), then mpsafed "
            "(systemctl stop mpsafed.socket mpsafed.service)"
        )
    if (root / "sys/module/nvidia_uvm").is_dir():
        act("unload nvidia-uvm", [need("rmmod", "kmod"), "nvidia_uvm"])
    act("load nvidia-uvm", [need("modprobe", "kmod"), "nvidia-uvm"])
    tell("nvidia-uvm was loaded again")


def put(new: Path, tree: Path) -> None:
    """Moves a prepared tree to its place."""
    if not same(new, tree):
        shutil.rmtree(tree, ignore_errors=True)
        new.rename(tree)


def _place(new: Path, version: str, dkms: str, undo: ExitStack, tell: Tell, root: Path) -> None:
    tree = root / TREES / f"{NAME}-{version}"
    registered = any(one.version == version for one in loaded.look(root).dkms)
    if registered and same(new, tree):
        return
    if registered:
        _forget(version, dkms, tell, root)
    put(new, tree)
    undo.callback(shutil.rmtree, tree, ignore_errors=True)
    undo.callback(_unregister, version, dkms)
    act("dkms add", [dkms, "add", "-m", NAME, "-v", version])
    tell(f"/{tree.relative_to(root)}: the patched source, known to DKMS")


def _unregister(version: str, dkms: str) -> None:
    with suppress(DriverStepFailed):  # of what was never added
        act("dkms remove", [dkms, "remove", "-m", NAME, "-v", version, "--all"])


def _forget(version: str, dkms: str, tell: Tell, root: Path) -> None:
    act("dkms remove", [dkms, "remove", "-m", NAME, "-v", version, "--all"])
    shutil.rmtree(root / TREES / f"{NAME}-{version}", ignore_errors=True)
    tell(f"removed {NAME} {version}")


def _build(version: str, kernel: str, dkms: str, undo: ExitStack, tell: Tell, root: Path) -> None:
    if loaded.Registered(version, kernel, "installed") in loaded.look(root, kernel).dkms:
        tell(f"{NAME} {version} is installed for {kernel} already")
        return
    undo.callback(_keep_log, version, root)
    tell(f"building for {kernel}; this takes minutes")
    try:
        act("dkms install", [dkms, "install", "-m", NAME, "-v", version, "-k", kernel])
    except DriverStepFailed as error:
        raise DriverStepFailed(error.step, f"{error.problem}; all of it is in /{BUILD_LOG}") from None
    tell(f"built, and installed for {kernel}")


def _keep_log(version: str, root: Path) -> None:
    """DKMS's own goes when its tree is taken away."""
    for log in sorted((root / _DKMS / NAME / version).rglob("make.log")):
        (root / BUILD_LOG).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, root / BUILD_LOG)


def _check(stock: Stock, kernel: str, root: Path) -> None:
    disk = loaded.look(root, kernel).on_disk
    if disk is None or disk.version != stock.version:
        got = "none" if disk is None else f"{disk.path}, of {disk.version}"
        raise DriverStepFailed("dkms install", f"expected a module {NAME} of version {stock.version}, got {got}")
    if "mpsafe_enable" not in ask("modinfo", disk.path):
        raise DriverStepFailed("dkms install", f"{disk.path} has no parameter mpsafe_enable: it is not ours")


def _choose(undo: ExitStack, tell: Tell, root: Path) -> None:
    rule = root / loaded.RULE
    text = fill("modprobe.conf.in", name=NAME, stock=_stock_load(root))
    before = rule.read_text() if rule.exists() else None
    if text == before:
        return
    rule.parent.mkdir(parents=True, exist_ok=True)
    undo.callback(rule.unlink if before is None else lambda: rule.write_text(before))
    rule.write_text(text)
    tell(f"/{loaded.RULE}: modprobe takes it for nvidia-uvm from now on")


def _stock_load(root: Path) -> str:
    """How modprobe loads the stock module: by its own rule where the distribution has one, which Debian does."""
    for path in sorted((root / "etc/modprobe.d").glob("*.conf")):
        if path != root / loaded.RULE and _STOCK_RULE.search(path.read_text(errors="replace")):
            return f"-C /{path.relative_to(root)} nvidia-uvm"
    return "-i nvidia-uvm"
