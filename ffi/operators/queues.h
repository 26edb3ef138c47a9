/* SPDX-License-Identifier: Apache-2.0 */
/* What is foreseen, who waits, who rests, and who may take work. */
#ifndef MPSAFE_OPERATORS_QUEUES_H
#define MPSAFE_OPERATORS_QUEUES_H

#include <stdbool.h>
#include <stdint.h>

#include "simulator.h"

static inline bool sooner(const struct event *one, const struct event *other)
{
    return one->time < other->time || (one->time == other->time && one->order < other->order);
}

/* Equal times: first come, first served. */
static inline void push_event(struct simulation *s, double time, enum happening what, int64_t who)
{
    struct event event = {time, s->sequence++, what, who};
    int64_t at = s->events_count++;

    while (at > 0 && sooner(&event, &s->events[(at - 1) / 2])) {
        s->events[at] = s->events[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    s->events[at] = event;
}

/* There has to be one. */
static inline struct event pop_event(struct simulation *s)
{
    struct event found = s->events[0], last = s->events[--s->events_count];
    int64_t at = 0, below;

    while ((below = 2 * at + 1) < s->events_count) {
        if (below + 1 < s->events_count && sooner(&s->events[below + 1], &s->events[below]))
            below++;
        if (sooner(&last, &s->events[below]))
            break;
        s->events[at] = s->events[below];
        at = below;
    }
    s->events[at] = last;
    return found;
}

/* Also one that drains, where nobody else of its stage is up: what is under way has to come through. */
static inline bool takes(const struct simulation *s, int64_t worker)
{
    const struct worker *w = &s->workers[worker];

    return w->state == UP || (w->state == DRAINING && s->stages[w->stage].up == 0);
}

static inline void rest(struct simulation *s, int64_t worker)
{
    struct worker *w = &s->workers[worker];

    w->active = 0;
    if (w->idle == NOT_LISTED) {
        w->idle = s->stages[w->stage].idle;
        s->stages[w->stage].idle = worker;
    }
}

/* -1: nobody rests. */
static inline int64_t idle(struct simulation *s, struct stage *stage)
{
    while (stage->idle >= 0) {
        int64_t worker = stage->idle;

        stage->idle = s->workers[worker].idle;
        s->workers[worker].idle = NOT_LISTED;
        if (takes(s, worker))
            return worker;
    }
    return -1;
}

static inline void wait_for(struct simulation *s, struct stage *stage, int64_t request)
{
    s->requests[request].link = -1;
    if (stage->head < 0)
        stage->head = request;
    else
        s->requests[stage->tail].link = request;
    stage->tail = request;
    stage->waiting++;
    stage->waiting_tokens += s->requests[request].prompt;
}

static inline int64_t next_of(struct simulation *s, struct stage *stage)
{
    int64_t request = stage->head;

    stage->head = s->requests[request].link;
    s->requests[request].link = -1;
    stage->waiting--;
    stage->waiting_tokens -= s->requests[request].prompt;
    return request;
}

static inline void serve(struct simulation *s, int64_t worker, double seconds)
{
    s->workers[worker].active = 1;
    s->workers[worker].busy += seconds;
    push_event(s, s->now + seconds, FREE, worker);
}

static inline void leave(struct simulation *s, int64_t request)
{
    s->requests[request].end = s->now;
    s->present--;
    s->routes[s->requests[request].route].present--;
}

/* Its whole cache, promised when it is let in, so nothing is ever thrown out for want of memory. */
static inline int64_t cache_of(const struct simulation *s, int64_t request)
{
    return s->requests[request].prompt + s->requests[request].output;
}

#endif
