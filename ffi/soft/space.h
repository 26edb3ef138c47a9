/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The address space that the devices of this process share: which addresses are reserved, what is
 * mapped where, and who may access it. A device address is an address of the process, too, so that
 * host code can read device memory here, which it cannot on a GPU.
 */
#ifndef SOFT_SPACE_H
#define SOFT_SPACE_H

#include "allocation.h"
#include "driver.h"
#include "ranges.h"

enum space_state {
    SPACE_GOOD,
    SPACE_NOTHING,   /* not even reserved */
    SPACE_NO_MEMORY, /* reserved, but not mapped, or mapped without access for this device */
    SPACE_READ_ONLY, /* a write to what may only be read */
};

/* Alignment 0: the granularity. The hint is taken if it is aligned and free. */
CUresult space_reserve(uint64_t bytes, uint64_t alignment, uint64_t hint, uint64_t *ret);
/* The whole reservation with nothing mapped in it; otherwise INVALID_VALUE. */
CUresult space_free(uint64_t address, uint64_t bytes);

/* Takes over one mapping of the allocation (allocation_pin), in success only. No access yet. */
CUresult space_map(uint64_t address, uint64_t bytes, struct allocation *allocation, struct CUctx_st *context);
/* One or more whole mappings by cuMemMap; otherwise INVALID_VALUE. */
CUresult space_unmap(uint64_t address, uint64_t bytes);
/* Undoes space_map with a context: the mapping that starts at `address`. */
CUresult space_unmap_plain(uint64_t address);
void space_unmap_context(const struct CUctx_st *context);

CUresult space_set_access(uint64_t address, uint64_t bytes, CUdevice device, unsigned char access);

/* Page-locked host memory. */
CUresult space_host_map(uint64_t bytes, void **ret);
CUresult space_host_unmap(void *host);

/* A copy of the mapping that holds these bytes; false: none does. */
bool space_find(uint64_t address, uint64_t bytes, struct range *ret);
/* Whether some memory is mapped under each of these bytes. */
bool space_mapped(uint64_t address, uint64_t bytes);

/*
 * One access by a device, as far as one state reaches: *done bytes were moved (SPACE_GOOD), or are
 * all as bad. At most `bytes`, at least one.
 */
enum space_state space_load(CUdevice device, void *to, uint64_t from, size_t bytes, size_t *done);
enum space_state space_store(CUdevice device, uint64_t to, const void *from, size_t bytes, size_t *done);

#endif
