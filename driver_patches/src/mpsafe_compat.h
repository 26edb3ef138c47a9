/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
//
// What differs between driver versions. mpsafe_probed.h is written when a tree is patched, from what its headers
// declare: there is no version number here.
//
#ifndef __MPSAFE_COMPAT_H__
#define __MPSAFE_COMPAT_H__

#include "mpsafe_probed.h"
#include "uvm_conf_computing.h"
#include "uvm_global.h"
#include "uvm_gpu.h"
#include "uvm_va_range.h"

// Since 565, external ranges have a type of their own.
#if MPSAFE_HAS_EXTERNAL_RANGE
typedef uvm_va_range_external_t mpsafe_external_range_t;

static inline mpsafe_external_range_t *mpsafe_to_external(uvm_va_range_t *va_range)
{
    return uvm_va_range_to_external(va_range);
}

static inline uvm_va_range_t *mpsafe_to_va_range(mpsafe_external_range_t *range)
{
    return &range->va_range;
}

static inline uvm_processor_mask_t *mpsafe_mapped_gpus(mpsafe_external_range_t *range)
{
    return &range->mapped_gpus;
}
#else
typedef uvm_va_range_t mpsafe_external_range_t;

static inline mpsafe_external_range_t *mpsafe_to_external(uvm_va_range_t *va_range)
{
    return va_range;
}

static inline uvm_va_range_t *mpsafe_to_va_range(mpsafe_external_range_t *range)
{
    return range;
}

static inline uvm_processor_mask_t *mpsafe_mapped_gpus(mpsafe_external_range_t *range)
{
    return &range->external.mapped_gpus;
}
#endif

// Since 550, a GPU has an UUID beside its parent's.
static inline const NvU8 *mpsafe_gpu_uuid(const uvm_gpu_t *gpu)
{
#if MPSAFE_HAS_GPU_UUID
    return gpu->uuid.uuid;
#else
    return gpu->parent->uuid.uuid;
#endif
}

static inline bool mpsafe_conf_computing(const uvm_gpu_t *gpu)
{
#if MPSAFE_HAS_CONF_COMPUTING_OF_GPU
    return uvm_conf_computing_mode_enabled(gpu);
#else
    return g_uvm_global.conf_computing_enabled;
#endif
}

#endif // __MPSAFE_COMPAT_H__
