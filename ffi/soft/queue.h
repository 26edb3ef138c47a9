/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work in order, done by one thread a queue. The default stream and the blocking streams of a
 * context share its first queue, since those wait for each other anyway; a non-blocking stream has
 * one of its own.
 */
#ifndef SOFT_QUEUE_H
#define SOFT_QUEUE_H

#include <stdbool.h>

#include "driver.h"

struct queue;

/* The head of a piece of work, which malloc made and the queue frees. */
struct work {
    struct work *next;
    /* Skipped, like what is behind it, once the context has failed. */
    void (*run)(struct CUctx_st *context, struct work *work);
    /* Called in any case, after `run`. May be NULL. */
    void (*end)(struct work *work);
};

CUresult queue_create(struct CUctx_st *context, struct queue **ret);
/* It goes with the last of what is in it; nothing may be put into it any more. */
void queue_destroy(struct queue *queue);

/* Takes the work over, in failure too (`end` is not called then). The thread starts with the first work. */
CUresult queue_put(struct queue *queue, struct work *work);

/* Waits for all that is in the queue now; then the sticky error. */
CUresult queue_wait(struct queue *queue);
bool queue_idle(struct queue *queue);

/* Waits for all that is in any queue of the context; then the sticky error. */
CUresult queues_wait(struct CUctx_st *context);

#endif
