/* SPDX-License-Identifier: Apache-2.0 */
/* Devices: how to find one, what it is, its memory. */
#define _GNU_SOURCE 1
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "nvml_state.h"

NVML_API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    return count ? state_device_count(count) : NVML_ERROR_INVALID_ARGUMENT;
}

NVML_API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    return device ? state_device(index, device) : NVML_ERROR_INVALID_ARGUMENT;
}

typedef bool (*device_test)(nvmlDevice_t device, const void *wanted);

static nvmlReturn_t find_device(device_test matches, const void *wanted, nvmlDevice_t *ret)
{
    unsigned int count;
    nvmlReturn_t result = state_device_count(&count);
    if (result)
        return result;
    for (unsigned int i = 0; i < count; i++) {
        nvmlDevice_t device;
        result = state_device(i, &device);
        if (result)
            return result;
        if (matches(device, wanted)) {
            *ret = device;
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

static bool has_uuid(nvmlDevice_t device, const void *uuid)
{
    return !strcasecmp(device->uuid, uuid);
}

NVML_API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    return uuid && device ? find_device(has_uuid, uuid, device) : NVML_ERROR_INVALID_ARGUMENT;
}

static bool is_at(nvmlDevice_t device, const void *wanted)
{
    const struct soft_device *place = wanted;
    return device->domain == place->domain && device->bus == place->bus && device->slot == place->slot;
}

/* domain:bus:device.function in hexadecimal, the domain with four digits or eight */
NVML_API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    struct soft_device place = {0};
    unsigned int function;
    int length = 0;
    if (!bus_id || !device ||
        sscanf(bus_id, "%8x:%2x:%2x.%1x%n", &place.domain, &place.bus, &place.slot, &function, &length) != 4 ||
        bus_id[length])
        return NVML_ERROR_INVALID_ARGUMENT;
    return find_device(is_at, &place, device);
}

static nvmlReturn_t copy_text(nvmlDevice_t device, const char *text, char *ret, unsigned int length)
{
    nvmlReturn_t result = state_check(device);
    if (result)
        return result;
    if (!ret)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(text) >= length)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(ret, text);
    return NVML_SUCCESS;
}

NVML_API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
    return copy_text(device, device ? device->uuid : "", uuid, length);
}

NVML_API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
    return copy_text(device, device ? device->name : "", name, length);
}

static nvmlReturn_t copy_number(nvmlDevice_t device, unsigned int number, unsigned int *ret)
{
    nvmlReturn_t result = state_check(device);
    if (result)
        return result;
    if (!ret)
        return NVML_ERROR_INVALID_ARGUMENT;
    *ret = number;
    return NVML_SUCCESS;
}

NVML_API nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
    return copy_number(device, device ? device->index : 0, index);
}

NVML_API nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor)
{
    return copy_number(device, device ? device->index : 0, minor);
}

NVML_API nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, unsigned int *mode)
{
    return copy_number(device, 0, mode); /* NVML_COMPUTEMODE_DEFAULT: any number of contexts */
}

/* Enabled: the software kernel keeps its state while nobody is connected. */
NVML_API nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, unsigned int *mode)
{
    return copy_number(device, 1, mode);
}

NVML_API nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *is_mig)
{
    return copy_number(device, 0, is_mig);
}

/* The PCI device and subsystem ids stay 0: there is no such card. */
NVML_API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *info)
{
    nvmlReturn_t result = state_check(device);
    if (result)
        return result;
    if (!info)
        return NVML_ERROR_INVALID_ARGUMENT;
    *info = (nvmlPciInfo_t){.domain = device->domain, .bus = device->bus, .device = device->slot};
    snprintf(info->busIdLegacy, sizeof(info->busIdLegacy), "%04X:%02X:%02X.0", device->domain & 0xFFFFu,
             device->bus & 0xFFu, device->slot & 0xFFu);
    snprintf(info->busId, sizeof(info->busId), "%08X:%02X:%02X.0", device->domain, device->bus & 0xFFu,
             device->slot & 0xFFu);
    return NVML_SUCCESS;
}

NVML_API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    struct packet reply;
    unsigned long long total, used;
    nvmlReturn_t result = state_check(device);
    if (result)
        return result;
    if (!memory)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = state_ask(device, "device", &reply);
    if (result)
        return result;
    if (!packet_number(&reply, "total", &total) || !packet_number(&reply, "used", &used) || used > total)
        return NVML_ERROR_UNKNOWN;
    *memory = (nvmlMemory_t){.total = total, .free = total - used, .used = used};
    return NVML_SUCCESS;
}

NVML_API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    nvmlMemory_t plain;
    nvmlReturn_t result = state_check(device);
    if (result)
        return result;
    if (!memory)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (memory->version != NVML_MEMORY_V2)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    result = nvmlDeviceGetMemoryInfo(device, &plain);
    if (result)
        return result;
    *memory = (nvmlMemory_v2_t){
        .version = NVML_MEMORY_V2, .total = plain.total, .free = plain.free, .used = plain.used};
    return NVML_SUCCESS;
}

NVML_API nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
    nvmlMemory_t memory;
    if (!attributes)
        return state_check(device) == NVML_ERROR_UNINITIALIZED ? NVML_ERROR_UNINITIALIZED : NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = nvmlDeviceGetMemoryInfo(device, &memory);
    if (result)
        return result;
    *attributes = (nvmlDeviceAttributes_t){.multiprocessorCount = device->sms, .memorySizeMB = memory.total >> 20};
    return NVML_SUCCESS;
}

NVML_API nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    struct timespec now;
    nvmlReturn_t result = state_check(device);
    if (result)
        return result;
    if (count <= 0 || !values)
        return NVML_ERROR_INVALID_ARGUMENT;
    clock_gettime(CLOCK_REALTIME, &now);
    for (int i = 0; i < count; i++) {
        nvmlFieldValue_t *field = &values[i];
        field->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
        if (field->fieldId != NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)
            continue;
        field->timestamp = now.tv_sec * 1000000LL + now.tv_nsec / 1000;
        field->latencyUsec = 0;
        field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
        field->value.uiVal = NVML_GPU_RECOVERY_ACTION_NONE;
        field->nvmlReturn = NVML_SUCCESS;
    }
    return NVML_SUCCESS;
}
