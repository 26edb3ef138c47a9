/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
//
// The hooks: all that NVIDIA's files know of mpsafe. mpsafe.cocci inserts the calls; ARCHITECTURE.md has the lock
// context of each. No hook is on a path that a healthy client takes while it computes.
//
#ifndef __UVM_MPSAFE_H__
#define __UVM_MPSAFE_H__

#include "uvm_forward_decl.h"
#include "uvm_linux.h"
#include "nvstatus.h"

// uvm_init, uvm_exit: the device comes and goes. Without it UVM works as ever, so its failure is only told.
void uvm_mpsafe_init(void);
void uvm_mpsafe_exit(void);

// uvm_va_space_create, uvm_va_space_destroy (after the bottom halves were flushed): the client comes and goes.
void uvm_mpsafe_va_space_create(uvm_va_space_t *va_space);
void uvm_mpsafe_va_space_destroy(uvm_va_space_t *va_space);

// remove_gpu_va_space, after its channels were detached (VA space lock: write): the sinks go before the page tree.
void uvm_mpsafe_gpu_va_space_remove(uvm_gpu_va_space_t *gpu_va_space);

// uvm_va_space_mm_shutdown and uvm_va_space_destroy, at their heads, where no lock is held that a fault needs: before
// anything of a doomed client's is taken away that its warps still reach. Waits until it was released or is late.
void uvm_mpsafe_hold(uvm_va_space_t *va_space);

// cancel_fault_precise_va (ISR lock, VA space lock: read): NV_OK if a sink takes the access, and there is nothing to
// cancel.
NV_STATUS uvm_mpsafe_replayable_fault(uvm_gpu_va_space_t *gpu_va_space, uvm_fault_buffer_entry_t *entry);

// service_fault_once, once it is known what became of the fault (ISR lock, VA space lock: read): takes back `is_fatal`
// if a sink takes the access, so that the stock code clears the channel instead of killing it.
void uvm_mpsafe_non_replayable_fault(uvm_gpu_va_space_t *gpu_va_space,
                                     uvm_fault_buffer_entry_t *entry,
                                     NV_STATUS status);

// service_fault_once, once no service is to be had any more: a fault of a kind that no mapping helps is told.
void uvm_mpsafe_fatal_fault(uvm_gpu_va_space_t *gpu_va_space, uvm_fault_buffer_entry_t *entry);

// translate_instance_ptrs: the subcontext of this fault is gone.
void uvm_mpsafe_orphan_fault(uvm_fault_buffer_entry_t *entry);

// Where VA ranges begin to be made (VA space lock: write): whether this is a doomed client, whose new ranges might
// overlap a sink. Not where they are inserted: a split inserts too, and cannot fail.
bool uvm_mpsafe_refuses_range(uvm_va_space_t *va_space);

#endif // __UVM_MPSAFE_H__
