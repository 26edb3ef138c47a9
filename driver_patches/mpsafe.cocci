// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// The hooks in nvidia-uvm. Each rule is one hook, named as in daemon/mpsafe/driver/patching.py, which counts what came
// of it. Names that differ between driver versions are regular expressions, arities that differ are `...`.

virtual header

/// The hooks are declared where each hooked file sees them.
@declared depends on header@
@@

  #include "uvm_forward_decl.h"
+ #include "uvm_mpsafe.h"

/// Before the fatal event: an absorbed fault has none.
@replayable exists@
typedef NV_STATUS, uvm_fault_buffer_entry_t, uvm_gpu_va_space_t, uvm_va_space_t;
identifier entry;
local idexpression uvm_gpu_va_space_t *gpu_va_space;
@@

  cancel_fault_precise_va(..., uvm_fault_buffer_entry_t *entry, ...)
  {
    ...
    UVM_ASSERT(gpu_va_space);
+   if (uvm_mpsafe_replayable_fault(gpu_va_space, entry) == NV_OK)
+       return NV_OK;
    ...
  }

/// Before the channel is cleared, which an absorbed fault's is, too.
@non_replayable exists@
identifier once =~ "^service_fault(_once)?$", lookup =~ "^uvm_gpu_va_space_get(_by_parent_gpu)?$", entry;
local idexpression uvm_gpu_va_space_t *gpu_va_space;
local idexpression NV_STATUS status;
statement S;
@@

  once(..., uvm_fault_buffer_entry_t *entry, ...)
  {
    ... when any
    gpu_va_space = lookup(...);
    ... when any
+   uvm_mpsafe_non_replayable_fault(gpu_va_space, entry, status);
    if (status == NV_OK && !entry->is_fatal) S
    ... when any
  }

/// Where all faults that kill the channel come by.
@fatal exists@
identifier once =~ "^service_fault(_once)?$", lookup =~ "^uvm_gpu_va_space_get(_by_parent_gpu)?$", entry;
local idexpression uvm_gpu_va_space_t *gpu_va_space;
statement S;
@@

  once(..., uvm_fault_buffer_entry_t *entry, ...)
  {
    ... when any
    gpu_va_space = lookup(...);
    ... when any
+   uvm_mpsafe_fatal_fault(gpu_va_space, entry);
    if (entry->is_fatal) S
    ... when any
  }

/// Before the cancel that takes the whole group of channels.
@orphan exists@
identifier lookup =~ "fault_entry_to_va_space$";
local idexpression uvm_fault_buffer_entry_t *entry;
local idexpression NV_STATUS status;
statement S;
@@

  translate_instance_ptrs(...)
  {
    ... when any
    status = lookup(..., entry, ...);
    ... when any
    if (status == NV_ERR_PAGE_TABLE_NOT_AVAIL) {
+       uvm_mpsafe_orphan_fault(entry);
        ...
    } else S
    ... when any
  }

/// At the end: no failure follows, and nobody has registered anything yet.
@create exists@
local idexpression uvm_va_space_t *va_space;
@@

  uvm_va_space_create(...)
  {
    ... when any
    list_add_tail(&va_space->list_node, ...);
    ... when any
+   uvm_mpsafe_va_space_create(va_space);
    return NV_OK;
  }

/// After the bottom halves were flushed.
@destroy exists@
identifier va_space;
@@

  uvm_va_space_destroy(uvm_va_space_t *va_space)
  {
    ... when any
+   uvm_mpsafe_va_space_destroy(va_space);
    uvm_kvfree(va_space);
    ... when any
  }

/// Before the channels are stopped.
@hold_destroy exists@
identifier va_space;
@@

  uvm_va_space_destroy(uvm_va_space_t *va_space)
  {
    ...
+   uvm_mpsafe_hold(va_space);
    uvm_mutex_lock(&g_uvm_global.va_spaces.lock);
    ... when any
  }

@hold_shutdown exists@
identifier va_space;
@@

  uvm_va_space_mm_shutdown(uvm_va_space_t *va_space)
  {
    ...
+   uvm_mpsafe_hold(va_space);
    uvm_va_space_down_write(va_space);
    ... when any
  }

/// After no fault can look the GPU VA space up, before its page tree goes.
@remove exists@
identifier gpu_va_space;
@@

  remove_gpu_va_space(uvm_gpu_va_space_t *gpu_va_space, ...)
  {
    ... when any
    uvm_gpu_va_space_detach_all_user_channels(gpu_va_space, ...);
+   uvm_mpsafe_gpu_va_space_remove(gpu_va_space);
    ... when any
  }

@load exists@
@@

  uvm_init(...)
  {
    ... when any
+   uvm_mpsafe_init();
    return 0;
  }

@unload exists@
@@

  uvm_exit(...)
  {
    ...
+   uvm_mpsafe_exit();
    uvm_tools_exit();
    ... when any
  }

/// Both ways in which VA ranges begin. Where they are inserted is too late: a split inserts, and cannot fail.
@refuse exists@
identifier begin =~ "^uvm_va_range_(create_mmap|(alloc|initialize)_reclaim)$", va_space;
local idexpression NV_STATUS status;
@@

  begin(..., uvm_va_space_t *va_space, ...)
  {
    ...
+   if (uvm_mpsafe_refuses_range(va_space))
+       return NV_ERR_INVALID_STATE;
    status = uvm_hmm_va_block_reclaim(va_space, ...);
    ... when any
  }
