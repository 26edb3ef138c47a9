/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Physical device memory: a memfd, its size sealed, with one page behind the memory that says what
 * it is. The kernel frees it when the last descriptor and mapping of any process is gone, which is
 * how it outlives its creator; the software kernel charges it to the device while some process
 * holds it (wire.h), that is, while an allocation of that memory exists somewhere.
 */
#ifndef SOFT_ALLOCATION_H
#define SOFT_ALLOCATION_H

#include <stdbool.h>
#include <stdint.h>

#include "driver.h"

#define SOFT_GRANULARITY (2ull << 20)

struct allocation {
    int fd;
    CUdevice device;
    uint64_t bytes;
    bool exportable;
    uint64_t id;                         /* the memfd's inode: its name for the software kernel */
    CUmemGenericAllocationHandle handle; /* never 0, never used again */
    unsigned int handles;                /* how often the handle has to be released */
    unsigned int mappings;
    struct allocation *next;
};

/* New memory with one handle. OUT_OF_MEMORY: the device has not that much left. */
CUresult allocation_create(CUdevice device, uint64_t bytes, bool exportable, struct allocation **ret);

/* The memory behind a descriptor that some process exported; the descriptor stays the caller's. */
CUresult allocation_import(int fd, struct allocation **ret);

/* The allocation of a handle, with one mapping more, so that it stays; NULL: no such handle. */
struct allocation *allocation_pin(CUmemGenericAllocationHandle handle);
void allocation_unpin(struct allocation *allocation);

/* One handle more, one handle less: INVALID_VALUE if it has none. */
void allocation_retain(struct allocation *allocation);
CUresult allocation_release(CUmemGenericAllocationHandle handle);

#endif
