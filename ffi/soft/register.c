/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE 1
/*
 * Host memory that somebody else owns, registered. Nothing here copies faster for it: what is kept is which memory that
 * is, and that it is there and may be written to, unless it was registered for reading.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "context.h"
#include "driver.h"
#include "queue.h"
#include "register.h"

#ifndef MADV_POPULATE_READ /* Linux 5.14 */
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

struct piece {
    uintptr_t address;
    size_t bytes;
    struct piece *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct piece *all;

/* A kernel that knows neither advice has nothing to say about it. */
static bool usable(void *host, size_t bytes, bool read_only)
{
    if (!madvise(host, bytes, MADV_POPULATE_READ))
        return read_only || !madvise(host, bytes, MADV_POPULATE_WRITE);
    return errno == EINVAL;
}

bool registered(const void *host, size_t bytes)
{
    bool found = false;
    pthread_mutex_lock(&lock);
    for (struct piece *one = all; one && !found; one = one->next)
        found = (uintptr_t)host >= one->address && bytes <= one->bytes &&
                (uintptr_t)host - one->address <= one->bytes - bytes;
    pthread_mutex_unlock(&lock);
    return found;
}

CUresult cuMemHostRegister_v2(void *host, size_t bytes, unsigned int flags)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    if (result)
        return result;
    if (!host || !bytes || flags & ~0xfu || !usable(host, bytes, flags & CU_MEMHOSTREGISTER_READ_ONLY))
        return CUDA_ERROR_INVALID_VALUE;
    struct piece *made = malloc(sizeof *made);
    if (!made)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *made = (struct piece){.address = (uintptr_t)host, .bytes = bytes};
    pthread_mutex_lock(&lock);
    for (struct piece *one = all; one && !result; one = one->next)
        if (made->address < one->address + one->bytes && one->address < made->address + bytes)
            result = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    if (!result) {
        made->next = all;
        all = made;
    }
    pthread_mutex_unlock(&lock);
    if (result)
        free(made);
    return result;
}

CUresult cuMemHostUnregister(void *host)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    if (!result)
        result = queues_wait(context);
    if (result)
        return result;
    struct piece *found = NULL;
    pthread_mutex_lock(&lock);
    for (struct piece **at = &all; *at && !found; at = &(*at)->next)
        if ((*at)->address == (uintptr_t)host) {
            found = *at;
            *at = found->next;
            break;
        }
    pthread_mutex_unlock(&lock);
    free(found);
    return found ? CUDA_SUCCESS : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
}
