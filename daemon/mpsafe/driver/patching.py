# SPDX-License-Identifier: Apache-2.0
"""Patches the source of nvidia-uvm: all of it or nothing, and only if each hook is where it has to be."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import ClassVar, Final

from typing_extensions import override

from mpsafe.driver.hooks import HOOKS, LINES_MAX, Counted, count, wrong
from mpsafe.driver.programs import need
from mpsafe.driver.source import PatchFiles, patch_files
from mpsafe.driver.trouble import DriverCannotRun
from mpsafe.errors import CannotRun

__all__ = ["HookRefused", "Patched", "find_top", "patch_tree", "read_version"]

DEADLINE_S: Final = 120.0
MODULE: Final = "nvidia-uvm"

_READ_MAX: Final = 4 << 20
_VERSIONS: Final = (
    ("Kbuild", re.compile(r'NV_VERSION_STRING=\\?"([\w.]{1,31})\\?"')),
    ("../version.mk", re.compile(r"^NVIDIA_VERSION\s*:?=\s*([\w.]{1,31})$", re.MULTILINE)),
    ("dkms.conf", re.compile(r'^PACKAGE_VERSION="?([\w.]{1,31})"?$', re.MULTILINE)),
)
# What mpsafe_compat.h asks, and the declaration that answers it: (file, regular expression).
_PROBES: Final = (
    ("MPSAFE_HAS_EXTERNAL_RANGE", "uvm_va_range.h", r"\buvm_va_range_to_external\("),
    ("MPSAFE_HAS_GPU_UUID", "uvm_gpu.h", r"\nstruct uvm_gpu_struct\n\{(?:(?!\n\};).)*\bNvProcessorUuid uuid;"),
    ("MPSAFE_HAS_CONF_COMPUTING_OF_GPU", "uvm_conf_computing.h", r"\buvm_conf_computing_mode_enabled\("),
)


@dataclass(eq=False)
class HookRefused(CannotRun):
    """A hook is not exactly where it has to be, so nothing was patched."""

    code: ClassVar[str] = "hook-refused"
    hint: ClassVar[str] = (
        "this source is of a version, or patched in a way, that mpsafe.cocci does not know; please report it"
    )
    version: str
    hook: str
    problem: str

    @override
    def __str__(self) -> str:
        return f"nvidia-uvm {self.version}, hook {self.hook}: {self.problem}; the source is untouched"


@dataclass(frozen=True, slots=True)
class Patched:
    """A tree that was patched: the driver's version, where the tree is, each hook, and all lines inserted in it."""

    version: str
    tree: str
    hooks: tuple[Counted, ...]
    lines: int


def patch_tree(source: Path, out: Path | None = None, *, files: PatchFiles | None = None) -> Patched:
    """Patches `source`, which holds kernel-open/nvidia-uvm or nvidia-uvm; with `out`, a copy of it that is put there.

    Raises DriverCannotRun if there is nothing to patch or no way to, HookRefused if a hook cannot be had.
    """
    files = files or patch_files()
    top = find_top(source)
    version = read_version(top)
    _check_stock(top)
    if out is not None and out.exists():
        raise DriverCannotRun(f"{out} is there already: take it away, or choose another --out")
    beside = out.absolute().parent if out is not None else top
    try:
        staging = Path(mkdtemp(prefix=".mpsafe-", dir=beside))
    except OSError as error:
        raise DriverCannotRun(f"{beside} cannot be written to: {error.strerror}; patch a copy with --out") from error
    try:
        done = _stage(source, top, version, out, staging, files)
    except OSError as error:
        raise DriverCannotRun(f"{error.filename or source}: {error.strerror}; the source is untouched") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return done


def find_top(source: Path) -> Path:
    """The folder that holds Kbuild and nvidia-uvm/; DriverCannotRun if there is none."""
    for top in (source / "kernel-open", source):
        if (top / MODULE / f"{MODULE}-sources.Kbuild").is_file():
            return top
    raise DriverCannotRun(
        f"{source}: expected a folder that holds kernel-open/{MODULE} or {MODULE}, with {MODULE}-sources.Kbuild in it"
    )


def read_version(top: Path) -> str:
    """The driver's version, as Kbuild, version.mk or dkms.conf say it; DriverCannotRun if none of them does."""
    for name, form in _VERSIONS:
        if (top / name).is_file() and (match := form.search(_read(top / name))):
            return match[1]
    raise DriverCannotRun(f"{top}: neither Kbuild, version.mk nor dkms.conf tell the driver's version")


def _stage(source: Path, top: Path, version: str, out: Path | None, staging: Path, files: PatchFiles) -> Patched:
    copy = staging / "tree"
    if out is None:
        shutil.copytree(top / MODULE, copy, symlinks=True)
        hooks = _patch(copy, version, files)
        _swap(copy, top / MODULE, staging / "stock")
        return _patched(version, source, hooks)
    shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns(staging.name))
    hooks = _patch(copy / top.relative_to(source) / MODULE, version, files)
    copy.rename(out)
    return _patched(version, out, hooks)


def _patched(version: str, tree: Path, hooks: tuple[Counted, ...]) -> Patched:
    return Patched(version, str(tree), hooks, sum(hook.lines for hook in hooks))


def _swap(new: Path, place: Path, aside: Path) -> None:
    place.rename(aside)
    try:
        new.rename(place)
    except OSError:
        aside.rename(place)
        raise


def _check_stock(top: Path) -> None:
    module = top / MODULE
    if (module / "uvm_mpsafe.h").exists() or "uvm_mpsafe" in _read(module / f"{MODULE}-sources.Kbuild"):
        raise DriverCannotRun(f"{module} is patched already: begin with the stock source")


def _patch(module: Path, version: str, files: PatchFiles) -> tuple[Counted, ...]:
    """Patches a copy. What it raises leaves a half-patched copy, which is of no use."""
    names = sorted({hook.file for hook in HOOKS})
    for name in names:
        if not (module / name).is_file():
            hook = next(hook for hook in HOOKS if hook.file == name)
            raise HookRefused(version, hook.name, f"there is no {name}")
    before = {name: _read(module / name) for name in names}
    _run_spatch(files.cocci, module, [name for name in names if name.endswith(".c")])
    _run_spatch(files.cocci, module, [name for name in names if name.endswith(".h")], "-D", "header")
    _list_sources(module / f"{MODULE}-sources.Kbuild")
    counted, other = count(before, {name: _read(module / name) for name in names})
    if (miss := wrong(counted)) is not None:
        where = f"{miss.file}, {miss.function}" if miss.function else miss.file
        found = "; ".join(("", *other))
        raise HookRefused(version, miss.name, f"{where}: expected {miss.expected}, got {miss.count}{found}")
    if other:
        raise HookRefused(version, "none", other[0])
    if (lines := sum(hook.lines for hook in counted)) > LINES_MAX:
        raise HookRefused(version, "none", f"{lines} lines were inserted, and {LINES_MAX} is the most")
    for path in files.sources:
        if (module / path.name).exists():
            raise HookRefused(version, "none", f"there is a {path.name} already")
        shutil.copyfile(path, module / path.name)
    (module / "mpsafe_probed.h").write_text(_probed(module))
    return counted


def _run_spatch(cocci: Path, module: Path, names: list[str], *options: str) -> None:
    command = [need("spatch", "coccinelle"), "--very-quiet", "--no-includes", "--in-place", *options]
    try:
        done = subprocess.run(
            [*command, "--sp-file", cocci.absolute(), *names],
            cwd=module,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=DEADLINE_S,
        )
    except subprocess.TimeoutExpired:
        raise DriverCannotRun(f"spatch had no end after {DEADLINE_S:.0f} s; the source is untouched") from None
    if done.returncode:
        said = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise DriverCannotRun(f"spatch failed with {done.returncode}: {said}; the source is untouched")


def _list_sources(kbuild: Path) -> None:
    text = _read(kbuild)
    end = "" if text.endswith("\n") else "\n"
    kbuild.write_text(f"{text}{end}include $(src)/{MODULE}/mpsafe.Kbuild\n")


def _probed(module: Path) -> str:
    lines = [
        "/* SPDX-License-Identifier: MIT OR GPL-2.0-only */",
        "// What this driver's headers declare: see mpsafe_compat.h.",
    ]
    for macro, name, form in _PROBES:
        has = (module / name).is_file() and re.search(form, _read(module / name), re.DOTALL)
        lines.append(f"#define {macro} {int(bool(has))}")
    return "\n".join(lines) + "\n"


def _read(path: Path) -> str:
    with path.open("rb") as file:
        text = file.read(_READ_MAX + 1)
    if len(text) > _READ_MAX:
        raise DriverCannotRun(f"{path} has more than {_READ_MAX >> 20} MiB: this is no driver's source")
    return text.decode(errors="surrogateescape")
