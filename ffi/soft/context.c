/* SPDX-License-Identifier: Apache-2.0 */
#include "context.h"

#include <stdlib.h>

#include "device.h"
#include "event.h"
#include "module.h"
#include "mps.h"
#include "object.h"
#include "queue.h"
#include "rm.h"
#include "space.h"
#include "stream.h"

struct primary {
    struct CUctx_st *context;
    unsigned int users;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the primary contexts */
static struct primary primaries[SOFT_DEVICES_MAX];
static _Thread_local struct CUctx_st *current;

CUresult context_current(struct CUctx_st **ret)
{
    CUresult result = driver_ready();
    if (result)
        return result;
    if (!current)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (!object_exists(OBJECT_CONTEXT, current))
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    *ret = current;
    return CUDA_SUCCESS;
}

bool context_alive(struct CUctx_st *context)
{
    return !atomic_load(&context->destroyed) && !rm_error();
}

static CUresult context_create(CUdevice device, struct CUctx_st **ret)
{
    struct CUctx_st *context = calloc(1, sizeof(*context));
    if (!context)
        return CUDA_ERROR_OUT_OF_MEMORY;
    context->device = device;
    pthread_mutex_init(&context->lock, NULL);
    pthread_cond_init(&context->changed, NULL);
    CUresult result = queue_create(context, &context->queue);
    if (result)
        goto without_queue;
    result = rm_open(device, mps_group(), &context->channel);
    if (result)
        goto without_channel;
    result = object_add(OBJECT_CONTEXT, context, NULL);
    if (result)
        goto unregistered;
    *ret = context;
    return CUDA_SUCCESS;

unregistered:
    rm_close(context->channel);
without_channel:
    queue_destroy(context->queue);
without_queue:
    pthread_cond_destroy(&context->changed);
    pthread_mutex_destroy(&context->lock);
    free(context);
    return result;
}

/* Ends its work where it is, and takes everything that belongs to it along. */
static void context_destroy(struct CUctx_st *context)
{
    object_remove(OBJECT_CONTEXT, context);
    atomic_store(&context->destroyed, true);
    streams_destroy(context);
    queue_destroy(context->queue);
    pthread_mutex_lock(&context->lock);
    while (context->workers)
        pthread_cond_wait(&context->changed, &context->lock);
    pthread_mutex_unlock(&context->lock);
    events_destroy(context);
    modules_destroy(context);
    space_unmap_context(context);
    rm_close(context->channel);
    pthread_cond_destroy(&context->changed);
    pthread_mutex_destroy(&context->lock);
    free(context);
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    CUresult result = driver_ready();
    if (result)
        return result;
    if (!context)
        return CUDA_ERROR_INVALID_VALUE;
    if (!device_exists(device))
        return CUDA_ERROR_INVALID_DEVICE;
    struct primary *primary = &primaries[device];
    pthread_mutex_lock(&lock);
    if (!primary->users)
        result = context_create(device, &primary->context);
    if (!result) {
        primary->users++;
        *context = primary->context;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    CUresult result = driver_initialized();
    if (result)
        return result;
    if (!device_exists(device))
        return CUDA_ERROR_INVALID_DEVICE;
    struct primary *primary = &primaries[device];
    struct CUctx_st *last = NULL;
    pthread_mutex_lock(&lock);
    if (!primary->users)
        result = CUDA_ERROR_INVALID_CONTEXT;
    else if (!--primary->users)
        last = primary->context;
    pthread_mutex_unlock(&lock);
    if (last)
        context_destroy(last);
    return result;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active)
{
    CUresult result = driver_initialized();
    if (result)
        return result;
    if (!flags || !active)
        return CUDA_ERROR_INVALID_VALUE;
    if (!device_exists(device))
        return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&lock);
    *flags = 0;
    *active = primaries[device].users > 0;
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

CUresult cuCtxCreate_v2(CUcontext *context, unsigned int flags, CUdevice device)
{
    CUresult result = driver_ready();
    if (result)
        return result;
    if (!context || flags & ~0xffu)
        return CUDA_ERROR_INVALID_VALUE;
    if (!device_exists(device))
        return CUDA_ERROR_INVALID_DEVICE;
    result = context_create(device, context);
    if (result)
        return result;
    (*context)->before = current;
    current = *context;
    return CUDA_SUCCESS;
}

static bool is_primary(struct CUctx_st *context)
{
    const struct primary *primary = &primaries[context->device];
    pthread_mutex_lock(&lock);
    bool found = primary->users && primary->context == context;
    pthread_mutex_unlock(&lock);
    return found;
}

CUresult cuCtxDestroy_v2(CUcontext context)
{
    CUresult result = driver_initialized();
    if (result)
        return result;
    if (!object_exists(OBJECT_CONTEXT, context) || is_primary(context))
        return CUDA_ERROR_INVALID_CONTEXT;
    if (current == context)
        current = context->before;
    context_destroy(context);
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context)
{
    CUresult result = driver_ready();
    if (result)
        return result;
    if (context && !object_exists(OBJECT_CONTEXT, context))
        return CUDA_ERROR_INVALID_CONTEXT;
    current = context;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context)
{
    CUresult result = driver_initialized();
    if (result)
        return result;
    if (!context)
        return CUDA_ERROR_INVALID_VALUE;
    *context = current;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    if (result)
        return result;
    if (!device)
        return CUDA_ERROR_INVALID_VALUE;
    *device = context->device;
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize(void)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    return result ? result : queues_wait(context);
}
