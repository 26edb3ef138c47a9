/* SPDX-License-Identifier: Apache-2.0 */
#include "event.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "context.h"
#include "object.h"
#include "rm.h"
#include "stream.h"

struct CUevent_st {
    unsigned int flags;
    unsigned int users;     /* the handle, and each piece of work that names it */
    unsigned long recorded; /* how often; each record is a point of its own */
    unsigned long reached;  /* the newest point that was reached */
    struct timespec time;
};

struct event_work {
    struct work work;
    struct CUevent_st *event;
    unsigned long point;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all events */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void event_drop(struct CUevent_st *event)
{
    pthread_mutex_lock(&lock);
    bool last = !--event->users;
    pthread_mutex_unlock(&lock);
    if (last)
        free(event);
}

void events_destroy(struct CUctx_st *context)
{
    struct CUevent_st *event;
    while ((event = object_take(OBJECT_EVENT, context)))
        event_drop(event);
}

/* What a call on an event begins with. */
static CUresult event_check(CUevent event)
{
    CUresult result = driver_ready();
    if (result)
        return result;
    return object_exists(OBJECT_EVENT, event) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuEventCreate(CUevent *event, unsigned int flags)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    if (result)
        return result;
    if (!event || flags & ~(unsigned int)(CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING))
        return CUDA_ERROR_INVALID_VALUE;
    struct CUevent_st *new = calloc(1, sizeof(*new));
    if (!new)
        return CUDA_ERROR_OUT_OF_MEMORY;
    new->flags = flags;
    new->users = 1;
    result = object_add(OBJECT_EVENT, new, context);
    if (result)
        free(new);
    else
        *event = new;
    return result;
}

CUresult cuEventDestroy_v2(CUevent event)
{
    CUresult result = driver_ready();
    if (result)
        return result;
    if (!object_remove(OBJECT_EVENT, event))
        return CUDA_ERROR_INVALID_HANDLE;
    event_drop(event);
    return CUDA_SUCCESS;
}

/* A piece of work that names the event at its newest point, or at the next one. */
static CUresult event_put(struct CUevent_st *event, struct queue *queue, struct work head, bool record)
{
    struct event_work *work = malloc(sizeof(*work));
    if (!work)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    event->users++;
    event->recorded += record;
    *work = (struct event_work){.work = head, .event = event, .point = event->recorded};
    pthread_mutex_unlock(&lock);
    CUresult result = queue_put(queue, &work->work);
    if (result)
        event_drop(event);
    return result;
}

static void record_run(struct CUctx_st *context, struct work *work)
{
    (void)context;
    (void)work;
}

/* Reached even if the context has failed: whoever waits must not wait for ever. */
static void record_end(struct work *work)
{
    const struct event_work *record = (const struct event_work *)work;
    pthread_mutex_lock(&lock);
    if (record->point > record->event->reached) {
        record->event->reached = record->point;
        clock_gettime(CLOCK_MONOTONIC, &record->event->time);
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    event_drop(record->event);
}

CUresult cuEventRecord(CUevent event, CUstream stream)
{
    struct CUctx_st *context;
    struct queue *queue;
    CUresult result = stream_queue(stream, &context, &queue);
    if (result)
        return result;
    if (!object_exists(OBJECT_EVENT, event))
        return CUDA_ERROR_INVALID_HANDLE;
    return event_put(event, queue, (struct work){.run = record_run, .end = record_end}, true);
}

static void event_wait(struct CUevent_st *event, unsigned long point)
{
    pthread_mutex_lock(&lock);
    while (event->reached < point)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void wait_run(struct CUctx_st *context, struct work *work)
{
    const struct event_work *wait = (const struct event_work *)work;
    (void)context;
    event_wait(wait->event, wait->point);
}

static void wait_end(struct work *work)
{
    event_drop(((struct event_work *)work)->event);
}

CUresult event_wait_put(CUevent event, struct queue *queue)
{
    if (!object_exists(OBJECT_EVENT, event))
        return CUDA_ERROR_INVALID_HANDLE;
    return event_put(event, queue, (struct work){.run = wait_run, .end = wait_end}, false);
}

CUresult cuEventSynchronize(CUevent event)
{
    CUresult result = event_check(event);
    if (result)
        return result;
    pthread_mutex_lock(&lock);
    unsigned long point = event->recorded;
    event->users++;
    pthread_mutex_unlock(&lock);
    event_wait(event, point);
    event_drop(event);
    return rm_error();
}

CUresult cuEventQuery(CUevent event)
{
    CUresult result = event_check(event);
    if (result)
        return result;
    pthread_mutex_lock(&lock);
    bool reached = event->reached == event->recorded;
    pthread_mutex_unlock(&lock);
    return reached ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end)
{
    CUresult result = event_check(start);
    if (!result)
        result = event_check(end);
    if (result)
        return result;
    if (!milliseconds)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    if (!start->recorded || !end->recorded || (start->flags | end->flags) & CU_EVENT_DISABLE_TIMING)
        result = CUDA_ERROR_INVALID_HANDLE;
    else if (start->reached != start->recorded || end->reached != end->recorded)
        result = CUDA_ERROR_NOT_READY;
    else
        *milliseconds = (float)(end->time.tv_sec - start->time.tv_sec) * 1e3f +
                        (float)(end->time.tv_nsec - start->time.tv_nsec) / 1e6f;
    pthread_mutex_unlock(&lock);
    return result;
}
