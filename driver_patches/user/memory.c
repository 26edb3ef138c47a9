/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#include <stdlib.h>

#include "memory.h"
#include "mpsafe_os.h"

static long left = -1;
static long live;

void mpsafe_memory_fail_after(long allocations)
{
    __atomic_store_n(&left, allocations, __ATOMIC_RELAXED);
}

long mpsafe_memory_live(void)
{
    return __atomic_load_n(&live, __ATOMIC_RELAXED);
}

void *mpsafe_alloc(size_t size)
{
    long allowed = __atomic_load_n(&left, __ATOMIC_RELAXED);
    void *memory;

    if (allowed == 0)
        return NULL;
    if (allowed > 0)
        __atomic_store_n(&left, allowed - 1, __ATOMIC_RELAXED);
    memory = calloc(1, size);
    if (memory)
        __atomic_add_fetch(&live, 1, __ATOMIC_RELAXED);
    return memory;
}

void mpsafe_free(void *memory)
{
    if (memory)
        __atomic_sub_fetch(&live, 1, __ATOMIC_RELAXED);
    free(memory);
}
