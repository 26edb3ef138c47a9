/* SPDX-License-Identifier: Apache-2.0 */
/* Events: a point in a queue, and when it was reached. */
#ifndef SOFT_EVENT_H
#define SOFT_EVENT_H

#include "driver.h"
#include "queue.h"

/* Lets what is put into the queue from now on wait for the event as it is recorded now. */
CUresult event_wait_put(CUevent event, struct queue *queue);

void events_destroy(struct CUctx_st *context);

#endif
