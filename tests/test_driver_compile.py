# SPDX-License-Identifier: Apache-2.0
"""What the patch touches, and all that is ours, compiles within nvidia-uvm without a warning."""

import pytest

from requires import requires
from tools.driver.compiling import compile_module, headers
from tools.driver.sources import Missing, packaged, tree

VERSION = "550.163.01"


@requires("spatch", "make", "gcc")
def test_the_touched_objects() -> None:
    try:
        kdir = headers()
        packaged()
    except Missing as missing:
        pytest.skip(str(missing))
    with tree(VERSION) as top:
        patched, compiled = compile_module(top, kdir=kdir)
    assert patched.version == compiled.version == VERSION
    names = {name.rpartition("/")[2] for name in compiled.objects}
    assert names >= {
        "uvm_gpu_replayable_faults.o",
        "uvm_va_space.o",
        "uvm_mpsafe.o",
        "uvm_mpsafe_sink.o",
        "mpsafe_core.o",
    }
