/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fleet that serves a trace, request by request; mpsafe/operators/simulator/ starts and stops the workers. Read twice:
 * by cffi (ffi/build_operators.py) and by the C compiler. Times in seconds, lengths and caches in tokens. All memory is
 * the caller's; lists are linked through the things in them (-1 ends one), as a thing is in one list at most.
 */

enum stage_kind { PREFILL, DECODE, HOME, MIXED }; /* HOME: decoding on the workers that hold the caches */
enum worker_state { STARTING, UP, DRAINING, GONE };
enum happening { FREE, DELIVER, GROUP, START };
enum { GAP_BINS = 4096, NOT_LISTED = -2 };

struct event {
    double time;
    int64_t order, what, who;
};

struct request {
    double arrival, first, end; /* when it came, and when its first and its last token did */
    int64_t prompt, output, route, step, link;
};

struct worker {
    double weight, busy, began; /* its share of work; seconds in service; its present iteration */
    int64_t stage, table, state, gpu, cache, cached; /* room for caches, and what of it is promised */
    int64_t list, tokens;       /* in service: requests, or groups of sequences; how much */
    int64_t link;               /* of the group in a queue or in a service */
    int64_t idle;               /* the next idle worker of the stage, or NOT_LISTED */
    int64_t active, n, context, iteration, route, position; /* its sequences, their caches; where they are */
    int64_t joins, joining, fresh; /* who joins at the next iteration; whose second token is under way */
    int64_t part, done;            /* a prompt that is done in part */
};

struct stage {
    double link, move; /* seconds to take a token, and a token's cache, to another GPU */
    int64_t kind, batch, tokens, up, route, head, tail, waiting, waiting_tokens, groups, groups_tail, idle, count;
};

struct route {
    int64_t prefills, decodes, home, present;
};

/* Where in `grid` the parts of a table begin, and how long they are; values stand behind their places. */
struct table {
    double hop; /* seconds for what an iteration hands over */
    int64_t linear, linear_size, prefill, prefill_size, sequences, sequences_size, context, context_size;
};

/* [requests], [workers], ...; `ends`, `enders` [workers][batch]: a heap for each worker of the iterations in which its
 * sequences end; `members` [stages][workers]; `on_gpu` [gpus][stages]: workers that are up; routes [routes][visits]. */
struct simulation {
    int64_t requests_count, workers_count, stages_count, batch, visits;
    struct event *events;
    struct request *requests;
    struct worker *workers;
    struct stage *stages;
    struct route *routes;
    struct table *tables;
    int64_t *ends, *enders, *members, *on_gpu, *prefill_route, *decode_route;
    double *grid, *gaps; /* [GAP_BINS] how many tokens came how long after the one before */
    int64_t sequence, events_count, next, route, present, handled;
    double now, area, gaps_s, gaps_count; /* area: requests in the system, over time */
};

/* All that happens up to `until`. */
void simulation_advance(struct simulation *s, double until);
/* A worker will be up at `time`. */
void simulation_start(struct simulation *s, double time, int64_t worker);
/* A worker that does nothing looks for work. */
void simulation_wake(struct simulation *s, int64_t worker);
/* What a table says, for those who check it. */
double simulation_linear(const struct simulation *s, int64_t table, double tokens);
double simulation_decode(const struct simulation *s, int64_t table, double sequences, double context);
/* The time that bin begins with. */
double simulation_gap(double bin);
