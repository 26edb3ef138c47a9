/* SPDX-License-Identifier: Apache-2.0 */
/* The built-in kernels: what the entries of kernels.ptx do, and one that PTX cannot express. */
#ifndef SOFT_KERNELS_H
#define SOFT_KERNELS_H

#include <stdint.h>

#include "context.h"
#include "driver.h"

#define KERNEL_ARGUMENTS_MAX 8

union argument {
    uint64_t u64;
    uint32_t u32;
    float f32;
};

/* One launch: threads are counted along x. */
struct launch {
    struct CUctx_st *context;
    uint64_t threads;
    union argument arguments[KERNEL_ARGUMENTS_MAX];
};

struct kernel {
    const char *name;
    const char *parameters; /* a letter each: Q .u64, I .u32, F .f32 */
    void (*run)(const struct launch *launch);
};

/* NULL: there is none of that name. */
const struct kernel *kernel_find(const char *name);

#endif
