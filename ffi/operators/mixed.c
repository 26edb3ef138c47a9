/* SPDX-License-Identifier: Apache-2.0 */
/* Workers of the whole model: prompts in chunks in the same iterations as decoding, as vLLM does it. */

#include "decoding.h"
#include "queues.h"
#include "service.h"

/* The prompt that is done in part, or one that waits and has room here; -1: none. `n`: sequences, with those to come. */
static int64_t prompt_of(struct simulation *s, int64_t worker, int64_t n)
{
    struct worker *w = &s->workers[worker];
    struct stage *stage = &s->stages[w->stage];

    if (w->part >= 0)
        return w->part;
    if (stage->head < 0 || n >= stage->batch || !takes(s, worker) ||
        (n > 0 && w->cached + cache_of(s, stage->head) > w->cache))
        return -1;
    w->part = next_of(s, stage);
    w->done = 0;
    w->cached += cache_of(s, w->part);
    return w->part;
}

/* One token of each sequence, and prompts with what is left of the budget. */
void mixed_begin(struct simulation *s, int64_t worker)
{
    struct worker *w = &s->workers[worker];
    int64_t budget, tokens, whole = 0, request;
    double seconds = 0;

    sequences_end(s, worker);
    tokens = w->n;
    budget = s->stages[w->stage].tokens - w->n;
    if (w->n == 0 && budget < 1)
        budget = 1;
    w->list = -1;
    while (budget > 0 && (request = prompt_of(s, worker, w->n + whole)) >= 0) {
        int64_t left = s->requests[request].prompt - w->done, chunk = left < budget ? left : budget;

        seconds += prefill_s(s, w->table, w->done + chunk) - prefill_s(s, w->table, w->done);
        budget -= chunk;
        tokens += chunk;
        w->done += chunk;
        if (chunk == left) {
            s->requests[request].link = w->list;
            w->list = request;
            w->part = -1;
            whole++;
        }
    }
    if (tokens == 0) {
        rest(s, worker);
        return;
    }
    seconds += linear_s(s, w->table, (double)tokens);
    if (w->n > 0)
        seconds += decode_s(s, w->table, (double)w->n, (double)w->context / (double)w->n);
    w->began = s->now;
    serve(s, worker, seconds);
}

void mixed_end(struct simulation *s, int64_t worker)
{
    struct worker *w = &s->workers[worker];
    int64_t request = w->list;

    if (w->n > 0)
        add_gap(s, s->now - w->began, w->n);
    w->iteration++;
    w->context += w->n;
    while (request >= 0) {
        int64_t following = s->requests[request].link;

        s->requests[request].first = s->now;
        sequences_join(s, worker, request);
        request = following;
    }
    mixed_begin(s, worker);
}
