/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#include "uvm_mpsafe_inject.h"

#include "mpsafe_compat.h"
#include "uvm_global.h"
#include "uvm_hal_types.h"
#include "uvm_kvmalloc.h"
#include "uvm_mpsafe.h"
#include "uvm_va_space.h"

static uvm_fault_type_t fault_type(const struct mpsafe_inject *inject)
{
    switch (inject->fault) {
        case MPSAFE_FAULT_PDE:
            return UVM_FAULT_TYPE_INVALID_PDE;
        case MPSAFE_FAULT_PTE:
            return UVM_FAULT_TYPE_INVALID_PTE;
        case MPSAFE_FAULT_RO:
            return inject->access == MPSAFE_ACCESS_ATOMIC ? UVM_FAULT_TYPE_ATOMIC : UVM_FAULT_TYPE_WRITE;
        default:
            return UVM_FAULT_TYPE_FATAL;
    }
}

static uvm_fault_access_type_t access_type(const struct mpsafe_inject *inject)
{
    switch (inject->access) {
        case MPSAFE_ACCESS_WRITE:
            return UVM_FAULT_ACCESS_TYPE_WRITE;
        case MPSAFE_ACCESS_ATOMIC:
            return UVM_FAULT_ACCESS_TYPE_ATOMIC_STRONG;
        default:
            return UVM_FAULT_ACCESS_TYPE_READ;
    }
}

// All zeros: any GPU.
static uvm_gpu_va_space_t *find_gpu_va_space(uvm_va_space_t *va_space, const __u8 uuid[16])
{
    static const __u8 any[16];
    uvm_gpu_va_space_t *gpu_va_space;

    for_each_gpu_va_space(gpu_va_space, va_space) {
        if (memcmp(uuid, any, sizeof(any)) == 0 ||
            memcmp(uuid, mpsafe_gpu_uuid(gpu_va_space->gpu), sizeof(any)) == 0)
            return gpu_va_space;
    }

    return NULL;
}

static int inject_fault(uvm_va_space_t *va_space, struct mpsafe_inject *inject)
{
    uvm_gpu_va_space_t *gpu_va_space = find_gpu_va_space(va_space, inject->gpu_uuid);
    uvm_fault_buffer_entry_t *entry;

    if (!gpu_va_space)
        return -ENODEV;

    entry = uvm_kvmalloc_zero(sizeof(*entry));
    if (!entry)
        return -ENOMEM;

    INIT_LIST_HEAD(&entry->merged_instances_list);
    entry->va_space = va_space;
    entry->fault_address = UVM_PAGE_ALIGN_DOWN(inject->va);
    entry->fault_type = fault_type(inject);
    entry->fault_access_type = access_type(inject);
    entry->fatal_reason = UvmEventFatalReasonInvalidAddress;
    entry->is_fatal = true;
    entry->is_virtual = true;
    entry->is_replayable = inject->unit == MPSAFE_UNIT_SM;

    if (entry->is_replayable) {
        inject->status = uvm_mpsafe_replayable_fault(gpu_va_space, entry);
    }
    else {
        uvm_mpsafe_non_replayable_fault(gpu_va_space, entry, NV_OK);
        inject->status = entry->is_fatal ? NV_ERR_NOT_SUPPORTED : NV_OK;
    }
    uvm_kvfree(entry);

    return 0;
}

int uvm_mpsafe_inject(void *context, mpsafe_core_client_t *client, struct mpsafe_inject *inject)
{
    uvm_va_space_t *va_space;
    int ret = -ESRCH;

    // Nobody destroys a VA space that is in this list while its lock is held, and the GPU does not sleep.
    uvm_down_read(&g_uvm_global.pm.lock);
    uvm_mutex_lock(&g_uvm_global.va_spaces.lock);
    list_for_each_entry(va_space, &g_uvm_global.va_spaces.list, list_node) {
        if (va_space != mpsafe_core_client_key(client))
            continue;

        uvm_va_space_down_read(va_space);
        ret = inject_fault(va_space, inject);
        uvm_va_space_up_read(va_space);
        break;
    }
    uvm_mutex_unlock(&g_uvm_global.va_spaces.lock);
    uvm_up_read(&g_uvm_global.pm.lock);

    return ret;
}
