/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#include "uvm_mpsafe.h"

#include "mpsafe_compat.h"
#include "mpsafe_dev.h"
#include "uvm_global.h"
#include "uvm_hal_types.h"
#include "uvm_mpsafe_inject.h"
#include "uvm_mpsafe_sink.h"
#include "uvm_va_space.h"

void uvm_mpsafe_init(void)
{
    const mpsafe_dev_config_t config = {
        .features = MPSAFE_FEATURE_REPLAYABLE | MPSAFE_FEATURE_NON_REPLAYABLE | MPSAFE_FEATURE_ORPHAN |
                    MPSAFE_FEATURE_REFUSE | MPSAFE_FEATURE_HOLD,
        .driver = NV_VERSION_STRING,
        .inject = uvm_mpsafe_inject,
    };

    (void)mpsafe_dev_init(&config);
}

void uvm_mpsafe_exit(void)
{
    // Nobody has a file of ours open, but a VA space may be left that could not be destroyed while the system slept.
    nv_kthread_q_flush(&g_uvm_global.deferred_release_q);
    mpsafe_dev_exit();
}

void uvm_mpsafe_va_space_create(uvm_va_space_t *va_space)
{
    (void)mpsafe_dev_client_create(va_space);
}

void uvm_mpsafe_va_space_destroy(uvm_va_space_t *va_space)
{
    mpsafe_dev_client_destroy(va_space);
}

void uvm_mpsafe_hold(uvm_va_space_t *va_space)
{
    mpsafe_dev_client_hold(va_space);
}

void uvm_mpsafe_gpu_va_space_remove(uvm_gpu_va_space_t *gpu_va_space)
{
    mpsafe_core_t *core = mpsafe_dev_core();
    mpsafe_core_client_t *client = core ? mpsafe_core_client_get(core, gpu_va_space->va_space) : NULL;

    if (!client)
        return;

    mpsafe_core_sinks_drop(core, client, mpsafe_gpu_uuid(gpu_va_space->gpu), NULL, NULL);
    uvm_mpsafe_sinks_destroy(gpu_va_space);
    mpsafe_core_client_put(client);
}

bool uvm_mpsafe_refuses_range(uvm_va_space_t *va_space)
{
    mpsafe_core_t *core = mpsafe_dev_core();
    mpsafe_core_client_t *client;
    bool refuses;

    if (!core || !mpsafe_core_any_doomed(core))
        return false;

    client = mpsafe_core_client_get(core, va_space);
    if (!client)
        return false;

    refuses = mpsafe_core_refuses(core, client);
    mpsafe_core_client_put(client);

    return refuses;
}

static __u16 access_of(const uvm_fault_buffer_entry_t *entry)
{
    switch (entry->fault_access_type) {
        case UVM_FAULT_ACCESS_TYPE_PREFETCH:
        case UVM_FAULT_ACCESS_TYPE_READ:
            return MPSAFE_ACCESS_READ;
        case UVM_FAULT_ACCESS_TYPE_WRITE:
            return MPSAFE_ACCESS_WRITE;
        case UVM_FAULT_ACCESS_TYPE_ATOMIC_WEAK:
        case UVM_FAULT_ACCESS_TYPE_ATOMIC_STRONG:
            return MPSAFE_ACCESS_ATOMIC;
        default:
            return MPSAFE_ACCESS_NONE;
    }
}

static __u16 fault_of(const uvm_fault_buffer_entry_t *entry)
{
    switch (entry->fault_type) {
        case UVM_FAULT_TYPE_INVALID_PDE:
            return MPSAFE_FAULT_PDE;
        case UVM_FAULT_TYPE_INVALID_PTE:
            return MPSAFE_FAULT_PTE;
        case UVM_FAULT_TYPE_ATOMIC:
        case UVM_FAULT_TYPE_WRITE:
        case UVM_FAULT_TYPE_READ:
            return MPSAFE_FAULT_RO;
        default:
            return MPSAFE_FAULT_OTHER;
    }
}

static void sight_init(mpsafe_sight_t *sight, const uvm_fault_buffer_entry_t *entry)
{
    memset(sight, 0, sizeof(*sight));
    sight->va = entry->fault_address;
    sight->access = access_of(entry);
    sight->fault = fault_of(entry);
    sight->unit = entry->is_replayable ? MPSAFE_UNIT_SM : MPSAFE_UNIT_COPY;
    if (entry->is_replayable) {
        sight->veid = entry->fault_source.ve_id;
        sight->gpc = entry->fault_source.gpc_id;
    }
}

static NV_STATUS make_sink(uvm_mpsafe_spot_t *spot, const mpsafe_sight_t *sight, const mpsafe_sink_t *sink)
{
    NV_STATUS status = uvm_mpsafe_sink_make(spot, sight, sink);

    // A push that failed may have ended UVM for everybody, and then there is nothing left to absorb.
    if (status == NV_OK)
        status = uvm_global_get_status();
    if (status != NV_OK)
        UVM_ERR_PRINT("mpsafe: no sink at 0x%llx: %s, GPU %s\n",
                      sight->va,
                      nvstatusToString(status),
                      uvm_gpu_name(spot->gpu_va_space->gpu));

    return status;
}

// NV_OK: the access will not fault again. All else: the stock path is to run.
static NV_STATUS handle_fault(uvm_gpu_va_space_t *gpu_va_space, const uvm_fault_buffer_entry_t *entry)
{
    mpsafe_core_t *core = mpsafe_dev_core();
    mpsafe_core_client_t *client = core ? mpsafe_core_client_get(core, gpu_va_space->va_space) : NULL;
    NvU64 began_ns = ktime_get_ns();
    uvm_mpsafe_spot_t spot;
    mpsafe_sight_t sight;
    mpsafe_sink_t sink;
    NV_STATUS status;

    if (!client)
        return NV_ERR_NOT_SUPPORTED;

    sight_init(&sight, entry);
    memcpy(sight.gpu_uuid, mpsafe_gpu_uuid(gpu_va_space->gpu), sizeof(sight.gpu_uuid));

    uvm_mpsafe_spot_enter(&spot, gpu_va_space, &sight);
    status = mpsafe_core_fault_begin(core, client, &sight, began_ns, &sink);
    if (status == NV_OK)
        status = make_sink(&spot, &sight, &sink);
    mpsafe_core_fault_end(core, client, &sight, &sink, NULL, status, ktime_get_ns());
    uvm_mpsafe_spot_leave(&spot);
    mpsafe_core_client_put(client);

    return status;
}

NV_STATUS uvm_mpsafe_replayable_fault(uvm_gpu_va_space_t *gpu_va_space, uvm_fault_buffer_entry_t *entry)
{
    // An error of the service itself cancels everybody's faults: this one is not to blame.
    if (!entry->is_fatal)
        return NV_ERR_NOT_SUPPORTED;

    return handle_fault(gpu_va_space, entry);
}

void uvm_mpsafe_non_replayable_fault(uvm_gpu_va_space_t *gpu_va_space,
                                     uvm_fault_buffer_entry_t *entry,
                                     NV_STATUS status)
{
    if (status != NV_OK || !entry->is_fatal)
        return;

    if (handle_fault(gpu_va_space, entry) != NV_OK)
        return;

    entry->is_fatal = false;
    entry->fatal_reason = UvmEventFatalReasonInvalid;
}

void uvm_mpsafe_fatal_fault(uvm_gpu_va_space_t *gpu_va_space, uvm_fault_buffer_entry_t *entry)
{
    // All others have been seen by uvm_mpsafe_non_replayable_fault().
    if (entry->is_fatal && entry->fault_type >= UVM_FAULT_TYPE_FATAL)
        (void)handle_fault(gpu_va_space, entry);
}

void uvm_mpsafe_orphan_fault(uvm_fault_buffer_entry_t *entry)
{
    mpsafe_core_t *core = mpsafe_dev_core();
    mpsafe_sight_t sight;

    if (!core)
        return;

    sight_init(&sight, entry);
    mpsafe_core_orphan(core, &sight, ktime_get_ns());
}
