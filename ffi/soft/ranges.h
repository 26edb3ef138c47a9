/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges of addresses that do not overlap, in order. No lock: see space.c. */
#ifndef SOFT_RANGES_H
#define SOFT_RANGES_H

#include <stdbool.h>
#include <stdint.h>

#include "driver.h"

struct allocation;

enum range_kind {
    RANGE_RESERVED, /* addresses */
    RANGE_MAPPED,   /* by cuMemMap */
    RANGE_PLAIN,    /* by cuMemAlloc; belongs to a context */
    RANGE_HOST,     /* by cuMemHostAlloc; every device may access it */
};

struct range {
    uint64_t address;
    uint64_t bytes;
    enum range_kind kind;
    struct allocation *allocation;           /* mapped, plain */
    struct CUctx_st *context;                /* plain */
    unsigned char access[SOFT_DEVICES_MAX]; /* CU_MEM_ACCESS_FLAGS_PROT_*, by device */
};

struct ranges {
    struct range *items;
    size_t count;
    size_t room;
};

/* The first range that ends behind `address`: the one that holds it, or the next one, or count. */
size_t ranges_after(const struct ranges *ranges, uint64_t address);

/* The range that holds all of the `bytes` from `address` on; NULL: none does. */
struct range *ranges_holding(const struct ranges *ranges, uint64_t address, uint64_t bytes);

/* Whether any range has a byte in common with these. */
bool ranges_touch(const struct ranges *ranges, uint64_t address, uint64_t bytes);

/* Whether the bytes are one or more whole ranges without a gap; the first is *first, behind the last is *end. */
bool ranges_cover(const struct ranges *ranges, uint64_t address, uint64_t bytes, size_t *first, size_t *end);

/* OUT_OF_MEMORY: no room for one more. */
CUresult ranges_insert(struct ranges *ranges, struct range range);
void ranges_remove(struct ranges *ranges, size_t index);

#endif
