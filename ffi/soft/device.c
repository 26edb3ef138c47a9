/* SPDX-License-Identifier: Apache-2.0 */
#include "device.h"

#include <stdio.h>
#include <string.h>

#include "mps.h"
#include "rm.h"

struct device {
    CUuuid uuid;
    struct rm_device facts; /* as they were at cuInit */
};

static struct device devices[SOFT_DEVICES_MAX];
static int device_count;

static bool uuid_parse(const char *text, CUuuid *ret)
{
    if (strncmp(text, "GPU-", 4))
        return false;
    text += 4;
    for (int i = 0; i < 16; i++) {
        unsigned int byte;
        if (*text == '-')
            text++;
        if (sscanf(text, "%2x", &byte) != 1)
            return false;
        ret->bytes[i] = (char)byte;
        text += 2;
    }
    return !*text;
}

CUresult devices_init(void)
{
    int count;
    CUresult result = rm_connect(&count);
    for (int i = 0; !result && i < count; i++) {
        result = rm_device(i, &devices[i].facts);
        if (!result && !uuid_parse(devices[i].facts.uuid, &devices[i].uuid))
            result = CUDA_ERROR_UNKNOWN;
    }
    if (!result)
        device_count = count;
    return result;
}

bool device_exists(CUdevice device)
{
    return device >= 0 && device < device_count;
}

CUuuid device_uuid(CUdevice device)
{
    return devices[device].uuid;
}

CUdevice device_by_uuid(CUuuid uuid)
{
    for (int i = 0; i < device_count; i++)
        if (!memcmp(&devices[i].uuid, &uuid, sizeof(uuid)))
            return i;
    return -1;
}

/* What each question about a device begins with. Devices can be asked about after a sticky error too. */
static CUresult device_check(const void *ret, CUdevice device)
{
    CUresult result = driver_initialized();
    if (result)
        return result;
    if (!ret)
        return CUDA_ERROR_INVALID_VALUE;
    return device_exists(device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetCount(int *count)
{
    CUresult result = driver_initialized();
    if (result)
        return result;
    if (!count)
        return CUDA_ERROR_INVALID_VALUE;
    *count = device_count;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    CUresult result = device_check(device, ordinal);
    if (!result)
        *device = ordinal;
    return result;
}

static CUresult device_text(char *ret, int length, const char *text)
{
    if (length <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    snprintf(ret, (size_t)length, "%s", text);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    CUresult result = device_check(name, device);
    return result ? result : device_text(name, length, devices[device].facts.name);
}

CUresult cuDeviceGetPCIBusId(char *text, int length, CUdevice device)
{
    CUresult result = device_check(text, device);
    return result ? result : device_text(text, length, devices[device].facts.pci);
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
    CUresult result = device_check(uuid, device);
    if (!result)
        *uuid = devices[device].uuid;
    return result;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    CUresult result = device_check(bytes, device);
    if (!result)
        *bytes = devices[device].facts.total_bytes;
    return result;
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    CUresult result = device_check(value, device);
    if (result)
        return result;
    unsigned int domain = 0, bus = 0, slot = 0;
    const struct rm_device *facts = &devices[device].facts;
    sscanf(facts->pci, "%x:%x:%x", &domain, &bus, &slot);
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = 1024;
        break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
        *value = 32;
        break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        *value = facts->sms;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE: /* default: any number of processes */
        *value = 0;
        break;
    case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID:
        *value = (int)domain;
        break;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
        *value = (int)bus;
        break;
    case CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID:
        *value = (int)slot;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: /* the .target of kernels.ptx: sm_70 */
        *value = 7;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        *value = 0;
        break;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED:
        *value = 1;
        break;
    case CU_DEVICE_ATTRIBUTE_MPS_ENABLED:
        *value = mps_joined();
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}
