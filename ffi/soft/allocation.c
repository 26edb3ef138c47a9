/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE 1
#include "allocation.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"
#include "rm.h"

#define LABEL_BYTES 4096
#define LABEL_MAGIC "mpsafe software GPU memory 1"

/* What the page behind the memory says. It comes from another process: all of it is checked. */
struct label {
    char magic[32];
    CUuuid device;
    uint64_t bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct allocation *allocations;
static CUmemGenericAllocationHandle last_handle;

static CUresult memory_create(CUdevice device, uint64_t bytes, int *ret)
{
    struct label label = {.magic = LABEL_MAGIC, .device = device_uuid(device), .bytes = bytes};
    int fd = memfd_create("software-gpu", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (ftruncate(fd, (off_t)(bytes + LABEL_BYTES)) ||
        pwrite(fd, &label, sizeof(label), (off_t)bytes) != (ssize_t)sizeof(label) ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        close(fd);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *ret = fd;
    return CUDA_SUCCESS;
}

/* Whether the descriptor is memory of a device of ours whose size nobody can change any more. */
static bool memory_check(int fd, CUdevice *device, uint64_t *bytes)
{
    struct label label;
    struct stat status;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &status) || status.st_size <= LABEL_BYTES)
        return false;
    *bytes = (uint64_t)status.st_size - LABEL_BYTES;
    if (*bytes % SOFT_GRANULARITY || pread(fd, &label, sizeof(label), (off_t)*bytes) != (ssize_t)sizeof(label) ||
        memcmp(label.magic, LABEL_MAGIC, sizeof(LABEL_MAGIC)) || label.bytes != *bytes)
        return false;
    *device = device_by_uuid(label.device);
    return *device >= 0;
}

/* Takes the descriptor over, in failure too. */
static CUresult allocation_add(int fd, CUdevice device, uint64_t bytes, bool exportable, struct allocation **ret)
{
    struct stat status;
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    struct allocation *allocation = calloc(1, sizeof(*allocation));
    if (!allocation || fstat(fd, &status))
        goto failed;
    result = rm_alloc(device, status.st_ino, bytes);
    if (result)
        goto failed;
    *allocation = (struct allocation){
        .fd = fd, .device = device, .bytes = bytes, .exportable = exportable, .id = status.st_ino, .handles = 1};
    pthread_mutex_lock(&lock);
    allocation->handle = ++last_handle;
    allocation->next = allocations;
    allocations = allocation;
    pthread_mutex_unlock(&lock);
    *ret = allocation;
    return CUDA_SUCCESS;

failed:
    free(allocation);
    close(fd);
    return result;
}

/* With the lock held, which it gives back: frees the allocation if nothing holds it any more. */
static void allocation_drop(struct allocation *allocation)
{
    bool dead = !allocation->handles && !allocation->mappings;
    struct allocation **at = &allocations;
    while (dead && *at != allocation)
        at = &(*at)->next;
    if (dead)
        *at = allocation->next;
    pthread_mutex_unlock(&lock);
    if (!dead)
        return;
    close(allocation->fd);
    rm_free(allocation->device, allocation->id);
    free(allocation);
}

static struct allocation *allocation_find(CUmemGenericAllocationHandle handle)
{
    struct allocation *at = allocations;
    while (at && (at->handle != handle || !at->handles))
        at = at->next;
    return at;
}

CUresult allocation_create(CUdevice device, uint64_t bytes, bool exportable, struct allocation **ret)
{
    int fd;
    CUresult result = memory_create(device, bytes, &fd);
    return result ? result : allocation_add(fd, device, bytes, exportable, ret);
}

CUresult allocation_import(int fd, struct allocation **ret)
{
    CUdevice device;
    uint64_t bytes;
    if (!memory_check(fd, &device, &bytes))
        return CUDA_ERROR_INVALID_VALUE;
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
        return CUDA_ERROR_OPERATING_SYSTEM;
    return allocation_add(own, device, bytes, true, ret);
}

struct allocation *allocation_pin(CUmemGenericAllocationHandle handle)
{
    pthread_mutex_lock(&lock);
    struct allocation *found = allocation_find(handle);
    if (found)
        found->mappings++;
    pthread_mutex_unlock(&lock);
    return found;
}

void allocation_unpin(struct allocation *allocation)
{
    pthread_mutex_lock(&lock);
    allocation->mappings--;
    allocation_drop(allocation);
}

void allocation_retain(struct allocation *allocation)
{
    pthread_mutex_lock(&lock);
    allocation->handles++;
    pthread_mutex_unlock(&lock);
}

CUresult allocation_release(CUmemGenericAllocationHandle handle)
{
    pthread_mutex_lock(&lock);
    struct allocation *found = allocation_find(handle);
    if (!found) {
        pthread_mutex_unlock(&lock);
        return CUDA_ERROR_INVALID_VALUE;
    }
    found->handles--;
    allocation_drop(found);
    return CUDA_SUCCESS;
}
