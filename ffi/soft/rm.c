/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE 1
#include "rm.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "packet.h"
#include "wire.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* one request at a time */
static int kernel = -1;
static const struct soft_notifier *notifier;
static _Atomic int sticky;

CUresult rm_error(void)
{
    uint32_t error = notifier ? atomic_load(&notifier->error) : 0;
    return (CUresult)(error ? error : (uint32_t)atomic_load(&sticky));
}

void rm_fail(CUresult error)
{
    int none = 0;
    atomic_compare_exchange_strong(&sticky, &none, (int)error);
}

/* "ok ..." or "error <CUresult>"; anything else is no answer of the software kernel's. */
static CUresult rm_verdict(const char *reply)
{
    unsigned int error;
    if (!strcmp(reply, "ok") || !strncmp(reply, "ok ", 3))
        return CUDA_SUCCESS;
    if (sscanf(reply, "error %9u", &error) == 1 && error)
        return (CUresult)error;
    return CUDA_ERROR_UNKNOWN;
}

__attribute__((format(printf, 2, 3)))
static CUresult rm_ask(char reply[SOFT_PACKET_MAX + 1], const char *format, ...)
{
    char request[256];
    va_list words;
    va_start(words, format);
    int length = vsnprintf(request, sizeof(request), format, words);
    va_end(words);
    if (length < 0 || (size_t)length >= sizeof(request))
        return CUDA_ERROR_INVALID_VALUE;

    pthread_mutex_lock(&lock);
    bool answered = packet_send(kernel, request, (size_t)length) && packet_receive(kernel, reply, NULL);
    pthread_mutex_unlock(&lock);
    return answered ? rm_verdict(reply) : CUDA_ERROR_UNKNOWN;
}

CUresult rm_connect(int *devices)
{
    char reply[SOFT_PACKET_MAX + 1];
    int page = -1;
    const char *directory = secure_getenv("MPSAFE_SOFT_DIR");
    if (!directory || packet_connect(&kernel, directory, "/rm"))
        return CUDA_ERROR_NO_DEVICE;

    static const char hello[] = "hello cuda";
    if (!packet_send(kernel, hello, strlen(hello)) || !packet_receive(kernel, reply, &page) || rm_verdict(reply) ||
        page < 0 || sscanf(reply, "ok devices=%2d ", devices) != 1 || *devices < 1 || *devices > SOFT_DEVICES_MAX)
        goto refused;
    void *shared = mmap(NULL, SOFT_NOTIFIER_BYTES, PROT_READ, MAP_SHARED, page, 0);
    if (shared == MAP_FAILED)
        goto refused;
    close(page);
    notifier = shared;
    return CUDA_SUCCESS;

refused:
    if (page >= 0)
        close(page);
    rm_disconnect();
    return CUDA_ERROR_NO_DEVICE;
}

void rm_disconnect(void)
{
    if (notifier)
        munmap((void *)(uintptr_t)notifier, SOFT_NOTIFIER_BYTES);
    notifier = NULL;
    if (kernel >= 0)
        close(kernel);
    kernel = -1;
}

CUresult rm_device(int device, struct rm_device *ret)
{
    char reply[SOFT_PACKET_MAX + 1];
    CUresult result = rm_ask(reply, "device %d", device);
    if (result)
        return result;
    if (sscanf(reply, "ok uuid=%47s pci=%23s total=%llu used=%llu sms=%d name=%255s", ret->uuid, ret->pci,
               &ret->total_bytes, &ret->used_bytes, &ret->sms, ret->name) != 6)
        return CUDA_ERROR_UNKNOWN;
    for (char *at = ret->name; *at; at++)
        if (*at == '_')
            *at = ' ';
    return CUDA_SUCCESS;
}

CUresult rm_open(int device, unsigned long group, unsigned long *channel)
{
    char reply[SOFT_PACKET_MAX + 1];
    CUresult result = rm_ask(reply, "open %d %lu", device, group);
    if (result)
        return result;
    return sscanf(reply, "ok %lu", channel) == 1 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN;
}

void rm_close(unsigned long channel)
{
    char reply[SOFT_PACKET_MAX + 1];
    rm_ask(reply, "close %lu", channel);
}

CUresult rm_alloc(int device, uint64_t id, uint64_t bytes)
{
    char reply[SOFT_PACKET_MAX + 1];
    return rm_ask(reply, "alloc %d %llu %llu", device, (unsigned long long)id, (unsigned long long)bytes);
}

void rm_free(int device, uint64_t id)
{
    char reply[SOFT_PACKET_MAX + 1];
    rm_ask(reply, "free %d %llu", device, (unsigned long long)id);
}

CUresult rm_fault(unsigned long channel, const char *fault_class, const char *detail, uint64_t address,
                  const char *access)
{
    char reply[SOFT_PACKET_MAX + 1];
    unsigned int error;
    CUresult result = rm_ask(reply, "fault %lu %s %s va=0x%llx access=%s", channel, fault_class, detail,
                             (unsigned long long)address, access);
    if (!result && !strcmp(reply, "ok absorbed"))
        return CUDA_SUCCESS;
    if (!result)
        result = sscanf(reply, "ok fatal %9u", &error) == 1 && error ? (CUresult)error : CUDA_ERROR_UNKNOWN;
    rm_fail(result);
    return result;
}
