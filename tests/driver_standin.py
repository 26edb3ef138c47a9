# SPDX-License-Identifier: Apache-2.0
"""A driver of our own in the shape of NVIDIA's: two modules, one version, the same rules for Kbuild and DKMS.

It is for what finds, copies, builds, installs and removes; what is patched is looked at elsewhere.
"""

from pathlib import Path
from typing import Final

__all__ = ["HOOKED", "PACKAGE", "VERSION", "hook", "tree"]

VERSION: Final = "550.163.01"
PACKAGE: Final = "nvidia-current-open"
# What `hook` adds, and what tells our module from the stock one.
HOOKED: Final = "module_param(mpsafe_enable, bool, 0444);"

_FILES: Final = {
    "Kbuild": r"""
$(foreach _module, $(NV_KERNEL_MODULES), $(eval include $(src)/$(_module)/$(_module).Kbuild))
ccflags-y += -DNV_VERSION_STRING=\"@version@\"
""",
    "Makefile": """
ifneq ($(KERNELRELEASE),)
  include $(src)/Kbuild
else
  NV_KERNEL_MODULES ?= $(wildcard nvidia nvidia-uvm)
modules:
	$(MAKE) -C /lib/modules/$(KERNEL_UNAME)/build M=$(CURDIR) NV_KERNEL_MODULES="$(NV_KERNEL_MODULES)" modules
endif
""",
    "conftest.sh": "#!/bin/sh\n",
    "common/inc/nv-interface.h": """
struct nv_gpu { int id; };
int nvUvmInterfaceRegisterGpu(const struct nv_gpu *gpu);
""",
    "nvidia/nvidia.Kbuild": "obj-m += nvidia.o\nnvidia-y := nvidia/nv.o\nCFLAGS_nvidia/nv.o += -I$(src)/common/inc\n",
    "nvidia/nv.c": """
#include <linux/module.h>
#include "nv-interface.h"
int nvUvmInterfaceRegisterGpu(const struct nv_gpu *gpu)
{
    return gpu->id;
}
EXPORT_SYMBOL(nvUvmInterfaceRegisterGpu);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_VERSION(NV_VERSION_STRING);
""",
    "nvidia-uvm/nvidia-uvm.Kbuild": (
        "obj-m += nvidia-uvm.o\nnvidia-uvm-y := nvidia-uvm/uvm.o\nCFLAGS_nvidia-uvm/uvm.o += -I$(src)/common/inc\n"
    ),
    "nvidia-uvm/uvm.c": """
#include <linux/module.h>
#include "nv-interface.h"
static int __init uvm_init(void)
{
    struct nv_gpu gpu = { 0 };

    return nvUvmInterfaceRegisterGpu(&gpu);
}
static void __exit uvm_exit(void)
{
}
module_init(uvm_init);
module_exit(uvm_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_VERSION(NV_VERSION_STRING);
""",
    "nvidia-drm/nvidia-drm.Kbuild": "obj-m += nvidia-drm.o\n",
    "dkms.conf": """
PACKAGE_NAME="nvidia-current-open"
PACKAGE_VERSION="@version@"
AUTOINSTALL=yes
MAKE[0]="env NV_VERBOSE=1 make modules KERNEL_UNAME=${kernelver}"
CLEAN="true"
BUILT_MODULE_NAME[0]="nvidia"
DEST_MODULE_NAME[0]="$PACKAGE_NAME"
DEST_MODULE_LOCATION[0]="/updates/dkms"
BUILT_MODULE_NAME[1]="nvidia-uvm"
DEST_MODULE_NAME[1]="$PACKAGE_NAME-uvm"
DEST_MODULE_LOCATION[1]="/updates/dkms"
""",
}


def tree(path: Path, version: str = VERSION) -> Path:
    """Writes it there, as its DKMS package would."""
    for name, text in _FILES.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.lstrip("\n").replace("@version@", version))
    return path


def hook(path: Path) -> None:
    """In the place of the patch: what the tools look for in a module of ours."""
    uvm = path / "nvidia-uvm" / "uvm.c"
    uvm.write_text(f"{uvm.read_text()}static bool mpsafe_enable = true;\n{HOOKED}\n")
