/* SPDX-License-Identifier: Apache-2.0 */

#include "decoding.h"
#include "queues.h"
#include "service.h"

void sequences_join(struct simulation *s, int64_t worker, int64_t request)
{
    struct worker *w = &s->workers[worker];
    int64_t *ends = s->ends + worker * s->batch, *enders = s->enders + worker * s->batch;
    int64_t end = w->iteration + s->requests[request].output - 1, at = w->n++;

    w->context += s->requests[request].prompt + 1;
    while (at > 0 && ends[(at - 1) / 2] > end) {
        ends[at] = ends[(at - 1) / 2];
        enders[at] = enders[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    ends[at] = end;
    enders[at] = request;
}

static int64_t pop_first(struct simulation *s, int64_t worker)
{
    int64_t *ends = s->ends + worker * s->batch, *enders = s->enders + worker * s->batch;
    int64_t found = enders[0], last = --s->workers[worker].n, at = 0, below;

    while ((below = 2 * at + 1) < last) {
        if (below + 1 < last && ends[below + 1] < ends[below])
            below++;
        if (ends[last] <= ends[below])
            break;
        ends[at] = ends[below];
        enders[at] = enders[below];
        at = below;
    }
    ends[at] = ends[last];
    enders[at] = enders[last];
    return found;
}

void sequences_end(struct simulation *s, int64_t worker)
{
    struct worker *w = &s->workers[worker];

    while (w->n > 0 && s->ends[worker * s->batch] <= w->iteration) {
        int64_t request = pop_first(s, worker);

        w->context -= cache_of(s, request);
        w->cached -= cache_of(s, request);
        leave(s, request);
    }
}

/* The group that waits longest, and those after it that fit into the same batch. */
static void start_groups(struct simulation *s, int64_t worker, struct stage *stage)
{
    struct worker *w = &s->workers[worker];
    int64_t first = stage->groups, last = first, tokens = s->workers[first].n, context = s->workers[first].context;

    stage->groups = s->workers[first].link;
    while (stage->groups >= 0) {
        int64_t other = stage->groups;
        struct worker *o = &s->workers[other];

        if (tokens + o->n > stage->batch || o->position != s->workers[first].position ||
            o->route != s->workers[first].route)
            break;
        stage->groups = o->link;
        s->workers[last].link = other;
        last = other;
        tokens += o->n;
        context += o->context;
    }
    s->workers[last].link = -1;
    w->list = first;
    w->tokens = tokens;
    serve(s, worker,
          linear_s(s, w->table, (double)tokens) +
              decode_s(s, w->table, (double)tokens, (double)context / (double)tokens));
}

void groups_dispatch(struct simulation *s, int64_t stage)
{
    struct stage *g = &s->stages[stage];
    int64_t worker;

    while (g->groups >= 0 && (worker = idle(s, g)) >= 0)
        start_groups(s, worker, g);
}

static void enter(struct simulation *s, int64_t worker)
{
    struct worker *w = &s->workers[worker];
    int64_t stage = s->decode_route[w->route * s->visits + w->position];
    struct stage *g = &s->stages[stage];

    if (stage == w->stage) {
        serve(s, worker,
              linear_s(s, w->table, (double)w->n) +
                  decode_s(s, w->table, (double)w->n, (double)w->context / (double)w->n));
        return;
    }
    w->link = -1;
    if (g->groups < 0)
        g->groups = worker;
    else
        s->workers[g->groups_tail].link = worker;
    g->groups_tail = worker;
    groups_dispatch(s, stage);
}

void group_begin(struct simulation *s, int64_t worker)
{
    struct worker *w = &s->workers[worker];
    struct stage *stage = &s->stages[w->stage];

    sequences_end(s, worker);
    w->fresh = w->joins;
    w->joins = -1;
    w->joining = 0;
    for (int64_t request = w->fresh; request >= 0; request = s->requests[request].link)
        sequences_join(s, worker, request);
    while (stage->head >= 0 && w->n < stage->batch && takes(s, worker) &&
           (w->n == 0 || w->cached + cache_of(s, stage->head) <= w->cache)) {
        int64_t request = next_of(s, stage);

        w->cached += cache_of(s, request);
        s->requests[request].link = w->fresh;
        w->fresh = request;
        sequences_join(s, worker, request);
    }
    w->active = w->n > 0;
    if (w->n > 0) {
        w->began = s->now;
        w->route = stage->route;
        w->position = 0;
        enter(s, worker);
    }
}

static void end_iteration(struct simulation *s, int64_t worker)
{
    struct worker *w = &s->workers[worker];
    int64_t n = w->n;

    for (int64_t request = w->fresh; request >= 0; request = s->requests[request].link, n--)
        add_gap(s, s->now - s->requests[request].first, 1);
    if (n > 0)
        add_gap(s, s->now - w->began, n);
    w->iteration++;
    w->context += w->n;
}

void group_reach(struct simulation *s, int64_t worker)
{
    struct worker *w = &s->workers[worker];

    if (w->position < s->routes[w->route].decodes) {
        enter(s, worker);
    } else {
        end_iteration(s, worker);
        group_begin(s, worker);
    }
}

/* After the hop, and over the link where that stage is on no worker beside this one. */
void group_pass_on(struct simulation *s, int64_t server, int64_t worker)
{
    struct worker *w = &s->workers[worker], *from = &s->workers[server];
    double delay = s->tables[from->table].hop;
    int64_t position = ++w->position;

    if (position == s->routes[w->route].decodes)
        position = 0;
    if (s->on_gpu[from->gpu * s->stages_count + s->decode_route[w->route * s->visits + position]] == 0)
        delay += (double)w->n * s->stages[from->stage].link;
    if (delay > 0)
        push_event(s, s->now + delay, GROUP, worker);
    else
        group_reach(s, worker);
}

/* -1: nobody has room. */
static int64_t shortest(const struct simulation *s, int64_t home, int64_t request)
{
    const struct stage *stage = &s->stages[home];
    int64_t best = -1;
    double least = INFINITY;

    if (stage->head >= 0)
        return -1;
    for (int64_t at = 0; at < stage->count; at++) {
        int64_t worker = s->members[home * s->workers_count + at];
        const struct worker *w = &s->workers[worker];
        double length = (double)(w->n + w->joining + 1) / w->weight;

        if (length < least && w->n + w->joining < stage->batch && takes(s, worker) &&
            (w->n + w->joining == 0 || w->cached + cache_of(s, request) <= w->cache)) {
            best = worker;
            least = length;
        }
    }
    return best;
}

void group_settle(struct simulation *s, int64_t request)
{
    int64_t home = s->routes[s->requests[request].route].home, worker = shortest(s, home, request);
    struct worker *w;

    if (worker < 0) {
        wait_for(s, &s->stages[home], request);
        return;
    }
    w = &s->workers[worker];
    w->cached += cache_of(s, request);
    s->requests[request].link = w->joins;
    w->joins = request;
    w->joining++;
    if (!w->active)
        group_begin(s, worker);
}
