/* SPDX-License-Identifier: Apache-2.0 */
/* Contexts. A context is a channel of the software kernel, and the queues of work on it. */
#ifndef SOFT_CONTEXT_H
#define SOFT_CONTEXT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "driver.h"

struct queue;

struct CUctx_st {
    CUdevice device;
    unsigned long channel;
    struct queue *queue;     /* of the default stream */
    struct CUctx_st *before; /* what was current when this one was created */
    _Atomic bool destroyed;  /* work in progress ends early */

    pthread_mutex_t lock; /* of all its queues */
    pthread_cond_t changed;
    unsigned int workers;  /* threads that still run */
    unsigned long pending; /* pieces of work that have not ended */
};

/* The calling thread's context: what each call that needs one begins with. */
CUresult context_current(struct CUctx_st **ret);

/* Whether its work goes on: neither the context nor the process's channels have come to an end. */
bool context_alive(struct CUctx_st *context);

#endif
