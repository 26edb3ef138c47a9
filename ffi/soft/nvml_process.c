/* SPDX-License-Identifier: Apache-2.0 */
/* The processes on a device. A client of MPS is in both lists, as nvidia-smi's "M+C" shows it. */
#define _GNU_SOURCE 1
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nvml_state.h"

struct process {
    unsigned int pid;
    unsigned long long bytes;
    unsigned int mps;
};

/* One word of the reply, <pid>:<bytes>:<group>:<mps>; false: it is none. */
static bool read_process(const char *word, struct process *ret)
{
    unsigned int group;
    int length = 0;
    return sscanf(word, "%u:%llu:%u:%1u%n", &ret->pid, &ret->bytes, &group, &ret->mps, &length) == 4 && !word[length];
}

static nvmlReturn_t list_processes(nvmlDevice_t device, bool only_mps, unsigned int *count, nvmlProcessInfo_t *infos)
{
    struct packet reply;
    nvmlReturn_t result = state_check(device);
    if (result)
        return result;
    if (!count)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = state_ask(device, "processes", &reply);
    if (result)
        return result;

    unsigned int room = infos ? *count : 0, found = 0;
    char *rest, *word = strtok_r(reply.text, " ", &rest); /* ok */
    word = strtok_r(NULL, " ", &rest);                    /* <n> */
    if (!word)
        return NVML_ERROR_UNKNOWN;
    while ((word = strtok_r(NULL, " ", &rest))) {
        struct process process;
        if (!read_process(word, &process))
            return NVML_ERROR_UNKNOWN;
        if (only_mps && !process.mps)
            continue;
        if (found < room)
            infos[found] = (nvmlProcessInfo_t){.pid = process.pid,
                                               .usedGpuMemory = process.bytes,
                                               .gpuInstanceId = NVML_NO_INSTANCE,
                                               .computeInstanceId = NVML_NO_INSTANCE};
        found++;
    }
    *count = found;
    return found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

NVML_API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                              nvmlProcessInfo_t *infos)
{
    return list_processes(device, false, count, infos);
}

NVML_API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *count,
                                                              nvmlProcessInfo_t *infos)
{
    return list_processes(device, false, count, infos);
}

NVML_API nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                                 nvmlProcessInfo_t *infos)
{
    return list_processes(device, true, count, infos);
}

NVML_API nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *count,
                                                                 nvmlProcessInfo_t *infos)
{
    return list_processes(device, true, count, infos);
}

static nvmlReturn_t no_processes(nvmlDevice_t device, unsigned int *count)
{
    nvmlReturn_t result = state_check(device);
    if (result)
        return result;
    if (!count)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = 0;
    return NVML_SUCCESS;
}

NVML_API nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                               nvmlProcessInfo_t *infos)
{
    (void)infos;
    return no_processes(device, count);
}

NVML_API nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device, unsigned int *count,
                                                               nvmlProcessInfo_t *infos)
{
    (void)infos;
    return no_processes(device, count);
}
