/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>

#include "allocation.h"
#include "context.h"
#include "queue.h"
#include "rm.h"
#include "space.h"

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes)
{
    struct CUctx_st *context;
    struct rm_device facts;
    CUresult result = context_current(&context);
    if (result)
        return result;
    if (!free_bytes || !total_bytes)
        return CUDA_ERROR_INVALID_VALUE;
    result = rm_device(context->device, &facts);
    if (!result) {
        *free_bytes = facts.total_bytes - facts.used_bytes;
        *total_bytes = facts.total_bytes;
    }
    return result;
}

/* The same as create, reserve, map and set access, in whole granules. */
static CUresult plain_create(struct CUctx_st *context, uint64_t bytes, uint64_t *ret)
{
    struct allocation *allocation;
    CUresult result = allocation_create(context->device, bytes, false, &allocation);
    if (result)
        return result;
    CUmemGenericAllocationHandle handle = allocation->handle;
    allocation_pin(handle);
    allocation_release(handle);
    result = space_reserve(bytes, 0, 0, ret);
    if (result)
        goto unpin;
    result = space_map(*ret, bytes, allocation, context);
    if (result)
        goto free;
    return space_set_access(*ret, bytes, context->device, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);

free:
    space_free(*ret, bytes);
unpin:
    allocation_unpin(allocation);
    return result;
}

CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes)
{
    struct CUctx_st *context;
    uint64_t at;
    CUresult result = context_current(&context);
    if (result)
        return result;
    if (!address || !bytes)
        return CUDA_ERROR_INVALID_VALUE;
    if (bytes > SIZE_MAX / 2)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = plain_create(context, (bytes + SOFT_GRANULARITY - 1) & ~(SOFT_GRANULARITY - 1), &at);
    if (!result)
        *address = at;
    return result;
}

/* Waits for the work of the context first, as the real one does. */
CUresult cuMemFree_v2(CUdeviceptr address)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    if (result || !address)
        return result;
    result = queues_wait(context);
    return result ? result : space_unmap_plain(address);
}

CUresult cuMemHostAlloc(void **host, size_t bytes, unsigned int flags)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    if (result)
        return result;
    if (!host || !bytes || flags & ~7u)
        return CUDA_ERROR_INVALID_VALUE;
    return space_host_map(bytes, host);
}

CUresult cuMemFreeHost(void *host)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    if (result)
        return result;
    result = queues_wait(context);
    return result ? result : space_host_unmap(host);
}

CUresult cuPointerGetAttribute(void *value, int attribute, CUdeviceptr address)
{
    struct range found;
    CUresult result = driver_ready();
    if (result)
        return result;
    if (!value || !space_find(address, 1, &found))
        return CUDA_ERROR_INVALID_VALUE;
    bool host = found.kind == RANGE_HOST;
    if (attribute == CU_POINTER_ATTRIBUTE_MEMORY_TYPE)
        *(unsigned int *)value = host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
    else if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL && !host)
        *(int *)value = found.allocation->device;
    else
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}
