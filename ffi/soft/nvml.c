/* SPDX-License-Identifier: Apache-2.0 */
/* The library itself and the host: init, shutdown, errors, versions, names of processes. */
#define _GNU_SOURCE 1
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "nvml_event.h"
#include "nvml_state.h"

#define NVML_INIT_FLAGS_KNOWN 3u /* NO_GPUS and NO_ATTACH: nothing to do differently */

NVML_API nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    return flags & ~NVML_INIT_FLAGS_KNOWN ? NVML_ERROR_INVALID_ARGUMENT : state_init();
}

NVML_API nvmlReturn_t nvmlInit_v2(void)
{
    return state_init();
}

NVML_API nvmlReturn_t nvmlShutdown(void)
{
    bool last;
    nvmlReturn_t result = state_deinit(&last);
    if (last)
        events_deinit();
    return result;
}

NVML_API const char *nvmlErrorString(nvmlReturn_t result)
{
    switch (result) {
    case NVML_SUCCESS:
        return "Success";
    case NVML_ERROR_UNINITIALIZED:
        return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT:
        return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED:
        return "Not Supported";
    case NVML_ERROR_NO_PERMISSION:
        return "Insufficient Permissions";
    case NVML_ERROR_ALREADY_INITIALIZED:
        return "Already Initialized";
    case NVML_ERROR_NOT_FOUND:
        return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE:
        return "Insufficient Size";
    case NVML_ERROR_INSUFFICIENT_POWER:
        return "Insufficient External Power";
    case NVML_ERROR_DRIVER_NOT_LOADED:
        return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT:
        return "Timeout";
    case NVML_ERROR_IRQ_ISSUE:
        return "Interrupt Request Issue";
    case NVML_ERROR_LIBRARY_NOT_FOUND:
        return "NVML Shared Library Not Found";
    case NVML_ERROR_FUNCTION_NOT_FOUND:
        return "Function Not Found";
    case NVML_ERROR_CORRUPTED_INFOROM:
        return "Corrupted infoROM";
    case NVML_ERROR_GPU_IS_LOST:
        return "GPU is lost";
    case NVML_ERROR_RESET_REQUIRED:
        return "GPU requires restart";
    case NVML_ERROR_OPERATING_SYSTEM:
        return "The operating system has blocked the request.";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return "RM has detected an NVML/RM version mismatch.";
    case NVML_ERROR_IN_USE:
        return "In use by another client";
    case NVML_ERROR_MEMORY:
        return "Insufficient Memory";
    case NVML_ERROR_NO_DATA:
        return "No data";
    case NVML_ERROR_INSUFFICIENT_RESOURCES:
        return "Insufficient Resources";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH:
        return "Argument Version Mismatch";
    case NVML_ERROR_NOT_READY:
        return "System Not Ready";
    case NVML_ERROR_GPU_NOT_FOUND:
        return "GPU Not Found";
    case NVML_ERROR_INVALID_STATE:
        return "Invalid State";
    case NVML_ERROR_UNKNOWN:
        break;
    }
    return "Unknown Error";
}

NVML_API nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    return version ? state_driver_version(version, length) : NVML_ERROR_INVALID_ARGUMENT;
}

NVML_API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    unsigned int number;
    if (!version)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = state_cuda_version(&number);
    if (!result)
        *version = (int)number;
    return result;
}

NVML_API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    return nvmlSystemGetCudaDriverVersion_v2(version);
}

/* CUDA's major version before the driver's: 13.580.159.04 */
NVML_API nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    char driver[64], text[80];
    unsigned int cuda;
    if (!version)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = state_cuda_version(&cuda);
    if (!result)
        result = state_driver_version(driver, sizeof(driver));
    if (result)
        return result;
    unsigned int needed = (unsigned int)snprintf(text, sizeof(text), "%u.%s", cuda / 1000, driver);
    if (needed >= length)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(version, text, needed + 1);
    return NVML_SUCCESS;
}

static ssize_t read_proc(unsigned int pid, const char *file, char *ret, size_t size)
{
    char path[48];
    snprintf(path, sizeof(path), "/proc/%u/%s", pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t length = read(fd, ret, size - 1);
    close(fd);
    if (length >= 0)
        ret[length] = '\0';
    return length;
}

/* The program as it was called, or what ps shows for one without arguments; cut to `length`. */
NVML_API nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
    char text[1024];
    unsigned int ignored;
    nvmlReturn_t result = state_device_count(&ignored);
    if (result)
        return result;
    if (!name || !length)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (read_proc(pid, "cmdline", text, sizeof(text)) <= 0) {
        if (read_proc(pid, "comm", text, sizeof(text)) < 0)
            return NVML_ERROR_NOT_FOUND;
        text[strcspn(text, "\n")] = '\0';
    }
    snprintf(name, length, "%s", text);
    return NVML_SUCCESS;
}
