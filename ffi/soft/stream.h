/* SPDX-License-Identifier: Apache-2.0 */
/* Streams: a name for a queue of the context. */
#ifndef SOFT_STREAM_H
#define SOFT_STREAM_H

#include "context.h"
#include "driver.h"
#include "queue.h"

/* The calling thread's context and the queue of that stream in it. INVALID_HANDLE: no stream of this context's. */
CUresult stream_queue(CUstream stream, struct CUctx_st **context, struct queue **queue);

void streams_destroy(struct CUctx_st *context);

#endif
