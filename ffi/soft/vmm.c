/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE 1
#include <fcntl.h>
#include <stdint.h>

#include "allocation.h"
#include "device.h"
#include "space.h"

static CUresult location_check(const CUmemLocation *location)
{
    if (location->type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_INVALID_VALUE;
    return device_exists(location->id) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

static CUresult properties_check(const CUmemAllocationProp *properties)
{
    if (properties->type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    if (properties->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_NOT_SUPPORTED;
    return location_check(&properties->location);
}

CUresult cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *properties, int option)
{
    CUresult result = driver_ready();
    if (result)
        return result;
    if (!bytes || !properties || option < CU_MEM_ALLOC_GRANULARITY_MINIMUM ||
        option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)
        return CUDA_ERROR_INVALID_VALUE;
    result = properties_check(properties);
    if (!result)
        *bytes = SOFT_GRANULARITY;
    return result;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *properties,
                     unsigned long long flags)
{
    struct allocation *allocation;
    CUresult result = driver_ready();
    if (result)
        return result;
    if (!handle || !properties || flags || !bytes || bytes % SOFT_GRANULARITY)
        return CUDA_ERROR_INVALID_VALUE;
    result = properties_check(properties);
    if (result)
        return result;
    if (bytes > SIZE_MAX / 4)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = allocation_create(properties->location.id, bytes, properties->requestedHandleTypes, &allocation);
    if (!result)
        *handle = allocation->handle;
    return result;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    CUresult result = driver_ready();
    return result ? result : allocation_release(handle);
}

CUresult cuMemAddressReserve(CUdeviceptr *address, size_t bytes, size_t alignment, CUdeviceptr hint,
                             unsigned long long flags)
{
    uint64_t at;
    CUresult result = driver_ready();
    if (result)
        return result;
    if (!address || flags)
        return CUDA_ERROR_INVALID_VALUE;
    result = space_reserve(bytes, alignment, hint, &at);
    if (!result)
        *address = at;
    return result;
}

CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes)
{
    CUresult result = driver_ready();
    return result ? result : space_free(address, bytes);
}

CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags)
{
    CUresult result = driver_ready();
    if (result)
        return result;
    struct allocation *allocation = offset || flags ? NULL : allocation_pin(handle);
    if (!allocation)
        return CUDA_ERROR_INVALID_VALUE;
    result = space_map(address, bytes, allocation, NULL);
    if (result)
        allocation_unpin(allocation);
    return result;
}

CUresult cuMemUnmap(CUdeviceptr address, size_t bytes)
{
    CUresult result = driver_ready();
    return result ? result : space_unmap(address, bytes);
}

static CUresult access_check(const CUmemAccessDesc *access)
{
    switch (access->flags) {
    case CU_MEM_ACCESS_FLAGS_PROT_NONE:
    case CU_MEM_ACCESS_FLAGS_PROT_READ:
    case CU_MEM_ACCESS_FLAGS_PROT_READWRITE:
        return location_check(&access->location);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc *access, size_t count)
{
    CUresult result = driver_ready();
    if (result)
        return result;
    if (!access || !count)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; !result && i < count; i++)
        result = access_check(&access[i]);
    for (size_t i = 0; !result && i < count; i++)
        result = space_set_access(address, bytes, access[i].location.id, (unsigned char)access[i].flags);
    return result;
}

CUresult cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr address)
{
    struct range found;
    CUresult result = driver_ready();
    if (result)
        return result;
    if (!flags || !location)
        return CUDA_ERROR_INVALID_VALUE;
    result = location_check(location);
    if (result)
        return result;
    if (!space_find(address, 1, &found))
        return CUDA_ERROR_INVALID_VALUE;
    *flags = found.access[location->id];
    return CUDA_SUCCESS;
}

CUresult cuMemExportToShareableHandle(void *shareable, CUmemGenericAllocationHandle handle, int type,
                                      unsigned long long flags)
{
    CUresult result = driver_ready();
    if (result)
        return result;
    if (!shareable || flags || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_INVALID_VALUE;
    struct allocation *allocation = allocation_pin(handle);
    if (!allocation)
        return CUDA_ERROR_INVALID_VALUE;
    int fd = allocation->exportable ? fcntl(allocation->fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (fd >= 0)
        *(int *)shareable = fd;
    else
        result = allocation->exportable ? CUDA_ERROR_OPERATING_SYSTEM : CUDA_ERROR_INVALID_VALUE;
    allocation_unpin(allocation);
    return result;
}

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *shareable, int type)
{
    struct allocation *allocation;
    CUresult result = driver_ready();
    if (result)
        return result;
    intptr_t fd = (intptr_t)shareable;
    if (!handle || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || fd < 0 || fd > INT32_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    result = allocation_import((int)fd, &allocation);
    if (!result)
        *handle = allocation->handle;
    return result;
}

CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *properties, CUmemGenericAllocationHandle handle)
{
    CUresult result = driver_ready();
    if (result)
        return result;
    struct allocation *allocation = properties ? allocation_pin(handle) : NULL;
    if (!allocation)
        return CUDA_ERROR_INVALID_VALUE;
    *properties = (CUmemAllocationProp){
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .requestedHandleTypes =
            allocation->exportable ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR : CU_MEM_HANDLE_TYPE_NONE,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = allocation->device},
    };
    allocation_unpin(allocation);
    return CUDA_SUCCESS;
}

/* Memory by cuMemAlloc has no handle to give out. */
CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *address)
{
    struct range found;
    CUresult result = driver_ready();
    if (result)
        return result;
    if (!handle || !space_find((uintptr_t)address, 1, &found) || found.kind != RANGE_MAPPED)
        return CUDA_ERROR_INVALID_VALUE;
    allocation_retain(found.allocation);
    *handle = found.allocation->handle;
    return CUDA_SUCCESS;
}
