/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a software device does not have: sensors, clocks, ECC, MIG, settings. Each call tells an
 * uninitialised library and a bad handle apart first, as the real one does; the arguments after the
 * handle are never read, and the C calling conventions of Linux let a callee leave them unnamed.
 */
#include "nvml_state.h"

static nvmlReturn_t not_supported(nvmlDevice_t device)
{
    nvmlReturn_t result = state_check(device);
    return result ? result : NVML_ERROR_NOT_SUPPORTED;
}

#define ABSENT(name) \
    NVML_API nvmlReturn_t name(nvmlDevice_t device) \
    { \
        return not_supported(device); \
    }

ABSENT(nvmlDeviceGetArchitecture)
ABSENT(nvmlDeviceGetBAR1MemoryInfo)
ABSENT(nvmlDeviceGetBoardId)
ABSENT(nvmlDeviceGetBrand)
ABSENT(nvmlDeviceGetClockInfo)
ABSENT(nvmlDeviceGetCudaComputeCapability)
ABSENT(nvmlDeviceGetEccMode)
ABSENT(nvmlDeviceGetEnforcedPowerLimit)
ABSENT(nvmlDeviceGetMaxMigDeviceCount)
ABSENT(nvmlDeviceGetMemoryErrorCounter)
ABSENT(nvmlDeviceGetMigDeviceHandleByIndex)
ABSENT(nvmlDeviceGetMigMode)
ABSENT(nvmlDeviceGetNumGpuCores)
ABSENT(nvmlDeviceGetPowerUsage)
ABSENT(nvmlDeviceGetRemappedRows)
ABSENT(nvmlDeviceGetSerial)
ABSENT(nvmlDeviceGetTemperature)
ABSENT(nvmlDeviceGetTotalEccErrors)
ABSENT(nvmlDeviceGetUtilizationRates)
ABSENT(nvmlDeviceGetVbiosVersion)
ABSENT(nvmlDeviceSetComputeMode)
ABSENT(nvmlDeviceSetMigMode)
ABSENT(nvmlDeviceSetPersistenceMode)
