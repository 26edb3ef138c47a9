/* SPDX-License-Identifier: Apache-2.0 */
#include <stdbool.h>
#include <string.h>

#include "driver.h"

struct symbol {
    const char *name;
    void (*function)(void);
};

/* By the names that cuda.h gives: cuMemAlloc is the newest cuMemAlloc that there is. */
static const struct symbol symbols[] = {
    {"cuInit", (void (*)(void))cuInit},
    {"cuDriverGetVersion", (void (*)(void))cuDriverGetVersion},
    {"cuGetErrorName", (void (*)(void))cuGetErrorName},
    {"cuGetErrorString", (void (*)(void))cuGetErrorString},
    {"cuGetProcAddress", (void (*)(void))cuGetProcAddress_v2},
    {"cuDeviceGetCount", (void (*)(void))cuDeviceGetCount},
    {"cuDeviceGet", (void (*)(void))cuDeviceGet},
    {"cuDeviceGetName", (void (*)(void))cuDeviceGetName},
    {"cuDeviceGetUuid", (void (*)(void))cuDeviceGetUuid_v2},
    {"cuDeviceGetAttribute", (void (*)(void))cuDeviceGetAttribute},
    {"cuDeviceTotalMem", (void (*)(void))cuDeviceTotalMem_v2},
    {"cuDeviceGetPCIBusId", (void (*)(void))cuDeviceGetPCIBusId},
    {"cuDevicePrimaryCtxRetain", (void (*)(void))cuDevicePrimaryCtxRetain},
    {"cuDevicePrimaryCtxRelease", (void (*)(void))cuDevicePrimaryCtxRelease_v2},
    {"cuDevicePrimaryCtxGetState", (void (*)(void))cuDevicePrimaryCtxGetState},
    {"cuCtxCreate", (void (*)(void))cuCtxCreate_v2},
    {"cuCtxDestroy", (void (*)(void))cuCtxDestroy_v2},
    {"cuCtxSetCurrent", (void (*)(void))cuCtxSetCurrent},
    {"cuCtxGetCurrent", (void (*)(void))cuCtxGetCurrent},
    {"cuCtxSynchronize", (void (*)(void))cuCtxSynchronize},
    {"cuCtxGetDevice", (void (*)(void))cuCtxGetDevice},
    {"cuStreamCreate", (void (*)(void))cuStreamCreate},
    {"cuStreamDestroy", (void (*)(void))cuStreamDestroy_v2},
    {"cuStreamSynchronize", (void (*)(void))cuStreamSynchronize},
    {"cuStreamQuery", (void (*)(void))cuStreamQuery},
    {"cuStreamWaitEvent", (void (*)(void))cuStreamWaitEvent},
    {"cuEventCreate", (void (*)(void))cuEventCreate},
    {"cuEventRecord", (void (*)(void))cuEventRecord},
    {"cuEventSynchronize", (void (*)(void))cuEventSynchronize},
    {"cuEventQuery", (void (*)(void))cuEventQuery},
    {"cuEventElapsedTime", (void (*)(void))cuEventElapsedTime},
    {"cuEventDestroy", (void (*)(void))cuEventDestroy_v2},
    {"cuMemGetInfo", (void (*)(void))cuMemGetInfo_v2},
    {"cuMemAlloc", (void (*)(void))cuMemAlloc_v2},
    {"cuMemFree", (void (*)(void))cuMemFree_v2},
    {"cuMemHostAlloc", (void (*)(void))cuMemHostAlloc},
    {"cuMemFreeHost", (void (*)(void))cuMemFreeHost},
    {"cuMemHostRegister", (void (*)(void))cuMemHostRegister_v2},
    {"cuMemHostUnregister", (void (*)(void))cuMemHostUnregister},
    {"cuPointerGetAttribute", (void (*)(void))cuPointerGetAttribute},
    {"cuMemcpyHtoD", (void (*)(void))cuMemcpyHtoD_v2},
    {"cuMemcpyDtoH", (void (*)(void))cuMemcpyDtoH_v2},
    {"cuMemcpyDtoD", (void (*)(void))cuMemcpyDtoD_v2},
    {"cuMemcpyHtoDAsync", (void (*)(void))cuMemcpyHtoDAsync_v2},
    {"cuMemcpyDtoHAsync", (void (*)(void))cuMemcpyDtoHAsync_v2},
    {"cuMemcpyDtoDAsync", (void (*)(void))cuMemcpyDtoDAsync_v2},
    {"cuMemsetD8", (void (*)(void))cuMemsetD8_v2},
    {"cuMemsetD32", (void (*)(void))cuMemsetD32_v2},
    {"cuMemsetD8Async", (void (*)(void))cuMemsetD8Async},
    {"cuMemsetD32Async", (void (*)(void))cuMemsetD32Async},
    {"cuMemGetAllocationGranularity", (void (*)(void))cuMemGetAllocationGranularity},
    {"cuMemCreate", (void (*)(void))cuMemCreate},
    {"cuMemRelease", (void (*)(void))cuMemRelease},
    {"cuMemAddressReserve", (void (*)(void))cuMemAddressReserve},
    {"cuMemAddressFree", (void (*)(void))cuMemAddressFree},
    {"cuMemMap", (void (*)(void))cuMemMap},
    {"cuMemUnmap", (void (*)(void))cuMemUnmap},
    {"cuMemSetAccess", (void (*)(void))cuMemSetAccess},
    {"cuMemGetAccess", (void (*)(void))cuMemGetAccess},
    {"cuMemExportToShareableHandle", (void (*)(void))cuMemExportToShareableHandle},
    {"cuMemImportFromShareableHandle", (void (*)(void))cuMemImportFromShareableHandle},
    {"cuMemGetAllocationPropertiesFromHandle", (void (*)(void))cuMemGetAllocationPropertiesFromHandle},
    {"cuMemRetainAllocationHandle", (void (*)(void))cuMemRetainAllocationHandle},
    {"cuModuleLoadData", (void (*)(void))cuModuleLoadData},
    {"cuModuleUnload", (void (*)(void))cuModuleUnload},
    {"cuModuleGetFunction", (void (*)(void))cuModuleGetFunction},
    {"cuLaunchKernel", (void (*)(void))cuLaunchKernel},
};

/* The CUDA version that the caller asks for is not looked at: there is one version of each function. */
static void *symbol_find(const char *name)
{
    void *found = NULL;
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++)
        if (!strcmp(symbols[i].name, name))
            memcpy(&found, &symbols[i].function, sizeof(found));
    return found;
}

CUresult cuGetProcAddress(const char *symbol, void **function, int cuda_version, unsigned long long flags)
{
    (void)cuda_version;
    (void)flags;
    if (!symbol || !function)
        return CUDA_ERROR_INVALID_VALUE;
    void *found = symbol_find(symbol);
    if (!found)
        return CUDA_ERROR_NOT_FOUND;
    *function = found;
    return CUDA_SUCCESS;
}

/* Unlike its predecessor it succeeds for an unknown name, and says so in *status. */
CUresult cuGetProcAddress_v2(const char *symbol, void **function, int cuda_version, unsigned long long flags,
                             int *status)
{
    CUresult result = cuGetProcAddress(symbol, function, cuda_version, flags);
    bool unknown = result == CUDA_ERROR_NOT_FOUND;
    if (unknown)
        *function = NULL;
    if (status && (!result || unknown))
        *status = unknown ? CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND : CU_GET_PROC_ADDRESS_SUCCESS;
    return unknown ? CUDA_SUCCESS : result;
}
