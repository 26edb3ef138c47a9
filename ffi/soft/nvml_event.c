/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Event sets. Each registered device is one connection that watches, so nothing that happened before
 * the registration is ever delivered. The only events that a software device has are Xids.
 */
#define _GNU_SOURCE 1
#include "nvml_event.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "nvml_state.h"

struct event_set {
    struct event_set *next;
    unsigned int users; /* the list, and each thread that waits */
    int watch[SOFT_DEVICES_MAX]; /* by device index; -1: not registered */
};

static pthread_mutex_t sets_lock = PTHREAD_MUTEX_INITIALIZER; /* guards the list and all users */
static struct event_set *sets;

static struct event_set **set_place(nvmlEventSet_t set)
{
    struct event_set **place = &sets;
    while (*place && *place != set)
        place = &(*place)->next;
    return *place ? place : NULL;
}

static nvmlReturn_t set_get(nvmlEventSet_t set)
{
    pthread_mutex_lock(&sets_lock);
    bool known = set_place(set) != NULL;
    if (known)
        set->users++;
    pthread_mutex_unlock(&sets_lock);
    return known ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

/* Wants sets_lock. */
static void set_put(struct event_set *set)
{
    if (--set->users)
        return;
    for (unsigned int i = 0; i < SOFT_DEVICES_MAX; i++)
        if (set->watch[i] >= 0)
            link_close(set->watch[i]);
    free(set);
}

static nvmlReturn_t initialised(void)
{
    unsigned int ignored;
    return state_device_count(&ignored);
}

NVML_API nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *ret)
{
    nvmlReturn_t result = initialised();
    if (result)
        return result;
    if (!ret)
        return NVML_ERROR_INVALID_ARGUMENT;
    struct event_set *set = malloc(sizeof(*set));
    if (!set)
        return NVML_ERROR_MEMORY;
    set->users = 1;
    for (unsigned int i = 0; i < SOFT_DEVICES_MAX; i++)
        set->watch[i] = -1;
    pthread_mutex_lock(&sets_lock);
    set->next = sets;
    sets = set;
    pthread_mutex_unlock(&sets_lock);
    *ret = set;
    return NVML_SUCCESS;
}

NVML_API nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    nvmlReturn_t result = initialised();
    if (result)
        return result;
    pthread_mutex_lock(&sets_lock);
    struct event_set **place = set_place(set);
    if (place) {
        *place = set->next;
        set_put(set);
    }
    pthread_mutex_unlock(&sets_lock);
    return place ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

void events_deinit(void)
{
    pthread_mutex_lock(&sets_lock);
    while (sets) {
        struct event_set *set = sets;
        sets = set->next;
        set_put(set);
    }
    pthread_mutex_unlock(&sets_lock);
}

NVML_API nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types)
{
    nvmlReturn_t result = state_check(device);
    if (result)
        return result;
    if (!types)
        return NVML_ERROR_INVALID_ARGUMENT;
    *types = NVML_EVENT_XID;
    return NVML_SUCCESS;
}

static nvmlReturn_t watch_open(int *ret)
{
    struct packet packet;
    int fd;
    nvmlReturn_t result = link_open(&fd, &packet);
    if (result)
        return result;
    result = link_ask(fd, "watch", &packet);
    if (result) {
        link_close(fd);
        return result;
    }
    *ret = fd;
    return NVML_SUCCESS;
}

NVML_API nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set)
{
    int fd;
    nvmlReturn_t result = state_check(device);
    if (result)
        return result;
    if (types & ~NVML_EVENT_XID)
        return NVML_ERROR_NOT_SUPPORTED;
    result = set_get(set);
    if (result)
        return result;
    if (types)
        result = watch_open(&fd);
    pthread_mutex_lock(&sets_lock);
    if (types && !result) {
        if (set->watch[device->index] < 0)
            set->watch[device->index] = fd;
        else
            link_close(fd);
    }
    set_put(set);
    pthread_mutex_unlock(&sets_lock);
    return result;
}

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* The next packet of a device that polled readable; false in *ret: it was not an Xid of this device. */
static nvmlReturn_t read_event(int fd, nvmlDevice_t device, nvmlEventData_t *data, bool *ret)
{
    struct packet packet;
    unsigned int index, xid;
    nvmlReturn_t result = link_receive(fd, &packet);
    if (result)
        return result;
    *ret = sscanf(packet.text, "xid %u %u", &index, &xid) == 2 && index == device->index;
    if (*ret)
        *data = (nvmlEventData_t){.device = device,
                                  .eventType = NVML_EVENT_XID,
                                  .eventData = xid,
                                  .gpuInstanceId = NVML_NO_INSTANCE,
                                  .computeInstanceId = NVML_NO_INSTANCE};
    return NVML_SUCCESS;
}

static nvmlReturn_t wait_event(struct event_set *set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    struct pollfd polls[SOFT_DEVICES_MAX];
    long long end = now_ms() + timeout_ms;
    for (;;) {
        pthread_mutex_lock(&sets_lock);
        for (unsigned int i = 0; i < SOFT_DEVICES_MAX; i++)
            polls[i] = (struct pollfd){.fd = set->watch[i], .events = POLLIN};
        pthread_mutex_unlock(&sets_lock);

        long long left = end - now_ms();
        int ready = poll(polls, SOFT_DEVICES_MAX, left < 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left);
        if (ready < 0 && errno != EINTR)
            return NVML_ERROR_UNKNOWN;
        if (ready == 0 && left <= INT_MAX)
            return NVML_ERROR_TIMEOUT;
        for (unsigned int i = 0; ready > 0 && i < SOFT_DEVICES_MAX; i++) {
            nvmlDevice_t device;
            bool found = false;
            if (!polls[i].revents)
                continue;
            nvmlReturn_t result = state_device(i, &device);
            if (!result)
                result = read_event(polls[i].fd, device, data, &found);
            if (result || found)
                return result;
        }
    }
}

NVML_API nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    nvmlReturn_t result = initialised();
    if (result)
        return result;
    if (!data)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = set_get(set);
    if (result)
        return result;
    result = wait_event(set, data, timeout_ms);
    pthread_mutex_lock(&sets_lock);
    set_put(set);
    pthread_mutex_unlock(&sets_lock);
    return result;
}
