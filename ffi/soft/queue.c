/* SPDX-License-Identifier: Apache-2.0 */
#include "queue.h"

#include <stdlib.h>

#include "context.h"
#include "rm.h"
#include "thread.h"

struct queue {
    struct CUctx_st *context;
    struct work *first;
    struct work **last;
    unsigned long put;
    unsigned long done;
    bool started;
    bool closing;
};

CUresult queue_create(struct CUctx_st *context, struct queue **ret)
{
    struct queue *queue = calloc(1, sizeof(*queue));
    if (!queue)
        return CUDA_ERROR_OUT_OF_MEMORY;
    queue->context = context;
    queue->last = &queue->first;
    *ret = queue;
    return CUDA_SUCCESS;
}

void queue_destroy(struct queue *queue)
{
    struct CUctx_st *context = queue->context;
    pthread_mutex_lock(&context->lock);
    bool started = queue->started;
    queue->closing = true;
    pthread_cond_broadcast(&context->changed);
    pthread_mutex_unlock(&context->lock);
    if (!started)
        free(queue);
}

static void work_do(struct CUctx_st *context, struct work *work)
{
    if (context_alive(context))
        work->run(context, work);
    if (work->end)
        work->end(work);
    free(work);
}

/* With the lock held. NULL: the queue was destroyed and nothing is left in it. */
static struct work *queue_next(struct queue *queue)
{
    while (!queue->first && !queue->closing)
        pthread_cond_wait(&queue->context->changed, &queue->context->lock);
    struct work *work = queue->first;
    if (work) {
        queue->first = work->next;
        if (!queue->first)
            queue->last = &queue->first;
    }
    return work;
}

static void *queue_serve(void *argument)
{
    struct queue *queue = argument;
    struct CUctx_st *context = queue->context;
    struct work *work;
    pthread_mutex_lock(&context->lock);
    while ((work = queue_next(queue))) {
        pthread_mutex_unlock(&context->lock);
        work_do(context, work);
        pthread_mutex_lock(&context->lock);
        queue->done++;
        context->pending--;
        pthread_cond_broadcast(&context->changed);
    }
    free(queue);
    context->workers--;
    pthread_cond_broadcast(&context->changed);
    pthread_mutex_unlock(&context->lock);
    return NULL;
}

CUresult queue_put(struct queue *queue, struct work *work)
{
    struct CUctx_st *context = queue->context;
    CUresult result = CUDA_SUCCESS;
    work->next = NULL;
    pthread_mutex_lock(&context->lock);
    if (!queue->started) {
        result = thread_start(queue_serve, queue);
        if (!result) {
            queue->started = true;
            context->workers++;
        }
    }
    if (!result) {
        *queue->last = work;
        queue->last = &work->next;
        queue->put++;
        context->pending++;
        pthread_cond_broadcast(&context->changed);
    }
    pthread_mutex_unlock(&context->lock);
    if (result)
        free(work);
    return result;
}

CUresult queue_wait(struct queue *queue)
{
    struct CUctx_st *context = queue->context;
    pthread_mutex_lock(&context->lock);
    unsigned long put = queue->put;
    while (queue->done < put)
        pthread_cond_wait(&context->changed, &context->lock);
    pthread_mutex_unlock(&context->lock);
    return rm_error();
}

bool queue_idle(struct queue *queue)
{
    struct CUctx_st *context = queue->context;
    pthread_mutex_lock(&context->lock);
    bool idle = queue->done == queue->put;
    pthread_mutex_unlock(&context->lock);
    return idle;
}

CUresult queues_wait(struct CUctx_st *context)
{
    pthread_mutex_lock(&context->lock);
    while (context->pending)
        pthread_cond_wait(&context->changed, &context->lock);
    pthread_mutex_unlock(&context->lock);
    return rm_error();
}
