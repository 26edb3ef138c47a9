/* SPDX-License-Identifier: Apache-2.0 */
#include "nvml_state.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

static struct {
    pthread_mutex_t lock; /* guards all below; held over a request, so requests are one at a time */
    unsigned int users;
    int fd;
    char driver[64];
    unsigned int cuda;
    unsigned int device_count;
    struct soft_device devices[SOFT_DEVICES_MAX];
} state = {.lock = PTHREAD_MUTEX_INITIALIZER};

static nvmlReturn_t read_device(int fd, unsigned int index, struct soft_device *ret)
{
    struct packet reply;
    char request[32], pci[32];
    unsigned long long sms;
    unsigned int function;
    snprintf(request, sizeof(request), "device %u", index);
    nvmlReturn_t result = link_ask(fd, request, &reply);
    if (result)
        return result;
    if (!packet_text(&reply, "uuid", ret->uuid, sizeof(ret->uuid)) || !packet_number(&reply, "sms", &sms) ||
        !packet_text(&reply, "name", ret->name, sizeof(ret->name)) || !packet_text(&reply, "pci", pci, sizeof(pci)) ||
        sscanf(pci, "%4x:%2x:%2x.%1x", &ret->domain, &ret->bus, &ret->slot, &function) != 4)
        return NVML_ERROR_UNKNOWN;
    for (char *c = ret->name; *c; c++)
        if (*c == '_')
            *c = ' ';
    ret->index = index;
    ret->sms = (unsigned int)sms;
    return NVML_SUCCESS;
}

static nvmlReturn_t read_host(int fd, const struct packet *hello)
{
    unsigned long long devices, cuda;
    if (!packet_number(hello, "devices", &devices) || devices > SOFT_DEVICES_MAX ||
        !packet_number(hello, "cuda", &cuda) || !packet_text(hello, "driver", state.driver, sizeof(state.driver)))
        return NVML_ERROR_UNKNOWN;
    for (unsigned int i = 0; i < devices; i++) {
        nvmlReturn_t result = read_device(fd, i, &state.devices[i]);
        if (result)
            return result;
    }
    state.cuda = (unsigned int)cuda;
    state.device_count = (unsigned int)devices;
    return NVML_SUCCESS;
}

nvmlReturn_t state_init(void)
{
    nvmlReturn_t result = NVML_SUCCESS;
    pthread_mutex_lock(&state.lock);
    if (!state.users) {
        struct packet hello;
        int fd;
        result = link_open(&fd, &hello);
        if (!result) {
            result = read_host(fd, &hello);
            if (result)
                link_close(fd);
            else
                state.fd = fd;
        }
    }
    if (!result)
        state.users++;
    pthread_mutex_unlock(&state.lock);
    return result;
}

nvmlReturn_t state_deinit(bool *last)
{
    nvmlReturn_t result = NVML_ERROR_UNINITIALIZED;
    *last = false;
    pthread_mutex_lock(&state.lock);
    if (state.users) {
        result = NVML_SUCCESS;
        *last = --state.users == 0;
        if (*last)
            link_close(state.fd);
    }
    pthread_mutex_unlock(&state.lock);
    return result;
}

nvmlReturn_t state_driver_version(char *ret, unsigned int size)
{
    nvmlReturn_t result = NVML_ERROR_UNINITIALIZED;
    pthread_mutex_lock(&state.lock);
    if (state.users) {
        result = strlen(state.driver) < size ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
        if (!result)
            strcpy(ret, state.driver);
    }
    pthread_mutex_unlock(&state.lock);
    return result;
}

static nvmlReturn_t read_number(const unsigned int *number, unsigned int *ret)
{
    nvmlReturn_t result = NVML_ERROR_UNINITIALIZED;
    pthread_mutex_lock(&state.lock);
    if (state.users) {
        *ret = *number;
        result = NVML_SUCCESS;
    }
    pthread_mutex_unlock(&state.lock);
    return result;
}

nvmlReturn_t state_cuda_version(unsigned int *ret)
{
    return read_number(&state.cuda, ret);
}

nvmlReturn_t state_device_count(unsigned int *ret)
{
    return read_number(&state.device_count, ret);
}

nvmlReturn_t state_check(nvmlDevice_t device)
{
    unsigned int count;
    nvmlReturn_t result = state_device_count(&count);
    if (result)
        return result;
    for (unsigned int i = 0; i < count; i++)
        if (device == &state.devices[i])
            return NVML_SUCCESS;
    return NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t state_device(unsigned int index, nvmlDevice_t *ret)
{
    unsigned int count;
    nvmlReturn_t result = state_device_count(&count);
    if (result)
        return result;
    if (index >= count)
        return NVML_ERROR_INVALID_ARGUMENT;
    *ret = &state.devices[index];
    return NVML_SUCCESS;
}

nvmlReturn_t state_ask(nvmlDevice_t device, const char *verb, struct packet *reply)
{
    char request[64];
    nvmlReturn_t result = state_check(device);
    if (result)
        return result;
    snprintf(request, sizeof(request), "%s %u", verb, device->index);
    pthread_mutex_lock(&state.lock);
    result = state.users ? link_ask(state.fd, request, reply) : NVML_ERROR_UNINITIALIZED;
    pthread_mutex_unlock(&state.lock);
    return result;
}
