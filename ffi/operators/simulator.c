/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One event after the other. A request takes the route that is active when it comes: through the pools of prefill
 * stages, first come, first served, in batches of whole prompts; then it decodes (decoding.c). On a mixed stage both
 * happen in the same iterations (mixed.c).
 */

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "decoding.h"
#include "queues.h"
#include "service.h"

/* Whole prompts up to the budget; a longer one is alone, and its chunks follow one another. */
static void start_prompts(struct simulation *s, int64_t worker, struct stage *stage)
{
    struct worker *w = &s->workers[worker];
    int64_t first = next_of(s, stage), last = first, tokens = s->requests[first].prompt;
    double seconds = prefill_s(s, w->table, tokens);

    if (tokens > stage->tokens) {
        seconds += (double)(tokens / stage->tokens) * linear_s(s, w->table, (double)stage->tokens);
        if (tokens % stage->tokens)
            seconds += linear_s(s, w->table, (double)(tokens % stage->tokens));
    } else {
        while (stage->head >= 0 && tokens + s->requests[stage->head].prompt <= stage->tokens &&
               s->requests[stage->head].step == s->requests[first].step &&
               s->requests[stage->head].route == s->requests[first].route) {
            int64_t other = next_of(s, stage);

            s->requests[last].link = other;
            last = other;
            tokens += s->requests[other].prompt;
            seconds += prefill_s(s, w->table, s->requests[other].prompt);
        }
        seconds += linear_s(s, w->table, (double)tokens);
    }
    w->list = first;
    w->tokens = tokens;
    serve(s, worker, seconds);
}

static void dispatch(struct simulation *s, int64_t stage)
{
    struct stage *g = &s->stages[stage];
    int64_t worker;

    if (g->kind == DECODE)
        groups_dispatch(s, stage);
    while (g->head >= 0 && (worker = idle(s, g)) >= 0) {
        if (g->kind == MIXED)
            mixed_begin(s, worker);
        else
            start_prompts(s, worker, g);
    }
}

/* A list of requests at its next stage. */
static void deliver(struct simulation *s, int64_t request)
{
    const struct request *first = &s->requests[request];
    int64_t stage;

    if (first->step == s->routes[first->route].prefills) {
        group_settle(s, request);
        return;
    }
    stage = s->prefill_route[first->route * s->visits + first->step];
    while (request >= 0) {
        int64_t following = s->requests[request].link;

        wait_for(s, &s->stages[stage], request);
        request = following;
    }
    dispatch(s, stage);
}

/* The first token is there; the cache goes where the sequence will live. */
static void prompt_done(struct simulation *s, int64_t request)
{
    struct request *r = &s->requests[request];

    r->first = s->now;
    r->link = -1;
    if (r->output <= 1)
        leave(s, request);
    else
        push_event(s, s->now + (double)r->prompt * s->stages[s->routes[r->route].home].move, DELIVER, request);
}

static void prompts_end(struct simulation *s, int64_t worker)
{
    struct worker *w = &s->workers[worker];
    int64_t first = w->list, tokens = w->tokens, route = s->requests[first].route, step = s->requests[first].step + 1;
    double delay = s->tables[w->table].hop;

    rest(s, worker);
    dispatch(s, w->stage);
    for (int64_t request = first, following; request >= 0; request = following) {
        following = s->requests[request].link;
        s->requests[request].step = step;
        if (step == s->routes[route].prefills)
            prompt_done(s, request);
    }
    if (step == s->routes[route].prefills)
        return;
    if (s->on_gpu[w->gpu * s->stages_count + s->prefill_route[route * s->visits + step]] == 0)
        delay += (double)tokens * s->stages[w->stage].link;
    if (delay > 0)
        push_event(s, s->now + delay, DELIVER, first);
    else
        deliver(s, first);
}

static void groups_end(struct simulation *s, int64_t worker)
{
    int64_t group = s->workers[worker].list;

    rest(s, worker);
    groups_dispatch(s, s->workers[worker].stage);
    while (group >= 0) {
        int64_t following = s->workers[group].link;

        group_pass_on(s, worker, group);
        group = following;
    }
}

static void freed(struct simulation *s, int64_t worker)
{
    switch ((enum stage_kind)s->stages[s->workers[worker].stage].kind) {
    case PREFILL:
        prompts_end(s, worker);
        break;
    case DECODE:
        groups_end(s, worker);
        break;
    case HOME:
        group_pass_on(s, worker, worker);
        break;
    case MIXED:
        mixed_end(s, worker);
        break;
    }
}

void simulation_wake(struct simulation *s, int64_t worker)
{
    struct worker *w = &s->workers[worker];

    if (w->active)
        return;
    if (s->stages[w->stage].kind == HOME) {
        group_begin(s, worker);
    } else {
        rest(s, worker);
        dispatch(s, w->stage);
    }
}

void simulation_start(struct simulation *s, double time, int64_t worker)
{
    push_event(s, time, START, worker);
}

static void started(struct simulation *s, int64_t worker)
{
    struct worker *w = &s->workers[worker];

    if (w->state != STARTING)
        return; /* it was called off */
    w->state = UP;
    s->stages[w->stage].up++;
    s->on_gpu[w->gpu * s->stages_count + w->stage]++;
    simulation_wake(s, worker);
}

static void arrive(struct simulation *s, int64_t request)
{
    s->next++;
    s->present++;
    s->requests[request].route = s->route;
    s->routes[s->route].present++;
    deliver(s, request);
}

static void pass_time(struct simulation *s, double until)
{
    s->area += (double)s->present * (until - s->now);
    s->now = until;
}

void simulation_advance(struct simulation *s, double until)
{
    for (;;) {
        double arrival = s->next < s->requests_count ? s->requests[s->next].arrival : INFINITY;
        double foreseen = s->events_count > 0 ? s->events[0].time : INFINITY;
        struct event event;

        if (fmin(arrival, foreseen) > until || fmin(arrival, foreseen) == INFINITY)
            break;
        pass_time(s, fmin(arrival, foreseen));
        s->handled++;
        if (arrival <= foreseen) {
            arrive(s, s->next);
            continue;
        }
        event = pop_event(s);
        switch ((enum happening)event.what) {
        case FREE:
            freed(s, event.who);
            break;
        case DELIVER:
            deliver(s, event.who);
            break;
        case GROUP:
            group_reach(s, event.who);
            break;
        case START:
            started(s, event.who);
            break;
        }
    }
    if (until < INFINITY)
        pass_time(s, until);
}

double simulation_linear(const struct simulation *s, int64_t table, double tokens)
{
    return linear_s(s, table, tokens);
}

double simulation_decode(const struct simulation *s, int64_t table, double sequences, double context)
{
    return decode_s(s, table, sequences, context);
}

double simulation_gap(double bin)
{
    return GAP_LEAST_S * exp(bin / GAP_BINS_PER_E);
}
