# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot say: the C that is compiled when mpsafe is installed, and the driver's patch."""

import os
import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from typing_extensions import override


class BuildNative(build_ext):
    """Builds the extension modules, and the software GPU's libraries as package data."""

    @override
    def run(self) -> None:
        super().run()
        root = Path("daemon" if self.inplace else self.build_lib)
        build = runpy.run_path("ffi/soft/build.py")["build"]
        build(root / "mpsafe" / "soft" / "lib", os.environ.get("CC", "cc"))


class BuildWithPatch(build_py):
    """Takes the driver's patch along; mpsafe/driver/source.py finds it there, or else in the repository."""

    @override
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        patch = Path(self.build_lib, "mpsafe", "driver", "patch")
        for name in ("src", "dkms"):
            shutil.copytree(Path("driver_patches", name), patch / name, dirs_exist_ok=True)
        for file in ("driver_patches/mpsafe.cocci", "ffi/mpsafe_uapi.h"):
            shutil.copy(file, patch)


setup(
    cffi_modules=[f"ffi/build_{name}.py:ffibuilder" for name in ("uapi", "cuda", "experts", "operators")],
    cmdclass={"build_ext": BuildNative, "build_py": BuildWithPatch},
)
