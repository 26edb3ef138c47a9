/* SPDX-License-Identifier: Apache-2.0 */
#include "warp.h"

#include <string.h>

#include "rm.h"
#include "space.h"

#define SINK_BYTES (64u << 10) /* what one absorbed fault covers, and hence one fault */
#define CHUNK_BYTES (64u << 10)

static const char *const details[] = {
    [SPACE_NOTHING] = "pde",
    [SPACE_NO_MEMORY] = "pte",
    [SPACE_READ_ONLY] = "ro",
};

/* Tells of a bad access and shortens it to what one sink takes. */
static CUresult warp_fault(struct CUctx_st *context, enum space_state state, uint64_t address, size_t *bytes,
                           const char *access)
{
    size_t rest = SINK_BYTES - address % SINK_BYTES;
    if (*bytes > rest)
        *bytes = rest;
    return rm_fault(context->channel, "mmu", details[state], address, access);
}

CUresult warp_read(struct CUctx_st *context, void *to, uint64_t from, size_t bytes)
{
    for (char *at = to; bytes;) {
        size_t done;
        enum space_state state = space_load(context->device, at, from, bytes, &done);
        if (state != SPACE_GOOD) {
            CUresult result = warp_fault(context, state, from, &done, "read");
            if (result)
                return result;
            memset(at, 0, done);
        }
        at += done;
        from += done;
        bytes -= done;
    }
    return CUDA_SUCCESS;
}

CUresult warp_write(struct CUctx_st *context, uint64_t to, const void *from, size_t bytes)
{
    for (const char *at = from; bytes;) {
        size_t done;
        enum space_state state = space_store(context->device, to, at, bytes, &done);
        if (state != SPACE_GOOD) {
            CUresult result = warp_fault(context, state, to, &done, "write");
            if (result)
                return result;
        }
        at += done;
        to += done;
        bytes -= done;
    }
    return CUDA_SUCCESS;
}

CUresult warp_copy(struct CUctx_st *context, uint64_t to, uint64_t from, size_t bytes)
{
    char chunk[CHUNK_BYTES];
    CUresult result = CUDA_SUCCESS;
    while (!result && bytes) {
        size_t part = bytes < sizeof(chunk) ? bytes : sizeof(chunk);
        result = warp_read(context, chunk, from, part);
        if (!result)
            result = warp_write(context, to, chunk, part);
        to += part;
        from += part;
        bytes -= part;
    }
    return result;
}

CUresult warp_fill(struct CUctx_st *context, uint64_t to, uint32_t value, size_t element_bytes, size_t count)
{
    char chunk[CHUNK_BYTES];
    CUresult result = CUDA_SUCCESS;
    size_t bytes = count * element_bytes;
    size_t part = bytes < sizeof(chunk) ? bytes : sizeof(chunk);
    for (size_t i = 0; i < part; i += element_bytes)
        memcpy(chunk + i, &value, element_bytes);
    while (!result && bytes) {
        if (part > bytes)
            part = bytes;
        result = warp_write(context, to, chunk, part);
        to += part;
        bytes -= part;
    }
    return result;
}

CUresult warp_exception(struct CUctx_st *context, const char *detail, uint64_t address)
{
    return rm_fault(context->channel, "sm", detail, address, "none");
}
