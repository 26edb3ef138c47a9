/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>
#include <stdlib.h>

#include "context.h"
#include "queue.h"
#include "register.h"
#include "space.h"
#include "stream.h"
#include "warp.h"

/* A copy or a fill as a piece of work. An end in host memory is an address like any other. */
struct transfer {
    struct work work;
    uint64_t to;
    uint64_t from;
    size_t bytes;
    uint32_t value;
    size_t element_bytes;
};

static void to_device_run(struct CUctx_st *context, struct work *work)
{
    const struct transfer *transfer = (const struct transfer *)work;
    warp_write(context, transfer->to, (const void *)(uintptr_t)transfer->from, transfer->bytes);
}

static void to_host_run(struct CUctx_st *context, struct work *work)
{
    const struct transfer *transfer = (const struct transfer *)work;
    warp_read(context, (void *)(uintptr_t)transfer->to, transfer->from, transfer->bytes);
}

static void on_device_run(struct CUctx_st *context, struct work *work)
{
    const struct transfer *transfer = (const struct transfer *)work;
    warp_copy(context, transfer->to, transfer->from, transfer->bytes);
}

static void fill_run(struct CUctx_st *context, struct work *work)
{
    const struct transfer *transfer = (const struct transfer *)work;
    warp_fill(context, transfer->to, transfer->value, transfer->element_bytes,
              transfer->bytes / transfer->element_bytes);
}

/* Puts it into the stream. It has ended on return if `wait` is set. */
static CUresult transfer_put(struct transfer transfer, CUstream stream, bool wait)
{
    struct CUctx_st *context;
    struct queue *queue;
    CUresult result = stream_queue(stream, &context, &queue);
    if (result || !transfer.bytes)
        return result;
    struct transfer *work = malloc(sizeof(*work));
    if (!work)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *work = transfer;
    result = queue_put(queue, &work->work);
    return result || !wait ? result : queue_wait(queue);
}

static struct transfer to_device(CUdeviceptr to, const void *from, size_t bytes)
{
    return (struct transfer){.work = {.run = to_device_run}, .to = to, .from = (uintptr_t)from, .bytes = bytes};
}

static struct transfer to_host(void *to, CUdeviceptr from, size_t bytes)
{
    return (struct transfer){.work = {.run = to_host_run}, .to = (uintptr_t)to, .from = from, .bytes = bytes};
}

static struct transfer on_device(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    return (struct transfer){.work = {.run = on_device_run}, .to = to, .from = from, .bytes = bytes};
}

static struct transfer fill(CUdeviceptr to, uint32_t value, size_t element_bytes, size_t count)
{
    return (struct transfer){
        .work = {.run = fill_run},
        .to = to,
        .bytes = count > SIZE_MAX / element_bytes ? SIZE_MAX : count * element_bytes,
        .value = value,
        .element_bytes = element_bytes,
    };
}

/* A synchronous call wants memory mapped under each device address; the asynchronous ones find out when they run. */
static CUresult transfer_now(struct transfer transfer, bool valid)
{
    CUresult result = driver_ready();
    if (result)
        return result;
    return valid ? transfer_put(transfer, NULL, true) : CUDA_ERROR_INVALID_VALUE;
}

/* A copy with pageable host memory has ended on return: nobody promised that the memory stays. */
static bool is_pageable(const void *host, size_t bytes)
{
    struct range found;
    bool pinned = space_find((uintptr_t)host, bytes, &found) && found.kind == RANGE_HOST;
    return !pinned && !registered(host, bytes);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes)
{
    return transfer_now(to_device(to, from, bytes), from && space_mapped(to, bytes));
}

CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes)
{
    return transfer_now(to_host(to, from, bytes), to && space_mapped(from, bytes));
}

CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    return transfer_now(on_device(to, from, bytes), space_mapped(to, bytes) && space_mapped(from, bytes));
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
    return transfer_put(to_device(to, from, bytes), stream, is_pageable(from, bytes));
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    return transfer_put(to_host(to, from, bytes), stream, is_pageable(to, bytes));
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    return transfer_put(on_device(to, from, bytes), stream, false);
}

CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count)
{
    struct transfer transfer = fill(to, value, 1, count);
    return transfer_now(transfer, space_mapped(to, transfer.bytes));
}

CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned int value, size_t count)
{
    struct transfer transfer = fill(to, value, 4, count);
    return transfer_now(transfer, !(to % 4) && space_mapped(to, transfer.bytes));
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream)
{
    return transfer_put(fill(to, value, 1, count), stream, false);
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned int value, size_t count, CUstream stream)
{
    return to % 4 ? CUDA_ERROR_INVALID_VALUE : transfer_put(fill(to, value, 4, count), stream, false);
}
