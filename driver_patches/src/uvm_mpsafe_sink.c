/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#include "uvm_mpsafe_sink.h"

#include "uvm_ats.h"
#include "uvm_hal.h"
#include "uvm_hmm.h"
#include "uvm_kvmalloc.h"
#include "uvm_map_external.h"
#include "uvm_mmu.h"
#include "uvm_range_tree.h"
#include "uvm_va_block.h"
#include "uvm_va_range.h"
#include "uvm_va_space.h"

// A sink in no range.
typedef struct
{
    struct list_head list_node;
    uvm_gpu_va_space_t *gpu_va_space;
    uvm_page_table_range_vec_t range_vec;
} private_sink_t;

// Of all clients: few, and only doomed ones have any. One client's are made one after the other, under its lock.
static LIST_HEAD(g_sinks);
static DEFINE_SPINLOCK(g_sinks_lock);

static bool private_sink_covers(uvm_gpu_va_space_t *gpu_va_space, NvU64 va)
{
    private_sink_t *sink;
    bool covers = false;

    spin_lock(&g_sinks_lock);
    list_for_each_entry(sink, &g_sinks, list_node) {
        if (sink->gpu_va_space == gpu_va_space && va - sink->range_vec.start < sink->range_vec.size) {
            covers = true;
            break;
        }
    }
    spin_unlock(&g_sinks_lock);

    return covers;
}

static NvU64 sparse_pte_maker(uvm_page_table_range_vec_t *range_vec, NvU64 offset, void *caller_data)
{
    return range_vec->tree->hal->make_sparse_pte();
}

static void private_sink_destroy(private_sink_t *sink)
{
    // The pages behind sparse entries are the GPU's own and stay: no access to them has to reach memory first.
    (void)uvm_page_table_range_vec_clear_ptes(&sink->range_vec, UVM_MEMBAR_GPU);
    uvm_page_table_range_vec_deinit(&sink->range_vec);
    uvm_kvfree(sink);
}

static NV_STATUS private_sink_create(uvm_gpu_va_space_t *gpu_va_space, NvU64 base, NvU64 size)
{
    private_sink_t *sink = uvm_kvmalloc_zero(sizeof(*sink));
    NV_STATUS status;

    if (!sink)
        return NV_ERR_NO_MEMORY;

    sink->gpu_va_space = gpu_va_space;
    status = uvm_page_table_range_vec_init(&gpu_va_space->page_tables,
                                           base,
                                           size,
                                           UVM_PAGE_SIZE_64K,
                                           UVM_PMM_ALLOC_FLAGS_EVICT,
                                           &sink->range_vec);
    if (status != NV_OK) {
        uvm_kvfree(sink);
        return status;
    }

    // New entries where there were none: nothing has to be ordered before.
    status = uvm_page_table_range_vec_write_ptes(&sink->range_vec, UVM_MEMBAR_NONE, sparse_pte_maker, NULL);
    if (status != NV_OK) {
        private_sink_destroy(sink);
        return status;
    }

    spin_lock(&g_sinks_lock);
    list_add(&sink->list_node, &g_sinks);
    spin_unlock(&g_sinks_lock);

    return NV_OK;
}

void uvm_mpsafe_sinks_destroy(uvm_gpu_va_space_t *gpu_va_space)
{
    private_sink_t *sink, *next;
    LIST_HEAD(doomed);

    uvm_assert_rwsem_locked_write(&gpu_va_space->va_space->lock);

    spin_lock(&g_sinks_lock);
    list_for_each_entry_safe(sink, next, &g_sinks, list_node) {
        if (sink->gpu_va_space == gpu_va_space)
            list_move(&sink->list_node, &doomed);
    }
    spin_unlock(&g_sinks_lock);

    list_for_each_entry_safe(sink, next, &doomed, list_node)
        private_sink_destroy(sink);
}

// UVM's own sparse maps, made for user space, are like this one.
static NV_STATUS hole_sink_create(uvm_mpsafe_spot_t *spot, NvU64 base, NvU64 size)
{
    mpsafe_external_range_t *external_range = spot->external_range;
    uvm_gpu_t *gpu = spot->gpu_va_space->gpu;
    uvm_ext_gpu_range_tree_t *range_tree = uvm_ext_gpu_range_tree(external_range, gpu);
    uvm_ext_gpu_map_t *map = uvm_kvmalloc_zero(sizeof(*map));
    NV_STATUS status;

    if (!map)
        return NV_ERR_NO_MEMORY;

    map->node.start = base;
    map->node.end = base + size - 1;
    map->gpu = gpu;
    RB_CLEAR_NODE(&map->node.rb_node);
    uvm_tracker_init(&map->tracker);

    // Destroyed as it is, a map that is in no tree is only freed.
    status = uvm_range_tree_add(&range_tree->tree, &map->node);
    if (status != NV_OK)
        goto error;

    uvm_processor_mask_set_atomic(mpsafe_mapped_gpus(external_range), gpu->id);

    status = uvm_page_table_range_vec_init(&spot->gpu_va_space->page_tables,
                                           base,
                                           size,
                                           UVM_PAGE_SIZE_64K,
                                           UVM_PMM_ALLOC_FLAGS_EVICT,
                                           &map->pt_range_vec);
    if (status != NV_OK)
        goto error;

    status = uvm_page_table_range_vec_write_ptes(&map->pt_range_vec, UVM_MEMBAR_NONE, sparse_pte_maker, NULL);
    if (status != NV_OK)
        goto error;

    return NV_OK;

error:
    uvm_ext_gpu_map_destroy(external_range, map, NULL);

    return status;
}

static uvm_ext_gpu_map_t *map_at(uvm_mpsafe_spot_t *spot, NvU64 va)
{
    return uvm_ext_gpu_map_iter_first(spot->external_range, spot->gpu_va_space->gpu, va, va);
}

// The whole map becomes one sink: its own entries are overwritten, so nothing is allocated, and UVM unmaps it as ever,
// whatever was written by then.
static NV_STATUS map_sink_create(uvm_mpsafe_spot_t *spot, NvU64 va)
{
    uvm_ext_gpu_map_t *map = map_at(spot, va);
    NV_STATUS status;

    if (!map || !map->pt_range_vec.ranges)
        return NV_ERR_INVALID_STATE;

    // The entries may still be being written.
    status = uvm_tracker_wait(&map->tracker);
    if (status != NV_OK)
        return status;

    // What was mapped here is another's memory, too: reads from it have to be over.
    return uvm_page_table_range_vec_write_ptes(&map->pt_range_vec, UVM_MEMBAR_SYS, sparse_pte_maker, NULL);
}

// Whole slots within [start, end] and, unless they are the smallest sink, within the largest one around `va` that is
// aligned to its size. Empty if the slot of `va` is not all of it free.
static void set_room(uvm_gpu_va_space_t *gpu_va_space, mpsafe_sight_t *sight, NvU64 start, NvU64 end, NvU64 window)
{
    NvU64 slot = UVM_ALIGN_DOWN(sight->va, MPSAFE_SINK_SIZE);

    start = max(start, UVM_ALIGN_DOWN(sight->va, window));
    end = min(end, UVM_ALIGN_DOWN(sight->va, window) + (window - 1));

    // Overflows at neither end: the first slot and the last one are only used if they are whole.
    if (slot < start || end - slot < MPSAFE_SINK_SIZE - 1 || slot > ~0ULL - MPSAFE_SINK_SIZE)
        return;

    start = slot - UVM_ALIGN_DOWN(slot - start, MPSAFE_SINK_SIZE);
    end = slot + UVM_ALIGN_DOWN(min(end, ~0ULL - 1) - slot + 1, MPSAFE_SINK_SIZE);
    if (!uvm_gpu_can_address(gpu_va_space->gpu, start, end - start)) {
        start = slot;
        end = slot + MPSAFE_SINK_SIZE;
        if (!uvm_gpu_can_address(gpu_va_space->gpu, start, end - start))
            return;
    }

    sight->room_start = start;
    sight->room_end = end;
}

static void find_wild_room(uvm_gpu_va_space_t *gpu_va_space, mpsafe_sight_t *sight)
{
    uvm_va_space_t *va_space = gpu_va_space->va_space;
    NvU64 window = MPSAFE_SINK_SIZE_STORM;
    uvm_va_block_t *va_block;
    NvU64 start;
    NvU64 end;

    sight->place = MPSAFE_PLACE_WILD;

    // Memory of the CPU has no ranges under HMM, but its blocks are of 2 MiB: keep to one that has none.
    if (uvm_hmm_is_enabled(va_space)) {
        if (uvm_hmm_va_block_find(va_space, sight->va, &va_block) == NV_OK) {
            sight->place = MPSAFE_PLACE_MANAGED;
            return;
        }
        window = UVM_VA_BLOCK_SIZE;
    }

    if (uvm_range_tree_find_hole(&va_space->va_range_tree, sight->va, &start, &end) == NV_OK)
        set_room(gpu_va_space, sight, start, end, window);
}

static void find_external_room(uvm_mpsafe_spot_t *spot, mpsafe_sight_t *sight)
{
    uvm_va_range_t *va_range = mpsafe_to_va_range(spot->external_range);
    uvm_gpu_t *gpu = spot->gpu_va_space->gpu;
    uvm_ext_gpu_map_t *map = map_at(spot, sight->va);
    NvU64 start = va_range->node.start;
    NvU64 end = va_range->node.end;

    if (!map) {
        sight->place = MPSAFE_PLACE_HOLE;
        if (uvm_range_tree_find_hole_in(&uvm_ext_gpu_range_tree(spot->external_range, gpu)->tree,
                                        sight->va,
                                        &start,
                                        &end) == NV_OK)
            set_room(spot->gpu_va_space, sight, start, end, MPSAFE_SINK_SIZE_STORM);
        return;
    }

    // Sparse entries of 4 KiB are nowhere used by UVM. A page that is missing under a map is not the client's doing.
    sight->place = MPSAFE_PLACE_EXTERNAL;
    if (sight->fault == MPSAFE_FAULT_RO && map->pt_range_vec.page_size >= UVM_PAGE_SIZE_64K)
        set_room(spot->gpu_va_space, sight, map->node.start, map->node.end, MPSAFE_SINK_SIZE_STORM);
}

void uvm_mpsafe_spot_enter(uvm_mpsafe_spot_t *spot, uvm_gpu_va_space_t *gpu_va_space, mpsafe_sight_t *sight)
{
    uvm_gpu_t *gpu = gpu_va_space->gpu;
    uvm_va_range_t *va_range;

    uvm_assert_rwsem_locked(&gpu_va_space->va_space->lock);

    spot->gpu_va_space = gpu_va_space;
    spot->external_range = NULL;
    sight->place = MPSAFE_PLACE_UNKNOWN;
    sight->room_start = 0;
    sight->room_end = 0;

    // With ATS, an entry of ours would turn a region of the CPU's page tables off; with confidential computing, nothing
    // of the kind was thought through.
    if (g_uvm_global.ats.enabled || mpsafe_conf_computing(gpu))
        return;
    if (!uvm_mmu_page_size_supported(&gpu_va_space->page_tables, UVM_PAGE_SIZE_64K))
        return;

    va_range = uvm_va_range_find(gpu_va_space->va_space, sight->va);
    if (!va_range) {
        find_wild_room(gpu_va_space, sight);
    }
    else if (va_range->type == UVM_VA_RANGE_TYPE_EXTERNAL) {
        spot->external_range = mpsafe_to_external(va_range);
        uvm_mutex_lock(&uvm_ext_gpu_range_tree(spot->external_range, gpu)->lock);
        find_external_room(spot, sight);
    }
    else {
        sight->place = va_range->type == UVM_VA_RANGE_TYPE_MANAGED ? MPSAFE_PLACE_MANAGED : MPSAFE_PLACE_CHANNEL;
    }
}

void uvm_mpsafe_spot_leave(uvm_mpsafe_spot_t *spot)
{
    if (spot->external_range)
        uvm_mutex_unlock(&uvm_ext_gpu_range_tree(spot->external_range, spot->gpu_va_space->gpu)->lock);
}

NV_STATUS uvm_mpsafe_sink_make(uvm_mpsafe_spot_t *spot, const mpsafe_sight_t *sight, const mpsafe_sink_t *sink)
{
    // Of a sink that was made, only the slot: what is still there of it is not to be made twice.
    NvU64 base = sink->made ? UVM_ALIGN_DOWN(sight->va, MPSAFE_SINK_SIZE) : sink->base;
    NvU64 size = sink->made ? MPSAFE_SINK_SIZE : sink->size;

    if (sight->place == MPSAFE_PLACE_WILD && private_sink_covers(spot->gpu_va_space, sight->va))
        return NV_OK;

    // The core knows a sink here, and nothing can be one any more.
    if (base < sight->room_start || base + size > sight->room_end)
        return NV_ERR_INVALID_STATE;

    switch (sight->place) {
        case MPSAFE_PLACE_WILD:
            return private_sink_create(spot->gpu_va_space, base, size);
        case MPSAFE_PLACE_HOLE:
            return hole_sink_create(spot, base, size);
        case MPSAFE_PLACE_EXTERNAL:
            return map_sink_create(spot, sight->va);
        default:
            return NV_ERR_NOT_SUPPORTED;
    }
}
