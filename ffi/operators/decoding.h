/* SPDX-License-Identifier: Apache-2.0 */
/* Sequences live on the workers that hold their caches, and go round the decoding stages in a group. */
#ifndef MPSAFE_OPERATORS_DECODING_H
#define MPSAFE_OPERATORS_DECODING_H

#include <stdint.h>

#include "simulator.h"

/* A request is on the worker until it has its last token. */
void sequences_join(struct simulation *s, int64_t worker, int64_t request);
void sequences_end(struct simulation *s, int64_t worker);

/* To the worker with the shortest queue for its weight, or to wait for one. */
void group_settle(struct simulation *s, int64_t request);
/* Those who are done leave, those who wait join, and the group sets out. */
void group_begin(struct simulation *s, int64_t worker);
/* At its next stage, or around. */
void group_reach(struct simulation *s, int64_t worker);
/* From the worker that served it to its next stage. */
void group_pass_on(struct simulation *s, int64_t server, int64_t worker);
/* Groups that wait, to workers that rest. */
void groups_dispatch(struct simulation *s, int64_t stage);

/* Of a worker that does both phases: an iteration begins, one ends. */
void mixed_begin(struct simulation *s, int64_t worker);
void mixed_end(struct simulation *s, int64_t worker);

#endif
