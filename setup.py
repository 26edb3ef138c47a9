# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot say: the C that is compiled when mpsafe is installed."""

import os
import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from typing_extensions import override


class BuildNative(build_ext):
    """Builds the extension modules, and the software GPU's libraries as package data."""

    @override
    def run(self) -> None:
        super().run()
        root = Path("daemon" if self.inplace else self.build_lib)
        build = runpy.run_path("ffi/soft/build.py")["build"]
        build(root / "mpsafe" / "soft" / "lib", os.environ.get("CC", "cc"))


setup(
    cffi_modules=["ffi/build_uapi.py:ffibuilder", "ffi/build_cuda.py:ffibuilder"],
    cmdclass={"build_ext": BuildNative},
)
