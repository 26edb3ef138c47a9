# SPDX-License-Identifier: Apache-2.0
"""A make-believe nvidia-uvm, in the shapes that its hooked functions had and have. Written for these tests; it is no
driver and compiles nowhere: the semantic patch looks at shapes only."""

from pathlib import Path
from string import Template
from typing import Final, Literal

__all__ = ["CONTENT", "Shape", "write"]

Shape = Literal["old", "new"]

_NAMES: Final[dict[Shape, dict[str, str]]] = {
    "old": {
        "gpu_argument": "uvm_gpu_t *gpu, ",
        "get": "uvm_gpu_va_space_get_by_parent_gpu",
        "once": "service_fault",
        "begin": "uvm_va_range_alloc_reclaim",
        "translate": "uvm_gpu_fault_entry_to_va_space(gpu, entry, &entry->va_space)",
        "gpu_uuid": "",
        "conf": "bool uvm_conf_computing_mode_enabled(const uvm_gpu_t *gpu);",
        "external": "",
    },
    "new": {
        "gpu_argument": "",
        "get": "uvm_gpu_va_space_get",
        "once": "service_fault_once",
        "begin": "uvm_va_range_initialize_reclaim",
        "translate": "uvm_parent_gpu_fault_entry_to_va_space(parent, entry, &entry->va_space, &entry->gpu)",
        "gpu_uuid": "    NvProcessorUuid uuid;\n",
        "conf": "",
        "external": "static inline external_t *uvm_va_range_to_external(uvm_va_range_t *range);",
    },
}

CONTENT: Final = {
    "uvm_va_space.h": """#include "uvm_global.h"
#include "uvm_forward_decl.h"
#include "uvm_mmu.h"
struct uvm_va_space_struct { int locked; };
""",
    "uvm_va_range.h": "$external\n",
    "uvm_conf_computing.h": "$conf\n",
    "uvm_gpu.h": """
struct uvm_gpu_struct
{
    int id;
$gpu_uuid};

struct uvm_parent_gpu_struct
{
    NvProcessorUuid uuid;
};
""",
    "uvm.c": """static int uvm_init(void)
{
    int ret = tools_up();

    if (ret != 0)
        goto error;

    return 0;

error:
    return ret;
}

static void uvm_exit(void)
{
    uvm_tools_exit();
    uvm_chardev_exit();
}
""",
    "uvm_va_space.c": """NV_STATUS uvm_va_space_create(struct address_space *mapping, uvm_va_space_t **out, NvU64 flags)
{
    uvm_va_space_t *va_space = make_one();

    *out = NULL;
    if (!va_space)
        return NV_ERR_NO_MEMORY;

    list_add_tail(&va_space->list_node, &g_uvm_global.va_spaces.list);
    *out = va_space;

    return NV_OK;
}

void uvm_va_space_destroy(uvm_va_space_t *va_space)
{
    uvm_mutex_lock(&g_uvm_global.va_spaces.lock);
    list_del(&va_space->list_node);
    uvm_mutex_unlock(&g_uvm_global.va_spaces.lock);
    flush_all(va_space);
    uvm_kvfree(va_space->mapping);
    uvm_kvfree(va_space);
}

static void remove_gpu_va_space(uvm_gpu_va_space_t *gone, struct mm_struct *mm, struct list_head *later)
{
    if (!gone)
        return;

    uvm_gpu_va_space_detach_all_user_channels(gone, later);
    take_tree_away(gone);
}
""",
    "uvm_va_space_mm.c": """static void uvm_va_space_mm_shutdown(uvm_va_space_t *va_space)
{
    uvm_va_space_down_write(va_space);
    stop(va_space);
    uvm_va_space_up_write(va_space);
    uvm_va_space_down_write(va_space);
    unset(va_space);
    uvm_va_space_up_write(va_space);
}
""",
    "uvm_va_range.c": """NV_STATUS $begin(uvm_va_space_t *va_space, struct mm_struct *mm, NvU64 start, NvU64 end)
{
    NV_STATUS status;

    status = uvm_hmm_va_block_reclaim(va_space, mm, start, end);
    if (status != NV_OK)
        return status;

    return begin_range(va_space, start, end);
}

NV_STATUS uvm_va_range_create_mmap(uvm_va_space_t *va_space, struct mm_struct *mm, uvm_vma_wrapper_t *wrapper)
{
    NV_STATUS status;

    status = uvm_hmm_va_block_reclaim(va_space, mm, wrapper->start, wrapper->end);
    if (status != NV_OK)
        return status;

    return begin_managed(va_space, wrapper);
}
""",
    "uvm_gpu_replayable_faults.c": """static NV_STATUS cancel_fault_precise_va(${gpu_argument}\
uvm_fault_buffer_entry_t *fault, uvm_fault_cancel_va_mode_t mode)
{
    uvm_gpu_va_space_t *gpu_va_space;

    gpu_va_space = $get(fault->va_space, gpu_of(fault));
    UVM_ASSERT(gpu_va_space);
    tell_of(fault);

    return cancel(gpu_va_space, fault, mode);
}

static NV_STATUS translate_instance_ptrs(uvm_parent_gpu_t *parent, batch_t *batch)
{
    NvU32 i;

    for (i = 0; i < batch->count; ++i) {
        NV_STATUS status;
        uvm_fault_buffer_entry_t *entry = batch->entries[i];

        status = $translate;
        if (status != NV_OK) {
            if (status == NV_ERR_PAGE_TABLE_NOT_AVAIL) {
                status = cancel_all(parent);
                if (status != NV_OK)
                    return status;
            }
            else {
                UVM_ASSERT(status == NV_ERR_INVALID_CHANNEL);
            }
            return NV_WARN_MORE_PROCESSING_REQUIRED;
        }
    }

    return NV_OK;
}
""",
    "uvm_gpu_non_replayable_faults.c": """static NV_STATUS $once(${gpu_argument}\
uvm_fault_buffer_entry_t *fault)
{
    NV_STATUS status;
    uvm_gpu_va_space_t *gpu_va_space;

    gpu_va_space = $get(fault->va_space, gpu_of(fault));
    if (!gpu_va_space) {
        status = NV_OK;
        goto exit;
    }

    if (!fault->is_fatal) {
        status = serve(gpu_va_space, fault);
        if (status == NV_OK && !fault->is_fatal) {
            status = clear_faulted(fault);
        }
    }

    if (fault->is_fatal)
        tell_of(fault);

    if (status != NV_OK || fault->is_fatal)
        kill_channel(fault);

exit:
    return status;
}
""",
    "nvidia-uvm-sources.Kbuild": "NVIDIA_UVM_SOURCES += nvidia-uvm/uvm.c\n",
}


def write(folder: Path, shape: Shape, *, version: str = "999.12.03", without: str = "", instead: str = "") -> Path:
    """A source tree with kernel-open/nvidia-uvm. All of the text `without`, as it is after filling in, is `instead`."""
    module = folder / "kernel-open" / "nvidia-uvm"
    module.mkdir(parents=True)
    (module.parent / "Kbuild").write_text(f'ccflags-y += -DNV_VERSION_STRING=\\"{version}\\"\n' if version else "\n")
    for name, text in CONTENT.items():
        filled = text if name.endswith("Kbuild") else Template(text).substitute(_NAMES[shape])
        (module / name).write_text(filled.replace(without, instead) if without else filled)
    return folder
