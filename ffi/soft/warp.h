/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a running kernel or copy does: accesses to device memory that are checked as the MMU checks
 * them, and exceptions. Each fault goes to the software kernel, whose verdict decides: absorbed (a
 * read gives zeros, a write is lost, the work goes on) or fatal (the result, and the work ends).
 */
#ifndef SOFT_WARP_H
#define SOFT_WARP_H

#include <stdint.h>

#include "context.h"
#include "driver.h"

CUresult warp_read(struct CUctx_st *context, void *to, uint64_t from, size_t bytes);
CUresult warp_write(struct CUctx_st *context, uint64_t to, const void *from, size_t bytes);
CUresult warp_copy(struct CUctx_st *context, uint64_t to, uint64_t from, size_t bytes);
/* `count` elements of 1 or 4 bytes, the low ones of `value`. */
CUresult warp_fill(struct CUctx_st *context, uint64_t to, uint32_t value, size_t element_bytes, size_t count);

/* An exception of the SM: illegal_instruction, misaligned or trap. */
CUresult warp_exception(struct CUctx_st *context, const char *detail, uint64_t address);

#endif
