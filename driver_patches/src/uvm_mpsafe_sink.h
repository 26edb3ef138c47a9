/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
//
// Sinks: sparse page table entries, which take an access without a fault. A read gives 0 and a write is dropped; there
// is no page behind them that anybody could own, leak or read another client's data from.
//
#ifndef __UVM_MPSAFE_SINK_H__
#define __UVM_MPSAFE_SINK_H__

#include "mpsafe_compat.h"
#include "mpsafe_core.h"
#include "uvm_forward_decl.h"

// Where an address lies. In an external range its tree of maps for this GPU is locked until uvm_mpsafe_spot_leave().
typedef struct
{
    uvm_gpu_va_space_t *gpu_va_space;
    mpsafe_external_range_t *external_range; // of MPSAFE_PLACE_HOLE and MPSAFE_PLACE_EXTERNAL, else NULL
} uvm_mpsafe_spot_t;

// Fills in `place` and `room_start`, `room_end` of a sight that has `va` and `fault` already (VA space lock: read).
void uvm_mpsafe_spot_enter(uvm_mpsafe_spot_t *spot, uvm_gpu_va_space_t *gpu_va_space, mpsafe_sight_t *sight);
void uvm_mpsafe_spot_leave(uvm_mpsafe_spot_t *spot);

// Between mpsafe_core_fault_begin() and mpsafe_core_fault_end(): when it returns NV_OK the access no longer faults. A
// sink that the core knows as made may be gone with the range that it was in; then it is made again.
NV_STATUS uvm_mpsafe_sink_make(uvm_mpsafe_spot_t *spot, const mpsafe_sight_t *sight, const mpsafe_sink_t *sink);

// All sinks of this GPU VA space that are in no range (VA space lock: write). UVM frees the others with their ranges.
void uvm_mpsafe_sinks_destroy(uvm_gpu_va_space_t *gpu_va_space);

#endif // __UVM_MPSAFE_SINK_H__
