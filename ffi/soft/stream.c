/* SPDX-License-Identifier: Apache-2.0 */
#include "stream.h"

#include <stdint.h>
#include <stdlib.h>

#include "event.h"
#include "object.h"

struct CUstream_st {
    struct CUctx_st *context;
    struct queue *queue; /* the context's own for a blocking stream */
};

/* NULL, CU_STREAM_LEGACY and CU_STREAM_PER_THREAD all mean the default stream. */
static bool is_default(CUstream stream)
{
    return (uintptr_t)stream <= 2;
}

CUresult stream_queue(CUstream stream, struct CUctx_st **context, struct queue **queue)
{
    CUresult result = context_current(context);
    if (result)
        return result;
    if (is_default(stream)) {
        *queue = (*context)->queue;
        return CUDA_SUCCESS;
    }
    if (!object_exists(OBJECT_STREAM, stream) || stream->context != *context)
        return CUDA_ERROR_INVALID_HANDLE;
    *queue = stream->queue;
    return CUDA_SUCCESS;
}

static void stream_destroy(struct CUstream_st *stream)
{
    if (stream->queue != stream->context->queue)
        queue_destroy(stream->queue);
    free(stream);
}

void streams_destroy(struct CUctx_st *context)
{
    struct CUstream_st *stream;
    while ((stream = object_take(OBJECT_STREAM, context)))
        stream_destroy(stream);
}

CUresult cuStreamCreate(CUstream *stream, unsigned int flags)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    if (result)
        return result;
    if (!stream || flags & ~(unsigned int)CU_STREAM_NON_BLOCKING)
        return CUDA_ERROR_INVALID_VALUE;
    struct CUstream_st *new = calloc(1, sizeof(*new));
    if (!new)
        return CUDA_ERROR_OUT_OF_MEMORY;
    new->context = context;
    new->queue = context->queue;
    if (flags & CU_STREAM_NON_BLOCKING)
        result = queue_create(context, &new->queue);
    if (result) {
        free(new);
        return result;
    }
    result = object_add(OBJECT_STREAM, new, context);
    if (result) {
        stream_destroy(new);
        return result;
    }
    *stream = new;
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy_v2(CUstream stream)
{
    CUresult result = driver_ready();
    if (result)
        return result;
    if (!object_remove(OBJECT_STREAM, stream))
        return CUDA_ERROR_INVALID_HANDLE;
    stream_destroy(stream);
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream stream)
{
    struct CUctx_st *context;
    struct queue *queue;
    CUresult result = stream_queue(stream, &context, &queue);
    return result ? result : queue_wait(queue);
}

CUresult cuStreamQuery(CUstream stream)
{
    struct CUctx_st *context;
    struct queue *queue;
    CUresult result = stream_queue(stream, &context, &queue);
    if (result)
        return result;
    return queue_idle(queue) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags)
{
    struct CUctx_st *context;
    struct queue *queue;
    CUresult result = stream_queue(stream, &context, &queue);
    if (result)
        return result;
    return flags > 1 ? CUDA_ERROR_INVALID_VALUE : event_wait_put(event, queue);
}
